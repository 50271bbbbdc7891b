//! What strangers send: every refusal names its reason, and nothing is left behind.

use std::fs;

use hull_model::{Digest, ErrorKind};
use hull_storage::erofs::{Damage, FileType, Reader};
use hull_storage::tar::{Entry, EntryKind, Writer};
use hull_storage::{Expected, IngestOptions};

use crate::support::{Archive, Random, Scratch, assert_no_leftovers, chain, fsck, ingest};

fn raw(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut archive = Archive::new()
        .file("a", b"contents")
        .file("b", &[7; 2000])
        .end();
    change(&mut archive);
    archive
}

/// Writes a header's checksum anew after a change.
fn fix_checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header[..512].iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn pax(records: &str) -> Vec<u8> {
    let header = Archive::entry("x", EntryKind::File);
    let mut archive = Archive::new().add(&header, records.as_bytes()).end();
    archive.truncate(archive.len() - 1024);
    archive[156] = b'x';
    fix_checksum(&mut archive);
    archive.extend(Archive::new().file("a", &[1; 1000]).end());
    archive
}

fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    format!("{len} {key}={value}\n")
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_cannot_be_is_refused_with_its_reason_and_leaves_nothing() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let device = EntryKind::CharDevice {
        major: 5000,
        minor: 0,
    };
    let number = |archive: &mut Vec<u8>, at: usize, text: &[u8]| {
        archive[at..at + text.len()].copy_from_slice(text);
        fix_checksum(archive);
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "leads out of the layer",
            Archive::new().file("../x", b"").end(),
        ),
        (
            "leads out of the layer",
            Archive::new().file("a/../../x", b"").end(),
        ),
        (
            "leads out of the layer",
            Archive::new().file("a", b"").link("b", "../../a").end(),
        ),
        (
            "is not in this layer",
            Archive::new().link("b", "a").file("a", b"").end(),
        ),
        (
            "is not in this layer",
            Archive::new().file(".wh.a", b"").link("b", "a").end(),
        ),
        (
            "is a directory",
            Archive::new().dir("d").link("b", "d").end(),
        ),
        ("is a directory", Archive::new().link("b", "/").end()),
        (
            "passes something that is not a directory",
            Archive::new()
                .file("d/f", b"")
                .symlink("s", "d")
                .link("b", "s/f")
                .end(),
        ),
        (
            "not a directory",
            Archive::new().file("f", b"").file("f/x", b"").end(),
        ),
        (
            "40 symbolic links",
            Archive::new()
                .symlink("a", "b")
                .symlink("b", "a")
                .file("a/x", b"")
                .end(),
        ),
        (
            "longer than 255",
            Archive::new().file(&"n".repeat(256), b"").end(),
        ),
        (
            "longer than 4096",
            Archive::new().file(&"n/".repeat(3000), b"").end(),
        ),
        ("replaces the root", Archive::new().file("./", b"").end()),
        ("a name is empty", Archive::new().file(".wh.", b"").end()),
        ("a name is empty", Archive::new().file(".wh..", b"").end()),
        (
            "target of the symbolic link",
            Archive::new().symlink("s", "").end(),
        ),
        (
            "target of the symbolic link",
            Archive::new().symlink("s", &"x".repeat(4096)).end(),
        ),
        (
            "device number",
            Archive::new().add(&Archive::entry("d", device), b"").end(),
        ),
        (
            "middle of an entry",
            raw(|archive| archive.truncate(512 + 100)),
        ),
        ("middle of an entry", raw(|archive| archive.truncate(100))),
        ("checksum is wrong", raw(|archive| archive[3] ^= 1)),
        (
            "checksum is wrong",
            b"<html>this is no archive</html>".repeat(100),
        ),
        (
            "followed by something else",
            raw(|archive| archive[1024..1536].fill(0)),
        ),
        ("'M'", raw(|archive| number(archive, 156, b"M"))),
        (
            "field size",
            raw(|archive| {
                number(
                    archive,
                    124,
                    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                )
            }),
        ),
        (
            "field size",
            raw(|archive| {
                number(
                    archive,
                    124,
                    b"\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff",
                )
            }),
        ),
        (
            "limit of",
            raw(|archive| {
                number(
                    archive,
                    124,
                    b"\x80\x00\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff",
                )
            }),
        ),
        (
            "field uid",
            raw(|archive| number(archive, 108, b"\x80\x00\x00\xff\xff\xff\xff\xff")),
        ),
        ("malformed record", pax("12 a")),
        ("malformed record", pax("99999999999999999999 a=b\n")),
        ("field mtime", pax(&record("mtime", "yesterday"))),
        (
            "field size",
            pax(&record("size", "99999999999999999999999")),
        ),
        ("middle of an entry", pax(&record("size", "100000"))),
        (
            "sparse file",
            pax(&[
                record("GNU.sparse.size", "10"),
                record("GNU.sparse.map", "0,1000"),
            ]
            .concat()),
        ),
        (
            "sparse file",
            pax(&[
                record("GNU.sparse.size", "9999"),
                record("GNU.sparse.map", "500,500,0,500"),
            ]
            .concat()),
        ),
        (
            "sparse file",
            pax(&[
                record("GNU.sparse.major", "1"),
                record("GNU.sparse.realsize", "10"),
            ]
            .concat()),
        ),
        ("extended attributes", big_xattrs(1, 65_536)),
        ("extended attributes", big_xattrs(3, 60_000)),
        ("extended header is larger", {
            let long = Archive::entry(&"p".repeat(1 << 21), EntryKind::File);
            Archive::new().add(&long, b"").end()
        }),
        ("read layer", b"\xfd7zXZ\0 and so on".to_vec()),
        ("read layer", b"BZh91AY&SY and so on".to_vec()),
        ("read layer", b"\x1f\x8b\x08\0\0\0\0\0\0\0garbage".to_vec()),
        ("read layer", b"\x28\xb5\x2f\xfdgarbage".to_vec()),
    ];
    for (reason, archive) in cases {
        let error = ingest(&store, &archive).map(|_| ()).expect_err(reason);
        let chain = chain(&error);
        assert!(chain.contains(reason), "{reason:?} in {chain:?}");
        let kind = error.kind();
        let client = [
            ErrorKind::InvalidArgument,
            ErrorKind::LimitReached,
            ErrorKind::Unsupported,
        ];
        assert!(client.contains(&kind), "{kind:?} of {chain}");
        assert_no_leftovers(&store);
    }
    assert_eq!(
        (store.blobs().unwrap().len(), store.layers().unwrap().len()),
        (0, 0)
    );
}

fn big_xattrs(count: usize, bytes: usize) -> Vec<u8> {
    let mut entry: Entry = Archive::entry("f", EntryKind::File);
    for number in 0..count {
        entry
            .xattrs
            .push((format!("user.{number}").into_bytes(), vec![b'x'; bytes]));
    }
    Archive::new().add(&entry, b"").end()
}

#[test]
fn broken_promises_are_refused() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let archive = Archive::new().file("a", b"x").end();
    let wrong = Digest::from_bytes([1; 32]);
    for (diff_id, digest, size) in [
        (Some(wrong), None, None),
        (None, Some(wrong), None),
        (None, None, Some(1)),
    ] {
        let blob = Expected { digest, size };
        let options = IngestOptions {
            diff_id,
            blob,
            keep_blob: true,
        };
        let error = store.ingest_layer(&archive[..], &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert_no_leftovers(&store);
    }
    assert_eq!(
        (store.blobs().unwrap().len(), store.layers().unwrap().len()),
        (0, 0)
    );
}

#[test]
fn a_stream_that_fails_reports_its_own_error() {
    struct Failing(usize);
    impl std::io::Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let len = self.0.min(buffer.len());
            self.0 -= len;
            if len == 0 {
                return Err(std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    "too slow",
                ));
            }
            buffer[..len].fill(0);
            Ok(len)
        }
    }
    let scratch = Scratch::new();
    let store = scratch.store("store");
    for bytes in [0, 3, 400, 3 << 20] {
        let error = store
            .ingest_layer(Failing(bytes), &IngestOptions::default())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline, "{bytes}: {error}");
        assert_no_leftovers(&store);
    }
}

#[test]
fn a_tiny_archive_of_a_huge_hole_takes_no_room() {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let records = [
        record("GNU.sparse.size", "1000000000000"),
        record("GNU.sparse.map", "999999990000,1000"),
    ];
    let layer = ingest(&store, &pax(&records.concat())).unwrap();
    let stat = fs::metadata(store.layer_path(&layer.diff_id)).unwrap();
    assert!(
        stat.len() > 900_000_000_000 && stat.blocks() < 200,
        "{}",
        stat.blocks()
    );
    fsck(&store.layer_path(&layer.diff_id));
}

#[test]
fn damaged_images_never_panic_nor_loop() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let mut entry = Archive::entry("x/attr", EntryKind::File);
    entry.xattrs.push((b"user.a".to_vec(), b"b".to_vec()));
    let mut archive = Archive::new()
        .add(&entry, &[9; 5000])
        .symlink("l", "x")
        .link("m", "l");
    for number in 0..300 {
        archive = archive.file(&format!("many/{number}-{}", "n".repeat(40)), b"x");
    }
    let layer = ingest(&store, &archive.end()).unwrap();
    let image = fs::read(store.layer_path(&layer.diff_id)).unwrap();
    let mut random = Random::new();
    let mut next = |end| random.below(end);
    let used: Vec<usize> = (1024..image.len()).filter(|&at| image[at] != 0).collect();
    let mut refused = 0;
    for _ in 0..4000 {
        let mut damaged = image.clone();
        // Without the flag there is no checksum to stop at.
        damaged[1024 + 8] &= !1;
        for _ in 0..=next(3) {
            damaged[used[next(used.len())]] = [0, 1, 0x7f, 0x80, 0xff, next(256) as u8][next(6)];
        }
        if next(8) == 0 {
            damaged.truncate(4096 * (1 + next(image.len() / 4096)));
        }
        refused += usize::from(read_all(&damaged).is_err());
    }
    assert!(refused > 400, "only {refused} noticed");
}

fn read_all(image: &[u8]) -> Result<(), Damage> {
    let reader = Reader::open(image)?;
    for path in [&b"l/attr"[..], b"many/7", b"../x//attr"] {
        reader.find(path)?;
    }
    reader.walk(|item| {
        reader.xattrs(item.inode)?;
        match item.inode.file_type {
            FileType::Symlink => drop(reader.target(item.inode)?),
            FileType::File => {
                let mut buffer = [0; 8192];
                reader.read_at(item.inode, &mut buffer, 0)?;
                reader.read_at(item.inode, &mut buffer, item.inode.size.saturating_sub(5))?;
            }
            _ => {}
        }
        Ok(())
    })
}

#[test]
fn the_writer_says_what_did_not_fit() {
    let mut writer = Writer::new(Vec::new());
    let short = Entry {
        size: 10,
        ..Archive::entry("f", EntryKind::File)
    };
    let error = writer.append(&short, &b"abc"[..]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}
