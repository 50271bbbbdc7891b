//! Starts an added process.
//!
//! ```text
//! shim ──clone──▶ joiner: enters cgroup and namespaces ──clone, same parent──▶ process
//!                    └─ ends
//! ```
//!
//! The joiner exists so that the process is born inside: what the container can see of it has never
//! held a descriptor of ours or a view of the host.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use hull_os::namespace::{self, Kinds};
use hull_os::process::{self, ClonePlan, Cloned, SingleThreaded};
use hull_os::socket;
use hull_plan::interpret::{self, Program};
use hull_plan::message::StartFailure;
use hull_plan::{Failure, Process};

use crate::cgroup::Cgroup;
use crate::container::wire;
use crate::inside::{announce, fail};
use crate::remap;
use crate::serve::decode_failure;
use crate::stdio::{self, ChildStreams, Stdio, terminal};

/// Where a process is added.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The container's first process.
    pub(crate) init: BorrowedFd<'a>,
    /// Namespaces that differ from ours.
    pub(crate) kinds: Kinds,
    pub(crate) cgroup: &'a Cgroup,
    /// User and group on the host that are root inside, where those are not the same.
    pub(crate) root_ids: Option<(u32, u32)>,
    /// The container's readiness to be killed, where ours is another.
    pub(crate) oom_score_adj: Option<&'a str>,
}

/// A process that was started, and its ends.
#[derive(Debug)]
pub(crate) struct Added {
    pub(crate) pid: u32,
    pub(crate) sync: OwnedFd,
    pub(crate) stdio: Stdio,
}

/// Starts a process. Whether its program runs is reported on `sync` later.
pub(crate) fn start(steps: Process<'_>, place: &Place<'_>) -> Result<Added, StartFailure> {
    let failed =
        |cause: io::Error| wire(&Failure::system("exec", "start an added process", &cause));
    let (stdio, streams) = stdio::make(&steps).map_err(failed)?;
    if let Some(ids) = place.root_ids {
        remap::give_streams(ids, &streams).map_err(failed)?;
    }
    let (ours, theirs) = socket::message_pair().map_err(failed)?;
    // Not on the same socket: the process may speak before the joiner does.
    let (pid_reader, pid_writer) = process::pipe().map_err(failed)?;
    let proof = SingleThreaded::prove().map_err(failed)?;
    let into = place.cgroup.clone_into().map_err(failed)?;
    let plan = ClonePlan {
        cgroup: into.as_ref().map(AsFd::as_fd),
        ..ClonePlan::default()
    };
    match process::clone(&proof, &plan).map_err(failed)? {
        Cloned::Child => {
            let ends = JoinerEnds {
                streams: &streams,
                sync: &theirs,
                pid: &pid_writer,
            };
            join(&proof, steps, place, &ends)
        }
        Cloned::Parent { pidfd, .. } => {
            drop((streams, theirs, pid_writer));
            // Its end is awaited first: then what it had to say is there.
            process::wait(pidfd.as_fd()).map_err(failed)?;
            let pid = receive_pid(pid_reader.as_fd(), ours.as_fd())?;
            process::set_nonblocking(ours.as_fd()).map_err(failed)?;
            Ok(Added {
                pid,
                sync: ours,
                stdio,
            })
        }
    }
}

fn receive_pid(pid: BorrowedFd<'_>, sync: BorrowedFd<'_>) -> Result<u32, StartFailure> {
    let mut number = [0u8; 4];
    if let Ok(4) = process::read(pid, &mut number) {
        return Ok(u32::from_le_bytes(number));
    }
    let mut buffer = [0u8; 8192];
    let (length, _) = socket::receive(sync, &mut buffer)
        .map_err(|cause| wire(&Failure::system("exec", "join the container", &cause)))?;
    Err(decode_failure(&buffer[..length]).unwrap_or_else(|| {
        let text = "container process ended before the exec could join";
        wire(&Failure::plain("exec", text.to_owned()))
    }))
}

/// What the joiner keeps open.
#[derive(Clone, Copy)]
struct JoinerEnds<'a> {
    streams: &'a ChildStreams,
    sync: &'a OwnedFd,
    pid: &'a OwnedFd,
}

/// The joiner; never returns.
fn join(proof: &SingleThreaded, steps: Process<'_>, place: &Place<'_>, ends: &JoinerEnds<'_>) -> ! {
    let JoinerEnds {
        streams,
        sync,
        pid: pid_writer,
    } = *ends;
    let failed = |step, text: &str, cause: io::Error| -> ! {
        fail(sync.as_fd(), &Failure::system(step, text, &cause))
    };
    if let Err(cause) = place.cgroup.enter() {
        failed("cgroup", "unable to join the container's cgroup", cause);
    }
    let mut keep = vec![
        sync.as_raw_fd(),
        pid_writer.as_raw_fd(),
        place.init.as_raw_fd(),
    ];
    keep.extend(streams.descriptors());
    process::close_all_except(&mut keep);
    let asked = steps.oom_score_adj().map(|value| value.to_string());
    if let Some(value) = asked.as_deref().or(place.oom_score_adj)
        && let Err(cause) = std::fs::write("/proc/self/oom_score_adj", value)
    {
        failed("oom_score_adj", "write oom_score_adj", cause);
    }
    if place.root_ids.is_some()
        && let Err(cause) = steps.rlimits().try_for_each(|(resource, soft, hard)| {
            // What is above the hard limit only root of the host may set.
            process::set_rlimit(resource, soft, hard)
        })
    {
        failed("rlimit", "error setting rlimits", cause);
    }
    if let Err(cause) = namespace::join(place.init, place.kinds) {
        failed("namespace", "join the container's namespaces", cause);
    }
    if place.kinds.contains(Kinds::USER)
        && let Err(cause) =
            process::set_identity(0, 0, &[]).and_then(|()| process::set_dumpable(false))
    {
        failed("namespace", "become root inside", cause);
    }
    match process::clone(
        proof,
        &ClonePlan {
            sibling: true,
            ..ClonePlan::default()
        },
    ) {
        Ok(Cloned::Child) => become_process(steps, streams, sync),
        Ok(Cloned::Parent { pid, .. }) => {
            let _ = process::write(pid_writer.as_fd(), &pid.to_le_bytes());
            process::exit_now(0)
        }
        Err(cause) => failed("clone", "clone the added process", cause),
    }
}

fn become_process(steps: Process<'_>, streams: &ChildStreams, sync: &OwnedFd) -> ! {
    let placed = process::start_session().and_then(|()| match steps.terminal() {
        None => streams.place(),
        Some(size) => {
            terminal::open(sync.as_fd(), size).and_then(|slave| terminal::take(slave.as_fd()))
        }
    });
    if let Err(cause) = placed {
        fail(
            sync.as_fd(),
            &Failure::system("stdio", "set up standard streams", &cause),
        );
    }
    process::reset_signals();
    let failure = interpret::enter(steps, Program::Argument, || announce(sync.as_fd()));
    fail(sync.as_fd(), &failure)
}
