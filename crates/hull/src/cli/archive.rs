//! Archives: from a file or our input to the engine, and from the engine to a file or our output.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use bytes::Bytes;
use futures_util::Stream;

use super::failure::Failure;
use super::stdio::Stdio;
use super::stream::output_is_terminal;
use crate::client::Reply;

/// Bytes read from a file at once.
const READ_BYTES_MAX: usize = 64 * 1024;

/// The bytes of a file as a stream.
///
/// # Errors
/// In the words of Go's `os.Open`, as Docker's client prints them.
pub(crate) fn file(path: &Path) -> Result<impl Stream<Item = io::Result<Bytes>> + use<>, Failure> {
    let file = File::open(path).map_err(|cause| open_failure(path, &cause))?;
    Ok(reader(file))
}

/// The bytes of a file or another source that does not wait, as a stream.
pub(crate) fn reader<R: Read>(reader: R) -> impl Stream<Item = io::Result<Bytes>> {
    futures_util::stream::unfold(Some(reader), async |reader| {
        let mut reader = reader?;
        let mut buffer = vec![0; READ_BYTES_MAX];
        match reader.read(&mut buffer) {
            Ok(0) => None,
            Ok(length) => {
                buffer.truncate(length);
                Some((Ok(Bytes::from(buffer)), Some(reader)))
            }
            Err(cause) => Some((Err(cause), None)),
        }
    })
}

/// Our input as a stream.
pub(crate) fn input() -> Result<impl Stream<Item = io::Result<Bytes>> + use<>, Failure> {
    Ok(futures_util::stream::unfold(
        Some(Stdio::input()?),
        async |input| {
            let input = input?;
            match input.read().await {
                Ok(bytes) if bytes.is_empty() => None,
                Ok(bytes) => Some((Ok(Bytes::from(bytes)), Some(input))),
                Err(cause) => Some((Err(cause), None)),
            }
        },
    ))
}

/// Writes a body to a file or to our output. A file appears under its name only when it is whole.
///
/// # Errors
/// Where our output is a terminal, or the file cannot be written.
pub(crate) async fn save(mut reply: Reply, path: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = path else {
        let output = Stdio::output()?;
        while let Some(chunk) = reply.chunk().await? {
            output.write_all(&chunk).await?;
        }
        return Ok(());
    };
    let failed = |cause: io::Error| Failure::new(format!("write {}: {cause}", path.display()));
    // A device or a pipe cannot be replaced: it is written as it is.
    if path.exists() && !path.is_file() {
        let mut file = File::options().write(true).open(path).map_err(failed)?;
        while let Some(chunk) = reply.chunk().await? {
            file.write_all(&chunk).map_err(failed)?;
        }
        return Ok(());
    }
    let mut partial = PartialFile::create(path).map_err(failed)?;
    while let Some(chunk) = reply.chunk().await? {
        partial.file.write_all(&chunk).map_err(failed)?;
    }
    partial.finish().map_err(failed)
}

/// Refuses to write an archive to a terminal.
pub(crate) fn refuse_terminal(path: Option<&Path>) -> Result<(), Failure> {
    if path.is_none() && output_is_terminal() {
        let text = "cowardly refusing to save to a terminal. \
                    Use the -o flag or redirect";
        return Err(Failure::new(text));
    }
    Ok(())
}

/// Refuses a file that could not be made, before the engine works for it.
pub(crate) fn check_output(path: Option<&Path>, purpose: &str) -> Result<(), Failure> {
    let folder = path
        .and_then(Path::parent)
        .filter(|folder| !folder.as_os_str().is_empty());
    match folder.map(|folder| (folder, folder.metadata())) {
        Some((folder, Err(cause))) if cause.kind() == io::ErrorKind::NotFound => {
            let folder = folder.display();
            Err(Failure::new(format!(
                "failed to {purpose}: invalid output path: stat {folder}: no such file or directory"
            )))
        }
        Some((folder, Ok(meta))) if !meta.is_dir() => {
            let folder = folder.display();
            Err(Failure::new(format!(
                "failed to {purpose}: invalid output path: {folder}: not a directory"
            )))
        }
        _ => Ok(()),
    }
}

/// The failure of opening a file, in the words of Go.
pub(crate) fn open_failure(path: &Path, cause: &io::Error) -> Failure {
    let reason = match cause.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => cause.to_string(),
    };
    Failure::new(format!("open {}: {reason}", path.display()))
}

/// A file that is removed again unless it was finished.
struct PartialFile<'a> {
    file: File,
    temporary: std::path::PathBuf,
    path: &'a Path,
    finished: bool,
}

impl PartialFile<'_> {
    fn create(path: &Path) -> io::Result<PartialFile<'_>> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let file = File::create_new(&temporary)?;
        Ok(PartialFile {
            file,
            temporary,
            path,
            finished: false,
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a user's file need not survive a power cut, it only must not be half"
    )]
    fn finish(mut self) -> io::Result<()> {
        std::fs::rename(&self.temporary, self.path)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for PartialFile<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}
