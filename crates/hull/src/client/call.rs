//! One call of the API: how it is put together, and what comes back.

use std::fmt::Write as _;
use std::io;

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::connection::{Hijacked, RequestBody};
use super::{ApiVersion, Client, ClientError};

/// Bytes of an error's text that are shown.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// A call that is being put together.
pub(crate) struct Call<'a> {
    client: &'a Client,
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: RequestBody,
}

impl<'a> Call<'a> {
    pub(super) fn new(client: &'a Client, method: Method, path: String) -> Call<'a> {
        let headers = HeaderMap::new();
        Call {
            client,
            method,
            path,
            query: String::new(),
            headers,
            body: full(Bytes::new()),
        }
    }

    /// Adds `name=value` to the query.
    pub(crate) fn query(mut self, name: &str, value: impl AsRef<str>) -> Call<'a> {
        if !self.query.is_empty() {
            self.query.push('&');
        }
        percent_encode(name, &mut self.query);
        self.query.push('=');
        percent_encode(value.as_ref(), &mut self.query);
        self
    }

    /// Adds `name=value` to the query where there is a value.
    pub(crate) fn query_some(self, name: &str, value: Option<impl AsRef<str>>) -> Call<'a> {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Adds `name=1` to the query where `on`.
    pub(crate) fn query_flag(self, name: &str, on: bool) -> Call<'a> {
        if on { self.query(name, "1") } else { self }
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Call<'a> {
        self.headers.insert(name, value);
        self
    }

    /// Sends `value` as JSON.
    pub(crate) fn json<T: Serialize>(mut self, value: &T) -> Result<Call<'a>, ClientError> {
        let bytes = serde_json::to_vec(value).map_err(ClientError::exchange(&self.path))?;
        self.body = full(Bytes::from(bytes));
        let json = HeaderValue::from_static("application/json");
        Ok(self.header(header::CONTENT_TYPE, json))
    }

    /// Sends a stream of bytes (a tar archive) as it comes.
    pub(crate) fn stream<S>(mut self, stream: S) -> Call<'a>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let frames = futures_util::StreamExt::map(stream, |chunk| chunk.map(Frame::data));
        self.body = BodyExt::boxed_unsync(StreamBody::new(frames));
        self.header(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-tar"),
        )
    }

    /// Sends the call and waits for the head of a good answer.
    pub(crate) async fn send(self) -> Result<Reply, ClientError> {
        self.client.send(self).await
    }

    /// Sends the call and reads its answer as JSON.
    pub(crate) async fn receive<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        self.send().await?.json().await
    }

    /// Sends the call and reads its answer to the end, for nothing but its success.
    pub(crate) async fn done(self) -> Result<(), ClientError> {
        self.send().await?.bytes().await.map(drop)
    }

    /// Sends the call and takes over the connection as a raw stream.
    pub(crate) async fn hijack(self) -> Result<Hijacked, ClientError> {
        let call = self
            .header(header::CONNECTION, HeaderValue::from_static("Upgrade"))
            .header(header::UPGRADE, HeaderValue::from_static("tcp"));
        call.client.hijack(call).await
    }

    pub(super) fn into_request(
        self,
        version: Option<ApiVersion>,
        host: &str,
    ) -> Result<(Request<RequestBody>, String), ClientError> {
        let mut target = String::with_capacity(self.path.len() + self.query.len() + 8);
        if let Some(version) = version {
            let _ = write!(target, "/v{version}");
        }
        escape_path(&self.path, &mut target);
        if !self.query.is_empty() {
            target.push('?');
            target.push_str(&self.query);
        }
        let mut request = Request::builder().method(self.method).uri(target);
        if let Some(headers) = request.headers_mut() {
            *headers = self.headers;
            let agent = concat!("Hull-Client/", env!("CARGO_PKG_VERSION"), " (linux)");
            headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
            if let Ok(host) = HeaderValue::from_str(host) {
                headers.insert(header::HOST, host);
            }
        }
        let request = request
            .body(self.body)
            .map_err(ClientError::exchange(&self.path))?;
        Ok((request, self.path))
    }
}

/// A good answer whose body is still to be read.
#[derive(Debug)]
pub(crate) struct Reply {
    response: Response<Incoming>,
    path: String,
}

impl Reply {
    /// Turns an answer that says no into an error.
    pub(super) async fn check(
        response: Response<Incoming>,
        path: String,
    ) -> Result<Reply, ClientError> {
        let status = response.status();
        let good = status.is_success()
            || status == StatusCode::SWITCHING_PROTOCOLS
            || status == StatusCode::NOT_MODIFIED;
        let reply = Reply { response, path };
        if good {
            return Ok(reply);
        }
        let path = reply.path.clone();
        let bytes = reply.bytes().await?;
        Err(ClientError::Refused {
            status,
            message: error_message(status, &path, &bytes),
        })
    }

    /// A header of the answer.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The next piece of the body, nothing at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.response.body_mut().frame().await {
            let frame = frame.map_err(ClientError::exchange(&self.path))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The whole body.
    pub(crate) async fn bytes(self) -> Result<Bytes, ClientError> {
        let path = self.path;
        let body = self.response.into_body().collect().await;
        Ok(body.map_err(ClientError::exchange(&path))?.to_bytes())
    }

    /// The whole body, as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(self) -> Result<T, ClientError> {
        let path = self.path.clone();
        let bytes = self.bytes().await?;
        serde_json::from_slice(&bytes).map_err(|cause| ClientError::Answer {
            path,
            cause: cause.into(),
        })
    }

    pub(super) async fn upgrade(self) -> Result<Hijacked, ClientError> {
        let status = self.response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            let cause = format!("unable to upgrade to tcp, received {}", status.as_u16());
            return Err(ClientError::Answer {
                path: self.path,
                cause: cause.into(),
            });
        }
        let upgraded = hyper::upgrade::on(self.response).await;
        Ok(Hijacked::new(
            upgraded.map_err(ClientError::exchange(&self.path))?,
        ))
    }
}

fn error_message(status: StatusCode, path: &str, body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct ErrorBody {
        message: String,
    }
    if let Ok(ErrorBody { message }) = serde_json::from_slice(body) {
        return message.trim().to_owned();
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(ERROR_BYTES_MAX)]);
    match text.trim() {
        "" => format!("request returned {status} for API route {path}"),
        text => text.to_owned(),
    }
}

fn full(bytes: Bytes) -> RequestBody {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Escapes what a path cannot hold; slashes and what was escaped before stay.
fn escape_path(path: &str, out: &mut String) {
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !b"\"#<>?[\\]^`{|}".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

/// Escapes a part of a path or a query.
pub(crate) fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}
