//! The small static program beside each sandbox.
//!
//! ```text
//! daemon ──plan, sockets──▶ shim ──clone──▶ container
//!    ▲                        │ ▲               │
//!    └───────events───────────┘ └──stdio, end───┘
//! ```
//!
//! One thread and one poll loop. It makes the container, is its parent, owns its standard streams
//! and its log, starts added processes and leaves exit records, with or without a daemon. It
//! decides nothing: what to do is in the plan. Its memory is paid per container, so it keeps
//! nothing it no longer needs. Started under other names it is process 1 of a container ([`init`]) or of a
//! guest ([`agent`]), makes a view of a container's files ([`worker`]), serves those of a guest
//! ([`files`]) or tries a guest ([`probe`]).

mod agent;
mod cgroup;
mod container;
mod exec;
mod files;
mod fuse;
mod init;
mod inside;
mod log;
mod machine;
mod probe;
mod record;
mod relay;
mod remap;
mod resolver;
mod root;
mod serve;
mod share;
mod stdio;
mod worker;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use hull_os::process;

/// Descriptors that every shim is given, in this order from 3 on; more are named in the plan.
mod given {
    pub(crate) const PLAN: i32 = 3;
    pub(crate) const LISTENER: i32 = 4;
    pub(crate) const DAEMON: i32 = 5;
    pub(crate) const RUN_DIR: i32 = 6;
}

/// Exit code for a start without the descriptors of a shim.
const EXIT_USAGE: i32 = 2;

fn main() {
    let args: Vec<CString> = std::env::args_os()
        .filter_map(|arg| CString::new(arg.into_vec()).ok())
        .collect();
    let code = match args.first().map(CString::as_c_str) {
        Some(name) if name == hull_plan::interpret::INIT_NAME => init::run(&args),
        Some(name) if name == c"hull-shim" => code(&container::run()),
        Some(name) if name == c"hull-worker" => code(&worker::run()),
        Some(name) if name == c"hull-files" => code(&files::run()),
        // The kernel of a guest starts it so.
        Some(name) if name == c"/init" && std::process::id() == 1 => code(&agent::run()),
        Some(name) if name == c"hull-kvm-probe" => probe::run(),
        Some(name) if name == c"hull-users-probe" => remap::probe(),
        _ => EXIT_USAGE,
    };
    process::exit_now(code);
}

fn code(result: &io::Result<()>) -> i32 {
    i32::from(result.is_err())
}

/// Takes a descriptor that this process was started with.
fn take(fd: i32) -> io::Result<OwnedFd> {
    if std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is open, was given to us at the start, and each number is taken once.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    process::set_close_on_exec(std::os::fd::AsFd::as_fd(&fd), true)?;
    Ok(fd)
}

/// A path of text and a number without the formatting machinery's allocations being long-lived.
fn c_string(text: String) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::from)
}

/// The text of a C string for a message.
fn shown(text: &CStr) -> std::borrow::Cow<'_, str> {
    text.to_string_lossy()
}
