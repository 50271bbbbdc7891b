//! One HTTP/1.1 connection to the engine, and what it becomes when a stream takes it over.

use std::io;
use std::process::Stdio;

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
            Endpoint::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(failed)?;
                // Key strokes must not wait for one another.
                stream.set_nodelay(true).map_err(failed)?;
                Self::over(stream).await
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
    Ok(tokio::io::join(output, input))
}
