//! EROFS images: one file per layer, written in one pass and mounted by the kernel.
//!
//! ```text
//! 0        1024         1152      4096                                                   end
//! | unused | superblock | root  | data of a file | inodes, tails | data | ... | directories |
//! ```
//!
//! The writer streams: data goes to the next free blocks as it comes, inodes of files (with their
//! attributes and the last partial block of their data) are packed into blocks taken from the same
//! sequence, and only names stay in memory, until all directories are written at the end. That
//! works because a directory names an inode by its position (`nid` = byte offset / 32), wherever
//! that is; only the root has to lie near the start, so its place is fixed.
//!
//! Uncompressed, 4 KiB blocks, extended inodes, no incompatible feature: Linux 5.4 mounts it.

mod read;
mod tree;
mod write;

pub use read::{Damage, Inode, Name, ReadAt, Reader, WalkItem};
pub use tree::{
    Children, DirectoryId, LeafId, NAMES_MAX, Node, SYMLINKS_FOLLOWED_MAX, TREE_BYTES_MAX, Tree,
    TreeFault,
};
pub use write::{FileBody, Finished, Placed, Writer};

pub use crate::tar::Timestamp;

/// Size of a block, in bytes.
pub const BLOCK_BYTES: u64 = 4096;
/// Extended attributes of one inode in their stored form, in bytes.
pub const XATTR_BYTES_MAX: usize = 128 << 10;
/// Length of one name, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Length of a symbolic link's target, in bytes: what `PATH_MAX` leaves.
pub const TARGET_BYTES_MAX: usize = 4095;
/// Size of an image, in bytes. The format could do 16 TiB.
pub const IMAGE_BYTES_MAX: u64 = 4 << 40;

const SUPERBLOCK_OFFSET: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
const COMPAT_CHECKSUM: u32 = 0x1;
const COMPAT_MTIME: u32 = 0x2;
const BLOCK_BITS: u8 = 12;

/// Inodes lie at multiples of this, in bytes.
const SLOT_BYTES: u64 = 32;
const INODE_BYTES: usize = 64;
const COMPACT_INODE_BYTES: usize = 32;
const NLINK_OFFSET: u64 = 44;
const DIRENT_BYTES: usize = 12;
const XATTR_HEADER_BYTES: usize = 12;
/// The root lies right behind the superblock: its number has only 16 bits.
const ROOT_NID: u64 = (SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES as u64) / SLOT_BYTES;
/// Where there are no data blocks.
const NO_BLOCK: u32 = u32::MAX;

const LAYOUT_PLAIN: u16 = 0;
const LAYOUT_INLINE: u16 = 2;

const S_IFMT: u16 = 0o170_000;

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

impl FileType {
    /// The type bits of `st_mode`.
    pub const fn mode_bits(self) -> u16 {
        match self {
            FileType::File => 0o100_000,
            FileType::Directory => 0o040_000,
            FileType::Symlink => 0o120_000,
            FileType::CharDevice => 0o020_000,
            FileType::BlockDevice => 0o060_000,
            FileType::Fifo => 0o010_000,
            FileType::Socket => 0o140_000,
        }
    }

    pub(crate) const fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode & S_IFMT {
            0o100_000 => FileType::File,
            0o040_000 => FileType::Directory,
            0o120_000 => FileType::Symlink,
            0o020_000 => FileType::CharDevice,
            0o060_000 => FileType::BlockDevice,
            0o010_000 => FileType::Fifo,
            0o140_000 => FileType::Socket,
            _ => return None,
        })
    }

    /// The number that directory entries use.
    const fn dirent_code(self) -> u8 {
        match self {
            FileType::File => 1,
            FileType::Directory => 2,
            FileType::CharDevice => 3,
            FileType::BlockDevice => 4,
            FileType::Fifo => 5,
            FileType::Socket => 6,
            FileType::Symlink => 7,
        }
    }
}

/// Major and minor number of a device number as Linux encodes it in 32 bits.
pub(crate) const fn device_numbers(number: u32) -> (u32, u32) {
    (
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & 0xf_ff00),
    )
}

/// A device number as Linux encodes it in 32 bits.
pub const fn device_number(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// What an inode carries beside its contents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permissions, 12 bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change.
    pub modified: Timestamp,
    /// Extended attributes with their full names; see [`xattr_is_known`].
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    fn xattr_bytes(&self) -> usize {
        self.xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum()
    }
}

/// The name prefixes that the format knows, by their number.
const XATTR_PREFIXES: [(u8, &[u8]); 5] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
];

/// Whether an attribute has a name that the format, and Linux, can store.
pub fn xattr_is_known(name: &[u8]) -> bool {
    split_xattr(name).is_some()
}

fn split_xattr(name: &[u8]) -> Option<(u8, &[u8])> {
    let known = XATTR_PREFIXES.iter();
    let mut split = known.filter_map(|&(index, prefix)| Some((index, name.strip_prefix(prefix)?)));
    // The ACL names are complete, the others need something behind the dot.
    split.find(|(index, rest)| matches!(index, 2 | 3) == rest.is_empty() && rest.len() <= 255)
}

/// CRC-32C as the superblock wants it: starting from all ones, not inverted at the end.
fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL_REVERSED: u32 = 0x82f6_3b78;
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL_REVERSED
            } else {
                crc >> 1
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_matches_the_published_check_value() {
        assert_eq!(!crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn attribute_names_are_split_or_refused() {
        assert_eq!(split_xattr(b"user.a"), Some((1, &b"a"[..])));
        assert_eq!(
            split_xattr(b"security.capability"),
            Some((6, &b"capability"[..]))
        );
        assert_eq!(split_xattr(b"system.posix_acl_access"), Some((2, &b""[..])));
        for unknown in [
            &b"user."[..],
            b"com.apple.quarantine",
            b"system.posix_acl_accessx",
            b"",
        ] {
            assert_eq!(split_xattr(unknown), None);
        }
    }
}
