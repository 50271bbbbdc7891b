//! The folder on disk: where everything lies, and work in progress.
//!
//! ```text
//! <root>/blobs/sha256/<hex>     blobs as they came, synced before they get their name
//! <root>/blobs/sha256/<hex>.split  a plain tar without what the image of that name has of it
//! <root>/layers/<hex>.erofs     one image per layer, named by its diff id, mode 0444
//! <root>/layers/<hex>.ok        empty: the image of this name is synced, see `sync_layer`
//! <root>/ingest/<n>.<what>      half-done work and what is on its way out, removed at the next open
//! <root>/ingest/<hex>.partial   the beginning of a blob whose rest may still come; removed when old
//! ```

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use hull_model::Digest;
use hull_os::durable::{self, Durability};

use crate::error::{At, Result};

/// Nobody but root looks into the store: layers hold files that are secret in their containers.
const DIR_MODE: u32 = 0o700;
/// What lies in the store is never written again.
const FILE_MODE: u32 = 0o444;
/// How long the beginning of a blob waits for its rest.
const PARTIAL_KEPT: Duration = Duration::from_secs(24 * 3600);
const PARTIAL_SUFFIX: &str = ".partial";
/// What follows the digest in the name of a tar that is split.
pub(crate) const SPLIT_SUFFIX: &str = ".split";

/// Blobs, layers and images below one folder. All methods block and may be called by any thread.
///
/// One process at a time: the caller holds a lock on the folder or on what surrounds it.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    next_temporary: AtomicU64,
}

/// A file in `ingest/` that is removed unless it is published or kept.
#[derive(Debug)]
pub(crate) struct Temporary {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    kept: bool,
}

/// The beginning of a blob, to which the rest is appended. It outlives failures of whoever sends
/// it and of the daemon.
#[derive(Debug)]
pub struct Partial {
    pub(crate) file: Temporary,
    pub(crate) len: u64,
}

impl Partial {
    /// How many bytes are there: what is still to come begins behind them.
    #[expect(
        clippy::len_without_is_empty,
        reason = "an offset; nobody asks for emptiness"
    )]
    pub fn len(&self) -> u64 {
        self.len
    }
}

/// A file that has lost its name; its space is given back when this is dropped.
///
/// Taking a name away takes microseconds, freeing the blocks of a large layer a good part of a
/// second: the first is done under a lock, the second wherever there is time.
#[derive(Debug)]
pub struct Discarded(PathBuf);

impl Drop for Discarded {
    fn drop(&mut self) {
        // What stays is removed when the store is opened the next time.
        let _ = fs::remove_file(&self.0);
    }
}

impl Store {
    /// Opens a store, makes what is missing and removes half-done work.
    pub fn open(root: &Path) -> Result<Self> {
        let store = Self {
            root: root.to_owned(),
            next_temporary: AtomicU64::new(0),
        };
        for dir in [store.blobs_dir(), store.layers_dir(), store.ingest_dir()] {
            durable::make_dir_all(&dir, DIR_MODE).at("make", &dir)?;
        }
        let ingest = store.ingest_dir();
        for entry in fs::read_dir(&ingest).at("list", &ingest)? {
            let path = entry.at("list", &ingest)?.path();
            if !path.to_string_lossy().ends_with(PARTIAL_SUFFIX) {
                fs::remove_file(&path).at("remove", &path)?;
            }
        }
        store.remove_old_partials()?;
        store.remove_unnamed()?;
        Ok(store)
    }

    /// Removes files that were being written when the process died, and have no name yet.
    fn remove_unnamed(&self) -> Result<()> {
        for dir in [self.blobs_dir(), self.layers_dir()] {
            for entry in fs::read_dir(&dir).at("list", &dir)? {
                let entry = entry.at("list", &dir)?;
                if entry.file_name().as_encoded_bytes().starts_with(b".") {
                    durable::remove_if_exists(&entry.path()).at("remove", &entry.path())?;
                }
            }
        }
        Ok(())
    }

    /// Begins a blob in a file of its own, while another thread fills the partial one.
    pub fn new_partial(&self) -> Result<Partial> {
        let file = self.temporary("blob")?;
        Ok(Partial { file, len: 0 })
    }

    /// Opens the beginning of a blob, or begins one; none while another thread fills it.
    pub fn partial(&self, digest: &Digest) -> Result<Option<Partial>> {
        let path = self.partial_path(digest);
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).create(true).truncate(false);
        let mut file = opened.mode(0o600).open(&path).at("open", &path)?;
        if file.try_lock().is_err() {
            return Ok(None);
        }
        let len = file.seek(SeekFrom::End(0)).at("seek", &path)?;
        let file = Temporary {
            path,
            file,
            kept: true,
        };
        Ok(Some(Partial { file, len }))
    }

    /// Makes a whole blob one that waits for an image to need it, for as long as partial ones do.
    /// One that is split never came from a registry: what its layer lacks of it goes.
    pub fn keep_as_partial(&self, digest: &Digest) -> Result<()> {
        let (path, partial) = (self.blob_path(digest), self.partial_path(digest));
        match durable::publish(&path, &partial, Durability::Lost) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                durable::remove_if_exists(&self.split_path(digest)).map(drop)
            }
            published => published,
        }
        .at("put aside", &path)
    }

    fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.ingest_dir().join(digest.hex() + PARTIAL_SUFFIX)
    }

    /// Removes beginnings of blobs whose rest did not come for a day.
    pub fn remove_old_partials(&self) -> Result<()> {
        let ingest = self.ingest_dir();
        for entry in fs::read_dir(&ingest).at("list", &ingest)? {
            let path = entry.at("list", &ingest)?.path();
            let written = fs::metadata(&path).and_then(|facts| facts.modified());
            let age = written
                .ok()
                .and_then(|at| SystemTime::now().duration_since(at).ok());
            let is_partial = path.to_string_lossy().ends_with(PARTIAL_SUFFIX);
            if is_partial && age.is_some_and(|age| age > PARTIAL_KEPT) {
                durable::remove_if_exists(&path).at("remove", &path)?;
            }
        }
        Ok(())
    }

    /// Removes the beginning of a blob that is here whole, or not wanted any more, unless somebody
    /// still fills it.
    pub fn remove_partial(&self, digest: &Digest) -> Result<()> {
        let path = self.partial_path(digest);
        match fs::File::open(&path) {
            Ok(file) if file.try_lock().is_ok() => durable::remove_if_exists(&path)
                .at("remove", &path)
                .map(drop),
            _ => Ok(()),
        }
    }

    /// Removes all beginnings of blobs that nobody fills at the moment; returns their bytes.
    pub fn remove_partials(&self) -> Result<u64> {
        let ingest = self.ingest_dir();
        let mut freed = 0;
        for entry in fs::read_dir(&ingest).at("list", &ingest)? {
            let path = entry.at("list", &ingest)?.path();
            let is_partial = path.to_string_lossy().ends_with(PARTIAL_SUFFIX);
            let Some(file) = is_partial.then(|| fs::File::open(&path).ok()).flatten() else {
                continue;
            };
            if file.try_lock().is_ok() {
                freed += file.metadata().map_or(0, |facts| facts.len());
                durable::remove_if_exists(&path).at("remove", &path)?;
            }
        }
        Ok(freed)
    }

    /// The folder of this store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn blobs_dir(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn ingest_dir(&self) -> PathBuf {
        self.root.join("ingest")
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs_dir().join(digest.hex())
    }

    fn temporary_path(&self, what: &str) -> PathBuf {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        self.ingest_dir().join(format!("{number}.{what}"))
    }

    /// Takes the name of a file away; none when there was no such file.
    pub(crate) fn discard(&self, path: &Path) -> Result<Option<Discarded>> {
        let away = self.temporary_path("gone");
        match durable::publish(path, &away, Durability::Lost) {
            Ok(()) => Ok(Some(Discarded(away))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // A full disk may have no room for the other name.
            Err(_) => {
                let removed = durable::remove_if_exists(path).at("remove", path)?;
                Ok(removed.then_some(Discarded(away)))
            }
        }
    }

    /// Starts a file that nobody else sees.
    pub(crate) fn temporary(&self, what: &str) -> Result<Temporary> {
        let path = self.temporary_path(what);
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        Ok(Temporary {
            file: file.at("create", &path)?,
            path,
            kept: false,
        })
    }
}

impl Temporary {
    /// Says that this was of no use, or may be of use later, if it was begun for that.
    pub(crate) fn keep(&mut self, keep: bool) {
        self.kept = keep && self.path.to_string_lossy().ends_with(PARTIAL_SUFFIX);
    }

    /// Gives the finished file its final name unless that is taken; says whether it did. Nothing
    /// is synced.
    pub(crate) fn publish_new(mut self, name: &Path) -> Result<bool> {
        self.file
            .set_permissions(Permissions::from_mode(FILE_MODE))
            .at("chmod", &self.path)?;
        let new = durable::publish_new(&self.path, name, Durability::Lost).at("publish", name)?;
        self.kept = new;
        Ok(new)
    }

    /// Gives the finished file its final name; see [`Durability`].
    pub(crate) fn publish(mut self, name: &Path, durability: Durability) -> Result<()> {
        self.file
            .set_permissions(Permissions::from_mode(FILE_MODE))
            .at("chmod", &self.path)?;
        if durability == Durability::Synced {
            self.file.sync_data().at("sync", &self.path)?;
        }
        durable::publish(&self.path, name, durability).at("publish", name)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            // What stays is removed when the store is opened the next time.
            let _ = fs::remove_file(&self.path);
        }
    }
}
