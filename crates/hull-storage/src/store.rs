//! The folder on disk: where everything lies, and work in progress.
//!
//! ```text
//! <root>/blobs/sha256/<hex>     blobs as they came, synced before they get their name
//! <root>/layers/<hex>.erofs     one image per layer, named by its diff id, mode 0444
//! <root>/layers/<hex>.ok        empty: the image of this name is synced, see `sync_layer`
//! <root>/ingest/<n>.<what>      half-done work and what is on its way out, removed at the next open
//! ```

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use hull_model::Digest;
use hull_os::durable::{self, Durability};

use crate::error::{At, Result};

/// Nobody but root looks into the store: layers hold files that are secret in their containers.
const DIR_MODE: u32 = 0o700;
/// What lies in the store is never written again.
const FILE_MODE: u32 = 0o444;

/// Blobs, layers and images below one folder. All methods block and may be called by any thread.
///
/// One process at a time: the caller holds a lock on the folder or on what surrounds it.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    next_temporary: AtomicU64,
}

/// A file in `ingest/` that is removed unless it is published.
#[derive(Debug)]
pub(crate) struct Temporary {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    published: bool,
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
            fs::remove_file(&path).at("remove", &path)?;
        }
        Ok(store)
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
            published: false,
        })
    }
}

impl Temporary {
    /// Gives the finished file its final name unless that is taken; says whether it did. Nothing
    /// is synced.
    pub(crate) fn publish_new(mut self, name: &Path) -> Result<bool> {
        self.file
            .set_permissions(Permissions::from_mode(FILE_MODE))
            .at("chmod", &self.path)?;
        let new = durable::publish_new(&self.path, name, Durability::Lost).at("publish", name)?;
        self.published = new;
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
        self.published = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.published {
            // What stays is removed when the store is opened the next time.
            let _ = fs::remove_file(&self.path);
        }
    }
}
