//! Walks a tree and makes archive entries of what it finds.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use hull_model::ids::UserMaps;
use hull_os::entry;

use super::{ELOOP, OPAQUE, OVERLAY_XATTRS, PATH_BYTES_MAX, lookup};
use crate::error::{At, Error, Result};
use crate::tar::{Entry, EntryKind, Timestamp, Writer};

/// Bytes of an archive that are written at once.
const OUTPUT_BYTES: usize = 256 << 10;
/// Bytes of names that a walk may hold: those of the directories that it is in, and of what it remembers.
/// Where a guest answers for its files, a directory may have no end.
const HELD_BYTES_MAX: usize = 256 << 20;
/// What a held name takes beside its bytes.
const HELD_NAME_BYTES: usize = 48;
const WHITEOUT_PREFIX: &[u8] = b".wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// What a walk found: the entry, and the contents of a file.
pub type Walked<'w> = &'w mut dyn FnMut(&Entry, &mut dyn Read) -> Result<()>;

/// Walks all that is below a directory, in the order of names. `prefix` goes before each path.
/// What vanishes meanwhile is left out; sockets are, because no archive can hold them.
///
/// # Errors
/// What the file system or `found` says.
pub fn walk(dir: BorrowedFd<'_>, prefix: &[u8], found: Walked<'_>) -> Result<()> {
    Walk::new(false, None, found).directory(dir, prefix)
}

struct Walk<'w> {
    found: Walked<'w>,
    /// The tree is the upper directory of an overlay: removals become those of a layer.
    upper: bool,
    /// Whose ids the entries have; none: those of the host.
    ids: Option<&'w UserMaps>,
    /// First names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
    held: Held,
}

/// What of [`HELD_BYTES_MAX`] a walk has left.
pub(super) struct Held(usize);

impl Default for Held {
    fn default() -> Self {
        Self(HELD_BYTES_MAX)
    }
}

impl Held {
    /// The names in a directory, sorted; [`Held::release`] gives them back.
    pub(super) fn names(&mut self, dir: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(entry::open_path(dir))? {
            let name = entry?.file_name();
            self.keep(name.len())?;
            names.push(name);
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn release(&mut self, names: &[OsString]) {
        self.0 += names
            .iter()
            .map(|name| name.len() + HELD_NAME_BYTES)
            .sum::<usize>();
    }

    /// Counts a name of so many bytes that is kept to the end.
    pub(super) fn keep(&mut self, length: usize) -> io::Result<()> {
        let too_many = || {
            io::Error::other(format!(
                "the tree has more names than fit into {} MiB",
                HELD_BYTES_MAX >> 20
            ))
        };
        self.0 = self
            .0
            .checked_sub(length + HELD_NAME_BYTES)
            .ok_or_else(too_many)?;
        Ok(())
    }
}

impl<'w> Walk<'w> {
    fn new(upper: bool, ids: Option<&'w UserMaps>, found: Walked<'w>) -> Self {
        Self {
            found,
            upper,
            ids,
            links: HashMap::new(),
            held: Held::default(),
        }
    }

    fn directory(&mut self, dir: BorrowedFd<'_>, prefix: &[u8]) -> Result<()> {
        let names = self.held.names(dir).at("list", &shown(prefix))?;
        for name in &names {
            let path = [prefix, name.as_bytes()].concat();
            self.name(dir, name, path)?;
        }
        self.held.release(&names);
        Ok(())
    }

    fn name(&mut self, dir: BorrowedFd<'_>, name: &OsStr, path: Vec<u8>) -> Result<()> {
        if path.len() > PATH_BYTES_MAX {
            return Err(Error::Limit {
                what: "a path in the tree",
                limit: PATH_BYTES_MAX as u64,
                unit: "bytes",
            });
        }
        let at = entry::path(dir, name);
        let Some(facts) = there(fs::symlink_metadata(&at)).at("look at", &shown(&path))? else {
            return Ok(());
        };
        if self.upper && is_whiteout(&facts) {
            return self.whiteout(&path, name, &facts);
        }
        let Some(kind) = kind_of(&facts, &at).at("read the link", &shown(&path))? else {
            return Ok(());
        };
        let mut made = self.entry(path, kind, &facts, &at)?;
        match made.kind {
            EntryKind::Directory => self.enter(dir, name, made),
            EntryKind::File => {
                if facts.nlink() > 1 {
                    let length = made.path.len();
                    self.held.keep(length).at("list", &shown(&made.path))?;
                    let first = self.links.entry((facts.dev(), facts.ino()));
                    let first = first.or_insert_with(|| made.path.clone());
                    if *first != made.path {
                        made.kind = EntryKind::HardLink(first.clone());
                        made.size = 0;
                        return (self.found)(&made, &mut io::empty());
                    }
                }
                let path = shown(&made.path);
                let Some(file) = there(entry::open_file(dir, name)).at("open", &path)? else {
                    return Ok(());
                };
                made.size = file.metadata().at("look at", &path)?.len();
                (self.found)(&made, &mut Contents(file))
            }
            _ => (self.found)(&made, &mut io::empty()),
        }
    }

    /// A directory, then what is in it.
    fn enter(&mut self, dir: BorrowedFd<'_>, name: &OsStr, mut made: Entry) -> Result<()> {
        made.path.push(b'/');
        let path = shown(&made.path);
        let Some(inner) = there(entry::open_dir(dir, name)).at("open", &path)? else {
            return Ok(());
        };
        (self.found)(&made, &mut io::empty())?;
        let opaque = |(key, value): &(Vec<u8>, Vec<u8>)| key == OPAQUE && value == b"y";
        if self.upper {
            let xattrs = entry::xattrs(&entry::path(dir, name)).at("read attributes of", &path)?;
            if xattrs.iter().any(opaque) {
                let mark = [&made.path, WHITEOUT_OPAQUE].concat();
                (self.found)(&removal(mark, made.modified), &mut io::empty())?;
            }
        }
        self.directory(inner.as_fd(), &made.path)
    }

    fn whiteout(&mut self, path: &[u8], name: &OsStr, facts: &Metadata) -> Result<()> {
        let parent = &path[..path.len() - name.len()];
        let mark = [parent, WHITEOUT_PREFIX, name.as_bytes()].concat();
        (self.found)(&removal(mark, modified(facts)), &mut io::empty())
    }

    fn entry(&self, path: Vec<u8>, kind: EntryKind, facts: &Metadata, at: &Path) -> Result<Entry> {
        let mut xattrs = there(entry::xattrs(at))
            .at("read attributes of", &shown(&path))?
            .unwrap_or_default();
        xattrs.retain(|(name, _)| is_kept(name));
        let (uid, gid) = match self.ids {
            Some(ids) => ids.inside(facts.uid(), facts.gid()),
            None => (facts.uid(), facts.gid()),
        };
        Ok(Entry {
            path,
            kind,
            mode: permissions(facts),
            uid,
            gid,
            modified: modified(facts),
            size: 0,
            xattrs,
        })
    }
}

/// Writes the tree below a directory as an archive; with `ids`, with the owners inside of those.
///
/// # Errors
/// What the file system says, or [`Error::Output`].
pub fn pack_root(dir: BorrowedFd<'_>, ids: Option<&UserMaps>, output: impl Write) -> Result<()> {
    pack(output, |found| {
        Walk::new(false, ids, found).directory(dir, b"")
    })
}

/// Writes the upper directory of an overlay as the archive of a layer. `skip` leaves out paths.
///
/// # Errors
/// As [`pack_root`].
pub fn pack_upper(
    dir: BorrowedFd<'_>,
    skip: &dyn Fn(&Entry) -> bool,
    output: impl Write,
) -> Result<()> {
    pack(output, |found| {
        let mut kept = |entry: &Entry, contents: &mut dyn Read| match skip(entry) {
            true => Ok(()),
            false => found(entry, contents),
        };
        Walk::new(true, None, &mut kept).directory(dir, b"")
    })
}

/// Writes what is at a path as Docker's archive of it: named by its last part, a directory with all
/// that is in it, a symbolic link as one. A path that ends with a slash or `/.` means what a link
/// leads to. With `ids`, with the owners inside of those.
///
/// # Errors
/// As [`pack_root`]; [`Error::File`] with `NotFound` when there is nothing.
pub fn pack_path(
    root: BorrowedFd<'_>,
    path: &[u8],
    ids: Option<&UserMaps>,
    output: impl Write,
) -> Result<()> {
    let place = lookup::Place::of(root, path)?;
    let facts = place.facts()?;
    let name = lookup::base(path);
    pack(output, |found| {
        let mut walk = Walk::new(false, ids, found);
        if !facts.is_dir() {
            return walk.name(place.parent(), place.name(), name.to_vec());
        }
        let at = place.path();
        let mut top = walk.entry(name.to_vec(), EntryKind::Directory, &facts, &at)?;
        top.path.push(b'/');
        (walk.found)(&top, &mut io::empty())?;
        walk.directory(place.open()?.as_fd(), &top.path)
    })
}

/// Whether an attribute is one of the file and not of its file system or host.
pub(super) fn is_kept(name: &[u8]) -> bool {
    !name.starts_with(OVERLAY_XATTRS) && name != b"security.selinux"
}

fn pack(output: impl Write, walk: impl FnOnce(Walked<'_>) -> Result<()>) -> Result<()> {
    let failed = |cause| Error::Output {
        what: "archive",
        cause,
    };
    let mut writer = Writer::new(BufWriter::with_capacity(OUTPUT_BYTES, output));
    walk(&mut |entry, contents| writer.append(entry, contents).map_err(failed))?;
    let mut output = writer.finish().map_err(failed)?;
    output.flush().map_err(failed)
}

/// A file that may shrink while it is read: what is missing reads as zeros, as in `tar`.
struct Contents(File);

impl Read for Contents {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => {
                buffer.fill(0);
                Ok(buffer.len())
            }
            length => Ok(length),
        }
    }
}

/// None when it is not there any more, or not the same any more.
fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidInput => Ok(None),
            _ if error.raw_os_error() == Some(ELOOP) => Ok(None),
            _ => Err(error),
        },
    }
}

/// None for a socket.
fn kind_of(facts: &Metadata, at: &Path) -> io::Result<Option<EntryKind>> {
    let kind = facts.file_type();
    let (major, minor) = device_of(facts.rdev());
    Ok(Some(if kind.is_file() {
        EntryKind::File
    } else if kind.is_dir() {
        EntryKind::Directory
    } else if kind.is_symlink() {
        EntryKind::Symlink(fs::read_link(at)?.into_os_string().into_vec())
    } else if kind.is_char_device() {
        EntryKind::CharDevice { major, minor }
    } else if kind.is_block_device() {
        EntryKind::BlockDevice { major, minor }
    } else if kind.is_fifo() {
        EntryKind::Fifo
    } else {
        return Ok(None);
    }))
}

/// Major and minor number, as Linux packs them.
fn device_of(number: u64) -> (u32, u32) {
    let major = ((number >> 8) & 0xfff) | ((number >> 32) & !0xfff);
    let minor = (number & 0xff) | ((number >> 12) & !0xff);
    let narrow = |part| u32::try_from(part & u64::from(u32::MAX)).unwrap_or_default();
    (narrow(major), narrow(minor))
}

pub(super) fn is_whiteout(facts: &Metadata) -> bool {
    facts.file_type().is_char_device() && facts.rdev() == 0
}

fn removal(path: Vec<u8>, modified: Timestamp) -> Entry {
    Entry {
        path,
        kind: EntryKind::File,
        mode: 0o600,
        uid: 0,
        gid: 0,
        modified,
        size: 0,
        xattrs: Vec::new(),
    }
}

fn permissions(facts: &Metadata) -> u16 {
    // Twelve bits.
    u16::try_from(facts.mode() & 0o7777).unwrap_or_default()
}

pub(super) fn modified(facts: &Metadata) -> Timestamp {
    Timestamp {
        seconds: facts.mtime(),
        nanos: u32::try_from(facts.mtime_nsec()).unwrap_or_default(),
    }
}

pub(super) fn shown(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_limit_end_the_walk_and_released_ones_do_not_count() {
        let base = std::env::temp_dir().join(format!("hull-tree-held-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        for name in ["b", "a"] {
            fs::write(base.join(name), "").unwrap();
        }
        let dir = File::open(&base).unwrap();
        let mut held = Held(2 * HELD_NAME_BYTES + 2);
        for _ in 0..3 {
            let names = held.names(dir.as_fd()).unwrap();
            assert_eq!(names, ["a", "b"]);
            held.release(&names);
        }
        fs::write(base.join("c"), "").unwrap();
        let refused = held.names(dir.as_fd()).unwrap_err();
        assert!(refused.to_string().contains("MiB"), "{refused}");
        fs::remove_dir_all(base).unwrap();
    }
}
