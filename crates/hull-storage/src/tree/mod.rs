//! File trees by descriptor: read as archives, written from archives, copied, compared.
//!
//! ```text
//!  a directory ──walk──▶ entries with contents ─────▶ tar (export, cp, commit)
//!                             tar ────────────────────▶ Maker ──▶ a directory (cp, import of a volume)
//!  a directory ──copy──▶ another one (first use of a volume, clones), with holes and shared blocks
//! ```
//!
//! A tree is hostile: its owner changes it while we walk. So each step is relative to an open
//! directory, paths are resolved as if the given root were `/`, symbolic links are never followed by
//! name, and nothing that is not a regular file is opened for reading.

mod change;
mod copy;
mod lookup;
mod make;
mod walk;

pub use change::{Change, ChangeKind, is_place};
pub use copy::copy;
pub(crate) use copy::copy_facts;
pub use lookup::{Found, look, open_directory, resolve};
pub use make::{MakeOptions, Maker, unpack};
pub use walk::{Walked, pack_path, pack_root, pack_upper, walk};

/// The attribute of a directory that hides what is below, with `y` as its value.
pub(crate) const OPAQUE: &[u8] = b"trusted.overlay.opaque";
/// Attributes that the overlay file system keeps for itself.
const OVERLAY_XATTRS: &[u8] = b"trusted.overlay.";
/// Length of a path in a tree, in bytes, as in Linux; also bounds how deep a walk goes.
const PATH_BYTES_MAX: usize = 4096;
/// Too many links, or one where none may be; `std` has no stable name for it.
const ELOOP: i32 = 40;

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::tar::{Entry, EntryKind, Timestamp, Writer};

    fn scratch(name: &str) -> PathBuf {
        let base = std::env::temp_dir().join(format!("hull-tree-{name}-{}", std::process::id()));
        fs::create_dir_all(base.join("root/dir")).unwrap();
        fs::write(base.join("secret"), "host").unwrap();
        base
    }

    fn archive(entries: &[(&str, EntryKind, &str)]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (path, kind, contents) in entries {
            let entry = Entry {
                path: path.as_bytes().to_vec(),
                kind: kind.clone(),
                mode: 0o640,
                uid: 7,
                gid: 8,
                modified: Timestamp::default(),
                size: contents.len() as u64,
                xattrs: Vec::new(),
            };
            writer.append(&entry, contents.as_bytes()).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn links_lead_nowhere_but_into_the_root() {
        let base = scratch("links");
        let root = base.join("root");
        let out = base.join("secret");
        symlink(&out, root.join("absolute")).unwrap();
        symlink("../secret", root.join("up")).unwrap();
        symlink(&base, root.join("outside")).unwrap();
        let dir = File::open(&root).unwrap();
        for path in [
            "absolute/",
            "up/",
            "outside/secret",
            "../secret",
            "dir/../../secret",
        ] {
            assert!(look(dir.as_fd(), path.as_bytes()).is_err(), "{path}");
        }
        assert_eq!(resolve(dir.as_fd(), b"up").unwrap(), b"/secret");
        let target = symlink_target(&base);
        assert_eq!(look(dir.as_fd(), b"absolute").unwrap().target, Some(target));
        // What an archive has under the name of a link takes its place or goes where it leads inside.
        let made = archive(&[
            ("absolute", EntryKind::File, "new"),
            ("outside/secret", EntryKind::File, "new"),
        ]);
        drop(unpack(dir.as_fd(), b"/", MakeOptions::default(), &made[..]));
        assert_eq!(fs::read_to_string(&out).unwrap(), "host");
        assert_eq!(fs::read_to_string(root.join("absolute")).unwrap(), "new");
        for path in ["../secret", "a/../../secret"] {
            let made = archive(&[(path, EntryKind::File, "new")]);
            assert!(unpack(dir.as_fd(), b"/dir", MakeOptions::default(), &made[..]).is_err());
        }
        fs::remove_dir_all(base).unwrap();
    }

    fn symlink_target(base: &Path) -> Vec<u8> {
        base.join("secret").into_os_string().into_encoded_bytes()
    }

    #[test]
    fn what_is_packed_is_unpacked_the_same() {
        let base = scratch("same");
        let root = base.join("root");
        fs::write(root.join("dir/file"), "contents").unwrap();
        fs::hard_link(root.join("dir/file"), root.join("dir/second")).unwrap();
        symlink("file", root.join("dir/link")).unwrap();
        fs::create_dir(base.join("copy")).unwrap();
        copy(
            File::open(&root).unwrap().as_fd(),
            File::open(base.join("copy")).unwrap().as_fd(),
        )
        .unwrap();
        let pack = |dir: &Path| {
            let mut bytes = Vec::new();
            pack_root(File::open(dir).unwrap().as_fd(), None, &mut bytes).unwrap();
            bytes
        };
        assert!(
            pack(&root) == pack(&base.join("copy")),
            "the archives differ"
        );
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn kinds_are_kept_where_asked_for() {
        let base = scratch("kinds");
        let dir = File::open(base.join("root")).unwrap();
        let made = archive(&[("dir", EntryKind::File, "x")]);
        let keep = MakeOptions {
            keep_kinds: true,
            ..MakeOptions::default()
        };
        let refused = unpack(dir.as_fd(), b"/", keep, &made[..]).unwrap_err();
        assert!(
            refused
                .to_string()
                .starts_with("cannot overwrite directory \"dir\"")
        );
        unpack(dir.as_fd(), b"/", MakeOptions::default(), &made[..]).unwrap();
        assert_eq!(fs::read_to_string(base.join("root/dir")).unwrap(), "x");
        fs::remove_dir_all(base).unwrap();
    }
}
