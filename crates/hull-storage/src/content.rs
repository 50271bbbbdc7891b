//! Immutable blobs, named by the digest of their bytes.
//!
//! A blob is written under a name in `ingest/`, checked, synced and then renamed, so whatever lies
//! in `blobs/` is whole and durable: layers that a crash may have damaged are made again from it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use hull_model::Digest;
use hull_os::durable::Durability;
use sha2::{Digest as _, Sha256};

use crate::error::{At, Error, Result};
use crate::layer::Joined;
use crate::store::{Discarded, SPLIT_SUFFIX, Store, Temporary};

/// SHA-256 over what goes by, and its length.
#[derive(Debug, Clone, Default)]
pub struct Hasher {
    sha256: Sha256,
    bytes: u64,
}

impl Hasher {
    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// The digest and the number of bytes.
    pub fn finish(self) -> (Digest, u64) {
        (
            Digest::from_bytes(self.sha256.finalize().into()),
            self.bytes,
        )
    }

    /// The digest of bytes that are at hand.
    pub fn digest(bytes: &[u8]) -> Digest {
        Digest::from_bytes(Sha256::digest(bytes).into())
    }
}

/// A blob and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blob {
    /// Digest of its bytes.
    pub digest: Digest,
    /// Number of its bytes.
    pub size: u64,
}

/// What a blob is promised to be; what is `None` is not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expected {
    /// The digest of its bytes.
    pub digest: Option<Digest>,
    /// The number of its bytes.
    pub size: Option<u64>,
}

impl From<Blob> for Expected {
    fn from(blob: Blob) -> Self {
        Self {
            digest: Some(blob.digest),
            size: Some(blob.size),
        }
    }
}

impl Expected {
    pub(crate) fn check(&self, what: &'static str, actual: Blob) -> Result<()> {
        match (self.size, self.digest) {
            (Some(expected), _) if expected != actual.size => Err(Error::WrongSize {
                what,
                expected,
                actual: actual.size,
            }),
            (_, Some(expected)) if expected != actual.digest => Err(Error::WrongDigest {
                what,
                expected,
                actual: actual.digest,
            }),
            _ => Ok(()),
        }
    }
}

/// A blob on its way in; dropped without [`BlobWriter::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct BlobWriter<'s> {
    store: &'s Store,
    file: Temporary,
    hasher: Hasher,
}

impl BlobWriter<'_> {
    /// Checks the contents against the promise, makes them durable and gives them their name.
    ///
    /// # Errors
    /// `InvalidArgument` when they are not what was expected; then nothing is kept.
    pub fn commit(self, expected: &Expected) -> Result<Blob> {
        let (digest, size) = self.hasher.finish();
        let blob = Blob { digest, size };
        expected.check("blob", blob)?;
        self.store.publish_blob(self.file, blob)?;
        Ok(blob)
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = (&self.file.file).write(bytes)?;
        self.hasher.update(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A blob that is open for reading, from its beginning to its end.
#[derive(Debug)]
pub struct BlobReader(Form);

/// How a blob is stored.
#[derive(Debug)]
enum Form {
    /// As it came.
    Whole { file: File, size: u64 },
    /// A plain tar, in the image of its layer and what that does not have. Checks itself.
    Split(Box<Joined>),
}

impl BlobReader {
    /// The number of its bytes.
    pub fn size(&self) -> u64 {
        match &self.0 {
            Form::Whole { size, .. } => *size,
            Form::Split(joined) => joined.size(),
        }
    }

    /// Leaves out so many bytes.
    pub fn skip(&mut self, count: u64) -> io::Result<()> {
        match &mut self.0 {
            Form::Whole { file, .. } => file.seek_relative(count.cast_signed()),
            Form::Split(joined) => joined.skip(count),
        }
    }

    /// Gives the bytes as they are: the caller checks them.
    pub(crate) fn unchecked(mut self) -> Self {
        if let Form::Split(joined) = &mut self.0 {
            joined.unchecked();
        }
        self
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Form::Whole { file, .. } => file.read(buffer),
            Form::Split(joined) => joined.read(buffer),
        }
    }
}

impl Store {
    /// Starts a new blob.
    pub fn blob_writer(&self) -> Result<BlobWriter<'_>> {
        let file = self.temporary("blob")?;
        Ok(BlobWriter {
            store: self,
            file,
            hasher: Hasher::default(),
        })
    }

    /// Stores bytes that are at hand, such as a manifest.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Blob> {
        let blob = Blob {
            digest: Hasher::digest(bytes),
            size: bytes.len() as u64,
        };
        if self.blob_size(&blob.digest)? == Some(blob.size) {
            return Ok(blob);
        }
        let file = self.temporary("blob")?;
        (&file.file).write_all(bytes).at("write blob", &file.path)?;
        self.publish_blob(file, blob)?;
        Ok(blob)
    }

    /// Opens a blob for reading.
    ///
    /// # Errors
    /// `NotFound` when it is not there.
    pub fn open_blob(&self, digest: &Digest) -> Result<BlobReader> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let joined = self.open_split(digest)?.ok_or(Error::Missing {
                    what: "blob",
                    digest: *digest,
                })?;
                Ok(BlobReader(Form::Split(Box::new(joined))))
            }
            opened => {
                let file = opened.at("open blob", &path)?;
                let size = file.metadata().at("stat", &path)?.len();
                Ok(BlobReader(Form::Whole { file, size }))
            }
        }
    }

    /// Reads a small blob whole and checks that it is what its name says.
    pub fn read_blob(&self, digest: &Digest, max: u64, what: &'static str) -> Result<Vec<u8>> {
        let file = self.open_blob(digest)?;
        let mut bytes = Vec::new();
        file.take(max + 1)
            .read_to_end(&mut bytes)
            .at("read blob", &self.blob_path(digest))?;
        if bytes.len() as u64 > max {
            return Err(Error::Limit {
                what,
                limit: max,
                unit: "bytes",
            });
        }
        let actual = Hasher::digest(&bytes);
        if actual != *digest {
            return Err(Error::WrongDigest {
                what,
                expected: *digest,
                actual,
            });
        }
        Ok(bytes)
    }

    /// The size of a blob; none when it is not there.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        match size_of(&self.blob_path(digest))? {
            None => self.split_size(digest),
            size => Ok(size),
        }
    }

    /// Whether a blob is there.
    pub fn has_blob(&self, digest: &Digest) -> Result<bool> {
        Ok(self.blob_size(digest)?.is_some())
    }

    /// Removes a blob; says whether there was one.
    pub fn remove_blob(&self, digest: &Digest) -> Result<bool> {
        Ok(self.discard_blob(digest)?.is_some())
    }

    /// Takes a blob's name away; its space is free when what is returned is dropped.
    pub fn discard_blob(&self, digest: &Digest) -> Result<Option<Discarded>> {
        match self.discard(&self.blob_path(digest))? {
            None => self.discard(&self.split_path(digest)),
            discarded => Ok(discarded),
        }
    }

    /// All blobs, in the order of their digests. Files with other names are not ours to list.
    pub fn blobs(&self) -> Result<Vec<Blob>> {
        let mut blobs = Vec::new();
        for (name, size) in list(&self.blobs_dir())? {
            let split = name.strip_suffix(SPLIT_SUFFIX);
            let Ok(digest) = format!("sha256:{}", split.unwrap_or(&name)).parse() else {
                continue;
            };
            let size = match split {
                None => Some(size),
                // Without its image it is nothing.
                Some(_) => self.split_size(&digest)?,
            };
            blobs.extend(size.map(|size| Blob { digest, size }));
        }
        blobs.sort();
        Ok(blobs)
    }

    pub(crate) fn publish_blob(&self, file: Temporary, blob: Blob) -> Result<()> {
        let path = self.blob_path(&blob.digest);
        if self.blob_size(&blob.digest)? == Some(blob.size) {
            return Ok(());
        }
        file.publish(&path, Durability::Synced)?;
        self.remove_partial(&blob.digest)
    }
}

/// The names of regular files in a folder and their sizes.
pub(crate) fn list(dir: &PathBuf) -> Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_file() => {
                files.push((
                    entry.file_name().to_string_lossy().into_owned(),
                    metadata.len(),
                ));
            }
            Ok(_) => {}
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("stat", &entry.path()),
        }
    }
    Ok(files)
}

pub(crate) fn size_of(path: &PathBuf) -> Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).at("stat", path),
    }
}
