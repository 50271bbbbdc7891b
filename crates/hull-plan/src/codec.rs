//! Records: `tag u16, 0 u16, length u32, fields`, little-endian.
//!
//! Fields have no tags: a record's fields are a fixed list that only grows at its end, and a reader
//! ignores what follows the fields that it knows.

use std::ffi::CStr;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// What was being read.
    pub what: &'static str,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "malformed {}", self.what)
    }
}

impl std::error::Error for Malformed {}

impl From<Malformed> for std::io::Error {
    fn from(malformed: Malformed) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, malformed)
    }
}

const HEADER_BYTES: usize = 8;

/// Writes records.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Writes one record; `fields` writes its fields.
    pub fn record(&mut self, tag: u16, fields: impl FnOnce(&mut Writer)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&u32::from(tag).to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        fields(self);
        let length = self.bytes.len() - start - HEADER_BYTES;
        let length = u32::try_from(length).expect("a record is far below 4 GiB");
        self.bytes[start + 4..start + HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    }

    /// Writes a number.
    pub fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes a number.
    pub fn i32(&mut self, value: i32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes a number.
    pub fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes a number.
    pub fn i64(&mut self, value: i64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// Writes a yes or no.
    pub fn bool(&mut self, value: bool) {
        self.u32(u32::from(value));
    }

    /// Writes an id.
    pub fn id(&mut self, value: &[u8; 32]) {
        self.bytes.extend_from_slice(value);
    }

    /// Writes a string with its NUL.
    pub fn text(&mut self, value: &CStr) {
        self.blob(value.to_bytes_with_nul());
    }

    /// Writes bytes.
    pub fn blob(&mut self, value: &[u8]) {
        self.u32(u32::try_from(value.len()).expect("a field is far below 4 GiB"));
        self.bytes.extend_from_slice(value);
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads the fields of one record.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which errors call `what`.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Reader<'a> {
        Reader { bytes, what }
    }

    fn malformed(&self) -> Malformed {
        Malformed { what: self.what }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or(self.malformed())?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(self.malformed())?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// Takes the next record: its tag and its fields. None at the end.
    ///
    /// # Errors
    /// When the record is cut off.
    pub fn record(&mut self) -> Result<Option<(u16, Reader<'a>)>, Malformed> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let tag = u16::try_from(self.u32()?).map_err(|_| self.malformed())?;
        let length = self.u32()? as usize;
        let bytes = self.take(length)?;
        Ok(Some((
            tag,
            Reader {
                bytes,
                what: self.what,
            },
        )))
    }

    /// Takes a number.
    ///
    /// # Errors
    /// At the end of the record, as for all fields.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes a number.
    ///
    /// # Errors
    /// At the end of the record.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_le_bytes)
    }

    /// Takes a number.
    ///
    /// # Errors
    /// At the end of the record.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    /// Takes a number.
    ///
    /// # Errors
    /// At the end of the record.
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        self.array().map(i64::from_le_bytes)
    }

    /// Takes a yes or no.
    ///
    /// # Errors
    /// At the end of the record, and for anything but 0 and 1.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed()),
        }
    }

    /// Takes an id.
    ///
    /// # Errors
    /// At the end of the record.
    pub fn id(&mut self) -> Result<[u8; 32], Malformed> {
        self.array()
    }

    /// Takes a string.
    ///
    /// # Errors
    /// When it does not end with its only NUL.
    pub fn text(&mut self) -> Result<&'a CStr, Malformed> {
        CStr::from_bytes_with_nul(self.blob()?).map_err(|_| self.malformed())
    }

    /// Takes bytes.
    ///
    /// # Errors
    /// When they are cut off.
    pub fn blob(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_back_in_order() {
        let mut writer = Writer::default();
        writer.record(7, |w| {
            w.u32(1);
            w.i64(-2);
            w.text(c"three");
            w.bool(true);
        });
        writer.record(8, |_| ());
        let bytes = writer.finish();
        let mut records = Reader::new(&bytes, "test");
        let (tag, mut fields) = records.record().unwrap().unwrap();
        assert_eq!(tag, 7);
        assert_eq!(fields.u32(), Ok(1));
        assert_eq!(fields.i64(), Ok(-2));
        assert_eq!(fields.text(), Ok(c"three"));
        assert_eq!(fields.bool(), Ok(true));
        assert_eq!(fields.u32(), Err(Malformed { what: "test" }));
        assert_eq!(records.record().unwrap().unwrap().0, 8);
        assert!(records.record().unwrap().is_none());
    }

    #[test]
    fn a_string_without_its_end_is_refused() {
        let mut writer = Writer::default();
        writer.blob(b"no end");
        writer.blob(b"two\0ends\0");
        let bytes = writer.finish();
        let mut reader = Reader::new(&bytes, "test");
        assert!(reader.text().is_err());
        assert!(reader.text().is_err());
    }
}
