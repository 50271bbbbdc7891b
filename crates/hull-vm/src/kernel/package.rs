//! Where a kernel comes from: a package, or files of this host.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::module::{self, Modules};
use crate::error::{Error, unusable};

/// Bytes of one file of a package.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// How long the download of a package may take.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(600);
/// Debian's packages that depend on the newest kernel of a kind.
const DEBIAN: [(&str, &str); 2] = [
    ("debian", "linux-image-cloud-amd64"),
    ("debian-generic", "linux-image-amd64"),
];

/// A kernel as it was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Its release, as `uname -r` will say.
    pub(crate) release: String,
    /// Its image, as it came.
    pub(crate) image: Vec<u8>,
    pub(crate) modules: Modules,
    /// Names of what is built in.
    pub(crate) built_in: Vec<String>,
}

/// Reads a kernel from where `source` says: `debian`, `debian-generic`, `host`, a package or an image.
pub(crate) fn read(source: &str, scratch: &Path) -> Result<Found, Error> {
    if let Some((_, package)) = DEBIAN.iter().find(|(name, _)| *name == source) {
        return read_deb(&download(package, scratch)?);
    }
    if source == "host" {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        return read_files(&PathBuf::from(format!("/boot/vmlinuz-{}", release.trim())));
    }
    let path = Path::new(source);
    match path.extension().is_some_and(|extension| extension == "deb") {
        true => read_deb(path),
        false => read_files(path),
    }
}

/// Has apt fetch the package that `meta` depends on into a folder, and returns its path.
fn download(meta: &str, scratch: &Path) -> Result<PathBuf, Error> {
    let depends = run(&["apt-cache", "depends", meta], Path::new("/"))?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .ok_or_else(|| {
            unusable(
                meta,
                "apt does not know it: `apt-get update` may help, or give a .deb file",
            )
        })?;
    fetch(package, scratch)?;
    let entries = fs::read_dir(scratch).map_err(Error::at("read", scratch))?;
    let downloaded = entries.flatten().map(|entry| entry.path());
    downloaded
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .max()
        .ok_or_else(|| unusable(package, "apt has not downloaded it"))
}

/// Has apt fetch a package into a folder.
pub(super) fn fetch(package: &str, folder: &Path) -> Result<(), Error> {
    run(&["apt-get", "-qq", "download", package], folder).map(drop)
}

fn run(words: &[&str], folder: &Path) -> Result<String, Error> {
    run_for(words, folder, DOWNLOAD_LIMIT)
}

/// Runs a program of the host in a folder and returns what it printed.
pub(super) fn run_for(words: &[&str], folder: &Path, limit: Duration) -> Result<String, Error> {
    let at = Error::at("run a program in", folder);
    // A shell only for its working directory, which ours must not change.
    let script = "cd \"$0\" && exec \"$@\"";
    let folder = folder.to_string_lossy();
    let mut argv = vec!["sh", "-c", script, folder.as_ref()];
    argv.extend(words);
    let run = || -> io::Result<hull_os::spawn::Output> {
        let argv = hull_os::spawn::words(&argv)?;
        let argv: Vec<_> = argv.iter().map(AsRef::as_ref).collect();
        let env = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin", c"LC_ALL=C"];
        hull_os::spawn::run(c"/bin/sh", &argv, &env, limit)
    };
    let output = run().map_err(at)?;
    let text = String::from_utf8_lossy(&output.text).into_owned();
    match output.ended.code() {
        0 => Ok(text),
        _ => Err(unusable(words.join(" "), text.trim().to_owned())),
    }
}

/// A kernel image with its modules below `/lib/modules`, or beside it as in an unpacked package.
fn read_files(path: &Path) -> Result<Found, Error> {
    let shown = path.display().to_string();
    let image = fs::read(path).map_err(Error::at("read", path))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let release = name
        .strip_prefix("vmlinuz-")
        .or_else(|| name.strip_prefix("vmlinux-"))
        .unwrap_or_default()
        .to_owned();
    let mut found = Found {
        release,
        image,
        ..Found::default()
    };
    if found.release.is_empty() {
        // One that has all built in.
        found.release = name.into_owned();
        return Ok(found);
    }
    let beside = path.parent().and_then(Path::parent);
    let beside = beside.map(|root| root.join("lib/modules").join(&found.release));
    let usual = Path::new("/lib/modules").join(&found.release);
    let folder = beside.filter(|folder| folder.is_dir()).unwrap_or(usual);
    if !folder.is_dir() {
        return Err(unusable(
            shown,
            format!("has no modules at {}", folder.display()),
        ));
    }
    let mut waiting = vec![folder];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder)
            .map_err(Error::at("read", &folder))?
            .flatten()
        {
            let path = entry.path();
            let kind = entry.file_type().map_err(Error::at("look at", &path))?;
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file() {
                let open = || File::open(&path);
                found
                    .take(&path.to_string_lossy(), open)
                    .map_err(Error::at("read", &path))?;
            }
        }
    }
    Ok(found)
}

/// Debian's form: an `ar` archive with a tar archive inside.
fn read_deb(path: &Path) -> Result<Found, Error> {
    let bytes = fs::read(path).map_err(Error::at("read", path))?;
    let shown = path.display().to_string();
    let (name, packed) =
        ar_member(&bytes, "data.tar").ok_or_else(|| unusable(&shown, "is no Debian package"))?;
    let unpacked: Box<dyn Read + '_> = match name.rsplit('.').next() {
        Some("xz") => Box::new(lzma_rust2::XzReader::new(packed, true)),
        Some("zst") => Box::new(zstd::Decoder::new(packed).map_err(Error::at("unpack", path))?),
        Some("gz") => Box::new(flate2::read::GzDecoder::new(packed)),
        Some("tar") => Box::new(packed),
        _ => {
            return Err(unusable(
                &shown,
                format!("holds {name}, which is not known"),
            ));
        }
    };
    let mut found = Found::default();
    let read = || -> io::Result<()> {
        for entry in tar::Archive::new(unpacked).entries()? {
            let entry = entry?;
            let name = entry.path()?.to_string_lossy().into_owned();
            if entry.header().entry_type().is_file() {
                found.take(&name, || Ok(entry))?;
            }
        }
        Ok(())
    };
    read().map_err(Error::at("unpack", path))?;
    match found.image.is_empty() {
        true => Err(unusable(
            shown,
            "holds no kernel: take the package that a linux-image-… package depends on",
        )),
        false => Ok(found),
    }
}

/// The member of an `ar` archive whose name begins so.
fn ar_member<'a>(bytes: &'a [u8], begin: &str) -> Option<(String, &'a [u8])> {
    let mut rest = bytes.strip_prefix(b"!<arch>\n")?;
    loop {
        let (header, contents) = rest.split_at_checked(60)?;
        let text = |range: std::ops::Range<usize>| {
            String::from_utf8_lossy(&header[range]).trim().to_owned()
        };
        let length: usize = text(48..58).parse().ok()?;
        let (member, after) = contents.split_at_checked(length)?;
        let name = text(0..16).trim_end_matches('/').to_owned();
        if name.starts_with(begin) {
            return Some((name, member));
        }
        rest = after.get(length % 2..)?;
    }
}

impl Found {
    /// Keeps what a machine needs of a file of the package.
    fn take<R: Read>(
        &mut self,
        path: &str,
        open: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<()> {
        let name = path.rsplit('/').next().unwrap_or(path);
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            release.clone_into(&mut self.release);
            self.image = contents(open()?)?;
        } else if name == "modules.builtin" {
            let list = String::from_utf8_lossy(&contents(open()?)?).into_owned();
            self.built_in = list.lines().map(module::name_of).collect();
        } else if let Some((_, packing)) = name.split_once(".ko") {
            let bytes = match packing {
                "" => contents(open()?)?,
                ".xz" => contents(lzma_rust2::XzReader::new(open()?, false))?,
                ".zst" => contents(zstd::Decoder::new(open()?)?)?,
                ".gz" => contents(flate2::read::GzDecoder::new(open()?))?,
                _ => return Ok(()),
            };
            self.modules.insert(module::name_of(name), bytes);
        }
        Ok(())
    }
}

fn contents(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}
