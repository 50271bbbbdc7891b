//! Files that are there after a crash, or not there at all: the only place that renames.
//!
//! A new file is written under a temporary name in the folder of its final name, synced, renamed,
//! and then the folder is synced, so a reader sees the old contents, the new contents, or nothing.
//! [`Durability::Lost`] leaves the syncs out for folders that do not survive a reboot anyway.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::crash;
use crate::process::check;

/// How long [`lock`] sleeps between two attempts.
const LOCK_RETRY_MS: u64 = 5;

/// Tells apart the temporary files of one process.
static NEXT_TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// What a change must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the host: contents and folder are synced before the call returns.
    Synced,
    /// Only the end of this process, as on tmpfs: atomic, but nothing is synced.
    Lost,
}

/// Replaces the file `path` by one with these contents and exactly this mode.
///
/// On failure the old file is untouched and the temporary one is gone.
pub fn replace_file(
    path: &Path,
    contents: &[u8],
    mode: u32,
    durability: Durability,
) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(contents)?;
        // Not through `open`, which subtracts the umask.
        file.set_permissions(Permissions::from_mode(mode))?;
        if durability == Durability::Synced {
            file.sync_data()?;
        }
        publish(&temporary, path, durability)
    })();
    if written.is_err() {
        // The first error is the one that matters, and a left-over name harms nobody.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Gives a finished file its final name on the same file system, replacing what was there.
///
/// The contents are the caller's to sync; [`Durability::Synced`] syncs the folder.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place that others are sent to"
)]
#[track_caller]
pub fn publish(finished: &Path, name: &Path, durability: Durability) -> io::Result<()> {
    crash::point("before a name");
    fs::rename(finished, name)?;
    crash::point("after a name");
    match durability {
        Durability::Synced => sync_dir(parent_of(name)),
        Durability::Lost => Ok(()),
    }
}

/// Gives a finished file its final name, unless something has that name; says whether it did.
///
/// The contents are the caller's to sync; [`Durability::Synced`] syncs the folder.
#[track_caller]
pub fn publish_new(finished: &Path, name: &Path, durability: Durability) -> io::Result<bool> {
    crash::point("before a new name");
    match fs::hard_link(finished, name) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(error),
    }
    crash::point("between two names");
    fs::remove_file(finished)?;
    if durability == Durability::Synced {
        sync_dir(parent_of(name))?;
    }
    Ok(true)
}

/// Makes a folder and those above it; what was missing gets `mode` and survives a crash.
pub fn make_dir_all(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    make_dir_all(parent, mode)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode))?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    sync_dir(parent)
}

/// Writes down all that a file system still has in memory.
///
/// # Errors
/// What the kernel says.
pub fn sync_file_system(on_it: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: one integer.
    check(unsafe { libc::syncfs(on_it.as_raw_fd()) }.into()).map(drop)
}

/// Makes the names in a folder durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a file; says whether there was one.
pub fn remove_if_exists(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// An exclusive lock on a file; the end of the value or of the process gives it back.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the exclusive lock on `path`, which is made when missing.
///
/// A process that was just killed may hold its lock for a moment longer, so this tries again
/// until `patience` is over and then fails with `WouldBlock`.
pub fn lock(path: &Path, patience: Duration) -> io::Result<Lock> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Lock { _file: file }),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Err(TryLockError::WouldBlock) => {
                std::thread::sleep(Duration::from_millis(LOCK_RETRY_MS));
            }
        }
    }
}

/// A hidden name in the folder of `path` that no other call of this process uses.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let number = NEXT_TEMPORARY.fetch_add(1, Ordering::Relaxed);
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}-{number}.tmp", std::process::id()));
    Ok(path.with_file_name(hidden))
}

/// The folder that holds `path`; a bare name lies in the working directory.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("hull-durable-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        make_dir_all(&path, 0o755).unwrap();
        path
    }

    #[test]
    fn replace_gives_new_contents_and_exact_mode_and_leaves_no_temporary_file() {
        let dir = scratch("replace");
        let path = dir.join("file");
        for (durability, text) in [(Durability::Synced, "one"), (Durability::Lost, "two")] {
            replace_file(&path, text.as_bytes(), 0o666, durability).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
                0o666
            );
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_failed_replace_keeps_the_old_contents_and_cleans_up() {
        let dir = scratch("failed");
        let path = dir.join("taken");
        make_dir_all(&path.join("inside"), 0o755).unwrap();
        assert!(replace_file(&path, b"x", 0o600, Durability::Synced).is_err());
        assert!(path.join("inside").is_dir());
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_name_that_is_taken_is_not_replaced() {
        let dir = scratch("new");
        let name = dir.join("name");
        for (text, given) in [("first", true), ("second", false)] {
            let finished = dir.join(text);
            fs::write(&finished, text).unwrap();
            assert_eq!(
                publish_new(&finished, &name, Durability::Synced).unwrap(),
                given
            );
            assert_eq!(finished.exists(), !given);
        }
        assert_eq!(fs::read_to_string(&name).unwrap(), "first");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_held_lock_is_refused_until_it_is_dropped() {
        let dir = scratch("lock");
        let path = dir.join("lock");
        let held = lock(&path, Duration::ZERO).unwrap();
        let refused = lock(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        drop(held);
        lock(&path, Duration::ZERO).unwrap();
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn removing_twice_says_so() {
        let dir = scratch("remove");
        let path = dir.join("file");
        fs::write(&path, "x").unwrap();
        assert!(remove_if_exists(&path).unwrap());
        assert!(!remove_if_exists(&path).unwrap());
        fs::remove_dir_all(dir).unwrap();
    }
}
