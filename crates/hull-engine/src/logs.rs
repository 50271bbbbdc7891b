//! Reads `json-file` logs back: from an offset, over rotated files, and on while it grows.
//!
//! The shim writes; nobody tells us. A follower watches the directory and reads what is there,
//! so it never holds the container up. Rotation renames `log` to `log.1`, `log.1` to `log.2`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_os::inotify::Inotify;
use serde::Deserialize;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use crate::api::{Container, LogLine, LogsRequest};
use crate::error::{EngineError, Result};
use crate::jobs::{Jobs, Pool};

/// Bytes that are read and parsed at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that may wait for a slow reader.
const CHUNKS_WAITING_MAX: usize = 2;
/// A log line longer than this is damage: the shim cuts at 16 KiB, which escaping makes six times
/// longer at most.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Rotated files that are looked for.
const ROTATED_MAX: u32 = 1000;

/// Starts reading; lines come in the channel, which ends with the log.
pub(crate) fn read(
    jobs: Arc<Jobs>,
    path: PathBuf,
    request: LogsRequest,
    snapshot: watch::Receiver<Arc<Container>>,
) -> mpsc::Receiver<Vec<LogLine>> {
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
pub(crate) fn read_all(path: &Path, request: &LogsRequest) -> io::Result<Vec<LogLine>> {
    let mut lines = Vec::new();
    for file in open_all(path)? {
        let mut cursor = Cursor {
            file,
            carry: Vec::new(),
        };
        while let Some(mut chunk) = cursor.next_lines()? {
            chunk.retain(|line| wanted(request, line));
            lines.append(&mut chunk);
        }
    }
    Ok(lines)
}

struct Reading {
    jobs: Arc<Jobs>,
    path: PathBuf,
    request: LogsRequest,
    lines: mpsc::Sender<Vec<LogLine>>,
}

impl Reading {
    async fn run(self, mut snapshot: watch::Receiver<Arc<Container>>) -> Result<()> {
        // Watch before reading, so that nothing is missed between the two.
        let inotify = if self.request.follow {
            Some(self.watch()?)
        } else {
            None
        };
        let (path, tail) = (self.path.clone(), self.request.tail);
        let files = self
            .jobs
            .run(Pool::Disk, move || open_from(&path, tail))
            .await?
            .map_err(|e| EngineError::io("open the log", e))?;
        let mut last = None;
        for file in files {
            let mut cursor = Cursor {
                file,
                carry: Vec::new(),
            };
            loop {
                let (back, chunk) = self.next(cursor).await?;
                cursor = back;
                let Some(chunk) = chunk else { break };
                if !self.send(chunk).await {
                    return Ok(());
                }
            }
            last = Some(cursor);
        }
        match inotify {
            Some(inotify) => self.follow(last, inotify, &mut snapshot).await,
            None => Ok(()),
        }
    }

    fn watch(&self) -> Result<AsyncFd<Inotify>> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        Inotify::watch_directory(directory)
            .and_then(crate::object::connection::watch)
            .map_err(|e| EngineError::io(format!("watch {}", directory.display()), e))
    }

    async fn follow(
        &self,
        mut cursor: Option<Cursor>,
        inotify: AsyncFd<Inotify>,
        snapshot: &mut watch::Receiver<Arc<Container>>,
    ) -> Result<()> {
        loop {
            // Asked before reading: what was written before the end is read after it.
            let live = snapshot.borrow_and_update().state.is_live();
            loop {
                cursor = self.newest(cursor).await?;
                let Some(current) = cursor.take() else { break };
                let (back, chunk) = self.next(current).await?;
                cursor = Some(back);
                match chunk {
                    Some(chunk) => {
                        if !self.send(chunk).await {
                            return Ok(());
                        }
                    }
                    None if self.rotated(cursor.as_ref()) => {}
                    None => break,
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
                () = self.lines.closed() => return Ok(()),
            }
        }
    }

    /// The file to read on: the one at hand, or the next one when it was rotated away and read out.
    async fn newest(&self, cursor: Option<Cursor>) -> Result<Option<Cursor>> {
        let path = self.path.clone();
        self.jobs
            .run(Pool::Disk, move || match cursor {
                Some(cursor) if cursor.at_end() && !same_file(&cursor.file, &path) => {
                    File::open(&path).ok().map_or(Some(cursor), |file| {
                        Some(Cursor {
                            file,
                            carry: Vec::new(),
                        })
                    })
                }
                Some(cursor) => Some(cursor),
                None => File::open(&path).ok().map(|file| Cursor {
                    file,
                    carry: Vec::new(),
                }),
            })
            .await
    }

    fn rotated(&self, cursor: Option<&Cursor>) -> bool {
        cursor.is_some_and(|cursor| self.path.exists() && !same_file(&cursor.file, &self.path))
    }

    async fn next(&self, mut cursor: Cursor) -> Result<(Cursor, Option<Vec<LogLine>>)> {
        self.jobs
            .run(Pool::Disk, move || {
                let chunk = cursor.next_lines();
                chunk.map(|chunk| (cursor, chunk))
            })
            .await?
            .map_err(|e| EngineError::io("read the log", e))
    }

    /// Sends what is wanted; false when the reader is gone or has all it wanted.
    async fn send(&self, mut chunk: Vec<LogLine>) -> bool {
        let until = self.request.until_ns;
        let over = until != 0
            && chunk
                .last()
                .is_some_and(|line| time_ns(&line.time).is_some_and(|at| at > until));
        chunk.retain(|line| wanted(&self.request, line));
        if !chunk.is_empty() && self.lines.send(chunk).await.is_err() {
            return false;
        }
        !over && !self.lines.is_closed()
    }
}

fn wanted(request: &LogsRequest, line: &LogLine) -> bool {
    let stream = if line.stderr {
        request.stderr
    } else {
        request.stdout
    };
    if !stream {
        return false;
    }
    if request.since_ns == 0 && request.until_ns == 0 {
        return true;
    }
    let Some(at) = time_ns(&line.time) else {
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

struct Cursor {
    file: File,
    /// The start of a line whose end is not written yet.
    carry: Vec<u8>,
}

impl Cursor {
    /// Whole lines of the next chunk; none at the end of what is there now.
    fn next_lines(&mut self) -> io::Result<Option<Vec<LogLine>>> {
        loop {
            let old = self.carry.len();
            self.carry.resize(old + CHUNK_BYTES, 0);
            let read = self.file.read(&mut self.carry[old..])?;
            self.carry.truncate(old + read);
            if read == 0 {
                return Ok(None);
            }
            let Some(end) = self.carry[old..].iter().rposition(|b| *b == b'\n') else {
                if self.carry.len() > LINE_BYTES_MAX {
                    self.carry.clear();
                }
                continue;
            };
            let rest = self.carry.split_off(old + end + 1);
            let whole = std::mem::replace(&mut self.carry, rest);
            return Ok(Some(
                whole
                    .split(|b| *b == b'\n')
                    .filter_map(parse_line)
                    .collect(),
            ));
        }
    }

    fn at_end(&self) -> bool {
        let position = (&self.file).stream_position();
        match (position, self.file.metadata()) {
            (Ok(position), Ok(facts)) => position >= facts.len(),
            _ => true,
        }
    }
}

#[derive(Deserialize)]
struct JsonLine<'a> {
    #[serde(borrow)]
    log: std::borrow::Cow<'a, str>,
    stream: &'a str,
    time: &'a str,
}

/// One line of the file; none when it is damaged, as after a power cut.
fn parse_line(text: &[u8]) -> Option<LogLine> {
    let line: JsonLine<'_> = serde_json::from_slice(text).ok()?;
    Some(LogLine {
        stderr: line.stream == "stderr",
        time: line.time.to_owned(),
        bytes: line.log.into_owned().into_bytes(),
    })
}

fn rotated_path(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// All files of a log, the oldest first.
fn open_all(path: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for number in 1..ROTATED_MAX {
        match File::open(rotated_path(path, number)) {
            Ok(file) => files.insert(0, file),
            Err(_) => break,
        }
    }
    match File::open(path) {
        Ok(file) => files.push(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(files)
}

/// The files from which on `tail` lines are left, positioned there.
fn open_from(path: &Path, tail: Option<u64>) -> io::Result<Vec<File>> {
    let mut files = open_all(path)?;
    let Some(mut left) = tail else {
        return Ok(files);
    };
    for at in (0..files.len()).rev() {
        let found = seek_tail(&mut files[at], left)?;
        if found >= left {
            return Ok(files.split_off(at));
        }
        left -= found;
    }
    Ok(files)
}

/// Positions a file before its last `lines` lines; returns how many there are, at most that many.
fn seek_tail(file: &mut File, lines: u64) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut found = 0;
    let mut block = vec![0u8; 64 << 10];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let size = usize::try_from(end - start).unwrap_or(block.len());
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..size])?;
        for at in (0..size).rev() {
            // The line end at the very end of the file closes the last line, it opens none.
            if block[at] == b'\n' && start + at as u64 + 1 != length {
                found += 1;
                if found == lines {
                    file.seek(SeekFrom::Start(start + at as u64 + 1))?;
                    return Ok(found);
                }
            }
        }
        end = start;
    }
    if lines == 0 {
        file.seek(SeekFrom::End(0))?;
        return Ok(0);
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(if length > 0 { found + 1 } else { 0 })
}

fn same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(a), Ok(b)) => a.ino() == b.ino() && a.dev() == b.dev(),
        // In the middle of a rotation there is no file of that name; the next look will tell.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_file(name: &str, lines: std::ops::Range<u32>) -> PathBuf {
        let path = std::env::temp_dir().join(format!("hull-log-{name}-{}", std::process::id()));
        let text: String = lines
            .map(|n| format!("{{\"log\":\"{n}\\n\",\"stream\":\"stdout\",\"time\":\"2024-01-02T03:04:05.{n:09}Z\"}}\n"))
            .collect();
        std::fs::write(&path, text).expect("write");
        path
    }

    fn texts(files: Vec<File>) -> Vec<String> {
        let mut all = Vec::new();
        for file in files {
            let mut cursor = Cursor {
                file,
                carry: Vec::new(),
            };
            while let Some(lines) = cursor.next_lines().expect("read") {
                all.extend(
                    lines
                        .into_iter()
                        .map(|l| String::from_utf8(l.bytes).expect("text")),
                );
            }
        }
        all
    }

    #[test]
    fn tail_counts_over_rotated_files() {
        let path = log_file("tail", 10..15);
        std::fs::copy(log_file("tail-old", 0..10), rotated_path(&path, 1)).expect("copy");
        for (tail, first, count) in [
            (Some(2), "13\n", 2),
            (Some(5), "10\n", 5),
            (Some(7), "8\n", 7),
            (None, "0\n", 15),
            (Some(99), "0\n", 15),
        ] {
            let lines = texts(open_from(&path, tail).expect("open"));
            assert_eq!((lines.len(), lines[0].as_str()), (count, first), "{tail:?}");
        }
        assert!(texts(open_from(&path, Some(0)).expect("open")).is_empty());
    }

    #[test]
    fn damaged_lines_are_left_out() {
        assert_eq!(parse_line(b"{\"log\":\"a"), None);
        assert_eq!(parse_line(b""), None);
    }

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
