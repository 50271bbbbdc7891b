//! Bodies of answers: whole, or made while they are sent.
//!
//! A streamed body is pulled by the connection, so a slow client holds back its source and a client
//! that went away drops it; no task is left behind.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;

use crate::errors::ApiError;

/// What a handler answers.
pub(crate) type Reply = Response<Body>;
/// Pieces of a streamed body. An error cuts the connection, so that the client sees a torn answer
/// and not a short one.
pub(crate) type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The body of an answer.
pub(crate) enum Body {
    /// All of it; `None` once sent.
    Whole(Option<Bytes>),
    /// Piece by piece.
    Streamed(Pieces),
}

impl Body {
    pub(crate) fn streamed(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        Self::Streamed(Box::pin(pieces))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streamed(pieces) => pieces
                .as_mut()
                .poll_next(context)
                .map(|piece| piece.map(|p| p.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Streamed(_) => SizeHint::default(),
        }
    }
}

/// An answer with a body and its type.
pub(crate) fn reply(status: StatusCode, content_type: &'static str, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// 200 with JSON; like Docker's, it ends with a line feed.
pub(crate) fn json(value: &impl Serialize) -> Result<Reply, ApiError> {
    json_with(StatusCode::OK, value)
}

/// Any status with JSON.
pub(crate) fn json_with(status: StatusCode, value: &impl Serialize) -> Result<Reply, ApiError> {
    Ok(reply(
        status,
        "application/json",
        Body::Whole(Some(json_line(value)?)),
    ))
}

/// One value as a line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> Result<Bytes, ApiError> {
    let mut text = serde_json::to_vec(value).map_err(|cause| ApiError::unspeakable(&cause))?;
    text.push(b'\n');
    Ok(text.into())
}

/// A status without a body.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::Whole(None));
    *reply.status_mut() = status;
    reply
}

/// 204, what most changes answer.
pub(crate) fn no_content() -> Reply {
    empty(StatusCode::NO_CONTENT)
}
