//! `WWW-Authenticate` as a stranger sends it: challenges that can be met, or none.

#![no_main]

use hull_registry::challenge::{Challenge, HEADER_BYTES_MAX, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &str| {
    let found = parse(header);
    assert!(found.len() <= HEADER_BYTES_MAX);
    for challenge in found {
        if let Challenge::Bearer { realm, service, scope } = challenge {
            assert!(realm.len() + service.len() + scope.len() <= HEADER_BYTES_MAX);
        }
    }
});
