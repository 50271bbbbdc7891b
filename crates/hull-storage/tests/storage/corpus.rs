//! Replays what the fuzzer found worth keeping, and makes the seeds anew on request.

use std::fs;
use std::path::{Path, PathBuf};

use hull_storage::erofs::Damage;

use crate::support::{Scratch, ingest};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/layer")
}

#[test]
fn every_input_of_the_corpus_is_a_layer_or_an_error() {
    let scratch = Scratch::new();
    let store = scratch.store("store");
    let (mut layers, mut errors) = (0, 0);
    for entry in fs::read_dir(corpus()).unwrap() {
        let path = entry.unwrap().path();
        match ingest(&store, &fs::read(&path).unwrap()) {
            Ok(layer) => {
                let reader = store.read_layer(&layer.diff_id).unwrap();
                reader
                    .walk::<Damage>(|_| Ok(()))
                    .unwrap_or_else(|e| panic!("{path:?}: {e}"));
                layers += 1;
            }
            Err(_) => errors += 1,
        }
    }
    assert!(
        layers >= 8 && errors >= 8,
        "{layers} layers and {errors} errors"
    );
}
