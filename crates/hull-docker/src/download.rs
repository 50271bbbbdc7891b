//! Answers that a blocking thread of the engine writes: archives.
//!
//! ```text
//! engine's thread ──writes──▶ pieces in a short channel ──▶ body ──▶ client
//! ```
//!
//! A slow client holds the thread back. One that went away drops the channel, and the next write
//! fails.

use std::io::{self, Write};

use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use hull_engine::EngineError;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::body::{Body, empty, reply};
use crate::errors::ApiError;
use crate::router::Answer;

/// Pieces that wait for the client.
const PIECES_MAX: usize = 8;
/// Bytes of a piece.
const PIECE_BYTES: usize = 128 << 10;

/// Streams an archive. What fails before its first byte is a plain error; what fails later cuts the
/// connection, so that nobody takes a part for the whole.
pub(crate) async fn download<F>(write: impl FnOnce(Box<dyn Write + Send>) -> F) -> Answer
where
    F: Future<Output = Result<(), EngineError>> + Send + 'static,
{
    let (to_client, mut pieces) = mpsc::channel(PIECES_MAX);
    let writer = io::BufWriter::with_capacity(PIECE_BYTES, Download { to_client });
    let writing = tokio::spawn(write(Box::new(writer)));
    let Some(first) = pieces.recv().await else {
        return match failure_of(writing).await {
            Some(error) => Err(error),
            None => Ok(empty(StatusCode::OK)),
        };
    };
    let state = Some((Some(first), pieces, writing));
    let stream = stream::unfold(state, |state| async move {
        let (mut first, mut pieces, writing) = state?;
        let next = match first.take() {
            Some(first) => Some(first),
            None => pieces.recv().await,
        };
        if let Some(piece) = next {
            return Some((Ok(piece), Some((None, pieces, writing))));
        }
        let message = failure_of(writing).await?.message;
        tracing::warn!(message, "an archive was not finished");
        Some((Err(io::Error::other(message)), None))
    });
    let body = Body::streamed(stream);
    Ok(reply(StatusCode::OK, "application/x-tar", body))
}

/// What went wrong in a task of the engine.
pub(crate) async fn failure_of(writing: JoinHandle<Result<(), EngineError>>) -> Option<ApiError> {
    match writing.await {
        Ok(result) => result.err().map(ApiError::from),
        Err(error) => Some(ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("writing ended early: {error}"),
        )),
    }
}

/// The writing end of an answer, for a blocking thread.
struct Download {
    to_client: mpsc::Sender<Bytes>,
}

impl Write for Download {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.to_client
            .blocking_send(piece)
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
