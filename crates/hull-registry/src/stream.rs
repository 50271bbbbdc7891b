//! Bodies as they come in: bounded, watched for stalls, and gone on with where they broke off.
//!
//! ```text
//!  small blob   ── one request ───────────────────────────────────▶ pieces, in order
//!  big blob     ── segment 0 ──▶ ┐
//!                  segment 1 ──▶ ┤ kept in memory till its turn ──▶ pieces, in order
//!                  segment 2 ──▶ ┘
//! ```
//!
//! A segment that breaks is asked for again from the byte where it broke. Servers that do not know
//! ranges send all of it again; then what is known is passed over.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::error::{ConnectionError, Error, Result};
use crate::registry::{ATTEMPTS_MAX, Ask, Inner, backoff, good, protocol};
use crate::url::Url;

/// How long a server may send next to nothing while we wait for it.
const STALL_S: u64 = 15;
/// What counts as next to nothing, in bytes.
const STALL_BYTES: u64 = 1 << 10;
/// What must have come for the count of failures to begin anew, in bytes.
const PROGRESS_BYTES: u64 = 64 << 10;
/// Pieces that wait for whoever reads them: with the size of a read this bounds the memory.
pub(crate) const PIECES_MAX: usize = 16;
/// A blob of so many bytes is fetched by several connections.
const SEGMENTED_BYTES_MIN: u64 = 64 << 20;
/// Bytes of one segment; so many are in memory per connection at most.
const SEGMENT_BYTES: u64 = 4 << 20;
/// Connections for one blob.
const SEGMENTS_MAX: usize = 3;
/// Pieces of a segment that wait for their turn: all of it, however small they come.
const SEGMENT_PIECES_MAX: usize = 4096;

/// Pieces of a blob, in order; it ends after an error.
pub type Pieces = mpsc::Receiver<Result<Bytes>>;

/// Watches that something comes while we wait for it.
pub(crate) struct Watch {
    waited: Duration,
    bytes: u64,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self {
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// The next bytes of a body; none at its end.
    pub(crate) async fn next(
        &mut self,
        body: &mut Incoming,
    ) -> Result<Option<Bytes>, ConnectionError> {
        loop {
            let began = Instant::now();
            let left = Duration::from_secs(STALL_S).saturating_sub(self.waited);
            let frame = timeout(left, body.frame()).await;
            let stalled = ConnectionError::Stalled { seconds: STALL_S };
            let frame = frame.map_err(|_| stalled)?;
            self.waited += began.elapsed();
            let Some(frame) = frame else {
                return Ok(None);
            };
            let Ok(bytes) = frame.map_err(ConnectionError::Broken)?.into_data() else {
                continue;
            };
            self.bytes += bytes.len() as u64;
            if self.bytes >= STALL_BYTES {
                *self = Self::new();
            }
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }
}

/// Reads a small body whole.
pub(crate) async fn read_all(
    mut body: Incoming,
    ask: &Ask<'_>,
    max: u64,
    what: &'static str,
) -> Result<Bytes> {
    let too_large = || Error::Limit {
        what,
        limit: max,
        unit: "bytes",
    };
    if body.size_hint().lower() > max {
        return Err(too_large());
    }
    let mut watch = Watch::new();
    let mut all = BytesMut::new();
    let failed = |cause| Error::Exchange {
        method: ask.go_method(),
        url: ask.url.to_string(),
        cause,
    };
    while let Some(bytes) = watch.next(&mut body).await.map_err(failed)? {
        all.extend_from_slice(&bytes);
        if all.len() as u64 > max {
            return Err(too_large());
        }
    }
    Ok(all.freeze())
}

/// A blob that is being fetched.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) inner: Arc<Inner>,
    /// Which server.
    pub(crate) server: usize,
    pub(crate) scope: String,
    pub(crate) url: Url,
    /// Bytes in all.
    pub(crate) size: u64,
}

/// The bytes of a blob from an offset on, in order.
///
/// Reading it is what moves it: who stops reading, stops the servers.
#[derive(Debug)]
pub struct BlobStream {
    download: Arc<Download>,
    runtime: Handle,
    running: VecDeque<Segment>,
    /// Where the next segment begins.
    next: u64,
    segment_bytes: u64,
}

#[derive(Debug)]
struct Segment {
    pieces: Pieces,
    task: AbortHandle,
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl BlobStream {
    /// Sends the first request; what it answers decides how the rest is fetched.
    pub(crate) async fn open(download: Download, offset: u64) -> Result<BlobStream> {
        let size = download.size;
        let download = Arc::new(download);
        let big = size.saturating_sub(offset) >= SEGMENTED_BYTES_MIN;
        let end = if big { offset + SEGMENT_BYTES } else { size };
        let mut stream = BlobStream {
            download: download.clone(),
            runtime: Handle::current(),
            running: VecDeque::new(),
            next: offset,
            segment_bytes: size,
        };
        if offset >= size {
            return Ok(stream);
        }
        let first = download.request(offset, end).await?;
        if big && first.status() == StatusCode::PARTIAL_CONTENT {
            stream.segment_bytes = SEGMENT_BYTES;
        }
        stream.start(Some(first));
        Ok(stream)
    }

    /// The next bytes; none at the end.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        loop {
            self.look_ahead();
            let front = self.running.front_mut()?;
            if let Some(piece) = front.pieces.recv().await {
                return Some(piece);
            }
            self.running.pop_front();
        }
    }

    /// The next bytes, on a thread that may block.
    pub fn blocking_next(&mut self) -> Option<Result<Bytes>> {
        loop {
            self.look_ahead();
            let front = self.running.front_mut()?;
            if let Some(piece) = front.pieces.blocking_recv() {
                return Some(piece);
            }
            self.running.pop_front();
        }
    }

    /// Passes all of it through a channel, for those who read that.
    pub fn into_pieces(mut self) -> Pieces {
        let (sender, pieces) = mpsc::channel(1);
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            while let Some(piece) = self.next().await {
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
        });
        pieces
    }

    fn look_ahead(&mut self) {
        while self.running.len() < SEGMENTS_MAX && self.next < self.download.size {
            self.start(None);
        }
    }

    fn start(&mut self, first: Option<Response<Incoming>>) {
        let from = self.next;
        let to = (from.saturating_add(self.segment_bytes)).min(self.download.size);
        self.next = to;
        let whole = self.segment_bytes == self.download.size;
        let length = if whole {
            PIECES_MAX
        } else {
            SEGMENT_PIECES_MAX
        };
        let (sender, pieces) = mpsc::channel(length);
        let download = self.download.clone();
        let task = self
            .runtime
            .spawn(async move { download.fetch(from, to, first, sender).await });
        self.running.push_back(Segment {
            pieces,
            task: task.abort_handle(),
        });
    }
}

impl Download {
    /// Asks for the bytes `from..to`; all of them: without a range, which some servers refuse.
    async fn request(&self, from: u64, to: u64) -> Result<Response<Incoming>> {
        let mut ask = self.ask();
        if (from, to) != (0, self.size) {
            ask = ask.header(RANGE, &format!("bytes={from}-{}", to - 1));
        }
        let server = self.inner.servers.get(self.server);
        let response = self.inner.client.ask(server, &ask).await?;
        let response = match response.status() {
            // Nothing there, says a server that is confused about its own blob.
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(protocol(&ask, "the range was refused"));
            }
            _ => good(response, &ask).await?,
        };
        self.check(&response, from, to)
            .map_err(|problem| protocol(&ask, problem))?;
        Ok(response)
    }

    fn ask(&self) -> Ask<'_> {
        Ask::new(Method::GET, self.url.clone(), &self.scope)
    }

    /// Whether the head promises what was asked for.
    fn check(&self, response: &Response<Incoming>, from: u64, to: u64) -> Result<(), &'static str> {
        let header = |name| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = header(CONTENT_RANGE).and_then(parse_range);
            return match range {
                Some((start, end)) if start == from && end >= start && end < to => Ok(()),
                _ => Err("the range is not the one that was asked for"),
            };
        }
        match header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok()) {
            Some(length) if length != self.size => Err("the size is not the promised one"),
            _ => Ok(()),
        }
    }

    /// Sends the bytes `from..to` on, however often that breaks.
    async fn fetch(
        &self,
        from: u64,
        to: u64,
        mut first: Option<Response<Incoming>>,
        out: mpsc::Sender<Result<Bytes>>,
    ) {
        let mut at = from;
        let mut failures = 0;
        let mut failed_at = from;
        while at < to {
            let failure = match self.once(&mut at, to, first.take(), &out).await {
                Ok(()) => return,
                Err(error) => error,
            };
            if at >= failed_at + PROGRESS_BYTES {
                failures = 0;
            }
            (failures, failed_at) = (failures + 1, at);
            if !failure.is_transient() || failures >= ATTEMPTS_MAX {
                // Nobody reads it any more: then nobody needs it.
                drop(out.send(Err(failure)).await);
                return;
            }
            tracing::debug!(url = %self.url, at, %failure, "going on after a broken download");
            tokio::time::sleep(backoff(failures)).await;
        }
    }

    /// One answer, as far as it comes.
    async fn once(
        &self,
        at: &mut u64,
        to: u64,
        first: Option<Response<Incoming>>,
        out: &mpsc::Sender<Result<Bytes>>,
    ) -> Result<()> {
        let response = match first {
            Some(response) => response,
            None => self.request(*at, to).await?,
        };
        let whole = response.status() != StatusCode::PARTIAL_CONTENT;
        let mut unwanted = if whole { *at } else { 0 };
        let mut body = response.into_body();
        let mut watch = Watch::new();
        let ask = self.ask();
        let failed = |cause| Error::Exchange {
            method: "Get",
            url: self.url.to_string(),
            cause,
        };
        while *at < to {
            let Some(mut bytes) = watch.next(&mut body).await.map_err(failed)? else {
                return Err(protocol(&ask, "it ended too early"));
            };
            let skipped = unwanted.min(bytes.len() as u64);
            unwanted -= skipped;
            bytes = bytes.slice(usize::try_from(skipped).unwrap_or(bytes.len())..);
            let wanted = usize::try_from(to - *at).unwrap_or(usize::MAX);
            bytes.truncate(wanted);
            if bytes.is_empty() {
                continue;
            }
            *at += bytes.len() as u64;
            if out.send(Ok(bytes)).await.is_err() {
                return Ok(());
            }
        }
        // The end of the body makes the connection good for the next request.
        drop(timeout(Duration::from_secs(1), body.frame()).await);
        Ok(())
    }
}

/// First and last byte of `bytes 0-99/100`.
fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (range, _) = text.strip_prefix("bytes")?.trim_start().split_once('/')?;
    let (start, end) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, end.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_range("bytes 0-99/100"), Some((0, 99)));
        assert_eq!(parse_range("bytes 5-9/*"), Some((5, 9)));
        for text in [
            "",
            "bytes",
            "bytes */100",
            "bytes 5/9",
            "0-99/100",
            "bytes -1-9/9",
        ] {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }
}
