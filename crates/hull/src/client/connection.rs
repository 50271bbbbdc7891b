//! One HTTP/1.1 connection to the engine, and what it becomes when a stream takes it over.

use std::io;

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
