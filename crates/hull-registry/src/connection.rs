//! Connections: dialled when needed, through a proxy where one is set, kept while they are good.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HOST, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::error::{ConnectionError, Error, Result};
use crate::hosts::{Hosts, Trust};
use crate::tls;
use crate::url::{Origin, Url};

/// How long one address may take to answer.
const CONNECT_S_MAX: u64 = 15;
/// How long the agreement on encryption may take.
const TLS_S_MAX: u64 = 15;
/// How long the head of an answer may take.
const HEAD_S_MAX: u64 = 60;
/// Connections that are kept open for one server.
const IDLE_MAX: usize = 8;
/// Bytes that are read at once: bounds the size of a piece of a body.
const READ_BYTES_MAX: usize = 128 << 10;
/// Bytes of a proxy's answer to `CONNECT`.
const PROXY_HEAD_BYTES_MAX: usize = 8 << 10;

/// What is sent.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The connections of one client.
pub(crate) struct Connections {
    hosts: Arc<Hosts>,
    /// Trust in servers that hosts.toml sets; that in others follows from [`Hosts`].
    given: HashMap<Origin, Trust>,
    configurations: Mutex<HashMap<Origin, Arc<ClientConfig>>>,
    idle: Mutex<HashMap<Origin, Vec<SendRequest<RequestBody>>>>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

impl Connections {
    pub(crate) fn new(hosts: Arc<Hosts>, given: HashMap<Origin, Trust>) -> Self {
        Self {
            hosts,
            given,
            configurations: Mutex::default(),
            idle: Mutex::default(),
        }
    }

    /// Sends a request and waits for the head of the answer. `Host` and the target are set here.
    pub(crate) async fn send(
        &self,
        method: &'static str,
        url: &Url,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>> {
        let failed = |cause| Error::Exchange {
            method,
            url: url.to_string(),
            cause,
        };
        let malformed = || failed(ConnectionError::Protocol("the address is malformed"));
        let authority = url.origin.authority();
        let headers = request.headers_mut();
        headers.insert(
            HOST,
            HeaderValue::from_str(&authority).map_err(|_| malformed())?,
        );
        let agent = concat!("hull/", env!("CARGO_PKG_VERSION"), " (linux)");
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        let proxy = self
            .hosts
            .proxies
            .for_origin(&url.origin)
            .map(Proxy::parse)
            .transpose();
        let proxy = proxy.map_err(failed)?;
        let target = match &proxy {
            Some(proxy) if !url.origin.tls => {
                if let Some(credential) = &proxy.credential {
                    headers.insert(PROXY_AUTHORIZATION, credential.clone());
                }
                format!("{}{}", url.origin, url.target)
            }
            _ => url.target.clone(),
        };
        *request.uri_mut() = target.parse().map_err(|_| malformed())?;
        let mut sender = match self.take(&url.origin) {
            Some(sender) => sender,
            None => self.open(method, url, proxy.as_ref()).await?,
        };
        let answered = timeout(
            Duration::from_secs(HEAD_S_MAX),
            sender.send_request(request),
        )
        .await;
        let stalled = || {
            failed(ConnectionError::Stalled {
                seconds: HEAD_S_MAX,
            })
        };
        let response = answered
            .map_err(|_| stalled())?
            .map_err(|cause| failed(ConnectionError::Broken(cause)))?;
        // One whose answer is still being read is not chosen again before that has ended.
        self.keep(&url.origin, sender);
        Ok(response)
    }

    fn take(&self, origin: &Origin) -> Option<SendRequest<RequestBody>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = idle.get_mut(origin)?;
        senders.retain(|sender| !sender.is_closed());
        let at = senders.iter().position(SendRequest::is_ready)?;
        Some(senders.swap_remove(at))
    }

    fn keep(&self, origin: &Origin, sender: SendRequest<RequestBody>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let senders = idle.entry(origin.clone()).or_default();
        senders.retain(|sender| !sender.is_closed());
        if senders.len() < IDLE_MAX {
            senders.push(sender);
        }
    }

    async fn open(
        &self,
        method: &'static str,
        url: &Url,
        proxy: Option<&Proxy>,
    ) -> Result<SendRequest<RequestBody>> {
        let configuration = match url.origin.tls {
            true => Some(self.configuration(&url.origin)?),
            false => None,
        };
        let origin = &url.origin;
        let opened = async {
            let stream = match proxy {
                None => dial(&origin.host, origin.port).await?,
                Some(proxy) => proxy.dial(origin).await?,
            };
            let stream: Box<dyn Stream> = match configuration {
                None => Box::new(stream),
                Some(configuration) => {
                    Box::new(encrypt(stream, &origin.host, configuration).await?)
                }
            };
            let built = Builder::new()
                .max_buf_size(READ_BYTES_MAX)
                .handshake(TokioIo::new(stream));
            let (sender, connection) = built.await.map_err(ConnectionError::Broken)?;
            // Ends with the connection; whoever waits for an answer hears of its failure.
            tokio::spawn(connection);
            Ok(sender)
        };
        opened.await.map_err(|cause| Error::Exchange {
            method,
            url: url.to_string(),
            cause,
        })
    }

    fn configuration(&self, origin: &Origin) -> Result<Arc<ClientConfig>> {
        let known = || {
            self.configurations
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(configuration) = known().get(origin) {
            return Ok(configuration.clone());
        }
        let configuration = match self.given.get(origin) {
            Some(trust) => tls::configuration(trust)?,
            None => tls::configuration(&self.hosts.trust(&origin.host, &origin.authority())?)?,
        };
        known().insert(origin.clone(), configuration.clone());
        Ok(configuration)
    }
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, ConnectionError> {
    let lookup = |cause| ConnectionError::Lookup {
        host: host.to_owned(),
        cause,
    };
    let addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(lookup)?;
    let mut failure = lookup(io::Error::other("no such host"));
    for address in addresses {
        let connecting = timeout(
            Duration::from_secs(CONNECT_S_MAX),
            TcpStream::connect(address),
        );
        let connected = connecting
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            Err(cause) => {
                let address = address.to_string();
                failure = ConnectionError::Connect { address, cause };
            }
        }
    }
    Err(failure)
}

/// Encrypts a connection to a server that is no registry: an engine elsewhere.
///
/// # Errors
/// When a file of `trust` cannot be used, or either side does not take the other for who it says.
pub async fn encrypted(
    stream: TcpStream,
    host: &str,
    trust: &Trust,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let configuration = tls::configuration(trust).map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        io::Error::other(format!("{error}: {}", cause.unwrap_or_default()))
    })?;
    match encrypt(stream, host, configuration).await {
        Err(ConnectionError::Tls(cause)) => Err(cause),
        shaken => shaken.map_err(io::Error::other),
    }
}

async fn encrypt(
    stream: TcpStream,
    host: &str,
    configuration: Arc<ClientConfig>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, ConnectionError> {
    let name = tls::server_name(host).map_err(ConnectionError::Tls)?;
    let shaking = TlsConnector::from(configuration).connect(name, stream);
    let shaken = timeout(Duration::from_secs(TLS_S_MAX), shaking).await;
    shaken
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(ConnectionError::Tls)
}

/// An HTTP proxy.
#[derive(Debug)]
struct Proxy {
    origin: Origin,
    credential: Option<HeaderValue>,
}

impl Proxy {
    fn parse(text: &str) -> Result<Proxy, ConnectionError> {
        let refuse = |problem: &str| ConnectionError::Proxy {
            // Without what may be a password.
            proxy: text
                .rsplit_once('@')
                .map_or(text, |(_, rest)| rest)
                .to_owned(),
            problem: problem.to_owned(),
        };
        let full = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let (scheme, rest) = full.split_once("://").unwrap_or(("http", text));
        let (credential, rest) = match rest.rsplit_once('@') {
            Some((credential, rest)) => (Some(credential), rest),
            None => (None, rest),
        };
        let url = Url::parse(&format!("{scheme}://{rest}"));
        let url = url.ok_or_else(|| refuse("not an address like http://proxy:3128"))?;
        if url.origin.tls {
            return Err(refuse("a proxy is spoken to without TLS: http://"));
        }
        let basic = |credential: &str| {
            HeaderValue::from_str(&format!(
                "Basic {}",
                STANDARD.encode(percent_decode(credential))
            ))
        };
        let credential = credential.map(basic).transpose();
        let credential = credential.map_err(|_| refuse("its credential is malformed"))?;
        Ok(Proxy {
            origin: url.origin,
            credential,
        })
    }

    /// A connection to the proxy, or through it where the server is to be spoken to by TLS.
    async fn dial(&self, origin: &Origin) -> Result<TcpStream, ConnectionError> {
        let mut stream = dial(&self.origin.host, self.origin.port).await?;
        if !origin.tls {
            return Ok(stream);
        }
        let address = origin.address();
        let mut request = format!("CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n").into_bytes();
        if let Some(credential) = &self.credential {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(credential.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let refuse = |problem: String| ConnectionError::Proxy {
            proxy: self.origin.to_string(),
            problem,
        };
        let asked = timeout(Duration::from_secs(HEAD_S_MAX), async {
            stream.write_all(&request).await?;
            let mut head = Vec::new();
            // Byte by byte: what follows the head is the server's.
            while !head.ends_with(b"\r\n\r\n") && head.len() < PROXY_HEAD_BYTES_MAX {
                head.push(stream.read_u8().await?);
            }
            io::Result::Ok(head)
        });
        let head = asked
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let head = head.map_err(|cause| refuse(cause.to_string()))?;
        let head = String::from_utf8_lossy(&head);
        let line = head.lines().next().unwrap_or_default();
        match line.split(' ').nth(1) {
            Some(status) if status.starts_with('2') => Ok(stream),
            _ => Err(refuse(format!("it answered {line:?}"))),
        }
    }
}

fn percent_decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |at: usize| after.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = &after[2..];
            }
            _ => {
                decoded.push(byte);
                rest = after;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_with_their_credentials() {
        let proxy = Proxy::parse("http://us%40er:p@ss@proxy:3128").expect("valid");
        assert_eq!(proxy.origin.to_string(), "http://proxy:3128");
        let expected = format!("Basic {}", STANDARD.encode("us@er:p@ss"));
        let credential = proxy.credential.expect("one");
        assert_eq!(credential.as_bytes(), expected.as_bytes());
        assert_eq!(Proxy::parse("proxy:1").expect("valid").origin.port, 1);
        for text in ["socks5://p:1", "https://p:1", "http://"] {
            assert!(Proxy::parse(text).is_err(), "{text}");
        }
    }
}
