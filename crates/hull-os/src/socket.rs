//! Local sockets that keep messages apart and carry descriptors.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::process::{check, own};

/// Descriptors that one message may carry: the kernel's own bound.
pub const DESCRIPTORS_MAX: usize = 253;
const CONTROL_BYTES: usize = 1040;
/// Bytes of the path in an address, with the NUL behind it.
const UNIX_PATH_BYTES: usize = 108;

/// Buffer of ancillary data, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// A connected pair that keeps messages apart, close-on-exec.
///
/// # Errors
/// What the kernel says.
pub fn message_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(libc::SOCK_SEQPACKET)
}

/// A connected pair of byte streams, close-on-exec.
///
/// # Errors
/// What the kernel says.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    pair(libc::SOCK_STREAM)
}

fn pair(kind: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    let kind = kind | libc::SOCK_CLOEXEC;
    // SAFETY: the array is valid for writes.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }.into())?;
    Ok((own(fds[0].into())?, own(fds[1].into())?))
}

/// Listens on `name` in a directory, however long the directory's path is.
///
/// # Errors
/// `AddrInUse` when the name is taken.
pub fn listen(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let socket = message_socket(0)?;
    let (address, length) = address(dir, name)?;
    // SAFETY: the structure is valid for reads of the length.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) }.into())?;
    listen_again(socket.as_fd())?;
    Ok(socket)
}

/// Makes this process the one that [`peer_pid`] of a connection names, for a listener that was
/// made by another.
///
/// # Errors
/// What the kernel says.
pub fn listen_again(listener: BorrowedFd<'_>) -> io::Result<()> {
    /// Connections that may wait to be accepted.
    const BACKLOG: i32 = 8;
    // SAFETY: integers only.
    check(unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) }.into()).map(drop)
}

/// Connects to `name` in a directory.
///
/// # Errors
/// `ConnectionRefused` when nobody listens any more, `WouldBlock` when too many wait.
pub fn connect(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let socket = message_socket(libc::SOCK_NONBLOCK)?;
    let (address, length) = address(dir, name)?;
    let (fd, pointer) = (socket.as_raw_fd(), (&raw const address).cast());
    // SAFETY: the structure is valid for reads of the length.
    check(unsafe { libc::connect(fd, pointer, length) }.into())?;
    Ok(socket)
}

/// Where a socket can be reached, in the kernel's own form: `sockaddr_un`, `sockaddr_in`, ….
///
/// # Errors
/// `InvalidFilename` when the path has more than 107 bytes, which is all that an address holds.
pub fn unix_address(path: &std::path::Path) -> io::Result<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let path = path.as_os_str().as_bytes();
    if path.is_empty() || path.len() >= UNIX_PATH_BYTES || path.contains(&0) {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    let family = libc::AF_UNIX as libc::sa_family_t;
    let mut address = family.to_ne_bytes().to_vec();
    address.extend_from_slice(path);
    address.push(0);
    Ok(address)
}

/// The kernel's form of an internet address.
pub fn internet_address(address: &std::net::SocketAddr) -> Vec<u8> {
    let family = match address {
        std::net::SocketAddr::V4(_) => libc::AF_INET,
        std::net::SocketAddr::V6(_) => libc::AF_INET6,
    };
    let mut bytes = (family as libc::sa_family_t).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&address.port().to_be_bytes());
    match address {
        std::net::SocketAddr::V4(address) => {
            bytes.extend_from_slice(&address.ip().octets());
            bytes.extend_from_slice(&[0; 8]);
        }
        std::net::SocketAddr::V6(address) => {
            bytes.extend_from_slice(&address.flowinfo().to_be_bytes());
            bytes.extend_from_slice(&address.ip().octets());
            bytes.extend_from_slice(&address.scope_id().to_ne_bytes());
        }
    }
    bytes
}

/// Whether an address in the kernel's form is one of this host only.
pub fn is_unix_address(address: &[u8]) -> bool {
    address.first_chunk() == Some(&(libc::AF_UNIX as libc::sa_family_t).to_ne_bytes())
}

/// Connects to an address in the kernel's form and returns a nonblocking socket: one that keeps
/// messages apart (`SOCK_DGRAM`), or a stream. A stream's connection may take until `patience`.
///
/// # Errors
/// `ConnectionRefused` when nobody is there, `WouldBlock` when the time is over.
pub fn connect_to(address: &[u8], datagrams: bool, patience: Duration) -> io::Result<OwnedFd> {
    let family = address.first_chunk().ok_or(io::ErrorKind::InvalidInput)?;
    let family = i32::from(libc::sa_family_t::from_ne_bytes(*family));
    let kind = if datagrams {
        libc::SOCK_DGRAM
    } else {
        libc::SOCK_STREAM
    };
    // SAFETY: integers only.
    let socket = own(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) }.into())?;
    let limit = libc::timeval {
        tv_sec: libc::time_t::try_from(patience.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: patience.subsec_micros().into(),
    };
    set_option(socket.as_fd(), libc::SO_SNDTIMEO, &limit)?;
    let length = libc::socklen_t::try_from(address.len()).map_err(io::Error::other)?;
    let (fd, pointer) = (socket.as_raw_fd(), address.as_ptr().cast());
    // SAFETY: the address is valid for reads of its length; the kernel copies it, so that its
    // alignment does not matter.
    check(unsafe { libc::connect(fd, pointer, length) }.into())?;
    crate::process::set_nonblocking(socket.as_fd())?;
    Ok(socket)
}

/// Accepts a connection, nonblocking.
///
/// # Errors
/// `WouldBlock` when nobody waits and the listener is nonblocking.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let none = std::ptr::null_mut();
    // SAFETY: null pointers mean that the peer's address is not wanted.
    own(unsafe { libc::accept4(listener.as_raw_fd(), none, std::ptr::null_mut(), flags) }.into())
}

fn message_socket(flags: i32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | flags;
    // SAFETY: integers only.
    own(unsafe { libc::socket(libc::AF_UNIX, kind, 0) }.into())
}

/// An address holds 108 bytes; through `/proc/self/fd` the directory's own path does not count.
fn address(dir: BorrowedFd<'_>, name: &str) -> io::Result<(libc::sockaddr_un, libc::socklen_t)> {
    let path = CString::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))?;
    // SAFETY: all-zero is a valid value of this structure of integers.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_bytes_with_nul();
    if bytes.len() > address.sun_path.len() {
        return Err(io::ErrorKind::InvalidFilename.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from.cast_signed() as libc::c_char;
    }
    Ok((address, size_of::<libc::sockaddr_un>() as libc::socklen_t))
}

/// Sends one message with descriptors. Never raises SIGPIPE.
///
/// # Errors
/// `WouldBlock` when a nonblocking socket is full, `BrokenPipe` when the peer is gone.
pub fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all-zero is a valid value of this structure.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        if descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let length = size_of_val(descriptors) as libc::c_uint;
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: only computes.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
        // SAFETY: the control buffer has room for the header and DESCRIPTORS_MAX descriptors, and
        // is aligned for the header.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(length) as _;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (index, descriptor) in descriptors.iter().enumerate() {
                data.add(index).write_unaligned(descriptor.as_raw_fd());
            }
        }
    }
    // SAFETY: all pointers in the header are valid for the call.
    let result =
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Takes one message and the descriptors in it. 0 bytes: the peer has closed.
///
/// # Errors
/// `WouldBlock` when there is none now; `InvalidData` when the message did not fit, whose
/// descriptors are closed then.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all-zero is a valid value of this structure.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: all pointers in the header are valid for the call.
    let result =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    let descriptors = take_descriptors(&message);
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((length, descriptors))
}

fn take_descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut descriptors = Vec::new();
    // SAFETY: the kernel wrote `msg_controllen` bytes of well-formed headers, whose data are
    // descriptors that are ours from now on.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                let offset = data
                    .cast::<u8>()
                    .offset_from(header.cast::<u8>())
                    .unsigned_abs();
                let count = ((*header).cmsg_len as usize - offset) / size_of::<RawFd>();
                for index in 0..count {
                    descriptors.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    descriptors
}

/// Makes room for so many bytes of unread data, beyond the host's bound where we may.
///
/// # Errors
/// What the kernel says.
pub fn set_send_buffer(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    set_option(socket, libc::SO_SNDBUFFORCE, &value)
        .or_else(|_| set_option(socket, libc::SO_SNDBUF, &value))
}

fn set_option<T>(socket: BorrowedFd<'_>, option: i32, value: &T) -> io::Result<()> {
    let (pointer, size) = ((&raw const *value).cast(), size_of::<T>());
    // SAFETY: the value is valid for reads of its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            pointer,
            size as libc::socklen_t,
        )
    };
    check(result.into()).map(drop)
}

/// The process at the other end: of a pair, who made it; of a connection, who listens.
///
/// # Errors
/// What the kernel says.
pub fn peer_pid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut peer = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: both pointers are valid for writes of the given size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    check(result.into())?;
    Ok(peer.pid.unsigned_abs())
}

/// How much of what was written to a unix stream its other end has not read yet; only whether it is
/// 0 is exact, the kernel counts its own overhead with it.
///
/// # Errors
/// What the kernel says.
pub fn unread_by_peer(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the pointer is valid for a write of an integer.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    check(result.into())?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Tells the peer that nothing more is sent.
pub fn close_writing(socket: BorrowedFd<'_>) {
    // SAFETY: integers only. A failure means that the peer has gone already.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_peer_has_not_read_is_known() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(unread_by_peer(ours.as_fd()).unwrap(), 0);
        io::Write::write_all(&mut &ours, b"head").unwrap();
        assert!(unread_by_peer(ours.as_fd()).unwrap() > 0);
        io::Read::read_exact(&mut &theirs, &mut [0; 4]).unwrap();
        assert_eq!(unread_by_peer(ours.as_fd()).unwrap(), 0);
    }

    #[test]
    fn a_message_carries_its_descriptors() {
        let (a, b) = message_pair().unwrap();
        let (reader, writer) = crate::process::pipe().unwrap();
        send(a.as_fd(), b"hello", &[writer.as_fd(), reader.as_fd()]).unwrap();
        drop(writer);
        let mut buffer = [0u8; 16];
        let (length, mut fds) = receive(b.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..length], fds.len()), (&b"hello"[..], 2));
        crate::process::write(fds.remove(0).as_fd(), b"x").unwrap();
        assert_eq!(
            crate::process::read(reader.as_fd(), &mut buffer).unwrap(),
            1
        );
    }

    #[test]
    fn a_message_that_does_not_fit_is_refused() {
        let (a, b) = message_pair().unwrap();
        send(a.as_fd(), b"too long", &[a.as_fd()]).unwrap();
        let error = receive(b.as_fd(), &mut [0u8; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_directory_with_a_long_path_can_hold_a_socket() {
        let base = std::env::temp_dir().join(format!("hull-socket-{}", std::process::id()));
        let long = base.join("d".repeat(200));
        std::fs::create_dir_all(&long).unwrap();
        let dir = std::fs::File::open(&long).unwrap();
        let listener = listen(dir.as_fd(), "s").unwrap();
        let client = connect(dir.as_fd(), "s").unwrap();
        let server = accept(listener.as_fd()).unwrap();
        send(client.as_fd(), b"x", &[]).unwrap();
        assert_eq!(receive(server.as_fd(), &mut [0u8; 4]).unwrap().0, 1);
        std::fs::remove_dir_all(base).unwrap();
    }
}
