//! The cgroup of the container, or none yet.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use hull_os::cgroup::{Group, Hierarchies, Limits, OomWatch};
use hull_os::process::PollFd;
use hull_plan::{Failure, Plan, Step};

use crate::shown;

/// How long removal waits for what is just ending. The daemon's discard does the rest.
const REMOVE_MS_MAX: u64 = 200;
/// How long killed processes may take to vanish.
const KILL_MS_MAX: u64 = 2_000;

/// The container's directory in each hierarchy.
#[derive(Debug, Default)]
pub(crate) struct Cgroup(Option<Group>);

impl Cgroup {
    /// Names it; nothing is made.
    pub(crate) fn open(plan: &Plan<'_>) -> Result<Cgroup, Failure> {
        let Some((hierarchies, path, _)) = of(plan) else {
            return Ok(Cgroup(None));
        };
        let hierarchies =
            Hierarchies::parse(&shown(hierarchies)).map_err(|cause| failure(path, &cause))?;
        Ok(Cgroup(Some(hierarchies.open_group(&shown(path)))))
    }

    /// Makes the part that a child is cloned into, if this host has one.
    pub(crate) fn create_for_clone(plan: &Plan<'_>) -> Result<Option<OwnedFd>, Failure> {
        let Some((hierarchies, path, _)) = of(plan) else {
            return Ok(None);
        };
        Hierarchies::parse(&shown(hierarchies))
            .and_then(|hierarchies| hierarchies.create_for_clone(&shown(path)))
            .map_err(|cause| failure(path, &cause))
    }

    /// Makes the rest and sets the limits.
    pub(crate) fn create(plan: &Plan<'_>) -> Result<Cgroup, Failure> {
        let Some((hierarchies, path, limits)) = of(plan) else {
            return Ok(Cgroup(None));
        };
        let limits =
            Limits::decode(limits).map_err(|error| Failure::plain("cgroup", error.to_string()))?;
        Hierarchies::parse(&shown(hierarchies))
            .and_then(|hierarchies| hierarchies.create(&shown(path), &limits))
            .map(|group| Cgroup(Some(group)))
            .map_err(|cause| failure(path, &cause))
    }

    /// Where an exec is to be cloned into.
    pub(crate) fn clone_into(&self) -> io::Result<Option<OwnedFd>> {
        self.0.as_ref().map_or(Ok(None), Group::open_fd)
    }

    /// Moves the calling child, which was cloned into it, the rest of the way.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), Group::attach_self)
    }

    /// Moves a child that was cloned into it and may not move itself the rest of the way.
    pub(crate) fn attach(&self, pid: u32) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |group| group.attach(pid))
    }

    /// Whether the kernel killed something for lack of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let count = |group: &Group| group.oom_count().unwrap_or(0);
        self.0.as_ref().map_or(0, count) > 0
    }

    /// Watches for lack of memory; none where the host has no controller of it.
    pub(crate) fn watch(&self) -> Option<Watch> {
        self.0.as_ref()?.oom_watch().ok().map(Watch)
    }

    /// Kills everything in it.
    pub(crate) fn kill(&self) {
        if let Some(group) = &self.0 {
            // What is left at the deadline is the daemon's to discard.
            let _ = group.kill_all(deadline(KILL_MS_MAX));
        }
    }

    /// Removes the directories, as far as they are empty.
    pub(crate) fn remove(&self) {
        if let Some(group) = &self.0 {
            let _ = group.remove(deadline(REMOVE_MS_MAX));
        }
    }
}

/// Becomes ready when memory ran out.
#[derive(Debug)]
pub(crate) struct Watch(OomWatch);

impl Watch {
    pub(crate) fn interest(&self) -> PollFd {
        PollFd::new(self.0.as_fd(), self.0.poll_events())
    }

    /// Whether it did since the last look; an error when the group is gone.
    pub(crate) fn ran_out(&mut self) -> io::Result<bool> {
        self.0.ran_out()
    }
}

fn of<'a>(plan: &Plan<'a>) -> Option<(&'a CStr, &'a CStr, &'a [u8])> {
    plan.steps().find_map(|step| match step {
        Step::Cgroup {
            hierarchies,
            path,
            limits,
        } => Some((hierarchies, path, limits)),
        _ => None,
    })
}

fn failure(path: &CStr, cause: &io::Error) -> Failure {
    Failure::system(
        "cgroup",
        &format!("unable to apply cgroup {}", shown(path)),
        cause,
    )
}

fn deadline(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}
