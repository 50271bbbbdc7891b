//! A container whose users are not the host's: what the shim does for it from outside.
//!
//! ```text
//! clone ─ maps ─ layers with mapped ids ─ overlay ─▶ child: becomes root inside, goes on as always
//! ```
//!
//! The layers are mapped and never the overlay, which the kernel refuses. What the container writes
//! lies in the upper directory with the ids of the host, so that directory belongs to one map.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::fchown;

use hull_os::mount::{self, Change};
use hull_os::{namespace, process};
use hull_plan::plan::IdMap;
use hull_plan::{Failure, Plan, Step};

use crate::root;
use crate::stdio::ChildStreams;

/// Whether the container has users of its own.
pub(crate) fn is_wanted(plan: &Plan<'_>) -> bool {
    plan.steps().any(|step| matches!(step, Step::UidMap(_)))
}

/// Maps the ids of a child that waits for it, and makes its root.
pub(crate) fn equip(plan: &Plan<'_>, pid: u32) -> Result<OwnedFd, Failure> {
    let failed = |text: &'static str| {
        move |cause: io::Error| Failure::system("user namespace", text, &cause)
    };
    write_maps(plan, pid).map_err(failed("write id maps"))?;
    let users = namespace::open(pid, "user").map_err(failed("open the user namespace"))?;
    let (uid, gid) = root_of(plan);
    if let Some(root) = root::root_of(plan) {
        // The directory that shows as `/`.
        let upper = mount::open_directory(root.upper).map_err(failed("open upper directory"))?;
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&upper));
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .map_err(failed("give the upper directory to root inside"))?;
    }
    root::mapped_overlay(plan, users.as_fd()).map_err(failed("mount overlay of mapped layers"))
}

/// Lets root inside, of whom these are the ids on the host, open its own streams again.
pub(crate) fn give_streams(root: (u32, u32), streams: &ChildStreams) -> io::Result<()> {
    let (uid, gid) = root;
    streams
        .pipes()
        .try_for_each(|pipe| fchown(pipe, Some(uid), Some(gid)))
}

/// A clone of a layer's mount with mapped ids.
pub(crate) fn map_layer(layer: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let clone = mount::clone_tree(layer, c"", false)?;
    let change = Change {
        idmap: Some(users),
        ..Change::default()
    };
    mount::set_attributes(clone.as_fd(), &change)?;
    Ok(clone)
}

/// User and group on the host that are root inside.
pub(crate) fn root_of(plan: &Plan<'_>) -> (u32, u32) {
    let (mut uid, mut gid) = (0, 0);
    for step in plan.steps() {
        match step {
            Step::UidMap(map) if map.inside == 0 => uid = map.host,
            Step::GidMap(map) if map.inside == 0 => gid = map.host,
            _ => {}
        }
    }
    (uid, gid)
}

fn write_maps(plan: &Plan<'_>, pid: u32) -> io::Result<()> {
    let (mut uids, mut gids) = (String::new(), String::new());
    for step in plan.steps() {
        let (
            text,
            IdMap {
                inside,
                host,
                count,
            },
        ) = match step {
            Step::UidMap(map) => (&mut uids, map),
            Step::GidMap(map) => (&mut gids, map),
            _ => continue,
        };
        text.push_str(&format!("{inside} {host} {count}\n"));
    }
    process::write_file(mount::cwd(), &format!("/proc/{pid}/gid_map"), &gids)?;
    process::write_file(mount::cwd(), &format!("/proc/{pid}/uid_map"), &uids)
}
