//! An image archive as a stranger sends it: its images are whole, are saved and loaded again the
//! same, or there is an error.

#![no_main]

use std::sync::LazyLock;

use hull_storage::Store;
use hull_storage::image::{LoadOptions, SavedImage};
use libfuzzer_sys::fuzz_target;

static STORE: LazyLock<Store> = LazyLock::new(|| {
    let root = std::env::temp_dir().join(format!("hull-fuzz-archive-{}", std::process::id()));
    Store::open(&root).expect("open a store")
});

fuzz_target!(|stream: &[u8]| {
    let load = |stream: &[u8]| STORE.load(stream, &LoadOptions::default(), &mut |_| {});
    if let Ok(loaded) = load(stream) {
        for image in &loaded.images {
            let saved = SavedImage {
                image: &image.image,
                references: &image.references,
            };
            let mut archive = Vec::new();
            STORE.save(&[saved], &mut archive).expect("what was loaded can be saved");
            let again = load(&archive).expect("what was saved can be loaded");
            assert_eq!(again.images[0].image.id, image.image.id);
        }
    }
    for layer in STORE.layers().expect("list the layers") {
        STORE.remove_layer(&layer).expect("remove a layer");
    }
    for blob in STORE.blobs().expect("list the blobs") {
        STORE.remove_blob(&blob.digest).expect("remove a blob");
    }
});
