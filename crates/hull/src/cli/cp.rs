//! `hull cp`: files between a container and this machine.
//!
//! ```text
//!   C:SRC DEST   archive of SRC ──(first name replaced)──> DEST or DEST/SRC
//!   SRC C:DEST   archive of SRC under its new name ──────> folder in the container
//! ```
//!
//! What is new is named by one rule: into a folder that is there goes a thing of the same name;
//! otherwise the destination is the new name. `SRC/.` means what is in a folder.

use std::io;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use http::Method;
use tokio::sync::mpsc;

use super::failure::Failure;
use super::session::{Session, warn_line};
use super::stdio::Stdio;
use super::stream::output_is_terminal;
use super::value::Value;
use super::{Command, archive, units};
use crate::client::{Client, Reply};

/// Pieces of an archive that wait between two threads.
const PIECES_MAX: usize = 16;

/// Go's bits for the type of a file, as the engine sends them.
const GO_MODE_DIR: i64 = 1 << 31;
const GO_MODE_SYMLINK: i64 = 1 << 27;

/// `hull cp`.
#[derive(Debug, clap::Args)]
pub(crate) struct Cp {
    /// Archive mode (copy all uid/gid information)
    #[arg(long, short)]
    archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(long, short = 'L')]
    follow_link: bool,
    /// Suppress progress output during copy
    #[arg(long, short)]
    quiet: bool,
    #[arg(required = true, allow_hyphen_values = true, value_name = "SOURCE")]
    source: String,
    #[arg(
        required = true,
        allow_hyphen_values = true,
        value_name = "DESTINATION"
    )]
    destination: String,
}

impl Command for Cp {
    const USAGE: &str =
        "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tcp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH";
    const ABOUT: &str = "Copy files/folders between a container and the local filesystem";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        if self.source.is_empty() {
            return Err(Failure::new("source can not be empty"));
        }
        if self.destination.is_empty() {
            return Err(Failure::new("destination can not be empty"));
        }
        let client = session.client().await?;
        let (from, source) = split(&self.source);
        let (to, destination) = split(&self.destination);
        match (from, to) {
            (Some(_), Some(_)) => Err(Failure::new("copying between containers is not supported")),
            (None, None) => Err(Failure::new("must specify at least one container source")),
            (Some(container), None) => self.copy_out(client, container, source, destination).await,
            (None, Some(container)) => self.copy_in(client, container, source, destination).await,
        }
    }
}

impl Cp {
    fn tell(&self, bytes: u64, destination: &str) {
        if !self.quiet && output_is_terminal() {
            let size = units::human_size_with_precision(bytes as f64, 3);
            warn_line(&format!("Successfully copied {size} to {destination}"));
        }
    }

    async fn copy_out(
        &self,
        client: &Client,
        container: &str,
        source: &str,
        destination: &str,
    ) -> Result<(), Failure> {
        if destination != "-" {
            validate_output(destination)?;
        }
        let mut path = source.to_owned();
        if self.follow_link {
            // What is not there is told by the request that follows.
            let found = stat(client, container, source).await.ok();
            if let Some(found) = found.filter(|found| found.int(&["mode"]) & GO_MODE_SYMLINK != 0) {
                path = resolve_link(source, found.text(&["linkTarget"]));
            }
        }
        let call = client.get(format!("/containers/{container}/archive"));
        let mut reply = call.query("path", &path).send().await?;
        if destination == "-" {
            let output = Stdio::output()?;
            while let Some(chunk) = reply.chunk().await? {
                output.write_all(&chunk).await?;
            }
            return Ok(());
        }
        let is_folder = path_stat(&reply)?.int(&["mode"]) & GO_MODE_DIR != 0;
        let target = target(Path::new(destination), destination, source, is_folder)?;
        let bytes = receive(reply, target).await?;
        let destination = std::path::absolute(destination)?;
        self.tell(bytes, &destination.to_string_lossy());
        Ok(())
    }

    async fn copy_in(
        &self,
        client: &Client,
        container: &str,
        source: &str,
        destination: &str,
    ) -> Result<(), Failure> {
        let mut path = destination.to_owned();
        let mut found = stat(client, container, &path).await.ok();
        if let Some(link) = &found
            && link.int(&["mode"]) & GO_MODE_SYMLINK != 0
        {
            path = resolve_link(&path, link.text(&["linkTarget"]));
            found = stat(client, container, &path).await.ok();
        }
        let is_folder = found
            .as_ref()
            .map(|found| found.int(&["mode"]) & GO_MODE_DIR != 0);
        if source == "-" {
            if is_folder != Some(true) {
                let text = format!("destination \"{container}:{destination}\" must be a directory");
                return Err(Failure::new(text));
            }
            let call = self.put(client, container, &path).stream(archive::input()?);
            return Ok(call.done().await?);
        }
        let metadata = match self.follow_link {
            true => std::fs::metadata(source),
            false => std::fs::symlink_metadata(source),
        };
        let metadata = metadata.map_err(|cause| lstat_failure(source, &cause))?;
        let (folder, name) = match is_folder {
            Some(true) => (path.clone(), base(source)),
            Some(false) if metadata.is_dir() => {
                return Err(Failure::new("cannot copy directory"));
            }
            None if !metadata.is_dir() && path.ends_with('/') => {
                return Err(Failure::new("no such directory"));
            }
            _ => (parent(&path), base(&path)),
        };
        let (sender, receiver) = mpsc::channel(PIECES_MAX);
        let follow = self.follow_link;
        let source = PathBuf::from(source);
        let packing = std::thread::spawn(move || pack(&source, &name, follow, &sender));
        let stream = futures_util::stream::unfold(receiver, async |mut receiver| {
            Some((receiver.recv().await?, receiver))
        });
        let sent = self
            .put(client, container, &folder)
            .stream(stream)
            .done()
            .await;
        let bytes = packing
            .join()
            .map_err(|_| Failure::new("the packing thread panicked"))??;
        sent?;
        self.tell(bytes, &format!("{container}:{path}"));
        Ok(())
    }

    fn put<'a>(
        &self,
        client: &'a Client,
        container: &str,
        folder: &str,
    ) -> crate::client::Call<'a> {
        let call = client.call(Method::PUT, format!("/containers/{container}/archive"));
        let call = if self.archive {
            call.query("copyUIDGID", "true")
        } else {
            call
        };
        call.query("noOverwriteDirNonDir", "true")
            .query("path", folder)
    }
}

/// `container:path`, or a path of this machine: `./a:b` and `/a:b` are such.
fn split(text: &str) -> (Option<&str>, &str) {
    match text.split_once(':') {
        Some((container, path)) if !text.starts_with('/') && !container.starts_with('.') => {
            (Some(container), path)
        }
        _ => (None, text),
    }
}

async fn stat(client: &Client, container: &str, path: &str) -> Result<Value, Failure> {
    let call = client.call(Method::HEAD, format!("/containers/{container}/archive"));
    path_stat(&call.query("path", path).send().await?)
}

/// What the engine tells about a path, in a header.
fn path_stat(reply: &Reply) -> Result<Value, Failure> {
    let header = reply
        .header("x-docker-container-path-stat")
        .unwrap_or_default();
    let json = decode_base64(header).unwrap_or_default();
    serde_json::from_slice(&json).map_err(|cause| {
        Failure::new(format!(
            "unable to decode container path stat header: {cause}"
        ))
    })
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    Some(bytes)
}

fn resolve_link(path: &str, link: &str) -> String {
    if link.starts_with('/') {
        link.to_owned()
    } else {
        format!("{}/{link}", parent(path))
    }
}

/// The folder that a path is in; of `a/.` it is `a`.
fn parent(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some(("", _)) => "/".to_owned(),
        Some((parent, _)) => parent.to_owned(),
        None if path.starts_with('/') => "/".to_owned(),
        None => ".".to_owned(),
    }
}

/// The last name of a path; `.` where it means what is in a folder, or is the root.
fn base(path: &str) -> String {
    match path.trim_end_matches('/').rsplit('/').next() {
        None | Some("") => ".".to_owned(),
        Some("..") => Path::new(path)
            .canonicalize()
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_else(|| ".".to_owned()),
        Some(name) => name.to_owned(),
    }
}

/// The path that the first name of the archive becomes.
fn target(path: &Path, text: &str, source: &str, is_folder: bool) -> Result<PathBuf, Failure> {
    match path.metadata() {
        Ok(found) if found.is_dir() => Ok(match base(source).as_str() {
            "." => path.to_owned(),
            name => path.join(name),
        }),
        Ok(_) if is_folder => Err(Failure::new("cannot copy directory")),
        Ok(_) => Ok(path.to_owned()),
        Err(_) if !is_folder && text.ends_with('/') => Err(Failure::new("no such directory")),
        Err(_) => Ok(path.to_owned()),
    }
}

/// Refuses a destination in a folder that is not there, before anything is asked for.
fn validate_output(text: &str) -> Result<(), Failure> {
    let path = std::path::absolute(text)?;
    let folder = path.parent().unwrap_or(&path);
    if folder.exists() {
        return Ok(());
    }
    let folder = folder.to_string_lossy();
    Err(Failure::new(format!(
        "invalid output path: directory {folder:?} does not exist"
    )))
}

/// Hands an archive to a thread that unpacks it; returns its size.
async fn receive(mut reply: Reply, target: PathBuf) -> Result<u64, Failure> {
    let (sender, receiver) = mpsc::channel::<Bytes>(PIECES_MAX);
    let unpacking = std::thread::spawn(move || unpack(receiver, &target));
    let mut bytes = 0;
    let mut received = Ok(());
    loop {
        match reply.chunk().await {
            Ok(Some(chunk)) => {
                bytes += chunk.len() as u64;
                if sender.send(chunk).await.is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(error) => {
                received = Err(error);
                break;
            }
        }
    }
    drop(sender);
    let unpacked = unpacking
        .join()
        .map_err(|_| Failure::new("the unpacking thread panicked"))?;
    received?;
    unpacked.map_err(|cause| Failure::new(cause.to_string()))?;
    Ok(bytes)
}

/// Unpacks an archive; its first name becomes `target`.
///
/// A container may have put anything into it: nothing is written through a symbolic link below
/// `target`, and no name leads out of it.
fn unpack(receiver: mpsc::Receiver<Bytes>, target: &Path) -> io::Result<()> {
    // A link that the user named is followed; one that the archive makes is not.
    let target = &target.canonicalize().unwrap_or_else(|_| target.to_owned());
    let mut archive = tar::Archive::new(ChannelReader {
        receiver,
        rest: Bytes::new(),
    });
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = renamed(&entry.path()?, target)?;
        refuse_links(target, &path)?;
        entry.set_preserve_permissions(true);
        if entry.header().entry_type().is_hard_link() {
            let link = entry.link_name()?.unwrap_or_default();
            let link = renamed(&link, target)?;
            refuse_links(target, &link)?;
            remove_file(&path)?;
            std::fs::hard_link(link, &path)?;
            continue;
        }
        let is_folder = entry.header().entry_type().is_dir();
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() && is_folder => continue,
            Ok(found) if found.is_dir() => {
                let text = format!("cannot overwrite directory {} with a file", path.display());
                return Err(io::Error::other(text));
            }
            Ok(_) if is_folder && path != *target => {
                let text = format!("cannot overwrite file {} with a directory", path.display());
                return Err(io::Error::other(text));
            }
            Ok(_) => remove_file(&path)?,
            Err(_) => {}
        }
        entry.unpack(&path)?;
    }
    Ok(())
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
        _ => Ok(()),
    }
}

/// A name of the archive below `target` instead of its first part.
fn renamed(name: &Path, target: &Path) -> io::Result<PathBuf> {
    let mut parts = name
        .components()
        .filter(|part| !matches!(part, Component::RootDir));
    parts.next();
    let mut path = target.to_owned();
    for part in parts {
        match part {
            Component::Normal(part) => path.push(part),
            _ => {
                let text = format!("the archive has the name {}", name.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
    }
    Ok(path)
}

/// Refuses a path that goes through a link below `target`.
fn refuse_links(target: &Path, path: &Path) -> io::Result<()> {
    let below = path
        .ancestors()
        .skip(1)
        .take_while(|parent| parent.starts_with(target));
    for parent in below {
        if parent
            .symlink_metadata()
            .is_ok_and(|found| found.is_symlink())
        {
            let text = format!("the archive leads through the link {}", parent.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
    }
    Ok(())
}

type Piece = io::Result<Bytes>;

/// Packs a file or a folder under another name; returns the size of the archive.
fn pack(
    source: &Path,
    name: &str,
    follow: bool,
    sender: &mpsc::Sender<Piece>,
) -> Result<u64, Failure> {
    let mut tar = tar::Builder::new(ChannelWriter {
        sender: sender.clone(),
        bytes: 0,
    });
    tar.follow_symlinks(false);
    let source = if follow {
        &source.canonicalize()?
    } else {
        source
    };
    let packed = match source.symlink_metadata() {
        Ok(found) if found.is_dir() => tar.append_dir_all(name, source),
        Ok(_) => tar.append_path_with_name(source, name),
        Err(cause) => Err(cause),
    };
    match packed.and_then(|()| tar.into_inner()) {
        Ok(writer) => Ok(writer.bytes),
        // The receiver is gone: it has its own reason, which is told instead.
        Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Ok(0),
        Err(cause) => {
            let text = format!("pack {}: {cause}", source.display());
            let _ = sender.blocking_send(Err(io::Error::other(text.clone())));
            Err(Failure::new(text))
        }
    }
}

fn lstat_failure(path: &str, cause: &io::Error) -> Failure {
    let path = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    let reason = match cause.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => cause.to_string(),
    };
    Failure::new(format!("lstat {}: {reason}", path.display()))
}

/// Writes pieces to the task that sends them.
struct ChannelWriter {
    sender: mpsc::Sender<Piece>,
    bytes: u64,
}

impl io::Write for ChannelWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(buffer);
        self.sender
            .blocking_send(Ok(piece))
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.bytes += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads pieces from the task that receives them.
struct ChannelReader {
    receiver: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl io::Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            self.rest = self.receiver.blocking_recv().unwrap_or_default();
        }
        let length = buffer.len().min(self.rest.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_told_from_a_path() {
        assert_eq!(split("web:/etc"), (Some("web"), "/etc"));
        assert_eq!(split("./a:b"), (None, "./a:b"));
        assert_eq!(split("/a:b"), (None, "/a:b"));
        assert_eq!(split("-"), (None, "-"));
    }

    #[test]
    fn names_and_folders_of_paths() {
        let check = |path: &str, expected: (&str, &str)| {
            assert_eq!(
                (parent(path).as_str(), base(path).as_str()),
                expected,
                "{path}"
            );
        };
        check("/a/b", ("/a", "b"));
        check("/a/b/", ("/a", "b"));
        check("/a/b/.", ("/a/b", "."));
        check("/a", ("/", "a"));
        check("/", ("/", "."));
        check("a", (".", "a"));
    }

    #[test]
    fn base64_is_decoded() {
        assert_eq!(decode_base64("eyJhIjoxfQ==").unwrap(), b"{\"a\":1}");
        assert!(decode_base64("!").is_none());
    }

    fn unpack_entries(target: &Path, entries: &[(&str, tar::EntryType, &str)]) -> io::Result<()> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            if kind.is_symlink() {
                header.set_size(0);
                tar.append_link(&mut header, name, content)?;
                continue;
            }
            header.set_size(content.len() as u64);
            // Written by hand, because the library refuses to write names that lead out.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, content.as_bytes())?;
        }
        let (sender, receiver) = mpsc::channel(1);
        sender
            .blocking_send(Bytes::from(tar.into_inner()?))
            .unwrap();
        drop(sender);
        unpack(receiver, target)
    }

    #[test]
    fn an_archive_cannot_lead_out_of_the_target() {
        let folder = std::env::temp_dir().join(format!("hull-cp-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let target = folder.join("new");
        let (dir, file, link) = (
            tar::EntryType::Directory,
            tar::EntryType::Regular,
            tar::EntryType::Symlink,
        );
        unpack_entries(&target, &[("a", dir, ""), ("a/b", file, "text")]).unwrap();
        assert_eq!(std::fs::read_to_string(target.join("b")).unwrap(), "text");
        assert!(unpack_entries(&target, &[("a/../../evil", file, "x")]).is_err());
        let through = [("a/l", link, ".."), ("a/l/evil", file, "x")];
        assert!(unpack_entries(&target, &through).is_err());
        let other = folder.join("other");
        assert!(unpack_entries(&other, &[("a", link, ".."), ("a/evil", file, "x")]).is_err());
        assert!(!folder.join("evil").exists());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
