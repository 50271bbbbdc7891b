//! Layers as plain directories, where no file can be mounted.
//!
//! ```text
//! <data root>/trees/<hex>        what is in a layer's image, whiteouts and opaque marks included
//! <data root>/trees/<hex>.part   the same, not whole yet; removed at the next start
//! ```
//!
//! The image stays what a layer is: it is hashed, saved, compared and read by `diff`. The tree is made of
//! it when the layer is mounted for the first time, and goes with it.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hull_model::Digest;
use hull_os::durable::{self, Durability};
use hull_os::mount::{self, Attributes, Change};

use crate::erofs::{FileType, Inode, Reader, device_numbers};
use crate::error::{At, Error, Result};
use crate::tar::{Entry, EntryKind};
use crate::tree::{MakeOptions, Maker};

const PART_SUFFIX: &str = ".part";
/// Nobody but root looks into layers from outside.
const DIR_MODE: u32 = 0o700;

/// The folder of the trees.
#[derive(Debug)]
pub(crate) struct Trees(PathBuf);

impl Trees {
    /// Removes what a crash left half made. The folder itself is made when it is needed.
    pub(crate) fn open(directory: PathBuf) -> Self {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().ends_with(PART_SUFFIX) {
                // What stays is tried again at the next start.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Self(directory)
    }

    /// A mount of the layer's tree, attached nowhere yet.
    pub(crate) fn mount(&self, layer: &Digest, image: &Path) -> io::Result<OwnedFd> {
        let path = self.0.join(layer.hex());
        if !path.exists() {
            self.make(&path, image).map_err(io::Error::other)?;
        }
        let path = CString::new(path.as_os_str().as_bytes())?;
        let tree = mount::clone_tree(mount::cwd(), &path, false)?;
        let readonly = Change {
            set: Attributes::READONLY,
            ..Change::default()
        };
        mount::set_attributes(tree.as_fd(), &readonly)?;
        Ok(tree)
    }

    /// Removes a layer's tree; that there is none is fine.
    pub(crate) fn remove(&self, layer: &Digest) {
        let away = self.part(layer);
        if durable::publish(&self.0.join(layer.hex()), &away, Durability::Lost).is_ok() {
            // What stays is removed at the next start.
            let _ = fs::remove_dir_all(away);
        }
    }

    fn part(&self, layer: &Digest) -> PathBuf {
        self.0.join(layer.hex() + PART_SUFFIX)
    }

    fn make(&self, path: &Path, image: &Path) -> Result<()> {
        durable::make_dir_all(&self.0, DIR_MODE).at("make", &self.0)?;
        let part = path.with_extension(&PART_SUFFIX[1..]);
        // Of an attempt that failed, as on a full disk.
        match fs::remove_dir_all(&part) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).at("remove", &part);
            }
            _ => {}
        }
        let image = File::open(image).at("open", image)?;
        let folder = File::open(&self.0).at("open", &self.0)?;
        let name = part.file_name().unwrap_or_default().as_bytes();
        unpack(&Reader::open(image).map_err(Error::Damaged)?, &folder, name)?;
        // It gets its name only when it would survive that the power fails.
        durable::sync_file_system(folder.as_fd()).at("sync", &part)?;
        durable::publish(&part, path, Durability::Synced).at("publish", path)
    }
}

/// Makes all that an image holds below a name in a folder.
fn unpack(image: &Reader<File>, folder: &File, name: &[u8]) -> Result<()> {
    let options = MakeOptions {
        keep_overlay_marks: true,
        ..MakeOptions::default()
    };
    let mut maker = Maker::new(folder.as_fd(), b"", options);
    // Of inodes with several names, the first of them.
    let mut first_names: HashMap<u64, Vec<u8>> = HashMap::new();
    image.walk::<Error>(|item| {
        let inode = item.inode;
        let path = [name, b"/", item.path].concat();
        let is_linked = inode.links > 1 && inode.file_type != FileType::Directory;
        let kind = match first_names.get(&inode.nid) {
            Some(first) if is_linked => EntryKind::HardLink(first.clone()),
            _ => kind_of(image, inode)?,
        };
        if is_linked {
            first_names.entry(inode.nid).or_insert_with(|| path.clone());
        }
        let entry = Entry {
            path,
            kind,
            mode: inode.mode & 0o7777,
            uid: inode.uid,
            gid: inode.gid,
            modified: inode.modified,
            size: inode.size,
            xattrs: image.xattrs(inode).map_err(Error::Damaged)?,
        };
        maker.add(&entry, &mut image.contents(inode))
    })?;
    maker.finish()
}

fn kind_of(image: &Reader<File>, inode: &Inode) -> Result<EntryKind> {
    let (major, minor) = device_numbers(inode.device);
    Ok(match inode.file_type {
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink(image.target(inode).map_err(Error::Damaged)?),
        FileType::CharDevice => EntryKind::CharDevice { major, minor },
        FileType::BlockDevice => EntryKind::BlockDevice { major, minor },
        FileType::Fifo => EntryKind::Fifo,
        // No archive brings a socket, and a layer with one would not work with it either.
        FileType::File | FileType::Socket => EntryKind::File,
    })
}
