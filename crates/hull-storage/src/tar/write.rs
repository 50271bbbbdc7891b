//! Writes PAX archives: an extended header only where the plain one cannot say it.

use std::io::{self, Read, Write};

use super::{BLOCK_BYTES, Entry, EntryKind};

/// Largest size that the octal field of a plain header can hold, in bytes.
const OCTAL_SIZE_MAX: u64 = 0o77_777_777_777;
/// Largest id or device number of a plain header.
const OCTAL_ID_MAX: u32 = 0o7_777_777;
/// Blocks of zeros that end an archive.
const END_BLOCKS: usize = 2;

/// Writes entries one after the other.
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(output: W) -> Self {
        Self { output }
    }

    /// Appends an entry; `contents` must deliver exactly `entry.size` bytes.
    pub fn append(&mut self, entry: &Entry, contents: impl Read) -> io::Result<()> {
        self.output.write_all(&head(entry))?;
        let copied = io::copy(&mut contents.take(entry.size), &mut self.output)?;
        if copied != entry.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.pad(entry.size)
    }

    /// Ends the archive and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; END_BLOCKS * BLOCK_BYTES])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.output.write_all(padding(size))
    }
}

/// What stands before the contents of an entry: for those who write them in another order.
pub fn head(entry: &Entry) -> Vec<u8> {
    let mut head = Vec::new();
    let records = pax_records(entry);
    if !records.is_empty() {
        head.extend(header_block(b"PaxHeader", b'x', records.len() as u64, None));
        head.extend_from_slice(&records);
        head.extend_from_slice(padding(records.len() as u64));
    }
    let flag = match &entry.kind {
        EntryKind::File => b'0',
        EntryKind::HardLink(_) => b'1',
        EntryKind::Symlink(_) => b'2',
        EntryKind::CharDevice { .. } => b'3',
        EntryKind::BlockDevice { .. } => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    };
    head.extend(header_block(&entry.path, flag, entry.size, Some(entry)));
    head
}

/// What stands behind contents of that size.
fn padding(size: u64) -> &'static [u8] {
    let missing = size.next_multiple_of(BLOCK_BYTES as u64) - size;
    &[0; BLOCK_BYTES][..missing as usize]
}

impl EntryKind {
    fn link(&self) -> &[u8] {
        match self {
            EntryKind::HardLink(target) | EntryKind::Symlink(target) => target,
            _ => b"",
        }
    }
}

/// Records for all that does not fit into a plain header.
fn pax_records(entry: &Entry) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| {
        let rest = key.len() + value.len() + 3;
        // The length counts its own digits.
        let mut len = rest;
        while rest + len.to_string().len() != len {
            len = rest + len.to_string().len();
        }
        records.extend_from_slice(len.to_string().as_bytes());
        records.extend_from_slice(b" ");
        records.extend_from_slice(key);
        records.extend_from_slice(b"=");
        records.extend_from_slice(value);
        records.extend_from_slice(b"\n");
    };
    if entry.path.len() > 100 {
        add(b"path", &entry.path);
    }
    if entry.kind.link().len() > 100 {
        add(b"linkpath", entry.kind.link());
    }
    if entry.size > OCTAL_SIZE_MAX {
        add(b"size", entry.size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
        if id > OCTAL_ID_MAX {
            add(key, id.to_string().as_bytes());
        }
    }
    if entry.modified.nanos != 0 || u64::try_from(entry.modified.seconds).is_err() {
        add(b"mtime", pax_time(entry).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        add(&[b"SCHILY.xattr.", &name[..]].concat(), value);
    }
    records
}

fn pax_time(entry: &Entry) -> String {
    let (seconds, nanos) = (entry.modified.seconds, entry.modified.nanos);
    match (seconds < 0, nanos) {
        (_, 0) => seconds.to_string(),
        (false, _) => format!("{seconds}.{nanos:09}"),
        (true, _) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
    }
}

fn header_block(path: &[u8], flag: u8, size: u64, entry: Option<&Entry>) -> [u8; BLOCK_BYTES] {
    let mut header = [0; BLOCK_BYTES];
    let text = |header: &mut [u8; BLOCK_BYTES], at: usize, value: &[u8], max: usize| {
        let len = value.len().min(max);
        header[at..at + len].copy_from_slice(&value[..len]);
    };
    let octal = |header: &mut [u8; BLOCK_BYTES], at: usize, value: u64, digits: usize| {
        // What does not fit was said in the extended header.
        let shown = format!("{:0digits$o}", value & ((1 << (3 * digits)) - 1));
        text(header, at, shown.as_bytes(), digits);
    };
    text(&mut header, 0, path, 100);
    octal(&mut header, 124, size, 11);
    header[156] = flag;
    header[257..265].copy_from_slice(b"ustar\x0000");
    octal(
        &mut header,
        100,
        entry.map_or(0o644, |entry| entry.mode.into()),
        7,
    );
    octal(
        &mut header,
        108,
        entry.map_or(0, |entry| entry.uid.into()),
        7,
    );
    octal(
        &mut header,
        116,
        entry.map_or(0, |entry| entry.gid.into()),
        7,
    );
    let seconds = entry.map_or(0, |entry| {
        u64::try_from(entry.modified.seconds).unwrap_or(0)
    });
    octal(&mut header, 136, seconds, 11);
    if let Some(entry) = entry {
        text(&mut header, 157, entry.kind.link(), 100);
        if let EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } =
            entry.kind
        {
            octal(&mut header, 329, major.into(), 7);
            octal(&mut header, 337, minor.into(), 7);
        }
    }
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
    octal(&mut header, 148, sum, 6);
    header[154] = 0;
    header
}

#[cfg(test)]
mod tests {
    use super::super::{Reader, Timestamp};
    use super::*;

    fn entry(path: &str, kind: EntryKind) -> Entry {
        let modified = Timestamp {
            seconds: 7,
            nanos: 0,
        };
        let path = path.as_bytes().to_vec();
        Entry {
            path,
            kind,
            mode: 0o4755,
            uid: 3,
            gid: 4,
            modified,
            size: 0,
            xattrs: Vec::new(),
        }
    }

    #[test]
    fn the_reader_reads_back_what_the_writer_wrote() {
        let long = "long/".repeat(60);
        let mut entries = vec![
            entry("plain", EntryKind::File),
            entry(&long, EntryKind::Directory),
            entry("link", EntryKind::Symlink(long.clone().into_bytes())),
            entry("hard", EntryKind::HardLink(b"plain".to_vec())),
            entry(
                "dev",
                EntryKind::BlockDevice {
                    major: 4095,
                    minor: 1_048_575,
                },
            ),
            entry("fifo", EntryKind::Fifo),
        ];
        entries[0].size = 700;
        entries[1].uid = u32::MAX;
        entries[1].modified = Timestamp {
            seconds: -2,
            nanos: 250_000_000,
        };
        entries[2].modified = Timestamp {
            seconds: i64::from(u32::MAX),
            nanos: 1,
        };
        entries[5]
            .xattrs
            .push((b"user.x".to_vec(), b"a\n\0b".to_vec()));

        let mut writer = Writer::new(Vec::new());
        for entry in &entries {
            writer.append(entry, io::repeat(b'z')).unwrap();
        }
        let archive = writer.finish().unwrap();
        let mut reader = Reader::new(&archive[..]);
        for wanted in &entries {
            let got = reader.next_entry().unwrap().unwrap();
            assert_eq!(format!("{got:?}"), format!("{wanted:?}"));
            let data = reader.read_data(1000, "test").unwrap();
            assert_eq!(data, vec![b'z'; wanted.size as usize]);
        }
        assert!(reader.next_entry().unwrap().is_none());
    }
}
