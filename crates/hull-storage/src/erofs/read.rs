//! Reads an image without mounting it, trusting nothing in it.
//!
//! For files of stopped roots, for exports and for `verify`. Every position is checked against the
//! size of the image, every walk visits a directory once; damage is an error, never a panic.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::tree::{NAMES_MAX, SYMLINKS_FOLLOWED_MAX};
use super::{
    BLOCK_BITS, BLOCK_BYTES, COMPACT_INODE_BYTES, COMPAT_CHECKSUM, DIRENT_BYTES, FileType,
    INODE_BYTES, LAYOUT_INLINE, LAYOUT_PLAIN, MAGIC, NO_BLOCK, SLOT_BYTES, SUPERBLOCK_BYTES,
    SUPERBLOCK_OFFSET, TARGET_BYTES_MAX, Timestamp, XATTR_HEADER_BYTES, XATTR_PREFIXES, crc32c,
};

/// Something with bytes at positions.
pub trait ReadAt {
    /// Fills the buffer from this position or fails.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
    /// How many bytes there are.
    fn size(&self) -> io::Result<u64>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl ReadAt for [u8] {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start
            .checked_add(buffer.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        (**self).size()
    }
}

/// What can be wrong with an image.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// The file could not be read.
    #[error("read at byte {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// There is no superblock.
    #[error("it is not an EROFS image")]
    NotErofs,
    /// The superblock does not match its checksum.
    #[error("the checksum of the superblock is wrong")]
    Checksum,
    /// The image uses something that we neither write nor read.
    #[error("it uses {0}, which is not supported")]
    Unsupported(&'static str),
    /// Something lies outside of the image.
    #[error("{what} of inode {nid} lies outside of the image")]
    OutOfBounds {
        /// What.
        what: &'static str,
        /// Of which inode.
        nid: u64,
    },
    /// An inode is of no known type.
    #[error("inode {0} is of no known type")]
    FileType(u64),
    /// A directory is malformed.
    #[error("directory {nid}: {problem}")]
    Directory {
        /// Which one.
        nid: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// Extended attributes are malformed.
    #[error("the extended attributes of inode {0} are malformed")]
    Xattrs(u64),
    /// Symbolic links lead in circles.
    #[error("more than {SYMLINKS_FOLLOWED_MAX} symbolic links")]
    TooManySymlinks,
    /// A symbolic link is longer than any path.
    #[error("the symbolic link {0} is longer than a path")]
    Target(u64),
    /// There are more names than any layer may have.
    #[error("it has more than {NAMES_MAX} names")]
    TooManyNames,
}

type Result<T> = std::result::Result<T, Damage>;

/// One inode: what `stat` says, and where its contents lie.
#[derive(Debug, Clone)]
pub struct Inode {
    /// Its number: position divided by 32.
    pub nid: u64,
    /// What it is.
    pub file_type: FileType,
    /// Permissions, 12 bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size of the contents in bytes.
    pub size: u64,
    /// Time of the last change.
    pub modified: Timestamp,
    /// Number of names.
    pub links: u32,
    /// Number of the device, as Linux encodes it; for devices only.
    pub device: u32,
    layout: u16,
    first_block: u32,
    head_bytes: u64,
    xattr_bytes: u64,
}

impl Inode {
    /// Whether this marks a name of the layers below as removed.
    pub fn is_whiteout(&self) -> bool {
        self.file_type == FileType::CharDevice && self.device == 0
    }

    fn position(&self) -> u64 {
        self.nid * SLOT_BYTES
    }

    /// Where the bytes from `offset` lie, and how many follow each other there.
    fn extent(&self, offset: u64) -> (u64, u64) {
        let plain = match self.layout {
            LAYOUT_INLINE => self.size - self.size % BLOCK_BYTES,
            _ => self.size,
        };
        if offset < plain {
            (
                u64::from(self.first_block) * BLOCK_BYTES + offset,
                plain - offset,
            )
        } else {
            let tail = self.position() + self.head_bytes + self.xattr_bytes;
            (tail + (offset - plain), self.size - offset)
        }
    }
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name itself.
    pub name: Vec<u8>,
    /// The inode it stands for.
    pub nid: u64,
}

/// What a walk comes by.
#[derive(Debug)]
pub struct WalkItem<'a> {
    /// The path from the root without a leading slash; empty for the root.
    pub path: &'a [u8],
    /// The inode.
    pub inode: &'a Inode,
}

/// An image that is open for reading.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    bytes: u64,
    meta_start: u64,
    root_nid: u64,
}

impl<S: ReadAt> Reader<S> {
    /// Opens an image and checks its superblock.
    pub fn open(source: S) -> Result<Self> {
        let at_start = |cause| Damage::Read { offset: 0, cause };
        let bytes = source.size().map_err(at_start)?;
        if bytes < BLOCK_BYTES {
            return Err(Damage::NotErofs);
        }
        let mut first = [0; BLOCK_BYTES as usize];
        source.read_exact_at(&mut first, 0).map_err(at_start)?;
        let block = &mut first[SUPERBLOCK_OFFSET as usize..];
        if u32_at(block, 0) != MAGIC {
            return Err(Damage::NotErofs);
        }
        if block[12] != BLOCK_BITS {
            return Err(Damage::Unsupported("another block size"));
        }
        if u32_at(block, 80) != 0 {
            return Err(Damage::Unsupported("an incompatible feature"));
        }
        if u32_at(block, 8) & COMPAT_CHECKSUM != 0 {
            let claimed = u32_at(block, 4);
            block[4..8].fill(0);
            if crc32c(block) != claimed {
                return Err(Damage::Checksum);
            }
        }
        let claimed_bytes = u64::from(u32_at(block, 36)) * BLOCK_BYTES;
        if claimed_bytes > bytes || claimed_bytes < BLOCK_BYTES {
            return Err(Damage::OutOfBounds {
                what: "the end",
                nid: 0,
            });
        }
        debug_assert!(block.len() >= SUPERBLOCK_BYTES);
        Ok(Self {
            meta_start: u64::from(u32_at(block, 40)) * BLOCK_BYTES,
            root_nid: u64::from(u16_at(block, 14)),
            bytes: claimed_bytes,
            source,
        })
    }

    /// The root directory.
    pub fn root(&self) -> Result<Inode> {
        let root = self.inode(self.root_nid)?;
        if root.file_type != FileType::Directory {
            return Err(Damage::Directory {
                nid: root.nid,
                problem: "the root is none",
            });
        }
        Ok(root)
    }

    /// Reads an inode and checks that all it points to is there.
    pub fn inode(&self, nid: u64) -> Result<Inode> {
        let outside = |what| Damage::OutOfBounds { what, nid };
        let relative = nid.checked_mul(SLOT_BYTES).ok_or(outside("the place"))?;
        let position = relative
            .checked_add(self.meta_start)
            .ok_or(outside("the place"))?;
        let mut raw = [0; INODE_BYTES];
        self.read(&mut raw[..COMPACT_INODE_BYTES], position, nid)?;
        let format = u16_at(&raw, 0);
        let extended = format & 1 == 1;
        if extended {
            self.read(&mut raw, position, nid)?;
        }
        let mode = u16_at(&raw, 4);
        let file_type = FileType::from_mode(mode).ok_or(Damage::FileType(nid))?;
        let xattr_bytes = match u16_at(&raw, 2) {
            0 => 0,
            count => XATTR_HEADER_BYTES as u64 + 4 * (u64::from(count) - 1),
        };
        let place = u32_at(&raw, 16);
        let is_device = matches!(file_type, FileType::CharDevice | FileType::BlockDevice);
        let seconds = u64_at(&raw, 32) as i64;
        let inode = Inode {
            // Positions are absolute from here on.
            nid: position / SLOT_BYTES,
            file_type,
            mode: mode & 0o7777,
            uid: if extended {
                u32_at(&raw, 24)
            } else {
                u16_at(&raw, 24).into()
            },
            gid: if extended {
                u32_at(&raw, 28)
            } else {
                u16_at(&raw, 26).into()
            },
            size: if extended {
                u64_at(&raw, 8)
            } else {
                u32_at(&raw, 8).into()
            },
            modified: match extended {
                true => Timestamp {
                    seconds,
                    nanos: u32_at(&raw, 40),
                },
                false => Timestamp::default(),
            },
            links: if extended {
                u32_at(&raw, 44)
            } else {
                u16_at(&raw, 6).into()
            },
            device: if is_device { place } else { 0 },
            layout: (format >> 1) & 7,
            first_block: place,
            head_bytes: if extended {
                INODE_BYTES
            } else {
                COMPACT_INODE_BYTES
            } as u64,
            xattr_bytes,
        };
        self.check_contents(&inode)?;
        Ok(inode)
    }

    /// Reads contents from an offset; returns how many bytes there were.
    pub fn read_at(&self, inode: &Inode, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let wanted = inode.size.saturating_sub(offset).min(buffer.len() as u64);
        let mut done = 0;
        while done < wanted {
            let (position, available) = inode.extent(offset + done);
            let len = available.min(wanted - done);
            self.read(
                &mut buffer[done as usize..(done + len) as usize],
                position,
                inode.nid,
            )?;
            done += len;
        }
        Ok(wanted as usize)
    }

    /// A reader of the whole contents of a file.
    pub fn contents<'r>(&'r self, inode: &'r Inode) -> impl io::Read + 'r {
        Contents {
            reader: self,
            inode,
            offset: 0,
        }
    }

    /// The target of a symbolic link.
    pub fn target(&self, link: &Inode) -> Result<Vec<u8>> {
        if link.file_type != FileType::Symlink || link.size > TARGET_BYTES_MAX as u64 {
            return Err(Damage::Target(link.nid));
        }
        let mut target = vec![0; link.size as usize];
        self.read_at(link, &mut target, 0)?;
        Ok(target)
    }

    /// The extended attributes with their full names.
    pub fn xattrs(&self, inode: &Inode) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let damaged = || Damage::Xattrs(inode.nid);
        let mut body = vec![0; inode.xattr_bytes as usize];
        self.read(&mut body, inode.position() + inode.head_bytes, inode.nid)?;
        let mut xattrs = Vec::new();
        let Some(header) = body.get(..XATTR_HEADER_BYTES) else {
            return Ok(xattrs);
        };
        if header[4] != 0 {
            return Err(Damage::Unsupported("shared extended attributes"));
        }
        let mut rest = &body[XATTR_HEADER_BYTES..];
        // Other writers leave zeros behind the last one.
        while rest.len() >= 4 && rest[..4] != [0; 4] {
            let (name_len, value_len) = (usize::from(rest[0]), usize::from(u16_at(rest, 2)));
            let prefix = XATTR_PREFIXES.iter().find(|(index, _)| *index == rest[1]);
            let (_, prefix) = prefix.ok_or_else(damaged)?;
            let end = 4 + name_len + value_len;
            let name = rest.get(4..4 + name_len).ok_or_else(damaged)?;
            let value = rest.get(4 + name_len..end).ok_or_else(damaged)?;
            xattrs.push(([prefix, name].concat(), value.to_vec()));
            rest = rest.get(end.next_multiple_of(4)..).ok_or_else(damaged)?;
        }
        Ok(xattrs)
    }

    /// The names in a directory, without `.` and `..`, in the order of the image.
    pub fn names(&self, directory: &Inode) -> Result<Vec<Name>> {
        let mut names: Vec<Name> = Vec::new();
        let mut offset = 0;
        while offset < directory.size {
            for name in self.dirents(directory, offset)? {
                let problem = match names.last() {
                    Some(last) if last.name >= name.name => Some("its names are not in order"),
                    _ if names.len() >= NAMES_MAX => return Err(Damage::TooManyNames),
                    _ => None,
                };
                if let Some(problem) = problem {
                    return Err(Damage::Directory {
                        nid: directory.nid,
                        problem,
                    });
                }
                names.push(name);
            }
            offset += BLOCK_BYTES;
        }
        names.retain(|name| name.name != b"." && name.name != b"..");
        Ok(names)
    }

    /// Finds one name in a directory by binary search over its blocks.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> Result<Option<Inode>> {
        let (mut low, mut high) = (0, directory.size.div_ceil(BLOCK_BYTES));
        while low < high {
            let middle = low + (high - low) / 2;
            let names = self.dirents(directory, middle * BLOCK_BYTES)?;
            if let Ok(found) = names.binary_search_by(|entry| entry.name[..].cmp(name)) {
                return self.inode(names[found].nid).map(Some);
            }
            if names.first().is_some_and(|first| name < &first.name[..]) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(None)
    }

    /// Finds a path as a process with this root would, following symbolic links.
    pub fn find(&self, path: &[u8]) -> Result<Option<Inode>> {
        let mut pending: Vec<Vec<u8>> = components(path);
        let mut stack = vec![self.root()?];
        let mut followed = 0;
        let mut last: Option<Inode> = None;
        while let Some(name) = pending.pop() {
            if last.is_some() {
                // Something that is not a directory has something below it.
                return Ok(None);
            }
            if name == b".." {
                stack.truncate(stack.len().saturating_sub(1).max(1));
                continue;
            }
            let Some(here) = stack.last() else {
                return Ok(None);
            };
            let Some(inode) = self.lookup(here, &name)? else {
                return Ok(None);
            };
            match inode.file_type {
                FileType::Directory => stack.push(inode),
                FileType::Symlink => {
                    followed += 1;
                    if followed > SYMLINKS_FOLLOWED_MAX {
                        return Err(Damage::TooManySymlinks);
                    }
                    let target = self.target(&inode)?;
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    pending.extend(components(&target));
                }
                _ => last = Some(inode),
            }
        }
        Ok(last.or_else(|| stack.pop()))
    }

    /// Visits every name once, parents first, names in order.
    ///
    /// The error type is the visitor's, so that it can fail in its own way.
    pub fn walk<E: From<Damage>>(
        &self,
        mut visit: impl FnMut(WalkItem<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let root = self.root()?;
        let mut seen = HashSet::from([root.nid]);
        let mut path = Vec::new();
        visit(WalkItem {
            path: &path,
            inode: &root,
        })?;
        // Per open directory: the names that are left and where its path ends.
        let mut open = vec![(self.names(&root)?.into_iter(), 0)];
        let mut names_seen = 0;
        while let Some((names, end)) = open.last_mut() {
            path.truncate(*end);
            let Some(name) = names.next() else {
                open.pop();
                continue;
            };
            names_seen += 1;
            if names_seen > NAMES_MAX {
                return Err(Damage::TooManyNames.into());
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name.name);
            let inode = self.inode(name.nid)?;
            visit(WalkItem {
                path: &path,
                inode: &inode,
            })?;
            if inode.file_type == FileType::Directory {
                if !seen.insert(inode.nid) {
                    let problem = "it is reached twice";
                    return Err(Damage::Directory {
                        nid: inode.nid,
                        problem,
                    }
                    .into());
                }
                open.push((self.names(&inode)?.into_iter(), path.len()));
            }
        }
        Ok(())
    }

    /// The names in one block of a directory, `.` and `..` among them.
    fn dirents(&self, directory: &Inode, offset: u64) -> Result<Vec<Name>> {
        let nid = directory.nid;
        let damaged = |problem| Damage::Directory { nid, problem };
        if directory.file_type != FileType::Directory {
            return Err(damaged("it is none"));
        }
        let mut block = [0; BLOCK_BYTES as usize];
        let len = self.read_at(directory, &mut block, offset)?;
        let block = &block[..len];
        if len < DIRENT_BYTES {
            return Err(damaged("a block is too short"));
        }
        let names_start = usize::from(u16_at(block, 8));
        if names_start < DIRENT_BYTES || names_start % DIRENT_BYTES != 0 || names_start > len {
            return Err(damaged("a block has no valid number of names"));
        }
        let count = names_start / DIRENT_BYTES;
        let start_of = |index: usize| match index < count {
            true => usize::from(u16_at(block, index * DIRENT_BYTES + 8)),
            false => len,
        };
        let mut names = Vec::with_capacity(count);
        for index in 0..count {
            let bytes = block.get(start_of(index)..start_of(index + 1));
            let bytes = bytes.ok_or(damaged("a name lies outside of its block"))?;
            // Only the last name of a block may be followed by something: zeros.
            let name = bytes.split(|&b| b == 0).next().unwrap_or_default();
            if name.is_empty() || name.contains(&b'/') || name.len() > super::NAME_BYTES_MAX {
                return Err(damaged("a name is malformed"));
            }
            let nid = u64_at(block, index * DIRENT_BYTES);
            names.push(Name {
                name: name.to_vec(),
                nid,
            });
        }
        Ok(names)
    }

    fn check_contents(&self, inode: &Inode) -> Result<()> {
        let nid = inode.nid;
        let outside = |what| Damage::OutOfBounds { what, nid };
        let head_end = inode.position() + inode.head_bytes + inode.xattr_bytes;
        if head_end > self.bytes {
            return Err(outside("the end"));
        }
        let has_contents = matches!(
            inode.file_type,
            FileType::File | FileType::Directory | FileType::Symlink
        );
        if !has_contents || inode.size == 0 {
            return Ok(());
        }
        let (plain, tail) = match inode.layout {
            LAYOUT_PLAIN => (inode.size, 0),
            LAYOUT_INLINE => (
                inode.size - inode.size % BLOCK_BYTES,
                inode.size % BLOCK_BYTES,
            ),
            _ => return Err(Damage::Unsupported("compressed or chunked files")),
        };
        let start = u64::from(inode.first_block) * BLOCK_BYTES;
        let end = start.checked_add(plain).ok_or(outside("the data"))?;
        if plain > 0 && (inode.first_block == NO_BLOCK || end > self.bytes) {
            return Err(outside("the data"));
        }
        if tail > 0 && (head_end % BLOCK_BYTES + tail > BLOCK_BYTES || head_end + tail > self.bytes)
        {
            return Err(outside("the tail"));
        }
        Ok(())
    }

    fn read(&self, buffer: &mut [u8], offset: u64, nid: u64) -> Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.bytes) {
            return Err(Damage::OutOfBounds {
                what: "something",
                nid,
            });
        }
        self.source
            .read_exact_at(buffer, offset)
            .map_err(|cause| Damage::Read { offset, cause })
    }
}

struct Contents<'r, S> {
    reader: &'r Reader<S>,
    inode: &'r Inode,
    offset: u64,
}

impl<S: ReadAt> io::Read for Contents<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read_at(self.inode, buffer, self.offset);
        let len = read.map_err(|damage| io::Error::new(io::ErrorKind::InvalidData, damage))?;
        self.offset += len as u64;
        Ok(len)
    }
}

/// The parts of a path, last one first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.rsplit(|&b| b == b'/');
    parts
        .filter(|part| !part.is_empty() && *part != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
