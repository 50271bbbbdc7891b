//! The `json-file` log, byte for byte as Docker writes it, and its rotation.
//!
//! One line per line of output, or per 16 KiB of a longer one. `log` becomes `log.1`, that becomes
//! `log.2`, and so on; who compresses them to `log.1.gz` is the daemon. A lock on the directory
//! keeps its names and ours apart.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use hull_os::process;
use hull_plan::plan;

use super::{Line, find};
use crate::stdio::Stream;

/// Bytes that are gathered before they are written.
const GATHER_BYTES: usize = 32 << 10;
/// Bytes that are looked at together for the end of the last whole line.
const TAIL_BYTES: usize = 512;
/// What the daemon puts behind the name of a file that it compressed.
const COMPRESSED: &str = ".gz";

/// The open file.
#[derive(Debug)]
pub(super) struct File {
    dir: OwnedFd,
    name: String,
    file: Option<OwnedFd>,
    size: u64,
    size_max: u64,
    files_max: u32,
    attributes: Vec<u8>,
    rotated: bool,
    /// How a line of this stream and time ends.
    tail: (Option<(Stream, i64)>, Vec<u8>),
    /// Encoded lines that are not written yet, and how many.
    gathered: Vec<u8>,
    gathered_lines: u64,
}

impl File {
    pub(super) fn open(log: &plan::Log<'_>) -> io::Result<File> {
        let mut file = File {
            dir: crate::take(log.dir)?,
            name: crate::shown(log.name).into_owned(),
            file: None,
            size: 0,
            size_max: log.size_max,
            files_max: log.files_max,
            attributes: log.attributes.to_vec(),
            rotated: false,
            tail: (None, Vec::new()),
            gathered: Vec::new(),
            gathered_lines: 0,
        };
        file.open_newest()?;
        file.take_back_torn_line()?;
        Ok(file)
    }

    /// A shim that was killed while it wrote has left a line without its end, which would tear the
    /// next one.
    fn take_back_torn_line(&mut self) -> io::Result<()> {
        let Some(fd) = self.file.take() else {
            return Ok(());
        };
        let file = std::fs::File::from(fd);
        let whole = whole_lines(&file, self.size)?;
        if whole < self.size {
            file.set_len(whole)?;
            self.size = whole;
        }
        self.file = Some(file.into());
        Ok(())
    }

    /// Gathers a line; returns how many were dropped.
    pub(super) fn line(&mut self, line: Line<'_>) -> u64 {
        if self.tail.0 != Some((line.stream, line.at_ns)) {
            self.tail = (
                Some((line.stream, line.at_ns)),
                tail(line.stream, &self.attributes, line.at_ns),
            );
        }
        self.gathered.extend_from_slice(b"{\"log\":\"");
        escape(&mut self.gathered, line.bytes);
        self.gathered.extend_from_slice(&self.tail.1);
        self.gathered_lines += 1;
        // A file is rotated between two lines as soon as it is full, so no more is gathered than
        // fills it.
        if self.gathered.len() >= GATHER_BYTES || self.is_filled() {
            return self.flush();
        }
        0
    }

    /// Writes what is gathered; returns how many lines were dropped.
    pub(super) fn flush(&mut self) -> u64 {
        if self.gathered.is_empty() {
            return 0;
        }
        let dropped = match self.append() {
            Ok(()) => 0,
            Err(_) => self.gathered_lines,
        };
        self.gathered_lines = 0;
        self.gathered.clear();
        self.gathered.shrink_to(GATHER_BYTES / 8);
        dropped
    }

    pub(super) fn take_rotated(&mut self) -> bool {
        std::mem::take(&mut self.rotated)
    }

    fn is_filled(&self) -> bool {
        self.size_max > 0 && self.size + self.gathered.len() as u64 >= self.size_max
    }

    fn open_newest(&mut self) -> io::Result<()> {
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_APPEND;
        let name = crate::c_string(self.name.clone())?;
        let fd = process::open(self.dir.as_fd(), &name, flags, 0o640)?;
        let file = std::fs::File::from(fd);
        self.size = file.metadata()?.len();
        self.file = Some(file.into());
        Ok(())
    }

    /// Writes whole lines. A write that the disk takes only in part is taken back, so that no torn
    /// line is left.
    fn append(&mut self) -> io::Result<()> {
        if self.size_max > 0 && self.size >= self.size_max {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.open_newest()?;
        }
        let Some(file) = &self.file else {
            return Ok(());
        };
        let lines = &self.gathered[..];
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

    /// `log.1` becomes `log.2`, and so on; `log` becomes `log.1`, or goes away when it is the only
    /// one: who reads it has it open.
    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        let lock = std::fs::File::from(self.dir.try_clone()?);
        lock.lock()?;
        self.remove(self.files_max - 1);
        for number in (1..self.files_max).rev() {
            for form in ["", COMPRESSED] {
                let (from, to) = (self.numbered(number - 1, form), self.numbered(number, form));
                // One that is not there yet fails, which is fine.
                let _ = self.rename(from, to);
            }
        }
        self.rotated = self.files_max > 1;
        let opened = self.open_newest();
        // The lock is the open file's, which we go on using.
        lock.unlock()?;
        opened
    }

    fn numbered(&self, number: u32, form: &str) -> String {
        match number {
            0 => format!("{}{form}", self.name),
            _ => format!("{}.{number}{form}", self.name),
        }
    }

    fn remove(&self, number: u32) {
        for form in ["", COMPRESSED] {
            if let Ok(name) = crate::c_string(self.numbered(number, form)) {
                // SAFETY: the name is NUL-terminated and outlives the call.
                unsafe { libc::unlinkat(self.dir.as_raw_fd(), name.as_ptr(), 0) };
            }
        }
    }

    fn rename(&self, from: String, to: String) -> io::Result<()> {
        let dir = self.dir.as_raw_fd();
        let (from, to) = (crate::c_string(from)?, crate::c_string(to)?);
        // SAFETY: both names are NUL-terminated and outlive the call.
        match unsafe { libc::renameat(dir, from.as_ptr(), dir, to.as_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Bytes of a file up to the end of its last whole line.
fn whole_lines(file: &std::fs::File, size: u64) -> io::Result<u64> {
    let mut piece = [0; TAIL_BYTES];
    let mut end = size;
    while end > 0 {
        let from = end.saturating_sub(TAIL_BYTES as u64);
        let piece = &mut piece[..usize::try_from(end - from).unwrap_or(TAIL_BYTES)];
        file.read_exact_at(piece, from)?;
        if let Some(at) = piece.iter().rposition(|&byte| byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

/// What follows the text of a line.
fn tail(stream: Stream, attributes: &[u8], at_ns: i64) -> Vec<u8> {
    let mut tail = b"\",\"stream\":\"".to_vec();
    tail.extend_from_slice(stream.name().as_bytes());
    tail.push(b'"');
    tail.extend_from_slice(attributes);
    tail.extend_from_slice(b",\"time\":\"");
    tail.extend_from_slice(rfc3339(at_ns).as_bytes());
    tail.extend_from_slice(b"\"}\n");
    tail
}

fn is_plain(byte: u8) -> bool {
    (0x20..0x80).contains(&byte) && !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&')
}

/// Escapes as Go's JSON encoder does with HTML in mind.
fn escape(to: &mut Vec<u8>, mut bytes: &[u8]) {
    loop {
        let plain = find(bytes, |byte| !is_plain(byte)).unwrap_or(bytes.len());
        to.extend_from_slice(&bytes[..plain]);
        bytes = &bytes[plain..];
        let Some(&byte) = bytes.first() else { return };
        let special = if byte < 0x80 {
            escape_ascii(to, byte);
            1
        } else {
            // A sequence of bytes never goes on over one below 0x80.
            let end = bytes.iter().position(|&byte| byte < 0x80);
            let end = end.unwrap_or(bytes.len());
            escape_others(to, &bytes[..end]);
            end
        };
        bytes = &bytes[special..];
    }
}

fn escape_ascii(to: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' | b'\\' => to.extend_from_slice(&[b'\\', byte]),
        b'\n' => to.extend_from_slice(b"\\n"),
        b'\r' => to.extend_from_slice(b"\\r"),
        _ => {
            to.extend_from_slice(b"\\u00");
            to.push(HEX[usize::from(byte >> 4)]);
            to.push(HEX[usize::from(byte & 15)]);
        }
    }
}

fn escape_others(to: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
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
        let long = "0123456789".repeat(7);
        check(
            format!("{long}\t{long}").as_bytes(),
            &format!("{long}\\u0009{long}"),
        );
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

    #[test]
    fn a_torn_line_is_no_whole_one() {
        let path = std::env::temp_dir().join(format!("hull-shim-log-{}", std::process::id()));
        let check = |text: &str, whole: usize| {
            std::fs::write(&path, text).unwrap();
            let file = std::fs::File::open(&path).unwrap();
            let found = whole_lines(&file, text.len() as u64).unwrap();
            assert_eq!(found, whole as u64, "{}", text.len());
        };
        check("", 0);
        check("torn", 0);
        check("whole\n", 6);
        check("whole\ntorn", 6);
        check(&format!("whole\n{}", "x".repeat(3000)), 6);
        check(&format!("{}\n", "x".repeat(3000)), 3001);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn attributes_stand_before_the_time() {
        let tail = tail(Stream::Stderr, b",\"attrs\":{\"a\":\"b\"}", 0);
        assert_eq!(
            String::from_utf8(tail).unwrap(),
            "\",\"stream\":\"stderr\",\"attrs\":{\"a\":\"b\"},\"time\":\"1970-01-01T00:00:00Z\"}\n"
        );
    }
}
