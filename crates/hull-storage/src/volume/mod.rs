//! Volumes at rest: a directory each, in the place where Docker's tools look for them.
//!
//! ```text
//! <data>/volumes/<name>/_data       what containers see
//!                       disk.img    file system of a volume with a size, mounted on _data
//!                       .filling    a copy under way: thrown away by whoever finds it
//!                       .filled     a whole copy on its way into _data: carried on by whoever finds it
//! ```
//!
//! The two staging places lie in `_data` when something is mounted there, since a rename does not
//! cross file systems. Which volumes there are and who uses them is the engine's to know.

mod backing;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hull_model::ErrorKind;
use hull_os::durable::{self, Durability};

use crate::tree;

pub use backing::{Backing, OptionFault, VOLUME_BYTES_MIN};

/// Characters of a volume's name: its directory is named so.
pub const VOLUME_NAME_BYTES_MAX: usize = 255;

const DATA: &str = "_data";
const IMAGE: &str = "disk.img";
const FILLING: &str = ".filling";
const FILLED: &str = ".filled";

/// Why something could not be done to a volume's files.
#[derive(Debug, thiserror::Error)]
#[error("{step} {}", path.display())]
pub struct VolumeError {
    step: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

impl VolumeError {
    /// The kind, for the edges' tables.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::of_io(&self.cause)
    }

    /// What the system said.
    pub fn cause(&self) -> &io::Error {
        &self.cause
    }
}

type Result<T> = std::result::Result<T, VolumeError>;

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |cause| VolumeError { step, path, cause }
}

/// The volumes of one data root.
#[derive(Debug)]
pub struct Volumes {
    directory: PathBuf,
}

impl Volumes {
    /// Opens or makes `<data_root>/volumes`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(data_root: &Path) -> Result<Self> {
        let directory = data_root.join("volumes");
        durable::make_dir_all(&directory, 0o701).map_err(failed("make", &directory))?;
        Ok(Self { directory })
    }

    /// Where a volume's contents are.
    pub fn data(&self, name: &str) -> PathBuf {
        self.directory.join(name).join(DATA)
    }

    fn image(&self, name: &str) -> PathBuf {
        self.directory.join(name).join(IMAGE)
    }

    /// The names of all directories here.
    pub fn names(&self) -> Vec<String> {
        let found = fs::read_dir(&self.directory).into_iter().flatten();
        found
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Makes an empty volume; that it is there already is fine.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn make(&self, name: &str) -> Result<()> {
        let (top, data) = (self.directory.join(name), self.data(name));
        durable::make_dir_all(&top, 0o701).map_err(failed("make", &top))?;
        durable::make_dir_all(&data, 0o755).map_err(failed("make", &data))
    }

    /// Removes a volume with all that is in it; that it is not there is fine.
    ///
    /// # Errors
    /// When something of it stays.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.unmount(name)?;
        remove_tree(&self.directory.join(name))
    }

    /// Gives a volume that nobody uses another name. Doing it again changes nothing.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.unmount(from)?;
        let (from, to) = (self.directory.join(from), self.directory.join(to));
        if to.exists() && !from.exists() {
            return Ok(());
        }
        durable::publish(&from, &to, Durability::Synced).map_err(failed("rename", &from))
    }

    /// Mounts what the volume is made of; that it is mounted is fine.
    ///
    /// # Errors
    /// When its directory is not there, or the mount fails.
    pub fn mount(&self, name: &str, backing: &Backing) -> Result<()> {
        let data = self.data(name);
        fs::metadata(&data).map_err(failed("look at", &data))?;
        backing::mount(backing, &self.image(name), &data)
            .map_err(failed("mount the volume at", &data))
    }

    /// Takes away what is mounted for a volume; containers that have it keep it until they end.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unmount(&self, name: &str) -> Result<()> {
        let data = self.data(name);
        backing::unmount(&data).map_err(failed("unmount", &data))
    }

    /// Whether something is mounted for it.
    pub fn is_mounted(&self, name: &str) -> bool {
        backing::is_mounted(&self.data(name))
    }

    /// Whether nothing is in it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_empty(&self, name: &str) -> Result<bool> {
        let data = self.data(name);
        let found = fs::read_dir(&data).map_err(failed("read", &data))?;
        Ok(!found
            .flatten()
            .any(|entry| entry.file_name() != FILLING && entry.file_name() != FILLED))
    }

    /// Copies a directory into a volume that is empty: what is in it, then its owner and mode. A
    /// crash leaves the volume empty, or a whole copy that [`Volumes::settle`] carries on.
    ///
    /// # Errors
    /// When something cannot be copied; the volume is empty then.
    pub fn fill(&self, name: &str, from: BorrowedFd<'_>, backing: &Backing) -> Result<()> {
        let staging = self.staging(name, backing);
        let (filling, filled) = (staging.join(FILLING), staging.join(FILLED));
        remove_tree(&filling)?;
        fs::create_dir(&filling).map_err(failed("make", &filling))?;
        let copy = || -> io::Result<()> {
            let target = File::open(&filling)?;
            tree::copy(from, target.as_fd())?;
            // A name must not be durable before what it promises.
            hull_os::copy::sync_file_system(target.as_fd())
        };
        if let Err(cause) = copy() {
            remove_tree(&filling)?;
            return Err(failed("copy into", &filling)(cause));
        }
        durable::publish(&filling, &filled, Durability::Synced)
            .map_err(failed("rename", &filling))?;
        self.settle(name, backing)
    }

    /// Finishes or undoes a copy that a crash cut off. What is mounted has to be.
    ///
    /// # Errors
    /// When something cannot be moved; it can be tried again.
    pub fn settle(&self, name: &str, backing: &Backing) -> Result<()> {
        let staging = self.staging(name, backing);
        let (filling, filled) = (staging.join(FILLING), staging.join(FILLED));
        remove_tree(&filling)?;
        let facts = match fs::metadata(&filled) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            facts => facts.map_err(failed("look at", &filled))?,
        };
        let data = self.data(name);
        let found = fs::read_dir(&filled).map_err(failed("read", &filled))?;
        for entry in found.flatten() {
            let target = data.join(entry.file_name());
            // A program that runs may have made it meanwhile: its own is kept.
            if target.symlink_metadata().is_err() {
                durable::publish(&entry.path(), &target, Durability::Lost)
                    .map_err(failed("move", &target))?;
            }
        }
        tree::copy_facts(&filled, &facts, &data).map_err(failed("set the owner of", &data))?;
        remove_tree(&filled)
    }

    /// Whether a crash left a copy half done.
    pub fn is_unsettled(&self, name: &str) -> bool {
        let top = self.directory.join(name);
        [FILLING, FILLED]
            .iter()
            .any(|place| top.join(place).exists())
    }

    /// Bytes that the file of a volume with a size takes while it is not mounted.
    pub fn image_bytes(&self, name: &str) -> u64 {
        self.image(name)
            .metadata()
            .map_or(0, |facts| facts.blocks() * 512)
    }

    fn staging(&self, name: &str, backing: &Backing) -> PathBuf {
        if backing.is_mounted() {
            self.data(name)
        } else {
            self.directory.join(name)
        }
    }
}

/// Removes a tree that may not be there.
fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("hull-volume-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir_all(path.join("from/deep/er")).expect("scratch");
        fs::write(path.join("from/deep/er/file"), "x").expect("scratch");
        fs::hard_link(path.join("from/deep/er/file"), path.join("from/other")).expect("scratch");
        symlink("/etc/passwd", path.join("from/link")).expect("scratch");
        let mode = |mode| Permissions::from_mode(mode);
        fs::set_permissions(path.join("from/deep"), mode(0o2750)).expect("scratch");
        fs::set_permissions(path.join("from"), mode(0o700)).expect("scratch");
        path
    }

    #[test]
    fn a_volume_is_filled_with_links_and_modes() {
        let root = scratch("fill");
        let volumes = Volumes::open(&root).expect("open");
        volumes.make("v").expect("make");
        assert!(volumes.is_empty("v").expect("read"));
        let from = File::open(root.join("from")).expect("open");
        volumes
            .fill("v", from.as_fd(), &Backing::Directory)
            .expect("fill");
        let data = volumes.data("v");
        let facts = |name: &str| data.join(name).symlink_metadata().expect("is there");
        assert_eq!(facts("deep").mode() & 0o7777, 0o2750);
        assert_eq!(facts(".").mode() & 0o7777, 0o700);
        assert_eq!(facts("deep/er/file").ino(), facts("other").ino());
        assert!(facts("link").is_symlink());
        assert!(!volumes.is_unsettled("v"));
        volumes.remove("v").expect("remove");
        assert_eq!(volumes.names(), Vec::<String>::new());
        fs::remove_dir_all(root).expect("clean up");
    }

    #[test]
    fn a_copy_that_was_cut_off_is_finished_or_forgotten() {
        let root = scratch("settle");
        let volumes = Volumes::open(&root).expect("open");
        volumes.make("v").expect("make");
        let top = root.join("volumes/v");
        fs::create_dir(top.join(FILLING)).expect("half");
        fs::write(top.join(FILLING).join("half"), "").expect("half");
        assert!(volumes.is_unsettled("v"));
        volumes.settle("v", &Backing::Directory).expect("settle");
        assert!(volumes.is_empty("v").expect("read"));
        fs::create_dir(top.join(FILLED)).expect("whole");
        fs::write(top.join(FILLED).join("a"), "").expect("whole");
        fs::write(volumes.data("v").join("b"), "moved before").expect("moved");
        volumes.settle("v", &Backing::Directory).expect("settle");
        let mut names: Vec<_> = fs::read_dir(volumes.data("v"))
            .expect("read")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["a", "b"]);
        assert!(!volumes.is_unsettled("v"));
        fs::remove_dir_all(root).expect("clean up");
    }
}
