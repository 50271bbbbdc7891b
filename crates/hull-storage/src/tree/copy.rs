//! A directory tree copied by descriptor: owners, modes, times, attributes, links, holes.
//!
//! The source may be written to by somebody who wishes us ill while it is read (a volume in use),
//! so nothing in it is ever reached by a path of more than one name, and no link is followed. The
//! target is ours alone until the copy is whole.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use hull_os::{copy, entry};

use super::walk::{Held, is_kept};

/// Directories below one another. More than any path that can be named in one go has.
const DEPTH_MAX: usize = 1024;

/// Copies what is in `from` into `to`, which is empty, and then the owner, mode, times and
/// attributes of the directory itself.
///
/// # Errors
/// What the file system says; what was copied stays.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut copier = Copier {
        top: to,
        linked: HashMap::new(),
        held: Held::default(),
    };
    copier.directory(from, to, &PathBuf::new(), 0)
}

/// Gives one entry what another has: owner, then mode, attributes, and times last.
pub(crate) fn copy_facts(from: &Path, facts: &Metadata, to: &Path) -> io::Result<()> {
    lchown(to, Some(facts.uid()), Some(facts.gid()))?;
    if !facts.is_symlink() {
        // After the owner: a change of that takes set-user-id bits away.
        fs::set_permissions(to, Permissions::from_mode(facts.mode() & 0o7777))?;
    }
    for (name, value) in entry::xattrs(from)? {
        if is_kept(&name) {
            set_xattr(to, &name, &value)?;
        }
    }
    let nanos = |nanos: i64| u32::try_from(nanos).unwrap_or(0);
    let accessed = (facts.atime(), nanos(facts.atime_nsec()));
    let modified = (facts.mtime(), nanos(facts.mtime_nsec()));
    entry::set_times(to, accessed, modified)
}

/// A file system without attributes keeps what it can.
fn set_xattr(to: &Path, name: &[u8], value: &[u8]) -> io::Result<()> {
    match entry::set_xattr(to, name, value) {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        result => result,
    }
}

struct Copier<'a> {
    top: BorrowedFd<'a>,
    /// First name below the top of each file that has several.
    linked: HashMap<(u64, u64), PathBuf>,
    held: Held,
}

impl Copier<'_> {
    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        below: &Path,
        depth: usize,
    ) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!(
                "directories are more than {DEPTH_MAX} deep"
            )));
        }
        let names = self.held.names(from)?;
        for name in &names {
            self.one(from, to, name, &below.join(name), depth)
                .map_err(|e| named(&below.join(name), &e))?;
        }
        self.held.release(&names);
        let source = entry::open_path(from);
        copy_facts(
            &source.join("."),
            &fs::metadata(&source)?,
            &entry::open_path(to).join("."),
        )
    }

    fn one(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        below: &Path,
        depth: usize,
    ) -> io::Result<()> {
        let (source, target) = (entry::path(from, name), entry::path(to, name));
        let facts = match fs::symlink_metadata(&source) {
            // Gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            facts => facts?,
        };
        if !facts.is_dir() && facts.nlink() > 1 {
            if let Some(first) = self.linked.get(&(facts.dev(), facts.ino())) {
                return fs::hard_link(entry::open_path(self.top).join(first), target);
            }
            let first = below.to_owned();
            self.linked.insert((facts.dev(), facts.ino()), first);
        }
        let kind = facts.file_type();
        if kind.is_dir() {
            let inner = entry::open_dir(from, name)?;
            fs::create_dir(&target)?;
            let made = entry::open_dir(to, name)?;
            return self.directory(inner.as_fd(), made.as_fd(), below, depth + 1);
        }
        if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if kind.is_file() {
            copy_file(from, name, &target)?;
        } else if kind.is_socket() {
            // Means nothing without the process that listens.
            return Ok(());
        } else {
            copy::make_like(&target, &facts)?;
        }
        copy_facts(&source, &facts, &target)
    }
}

fn copy_file(dir: BorrowedFd<'_>, name: &OsStr, target: &Path) -> io::Result<()> {
    let mut from = entry::open_file(dir, name)?;
    let mut to = File::create_new(target)?;
    copy::contents(&mut from, &mut to).map(drop)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
