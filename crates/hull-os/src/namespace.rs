//! Namespaces by descriptor. The daemon never calls [`join`] or [`unshare`]; a shim does.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::mount;
use crate::process::{self, check};

/// A set of namespace kinds, as bits of `CLONE_NEW*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kinds(u64);

impl Kinds {
    /// Mounts.
    pub const MOUNT: Kinds = Kinds(0x0002_0000);
    /// The view of cgroups.
    pub const CGROUP: Kinds = Kinds(0x0200_0000);
    /// Host name.
    pub const UTS: Kinds = Kinds(0x0400_0000);
    /// System V IPC and POSIX message queues.
    pub const IPC: Kinds = Kinds(0x0800_0000);
    /// User and group ids, capabilities.
    pub const USER: Kinds = Kinds(0x1000_0000);
    /// Process ids.
    pub const PID: Kinds = Kinds(0x2000_0000);
    /// Links, addresses, ports.
    pub const NETWORK: Kinds = Kinds(0x4000_0000);

    /// No kind.
    pub const fn none() -> Kinds {
        Kinds(0)
    }

    /// Both sets.
    pub const fn with(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    /// This set without the other.
    pub const fn without(self, other: Kinds) -> Kinds {
        Kinds(self.0 & !other.0)
    }

    /// Whether all kinds of the other are in it.
    pub const fn contains(self, other: Kinds) -> bool {
        self.0 & other.0 == other.0
    }

    /// The kernel's bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Takes the kernel's bits, without those that are not namespaces.
    pub const fn from_bits(bits: u64) -> Kinds {
        Kinds(bits & 0x7e02_0000)
    }

    const fn flags(self) -> libc::c_int {
        // All namespace bits are below the sign bit, so the cast keeps the value.
        self.0 as libc::c_int
    }
}

/// Enters namespaces: with the descriptor of a namespace that one, with a pidfd all those of
/// `kinds` of that process at once.
///
/// # Errors
/// What the kernel says; with a pidfd nothing has changed then.
pub fn join(fd: BorrowedFd<'_>, kinds: Kinds) -> io::Result<()> {
    // SAFETY: two integers.
    check(unsafe { libc::setns(fd.as_raw_fd(), kinds.flags()) }.into()).map(drop)
}

/// Leaves namespaces for new ones.
///
/// # Errors
/// What the kernel says.
pub fn unshare(kinds: Kinds) -> io::Result<()> {
    // SAFETY: one integer.
    check(unsafe { libc::unshare(kinds.flags()) }.into()).map(drop)
}

/// Goes to the root of our own mount namespace, out of a chroot. Whoever enters the namespace later
/// begins there, so that is what has to become the root of a container.
///
/// # Errors
/// What the kernel says.
pub fn leave_chroot() -> io::Result<()> {
    join(open_own("mnt")?.as_fd(), Kinds::MOUNT)
}

/// Does something in another mount namespace and comes back to our own, to the same root and working
/// directory. For a process with one thread; where it cannot come back it has to end.
///
/// # Errors
/// What the kernel says, or the work.
pub fn in_mounts<T>(mounts: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = open_own("mnt")?;
    let (root, cwd) = (mount::open_directory(c"/")?, mount::open_directory(c".")?);
    join(mounts, Kinds::MOUNT)?;
    let result = work();
    join(own.as_fd(), Kinds::MOUNT)?;
    mount::chroot(root.as_fd())?;
    mount::fchdir(cwd.as_fd())?;
    result
}

/// Opens a namespace of a process by its name in `/proc/<pid>/ns` (`mnt`, `net`).
///
/// # Errors
/// What the kernel says.
pub fn open(pid: u32, name: &str) -> io::Result<OwnedFd> {
    open_path(&format!("/proc/{pid}/ns/{name}"))
}

/// Opens one of our own namespaces.
///
/// # Errors
/// What the kernel says.
pub fn open_own(name: &str) -> io::Result<OwnedFd> {
    open_path(&format!("/proc/self/ns/{name}"))
}

fn open_path(path: &str) -> io::Result<OwnedFd> {
    let path = CString::new(path)?;
    process::open(crate::mount::cwd(), &path, libc::O_RDONLY, 0)
}
