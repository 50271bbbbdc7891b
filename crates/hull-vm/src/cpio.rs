//! Writes the archive form that the kernel unpacks at its start (`newc`).
//!
//! Archives may follow each other: the modules of a kernel are written once, the agent of this build
//! is put in front of them.

/// A file or directory of the archive.
pub(crate) struct Entry<'a> {
    pub(crate) path: &'a str,
    /// Type and permission bits.
    pub(crate) mode: u32,
    pub(crate) contents: &'a [u8],
}

/// Type bits of a directory.
pub(crate) const DIRECTORY: u32 = 0o040_000;
/// Type bits of a file.
pub(crate) const FILE: u32 = 0o100_000;

/// One whole archive.
pub(crate) fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, entry) in (1..).zip(entries) {
        write(&mut bytes, number, entry);
    }
    let trailer = Entry {
        path: "TRAILER!!!",
        mode: 0,
        contents: &[],
    };
    write(&mut bytes, 0, &trailer);
    bytes
}

fn write(bytes: &mut Vec<u8>, inode: u32, entry: &Entry<'_>) {
    let links = 1;
    let fields = [
        inode,
        entry.mode,
        0,
        0,
        links,
        0,
        u32::try_from(entry.contents.len()).unwrap_or(u32::MAX),
        0,
        0,
        0,
        0,
        u32::try_from(entry.path.len() + 1).unwrap_or(u32::MAX),
        0,
    ];
    bytes.extend_from_slice(b"070701");
    for field in fields {
        bytes.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    bytes.extend_from_slice(entry.path.as_bytes());
    bytes.push(0);
    pad(bytes);
    bytes.extend_from_slice(entry.contents);
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_contents_begin_at_multiples_of_four() {
        let entry = Entry {
            path: "init",
            mode: FILE | 0o755,
            contents: b"12345",
        };
        let bytes = archive(&[entry]);
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[54..62], b"00000005");
        assert_eq!(&bytes[110..115], b"init\0");
        assert_eq!(&bytes[116..121], b"12345");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }
}
