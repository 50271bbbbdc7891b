//! Frames between the shim of a machine and the agent in its guest, as either end hears them.

#![no_main]

#[path = "../../crates/hull-plan/tests/frames.rs"]
#[expect(dead_code, reason = "its test replays the corpus")]
mod frames;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| frames::check(bytes));
