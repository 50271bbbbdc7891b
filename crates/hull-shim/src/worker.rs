//! The short-lived worker: it makes a view of a container's files and gives the daemon two
//! descriptors of it.
//!
//! ```text
//! runs:     join its mounts ─ a copy of them, without /dev /proc /sys ─┐
//! stopped:  overlay ─ pivot ─ binds ───────────────────────────────────┴─▶ root, root alone
//! guest:    FUSE, answered by the guest's file server (`fuse.rs`) ─────────▶ a tree with both
//! ```
//!
//! The mounts are in a namespace of the worker's own and go away with it, so nothing of them can be
//! left behind, and nothing that the container mounts later is seen. It reads no file of the container
//! and runs none of its code; the daemon walks the tree by descriptor, and no link leads out of it.
//! Only one worker at a time may have the overlay of a stopped container: the caller sees to it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hull_os::mount;
use hull_os::namespace::{self, Kinds};
use hull_os::{process, socket};
use hull_plan::{Failure, Plan, Step};

use crate::container::Mapping;
use crate::inside;
use crate::{fuse, root, take};

/// Descriptors that a worker is given; more are named in the plan.
const PLAN: i32 = 3;
const DAEMON: i32 = 4;

/// What the kernel shows a container and what is no file of it.
const NOT_FILES: [&std::ffi::CStr; 3] = [c"/dev", c"/sys", c"/proc"];

/// A view: all that the container sees, and its root without what is mounted on it.
pub(crate) struct View {
    pub(crate) whole: OwnedFd,
    pub(crate) alone: OwnedFd,
}

/// The whole life of a worker. An error means that nobody could be told of it.
pub(crate) fn run() -> io::Result<()> {
    process::set_name(c"hull-worker");
    process::set_dumpable(false)?;
    process::ignore_signal(libc::SIGPIPE);
    let mapping = Mapping::of(&take(PLAN)?)?;
    let plan = Plan::parse(mapping.bytes())?;
    let daemon = take(DAEMON)?;
    if let Some(stream) = plan.steps().find_map(|step| match step {
        Step::Files(fd) => Some(fd),
        _ => None,
    }) {
        return fuse::serve(take(stream)?, &daemon);
    }
    match make(&plan) {
        Ok(view) => {
            let ends = [view.whole.as_fd(), view.alone.as_fd()];
            socket::send(daemon.as_fd(), &[inside::report::READY], &ends)?;
        }
        Err(failure) => inside::fail(daemon.as_fd(), &failure),
    }
    // The daemon has its own holds on the tree, but the tree is in our namespace.
    socket::receive(daemon.as_fd(), &mut [0u8; 1]).map(drop)
}

fn make(plan: &Plan<'_>) -> Result<View, Failure> {
    if !plan.steps().any(|step| matches!(step, Step::Join { .. })) {
        return of_stopped(plan);
    }
    join(plan)
        .and_then(|()| of_joined())
        .map_err(|cause| Failure::system("view", "see the container's files", &cause))
}

fn join(plan: &Plan<'_>) -> io::Result<()> {
    for step in plan.steps() {
        let Step::Join { kinds, fd } = step else {
            continue;
        };
        let kinds = Kinds::from_bits(kinds);
        namespace::join(take(fd)?.as_fd(), kinds)?;
        if kinds == Kinds::USER {
            // A copy of its mounts for other users could not be taken apart.
            process::set_identity(0, 0, &[])?;
            process::set_dumpable(false)?;
        }
    }
    Ok(())
}

pub(crate) fn of_running(mounts: BorrowedFd<'_>) -> io::Result<View> {
    namespace::join(mounts, Kinds::MOUNT)?;
    of_joined()
}

fn of_joined() -> io::Result<View> {
    namespace::unshare(Kinds::MOUNT)?;
    mount::set_tree_propagation(mount::Propagation::Private)?;
    for path in NOT_FILES {
        match mount::detach(path) {
            // Not a mount, or not there.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {}
            result => result?,
        }
    }
    view()
}

pub(crate) fn of_stopped(plan: &Plan<'_>) -> Result<View, Failure> {
    let failed = |text: &'static str| move |cause| Failure::system("view", text, &cause);
    let mut sources = root::open(plan)?;
    namespace::unshare(Kinds::MOUNT)
        .and_then(|()| mount::set_tree_propagation(mount::Propagation::Private))
        .map_err(failed("make a mount namespace"))?;
    let root = root::attach(plan, sources.root.take()).map_err(failed("attach the root"))?;
    root::close_lowers(plan);
    mount::pivot(root.as_fd()).map_err(failed("enter the root"))?;
    inside::place_mounts(plan, root.as_fd(), Vec::new(), &mut sources.binds)?;
    view().map_err(failed("open the root"))
}

fn view() -> io::Result<View> {
    let whole = mount::open_directory(c"/")?;
    let alone = mount::clone_tree(whole.as_fd(), c"", false)?;
    Ok(View { whole, alone })
}
