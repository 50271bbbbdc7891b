//! Replays the corpus of the fuzz target `layer`, as it is and with bytes changed.

use std::fs;
use std::path::Path;

use hull_storage::erofs::Damage;
use hull_storage::{IngestOptions, Store};

use crate::support::{Random, Scratch, assert_no_leftovers};

/// Changed copies of each input: enough to reach every parser, quick enough for every run.
const CHANGES: usize = 60;

/// Whether the stream is a layer; if so, our reader must read it and `fsck` of ours agree.
fn check(store: &Store, stream: &[u8], what: &str) -> bool {
    let Ok(layer) = store.ingest_layer(stream, &IngestOptions::default()) else {
        return false;
    };
    let reader = store
        .read_layer(&layer.diff_id)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    let walked = reader.walk::<Damage>(|item| reader.xattrs(item.inode).map(drop));
    walked.unwrap_or_else(|e| panic!("{what}: {e}"));
    store.remove_layer(&layer.diff_id).unwrap();
    true
}

#[test]
fn every_input_of_the_corpus_is_a_layer_or_an_error() {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !checkout.exists() {
        eprintln!("skipped: no checkout here, and so no corpus");
        return;
    }
    let corpus = checkout.join("../../fuzz/corpus/layer");
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let mut random = Random::new();
    let (mut layers, mut errors) = (0, 0);
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let stream = fs::read(&path).unwrap();
        let expected = !name.starts_with("bad-");
        // What the fuzzer adds has names that promise nothing.
        let known = name.contains('-') || !name.bytes().all(|b| b.is_ascii_hexdigit());
        let good = check(&store, &stream, &name);
        assert!(good == expected || !known, "{name}: a layer: {good}");
        (layers, errors) = (layers + usize::from(good), errors + usize::from(!good));
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
            check(&store, &changed, &format!("{name}, change {number}"));
        }
    }
    assert!(
        layers >= 15 && errors >= 10,
        "{layers} layers and {errors} errors"
    );
    assert_no_leftovers(&store);
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
