//! The small files that a shim leaves in its run directory, each written whole or not at all.
//!
//! They are lines of `name value`; the daemon's side is `hull_sandbox::record`.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, BorrowedFd};

use hull_os::process;
use hull_plan::message::Exit;

/// First line of every record.
const VERSION_LINE: &str = "hull-record 1\n";

/// Writes how a process ended: `exit` for the first one, `e.<id>` for an exec.
pub(crate) fn write_exit(dir: BorrowedFd<'_>, name: &str, exit: &Exit) -> io::Result<()> {
    let text = format!(
        "{VERSION_LINE}code {}\noom_killed {}\nat_ns {}\n",
        exit.code,
        u8::from(exit.oom_killed),
        exit.at_ns
    );
    write(dir, name, &text)
}

/// Writes which processes belong to the sandbox, with their start times.
pub(crate) fn write_status(dir: BorrowedFd<'_>, init: u32, started_at_ns: i64) -> io::Result<()> {
    let shim = std::process::id();
    let text = format!(
        "{VERSION_LINE}boot {}\nshim {shim} {}\ninit {init} {}\nat_ns {started_at_ns}\n",
        process::boot_id()?,
        process::start_time(shim)?,
        process::start_time(init).unwrap_or(0),
    );
    write(dir, "status", &text)
}

/// Name of an exec's exit record.
pub(crate) fn exec_name(id: &[u8; 32]) -> String {
    let mut name = String::from("e.");
    for byte in id {
        for digit in [byte >> 4, byte & 15] {
            name.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
        }
    }
    name
}

fn write(dir: BorrowedFd<'_>, name: &str, text: &str) -> io::Result<()> {
    let temporary = crate::c_string(format!(".{name}"))?;
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
    let fd = process::open(dir, &temporary, flags, 0o600)?;
    std::fs::File::from(fd).write_all(text.as_bytes())?;
    let name = crate::c_string(name.to_owned())?;
    let dir = dir.as_raw_fd();
    // The run directory is in memory and gone after a reboot, so nothing is synced.
    // SAFETY: both names are NUL-terminated and outlive the call.
    match unsafe { libc::renameat(dir, temporary.as_ptr(), dir, name.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
