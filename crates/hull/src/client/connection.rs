//! One HTTP/1.1 connection to the engine, and what it becomes when a stream takes it over.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::{ClientError, Endpoint};

/// The body of a request: empty, some bytes, or a stream.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// A raw stream to a container, after its HTTP request was answered.
pub(crate) type Hijacked = TokioIo<Upgraded>;

/// A connection that requests can be sent over, one after the other.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<RequestBody>,
}

impl Connection {
    /// Connects to the engine.
    pub(super) async fn open(endpoint: &Endpoint) -> Result<Connection, ClientError> {
        let failed = |cause: io::Error| match cause.kind() {
            io::ErrorKind::PermissionDenied => ClientError::Denied {
                endpoint: endpoint.clone(),
                cause,
            },
            _ => ClientError::Connect {
                endpoint: endpoint.clone(),
                cause,
            },
        };
        match endpoint {
            Endpoint::Unix(path) => {
                Self::over(UnixStream::connect(path).await.map_err(failed)?).await
            }
            Endpoint::Tcp { host, port, tls } => {
                let stream = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(failed)?;
                // Key strokes must not wait for one another.
                stream.set_nodelay(true).map_err(failed)?;
                match tls {
                    None => Self::over(stream).await,
                    Some(trust) => {
                        let stream = hull_registry::encrypted(stream, host, trust).await;
                        let place = format!("Get \"https://{}\"", endpoint.host_header());
                        Self::over(stream.map_err(ClientError::exchange(&place))?).await
                    }
                }
            }
            Endpoint::Ssh { user, host, port } => {
                Self::over(over_ssh(user, host, *port).map_err(failed)?).await
            }
        }
    }

    async fn over<S>(stream: S) -> Result<Connection, ClientError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, driver) = handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::exchange("handshake"))?;
        // It ends with the connection; what goes wrong is seen by whoever waits for an answer.
        tokio::spawn(driver.with_upgrades());
        Ok(Connection { sender })
    }

    /// Whether the answer to the last request has been read to its end.
    pub(super) fn is_idle(&self) -> bool {
        self.sender.is_ready()
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }
}

/// What runs on the other host: Hull's own if it is there, else Docker's, which does the same.
const DIAL: &str = "if command -v hull >/dev/null; then exec hull system dial-stdio; \
                    else exec docker system dial-stdio; fi";
/// Seconds until ssh gives up to reach a host, as in Docker.
const SSH_CONNECT_S: u32 = 30;

/// The streams of a program on another host that passes them on to the engine there.
fn over_ssh(
    user: &str,
    host: &str,
    port: Option<u16>,
) -> io::Result<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static> {
    let mut command = tokio::process::Command::new("ssh");
    command.arg(format!("-oConnectTimeout={SSH_CONNECT_S}"));
    command.arg("-T");
    if !user.is_empty() {
        command.args(["-l", user]);
    }
    if let Some(port) = port {
        command.args(["-p", &port.to_string()]);
    }
    command.args(["--", host, DIAL]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.kill_on_drop(true);
    let mut child = command.spawn()?;
    let ends = child.stdout.take().zip(child.stdin.take());
    let (output, input) = ends.ok_or_else(|| io::Error::other("ssh has no streams"))?;
    // It ends with its streams; when this program ends before, they close.
    tokio::spawn(async move { child.wait().await });
    Ok(tokio::io::join(output, Input(Some(input))))
}

/// The input of ssh. Closed by shutdown, as a socket is, which a pipe of tokio is not: what reads to
/// the end on the other side would wait for ever.
struct Input(Option<tokio::process::ChildStdin>);

impl Input {
    fn open(self: Pin<&mut Self>) -> io::Result<Pin<&mut tokio::process::ChildStdin>> {
        let open = self.get_mut().0.as_mut().map(Pin::new);
        open.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl tokio::io::AsyncWrite for Input {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.open()?.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.open() {
            Ok(open) => open.poll_flush(context),
            Err(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A pipe has nothing buffered.
        self.get_mut().0 = None;
        Poll::Ready(Ok(()))
    }
}
