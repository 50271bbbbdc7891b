//! Loads images from an archive that comes as a stream: docker's format, OCI layouts, and both in
//! one, as `docker save` makes them.
//!
//! What a file in the archive is turns out only when its manifest comes, often last. So whatever
//! starts like a tar, compressed or not, is made a layer at once, and everything small is kept in
//! memory as a document. What no image needs in the end stays in the store until the engine's next
//! sweep: it cannot be removed here, because another load may just have found it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufReader, Read};

use hull_model::Digest;

use super::{
    CONFIG_TYPES, DOCUMENT_BYTES_MAX, Descriptor, DockerImage, INDEX_TYPES, ImageConfig,
    ImageRecord, Index, LAYERS_MAX, LayerRef, Manifest, Platform, Reference, from_json,
};
use crate::content::{Blob, Expected, Hasher};
use crate::error::{Error, Result};
use crate::layer::{Compression, IngestOptions, Layer, peek};
use crate::store::Store;
use crate::tar;

/// Bytes of the archive that are read at once.
const INPUT_BYTES: usize = 128 << 10;
/// All documents of one archive, in bytes.
const DOCUMENTS_BYTES_MAX: u64 = 64 << 20;
/// Files and links in one archive: many times what the largest one has.
const MEMBERS_MAX: usize = 100_000;
/// Length of a name in an archive, in bytes.
const MEMBER_NAME_BYTES_MAX: usize = 1024;
/// Links to links that are followed.
const LINKS_FOLLOWED_MAX: usize = 8;
/// Indexes in indexes that are followed.
const INDEX_DEPTH_MAX: usize = 4;
/// Progress is reported after so many bytes.
const PROGRESS_STEP_BYTES: u64 = 1 << 20;

const NAME_ANNOTATIONS: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// An image that was loaded and the names that the archive gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedImage {
    /// The image.
    pub image: ImageRecord,
    /// Its names, each with a tag.
    pub references: Vec<Reference>,
}

/// What came of an archive.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Loaded {
    /// Its images, in its order.
    pub images: Vec<LoadedImage>,
    /// Layers that came with it and that none of these images has.
    pub unneeded: Vec<Digest>,
}

/// Which of an archive's images are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoadOptions {
    /// For this platform, and no other; none: this machine's if there is one, else any.
    pub platform: Option<Platform>,
}

/// How far a layer has come.
#[derive(Debug, Clone, Copy)]
pub struct LoadProgress<'a> {
    /// Its name in the archive.
    pub file: &'a str,
    /// Bytes that were read.
    pub current: u64,
    /// Bytes in all.
    pub total: u64,
}

/// A file of the archive.
#[derive(Debug)]
enum Member {
    Document(Vec<u8>),
    Layer(Box<Layer>),
    Link(String),
    /// Neither a layer nor small.
    Large,
}

/// Who is told about progress.
pub(super) type Watcher<'w> = &'w mut (dyn FnMut(LoadProgress<'_>) + Send);

impl Store {
    /// Loads all images of an archive, plain or compressed with gzip, zstd, xz or bzip2.
    ///
    /// # Errors
    /// `InvalidArgument` when the archive is malformed or its parts are not what their names and
    /// digests promise; `NotFound` when it has nothing for the wanted platform. Layers that came
    /// before the fault stay until the engine's next sweep.
    pub fn load(
        &self,
        stream: impl Read + Send,
        options: &LoadOptions,
        progress: &mut (dyn FnMut(LoadProgress<'_>) + Send),
    ) -> Result<Loaded> {
        const WHAT: &str = "image archive";
        let (compression, stream) = peek(stream, WHAT)?;
        let input = compression
            .decoder(BufReader::with_capacity(INPUT_BYTES, stream))
            .map_err(|cause| Error::Input { what: WHAT, cause })?;
        let mut archive = tar::Reader::new(BufReader::with_capacity(INPUT_BYTES, input));
        let mut members = Members {
            wanted: options.platform.clone(),
            ..Members::default()
        };
        while let Some(entry) = archive.next_entry()? {
            members.add(self, &entry, &mut archive, progress)?;
        }
        // What follows is padding; a client that sends it must not find the door closed.
        io::copy(&mut archive.into_inner(), &mut io::sink())
            .map_err(|cause| Error::Input { what: WHAT, cause })?;
        let images = members.images(self)?;
        Ok(Loaded {
            unneeded: members.unneeded(&images),
            images,
        })
    }
}

/// The files of an archive by their normalised names.
#[derive(Debug, Default)]
struct Members {
    files: BTreeMap<String, Member>,
    document_bytes: u64,
    wanted: Option<Platform>,
}

impl Members {
    fn add<R: io::BufRead + Send>(
        &mut self,
        store: &Store,
        entry: &tar::Entry,
        archive: &mut tar::Reader<R>,
        progress: Watcher<'_>,
    ) -> Result<()> {
        let name = member_name(&entry.path);
        let member = match &entry.kind {
            tar::EntryKind::File => self.read_file(store, &name, entry.size, archive, progress)?,
            // Relative to the folder of the link, as older versions of docker write it.
            tar::EntryKind::Symlink(target) => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                let target = String::from_utf8_lossy(target);
                Member::Link(member_name(format!("{folder}/{target}").as_bytes()))
            }
            tar::EntryKind::HardLink(target) => Member::Link(member_name(target)),
            _ => return Ok(()),
        };
        if self.files.len() >= MEMBERS_MAX {
            let limit = MEMBERS_MAX as u64;
            return Err(Error::Limit {
                what: "image archive",
                limit,
                unit: "files",
            });
        }
        if name.len() > MEMBER_NAME_BYTES_MAX {
            let limit = MEMBER_NAME_BYTES_MAX as u64;
            return Err(Error::Limit {
                what: "name in an image archive",
                limit,
                unit: "bytes",
            });
        }
        self.files.insert(name, member);
        Ok(())
    }

    fn read_file<R: io::BufRead + Send>(
        &mut self,
        store: &Store,
        name: &str,
        size: u64,
        archive: &mut tar::Reader<R>,
        progress: Watcher<'_>,
    ) -> Result<Member> {
        let mut data = archive.data();
        let mut start = Vec::new();
        (&mut data)
            .take(tar::BLOCK_BYTES as u64)
            .read_to_end(&mut start)
            .map_err(|cause| Error::Input {
                what: "image archive",
                cause,
            })?;
        let compression = Compression::detect(&start);
        if compression != Compression::None || tar::starts_archive(&start) {
            let watched = Watched::new(start.chain(data), name, size, progress);
            let mut options = IngestOptions {
                keep_blob: true,
                ..IngestOptions::default()
            };
            options.blob.digest = digest_in_name(name);
            let layer = store
                .ingest_layer(watched, &options)
                .map_err(|error| error.of(format!("layer {name}")))?;
            return Ok(Member::Layer(Box::new(layer)));
        }
        if size > DOCUMENT_BYTES_MAX {
            return Ok(Member::Large);
        }
        self.document_bytes += size;
        if self.document_bytes > DOCUMENTS_BYTES_MAX {
            let limit = DOCUMENTS_BYTES_MAX;
            return Err(Error::Limit {
                what: "all documents of an archive",
                limit,
                unit: "bytes",
            });
        }
        data.read_to_end(&mut start).map_err(|cause| Error::Input {
            what: "image archive",
            cause,
        })?;
        Ok(Member::Document(start))
    }

    /// Puts together what the documents describe.
    fn images(&self, store: &Store) -> Result<Vec<LoadedImage>> {
        let mut loaded: Vec<LoadedImage> = Vec::new();
        if self.files.contains_key("index.json") {
            let index: Index = from_json(self.document("index.json")?, || "index.json".to_owned())?;
            for descriptor in &index.manifests {
                let references = annotated_names(descriptor)?;
                let image = self
                    .oci_image(store, descriptor, INDEX_DEPTH_MAX)
                    .map_err(|error| error.of_image(&references, &descriptor.digest.to_string()))?;
                if let Some(image) = image {
                    add_image(&mut loaded, LoadedImage { image, references });
                }
            }
        }
        if self.files.contains_key("manifest.json") {
            let images: Vec<DockerImage> = from_json(self.document("manifest.json")?, || {
                "manifest.json".to_owned()
            })?;
            for image in images {
                let references: Result<Vec<_>> = image
                    .repo_tags
                    .iter()
                    .flatten()
                    .map(|tag| tagged(tag))
                    .collect();
                let references = references?;
                let named = |error: Error| error.of_image(&references, &image.config);
                let bytes = self.document(&image.config).map_err(named)?;
                let id = Hasher::digest(bytes);
                let image = match loaded.iter().find(|known| known.image.id == id) {
                    Some(known) => known.image.clone(),
                    None => match self.docker_image(store, &image).map_err(named)? {
                        Some(image) => image,
                        None => continue,
                    },
                };
                add_image(&mut loaded, LoadedImage { image, references });
            }
        }
        if loaded.is_empty() {
            if let Some(platform) = &self.wanted {
                return Err(Error::NoPlatform {
                    platform: platform.to_string(),
                });
            }
            let problem = "it has neither a manifest.json nor an index.json with an image".into();
            return Err(Error::Archive { problem });
        }
        Ok(loaded)
    }

    /// The image that a descriptor of an OCI layout leads to; none when it leads to something
    /// else, such as an attestation, or to a platform that was left out.
    fn oci_image(
        &self,
        store: &Store,
        descriptor: &Descriptor,
        depth: usize,
    ) -> Result<Option<ImageRecord>> {
        let name = blob_name(&descriptor.digest);
        if !self.files.contains_key(&name) {
            return Ok(None);
        }
        let bytes = self.blob_document(descriptor)?;
        if INDEX_TYPES.contains(&descriptor.media_type.as_str()) {
            let index: Index = from_json(bytes, || name)?;
            if depth == 0 {
                let limit = INDEX_DEPTH_MAX as u64;
                return Err(Error::Limit {
                    what: "nesting of indexes",
                    limit,
                    unit: "levels",
                });
            }
            for candidate in by_preference(&index.manifests) {
                if let Some(image) = self.oci_image(store, candidate, depth - 1)? {
                    return Ok(Some(image));
                }
            }
            return Ok(None);
        }
        let manifest: Manifest = from_json(bytes, || name.clone())?;
        let here = |part: &Descriptor| self.files.contains_key(&blob_name(&part.digest));
        if !here(&manifest.config) || !manifest.layers.iter().all(here) {
            return Ok(None);
        }
        let config: ImageConfig =
            match from_json(self.blob_document(&manifest.config)?, || name.clone()) {
                Ok(config) => config,
                // An artifact with a configuration of its own kind.
                Err(_) if !CONFIG_TYPES.contains(&manifest.config.media_type.as_str()) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
        let names = manifest.layers.iter().map(|layer| blob_name(&layer.digest));
        let layers = self.check_layers(&config, &names.collect::<Vec<_>>(), &name)?;
        for (layer, promised) in layers.iter().zip(&manifest.layers) {
            Expected::from(promised.blob())
                .check("layer of the archive", layer.blob)
                .map_err(|error| error.of(format!("layer {}", promised.digest)))?;
        }
        if !self.wants(&config) {
            return Ok(None);
        }
        store.put_blob(self.blob_document(&manifest.config)?)?;
        let manifest = store.put_blob(bytes)?;
        store.image(&manifest.digest).map(Some)
    }

    /// One image of docker's list; none when it is for another platform than the wanted one.
    fn docker_image(&self, store: &Store, image: &DockerImage) -> Result<Option<ImageRecord>> {
        let bytes = self.document(&image.config)?;
        let config: ImageConfig = from_json(bytes, || image.config.clone())?;
        if !self.wants(&config) {
            return Ok(None);
        }
        let layers = self.check_layers(&config, &image.layers, &image.config)?;
        let layers: Vec<LayerRef> = layers.into_iter().map(LayerRef::from).collect();
        let config = store.put_blob(bytes)?;
        store.put_manifest(config, &layers).map(Some)
    }

    fn wants(&self, config: &ImageConfig) -> bool {
        let met =
            |wanted: &Platform| wanted.is_met_by(&config.os, &config.architecture, &config.variant);
        self.wanted.as_ref().is_none_or(met)
    }

    /// Layers of the archive that none of the images has.
    fn unneeded(&self, images: &[LoadedImage]) -> Vec<Digest> {
        let layers = images.iter().flat_map(|image| &image.image.layers);
        let needed: BTreeSet<(Digest, Digest)> = layers
            .map(|layer| (layer.diff_id, layer.blob.digest))
            .collect();
        let unneeded = |member: &Member| match member {
            Member::Layer(layer) => {
                (!needed.contains(&(layer.diff_id, layer.blob.digest))).then_some(layer.diff_id)
            }
            _ => None,
        };
        self.files.values().filter_map(unneeded).collect()
    }

    /// The layers by these names, which must be those of the configuration, in order.
    fn check_layers(
        &self,
        config: &ImageConfig,
        names: &[String],
        document: &str,
    ) -> Result<Vec<&Layer>> {
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != names.len() {
            let (promised, given) = (diff_ids.len(), names.len());
            let problem = format!("{document} promises {promised} layers and names {given}");
            return Err(Error::Archive { problem });
        }
        if names.len() > LAYERS_MAX {
            let limit = LAYERS_MAX as u64;
            return Err(Error::Limit {
                what: "image",
                limit,
                unit: "layers",
            });
        }
        let mut layers = Vec::with_capacity(names.len());
        for (name, &expected) in names.iter().zip(diff_ids) {
            let Member::Layer(layer) = self.member(name)? else {
                return Err(Error::Archive {
                    problem: format!("{name} is not a layer"),
                });
            };
            if layer.diff_id != expected {
                let (what, actual) = ("uncompressed layer of the archive", layer.diff_id);
                let error = Error::WrongDigest {
                    what,
                    expected,
                    actual,
                };
                return Err(error.of(format!("layer {name}")));
            }
            layers.push(&**layer);
        }
        Ok(layers)
    }

    /// A file by its name; links are followed.
    fn member(&self, name: &str) -> Result<&Member> {
        let mut at = member_name(name.as_bytes());
        for _ in 0..=LINKS_FOLLOWED_MAX {
            match self.files.get(&at) {
                Some(Member::Link(target)) => at.clone_from(target),
                Some(member) => return Ok(member),
                None => break,
            }
        }
        Err(Error::Archive {
            problem: format!("{name} is named, but not in it"),
        })
    }

    fn document(&self, name: &str) -> Result<&[u8]> {
        match self.member(name)? {
            Member::Document(bytes) => Ok(bytes),
            Member::Large => {
                let error = Error::Limit {
                    what: "document of the archive",
                    limit: DOCUMENT_BYTES_MAX,
                    unit: "bytes",
                };
                Err(error.of(name.to_owned()))
            }
            _ => Err(Error::Archive {
                problem: format!("{name} is not a document"),
            }),
        }
    }

    /// The document that a descriptor points to, checked.
    fn blob_document(&self, descriptor: &Descriptor) -> Result<&[u8]> {
        let bytes = self.document(&blob_name(&descriptor.digest))?;
        let actual = Blob {
            digest: Hasher::digest(bytes),
            size: bytes.len() as u64,
        };
        Expected::from(descriptor.blob()).check("document of the archive", actual)?;
        Ok(bytes)
    }
}

/// Adds an image, or its names to those of the same image.
fn add_image(loaded: &mut Vec<LoadedImage>, new: LoadedImage) {
    match loaded
        .iter_mut()
        .find(|known| known.image.manifest == new.image.manifest)
    {
        Some(known) => {
            for reference in new.references {
                if !known.references.contains(&reference) {
                    known.references.push(reference);
                }
            }
        }
        None => loaded.push(new),
    }
}

/// What an index points to, the images for this machine first.
fn by_preference(manifests: &[Descriptor]) -> Vec<&Descriptor> {
    let host = Platform::host();
    let runs = |descriptor: &&Descriptor| {
        descriptor
            .platform
            .as_ref()
            .is_some_and(|platform| host.runs(platform))
    };
    // What describes another image, and has its layers' type and the platform "unknown".
    let attests = |descriptor: &&Descriptor| {
        descriptor
            .annotations
            .contains_key("vnd.docker.reference.type")
    };
    let (first, rest): (Vec<_>, Vec<_>) = manifests.iter().partition(runs);
    first
        .into_iter()
        .chain(rest)
        .filter(|descriptor| !attests(descriptor))
        .collect()
}

/// The name that the descriptor's annotations give; a tag alone names nothing.
fn annotated_names(descriptor: &Descriptor) -> Result<Vec<Reference>> {
    let names = NAME_ANNOTATIONS
        .iter()
        .filter_map(|key| descriptor.annotations.get(*key));
    match names.into_iter().find(|name| name.contains(['/', ':'])) {
        Some(name) => Ok(vec![tagged(name)?]),
        None => Ok(Vec::new()),
    }
}

fn tagged(name: &str) -> Result<Reference> {
    Ok(name.parse::<Reference>()?.with_default_tag())
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The digest that a file of an OCI layout must have.
fn digest_in_name(name: &str) -> Option<Digest> {
    format!("sha256:{}", name.strip_prefix("blobs/sha256/")?)
        .parse()
        .ok()
}

/// A name without `.`, `..` and repeated slashes; it is only ever compared.
fn member_name(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Tells how far reading has come.
pub(super) struct Watched<'w, R> {
    inner: R,
    name: &'w str,
    current: u64,
    size: u64,
    progress: Watcher<'w>,
}

impl<'w, R> Watched<'w, R> {
    /// `size` is what will come in all; 0: unknown.
    pub(super) fn new(inner: R, name: &'w str, size: u64, progress: Watcher<'w>) -> Self {
        Self {
            inner,
            name,
            current: 0,
            size,
            progress,
        }
    }
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        let before = self.current / PROGRESS_STEP_BYTES;
        self.current += len as u64;
        let step = self.current / PROGRESS_STEP_BYTES != before;
        if step || (len > 0 && self.current == self.size) {
            let (file, current, total) = (self.name, self.current, self.size);
            (self.progress)(LoadProgress {
                file,
                current,
                total,
            });
        }
        Ok(len)
    }
}
