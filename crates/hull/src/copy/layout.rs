//! An OCI image layout: a folder of blobs and an index of names.
//!
//! Blobs are written under a name of their own and get their right one when they are whole and
//! checked; the index is replaced as a whole, so that a copy that breaks off leaves only blobs that
//! nothing names.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use hull_model::Digest;
use hull_os::durable::{self, Durability};
use hull_registry::{Error, Fetched, MANIFEST_BYTES_MAX, Pieces, Source};
use hull_storage::Hasher;
use hull_storage::image::{Descriptor, INDEX_TYPES, Index};
use serde_json::{Map, json};
use tokio::sync::mpsc;

use super::{CopyError, Result, malformed};

/// What has a name in an index.
const NAME: &str = "org.opencontainers.image.ref.name";
/// Bytes that are read from a blob at once.
const READ_BYTES: usize = 512 << 10;
const FILE_MODE: u32 = 0o644;

/// A folder in the form of the OCI image layout.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// A layout to read.
    pub(crate) fn open(root: &Path) -> Layout {
        let root = root.to_owned();
        Layout { root }
    }

    /// A layout to write to, made where there is none.
    pub(crate) fn make(root: &Path) -> Result<Layout> {
        let layout = Layout::open(root);
        let blobs = layout.blobs();
        fs::create_dir_all(&blobs).map_err(failed("make", &blobs))?;
        let marker = root.join("oci-layout");
        if !marker.exists() {
            replace(
                &marker,
                json!({"imageLayoutVersion": "1.0.0"})
                    .to_string()
                    .as_bytes(),
            )?;
        }
        Ok(layout)
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn index(&self) -> Result<Index> {
        let path = self.root.join("index.json");
        let bytes = read(&path)?;
        serde_json::from_slice(&bytes)
            .map_err(|cause| malformed("index.json", Hasher::digest(&bytes), cause.to_string()))
    }

    /// What a name stands for; no name: the only entry that is no referrer.
    pub(super) fn named(&self, name: &str) -> Result<Fetched> {
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
                path: self.root.clone(),
                name: name.to_owned(),
                known,
            });
        };
        self.manifest(&entry.digest)
    }

    pub(super) fn manifest(&self, digest: &Digest) -> Result<Fetched> {
        let bytes = read(&self.blob_path(digest))?;
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
        for entry in self.index()?.manifests {
            let fetched = self.manifest(&entry.digest)?;
            if super::describe(&fetched)?.subject == Some(*subject) {
                found.push(entry);
            }
        }
        Ok(found)
    }

    pub(super) fn has_blob(&self, part: &Descriptor) -> bool {
        fs::metadata(self.blob_path(&part.digest)).is_ok_and(|facts| facts.len() == part.size)
    }

    pub(super) fn source(&self, digest: &Digest) -> Source {
        let path = self.blob_path(digest);
        Arc::new(move |offset| pieces_of(path.clone(), offset))
    }

    /// Writes a blob as it comes; it is there when it is whole and what it should be.
    pub(super) async fn take_blob(
        &self,
        part: &Descriptor,
        mut pieces: Pieces,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let path = self.blob_path(&part.digest);
        let partial = Partial(self.blobs().join(format!(".{}", part.digest.hex())));
        let mut file = File::create(&partial.0).map_err(failed("make", &partial.0))?;
        let mut hasher = Hasher::default();
        let mut so_far = 0;
        while let Some(piece) = pieces.recv().await {
            let piece = piece?;
            file.write_all(&piece)
                .map_err(failed("write", &partial.0))?;
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
        durable::publish(&partial.0, &path, Durability::Synced).map_err(failed("name", &path))
    }

    pub(super) fn put_blob(&self, bytes: &Bytes) -> Result<Digest> {
        let digest = Hasher::digest(bytes);
        replace(&self.blob_path(&digest), bytes)?;
        Ok(digest)
    }

    /// Names a manifest in the index; without a name: lists it there, once.
    pub(super) fn name(&self, name: &str, bytes: &Bytes, kind: &str) -> Result<()> {
        let digest = self.put_blob(bytes)?;
        let mut index = match self.root.join("index.json").exists() {
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
        replace(&self.root.join("index.json"), &text)
    }
}

/// A file that goes unless it gets another name.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // It is not there when it was published.
        let _ = fs::remove_file(&self.0);
    }
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> CopyError {
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

fn pieces_of(path: PathBuf, offset: u64) -> Pieces {
    let (sender, pieces) = mpsc::channel(1);
    // Ends with the file, or with whoever reads it.
    tokio::spawn(async move {
        let opened = File::open(&path).and_then(|mut file| {
            file.seek(SeekFrom::Start(offset))?;
            Ok(file)
        });
        let mut file = match opened {
            Ok(file) => file,
            Err(cause) => return drop(sender.send(Err(Error::Source(cause))).await),
        };
        loop {
            let mut bytes = vec![0; READ_BYTES];
            let piece = match file.read(&mut bytes) {
                Ok(0) => return,
                Ok(len) => {
                    bytes.truncate(len);
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
