//! The files of a log: which there are, in which order, and what became of one that was open.
//!
//! The shim writes `log`; when that is full it becomes `log.1`, what was `log.1` becomes `log.2`,
//! and so on. We compress `log.1` to `log.1.gz` where that was asked for. So a name says nothing
//! for long: a file is known by its inode and the time that made it (a number alone is used again as
//! soon as a compressed file's original is gone), which a compressed one has in its header. A lock on the
//! directory, held for a few system calls, keeps the shim's renames and our look at them apart.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs::{DirEntry, File, Metadata, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use flate2::bufread::MultiGzDecoder;
use flate2::{Compression, GzBuilder};
use memchr::memrchr_iter;

use super::lines::LogLines;

/// Bytes that are read and parsed at once.
const CHUNK_BYTES: usize = 128 << 10;
/// A log line longer than this is damage: the shim cuts at 16 KiB, which escaping makes six times
/// longer at most.
const LINE_BYTES_MAX: usize = 1 << 20;
/// What is behind the name of a compressed file.
const COMPRESSED: &str = ".gz";

/// What a file is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    inode: u64,
    /// Nanoseconds since the epoch; 0 where the file system does not know it.
    born_ns: u64,
}

impl Identity {
    fn of(file: &Metadata) -> Identity {
        let born = file.created().ok();
        let since = born.and_then(|born| born.duration_since(SystemTime::UNIX_EPOCH).ok());
        let born_ns = since.and_then(|since| u64::try_from(since.as_nanos()).ok());
        Identity {
            inode: file.ino(),
            born_ns: born_ns.unwrap_or_default(),
        }
    }

    fn to_bytes(self) -> Vec<u8> {
        [self.inode.to_le_bytes(), self.born_ns.to_le_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Identity> {
        let (inode, born_ns) = bytes.split_at_checked(8)?;
        Some(Identity {
            inode: u64::from_le_bytes(inode.try_into().ok()?),
            born_ns: u64::from_le_bytes(born_ns.try_into().ok()?),
        })
    }
}

/// One file of a log, open.
#[derive(Debug)]
pub(super) struct Part {
    file: File,
    identity: Identity,
    packed: bool,
}

/// All files of a log, the oldest first.
pub(super) fn all(path: &Path) -> io::Result<VecDeque<Part>> {
    let _names = lock_names(path)?;
    let mut parts = VecDeque::new();
    for number in numbers(path)? {
        let plain = numbered(path, number);
        let part = match File::open(&plain) {
            Ok(file) => Part::plain(file)?,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => Part::packed(File::open(packed(&plain))?)?,
        };
        parts.push_front(part);
    }
    Ok(parts)
}

/// The numbers that there are, smallest first. Not every one: a shim that was killed between two of
/// its renames has left one out.
fn numbers(path: &Path) -> io::Result<BTreeSet<u32>> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let number = |entry: io::Result<DirEntry>| {
        let found = entry.ok()?.file_name();
        let rest = found.to_str()?.strip_prefix(name)?;
        match rest.strip_suffix(COMPRESSED).unwrap_or(rest) {
            "" => Some(0),
            numbered => numbered.strip_prefix('.')?.parse().ok(),
        }
    };
    Ok(std::fs::read_dir(directory)?.filter_map(number).collect())
}

/// The files that are newer than one that was open.
fn newer_than(path: &Path, identity: Identity) -> io::Result<VecDeque<Part>> {
    let mut parts = all(path)?;
    // When it is gone, what is there is newer.
    if let Some(at) = parts.iter().position(|part| part.identity == identity) {
        parts.drain(..=at);
    }
    Ok(parts)
}

/// The files from which on `tail` lines are left, and how many lines to leave out of the first.
pub(super) fn tail(path: &Path, tail: Option<u64>) -> io::Result<(VecDeque<Part>, u64)> {
    let mut parts = all(path)?;
    let Some(mut left) = tail else {
        return Ok((parts, 0));
    };
    let mut wanted = VecDeque::new();
    while let Some(mut part) = parts.pop_back() {
        if part.packed {
            let lines = part.count_lines()?;
            wanted.push_front(part);
            if lines >= left {
                return Ok((wanted, lines - left));
            }
            left -= lines;
            continue;
        }
        let found = part.seek_tail(left)?;
        wanted.push_front(part);
        if found >= left {
            return Ok((wanted, 0));
        }
        left -= found;
    }
    Ok((wanted, 0))
}

impl Part {
    fn plain(file: File) -> io::Result<Part> {
        let identity = Identity::of(&file.metadata()?);
        Ok(Part {
            file,
            identity,
            packed: false,
        })
    }

    fn packed(mut file: File) -> io::Result<Part> {
        let header = MultiGzDecoder::new(BufReader::new(&file));
        let extra = header.header().and_then(|header| header.extra());
        // One that somebody else compressed is known by its own.
        let identity = match extra.and_then(Identity::from_bytes) {
            Some(identity) => identity,
            None => Identity::of(&file.metadata()?),
        };
        file.rewind()?;
        Ok(Part {
            file,
            identity,
            packed: true,
        })
    }

    fn count_lines(&mut self) -> io::Result<u64> {
        let mut cursor = Cursor::open(self.try_clone()?, false)?;
        let mut lines = 0;
        while let Some(chunk) = cursor.next_lines()? {
            lines += chunk.iter().count() as u64;
        }
        self.file.rewind()?;
        Ok(lines)
    }

    fn try_clone(&self) -> io::Result<Part> {
        Ok(Part {
            file: self.file.try_clone()?,
            ..*self
        })
    }

    /// Positions a file before its last `lines` lines; returns how many there are, at most that
    /// many.
    fn seek_tail(&mut self, lines: u64) -> io::Result<u64> {
        let file = &mut self.file;
        let length = file.metadata()?.len();
        if lines == 0 {
            file.seek(SeekFrom::Start(length))?;
            return Ok(0);
        }
        let mut end = length;
        let mut found = 0;
        let mut block = vec![0u8; 64 << 10];
        while end > 0 {
            let start = end.saturating_sub(block.len() as u64);
            let size = usize::try_from(end - start).unwrap_or(block.len());
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(&mut block[..size])?;
            for at in memrchr_iter(b'\n', &block[..size]) {
                // The line end at the very end of the file closes the last line, it opens none.
                if start + at as u64 + 1 != length {
                    found += 1;
                    if found == lines {
                        file.seek(SeekFrom::Start(start + at as u64 + 1))?;
                        return Ok(found);
                    }
                }
            }
            end = start;
        }
        file.rewind()?;
        Ok(if length > 0 { found + 1 } else { 0 })
    }
}

enum Source {
    Plain(Take<File>),
    Packed(Box<MultiGzDecoder<BufReader<File>>>),
}

/// A place in one file.
pub(super) struct Cursor {
    source: Source,
    identity: Identity,
    /// The start of a line whose end is not written yet.
    carry: Vec<u8>,
}

impl Cursor {
    /// Begins where the file is positioned. Without `growing` it ends where the file ends now.
    pub(super) fn open(part: Part, growing: bool) -> io::Result<Cursor> {
        let identity = part.identity;
        let mut file = part.file;
        let source = if part.packed {
            Source::Packed(Box::new(MultiGzDecoder::new(BufReader::new(file))))
        } else {
            let limit = match growing {
                true => u64::MAX,
                false => {
                    let length = file.metadata()?.len();
                    length.saturating_sub(file.stream_position()?)
                }
            };
            Source::Plain(file.take(limit))
        };
        Ok(Cursor {
            source,
            identity,
            carry: Vec::new(),
        })
    }

    /// Whole lines of the next chunk; none at the end of what is there now.
    pub(super) fn next_lines(&mut self) -> io::Result<Option<LogLines>> {
        loop {
            let old = self.carry.len();
            self.carry.reserve(CHUNK_BYTES);
            let limit = CHUNK_BYTES as u64;
            let read = match &mut self.source {
                Source::Plain(file) => file.take(limit).read_to_end(&mut self.carry)?,
                Source::Packed(file) => file.take(limit).read_to_end(&mut self.carry)?,
            };
            if read == 0 {
                return Ok(None);
            }
            let Some(end) = memchr::memrchr(b'\n', &self.carry[old..]) else {
                if self.carry.len() > LINE_BYTES_MAX {
                    self.carry.clear();
                }
                continue;
            };
            let rest = self.carry.split_off(old + end + 1);
            let whole = std::mem::replace(&mut self.carry, rest);
            return Ok(Some(LogLines::parse(whole)));
        }
    }

    /// Goes on in the next file when this one is read out and was rotated away.
    pub(super) fn next_lines_of(&mut self, path: &Path) -> io::Result<Option<LogLines>> {
        loop {
            if let Some(lines) = self.next_lines()? {
                return Ok(Some(lines));
            }
            let Some(next) = newer_than(path, self.identity)?.pop_front() else {
                return Ok(None);
            };
            // Between our last look and its rotation it may have grown.
            if let Some(lines) = self.next_lines()? {
                return Ok(Some(lines));
            }
            *self = Cursor::open(next, true)?;
        }
    }
}

/// Compresses all files that are not written any more. A second call at the same time leaves it to
/// the first.
pub(crate) fn compress(path: &Path) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz.part");
    let target = PathBuf::from(name);
    // Others may become full meanwhile; the lock goes with the name.
    while let Some(file) = lock_target(&target)? {
        let Some(plain) = oldest_plain(path)? else {
            hull_os::durable::remove_if_exists(&target)?;
            break;
        };
        file.set_len(0)?;
        let identity = Identity::of(&plain.metadata()?);
        pack(plain, &file, identity)?;
        put_in_place(path, identity, &target)?;
    }
    Ok(())
}

/// The file that is filled, ours alone; none while somebody else fills it.
fn lock_target(target: &Path) -> io::Result<Option<File>> {
    loop {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(target)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Since we opened it, whoever had it may have taken it away or made it a file of the log.
        let ours = Identity::of(&file.metadata()?);
        if target
            .metadata()
            .is_ok_and(|named| Identity::of(&named) == ours)
        {
            return Ok(Some(file));
        }
    }
}

/// The oldest file that is neither compressed nor written any more.
fn oldest_plain(path: &Path) -> io::Result<Option<File>> {
    let full = numbers(path)?
        .into_iter()
        .rev()
        .filter(|&number| number > 0);
    Ok(full
        .filter_map(|number| File::open(numbered(path, number)).ok())
        .next())
}

fn pack(mut plain: File, to: &File, identity: Identity) -> io::Result<()> {
    let mut packed = GzBuilder::new()
        .extra(identity.to_bytes())
        .write(to, Compression::fast());
    io::copy(&mut plain, &mut packed)?;
    packed.finish().map(drop)
}

/// Gives the compressed file the name of the plain one, wherever that is by now.
fn put_in_place(path: &Path, identity: Identity, target: &Path) -> io::Result<()> {
    let _names = lock_names(path)?;
    for number in numbers(path)?.into_iter().filter(|&number| number > 0) {
        let plain = numbered(path, number);
        let found = plain
            .metadata()
            .is_ok_and(|facts| Identity::of(&facts) == identity);
        if found {
            // A log's files are not worth a sync: after a power cut the plain one is still there,
            // or both are.
            #[expect(clippy::disallowed_methods, reason = "not durable, on purpose")]
            std::fs::rename(target, packed(&plain))?;
            return std::fs::remove_file(plain);
        }
    }
    // It was so old that the shim took it away.
    std::fs::remove_file(target)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn packed(plain: &Path) -> PathBuf {
    let mut name = plain.as_os_str().to_owned();
    name.push(COMPRESSED);
    PathBuf::from(name)
}

/// Holds the names of a log's directory as they are.
fn lock_names(path: &Path) -> io::Result<File> {
    let directory = File::open(path.parent().unwrap_or(Path::new("/")))?;
    directory.lock()?;
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    struct Log {
        directory: PathBuf,
        path: PathBuf,
    }

    impl Log {
        fn new(name: &str) -> Log {
            let directory =
                std::env::temp_dir().join(format!("hull-log-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&directory).expect("directory");
            let path = directory.join("log");
            Log { directory, path }
        }

        fn write(&self, number: u32, lines: std::ops::Range<u32>) {
            let text: String = lines
                .map(|n| format!("{{\"log\":\"{n}\\n\",\"stream\":\"stdout\",\"time\":\"T\"}}\n"))
                .collect();
            std::fs::write(numbered(&self.path, number), text).expect("write");
        }

        /// As the shim does.
        fn rotate(&self) {
            for number in (0..4).rev() {
                self.shift(number);
            }
        }

        #[expect(clippy::disallowed_methods, reason = "as the shim does")]
        fn shift(&self, number: u32) {
            let (from, to) = (
                numbered(&self.path, number),
                numbered(&self.path, number + 1),
            );
            std::fs::rename(packed(&from), packed(&to)).ok();
            std::fs::rename(from, to).ok();
        }

        fn texts(&self, last: Option<u64>) -> Vec<String> {
            let (parts, mut skip) = tail(&self.path, last).expect("open");
            let mut all = Vec::new();
            for part in parts {
                let mut cursor = Cursor::open(part, false).expect("cursor");
                while let Some(mut lines) = cursor.next_lines().expect("read") {
                    skip -= lines.skip(skip);
                    all.extend(texts(&lines));
                }
            }
            all
        }
    }

    impl Drop for Log {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.directory).ok();
        }
    }

    fn texts(lines: &LogLines) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        lines.iter().map(|line| text(line.text)).collect()
    }

    #[test]
    fn tail_counts_over_rotated_files_compressed_or_not() {
        let log = Log::new("tail");
        log.write(2, 0..4);
        log.write(1, 4..10);
        log.write(0, 10..15);
        for compressed in [false, true] {
            if compressed {
                compress(&log.path).expect("compress");
                assert!(
                    !numbered(&log.path, 1).exists() && packed(&numbered(&log.path, 2)).exists()
                );
            }
            for (tail, first, count) in [
                (Some(2), "13", 2),
                (Some(5), "10", 5),
                (Some(7), "8", 7),
                (Some(12), "3", 12),
                (None, "0", 15),
                (Some(99), "0", 15),
            ] {
                let lines = log.texts(tail);
                assert_eq!((lines.len(), lines[0].as_str()), (count, first), "{tail:?}");
            }
            assert!(log.texts(Some(0)).is_empty());
        }
    }

    #[test]
    fn a_number_that_is_left_out_hides_nothing() {
        let log = Log::new("gap");
        log.write(5, 0..4);
        log.write(3, 4..10);
        log.write(0, 10..15);
        for _ in 0..2 {
            assert_eq!(log.texts(None).len(), 15);
            assert_eq!(log.texts(Some(12))[0], "3");
            compress(&log.path).expect("compress");
            assert!(packed(&numbered(&log.path, 5)).exists());
        }
    }

    #[test]
    fn compressing_at_the_same_time_hides_no_file() {
        let log = Log::new("together");
        log.write(0, 0..1);
        let rotated = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while rotated.load(Relaxed) < 60 {
                        compress(&log.path).expect("compress");
                    }
                });
            }
            scope.spawn(|| {
                for number in 1..=60 {
                    let names = lock_names(&log.path).expect("lock");
                    (0..number).rev().for_each(|from| log.shift(from));
                    log.write(0, number..number + 1);
                    drop(names);
                    rotated.store(number, Relaxed);
                }
            });
            while rotated.load(Relaxed) < 60 {
                let lines = log.texts(None);
                let expected: Vec<String> = (0..lines.len()).map(|n| n.to_string()).collect();
                assert_eq!(lines, expected);
            }
        });
        assert_eq!(log.texts(None).len(), 61);
    }

    #[test]
    fn a_cursor_goes_on_over_rotations_and_compression() {
        let log = Log::new("follow");
        log.write(0, 0..2);
        let part = all(&log.path).expect("open").pop_front().expect("one");
        let mut cursor = Cursor::open(part, true).expect("cursor");
        let mut read = |seen: &mut Vec<String>| {
            while let Some(lines) = cursor.next_lines_of(&log.path).expect("read") {
                seen.extend(texts(&lines));
            }
        };
        let mut seen = Vec::new();
        read(&mut seen);
        assert_eq!(seen, ["0", "1"]);
        // Rotations between two looks, and compression of what was read and of what was not.
        for (from, compressed) in [(2, true), (4, false), (6, true), (8, false)] {
            log.rotate();
            log.write(0, from..from + 2);
            if compressed {
                compress(&log.path).expect("compress");
            }
        }
        read(&mut seen);
        let expected: Vec<String> = (0..10).map(|n| n.to_string()).collect();
        assert_eq!(seen, expected);
    }
}
