//! Writing and reading netlink messages: a header, a fixed part, then attributes that may nest.
//!
//! All numbers are in the byte order of the host unless a name says otherwise.

/// Bytes of a netlink header.
pub(crate) const HEADER_BYTES: usize = 16;
/// Messages and attributes start at multiples of this many bytes.
const ALIGN_BYTES: usize = 4;
/// Marks an attribute that holds attributes.
const NESTED: u16 = 1 << 15;
/// The part of an attribute's kind that is a number and not a mark.
const KIND_MASK: u16 = 0x3fff;

const fn aligned(length: usize) -> usize {
    length.next_multiple_of(ALIGN_BYTES)
}

/// Concatenated requests, in the order in which the kernel is to carry them out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Where the last message begins.
    last: usize,
    requests: usize,
}

impl Batch {
    /// No request yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the concatenated requests, as [`super::Socket::execute`] wants them.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The concatenated requests.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many requests there are.
    pub fn requests(&self) -> usize {
        self.requests
    }

    /// Begins a request; `fixed` is what follows the header.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, fixed: &[u8]) -> &mut Self {
        self.last = self.bytes.len();
        self.requests += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.put(fixed);
        self
    }

    /// Adds a raw block, pads it, and keeps the length in the message's header true.
    pub(crate) fn put(&mut self, block: &[u8]) {
        self.bytes.extend_from_slice(block);
        self.bytes.resize(aligned(self.bytes.len()), 0);
        let length = (self.bytes.len() - self.last) as u32;
        self.bytes[self.last..self.last + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Adds an attribute.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = (ALIGN_BYTES + value.len()) as u16;
        let mut block = Vec::with_capacity(usize::from(length));
        block.extend_from_slice(&length.to_ne_bytes());
        block.extend_from_slice(&kind.to_ne_bytes());
        block.extend_from_slice(value);
        self.put(&block);
        self
    }

    pub(crate) fn attribute_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attribute(kind, &[value])
    }

    pub(crate) fn attribute_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// nf_tables and other younger families want numbers in network byte order.
    pub(crate) fn attribute_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    pub(crate) fn attribute_text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Adds an attribute that holds what `fill` writes.
    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// One message of a batch or of an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// What follows the header.
    pub(crate) body: &'a [u8],
}

/// Splits a buffer into its messages; a damaged length ends the walk.
pub(crate) fn messages(mut buffer: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(buffer, 0)? as usize;
        let body = buffer.get(HEADER_BYTES..length)?;
        let message = Message {
            kind: u16_at(buffer, 4)?,
            flags: u16_at(buffer, 6)?,
            sequence: u32_at(buffer, 8)?,
            body,
        };
        buffer = buffer.get(aligned(length)..).unwrap_or_default();
        Some(message)
    })
}

/// Walks attributes as pairs of kind and value; a damaged length ends the walk.
pub(crate) fn attributes(mut buffer: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(buffer, 0)?);
        let kind = u16_at(buffer, 2)? & KIND_MASK;
        let value = buffer.get(ALIGN_BYTES..length)?;
        buffer = buffer.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of a kind.
pub(crate) fn attribute(buffer: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(buffer)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

pub(crate) fn u16_at(buffer: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*buffer.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(buffer: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*buffer.get(at..)?.first_chunk()?))
}

pub(crate) fn be32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*value.first_chunk()?))
}

/// A text with or without the terminating zero.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{Batch, attribute, attributes, messages, text};

    #[test]
    fn nested_attributes_read_back_as_written() {
        let mut batch = Batch::new();
        batch
            .begin(16, 0, &[1, 2, 3, 4])
            .attribute_text(3, "hull0")
            .nested(18, |inside| {
                inside.attribute_u8(1, 7).attribute_u32(2, 9);
            });
        batch.begin(17, 0, &[]);
        let all: Vec<_> = messages(batch.as_bytes()).collect();
        assert_eq!((all.len(), all[0].kind, all[1].kind), (2, 16, 17));
        let outer = &all[0].body[4..];
        assert_eq!(text(attribute(outer, 3).unwrap()), "hull0");
        let inside: Vec<_> = attributes(attribute(outer, 18).unwrap()).collect();
        assert_eq!(inside, [(1, &[7u8][..]), (2, &9u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn a_damaged_length_ends_the_walk() {
        let mut batch = Batch::new();
        batch.begin(16, 0, &[]).attribute_u32(1, 5);
        let bytes = batch.into_bytes();
        for cut in 0..bytes.len() {
            assert!(messages(&bytes[..cut]).all(|message| message.body.len() < cut));
        }
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0]).count(), 0);
    }
}
