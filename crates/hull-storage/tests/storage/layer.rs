//! Layers: every kind of entry against GNU tar, `mkfs.erofs`, `fsck.erofs` and the kernel.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use hull_storage::tar::{Entry, EntryKind, Timestamp};
use hull_storage::{Compression, Expected, IngestOptions, Store};

use crate::support::{
    Archive, Mounts, Scratch, assert_no_leftovers, assert_same, fsck, gzip, ingest, keep, listing,
    read_listing, run, text, xattrs,
};

/// Sizes around every boundary of the format.
const SIZES: [usize; 14] = [
    0,
    1,
    100,
    3000,
    4031,
    4032,
    4033,
    4095,
    4096,
    4097,
    8191,
    8192,
    100_000,
    1 << 20,
];

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 % 251) as u8).collect()
}

/// A folder with something of everything.
fn make_tree(root: &Path) {
    for size in SIZES {
        fs::write(root.join(format!("size-{size}")), pattern(size)).unwrap();
    }
    fs::create_dir_all(root.join("empty")).unwrap();
    fs::create_dir_all(root.join("deep/er/still")).unwrap();
    fs::create_dir_all(root.join("many")).unwrap();
    for number in 0..1500 {
        fs::write(root.join(format!("many/{number:0100}")), number.to_string()).unwrap();
    }
    // These sort before and around `.` and `..`.
    for name in ["!", "-x", "..a", ".a", "+", "..."] {
        fs::write(root.join("deep").join(name), name).unwrap();
    }
    fs::write(root.join("n".repeat(255)), "long name").unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not-\xff-utf8")), "bytes").unwrap();
    symlink("size-100", root.join("relative")).unwrap();
    symlink("/absolute/target", root.join("absolute")).unwrap();
    symlink("x/".repeat(2040), root.join("long-target")).unwrap();
    fs::hard_link(root.join("size-3000"), root.join("deep/hard")).unwrap();
    fs::hard_link(root.join("relative"), root.join("deep/hard-symlink")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(9 << 20).unwrap();
    sparse.write_all_at(b"middle", 4 << 20).unwrap();
    sparse
        .write_all_at(&pattern(10_000), (7 << 20) + 77)
        .unwrap();
    let script = "cd \"$0\" && mknod char c 4095 1048575 && mknod block b 7 300 && mkfifo fifo && \
        chown 100000:4294967294 size-1 && chmod 4755 size-100 && chmod 2750 empty && \
        chmod 1777 deep && chmod 0 size-3000 && \
        setfattr -n user.text -v value size-4096 && setfattr -n user.empty size-1 && \
        setfattr -n trusted.secret -v x empty && \
        setfattr -n user.large -v $(head -c 3500 /dev/zero | tr '\\0' y) size-4032 && \
        setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 size-4097 && \
        setfattr -n system.posix_acl_access -v 0x0200000001000600ffffffff\
0200060007000000\
04000400ffffffff\
10000600ffffffff\
20000400ffffffff size-8192 && \
        touch -d '2001-02-03 04:05:06.123456789 UTC' size-1 && \
        touch -d '1960-01-01 UTC' size-4095 && touch -h -d '2040-01-01 UTC' absolute";
    run("sh", &["-c", script, text(root)]);
}

fn pack(tree: &Path, archive: &Path, options: &[&str]) {
    let mut args = vec!["-C", text(tree), "--sort=name", "-cf", text(archive)];
    args.extend(options);
    args.push(".");
    run("tar", &args);
}

fn unpack(archive: &Path, into: &Path) {
    let options = [
        "--xattrs",
        "--xattrs-include=*",
        "--same-owner",
        "-p",
        "--atime-preserve",
    ];
    let mut args = vec!["-C", text(into), "-xf", text(archive)];
    args.extend(options);
    run("tar", &args);
}

fn ingest_file(store: &Store, archive: &Path) -> hull_storage::Layer {
    store
        .ingest_layer(fs::File::open(archive).unwrap(), &keep())
        .unwrap()
}

#[test]
fn a_mounted_layer_is_what_tar_unpacks_in_every_format() {
    let scratch = Scratch::new();
    let tree = scratch.dir("tree");
    make_tree(&tree);
    let pax = ["--format=posix", "--xattrs", "--xattrs-include=*"];
    for (number, options) in [
        &pax[..],
        &["--format=gnu"],
        &["--format=gnu", "--sparse"],
        &[pax[0], pax[1], pax[2], "--sparse", "--sparse-version=0.0"],
        &[pax[0], pax[1], pax[2], "--sparse", "--sparse-version=0.1"],
        &[pax[0], pax[1], pax[2], "--sparse", "--sparse-version=1.0"],
    ]
    .into_iter()
    .enumerate()
    {
        let archive = scratch.path("archive.tar");
        pack(&tree, &archive, options);
        let unpacked = scratch.dir(&format!("unpacked-{number}"));
        unpack(&archive, &unpacked);
        let store = scratch.store(&format!("store-{number}"));
        let layer = ingest_file(&store, &archive);
        let image = store.layer_path(&layer.diff_id);
        fsck(&image);

        let mounts = Mounts::new(&scratch);
        let mounted = mounts.mount(&store, &layer.diff_id);
        mounts.assert_no_needless_loop(&mounted);
        let expected = listing(&unpacked);
        assert_same(&listing(&mounted), &expected);
        assert_same(&read_listing(&store, &layer.diff_id), &expected);
        assert_eq!(xattrs(&mounted), xattrs(&unpacked), "{options:?}");
        assert_eq!(
            expected.len() as u64,
            layer.inodes + 2,
            "two names share an inode"
        );
        let stat = fs::metadata(&image).unwrap();
        assert_eq!(stat.mode() & 0o7777, 0o444);
        assert!(
            stat.blocks() * 512 < 5 << 20,
            "holes take no room: {}",
            stat.blocks()
        );
    }
}

#[test]
fn a_layer_in_a_plain_directory_is_what_tar_unpacks_too() {
    let scratch = Scratch::new();
    let tree = scratch.dir("tree");
    make_tree(&tree);
    // The marks of a layer that hides what is below.
    fs::create_dir_all(tree.join("hidden")).unwrap();
    fs::write(tree.join("hidden/.wh..wh..opq"), "").unwrap();
    fs::write(tree.join("hidden/.wh.gone"), "").unwrap();
    fs::write(tree.join(".wh..wh..opq"), "").unwrap();
    let archive = scratch.path("archive.tar");
    pack(
        &tree,
        &archive,
        &[
            "--format=posix",
            "--xattrs",
            "--xattrs-include=*",
            "--sparse",
        ],
    );
    let store = scratch.store("store");
    let layer = ingest_file(&store, &archive);
    let (of_image, of_plain) = (Mounts::new(&scratch), Mounts::plain(&scratch));
    let image = of_image.mount(&store, &layer.diff_id);
    let plain = of_plain.mount(&store, &layer.diff_id);
    assert_same(&listing(&plain), &listing(&image));
    assert_eq!(xattrs(&plain), xattrs(&image));
    assert!(xattrs(&plain).contains("trusted.overlay.opaque"));
    assert!(fs::write(plain.join("new"), "").is_err(), "only to be read");
    assert!(of_plain.hides_below(&store, &layer.diff_id));
    of_plain.release(&layer.diff_id);
    assert_eq!(
        fs::read_dir(scratch.path("plain/trees")).unwrap().count(),
        0
    );
}

#[test]
fn extraction_by_erofs_utils_and_their_own_image_agree() {
    let scratch = Scratch::new();
    let tree = scratch.dir("tree");
    make_tree(&tree);
    // What version 1.5 cannot extract, and what it cannot write.
    fs::remove_file(tree.join("long-target")).unwrap();
    fs::remove_file(tree.join("n".repeat(255))).unwrap();
    let archive = scratch.path("archive.tar");
    pack(
        &tree,
        &archive,
        &["--format=posix", "--xattrs", "--xattrs-include=*"],
    );
    let store = scratch.store("store");
    let layer = ingest_file(&store, &archive);
    let image = store.layer_path(&layer.diff_id);

    let extracted = scratch.path("extracted");
    let option = format!("--extract={}", text(&extracted));
    run("fsck.erofs", &[&option, "--preserve", text(&image)]);
    let theirs = scratch.path("theirs.erofs");
    run("mkfs.erofs", &["--quiet", text(&theirs), text(&tree)]);
    let by_mkfs = scratch.dir("by-mkfs");
    run(
        "mount",
        &[
            "-t",
            "erofs",
            "-o",
            "loop,ro",
            text(&theirs),
            text(&by_mkfs),
        ],
    );
    let mkfs_listing = listing(&by_mkfs);
    let mkfs_xattrs = xattrs(&by_mkfs);
    run("umount", &[text(&by_mkfs)]);
    let mounts = Mounts::new(&scratch);
    let mounted = mounts.mount(&store, &layer.diff_id);
    assert_same(&listing(&mounted), &mkfs_listing);
    assert_eq!(xattrs(&mounted), mkfs_xattrs);
    let ours = read_listing(&store, &layer.diff_id);
    let extracted = listing(&extracted);
    for (name, line) in &ours {
        // The tool restores neither hard links, nor set-uid bits, nor all times.
        let fields = |line: &str| {
            let mut fields: Vec<String> = line.split(' ').map(str::to_owned).collect();
            for unequal in [0, 2, 3] {
                fields[unequal].clear();
            }
            fields.join(" ")
        };
        let shown = String::from_utf8_lossy(name);
        assert_eq!(
            extracted.get(name).map(|line| fields(line)),
            Some(fields(line)),
            "{shown}"
        );
    }
}

#[test]
fn whiteouts_and_opaque_directories_hide_in_a_real_overlay() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let lower = Archive::new()
        .dir("kept")
        .file("kept/a", b"lower a")
        .file("kept/b", b"lower b")
        .file("hidden/x", b"x")
        .file("gone", b"gone")
        .file("replaced/old", b"old")
        .file("file-then-dir", b"file");
    let upper = Archive::new()
        .file(".wh.gone", b"")
        .file("kept/.wh.a", b"")
        .file("hidden/.wh..wh..opq", b"")
        .file("hidden/y", b"y")
        .file(".wh.replaced", b"")
        .dir("replaced")
        .file("replaced/new", b"new")
        .file(".wh..wh.plnk/1.2", b"note of an old file system")
        .file(".wh.file-then-dir", b"")
        .file("file-then-dir/inside", b"in");
    let lower = ingest(&store, &lower.end()).unwrap();
    let upper = ingest(&store, &upper.end()).unwrap();
    fsck(&store.layer_path(&upper.diff_id));
    let mounts = Mounts::new(&scratch);
    let lower = mounts.mount(&store, &lower.diff_id);
    let upper = mounts.mount(&store, &upper.diff_id);
    let merged = scratch.dir("merged");
    let layers = format!("lowerdir={}:{}", text(&upper), text(&lower));
    run(
        "mount",
        &["-t", "overlay", "-o", &layers, "overlay", text(&merged)],
    );
    let names: Vec<String> = listing(&merged)
        .into_keys()
        .map(|name| String::from_utf8(name).unwrap())
        .collect();
    run("umount", &[text(&merged)]);
    let expected = [
        "",
        "file-then-dir",
        "file-then-dir/inside",
        "hidden",
        "hidden/y",
        "kept",
        "kept/b",
        "replaced",
        "replaced/new",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_last_of_several_entries_of_one_name_wins() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let late = Entry {
        mode: 0o700,
        uid: 5,
        ..Archive::entry("dir", EntryKind::Directory)
    };
    let archive = Archive::new()
        .file("twice", b"first")
        .file("./twice", b"second")
        .file("content", b"kept by its other name")
        .link("other", "content")
        .file("/content", b"new")
        .file("dir/inside", b"stays")
        .add(&late, b"")
        .file("file", b"x")
        .file("tree/a/b", b"x")
        .symlink("tree", "elsewhere")
        .symlink("was-link", "dir")
        .dir("was-link")
        .link("self", "twice")
        .link("self", "self")
        .end();
    let layer = ingest(&store, &archive).unwrap();
    fsck(&store.layer_path(&layer.diff_id));
    let mounts = Mounts::new(&scratch);
    let root = mounts.mount(&store, &layer.diff_id);
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    assert_eq!(read("twice"), "second");
    assert_eq!(read("content"), "new");
    assert_eq!(read("other"), "kept by its other name");
    assert_eq!(read("dir/inside"), "stays");
    let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!((stat("dir").mode() & 0o777, stat("dir").uid()), (0o700, 5));
    assert_eq!((stat("other").nlink(), stat("content").nlink()), (1, 1));
    assert_eq!(
        (stat("self").nlink(), stat("self").ino()),
        (2, stat("twice").ino())
    );
    assert!(stat("tree").is_symlink() && stat("was-link").is_dir());
}

#[test]
fn parents_are_made_and_links_of_the_layer_followed_inside_of_it() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let archive = Archive::new()
        .file("a/b/c/file", b"deep")
        .symlink("lib", "usr/lib")
        .file("lib/libc", b"through")
        .symlink("up", "../../../../usr")
        .file("up/share", b"inside")
        .file("", b"")
        .end();
    // An empty name is refused; without it the rest is fine.
    assert!(ingest(&store, &archive).is_err());
    let archive = Archive::new()
        .file("a/b/c/file", b"deep")
        .symlink("lib", "usr/lib")
        .file("lib/libc", b"through")
        .symlink("up", "../../../../usr")
        .file("up/share", b"inside")
        .end();
    let layer = ingest(&store, &archive).unwrap();
    let reader = store.read_layer(&layer.diff_id).unwrap();
    for path in [
        "usr/lib/libc",
        "lib/libc",
        "usr/share",
        "/up/share",
        "a/b/../b/c/file",
    ] {
        assert!(reader.find(path.as_bytes()).unwrap().is_some(), "{path}");
    }
    let made = reader.find(b"a/b").unwrap().unwrap();
    assert_eq!(
        (made.mode, made.uid, made.modified.seconds),
        (0o755, 0, 1_700_000_000)
    );
    assert!(reader.find(b"a/b/c/file/x").unwrap().is_none());
}

#[test]
fn attributes_that_images_may_not_set_are_left_out_and_counted() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let mut entry = Archive::entry("file", EntryKind::File);
    for name in [
        "trusted.overlay.redirect",
        "com.apple.quarantine",
        "system.other",
        "user.kept",
    ] {
        entry
            .xattrs
            .push((name.as_bytes().to_vec(), b"value".to_vec()));
    }
    let layer = ingest(&store, &Archive::new().add(&entry, b"x").end()).unwrap();
    assert_eq!(layer.skipped_xattrs, 3);
    let reader = store.read_layer(&layer.diff_id).unwrap();
    let file = reader.find(b"file").unwrap().unwrap();
    let xattrs = reader.xattrs(&file).unwrap();
    assert_eq!(xattrs, [(b"user.kept".to_vec(), b"value".to_vec())]);
}

#[test]
fn the_same_tar_gives_the_same_bytes_however_it_is_compressed() {
    let scratch = Scratch::new();
    let archive = Archive::new()
        .file("a", &pattern(300_000))
        .dir("d")
        .link("d/l", "a")
        .end();
    let (first, second) = archive.split_at(archive.len() / 2);
    let members = [gzip(first), gzip(second)].concat();
    let frames = [
        zstd::encode_all(first, 3).unwrap(),
        zstd::encode_all(second, 3).unwrap(),
    ];
    let streams = [
        (archive.clone(), Compression::None),
        (gzip(&archive), Compression::Gzip),
        (members, Compression::Gzip),
        (
            zstd::encode_all(&archive[..], 3).unwrap(),
            Compression::Zstd,
        ),
        (frames.concat(), Compression::Zstd),
    ];
    let mut images = Vec::new();
    for (number, (stream, compression)) in streams.iter().enumerate() {
        let store = scratch.store(&format!("store-{number}"));
        let layer = ingest(&store, stream).unwrap();
        assert_eq!(layer.compression, *compression);
        assert_eq!(
            (layer.blob.size, layer.tar_size),
            (stream.len() as u64, archive.len() as u64)
        );
        let blob = store
            .read_blob(&layer.blob.digest, 1 << 20, "blob")
            .unwrap();
        assert_eq!(blob, *stream);
        images.push((
            layer.diff_id,
            fs::read(store.layer_path(&layer.diff_id)).unwrap(),
        ));
        assert_no_leftovers(&store);
    }
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_hundred_thousand_names_in_one_directory_are_found() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let mut archive = Archive::new();
    for number in 0..100_000u32 {
        // Not in order.
        let name = format!("big/{:08x}", number.wrapping_mul(2_654_435_761));
        archive = archive.file(&name, &number.to_le_bytes());
    }
    let layer = ingest(&store, &archive.end()).unwrap();
    assert_eq!(layer.inodes, 100_002);
    assert!(layer.image_size < 20 << 20, "{}", layer.image_size);
    fsck(&store.layer_path(&layer.diff_id));
    let mounts = Mounts::new(&scratch);
    let root = mounts.mount(&store, &layer.diff_id);
    assert_eq!(fs::read_dir(root.join("big")).unwrap().count(), 100_000);
    let reader = store.read_layer(&layer.diff_id).unwrap();
    let big = reader.find(b"big").unwrap().unwrap();
    for number in (0..100_000u32).step_by(997) {
        let name = format!("{:08x}", number.wrapping_mul(2_654_435_761));
        assert_eq!(
            fs::read(root.join("big").join(&name)).unwrap(),
            number.to_le_bytes()
        );
        assert!(
            reader.lookup(&big, name.as_bytes()).unwrap().is_some(),
            "{name}"
        );
    }
    assert!(reader.lookup(&big, b"00000000x").unwrap().is_none());
}

#[test]
fn root_attributes_and_times_before_1970_come_through() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let mut root = Archive::entry("./", EntryKind::Directory);
    root.mode = 0o1777;
    root.modified = Timestamp {
        seconds: -3,
        nanos: 500_000_000,
    };
    root.xattrs.push((b"user.root".to_vec(), vec![b'v'; 2000]));
    let layer = ingest(
        &store,
        &Archive::new().add(&root, b"").file("f", b"x").end(),
    )
    .unwrap();
    fsck(&store.layer_path(&layer.diff_id));
    let mounts = Mounts::new(&scratch);
    let mounted = mounts.mount(&store, &layer.diff_id);
    let stat = fs::metadata(&mounted).unwrap();
    assert_eq!(
        (stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()),
        (0o1777, -3, 500_000_000)
    );
    assert!(xattrs(&mounted).contains("user.root=0x7676"));
    root.xattrs[0].1.resize(4000, b'v');
    let refused = ingest(&store, &Archive::new().add(&root, b"").end()).unwrap_err();
    assert!(refused.to_string().contains("root directory"), "{refused}");
}

#[test]
fn layers_are_durable_only_when_synced_and_blobs_make_them_again() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let archive = gzip(&Archive::new().file("a", &pattern(10_000)).end());
    let layer = ingest(&store, &archive).unwrap();
    assert!(layer.created && layer.blob_created);
    assert_eq!(store.unsynced_layers().unwrap(), [layer.diff_id]);
    let image = fs::read(store.layer_path(&layer.diff_id)).unwrap();
    assert!(store.remove_layer(&layer.diff_id).unwrap());
    assert!(!store.remove_layer(&layer.diff_id).unwrap());
    let blob = store.open_blob(&layer.blob.digest).unwrap();
    let options = IngestOptions {
        diff_id: Some(layer.diff_id),
        blob: Expected::from(layer.blob),
        keep_blob: false,
    };
    let again = store.ingest_layer(blob, &options).unwrap();
    assert!(again.created && !again.blob_created);
    assert_eq!(fs::read(store.layer_path(&layer.diff_id)).unwrap(), image);
    store.sync_layer(&layer.diff_id).unwrap();
    assert_eq!(store.unsynced_layers().unwrap(), []);
    fs::remove_file(store.layer_path(&layer.diff_id)).unwrap();
    fs::write(store.layer_path(&layer.diff_id), "damaged").unwrap();
    store.remake_layer(&layer.diff_id, &layer.blob).unwrap();
    assert_eq!(fs::read(store.layer_path(&layer.diff_id)).unwrap(), image);
    assert_eq!(store.unsynced_layers().unwrap(), []);
    let third = ingest(&store, &archive).unwrap();
    assert!(!third.created && !third.blob_created);
    assert_eq!(store.verify().unwrap().len(), 0);
}

#[test]
fn a_split_tar_that_no_image_needs_leaves_its_layer_alone() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let archive = Archive::new().file("a", &pattern(200_000)).end();
    let layer = ingest(&store, &archive).unwrap();
    store.keep_as_partial(&layer.diff_id).unwrap();
    assert!(!store.has_blob(&layer.diff_id).unwrap());
    assert!(store.blobs().unwrap().is_empty());
    assert_eq!(store.layers().unwrap(), [layer.diff_id]);
    assert_eq!(store.remove_partials().unwrap(), 0);
}

#[test]
fn threads_that_ingest_the_same_layer_both_succeed() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let archive = Archive::new().file("a", &pattern(200_000)).end();
    let layers: Vec<_> = std::thread::scope(|scope| {
        let start = || scope.spawn(|| ingest(&store, &archive).unwrap().diff_id);
        let threads = [start(), start(), start(), start()];
        threads.map(|thread| thread.join().unwrap()).to_vec()
    });
    assert!(layers.iter().all(|layer| *layer == layers[0]));
    assert_eq!(
        (store.layers().unwrap().len(), store.blobs().unwrap().len()),
        (1, 1)
    );
    assert_no_leftovers(&store);
}

#[test]
fn opening_a_store_removes_half_done_work_and_verify_finds_damage() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let archive = gzip(&Archive::new().file("a", b"x").dir("d").end());
    let layer = ingest(&store, &archive).unwrap();
    store.sync_layer(&layer.diff_id).unwrap();
    fs::write(store.root().join("ingest/7.blob"), "half").unwrap();
    let store = scratch.store("store");
    assert_no_leftovers(&store);
    assert_eq!(store.verify().unwrap().len(), 0);

    let blob = store
        .root()
        .join("blobs/sha256")
        .join(layer.blob.digest.hex());
    fs::write(&blob, "other").unwrap();
    fs::write(store.root().join("layers/stray"), "x").unwrap();
    let image = store.layer_path(&layer.diff_id);
    fs::OpenOptions::new()
        .write(true)
        .open(&image)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let found: Vec<String> = store
        .verify()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found.len(), 3, "{found:?}");
    fs::remove_file(&image).unwrap();
    let found: Vec<String> = store
        .verify()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        found.iter().any(|line| line.contains("marked as durable")),
        "{found:?}"
    );
}

/// What a blob gives, and whether it is stored as it is.
fn given(store: &Store, digest: &hull_model::Digest) -> (std::io::Result<Vec<u8>>, bool) {
    let mut bytes = Vec::new();
    let read = store.open_blob(digest).unwrap().read_to_end(&mut bytes);
    let path = store.root().join("blobs/sha256").join(digest.hex());
    (read.map(|_| bytes), path.exists())
}

#[test]
fn a_plain_tar_is_stored_once_and_comes_out_to_the_byte() {
    let scratch = Scratch::new();
    let tree = scratch.dir("tree");
    make_tree(&tree);
    fs::write(tree.join("large"), pattern(1 << 20)).unwrap();
    let store = scratch.store("store");
    let pax = ["--format=posix", "--xattrs", "--xattrs-include=*"];
    let sparse = [pax[0], pax[1], pax[2], "--sparse", "--sparse-version=1.0"];
    for options in [&pax[..], &["--format=gnu", "--sparse"], &sparse] {
        let archive = scratch.path("archive.tar");
        pack(&tree, &archive, options);
        let mut bytes = fs::read(&archive).unwrap();
        // What comes behind the end, and names that come twice.
        bytes.extend_from_slice(&pattern(5000));
        let layer = ingest(&store, &bytes).unwrap();
        assert!(layer.created && layer.blob_created);
        let (tar, whole) = given(&store, &layer.diff_id);
        assert_eq!((tar.unwrap() == bytes, whole), (true, false), "{options:?}");
        assert_eq!(store.unsynced_layers().unwrap(), []);
        let kept = store.usage().unwrap().blobs[&layer.diff_id];
        assert!(kept < 64 << 10, "{kept} bytes of {}", bytes.len());
        for skipped in [1, 511, 70_000, bytes.len() - 1, bytes.len()] {
            let (mut reader, mut rest) = (store.open_blob(&layer.diff_id).unwrap(), Vec::new());
            assert_eq!(reader.size(), bytes.len() as u64);
            reader.skip(skipped as u64).unwrap();
            reader.read_to_end(&mut rest).unwrap();
            assert!(rest == bytes[skipped..], "{skipped}");
        }
        let again = ingest(&store, &bytes).unwrap();
        assert!(!again.created && !again.blob_created);
    }
    let twice = Archive::new().file("a", &pattern(9000)).file("a", b"short");
    let twice = twice
        .file(".wh.gone", b"contents")
        .file(".wh..wh.plnk/x", b"note");
    let twice = twice.dir("d").file("a", &[0; 20_000]).end();
    let layer = ingest(&store, &twice).unwrap();
    assert!(given(&store, &layer.diff_id).0.unwrap() == twice);
    assert_eq!(store.verify().unwrap().len(), 0);
    assert_no_leftovers(&store);

    assert!(store.remove_blob(&layer.diff_id).unwrap());
    assert!(store.has_layer(&layer.diff_id).unwrap() && !store.has_blob(&layer.diff_id).unwrap());
    assert!(ingest(&store, &twice).unwrap().blob_created);
    assert!(store.remove_layer(&layer.diff_id).unwrap());
    assert!(!store.has_blob(&layer.diff_id).unwrap());
    assert_eq!(store.verify().unwrap().len(), 0);
}

#[test]
fn a_tar_whose_image_is_another_versions_is_kept_whole_and_damage_is_found() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let archive = Archive::new().file("a", &pattern(50_000)).end();
    let layer = ingest(&store, &gzip(&archive)).unwrap();
    let image = store.layer_path(&layer.diff_id);
    let shift = |by: usize| {
        let mut bytes = fs::read(&image).unwrap();
        bytes[4096..4096 + 32_768].rotate_left(by);
        fs::remove_file(&image).unwrap();
        fs::write(&image, bytes).unwrap();
    };
    shift(1);
    assert!(ingest(&store, &archive).unwrap().blob_created);
    let (tar, whole) = given(&store, &layer.diff_id);
    assert!(tar.unwrap() == archive && whole);

    shift(32_767);
    assert!(store.remove_blob(&layer.diff_id).unwrap());
    assert!(ingest(&store, &archive).unwrap().blob_created);
    let (tar, whole) = given(&store, &layer.diff_id);
    assert!(tar.unwrap() == archive && !whole);
    assert_eq!(store.verify().unwrap().len(), 0);
    shift(1);
    let (tar, _) = given(&store, &layer.diff_id);
    assert!(tar.unwrap_err().to_string().contains("another digest"));
    assert_eq!(store.verify().unwrap().len(), 1);
    fs::remove_file(&image).unwrap();
    assert!(!store.has_blob(&layer.diff_id).unwrap());
    let found: Vec<String> = store
        .verify()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        found.iter().any(|line| line.contains("does not belong")),
        "{found:?}"
    );
    assert!(ingest(&store, &archive).unwrap().created);
    assert_eq!(store.verify().unwrap().len(), 0);
}
