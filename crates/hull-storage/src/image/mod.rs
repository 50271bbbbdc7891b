//! Images: their names, their documents, and the archives they travel in.
//!
//! An image is a manifest that names a configuration and layers. Its id is the digest of the
//! configuration. Which name stands for which image is the engine's to remember; here are values.

mod change;
mod compress;
mod config;
mod docker_root;
mod load;
mod manifest;
mod platform;
mod reference;
mod save;

use std::collections::BTreeMap;
use std::io::Read;

use hull_model::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::content::Blob;
use crate::error::{Error, Result};
use crate::layer::{IngestOptions, Layer};
use crate::store::Store;

pub use change::{ChangeFault, apply_changes};
pub use config::{Empty, Healthcheck, History, ImageConfig, RootFs, RunConfig};
pub use load::{LoadOptions, LoadProgress, Loaded, LoadedImage};
pub use manifest::{
    CONFIG_TYPES, Descriptor, DockerImage, INDEX_TYPES, Index, MANIFEST_TYPES, Manifest,
    layer_media_type,
};
pub use platform::Platform;
pub use reference::{NAME_BYTES_MAX, Reference, ReferenceFault, TAG_BYTES_MAX};
pub use save::SavedImage;

/// Size of one JSON document of an image, in bytes: that of a registry's manifests.
pub const DOCUMENT_BYTES_MAX: u64 = 4 << 20;
/// Layers of one image: no more can be stacked by overlayfs.
pub const LAYERS_MAX: usize = 500;

/// An image whose parts are all in the store, and were checked against each other.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageRecord {
    /// The image's id: the digest of its configuration.
    pub id: Digest,
    /// The manifest.
    pub manifest: Blob,
    /// What the manifest is.
    pub manifest_type: String,
    /// The layers, the lowest first.
    pub layers: Vec<LayerRef>,
    /// The configuration.
    pub config: ImageConfig,
    /// Sizes of the layer images in bytes, in the order of `layers`.
    pub layer_sizes: Vec<u64>,
    /// Size of all layer images in bytes; a layer that comes twice counts once.
    pub size: u64,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRef {
    /// Names the layer image.
    pub diff_id: Digest,
    /// The stream that it was made of.
    pub blob: Blob,
    /// What that stream is.
    pub media_type: String,
}

impl From<&Layer> for LayerRef {
    fn from(layer: &Layer) -> Self {
        let media_type = layer_media_type(layer.compression).to_owned();
        Self {
            diff_id: layer.diff_id,
            blob: layer.blob,
            media_type,
        }
    }
}

/// How `import` makes an image of a tar.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ImportOptions {
    /// How to run it, see [`apply_changes`].
    pub config: RunConfig,
    /// For its history.
    pub message: String,
    /// What it runs on.
    pub platform: Platform,
    /// When it is made, RFC 3339: the clock is the caller's.
    pub created: String,
}

impl Store {
    /// Makes an image of one root file system, given as a tar stream, plain or compressed.
    pub fn import(&self, stream: impl Read + Send, options: ImportOptions) -> Result<ImageRecord> {
        let layer = self.ingest_layer(
            stream,
            &IngestOptions {
                keep_blob: true,
                ..IngestOptions::default()
            },
        )?;
        let history = History {
            created: Some(options.created.clone()),
            comment: options.message,
            ..History::default()
        };
        let config = ImageConfig {
            created: Some(options.created),
            architecture: options.platform.architecture,
            variant: options.platform.variant,
            os: options.platform.os,
            config: options.config,
            history: vec![history],
            ..ImageConfig::default()
        };
        self.put_image(config, &[LayerRef::from(&layer)])
    }

    /// Stores a new image of layers that are in the store; the configuration's list of diff ids
    /// is set to them.
    pub fn put_image(&self, mut config: ImageConfig, layers: &[LayerRef]) -> Result<ImageRecord> {
        config.rootfs.diff_ids = layers.iter().map(|layer| layer.diff_id).collect();
        let config = self.put_blob(&to_json(&config, "image configuration")?)?;
        self.put_manifest(config, layers)
    }

    /// Reads an image whose manifest is in the store and checks that nothing of it is missing.
    ///
    /// # Errors
    /// `NotFound` when a part is missing, `InvalidArgument` when the parts contradict each other.
    pub fn image(&self, manifest: &Digest) -> Result<ImageRecord> {
        let bytes = self.read_blob(manifest, DOCUMENT_BYTES_MAX, "manifest")?;
        let size = bytes.len() as u64;
        let blob = Blob {
            digest: *manifest,
            size,
        };
        let parsed: Manifest = from_json(&bytes, || format!("manifest {manifest}"))?;
        let id = parsed.config.digest;
        let config = self.read_blob(&id, DOCUMENT_BYTES_MAX, "image configuration")?;
        let config: ImageConfig = from_json(&config, || format!("image configuration {id}"))?;
        if config.rootfs.diff_ids.len() != parsed.layers.len() {
            let (promised, given) = (config.rootfs.diff_ids.len(), parsed.layers.len());
            let problem =
                format!("the configuration {id} has {promised} layers, its manifest {given}");
            return Err(Error::Archive { problem });
        }
        if parsed.layers.len() > LAYERS_MAX {
            let limit = LAYERS_MAX as u64;
            return Err(Error::Limit {
                what: "image",
                limit,
                unit: "layers",
            });
        }
        let diff_ids = config.rootfs.diff_ids.iter();
        let layers: Vec<LayerRef> = diff_ids
            .zip(parsed.layers)
            .map(|(&diff_id, layer)| LayerRef {
                diff_id,
                blob: layer.blob(),
                media_type: layer.media_type,
            })
            .collect();
        let layer_sizes = self.layer_sizes(&layers)?;
        let by_layer: BTreeMap<Digest, u64> = layers
            .iter()
            .zip(&layer_sizes)
            .map(|(layer, &size)| (layer.diff_id, size))
            .collect();
        let size = by_layer.values().sum();
        Ok(ImageRecord {
            id,
            manifest: blob,
            manifest_type: match parsed.media_type.as_str() {
                "" => MANIFEST_TYPES[0].to_owned(),
                media_type => media_type.to_owned(),
            },
            layer_sizes,
            layers,
            config,
            size,
        })
    }

    /// Writes the manifest of an image whose other parts are in the store.
    fn put_manifest(&self, config: Blob, layers: &[LayerRef]) -> Result<ImageRecord> {
        let describe = |layer: &LayerRef| Descriptor::new(&layer.media_type, layer.blob);
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST_TYPES[0].to_owned(),
            config: Descriptor::new(CONFIG_TYPES[0], config),
            layers: layers.iter().map(describe).collect(),
            other: serde_json::Map::new(),
        };
        let manifest = self.put_blob(&to_json(&manifest, "manifest")?)?;
        self.image(&manifest.digest)
    }

    fn layer_sizes(&self, layers: &[LayerRef]) -> Result<Vec<u64>> {
        let size = |layer: &LayerRef| {
            let digest = layer.diff_id;
            self.layer_size(&digest)?.ok_or(Error::Missing {
                what: "layer",
                digest,
            })
        };
        layers.iter().map(size).collect()
    }
}

fn from_json<T: DeserializeOwned>(bytes: &[u8], what: impl FnOnce() -> String) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|cause| Error::Json {
        what: what(),
        cause,
    })
}

fn to_json<T: Serialize>(value: &T, what: &str) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|cause| Error::Json {
        what: what.to_owned(),
        cause,
    })
}
