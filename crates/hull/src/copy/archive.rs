//! A layout in one file: the archives of `docker save` and `skopeo copy`.
//!
//! ```text
//!  read    headers once ─▶ member ─▶ where its bytes lie; Docker's own index becomes a manifest
//!  write   each blob its place in the file when its size is known: several come at a time
//!          index.json, manifest.json, oci-layout last; then the file gets its name
//! ```
//!
//! What is written is both at once, as `docker save` makes it: Docker's loaders find
//! `manifest.json`, all others `index.json`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hull_model::Digest;
use hull_os::durable::{self, Durability};
use hull_registry::MANIFEST_BYTES_MAX;
use hull_storage::image::{
    CONFIG_TYPES, Descriptor, DockerImage, MANIFEST_TYPES, Manifest, Reference, layer_media_type,
};
use hull_storage::tar::{self, Entry, EntryKind};
use hull_storage::{Blob, Compression, Hasher};
use serde_json::Map;

use super::layout::{Partial, blob_name, failed};
use super::{CopyError, Result};

/// Bytes that are read at once while an archive is looked through.
const READ_BYTES: usize = 1 << 20;
/// Files and links in one archive.
const MEMBERS_MAX: usize = 100_000;
/// Links to links that are followed.
const LINKS_FOLLOWED_MAX: usize = 8;
/// Bytes by which the format of a layer is known.
const MAGIC_BYTES: usize = 8;
/// Docker's own index.
const DOCKER_INDEX: &str = "manifest.json";

/// Where the bytes of a member lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// An archive that is read or written.
#[derive(Debug)]
pub(super) struct Archive {
    file: File,
    path: PathBuf,
    contents: Mutex<Contents>,
    /// Of one that is written: what it is called until it is whole.
    partial: Option<Partial>,
}

#[derive(Debug, Default)]
struct Contents {
    members: BTreeMap<String, Extent>,
    /// What is not in the file, or not yet.
    documents: BTreeMap<String, Vec<u8>>,
    /// Where the next member goes.
    end: u64,
}

impl Archive {
    /// Looks through an archive.
    pub(super) fn open(path: &Path) -> Result<Archive> {
        let file = File::open(path).map_err(failed("open", path))?;
        let mut start = [0; MAGIC_BYTES];
        let len = file.read_at(&mut start, 0).map_err(failed("read", path))?;
        if Compression::detect(&start[..len]) != Compression::None {
            return Err(bad(path, "it is compressed; decompress it first"));
        }
        let members = members_of(&file, path)?;
        let contents = Contents {
            members,
            ..Contents::default()
        };
        Ok(Archive {
            file,
            path: path.to_owned(),
            contents: Mutex::new(contents),
            partial: None,
        })
    }

    /// Starts an archive, which has its name when it is whole.
    pub(super) fn make(path: &Path) -> Result<Archive> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let partial = Partial(path.with_file_name(name));
        let file = File::create(&partial.0).map_err(failed("make", &partial.0))?;
        Ok(Archive {
            file,
            path: path.to_owned(),
            contents: Mutex::default(),
            partial: Some(partial),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has(&self, member: &str) -> bool {
        let contents = self.contents();
        contents.members.contains_key(member) || contents.documents.contains_key(member)
    }

    /// Where a member lies, and the file.
    pub(super) fn extent(&self, member: &str) -> std::io::Result<(File, Extent)> {
        let extent = self.contents().members.get(member).copied();
        let extent = extent.ok_or(std::io::ErrorKind::NotFound)?;
        Ok((self.file.try_clone()?, extent))
    }

    /// A member that is a document, within the limit of registries.
    pub(super) fn read(&self, member: &str) -> Result<Vec<u8>> {
        if let Some(document) = self.contents().documents.get(member) {
            return Ok(document.clone());
        }
        let found = self.extent(member);
        let (file, extent) = found.map_err(failed("read", &self.path.join(member)))?;
        if extent.len > MANIFEST_BYTES_MAX {
            let problem = format!("{member} is larger than {MANIFEST_BYTES_MAX} bytes");
            return Err(bad(&self.path, &problem));
        }
        let mut bytes = vec![0; usize::try_from(extent.len).unwrap_or_default()];
        file.read_exact_at(&mut bytes, extent.start)
            .map_err(failed("read", &self.path.join(member)))?;
        Ok(bytes)
    }

    /// Keeps a document until the end: it may be replaced until then.
    pub(super) fn put_document(&self, member: &str, bytes: &[u8]) {
        let mut contents = self.contents();
        contents.documents.insert(member.to_owned(), bytes.to_vec());
    }

    /// Gives a member of that size its place.
    pub(super) fn reserve(&self, member: &str, size: u64) -> Result<Extent> {
        let head = tar::head(&Entry {
            path: member.as_bytes().to_vec(),
            kind: EntryKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: tar::Timestamp::default(),
            size,
            xattrs: Vec::new(),
        });
        let at = {
            let mut contents = self.contents();
            let at = contents.end;
            let whole = (head.len() as u64 + size).next_multiple_of(tar::BLOCK_BYTES as u64);
            contents.end += whole;
            at
        };
        self.write_at(&head, at)?;
        let start = at + head.len() as u64;
        Ok(Extent { start, len: size })
    }

    pub(super) fn write_at(&self, bytes: &[u8], at: u64) -> Result<()> {
        let written = self.file.write_all_at(bytes, at);
        written.map_err(failed("write", &self.path))
    }

    /// A member is there when its bytes are.
    pub(super) fn add(&self, member: String, extent: Extent) {
        self.contents().members.insert(member, extent);
    }

    /// Writes what comes last, and gives the file its name.
    pub(super) fn finish(&self) -> Result<()> {
        let Some(partial) = &self.partial else {
            return Ok(());
        };
        let documents = self.contents().documents.clone();
        for (name, bytes) in documents {
            let extent = self.reserve(&name, bytes.len() as u64)?;
            self.write_at(&bytes, extent.start)?;
        }
        // Two empty blocks are the end; what is not written is zero.
        let end = self.contents().end + 2 * tar::BLOCK_BYTES as u64;
        self.file
            .set_len(end)
            .map_err(failed("write", &self.path))?;
        durable::publish(&partial.0, &self.path, Durability::Synced)
            .map_err(failed("name", &self.path))
    }

    /// Docker's index with one image, for its loaders.
    pub(super) fn put_docker_index(&self, name: &str, manifest: &Manifest) -> Result<()> {
        let image = DockerImage {
            config: blob_name(&manifest.config.digest),
            repo_tags: (!name.is_empty()).then(|| vec![name.to_owned()]),
            layers: manifest
                .layers
                .iter()
                .map(|layer| blob_name(&layer.digest))
                .collect(),
        };
        let text =
            serde_json::to_vec(&[image]).map_err(|cause| bad(&self.path, &cause.to_string()))?;
        self.put_document(DOCKER_INDEX, &text);
        Ok(())
    }

    /// The manifest of an image of Docker's index: the archive's own where it has one, else one
    /// that is made here of what the index names.
    pub(super) fn docker_image(&self, name: &str) -> Result<Digest> {
        let text = self.read(DOCKER_INDEX)?;
        let images: Vec<DockerImage> = serde_json::from_slice(&text)
            .map_err(|cause| bad(&self.path, &format!("{DOCKER_INDEX}: {cause}")))?;
        let image = self.choose(images, name)?;
        let config = self.read(&image.config)?;
        let config = Blob {
            digest: Hasher::digest(&config),
            size: config.len() as u64,
        };
        if let Some(own) = self.manifest_of(&config.digest) {
            return Ok(own);
        }
        self.alias(&image.config, &config.digest)?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let (kind, blob) = self.hashed(layer)?;
            self.alias(layer, &blob.digest)?;
            layers.push(Descriptor::new(kind, blob));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST_TYPES[0].to_owned(),
            config: Descriptor::new(CONFIG_TYPES[0], config),
            layers,
            other: Map::new(),
        };
        let text =
            serde_json::to_vec(&manifest).map_err(|cause| bad(&self.path, &cause.to_string()))?;
        let digest = Hasher::digest(&text);
        self.put_document(&blob_name(&digest), &text);
        Ok(digest)
    }

    /// The image of that name; no name: the only one.
    fn choose(&self, images: Vec<DockerImage>, name: &str) -> Result<DockerImage> {
        let tags = |image: &DockerImage| image.repo_tags.clone().unwrap_or_default();
        let known: Vec<String> = images.iter().flat_map(tags).collect();
        let wanted = name.parse::<Reference>().map(Reference::with_default_tag);
        let fits = |image: &DockerImage| {
            name.is_empty()
                || tags(image).iter().any(|tag| match (&wanted, tag.parse()) {
                    (Ok(wanted), Ok(tag)) => *wanted == tag,
                    _ => false,
                })
        };
        let mut found: Vec<DockerImage> = images.into_iter().filter(fits).collect();
        match (found.pop(), found.is_empty()) {
            (Some(image), true) => Ok(image),
            _ => Err(CopyError::NoSuchName {
                path: self.path.clone(),
                name: name.to_owned(),
                known,
            }),
        }
    }

    /// The manifest that the archive itself has for a configuration.
    fn manifest_of(&self, config: &Digest) -> Option<Digest> {
        let index = self.read("index.json").ok()?;
        let index: hull_storage::image::Index = serde_json::from_slice(&index).ok()?;
        let fits = |digest: &Digest| {
            let text = self.read(&blob_name(digest)).ok()?;
            let manifest: Manifest = serde_json::from_slice(&text).ok()?;
            (manifest.config.digest == *config).then_some(())
        };
        let digests = index.manifests.iter().map(|entry| entry.digest);
        digests.into_iter().find(|digest| fits(digest).is_some())
    }

    /// Lets a member be found by its digest too.
    fn alias(&self, member: &str, digest: &Digest) -> Result<()> {
        let (_, extent) = self
            .extent(member)
            .map_err(failed("read", &self.path.join(member)))?;
        self.add(blob_name(digest), extent);
        Ok(())
    }

    /// What a layer is, and its digest.
    fn hashed(&self, member: &str) -> Result<(&'static str, Blob)> {
        let path = self.path.join(member);
        let (file, extent) = self.extent(member).map_err(failed("read", &path))?;
        let mut hasher = Hasher::default();
        let mut bytes = vec![0; READ_BYTES];
        let (mut at, mut compression) = (0, Compression::None);
        while at < extent.len {
            let wanted = usize::try_from(extent.len - at).map_or(READ_BYTES, |l| l.min(READ_BYTES));
            let piece = &mut bytes[..wanted];
            file.read_exact_at(piece, extent.start + at)
                .map_err(failed("read", &path))?;
            if at == 0 {
                compression = Compression::detect(piece);
            }
            hasher.update(piece);
            at += wanted as u64;
        }
        let (digest, size) = hasher.finish();
        Ok((layer_media_type(compression), Blob { digest, size }))
    }
}

/// Where each member lies; links are followed.
fn members_of(file: &File, path: &Path) -> Result<BTreeMap<String, Extent>> {
    let clone = file.try_clone().map_err(failed("open", path))?;
    let mut reader = tar::Reader::new(BufReader::with_capacity(READ_BYTES, clone));
    let mut members = BTreeMap::new();
    let mut links = BTreeMap::new();
    let damaged = |error: hull_storage::Error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        bad(
            path,
            &[Some(error.to_string()), cause]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(": "),
        )
    };
    while let Some(entry) = reader.next_entry().map_err(damaged)? {
        if members.len() + links.len() >= MEMBERS_MAX {
            return Err(bad(
                path,
                &format!("it has more than {MEMBERS_MAX} members"),
            ));
        }
        let name = String::from_utf8_lossy(&entry.path).into_owned();
        let name = name.trim_start_matches("./").to_owned();
        match &entry.kind {
            EntryKind::File => {
                let (start, len) = (reader.position(), entry.size);
                members.insert(name, Extent { start, len });
            }
            EntryKind::Symlink(target) => {
                let target = String::from_utf8_lossy(target).into_owned();
                links.insert(name.clone(), beside(&name, &target));
            }
            EntryKind::HardLink(target) => {
                let target = String::from_utf8_lossy(target).into_owned();
                links.insert(name, target);
            }
            _ => {}
        }
    }
    for (name, target) in &links {
        let mut target = target;
        for _ in 0..LINKS_FOLLOWED_MAX {
            let Some(next) = links.get(target) else { break };
            target = next;
        }
        if let Some(extent) = members.get(target).copied() {
            members.insert(name.clone(), extent);
        }
    }
    Ok(members)
}

/// Where a symbolic link in an archive leads, seen from the archive's root.
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn bad(path: &Path, problem: &str) -> CopyError {
    CopyError::Archive {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_where_a_shell_would_follow_them() {
        assert_eq!(beside("a/layer.tar", "../b/layer.tar"), "b/layer.tar");
        assert_eq!(beside("layer.tar", "./b//layer.tar"), "b/layer.tar");
        assert_eq!(beside("a/b/c", "../../../../d"), "d");
    }
}
