//! Files and directories of a hierarchy, by path below its mount point.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::process::{check, open};

/// Bytes of one file that are read at most: far more than the longest, `cgroup.procs`, has.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// Permission bits of a new cgroup directory.
const DIRECTORY_MODE: libc::mode_t = 0o755;

/// What failed, for the text of an error.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path}")]
struct Failure {
    step: String,
    path: String,
    #[source]
    cause: io::Error,
}

/// Adds the step and the path to an error, whose kind stays.
pub(super) fn explain(step: impl Into<String>, path: &str) -> impl FnOnce(io::Error) -> io::Error {
    let (step, path) = (step.into(), path.to_owned());
    move |cause| io::Error::new(cause.kind(), Failure { step, path, cause })
}

fn c_string(path: &str) -> io::Result<CString> {
    CString::new(path).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Opens a mount point: the only place that knows absolute paths.
pub(super) fn open_mount(path: &Path) -> io::Result<OwnedFd> {
    let text = path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    let here = current_directory();
    open(here, &c_string(text)?, libc::O_PATH | libc::O_DIRECTORY, 0)
        .map_err(explain("open the hierarchy", text))
}

/// `AT_FDCWD`: the paths that it is used with are absolute.
fn current_directory() -> BorrowedFd<'static> {
    // SAFETY: AT_FDCWD is not a descriptor that anybody could close.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
}

pub(super) fn open_directory(at: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    open(
        at.as_fd(),
        &c_string(path)?,
        libc::O_DIRECTORY | libc::O_RDONLY,
        0,
    )
}

pub(super) fn open_read(at: &OwnedFd, path: &str) -> io::Result<File> {
    open(at.as_fd(), &c_string(path)?, libc::O_RDONLY, 0).map(File::from)
}

pub(super) fn read(at: &OwnedFd, path: &str) -> io::Result<String> {
    let mut text = String::new();
    let taken =
        open_read(at, path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    taken.map(|_| text).map_err(explain("read", path))
}

/// Writes a value in one call: the kernel takes each call as one value.
pub(super) fn write(at: &OwnedFd, path: &str, value: &str) -> io::Result<()> {
    open(at.as_fd(), &c_string(path)?, libc::O_WRONLY, 0)
        .map(File::from)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(explain(format!("write {value:?} to"), path))
}

pub(super) fn exists(at: &OwnedFd, path: &str) -> bool {
    let Ok(path) = c_string(path) else {
        return false;
    };
    // SAFETY: the path is NUL-terminated and outlives the call.
    unsafe { libc::faccessat(at.as_raw_fd(), path.as_ptr(), libc::F_OK, 0) == 0 }
}

pub(super) fn make_directory(at: &OwnedFd, path: &str) -> io::Result<()> {
    let path = c_string(path)?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    check(unsafe { libc::mkdirat(at.as_raw_fd(), path.as_ptr(), DIRECTORY_MODE) }.into()).map(drop)
}

fn remove_directory(at: &OwnedFd, path: &str) -> io::Result<()> {
    let path = c_string(path)?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    check(unsafe { libc::unlinkat(at.as_raw_fd(), path.as_ptr(), libc::AT_REMOVEDIR) }.into())
        .map(drop)
}

/// Removes a cgroup with those below it, waiting for dying processes until the deadline. One that
/// is not there is removed already.
pub(super) fn remove_tree(at: &OwnedFd, path: &str, deadline: Instant) -> io::Result<()> {
    loop {
        let error = match remove_directory(at, path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        let may_pass = matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY));
        if !may_pass || Instant::now() >= deadline {
            return Err(explain("remove the cgroup", path)(error));
        }
        let below = children(at, path)?;
        for child in &below {
            remove_tree(at, &format!("{path}/{child}"), deadline)?;
        }
        if below.is_empty() {
            std::thread::sleep(PAUSE);
        }
    }
}

/// Time between two looks at something that sends no event.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// Names of the cgroups directly below one; none when it does not exist.
pub(super) fn children(at: &OwnedFd, path: &str) -> io::Result<Vec<String>> {
    if !may_have_children(at, path) {
        return Ok(Vec::new());
    }
    let directory = match open_directory(at, if path.is_empty() { "." } else { path }) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(explain("list", path))?,
    };
    // The standard library lists by path only; this one stays valid as long as the descriptor.
    let listing = std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))
        .map_err(explain("list", path))?;
    let is_directory =
        |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let name = |entry: std::fs::DirEntry| entry.file_name().into_string().ok();
    Ok(listing
        .filter_map(Result::ok)
        .filter(is_directory)
        .filter_map(name)
        .collect())
}

/// Each directory below counts as a link, so that most listings can be spared.
fn may_have_children(at: &OwnedFd, path: &str) -> bool {
    let Ok(path) = c_string(path) else {
        return false;
    };
    // SAFETY: all zero is a valid value of this plain structure.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated, and both outlive the call.
    let result = unsafe {
        libc::fstatat(
            at.as_raw_fd(),
            path.as_ptr(),
            &raw mut status,
            libc::AT_EMPTY_PATH,
        )
    };
    result != 0 || status.st_nlink > 2
}

/// Waits until the kernel says that a file changed, but no longer than this.
pub(super) fn wait_change(file: &File, time: Duration) -> io::Result<()> {
    let mut entry = libc::pollfd {
        fd: file.as_raw_fd(),
        events: libc::POLLPRI,
        revents: 0,
    };
    let timeout = libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    // SAFETY: one entry and one time, which live here; no signal mask.
    let result = unsafe { libc::ppoll(&raw mut entry, 1, &raw const timeout, std::ptr::null()) };
    match check(result.into()) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// The number behind a word in a file of `word number` lines.
pub(super) fn number_of(text: &str, word: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(word)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}
