//! Finds paths in a tree whose root stands for `/`.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use hull_os::{entry, mount};

use super::ELOOP;
use super::walk::{modified, shown};
use crate::error::{At, Result};
use crate::tar::Timestamp;

/// Symbolic links that may follow each other, as in Docker.
const LINKS_MAX: usize = 255;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The last part of the path as it was asked for.
    pub name: Vec<u8>,
    /// Bytes, as `lstat` says.
    pub size: u64,
    /// Type and permissions as in `st_mode`.
    pub mode: u32,
    /// Time of the last change.
    pub modified: Timestamp,
    /// For a symbolic link: where it leads in the end, as far as that is there.
    pub target: Option<Vec<u8>>,
}

/// Looks at a path. The last link is not followed unless the path ends with a slash or `/.`.
///
/// # Errors
/// `NotFound` and what else the file system says.
pub fn look(root: BorrowedFd<'_>, path: &[u8]) -> Result<Found> {
    let facts = Place::of(root, path)?.facts()?;
    let target = match facts.is_symlink() {
        true => Some(resolve(root, path)?),
        false => None,
    };
    Ok(Found {
        name: base(path).to_vec(),
        size: facts.size(),
        mode: facts.mode(),
        modified: modified(&facts),
        target,
    })
}

/// Opens a directory as a place; links are followed.
///
/// # Errors
/// `NotADirectory`, `NotFound` and what else the file system says.
pub fn open_directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd> {
    open(root, &parts(path)).at("open", &shown(path))
}

/// The path without any link in it. What is not there is taken as it is written.
///
/// # Errors
/// When links lead in circles.
pub fn resolve(root: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<u8>> {
    let mut done: Vec<Vec<u8>> = Vec::new();
    let mut left: VecDeque<Vec<u8>> = parts(path).into_iter().map(<[u8]>::to_vec).collect();
    let mut links = 0;
    while let Some(part) = left.pop_front() {
        if part == b".." {
            done.pop();
            continue;
        }
        let so_far: Vec<&[u8]> = done.iter().map(Vec::as_slice).collect();
        let target = open(root, &so_far)
            .and_then(|dir| fs::read_link(entry::path(dir.as_fd(), OsStr::from_bytes(&part))));
        let Ok(target) = target else {
            done.push(part);
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            let loops = Err(io::Error::from_raw_os_error(ELOOP));
            return loops.at("follow the links of", &shown(path));
        }
        let target = target.into_os_string().into_vec();
        if target.starts_with(b"/") {
            done.clear();
        }
        let steps = target.split(|&byte| byte == b'/');
        for step in steps.filter(|s| !s.is_empty() && *s != b".").rev() {
            left.push_front(step.to_vec());
        }
    }
    Ok([b"/".to_vec(), done.join(&b'/')].concat())
}

/// The parts of a path, with `.` and `..` taken away by name only, as Docker does.
pub(super) fn parts(path: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts
}

/// The last part as Go's `filepath.Base` has it: `.` of `/a/.`, nothing of `/`, which a prefix of
/// paths needs.
pub(super) fn base(path: &[u8]) -> &[u8] {
    let end = path
        .iter()
        .rposition(|&byte| byte != b'/')
        .map_or(0, |at| at + 1);
    let path = &path[..end];
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

fn open(root: BorrowedFd<'_>, parts: &[&[u8]]) -> io::Result<OwnedFd> {
    let path = match parts {
        [] => b".".to_vec(),
        parts => parts.join(&b'/'),
    };
    mount::open_directory_in_root(root, &CString::new(path)?)
}

/// A name in an open directory, or that directory itself.
pub(super) struct Place {
    parent: OwnedFd,
    name: Option<OsString>,
    asked: PathBuf,
}

impl Place {
    pub(super) fn of(root: BorrowedFd<'_>, path: &[u8]) -> Result<Place> {
        let parts = parts(path);
        let follow = path.ends_with(b"/") || path.ends_with(b"/.");
        let (parents, name) = match parts.split_last() {
            Some((name, parents)) if !follow => (parents, Some(OsStr::from_bytes(name))),
            _ => (&parts[..], None),
        };
        Ok(Place {
            parent: open(root, parents).at("open", &shown(path))?,
            name: name.map(OsStr::to_owned),
            asked: shown(path),
        })
    }

    pub(super) fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// The name, or `.`.
    pub(super) fn name(&self) -> &OsStr {
        self.name.as_deref().unwrap_or(OsStr::new("."))
    }

    pub(super) fn path(&self) -> PathBuf {
        entry::path(self.parent(), self.name())
    }

    pub(super) fn facts(&self) -> Result<Metadata> {
        fs::symlink_metadata(self.path()).at("look at", &self.asked)
    }

    pub(super) fn open(&self) -> Result<OwnedFd> {
        entry::open_dir(self.parent(), self.name()).at("open", &self.asked)
    }
}
