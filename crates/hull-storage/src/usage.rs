//! What the store takes on the disk: blocks, as `du` counts them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hull_model::Digest;

use crate::error::{At, Result};
use crate::store::{SPLIT_SUFFIX, Store};

/// The unit of a file's `st_blocks`, in bytes, whatever the file system's own is.
const STAT_BLOCK_BYTES: u64 = 512;

/// Bytes on the disk, by what they are for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// Of each blob.
    pub blobs: BTreeMap<Digest, u64>,
    /// Of each layer image.
    pub layers: BTreeMap<Digest, u64>,
    /// Of what is half done or on its way out.
    pub unfinished: u64,
}

impl Usage {
    /// All of it.
    pub fn total(&self) -> u64 {
        let blobs: u64 = self.blobs.values().sum();
        let layers: u64 = self.layers.values().sum();
        blobs + layers + self.unfinished
    }
}

impl Store {
    /// Counts what the store takes: one look at each file, none into it.
    pub fn usage(&self) -> Result<Usage> {
        let digests = |sizes: Vec<(String, u64)>, suffix: &str| {
            let digest = |(name, bytes): (String, u64)| {
                let digest = format!("sha256:{}", name.strip_suffix(suffix)?).parse();
                Some((digest.ok()?, bytes))
            };
            sizes.into_iter().filter_map(digest).collect()
        };
        let mut blobs = on_disk(&self.blobs_dir())?;
        for (name, _) in &mut blobs {
            name.truncate(name.trim_end_matches(SPLIT_SUFFIX).len());
        }
        Ok(Usage {
            blobs: digests(blobs, ""),
            layers: digests(on_disk(&self.layers_dir())?, ".erofs"),
            unfinished: on_disk(&self.ingest_dir())?
                .iter()
                .map(|(_, bytes)| bytes)
                .sum(),
        })
    }
}

/// The names in a folder and the bytes that each takes.
fn on_disk(dir: &Path) -> Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        match entry.metadata() {
            Ok(metadata) => files.push((
                entry.file_name().to_string_lossy().into_owned(),
                metadata.blocks() * STAT_BLOCK_BYTES,
            )),
            // Removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).at("stat", &entry.path()),
        }
    }
    Ok(files)
}
