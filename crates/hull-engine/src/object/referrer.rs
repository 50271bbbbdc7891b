//! What refers to an image: signatures, lists of contents, attestations. They are fetched and sent
//! with it, and never what makes a pull fail: an image without them is whole.
//!
//! ```text
//!  fetch   the registry's list for manifest and index, what the index itself names for it,
//!          and cosign's tags of both
//!            └─▶ each manifest with its blobs, within limits ─▶ Origin
//!  send    blobs ─▶ manifest by digest ─▶ (older registries) the index under a tag
//!          a tag of cosign's only where there is none: it may say more there by now
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hull_model::Digest;
use hull_registry::{Fetched, Referrer, Repository};
use hull_storage::image::{DOCUMENT_BYTES_MAX, Descriptor, Index, MANIFEST_TYPES, Manifest};

use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::object::image::{Origin, storage_error};
use crate::object::remote::{self, failed};

/// Referrers of one image that are kept.
const REFERRERS_MAX: usize = 32;
/// Bytes of one blob of a referrer.
const BLOB_BYTES_MAX: u64 = 16 << 20;
/// Bytes of all blobs of one image's referrers.
const ALL_BYTES_MAX: u64 = 64 << 20;
/// How long a pull may wait for them: a registry that is in trouble has us ask again and again.
const FETCH_MAX: Duration = Duration::from_secs(30);
/// How an index says of an entry to which other entry it belongs.
const REFERS_TO: &str = "vnd.docker.reference.digest";

/// Fetches what refers to a manifest; `indexes` are those that led to it, the top one first.
pub(crate) async fn fetch(
    core: &Arc<Core>,
    repository: &Repository,
    manifest: &Digest,
    indexes: &[Fetched],
) -> Origin {
    let mut origin = Origin {
        index: indexes.first().map(|index| index.digest),
        ..Origin::default()
    };
    for index in indexes {
        match put(core, index.bytes.to_vec()).await {
            Ok(()) => origin.blobs.push(index.digest),
            // Then a push sends the image alone.
            Err(error) => {
                tracing::info!(index = %index.digest, error = %error.chain(), "an index is not kept");
                origin.index = None;
            }
        }
    }
    let mut bytes_left = ALL_BYTES_MAX;
    let subjects = subjects(manifest, indexes);
    let kept = async {
        let listed = list(repository, manifest, indexes, &subjects);
        let (listed, tagged) = tokio::join!(listed, tagged(repository, &subjects));
        let named = listed
            .into_iter()
            .map(|entry| (None, entry.digest.to_string()));
        let tagged = tagged.into_iter().map(|tag| (Some(tag.clone()), tag));
        for (tag, reference) in named.chain(tagged) {
            match keep(core, repository, &reference, &mut bytes_left).await {
                Ok((digest, blobs)) => {
                    match tag {
                        Some(tag) => origin.tags.push((tag, digest)),
                        None => origin.referrers.push(digest),
                    }
                    origin.blobs.extend(blobs);
                }
                Err(error) => {
                    let error = error.chain();
                    tracing::info!(referrer = reference, error, "a referrer is not kept");
                }
            }
        }
    };
    if tokio::time::timeout(FETCH_MAX, kept).await.is_err() {
        tracing::info!(%manifest, "the registry is too slow with referrers");
    }
    origin.blobs.sort_unstable();
    origin.blobs.dedup();
    origin
}

/// What may be referred to: the manifest, and the index that is at the top.
fn subjects(manifest: &Digest, indexes: &[Fetched]) -> Vec<Digest> {
    let top = indexes.first().map(|top| top.digest);
    top.into_iter().chain([*manifest]).collect()
}

/// Cosign's tags that there are: one question each, all at once.
async fn tagged(repository: &Repository, subjects: &[Digest]) -> Vec<String> {
    let tags = subjects.iter().flat_map(hull_registry::cosign_tags);
    let asked = tags.map(|tag| async {
        let there = repository.has_tag(&tag).await;
        there
            .unwrap_or_else(|error| {
                tracing::debug!(tag, %error, "a registry does not say whether it has a tag");
                false
            })
            .then_some(tag)
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Which there are, each once.
async fn list(
    repository: &Repository,
    manifest: &Digest,
    indexes: &[Fetched],
    subjects: &[Digest],
) -> Vec<Descriptor> {
    let mut found: Vec<Descriptor> = Vec::new();
    let entries = |bytes: &[u8]| {
        let index: Option<Index> = serde_json::from_slice(bytes).ok();
        index.map(|index| index.manifests).unwrap_or_default()
    };
    let subject = manifest.to_string();
    for index in indexes {
        let belongs = |entry: &Descriptor| entry.annotations.get(REFERS_TO) == Some(&subject);
        found.extend(entries(&index.bytes).into_iter().filter(belongs));
    }
    for subject in subjects {
        match repository.referrers(subject).await {
            Ok(listed) => found.extend(listed.iter().flat_map(|listed| entries(&listed.bytes))),
            Err(error) => tracing::info!(%subject, %error, "referrers are not listed"),
        }
    }
    let mut seen = HashSet::new();
    found.retain(|entry| seen.insert(entry.digest));
    if found.len() > REFERRERS_MAX {
        tracing::info!(%manifest, found = found.len(), "only {REFERRERS_MAX} referrers are kept");
        found.truncate(REFERRERS_MAX);
    }
    found
}

/// Brings one in, by digest or tag; returns its digest and its blobs.
async fn keep(
    core: &Arc<Core>,
    repository: &Repository,
    reference: &str,
    bytes_left: &mut u64,
) -> Result<(Digest, Vec<Digest>)> {
    let fetched = repository.manifest(reference).await.map_err(failed)?;
    let manifest = parse(&fetched.bytes, &fetched.digest)?;
    let mut blobs = Vec::new();
    for part in parts(&manifest) {
        *bytes_left = bytes_left.checked_sub(part.size).ok_or_else(|| {
            EngineError::Invalid(format!("its blobs have more than {ALL_BYTES_MAX} bytes"))
        })?;
        let bytes = remote::blob(repository, part, BLOB_BYTES_MAX, "referrer").await?;
        put(core, bytes).await?;
        blobs.push(part.digest);
    }
    put(core, fetched.bytes.to_vec()).await?;
    blobs.push(fetched.digest);
    Ok((fetched.digest, blobs))
}

async fn put(core: &Arc<Core>, bytes: Vec<u8>) -> Result<()> {
    let job = core.clone();
    let put = core
        .jobs
        .run(Pool::Disk, move || job.storage.put_blob(&bytes));
    put.await?
        .map(drop)
        .map_err(storage_error("store a referrer"))
}

async fn read(core: &Arc<Core>, digest: Digest) -> Result<Vec<u8>> {
    let job = core.clone();
    let read = core.jobs.run(Pool::Disk, move || {
        job.storage.read_blob(&digest, BLOB_BYTES_MAX, "referrer")
    });
    read.await?.map_err(storage_error("read a referrer"))
}

fn parse(bytes: &[u8], digest: &Digest) -> Result<Manifest> {
    serde_json::from_slice(bytes).map_err(|cause| {
        EngineError::Invalid(format!("the referrer {digest} is no manifest: {cause}"))
    })
}

fn parts(manifest: &Manifest) -> impl Iterator<Item = &Descriptor> {
    std::iter::once(&manifest.config).chain(&manifest.layers)
}

/// Sends all that an image has.
pub(crate) async fn send(core: &Arc<Core>, repository: &Repository, origin: &Origin) -> Result<()> {
    for digest in &origin.referrers {
        let (referrer, bytes) = send_parts(core, repository, digest).await?;
        let put = repository.put_referrer(&referrer, bytes);
        put.await.map_err(failed)?;
    }
    for (tag, digest) in &origin.tags {
        if repository.has_manifest(tag).await.map_err(failed)? {
            continue;
        }
        let (referrer, bytes) = send_parts(core, repository, digest).await?;
        let put = repository.put_manifest(tag, &referrer.media_type, bytes);
        put.await.map_err(failed)?;
    }
    Ok(())
}

/// Sends the blobs of one; returns what remains to be sent.
async fn send_parts(
    core: &Arc<Core>,
    repository: &Repository,
    digest: &Digest,
) -> Result<(Referrer, Bytes)> {
    let bytes = read(core, *digest).await?;
    let manifest = parse(&bytes, digest)?;
    for part in parts(&manifest) {
        if !repository.has_blob(&part.digest).await.map_err(failed)? {
            let blob = Bytes::from(read(core, part.digest).await?);
            let put = repository.put_blob(&part.digest, blob);
            put.await.map_err(failed)?;
        }
    }
    let referrer = describe(&manifest, digest, bytes.len() as u64);
    Ok((referrer, Bytes::from(bytes)))
}

fn describe(manifest: &Manifest, digest: &Digest, size: u64) -> Referrer {
    let text = |name: &str| manifest.other.get(name)?.as_str().map(str::to_owned);
    let subject = manifest.other.get("subject").and_then(|s| s.get("digest"));
    Referrer {
        media_type: match manifest.media_type.as_str() {
            "" => MANIFEST_TYPES[0].to_owned(),
            kind => kind.to_owned(),
        },
        digest: *digest,
        size,
        artifact_type: text("artifactType").unwrap_or_else(|| manifest.config.media_type.clone()),
        subject: subject.and_then(|s| s.as_str()?.parse().ok()),
    }
}

/// Sends the index by which a manifest came, under a tag, where all that it names is there already;
/// then its size.
pub(crate) async fn send_index(
    core: &Arc<Core>,
    repository: &Repository,
    (index, manifest): (Digest, Digest),
    tag: &str,
) -> Result<Option<u64>> {
    let (job, digest) = (core.clone(), index);
    let read = core.jobs.run(Pool::Disk, move || {
        job.storage.read_blob(&digest, DOCUMENT_BYTES_MAX, "index")
    });
    let bytes = read.await?.map_err(storage_error("read the index"))?;
    let parsed: Index = serde_json::from_slice(&bytes)
        .map_err(|cause| EngineError::Invalid(format!("the index {index}: {cause}")))?;
    if !parsed
        .manifests
        .iter()
        .any(|entry| entry.digest == manifest)
    {
        // Its layers were compressed anew since.
        return Ok(None);
    }
    for entry in &parsed.manifests {
        let there = repository.has_manifest(&entry.digest.to_string()).await;
        if !there.map_err(failed)? {
            return Ok(None);
        }
    }
    let kind = match parsed.media_type.as_str() {
        "" => hull_storage::image::INDEX_TYPES[0],
        kind => kind,
    };
    let size = bytes.len() as u64;
    let put = repository.put_manifest(tag, kind, Bytes::from(bytes));
    put.await.map_err(failed)?;
    Ok(Some(size))
}
