//! Writes an image in one pass: data first, the superblock last.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::{
    Attributes, BLOCK_BITS, BLOCK_BYTES, COMPAT_CHECKSUM, COMPAT_MTIME, DIRENT_BYTES, DirectoryId,
    FileType, IMAGE_BYTES_MAX, INODE_BYTES, LAYOUT_INLINE, LAYOUT_PLAIN, MAGIC, NLINK_OFFSET,
    NO_BLOCK, Node, ROOT_NID, SLOT_BYTES, SUPERBLOCK_BYTES, SUPERBLOCK_OFFSET, Tree,
    XATTR_BYTES_MAX, XATTR_HEADER_BYTES, crc32c, split_xattr,
};
use crate::error::{At, Error, Result};

/// Data is collected up to this size before it is written, in bytes.
const BUFFER_BYTES: usize = 256 << 10;
/// Blocks for inodes are taken from the sequence in runs, so that inodes lie near each other.
const INODE_RUN_BLOCKS: u64 = 16;
/// Blocks for inodes that still have room. More waste less space and take longer to search.
const OPEN_BLOCKS_MAX: usize = 8;
/// An open block with less room than this is full, in bytes: hardly any inode fits.
const ROOM_BYTES_MIN: usize = 160;

const BLOCK: usize = BLOCK_BYTES as usize;
const ZERO_BLOCK: [u8; BLOCK] = [0; BLOCK];
/// What the root may use of the first block, its inode included.
const ROOT_BYTES_MAX: usize = BLOCK - (ROOT_NID * SLOT_BYTES) as usize;
/// The mark by which overlayfs knows a directory that hides what lies below it.
const OPAQUE_XATTR: (&[u8], &[u8]) = (crate::tree::OPAQUE, b"y");

/// Writes one image; see the module's picture.
#[derive(Debug)]
pub struct Writer {
    output: Output,
    /// The next block that nobody has.
    next_block: u64,
    open: Vec<OpenBlock>,
    run: Range<u64>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Size of the image in bytes.
    pub bytes: u64,
    /// Number of inodes.
    pub inodes: u64,
}

/// Where the contents of a file lie in the image.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    /// The number of its inode.
    pub nid: u64,
    start: u64,
    plain_bytes: u64,
    tail: u64,
}

impl Placed {
    /// Where the bytes from `offset` lie, and how many follow each other there at most.
    pub fn extent(&self, offset: u64) -> (u64, u64) {
        match offset.checked_sub(self.plain_bytes) {
            None => (self.start + offset, self.plain_bytes - offset),
            Some(behind) => (self.tail + behind, BLOCK_BYTES),
        }
    }
}

/// A block that is being filled with inodes.
#[derive(Debug)]
struct OpenBlock {
    block: u64,
    bytes: Vec<u8>,
}

/// The fields of an inode that depend on what it is.
struct InodeShape {
    file_type: FileType,
    layout: u16,
    size: u64,
    /// First data block, or the number of a device.
    place: u32,
    links: u32,
}

impl Writer {
    /// Starts an image in an empty file; the path is for messages.
    pub fn new(file: File, path: PathBuf) -> Self {
        let output = Output {
            file,
            path,
            start: 0,
            buffer: Vec::with_capacity(BUFFER_BYTES),
        };
        Self {
            output,
            next_block: 1,
            open: Vec::new(),
            run: 0..0,
        }
    }

    /// Starts a regular file of this size; what is not written of it is zero.
    pub fn file(&mut self, attributes: &Attributes, size: u64) -> Result<FileBody<'_>> {
        let xattrs = encode_xattrs(&attributes.xattrs, false)?;
        let tail = (size % BLOCK_BYTES) as usize;
        let inline = tail > 0 && INODE_BYTES + xattrs.len() + tail <= BLOCK;
        let plain_bytes = if inline { size - tail as u64 } else { size };
        let first_block = self.take_blocks(plain_bytes.div_ceil(BLOCK_BYTES))?;
        let shape = InodeShape {
            file_type: FileType::File,
            layout: if inline { LAYOUT_INLINE } else { LAYOUT_PLAIN },
            size,
            place: if plain_bytes == 0 {
                NO_BLOCK
            } else {
                first_block as u32
            },
            links: 1,
        };
        let mut inode = encode_inode(attributes, &shape, xattrs.len()).to_vec();
        inode.extend_from_slice(&xattrs);
        let tail_at = inode.len();
        if inline {
            inode.resize(tail_at + tail, 0);
        }
        Ok(FileBody {
            writer: self,
            inode,
            tail_at,
            plain_bytes,
            start: first_block * BLOCK_BYTES,
        })
    }

    /// Writes a symbolic link and returns the number of its inode.
    pub fn symlink(&mut self, attributes: &Attributes, target: &[u8]) -> Result<u64> {
        let mut body = self.file(attributes, target.len() as u64)?;
        body.write_at(0, target)?;
        let mode = (attributes.mode | FileType::Symlink.mode_bits()).to_le_bytes();
        body.inode[4..6].copy_from_slice(&mode);
        Ok(body.finish()?.nid)
    }

    /// Writes a device, pipe or socket and returns the number of its inode.
    pub fn special(
        &mut self,
        attributes: &Attributes,
        file_type: FileType,
        device: u32,
    ) -> Result<u64> {
        self.special_with_links(attributes, file_type, device, 1)
    }

    /// Writes all directories and the superblock; the image is complete, but not synced.
    pub fn finish(mut self, tree: &Tree, uuid: [u8; 16]) -> Result<Finished> {
        let order = tree.directories_in_order();
        let whiteouts = count_whiteouts(tree, &order);
        let whiteout_nid = match u32::try_from(whiteouts) {
            Ok(0) => 0,
            Ok(links) => {
                self.special_with_links(&Attributes::default(), FileType::CharDevice, 0, links)?
            }
            Err(_) => return Err(image_limit()),
        };
        for open in std::mem::take(&mut self.open) {
            self.output
                .write_at(open.block * BLOCK_BYTES, &open.bytes)?;
        }
        let plan = DirectoryPlan::new(tree, &order, self.next_block * BLOCK_BYTES)?;
        self.next_block = plan.end_block;
        image_block(self.next_block)?;
        let root = self.write_directories(tree, &order, &plan, whiteout_nid)?;
        self.output.flush()?;
        for leaf in tree.relinked() {
            let at = leaf.nid * SLOT_BYTES + NLINK_OFFSET;
            self.output.put(at, &leaf.links.to_le_bytes())?;
        }
        let inodes = order.len() as u64 + count_leaves(tree, &order) + u64::from(whiteouts > 0);
        let mut first = superblock(uuid, inodes, self.next_block);
        first.extend_from_slice(&root);
        first.resize(BLOCK, 0);
        let checksum = crc32c(&first[SUPERBLOCK_OFFSET as usize..]).to_le_bytes();
        first[SUPERBLOCK_OFFSET as usize + 4..][..4].copy_from_slice(&checksum);
        self.output.put(0, &first)?;
        let bytes = self.next_block * BLOCK_BYTES;
        self.output
            .file
            .set_len(bytes)
            .at("resize layer image", &self.output.path)?;
        Ok(Finished { bytes, inodes })
    }

    fn special_with_links(
        &mut self,
        attributes: &Attributes,
        file_type: FileType,
        device: u32,
        links: u32,
    ) -> Result<u64> {
        let xattrs = encode_xattrs(&attributes.xattrs, false)?;
        let shape = InodeShape {
            file_type,
            layout: LAYOUT_PLAIN,
            size: 0,
            place: device,
            links,
        };
        let mut inode = encode_inode(attributes, &shape, xattrs.len()).to_vec();
        inode.extend_from_slice(&xattrs);
        self.place_inode(&inode)
    }

    fn take_blocks(&mut self, count: u64) -> Result<u64> {
        let first = self.next_block;
        self.next_block = first.checked_add(count).ok_or_else(image_limit)?;
        image_block(self.next_block)?;
        Ok(first)
    }

    /// Gives an inode, with its attributes and inline data, a place and returns its number.
    ///
    /// What fits into a block never crosses into the next: inline data must not.
    fn place_inode(&mut self, inode: &[u8]) -> Result<u64> {
        if inode.len() > BLOCK {
            let block = self.take_blocks((inode.len() as u64).div_ceil(BLOCK_BYTES))?;
            self.output.write_at(block * BLOCK_BYTES, inode)?;
            return Ok(block * (BLOCK_BYTES / SLOT_BYTES));
        }
        let fits = |open: &OpenBlock| open.bytes.len() + inode.len() <= BLOCK;
        let index = match self.open.iter().position(fits) {
            Some(index) => index,
            None => self.open_block()?,
        };
        let open = &mut self.open[index];
        let nid = (open.block * BLOCK_BYTES + open.bytes.len() as u64) / SLOT_BYTES;
        open.bytes.extend_from_slice(inode);
        open.bytes
            .resize(open.bytes.len().next_multiple_of(SLOT_BYTES as usize), 0);
        if open.bytes.len() + ROOM_BYTES_MIN > BLOCK {
            let full = self.open.swap_remove(index);
            self.output
                .write_at(full.block * BLOCK_BYTES, &full.bytes)?;
        }
        Ok(nid)
    }

    /// Opens one more block for inodes, closing the fullest when there are too many.
    fn open_block(&mut self) -> Result<usize> {
        if self.open.len() == OPEN_BLOCKS_MAX {
            let fullest = (0..self.open.len()).max_by_key(|&at| self.open[at].bytes.len());
            let full = self.open.swap_remove(fullest.unwrap_or(0));
            self.output
                .write_at(full.block * BLOCK_BYTES, &full.bytes)?;
        }
        if self.run.is_empty() {
            let first = self.take_blocks(INODE_RUN_BLOCKS)?;
            self.run = first..first + INODE_RUN_BLOCKS;
        }
        let block = self.run.start;
        self.run.start += 1;
        self.open.push(OpenBlock {
            block,
            bytes: Vec::with_capacity(BLOCK),
        });
        Ok(self.open.len() - 1)
    }

    /// Writes every directory where the plan has it; returns the root's inode, which goes into
    /// the first block.
    fn write_directories(
        &mut self,
        tree: &Tree,
        order: &[DirectoryId],
        plan: &DirectoryPlan,
        whiteout_nid: u64,
    ) -> Result<Vec<u8>> {
        let mut root = Vec::new();
        for &id in order {
            let place = &plan.places[Tree::index(id)];
            let directory = tree.directory(id);
            let xattrs = encode_xattrs(&directory.attributes.xattrs, directory.opaque)?;
            let subdirectories = directory
                .children
                .values()
                .filter(|n| matches!(n, Node::Directory(_)))
                .count();
            let shape = InodeShape {
                file_type: FileType::Directory,
                layout: if place.inline {
                    LAYOUT_INLINE
                } else {
                    LAYOUT_PLAIN
                },
                size: place.size,
                place: place.first_block.map_or(NO_BLOCK, |block| block as u32),
                links: 2 + subdirectories as u32,
            };
            let mut inode = encode_inode(&directory.attributes, &shape, xattrs.len()).to_vec();
            inode.extend_from_slice(&xattrs);
            let names = numbered_names(tree, id, plan, whiteout_nid);
            for (index, range) in dirent_blocks(names.iter().map(|name| name.0)).enumerate() {
                let block = encode_dirents(&names[range]);
                let offset = index as u64 * BLOCK_BYTES;
                if place.inline && offset + block.len() as u64 == place.size {
                    inode.extend_from_slice(&block);
                } else if let Some(first) = place.first_block {
                    self.output.write_at(first * BLOCK_BYTES + offset, &block)?;
                }
            }
            if id == Tree::ROOT {
                root = inode;
            } else {
                self.output.write_at(place.nid * SLOT_BYTES, &inode)?;
            }
        }
        Ok(root)
    }
}

/// A regular file whose contents are being written.
#[derive(Debug)]
pub struct FileBody<'w> {
    writer: &'w mut Writer,
    /// The inode with its attributes and, when inline, the room for the tail.
    inode: Vec<u8>,
    tail_at: usize,
    /// How much of the contents goes to blocks of its own.
    plain_bytes: u64,
    start: u64,
}

impl FileBody<'_> {
    /// Writes contents at an offset; together they must stay within the size given before.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let plain = self
            .plain_bytes
            .saturating_sub(offset)
            .min(bytes.len() as u64) as usize;
        if plain > 0 {
            self.writer
                .output
                .write_at(self.start + offset, &bytes[..plain])?;
        }
        if plain < bytes.len() {
            let at = self.tail_at + (offset + plain as u64 - self.plain_bytes) as usize;
            self.inode[at..at + bytes.len() - plain].copy_from_slice(&bytes[plain..]);
        }
        Ok(())
    }

    /// Writes the inode; returns where it and the contents are.
    pub fn finish(self) -> Result<Placed> {
        let nid = self.writer.place_inode(&self.inode)?;
        Ok(Placed {
            nid,
            start: self.start,
            plain_bytes: self.plain_bytes,
            tail: nid * SLOT_BYTES + self.tail_at as u64,
        })
    }
}

/// Where a directory goes.
#[derive(Debug, Clone, Default)]
struct DirectoryPlace {
    nid: u64,
    size: u64,
    /// Whether the last block lies behind the inode.
    inline: bool,
    first_block: Option<u64>,
}

/// Where all directories go: first all inodes, then the blocks of the large ones.
struct DirectoryPlan {
    places: Vec<DirectoryPlace>,
    end_block: u64,
}

impl DirectoryPlan {
    fn new(tree: &Tree, order: &[DirectoryId], start: u64) -> Result<Self> {
        let mut places = vec![DirectoryPlace::default(); tree.directories_made()];
        let mut cursor = start;
        for &id in order {
            let directory = tree.directory(id);
            let xattr_bytes = encode_xattrs(&directory.attributes.xattrs, directory.opaque)?.len();
            let names = all_names(&directory.children);
            let (mut size, mut last) = (0u64, 0);
            for range in dirent_blocks(names.iter().copied()) {
                let used = names[range]
                    .iter()
                    .map(|name| DIRENT_BYTES + name.len())
                    .sum();
                size = size.next_multiple_of(BLOCK_BYTES) + used as u64;
                last = used;
            }
            let room = if id == Tree::ROOT {
                ROOT_BYTES_MAX
            } else {
                BLOCK
            };
            let head = INODE_BYTES + xattr_bytes;
            // A last block that is full is not a tail.
            let inline = head + last <= room && last < BLOCK;
            let place = &mut places[Tree::index(id)];
            (place.size, place.inline) = (size, inline);
            if id == Tree::ROOT {
                if head > room {
                    let what = "extended attributes of the root directory";
                    let limit = (ROOT_BYTES_MAX - INODE_BYTES) as u64;
                    return Err(Error::Limit {
                        what,
                        limit,
                        unit: "bytes",
                    });
                }
                place.nid = ROOT_NID;
                continue;
            }
            let bytes = (head + if inline { last } else { 0 }) as u64;
            if cursor % BLOCK_BYTES + bytes > BLOCK_BYTES {
                cursor = cursor.next_multiple_of(BLOCK_BYTES);
            }
            place.nid = cursor / SLOT_BYTES;
            cursor = (cursor + bytes).next_multiple_of(SLOT_BYTES);
        }
        let mut end_block = cursor.div_ceil(BLOCK_BYTES);
        for &id in order {
            let place = &mut places[Tree::index(id)];
            let all = place.size.div_ceil(BLOCK_BYTES);
            let blocks = if place.inline { all - 1 } else { all };
            if blocks > 0 {
                place.first_block = Some(end_block);
                end_block += blocks;
            }
        }
        Ok(Self { places, end_block })
    }
}

/// The file behind a writer: joins neighbouring writes and leaves zero blocks out.
#[derive(Debug)]
struct Output {
    file: File,
    path: PathBuf,
    start: u64,
    buffer: Vec<u8>,
}

impl Output {
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let end = self.start + self.buffer.len() as u64;
        // A small gap is filled: blocks that hold inodes end anywhere.
        let gap = at.checked_sub(end).filter(|&gap| gap < BLOCK_BYTES);
        let room = BUFFER_BYTES - self.buffer.len();
        match gap {
            Some(gap) if gap as usize + bytes.len() <= room => {
                self.buffer.resize(self.buffer.len() + gap as usize, 0);
                self.buffer.extend_from_slice(bytes);
                return Ok(());
            }
            _ => self.flush()?,
        }
        if bytes.len() >= BUFFER_BYTES {
            self.start = at + bytes.len() as u64;
            return self.put_data(at, bytes);
        }
        self.start = at;
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.put_data(self.start, &self.buffer)?;
        self.start += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes all but whole blocks of zeros: the file is new, so those are there as holes.
    fn put_data(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let (mut run, mut position) = (0, 0);
        while position < bytes.len() {
            let to_boundary = BLOCK - ((at + position as u64) % BLOCK_BYTES) as usize;
            let next = (position + to_boundary).min(bytes.len());
            if bytes[position..next] == ZERO_BLOCK[..next - position] {
                self.put(at + run as u64, &bytes[run..position])?;
                run = next;
            }
            position = next;
        }
        self.put(at + run as u64, &bytes[run..])
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, at)
            .at("write layer image", &self.path)
    }
}

fn image_limit() -> Error {
    Error::Limit {
        what: "layer image",
        limit: IMAGE_BYTES_MAX,
        unit: "bytes",
    }
}

fn image_block(block: u64) -> Result<()> {
    if block > IMAGE_BYTES_MAX / BLOCK_BYTES {
        Err(image_limit())
    } else {
        Ok(())
    }
}

fn count_whiteouts(tree: &Tree, order: &[DirectoryId]) -> usize {
    let nodes = order
        .iter()
        .flat_map(|&id| tree.directory(id).children.values());
    nodes.filter(|node| matches!(node, Node::Whiteout)).count()
}

/// Inodes with at least one name; a name counts as one part of its inode's links.
fn count_leaves(tree: &Tree, order: &[DirectoryId]) -> u64 {
    let mut seen = vec![false; tree.leaves_made()];
    let mut count = 0;
    for node in order
        .iter()
        .flat_map(|&id| tree.directory(id).children.values())
    {
        if let Node::Leaf(id) = node {
            let seen = &mut seen[Tree::leaf_index(*id)];
            count += u64::from(!*seen);
            *seen = true;
        }
    }
    count
}

/// The names of a directory with `.` and `..`, in the order of the format: by bytes.
fn all_names(children: &super::Children) -> Vec<&[u8]> {
    let mut names: Vec<&[u8]> = children.keys().map(|name| &name[..]).collect();
    for dots in [&b"."[..], b".."] {
        names.insert(names.partition_point(|name| *name < dots), dots);
    }
    names
}

fn numbered_names<'t>(
    tree: &'t Tree,
    id: DirectoryId,
    plan: &DirectoryPlan,
    whiteout_nid: u64,
) -> Vec<(&'t [u8], u64, FileType)> {
    let nid = |id| plan.places[Tree::index(id)].nid;
    let directory = tree.directory(id);
    let numbered = |name: &'t [u8]| match (name, directory.children.get(name)) {
        (b"..", _) => (name, nid(directory.parent), FileType::Directory),
        (b".", _) | (_, None) => (name, nid(id), FileType::Directory),
        (_, Some(Node::Directory(child))) => (name, nid(*child), FileType::Directory),
        (_, Some(Node::Whiteout)) => (name, whiteout_nid, FileType::CharDevice),
        (_, Some(Node::Leaf(leaf))) => (name, tree.leaf(*leaf).nid, tree.leaf(*leaf).file_type),
    };
    all_names(&directory.children)
        .into_iter()
        .map(numbered)
        .collect()
}

/// Splits names into blocks, as ranges of their indices.
fn dirent_blocks<'n>(names: impl Iterator<Item = &'n [u8]>) -> impl Iterator<Item = Range<usize>> {
    let mut names = names.enumerate().peekable();
    std::iter::from_fn(move || {
        let (start, _) = *names.peek()?;
        let (mut used, mut end) = (0, start);
        while let Some((index, name)) =
            names.next_if(|(_, name)| used + DIRENT_BYTES + name.len() <= BLOCK)
        {
            used += DIRENT_BYTES + name.len();
            end = index + 1;
        }
        Some(start..end)
    })
}

fn encode_dirents(names: &[(&[u8], u64, FileType)]) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK);
    let mut name_offset = names.len() * DIRENT_BYTES;
    for (name, nid, file_type) in names {
        block.extend_from_slice(&nid.to_le_bytes());
        block.extend_from_slice(&(name_offset as u16).to_le_bytes());
        block.extend_from_slice(&[file_type.dirent_code(), 0]);
        name_offset += name.len();
    }
    names
        .iter()
        .for_each(|(name, ..)| block.extend_from_slice(name));
    block
}

fn encode_inode(
    attributes: &Attributes,
    shape: &InodeShape,
    xattr_bytes: usize,
) -> [u8; INODE_BYTES] {
    const EXTENDED: u16 = 1;
    let xattr_count = match xattr_bytes {
        0 => 0,
        bytes => ((bytes - XATTR_HEADER_BYTES) / 4 + 1) as u16,
    };
    let mode = (attributes.mode & 0o7777) | shape.file_type.mode_bits();
    let mut inode = [0; INODE_BYTES];
    inode[0..2].copy_from_slice(&(EXTENDED | shape.layout << 1).to_le_bytes());
    inode[2..4].copy_from_slice(&xattr_count.to_le_bytes());
    inode[4..6].copy_from_slice(&mode.to_le_bytes());
    inode[8..16].copy_from_slice(&shape.size.to_le_bytes());
    inode[16..20].copy_from_slice(&shape.place.to_le_bytes());
    inode[24..28].copy_from_slice(&attributes.uid.to_le_bytes());
    inode[28..32].copy_from_slice(&attributes.gid.to_le_bytes());
    inode[32..40].copy_from_slice(&attributes.modified.seconds.to_le_bytes());
    inode[40..44].copy_from_slice(&attributes.modified.nanos.to_le_bytes());
    inode[44..48].copy_from_slice(&shape.links.to_le_bytes());
    inode
}

/// Attributes in their stored form, a multiple of 4 bytes; nothing when there are none.
fn encode_xattrs(xattrs: &[(Vec<u8>, Vec<u8>)], opaque: bool) -> Result<Vec<u8>> {
    let limit = || {
        let limit = XATTR_BYTES_MAX as u64;
        Error::Limit {
            what: "extended attributes of an entry",
            limit,
            unit: "bytes",
        }
    };
    let given = xattrs.iter().map(|(name, value)| (&name[..], &value[..]));
    let mark = opaque.then_some(OPAQUE_XATTR);
    let mut encoded = Vec::new();
    for (name, value) in given.chain(mark) {
        let Some((index, rest)) = split_xattr(name) else {
            continue;
        };
        if encoded.is_empty() {
            encoded.resize(XATTR_HEADER_BYTES, 0);
        }
        let value_bytes = u16::try_from(value.len()).map_err(|_| limit())?;
        encoded.extend_from_slice(&[rest.len() as u8, index]);
        encoded.extend_from_slice(&value_bytes.to_le_bytes());
        encoded.extend_from_slice(rest);
        encoded.extend_from_slice(value);
        encoded.resize(encoded.len().next_multiple_of(4), 0);
    }
    if encoded.len() > XATTR_BYTES_MAX {
        Err(limit())
    } else {
        Ok(encoded)
    }
}

/// The start of the image up to the root's inode, without checksum.
fn superblock(uuid: [u8; 16], inodes: u64, blocks: u64) -> Vec<u8> {
    let mut first = vec![0; SUPERBLOCK_OFFSET as usize + SUPERBLOCK_BYTES];
    let block = &mut first[SUPERBLOCK_OFFSET as usize..];
    block[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    block[8..12].copy_from_slice(&(COMPAT_CHECKSUM | COMPAT_MTIME).to_le_bytes());
    block[12] = BLOCK_BITS;
    block[14..16].copy_from_slice(&(ROOT_NID as u16).to_le_bytes());
    block[16..24].copy_from_slice(&inodes.to_le_bytes());
    block[36..40].copy_from_slice(&(blocks as u32).to_le_bytes());
    block[48..64].copy_from_slice(&uuid);
    first
}
