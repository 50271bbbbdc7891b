//! Lines of a log as they were written by a container, many in one buffer.
//!
//! A chunk of a `json-file` is turned into lines where it lies: a text without its escapes is never
//! longer than with them.

use memchr::{memchr, memchr2, memmem};
use serde::Deserialize;

/// Lines that were read together.
#[derive(Debug, Default)]
pub struct LogLines {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

/// One line of a log, without its JSON form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// From stderr, not stdout.
    pub stderr: bool,
    /// RFC 3339 with nanoseconds, as in the file.
    pub time: &'a str,
    /// Bytes with their line end, or a part of 16 KiB without one.
    pub text: &'a [u8],
    /// What `--log-opt` put beside it: a JSON object of texts, or nothing.
    pub attributes: &'a [u8],
}

/// Where the parts of a line are in the buffer.
#[derive(Debug, Clone, Copy)]
struct Place {
    stderr: bool,
    time: Span,
    text: Span,
    attributes: Span,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    from: usize,
    to: usize,
}

impl LogLines {
    /// Reads a chunk of whole lines; damaged ones, as after a power cut, are left out.
    pub fn parse(mut bytes: Vec<u8>) -> LogLines {
        let mut places = Vec::with_capacity(bytes.len() / 128);
        let mut from = 0;
        while let Some(length) = memchr(b'\n', &bytes[from..]) {
            let line = &mut bytes[from..from + length];
            let place = in_order(line).or_else(|| in_any_order(line));
            places.extend(place.map(|place| place.moved(from)));
            from += length + 1;
        }
        LogLines { bytes, places }
    }

    /// The lines.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = LogLine<'_>> {
        self.places.iter().map(|place| self.line(*place))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(LogLine<'_>) -> bool) {
        let mut places = std::mem::take(&mut self.places);
        places.retain(|place| keep(self.line(*place)));
        self.places = places;
    }

    /// Takes so many away at the beginning; returns how many there were, at most that many.
    pub(super) fn skip(&mut self, count: u64) -> u64 {
        let count = usize::try_from(count).map_or(self.places.len(), |n| n.min(self.places.len()));
        self.places.drain(..count);
        count as u64
    }

    fn line(&self, place: Place) -> LogLine<'_> {
        let bytes = |span: Span| &self.bytes[span.from..span.to];
        LogLine {
            stderr: place.stderr,
            time: std::str::from_utf8(bytes(place.time)).unwrap_or_default(),
            text: bytes(place.text),
            attributes: bytes(place.attributes),
        }
    }
}

impl Place {
    fn moved(self, by: usize) -> Place {
        let moved = |span: Span| Span {
            from: span.from + by,
            to: span.to + by,
        };
        Place {
            time: moved(self.time),
            text: moved(self.text),
            attributes: moved(self.attributes),
            ..self
        }
    }
}

/// A line with its fields in the order in which Docker and we write them.
fn in_order(line: &mut [u8]) -> Option<Place> {
    const TEXT: &[u8] = b"{\"log\":\"";
    let rest = line.strip_prefix(TEXT)?;
    let length = string_length(rest)?;
    let from = TEXT.len();
    let behind = from + length + 1;
    let rest = line[behind..].strip_prefix(b",\"stream\":\"std")?;
    let (stderr, rest) = match rest.strip_prefix(b"out\"") {
        Some(rest) => (false, rest),
        None => (true, rest.strip_prefix(b"err\"")?),
    };
    let begins = line.len() - rest.len();
    let at = match rest.starts_with(b",\"time\":\"") {
        true => 0,
        // The last one, since an attribute may have the same words.
        false => memmem::rfind(rest, b",\"time\":\"")?,
    };
    let attributes = match rest[..at].strip_prefix(b",\"attrs\":") {
        Some(object) => Span {
            from: begins + at - object.len(),
            to: begins + at,
        },
        None if at == 0 => Span { from: 0, to: 0 },
        None => return None,
    };
    let time = rest[at..]
        .strip_prefix(b",\"time\":\"")?
        .strip_suffix(b"\"}")?;
    if memchr2(b'"', b'\\', time).is_some() {
        return None;
    }
    let time = Span {
        from: line.len() - 2 - time.len(),
        to: line.len() - 2,
    };
    let length = unescape(&mut line[from..from + length])?;
    Some(Place {
        stderr,
        time,
        attributes,
        text: Span {
            from,
            to: from + length,
        },
    })
}

/// Bytes up to the quote that ends a text.
fn string_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', &bytes[at..])?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
        if at > bytes.len() {
            return None;
        }
    }
}

/// Takes the escapes out of a text, in its place; returns its length then.
fn unescape(text: &mut [u8]) -> Option<usize> {
    let Some(first) = memchr(b'\\', text) else {
        return Some(text.len());
    };
    let (mut read, mut written) = (first, first);
    while read < text.len() {
        let (used, character) = escaped(&text[read..])?;
        read += used;
        written += character.encode_utf8(&mut text[written..]).len();
        let plain = memchr(b'\\', &text[read..]).unwrap_or(text.len() - read);
        text.copy_within(read..read + plain, written);
        read += plain;
        written += plain;
    }
    Some(written)
}

/// The character that an escape means, and the bytes that it takes.
fn escaped(bytes: &[u8]) -> Option<(usize, char)> {
    Some(match *bytes.get(1)? {
        b'n' => (2, '\n'),
        b'r' => (2, '\r'),
        b't' => (2, '\t'),
        b'b' => (2, '\u{8}'),
        b'f' => (2, '\u{c}'),
        b'u' => {
            let first = unit(bytes)?;
            if let Some(character) = char::from_u32(first) {
                return Some((6, character));
            }
            // Half of a pair.
            let pair = |second: u32| 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            match unit(&bytes[6..]) {
                Some(second @ 0xdc00..0xe000) if first < 0xdc00 => {
                    (12, char::from_u32(pair(second))?)
                }
                _ => (6, char::REPLACEMENT_CHARACTER),
            }
        }
        other @ (b'"' | b'\\' | b'/') => (2, char::from(other)),
        _ => return None,
    })
}

fn unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[derive(Deserialize)]
struct JsonLine<'a> {
    log: String,
    stream: String,
    time: String,
    #[serde(borrow)]
    attrs: Option<&'a serde_json::value::RawValue>,
}

/// A line in any other form of JSON, put in place in the form that we read.
fn in_any_order(line: &mut [u8]) -> Option<Place> {
    let parsed: JsonLine<'_> = serde_json::from_slice(line).ok()?;
    let stderr = parsed.stream == "stderr";
    let parts = [
        parsed.log.into_bytes(),
        parsed.time.into_bytes(),
        parsed
            .attrs
            .map_or_else(Vec::new, |raw| raw.get().as_bytes().to_vec()),
    ];
    let mut end = 0;
    let [text, time, attributes] = parts.map(|part| {
        let from = end;
        end += part.len();
        line[from..end].copy_from_slice(&part);
        Span { from, to: end }
    });
    Some(Place {
        stderr,
        time,
        text,
        attributes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: &str) -> Vec<(bool, String, String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        LogLines::parse(json.as_bytes().to_vec())
            .iter()
            .map(|l| {
                (
                    l.stderr,
                    text(l.text),
                    l.time.to_owned(),
                    text(l.attributes),
                )
            })
            .collect()
    }

    fn check(json: &str, stderr: bool, text: &str, attributes: &str) {
        let expected = vec![(stderr, text.into(), "T".into(), attributes.into())];
        assert_eq!(shown(&format!("{json}\n")), expected, "{json}");
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        check(
            r#"{"log":"a\n","stream":"stdout","time":"T"}"#,
            false,
            "a\n",
            "",
        );
        check(r#"{"log":"","stream":"stderr","time":"T"}"#, true, "", "");
        check(
            r#"{"log":"\u003ca\"\\\u0009\u00fc\ud83d\ude00\ud83d\n","stream":"stdout","time":"T"}"#,
            false,
            "<a\"\\\tü\u{1f600}\u{fffd}\n",
            "",
        );
        check(
            r#"{"log":"x","stream":"stderr","attrs":{"a":",\"time\":\"b"},"time":"T"}"#,
            true,
            "x",
            r#"{"a":",\"time\":\"b"}"#,
        );
        check(
            r#"{ "time":"T", "attrs":{"k":"v"}, "stream":"stderr", "log":"a\tb" }"#,
            true,
            "a\tb",
            r#"{"k":"v"}"#,
        );
    }

    #[test]
    fn damaged_lines_are_left_out() {
        let good = r#"{"log":"a","stream":"stdout","time":"T"}"#;
        for damaged in [
            "",
            "{\"log\":\"a",
            "x",
            "{\"log\":\"\\",
            "{\"log\":\"\\q\",\"stream\":\"stdout\",\"time\":\"T\"}",
        ] {
            assert_eq!(
                shown(&format!("{damaged}\n{good}\n{good}")).len(),
                1,
                "{damaged}"
            );
        }
    }
}
