//! Taps: links of the host whose frames go through a descriptor instead of a wire.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::process;

/// Longest name of a link, with its NUL.
const NAME_BYTES: usize = libc::IFNAMSIZ;

/// What the kernel takes: a name, flags, and room that it does not look at.
#[repr(C)]
struct Request {
    name: [u8; NAME_BYTES],
    flags: libc::c_short,
    rest: [u8; 22],
}

/// Makes a tap of this name in the network namespace of the caller. It goes with its descriptor.
///
/// # Errors
/// What the kernel says; `EBUSY` when a tap of this name is open elsewhere.
pub fn open(name: &str) -> io::Result<OwnedFd> {
    let fd = process::open(crate::mount::cwd(), c"/dev/net/tun", libc::O_RDWR, 0)?;
    process::set_nonblocking(std::os::fd::AsFd::as_fd(&fd))?;
    let mut request = Request {
        name: [0; NAME_BYTES],
        flags: (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short,
        rest: [0; 22],
    };
    if name.is_empty() || name.len() >= NAME_BYTES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the request has the size and form of an ifreq, and outlives the call.
    match unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } {
        0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}
