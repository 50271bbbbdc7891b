//! Names in an open directory: what `std` has no word for.
//!
//! [`path`] turns a descriptor and a name into a path that no rename can lead elsewhere: the first
//! part is the open directory itself. With it, those functions of `std::fs` that do not follow the
//! last name (`symlink_metadata`, `read_link`, `remove_file`, `create_dir`, `lchown` …) work
//! relative to a descriptor; those that do follow it must not be used, since a link could lead to
//! any file of the host. Here is the rest: opening, modes, nodes, times, extended attributes.

use std::ffi::{CString, OsStr};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::process::{self, check};

/// Bytes of all names of the attributes of one file, as in Linux.
const XATTR_NAMES_BYTES_MAX: usize = 65_536;
/// Bytes of one value, as in Linux.
const XATTR_VALUE_BYTES_MAX: usize = 65_536;

/// A moment: seconds since 1970, and nanoseconds.
pub type Moment = (i64, u32);

/// The path of an open directory, whatever it is called now.
pub fn open_path(dir: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

/// The path of a name in an open directory. The name must be a single one.
pub fn path(dir: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    debug_assert!(!name.as_bytes().contains(&b'/'), "one name");
    open_path(dir).join(name)
}

/// Opens a directory in a directory for reading; a symbolic link is refused.
///
/// # Errors
/// What the kernel says.
pub fn open_dir(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    process::open(dir, &CString::new(name.as_bytes())?, flags, 0)
}

/// Opens a regular file in a directory for reading; anything else is refused, and never waited for.
///
/// # Errors
/// `InvalidInput` when it is no regular file, or what the kernel says.
pub fn open_file(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::from(process::open(
        dir,
        &CString::new(name.as_bytes())?,
        flags,
        0,
    )?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Sets the permissions of what is no symbolic link.
///
/// # Errors
/// What the kernel says.
pub fn set_mode(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> io::Result<()> {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    let held = process::open(dir, &CString::new(name.as_bytes())?, flags, 0)?;
    if std::fs::symlink_metadata(path(dir, name))?.is_symlink() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Follows the descriptor, which is on the thing itself.
    std::fs::set_permissions(open_path(held.as_fd()), Permissions::from_mode(mode))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Makes a pipe or a device; `mode` has its type and permissions.
///
/// # Errors
/// What the kernel says.
pub fn make_node(path: &Path, mode: u32, major: u32, minor: u32) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    check(unsafe { libc::mknod(path.as_ptr(), mode, libc::makedev(major, minor)) }.into()).map(drop)
}

/// Sets access and change time; a symbolic link is not followed.
///
/// # Errors
/// What the kernel says.
pub fn set_times(path: &Path, accessed: Moment, modified: Moment) -> io::Result<()> {
    let path = c_path(path)?;
    let time = |(seconds, nanos): Moment| libc::timespec {
        tv_sec: seconds,
        tv_nsec: nanos.into(),
    };
    let times = [time(accessed), time(modified)];
    // SAFETY: the path is NUL-terminated, there are two times.
    let result = unsafe {
        libc::utimensat(
            libc::AT_FDCWD,
            path.as_ptr(),
            times.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    check(result.into()).map(drop)
}

/// Extended attributes with their values; a symbolic link is not followed. None where the file
/// system has none.
///
/// # Errors
/// What the kernel says.
pub fn xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = c_path(path)?;
    // Nearly all files have none: the length is asked for first.
    // SAFETY: a buffer of no bytes is not written to.
    let length = unsafe { libc::llistxattr(path.as_ptr(), std::ptr::null_mut(), 0) };
    match usize::try_from(length) {
        Ok(0) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(_) => {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
                _ => Err(error),
            };
        }
    }
    let mut names = vec![0u8; XATTR_NAMES_BYTES_MAX];
    // SAFETY: the buffer is valid for writes of its length.
    let length = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(length).map_err(|_| io::Error::last_os_error())?);
    let mut found = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|n| !n.is_empty()) {
        let c_name = CString::new(name)?;
        let mut value = vec![0u8; XATTR_VALUE_BYTES_MAX];
        // SAFETY: both strings are NUL-terminated, the buffer is valid for writes of its length.
        let length = unsafe {
            libc::lgetxattr(
                path.as_ptr(),
                c_name.as_ptr(),
                value.as_mut_ptr().cast(),
                value.len(),
            )
        };
        // One that went away or may not be read is none.
        if let Ok(length) = usize::try_from(length) {
            value.truncate(length);
            value.shrink_to_fit();
            found.push((name.to_vec(), value));
        }
    }
    Ok(found)
}

/// Sets an extended attribute; a symbolic link is not followed.
///
/// # Errors
/// What the kernel says.
pub fn set_xattr(path: &Path, name: &[u8], value: &[u8]) -> io::Result<()> {
    let (path, name) = (c_path(path)?, CString::new(name)?);
    // SAFETY: both strings are NUL-terminated, the value is valid for reads of its length.
    let result = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    check(result.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_name_stays_in_the_directory_that_was_opened() {
        let base = std::env::temp_dir().join(format!("hull-entry-{}", std::process::id()));
        fs::create_dir_all(base.join("a")).unwrap();
        let dir = fs::File::open(base.join("a")).unwrap();
        crate::durable::publish(
            &base.join("a"),
            &base.join("b"),
            crate::durable::Durability::Lost,
        )
        .unwrap();
        std::os::unix::fs::symlink("/etc/passwd", base.join("b/link")).unwrap();
        let link = path(dir.as_fd(), OsStr::new("link"));
        set_times(&link, (1, 0), (7, 9)).unwrap();
        let facts = fs::symlink_metadata(&link).unwrap();
        assert_eq!((facts.mtime(), facts.mtime_nsec()), (7, 9));
        let file = path(dir.as_fd(), OsStr::new("file"));
        fs::write(&file, "x").unwrap();
        set_xattr(&file, b"user.a", b"1\x002").unwrap();
        let wanted = vec![(b"user.a".to_vec(), b"1\x002".to_vec())];
        assert_eq!(xattrs(&file).unwrap(), wanted);
        assert!(base.join("b/file").exists());
        fs::remove_dir_all(base).unwrap();
    }
}
