//! Turns a tar into a layer and says how long that took: `ingest <store> <tar>...`.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use hull_storage::{IngestOptions, Store};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let store = Store::open(Path::new(&args.next().ok_or("no store")?))?;
    for archive in args {
        let start = Instant::now();
        let layer = store.ingest_layer(File::open(&archive)?, &IngestOptions::default())?;
        let seconds = start.elapsed().as_secs_f64();
        let rate = layer.tar_size as f64 / seconds / 1e6;
        println!(
            "{archive}: {} inodes, {} -> {} -> {} bytes in {seconds:.3} s, {rate:.0} MB/s",
            layer.inodes, layer.blob.size, layer.tar_size, layer.image_size
        );
        println!("{}", store.layer_path(&layer.diff_id).display());
    }
    Ok(())
}
