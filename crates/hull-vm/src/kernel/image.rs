//! From a distribution's compressed kernel to the image that a machine boots without firmware.
//!
//! A `bzImage` unpacks itself, which under emulation takes longer than the rest of the boot; and only
//! the image inside has the note (PVH) by which a loader finds a 32-bit entry.

use std::io::{self, Read};

use crate::error::{Error, unusable};

/// Bytes of an unpacked kernel; Debian's are below 60 MiB.
const IMAGE_BYTES_MAX: usize = 512 << 20;
/// Bytes of one block of the legacy LZ4 form.
const LZ4_BLOCK_BYTES_MAX: usize = 8 << 20;
/// "HdrS", at its place in a `bzImage`.
const BZIMAGE_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
/// Type of the ELF note with the PVH entry.
const NOTE_PVH: u32 = 18;

/// The image to boot: unpacked, with the PVH note.
///
/// # Errors
/// When it is no kernel, packed in a way that we do not know, or has no PVH entry.
pub(crate) fn unpack(name: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let image = match bytes.starts_with(b"\x7fELF") {
        true => bytes.to_vec(),
        false => unpack_bzimage(name, bytes)?,
    };
    match has_pvh_entry(&image) {
        true => Ok(image),
        false => Err(unusable(
            name,
            "has no PVH entry: it needs CONFIG_PVH to boot in a machine without firmware",
        )),
    }
}

fn unpack_bzimage(name: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let (at, magic) = BZIMAGE_MAGIC;
    if bytes.get(at..at + magic.len()) != Some(magic) {
        return Err(unusable(name, "is neither an ELF image nor a bzImage"));
    }
    let number = |at: usize| {
        let field = bytes
            .get(at..at + 4)
            .and_then(|field| field.try_into().ok());
        field.map_or(0, u32::from_le_bytes) as usize
    };
    let setup_sectors = match bytes.get(0x1f1).copied().unwrap_or(0) {
        0 => 4,
        count => usize::from(count),
    };
    let start = (setup_sectors + 1) * 512 + number(0x248);
    let payload = start
        .checked_add(number(0x24c))
        .and_then(|end| bytes.get(start..end))
        .ok_or_else(|| unusable(name, "ends before its payload"))?;
    inflate(payload).map_err(|cause| unusable(name, format!("unpack its payload: {cause}")))
}

/// Unpacks by what the bytes begin with. The last four are the kernel's own note of the size.
fn inflate(payload: &[u8]) -> io::Result<Vec<u8>> {
    let packed = &payload[..payload.len().saturating_sub(4)];
    match packed {
        [0x1f, 0x8b, ..] => read(flate2::read::GzDecoder::new(packed)),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => read(lzma_rust2::XzReader::new(packed, false)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => read(zstd::Decoder::new(packed)?),
        [0x02, 0x21, 0x4c, 0x18, ..] => lz4_legacy(&packed[4..]),
        _ => Err(io::Error::other("it is packed in a form that is not known")),
    }
}

fn read(packed: impl Read) -> io::Result<Vec<u8>> {
    let mut image = Vec::new();
    packed
        .take(IMAGE_BYTES_MAX as u64)
        .read_to_end(&mut image)?;
    Ok(image)
}

/// The form that `lz4 -l` writes: blocks, each behind its packed length.
fn lz4_legacy(mut bytes: &[u8]) -> io::Result<Vec<u8>> {
    let cut = || io::Error::other("LZ4 data ends early");
    let mut image = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (block, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        let most = image.len() + LZ4_BLOCK_BYTES_MAX;
        lz4_block(block, &mut image, most).ok_or_else(cut)?;
        if image.len() > IMAGE_BYTES_MAX {
            return Err(io::Error::other("LZ4 data is larger than any kernel"));
        }
        bytes = rest;
    }
    Ok(image)
}

/// One block: literals and copies of what came before, until the block ends.
fn lz4_block(mut block: &[u8], image: &mut Vec<u8>, most: usize) -> Option<()> {
    let start = image.len();
    while let Some((&token, rest)) = block.split_first() {
        block = rest;
        let literals = lz4_length(usize::from(token >> 4), &mut block)?;
        let (bytes, rest) = block.split_at_checked(literals)?;
        image.extend_from_slice(bytes);
        block = rest;
        if block.is_empty() {
            break;
        }
        let (offset, rest) = block.split_first_chunk::<2>()?;
        block = rest;
        let offset = usize::from(u16::from_le_bytes(*offset));
        let length = 4 + lz4_length(usize::from(token & 15), &mut block)?;
        if offset == 0 || offset > image.len() - start || image.len() + length > most {
            return None;
        }
        let from = image.len() - offset;
        if offset >= length {
            image.extend_from_within(from..from + length);
        } else {
            // It reads what it writes: a pattern that repeats.
            for index in 0..length {
                image.push(image[from + index]);
            }
        }
    }
    (image.len() <= most).then_some(())
}

fn lz4_length(first: usize, block: &mut &[u8]) -> Option<usize> {
    let mut length = first;
    if first == 15 {
        loop {
            let (&more, rest) = block.split_first()?;
            *block = rest;
            length += usize::from(more);
            if more != 255 {
                break;
            }
        }
    }
    Some(length)
}

/// Whether a note of the image names a PVH entry.
fn has_pvh_entry(image: &[u8]) -> bool {
    let half = |at: usize| {
        let field = image
            .get(at..at + 2)
            .and_then(|field| field.try_into().ok());
        field.map_or(0, u16::from_le_bytes) as usize
    };
    let word = |at: usize| {
        let field = image
            .get(at..at + 4)
            .and_then(|field| field.try_into().ok());
        field.map_or(0, u32::from_le_bytes)
    };
    let long = |at: usize| {
        let field = image
            .get(at..at + 8)
            .and_then(|field| field.try_into().ok());
        usize::try_from(field.map_or(0, u64::from_le_bytes)).unwrap_or(usize::MAX)
    };
    let is_note = |header: &usize| word(*header) == 4;
    let headers = (0..half(0x38)).map(|index| long(0x20).saturating_add(index * half(0x36)));
    headers.filter(is_note).any(|header| {
        let (mut at, length) = (long(header + 8), long(header + 32));
        let end = at.saturating_add(length).min(image.len());
        while at.saturating_add(12) <= end {
            let (name, contents) = (word(at) as usize, word(at + 4) as usize);
            if word(at + 8) == NOTE_PVH && image.get(at + 12..at + 15) == Some(b"Xen") {
                return true;
            }
            at = at
                .saturating_add(12)
                .saturating_add(name.next_multiple_of(4))
                .saturating_add(contents.next_multiple_of(4));
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lz4_copies_what_came_before() {
        // "abc", then six more bytes from three back.
        let block = [0x32, b'a', b'b', b'c', 3, 0];
        let mut image = Vec::new();
        assert_eq!(lz4_block(&block, &mut image, 100), Some(()));
        assert_eq!(image, b"abcabcabc");
        for broken in [&[0x32, b'a'][..], &[0x10, b'a', 9, 0], &[0xf0, 255]] {
            assert_eq!(lz4_block(broken, &mut Vec::new(), 100), None, "{broken:?}");
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        for bytes in [&b""[..], b"MZ", &[0; 4096], b"\x7fELF"] {
            assert!(unpack("x", bytes).is_err());
        }
    }
}
