//! A tar archive: its entries come with no more data than they claim, or there is an error.

#![no_main]

use hull_storage::tar::Reader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|stream: &[u8]| {
    let mut archive = Reader::new(stream);
    while let Ok(Some(entry)) = archive.next_entry() {
        while let Ok(Some((offset, data))) = archive.next_data() {
            assert!(offset + data.len() as u64 <= entry.size);
        }
    }
});
