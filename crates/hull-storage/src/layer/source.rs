//! The incoming stream: hashed, kept, decompressed, and carried to the other thread.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Take, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::{LAYER_BYTES_MAX, Received};
use crate::content::{Blob, Hasher};
use crate::error::{At, Error, Result};
use crate::store::{Partial, Temporary};

/// Size of one chunk of uncompressed bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// Compressed bytes that are read at once.
const INPUT_BYTES: usize = 128 << 10;
/// Memory that a zstd stream may ask for, as a power of two of bytes: what its `--ultra` uses.
const ZSTD_WINDOW_BITS_MAX: u32 = 27;
/// Memory that an xz stream may ask for, in KiB: what `xz -9` uses.
const XZ_KIB_MAX: u32 = 96 << 10;
/// A stream may inflate to this many bytes however small it is: a file of ten gigabytes of zeros
/// is a person's mistake, but no attack.
const INFLATED_BYTES_FREE: u64 = 16 << 30;
/// Above that, it may inflate to so many times its size. Real layers stay below 20.
const INFLATION_MAX: u64 = 200;
/// How many bytes tell the formats apart.
const MAGIC_BYTES: usize = 6;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// Gzip, of one or many members.
    Gzip,
    /// Zstandard, of one or many frames.
    Zstd,
    /// LZMA2 in the xz container.
    Xz,
    /// Bzip2, of one or many streams.
    Bzip2,
}

impl Compression {
    /// Recognises the format by the first bytes.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A frame to be skipped may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            // Then a block, or the end of an empty stream.
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, ..] => Compression::Bzip2,
            _ => Compression::None,
        }
    }

    /// Whether a layer may be stored and sent on like this; OCI knows no other forms.
    pub(super) fn is_of_layers(self) -> bool {
        !matches!(self, Compression::Xz | Compression::Bzip2)
    }

    /// Decompresses a stream whose format was detected.
    pub(crate) fn decoder<'r>(
        self,
        input: impl BufRead + Send + 'r,
    ) -> io::Result<Box<dyn Read + Send + 'r>> {
        let received = Arc::new(AtomicU64::new(0));
        let input = Counted {
            inner: input,
            received: received.clone(),
        };
        let plain: Box<dyn Read + Send + 'r> = match self {
            Compression::None => return Ok(Box::new(input.inner)),
            Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_BITS_MAX)?;
                Box::new(decoder)
            }
            Compression::Xz => {
                let decoder = XzReader::new_mem_limit(input, true, XZ_KIB_MAX);
                Box::new(decoder)
            }
            Compression::Bzip2 => Box::new(MultiBzDecoder::new(input)),
        };
        Ok(Box::new(Guarded {
            inner: plain,
            received,
            given: 0,
            free_bytes: INFLATED_BYTES_FREE,
        }))
    }
}

/// Counts what a decoder takes.
struct Counted<R> {
    inner: R,
    received: Arc<AtomicU64>,
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, len: usize) {
        self.received.fetch_add(len as u64, Ordering::Relaxed);
        self.inner.consume(len);
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.received.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }
}

/// Refuses what a decoder gives when it is a bomb.
struct Guarded<R> {
    inner: R,
    received: Arc<AtomicU64>,
    given: u64,
    free_bytes: u64,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.given += len as u64;
        let received = self.received.load(Ordering::Relaxed).max(1);
        if self.given > self.free_bytes && self.given / received > INFLATION_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "it inflates to more than {} bytes and more than {INFLATION_MAX} times its \
                     size: a decompression bomb",
                    self.free_bytes
                ),
            ));
        }
        Ok(len)
    }
}

/// A stream with its first bytes put back in front.
pub(crate) type Peeked<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// Reads the first bytes of a stream and puts them back in front.
pub(crate) fn peek<R: Read>(mut stream: R, what: &'static str) -> Result<(Compression, Peeked<R>)> {
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    (&mut stream)
        .take(MAGIC_BYTES as u64)
        .read_to_end(&mut start)
        .map_err(|cause| Error::Input { what, cause })?;
    Ok((
        Compression::detect(&start),
        Cursor::new(start).chain(stream),
    ))
}

/// Decompresses a stream of any known format.
///
/// # Errors
/// When its first bytes cannot be read, or it has a format that we do not read.
pub fn decompress<'r>(stream: impl Read + Send + 'r) -> Result<Box<dyn Read + Send + 'r>> {
    const WHAT: &str = "archive";
    let (compression, stream) = peek(stream, WHAT)?;
    compression
        .decoder(BufReader::with_capacity(INPUT_BYTES, stream))
        .map_err(|cause| Error::Input { what: WHAT, cause })
}

/// A layer's stream before its format is known.
pub(super) struct Source<R> {
    stream: R,
    file: Option<Temporary>,
    /// Bytes of the stream that are in the file already.
    kept: u64,
}

impl<R: Read + Send> Source<R> {
    pub(super) fn new(stream: R, file: Option<Temporary>) -> Self {
        let kept = 0;
        Self { stream, file, kept }
    }

    /// A stream that begins with what is in the file.
    pub(super) fn resumed(
        rest: R,
        partial: Partial,
    ) -> Result<Source<io::Chain<Take<FileReader>, R>>> {
        let Partial { file, len } = partial;
        let duplicate = file
            .file
            .try_clone()
            .at("duplicate descriptor of", &file.path)?;
        let beginning = FileReader {
            file: duplicate,
            at: 0,
        }
        .take(len);
        let (stream, file) = (beginning.chain(rest), Some(file));
        Ok(Source {
            stream,
            file,
            kept: len,
        })
    }

    pub(super) fn decoder<'r>(self) -> Result<Decoder<'r>>
    where
        R: 'r,
    {
        let unreadable = |cause| Error::Input {
            what: "layer",
            cause,
        };
        let (compression, stream) = peek(self.stream, "layer")?;
        let (compression, stream): (_, Box<dyn Read + Send + 'r>) = if compression.is_of_layers() {
            (compression, Box::new(stream))
        } else {
            let stream = BufReader::with_capacity(INPUT_BYTES, stream);
            let plain = compression.decoder(stream).map_err(unreadable)?;
            (Compression::None, plain)
        };
        let (results, outcome) = mpsc::sync_channel(1);
        let tee = Tee {
            stream,
            // The other thread hashes the same bytes.
            hasher: (compression != Compression::None).then(Hasher::default),
            file: self.file,
            kept: self.kept,
            interrupted: false,
            failure: None,
            results,
        };
        let input = BufReader::with_capacity(INPUT_BYTES, tee);
        let plain = compression.decoder(input).map_err(unreadable)?;
        Ok(Decoder {
            compression,
            plain,
            bytes: 0,
            outcome,
        })
    }
}

/// Gives the uncompressed bytes of a layer.
pub(super) struct Decoder<'r> {
    compression: Compression,
    plain: Box<dyn Read + Send + 'r>,
    bytes: u64,
    outcome: mpsc::Receiver<TeeOutcome>,
}

impl Decoder<'_> {
    /// Fills a chunk; it stays empty at the end of the stream.
    pub(super) fn fill(&mut self, chunk: &mut Vec<u8>) -> Result<()> {
        chunk.resize(CHUNK_BYTES, 0);
        let mut filled = 0;
        while filled < CHUNK_BYTES {
            match self.plain.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(self.failure(cause)),
            }
        }
        chunk.truncate(filled);
        self.bytes += filled as u64;
        if self.bytes > LAYER_BYTES_MAX {
            let what = "uncompressed layer";
            return Err(Error::Limit {
                what,
                limit: LAYER_BYTES_MAX,
                unit: "bytes",
            });
        }
        Ok(())
    }

    /// What came in, all in all.
    pub(super) fn finish(self) -> Result<Received> {
        let Self {
            compression,
            plain,
            outcome,
            ..
        } = self;
        // The tee lies below the decoder and sends what it has when it is dropped.
        drop(plain);
        match outcome.try_recv() {
            Ok(TeeOutcome {
                hasher,
                file,
                failure: None,
            }) => {
                let blob = hasher.map(|hasher| {
                    let (digest, size) = hasher.finish();
                    Blob { digest, size }
                });
                Ok(Received {
                    compression,
                    blob,
                    file,
                })
            }
            Ok(TeeOutcome {
                failure: Some(failure),
                ..
            }) => Err(failure),
            Err(_) => Ok(Received {
                compression,
                blob: None,
                file: None,
            }),
        }
    }

    /// The error of the file that keeps the stream, if that was it, or else of the stream.
    fn failure(&mut self, cause: io::Error) -> Error {
        let plain = std::mem::replace(&mut self.plain, Box::new(io::empty()));
        drop(plain);
        match self.outcome.try_recv() {
            Ok(TeeOutcome {
                failure: Some(failure),
                ..
            }) => failure,
            _ => Error::Input {
                what: "layer",
                cause,
            },
        }
    }
}

/// What a [`Tee`] leaves when it is dropped.
struct TeeOutcome {
    hasher: Option<Hasher>,
    file: Option<Temporary>,
    failure: Option<Error>,
}

/// Hashes and stores what is read through it.
struct Tee<R> {
    stream: R,
    hasher: Option<Hasher>,
    file: Option<Temporary>,
    /// Bytes to come that are in the file already.
    kept: u64,
    /// Whether the stream itself failed: its rest may come another time.
    interrupted: bool,
    failure: Option<Error>,
    results: mpsc::SyncSender<TeeOutcome>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer);
        self.interrupted |= read.is_err();
        let len = read?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..len]);
        }
        let known = usize::try_from(self.kept).unwrap_or(len).min(len);
        self.kept -= known as u64;
        if let Some(file) = &self.file {
            let written = (&file.file)
                .write_all(&buffer[known..len])
                .at("write blob", &file.path);
            if let Err(error) = written {
                self.failure = Some(error);
                return Err(io::ErrorKind::Other.into());
            }
        }
        Ok(len)
    }
}

impl<R> Drop for Tee<R> {
    fn drop(&mut self) {
        let (hasher, mut file) = (self.hasher.take(), self.file.take());
        if let Some(file) = &mut file {
            file.keep(self.interrupted);
        }
        let outcome = TeeOutcome {
            hasher,
            file,
            failure: self.failure.take(),
        };
        // There is room for one; nobody waits for it only when the decoder is gone as well.
        let _ = self.results.try_send(outcome);
    }
}

/// Reads a file from its beginning, wherever others of the same descriptor are.
pub(super) struct FileReader {
    file: File,
    at: u64,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buffer, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

/// The uncompressed bytes on the other side, hashed as they arrive.
pub(super) struct Chunks {
    full: mpsc::Receiver<Vec<u8>>,
    empty: mpsc::Sender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
    hasher: Hasher,
}

impl Chunks {
    pub(super) fn new(full: mpsc::Receiver<Vec<u8>>, empty: mpsc::Sender<Vec<u8>>) -> Self {
        Self {
            full,
            empty,
            current: Vec::new(),
            position: 0,
            hasher: Hasher::default(),
        }
    }

    /// What the last look found and nobody took.
    pub(super) fn available(&self) -> &[u8] {
        &self.current[self.position..]
    }

    pub(super) fn into_hasher(self) -> Hasher {
        self.hasher
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.current.len() {
            let used = std::mem::take(&mut self.current);
            self.position = 0;
            if used.capacity() > 0 {
                // Nobody takes it at the end of the stream.
                let _ = self.empty.send(used);
            }
            // A closed channel is the end of the stream or its failure, which the sender reports.
            if let Ok(chunk) = self.full.recv() {
                self.hasher.update(&chunk);
                self.current = chunk;
            }
        }
        Ok(self.available())
    }

    fn consume(&mut self, len: usize) {
        self.position += len;
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(buffer)?;
        self.consume(len);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: u64, received: u64) -> bool {
        let mut guarded = Guarded {
            inner: io::repeat(0).take(given),
            received: Arc::new(AtomicU64::new(received)),
            given: 0,
            free_bytes: 100_000,
        };
        io::copy(&mut guarded, &mut io::sink()).is_ok()
    }

    #[test]
    fn bombs_are_large_and_inflate_much() {
        assert!(check(100_000, 1));
        assert!(!check(200_000, 1));
        assert!(check(200_000, 2_000));
        assert!(!check(2_000_000, 2_000));
    }
}
