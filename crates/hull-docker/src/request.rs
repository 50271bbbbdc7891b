//! One request as a handler sees it: names from the path, query, version, body within limits.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING, UPGRADE};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hull_engine::Engine;
use hull_model::SandboxId;
use hull_model::limits::REQUEST_BODY_BYTES_MAX;
use hyper::body::{Body, Frame, Incoming};
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::errors::ApiError;
use crate::query::Query;
use crate::server::App;

/// Pieces of an uploaded body that wait for the engine to read them.
const UPLOAD_PIECES_MAX: usize = 8;
/// Bytes of an upload that are read and thrown away after the engine had enough (padding behind
/// an archive, or all of a refused one), so that the client can finish writing and read the answer.
const UPLOAD_DRAIN_BYTES_MAX: usize = 256 << 20;

/// The minor number of the API version that the client speaks; the major one is 1.
pub(crate) type ApiMinor = u32;

/// One request.
pub(crate) struct Call {
    pub(crate) app: Arc<App>,
    /// What the pattern's names stand for, in order.
    pub(crate) names: Vec<String>,
    pub(crate) query: Query,
    pub(crate) minor: ApiMinor,
    pub(crate) request: Request<Incoming>,
    /// The body, when it was said to be JSON: read before any handler runs, because a client that
    /// is answered while it still writes sees a broken pipe and not the answer.
    pub(crate) json: Bytes,
    /// The connection's place among those that are counted; an upgraded stream keeps it.
    pub(crate) place: Arc<OwnedSemaphorePermit>,
}

impl Call {
    pub(crate) fn engine(&self) -> &Engine {
        &self.app.engine
    }

    /// The first name in the path.
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    /// The container that the path names.
    pub(crate) fn container(&self) -> Result<SandboxId, ApiError> {
        Ok(self
            .engine()
            .containers()
            .resolve(self.name().trim_start_matches('/'))?)
    }

    /// Whether docker-compose 1 asks. It speaks the newest version of the API that we have, and
    /// fails where images no longer show what they showed in its time.
    pub(crate) fn is_compose1(&self) -> bool {
        let agent = self.request.headers().get(http::header::USER_AGENT);
        agent.is_some_and(|agent| agent.as_bytes().starts_with(b"docker-compose/1."))
    }

    /// Whether the client can take over the connection.
    pub(crate) fn wants_upgrade(&self) -> bool {
        self.request.headers().contains_key(UPGRADE)
    }

    /// Whether a body is on its way.
    pub(crate) fn has_body(&self) -> bool {
        let headers = self.request.headers();
        headers.contains_key(TRANSFER_ENCODING)
            || headers
                .get(CONTENT_LENGTH)
                .is_some_and(|length| length != "0")
    }

    /// The body as JSON. No body reads as the default.
    pub(crate) async fn json<T: DeserializeOwned + Default>(&mut self) -> Result<T, ApiError> {
        self.check_content_type()?;
        let unlabelled = read_all(self.request.body_mut()).await?;
        let bytes = if self.json.is_empty() {
            &unlabelled
        } else {
            &self.json
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(T::default());
        }
        serde_json::from_slice(bytes)
            .map_err(|cause| ApiError::invalid(format!("invalid JSON: {cause}")))
    }

    fn check_content_type(&self) -> Result<(), ApiError> {
        let Some(given) = self.request.headers().get(CONTENT_TYPE) else {
            return Ok(());
        };
        if !self.has_body() || is_json(&self.request) {
            return Ok(());
        }
        let given = String::from_utf8_lossy(given.as_bytes());
        Err(ApiError::invalid(format!(
            "unsupported Content-Type header ({given}): must be 'application/json'"
        )))
    }

    /// The body as a blocking reader, for the engine's pools; it is read as fast as that reads.
    pub(crate) fn into_upload(self) -> Upload {
        Upload::of(self.request.into_body())
    }
}

/// Whether the client says that its body is JSON.
pub(crate) fn is_json(request: &Request<Incoming>) -> bool {
    let given = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = given
        .and_then(|given| given.split(';').next())
        .unwrap_or("");
    media_type.trim().eq_ignore_ascii_case("application/json")
}

/// Reads a body into memory, up to the limit.
pub(crate) async fn read_all(body: &mut Incoming) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("request body is larger than {REQUEST_BODY_BYTES_MAX} bytes"),
        )
    };
    if body.size_hint().lower() > REQUEST_BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    match Limited::new(body, REQUEST_BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(cause) if cause.is::<LengthLimitError>() => Err(too_large()),
        Err(cause) => Err(ApiError::invalid(format!("read the request body: {cause}"))),
    }
}

/// Reads a body and throws it away, up to a limit: what refuses an upload does this first.
pub(crate) async fn drain(body: &mut Incoming) {
    let mut drained = 0;
    while let Some(Ok(frame)) = body.frame().await {
        drained += frame.data_ref().map_or(0, Bytes::len);
        if drained > UPLOAD_DRAIN_BYTES_MAX {
            return;
        }
    }
}

/// A request body that is read on a blocking thread.
#[derive(Debug)]
pub(crate) struct Upload {
    incoming: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Upload {
    /// Reads a body, ours or that of an answer.
    pub(crate) fn of(mut body: Incoming) -> Self {
        let (pieces, incoming) = mpsc::channel(UPLOAD_PIECES_MAX);
        // Ends with the body: at its end, with the connection, or when enough was drained.
        tokio::spawn(async move {
            let mut drained = 0;
            while let Some(frame) = body.frame().await {
                let piece = match frame.map(Frame::into_data) {
                    Ok(Ok(bytes)) => Ok(bytes),
                    Ok(Err(_trailers)) => continue,
                    Err(cause) => Err(io::Error::other(cause)),
                };
                let (failed, size) = (piece.is_err(), piece.as_ref().map_or(0, Bytes::len));
                if pieces.send(piece).await.is_err() {
                    drained += size;
                }
                if failed || drained > UPLOAD_DRAIN_BYTES_MAX {
                    return;
                }
            }
        });
        Self {
            incoming,
            current: Bytes::new(),
        }
    }
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.current.has_remaining() {
            match self.incoming.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let size = buffer.len().min(self.current.remaining());
        self.current.copy_to_slice(&mut buffer[..size]);
        Ok(size)
    }
}
