//! An OCI image layout: blobs and an index of names, in a folder or in one file (`archive.rs`).
//!
//! Blobs are written under a name of their own and get their right one when they are whole and
//! checked; the index is replaced as a whole, so that a copy that breaks off leaves only blobs that
//! nothing names.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use hull_model::Digest;
use hull_os::durable::{self, Durability};
use hull_registry::{Error, Fetched, MANIFEST_BYTES_MAX, Pieces, Source};
use hull_storage::Hasher;
use hull_storage::image::{Descriptor, INDEX_TYPES, Index};
use serde_json::Map;
use tokio::sync::mpsc;

use super::archive::{Archive, Extent};
use super::{CopyError, Result, malformed};

/// What has a name in an index.
const NAME: &str = "org.opencontainers.image.ref.name";
/// What is where in a layout.
const INDEX: &str = "index.json";
const BLOBS: &str = "blobs/sha256";
const MARKER: (&str, &[u8]) = ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
/// Bytes that are read from a blob at once.
const READ_BYTES: usize = 512 << 10;
const FILE_MODE: u32 = 0o644;

/// Blobs and an index of names: a folder, or an archive.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Folder(PathBuf),
    /// As Docker's clients see it, or as the OCI describes it.
    Archive(Arc<Archive>, Form),
}

/// Whose index of an archive counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Docker,
    Oci,
}

impl Layout {
    /// A folder to read.
    pub(crate) fn open(root: &Path) -> Layout {
        let place = Place::Folder(root.to_owned());
        Layout { place }
    }

    /// A folder to write to, made where there is none.
    pub(crate) fn make(root: &Path) -> Result<Layout> {
        let blobs = root.join(BLOBS);
        fs::create_dir_all(&blobs).map_err(failed("make", &blobs))?;
        let layout = Layout::open(root);
        if !root.join(MARKER.0).exists() {
            layout.replace(MARKER.0, MARKER.1)?;
        }
        Ok(layout)
    }

    /// An archive to read.
    pub(crate) fn open_archive(path: &Path, form: Form) -> Result<Layout> {
        let place = Place::Archive(Arc::new(Archive::open(path)?), form);
        Ok(Layout { place })
    }

    /// An archive to write; it is there after [`Layout::finish`].
    pub(crate) fn make_archive(path: &Path, form: Form) -> Result<Layout> {
        let archive = Archive::make(path)?;
        archive.put_document(MARKER.0, MARKER.1);
        let place = Place::Archive(Arc::new(archive), form);
        Ok(Layout { place })
    }

    /// Whether it can have one image only.
    pub(super) fn is_of_one(&self) -> bool {
        matches!(self.place, Place::Archive(_, Form::Docker))
    }

    /// Nothing comes any more.
    pub(super) fn finish(&self) -> Result<()> {
        match &self.place {
            Place::Folder(_) => Ok(()),
            Place::Archive(archive, _) => archive.finish(),
        }
    }

    fn path(&self) -> &Path {
        match &self.place {
            Place::Folder(root) => root,
            Place::Archive(archive, _) => archive.path(),
        }
    }

    fn has(&self, member: &str) -> bool {
        match &self.place {
            Place::Folder(root) => root.join(member).exists(),
            Place::Archive(archive, _) => archive.has(member),
        }
    }

    fn read(&self, member: &str) -> Result<Vec<u8>> {
        match &self.place {
            Place::Folder(root) => read(&root.join(member)),
            Place::Archive(archive, _) => archive.read(member),
        }
    }

    fn replace(&self, member: &str, bytes: &[u8]) -> Result<()> {
        match &self.place {
            Place::Folder(root) => replace(&root.join(member), bytes),
            Place::Archive(archive, _) => {
                archive.put_document(member, bytes);
                Ok(())
            }
        }
    }

    /// The bytes of a member.
    fn extent(&self, member: &str) -> io::Result<(File, Extent)> {
        match &self.place {
            Place::Folder(root) => {
                let file = File::open(root.join(member))?;
                let len = file.metadata()?.len();
                Ok((file, Extent { start: 0, len }))
            }
            Place::Archive(archive, _) => archive.extent(member),
        }
    }

    fn index(&self) -> Result<Index> {
        let bytes = self.read(INDEX)?;
        serde_json::from_slice(&bytes)
            .map_err(|cause| malformed("index.json", Hasher::digest(&bytes), cause.to_string()))
    }

    /// What a name stands for; no name: the only entry that is no referrer.
    pub(super) fn named(&self, name: &str) -> Result<Fetched> {
        if let Place::Archive(archive, Form::Docker) = &self.place {
            let digest = archive.docker_image(name)?;
            return self.manifest(&digest);
        }
        let index = self.index()?;
        let of = |entry: &Descriptor| entry.annotations.get(NAME).cloned().unwrap_or_default();
        let known: Vec<String> = index.manifests.iter().map(of).collect();
        let all = index.manifests.iter();
        let fits: Vec<&Descriptor> = match name {
            "" if index.manifests.len() == 1 => all.collect(),
            // Referrers have no name.
            "" => all.filter(|entry| !of(entry).is_empty()).collect(),
            name => all.filter(|entry| of(entry) == name).collect(),
        };
        let [entry] = fits[..] else {
            return Err(CopyError::NoSuchName {
                path: self.path().to_owned(),
                name: name.to_owned(),
                known,
            });
        };
        self.manifest(&entry.digest)
    }

    pub(super) fn manifest(&self, digest: &Digest) -> Result<Fetched> {
        let bytes = self.read(&blob_name(digest))?;
        let actual = Hasher::digest(&bytes);
        if actual != *digest {
            return Err(malformed(
                "manifest",
                *digest,
                format!("its bytes are {actual}"),
            ));
        }
        Ok(Fetched {
            bytes: bytes.into(),
            media_type: String::new(),
            digest: *digest,
        })
    }

    /// What the index names without a name and refers to a manifest.
    pub(super) fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let mut found = Vec::new();
        if !self.has(INDEX) {
            return Ok(found);
        }
        for entry in self.index()?.manifests {
            let fetched = self.manifest(&entry.digest)?;
            if super::describe(&fetched)?.subject == Some(*subject) {
                found.push(entry);
            }
        }
        Ok(found)
    }

    pub(super) fn has_blob(&self, part: &Descriptor) -> bool {
        let found = self.extent(&blob_name(&part.digest));
        found.is_ok_and(|(_, extent)| extent.len == part.size)
    }

    pub(super) fn source(&self, digest: &Digest) -> Source {
        let (layout, member) = (self.clone(), blob_name(digest));
        Arc::new(move |offset| pieces_of(layout.extent(&member), offset))
    }

    /// Writes a blob as it comes; it is there when it is whole and what it should be.
    pub(super) async fn take_blob(
        &self,
        part: &Descriptor,
        mut pieces: Pieces,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let sink = Sink::new(self, part)?;
        let mut hasher = Hasher::default();
        let mut so_far = 0;
        while let Some(piece) = pieces.recv().await {
            let piece = piece?;
            if so_far + piece.len() as u64 > part.size {
                let problem = format!("it has more than its {} bytes", part.size);
                return Err(malformed("blob", part.digest, problem));
            }
            sink.write(&piece, so_far)?;
            hasher.update(&piece);
            so_far += piece.len() as u64;
            sent(so_far);
        }
        let (actual, _) = hasher.finish();
        if actual != part.digest {
            return Err(malformed(
                "blob",
                part.digest,
                format!("its bytes are {actual}"),
            ));
        }
        sink.publish()
    }

    pub(super) fn put_blob(&self, bytes: &Bytes) -> Result<Digest> {
        let digest = Hasher::digest(bytes);
        self.replace(&blob_name(&digest), bytes)?;
        Ok(digest)
    }

    /// Names a manifest in the index; without a name: lists it there, once.
    pub(super) fn name(&self, name: &str, bytes: &Bytes, kind: &str) -> Result<()> {
        let digest = self.put_blob(bytes)?;
        if let Place::Archive(archive, Form::Docker) = &self.place {
            let manifest = serde_json::from_slice(bytes)
                .map_err(|cause| malformed("manifest", digest, cause.to_string()))?;
            archive.put_docker_index(name, &manifest)?;
        }
        let mut index = match self.has(INDEX) {
            true => self.index()?,
            false => Index {
                schema_version: 2,
                media_type: INDEX_TYPES[0].to_owned(),
                manifests: Vec::new(),
                other: Map::new(),
            },
        };
        let mut entry = Descriptor::new(
            kind,
            hull_storage::Blob {
                digest,
                size: bytes.len() as u64,
            },
        );
        match name {
            "" => index.manifests.retain(|other| other.digest != digest),
            name => {
                index
                    .manifests
                    .retain(|other| other.annotations.get(NAME).is_none_or(|n| n != name));
                entry.annotations.insert(NAME.to_owned(), name.to_owned());
            }
        }
        index.manifests.push(entry);
        let text = serde_json::to_vec(&index)
            .map_err(|cause| malformed("index", digest, cause.to_string()))?;
        self.replace(INDEX, &text)
    }
}

/// Where the bytes of one blob go.
enum Sink<'a> {
    File {
        file: File,
        partial: Partial,
        path: PathBuf,
    },
    Member {
        archive: &'a Archive,
        name: String,
        extent: Extent,
    },
}

impl<'a> Sink<'a> {
    fn new(layout: &'a Layout, part: &Descriptor) -> Result<Self> {
        let name = blob_name(&part.digest);
        match &layout.place {
            Place::Folder(root) => {
                let partial = Partial(root.join(BLOBS).join(format!(".{}", part.digest.hex())));
                let file = File::create(&partial.0).map_err(failed("make", &partial.0))?;
                let path = root.join(name);
                Ok(Sink::File {
                    file,
                    partial,
                    path,
                })
            }
            Place::Archive(archive, _) => Ok(Sink::Member {
                extent: archive.reserve(&name, part.size)?,
                archive,
                name,
            }),
        }
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        match self {
            Sink::File { file, partial, .. } => file
                .write_all_at(bytes, at)
                .map_err(failed("write", &partial.0)),
            Sink::Member {
                archive, extent, ..
            } => archive.write_at(bytes, extent.start + at),
        }
    }

    fn publish(self) -> Result<()> {
        match self {
            Sink::File { partial, path, .. } => {
                durable::publish(&partial.0, &path, Durability::Synced)
                    .map_err(failed("name", &path))
            }
            Sink::Member {
                archive,
                name,
                extent,
            } => {
                archive.add(name, extent);
                Ok(())
            }
        }
    }
}

/// A file that goes unless it gets another name.
#[derive(Debug)]
pub(super) struct Partial(pub(super) PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // It is not there when it was published.
        let _ = fs::remove_file(&self.0);
    }
}

/// Where a blob lies.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("{BLOBS}/{}", digest.hex())
}

pub(super) fn failed(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CopyError {
    let path = path.to_owned();
    move |cause| CopyError::File { step, path, cause }
}

fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    durable::replace_file(path, bytes, FILE_MODE, Durability::Synced).map_err(failed("write", path))
}

/// Reads a document within the limit of registries.
fn read(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(failed("open", path))?;
    let mut bytes = Vec::new();
    let mut limited = file.take(MANIFEST_BYTES_MAX + 1);
    limited
        .read_to_end(&mut bytes)
        .map_err(failed("read", path))?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        let problem = format!("it is larger than {MANIFEST_BYTES_MAX} bytes");
        return Err(malformed("document", Hasher::digest(&bytes), problem));
    }
    Ok(bytes)
}

fn pieces_of(opened: io::Result<(File, Extent)>, offset: u64) -> Pieces {
    let (sender, pieces) = mpsc::channel(1);
    // Ends with the file, or with whoever reads it.
    tokio::spawn(async move {
        let (file, extent) = match opened {
            Ok(opened) => opened,
            Err(cause) => return drop(sender.send(Err(Error::Source(cause))).await),
        };
        let mut at = offset;
        while at < extent.len {
            let left = usize::try_from(extent.len - at).unwrap_or(READ_BYTES);
            let mut bytes = vec![0; left.min(READ_BYTES)];
            let piece = match file.read_at(&mut bytes, extent.start + at) {
                Ok(0) => Err(Error::Source(io::ErrorKind::UnexpectedEof.into())),
                Ok(len) => {
                    bytes.truncate(len);
                    at += len as u64;
                    Ok(Bytes::from(bytes))
                }
                Err(cause) => Err(Error::Source(cause)),
            };
            let broken = piece.is_err();
            if sender.send(piece).await.is_err() || broken {
                return;
            }
        }
    });
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_replaced_and_referrers_are_listed_beside_it() {
        let dir = std::env::temp_dir().join(format!("hull-layout-{}", std::process::id()));
        let layout = Layout::make(&dir).expect("a layout");
        let manifest = |text: &str| Bytes::from(text.to_owned());
        let kind = "application/vnd.oci.image.manifest.v1+json";
        layout.name("a", &manifest("{}"), kind).expect("named");
        let one = manifest(r#"{"schemaVersion":2}"#);
        layout.name("a", &one, kind).expect("named again");
        let subject = Hasher::digest(&one);
        let text = format!(
            r#"{{"subject":{{"mediaType":"{kind}","digest":"{subject}","size":{}}}}}"#,
            one.len()
        );
        for _ in 0..2 {
            layout.name("", &manifest(&text), kind).expect("listed");
        }
        assert_eq!(layout.index().expect("index").manifests.len(), 2);
        assert_eq!(layout.named("").expect("the only name").digest, subject);
        assert_eq!(layout.referrers(&subject).expect("listed").len(), 1);
        assert!(matches!(
            layout.named("b"),
            Err(CopyError::NoSuchName { .. })
        ));
        fs::remove_dir_all(dir).expect("removed");
    }
}
