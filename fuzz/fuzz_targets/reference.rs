//! Names of images: what is read is written in full and in short form, and read again the same.

#![no_main]

use hull_storage::image::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(read) = text.parse::<Reference>() {
        assert_eq!(read.to_string().parse::<Reference>().expect("the full form"), read);
        assert_eq!(read.familiar().parse::<Reference>().expect("the short form"), read);
    }
});
