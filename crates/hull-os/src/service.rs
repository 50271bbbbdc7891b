//! What a service gets from its manager: sockets that it bound, and how many files it may open.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// First descriptor that systemd passes.
const FIRST_PASSED: RawFd = 3;
/// Sockets that one unit may pass; more is taken for a mistake.
const PASSED_MAX: i32 = 64;

/// Takes the sockets that systemd bound for this process (`sd_listen_fds(3)`). Works once: the
/// descriptors belong to the caller from then on.
///
/// # Errors
/// When the environment of the process is not of the documented form.
pub fn activated() -> io::Result<Vec<OwnedFd>> {
    let variable = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<i32>().ok())
    };
    let ours = variable("LISTEN_PID").is_some_and(|pid| pid.unsigned_abs() == std::process::id());
    let count = variable("LISTEN_FDS").unwrap_or(0);
    if !ours || count <= 0 {
        return Ok(Vec::new());
    }
    if count > PASSED_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("LISTEN_FDS is {count}"),
        ));
    }
    (FIRST_PASSED..FIRST_PASSED + count)
        .map(|fd| {
            // SAFETY: integers only; a descriptor that is not there is an error.
            let done = unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
            if done < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: the manager gave us this descriptor, it exists, and nobody else takes it.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })
        .collect()
}

/// Raises the soft limit of open files to the hard one: a daemon has several for each container.
///
/// # Errors
/// What the kernel says.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one `rlimit` at the address.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads one `rlimit` at the address.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
