//! Mounts by descriptor: made detached, checked, then attached where a resolved descriptor says.
//!
//! ```text
//! Filesystem::open ─ set ─ mount ─┐
//! clone_tree ─────────────────────┴─▶ descriptor ─ set_attributes ─ attach ─▶ in the tree
//! ```
//!
//! Nothing here walks a path that somebody else may change between check and use: targets are
//! resolved once by [`open_in_root`] and used as descriptors.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::process::check;

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_SET_FD: u32 = 5;
const FSCONFIG_CMD_CREATE: u32 = 6;

/// Flags of one mount, as bits of `MOUNT_ATTR_*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    /// Cannot be written.
    pub const READONLY: Attributes = Attributes(libc::MOUNT_ATTR_RDONLY);
    /// Set-user-id bits have no effect.
    pub const NOSUID: Attributes = Attributes(libc::MOUNT_ATTR_NOSUID);
    /// Device nodes have no effect.
    pub const NODEV: Attributes = Attributes(libc::MOUNT_ATTR_NODEV);
    /// Nothing can be executed.
    pub const NOEXEC: Attributes = Attributes(libc::MOUNT_ATTR_NOEXEC);
    /// Access times are not kept.
    pub const NOATIME: Attributes = Attributes(libc::MOUNT_ATTR_NOATIME);
    const ALL: u64 = libc::MOUNT_ATTR_RDONLY
        | libc::MOUNT_ATTR_NOSUID
        | libc::MOUNT_ATTR_NODEV
        | libc::MOUNT_ATTR_NOEXEC
        | libc::MOUNT_ATTR_NOATIME;

    /// No flag.
    pub const fn none() -> Attributes {
        Attributes(0)
    }

    /// Both sets of flags.
    pub const fn with(self, other: Attributes) -> Attributes {
        Attributes(self.0 | other.0)
    }

    /// The kernel's bits, for a plan.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Takes the kernel's bits, without those that are not named here.
    pub const fn from_bits(bits: u64) -> Attributes {
        Attributes(bits & Attributes::ALL)
    }
}

/// Flags of [`mount_classic`].
pub mod flags {
    /// Cannot be written.
    pub const READONLY: libc::c_ulong = libc::MS_RDONLY;
    /// Set-user-id bits have no effect.
    pub const NOSUID: libc::c_ulong = libc::MS_NOSUID;
    /// Device nodes have no effect.
    pub const NODEV: libc::c_ulong = libc::MS_NODEV;
    /// Nothing can be executed.
    pub const NOEXEC: libc::c_ulong = libc::MS_NOEXEC;
    /// Each write waits for the disk.
    pub const SYNCHRONOUS: libc::c_ulong = libc::MS_SYNCHRONOUS;
    /// Access times are not kept.
    pub const NOATIME: libc::c_ulong = libc::MS_NOATIME;
    /// Access times of directories are not kept.
    pub const NODIRATIME: libc::c_ulong = libc::MS_NODIRATIME;
    /// Access times are kept seldom.
    pub const RELATIME: libc::c_ulong = libc::MS_RELATIME;
    /// Access times are always kept.
    pub const STRICTATIME: libc::c_ulong = libc::MS_STRICTATIME;
    /// A place of the tree at another one.
    pub const BIND: libc::c_ulong = libc::MS_BIND;
    /// With what is mounted below.
    pub const RECURSIVE: libc::c_ulong = libc::MS_REC;
    /// Changes a mount.
    pub const REMOUNT: libc::c_ulong = libc::MS_REMOUNT;
}

/// How mounts travel between peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// Both ways.
    Shared,
    /// Only to us.
    Slave,
}

impl Propagation {
    fn flag(self) -> u64 {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Slave => libc::MS_SLAVE,
        }
    }
}

/// A file system being configured.
#[derive(Debug)]
pub struct Filesystem(OwnedFd);

impl Filesystem {
    /// Opens a configuration of the named type (`tmpfs`, `overlay`).
    ///
    /// # Errors
    /// `ENODEV` when the kernel does not have the type.
    pub fn open(kind: &CStr) -> io::Result<Filesystem> {
        // SAFETY: the string is NUL-terminated and outlives the call.
        let fd =
            check(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })?;
        Ok(Filesystem(owned(fd)))
    }

    /// Sets `key=value`.
    ///
    /// # Errors
    /// `EINVAL` when the type does not know the key.
    pub fn set(&self, key: &CStr, value: &CStr) -> io::Result<()> {
        self.configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0)
    }

    /// Sets a key without a value.
    ///
    /// # Errors
    /// As [`Filesystem::set`].
    pub fn set_flag(&self, key: &CStr) -> io::Result<()> {
        self.configure(FSCONFIG_SET_FLAG, key.as_ptr(), std::ptr::null(), 0)
    }

    /// Sets a key to a descriptor.
    ///
    /// # Errors
    /// As [`Filesystem::set`]; also where only this form is unknown.
    pub fn set_fd(&self, key: &CStr, value: BorrowedFd<'_>) -> io::Result<()> {
        self.configure(
            FSCONFIG_SET_FD,
            key.as_ptr(),
            std::ptr::null(),
            value.as_raw_fd(),
        )
    }

    /// Makes the file system and one detached mount of it.
    ///
    /// # Errors
    /// What the file system says; its words are in [`Filesystem::message`].
    pub fn mount(&self, attributes: Attributes) -> io::Result<OwnedFd> {
        self.configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null(), 0)?;
        // SAFETY: three integers, no pointers.
        let fd = check(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                libc::FSMOUNT_CLOEXEC,
                attributes.0,
            )
        })?;
        Ok(owned(fd))
    }

    /// The kernel's explanation of the last failure, as in `e overlay: ...`; empty when none.
    pub fn message(&self) -> String {
        let mut buffer = [0u8; 256];
        // SAFETY: the buffer is valid for writes of its length.
        let length =
            unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        let length = usize::try_from(length).unwrap_or(0);
        String::from_utf8_lossy(&buffer[..length])
            .trim_end()
            .to_owned()
    }

    fn configure(
        &self,
        command: u32,
        key: *const libc::c_char,
        value: *const libc::c_char,
        aux: RawFd,
    ) -> io::Result<()> {
        // SAFETY: the pointers are null or NUL-terminated strings that outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                key,
                value,
                aux,
            )
        };
        check(result).map(drop)
    }
}

/// What [`set_attributes`] changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    /// Flags to set.
    pub set: Attributes,
    /// New propagation.
    pub propagation: Option<Propagation>,
    /// Ids are mapped as in this user namespace.
    pub idmap: Option<BorrowedFd<'a>>,
    /// Also all mounts below.
    pub recursive: bool,
}

/// Changes a mount, or a tree of mounts, that the descriptor is the root of.
///
/// # Errors
/// What the kernel says, nothing is changed then.
pub fn set_attributes(mount: BorrowedFd<'_>, change: &Change<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: change.set.0
            | if change.idmap.is_some() {
                libc::MOUNT_ATTR_IDMAP
            } else {
                0
            },
        attr_clr: if change.set.0 & libc::MOUNT_ATTR_NOATIME != 0 {
            libc::MOUNT_ATTR__ATIME
        } else {
            0
        },
        propagation: change.propagation.map_or(0, Propagation::flag),
        userns_fd: change
            .idmap
            .map_or(0, |fd| fd.as_raw_fd().unsigned_abs().into()),
    };
    let flags = libc::AT_EMPTY_PATH
        | if change.recursive {
            libc::AT_RECURSIVE
        } else {
            0
        };
    // SAFETY: the path is an empty string, the structure is valid for reads of the given size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// Clones the mount at a path, detached; `recursive` with all mounts below.
///
/// With an empty path the descriptor itself is meant.
///
/// # Errors
/// What the kernel says; `EINVAL` for a mount of another mount namespace.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | at_flag(libc::AT_EMPTY_PATH)
        | if recursive {
            at_flag(libc::AT_RECURSIVE)
        } else {
            0
        };
    // SAFETY: the path is NUL-terminated and outlives the call.
    let fd = check(unsafe {
        libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags)
    })?;
    Ok(owned(fd))
}

fn at_flag(flag: libc::c_int) -> libc::c_uint {
    flag.unsigned_abs()
}

/// Attaches a detached mount at what `target` is open on.
///
/// # Errors
/// What the kernel says; `EINVAL` when the target belongs to another mount namespace.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, target, c"", flags)
}

/// Attaches a detached mount at a path of this mount namespace.
///
/// # Errors
/// What the kernel says.
pub fn attach_at(mount: BorrowedFd<'_>, target: &CStr) -> io::Result<()> {
    move_mount(mount, cwd(), target, libc::MOVE_MOUNT_F_EMPTY_PATH)
}

fn move_mount(
    mount: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_uint,
) -> io::Result<()> {
    // SAFETY: both paths are NUL-terminated and outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
        )
    };
    check(result).map(drop)
}

/// How [`open_in_root`] treats links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Symbolic links are followed, all of them inside the root.
    Follow,
    /// A symbolic link anywhere is `ELOOP`.
    Refuse,
}

/// Opens a path as if `root` were `/`. Links of `/proc` that leave it are refused.
///
/// # Errors
/// What the kernel says; `EAGAIN` is retried, as it means a rename at the same moment.
pub fn open_in_root(
    root: BorrowedFd<'_>,
    path: &CStr,
    flags: libc::c_int,
    links: Links,
) -> io::Result<OwnedFd> {
    /// Renames that may hit us in a row before we give up.
    const RETRIES_MAX: u32 = 128;
    // SAFETY: all-zero is a valid value of this structure of integers.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).unsigned_abs());
    how.resolve = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
    if links == Links::Refuse {
        how.resolve |= libc::RESOLVE_NO_SYMLINKS;
    }
    let mut retries = 0;
    loop {
        // SAFETY: the path is NUL-terminated, the structure is valid for reads of its size.
        let result = unsafe {
            libc::syscall(
                libc::SYS_openat2,
                root.as_raw_fd(),
                path.as_ptr(),
                &raw const how,
                size_of::<libc::open_how>(),
            )
        };
        match check(result) {
            Ok(fd) => return Ok(owned(fd)),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && retries < RETRIES_MAX => {
                retries += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Opens a directory as if `root` were `/`, as a place only.
///
/// # Errors
/// As [`open_in_root`].
pub fn open_directory_in_root(root: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    open_in_root(root, path, flags, Links::Follow)
}

/// Opens whatever is there as if `root` were `/`, as a place only.
///
/// # Errors
/// As [`open_in_root`].
pub fn open_place_in_root(root: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    open_in_root(root, path, libc::O_PATH, Links::Follow)
}

/// Opens a regular file for reading as if `root` were `/`, and waits for nobody.
///
/// # Errors
/// What the kernel says; `InvalidInput` for anything but a regular file.
pub fn open_file_in_root(root: BorrowedFd<'_>, path: &CStr) -> io::Result<File> {
    // A pipe or a device in its place must not hold us up.
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::from(open_in_root(root, path, flags, Links::Follow)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    Ok(file)
}

/// Calls mount(2): the form that kernels before 6.8 need for an overlay with many layers.
///
/// # Errors
/// What the kernel says.
pub fn mount_classic(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: libc::c_ulong,
    data: &CStr,
) -> io::Result<()> {
    // SAFETY: all pointers are NUL-terminated strings that outlive the call.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    };
    check(result.into()).map(drop)
}

/// Changes how the whole tree of this mount namespace travels.
///
/// # Errors
/// What the kernel says.
pub fn set_tree_propagation(propagation: Propagation) -> io::Result<()> {
    mount_classic(c"none", c"/", c"", libc::MS_REC | propagation.flag(), c"")
}

/// Makes what `root` is open on, which must be the root of a mount, the root of this mount
/// namespace and of this process, and takes the old tree away.
///
/// # Errors
/// What the kernel says; the tree may be half changed then, so the caller ends.
pub fn pivot(root: BorrowedFd<'_>) -> io::Result<()> {
    let old = open_directory(c"/")?;
    fchdir(root)?;
    // SAFETY: two NUL-terminated strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // Both roots are stacked on one place now. The old one is reached by its descriptor; made
    // receiving first, so that taking it away does not travel to the host.
    fchdir(old.as_fd())?;
    mount_classic(c"none", c".", c"", libc::MS_REC | libc::MS_SLAVE, c"")?;
    detach(c".")?;
    chdir(c"/")
}

/// Takes a mount and all below out of the tree, now; what is still open stays usable.
///
/// # Errors
/// What the kernel says.
pub fn detach(path: &CStr) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated and outlives the call.
    check(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) }.into()).map(drop)
}

/// Whether something is mounted at a path; a symbolic link is none.
///
/// # Errors
/// What the kernel says.
pub fn is_mount_point(path: &CStr) -> io::Result<bool> {
    // SAFETY: all-zero is a valid value of this structure of integers.
    let mut facts: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT;
    // SAFETY: the path is NUL-terminated, the structure is valid for writes.
    let result = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, 0, &raw mut facts) };
    check(result.into())?;
    let bit = libc::STATX_ATTR_MOUNT_ROOT.unsigned_abs();
    Ok(facts.stx_attributes & u64::from(bit) != 0)
}

/// Whether a descriptor leads into a `proc` file system.
///
/// # Errors
/// What the kernel says.
pub fn is_proc(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(file_system(fd)? == libc::PROC_SUPER_MAGIC)
}

/// Whether something lies in memory: on a tmpfs.
///
/// # Errors
/// What the kernel says.
pub fn is_tmpfs(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(file_system(fd)? == libc::TMPFS_MAGIC)
}

fn file_system(fd: BorrowedFd<'_>) -> io::Result<libc::c_long> {
    // SAFETY: all-zero is a valid value of this structure of integers.
    let mut facts: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the structure is valid for writes.
    check(unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut facts) }.into())?;
    Ok(facts.f_type)
}

/// Opens a directory of this process's view, as a place only.
///
/// # Errors
/// What the kernel says.
pub fn open_directory(path: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the path is NUL-terminated and outlives the call.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags) }.into())?;
    Ok(owned(fd))
}

/// Changes the working directory of the (single-threaded) process.
///
/// # Errors
/// What the kernel says.
pub fn fchdir(dir: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: one integer.
    check(unsafe { libc::fchdir(dir.as_raw_fd()) }.into()).map(drop)
}

/// Changes the working directory of the (single-threaded) process.
///
/// # Errors
/// What the kernel says.
pub fn chdir(path: &CStr) -> io::Result<()> {
    // SAFETY: the path is NUL-terminated and outlives the call.
    check(unsafe { libc::chdir(path.as_ptr()) }.into()).map(drop)
}

/// Makes a directory the root of the (single-threaded) process.
///
/// # Errors
/// What the kernel says.
pub fn chroot(dir: BorrowedFd<'_>) -> io::Result<()> {
    fchdir(dir)?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    check(unsafe { libc::chroot(c".".as_ptr()) }.into()).map(drop)
}

/// The working directory as a descriptor argument.
pub fn cwd() -> BorrowedFd<'static> {
    // SAFETY: AT_FDCWD is not a descriptor that could be closed; system calls take it as a place.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    let fd = RawFd::try_from(fd).unwrap_or(-1);
    debug_assert!(fd >= 0, "the kernel returned a descriptor");
    // SAFETY: the kernel just gave us this descriptor and nobody else holds it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_path_cannot_leave_its_root() {
        let base = std::env::temp_dir().join(format!("hull-mount-{}", std::process::id()));
        fs::create_dir_all(base.join("root/etc")).unwrap();
        fs::write(base.join("root/etc/passwd"), "inside").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", base.join("root/link")).unwrap();
        std::os::unix::fs::symlink("../../../../etc/passwd", base.join("root/up")).unwrap();
        let root = fs::File::open(base.join("root")).unwrap();
        for path in [c"link", c"up", c"../../etc/passwd", c"/etc/passwd"] {
            let fd = open_in_root(root.as_fd(), path, libc::O_RDONLY, Links::Follow).unwrap();
            assert_eq!(io::read_to_string(fs::File::from(fd)).unwrap(), "inside");
        }
        let refused = open_in_root(root.as_fd(), c"link", libc::O_RDONLY, Links::Refuse);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::ELOOP));
        fs::remove_dir_all(base).unwrap();
    }
}
