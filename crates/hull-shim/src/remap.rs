//! A container whose users are not the host's: what the shim does for it from outside.
//!
//! ```text
//! clone ─ maps ─ layers, upper directory, volumes with mapped ids ─ overlay ─▶ child: becomes root inside
//! ```
//!
//! The kernel maps ids of mounts below an overlay, never of an overlay. So the disk has the image's ids
//! everywhere: what the container writes can be read as if it had the host's users, and the same
//! directories can be used with other maps, or none, the next time.
//!
//! A container that joins namespaces of another one joins its users too, as those namespaces belong
//! to them. It is born in them, by way of a joiner as for an exec.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::fchown;
use std::path::Path;

use hull_os::mount::{self, Attributes, Change, Filesystem};
use hull_os::namespace::{self, Kinds};
use hull_os::process::{self, ClonePlan, Cloned, SingleThreaded};
use hull_plan::plan::{IdMap, MountKind};
use hull_plan::{Failure, Plan, Step};

use crate::root;
use crate::stdio::ChildStreams;
use crate::{shown, take};

/// On the disk the owner of what the host's root makes through a mapped mount: overlay's own
/// directories, and files of a `cp` before they get their owner. No image has it.
const KEEPER: u32 = u32::MAX - 1;
/// The directory that the probe is given.
const PROBED: i32 = 3;

/// Whether the container has users that are not the host's.
pub(crate) fn is_wanted(plan: &Plan<'_>) -> bool {
    plan.steps().any(|step| matches!(step, Step::UidMap(_)))
}

/// The user namespace of another container, where it lives in that.
fn joined(plan: &Plan<'_>) -> Option<i32> {
    plan.steps().find_map(|step| match step {
        Step::Join { kinds, fd } if Kinds::from_bits(kinds) == Kinds::USER => Some(fd),
        _ => None,
    })
}

/// Clones the first process in the users of another container; none where it has its own.
pub(crate) fn clone_in(
    proof: &SingleThreaded,
    plan: &Plan<'_>,
    namespaces: Kinds,
) -> Option<io::Result<Cloned>> {
    joined(plan).map(|users| {
        let (reader, writer) = process::pipe()?;
        match process::clone(proof, &ClonePlan::default())? {
            Cloned::Child => {}
            Cloned::Parent { pidfd, .. } => {
                drop(writer);
                process::wait(pidfd.as_fd())?;
                let mut number = [0u8; 4];
                if process::read(reader.as_fd(), &mut number)? != number.len() {
                    return Err(io::Error::other(
                        "cannot enter the users of the other container",
                    ));
                }
                let pid = u32::from_le_bytes(number);
                // Nobody but us waits for it, so the number stays its own.
                let pidfd = process::pidfd_open(pid)?;
                return Ok(Cloned::Parent { pid, pidfd });
            }
        }
        match join_and_clone(proof, plan, users, namespaces) {
            Ok(Cloned::Child) => Ok(Cloned::Child),
            Ok(Cloned::Parent { pid, .. }) => {
                let _ = process::write(writer.as_fd(), &pid.to_le_bytes());
                process::exit_now(0)
            }
            Err(_) => process::exit_now(1),
        }
    })
}

/// The joiner's part.
fn join_and_clone(
    proof: &SingleThreaded,
    plan: &Plan<'_>,
    users: i32,
    namespaces: Kinds,
) -> io::Result<Cloned> {
    for step in plan.steps() {
        match step {
            Step::Join { kinds, fd } if Kinds::from_bits(kinds) == Kinds::PID => {
                namespace::join(take(fd)?.as_fd(), Kinds::PID)?;
            }
            _ => {}
        }
    }
    namespace::join(take(users)?.as_fd(), Kinds::USER)?;
    process::set_identity(0, 0, &[])?;
    process::set_dumpable(false)?;
    let clone_plan = ClonePlan {
        namespaces: namespaces.without(Kinds::USER),
        sibling: true,
        ..ClonePlan::default()
    };
    process::clone(proof, &clone_plan)
}

/// Maps the ids of a child that waits for it and of what it mounts, and makes its root.
pub(crate) fn equip(
    proof: &SingleThreaded,
    plan: &Plan<'_>,
    pid: u32,
    binds: &[OwnedFd],
) -> Result<OwnedFd, Failure> {
    let failed = |text: &'static str| {
        move |cause: io::Error| Failure::system("user namespace", text, &cause)
    };
    if joined(plan).is_none() {
        write_maps(plan.steps(), pid, None).map_err(failed("write id maps"))?;
    }
    let users = users_of_mounts(proof, plan.steps()).map_err(failed("make the map of mounts"))?;
    map_binds(plan, binds, users.as_fd())?;
    let parts = Parts::open(plan, users.as_fd())
        .map_err(failed("map the ids of layers and the upper directory"))?;
    namespace::open(pid, "mnt")
        .and_then(|mounts| namespace::in_mounts(mounts.as_fd(), || parts.overlay()))
        .map_err(failed("mount overlay of mapped layers"))
}

/// Lets root inside, of whom these are the ids on the host, open its own streams again.
pub(crate) fn give_streams(root: (u32, u32), streams: &ChildStreams) -> io::Result<()> {
    let (uid, gid) = root;
    streams
        .pipes()
        .try_for_each(|pipe| fchown(pipe, Some(uid), Some(gid)))
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

/// Tries whether a mount of the directory that was given can have mapped ids: 0, or an error number.
pub(crate) fn probe() -> i32 {
    let tried = SingleThreaded::prove().and_then(|proof| {
        let users = users_of_mounts(&proof, std::iter::empty())?;
        mapped(take(PROBED)?.as_fd(), c"", users.as_fd()).map(drop)
    });
    match tried {
        Ok(()) => 0,
        Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
    }
}

fn write_maps<'a>(
    steps: impl Iterator<Item = Step<'a>>,
    pid: u32,
    keeper: Option<u32>,
) -> io::Result<()> {
    let keeper = keeper.map_or(String::new(), |id| format!("{id} 0 1\n"));
    let (mut uids, mut gids) = (keeper.clone(), keeper);
    for step in steps {
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

/// A user namespace for mounts alone: the container's maps and a place for the host's root, who makes
/// the overlay and writes from outside. Nobody lives in it.
fn users_of_mounts<'a>(
    proof: &SingleThreaded,
    steps: impl Iterator<Item = Step<'a>>,
) -> io::Result<OwnedFd> {
    let (reader, writer) = process::pipe()?;
    let clone_plan = ClonePlan {
        namespaces: Kinds::USER,
        ..ClonePlan::default()
    };
    match process::clone(proof, &clone_plan)? {
        Cloned::Child => {
            drop(writer);
            let _ = process::read(reader.as_fd(), &mut [0u8; 1]);
            process::exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => {
            let made =
                write_maps(steps, pid, Some(KEEPER)).and_then(|()| namespace::open(pid, "user"));
            drop(writer);
            process::wait(pidfd.as_fd())?;
            made
        }
    }
}

/// Maps the ids of the plan's own binds; these are what was opened for them, in order.
fn map_binds(plan: &Plan<'_>, binds: &[OwnedFd], users: BorrowedFd<'_>) -> Result<(), Failure> {
    let kinds = plan.steps().filter_map(|step| match step {
        Step::SharedMemory(_) => Some((MountKind::Bind, c"/dev/shm")),
        Step::Mount(bind) => match bind.kind {
            MountKind::Bind | MountKind::BindRecursive | MountKind::BindMapped => {
                Some((bind.kind, bind.destination))
            }
            _ => None,
        },
        _ => None,
    });
    for ((kind, destination), tree) in kinds.zip(binds) {
        if kind != MountKind::BindMapped {
            continue;
        }
        map(tree.as_fd(), users).map_err(|cause| {
            let text = format!(
                "map the ids of {:?}, which its file system must be able to",
                shown(destination)
            );
            Failure::system("user namespace", &text, &cause)
        })?;
    }
    Ok(())
}

fn map(tree: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<()> {
    let change = Change {
        idmap: Some(users),
        ..Change::default()
    };
    mount::set_attributes(tree, &change)
}

/// A clone of a mount, with mapped ids.
fn mapped(dir: BorrowedFd<'_>, path: &CStr, users: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let tree = mount::clone_tree(dir, path, false)?;
    map(tree.as_fd(), users)?;
    Ok(tree)
}

/// What the overlay is made of: detached, with mapped ids.
struct Parts {
    /// The topmost first.
    layers: Vec<OwnedFd>,
    /// The directory that has the upper and the work directory: one mount, as overlay wants them.
    changes: OwnedFd,
    upper: CString,
    work: CString,
}

impl Parts {
    fn open(plan: &Plan<'_>, users: BorrowedFd<'_>) -> io::Result<Parts> {
        let root = root::root_of(plan).ok_or(io::ErrorKind::InvalidInput)?;
        let (above, upper) = split(root.upper)?;
        let (above_work, work) = split(root.work)?;
        if above != above_work {
            return Err(io::Error::other(
                "upper and work directory are not in the same directory",
            ));
        }
        let mut base = None;
        let mut layers = Vec::new();
        for step in plan.steps() {
            match step {
                Step::LowerDescriptor(fd) if fd > 2 => {
                    // SAFETY: layers are among the descriptors that this process was started with,
                    // and nobody closes them before the root is made.
                    let layer = unsafe { BorrowedFd::borrow_raw(fd) };
                    layers.push(mapped(layer, c"", users)?);
                }
                Step::LowerBase(path) => base = Some(mount::open_directory(path)?),
                Step::LowerName(name) => {
                    let base = base.as_ref().ok_or(io::ErrorKind::InvalidInput)?;
                    layers.push(mapped(base.as_fd(), name, users)?);
                }
                _ => {}
            }
        }
        Ok(Parts {
            layers,
            changes: mapped(mount::cwd(), &above, users)?,
            upper,
            work,
        })
    }

    /// Makes the overlay, in a mount namespace where nobody needs `/` by its path: the kernel takes
    /// only what is mounted there, and older kernels only names. The result is detached.
    fn overlay(&self) -> io::Result<OwnedFd> {
        let fs = Filesystem::open(c"tmpfs")?;
        fs.set(c"mode", c"700")?;
        let places = fs.mount(Attributes::none())?;
        mount::attach_at(places.as_fd(), c"/")?;
        mount::fchdir(places.as_fd())?;
        let place = |name: &str, tree: &OwnedFd| -> io::Result<()> {
            std::fs::create_dir(name)?;
            mount::attach_at(tree.as_fd(), &CString::new(name)?)
        };
        let mut names = Vec::new();
        for (number, layer) in self.layers.iter().enumerate() {
            names.push(number.to_string());
            place(&number.to_string(), layer)?;
        }
        place("changes", &self.changes)?;
        std::fs::create_dir("root")?;
        let text = |name: &CStr| [b"changes/", name.to_bytes()].concat();
        let options = root::classic_options(
            names.join(":").as_bytes(),
            &CString::new(text(&self.upper))?,
            &CString::new(text(&self.work))?,
        )?;
        mount::mount_classic(c"overlay", c"root", c"overlay", 0, &options)?;
        let made = mount::clone_tree(mount::cwd(), c"root", false)?;
        // The overlay has its own holds on its parts. What stayed on `/` would be the child's root, and
        // what is below it would not go with it.
        mount::detach(c".")?;
        Ok(made)
    }
}

/// The directory that something lies in, and its name there.
fn split(path: &CStr) -> io::Result<(CString, CString)> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    match (path.parent(), path.file_name()) {
        (Some(above), Some(name)) => Ok((
            CString::new(above.as_os_str().as_bytes())?,
            CString::new(name.as_bytes())?,
        )),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}
