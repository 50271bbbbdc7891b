//! Capabilities and the system-call filter of this single-threaded process.

use std::io;

/// Version 3 of the kernel's structure: two words of 32 bits for each set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Numbers that a set of 64 bits can hold.
const CAPABILITIES: u32 = 64;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Drops from the bounding set what is not in `keep`.
pub(crate) fn drop_bounding(keep: u64) -> io::Result<()> {
    for capability in (0..CAPABILITIES).filter(|c| keep & (1 << c) == 0) {
        // SAFETY: integers only.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability) }.into()) {
            // The first number that this kernel does not have.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

/// Sets effective, permitted and inheritable capabilities.
pub(crate) fn set(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let header = Header {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let word = |shift: u32| Word {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let words = [word(0), word(32)];
    // SAFETY: both structures have the layout of the kernel's and are valid for reads.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) })
}

/// Raises ambient capabilities, which must be permitted and inheritable.
pub(crate) fn raise_ambient(capabilities: u64) -> io::Result<()> {
    for capability in (0..CAPABILITIES).filter(|c| capabilities & (1 << c) != 0) {
        let raise = libc::PR_CAP_AMBIENT_RAISE;
        // SAFETY: integers only.
        check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, capability, 0, 0) }.into())?;
    }
    Ok(())
}

/// Installs a system-call filter, an array of `sock_filter`.
pub(crate) fn install_filter(filter: &[u8]) -> io::Result<()> {
    let length = filter.len() / size_of::<libc::sock_filter>();
    let length = u16::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    // The kernel copies the array and does not mind its alignment.
    let program = libc::sock_fprog {
        len: length,
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the program is valid for reads of its length for the time of the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    })
}
