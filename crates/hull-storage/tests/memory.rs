//! The writer's memory depends on names, not on data. Alone in its process, whose peak it reads.

#![expect(clippy::unwrap_used, reason = "that is how a test fails")]

use std::fs;
use std::io::{self, Read};

use hull_storage::tar::{Entry, EntryKind, Timestamp, Writer};
use hull_storage::{IngestOptions, Store};

/// Size of the archive, in bytes.
const ARCHIVE_BYTES: u64 = 192 << 20;
/// Files in it.
const FILES: u64 = 64;
/// What ingesting may add to the peak of the process, in bytes.
const GROWTH_BYTES_MAX: u64 = 12 << 20;

/// An archive that is made while it is read.
struct Generator {
    next: u64,
    ready: io::Cursor<Vec<u8>>,
    zeros: u64,
}

impl Read for Generator {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.ready.read(buffer)?;
        if len > 0 {
            return Ok(len);
        }
        if self.zeros > 0 {
            let len = self.zeros.min(buffer.len() as u64) as usize;
            // Half of the blocks hold something.
            for (at, byte) in buffer[..len].iter_mut().enumerate() {
                *byte = u8::from(at % 8192 == 0);
            }
            self.zeros -= len as u64;
            return Ok(len);
        }
        if self.next == FILES {
            return Ok(0);
        }
        let size = ARCHIVE_BYTES / FILES;
        let entry = Entry {
            path: format!("file-{}", self.next).into_bytes(),
            kind: EntryKind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: Timestamp::default(),
            size,
            xattrs: Vec::new(),
        };
        let mut header = Vec::new();
        // The header alone: the data follows from here.
        let _ = Writer::new(&mut header).append(&entry, io::empty());
        self.next += 1;
        self.zeros = size;
        self.ready = io::Cursor::new(header);
        self.read(buffer)
    }
}

fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        * 1024
}

#[test]
fn a_layer_of_any_size_takes_bounded_memory() {
    let root = std::env::temp_dir().join(format!("hull-storage-memory-{}", std::process::id()));
    let store = Store::open(&root).unwrap();
    let before = peak_bytes();
    let generator = Generator {
        next: 0,
        ready: io::Cursor::default(),
        zeros: 0,
    };
    let layer = store
        .ingest_layer(generator, &IngestOptions::default())
        .unwrap();
    let growth = peak_bytes() - before;
    fs::remove_dir_all(root).unwrap();
    assert!(layer.tar_size > ARCHIVE_BYTES && layer.image_size > ARCHIVE_BYTES);
    assert_eq!(layer.inodes, FILES + 1);
    assert!(growth < GROWTH_BYTES_MAX, "the peak grew by {growth} bytes");
}
