//! The `json-file` log, byte for byte as Docker writes it.
//!
//! One line per line of output, or per 16 KiB of a longer one. A full disk never stops a container:
//! lines that cannot be written are counted and dropped.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use hull_os::process;
use hull_plan::plan;

use crate::stdio::Stream;

/// Bytes of a line after which it is written in parts.
const LINE_BYTES_MAX: usize = 16 << 10;
/// Bytes that are gathered before they are written.
const GATHER_BYTES: usize = 32 << 10;

/// An open log, or none.
#[derive(Debug, Default)]
pub(crate) struct Log {
    file: Option<File>,
    /// Beginnings of lines that have no end yet.
    partial: [Vec<u8>; 2],
    /// Encoded lines that are not written yet, and how many.
    gathered: Vec<u8>,
    gathered_lines: u64,
    /// Lines that could not be written since the last report.
    dropped: u64,
}

#[derive(Debug)]
struct File {
    dir: OwnedFd,
    name: String,
    file: Option<OwnedFd>,
    size: u64,
    size_max: u64,
    files_max: u32,
}

impl Log {
    /// Opens the log that the plan names, for appending.
    pub(crate) fn open(log: &plan::Log<'_>) -> io::Result<Log> {
        let mut file = File {
            dir: crate::take(log.dir)?,
            name: crate::shown(log.name).into_owned(),
            file: None,
            size: 0,
            size_max: log.size_max,
            files_max: log.files_max,
        };
        file.open(0)?;
        Ok(Log {
            file: Some(file),
            ..Log::default()
        })
    }

    /// Takes output of a stream.
    pub(crate) fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        if self.file.is_none() {
            return;
        }
        let time = rfc3339(process::now_ns());
        while !bytes.is_empty() {
            let partial = &mut self.partial[stream as usize];
            let room = LINE_BYTES_MAX - partial.len();
            let window = &bytes[..bytes.len().min(room)];
            let end = window
                .iter()
                .position(|&byte| byte == b'\n')
                .map(|at| at + 1);
            let taken = end.unwrap_or(window.len());
            let (piece, rest) = bytes.split_at(taken);
            bytes = rest;
            if end.is_none() && partial.len() + taken < LINE_BYTES_MAX {
                partial.extend_from_slice(piece);
                continue;
            }
            if partial.is_empty() {
                self.line(stream, piece, &time);
            } else {
                let mut line = std::mem::take(&mut self.partial[stream as usize]);
                line.extend_from_slice(piece);
                self.line(stream, &line, &time);
            }
        }
        self.flush();
    }

    /// Writes what has no end yet; the stream has ended.
    pub(crate) fn end(&mut self, stream: Stream) {
        let line = std::mem::take(&mut self.partial[stream as usize]);
        if !line.is_empty() {
            let time = rfc3339(process::now_ns());
            self.line(stream, &line, &time);
            self.flush();
        }
    }

    /// Writes what has no end yet of either stream.
    pub(crate) fn end_all(&mut self) {
        self.end(Stream::Stdout);
        self.end(Stream::Stderr);
    }

    /// Whether lines were dropped since the last report.
    pub(crate) fn has_dropped(&self) -> bool {
        self.dropped > 0
    }

    /// Lines dropped since this was asked the last time.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn line(&mut self, stream: Stream, line: &[u8], time: &str) {
        self.gathered.extend_from_slice(b"{\"log\":\"");
        escape(&mut self.gathered, line);
        self.gathered.extend_from_slice(b"\",\"stream\":\"");
        self.gathered.extend_from_slice(stream.name().as_bytes());
        self.gathered.extend_from_slice(b"\",\"time\":\"");
        self.gathered.extend_from_slice(time.as_bytes());
        self.gathered.extend_from_slice(b"\"}\n");
        self.gathered_lines += 1;
        // A file is rotated between two lines as soon as it is full, so no more is gathered than
        // fills it.
        let gathered = self.gathered.len();
        if gathered >= GATHER_BYTES
            || self
                .file
                .as_ref()
                .is_some_and(|file| file.is_filled_by(gathered))
        {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let Some(file) = &mut self.file else { return };
        if !self.gathered.is_empty() && file.append(&self.gathered).is_err() {
            self.dropped += self.gathered_lines;
        }
        self.gathered_lines = 0;
        self.gathered.clear();
        self.gathered.shrink_to(GATHER_BYTES / 8);
    }
}

impl File {
    fn is_bounded(&self) -> bool {
        self.size_max > 0
    }

    fn is_filled_by(&self, bytes: usize) -> bool {
        self.is_bounded() && self.size + bytes as u64 >= self.size_max
    }

    fn open(&mut self, more_flags: i32) -> io::Result<()> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | more_flags;
        let name = crate::c_string(self.name.clone())?;
        let fd = process::open(self.dir.as_fd(), &name, flags, 0o640)?;
        let file = std::fs::File::from(fd);
        self.size = file.metadata()?.len();
        self.file = Some(file.into());
        Ok(())
    }

    /// Writes whole lines. A write that the disk takes only in part is taken back, so that no torn
    /// line is left.
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.is_bounded() && self.size >= self.size_max {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.open(0)?;
        }
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut written = 0;
        while written < lines.len() {
            match process::write(file.as_fd(), &lines[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let size = self.size.cast_signed();
                    // SAFETY: integers only.
                    unsafe { libc::ftruncate(file.as_raw_fd(), size) };
                    return Err(error);
                }
            }
        }
        self.size += lines.len() as u64;
        Ok(())
    }

    /// `log.1` becomes `log.2`, and so on; `log` becomes `log.1`, or is emptied when it is the
    /// only one.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let dir = self.dir.as_raw_fd();
        for number in (1..self.files_max).rev() {
            let from = match number {
                1 => self.name.clone(),
                _ => format!("{}.{}", self.name, number - 1),
            };
            let (from, to) = (
                crate::c_string(from)?,
                crate::c_string(format!("{}.{number}", self.name))?,
            );
            // SAFETY: both names are NUL-terminated and outlive the call. One that is not there
            // yet fails, which is fine.
            unsafe { libc::renameat(dir, from.as_ptr(), dir, to.as_ptr()) };
        }
        self.open(libc::O_TRUNC)
    }
}

/// Escapes as Go's JSON encoder does with HTML in mind.
fn escape(to: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => to.extend_from_slice(&[b'\\', character as u8]),
                '\n' => to.extend_from_slice(b"\\n"),
                '\r' => to.extend_from_slice(b"\\r"),
                '\0'..'\x20' | '<' | '>' | '&' => {
                    let byte = character as u8;
                    let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                    to.extend_from_slice(b"\\u00");
                    to.extend_from_slice(&digits);
                }
                '\u{2028}' => to.extend_from_slice(b"\\u2028"),
                '\u{2029}' => to.extend_from_slice(b"\\u2029"),
                _ => to.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        // Go takes one byte at a time where a sequence is broken.
        for _ in chunk.invalid() {
            to.extend_from_slice(b"\\ufffd");
        }
    }
}

/// `2006-01-02T15:04:05.999999999Z`: nanoseconds without zeros at their end.
fn rfc3339(at_ns: i64) -> String {
    /// Nanoseconds of a second.
    const SECOND: i64 = 1_000_000_000;
    let (seconds, nanos) = (at_ns.div_euclid(SECOND), at_ns.rem_euclid(SECOND));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if nanos > 0 {
        let fraction = format!(".{nanos:09}");
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Year, month and day of a number of days since 1970-01-01, by the calendar of 400 years that
/// begin on a 1st of March.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: &str) {
        let mut escaped = Vec::new();
        escape(&mut escaped, bytes);
        assert_eq!(String::from_utf8(escaped).unwrap(), expected);
    }

    #[test]
    fn output_is_escaped_as_go_does() {
        check(b"plain \x7f\n", "plain \x7f\\n");
        check(b"a\tb\r\x00\x1b[", "a\\u0009b\\r\\u0000\\u001b[");
        check(
            b"<a href=\"x&y\\\">",
            "\\u003ca href=\\\"x\\u0026y\\\\\\\"\\u003e",
        );
        check("ü \u{2028}\u{1f600}".as_bytes(), "ü \\u2028\u{1f600}");
        check(b"\xff\xe2\x82|\xc3", "\\ufffd\\ufffd\\ufffd|\\ufffd");
    }

    #[test]
    fn times_are_rfc3339_without_trailing_zeros() {
        for (at_ns, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00Z"),
            (1_735_689_599_999_999_999, "2024-12-31T23:59:59.999999999Z"),
            (1_700_000_000_120_000_000, "2023-11-14T22:13:20.12Z"),
        ] {
            assert_eq!(rfc3339(at_ns), expected);
        }
    }
}
