//! Makes a tree of archive entries: below a path of a root, and never outside of that root.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, lchown, symlink};

use hull_model::ids::UserMaps;
use hull_os::{entry, mount};

use super::OVERLAY_XATTRS;
use super::walk::shown;
use crate::error::{At, Error, Result};
use crate::layer::normalise;
use crate::tar::{Entry, EntryKind, Reader, Timestamp};

/// Bytes of a file that are written at once.
const FILE_BUFFER_BYTES: usize = 256 << 10;
/// What can be a hole, in bytes: a block of the usual file systems.
const BLOCK_BYTES: u64 = 4096;
/// Type bits of the nodes that are made.
const CHARACTER: u32 = 0o020_000;
const BLOCK: u32 = 0o060_000;
const FIFO: u32 = 0o010_000;

/// How entries are made.
#[derive(Debug, Clone, Copy, Default)]
pub struct MakeOptions<'a> {
    /// Neither a directory takes the place of something else nor the other way round.
    pub keep_kinds: bool,
    /// Everything belongs to this user and group and not to those of the archive.
    pub owner: Option<(u32, u32)>,
    /// Whom these ids are on the host; none: the same.
    pub ids: Option<&'a UserMaps>,
    /// Overlay's own marks are set too: the tree is to be a layer of one.
    pub keep_overlay_marks: bool,
    /// The directory itself gets the attributes that the archive has for it.
    pub with_top: bool,
    /// Whole blocks of zeros become holes: an archive does not say which were.
    pub holes: bool,
}

/// A file that has holes where whole blocks are zero.
struct Holes {
    file: File,
    at: u64,
}

impl Write for Holes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (start, mut data) = (self.at, 0..0);
        let mut end = 0;
        while end < bytes.len() {
            let begin = end;
            let left = BLOCK_BYTES - (start + begin as u64) % BLOCK_BYTES;
            end = bytes.len().min(begin + left as usize);
            if bytes[begin..end].iter().all(|&byte| byte == 0) {
                self.file
                    .write_all_at(&bytes[data.clone()], start + data.start as u64)?;
                data = end..end;
            } else {
                data.end = end;
            }
        }
        self.file
            .write_all_at(&bytes[data.clone()], start + data.start as u64)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    /// The end may be a hole too.
    fn flush(&mut self) -> io::Result<()> {
        self.file.set_len(self.at)
    }
}

/// Makes entries.
#[derive(Debug)]
pub struct Maker<'r> {
    root: BorrowedFd<'r>,
    base: Vec<u8>,
    options: MakeOptions<'r>,
    /// Directories get their times at the end: what is made in them changes these.
    times: Vec<(Vec<u8>, Timestamp)>,
    /// The directory that was used last.
    parent: Option<(Vec<u8>, OwnedFd)>,
}

/// Makes all of an archive below a directory.
///
/// # Errors
/// What is wrong with the archive, or what the file system says; what was made stays.
pub fn unpack(
    root: BorrowedFd<'_>,
    base: &[u8],
    options: MakeOptions<'_>,
    archive: impl BufRead,
) -> Result<()> {
    let mut maker = Maker::new(root, base, options);
    let mut archive = Reader::new(archive);
    while let Some(entry) = archive.next_entry()? {
        maker.add(&entry, &mut archive.data())?;
    }
    maker.finish()?;
    // What follows is padding; a client that sends it must not find the door closed.
    io::copy(&mut archive.into_inner(), &mut io::sink())
        .map(drop)
        .map_err(|cause| Error::Input {
            what: "archive",
            cause,
        })
}

impl<'r> Maker<'r> {
    /// Makes entries below the path `base` of `root`, which is there.
    pub fn new(root: BorrowedFd<'r>, base: &[u8], options: MakeOptions<'r>) -> Self {
        Self {
            root,
            base: base.to_vec(),
            options,
            times: Vec::new(),
            parent: None,
        }
    }

    /// Makes one entry with its missing parents. What is there is replaced, except that directories
    /// keep what is in them.
    ///
    /// # Errors
    /// A name that leads out, [`Error::Kind`], or what the file system says.
    pub fn add(&mut self, made: &Entry, contents: &mut dyn Read) -> Result<()> {
        let parts = normalise(&made.path).map_err(|cause| Error::Entry {
            path: shown(&made.path).display().to_string(),
            cause,
        })?;
        let Some((name, parents)) = parts.split_last() else {
            return self.describe_top(made);
        };
        let name = OsStr::from_bytes(name);
        let path = shown(&made.path);
        let parent = self
            .directory(&parents.join(&b'/'))
            .at("open the parent of", &path)?;
        let exists = self.make_room(parent.as_fd(), name, made)?;
        self.create(parent.as_fd(), name, made, contents, exists)?;
        self.describe(parent.as_fd(), name, made)
            .at("set attributes of", &path)?;
        if made.kind == EntryKind::Directory {
            self.times.push((parts.join(&b'/'), made.modified));
        }
        self.parent = Some((parents.join(&b'/'), parent));
        Ok(())
    }

    /// The directory itself is as it was, or as the archive says.
    fn describe_top(&mut self, made: &Entry) -> Result<()> {
        if !self.options.with_top || made.kind != EntryKind::Directory {
            return Ok(());
        }
        let path = shown(&made.path);
        let top = self.directory(b"").at("open", &path)?;
        self.describe(top.as_fd(), OsStr::new("."), made)
            .at("set attributes of", &path)?;
        self.times.push((b".".to_vec(), made.modified));
        Ok(())
    }

    /// Gives directories their times.
    ///
    /// # Errors
    /// None so far: one that is gone needs none.
    pub fn finish(mut self) -> Result<()> {
        for (path, time) in std::mem::take(&mut self.times).into_iter().rev() {
            let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
                Some(at) => (&path[..at], &path[at + 1..]),
                None => (&b""[..], &path[..]),
            };
            if let Ok(parent) = self.directory(parent) {
                let at = entry::path(parent.as_fd(), OsStr::from_bytes(name));
                let moment = (time.seconds, time.nanos);
                // Somebody may have removed it meanwhile.
                drop(entry::set_times(&at, moment, moment));
            }
        }
        Ok(())
    }

    /// Opens a directory below the base; links are followed inside of the root.
    fn directory(&mut self, path: &[u8]) -> io::Result<OwnedFd> {
        if let Some((last, dir)) = self.parent.take_if(|(last, _)| last == path) {
            debug_assert_eq!(last, path);
            return Ok(dir);
        }
        let whole = [&self.base[..], b"/", path, b"/."].concat();
        let whole = CString::new(whole.trim_ascii_start())?;
        match mount::open_directory_in_root(self.root, &whole) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => {
                let (above, name) = match path.iter().rposition(|&byte| byte == b'/') {
                    Some(at) => (&path[..at], &path[at + 1..]),
                    None => (&b""[..], path),
                };
                let above = self.directory(above)?;
                let name = OsStr::from_bytes(name);
                fs::create_dir(entry::path(above.as_fd(), name))?;
                entry::open_dir(above.as_fd(), name)
            }
            result => result,
        }
    }

    /// Removes what is in the way; says whether a directory is there that stays.
    fn make_room(&self, parent: BorrowedFd<'_>, name: &OsStr, made: &Entry) -> Result<bool> {
        let at = entry::path(parent, name);
        let path = shown(&made.path);
        let facts = match fs::symlink_metadata(&at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            facts => facts.at("look at", &path)?,
        };
        let wanted = made.kind == EntryKind::Directory;
        match (facts.is_dir(), wanted) {
            (true, true) => return Ok(true),
            (true, false) | (false, true) if self.options.keep_kinds => {
                return Err(Error::Kind {
                    path,
                    base: shown(&self.base),
                    wanted,
                });
            }
            (true, false) => fs::remove_dir_all(&at).at("remove", &path)?,
            (false, _) => fs::remove_file(&at).at("remove", &path)?,
        }
        Ok(false)
    }

    fn create(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        made: &Entry,
        contents: &mut dyn Read,
        exists: bool,
    ) -> Result<()> {
        let at = entry::path(parent, name);
        let path = shown(&made.path);
        let node = |kind, major, minor| entry::make_node(&at, kind | 0o600, major, minor);
        match &made.kind {
            EntryKind::Directory if exists => Ok(()),
            EntryKind::Directory => fs::create_dir(&at),
            EntryKind::Symlink(target) => symlink(OsStr::from_bytes(target), &at),
            EntryKind::Fifo => node(FIFO, 0, 0),
            EntryKind::CharDevice { major, minor } => node(CHARACTER, *major, *minor),
            EntryKind::BlockDevice { major, minor } => node(BLOCK, *major, *minor),
            EntryKind::HardLink(target) => {
                let parts = normalise(target).map_err(|cause| Error::Entry {
                    path: path.display().to_string(),
                    cause,
                })?;
                let (&file, dirs) = parts.split_last().unwrap_or((&&b"."[..], &[]));
                let dir = self
                    .directory(&dirs.join(&b'/'))
                    .at("open the parent of", &path)?;
                fs::hard_link(entry::path(dir.as_fd(), OsStr::from_bytes(file)), &at)
            }
            EntryKind::File => {
                let mut options = OpenOptions::new();
                let file = options.write(true).create_new(true).mode(0o600).open(&at);
                let file = file.at("create", &path)?;
                let output: Box<dyn Write> = match self.options.holes {
                    true => Box::new(Holes { file, at: 0 }),
                    false => Box::new(file),
                };
                let mut output = BufWriter::with_capacity(FILE_BUFFER_BYTES, output);
                let copied = io::copy(&mut contents.take(made.size), &mut output);
                let written = copied.map_err(|cause| Error::Input {
                    what: "archive",
                    cause,
                })?;
                if written != made.size {
                    return Err(Error::Input {
                        what: "archive",
                        cause: io::ErrorKind::UnexpectedEof.into(),
                    });
                }
                output.flush()
            }
        }
        .at("create", &path)
    }

    /// Owner first: a change of it takes special permissions and capabilities away.
    fn describe(&self, parent: BorrowedFd<'_>, name: &OsStr, made: &Entry) -> io::Result<()> {
        if matches!(made.kind, EntryKind::HardLink(_)) {
            return Ok(());
        }
        let at = entry::path(parent, name);
        let (uid, gid) = self.options.owner.unwrap_or((made.uid, made.gid));
        let (uid, gid) = match self.options.ids {
            Some(ids) => ids.on_host(uid, gid).ok_or_else(|| {
                io::Error::other(format!("{uid}:{gid} has no place in its users"))
            })?,
            None => (uid, gid),
        };
        lchown(&at, Some(uid), Some(gid))?;
        if !matches!(made.kind, EntryKind::Symlink(_)) {
            entry::set_mode(parent, name, made.mode.into())?;
        }
        for (key, value) in &made.xattrs {
            if key.starts_with(OVERLAY_XATTRS) && !self.options.keep_overlay_marks {
                continue;
            }
            match entry::set_xattr(&at, key, value) {
                // Not every file system has every kind of them.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
                    ) => {}
                result => result?,
            }
        }
        let moment = (made.modified.seconds, made.modified.nanos);
        entry::set_times(&at, moment, moment)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn zeros_become_holes_and_the_contents_stay() {
        let path = std::env::temp_dir().join(format!("hull-holes-{}", std::process::id()));
        let mut wanted = vec![0; 3 << 20];
        for at in [5000, 5001, 1 << 20, (2 << 20) - 1] {
            wanted[at] = 7;
        }
        for piece in [1000, 4096, 100_000] {
            let file = File::create(&path).unwrap();
            let mut output = Holes { file, at: 0 };
            for bytes in wanted.chunks(piece) {
                output.write_all(bytes).unwrap();
            }
            output.flush().unwrap();
            assert!(fs::read(&path).unwrap() == wanted, "by {piece}");
            let taken = fs::metadata(&path).unwrap().blocks() * 512;
            assert!(
                taken <= 8 * BLOCK_BYTES,
                "by {piece}: {taken} bytes are taken"
            );
        }
        fs::remove_file(path).unwrap();
    }
}
