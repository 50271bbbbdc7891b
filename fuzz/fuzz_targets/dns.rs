//! A DNS message from inside a container, or from a server outside: it is read or it is not, what
//! is read can be answered, and an answer is one to its query.

#![no_main]

use libfuzzer_sys::fuzz_target;

// It belongs to the engine alone, and needs nothing of it.
#[allow(dead_code)]
#[path = "../../crates/hull-engine/src/names/wire.rs"]
mod wire;

use wire::Answer;

fuzz_target!(|message: &[u8]| {
    if let Some(question) = wire::question(message) {
        let addresses = vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        for answer in [
            Answer::Addresses(addresses),
            Answer::Name("web.net".to_owned()),
            Answer::ServerFailure,
        ] {
            let said = wire::answer(message, &question, &answer);
            assert!(wire::answers(message, &said), "an answer is one to its query");
            let cut = wire::fit(message, &question, said);
            assert!(wire::answers(message, &cut), "also after it was cut");
        }
        if let Some(address) = wire::reversed(&question.name) {
            assert!(!address.to_string().is_empty());
        }
    }
    let before = wire::lifetime_s(message);
    let mut older = message.to_vec();
    wire::age(&mut older, 7);
    assert_eq!(older.len(), message.len());
    if let (Some(before), Some(after)) = (before, wire::lifetime_s(&older)) {
        assert!(after <= before, "nothing grows younger");
    }
});
