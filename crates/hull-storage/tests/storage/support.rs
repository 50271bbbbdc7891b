//! Scratch folders, archives built by hand, and listings that can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use hull_model::Digest;
use hull_storage::erofs::{Damage, FileType};
use hull_storage::tar::{Entry, EntryKind, Timestamp, Writer};
use hull_storage::{Backing, Hasher, IngestOptions, Layer, LayerMounts, Result, Store};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A folder that is gone when the test ends.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("hull-storage-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn store(&self, name: &str) -> Store {
        Store::open(&self.path(name)).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The mounts of one test, gone when it ends.
pub(crate) struct Mounts(LayerMounts, PathBuf);

impl Mounts {
    pub(crate) fn new(scratch: &Scratch) -> Self {
        let dir = scratch.dir("run");
        Self(LayerMounts::open(&dir, &dir, None).unwrap(), dir)
    }

    /// Layers as plain directories, as where no file can be mounted.
    pub(crate) fn plain(scratch: &Scratch) -> Self {
        let dir = scratch.dir("plain");
        let plain = LayerMounts::open(&dir, &dir, Some(Backing::Directory));
        Self(plain.unwrap(), dir)
    }

    /// Mounts the image and returns the folder.
    pub(crate) fn mount(&self, store: &Store, layer: &Digest) -> PathBuf {
        let mounted = self.0.ensure(layer, &store.layer_path(layer)).unwrap();
        self.1.join("l").join(mounted.name)
    }

    pub(crate) fn hides_below(&self, store: &Store, layer: &Digest) -> bool {
        let mounted = self.0.ensure(layer, &store.layer_path(layer)).unwrap();
        mounted.hides_below
    }

    pub(crate) fn release(&self, layer: &Digest) {
        self.0.release(layer);
    }

    /// From Linux 6.12 on, the file itself is mounted, with direct I/O: seen in the mount table,
    /// because a loop device could come in unseen.
    pub(crate) fn assert_no_needless_loop(&self, mounted: &Path) {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release
            .split(['.', '-'])
            .map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table
            .lines()
            .find(|line| line.contains(text(mounted)))
            .unwrap();
        let direct = line.contains("directio") && !line.contains("/dev/loop");
        assert_eq!(direct, version >= (6, 12), "{line}");
        let backing = if direct {
            Backing::FileDirect
        } else {
            Backing::Loop
        };
        assert_eq!(self.0.backing(), Some(backing));
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        self.0.release_all();
    }
}

pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn fsck(image: &Path) {
    let said = run("fsck.erofs", &[image.to_str().unwrap()]);
    assert!(!said.contains("<E>"), "{said}");
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn keep() -> IngestOptions {
    IngestOptions {
        keep_blob: true,
        ..IngestOptions::default()
    }
}

pub(crate) fn ingest(store: &Store, archive: &[u8]) -> Result<Layer> {
    store.ingest_layer(archive, &keep())
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Builds an archive entry by entry.
pub(crate) struct Archive(Writer<Vec<u8>>);

impl Archive {
    pub(crate) fn new() -> Self {
        Self(Writer::new(Vec::new()))
    }

    pub(crate) fn entry(path: &str, kind: EntryKind) -> Entry {
        let mode = if kind == EntryKind::Directory {
            0o755
        } else {
            0o644
        };
        Entry {
            path: path.as_bytes().to_vec(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            modified: Timestamp {
                seconds: 1_700_000_000,
                nanos: 0,
            },
            size: 0,
            xattrs: Vec::new(),
        }
    }

    pub(crate) fn add(mut self, entry: &Entry, contents: &[u8]) -> Self {
        let entry = Entry {
            size: contents.len() as u64,
            ..entry.clone()
        };
        self.0.append(&entry, contents).unwrap();
        self
    }

    pub(crate) fn file(self, path: &str, contents: &[u8]) -> Self {
        self.add(&Self::entry(path, EntryKind::File), contents)
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.add(&Self::entry(path, EntryKind::Directory), b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.add(
            &Self::entry(path, EntryKind::Symlink(target.as_bytes().to_vec())),
            b"",
        )
    }

    pub(crate) fn link(self, path: &str, target: &str) -> Self {
        self.add(
            &Self::entry(path, EntryKind::HardLink(target.as_bytes().to_vec())),
            b"",
        )
    }

    pub(crate) fn end(self) -> Vec<u8> {
        self.0.finish().unwrap()
    }
}

/// What `stat`, `readlink` and the contents say about every name below a folder.
pub(crate) fn listing(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut all = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let name = path
            .strip_prefix(root)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .to_vec();
        let contents = if stat.is_dir() {
            pending.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            String::new()
        } else if stat.is_symlink() {
            format!(
                "{} -> {:?}",
                stat.len(),
                fs::read_link(&path).unwrap().as_os_str().as_bytes()
            )
        } else if stat.is_file() {
            format!("{} {}", stat.len(), hash(fs::File::open(&path).unwrap()))
        } else {
            format!("device {:x}", stat.rdev())
        };
        // Directories count their links differently on every file system.
        let links = if stat.is_dir() { 0 } else { stat.nlink() };
        let (mode, uid, gid) = (stat.mode(), stat.uid(), stat.gid());
        let (seconds, nanos) = (stat.mtime(), stat.mtime_nsec());
        let line = format!("{mode:o} {uid}:{gid} {seconds}.{nanos:09} {links} {contents}");
        all.insert(name, line);
    }
    all
}

/// The same as [`listing`], by our reader and without a mount.
pub(crate) fn read_listing(store: &Store, layer: &Digest) -> BTreeMap<Vec<u8>, String> {
    let reader = store.read_layer(layer).unwrap();
    let mut all = BTreeMap::new();
    reader
        .walk::<Damage>(|item| {
            let inode = item.inode;
            let size = inode.size;
            let contents = match inode.file_type {
                FileType::Directory => String::new(),
                FileType::Symlink => format!("{size} -> {:?}", reader.target(inode)?),
                FileType::File => format!("{size} {}", hash(reader.contents(inode))),
                _ => format!("device {:x}", inode.device),
            };
            let is_dir = inode.file_type == FileType::Directory;
            let links = if is_dir { 0 } else { inode.links };
            let mode = inode.mode | inode.file_type.mode_bits();
            let (uid, gid, moment) = (inode.uid, inode.gid, inode.modified);
            let (seconds, nanos) = (moment.seconds, moment.nanos);
            let line = format!("{mode:o} {uid}:{gid} {seconds}.{nanos:09} {links} {contents}");
            all.insert(item.path.to_vec(), line);
            Ok(())
        })
        .unwrap();
    all
}

pub(crate) fn xattrs(root: &Path) -> String {
    let script = "cd \"$0\" && find . | LC_ALL=C sort | xargs -d '\\n' getfattr -hd -m - -e hex";
    run("sh", &["-c", script, text(root)])
}

fn hash(mut from: impl Read) -> Digest {
    let mut hasher = Hasher::default();
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut from, &mut bytes).unwrap();
    hasher.update(&bytes);
    hasher.finish().0
}

/// Says where two listings differ, instead of printing both.
pub(crate) fn assert_same(left: &BTreeMap<Vec<u8>, String>, right: &BTreeMap<Vec<u8>, String>) {
    for name in left.keys().chain(right.keys()) {
        let shown = String::from_utf8_lossy(name);
        assert_eq!(left.get(name), right.get(name), "{shown}");
    }
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

/// Half-done work is gone.
pub(crate) fn assert_no_leftovers(store: &Store) {
    assert_eq!(
        fs::read_dir(store.root().join("ingest")).unwrap().count(),
        0
    );
}

/// The same numbers in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new() -> Self {
        Self(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}
