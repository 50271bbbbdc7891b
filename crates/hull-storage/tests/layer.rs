//! scratch
use hull_storage::{IngestOptions, Store};
use std::fs::File;

#[test]
fn scratch() {
    let Ok(tar) = std::env::var("TAR") else {
        return;
    };
    let root = std::path::PathBuf::from(std::env::var("OUT").unwrap());
    let store = Store::open(&root).unwrap();
    let start = std::time::Instant::now();
    let layer = store
        .ingest_layer(
            File::open(tar).unwrap(),
            &IngestOptions {
                keep_blob: true,
                ..Default::default()
            },
        )
        .unwrap();
    println!("{layer:?} {:?}", start.elapsed());
    let reader = store.read_layer(&layer.diff_id).unwrap();
    let mut n = 0;
    reader
        .walk::<hull_storage::erofs::Damage>(|_| {
            n += 1;
            Ok(())
        })
        .unwrap();
    println!("walked {n}");
}
