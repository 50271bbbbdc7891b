//! Tar entries to names and inodes: what an entry means in a layer.
//!
//! The rules, where the format leaves a choice:
//! - Names are relative to the root whatever they start with; `..` may not lead out of it.
//! - The last entry of a name wins; directories keep what is in them. Missing parents are made.
//! - Parents that are symbolic links of this layer are followed inside of it, as Docker does.
//! - A hard link names an entry that came before it in this layer, without symbolic links.
//! - `.wh.NAME` removes NAME of the layers below (character device 0:0), `.wh..wh..opq` all in its
//!   directory (`trusted.overlay.opaque`); other `.wh..wh.*` are notes of an old file system.
//! - Attributes of overlayfs itself are not for images to set; those that Linux does not know are
//!   left out and counted.

use super::split::Noted;
use crate::erofs::{
    Attributes, FileType, Finished, NAME_BYTES_MAX, TARGET_BYTES_MAX, Tree, TreeFault, Writer,
    device_number, xattr_is_known,
};
use crate::error::{Error, Result};
use crate::tar::{Entry, EntryKind, Reader};

/// Length of a path in a layer, in bytes, as in Linux.
pub const PATH_BYTES_MAX: usize = 4096;
/// Largest major number of a device: 12 bits.
const MAJOR_MAX: u32 = 0xfff;
/// Largest minor number of a device: 20 bits.
const MINOR_MAX: u32 = 0xf_ffff;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const WHITEOUT_META_PREFIX: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";

/// Why an entry of a layer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// A path that leads out of the layer.
    #[error("it leads out of the layer")]
    Escapes,
    /// A path that is too long.
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    PathTooLong,
    /// A name that is too long.
    #[error("a name is longer than {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    /// A name that Linux cannot have.
    #[error("a name is empty or holds a NUL")]
    BadName,
    /// The root has to be a directory.
    #[error("it replaces the root by something that is not a directory")]
    RootNotDirectory,
    /// A symbolic link has to lead somewhere, and not too far.
    #[error("the target of the symbolic link is empty, holds a NUL or is too long")]
    BadTarget,
    /// A device number that Linux cannot have.
    #[error("the device number is out of range")]
    DeviceNumber,
    /// The names before it leave no place for it.
    #[error(transparent)]
    Tree(#[from] TreeFault),
}

/// Makes one image of entries in the order of the archive.
#[derive(Debug)]
pub(super) struct Builder {
    writer: Writer,
    tree: Tree,
    skipped_xattrs: u64,
}

impl Builder {
    pub(super) fn new(writer: Writer) -> Self {
        Self {
            writer,
            tree: Tree::new(),
            skipped_xattrs: 0,
        }
    }

    /// Adds an entry; the archive stands before its data.
    pub(super) fn add(&mut self, entry: &Entry, archive: &mut Reader<Noted>) -> Result<()> {
        let refuse = |cause| Error::Entry {
            path: lossy(&entry.path),
            cause,
        };
        let path = normalise(&entry.path).map_err(refuse)?;
        let Some((&name, parents)) = path.split_last() else {
            if entry.kind != EntryKind::Directory {
                return Err(refuse(EntryFault::RootNotDirectory));
            }
            let attributes = self.attributes(entry);
            return self
                .tree
                .set_attributes(Tree::ROOT, attributes)
                .map_err(|fault| refuse(fault.into()));
        };
        let meta = |name: &&[u8]| name.starts_with(WHITEOUT_META_PREFIX);
        if parents.iter().any(meta) || (meta(&name) && name != WHITEOUT_OPAQUE) {
            return Ok(());
        }
        // As far as the archive says anything about a missing parent: it came with this entry.
        let missing = Attributes {
            mode: 0o755,
            modified: entry.modified,
            ..Attributes::default()
        };
        let parent = self.tree.directory_at(parents, &missing);
        let parent = parent.map_err(|fault| refuse(fault.into()))?;
        let whiteout = name.strip_prefix(WHITEOUT_PREFIX);
        let changed = match (&entry.kind, whiteout) {
            (_, Some(_)) if name == WHITEOUT_OPAQUE => {
                self.tree.set_opaque(parent);
                Ok(())
            }
            (_, Some(b"" | b"." | b"..")) => return Err(refuse(EntryFault::BadName)),
            (_, Some(removed)) => self.tree.set_whiteout(parent, removed),
            (EntryKind::Directory, None) => {
                let attributes = self.attributes(entry);
                self.tree
                    .set_directory(parent, name, attributes)
                    .map(|_| ())
            }
            (EntryKind::HardLink(target), None) => {
                let target = normalise(target).map_err(refuse)?;
                let leaf = self.tree.link_target(&target);
                leaf.and_then(|leaf| self.tree.set_link(parent, name, leaf))
            }
            _ => {
                let (file_type, nid) = self.write_inode(entry, archive)?;
                let target = match &entry.kind {
                    EntryKind::Symlink(target) => Some(&target[..]),
                    _ => None,
                };
                self.tree.set_leaf(parent, name, file_type, nid, target)
            }
        };
        changed.map_err(|fault| refuse(fault.into()))
    }

    /// Completes the image; also says how many extended attributes were left out.
    pub(super) fn finish(self, uuid: [u8; 16]) -> Result<(Finished, u64)> {
        Ok((self.writer.finish(&self.tree, uuid)?, self.skipped_xattrs))
    }

    fn write_inode(
        &mut self,
        entry: &Entry,
        archive: &mut Reader<Noted>,
    ) -> Result<(FileType, u64)> {
        let refuse = |cause| Error::Entry {
            path: lossy(&entry.path),
            cause,
        };
        let attributes = self.attributes(entry);
        let (file_type, device) = match &entry.kind {
            EntryKind::Symlink(target) => {
                let bad = target.is_empty() || target.contains(&0);
                if bad || target.len() > TARGET_BYTES_MAX {
                    return Err(refuse(EntryFault::BadTarget));
                }
                return Ok((FileType::Symlink, self.writer.symlink(&attributes, target)?));
            }
            EntryKind::CharDevice { major, minor } => (FileType::CharDevice, (*major, *minor)),
            EntryKind::BlockDevice { major, minor } => (FileType::BlockDevice, (*major, *minor)),
            EntryKind::Fifo => (FileType::Fifo, (0, 0)),
            EntryKind::File | EntryKind::Directory | EntryKind::HardLink(_) => {
                let mut body = self.writer.file(&attributes, entry.size)?;
                let mut pieces: Vec<(u64, u64)> = Vec::new();
                archive.input_mut().set_in_contents(true);
                while let Some((offset, bytes)) = archive.next_data()? {
                    body.write_at(offset, bytes)?;
                    let end = offset + bytes.len() as u64;
                    match pieces.last_mut() {
                        Some(last) if last.1 == offset => last.1 = end,
                        _ => pieces.push((offset, end)),
                    }
                }
                let placed = body.finish()?;
                archive.input_mut().set_in_contents(false);
                archive.input_mut().placed(&pieces, &placed);
                return Ok((FileType::File, placed.nid));
            }
        };
        let (major, minor) = device;
        if major > MAJOR_MAX || minor > MINOR_MAX {
            return Err(refuse(EntryFault::DeviceNumber));
        }
        let nid = self
            .writer
            .special(&attributes, file_type, device_number(major, minor))?;
        Ok((file_type, nid))
    }

    fn attributes(&mut self, entry: &Entry) -> Attributes {
        let allowed = |name: &[u8]| xattr_is_known(name) && !name.starts_with(OVERLAY_XATTRS);
        let given = entry.xattrs.iter();
        let xattrs: Vec<_> = given.filter(|(name, _)| allowed(name)).cloned().collect();
        self.skipped_xattrs += (entry.xattrs.len() - xattrs.len()) as u64;
        Attributes {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            modified: entry.modified,
            xattrs,
        }
    }
}

/// The parts of a path below the root of the layer; none for the root itself.
pub(crate) fn normalise(path: &[u8]) -> Result<Vec<&[u8]>, EntryFault> {
    if path.len() > PATH_BYTES_MAX {
        return Err(EntryFault::PathTooLong);
    }
    let mut parts = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop().ok_or(EntryFault::Escapes)?;
            }
            _ if part.len() > NAME_BYTES_MAX => return Err(EntryFault::NameTooLong),
            _ if part.contains(&0) => return Err(EntryFault::BadName),
            _ => parts.push(part),
        }
    }
    if parts.is_empty() && path.is_empty() {
        return Err(EntryFault::BadName);
    }
    Ok(parts)
}

/// A path for a message: not all of it when it is long.
fn lossy(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(NAME_BYTES_MAX)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_and_kept_inside() {
        let check = |path: &str, expected: Result<&[&str], EntryFault>| {
            let expected = expected.map(|parts| parts.iter().map(|p| p.as_bytes()).collect());
            assert_eq!(normalise(path.as_bytes()), expected, "{path}");
        };
        check("./a//b/./c/", Ok(&["a", "b", "c"]));
        check("/abs/x", Ok(&["abs", "x"]));
        check("a/../b", Ok(&["b"]));
        check("./", Ok(&[]));
        check("a/../../b", Err(EntryFault::Escapes));
        check("/..", Err(EntryFault::Escapes));
        check("", Err(EntryFault::BadName));
        check("a\0b", Err(EntryFault::BadName));
        check(&"n".repeat(256), Err(EntryFault::NameTooLong));
        check(&"n/".repeat(2049), Err(EntryFault::PathTooLong));
    }
}
