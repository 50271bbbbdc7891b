//! Hearing of changes of files.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A queue of changes; readable when something changed.
#[derive(Debug)]
pub struct Inotify(OwnedFd);

impl Inotify {
    /// Watches a directory for files in it that are written, made or renamed.
    ///
    /// # Errors
    /// When the directory is not there, or the user's limit of watches is reached.
    pub fn watch_directory(path: &Path) -> io::Result<Self> {
        // SAFETY: no pointers; the result is checked.
        let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor and nobody else holds it.
        let queue = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mask = libc::IN_MODIFY | libc::IN_CREATE | libc::IN_MOVED_TO | libc::IN_DELETE_SELF;
        // SAFETY: `path` ends in NUL and lives over the call.
        let watch = unsafe { libc::inotify_add_watch(queue.as_raw_fd(), path.as_ptr(), mask) };
        if watch < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(queue))
    }

    /// Takes all queued changes away.
    pub fn drain(&self) {
        let mut buffer = [0u8; 4096];
        loop {
            // SAFETY: the kernel writes at most the length that it is given.
            let n =
                unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
            if n <= 0 {
                return;
            }
        }
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Inotify {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}
