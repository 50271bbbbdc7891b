//! Saves images as one archive that is both a docker archive and an OCI layout, as `docker save`
//! makes it: old and new loaders each find their own index.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use hull_model::Digest;
use serde_json::Map;

use super::{
    Descriptor, DockerImage, INDEX_TYPES, ImageRecord, Index, MANIFEST_TYPES, Reference, to_json,
};
use crate::content::Blob;
use crate::error::{Error, Result};
use crate::store::Store;
use crate::tar::{Entry, EntryKind, Timestamp, Writer};

/// An image to be saved and the names it is saved under.
#[derive(Debug, Clone, Copy)]
pub struct SavedImage<'a> {
    /// The image.
    pub image: &'a ImageRecord,
    /// Its names; without one it is saved under its id only.
    pub references: &'a [Reference],
}

impl Store {
    /// Writes an archive with these images; a blob that several share is written once.
    ///
    /// # Errors
    /// `NotFound` when a blob is missing, because a layer was ingested without keeping it.
    pub fn save(&self, images: &[SavedImage<'_>], output: impl Write) -> Result<()> {
        let blobs: BTreeSet<Blob> = images.iter().flat_map(|saved| parts(saved.image)).collect();
        let mut archive = Archive {
            writer: Writer::new(output),
        };
        archive.directory("blobs/")?;
        archive.directory("blobs/sha256/")?;
        for blob in blobs {
            archive.blob(self, blob)?;
        }
        archive.document("index.json", &to_json(&index_of(images), "index.json")?)?;
        archive.document(
            "manifest.json",
            &to_json(&docker_images(images), "manifest.json")?,
        )?;
        archive.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.writer.finish().map_err(output_error)?;
        Ok(())
    }
}

fn parts(image: &ImageRecord) -> Vec<Blob> {
    let mut blobs: Vec<Blob> = image.layers.iter().map(|layer| layer.blob).collect();
    // The size of the configuration is not in the record; it is looked up when it is written.
    blobs.push(Blob {
        digest: image.id,
        size: 0,
    });
    blobs.push(image.manifest);
    blobs
}

fn index_of(images: &[SavedImage<'_>]) -> Index {
    let mut manifests = Vec::new();
    for saved in images {
        let plain = Descriptor::new(MANIFEST_TYPES[0], saved.image.manifest);
        if saved.references.is_empty() {
            manifests.push(plain.clone());
        }
        for reference in saved.references {
            let mut annotations = BTreeMap::new();
            annotations.insert("io.containerd.image.name".to_owned(), reference.to_string());
            if let Some(tag) = reference.tag() {
                annotations.insert(
                    "org.opencontainers.image.ref.name".to_owned(),
                    tag.to_owned(),
                );
            }
            manifests.push(Descriptor {
                annotations,
                ..plain.clone()
            });
        }
    }
    let media_type = INDEX_TYPES[0].to_owned();
    Index {
        schema_version: 2,
        media_type,
        manifests,
        other: Map::new(),
    }
}

fn docker_images(images: &[SavedImage<'_>]) -> Vec<DockerImage> {
    let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let describe = |saved: &SavedImage<'_>| {
        let tags: Vec<String> = saved.references.iter().map(Reference::familiar).collect();
        DockerImage {
            config: path(&saved.image.id),
            repo_tags: (!tags.is_empty()).then_some(tags),
            layers: saved
                .image
                .layers
                .iter()
                .map(|layer| path(&layer.blob.digest))
                .collect(),
        }
    };
    images.iter().map(describe).collect()
}

struct Archive<W> {
    writer: Writer<W>,
}

impl<W: Write> Archive<W> {
    fn directory(&mut self, path: &str) -> Result<()> {
        let entry = entry(path, EntryKind::Directory, 0o755, 0);
        self.writer
            .append(&entry, io::empty())
            .map_err(output_error)
    }

    fn document(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let entry = entry(path, EntryKind::File, 0o644, bytes.len() as u64);
        self.writer.append(&entry, bytes).map_err(output_error)
    }

    fn blob(&mut self, store: &Store, blob: Blob) -> Result<()> {
        let bytes = store.open_blob(&blob.digest)?;
        let size = bytes.size();
        let name = format!("blobs/sha256/{}", blob.digest.hex());
        let entry = entry(&name, EntryKind::File, 0o644, size);
        self.writer.append(&entry, bytes).map_err(output_error)
    }
}

fn entry(path: &str, kind: EntryKind, mode: u16, size: u64) -> Entry {
    Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode,
        uid: 0,
        gid: 0,
        modified: Timestamp::default(),
        size,
        xattrs: Vec::new(),
    }
}

fn output_error(cause: io::Error) -> Error {
    Error::Output {
        what: "image archive",
        cause,
    }
}
