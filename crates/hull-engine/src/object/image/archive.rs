//! Images come and go as archives: load, import, save.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use hull_model::{Digest, ErrorKind};
use hull_storage::image::{
    ImportOptions, LoadOptions, LoadProgress, Loaded, Platform, Reference, RunConfig, SavedImage,
    apply_changes,
};
use tokio::sync::mpsc;

use super::platform::{self, parse_platform};
use super::sweep::{Scope, sweep};
use super::table::{Tables, platform_of};
use super::{add, event, key_of, parse, storage_error, tell_names};
use crate::api::{ImportRequest, Progress};
use crate::clock::{now_ns, rfc3339};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::object::remote::chain;

/// Who is told how far a layer has come.
type Told<'t> = &'t mut (dyn FnMut(LoadProgress<'_>) + Send);

/// Loads an archive; its images become visible when all of them are whole.
pub(crate) async fn load(
    core: &Arc<Core>,
    reader: Box<dyn Read + Send>,
    platform: Option<&str>,
    progress: mpsc::Sender<Progress>,
) -> Result<()> {
    let options = LoadOptions {
        platform: platform.map(parse_platform).transpose()?,
    };
    bring(core, "load the archive", progress, move |storage, told| {
        storage.load(reader, &options, told)
    })
    .await
}

/// Takes over the images of a Docker data root.
pub(crate) async fn import_docker(
    core: &Arc<Core>,
    root: PathBuf,
    progress: mpsc::Sender<Progress>,
) -> Result<()> {
    let step = format!("take over the images below {}", root.display());
    bring(core, &step, progress, move |storage, told| {
        storage.load_docker_root(&root, told)
    })
    .await
}

/// Brings images in; all of what they need is there before the first is seen.
async fn bring(
    core: &Arc<Core>,
    step: &str,
    progress: mpsc::Sender<Progress>,
    work: impl FnOnce(&hull_storage::Store, Told<'_>) -> hull_storage::Result<Loaded> + Send + 'static,
) -> Result<()> {
    let loading = core.images.sweep.clone().read_owned().await;
    let job = core.clone();
    let told = progress.clone();
    let loaded = core
        .jobs
        .run(Pool::Disk, move || {
            work(&job.storage, &mut |seen| {
                let id = seen.file.to_owned();
                // A reader of progress that is gone or slow does not hold the load up.
                drop(told.try_send(Progress::Layer {
                    id,
                    current: seen.current,
                    total: seen.total,
                }));
            })
        })
        .await?
        .map_err(storage_error(step));
    let done = match loaded {
        Ok(loaded) => add_all(core, loaded, &progress).await,
        Err(error) => Err(error),
    };
    drop(loading);
    if done.is_err() {
        // What came before the fault, and what no image of the archive needs.
        sweep(core, Scope::All).await?;
    }
    done
}

async fn add_all(
    core: &Arc<Core>,
    loaded: Loaded,
    progress: &mpsc::Sender<Progress>,
) -> Result<()> {
    for image in loaded.images {
        let names = image.references;
        let mut lines = displaced(core, &image.image.id, &names);
        let id = add(core, image.image, &names).await?;
        event(core, "load", &id, None);
        let told = names
            .iter()
            .map(|name| format!("Loaded image: {}", name.familiar()));
        lines.extend(told);
        if names.is_empty() {
            lines.push(format!("Loaded image ID: {id}"));
        }
        for line in lines {
            drop(progress.send(Progress::Message(line)).await);
        }
    }
    if !loaded.unneeded.is_empty() {
        sweep(core, Scope::All).await?;
    }
    Ok(())
}

/// What Docker says of names that belonged to another image until now.
fn displaced(core: &Core, id: &Digest, names: &[Reference]) -> Vec<String> {
    let tables = core.images.lock();
    let other = |name: &&Reference| {
        let tagged = tables.tags.get(&key_of(name));
        tagged.filter(|tagged| tagged.image != *id).copied()
    };
    let told = |name: &Reference| {
        let old = other(&name)?.image;
        let name = name.familiar();
        Some(format!(
            "The image {name} already exists, renaming the old one with ID {old} to empty string"
        ))
    };
    names.iter().filter_map(told).collect()
}

/// Reads from an address; without a scheme it is `http`, as in Docker.
pub(crate) async fn download(core: &Core, address: &str) -> Result<Box<dyn Read + Send>> {
    let address = match address.contains("://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    };
    let pieces = hull_registry::download(&core.reloadable.registries(), &address).await;
    let pieces = pieces.map_err(|error| {
        let cause = match &error {
            hull_registry::Error::Refused { status, .. } => format!("status {status}"),
            error => chain(error),
        };
        EngineError::Registry {
            text: format!("failed to GET {address}: {cause}"),
            kind: ErrorKind::Internal,
        }
    })?;
    let current = Bytes::new();
    Ok(Box::new(Download { pieces, current }))
}

/// What comes from an address, for a thread that blocks.
struct Download {
    pieces: hull_registry::Pieces,
    current: Bytes,
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !self.current.has_remaining() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let size = buffer.len().min(self.current.remaining());
        self.current.copy_to_slice(&mut buffer[..size]);
        Ok(size)
    }
}

/// Makes an image of one root file system.
pub(crate) async fn import(
    core: &Arc<Core>,
    reader: Box<dyn Read + Send>,
    request: ImportRequest,
) -> Result<Digest> {
    let reference = request.reference.as_deref().map(parse).transpose()?;
    let reference = reference.map(Reference::with_default_tag);
    let options = import_options(&request)?;
    let importing = core.images.sweep.clone().read_owned().await;
    let job = core.clone();
    let imported = core
        .jobs
        .run(Pool::Disk, move || job.storage.import(reader, options))
        .await?
        .map_err(storage_error("import the file system"));
    let added = match imported {
        Ok(record) => add(core, record, reference.as_slice()).await,
        Err(error) => Err(error),
    };
    drop(importing);
    match &added {
        Ok(id) => {
            tell_names(core, id, reference.as_slice());
            event(core, "import", id, None);
        }
        Err(_) => sweep(core, Scope::All).await?,
    }
    added
}

fn import_options(request: &ImportRequest) -> Result<ImportOptions> {
    let mut config = RunConfig::default();
    apply_changes(&mut config, &request.changes)
        .map_err(|error| EngineError::Invalid(error.to_string()))?;
    let platform = request
        .platform
        .as_deref()
        .map(parse_platform)
        .transpose()?;
    Ok(ImportOptions {
        config,
        message: request.message.clone(),
        platform: platform.unwrap_or_else(Platform::host),
        created: rfc3339(now_ns()),
    })
}

/// Writes images as an archive.
pub(crate) async fn save(
    core: &Arc<Core>,
    names: Vec<String>,
    platform: Option<&str>,
    writer: Box<dyn Write + Send>,
) -> Result<()> {
    let platform = platform.map(parse_platform).transpose()?;
    // Nothing goes away between the look and the last byte.
    let _sweep = core.images.sweep.clone().read_owned().await;
    let mut images = Vec::new();
    for name in &names {
        let tables = core.images.lock();
        for (id, references) in meant(&tables, name)? {
            if let Some(known) = tables.images.get(&id) {
                platform::refuse_other(platform.as_ref(), &platform_of(&known.record), name)?;
                images.push((known.record.clone(), references));
            }
        }
    }
    let job = core.clone();
    let ids: Vec<Digest> = images.iter().map(|(image, _)| image.id).collect();
    core.jobs
        .run(Pool::Disk, move || {
            let saved: Vec<SavedImage<'_>> = images
                .iter()
                .map(|(image, references)| SavedImage { image, references })
                .collect();
            job.storage.save(&saved, writer)
        })
        .await?
        .map_err(storage_error("write the archive"))?;
    ids.iter().for_each(|id| event(core, "save", id, None));
    Ok(())
}

/// The images that a name means, and the names that they are saved under: a repository without a
/// tag is all of its tags, as in Docker; an id or a digest gives no name.
fn meant(tables: &Tables, name: &str) -> Result<BTreeMap<Digest, Vec<Reference>>> {
    let mut meant: BTreeMap<Digest, Vec<Reference>> = BTreeMap::new();
    if let Ok(given) = name.parse::<Reference>()
        && given.digest().is_none()
    {
        for (key, tagged) in &tables.tags {
            let Ok(known) = key.parse::<Reference>() else {
                continue;
            };
            let of_it = known.name() == given.name() && known.digest().is_none();
            if of_it && given.tag().is_none_or(|tag| known.tag() == Some(tag)) {
                meant.entry(tagged.image).or_default().push(known);
            }
        }
    }
    if meant.is_empty() {
        meant.insert(tables.find(name)?, Vec::new());
    }
    Ok(meant)
}
