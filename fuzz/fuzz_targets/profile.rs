//! A seccomp profile as a client sends it: a filter that the kernel would take, or an error.

#![no_main]

use hull_sandbox::container::seccomp::compile_json;
use libfuzzer_sys::fuzz_target;

/// Bytes of an instruction, and how many a filter may have.
const INSTRUCTION_BYTES: usize = 8;
const INSTRUCTIONS_MAX: usize = 4096;

fuzz_target!(|input: (u64, &str)| {
    let (capabilities, text) = input;
    if let Ok(filter) = compile_json(text, capabilities) {
        assert!(filter.len().is_multiple_of(INSTRUCTION_BYTES));
        assert!(filter.len() <= INSTRUCTIONS_MAX * INSTRUCTION_BYTES);
    }
});
