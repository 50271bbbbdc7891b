//! Reads logs back: from an offset, over rotated files, and on while they grow.
//!
//! ```text
//!  shim ──▶ files ──▶ files.rs: which, in which order ──▶ lines.rs: chunks of lines ──▶ client
//! ```
//!
//! The shim writes; nobody tells us. A follower watches the directory and reads what is there,
//! so it never holds the container up. One that is not read keeps its place and two chunks.

pub(crate) mod files;
pub(crate) mod lines;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hull_os::inotify::Inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use crate::api::{Container, LogLines, LogsRequest};
use crate::clock::now_ns;
use crate::error::{EngineError, Result};
use crate::jobs::{Jobs, Pool};
use files::{Cursor, Part};
use lines::LogLine;

/// Chunks that may wait for a slow reader.
const CHUNKS_WAITING_MAX: usize = 1;

/// Starts reading; lines come in the channel, which ends with the log.
pub(crate) fn read(
    jobs: Arc<Jobs>,
    path: PathBuf,
    request: LogsRequest,
    snapshot: watch::Receiver<Arc<Container>>,
) -> mpsc::Receiver<LogLines> {
    let (lines, receiver) = mpsc::channel(CHUNKS_WAITING_MAX);
    tokio::spawn(async move {
        let reading = Reading {
            jobs,
            path,
            request,
            lines,
        };
        if let Err(error) = reading.run(snapshot).await {
            tracing::warn!(error = %error.chain(), "a log could not be read on");
        }
    });
    receiver
}

/// All lines that are there now, for an attach with `logs`.
pub(crate) fn read_all(
    path: &Path,
    request: &LogsRequest,
    mut take: impl FnMut(LogLine<'_>),
) -> io::Result<()> {
    for part in files::all(path)? {
        let mut cursor = Cursor::open(part, false)?;
        while let Some(lines) = cursor.next_lines()? {
            lines
                .iter()
                .filter(|line| wanted(request, *line))
                .for_each(&mut take);
        }
    }
    Ok(())
}

struct Reading {
    jobs: Arc<Jobs>,
    path: PathBuf,
    request: LogsRequest,
    lines: mpsc::Sender<LogLines>,
}

impl Reading {
    async fn run(self, mut snapshot: watch::Receiver<Arc<Container>>) -> Result<()> {
        // Watch before reading, so that nothing is missed between the two.
        let inotify = match self.request.follow {
            true => Some(self.watch()?),
            false => None,
        };
        let (path, tail) = (self.path.clone(), self.request.tail);
        let opened = move || files::tail(&path, tail);
        let (parts, mut skip) = self.disk(opened).await?;
        let last = self.read_parts(parts, &mut skip).await?;
        match (last, inotify) {
            (Some(last), Some(inotify)) => self.follow(last, inotify, &mut snapshot).await,
            _ => Ok(()),
        }
    }

    /// Reads what is there; the cursor of the last file, unless the reader has all it wanted.
    async fn read_parts(
        &self,
        mut parts: VecDeque<Part>,
        skip: &mut u64,
    ) -> Result<Option<Option<Cursor>>> {
        let mut last = None;
        while let Some(part) = parts.pop_front() {
            let growing = self.request.follow && parts.is_empty();
            let mut cursor = self.disk(move || Cursor::open(part, growing)).await?;
            loop {
                let (back, chunk) = self.next(cursor, None).await?;
                cursor = back;
                let Some(mut chunk) = chunk else { break };
                *skip -= chunk.skip(*skip);
                if !self.send(chunk).await {
                    return Ok(None);
                }
            }
            last = Some(cursor);
        }
        Ok(Some(last))
    }

    fn watch(&self) -> Result<AsyncFd<Inotify>> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        // It is made at the first start.
        std::fs::create_dir_all(directory)
            .and_then(|()| Inotify::watch_directory(directory))
            .and_then(crate::object::connection::watch)
            .map_err(|e| EngineError::io(format!("watch {}", directory.display()), e))
    }

    async fn follow(
        &self,
        mut cursor: Option<Cursor>,
        inotify: AsyncFd<Inotify>,
        snapshot: &mut watch::Receiver<Arc<Container>>,
    ) -> Result<()> {
        let until = until_over(self.request.until_ns);
        tokio::pin!(until);
        loop {
            // Asked before reading: what was written before the end is read after it.
            let live = snapshot.borrow_and_update().state.is_live();
            loop {
                let current = match cursor.take() {
                    Some(cursor) => cursor,
                    None => match self.first().await? {
                        Some(cursor) => cursor,
                        None => break,
                    },
                };
                let (back, chunk) = self.next(current, Some(self.path.clone())).await?;
                cursor = Some(back);
                let Some(chunk) = chunk else { break };
                if !self.send(chunk).await {
                    return Ok(());
                }
            }
            if !live {
                return Ok(());
            }
            tokio::select! {
                ready = inotify.readable() => {
                    let mut ready = ready.map_err(|e| EngineError::io("watch the log", e))?;
                    inotify.get_ref().drain();
                    ready.clear_ready();
                }
                changed = snapshot.changed() => if changed.is_err() { return Ok(()) },
                () = &mut until => return Ok(()),
                () = self.lines.closed() => return Ok(()),
            }
        }
    }

    /// The oldest file, for a log of which there was none.
    async fn first(&self) -> Result<Option<Cursor>> {
        let path = self.path.clone();
        self.disk(move || {
            let part = files::all(&path)?.pop_front();
            part.map(|part| Cursor::open(part, true)).transpose()
        })
        .await
    }

    /// The next chunk, also of the next file of `path`.
    async fn next(
        &self,
        mut cursor: Cursor,
        path: Option<PathBuf>,
    ) -> Result<(Cursor, Option<LogLines>)> {
        self.disk(move || {
            let chunk = match path {
                Some(path) => cursor.next_lines_of(&path),
                None => cursor.next_lines(),
            };
            chunk.map(|chunk| (cursor, chunk))
        })
        .await
    }

    async fn disk<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.jobs
            .run(Pool::Disk, job)
            .await?
            .map_err(|e| EngineError::io("read the log", e))
    }

    /// Sends what is wanted; false when the reader is gone or has all it wanted.
    async fn send(&self, mut chunk: LogLines) -> bool {
        let until = self.request.until_ns;
        let last = chunk.iter().next_back().and_then(|line| time_ns(line.time));
        let over = until != 0 && last.is_some_and(|at| at > until);
        chunk.retain(|line| wanted(&self.request, line));
        if !chunk.is_empty() && self.lines.send(chunk).await.is_err() {
            return false;
        }
        !over && !self.lines.is_closed()
    }
}

/// Waits until the time that is asked for is over, on the clock of the lines.
async fn until_over(until_ns: i64) {
    match u64::try_from(until_ns) {
        Ok(1..) => {
            let left = until_ns.saturating_sub(now_ns());
            tokio::time::sleep(Duration::from_nanos(u64::try_from(left).unwrap_or(0))).await;
        }
        _ => std::future::pending().await,
    }
}

fn wanted(request: &LogsRequest, line: LogLine<'_>) -> bool {
    let stream = match line.stderr {
        true => request.stderr,
        false => request.stdout,
    };
    if !stream || (request.since_ns == 0 && request.until_ns == 0) {
        return stream;
    }
    let Some(at) = time_ns(line.time) else {
        return true;
    };
    (request.since_ns == 0 || at >= request.since_ns)
        && (request.until_ns == 0 || at <= request.until_ns)
}

/// Nanoseconds since the epoch of `2024-01-02T03:04:05.678901234Z`; none when it is not of that form.
pub(crate) fn time_ns(text: &str) -> Option<i64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let fraction = text
        .get(19..)?
        .strip_prefix('.')
        .map_or("", |rest| rest.trim_end_matches('Z'));
    let mut nanos = 0;
    for digit in fraction.bytes().chain(std::iter::repeat(b'0')).take(9) {
        nanos = nanos * 10 + i64::from(digit.checked_sub(b'0')?);
    }
    // Days since the epoch by the civil calendar: March is the first month of the counted year.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    (((days * 24 + hour) * 60 + minute) * 60 + second)
        .checked_mul(1_000_000_000)?
        .checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00.5Z", 951_825_600),
            ("2026-11-21T09:05:00.000000001Z", 1_795_251_900),
        ] {
            assert_eq!(
                time_ns(text).map(|ns| ns / 1_000_000_000),
                Some(seconds),
                "{text}"
            );
        }
        assert_eq!(
            time_ns("2000-02-29T12:00:00.25Z").map(|ns| ns % 1_000_000_000),
            Some(250_000_000)
        );
        assert_eq!(time_ns("nonsense"), None);
    }
}
