//! The disk that takes what a guest writes to its root: a sparse file with an ext4 of its own.
//!
//! It carries the limit of `--storage-opt size=`. The host never mounts it: what is in it was written
//! by a guest.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use hull_os::durable::{self, Durability};

use crate::error::{Error, unusable};

/// What a guest may write where nobody set a limit. Only what is written takes place on the host.
pub const BYTES_DEFAULT: u64 = 64 << 30;
/// Below this there is no room for a file system.
pub const BYTES_MIN: u64 = 8 << 20;
/// How long making a file system may take: it writes a few megabytes.
const FORMAT_LIMIT: Duration = Duration::from_secs(30);
/// Fewer groups of inodes than usual, a small journal, and tables that are written when they are used.
const FORMAT: [&str; 10] = [
    "-q",
    "-F",
    "-m0",
    "-i32768",
    "-Jsize=8",
    "-Elazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
    "-O^resize_inode,sparse_super2,^metadata_csum_seed",
    "-Lhull",
    "-b4096",
    "-I256",
];

/// Opens the upper disk, made where it is not there yet.
///
/// # Errors
/// When it cannot be made; nothing is left then.
pub fn open_upper(path: &Path, bytes: u64) -> Result<File, Error> {
    if bytes < BYTES_MIN {
        return Err(unusable(
            "storage size",
            format!("is below {BYTES_MIN} bytes"),
        ));
    }
    if !path.exists() {
        make(path, bytes)?;
    }
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(Error::at("open the disk", path))
}

/// Reads `10G`, `512m` or a number of bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let text = text.strip_suffix('b').unwrap_or(&text);
    let shift = match text.chars().last()? {
        'k' => 10,
        'm' => 20,
        'g' => 30,
        't' => 40,
        _ => 0,
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn make(path: &Path, bytes: u64) -> Result<(), Error> {
    let new = path.with_extension("new");
    durable::remove_if_exists(&new).map_err(Error::at("remove", &new))?;
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|file| file.set_len(bytes))
        .map_err(Error::at("make the disk", &new))?;
    let shown = new.to_string_lossy();
    let mut words = vec!["mkfs.ext4"];
    words.extend(FORMAT);
    words.push(shown.as_ref());
    let run = || {
        let argv = hull_os::spawn::words(&words)?;
        let argv: Vec<_> = argv.iter().map(AsRef::as_ref).collect();
        hull_os::spawn::run(c"/sbin/mkfs.ext4", &argv, &[], FORMAT_LIMIT)
    };
    let output = run().map_err(|cause| match cause.kind() {
        std::io::ErrorKind::NotFound => Error::MissingProgram {
            program: "mkfs.ext4",
            package: "e2fsprogs",
        },
        _ => Error::at("make a file system on", &new)(cause),
    })?;
    if output.ended.code() != 0 {
        let _ = std::fs::remove_file(&new);
        let text = String::from_utf8_lossy(&output.text).trim().to_owned();
        return Err(unusable("mkfs.ext4", text));
    }
    durable::publish(&new, path, Durability::Lost).map_err(Error::at("name the disk", path))
}
