//! What a volume is made of: a plain directory, a mount that its options ask for, or a file system
//! of its own in a file, which gives it a size.
//!
//! Options are those of Docker's `local` driver, refused in its words.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::net::ToSocketAddrs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use hull_os::loopdev::{self, Access};
use hull_os::mount::{self, Attributes, Filesystem};
use hull_os::process::Ended;
use hull_os::spawn;

/// Smallest size of a volume, in bytes: what a file system of its own needs to be one.
pub const VOLUME_BYTES_MIN: u64 = 2 << 20;
/// How long making a file system may take.
const MAKE_WAIT: Duration = Duration::from_secs(120);
/// From this size on a volume has a journal; below, it would be a large part of the file.
const JOURNALED_BYTES_MIN: u64 = 16 << 20;
/// Sizes of a journal; between them it is a part of the volume's.
const JOURNAL_BYTES: (u64, u64) = (4 << 20, 64 << 20);
/// From this size on files are expected to be larger, and so to be fewer.
const LARGE_BYTES_MIN: u64 = 512 << 20;
/// What the kernel keeps free for itself, at most.
const KERNEL_RESERVE_BYTES_MAX: u64 = 16 << 20;
/// Where the program that makes one may lie.
const MAKERS: [&str; 3] = [
    "/usr/sbin/mkfs.ext4",
    "/sbin/mkfs.ext4",
    "/usr/bin/mkfs.ext4",
];
/// Mount options that are flags of the kernel's, and whether they set or clear them.
const FLAGS: &[(&str, bool, u64)] = &[
    ("ro", true, mount::flags::READONLY),
    ("rw", false, mount::flags::READONLY),
    ("nosuid", true, mount::flags::NOSUID),
    ("suid", false, mount::flags::NOSUID),
    ("nodev", true, mount::flags::NODEV),
    ("dev", false, mount::flags::NODEV),
    ("noexec", true, mount::flags::NOEXEC),
    ("exec", false, mount::flags::NOEXEC),
    ("sync", true, mount::flags::SYNCHRONOUS),
    ("async", false, mount::flags::SYNCHRONOUS),
    ("noatime", true, mount::flags::NOATIME),
    ("atime", false, mount::flags::NOATIME),
    ("nodiratime", true, mount::flags::NODIRATIME),
    ("relatime", true, mount::flags::RELATIME),
    ("strictatime", true, mount::flags::STRICTATIME),
    ("bind", true, mount::flags::BIND),
    ("rbind", true, mount::flags::BIND | mount::flags::RECURSIVE),
    ("defaults", true, 0),
];

/// What a volume is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backing {
    /// A directory of the data root.
    Directory,
    /// A file system of this many bytes in a file.
    Sized(u64),
    /// Something that is mounted while the volume is used.
    Mount {
        /// As in `mount -t`; `none` and `bind` with the option `bind`.
        kind: String,
        /// What is mounted.
        device: String,
        /// As in `mount -o`.
        options: String,
    },
}

/// What is wrong with the options of a volume; the sentences are dockerd's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionFault {
    /// There is no such option.
    #[error("invalid option: {0:?}")]
    Unknown(String),
    /// One option needs another.
    #[error("missing required option: {0:?}")]
    Missing(&'static str),
    /// The size is no size.
    #[error("invalid size: '{0}'")]
    Size(String),
    /// The size is too small for a file system.
    #[error("size {0} is less than the least of {VOLUME_BYTES_MIN} bytes")]
    TooSmall(u64),
    /// A size and a mount cannot be had together.
    #[error("size is of a volume without a device; say it in \"o\" for a tmpfs")]
    SizeOfMount,
}

impl Backing {
    /// Reads the options of a volume.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self, OptionFault> {
        let get = |name: &str| options.get(name).map(String::as_str);
        if let Some(unknown) = options
            .keys()
            .find(|name| !["type", "o", "device", "size"].contains(&name.as_str()))
        {
            return Err(OptionFault::Unknown(unknown.clone()));
        }
        let size = get("size").map(parse_size).transpose()?;
        for (name, needed) in [
            ("device", "type"),
            ("type", "device"),
            ("o", "device"),
            ("o", "type"),
        ] {
            if get(name).is_some() && get(needed).is_none() {
                return Err(OptionFault::Missing(needed));
            }
        }
        match (get("type"), get("device"), size) {
            (Some(_), Some(_), Some(1..)) => Err(OptionFault::SizeOfMount),
            (Some(kind), Some(device), _) => Ok(Self::Mount {
                kind: kind.to_owned(),
                device: device.to_owned(),
                options: get("o").unwrap_or_default().to_owned(),
            }),
            (_, _, Some(0) | None) => Ok(Self::Directory),
            (_, _, Some(size)) if size < VOLUME_BYTES_MIN => Err(OptionFault::TooSmall(size)),
            (_, _, Some(size)) => Ok(Self::Sized(size)),
        }
    }

    /// Whether something has to be mounted before it can be used.
    pub fn is_mounted(&self) -> bool {
        *self != Self::Directory
    }

    /// Whether what is written is gone with the last user.
    pub fn is_volatile(&self) -> bool {
        matches!(self, Self::Mount { kind, .. } if kind == "tmpfs" || kind == "ramfs")
    }
}

/// Reads a size in Docker's form: `512m`, `1.5g`, `10MiB`; units of 1024.
fn parse_size(text: &str) -> Result<u64, OptionFault> {
    let invalid = || OptionFault::Size(text.to_owned());
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = lower[digits.len()..].trim();
    let unit = unit
        .strip_suffix("ib")
        .or(unit.strip_suffix('b'))
        .unwrap_or(unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    let number: f64 = digits.parse().map_err(|_| invalid())?;
    if !number.is_finite() || number < 0.0 {
        return Err(invalid());
    }
    // Fractions of bytes are cut off, as in Docker.
    Ok((number * 1024f64.powi(power)) as u64)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Mounts what a volume is made of at `target`, unless it is mounted there already.
pub(super) fn mount(backing: &Backing, image: &Path, target: &Path) -> io::Result<()> {
    if mount::is_mount_point(&c_path(target)?)? {
        return Ok(());
    }
    match backing {
        Backing::Directory => Ok(()),
        Backing::Sized(bytes) => mount_sized(image, *bytes, target),
        Backing::Mount {
            kind,
            device,
            options,
        } => mount_options(kind, device, options, target),
    }
}

/// Whether something is mounted at `target`.
pub(super) fn is_mounted(target: &Path) -> bool {
    c_path(target).is_ok_and(|target| mount::is_mount_point(&target).is_ok_and(|mounted| mounted))
}

/// Takes away what is mounted at `target`; that nothing is, is fine.
pub(super) fn unmount(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    match mount::is_mount_point(&target) {
        Ok(true) => mount::detach(&target),
        Ok(false) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn mount_sized(image: &Path, bytes: u64, target: &Path) -> io::Result<()> {
    if !image.exists() {
        make_image(image, bytes)?;
    }
    let file = File::options().read(true).write(true).open(image)?;
    let (device, _held) = loopdev::attach(file.as_fd(), Access::ReadWrite)?;
    let filesystem = Filesystem::open(c"ext4")?;
    filesystem.set(c"source", &device)?;
    let root = filesystem.mount(Attributes::none())?;
    mount::attach_at(root.as_fd(), &c_path(target)?)?;
    // A new volume is empty; e2fsck makes it again when it needs one.
    // When something was found and put into it, it stays.
    drop(fs::remove_dir(target.join("lost+found")));
    Ok(())
}

/// What a file system in which `bytes` are for files is made of.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    /// Of the file.
    length: u64,
    /// Of the journal; none where that would be too large a part.
    journal: Option<u64>,
    /// One file is expected in so many bytes.
    bytes_per_file: u64,
}

impl Layout {
    /// The tables and the kernel's reserve are as ext4 was measured to have them, from 2 MiB to
    /// 100 GiB: what is then left for files is a few hundredths more than was asked for, or equal.
    fn of(bytes: u64) -> Self {
        let (least, most) = JOURNAL_BYTES;
        let journal = (bytes >= JOURNALED_BYTES_MIN).then(|| (bytes / 64).clamp(least, most));
        let (bytes_per_file, tables) = match bytes < LARGE_BYTES_MIN {
            true => (4 << 10, bytes / 13),
            false => (16 << 10, bytes / 50),
        };
        let reserve = (bytes / 48).min(KERNEL_RESERVE_BYTES_MAX) + (512 << 10);
        let length = bytes + journal.unwrap_or(0) + tables + reserve;
        Self {
            length: length.next_multiple_of(4 << 10),
            journal,
            bytes_per_file,
        }
    }
}

/// Makes a sparse file with an empty file system, so large that `bytes` of files fit into it; it has
/// its name only when it is whole.
fn make_image(image: &Path, bytes: u64) -> io::Result<()> {
    let layout = Layout::of(bytes);
    let unfinished = image.with_extension("new");
    let file = File::create(&unfinished)?;
    file.set_len(layout.length)?;
    let maker = MAKERS.iter().find(|path| Path::new(path).exists());
    let maker = maker.ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::Unsupported,
            "a volume with a size needs mkfs.ext4; install e2fsprogs",
        )
    })?;
    let path = unfinished.to_string_lossy();
    // Blocks as large as those of a loop device with direct I/O.
    let (option, journal) = match layout.journal {
        Some(journal) => ("-J", format!("size={}", journal >> 20)),
        None => ("-O", "^has_journal".to_owned()),
    };
    let ratio = layout.bytes_per_file.to_string();
    let words = [
        "mkfs.ext4",
        "-q",
        "-F",
        "-m",
        "0",
        "-b",
        "4096",
        "-i",
        &ratio,
        option,
        &journal,
        &path,
    ];
    let words = spawn::words(&words)?;
    let args: Vec<_> = words.iter().map(CString::as_c_str).collect();
    let output = spawn::run(&CString::new(*maker)?, &args, &[c"LC_ALL=C"], MAKE_WAIT)?;
    if output.ended != Ended::Code(0) {
        let text = String::from_utf8_lossy(&output.text);
        return Err(io::Error::other(format!("mkfs.ext4: {}", text.trim())));
    }
    file.sync_all()?;
    hull_os::durable::publish(&unfinished, image, hull_os::durable::Durability::Synced)
}

fn mount_options(kind: &str, device: &str, options: &str, target: &Path) -> io::Result<()> {
    let (mut flags, data) = split_options(kind, options)?;
    let kind = if flags & mount::flags::BIND != 0 {
        ""
    } else {
        kind
    };
    let target_path = c_path(target)?;
    let call = |flags| {
        mount::mount_classic(
            &CString::new(device)?,
            &target_path,
            &CString::new(kind)?,
            flags,
            &CString::new(data.as_str())?,
        )
    };
    let failed = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!(
                "failed to mount local volume: mount {device}:{}, data: {data}: {}",
                target.display(),
                words(&error)
            ),
        )
    };
    call(flags).map_err(failed)?;
    let both = mount::flags::BIND | mount::flags::RECURSIVE;
    if flags & mount::flags::BIND != 0 && flags & !both != 0 {
        // The other flags of a bind only take effect in a second call.
        flags |= mount::flags::REMOUNT;
        if let Err(error) = call(flags) {
            unmount(target)?;
            return Err(failed(error));
        }
    }
    Ok(())
}

/// The kernel's word as Go's programs print it, which scripts look for.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

/// Flags, and what is left for the file system.
fn split_options(kind: &str, options: &str) -> io::Result<(u64, String)> {
    let mut flags = 0;
    let mut data = Vec::new();
    for word in options.split(',').filter(|word| !word.is_empty()) {
        match FLAGS.iter().find(|(name, ..)| *name == word) {
            Some((_, true, bits)) => flags |= bits,
            Some((_, false, bits)) => flags &= !bits,
            None => data.push(word.to_owned()),
        }
    }
    if kind == "nfs" || kind == "cifs" {
        // The kernel wants an address where people write a name.
        for word in &mut data {
            if let Some(host) = word.strip_prefix("addr=") {
                // Of several that of IPv4, as Docker does.
                let resolved = (host, 0).to_socket_addrs()?;
                let address = resolved.min_by_key(|address| address.is_ipv6());
                let address = address.ok_or(io::ErrorKind::NotFound)?;
                *word = format!("addr={}", address.ip());
            }
        }
    }
    Ok((flags, data.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &[(&str, &str)], expected: &str) {
        let options = options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let got = match Backing::parse(&options) {
            Ok(backing) => format!("{backing:?}"),
            Err(fault) => fault.to_string(),
        };
        assert_eq!(got, expected);
    }

    #[test]
    fn options_are_checked_as_by_docker() {
        check(&[], "Directory");
        check(&[("size", "1.5g")], "Sized(1610612736)");
        check(&[("size", "64MiB")], "Sized(67108864)");
        check(&[("size", "0")], "Directory");
        check(&[("size", "x")], "invalid size: 'x'");
        check(
            &[("size", "1k")],
            "size 1024 is less than the least of 2097152 bytes",
        );
        check(&[("x", "1")], "invalid option: \"x\"");
        check(&[("type", "tmpfs")], "missing required option: \"device\"");
        check(&[("o", "ro")], "missing required option: \"device\"");
        check(
            &[("device", "/d"), ("o", "bind")],
            "missing required option: \"type\"",
        );
    }

    #[test]
    fn a_server_is_given_to_the_kernel_by_its_address_of_ipv4() {
        for (host, address) in [("localhost", "127.0.0.1"), ("::1", "::1")] {
            let (_, data) = split_options("nfs", &format!("addr={host},nfsvers=4")).unwrap();
            assert_eq!(data, format!("addr={address},nfsvers=4"));
        }
    }

    #[test]
    fn mount_options_are_flags_and_data() {
        let split = |text| split_options("tmpfs", text).expect("valid");
        assert_eq!(
            split("size=1m,ro,nosuid,uid=5"),
            (
                mount::flags::READONLY | mount::flags::NOSUID,
                "size=1m,uid=5".to_owned()
            )
        );
        assert_eq!(split("ro,rw,defaults"), (0, String::new()));
    }
}
