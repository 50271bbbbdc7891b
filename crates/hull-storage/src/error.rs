//! The one public error type of this crate.

use std::io;
use std::path::{Path, PathBuf};

use hull_model::{Digest, ErrorKind};

use crate::erofs::Damage;
use crate::image::{ChangeFault, Reference, ReferenceFault};
use crate::layer::EntryFault;
use crate::tar::TarFault;

/// Why something could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on a file of the store failed.
    #[error("{step} {}", path.display())]
    File {
        /// What was done.
        step: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The stream that a caller gave could not be read or decompressed.
    #[error("read {what}")]
    Input {
        /// What was read.
        what: &'static str,
        /// What the stream said.
        #[source]
        cause: io::Error,
    },
    /// The stream that a caller gave could not be written.
    #[error("write {what}")]
    Output {
        /// What was written.
        what: &'static str,
        /// What the stream said.
        #[source]
        cause: io::Error,
    },
    /// The bytes are not a tar archive that we understand.
    #[error("tar header at byte {offset}")]
    Tar {
        /// Where the header starts in the uncompressed archive.
        offset: u64,
        /// What is wrong with it.
        #[source]
        cause: TarFault,
    },
    /// One entry of a layer asks for what cannot be.
    #[error("layer entry {path:?}")]
    Entry {
        /// The name as the archive has it.
        path: String,
        /// What is wrong with it.
        #[source]
        cause: EntryFault,
    },
    /// Contents are not those that were promised.
    #[error("{what} has the digest {actual}, not {expected}")]
    WrongDigest {
        /// What was checked.
        what: &'static str,
        /// What was promised.
        expected: Digest,
        /// What came.
        actual: Digest,
    },
    /// Contents are longer or shorter than promised.
    #[error("{what} has {actual} bytes, not {expected}")]
    WrongSize {
        /// What was checked.
        what: &'static str,
        /// What was promised.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// A named limit is exceeded.
    #[error("{what} exceeds the limit of {limit} {unit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The limit.
        limit: u64,
        /// Its unit.
        unit: &'static str,
    },
    /// A blob or layer is not in the store.
    #[error("{what} {digest} is not in the store")]
    Missing {
        /// Blob or layer.
        what: &'static str,
        /// Which one.
        digest: Digest,
    },
    /// A layer image on disk is damaged.
    #[error("layer image is damaged")]
    Damaged(#[from] Damage),
    /// An image archive is not one.
    #[error("image archive: {problem}")]
    Archive {
        /// What is wrong, with the name of the file in the archive.
        problem: String,
    },
    /// A JSON document of an image is malformed.
    #[error("parse {what}")]
    Json {
        /// Which document.
        what: String,
        /// Where and why.
        #[source]
        cause: serde_json::Error,
    },
    /// A directory and something else have the same name, and neither may replace the other.
    #[error("cannot overwrite {} {:?} with {} {:?}", if *.wanted {"non-directory"} else {"directory"}, path, if *.wanted {"directory"} else {"non-directory"}, base)]
    Kind {
        /// The name as the archive has it.
        path: PathBuf,
        /// Where the archive is unpacked.
        base: PathBuf,
        /// Whether the archive has the directory.
        wanted: bool,
    },
    /// A text is not an image reference.
    #[error("image reference {text:?}")]
    Reference {
        /// What was given.
        text: String,
        /// What is wrong with it.
        #[source]
        cause: ReferenceFault,
    },
    /// A part of an archive failed; the cause says why.
    #[error("{part}")]
    Part {
        /// Which image or layer, by its name in the archive.
        part: String,
        /// Why.
        #[source]
        cause: Box<Error>,
    },
    /// An archive has no image for the wanted platform.
    #[error("image archive: it has no image for the platform {platform}")]
    NoPlatform {
        /// What was wanted.
        platform: String,
    },
    /// A text is not a platform.
    #[error("platform {text:?} is not of the form os[/arch[/variant]]")]
    Platform {
        /// What was given.
        text: String,
    },
    /// A change of an image's configuration is malformed.
    #[error("{}", change_words(text, *cause))]
    Change {
        /// What was given.
        text: String,
        /// What is wrong with it; part of the words.
        cause: ChangeFault,
    },
}

/// Docker's words for what is no change at all.
fn change_words(text: &str, cause: ChangeFault) -> String {
    match cause {
        ChangeFault::Instruction => {
            let word = text.split_whitespace().next().unwrap_or_default();
            format!("{} is not a valid change command", word.to_lowercase())
        }
        cause => format!("change {text:?}: {cause}"),
    }
}

/// What every function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Names the part that failed.
    pub(crate) fn of(self, part: String) -> Self {
        Self::Part {
            part,
            cause: Box::new(self),
        }
    }

    /// Names the image that failed: by what it is called, or else by a document of it.
    pub(crate) fn of_image(self, names: &[Reference], document: &str) -> Self {
        match names.first() {
            Some(name) => self.of(format!("image {}", name.familiar())),
            None => self.of(format!("image {document}")),
        }
    }

    /// Whether there is nothing at the path that was asked for.
    pub fn is_not_there(&self) -> bool {
        matches!(self, Error::File { cause, .. } if matches!(
            cause.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ))
    }

    /// Whether what should be a directory is none.
    pub fn is_not_directory(&self) -> bool {
        matches!(self, Error::File { cause, .. } if cause.kind() == io::ErrorKind::NotADirectory)
    }

    /// What sort of failure this is, for the edges.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::File { cause, .. } => match ErrorKind::of_io(cause) {
                // A name that the caller never chose: for them the store is damaged.
                ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::InvalidArgument => {
                    ErrorKind::Internal
                }
                kind => kind,
            },
            Error::Input { cause, .. } => match cause.kind() {
                io::ErrorKind::InvalidData
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::Other
                | io::ErrorKind::UnexpectedEof => ErrorKind::InvalidArgument,
                _ => ErrorKind::of_io(cause),
            },
            Error::Output { cause, .. } => match cause.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ErrorKind::Cancelled,
                _ => ErrorKind::of_io(cause),
            },
            Error::Kind { .. }
            | Error::Tar { .. }
            | Error::Entry { .. }
            | Error::WrongDigest { .. }
            | Error::WrongSize { .. }
            | Error::Archive { .. }
            | Error::Json { .. }
            | Error::Reference { .. }
            | Error::Platform { .. }
            | Error::Change { .. } => ErrorKind::InvalidArgument,
            Error::Limit { .. } => ErrorKind::LimitReached,
            Error::Missing { .. } | Error::NoPlatform { .. } => ErrorKind::NotFound,
            Error::Part { cause, .. } => cause.kind(),
            Error::Damaged(_) => ErrorKind::Internal,
        }
    }
}

/// Turns an I/O error into ours, naming step and file: `file.sync_data().at("sync", path)?`.
pub(crate) trait At<T> {
    fn at(self, step: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: &'static str, path: &Path) -> Result<T> {
        self.map_err(|cause| Error::File {
            step,
            path: path.to_owned(),
            cause,
        })
    }
}
