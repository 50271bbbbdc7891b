//! Replays the corpora of the fuzz targets, as they are and with bytes changed.

use std::fmt::Debug;
use std::fs;
use std::path::Path;

use hull_storage::Store;
use hull_storage::erofs::Damage;
use hull_storage::image::{ImageConfig, Index, LoadOptions, Manifest, Reference, SavedImage};
use hull_storage::tar::Reader;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::support::{Random, Scratch, assert_no_leftovers, keep};

/// Changed copies of each input: enough to reach every parser, quick enough for every run.
const CHANGES: usize = 60;

/// Whether the stream is a layer; if so, our reader must read it and give the blob back.
fn check(store: &Store, stream: &[u8], what: &str) -> bool {
    let Ok(layer) = store.ingest_layer(stream, &keep()) else {
        return false;
    };
    let reader = store
        .read_layer(&layer.diff_id)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let walked = reader.walk::<Damage>(|item| reader.xattrs(item.inode).map(drop));
    walked.unwrap_or_else(|e| panic!("{what}: {e}"));
    let blob = store.read_blob(&layer.blob.digest, layer.blob.size, "blob");
    blob.unwrap_or_else(|e| panic!("{what}: {e}"));
    store.remove_blob(&layer.blob.digest).unwrap();
    store.remove_layer(&layer.diff_id).unwrap();
    true
}

/// Every input of a target's corpus, by name, and copies of it with bytes changed.
fn replay(target: &str, mut check: impl FnMut(&str, &[u8], bool)) {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !checkout.exists() {
        eprintln!("skipped: no checkout here, and so no corpus");
        return;
    }
    let mut random = Random::new();
    for entry in fs::read_dir(checkout.join("../../fuzz/corpus").join(target)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let stream = fs::read(&path).unwrap();
        check(&name, &stream, true);
        for number in 0..CHANGES {
            let mut changed = stream.clone();
            for _ in 0..=random.below(4) {
                let Some(last) = changed.len().checked_sub(1) else {
                    break;
                };
                let at = random.below(last + 1);
                changed[at] =
                    [b'0', b'7', b'/', b'.', 0, 0xff, random.below(256) as u8][random.below(7)];
                // Only a right sum lets a change behind the first check.
                fix_sum(&mut changed, at);
            }
            check(&format!("{name}, change {number}"), &changed, false);
        }
    }
}

/// Whether the name of an input promises that it is good; what the fuzzer adds promises nothing.
fn promise(name: &str) -> Option<bool> {
    let known = name.contains('-') || !name.bytes().all(|b| b.is_ascii_hexdigit());
    known.then(|| !name.starts_with("bad-"))
}

#[test]
fn every_input_of_the_corpus_is_a_layer_or_an_error() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    replay("layer", |name, stream, original| {
        let good = check(&store, stream, name);
        if let (true, Some(expected)) = (original, promise(name)) {
            assert_eq!(good, expected, "{name}");
        }
    });
    assert_no_leftovers(&store);
}

#[test]
fn archives_of_the_corpus_are_loaded_and_saved_the_same_or_refused() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let load = |stream: &[u8]| store.load(stream, &LoadOptions::default(), &mut |_| {});
    replay("archive", |name, stream, original| {
        let loaded = load(stream);
        if let (true, Some(expected)) = (original, promise(name)) {
            assert_eq!(loaded.is_ok(), expected, "{name}: {loaded:?}");
        }
        for image in loaded.map(|loaded| loaded.images).unwrap_or_default() {
            let saved = SavedImage {
                image: &image.image,
                references: &image.references,
            };
            let mut archive = Vec::new();
            store.save(&[saved], &mut archive).unwrap();
            assert_eq!(
                load(&archive).unwrap().images[0].image.id,
                image.image.id,
                "{name}"
            );
        }
    });
    assert_no_leftovers(&store);
}

fn reread<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &[u8], name: &str) -> bool {
    let Ok(read) = serde_json::from_slice::<T>(text) else {
        return false;
    };
    let written = serde_json::to_vec(&read).unwrap();
    assert_eq!(
        serde_json::from_slice::<T>(&written).unwrap(),
        read,
        "{name}"
    );
    true
}

#[test]
fn documents_names_and_tars_of_the_corpora_are_read_the_same_again_or_refused() {
    replay("documents", |name, text, original| {
        let read = [
            reread::<Manifest>(text, name),
            reread::<Index>(text, name),
            reread::<ImageConfig>(text, name),
        ];
        if let (true, Some(expected)) = (original, promise(name)) {
            assert_eq!(read.contains(&true), expected, "{name}");
        }
    });
    replay("reference", |name, text, original| {
        let read = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse::<Reference>().ok());
        if let (true, Some(expected)) = (original, promise(name)) {
            assert_eq!(read.is_some(), expected, "{name}");
        }
        if let Some(read) = read {
            assert_eq!(
                read.to_string().parse::<Reference>().unwrap(),
                read,
                "{name}"
            );
            assert_eq!(
                read.familiar().parse::<Reference>().unwrap(),
                read,
                "{name}"
            );
        }
    });
    replay("tar", |name, stream, _| {
        let mut archive = Reader::new(stream);
        while let Ok(Some(entry)) = archive.next_entry() {
            while let Ok(Some((offset, data))) = archive.next_data() {
                assert!(offset + data.len() as u64 <= entry.size, "{name}");
            }
        }
    });
}

fn fix_sum(archive: &mut [u8], changed: usize) {
    let start = changed / 512 * 512;
    let Some(header) = archive.get_mut(start..start + 512) else {
        return;
    };
    if &header[257..262] == b"ustar" && !(148..156).contains(&(changed - start)) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
