//! A plain tar without the contents that the layer's image has already: stored once, given twice.
//!
//! ```text
//! tar      | header | contents of a | padding, header | contents of b | ... | zeros |
//! split    | header |  at 4096, 9 k | padding, header | at 16384, 700 | ... | zeros |   compressed
//! image                    ^-------------------------------^ where the contents lie
//! ```
//!
//! Whatever is not the contents of a file that was written to the image is kept as it came, so the
//! tar comes out to the byte whoever made it: sparse files, names that came twice, notes of old
//! file systems. What comes out is hashed and its end withheld unless it is the tar that it was.
//!
//! A split gets its name after its image was synced: it is also the promise that this was done.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use hull_model::Digest;
use hull_os::durable::Durability;

use super::{Chunks, Layer};
use crate::content::{Blob, Expected, Hasher};
use crate::erofs::Placed;
use crate::error::{At, Result};
use crate::store::{Store, Temporary};

/// What every split begins with: the format and its version.
const MAGIC: [u8; 16] = *b"hull tar split 1";
/// The magic and the size of the tar.
const HEADER_BYTES: usize = MAGIC.len() + 8;
/// Bytes of the tar that are written at once.
const LITERAL_BYTES_MAX: usize = 64 << 10;
/// Headers repeat themselves so much that the fastest level makes a tenth of them.
const LEVEL: i32 = 1;
/// The place that follows the bytes of a record: where in the image, and how many bytes.
const PLACE_BYTES: usize = 16;

/// Writes a split; the image's writer says what went where.
pub(super) struct SplitWriter {
    file: Temporary,
    records: zstd::stream::write::Encoder<'static, File>,
    literal: Vec<u8>,
}

impl SplitWriter {
    pub(super) fn new(file: Temporary) -> Result<Self> {
        let mut output = file
            .file
            .try_clone()
            .at("duplicate descriptor of", &file.path)?;
        let records = (|| {
            output.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
            let mut records = zstd::stream::write::Encoder::new(output, LEVEL)?;
            records.include_checksum(true)?;
            Ok(records)
        })();
        Ok(Self {
            records: records.at("begin", &file.path)?,
            file,
            literal: Vec::with_capacity(LITERAL_BYTES_MAX),
        })
    }

    /// Bytes of the tar that the image does not have.
    fn literal(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = LITERAL_BYTES_MAX - self.literal.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.literal.extend_from_slice(now);
            bytes = later;
            if self.literal.len() == LITERAL_BYTES_MAX {
                self.record(0, 0)?;
            }
        }
        Ok(())
    }

    fn record(&mut self, position: u64, len: u64) -> io::Result<()> {
        let literal_len = self.literal.len() as u32;
        self.records.write_all(&literal_len.to_le_bytes())?;
        self.records.write_all(&self.literal)?;
        self.records.write_all(&position.to_le_bytes())?;
        self.records.write_all(&len.to_le_bytes())?;
        self.literal.clear();
        Ok(())
    }

    fn finish(mut self, tar_size: u64) -> Result<Temporary> {
        let ended = self.record(0, 0);
        let Self { file, records, .. } = self;
        let written = ended.and_then(|()| {
            let header = [&MAGIC[..], &tar_size.to_le_bytes()].concat();
            records.finish()?.write_all_at(&header, 0)
        });
        written.at("write", &file.path)?;
        Ok(file)
    }
}

/// What a tar reader takes from, with a note of all that it takes, if that is wanted.
pub(super) struct Noted {
    input: Chunks,
    split: Option<SplitWriter>,
    /// Whether what is taken now goes to the image.
    in_contents: bool,
    failure: Option<io::Error>,
}

impl Noted {
    pub(super) fn new(input: Chunks, split: Option<SplitWriter>) -> Self {
        Self {
            input,
            split,
            in_contents: false,
            failure: None,
        }
    }

    /// Says that what is taken from here on goes to the image, or does no longer.
    pub(super) fn set_in_contents(&mut self, in_contents: bool) {
        self.in_contents = in_contents;
    }

    /// Says where the contents that were just taken went: these pieces of one file.
    pub(super) fn placed(&mut self, pieces: &[(u64, u64)], place: &Placed) {
        let Some(split) = &mut self.split else {
            return;
        };
        for &(mut offset, end) in pieces {
            while offset < end && self.failure.is_none() {
                let (position, available) = place.extent(offset);
                let len = available.min(end - offset);
                self.failure = split.record(position, len).err();
                offset += len;
            }
        }
    }

    /// The digest and size of what was taken, and the finished split.
    pub(super) fn finish(self) -> Result<(Blob, Option<Temporary>)> {
        let (digest, size) = self.input.into_hasher().finish();
        let split = match (self.split, self.failure) {
            (Some(split), Some(cause)) => Err(cause).at("write", &split.file.path)?,
            (Some(split), None) => Some(split.finish(size)?),
            (None, _) => None,
        };
        Ok((Blob { digest, size }, split))
    }
}

impl BufRead for Noted {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // A disk that is full is told at the end; until then nothing more is written to it.
        self.input.fill_buf()
    }

    fn consume(&mut self, len: usize) {
        if let (Some(split), false, None) = (&mut self.split, self.in_contents, &self.failure) {
            self.failure = split.literal(&self.input.available()[..len]).err();
        }
        self.input.consume(len);
    }
}

impl Read for Noted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(buffer)?;
        self.consume(len);
        Ok(len)
    }
}

/// Reads a tar from its split and its image.
pub(crate) struct Joined {
    records: zstd::stream::read::Decoder<'static, BufReader<File>>,
    image: File,
    /// What is still to come of the current record: bytes, then a piece of the image.
    literal: Vec<u8>,
    literal_at: usize,
    position: u64,
    len: u64,
    size: u64,
    given: u64,
    /// Of what was given so far; none when something was left out, or nobody asks.
    hasher: Option<Hasher>,
    expected: Digest,
}

impl std::fmt::Debug for Joined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Joined({})", self.expected)
    }
}

impl Joined {
    fn new(split: File, image: File, expected: Digest) -> io::Result<Self> {
        let size = read_header(&split)?;
        let mut split = split;
        split.seek(SeekFrom::Start(HEADER_BYTES as u64))?;
        Ok(Self {
            records: zstd::stream::read::Decoder::new(split)?,
            image,
            literal: Vec::new(),
            literal_at: 0,
            position: 0,
            len: 0,
            size,
            given: 0,
            hasher: Some(Hasher::default()),
            expected,
        })
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Lets everything through: the caller hashes it.
    pub(crate) fn unchecked(&mut self) {
        self.hasher = None;
    }

    /// Leaves out the next bytes.
    pub(crate) fn skip(&mut self, mut count: u64) -> io::Result<()> {
        if count > 0 {
            self.unchecked();
        }
        while count > 0 && self.next()? {
            let literal = ((self.literal.len() - self.literal_at) as u64).min(count);
            self.literal_at += literal as usize;
            count -= literal;
            let copied = self.len.min(count);
            self.position += copied;
            self.len -= copied;
            count -= copied;
            self.given += literal + copied;
        }
        Ok(())
    }

    /// Goes to the next record unless something is left of this one; says whether there is any.
    fn next(&mut self) -> io::Result<bool> {
        while self.literal_at == self.literal.len() && self.len == 0 {
            let mut count = [0; 4];
            if self.records.read(&mut count[..1])? == 0 {
                return Ok(false);
            }
            self.records.read_exact(&mut count[1..])?;
            let count = u32::from_le_bytes(count) as usize;
            if count > LITERAL_BYTES_MAX {
                return Err(damaged("a record is too long"));
            }
            self.literal.resize(count, 0);
            self.literal_at = 0;
            self.records.read_exact(&mut self.literal)?;
            let mut place = [0; PLACE_BYTES];
            self.records.read_exact(&mut place)?;
            let (position, len) = place.split_at(8);
            self.position = number(position);
            self.len = number(len);
        }
        Ok(true)
    }

    /// Counts what is about to be given. Nobody gets the last byte of what is not the tar.
    fn count(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.given += bytes.len() as u64;
        if self.given > self.size || (bytes.is_empty() && self.given < self.size) {
            return Err(damaged("together they have another size"));
        }
        let Some(hasher) = &mut self.hasher else {
            return Ok(());
        };
        hasher.update(bytes);
        if self.given == self.size {
            let digest = self.hasher.take().map(|hasher| hasher.finish().0);
            if digest != Some(self.expected) {
                return Err(damaged("together they have another digest"));
            }
        }
        Ok(())
    }
}

impl Read for Joined {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            if !self.next()? {
                break;
            }
            let rest = &mut buffer[filled..];
            let literal = &self.literal[self.literal_at..];
            let len = if literal.is_empty() {
                let len = self.len.min(rest.len() as u64) as usize;
                self.image.read_exact_at(&mut rest[..len], self.position)?;
                self.position += len as u64;
                self.len -= len as u64;
                len
            } else {
                let len = literal.len().min(rest.len());
                rest[..len].copy_from_slice(&literal[..len]);
                self.literal_at += len;
                len
            };
            filled += len;
        }
        if !buffer.is_empty() {
            self.count(&buffer[..filled])?;
        }
        Ok(filled)
    }
}

fn number(bytes: &[u8]) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(bytes);
    u64::from_le_bytes(number)
}

fn damaged(how: &str) -> io::Error {
    let text = format!("the layer's image and the rest of its tar do not fit: {how}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn read_header(split: &File) -> io::Result<u64> {
    let mut header = [0; HEADER_BYTES];
    split.read_exact_at(&mut header, 0)?;
    if header[..MAGIC.len()] != MAGIC {
        return Err(damaged("it is of no known format"));
    }
    Ok(number(&header[MAGIC.len()..]))
}

impl Store {
    /// Where the split of a layer's tar is or would be.
    pub(crate) fn split_path(&self, diff_id: &Digest) -> std::path::PathBuf {
        self.blobs_dir()
            .join(diff_id.hex() + crate::store::SPLIT_SUFFIX)
    }

    /// Opens a tar that is split; none when it is not.
    pub(crate) fn open_split(&self, diff_id: &Digest) -> Result<Option<Joined>> {
        let (path, image_path) = (self.split_path(diff_id), self.layer_path(diff_id));
        let open = |path: &std::path::Path| match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.at("open", path).map(Some),
        };
        let (Some(split), Some(image)) = (open(&path)?, open(&image_path)?) else {
            return Ok(None);
        };
        Joined::new(split, image, *diff_id)
            .at("read", &path)
            .map(Some)
    }

    /// Gives a split its name, once its image has one and is synced; says whether it is new.
    ///
    /// An image that was there before may be another version's. Then the tar is kept whole.
    pub(super) fn publish_split(
        &self,
        split: Temporary,
        image: File,
        layer: &Layer,
    ) -> Result<bool> {
        let (diff_id, path) = (&layer.diff_id, split.path.clone());
        if self.has_blob(diff_id)? {
            return Ok(false);
        }
        let joined = |image: File| {
            let split = split.file.try_clone()?;
            Joined::new(split, image, *diff_id)
        };
        if !layer.created {
            let mut from_old = joined(self.open_layer(diff_id)?).at("read", &path)?;
            if io::copy(&mut from_old, &mut io::sink()).is_err() {
                let mut from_new = joined(image).at("read", &path)?;
                let mut writer = self.blob_writer()?;
                io::copy(&mut from_new, &mut writer).at("write blob", &path)?;
                return writer.commit(&Expected::from(layer.blob)).map(|_| true);
            }
        }
        self.sync_layer(diff_id)?;
        split.publish(&self.split_path(diff_id), Durability::Synced)?;
        self.remove_partial(diff_id)?;
        Ok(true)
    }

    /// The size of a tar that is split; none when it is not, or its image is missing.
    pub(crate) fn split_size(&self, diff_id: &Digest) -> Result<Option<u64>> {
        let path = self.split_path(diff_id);
        match File::open(&path) {
            Ok(split) if self.has_layer(diff_id)? => {
                read_header(&split).at("read", &path).map(Some)
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).at("open", &path),
        }
    }

    /// Whether a tar is split.
    pub(super) fn is_split(&self, diff_id: &Digest) -> bool {
        fs::exists(self.split_path(diff_id)).unwrap_or(false)
    }
}
