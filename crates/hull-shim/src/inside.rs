//! The child between its clone and its program: it makes the container's view from the inside.
//!
//! ```text
//!  descriptors, namespaces ─ mounts ─ pivot ─ places ─┬─ cgroup view, sysctls, masks ─ streams ─ program
//!                                                 wait for the shim
//! ```
//!
//! The shim attaches the cgroup and makes the links meanwhile; there is one point of waiting. After
//! the pivot no path of the host can be reached, so what follows needs no care about them.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use hull_os::mount::{self, Attributes, Change, Links};
use hull_os::namespace::{self, Kinds};
use hull_os::{process, socket};
use hull_plan::interpret::{self, Program};
use hull_plan::plan::{self, MountKind, Propagation};
use hull_plan::{Failure, Plan, Process, Step};

use crate::cgroup::Cgroup;
use crate::remap;
use crate::root::{self, Sources};
use crate::stdio::{ChildStreams, terminal};
use crate::{c_string, shown};

/// What the child says to the shim: the first byte of a message.
pub(crate) mod report {
    /// With the master of its terminal.
    pub(crate) const TERMINAL: u8 = b't';
    /// Nothing but the execve is left.
    pub(crate) const READY: u8 = b'r';
    /// It failed; an encoded failure follows.
    pub(crate) const FAILED: u8 = b'f';
}

/// Links in `/dev` that every container has.
const DEVICE_LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Files of `/proc` that a mount may cover: tools show a container its own share there.
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];
/// Number of the top directory of every `proc`.
const PROC_ROOT_INODE: u64 = 1;

/// What the child is given.
#[derive(Debug)]
pub(crate) struct Given<'a> {
    pub(crate) plan: Plan<'a>,
    pub(crate) process: Process<'a>,
    pub(crate) sources: Sources,
    pub(crate) streams: ChildStreams,
    /// To the shim.
    pub(crate) sync: OwnedFd,
    /// Our program, where it shall be process 1.
    pub(crate) init: Option<OwnedFd>,
}

/// Becomes the container's first process; never returns.
pub(crate) fn run(mut given: Given<'_>) -> ! {
    let failure = match prepare(&mut given) {
        Ok(()) => {
            let program = match &given.init {
                Some(file) => Program::Init(file.as_fd()),
                None => Program::Argument,
            };
            process::reset_signals();
            interpret::enter(given.process, program, || announce(given.sync.as_fd()))
        }
        Err(failure) => failure,
    };
    fail(given.sync.as_fd(), &failure)
}

/// Tells the shim why there will be no program, and ends.
pub(crate) fn fail(sync: BorrowedFd<'_>, failure: &Failure) -> ! {
    let mut writer = hull_plan::codec::Writer::default();
    let event = hull_plan::message::Event::StartFailed(crate::container::wire(failure));
    event.encode(&mut writer);
    let mut message = vec![report::FAILED];
    message.extend_from_slice(&writer.finish());
    let _ = socket::send(sync, &message, &[]);
    process::exit_now(1)
}

/// The last word before the execve. From here on the end of the shim is the end of the process;
/// credentials change no more, which would undo that.
pub(crate) fn announce(sync: BorrowedFd<'_>) -> io::Result<()> {
    process::set_parent_death_signal(libc::SIGKILL)?;
    // If the shim ended before, nobody would send that signal; but then this fails.
    socket::send(sync, &[report::READY], &[]).map(drop)
}

fn step<T>(name: &'static str, text: &str, result: io::Result<T>) -> Result<T, Failure> {
    result.map_err(|cause| Failure::system(name, text, &cause))
}

fn prepare(given: &mut Given<'_>) -> Result<(), Failure> {
    let plan = given.plan;
    close_others(given);
    // Opened while the host's paths are there, entered when the shim has made it.
    let cgroup = if remap::is_wanted(&plan) {
        let become_root = become_root_inside(given);
        step("user namespace", "become root inside", become_root)?;
        None
    } else {
        Some(Cgroup::open(&plan)?)
    };
    step("namespace", "join namespaces", join_namespaces(&plan))?;
    step("session", "start a session", process::start_session())?;
    // A daemon in a chroot would else leave the host's root where an exec enters.
    step("root", "leave a chroot", namespace::leave_chroot())?;
    step("root", "set propagation of mounts", set_propagation(&plan))?;
    let root = step(
        "root",
        "attach root file system",
        root::attach(&plan, given.sources.root.take()),
    )?;
    // Directories of the host, open in the view of the host: the sooner they are gone the better.
    root::close_lowers(&plan);
    // proc and sysfs can be made in a user namespace only while such a mount is in view.
    let mut made = Vec::new();
    for planned in plan.steps() {
        if let Step::Mount(planned) = planned {
            let text = format!("mount {:?}", shown(planned.destination));
            made.push(step("mount", &text, root::make(&planned))?);
        }
    }
    step("root", "pivot_root", mount::pivot(root.as_fd()))?;
    step("root", "make marks", make_marks(root.as_fd()))?;
    place_mounts(&plan, root.as_fd(), made, &mut given.sources.binds)?;
    step(
        "device",
        "create device links",
        make_devices(&plan, root.as_fd(), &given.sources.devices),
    )?;
    set_host_name(&plan)?;
    step(
        "sync",
        "wait for the shim",
        wait_for_shim(given.sync.as_fd()),
    )?;
    if let Some(cgroup) = cgroup {
        step("cgroup", "enter the cgroup", cgroup.enter())?;
    }
    finish_view(&plan, root.as_fd())?;
    let terminal = given.process.terminal();
    step(
        "stdio",
        "set up standard streams",
        place_streams(given, terminal),
    )
}

/// Waits until the shim has mapped our ids and made our root.
fn become_root_inside(given: &mut Given<'_>) -> io::Result<()> {
    let (_, descriptors) = socket::receive(given.sync.as_fd(), &mut [0u8; 1])?;
    let root = descriptors.into_iter().next();
    given.sources.root = Some(root.ok_or(io::ErrorKind::UnexpectedEof)?);
    process::set_identity(0, 0, &[])?;
    // The change of identity made us dumpable again.
    process::set_dumpable(false)
}

/// What every container of Docker's finds in its root beside mounts: by the one, programs know that
/// they are in a container; older ones read the other to see what is mounted. Before anything is
/// mounted, so that it lands in the root and nowhere else.
fn make_marks(root: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_WRONLY;
    let marked = process::open(root, c".dockerenv", flags, 0o755).map(drop);
    let etc = root::target(root, "/etc", true)?;
    // SAFETY: two NUL-terminated strings that outlive the call.
    let linked = match unsafe {
        libc::symlinkat(c"/proc/mounts".as_ptr(), etc.as_raw_fd(), c"mtab".as_ptr())
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    };
    for result in [marked, linked] {
        match result {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn close_others(given: &Given<'_>) {
    let mut keep: Vec<i32> = vec![given.sync.as_raw_fd()];
    keep.extend(
        given
            .sources
            .root
            .iter()
            .chain(&given.sources.binds)
            .chain(&given.sources.devices)
            .map(AsRawFd::as_raw_fd),
    );
    keep.extend(given.streams.descriptors());
    keep.extend(given.init.iter().map(AsRawFd::as_raw_fd));
    keep.extend(given.process.passed());
    for planned in given.plan.steps() {
        match planned {
            Step::Join { fd, .. } | Step::LowerDescriptor(fd) => keep.push(fd),
            _ => {}
        }
    }
    process::close_all_except(&mut keep);
}

fn join_namespaces(plan: &Plan<'_>) -> io::Result<()> {
    for planned in plan.steps() {
        let Step::Join { kinds, fd } = planned else {
            continue;
        };
        let kinds = Kinds::from_bits(kinds);
        // Those were joined before this process was born.
        if kinds != Kinds::PID && kinds != Kinds::USER {
            // SAFETY: it was given to this process and is closed by nobody else.
            namespace::join(unsafe { BorrowedFd::borrow_raw(fd) }, kinds)?;
        }
    }
    Ok(())
}

fn set_propagation(plan: &Plan<'_>) -> io::Result<()> {
    let propagation = match root::root_of(plan).map(|root| root.propagation) {
        None | Some(Propagation::Private) => mount::Propagation::Private,
        // What the container mounts must not travel to the host as a whole; single binds may.
        Some(Propagation::Slave | Propagation::Shared) => mount::Propagation::Slave,
    };
    mount::set_tree_propagation(propagation)
}

/// Attaches what the plan mounts: `made` are those that were made for it, `binds` the others.
pub(crate) fn place_mounts(
    plan: &Plan<'_>,
    root: BorrowedFd<'_>,
    made: Vec<Option<OwnedFd>>,
    binds: &mut Vec<OwnedFd>,
) -> Result<(), Failure> {
    let mut binds = std::mem::take(binds).into_iter();
    let mut made = made.into_iter();
    for planned in plan.steps() {
        let planned = match planned {
            Step::Mount(planned) => planned,
            Step::SharedMemory(_) => {
                let result = match binds.next() {
                    Some(shared) => root::ordinary_target(root, "/dev/shm", true)
                        .and_then(|target| mount::attach(shared.as_fd(), target.as_fd())),
                    None => Err(io::ErrorKind::InvalidInput.into()),
                };
                step("mount", "mount the /dev/shm of another container", result)?;
                continue;
            }
            _ => continue,
        };
        let destination = shown(planned.destination);
        let text = format!("error mounting to rootfs at {destination:?}");
        let attributes = Attributes::from_bits(planned.attributes);
        let made = made.next().flatten();
        let result = match (planned.kind, made) {
            (MountKind::Bind | MountKind::BindRecursive | MountKind::BindMapped, _) => {
                match binds.next() {
                    Some(tree) => {
                        place_bind(root, &tree, &destination, attributes, planned.propagation)
                    }
                    None => Err(io::ErrorKind::InvalidInput.into()),
                }
            }
            (MountKind::Proc | MountKind::Sysfs, Some(fs)) => {
                root::ordinary_target(root, &destination, true)
                    .and_then(|target| mount::attach(fs.as_fd(), target.as_fd()))
            }
            (_, Some(fs)) => place_made(root, &fs, &destination, &planned),
            (_, None) => Ok(()),
        };
        step("mount", &text, result)?;
    }
    Ok(())
}

/// Attaches a file system that was made for this container.
fn place_made(
    root: BorrowedFd<'_>,
    fs: &OwnedFd,
    destination: &str,
    planned: &plan::Mount<'_>,
) -> io::Result<()> {
    let (target, was_there) = root::find_or_make(root, destination, true)?;
    may_cover(&target, fs, destination)?;
    let has_mode = shown(planned.data)
        .split(',')
        .any(|option| option.starts_with("mode="));
    if was_there && planned.kind == MountKind::Tmpfs && !has_mode {
        // It takes the place of a directory of the image, so it is as open as that.
        let covered = std::fs::File::from(target.try_clone()?).metadata()?;
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let top = std::fs::File::from(process::open(fs.as_fd(), c".", flags, 0)?);
        // A tmpfs that is read-only from the start stays as it was made.
        let _ = top.set_permissions(covered.permissions());
    }
    mount::attach(fs.as_fd(), target.as_fd())
}

/// Refuses what would stand between us and the kernel's `/proc`: limits and masks that are set
/// there would land somewhere else (CVE-2025-52881).
fn may_cover(target: &OwnedFd, tree: &OwnedFd, destination: &str) -> io::Result<()> {
    if !mount::is_proc(target.as_fd())? || PROC_FILES.contains(&destination) {
        return Ok(());
    }
    let inode = std::fs::File::from(target.try_clone()?).metadata()?.ino();
    let why = match inode {
        PROC_ROOT_INODE if mount::is_proc(tree.as_fd())? => return Ok(()),
        PROC_ROOT_INODE => "cannot be mounted because it is not of type proc",
        _ => "cannot be mounted because it is inside /proc",
    };
    Err(io::Error::other(why))
}

fn place_bind(
    root: BorrowedFd<'_>,
    tree: &OwnedFd,
    destination: &str,
    attributes: Attributes,
    propagation: Propagation,
) -> io::Result<()> {
    let propagation = match propagation {
        Propagation::Private => mount::Propagation::Private,
        Propagation::Shared => mount::Propagation::Shared,
        Propagation::Slave => mount::Propagation::Slave,
    };
    let change = Change {
        propagation: Some(propagation),
        recursive: true,
        ..Change::default()
    };
    mount::set_attributes(tree.as_fd(), &change)?;
    if attributes != Attributes::none() {
        mount::set_attributes(
            tree.as_fd(),
            &Change {
                set: attributes,
                recursive: true,
                ..Change::default()
            },
        )?;
    }
    let is_dir = std::fs::File::from(tree.try_clone()?).metadata()?.is_dir();
    let target = root::target(root, destination, is_dir)?;
    may_cover(&target, tree, destination)?;
    mount::attach(tree.as_fd(), target.as_fd())
}

fn make_devices(plan: &Plan<'_>, root: BorrowedFd<'_>, clones: &[OwnedFd]) -> io::Result<()> {
    process::set_umask(0);
    let mut clones = clones.iter();
    for planned in plan.steps() {
        let Step::Device(device) = planned else {
            continue;
        };
        let path = shown(device.path);
        if let Some(clone) = clones.next() {
            let place = root::target(root, &path, false)?;
            mount::attach(clone.as_fd(), place.as_fd())?;
            continue;
        }
        let (parent, name) = path
            .trim_end_matches('/')
            .rsplit_once('/')
            .unwrap_or(("", &path));
        let dir = root::target(root, parent, true)?;
        let name = c_string(name.to_owned())?;
        let number = libc::makedev(device.major, device.minor);
        // SAFETY: the name is NUL-terminated and outlives the calls.
        let result = unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), device.mode, number) };
        if result < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error);
            }
        }
        if (device.uid, device.gid) != (0, 0) {
            let flags = libc::AT_SYMLINK_NOFOLLOW;
            // SAFETY: as above.
            unsafe {
                libc::fchownat(
                    dir.as_raw_fd(),
                    name.as_ptr(),
                    device.uid,
                    device.gid,
                    flags,
                )
            };
        }
    }
    if has_mount(plan, c"/dev") {
        for (to, path) in DEVICE_LINKS {
            // Not every kernel has one.
            if path == "/dev/core" && std::fs::symlink_metadata(to).is_err() {
                continue;
            }
            match std::os::unix::fs::symlink(to, path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

fn has_mount(plan: &Plan<'_>, destination: &CStr) -> bool {
    plan.steps().any(|planned| match planned {
        Step::Mount(planned) => planned.destination == destination,
        _ => false,
    })
}

fn set_host_name(plan: &Plan<'_>) -> Result<(), Failure> {
    for planned in plan.steps() {
        if let Step::HostName(host, domain) = planned {
            step(
                "hostname",
                "sethostname",
                process::set_host_name(host, domain),
            )?;
        }
    }
    Ok(())
}

fn wait_for_shim(sync: BorrowedFd<'_>) -> io::Result<()> {
    match socket::receive(sync, &mut [0u8; 1])? {
        (0, _) => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// What needs the cgroup attached and the links made, and what hides things from the program.
fn finish_view(plan: &Plan<'_>, root: BorrowedFd<'_>) -> Result<(), Failure> {
    let own_cgroup = plan.steps().any(|planned| match planned {
        Step::Namespaces(kinds) => Kinds::from_bits(kinds).contains(Kinds::CGROUP),
        _ => false,
    });
    if own_cgroup {
        step(
            "namespace",
            "unshare cgroup namespace",
            namespace::unshare(Kinds::CGROUP),
        )?;
    }
    let mut empty = None;
    let mut root_readonly = false;
    for planned in plan.steps() {
        match planned {
            Step::Mount(planned) if planned.kind == MountKind::Cgroup => {
                let attributes = Attributes::from_bits(planned.attributes);
                let result = place_cgroups(root, &shown(planned.destination), attributes);
                step("mount", "mount cgroups", result)?;
            }
            Step::Sysctl(path, value) => {
                let path = shown(path);
                let text = format!("write sysctl key {path}");
                step("sysctl", &text, write_sysctl(root, &path, &shown(value)))?;
            }
            Step::Mask(path) => {
                let text = format!("mask path {:?}", shown(path));
                step("mask", &text, mask(root, path, &mut empty))?;
            }
            Step::ReadOnly(path) => {
                let text = format!("make path {:?} read-only", shown(path));
                step("readonly", &text, make_readonly(root, path))?;
            }
            Step::Root(root) => root_readonly = root.readonly,
            _ => {}
        }
    }
    if root_readonly {
        let change = Change {
            set: Attributes::READONLY,
            ..Change::default()
        };
        step(
            "root",
            "make root read-only",
            mount::set_attributes(root, &change),
        )?;
    }
    Ok(())
}

/// One mount for each hierarchy that `/proc/self/cgroup` names, below a tmpfs; or the only one.
fn place_cgroups(
    root: BorrowedFd<'_>,
    destination: &str,
    attributes: Attributes,
) -> io::Result<()> {
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let target = root::target(root, destination, true)?;
    let fields = |line: &'_ str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        Some((controllers.to_owned(), path.to_owned()))
    };
    let hierarchies: Vec<(String, String)> = own
        .lines()
        .filter_map(fields)
        .filter(|(controllers, _)| !controllers.is_empty())
        .collect();
    if hierarchies.is_empty() {
        let fs = mount::Filesystem::open(c"cgroup2")?;
        fs.set(c"source", c"cgroup")?;
        return mount::attach(fs.mount(attributes)?.as_fd(), target.as_fd());
    }
    let fs = mount::Filesystem::open(c"tmpfs")?;
    fs.set(c"source", c"tmpfs")?;
    fs.set(c"mode", c"755")?;
    let top = fs.mount(Attributes::from_bits(
        attributes.bits() & !Attributes::READONLY.bits(),
    ))?;
    mount::attach(top.as_fd(), target.as_fd())?;
    for (controllers, path) in &hierarchies {
        let fs = mount::Filesystem::open(c"cgroup")?;
        fs.set(c"source", c"cgroup")?;
        let name = match controllers.strip_prefix("name=") {
            Some(name) => {
                fs.set_flag(c"none")?;
                fs.set(c"name", &c_string(name.to_owned())?)?;
                name
            }
            None => {
                for controller in controllers.split(',') {
                    fs.set_flag(&c_string(controller.to_owned())?)?;
                }
                controllers
            }
        };
        let hierarchy = fs.mount(attributes)?;
        let place = root::target(top.as_fd(), name, true)?;
        mount::attach(hierarchy.as_fd(), place.as_fd())?;
        if path != "/" {
            show_part(&hierarchy, path, &place, &format!("{destination}/{name}"))?;
        }
        for link in name.split(',').filter(|link| *link != name) {
            std::os::unix::fs::symlink(name, format!("{destination}/{link}"))?;
        }
    }
    mount::set_attributes(
        top.as_fd(),
        &Change {
            set: attributes,
            ..Change::default()
        },
    )
}

/// Shows only a part of what is attached at a place: with the host's view of cgroups, the
/// container's own cgroup and not those of everybody else.
fn show_part(whole: &OwnedFd, path: &str, place: &OwnedFd, place_path: &str) -> io::Result<()> {
    let path = c_string(path.trim_start_matches('/').to_owned())?;
    let part = mount::clone_tree(whole.as_fd(), &path, false)?;
    mount::detach(&c_string(place_path.to_owned())?)?;
    mount::attach(part.as_fd(), place.as_fd())
}

fn write_sysctl(root: BorrowedFd<'_>, path: &str, value: &str) -> io::Result<()> {
    let path = c_string(format!("proc/sys/{path}"))?;
    let fd = mount::open_in_root(root, &path, libc::O_WRONLY, Links::Refuse)?;
    if !mount::is_proc(fd.as_fd())? {
        return Err(io::Error::other("is no setting of the kernel"));
    }
    process::write(fd.as_fd(), value.as_bytes()).map(drop)
}

/// Hides a path. What hides it is verified by descriptor: a device made by the image, or swapped
/// through a shared volume, must not be taken for `/dev/null`.
fn mask(root: BorrowedFd<'_>, path: &CStr, empty: &mut Option<OwnedFd>) -> io::Result<()> {
    let Some(target) = existing(root, path)? else {
        return Ok(());
    };
    let target_is_dir = std::fs::File::from(target.try_clone()?)
        .metadata()?
        .is_dir();
    let cover = if target_is_dir {
        match empty {
            // Attaching it a second time would move it away from the first place.
            Some(attached) => mount::clone_tree(attached.as_fd(), c"", false)?,
            None => {
                let fs = mount::Filesystem::open(c"tmpfs")?;
                fs.set(c"source", c"tmpfs")?;
                fs.set(c"nr_inodes", c"1")?;
                let made = fs.mount(Attributes::READONLY)?;
                mount::attach(made.as_fd(), target.as_fd())?;
                *empty = Some(made);
                return Ok(());
            }
        }
    } else {
        let null = mount::open_in_root(root, c"dev/null", libc::O_PATH, Links::Refuse)?;
        let metadata = std::fs::File::from(null.try_clone()?).metadata()?;
        if !metadata.file_type().is_char_device() || metadata.rdev() != libc::makedev(1, 3) {
            return Err(io::Error::other("/dev/null is not the null device"));
        }
        mount::clone_tree(null.as_fd(), c"", false)?
    };
    mount::attach(cover.as_fd(), target.as_fd())
}

fn make_readonly(root: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    let Some(target) = existing(root, path)? else {
        return Ok(());
    };
    let tree = mount::clone_tree(target.as_fd(), c"", true)?;
    let change = Change {
        set: Attributes::READONLY,
        recursive: true,
        ..Change::default()
    };
    mount::set_attributes(tree.as_fd(), &change)?;
    mount::attach(tree.as_fd(), target.as_fd())
}

fn existing(root: BorrowedFd<'_>, path: &CStr) -> io::Result<Option<OwnedFd>> {
    match mount::open_in_root(root, path, libc::O_PATH, Links::Follow) {
        Ok(fd) => Ok(Some(fd)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn place_streams(given: &Given<'_>, size: Option<(u16, u16)>) -> io::Result<()> {
    match size {
        None => given.streams.place(),
        Some(size) => {
            let slave = terminal::open(given.sync.as_fd(), size)?;
            terminal::show_as_console(slave.as_fd())?;
            terminal::take(slave.as_fd())
        }
    }
}
