//! Compressed layers for images that came without: registries and the people behind them expect
//! them. Made once; the image names them from then on, so that every push has the same digests.

use std::io::{self, BufReader, Write};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use flate2::Compression as Level;
use flate2::write::GzEncoder;

use super::{ImageRecord, LayerRef, layer_media_type};
use crate::content::{Blob, Expected};
use crate::error::{At, Error, Result};
use crate::layer::Compression;
use crate::store::Store;

/// How hard to try: three times as fast as the usual 6, for a tenth more bytes.
const LEVEL: u32 = 3;
/// Layers that are compressed at the same time.
const THREADS: usize = 2;
/// Bytes that are read at once.
const INPUT_BYTES: usize = 256 << 10;

impl Store {
    /// The same image with all its layers compressed, and a manifest that names them so. One whose
    /// layers are compressed already stays as it is, to the byte.
    ///
    /// # Errors
    /// `NotFound` when a blob is missing, `LimitReached` when the disk is full.
    pub fn compress_layers(&self, image: &ImageRecord) -> Result<ImageRecord> {
        let plain = |layer: &LayerRef| layer.blob.digest == layer.diff_id;
        if !image.layers.iter().any(plain) {
            return Ok(image.clone());
        }
        let next = AtomicUsize::new(0);
        let layers = Mutex::new(image.layers.clone());
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(layer) = image.layers.get(at) else {
                    return Ok(());
                };
                if plain(layer) {
                    let made = LayerRef {
                        diff_id: layer.diff_id,
                        blob: self.compress(&layer.blob)?,
                        media_type: layer_media_type(Compression::Gzip).to_owned(),
                    };
                    layers.lock().unwrap_or_else(PoisonError::into_inner)[at] = made;
                }
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
            let ended = threads.into_iter().map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            ended
                .collect::<Vec<Result<()>>>()
                .into_iter()
                .collect::<Result<()>>()
        })?;
        let layers = layers.into_inner().unwrap_or_else(PoisonError::into_inner);
        let size = self.blob_size(&image.id)?;
        let size = size.ok_or(Error::Missing {
            what: "blob",
            digest: image.id,
        })?;
        self.put_manifest(
            Blob {
                digest: image.id,
                size,
            },
            &layers,
        )
    }

    fn compress(&self, blob: &Blob) -> Result<Blob> {
        let path = self.blob_path(&blob.digest);
        let mut input = BufReader::with_capacity(INPUT_BYTES, self.open_blob(&blob.digest)?);
        let mut encoder = GzEncoder::new(self.blob_writer()?, Level::new(LEVEL));
        io::copy(&mut input, &mut encoder).at("compress blob", &path)?;
        let mut writer = encoder.finish().at("compress blob", &path)?;
        writer.flush().at("compress blob", &path)?;
        writer.commit(&Expected::default())
    }
}
