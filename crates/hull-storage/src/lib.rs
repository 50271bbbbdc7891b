//! Bytes at rest: blobs, images, layers.
//!
//! ```text
//! docker load, pull, import -> ingest_layer -> blobs/sha256/<hex>      the stream as it came
//!                                           -> layers/<hex>.erofs      mounted once per host,
//!                                                                      or unpacked once
//! ```
//!
//! Everything is immutable and named by its digest; what a name promises was checked before the
//! name was given. This crate knows no registry and keeps no table of images or tags: it turns
//! streams into files, files into mounts ([`LayerMounts`]) and documents into values. All functions
//! block.

#![forbid(unsafe_code)]

pub mod erofs;
pub mod image;
pub mod tar;
pub mod tree;

mod content;
mod error;
mod layer;
mod mounts;
mod plain;
mod store;
mod usage;
mod verify;
mod volume;

pub use content::{Blob, BlobReader, BlobWriter, Expected, Hasher};
pub use error::{Error, Result};
pub use layer::{
    Compression, EntryFault, IngestOptions, LAYER_BYTES_MAX, Layer, PATH_BYTES_MAX, decompress,
};
pub use mounts::{Backing, LayerMounts, MountError, Mounted};
pub use store::{Discarded, Partial, Store};
pub use usage::Usage;
pub use verify::Difference;
pub use volume::{
    Backing as VolumeBacking, OptionFault, VOLUME_BYTES_MIN, VOLUME_NAME_BYTES_MAX, VolumeError,
    Volumes,
};
