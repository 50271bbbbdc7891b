//! The root file system and the sources of binds, opened while host paths still mean something.
//!
//! Everything here is a detached mount: it appears nowhere until the child attaches it in its own
//! mount namespace. The overlay is made by the shim and not by the child, because the kernel takes
//! layers only from the mount namespace of whoever makes it.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use hull_os::mount::{self, Attributes, Filesystem};
use hull_os::namespace;
use hull_plan::plan::{self, MountKind};
use hull_plan::{Failure, Plan, Step};

use crate::{c_string, remap, shown};

/// Bytes of the options of a classic mount(2): one page, with its NUL.
const CLASSIC_OPTIONS_BYTES_MAX: usize = 4095;

/// What the child attaches.
#[derive(Debug)]
pub(crate) struct Sources {
    /// The overlay; none where the child must make it in the classic way.
    pub(crate) root: Option<OwnedFd>,
    /// One for each bind of the plan, in order; another container's `/dev/shm` is one too.
    pub(crate) binds: Vec<OwnedFd>,
    /// One for each device of the plan, where the child may not make nodes.
    pub(crate) devices: Vec<OwnedFd>,
}

/// Makes the overlay and clones the sources of binds.
pub(crate) fn open(plan: &Plan<'_>) -> Result<Sources, Failure> {
    let remapped = remap::is_wanted(plan);
    let root =
        match root_of(plan) {
            // Its layers are mapped, for which a place is needed: the child's.
            _ if remapped => None,
            Some(root) if has_descriptors(plan) => Some(overlay(plan, &root).map_err(|cause| {
                Failure::system("root", "mount overlay root file system", &cause)
            })?),
            _ => None,
        };
    let mut binds = Vec::new();
    for step in plan.steps() {
        let bind = match step {
            Step::Mount(bind) => bind,
            Step::SharedMemory(mounts) => {
                binds.push(shared_memory(mounts).map_err(|cause| {
                    Failure::system("mount", "share /dev/shm of another container", &cause)
                })?);
                continue;
            }
            _ => continue,
        };
        let recursive = match bind.kind {
            MountKind::Bind => false,
            MountKind::BindRecursive | MountKind::BindMapped => true,
            _ => continue,
        };
        let tree = mount::clone_tree(mount::cwd(), bind.source, recursive).map_err(|cause| {
            Failure::system(
                "mount",
                &format!("error mounting {:?}", shown(bind.source)),
                &cause,
            )
        })?;
        binds.push(tree);
    }
    let devices = if remapped {
        device_clones(plan)?
    } else {
        Vec::new()
    };
    Ok(Sources {
        root,
        binds,
        devices,
    })
}

/// The `/dev/shm` of a container whose mount namespace this is. That container decides what is there,
/// so no link is followed, and nothing but memory is taken.
fn shared_memory(mounts: i32) -> io::Result<OwnedFd> {
    let mounts = crate::take(mounts)?;
    namespace::in_mounts(mounts.as_fd(), || {
        let root = mount::open_directory(c"/")?;
        let found = mount::open_in_root(
            root.as_fd(),
            c"dev/shm",
            libc::O_PATH | libc::O_DIRECTORY,
            mount::Links::Refuse,
        )?;
        if !mount::is_tmpfs(found.as_fd())? {
            return Err(io::Error::other("it is not in memory"));
        }
        mount::clone_tree(found.as_fd(), c"", false)
    })
}

/// The host's device nodes of the same paths.
fn device_clones(plan: &Plan<'_>) -> Result<Vec<OwnedFd>, Failure> {
    let clone = |step| match step {
        Step::Device(device) => Some(mount::clone_tree(mount::cwd(), device.path, false).map_err(
            |cause| Failure::system("device", &format!("open {:?}", shown(device.path)), &cause),
        )),
        _ => None,
    };
    plan.steps().filter_map(clone).collect()
}

/// The root of the plan.
pub(crate) fn root_of<'a>(plan: &Plan<'a>) -> Option<plan::Root<'a>> {
    plan.steps().find_map(|step| match step {
        Step::Root(root) => Some(root),
        _ => None,
    })
}

fn has_descriptors(plan: &Plan<'_>) -> bool {
    plan.steps()
        .any(|step| matches!(step, Step::LowerDescriptor(_)))
}

fn lower_descriptors<'a>(plan: &Plan<'a>) -> impl Iterator<Item = BorrowedFd<'a>> + use<'a> {
    plan.steps().filter_map(|step| match step {
        // SAFETY: layers are among the descriptors that this process was started with, and nobody
        // closes them before the plan is dropped.
        Step::LowerDescriptor(fd) if fd > 2 => Some(unsafe { BorrowedFd::borrow_raw(fd) }),
        _ => None,
    })
}

/// Closes the layers: the overlay has its own hold on them.
pub(crate) fn close_lowers(plan: &Plan<'_>) {
    for step in plan.steps() {
        if let Step::LowerDescriptor(fd) = step {
            // SAFETY: it was given to us, the overlay is made, nobody uses it any more.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}

/// Kernels from 6.13 on take layers as descriptors, those from 6.8 on as paths, one by one; older
/// ones only all together in one page.
fn overlay(plan: &Plan<'_>, root: &plan::Root<'_>) -> io::Result<OwnedFd> {
    let by_descriptor = |fs: &Filesystem, fd: BorrowedFd<'_>| fs.set_fd(c"lowerdir+", fd);
    let by_path = |fs: &Filesystem, fd: BorrowedFd<'_>| fs.set(c"lowerdir+", &descriptor_path(fd)?);
    match overlay_of_layers(plan, root, by_descriptor) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            overlay_of_layers(plan, root, by_path)
        }
        result => result,
    }
}

fn overlay_of_layers(
    plan: &Plan<'_>,
    root: &plan::Root<'_>,
    add: impl Fn(&Filesystem, BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let fs = Filesystem::open(c"overlay")?;
    for fd in lower_descriptors(plan) {
        add(&fs, fd)?;
    }
    finish_overlay(&fs, root)
}

fn finish_overlay(fs: &Filesystem, root: &plan::Root<'_>) -> io::Result<OwnedFd> {
    fs.set(c"upperdir", root.upper)?;
    fs.set(c"workdir", root.work)?;
    // One device number for all files, and inode numbers that stay.
    fs.set(c"xino", c"on")?;
    // What is in the upper directory is whole: `diff` and `commit` read it as it is.
    fs.set(c"redirect_dir", c"off")?;
    fs.set(c"metacopy", c"off")?;
    fs.mount(Attributes::none())
}

fn descriptor_path(fd: BorrowedFd<'_>) -> io::Result<std::ffi::CString> {
    c_string(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&fd)
    ))
}

/// Puts the root into the mount namespace of the caller and returns it.
///
/// A mount that was made goes over `/`: no path is walked, which a user inside might not walk. The
/// classic form goes over its own upper directory, which exists and is not needed by path any more.
pub(crate) fn attach(plan: &Plan<'_>, made: Option<OwnedFd>) -> io::Result<OwnedFd> {
    if let Some(made) = made {
        mount::attach_at(made.as_fd(), c"/")?;
        return Ok(made);
    }
    let root = root_of(plan).ok_or(io::ErrorKind::InvalidInput)?;
    mount_classic(plan, &root)?;
    mount::open_directory(root.upper)
}

/// The working directory becomes the one with the layers, as that makes their names short.
fn mount_classic(plan: &Plan<'_>, root: &plan::Root<'_>) -> io::Result<()> {
    let mut options = Vec::new();
    for step in plan.steps() {
        match step {
            Step::LowerBase(base) => mount::chdir(base)?,
            Step::LowerName(name) => {
                if !options.is_empty() {
                    options.push(b':');
                }
                options.extend_from_slice(name.to_bytes());
            }
            Step::LowerDescriptor(fd) => {
                if !options.is_empty() {
                    options.push(b':');
                }
                options.extend_from_slice(format!("/proc/self/fd/{fd}").as_bytes());
            }
            _ => {}
        }
    }
    let options = classic_options(&options, root.upper, root.work)?;
    mount::mount_classic(c"overlay", root.upper, c"overlay", 0, &options)
}

/// Options of an overlay, of which `lowers` are the layers' names with `:` between them.
pub(crate) fn classic_options(
    lowers: &[u8],
    upper: &CStr,
    work: &CStr,
) -> io::Result<std::ffi::CString> {
    let mut options = [b"lowerdir=", lowers].concat();
    for (key, path) in [("upperdir", upper), ("workdir", work)] {
        options.extend_from_slice(format!(",{key}=").as_bytes());
        escape_option(&mut options, path);
    }
    options.extend_from_slice(b",xino=on,redirect_dir=off,metacopy=off");
    if options.len() > CLASSIC_OPTIONS_BYTES_MAX {
        return Err(io::Error::other(
            "layers do not fit into one page of mount options",
        ));
    }
    Ok(std::ffi::CString::new(options)?)
}

/// Overlay's options have separators of their own.
fn escape_option(to: &mut Vec<u8>, path: &CStr) {
    for &byte in path.to_bytes() {
        if matches!(byte, b',' | b':' | b'\\') {
            to.push(b'\\');
        }
        to.push(byte);
    }
}

/// The mount made for a step that is a file system of its own; none for binds and cgroups.
pub(crate) fn make(step: &plan::Mount<'_>) -> io::Result<Option<OwnedFd>> {
    let kind = match step.kind {
        MountKind::Tmpfs => c"tmpfs",
        MountKind::Proc => c"proc",
        MountKind::Sysfs => c"sysfs",
        MountKind::Devpts => c"devpts",
        MountKind::Mqueue => c"mqueue",
        MountKind::Bind | MountKind::BindRecursive | MountKind::BindMapped | MountKind::Cgroup => {
            return Ok(None);
        }
    };
    let fs = Filesystem::open(kind)?;
    fs.set(c"source", if kind == c"tmpfs" { c"tmpfs" } else { kind })?;
    let options = shown(step.data);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unzip();
        match (key, value) {
            (Some(key), Some(value)) => {
                fs.set(&c_string(key.to_owned())?, &c_string(value.to_owned())?)?;
            }
            _ => fs.set_flag(&c_string(option.to_owned())?)?,
        }
    }
    fs.mount(Attributes::from_bits(step.attributes))
        .map(Some)
        .map_err(|cause| {
            let message = fs.message();
            if message.is_empty() {
                cause
            } else {
                io::Error::other(format!("{cause}: {message}"))
            }
        })
}

/// Like [`target`], for what must not be led elsewhere by a link of the image: `/proc`, `/sys`,
/// `/dev/console`.
pub(crate) fn ordinary_target(
    root: BorrowedFd<'_>,
    path: &str,
    is_dir: bool,
) -> io::Result<OwnedFd> {
    let name = c_string(path.trim_matches('/').to_owned())?;
    let open = || mount::open_in_root(root, &name, libc::O_PATH, mount::Links::Refuse);
    let result = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_target(root, path.trim_matches('/'), is_dir, 0)?;
            open()
        }
        result => result,
    };
    result.map_err(|cause| match cause.raw_os_error() {
        Some(libc::ELOOP) => {
            io::Error::other("must be mounted on an ordinary directory or file, not on a link")
        }
        _ => cause,
    })
}

/// Like [`target`]; says too whether it was there.
pub(crate) fn find_or_make(
    root: BorrowedFd<'_>,
    path: &str,
    is_dir: bool,
) -> io::Result<(OwnedFd, bool)> {
    let path = path.trim_matches('/');
    let name = c_string(path.to_owned())?;
    let was_there = mount::open_in_root(root, &name, libc::O_PATH, mount::Links::Follow).is_ok();
    target(root, path, is_dir).map(|target| (target, was_there))
}

/// Opens a mount target inside the root, and makes it when it is missing: a directory, or an empty
/// file for anything else.
///
/// A symbolic link that points nowhere is followed too, as images have such links for
/// `/etc/resolv.conf`.
pub(crate) fn target(root: BorrowedFd<'_>, path: &str, is_dir: bool) -> io::Result<OwnedFd> {
    /// Links that may follow each other, as in the kernel.
    const LINKS_MAX: u32 = 40;
    make_target(root, path.trim_matches('/'), is_dir, LINKS_MAX)
}

fn make_target(
    root: BorrowedFd<'_>,
    path: &str,
    is_dir: bool,
    links_left: u32,
) -> io::Result<OwnedFd> {
    let flags = libc::O_PATH;
    let whole = c_string(if path.is_empty() {
        ".".to_owned()
    } else {
        path.to_owned()
    })?;
    match mount::open_in_root(root, &whole, flags, mount::Links::Follow) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => {}
        result => return result,
    }
    let (parent, leaf) = path.rsplit_once('/').unwrap_or(("", path));
    let dir = make_target(root, parent, true, links_left)?;
    let name = c_string(leaf.to_owned())?;
    match make_entry(dir.as_fd(), &name, is_dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let links_left = links_left
                .checked_sub(1)
                .ok_or(io::Error::from_raw_os_error(libc::ELOOP))?;
            let link = read_link(dir.as_fd(), &name)?;
            let next = if link.starts_with('/') {
                link
            } else {
                format!("{parent}/{link}")
            };
            return make_target(root, next.trim_matches('/'), is_dir, links_left);
        }
        result => result?,
    }
    mount::open_in_root(dir.as_fd(), &name, flags, mount::Links::Refuse)
}

fn make_entry(dir: BorrowedFd<'_>, name: &CStr, is_dir: bool) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    if is_dir {
        // SAFETY: the name is NUL-terminated and outlives the call.
        return match unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), 0o755) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
    }
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
    hull_os::process::open(dir, name, flags, 0o644).map(drop)
}

fn read_link(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<String> {
    use std::os::fd::AsRawFd;
    let mut buffer = [0u8; 4096];
    // SAFETY: the name is NUL-terminated, the buffer is valid for writes of its length.
    let length = unsafe {
        libc::readlinkat(
            dir.as_raw_fd(),
            name.as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
