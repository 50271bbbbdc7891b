//! The incoming stream: hashed, kept, decompressed, and carried to the other thread.

use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::sync::mpsc;

use flate2::bufread::MultiGzDecoder;

use super::{LAYER_BYTES_MAX, Received};
use crate::content::{Blob, Hasher};
use crate::error::{At, Error, Result};
use crate::store::Temporary;

/// Size of one chunk of uncompressed bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// Compressed bytes that are read at once.
const INPUT_BYTES: usize = 128 << 10;
/// Memory that a zstd stream may ask for, as a power of two of bytes: what its `--ultra` uses.
const ZSTD_WINDOW_BITS_MAX: u32 = 27;
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
}

impl Compression {
    /// Recognises the format by the first bytes.
    pub(crate) fn detect(start: &[u8], what: &'static str) -> Result<Self> {
        let unsupported = |format| Err(Error::Compression { what, format });
        match start {
            [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
            // A frame to be skipped may come first.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unsupported("xz"),
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', ..] => unsupported("bzip2"),
            _ => Ok(Compression::None),
        }
    }

    /// Decompresses a stream whose format was detected.
    pub(crate) fn decoder<'r>(
        self,
        input: impl BufRead + Send + 'r,
    ) -> io::Result<Box<dyn Read + Send + 'r>> {
        Ok(match self {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_BITS_MAX)?;
                Box::new(decoder)
            }
        })
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
        Compression::detect(&start, what)?,
        Cursor::new(start).chain(stream),
    ))
}

/// A layer's stream before its format is known.
pub(super) struct Source<R> {
    stream: R,
    file: Option<Temporary>,
}

impl<R: Read + Send> Source<R> {
    pub(super) fn new(stream: R, file: Option<Temporary>) -> Self {
        Self { stream, file }
    }

    pub(super) fn decoder<'r>(self) -> Result<Decoder<'r>>
    where
        R: 'r,
    {
        let (compression, stream) = peek(self.stream, "layer")?;
        let (results, outcome) = mpsc::sync_channel(1);
        let tee = Tee {
            stream,
            // The other thread hashes the same bytes.
            hasher: (compression != Compression::None).then(Hasher::default),
            file: self.file,
            failure: None,
            results,
        };
        let input = BufReader::with_capacity(INPUT_BYTES, tee);
        let plain = compression.decoder(input).map_err(|cause| Error::Input {
            what: "layer",
            cause,
        })?;
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
    failure: Option<Error>,
    results: mpsc::SyncSender<TeeOutcome>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.stream.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..len]);
        }
        if let Some(file) = &self.file {
            let written = (&file.file)
                .write_all(&buffer[..len])
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
        let (hasher, file) = (self.hasher.take(), self.file.take());
        let outcome = TeeOutcome {
            hasher,
            file,
            failure: self.failure.take(),
        };
        // There is room for one; nobody waits for it only when the decoder is gone as well.
        let _ = self.results.try_send(outcome);
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
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, len: usize) {
        self.position += len;
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let len = available.len().min(buffer.len());
        buffer[..len].copy_from_slice(&available[..len]);
        self.consume(len);
        Ok(len)
    }
}
