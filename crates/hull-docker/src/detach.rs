//! The keys by which a person leaves an attached terminal without ending it.

use crate::errors::ApiError;

/// What Docker listens for where nobody said otherwise.
const DEFAULT: [u8; 2] = [16, 17];

/// Looks for a sequence of keys in what a client types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them were typed in a row; they are held back until it is clear what they are.
    held: usize,
}

impl DetachKeys {
    /// Reads `ctrl-p,ctrl-q` or `a,ctrl-]`; empty is the default.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let keys = if text.is_empty() {
            Some(DEFAULT.to_vec())
        } else {
            text.split(',').map(key).collect()
        };
        match keys {
            Some(keys) => Ok(Self { keys, held: 0 }),
            None => Err(ApiError::invalid(format!(
                "Invalid detach keys ({text}) provided"
            ))),
        }
    }

    /// Appends to `out` what is meant for the container; true when the sequence is complete.
    pub(crate) fn filter(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for &byte in typed {
            if byte != self.keys[self.held] {
                out.extend(&self.keys[..self.held]);
                self.held = 0;
            }
            if byte != self.keys[self.held] {
                out.push(byte);
                continue;
            }
            self.held += 1;
            if self.held == self.keys.len() {
                self.held = 0;
                return true;
            }
        }
        false
    }
}

fn key(word: &str) -> Option<u8> {
    if let [byte] = word.as_bytes() {
        return Some(*byte);
    }
    match word.strip_prefix("ctrl-")?.as_bytes() {
        [letter @ (b'a'..=b'z')] => Some(letter - b'a' + 1),
        b"@" => Some(0),
        [sign @ b'['..=b'_'] => Some(sign - b'[' + 27),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn type_in(keys: &str, typed: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut keys = DetachKeys::parse(keys).expect("valid");
        let mut out = Vec::new();
        let detached = typed.iter().any(|piece| keys.filter(piece, &mut out));
        (out, detached)
    }

    #[test]
    fn the_sequence_detaches_even_in_pieces() {
        assert_eq!(type_in("", &[b"ab\x10", b"\x11c"]), (b"ab".to_vec(), true));
        assert_eq!(type_in("x,ctrl-]", &[b"ax\x1d"]), (b"a".to_vec(), true));
    }

    #[test]
    fn a_part_of_the_sequence_reaches_the_container() {
        assert_eq!(type_in("", &[b"a\x10b"]), (b"a\x10b".to_vec(), false));
        assert_eq!(type_in("", &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(type_in("", &[b"\x10"]), (b"".to_vec(), false));
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        for text in ["ctrl-", "ctrl-A", "zz", "a,", "ctrl-?"] {
            let refused = DetachKeys::parse(text).expect_err(text);
            assert_eq!(
                refused.message,
                format!("Invalid detach keys ({text}) provided")
            );
        }
    }
}
