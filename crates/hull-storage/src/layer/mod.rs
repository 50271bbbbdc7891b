//! Layers: from the bytes that came over the wire to one EROFS image, in one pass.
//!
//! ```text
//!            thread of its own                     |  the caller's thread
//! stream -> hash, keep blob -> decompress -> chunks -> hash -> tar entries -> EROFS image
//!                                                                          -> rest of a plain tar
//! ```
//!
//! The image gets its name only when both digests are what was promised. It is not synced then:
//! that is for [`Store::sync_layer`], in the background. After an unclean boot the images that
//! [`Store::unsynced_layers`] lists are removed and made again from their blobs. Only the image of
//! a plain tar is synced at once: with what [`split`] keeps of the tar it is the blob itself.

mod build;
mod source;
mod split;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::sync::mpsc;
use std::thread;

use hull_model::Digest;
use hull_os::durable::{self, Durability};

use crate::content::{Blob, Expected, list, size_of};
use crate::erofs;
use crate::error::{At, Error, Result};
use crate::store::{Discarded, Partial, Store, Temporary};
use crate::{tar, tree};

pub(crate) use build::normalise;
pub use build::{EntryFault, PATH_BYTES_MAX};
pub(crate) use source::peek;
use source::{Chunks, Source};
pub use source::{Compression, decompress};
pub(crate) use split::Joined;
use split::{Noted, SplitWriter};

/// Uncompressed size of one layer, in bytes: above it, it is a bomb or a mistake.
pub const LAYER_BYTES_MAX: u64 = 1 << 40;
/// Chunks between the two threads; with their size this bounds the memory of a pass.
const CHUNKS_MAX: usize = 4;

/// What a caller knows about a layer that comes in, and wants of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct IngestOptions {
    /// The digest of the uncompressed tar.
    pub diff_id: Option<Digest>,
    /// The stream as it comes: digest and size.
    pub blob: Expected,
    /// Whether the stream itself is stored as a blob, for a later push or save.
    pub keep_blob: bool,
}

/// A layer that is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// The digest of the uncompressed tar: names the image.
    pub diff_id: Digest,
    /// Uncompressed size of the tar in bytes.
    pub tar_size: u64,
    /// The stream as it came; stored only if that was asked for.
    pub blob: Blob,
    /// How the stream was compressed.
    pub compression: Compression,
    /// Size of the image in bytes, holes included.
    pub image_size: u64,
    /// Number of inodes in the image.
    pub inodes: u64,
    /// Extended attributes that Linux or an image cannot have and that were left out.
    pub skipped_xattrs: u64,
    /// Whether the image was made just now; otherwise one of this diff id was there already.
    pub created: bool,
    /// Whether the blob was stored just now.
    pub blob_created: bool,
}

/// What became of the incoming stream.
struct Received {
    compression: Compression,
    /// None when the stream is not compressed: then it is the tar.
    blob: Option<Blob>,
    file: Option<Temporary>,
}

impl Store {
    /// Turns a tar stream, plain or compressed with gzip or zstd, into a layer.
    ///
    /// Uses one more thread while it runs and a bounded amount of memory beside the names.
    ///
    /// # Errors
    /// `InvalidArgument` when the stream is malformed, not what was promised, or has an entry
    /// that cannot be; `LimitReached` when it exceeds a named limit or the disk is full. Nothing
    /// is kept then.
    pub fn ingest_layer(&self, stream: impl Read + Send, options: &IngestOptions) -> Result<Layer> {
        if !options.keep_blob {
            return self.ingest(Source::new(stream, None), None, options);
        }
        let (compression, stream) = peek(stream, "layer")?;
        if compression.is_of_layers() && compression != Compression::None {
            let source = Source::new(stream, Some(self.temporary("blob")?));
            return self.ingest(source, None, options);
        }
        let split = SplitWriter::new(self.temporary("split")?)?;
        self.ingest(Source::new(stream, None), Some(split), options)
    }

    /// Turns a blob into a layer of which the beginning is there and the rest comes.
    ///
    /// When reading the rest fails, what came of it is kept with the beginning, for another time.
    ///
    /// # Errors
    /// As [`Store::ingest_layer`].
    pub fn ingest_partial(
        &self,
        partial: Partial,
        rest: impl Read + Send,
        options: &IngestOptions,
    ) -> Result<Layer> {
        self.ingest(Source::resumed(rest, partial)?, None, options)
    }

    fn ingest<R: Read + Send>(
        &self,
        source: Source<R>,
        split: Option<SplitWriter>,
        options: &IngestOptions,
    ) -> Result<Layer> {
        let image = self.temporary("erofs")?;
        let (full_sender, full) = mpsc::sync_channel(CHUNKS_MAX);
        let (empty, empty_receiver) = mpsc::channel();
        let (received, built) = thread::scope(|scope| {
            let receiving = scope.spawn(move || receive(source, &full_sender, &empty_receiver));
            let built = build_image(Noted::new(Chunks::new(full, empty), split), &image);
            let received = receiving.join();
            (
                received.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                built,
            )
        });
        // When the stream broke, whatever was built of it failed for that reason.
        let received = received?;
        let (mut layer, split) = built?;
        layer.compression = received.compression;
        if let Some(blob) = received.blob {
            layer.blob = blob;
        }
        options.blob.check("layer", layer.blob)?;
        let promised = Expected {
            digest: options.diff_id,
            size: None,
        };
        promised.check(
            "uncompressed layer",
            Blob {
                digest: layer.diff_id,
                size: 0,
            },
        )?;
        if let Some(file) = received.file {
            layer.blob_created = !self.has_blob(&layer.blob.digest)?;
            self.publish_blob(file, layer.blob)?;
        }
        let file = image.file.try_clone();
        let file = file.at("duplicate descriptor of", &image.path)?;
        self.publish_image(image, &mut layer)?;
        if let Some(split) = split {
            layer.blob_created = self.publish_split(split, file, &layer)?;
        }
        Ok(layer)
    }

    /// Makes a layer of what lies in the upper directory of an overlay; its tar is kept as a blob.
    ///
    /// # Errors
    /// When the directory cannot be read, and as [`Store::ingest_layer`].
    pub fn ingest_upper(&self, upper: BorrowedFd<'_>) -> Result<Layer> {
        const WHAT: &str = "layer";
        let (archive, output) = io::pipe().map_err(|cause| Error::Input { what: WHAT, cause })?;
        let is_place = |entry: &tar::Entry| {
            entry.size == 0
                && std::str::from_utf8(&entry.path)
                    .is_ok_and(|path| tree::is_place(path.trim_end_matches('/')))
        };
        let options = IngestOptions {
            keep_blob: true,
            ..IngestOptions::default()
        };
        thread::scope(|scope| {
            let packing = scope.spawn(move || tree::pack_upper(upper, &is_place, output));
            let layer = self.ingest_layer(archive, &options);
            let packed = packing.join();
            let packed = packed.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (packed, layer) {
                // The reader went first, and knows why.
                (Err(Error::Output { .. }), Err(error)) => Err(error),
                (Err(error), _) => Err(error),
                (Ok(()), layer) => layer,
            }
        })
    }

    /// Opens the image of a layer, for mounting.
    ///
    /// # Errors
    /// `NotFound` when it is not there.
    pub fn open_layer(&self, diff_id: &Digest) -> Result<File> {
        let path = self.layer_path(diff_id);
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Missing {
                what: "layer",
                digest: *diff_id,
            }),
            opened => opened.at("open layer image", &path),
        }
    }

    /// Where the image of a layer is or would be.
    pub fn layer_path(&self, diff_id: &Digest) -> std::path::PathBuf {
        self.layers_dir().join(format!("{}.erofs", diff_id.hex()))
    }

    /// Opens the image of a layer for reading without a mount.
    pub fn read_layer(&self, diff_id: &Digest) -> Result<erofs::Reader<File>> {
        erofs::Reader::open(self.open_layer(diff_id)?).map_err(Error::Damaged)
    }

    /// Size of a layer's image in bytes; none when it is not there.
    pub fn layer_size(&self, diff_id: &Digest) -> Result<Option<u64>> {
        size_of(&self.layer_path(diff_id))
    }

    /// Whether a layer is there.
    pub fn has_layer(&self, diff_id: &Digest) -> Result<bool> {
        Ok(self.layer_size(diff_id)?.is_some())
    }

    /// Removes a layer's image; says whether there was one. Mounts of it stay valid.
    pub fn remove_layer(&self, diff_id: &Digest) -> Result<bool> {
        Ok(self.discard_layer(diff_id)?.is_some())
    }

    /// Takes a layer's name away; its space is free when what is returned is dropped and it is
    /// mounted nowhere.
    pub fn discard_layer(&self, diff_id: &Digest) -> Result<Option<Discarded>> {
        // What promises something of the image goes first: an image without mark is only unsynced,
        // a mark alone would lie.
        for promise in [self.split_path(diff_id), self.mark_path(diff_id)] {
            durable::remove_if_exists(&promise).at("remove layer mark", &promise)?;
        }
        self.discard(&self.layer_path(diff_id))
    }

    /// All layers, in the order of their diff ids.
    pub fn layers(&self) -> Result<Vec<Digest>> {
        let files = list(&self.layers_dir())?;
        let stems = files
            .iter()
            .filter_map(|(name, _)| name.strip_suffix(".erofs"));
        let mut digests: Vec<Digest> = stems
            .filter_map(|stem| format!("sha256:{stem}").parse().ok())
            .collect();
        digests.sort();
        Ok(digests)
    }

    /// Makes a layer durable; after this it survives a crash of the host.
    pub fn sync_layer(&self, diff_id: &Digest) -> Result<()> {
        let (path, mark, dir) = (
            self.layer_path(diff_id),
            self.mark_path(diff_id),
            self.layers_dir(),
        );
        self.open_layer(diff_id)?
            .sync_data()
            .at("sync layer image", &path)?;
        durable::sync_dir(&dir).at("sync", &dir)?;
        // Not synced itself: a lost mark costs one more rebuild.
        durable::replace_file(&mark, b"", 0o444, Durability::Lost).at("mark layer", &mark)
    }

    /// Whether a layer was made durable.
    pub fn is_synced(&self, diff_id: &Digest) -> bool {
        self.mark_path(diff_id).exists() || self.is_split(diff_id)
    }

    /// The layers that were never made durable: not to be trusted after an unclean boot.
    pub fn unsynced_layers(&self) -> Result<Vec<Digest>> {
        let mut layers = self.layers()?;
        layers.retain(|diff_id| !self.is_synced(diff_id));
        Ok(layers)
    }

    /// Makes a layer again from its blob, whatever is there under its name, and syncs it.
    ///
    /// # Errors
    /// `NotFound` when the blob is not there; then the old image is left as it is.
    pub fn remake_layer(&self, diff_id: &Digest, blob: &Blob) -> Result<()> {
        // Then it was synced before, and is the only place where its blob is.
        if self.is_split(diff_id) {
            return self.sync_layer(diff_id);
        }
        let stream = self.open_blob(&blob.digest)?;
        self.remove_layer(diff_id)?;
        let blob = Expected::from(*blob);
        let options = IngestOptions {
            diff_id: Some(*diff_id),
            blob,
            keep_blob: false,
        };
        self.ingest_layer(stream, &options)?;
        self.sync_layer(diff_id)
    }

    fn mark_path(&self, diff_id: &Digest) -> std::path::PathBuf {
        self.layers_dir().join(format!("{}.ok", diff_id.hex()))
    }

    fn publish_image(&self, image: Temporary, layer: &mut Layer) -> Result<()> {
        let path = self.layer_path(&layer.diff_id);
        // One that is there stays: it may be mounted, and two files would be cached twice.
        layer.created = image.publish_new(&path)?;
        if let Some(size) = size_of(&path)? {
            layer.image_size = size;
        }
        Ok(())
    }
}

/// Reads the stream to its end and hands the uncompressed bytes over in chunks.
fn receive<R: Read + Send>(
    source: Source<R>,
    full: &mpsc::SyncSender<Vec<u8>>,
    empty: &mpsc::Receiver<Vec<u8>>,
) -> Result<Received> {
    let mut decoder = source.decoder()?;
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        decoder.fill(&mut chunk)?;
        if chunk.is_empty() {
            return decoder.finish();
        }
        if full.send(chunk).is_err() {
            // The other side failed and says why.
            return decoder.finish();
        }
    }
}

fn build_image(input: Noted, image: &Temporary) -> Result<(Layer, Option<Temporary>)> {
    let output = image
        .file
        .try_clone()
        .at("duplicate descriptor of", &image.path)?;
    let writer = erofs::Writer::new(output, image.path.clone());
    let mut archive = tar::Reader::new(input);
    let mut builder = build::Builder::new(writer);
    while let Some(entry) = archive.next_entry()? {
        builder.add(&entry, &mut archive)?;
    }
    let mut rest = archive.into_inner();
    // What follows the end of the archive counts for the digest.
    io::copy(&mut rest, &mut io::sink()).map_err(|cause| Error::Input {
        what: "layer",
        cause,
    })?;
    let (blob, split) = rest.finish()?;
    let (diff_id, tar_size) = (blob.digest, blob.size);
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&diff_id.as_bytes()[..16]);
    let (finished, skipped_xattrs) = builder.finish(uuid)?;
    let layer = Layer {
        diff_id,
        tar_size,
        blob,
        compression: Compression::None,
        image_size: finished.bytes,
        inodes: finished.inodes,
        skipped_xattrs,
        created: false,
        blob_created: false,
    };
    Ok((layer, split))
}
