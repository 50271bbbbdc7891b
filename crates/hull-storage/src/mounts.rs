//! Mounts of layer files: each layer once per host, shared by every container.
//!
//! ```text
//! <run>/l/<n>       the mount of one layer; short names, because old kernels want all of
//!                   them in one page of options
//! <run>/l/<n>.id    its diff id in hex, written before the mount
//! <run>/l/points    what every container mounts something on, below all layers
//! ```
//!
//! How a file is mounted is probed once per data root: as it is with direct I/O, as it is, or
//! through a loop device. Where none of this works, its contents are unpacked to a plain directory
//! on the data root (`plain.rs`), which is mounted in its place. The mounts outlive the daemon; the
//! next one finds them by their names.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hull_model::{Digest, ErrorKind};
use hull_os::entry;
use hull_os::loopdev::{self, Access};
use hull_os::mount::{self, Attributes, Filesystem};

use crate::plain::Trees;
use crate::tree;

/// The name of the directory with the mount points.
const POINTS: &str = "points";
const POINT_DIRECTORIES: [&str; 5] = ["", "dev", "etc", "proc", "sys"];
const POINT_FILES: [&str; 3] = ["etc/hostname", "etc/hosts", "etc/resolv.conf"];

/// How a layer file becomes a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Mounted as a plain file; pages are cached once.
    FileDirect,
    /// Mounted as a plain file through its page cache: where the file system has no direct I/O.
    FileBuffered,
    /// Through a loop device: kernels before 6.12, and data roots on overlay.
    Loop,
    /// Unpacked on the data root: kernels without EROFS, hosts without loop devices.
    Directory,
}

impl Backing {
    /// Every way, the best first.
    pub const ALL: [Backing; 4] = [
        Backing::FileDirect,
        Backing::FileBuffered,
        Backing::Loop,
        Backing::Directory,
    ];

    /// Words for `info`.
    pub fn words(self) -> &'static str {
        match self {
            Backing::FileDirect => "erofs (file, direct)",
            Backing::FileBuffered => "erofs (file, buffered)",
            Backing::Loop => "erofs (loop)",
            Backing::Directory => "directory",
        }
    }
}

/// A layer that is mounted.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// The root of the mount.
    pub root: Arc<OwnedFd>,
    /// Its name in [`LayerMounts::directory`].
    pub name: String,
    /// It takes the place of all layers below (`.wh..wh..opq` at its root). The kernel honours that
    /// mark in directories only, so whoever stacks layers ends with this one.
    pub hides_below: bool,
}

/// Why a layer is not mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The folder of the mounts cannot be used.
    #[error("prepare {path}")]
    Prepare {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// No way of mounting worked.
    #[error("mount layer {layer} ({tried})")]
    Mount {
        /// Which layer.
        layer: Digest,
        /// Each way and what the kernel said.
        tried: String,
        /// What it said of the last one.
        #[source]
        cause: io::Error,
    },
}

impl MountError {
    /// The kind, for the edges' tables.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Prepare { cause, .. } => ErrorKind::of_io(cause),
            Self::Mount { .. } => ErrorKind::Internal,
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    mounted: HashMap<Digest, Mounted>,
    next: u32,
    /// The first way that worked here.
    backing: Option<Backing>,
}

/// All layer mounts of one daemon.
#[derive(Debug)]
pub struct LayerMounts {
    directory: PathBuf,
    trees: Trees,
    ways: Vec<Backing>,
    points: Mounted,
    table: Mutex<Table>,
}

impl LayerMounts {
    /// Takes over what a former daemon mounted below `<run_dir>/l`; layers that are unpacked lie in
    /// `<data_root>/trees`. With a way given, no other one is tried.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub fn open(
        run_dir: &Path,
        data_root: &Path,
        way: Option<Backing>,
    ) -> Result<Self, MountError> {
        let directory = run_dir.join("l");
        let prepare = |cause| MountError::Prepare {
            path: directory.clone(),
            cause,
        };
        fs::create_dir_all(&directory).map_err(prepare)?;
        let mut table = Table::default();
        for entry in fs::read_dir(&directory).map_err(prepare)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(number) = name.strip_suffix(".id").and_then(|n| n.parse::<u32>().ok()) else {
                continue;
            };
            table.next = table.next.max(number + 1);
            match adopt(&directory, number) {
                Some((layer, mounted)) => drop(table.mounted.insert(layer, mounted)),
                None => forget(&directory, &number.to_string()),
            }
        }
        let points = make_points(&directory).map_err(prepare)?;
        Ok(Self {
            directory,
            trees: Trees::open(data_root.join("trees")),
            ways: way.map_or(Backing::ALL.to_vec(), |way| vec![way]),
            points,
            table: Mutex::new(table),
        })
    }

    /// A directory with what every container mounts something on, as the lowest layer of its root.
    /// What an image lacks of it would else be made in each container, and show as its change.
    pub fn points(&self) -> &Mounted {
        &self.points
    }

    /// The folder in which the mounts have their names.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How layers are mounted here; none before the first one.
    pub fn backing(&self) -> Option<Backing> {
        self.lock().backing
    }

    /// Mounts a layer unless it is mounted already.
    ///
    /// # Errors
    /// [`MountError::Mount`] with every way that was tried.
    pub fn ensure(&self, layer: &Digest, image: &Path) -> Result<Mounted, MountError> {
        let mut table = self.lock();
        if let Some(mounted) = table.mounted.get(layer) {
            return Ok(mounted.clone());
        }
        let name = table.next.to_string();
        let target = self.directory.join(&name);
        let prepare = |cause| MountError::Prepare {
            path: target.clone(),
            cause,
        };
        fs::write(self.directory.join(format!("{name}.id")), layer.hex()).map_err(prepare)?;
        fs::create_dir_all(&target).map_err(prepare)?;
        table.next += 1;
        match self.mount_any(&mut table, layer, image, &target) {
            Ok(root) => {
                let mounted = Mounted {
                    root: Arc::new(root),
                    name,
                    hides_below: hides_below(&target),
                };
                table.mounted.insert(*layer, mounted.clone());
                Ok(mounted)
            }
            Err(error) => {
                forget(&self.directory, &name);
                Err(error)
            }
        }
    }

    /// Layers as one tree that can only be read, the topmost first; it lives as long as the
    /// descriptor.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn merged(&self, layers: &[Mounted], by_descriptor: bool) -> io::Result<Arc<OwnedFd>> {
        if let [layer] = layers {
            return Ok(layer.root.clone());
        }
        if by_descriptor {
            let filesystem = Filesystem::open(c"overlay")?;
            for layer in layers {
                filesystem.set_fd(c"lowerdir+", layer.root.as_fd())?;
            }
            return filesystem.mount(Attributes::READONLY).map(Arc::new);
        }
        // One at a time has the place where it is mounted for a moment.
        let _table = self.lock();
        let target = self.directory.join("merged");
        fs::create_dir_all(&target)?;
        let target = CString::new(target.as_os_str().as_bytes())?;
        let names: Vec<String> = layers
            .iter()
            .map(|layer| {
                self.directory
                    .join(&layer.name)
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        let options = CString::new(format!("lowerdir={}", names.join(":")))?;
        mount::mount_classic(
            c"overlay",
            &target,
            c"overlay",
            mount::flags::READONLY,
            &options,
        )?;
        let root = mount::open_directory(&target);
        mount::detach(&target)?;
        root.map(Arc::new)
    }

    /// Unmounts a layer that is being removed; that it is not mounted is fine. A container that
    /// still has it keeps it until it ends.
    pub fn release(&self, layer: &Digest) {
        if let Some(mounted) = self.lock().mounted.remove(layer) {
            forget(&self.directory, &mounted.name);
        }
        self.trees.remove(layer);
    }

    /// Unmounts all layers.
    pub fn release_all(&self) {
        for (_, mounted) in self.lock().mounted.drain() {
            forget(&self.directory, &mounted.name);
        }
    }

    /// Which layers are mounted.
    pub fn layers(&self) -> Vec<Digest> {
        self.lock().mounted.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mount_any(
        &self,
        table: &mut Table,
        layer: &Digest,
        image: &Path,
        target: &Path,
    ) -> Result<OwnedFd, MountError> {
        let ways = match &table.backing {
            Some(known) => std::slice::from_ref(known),
            None => &self.ways[..],
        };
        let mut tried = String::new();
        let mut cause = io::Error::from(io::ErrorKind::Unsupported);
        for way in ways {
            match self.mount_one(*way, layer, image, target) {
                Ok(root) => {
                    let way = *way;
                    table.backing = Some(way);
                    return Ok(root);
                }
                Err(error) => {
                    let separator = if tried.is_empty() { "" } else { "; " };
                    tried.push_str(&format!("{separator}{}: {error}", way.words()));
                    cause = error;
                }
            }
        }
        Err(MountError::Mount {
            layer: *layer,
            tried,
            cause,
        })
    }

    fn mount_one(
        &self,
        way: Backing,
        layer: &Digest,
        image: &Path,
        target: &Path,
    ) -> io::Result<OwnedFd> {
        let root = match way {
            Backing::Directory => self.trees.mount(layer, image)?,
            _ => mount_image(way, image)?,
        };
        let target = mount::open_directory(&CString::new(target.as_os_str().as_bytes())?)?;
        mount::attach(root.as_fd(), target.as_fd())?;
        Ok(root)
    }
}

fn make_points(directory: &Path) -> io::Result<Mounted> {
    let points = directory.join(POINTS);
    for name in POINT_DIRECTORIES {
        let path = points.join(name);
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    for name in POINT_FILES {
        let path = points.join(name);
        if !path.exists() {
            File::create(&path)?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
    }
    let root = mount::open_directory(&CString::new(points.as_os_str().as_bytes())?)?;
    Ok(Mounted {
        root: Arc::new(root),
        name: POINTS.to_owned(),
        hides_below: false,
    })
}

fn mount_image(way: Backing, image: &Path) -> io::Result<OwnedFd> {
    let filesystem = Filesystem::open(c"erofs")?;
    // Said of the file system too: before 6.12 a loop device that is read-only is opened for
    // writing otherwise, and refuses.
    filesystem.set_flag(c"ro")?;
    let image_name = CString::new(image.as_os_str().as_bytes())?;
    // Holds the device until the mount has it.
    let mut _device = None;
    match way {
        Backing::FileDirect => {
            filesystem.set(c"source", &image_name)?;
            filesystem.set_flag(c"directio")?;
        }
        Backing::FileBuffered => filesystem.set(c"source", &image_name)?,
        Backing::Loop => {
            let file = File::open(image)?;
            let (path, device) = loopdev::attach(file.as_fd(), Access::ReadOnly)?;
            filesystem.set(c"source", &path)?;
            _device = Some(device);
        }
        Backing::Directory => return Err(io::ErrorKind::InvalidInput.into()),
    }
    filesystem.mount(Attributes::READONLY)
}

/// Whether the root of a layer is an opaque directory.
fn hides_below(root: &Path) -> bool {
    let is_mark = |(key, value): &(Vec<u8>, Vec<u8>)| key == tree::OPAQUE && value == b"y";
    entry::xattrs(root).is_ok_and(|found| found.iter().any(is_mark))
}

/// A mount of a former daemon, when it still is one.
fn adopt(directory: &Path, number: u32) -> Option<(Digest, Mounted)> {
    let name = number.to_string();
    let hex = fs::read_to_string(directory.join(format!("{name}.id"))).ok()?;
    let layer: Digest = format!("sha256:{hex}").parse().ok()?;
    let target = directory.join(&name);
    let path = CString::new(target.as_os_str().as_bytes()).ok()?;
    let is_mount = mount::is_mount_point(&path).ok()?;
    let root = mount::open_directory(&path).ok().filter(|_| is_mount)?;
    Some((
        layer,
        Mounted {
            root: Arc::new(root),
            name,
            hides_below: hides_below(&target),
        },
    ))
}

/// Unmounts and removes one name; what cannot be removed is tried again at the next start.
fn forget(directory: &Path, name: &str) {
    let target = directory.join(name);
    if let Ok(path) = CString::new(target.as_os_str().as_bytes()) {
        // Not mounted: fine.
        drop(mount::detach(&path));
    }
    if fs::remove_dir(&target).is_ok() || !target.exists() {
        drop(fs::remove_file(directory.join(format!("{name}.id"))));
    }
}
