//! What a container changed: its upper directory against the layers below, as Docker lists it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use hull_model::Digest;
use hull_os::entry;

use super::walk::{Held, is_whiteout, modified, shown};
use super::{OPAQUE, PATH_BYTES_MAX};
use crate::erofs::{FileType, Inode, Reader};
use crate::error::{At, Error, Result};
use crate::store::Store;

/// What every container has without having made it: marks, and where things are mounted.
const PLACES: [&str; 8] = [
    ".dockerenv",
    "dev",
    "proc",
    "sys",
    "etc/hostname",
    "etc/hosts",
    "etc/mtab",
    "etc/resolv.conf",
];

/// Kind of a change, with Docker's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was there and is different.
    Modified = 0,
    /// It was not there.
    Added = 1,
    /// It was there.
    Deleted = 2,
}

/// A changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// Where, from the root: `/etc/hosts`.
    pub path: String,
}

impl Store {
    /// Compares the upper directory of an overlay with its layers, the lowest first.
    ///
    /// # Errors
    /// When a layer or the directory cannot be read.
    pub fn changes(&self, upper: BorrowedFd<'_>, layers: &[Digest]) -> Result<Vec<Change>> {
        let mut comparison = Comparison {
            layers: Vec::new(),
            changes: Vec::new(),
            held: Held::default(),
        };
        for layer in layers.iter().rev() {
            let layer = self.read_layer(layer)?;
            let hides_below = hides(&layer, &layer.root().map_err(Error::Damaged)?)?;
            comparison.layers.push(layer);
            if hides_below {
                break;
            }
        }
        comparison.directory(upper, "")?;
        Ok(comparison.changes)
    }
}

/// Whether a path in an upper directory is only where something is mounted.
pub fn is_place(path: &str) -> bool {
    PLACES.contains(&path)
}

struct Comparison {
    /// The topmost first.
    layers: Vec<Reader<File>>,
    changes: Vec<Change>,
    held: Held,
}

impl Comparison {
    fn directory(&mut self, dir: BorrowedFd<'_>, prefix: &str) -> Result<()> {
        let names = self.held.names(dir).at("list", &shown(prefix.as_bytes()))?;
        for name in &names {
            let path = match prefix {
                "" => name.to_string_lossy().into_owned(),
                prefix => format!("{prefix}/{}", name.to_string_lossy()),
            };
            if path.len() > PATH_BYTES_MAX {
                return Err(Error::Limit {
                    what: "a path in the tree",
                    limit: PATH_BYTES_MAX as u64,
                    unit: "bytes",
                });
            }
            // What vanishes meanwhile is no change.
            if let Ok(facts) = fs::symlink_metadata(entry::path(dir, name)) {
                self.name(&path, &facts, dir, name)?;
            }
        }
        self.held.release(&names);
        Ok(())
    }

    fn name(
        &mut self,
        path: &str,
        facts: &Metadata,
        dir: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<()> {
        let below = self.below(path.as_bytes())?;
        let change = match &below {
            _ if is_whiteout(facts) => Some(ChangeKind::Deleted),
            Some(below) if is_same(facts, below) => None,
            Some(_) => Some(ChangeKind::Modified),
            // The directory of places is one too where an image has none.
            None if is_place(path) || path == "etc" => None,
            None => Some(ChangeKind::Added),
        };
        let at = self.changes.len();
        if let Some(kind) = change {
            self.tell(kind, path)?;
        }
        if facts.is_dir()
            && let Ok(inner) = entry::open_dir(dir, name)
        {
            if below.is_some() && is_opaque(dir, name) {
                self.removed_at_once(path, inner.as_fd())?;
            }
            self.directory(inner.as_fd(), path)?;
            // What changes something in a directory changes the directory.
            if change.is_none() && self.changes.len() > at {
                let kind = ChangeKind::Modified;
                let path = format!("/{path}");
                self.changes.insert(at, Change { kind, path });
            }
        }
        Ok(())
    }

    /// A directory that was removed and made again: what it does not have again is gone.
    fn removed_at_once(&mut self, path: &str, inner: BorrowedFd<'_>) -> Result<()> {
        let mut gone = BTreeSet::new();
        for layer in &self.layers {
            let Some(directory) = layer.find(path.as_bytes()).map_err(Error::Damaged)? else {
                continue;
            };
            if directory.file_type == FileType::Directory {
                let names = layer.names(&directory).map_err(Error::Damaged)?;
                gone.extend(names.into_iter().map(|name| name.name));
            }
        }
        for name in gone {
            let path = format!("{path}/{}", String::from_utf8_lossy(&name));
            let is_there = entry::path(inner, OsStr::from_bytes(&name))
                .symlink_metadata()
                .is_ok();
            if !matches!(&name[..], b"." | b"..")
                && !is_there
                && self.below(path.as_bytes())?.is_some()
            {
                self.tell(ChangeKind::Deleted, &path)?;
            }
        }
        Ok(())
    }

    fn tell(&mut self, kind: ChangeKind, path: &str) -> Result<()> {
        let path = format!("/{path}");
        self.held.keep(path.len()).at("list", Path::new(&path))?;
        self.changes.push(Change { kind, path });
        Ok(())
    }

    /// What the layers have at a path that has no links in it.
    fn below(&self, path: &[u8]) -> Result<Option<Inode>> {
        'layers: for layer in &self.layers {
            let mut inode = layer.root().map_err(Error::Damaged)?;
            let mut is_end = false;
            for part in path.split(|&byte| byte == b'/') {
                if inode.file_type != FileType::Directory {
                    return Ok(None);
                }
                match layer.lookup(&inode, part).map_err(Error::Damaged)? {
                    None if is_end => return Ok(None),
                    None => continue 'layers,
                    Some(found) if found.is_whiteout() => return Ok(None),
                    Some(found) => inode = found,
                }
                is_end |= hides(layer, &inode)?;
            }
            return Ok(Some(inode));
        }
        Ok(None)
    }
}

/// Whether it is a directory that hides what is below it.
fn hides(layer: &Reader<File>, inode: &Inode) -> Result<bool> {
    if inode.file_type != FileType::Directory {
        return Ok(false);
    }
    let xattrs = layer.xattrs(inode).map_err(Error::Damaged)?;
    Ok(xattrs
        .iter()
        .any(|(key, value)| key == OPAQUE && value == b"y"))
}

fn is_opaque(dir: BorrowedFd<'_>, name: &OsStr) -> bool {
    entry::xattrs(&entry::path(dir, name)).is_ok_and(|found| {
        found
            .iter()
            .any(|(key, value)| key == OPAQUE && value == b"y")
    })
}

/// Whether something was copied up and is as it was. A directory's time does not count, as in Docker.
fn is_same(facts: &Metadata, below: &Inode) -> bool {
    let (now, then) = (modified(facts), below.modified);
    let same_time = now.seconds == then.seconds
        && (now.nanos == then.nanos || now.nanos == 0 || then.nanos == 0);
    let is_directory = below.file_type == FileType::Directory;
    FileType::from_mode((facts.mode() & 0xffff) as u16) == Some(below.file_type)
        && facts.mode() & 0o7777 == u32::from(below.mode)
        && (facts.uid(), facts.gid()) == (below.uid, below.gid)
        && (is_directory || (same_time && facts.size() == below.size))
}
