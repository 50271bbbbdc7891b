//! Tar archives as streams: what layers and image archives are made of.
//!
//! Our own reader instead of a library's, because every length in a header is a stranger's claim:
//! nothing here allocates more than a named limit, whatever the archive says. It reads ustar, PAX,
//! GNU (long names, base-256 numbers) and all four dialects of sparse files. Global PAX headers are
//! skipped, as Docker does. The writer makes PAX archives and is used for saved images.

mod read;
mod write;

pub(crate) use read::starts_archive;
pub use read::{Data, Entry, EntryKind, Reader};
pub use write::{Writer, head};

/// Size of a header and unit of padding, in bytes.
pub const BLOCK_BYTES: usize = 512;
/// Size of one PAX header or GNU long name, in bytes: as large as the one of Docker's reader.
pub const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Pieces of data in one sparse file.
pub const SPARSE_SEGMENTS_MAX: usize = 1 << 18;
/// Size that one entry may claim, in bytes: more than any file system holds, less than overflows.
pub const ENTRY_BYTES_MAX: u64 = 1 << 60;

/// A moment, in seconds and nanoseconds since 1970; the seconds may be negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// The rest, below 10^9.
    pub nanos: u32,
}

/// What can be wrong with a tar archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TarFault {
    /// The stream ends inside an entry.
    #[error("the archive ends in the middle of an entry")]
    Truncated,
    /// This is no tar archive.
    #[error("the checksum is wrong, so this is not a tar archive or it is damaged")]
    Checksum,
    /// An archive ends with two blocks of zeros, and here is one.
    #[error("a block of zeros is followed by something else")]
    LoneZeroBlock,
    /// A number is malformed or out of range.
    #[error("the field {0} is not a number in its range")]
    Number(&'static str),
    /// A PAX record is malformed.
    #[error("the extended header has a malformed record")]
    PaxRecord,
    /// A PAX header or a long name is too large.
    #[error("the extended header is larger than {EXTENSION_BYTES_MAX} bytes")]
    ExtensionTooLarge,
    /// The map of a sparse file is malformed, unordered or does not fit the size.
    #[error("the map of the sparse file is inconsistent")]
    SparseMap,
    /// A sparse file has too many pieces.
    #[error("the sparse file has more than {SPARSE_SEGMENTS_MAX} pieces")]
    SparseSegments,
    /// An entry of a type that no layer has.
    #[error("entries of type {0:?} are not supported")]
    Type(char),
}
