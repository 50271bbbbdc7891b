//! The cgroup of the container, or none yet.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hull_os::cgroup::{Group, Hierarchies, Limits};
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
    /// Makes the directories and sets the limits of the plan.
    pub(crate) fn create(plan: &Plan<'_>) -> Result<Cgroup, Failure> {
        for step in plan.steps() {
            if let Step::Cgroup {
                hierarchies,
                path,
                limits,
            } = step
            {
                let path = shown(path);
                let failed = |cause: io::Error| {
                    Failure::system("cgroup", &format!("unable to apply cgroup {path}"), &cause)
                };
                let limits = Limits::decode(limits)
                    .map_err(|error| Failure::plain("cgroup", error.to_string()))?;
                let hierarchies = Hierarchies::parse(&shown(hierarchies)).map_err(failed)?;
                return hierarchies
                    .create(&path, &limits)
                    .map(|group| Cgroup(Some(group)))
                    .map_err(failed);
            }
        }
        Ok(Cgroup(None))
    }

    /// Where a child is to be cloned into.
    pub(crate) fn clone_into(&self) -> io::Result<Option<OwnedFd>> {
        self.0.as_ref().map_or(Ok(None), Group::open_fd)
    }

    /// Moves the calling child, which was cloned into it, the rest of the way.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), Group::attach_self)
    }

    /// Moves a child that was cloned into it and may not move itself the rest of the way.
    pub(crate) fn attach(&self, pid: u32) -> io::Result<()> {
        self.0
            .as_ref()
            .map_or(Ok(()), |group| group.attach_cloned(pid))
    }

    /// Whether the kernel killed something for lack of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let count = |group: &Group| group.oom_count().unwrap_or(0);
        self.0.as_ref().map_or(0, count) > 0
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

fn deadline(ms: u64) -> Instant {
    Instant::now() + Duration::from_millis(ms)
}
