//! A layer as a stranger sends it: any bytes become an image that our reader reads, or an error.

#![no_main]

use std::sync::LazyLock;

use hull_storage::erofs::Damage;
use hull_storage::{IngestOptions, Store};
use libfuzzer_sys::fuzz_target;

static STORE: LazyLock<Store> = LazyLock::new(|| {
    let root = std::env::temp_dir().join(format!("hull-fuzz-layer-{}", std::process::id()));
    Store::open(&root).expect("open a store")
});

fuzz_target!(|stream: &[u8]| {
    let options = IngestOptions {
        keep_blob: true,
        ..IngestOptions::default()
    };
    let Ok(layer) = STORE.ingest_layer(stream, &options) else {
        return;
    };
    let reader = STORE
        .read_layer(&layer.diff_id)
        .expect("what we wrote is an image");
    reader
        .walk::<Damage>(|item| reader.xattrs(item.inode).map(drop))
        .expect("what we wrote can be read");
    STORE
        .read_blob(&layer.blob.digest, layer.blob.size, "blob")
        .expect("what came comes out again");
    STORE
        .remove_blob(&layer.blob.digest)
        .expect("remove the blob");
    STORE
        .remove_layer(&layer.diff_id)
        .expect("remove the image");
});
