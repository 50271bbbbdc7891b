//! Manifests, indexes and configurations: what is read is written and read again the same.

#![no_main]

use hull_storage::image::{ImageConfig, Index, Manifest};
use libfuzzer_sys::fuzz_target;

fn check<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
    text: &[u8],
) {
    if let Ok(read) = serde_json::from_slice::<T>(text) {
        let written = serde_json::to_vec(&read).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<T>(&written).expect("and read"), read);
    }
}

fuzz_target!(|text: &[u8]| {
    check::<Manifest>(text);
    check::<Index>(text);
    check::<ImageConfig>(text);
});
