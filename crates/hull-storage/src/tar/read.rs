//! Reads entries one after the other, with their data as slices of the input's own buffer.

use std::io::{self, BufRead};
use std::ops::Range;

use super::{
    BLOCK_BYTES, ENTRY_BYTES_MAX, EXTENSION_BYTES_MAX, SPARSE_SEGMENTS_MAX, TarFault, Timestamp,
};
use crate::error::{Error, Result};

type Block = [u8; BLOCK_BYTES];

// Where the fields lie in a header.
const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MODIFIED: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..263;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
const GNU_SPARSE: Range<usize> = 386..482;
const GNU_SPARSE_MORE: usize = 482;
const GNU_REAL_SIZE: Range<usize> = 483..495;
// An extension block of an old GNU sparse map: 21 pairs, then whether another block follows.
const GNU_EXTENSION_SPARSE: Range<usize> = 0..504;
const GNU_EXTENSION_MORE: usize = 504;

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// Another name of the file with this name in the archive.
    HardLink(Vec<u8>),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// What the headers say about one entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name, as written in the archive: neither normalised nor safe.
    pub path: Vec<u8>,
    /// What it makes.
    pub kind: EntryKind,
    /// Permissions, 12 bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change.
    pub modified: Timestamp,
    /// Size of a file's contents, holes included; 0 for all else.
    pub size: u64,
    /// Extended attributes with their full names.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A piece of a file's contents.
#[derive(Debug, Clone, Copy)]
struct Segment {
    offset: u64,
    len: u64,
}

/// Reads an archive from its start to its end.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Bytes taken from the input so far.
    offset: u64,
    /// Bytes of the input's buffer that were handed out and are consumed at the next call.
    lent: usize,
    /// Pieces of the current entry that still come, and the one that is being read.
    segments: std::vec::IntoIter<Segment>,
    current: Segment,
    /// Bytes of the current entry, with padding, not yet taken from the input.
    stored: u64,
}

/// What the headers before the real one said.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<Timestamp>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

/// The PAX dialects of sparse files: 0.0 repeats offset and numbytes, 0.1 has one `map`, 1.0 puts
/// the map in front of the data.
#[derive(Debug, Default)]
struct PaxSparse {
    major: u64,
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
    numbers: Vec<u64>,
    mapped: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads from the start of an uncompressed archive.
    pub fn new(input: R) -> Self {
        let current = Segment { offset: 0, len: 0 };
        Self {
            input,
            offset: 0,
            lent: 0,
            segments: Vec::new().into_iter(),
            current,
            stored: 0,
        }
    }

    /// Goes to the next entry; what is left of the current one's data is skipped.
    ///
    /// # Errors
    /// `InvalidArgument` when the archive is malformed.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        self.skip_data()?;
        let mut extensions = Extensions::default();
        loop {
            let start = self.offset;
            let fault = |cause| Error::Tar {
                offset: start,
                cause,
            };
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            match header[TYPE] {
                b'x' => {
                    let records = self.extension(&header, start)?;
                    // One header counts, or a stream of them would fill the memory.
                    let (path, link) = (extensions.path.take(), extensions.link.take());
                    extensions = Extensions {
                        path,
                        link,
                        ..Extensions::default()
                    };
                    extensions.parse_pax(&records).map_err(fault)?;
                }
                b'L' => extensions.path = Some(until_nul(&self.extension(&header, start)?)),
                b'K' => extensions.link = Some(until_nul(&self.extension(&header, start)?)),
                // Global headers and volume labels.
                b'g' | b'V' => {
                    let size = number(&header[SIZE], "size").map_err(fault)?;
                    self.stored = padded(size).map_err(fault)?;
                    self.skip_data()?;
                }
                _ => return self.entry(&header, &extensions, start).map(Some),
            }
        }
    }

    /// Bytes of the archive before what comes next: right after an entry, before its contents.
    pub fn position(&self) -> u64 {
        self.offset + self.lent as u64
    }

    /// The next piece of the current file's contents and where it lies in the file.
    ///
    /// Pieces come in ascending order; what lies between them is zero.
    pub fn next_data(&mut self) -> Result<Option<(u64, &[u8])>> {
        self.lend(u64::MAX)
    }

    fn lend(&mut self, max: u64) -> Result<Option<(u64, &[u8])>> {
        self.give_back();
        while self.current.len == 0 {
            match self.segments.next() {
                Some(segment) => self.current = segment,
                None => return Ok(None),
            }
        }
        let start = self.offset;
        let available = fill(&mut self.input)?;
        if available.is_empty() {
            return Err(Error::Tar {
                offset: start,
                cause: TarFault::Truncated,
            });
        }
        let len = self.current.len.min(available.len() as u64).min(max);
        let at = self.current.offset;
        self.current.offset += len;
        self.current.len -= len;
        self.stored -= len;
        self.lent = len as usize;
        Ok(Some((at, &available[..len as usize])))
    }

    /// What it reads from; what comes next there is known to the reader only.
    pub(crate) fn input_mut(&mut self) -> &mut R {
        &mut self.input
    }

    /// The input after the archive's end or in the middle of it.
    pub fn into_inner(mut self) -> R {
        self.give_back();
        self.input
    }

    /// The whole contents of the current file, which may have at most `max` bytes.
    pub fn read_data(&mut self, max: u64, what: &'static str) -> Result<Vec<u8>> {
        let mut contents = Vec::new();
        while let Some((offset, bytes)) = self.next_data()? {
            let end = offset + bytes.len() as u64;
            if end > max {
                return Err(Error::Limit {
                    what,
                    limit: max,
                    unit: "bytes",
                });
            }
            contents.resize(offset as usize, 0);
            contents.extend_from_slice(bytes);
        }
        Ok(contents)
    }

    /// The contents of the current file as a stream, holes included.
    pub fn data(&mut self) -> Data<'_, R> {
        Data {
            reader: self,
            position: 0,
        }
    }

    fn give_back(&mut self) {
        self.input.consume(self.lent);
        self.offset += self.lent as u64;
        self.lent = 0;
    }

    /// Skips what is left of the current entry.
    fn skip_data(&mut self) -> Result<()> {
        self.give_back();
        self.segments = Vec::new().into_iter();
        self.current.len = 0;
        while self.stored > 0 {
            let available = fill(&mut self.input)?.len() as u64;
            if available == 0 {
                return Err(Error::Tar {
                    offset: self.offset,
                    cause: TarFault::Truncated,
                });
            }
            let len = available.min(self.stored);
            self.input.consume(len as usize);
            self.offset += len;
            self.stored -= len;
        }
        Ok(())
    }

    /// The next header, checked; none at the end of the archive.
    fn header(&mut self) -> Result<Option<Block>> {
        let offset = self.offset;
        let Some(header) = self.block()? else {
            return Ok(None);
        };
        if header.iter().all(|&byte| byte == 0) {
            return match self.block()? {
                Some(second) if second.iter().any(|&byte| byte != 0) => Err(Error::Tar {
                    offset,
                    cause: TarFault::LoneZeroBlock,
                }),
                _ => Ok(None),
            };
        }
        check_sum(&header).map_err(|cause| Error::Tar { offset, cause })?;
        Ok(Some(header))
    }

    /// One block; none when the input ends before it.
    fn block(&mut self) -> Result<Option<Block>> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            let available = fill(&mut self.input)?;
            if available.is_empty() {
                if filled == 0 {
                    return Ok(None);
                }
                return Err(Error::Tar {
                    offset: self.offset,
                    cause: TarFault::Truncated,
                });
            }
            let len = available.len().min(BLOCK_BYTES - filled);
            block[filled..filled + len].copy_from_slice(&available[..len]);
            self.input.consume(len);
            self.offset += len as u64;
            filled += len;
        }
        Ok(Some(block))
    }

    /// The data of a header that extends the next one.
    fn extension(&mut self, header: &Block, start: u64) -> Result<Vec<u8>> {
        let fault = |cause| Error::Tar {
            offset: start,
            cause,
        };
        let size = number(&header[SIZE], "size").map_err(fault)?;
        if size > EXTENSION_BYTES_MAX {
            return Err(fault(TarFault::ExtensionTooLarge));
        }
        self.expect_data(
            vec![Segment {
                offset: 0,
                len: size,
            }],
            size,
        )
        .map_err(fault)?;
        let data = self.read_data(EXTENSION_BYTES_MAX, "extended header")?;
        self.skip_data()?;
        Ok(data)
    }

    fn expect_data(&mut self, segments: Vec<Segment>, stored: u64) -> Result<(), TarFault> {
        self.stored = padded(stored)?;
        self.segments = segments.into_iter();
        self.current.len = 0;
        Ok(())
    }

    fn entry(&mut self, header: &Block, extensions: &Extensions, start: u64) -> Result<Entry> {
        let fault = |cause| Error::Tar {
            offset: start,
            cause,
        };
        let stored = match extensions.size {
            Some(size) => size,
            None => number(&header[SIZE], "size").map_err(fault)?,
        };
        let sparse = header[TYPE] == b'S';
        let mut entry = extensions.describe(header).map_err(fault)?;
        let is_data = matches!(entry.kind, EntryKind::File) || header[TYPE] == b'D';
        if !is_data {
            // As Docker's reader does: these have no data, whatever the size says.
            self.expect_data(Vec::new(), 0).map_err(fault)?;
            return Ok(entry);
        }
        entry.size = stored;
        let mut segments = vec![Segment {
            offset: 0,
            len: stored,
        }];
        if sparse {
            entry.size = number(&header[GNU_REAL_SIZE], "realsize").map_err(fault)?;
            let numbers = self.gnu_sparse_map(header, start)?;
            segments = segments_of(&numbers, entry.size, stored).map_err(fault)?;
            self.expect_data(segments, stored).map_err(fault)?;
        } else if extensions.sparse.major == 1 {
            entry.size = extensions.sparse.real_size.unwrap_or(stored);
            self.expect_data(Vec::new(), stored).map_err(fault)?;
            let (numbers, map_bytes) = self.leading_sparse_map(start)?;
            segments = segments_of(&numbers, entry.size, stored - map_bytes).map_err(fault)?;
            self.segments = segments.into_iter();
        } else if extensions.sparse.mapped {
            entry.size = extensions.sparse.real_size.unwrap_or(stored);
            segments =
                segments_of(&extensions.sparse.numbers, entry.size, stored).map_err(fault)?;
            self.expect_data(segments, stored).map_err(fault)?;
        } else {
            self.expect_data(segments, stored).map_err(fault)?;
        }
        if header[TYPE] == b'D' {
            entry.size = 0;
        }
        Ok(entry)
    }

    /// The map of an old GNU sparse file: four pairs in the header, the rest in blocks behind it.
    fn gnu_sparse_map(&mut self, header: &Block, start: u64) -> Result<Vec<u64>> {
        let fault = |cause| Error::Tar {
            offset: start,
            cause,
        };
        let mut numbers = Vec::new();
        let mut pairs = &header[GNU_SPARSE];
        let mut more = header[GNU_SPARSE_MORE] != 0;
        let mut block;
        loop {
            for field in pairs.chunks_exact(12).take_while(|field| field[0] != 0) {
                numbers.push(number(field, "sparse map").map_err(fault)?);
            }
            if numbers.len() > 2 * SPARSE_SEGMENTS_MAX {
                return Err(fault(TarFault::SparseSegments));
            }
            if !more {
                return Ok(numbers);
            }
            block = self.block()?.ok_or_else(|| fault(TarFault::Truncated))?;
            pairs = &block[GNU_EXTENSION_SPARSE];
            more = block[GNU_EXTENSION_MORE] != 0;
        }
    }

    /// The map of a sparse file of format 1.0: decimal lines in the first blocks of its data.
    fn leading_sparse_map(&mut self, start: u64) -> Result<(Vec<u64>, u64)> {
        let fault = |cause| Error::Tar {
            offset: start,
            cause,
        };
        let mut numbers = Vec::new();
        let mut count = None;
        let mut line: Option<u64> = None;
        let mut map_bytes = 0;
        loop {
            if self.stored == 0 {
                return Err(fault(TarFault::SparseMap));
            }
            let block = self.block()?.ok_or_else(|| fault(TarFault::Truncated))?;
            self.stored -= BLOCK_BYTES as u64;
            map_bytes += BLOCK_BYTES as u64;
            for &byte in &block {
                match (byte, line) {
                    (b'0'..=b'9', _) => {
                        let digit = u64::from(byte - b'0');
                        let value = line.unwrap_or(0).checked_mul(10);
                        let value = value.and_then(|value| value.checked_add(digit));
                        line = Some(value.ok_or_else(|| fault(TarFault::SparseMap))?);
                    }
                    (b'\n', Some(value)) if count.is_none() => {
                        if value > SPARSE_SEGMENTS_MAX as u64 {
                            return Err(fault(TarFault::SparseSegments));
                        }
                        (count, line) = (Some(2 * value as usize), None);
                    }
                    (b'\n', Some(value)) => {
                        numbers.push(value);
                        line = None;
                    }
                    _ => return Err(fault(TarFault::SparseMap)),
                }
                if count == Some(numbers.len()) {
                    return Ok((numbers, map_bytes));
                }
            }
        }
    }
}

impl Extensions {
    /// Takes the records of one PAX header: `<length> <key>=<value>\n`.
    fn parse_pax(&mut self, mut records: &[u8]) -> Result<(), TarFault> {
        while !records.is_empty() {
            let space = records
                .iter()
                .position(|&b| b == b' ')
                .ok_or(TarFault::PaxRecord)?;
            let len = decimal(&records[..space]).ok_or(TarFault::PaxRecord)?;
            let len = usize::try_from(len).map_err(|_| TarFault::PaxRecord)?;
            if len <= space + 1 || len > records.len() || records[len - 1] != b'\n' {
                return Err(TarFault::PaxRecord);
            }
            let record = &records[space + 1..len - 1];
            let equals = record
                .iter()
                .position(|&b| b == b'=')
                .ok_or(TarFault::PaxRecord)?;
            self.apply(&record[..equals], &record[equals + 1..])?;
            records = &records[len..];
        }
        Ok(())
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarFault> {
        let size = || {
            decimal(value)
                .filter(|&size| size <= ENTRY_BYTES_MAX)
                .ok_or(TarFault::Number("size"))
        };
        let id = |field| {
            decimal(value)
                .and_then(|id| u32::try_from(id).ok())
                .ok_or(TarFault::Number(field))
        };
        match key {
            // An empty value takes back what an earlier header said.
            b"path" => self.path = Some(value.to_vec()).filter(|v| !v.is_empty()),
            b"linkpath" => self.link = Some(value.to_vec()).filter(|v| !v.is_empty()),
            _ if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") => {}
            b"size" => self.size = Some(size()?),
            b"uid" => self.uid = Some(id("uid")?),
            b"gid" => self.gid = Some(id("gid")?),
            b"mtime" => {
                self.modified = Some(pax_time(value).ok_or(TarFault::Number("mtime"))?);
            }
            b"GNU.sparse.major" => {
                self.sparse.major = decimal(value).ok_or(TarFault::SparseMap)?;
                if self.sparse.major > 1 {
                    return Err(TarFault::SparseMap);
                }
            }
            b"GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = Some(size()?);
            }
            b"GNU.sparse.numblocks" => self.sparse.mapped = true,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.push(value)?,
            b"GNU.sparse.map" => {
                self.sparse.mapped = true;
                value
                    .split(|&b| b == b',')
                    .try_for_each(|number| self.sparse.push(number))?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    /// Joins what the header says with what came before it.
    fn describe(&self, header: &Block) -> Result<Entry, TarFault> {
        let path = match (&self.sparse.name, &self.path) {
            (Some(name), _) | (None, Some(name)) => name.clone(),
            (None, None) => header_path(header),
        };
        let link = || {
            self.link
                .clone()
                .unwrap_or_else(|| until_nul(&header[LINK]))
        };
        let device = |field, what| {
            let value = number(field, what)?;
            u32::try_from(value).map_err(|_| TarFault::Number(what))
        };
        let kind = match header[TYPE] {
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink(link()),
            b'2' => EntryKind::Symlink(link()),
            b'3' | b'4' => {
                let major = device(&header[MAJOR], "devmajor")?;
                let minor = device(&header[MINOR], "devminor")?;
                if header[TYPE] == b'3' {
                    EntryKind::CharDevice { major, minor }
                } else {
                    EntryKind::BlockDevice { major, minor }
                }
            }
            b'5' | b'D' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(TarFault::Type(other as char)),
        };
        let id = |known: Option<u32>, field, what| match known {
            Some(id) => Ok(id),
            None => device(field, what),
        };
        let seconds = match self.modified {
            Some(_) => 0,
            None => signed_number(&header[MODIFIED], "mtime")?,
        };
        Ok(Entry {
            path,
            kind,
            mode: (signed_number(&header[MODE], "mode")? & 0o7777) as u16,
            uid: id(self.uid, &header[UID], "uid")?,
            gid: id(self.gid, &header[GID], "gid")?,
            modified: self.modified.unwrap_or(Timestamp { seconds, nanos: 0 }),
            size: 0,
            xattrs: self.xattrs.clone(),
        })
    }
}

impl PaxSparse {
    fn push(&mut self, number: &[u8]) -> Result<(), TarFault> {
        if self.numbers.len() >= 2 * SPARSE_SEGMENTS_MAX {
            return Err(TarFault::SparseSegments);
        }
        self.numbers
            .push(decimal(number).ok_or(TarFault::SparseMap)?);
        Ok(())
    }
}

/// The contents of a file of an archive; see [`Reader::data`].
#[derive(Debug)]
pub struct Data<'r, R> {
    reader: &'r mut Reader<R>,
    position: u64,
}

impl<R: BufRead> io::Read for Data<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.give_back();
        let reader = &mut *self.reader;
        while reader.current.len == 0 {
            match reader.segments.next() {
                Some(segment) => reader.current = segment,
                None => return Ok(0),
            }
        }
        let hole = reader.current.offset.saturating_sub(self.position);
        let len = if hole > 0 {
            let len = hole.min(buffer.len() as u64) as usize;
            buffer[..len].fill(0);
            len
        } else {
            let max = buffer.len() as u64;
            // The error is ours; whoever reads a stream wants one of theirs.
            reader
                .lend(max)
                .map_err(io::Error::other)?
                .map_or(0, |(_, bytes)| {
                    buffer[..bytes.len()].copy_from_slice(bytes);
                    bytes.len()
                })
        };
        self.position += len as u64;
        Ok(len)
    }
}

/// Whether these first bytes of a file are those of an uncompressed archive.
pub(crate) fn starts_archive(start: &[u8]) -> bool {
    let Ok(block) = Block::try_from(start) else {
        return false;
    };
    block.iter().all(|&byte| byte == 0) || check_sum(&block).is_ok()
}

/// Pairs of offset and length as segments; they must ascend, fit and account for all stored bytes.
fn segments_of(numbers: &[u64], size: u64, stored: u64) -> Result<Vec<Segment>, TarFault> {
    if !numbers.len().is_multiple_of(2) {
        return Err(TarFault::SparseMap);
    }
    let mut segments = Vec::with_capacity(numbers.len() / 2);
    let (mut end, mut total) = (0u64, 0u64);
    for pair in numbers.chunks_exact(2) {
        let (offset, len) = (pair[0], pair[1]);
        if offset < end {
            return Err(TarFault::SparseMap);
        }
        end = offset.checked_add(len).ok_or(TarFault::SparseMap)?;
        total += len;
        if end > size {
            return Err(TarFault::SparseMap);
        }
        segments.push(Segment { offset, len });
    }
    if total != stored {
        Err(TarFault::SparseMap)
    } else {
        Ok(segments)
    }
}

/// What the input has buffered, read anew when empty; empty at its end.
fn fill<R: BufRead>(input: &mut R) -> Result<&[u8]> {
    // A first call decides, a second one lends: the loop cannot return what it may have to retry.
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => {
                return Err(Error::Input {
                    what: "tar archive",
                    cause,
                });
            }
        }
    }
    input.fill_buf().map_err(|cause| Error::Input {
        what: "tar archive",
        cause,
    })
}

fn padded(size: u64) -> Result<u64, TarFault> {
    if size > ENTRY_BYTES_MAX {
        return Err(TarFault::Number("size"));
    }
    Ok(size.next_multiple_of(BLOCK_BYTES as u64))
}

/// The name in a plain header; only POSIX headers have a prefix, GNU keeps times there.
fn header_path(header: &Block) -> Vec<u8> {
    let name = until_nul(&header[NAME]);
    if &header[MAGIC] != b"ustar\0" || header[PREFIX][0] == 0 {
        return name;
    }
    let mut path = until_nul(&header[PREFIX]);
    path.push(b'/');
    path.extend_from_slice(&name);
    path
}

fn until_nul(field: &[u8]) -> Vec<u8> {
    field.split(|&b| b == 0).next().unwrap_or_default().to_vec()
}

/// The sum of all bytes with the field itself as spaces; old writers summed signed bytes.
fn check_sum(header: &Block) -> Result<(), TarFault> {
    let claimed = number(&header[CHECKSUM], "checksum").map_err(|_| TarFault::Checksum)?;
    let byte = |(at, &byte): (usize, &u8)| if CHECKSUM.contains(&at) { b' ' } else { byte };
    let unsigned: u64 = header.iter().enumerate().map(byte).map(u64::from).sum();
    let signed: i64 = header
        .iter()
        .enumerate()
        .map(byte)
        .map(|b| i64::from(b as i8))
        .sum();
    if claimed == unsigned || i64::try_from(claimed) == Ok(signed) {
        Ok(())
    } else {
        Err(TarFault::Checksum)
    }
}

fn number(field: &[u8], what: &'static str) -> Result<u64, TarFault> {
    u64::try_from(signed_number(field, what)?).map_err(|_| TarFault::Number(what))
}

/// A number of a header: octal digits between blanks, or base 256 when the first bit is set.
fn signed_number(field: &[u8], what: &'static str) -> Result<i64, TarFault> {
    let fault = TarFault::Number(what);
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative {
            field[0] | 0x80
        } else {
            field[0] & 0x7f
        };
        let start = if negative { -1i64 } else { 0 };
        return std::iter::once(&first)
            .chain(&field[1..])
            .try_fold(start, |value, &byte| {
                value
                    .checked_mul(256)
                    .and_then(|value| value.checked_add(byte.into()))
                    .ok_or(fault)
            });
    }
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let digits = field
        .iter()
        .skip_while(|b| blank(b))
        .take_while(|b| !blank(b));
    digits.copied().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value
            .checked_mul(8)
            .and_then(|v| v.checked_add((digit - b'0').into()))
            .ok_or(fault),
        _ => Err(fault),
    })
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A PAX time: decimal seconds with an optional sign and fraction, rounded down.
fn pax_time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |&b| b == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction
        .iter()
        .copied()
        .chain(std::iter::repeat(b'0'))
        .take(9);
    let nanos = digits.fold(0u32, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    Some(match (negative, nanos) {
        (false, _) => Timestamp { seconds, nanos },
        (true, 0) => Timestamp {
            seconds: -seconds,
            nanos,
        },
        (true, _) => Timestamp {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        let check = |field: &[u8], expected| assert_eq!(signed_number(field, "n"), expected);
        check(b"0000644\0", Ok(0o644));
        check(b"   755 \0", Ok(0o755));
        check(b"\0\0\0\0\0\0\0\0", Ok(0));
        check(b"\x80\0\0\0\0\0\0\x01\0\0\0\0", Ok(1 << 32));
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff", Ok(-1));
        check(b"\xff\xff\xff\xff\xff\xff\xff\x00", Ok(-256));
        check(
            b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            Err(TarFault::Number("n")),
        );
        check(b"12x4567\0", Err(TarFault::Number("n")));
    }

    #[test]
    fn pax_times_round_down() {
        let check = |text: &str, seconds, nanos| {
            assert_eq!(
                pax_time(text.as_bytes()),
                Some(Timestamp { seconds, nanos }),
                "{text}"
            );
        };
        check("12", 12, 0);
        check("12.5", 12, 500_000_000);
        check("12.1234567899", 12, 123_456_789);
        check("-1", -1, 0);
        check("-1.25", -2, 750_000_000);
        for bad in ["", "-", "1.x", "x", "99999999999999999999"] {
            assert_eq!(pax_time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_map_must_ascend_and_account_for_every_byte() {
        assert!(segments_of(&[0, 512, 4096, 10], 5000, 522).is_ok());
        for (numbers, size, stored) in [
            (&[0u64, 512, 100, 10][..], 5000, 522),
            (&[0, 512][..], 100, 512),
            (&[0, 512][..], 512, 511),
            (&[0][..], 512, 0),
            (&[u64::MAX, 2][..], 512, 2),
        ] {
            let fault = segments_of(numbers, size, stored).map(|_| ());
            assert_eq!(fault, Err(TarFault::SparseMap), "{numbers:?}");
        }
    }

    #[test]
    fn pax_records_need_right_lengths() {
        for bad in [
            "5 a=", "3 a=b\n", "99 a=b\n", "x a=b\n", "7 aaaa\n", "6 a=b\n ",
        ] {
            let fault = Extensions::default().parse_pax(bad.as_bytes());
            assert_eq!(fault, Err(TarFault::PaxRecord), "{bad:?}");
        }
        let mut extensions = Extensions::default();
        extensions
            .parse_pax(b"27 SCHILY.xattr.user.a=x\ny\n11 path=ab\n")
            .unwrap();
        assert_eq!(extensions.xattrs, [(b"user.a".to_vec(), b"x\ny".to_vec())]);
        assert_eq!(extensions.path.as_deref(), Some(&b"ab"[..]));
    }
}
