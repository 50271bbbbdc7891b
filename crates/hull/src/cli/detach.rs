//! The keys that leave a container running and take its terminal away.

use super::failure::Failure;

/// Ctrl-P, Ctrl-Q.
const DEFAULT_KEYS: [u8; 2] = [16, 17];

/// Finds the sequence of keys in what is typed.
#[derive(Debug)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    matched: usize,
}

/// What the keys typed so far come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Pass these on.
    Pass(Vec<u8>),
    /// Pass these on, then detach.
    Detach(Vec<u8>),
}

impl DetachKeys {
    /// Parses `ctrl-p,ctrl-q`; nothing means the default.
    ///
    /// # Errors
    /// Where a key is neither a character nor `ctrl-` and one.
    pub(crate) fn parse(text: &str) -> Result<DetachKeys, Failure> {
        if text.is_empty() {
            return Ok(DetachKeys {
                keys: DEFAULT_KEYS.to_vec(),
                matched: 0,
            });
        }
        let keys: Option<Vec<u8>> = text.split(',').map(parse_key).collect();
        let keys = keys.ok_or_else(|| Failure::new(format!("Unknown character: '{text}'")))?;
        Ok(DetachKeys { keys, matched: 0 })
    }

    /// Takes what was read from the terminal.
    pub(crate) fn typed(&mut self, bytes: &[u8]) -> Typed {
        let mut pass = Vec::with_capacity(bytes.len() + self.matched);
        for &byte in bytes {
            if self.keys.get(self.matched) == Some(&byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return Typed::Detach(pass);
                }
                continue;
            }
            // It was not the sequence after all: what was held back belongs to the container.
            pass.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(self.keys.first() == Some(&byte));
            if self.matched == 0 {
                pass.push(byte);
            } else if self.keys.len() == 1 {
                return Typed::Detach(pass);
            }
        }
        Typed::Pass(pass)
    }
}

fn parse_key(text: &str) -> Option<u8> {
    if let [key] = text.as_bytes() {
        return Some(*key);
    }
    match text.strip_prefix("ctrl-")?.as_bytes() {
        [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
        [b'@'] => Some(0),
        [sign @ (b'[' | b'\\' | b']' | b'^' | b'_')] => Some(sign - b'A' + 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_found_across_reads_and_nothing_else_is_lost() {
        let mut keys = DetachKeys::parse("").unwrap();
        assert_eq!(keys.typed(b"ls\n"), Typed::Pass(b"ls\n".to_vec()));
        assert_eq!(keys.typed(b"a\x10"), Typed::Pass(b"a".to_vec()));
        assert_eq!(keys.typed(b"b"), Typed::Pass(b"\x10b".to_vec()));
        assert_eq!(keys.typed(b"\x10"), Typed::Pass(Vec::new()));
        assert_eq!(keys.typed(b"\x11rest"), Typed::Detach(Vec::new()));
    }

    #[test]
    fn other_keys_can_be_chosen() {
        let mut keys = DetachKeys::parse("ctrl-x,q").unwrap();
        assert_eq!(keys.typed(b"a\x18q"), Typed::Detach(b"a".to_vec()));
        assert!(DetachKeys::parse("ctrl-11").is_err());
    }
}
