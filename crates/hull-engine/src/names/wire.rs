//! DNS messages, as far as a resolver for containers needs them: one question in, answers of
//! addresses and names out, and the times to live of what others answered.
//!
//! Whatever cannot be read is `None`, never a panic: it comes from inside a container, or from
//! the network. Names are compared in lower case, as text without the last dot.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of the header.
const HEADER_BYTES: usize = 12;
/// Bytes of a name in a message.
const NAME_BYTES_MAX: usize = 255;
/// Labels and jumps of one name: more would be a loop.
const NAME_STEPS_MAX: usize = 128;
/// Bytes of an answer over UDP that every client takes.
pub(crate) const UDP_BYTES_MAX: usize = 512;
/// How long clients may remember an answer of ours, in seconds, as Docker's.
const TTL_S: u32 = 600;

const FLAG_RESPONSE: u8 = 0x80;
const FLAG_TRUNCATED: u8 = 0x02;
const FLAG_RECURSION_DESIRED: u8 = 0x01;
const FLAG_RECURSION_AVAILABLE: u8 = 0x80;
const OPCODE_MASK: u8 = 0x78;
const CLASS_INTERNET: u16 = 1;
/// Where the question's name begins, as a compressed name.
const POINTER_TO_QUESTION: u16 = 0xc000 | HEADER_BYTES as u16;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// The name of an address.
    Ptr,
    /// Something that we have none of.
    Other,
    /// A pseudo record of options.
    Options,
}

impl Kind {
    fn of(number: u16) -> Self {
        match number {
            1 => Self::A,
            12 => Self::Ptr,
            28 => Self::Aaaa,
            41 => Self::Options,
            _ => Self::Other,
        }
    }
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// In lower case, without the last dot.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// Where the question ends in its message.
    end: usize,
}

/// What we say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The name has these addresses of the kind asked for; none: it is there and has none.
    Addresses(Vec<IpAddr>),
    /// The name of an address.
    Name(String),
    /// It could not be found out.
    ServerFailure,
    /// It may not be asked for.
    Refused,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

/// Reads the one question of a query.
pub(crate) fn question(message: &[u8]) -> Option<Question> {
    let is_query = message.get(2)? & (FLAG_RESPONSE | OPCODE_MASK) == 0;
    if !is_query || be16(message, 4)? != 1 {
        return None;
    }
    let (name, at) = name(message, HEADER_BYTES)?;
    let internet = be16(message, at + 2)? == CLASS_INTERNET;
    let kind = Kind::of(be16(message, at)?);
    Some(Question {
        name,
        kind: if internet { kind } else { Kind::Other },
        end: at + 4,
    })
}

/// Whether a message answers a query: the same number and the same question.
pub(crate) fn answers(query: &[u8], message: &[u8]) -> bool {
    let asked = question(query).map(|asked| asked.end);
    let same_question = || {
        let end = asked?;
        let ours = query.get(HEADER_BYTES..end)?;
        let theirs = message.get(HEADER_BYTES..end)?;
        Some(ours.eq_ignore_ascii_case(theirs))
    };
    let is_response = message
        .get(2)
        .is_some_and(|flags| flags & FLAG_RESPONSE != 0);
    is_response && query.get(..2) == message.get(..2) && same_question() == Some(true)
}

/// Reads a name; gives where the message goes on after it.
fn name(message: &[u8], start: usize) -> Option<(String, usize)> {
    let mut text = String::new();
    let (mut at, mut after) = (start, None);
    for _ in 0..NAME_STEPS_MAX {
        let length = *message.get(at)?;
        match length >> 6 {
            0 if length == 0 => return Some((text, after.unwrap_or(at + 1))),
            0 => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                if !text.is_empty() {
                    text.push('.');
                }
                // A dot inside a label would make another name of it.
                if label.contains(&b'.') || text.len() + label.len() > NAME_BYTES_MAX {
                    return None;
                }
                text.extend(
                    label
                        .iter()
                        .map(|byte| char::from(byte.to_ascii_lowercase())),
                );
                at += 1 + label.len();
            }
            3 => {
                let target = usize::from(be16(message, at)? & 0x3fff);
                after.get_or_insert(at + 2);
                // Only backwards: so it ends.
                if target >= at {
                    return None;
                }
                at = target;
            }
            _ => return None,
        }
    }
    None
}

/// An answer of ours to a query, whose question was read before.
pub(crate) fn answer(query: &[u8], question: &Question, answer: &Answer) -> Vec<u8> {
    let mut message = query[..question.end].to_vec();
    let code = match answer {
        Answer::Addresses(_) | Answer::Name(_) => 0,
        Answer::ServerFailure => 2,
        Answer::Refused => 5,
    };
    message[2] = FLAG_RESPONSE | (query[2] & FLAG_RECURSION_DESIRED);
    message[3] = FLAG_RECURSION_AVAILABLE | code;
    let mut records: u16 = 0;
    match answer {
        Answer::Addresses(addresses) => {
            for address in addresses {
                match address {
                    IpAddr::V4(v4) => put(&mut message, 1, &v4.octets()),
                    IpAddr::V6(v6) => put(&mut message, 28, &v6.octets()),
                }
                records = records.saturating_add(1);
            }
        }
        Answer::Name(name) => {
            if let Some(bytes) = name_bytes(name) {
                put(&mut message, 12, &bytes);
                records = 1;
            }
        }
        Answer::ServerFailure | Answer::Refused => {}
    }
    message[6..8].copy_from_slice(&records.to_be_bytes());
    message[8..HEADER_BYTES].fill(0);
    message
}

fn put(message: &mut Vec<u8>, kind: u16, data: &[u8]) {
    message.extend(POINTER_TO_QUESTION.to_be_bytes());
    message.extend(kind.to_be_bytes());
    message.extend(CLASS_INTERNET.to_be_bytes());
    message.extend(TTL_S.to_be_bytes());
    message.extend(u16::try_from(data.len()).unwrap_or_default().to_be_bytes());
    message.extend(data);
}

fn name_bytes(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|&length| length < 64)?;
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= NAME_BYTES_MAX).then_some(bytes)
}

/// Cuts an answer to what a client takes over UDP; it asks again over TCP then.
pub(crate) fn fit(query: &[u8], question: &Question, mut answer: Vec<u8>) -> Vec<u8> {
    if answer.len() > payload_max(query) && answer.len() > question.end {
        answer.truncate(question.end);
        answer[2] |= FLAG_TRUNCATED;
        answer[6..HEADER_BYTES].fill(0);
    }
    answer
}

/// How large an answer over UDP the client takes: 512 bytes, or what its options say.
fn payload_max(query: &[u8]) -> usize {
    let size = records(query).and_then(|records| {
        let options = records.iter().find(|record| record.kind == Kind::Options)?;
        be16(query, options.at + 2)
    });
    usize::from(size.unwrap_or_default()).max(UDP_BYTES_MAX)
}

/// One record of a message.
struct Record {
    kind: Kind,
    /// Where its type is; class and time to live follow.
    at: usize,
}

/// All records after the question.
fn records(message: &[u8]) -> Option<Vec<Record>> {
    let (_, at) = name(message, HEADER_BYTES)?;
    let mut at = at + 4;
    let count: usize = [6, 8, 10]
        .iter()
        .map(|&place| be16(message, place).map(usize::from))
        .sum::<Option<_>>()?;
    let mut found = Vec::new();
    for _ in 0..count {
        let (_, kind_at) = name(message, at)?;
        let kind = Kind::of(be16(message, kind_at)?);
        found.push(Record { kind, at: kind_at });
        at = kind_at + 10 + usize::from(be16(message, kind_at + 8)?);
    }
    (at <= message.len()).then_some(found)
}

/// The addresses that a message answers with, whatever names lead to them.
pub(crate) fn addresses(message: &[u8]) -> Vec<IpAddr> {
    let count = usize::from(be16(message, 6).unwrap_or_default());
    let read = |record: &Record| -> Option<IpAddr> {
        let data = message.get(record.at + 10..)?;
        let length = be16(message, record.at + 8)?;
        match (record.kind, length) {
            (Kind::A, 4) => Some(IpAddr::from(*data.first_chunk::<4>()?)),
            (Kind::Aaaa, 16) => Some(IpAddr::from(*data.first_chunk::<16>()?)),
            _ => None,
        }
    };
    let all = records(message).unwrap_or_default();
    all.iter().take(count).filter_map(read).collect()
}

/// How long an answer of others may be remembered, in seconds; `None`: not at all.
pub(crate) fn lifetime_s(message: &[u8]) -> Option<u32> {
    let is_whole = message.get(2)? & FLAG_TRUNCATED == 0;
    let succeeded = message.get(3)? & 0x0f == 0;
    if !is_whole || !succeeded || be16(message, 6)? == 0 {
        return None;
    }
    let ttl = |record: &Record| {
        let bytes = message.get(record.at + 4..record.at + 8)?;
        Some(u32::from_be_bytes(*bytes.first_chunk()?))
    };
    let all = records(message)?;
    let real = all.iter().filter(|record| record.kind != Kind::Options);
    real.filter_map(ttl).min()
}

/// Takes seconds that went by from the times to live of a remembered answer.
pub(crate) fn age(message: &mut [u8], seconds: u32) {
    for record in records(message).unwrap_or_default() {
        if record.kind == Kind::Options {
            continue;
        }
        if let Some(place) = message.get_mut(record.at + 4..record.at + 8) {
            let ttl = u32::from_be_bytes([place[0], place[1], place[2], place[3]]);
            place.copy_from_slice(&ttl.saturating_sub(seconds).to_be_bytes());
        }
    }
}

/// The address that a name of the reverse tree stands for.
pub(crate) fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let mut bytes: Vec<u8> = labels
            .split('.')
            .map(|label| label.parse().ok())
            .collect::<Option<_>>()?;
        bytes.reverse();
        let bytes: [u8; 4] = bytes.try_into().ok()?;
        return Some(Ipv4Addr::from(bytes).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?.split('.').rev();
    let mut value: u128 = 0;
    let mut count = 0;
    for digit in digits {
        let digit = u8::from_str_radix(digit, 16).ok().filter(|&d| d < 16)?;
        value = (value << 4) | u128::from(digit);
        count += 1;
        if count > 32 {
            return None;
        }
    }
    (count == 32).then(|| Ipv6Addr::from(value).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(name_bytes(name).unwrap());
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let asked = query("Web.MyNet", 1);
        let read = question(&asked).unwrap();
        assert_eq!((read.name.as_str(), read.kind), ("web.mynet", Kind::A));
        let addresses = vec![[10, 0, 0, 2].into(), [10, 0, 0, 3].into()];
        let said = answer(&asked, &read, &Answer::Addresses(addresses));
        assert!(answers(&asked, &said));
        assert_eq!(lifetime_s(&said), Some(TTL_S));
        assert_eq!(said[said.len() - 4..], [10, 0, 0, 3]);
        assert_eq!(records(&said).unwrap().len(), 2);
        let expected: [IpAddr; 2] = [[10, 0, 0, 2].into(), [10, 0, 0, 3].into()];
        assert_eq!(super::addresses(&said), expected);
        let mut older = said.clone();
        age(&mut older, 100);
        assert_eq!(lifetime_s(&older), Some(TTL_S - 100));
        let none = answer(&asked, &read, &Answer::ServerFailure);
        assert_eq!((none[3] & 15, lifetime_s(&none)), (2, None));
        let other = query("web.other", 1);
        assert!(!answers(&other, &said));
        assert!(!answers(&asked, &asked), "a question is no answer");
    }

    #[test]
    fn long_answers_are_cut_over_udp() {
        let asked = query("web", 1);
        let read = question(&asked).unwrap();
        let many = (0..60).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        let said = answer(&asked, &read, &Answer::Addresses(many));
        let cut = fit(&asked, &read, said.clone());
        assert!(cut.len() < UDP_BYTES_MAX && cut[2] & FLAG_TRUNCATED != 0);
        let mut with_options = asked.clone();
        with_options[11] = 1;
        with_options.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(fit(&with_options, &read, said.clone()), said);
    }

    #[test]
    fn reverse_names_are_addresses() {
        for (name, expected) in [
            ("2.0.17.172.in-addr.arpa", Some("172.17.0.2")),
            (
                "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
                Some("fd00::1"),
            ),
            ("0.17.172.in-addr.arpa", None),
            ("x.0.17.172.in-addr.arpa", None),
            ("f.f.ip6.arpa", None),
            ("web", None),
        ] {
            let expected = expected.map(|text| text.parse().unwrap());
            assert_eq!(reversed(name), expected, "{name}");
        }
    }

    /// A small deterministic generator, so that a failure can be repeated.
    fn random(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    #[test]
    fn no_message_does_harm() {
        let asked = query("a.very.long.name.of.a.container", 28);
        let read = question(&asked).unwrap();
        let v6 = vec!["fd00::1".parse().unwrap(); 3];
        let said = answer(&asked, &read, &Answer::Addresses(v6));
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        for base in [&asked, &said] {
            for length in 0..base.len() {
                try_all(&base[..length]);
            }
            for _ in 0..100_000 {
                let mut changed = base.clone();
                for _ in 0..=random(&mut seed) % 6 {
                    let at = (random(&mut seed) % changed.len() as u64) as usize;
                    changed[at] = random(&mut seed) as u8;
                }
                try_all(&changed);
            }
        }
        // A name that points at itself, and one that never ends.
        let mut looping = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1];
        assert_eq!(question(&looping), None);
        looping.truncate(12);
        looping.extend([1; 600]);
        assert_eq!(question(&looping), None);
    }

    fn try_all(message: &[u8]) {
        if let Some(read) = question(message) {
            let said = answer(message, &read, &Answer::Name("a.b".to_owned()));
            assert!(answers(message, &said));
            fit(message, &read, said);
        }
        let _ = lifetime_s(message);
        assert!(super::addresses(message).len() <= message.len());
        age(&mut message.to_vec(), 7);
    }

    #[test]
    fn every_message_of_the_corpus_is_read_or_not() {
        let checkout = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        if !checkout.exists() {
            println!("skip every_message_of_the_corpus_is_read_or_not: no checkout here");
            return;
        }
        let corpus = checkout.join("../../fuzz/corpus/dns");
        let mut replayed = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            for length in 0..=bytes.len() {
                try_all(&bytes[..length]);
            }
            replayed += 1;
        }
        assert!(replayed > 0, "the corpus is empty");
    }
}
