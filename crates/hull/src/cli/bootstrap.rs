//! `hull image bootstrap`: an image straight from the packages of a distribution.
//!
//! ```text
//!   debian:bookworm ──debootstrap──> folder ──(without caches and host's names)──tar──> engine
//!   busybox ──the static program and a link for each of its commands──tar──> engine
//! ```
//!
//! No registry is needed, so this works wherever packages can be had: also from a mirror on a
//! disk. What depends on this host or on the time of day is left out, so that the same packages
//! make the same layer.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use futures_util::Stream;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command as Program};

use super::failure::Failure;
use super::progress::{self, Show};
use super::session::{Session, warn_line};
use super::{Command, archive, reference};
use crate::client::Client;

/// Bytes read from tar at once.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Lines of debootstrap's log that are shown when it failed.
const LOG_LINES_MAX: usize = 12;

/// Where Debian's static busybox is.
const BUSYBOX: &str = "/bin/busybox";

/// What debootstrap leaves behind and an image shall not have: caches, lists of packages that age,
/// logs with times, the names of this host, devices that an engine makes itself.
const LEFT_OUT: [&str; 14] = [
    "./dev/*",
    "./proc/*",
    "./sys/*",
    "./run/*",
    "./tmp/*",
    "./etc/hostname",
    "./etc/resolv.conf",
    "./etc/machine-id",
    "./var/lib/dbus/machine-id",
    "./var/cache/apt/*.bin",
    "./var/cache/apt/archives/*.deb",
    "./var/cache/ldconfig/aux-cache",
    "./var/lib/apt/lists/*",
    "./var/log/*",
];

/// `hull image bootstrap`.
#[derive(Debug, clap::Args)]
pub(crate) struct Bootstrap {
    /// Install a package too
    #[arg(long = "package", short, value_name = "list")]
    packages: Vec<String>,
    /// Which packages every image has, in the words of debootstrap
    #[arg(long, value_name = "string", default_value = "minbase")]
    variant: String,
    /// Where the packages are: a URL, also file:///
    #[arg(long, value_name = "url")]
    mirror: Option<String>,
    /// Name of the image instead of the distribution's
    #[arg(long, short, value_name = "name")]
    tag: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(long, short, value_name = "list")]
    change: Vec<String>,
    /// Do not show what debootstrap does
    #[arg(long, short)]
    quiet: bool,
    #[arg(required = true, value_name = "NAME:SUITE")]
    distribution: String,
}

impl Command for Bootstrap {
    const USAGE: &str = "[OPTIONS] NAME:SUITE";
    const ABOUT: &str =
        "Make an image from a distribution's packages: debian:bookworm, ubuntu:noble, busybox";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let name = self.tag.as_ref().unwrap_or(&self.distribution);
        reference::validate(name)?;
        let client = session.client().await?;
        // Before minutes of work, find out whether there is somebody to do it for.
        client.version().await?;
        match self.distribution.split_once(':') {
            None | Some(("busybox", _)) if self.distribution.starts_with("busybox") => {
                self.busybox(client).await
            }
            Some((name @ ("debian" | "ubuntu"), suite)) => {
                self.debootstrap(client, name, suite).await
            }
            _ => Err(Failure::new(format!(
                "{:?} cannot be made from packages: give debian:SUITE, ubuntu:SUITE or busybox",
                self.distribution
            ))),
        }
    }
}

impl Bootstrap {
    async fn debootstrap(&self, client: &Client, name: &str, suite: &str) -> Result<(), Failure> {
        let folder = TemporaryFolder::create()?;
        let root = folder.path.join("root");
        let mut program = Program::new("unshare");
        // Its own mount namespace: whatever it mounts is gone when it ends, however it ends.
        program.args(["--mount", "--propagation", "private", "--", "debootstrap"]);
        program.arg(format!("--variant={}", self.variant));
        if !self.packages.is_empty() {
            program.arg(format!("--include={}", self.packages.join(",")));
        }
        if Path::new(&format!("/usr/share/keyrings/{name}-archive-keyring.gpg")).exists() {
            program.arg(format!(
                "--keyring=/usr/share/keyrings/{name}-archive-keyring.gpg"
            ));
        }
        program.arg(suite).arg(&root);
        if let Some(mirror) = self.mirror.clone().or_else(|| mirror_of_this_host(name)) {
            program.arg(mirror);
        } else if name == "ubuntu" {
            program.arg("http://archive.ubuntu.com/ubuntu");
        }
        if !find_program("debootstrap") {
            return Err(Failure::new(
                "debootstrap is not installed\n  hint: apt-get install debootstrap",
            ));
        }
        let run = self.run_program(program, "debootstrap").await;
        run.map_err(|failure| with_log(failure, &root.join("debootstrap/debootstrap.log")))?;
        // A service that a package starts has no place in a folder.
        std::fs::write(root.join("etc/machine-id"), "")?;
        let mut tar = Program::new("tar");
        tar.args([
            "--create",
            "--sort=name",
            "--numeric-owner",
            "--xattrs",
            "--format=pax",
        ]);
        tar.args(["--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime"]);
        tar.args(LEFT_OUT.map(|pattern| format!("--exclude={pattern}")));
        tar.arg("--clamp-mtime")
            .arg(format!("--mtime=@{}", newest_package(&root)));
        tar.arg("--directory").arg(&root).arg(".");
        let tar = tar
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let tar = tar.map_err(|cause| Failure::new(format!("start tar: {cause}")))?;
        self.import(client, output_of(tar), r#"CMD ["bash"]"#).await
    }

    async fn busybox(&self, client: &Client) -> Result<(), Failure> {
        let folder = TemporaryFolder::create()?;
        let program = match is_static(Path::new(BUSYBOX)) {
            true => PathBuf::from(BUSYBOX),
            false => self.download_busybox(&folder.path).await?,
        };
        let failed = |step: &str, cause: io::Error| Failure::new(format!("{step}: {cause}"));
        let listed = Program::new(&program).arg("--list").output().await;
        let listed = listed.map_err(|cause| failed("list the commands of busybox", cause))?;
        let commands = String::from_utf8_lossy(&listed.stdout).into_owned();
        let bytes = std::fs::read(&program).map_err(|cause| failed("read busybox", cause))?;
        let tar = busybox_archive(&bytes, commands.lines())
            .map_err(|cause| failed("make the archive", cause))?;
        self.import(
            client,
            archive::reader(io::Cursor::new(tar)),
            r#"CMD ["sh"]"#,
        )
        .await
    }

    /// Fetches the package; nothing of it is installed here.
    async fn download_busybox(&self, folder: &Path) -> Result<PathBuf, Failure> {
        let mut download = Program::new("apt-get");
        download
            .args(["download", "busybox-static"])
            .current_dir(folder);
        self.run_program(download, "apt-get download busybox-static")
            .await?;
        let package = std::fs::read_dir(folder)?
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().ends_with(".deb"))
            .ok_or("apt-get downloaded no package")?;
        let mut unpack = Program::new("dpkg-deb");
        unpack
            .arg("--extract")
            .arg(package.path())
            .arg(folder.join("root"));
        self.run_program(unpack, "dpkg-deb").await?;
        let places = ["bin/busybox", "usr/bin/busybox"];
        let mut places = places.iter().map(|place| folder.join("root").join(place));
        places
            .find(|place| is_static(place))
            .ok_or_else(|| Failure::new("the package busybox-static has no static busybox"))
    }

    /// Runs a program to its end; its output goes to our error output, as progress.
    async fn run_program(&self, mut program: Program, name: &str) -> Result<(), Failure> {
        let output = || {
            if self.quiet {
                Stdio::null()
            } else {
                Stdio::from(io::stderr())
            }
        };
        program
            .stdin(Stdio::null())
            .stdout(output())
            .kill_on_drop(true);
        let status = program.status().await;
        let status = status.map_err(|cause| Failure::new(format!("start {name}: {cause}")))?;
        if status.success() {
            return Ok(());
        }
        let hint = match std::fs::metadata("/proc/self")
            .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
        {
            Ok(0) | Err(_) => "",
            Ok(_) => "\n  hint: it has to be run as root",
        };
        Err(Failure::new(format!("{name} failed: {status}{hint}")))
    }

    async fn import<S>(&self, client: &Client, tar: S, command: &str) -> Result<(), Failure>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let name = reference::with_tag(self.tag.as_ref().unwrap_or(&self.distribution));
        let (repository, tag) = reference::split_tag(&name).unwrap_or((&name, "latest"));
        let mut call = client.post("/images/create").query("changes", command);
        for change in &self.change {
            call = call.query("changes", change);
        }
        let call = call
            .query("fromSrc", "-")
            .query("repo", repository)
            .query("tag", tag);
        progress::follow(call.stream(tar).send().await?, Show::All).await?;
        warn_line(&format!("made {name}"));
        Ok(())
    }
}

/// A failure with the end of what the program wrote down, which goes with its folder.
fn with_log(failure: Failure, log: &Path) -> Failure {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES_MAX)..];
    let shown: String = last.iter().map(|line| format!("\n  | {line}")).collect();
    Failure {
        message: failure.message + &shown,
        ..failure
    }
}

/// What a program writes, as a stream; an error where it fails.
fn output_of(mut child: Child) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let output = child.stdout.take();
    futures_util::stream::unfold(Some((child, output)), async |state| {
        let (mut child, mut output) = state?;
        let mut buffer = vec![0; READ_BYTES_MAX];
        let read = match &mut output {
            Some(output) => output.read(&mut buffer).await,
            None => Ok(0),
        };
        match read {
            Ok(0) => match child.wait().await {
                Ok(status) if status.success() => None,
                Ok(status) => Some((Err(io::Error::other(format!("tar failed: {status}"))), None)),
                Err(cause) => Some((Err(cause), None)),
            },
            Ok(length) => {
                buffer.truncate(length);
                Some((Ok(Bytes::from(buffer)), Some((child, output))))
            }
            Err(cause) => Some((Err(cause), None)),
        }
    })
}

/// The archive of the busybox image, the same bytes for the same program.
fn busybox_archive<'a>(
    program: &[u8],
    commands: impl Iterator<Item = &'a str>,
) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header
    };
    for (folder, mode) in [
        ("bin/", 0o755),
        ("dev/", 0o755),
        ("etc/", 0o755),
        ("home/", 0o755),
        ("proc/", 0o755),
        ("root/", 0o700),
        ("sys/", 0o755),
        ("tmp/", 0o1777),
        ("usr/", 0o755),
        ("usr/sbin/", 0o755),
        ("var/", 0o755),
        ("var/www/", 0o755),
    ] {
        tar.append_data(
            &mut header(tar::EntryType::Directory, mode, 0),
            folder,
            io::empty(),
        )?;
    }
    let file = tar::EntryType::Regular;
    tar.append_data(
        &mut header(file, 0o755, program.len()),
        "bin/busybox",
        program,
    )?;
    let mut commands: Vec<&str> = commands.filter(|command| *command != "busybox").collect();
    commands.sort_unstable();
    for command in commands {
        let mut link = header(tar::EntryType::Symlink, 0o777, 0);
        tar.append_link(&mut link, format!("bin/{command}"), "busybox")?;
    }
    for (path, mode, text) in [
        (
            "etc/group",
            0o644,
            "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
        ),
        (
            "etc/passwd",
            0o644,
            "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\n\
             nobody:x:65534:65534:nobody:/home:/bin/false\n",
        ),
        (
            "etc/shadow",
            0o640,
            "root:*:::::::\nwww-data:*:::::::\nnobody:*:::::::\n",
        ),
    ] {
        tar.append_data(&mut header(file, mode, text.len()), path, text.as_bytes())?;
    }
    tar.into_inner()
}

/// Whether a file is a program that needs no other: an ELF file that names no interpreter.
fn is_static(path: &Path) -> bool {
    const PROGRAM_HEADER_BYTES: usize = 56;
    const INTERPRETER: u32 = 3;
    let Ok(bytes) = std::fs::read(path) else {
        return false;
    };
    let number = |at: usize, length: usize| {
        let bytes = bytes.get(at..at + length)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0_usize, |number, byte| number << 8 | usize::from(*byte)),
        )
    };
    // 64-bit little-endian, as on every machine that we run on.
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return false;
    }
    let (Some(start), Some(count)) = (number(32, 8), number(56, 2)) else {
        return false;
    };
    let kind = |index: usize| number(start + index * PROGRAM_HEADER_BYTES, 4);
    (0..count).all(|index| kind(index) != Some(INTERPRETER as usize))
}

/// The mirror that this host takes its own packages from, where it runs that distribution.
fn mirror_of_this_host(name: &str) -> Option<String> {
    let folder = std::fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .flatten();
    let files = folder
        .map(|entry| entry.path())
        .chain([PathBuf::from("/etc/apt/sources.list")]);
    let texts: Vec<String> = files
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    let lines = lines.filter(|line| line.starts_with("URIs:") || line.starts_with("deb "));
    let urls = lines
        .flat_map(|line| line.split_whitespace())
        .filter(|word| word.contains("://"));
    let is_of = |url: &&str| url.trim_end_matches('/').ends_with(&format!("/{name}"));
    urls.map(|url| url.trim_end_matches('/'))
        .find(is_of)
        .map(str::to_owned)
}

/// The time of the newest package's files: later times are of this run and say nothing.
fn newest_package(root: &Path) -> i64 {
    use std::os::unix::fs::MetadataExt;
    // The release file is the distribution's own; its time is that of its last point release.
    std::fs::metadata(root.join("etc/debian_version")).map_or(0, |metadata| metadata.mtime())
}

fn find_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.any(|folder| folder.join(name).is_file())
}

/// A folder that is gone when this value is.
struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    fn create() -> Result<TemporaryFolder, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("hull-bootstrap-{}", std::process::id()));
        // Not readable for others, and refused where it is there: nobody can prepare it for us.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|cause| {
                Failure::new(format!("make the folder {}: {cause}", path.display()))
            })?;
        Ok(TemporaryFolder { path })
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busybox_archive_is_the_same_each_time() {
        let make =
            || busybox_archive(b"program", ["sh", "[", "busybox", "ls"].into_iter()).unwrap();
        assert_eq!(make(), make());
        let bytes = make();
        let mut archive = tar::Archive::new(&bytes[..]);
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .filter(|name| name.starts_with("bin/"))
            .collect();
        assert_eq!(names, ["bin/", "bin/busybox", "bin/[", "bin/ls", "bin/sh"]);
    }

    #[test]
    fn a_program_with_an_interpreter_is_not_static() {
        assert!(!is_static(Path::new("/bin/bash")));
        assert!(!is_static(Path::new("/etc/passwd")));
    }
}
