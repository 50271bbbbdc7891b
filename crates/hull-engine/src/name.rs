//! Names: which are allowed, and drawn ones for containers that were given none.

use crate::error::{EngineError, Result};

const ADJECTIVES: &[&str] = &[
    "able", "agile", "amber", "apt", "astral", "azure", "balmy", "bold", "brave", "breezy",
    "bright", "brisk", "calm", "candid", "cheery", "civil", "clever", "coral", "cosmic", "cozy",
    "crisp", "daring", "deft", "eager", "early", "earnest", "easy", "elated", "fair", "fancy",
    "fast", "fine", "firm", "fleet", "fond", "frank", "free", "fresh", "gentle", "glad", "golden",
    "grand", "happy", "hardy", "honest", "humble", "ideal", "jolly", "keen", "kind", "lively",
    "loyal", "lucid", "lucky", "mellow", "merry", "mighty", "modest", "neat", "nimble", "noble",
    "patient", "placid", "plucky", "polite", "prime", "proud", "quick", "quiet", "rapid", "ready",
    "robust", "rosy", "sage", "serene", "sharp", "silent", "silver", "sleek", "smart", "snug",
    "solid", "spry", "stable", "steady", "stout", "sunny", "sure", "swift", "tidy", "true",
    "upbeat", "valiant", "vivid", "warm", "wise", "witty", "young", "zesty",
];
const NOUNS: &[&str] = &[
    "albatross",
    "anchor",
    "anemone",
    "anvil",
    "atoll",
    "barge",
    "barnacle",
    "bay",
    "beacon",
    "binnacle",
    "boatswain",
    "bollard",
    "bosun",
    "bow",
    "brig",
    "buoy",
    "cable",
    "capstan",
    "caravel",
    "cleat",
    "clipper",
    "coast",
    "compass",
    "coral",
    "corvette",
    "cove",
    "crane",
    "current",
    "cutter",
    "delta",
    "dinghy",
    "dock",
    "dolphin",
    "dory",
    "ferry",
    "fjord",
    "frigate",
    "galleon",
    "galley",
    "gull",
    "harbor",
    "hatch",
    "haven",
    "helm",
    "heron",
    "inlet",
    "island",
    "jetty",
    "junk",
    "kayak",
    "keel",
    "ketch",
    "knot",
    "lagoon",
    "lantern",
    "ledger",
    "lighthouse",
    "lugger",
    "mast",
    "mooring",
    "narwhal",
    "oar",
    "osprey",
    "otter",
    "paddle",
    "pelican",
    "pier",
    "pilot",
    "pinnace",
    "plover",
    "porpoise",
    "port",
    "prow",
    "quay",
    "raft",
    "reef",
    "rigging",
    "rudder",
    "sail",
    "schooner",
    "seal",
    "sextant",
    "shoal",
    "skiff",
    "sloop",
    "spar",
    "starling",
    "stern",
    "strait",
    "tern",
    "tide",
    "tiller",
    "trawler",
    "tug",
    "wave",
    "wharf",
    "yawl",
];

/// Draws a name; `attempt` adds a number when names were taken again and again.
pub(crate) fn draw(random: u64, attempt: u32) -> String {
    let adjective = ADJECTIVES[(random % ADJECTIVES.len() as u64) as usize];
    let noun = NOUNS[(random / 4096 % NOUNS.len() as u64) as usize];
    if attempt < 3 {
        format!("{adjective}_{noun}")
    } else {
        format!("{adjective}_{noun}{}", random >> 40)
    }
}

/// Checks a container name by Docker's rule.
///
/// # Errors
/// `Invalid` with Docker's sentence.
pub(crate) fn check(name: &str) -> Result<()> {
    let tail = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let mut bytes = name.bytes();
    let fine = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.len() >= 2
        && bytes.all(tail);
    if fine {
        return Ok(());
    }
    Err(EngineError::Invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_rule() {
        for (name, fine) in [
            ("web", true),
            ("a.b-c_1", true),
            ("a", false),
            ("-a", false),
            ("a/b", false),
            ("", false),
        ] {
            assert_eq!(check(name).is_ok(), fine, "{name}");
        }
    }

    #[test]
    fn a_drawn_name_is_allowed() {
        for random in [0, u64::MAX, 1 << 50, 12345] {
            check(&draw(random, 0)).expect("allowed");
            check(&draw(random, 9)).expect("allowed");
        }
    }
}
