//! The file server of a guest: answers questions of FUSE about the container's files.
//!
//! ```text
//!  /  ─┬─ whole    all that the container sees, without /dev /proc /sys
//!      ├─ alone    its root without what is mounted on it
//!      ├─ upper    what it changed
//!      ├─ proc     processes of the guest
//!      └─ cgroup   figures of the guest, the container's in `hull`
//! ```
//!
//! It has a mount namespace of its own, as the worker of a container, and knows what it was asked for by
//! place and name. One question at a time; whoever asks is trusted, who answers is not (`fuse.rs`).

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirEntryExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use hull_os::{mount, process};
use hull_plan::Plan;

use crate::container::Mapping;
use crate::fuse::{ANSWER_BYTES, MESSAGE_BYTES_MAX, QUESTION_BYTES, word};
use crate::{take, worker};

/// Descriptors that it is given: the stream, and a plan or a mount namespace.
const STREAM: i32 = 3;
const SOURCE: i32 = 4;
/// The place that has the others.
const ROOT: u64 = 1;
/// First number of what is found.
const FIRST_FOUND: u64 = 16;
/// How long the kernel may believe what it was told, in seconds.
const BELIEVED_S: u64 = 1;
/// Bytes of a path.
const PATH_BYTES_MAX: usize = 4095;
/// Open files and directories.
const OPEN_MAX: u64 = 1 << 20;

/// The whole life of a server.
pub(crate) fn run() -> io::Result<()> {
    process::set_name(c"hull-files");
    process::set_umask(0);
    // As many as the kernel gives us.
    let _ = process::set_rlimit(libc::RLIMIT_NOFILE, OPEN_MAX, OPEN_MAX);
    let mut stream = UnixStream::from(take(STREAM)?);
    let source = take(SOURCE)?;
    let mut places = Vec::new();
    let mut place = |name: &'static str, fd: OwnedFd| places.push((name, fd));
    for (name, path) in [
        ("upper", c"/u/upper"),
        ("proc", c"/proc"),
        ("cgroup", c"/sys/fs/cgroup"),
    ] {
        if let Ok(fd) = mount::open_directory(path) {
            place(name, fd);
        }
    }
    let is_view = std::env::args_os().nth(1).is_some_and(|how| how == "view");
    let view = match is_view {
        true => {
            let mapping = Mapping::of(&source)?;
            let plan = Plan::parse(mapping.bytes())?;
            worker::of_stopped(&plan).map_err(|failure| io::Error::other(failure.text))?
        }
        false => worker::of_running(source.as_fd())?,
    };
    place("whole", view.whole);
    place("alone", view.alone);
    let mut server = Server::new(places);
    let mut question = vec![0u8; MESSAGE_BYTES_MAX];
    loop {
        match stream.read_exact(&mut question[..4]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            result => result?,
        }
        let length = word(&question, 0) as usize;
        if !(QUESTION_BYTES..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.read_exact(&mut question[4..length])?;
        if let Some(answer) = server.answer(&question[..length]) {
            stream.write_all(&answer)?;
        }
    }
}

/// Where something is: below which place or directory, and its name there.
struct Node {
    parent: u64,
    name: Vec<u8>,
    /// How often the kernel was told its number.
    known: u64,
    /// What it was: something else of that name gets another number.
    identity: (u64, u64, u32),
}

/// What is open.
enum Open {
    File(fs::File),
    Directory(Vec<(Vec<u8>, u64, u32)>),
}

struct Server {
    places: Vec<(&'static str, OwnedFd)>,
    nodes: BTreeMap<u64, Node>,
    numbers: BTreeMap<(u64, Vec<u8>), u64>,
    next_node: u64,
    open: BTreeMap<u64, Open>,
    next_open: u64,
}

/// Fields of a question, one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(io::ErrorKind::InvalidData)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.take(4).map(|bytes| word(bytes, 0))
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
    }

    /// A text that ends with a NUL.
    fn text(&mut self) -> io::Result<Vec<u8>> {
        let end = self.0.iter().position(|&byte| byte == 0);
        let text = self.take(end.ok_or(io::ErrorKind::InvalidData)?)?.to_vec();
        self.take(1)?;
        Ok(text)
    }
}

type Answer = io::Result<Vec<u8>>;

fn number(value: libc::c_int) -> io::Error {
    io::Error::from_raw_os_error(value)
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn c_path(path: &std::path::Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

impl Server {
    fn new(places: Vec<(&'static str, OwnedFd)>) -> Server {
        Server {
            places,
            nodes: BTreeMap::new(),
            numbers: BTreeMap::new(),
            next_node: FIRST_FOUND,
            open: BTreeMap::new(),
            next_open: 1,
        }
    }

    /// The answer to a question; none for those that have none.
    fn answer(&mut self, question: &[u8]) -> Option<Vec<u8>> {
        let operation = word(question, 4);
        let node = u64::from(word(question, 16)) | u64::from(word(question, 20)) << 32;
        let mut fields = Fields(&question[QUESTION_BYTES..]);
        match operation {
            2 => {
                self.forget(node, fields.u64().unwrap_or(0));
                return None;
            }
            42 => {
                let count = fields.u64().unwrap_or(0);
                for _ in 0..count & u64::from(u32::MAX) {
                    let (Ok(node), Ok(known)) = (fields.u64(), fields.u64()) else {
                        break;
                    };
                    self.forget(node, known);
                }
                return None;
            }
            36 => return None,
            _ => {}
        }
        let result = match operation {
            1 | 5..=6 | 8..=13 | 45 => self.names(operation, node, &mut fields),
            3 | 4 | 17 | 21..=24 => self.attributes(operation, node, &mut fields),
            14..=16 | 18 | 20 | 25 | 27..=30 | 35 | 46 | 38 => {
                self.contents(operation, node, &mut fields)
            }
            _ => Err(number(libc::ENOSYS)),
        };
        let (error, payload) = match result {
            Ok(payload) => (0, payload),
            Err(error) => (-error.raw_os_error().unwrap_or(libc::EIO), Vec::new()),
        };
        let length = u32::try_from(ANSWER_BYTES + payload.len()).unwrap_or(0);
        let mut answer = length.to_le_bytes().to_vec();
        answer.extend_from_slice(&error.to_le_bytes());
        answer.extend_from_slice(&question[8..16]);
        answer.extend_from_slice(&payload);
        Some(answer)
    }

    /// Goes to the place of a node; the path of it from there.
    fn path(&self, node: u64) -> io::Result<PathBuf> {
        let (place, path) = self.locate(node)?;
        mount::fchdir(place)?;
        Ok(path)
    }

    /// The place of a node, and the path of it from there.
    fn locate(&self, node: u64) -> io::Result<(BorrowedFd<'_>, PathBuf)> {
        let mut parts = Vec::new();
        let mut length = 0;
        let mut at = node;
        while at >= FIRST_FOUND {
            let known = self.nodes.get(&at).ok_or_else(|| number(libc::ESTALE))?;
            length += known.name.len() + 1;
            if length > PATH_BYTES_MAX {
                return Err(number(libc::ENAMETOOLONG));
            }
            parts.push(&known.name[..]);
            at = known.parent;
        }
        let place = usize::try_from(at).ok().and_then(|at| at.checked_sub(2));
        let place = place.and_then(|at| self.places.get(at));
        let (_, place) = place.ok_or_else(|| number(libc::EPERM))?;
        let mut path = PathBuf::new();
        for part in parts.iter().rev() {
            path.push(OsStr::from_bytes(part));
        }
        if parts.is_empty() {
            path.push(".");
        }
        Ok((place.as_fd(), path))
    }

    fn path_in(&self, parent: u64, name: &[u8]) -> io::Result<PathBuf> {
        if name.is_empty() || name.contains(&b'/') || matches!(name, b"." | b"..") {
            return Err(number(libc::EINVAL));
        }
        Ok(self.path(parent)?.join(OsStr::from_bytes(name)))
    }

    fn forget(&mut self, node: u64, known: u64) {
        let Some(found) = self.nodes.get_mut(&node) else {
            return;
        };
        found.known = found.known.saturating_sub(known);
        if found.known == 0
            && let Some(gone) = self.nodes.remove(&node)
        {
            let place = (gone.parent, gone.name);
            if self.numbers.get(&place) == Some(&node) {
                self.numbers.remove(&place);
            }
        }
    }

    /// The number of what is at a name, with what it is.
    fn entry(&mut self, parent: u64, name: Vec<u8>) -> Answer {
        if parent == ROOT {
            let at = self
                .places
                .iter()
                .position(|(known, _)| known.as_bytes() == name);
            let place = 2 + at.ok_or_else(|| number(libc::ENOENT))? as u64;
            let facts = fs::symlink_metadata(self.path(place)?)?;
            return Ok(entry_of(place, &facts));
        }
        let facts = fs::symlink_metadata(self.path_in(parent, &name)?)?;
        let identity = (facts.dev(), facts.ino(), facts.mode() & libc::S_IFMT);
        let place = (parent, name);
        let same = self.numbers.get(&place).copied();
        let same = same.filter(|node| self.nodes.get(node).is_some_and(|n| n.identity == identity));
        let node = same.unwrap_or_else(|| {
            self.next_node += 1;
            self.numbers.insert(place.clone(), self.next_node);
            let (parent, name) = place;
            let made = Node {
                parent,
                name,
                known: 0,
                identity,
            };
            self.nodes.insert(self.next_node, made);
            self.next_node
        });
        if let Some(found) = self.nodes.get_mut(&node) {
            found.known += 1;
        }
        Ok(entry_of(node, &facts))
    }

    /// What makes, moves and takes away names.
    fn names(&mut self, operation: u32, node: u64, fields: &mut Fields<'_>) -> Answer {
        match operation {
            1 => {
                let name = fields.text()?;
                self.entry(node, name)
            }
            5 => fs::read_link(self.path(node)?).map(|link| link.into_os_string().into_vec()),
            6 => {
                let (name, target) = (fields.text()?, fields.text()?);
                let path = self.path_in(node, &name)?;
                std::os::unix::fs::symlink(OsStr::from_bytes(&target), path)?;
                self.entry(node, name)
            }
            8 | 9 => {
                let mode = fields.u32()?;
                let device = if operation == 8 { fields.u32()? } else { 0 };
                fields.take(if operation == 8 { 8 } else { 4 })?;
                let name = fields.text()?;
                let path = c_path(&self.path_in(node, &name)?)?;
                // SAFETY: the path is NUL-terminated and outlives the call.
                check(unsafe {
                    match operation {
                        8 => libc::mknod(path.as_ptr(), mode, unpacked(device)),
                        _ => libc::mkdir(path.as_ptr(), mode),
                    }
                })?;
                self.entry(node, name)
            }
            10 => {
                let name = fields.text()?;
                fs::remove_file(self.path_in(node, &name)?).map(|()| Vec::new())
            }
            11 => {
                let name = fields.text()?;
                fs::remove_dir(self.path_in(node, &name)?).map(|()| Vec::new())
            }
            12 | 45 => {
                let parent = fields.u64()?;
                let flags = if operation == 45 { fields.u64()? } else { 0 };
                let (from, to) = (fields.text()?, fields.text()?);
                self.rename(&(node, from), (parent, to), flags as u32)
            }
            13 => {
                let (old, name) = (fields.u64()?, fields.text()?);
                let (place, from) = self.locate(old)?;
                let from = c_path(&from)?;
                let to = c_path(&self.path_in(node, &name)?)?;
                // SAFETY: both paths are NUL-terminated and outlive the call.
                check(unsafe {
                    libc::linkat(
                        place.as_raw_fd(),
                        from.as_ptr(),
                        libc::AT_FDCWD,
                        to.as_ptr(),
                        0,
                    )
                })?;
                self.entry(node, name)
            }
            _ => Err(number(libc::ENOSYS)),
        }
    }

    fn rename(&mut self, from: &(u64, Vec<u8>), to: (u64, Vec<u8>), flags: u32) -> Answer {
        let (place, old) = self.locate(from.0)?;
        let old = c_path(&old.join(OsStr::from_bytes(&from.1)))?;
        let new = c_path(&self.path_in(to.0, &to.1)?)?;
        // SAFETY: both paths are NUL-terminated and outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_renameat2,
                place.as_raw_fd(),
                old.as_ptr(),
                libc::AT_FDCWD,
                new.as_ptr(),
                flags,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        if let Some(node) = self.numbers.remove(from) {
            if let Some(moved) = self.nodes.get_mut(&node) {
                (moved.parent, moved.name) = to.clone();
            }
            self.numbers.insert(to, node);
        }
        Ok(Vec::new())
    }

    /// What belongs to a file and is not in it.
    fn attributes(&mut self, operation: u32, node: u64, fields: &mut Fields<'_>) -> Answer {
        match operation {
            3 if node == ROOT => Ok(attributes_of(&fs::metadata("/")?)),
            3 => Ok(attributes_of(&fs::symlink_metadata(self.path(node)?)?)),
            4 => self.set_attributes(node, fields),
            17 => self.statfs(node),
            21 => {
                let (size, flags) = (fields.u32()?, fields.u32()?);
                let name = CString::new(fields.text()?)?;
                let value = fields.take(size as usize)?;
                let path = c_path(&self.path(node)?)?;
                // SAFETY: NUL-terminated strings, and a value of that length.
                check(unsafe {
                    libc::lsetxattr(
                        path.as_ptr(),
                        name.as_ptr(),
                        value.as_ptr().cast(),
                        value.len(),
                        flags.cast_signed(),
                    )
                })?;
                Ok(Vec::new())
            }
            22 | 23 => {
                let size = fields.u64()? as u32;
                let name = CString::new(if operation == 22 {
                    fields.text()?
                } else {
                    Vec::new()
                })?;
                self.read_xattr(node, (operation == 22).then_some(&name), size)
            }
            _ => {
                let name = CString::new(fields.text()?)?;
                let path = c_path(&self.path(node)?)?;
                // SAFETY: NUL-terminated strings that outlive the call.
                check(unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) })?;
                Ok(Vec::new())
            }
        }
    }

    /// The value of an attribute, or the names of all.
    fn read_xattr(&self, node: u64, name: Option<&CString>, size: u32) -> Answer {
        let path = c_path(&self.path(node)?)?;
        let mut value = vec![0u8; (size as usize).min(MESSAGE_BYTES_MAX - ANSWER_BYTES)];
        let (at, length) = (value.as_mut_ptr(), value.len());
        // SAFETY: NUL-terminated strings, and a buffer that is valid for writes of its length.
        let found = unsafe {
            match name {
                Some(name) => libc::lgetxattr(path.as_ptr(), name.as_ptr(), at.cast(), length),
                None => libc::llistxattr(path.as_ptr(), at.cast(), length),
            }
        };
        let found = usize::try_from(found).map_err(|_| io::Error::last_os_error())?;
        if size == 0 {
            return Ok((found as u64).to_le_bytes().to_vec());
        }
        value.truncate(found);
        Ok(value)
    }

    fn set_attributes(&mut self, node: u64, fields: &mut Fields<'_>) -> Answer {
        let valid = fields.u64()?;
        let asked = |bit: u64| valid & bit != 0;
        let (_file, size, _lock) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (accessed, modified, _changed) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (accessed_ns, modified_ns, _) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let (mode, _, uid, gid) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        let at = self.path(node)?;
        let path = c_path(&at)?;
        if asked(2) || asked(4) {
            let uid = if asked(2) { uid } else { u32::MAX };
            let gid = if asked(4) { gid } else { u32::MAX };
            // SAFETY: the path is NUL-terminated and outlives the call.
            check(unsafe { libc::lchown(path.as_ptr(), uid, gid) })?;
        }
        if asked(1) {
            // SAFETY: as above.
            check(unsafe { libc::chmod(path.as_ptr(), mode & 0o7777) })?;
        }
        if asked(8) {
            let size = i64::try_from(size).map_err(|_| number(libc::EFBIG))?;
            // SAFETY: as above.
            check(unsafe { libc::truncate(path.as_ptr(), size) })?;
        }
        if asked(16) || asked(32) {
            let time = |asked: bool, now: bool, seconds: u64, nanos: u32| libc::timespec {
                tv_sec: seconds.cast_signed(),
                tv_nsec: match (asked, now) {
                    (false, _) => libc::UTIME_OMIT,
                    (true, true) => libc::UTIME_NOW,
                    (true, false) => nanos.into(),
                },
            };
            let times = [
                time(asked(16), asked(128), accessed, accessed_ns),
                time(asked(32), asked(256), modified, modified_ns),
            ];
            let flags = libc::AT_SYMLINK_NOFOLLOW;
            // SAFETY: the path is NUL-terminated, there are two times.
            check(unsafe {
                libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), flags)
            })?;
        }
        Ok(attributes_of(&fs::symlink_metadata(at)?))
    }

    fn statfs(&self, node: u64) -> Answer {
        let path = match node {
            ROOT => CString::from(c"/"),
            node => c_path(&self.path(node)?)?,
        };
        // SAFETY: plain numbers, for which zero is a value.
        let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
        // SAFETY: a NUL-terminated path, and room for the answer.
        check(unsafe { libc::statfs(path.as_ptr(), &raw mut facts) })?;
        let mut answer = Vec::with_capacity(80);
        for count in [
            facts.f_blocks,
            facts.f_bfree,
            facts.f_bavail,
            facts.f_files,
            facts.f_ffree,
        ] {
            answer.extend_from_slice(&count.to_le_bytes());
        }
        for size in [facts.f_bsize, facts.f_namelen, facts.f_frsize] {
            answer.extend_from_slice(&u32::try_from(size).unwrap_or(4096).to_le_bytes());
        }
        answer.resize(80, 0);
        Ok(answer)
    }

    /// What is in files and directories.
    fn contents(&mut self, operation: u32, node: u64, fields: &mut Fields<'_>) -> Answer {
        match operation {
            14 | 27 => self.open(operation, node, fields.u32()?),
            35 => {
                let (flags, mode) = (fields.u32()?, fields.u32()?);
                fields.take(8)?;
                let name = fields.text()?;
                let path = c_path(&self.path_in(node, &name)?)?;
                let file = open(&path, flags | libc::O_CREAT.cast_unsigned(), mode)?;
                let mut answer = self.entry(node, name)?;
                answer.extend(self.keep(Open::File(file), 0)?);
                Ok(answer)
            }
            15 | 16 | 28 => {
                let (open, at, size) = (fields.u64()?, fields.u64()?, fields.u64()?);
                fields.take(16)?;
                let size = (size & u64::from(u32::MAX)) as usize;
                let open = self.open.get(&open).ok_or_else(|| number(libc::EBADF))?;
                match (operation, open) {
                    (15, Open::File(file)) => read(file, at, size),
                    (16, Open::File(file)) => {
                        let data = fields.take(size)?;
                        let written = std::os::unix::fs::FileExt::write_at(file, data, at)?;
                        Ok((written as u64).to_le_bytes().to_vec())
                    }
                    (28, Open::Directory(names)) => Ok(list(names, at, size)),
                    _ => Err(number(libc::EBADF)),
                }
            }
            18 | 29 => {
                self.open.remove(&fields.u64()?);
                Ok(Vec::new())
            }
            20 => {
                if let Some(Open::File(file)) = self.open.get(&fields.u64()?) {
                    file.sync_all()?;
                }
                Ok(Vec::new())
            }
            46 => {
                let (open, at, how) = (fields.u64()?, fields.u64()?, fields.u32()?);
                let Some(Open::File(file)) = self.open.get(&open) else {
                    return Err(number(libc::EBADF));
                };
                // SAFETY: integers only.
                let found =
                    unsafe { libc::lseek(file.as_raw_fd(), at.cast_signed(), how.cast_signed()) };
                match u64::try_from(found) {
                    Ok(found) => Ok(found.to_le_bytes().to_vec()),
                    Err(_) => Err(io::Error::last_os_error()),
                }
            }
            // What was written is where it would be anyway.
            _ => Ok(Vec::new()),
        }
    }

    fn open(&mut self, operation: u32, node: u64, flags: u32) -> Answer {
        if operation == 27 {
            let names = match node {
                ROOT => self
                    .places
                    .iter()
                    .zip(2..)
                    .map(|((name, _), number)| {
                        (name.as_bytes().to_vec(), number, libc::DT_DIR.into())
                    })
                    .collect(),
                node => names(&self.path(node)?)?,
            };
            return self.keep(Open::Directory(names), 0);
        }
        let file = open(&c_path(&self.path(node)?)?, flags, 0)?;
        // What the kernel makes as it is read has no length.
        let direct = u32::from(file.metadata()?.len() == 0);
        self.keep(Open::File(file), direct)
    }

    fn keep(&mut self, open: Open, flags: u32) -> Answer {
        let number = self.next_open;
        self.next_open += 1;
        self.open.insert(number, open);
        let mut answer = number.to_le_bytes().to_vec();
        answer.extend_from_slice(&u64::from(flags).to_le_bytes());
        Ok(answer)
    }
}

fn open(path: &CString, flags: u32, mode: u32) -> io::Result<fs::File> {
    let kept = libc::O_ACCMODE | libc::O_TRUNC | libc::O_CREAT | libc::O_EXCL;
    let flags = flags.cast_signed() & kept | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    process::open(mount::cwd(), path, flags, mode & 0o7777).map(fs::File::from)
}

fn read(file: &fs::File, at: u64, size: usize) -> Answer {
    let mut data = vec![0u8; size.min(MESSAGE_BYTES_MAX - ANSWER_BYTES)];
    let mut length = 0;
    while length < data.len() {
        let place = at + length as u64;
        match std::os::unix::fs::FileExt::read_at(file, &mut data[length..], place)? {
            0 => break,
            more => length += more,
        }
    }
    data.truncate(length);
    Ok(data)
}

/// What is in a directory: names, inodes, kinds.
fn names(path: &std::path::Path) -> io::Result<Vec<(Vec<u8>, u64, u32)>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let kind = match () {
            () if kind.is_dir() => libc::DT_DIR,
            () if kind.is_file() => libc::DT_REG,
            () if kind.is_symlink() => libc::DT_LNK,
            () if kind.is_char_device() => libc::DT_CHR,
            () if kind.is_block_device() => libc::DT_BLK,
            () if kind.is_fifo() => libc::DT_FIFO,
            () => libc::DT_SOCK,
        };
        names.push((entry.file_name().into_vec(), entry.ino(), kind.into()));
    }
    Ok(names)
}

/// As many names, from a place in the list on, as there is room for.
fn list(names: &[(Vec<u8>, u64, u32)], at: u64, size: usize) -> Vec<u8> {
    let mut answer = Vec::new();
    let skipped = usize::try_from(at).unwrap_or(usize::MAX);
    for (place, (name, inode, kind)) in (0u64..).zip(names).skip(skipped) {
        let length = (24 + name.len()).next_multiple_of(8);
        if answer.len() + length > size.min(MESSAGE_BYTES_MAX - ANSWER_BYTES) {
            break;
        }
        let end = answer.len() + length;
        answer.extend_from_slice(&inode.to_le_bytes());
        answer.extend_from_slice(&(place + 1).to_le_bytes());
        answer.extend_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_le_bytes());
        answer.extend_from_slice(&kind.to_le_bytes());
        answer.extend_from_slice(name);
        answer.resize(end, 0);
    }
    answer
}

fn entry_of(node: u64, facts: &fs::Metadata) -> Vec<u8> {
    let mut answer = Vec::with_capacity(128);
    for field in [node, 0, BELIEVED_S, BELIEVED_S, 0] {
        answer.extend_from_slice(&field.to_le_bytes());
    }
    put_facts(&mut answer, facts);
    answer
}

fn attributes_of(facts: &fs::Metadata) -> Vec<u8> {
    let mut answer = Vec::with_capacity(104);
    for field in [BELIEVED_S, 0] {
        answer.extend_from_slice(&field.to_le_bytes());
    }
    put_facts(&mut answer, facts);
    answer
}

fn put_facts(answer: &mut Vec<u8>, facts: &fs::Metadata) {
    let nanos = |value: i64| u32::try_from(value).unwrap_or(0);
    // The host sees one file system: what is the same file has the same number, and nothing else.
    let inode = facts.ino() ^ facts.dev().rotate_right(16);
    for field in [
        inode,
        facts.size(),
        facts.blocks(),
        facts.atime().cast_unsigned(),
        facts.mtime().cast_unsigned(),
        facts.ctime().cast_unsigned(),
    ] {
        answer.extend_from_slice(&field.to_le_bytes());
    }
    for field in [
        nanos(facts.atime_nsec()),
        nanos(facts.mtime_nsec()),
        nanos(facts.ctime_nsec()),
        facts.mode(),
        u32::try_from(facts.nlink()).unwrap_or(u32::MAX),
        facts.uid(),
        facts.gid(),
        packed(facts.rdev()),
        4096,
        0,
    ] {
        answer.extend_from_slice(&field.to_le_bytes());
    }
}

/// A device's number in 32 bits, as the kernel packs it.
fn packed(device: u64) -> u32 {
    let (major, minor) = (libc::major(device), libc::minor(device));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

fn unpacked(device: u32) -> u64 {
    let minor = device & 0xff | device >> 12 & 0xf_ff00;
    libc::makedev(device >> 8 & 0xfff, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_devices_come_back() {
        for device in [libc::makedev(10, 232), libc::makedev(259, 70_000), 0] {
            assert_eq!(unpacked(packed(device)), device);
        }
    }

    #[test]
    fn a_list_goes_on_where_it_was_left() {
        let names: Vec<_> = (0u64..40)
            .map(|n| (format!("name{n}").into_bytes(), n, 8))
            .collect();
        let mut seen = 0;
        while seen < 40 {
            let part = list(&names, seen, 200);
            assert!(!part.is_empty() && part.len() <= 200);
            seen += part.chunks(32).count() as u64;
        }
        assert_eq!(seen, 40);
        assert!(list(&names, 40, 200).is_empty());
    }
}
