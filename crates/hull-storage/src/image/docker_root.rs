//! Takes over the images of a Docker data root: `overlay2` and its notes, read only.
//!
//! ```text
//! image/overlay2/repositories.json            names -> ids
//!               /imagedb/content/sha256/ID    configurations
//!               /layerdb/sha256/CHAIN/        diff, cache-id, tar-split.json.gz
//! overlay2/CACHE-ID/diff/                     the files of a layer
//! ```
//!
//! Docker keeps the headers of a layer's tar (`tar-split`) beside its files. Put together again they
//! are the very bytes that the layer came as, so digests and ids are Docker's. The manifest is not
//! among what Docker keeps: ours is new.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::bufread::GzDecoder;
use hull_model::Digest;
use serde::Deserialize;

use super::load::Watched;
use super::{
    DOCUMENT_BYTES_MAX, ImageConfig, ImageRecord, LayerRef, LoadProgress, Loaded, LoadedImage,
    Reference, from_json, layer_media_type,
};
use crate::content::{Blob, Hasher};
use crate::error::{At, Error, Result};
use crate::layer::{Compression, IngestOptions};
use crate::store::Store;

/// The only driver whose layers we read: Docker's default since 2017.
const DRIVER: &str = "overlay2";
/// Size of the list of names, in bytes.
const NAMES_BYTES_MAX: u64 = 64 << 20;
/// Size of a note of one line, in bytes.
const NOTE_BYTES_MAX: u64 = 256;

/// The list of names: by repository, then by reference.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Repositories {
    repositories: BTreeMap<String, BTreeMap<String, Digest>>,
}

/// A record of `tar-split`: bytes of the archive as they are, or the contents of a file.
#[derive(Debug, Deserialize)]
struct Record {
    #[serde(rename = "type")]
    kind: u32,
    #[serde(default)]
    name: String,
    /// The name in base64, where it is not UTF-8.
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    payload: Option<String>,
}

const KIND_FILE: u32 = 1;
const KIND_SEGMENT: u32 = 2;

impl Store {
    /// Takes over all images of a Docker data root, with their names.
    ///
    /// Docker may run meanwhile: what is read here never changes. An image that Docker removes at
    /// the same moment is an error.
    ///
    /// # Errors
    /// `InvalidArgument` when there is no such data root, or it is damaged.
    pub fn load_docker_root(
        &self,
        root: &Path,
        progress: &mut (dyn FnMut(LoadProgress<'_>) + Send),
    ) -> Result<Loaded> {
        let docker = DockerRoot {
            root,
            notes: root.join("image").join(DRIVER),
        };
        let ids = docker.ids()?;
        let names = docker.names()?;
        let mut images = Vec::new();
        for id in ids {
            let image = docker
                .image(self, &id, progress)
                .map_err(|error| error.of(format!("image {id}")))?;
            let references = names.get(&id).cloned().unwrap_or_default();
            images.push(LoadedImage { image, references });
        }
        Ok(Loaded {
            images,
            unneeded: Vec::new(),
        })
    }
}

/// Where Docker's things lie.
struct DockerRoot<'r> {
    root: &'r Path,
    notes: PathBuf,
}

impl DockerRoot<'_> {
    fn ids(&self) -> Result<Vec<Digest>> {
        let dir = self.notes.join("imagedb/content/sha256");
        let entries = fs::read_dir(&dir).map_err(|cause| Error::Input {
            what: "docker's images (of the driver overlay2)",
            cause,
        })?;
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.at("list", &dir)?.file_name();
            if let Ok(id) = format!("sha256:{}", name.to_string_lossy()).parse() {
                ids.push(id);
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// The names of each image, with tags and with digests.
    fn names(&self) -> Result<BTreeMap<Digest, Vec<Reference>>> {
        let bytes = read_small(&self.notes.join("repositories.json"), NAMES_BYTES_MAX)?;
        let all: Repositories = from_json(&bytes, || "docker's repositories.json".to_owned())?;
        let mut names: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
        for (name, id) in all.repositories.into_values().flatten() {
            names.entry(id).or_default().push(name.parse()?);
        }
        Ok(names)
    }

    fn image(
        &self,
        store: &Store,
        id: &Digest,
        progress: &mut (dyn FnMut(LoadProgress<'_>) + Send),
    ) -> Result<ImageRecord> {
        let path = self.notes.join("imagedb/content/sha256").join(id.hex());
        let bytes = read_small(&path, DOCUMENT_BYTES_MAX)?;
        let actual = Hasher::digest(&bytes);
        if actual != *id {
            return Err(Error::WrongDigest {
                what: "docker's configuration of the image",
                expected: *id,
                actual,
            });
        }
        let config: ImageConfig = from_json(&bytes, || format!("image configuration {id}"))?;
        let mut layers = Vec::new();
        let mut chain: Option<Digest> = None;
        for diff_id in &config.rootfs.diff_ids {
            let this = match chain {
                None => *diff_id,
                Some(below) => Hasher::digest(format!("{below} {diff_id}").as_bytes()),
            };
            chain = Some(this);
            let layer = self
                .layer(store, &this, diff_id, progress)
                .map_err(|error| error.of(format!("layer {diff_id}")))?;
            layers.push(layer);
        }
        let config = store.put_blob(&bytes)?;
        store.put_manifest(config, &layers)
    }

    fn layer(
        &self,
        store: &Store,
        chain: &Digest,
        diff_id: &Digest,
        progress: &mut (dyn FnMut(LoadProgress<'_>) + Send),
    ) -> Result<LayerRef> {
        let media_type = layer_media_type(Compression::None).to_owned();
        // It came before: the uncompressed tar is what it is named after.
        if let (true, Some(size)) = (store.has_layer(diff_id)?, store.blob_size(diff_id)?) {
            let digest = *diff_id;
            return Ok(LayerRef {
                diff_id: *diff_id,
                blob: Blob { digest, size },
                media_type,
            });
        }
        let notes = self.notes.join("layerdb/sha256").join(chain.hex());
        let cache = read_small(&notes.join("cache-id"), NOTE_BYTES_MAX)?;
        let cache = String::from_utf8_lossy(&cache).trim().to_owned();
        if cache.is_empty()
            || !cache
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            let problem = format!("docker's cache-id {cache:?} is none");
            return Err(Error::Archive { problem });
        }
        let records = notes.join("tar-split.json.gz");
        let files = self.root.join(DRIVER).join(cache).join("diff");
        let archive = Rebuilt {
            records: Records::new(File::open(&records).at("open", &records)?),
            files: File::open(&files).at("open", &files)?,
            current: Current::Bytes(io::Cursor::new(Vec::new())),
        };
        let name = diff_id.to_string();
        let watched = Watched::new(archive, &name, 0, progress);
        let options = IngestOptions {
            diff_id: Some(*diff_id),
            keep_blob: true,
            ..IngestOptions::default()
        };
        let layer = store.ingest_layer(watched, &options)?;
        Ok(LayerRef::from(&layer))
    }
}

fn read_small(path: &Path, max: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).at("open", path)?;
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .at("read", path)?;
    if bytes.len() as u64 > max {
        return Err(Error::Limit {
            what: "a file of docker's",
            limit: max,
            unit: "bytes",
        });
    }
    Ok(bytes)
}

/// The records of one layer, one after the other.
struct Records(
    serde_json::StreamDeserializer<
        'static,
        serde_json::de::IoRead<BufReader<GzDecoder<BufReader<File>>>>,
        Record,
    >,
);

impl Records {
    fn new(file: File) -> Self {
        let plain = BufReader::new(GzDecoder::new(BufReader::new(file)));
        Self(serde_json::Deserializer::from_reader(plain).into_iter())
    }
}

/// A layer's tar, put together of headers and files.
struct Rebuilt {
    records: Records,
    files: File,
    current: Current,
}

enum Current {
    Bytes(io::Cursor<Vec<u8>>),
    /// Contents, and the bytes that still have to come.
    File(File, u64, String),
}

impl Rebuilt {
    /// Goes to the next record; whether there was one.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(record) = self.records.0.next() else {
            return Ok(false);
        };
        let record = record.map_err(|cause| invalid(format!("docker's tar-split: {cause}")))?;
        let decode = |text: &str| {
            let bytes = STANDARD.decode(text);
            bytes.map_err(|cause| invalid(format!("docker's tar-split: {cause}")))
        };
        self.current = match record.kind {
            KIND_SEGMENT => {
                let bytes = decode(record.payload.as_deref().unwrap_or_default())?;
                Current::Bytes(io::Cursor::new(bytes))
            }
            KIND_FILE if record.size > 0 => {
                let name = match &record.name_raw {
                    Some(raw) => decode(raw)?,
                    None => record.name.into_bytes(),
                };
                let shown = String::from_utf8_lossy(&name).into_owned();
                let path = CString::new(name).map_err(|_| invalid(format!("{shown:?}: a NUL")))?;
                let file = hull_os::mount::open_file_in_root(self.files.as_fd(), &path)
                    .map_err(|cause| io::Error::new(cause.kind(), format!("{shown}: {cause}")))?;
                Current::File(file, record.size, shown)
            }
            KIND_FILE => Current::Bytes(io::Cursor::new(Vec::new())),
            other => {
                return Err(invalid(format!(
                    "docker's tar-split has a record of type {other}"
                )));
            }
        };
        Ok(true)
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl Read for Rebuilt {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let len = match &mut self.current {
                Current::Bytes(bytes) => bytes.read(buffer)?,
                Current::File(_, 0, _) => 0,
                Current::File(file, missing, name) => {
                    let max = usize::try_from(*missing)
                        .unwrap_or(usize::MAX)
                        .min(buffer.len());
                    let len = file.read(&mut buffer[..max])?;
                    if len == 0 && max > 0 {
                        return Err(invalid(format!("{name} is shorter than docker noted")));
                    }
                    *missing -= len as u64;
                    len
                }
            };
            if len > 0 || buffer.is_empty() || !self.advance()? {
                return Ok(len);
            }
        }
    }
}
