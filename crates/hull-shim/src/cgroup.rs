//! The cgroup of the container: where its processes are put, and what is left of them.

use std::io;
use std::time::{Duration, Instant};

use hull_os::cgroup::{Group, Hierarchies, Limits};

/// How long removal waits for what is just ending; what is left then is the daemon's.
const REMOVE_MS_MAX: u64 = 200;
/// How long killed processes may take to vanish.
const KILL_MS_MAX: u64 = 2_000;

/// The container's cgroup; none before it was made.
#[derive(Debug, Default)]
pub(crate) struct Cgroup(Option<Group>);

impl Cgroup {
    /// Makes it, with limits in the form of [`Limits::encode`]; none: no limits.
    pub(crate) fn create(path: &str, limits: &[u8]) -> io::Result<Cgroup> {
        let limits = if limits.is_empty() {
            Limits::default()
        } else {
            Limits::decode(limits)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
        };
        Ok(Cgroup(Some(Hierarchies::detect()?.create(path, &limits)?)))
    }

    /// Moves a process into it.
    pub(crate) fn attach(&self, pid: u32) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |group| group.attach(pid))
    }

    /// Whether the kernel killed something for lack of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let count = |group: &Group| group.oom_count().unwrap_or(0);
        self.0.as_ref().is_some_and(|group| count(group) > 0)
    }

    /// Kills everything in it and sees it empty, within a bound.
    pub(crate) fn kill(&self) {
        if let Some(group) = &self.0 {
            // What is left is found by the daemon, which does the same again.
            let _ = group.kill_all(Instant::now() + Duration::from_millis(KILL_MS_MAX));
        }
    }

    /// Removes it, as far as it is empty.
    pub(crate) fn remove(&self) {
        if let Some(group) = &self.0 {
            let _ = group.remove(Instant::now() + Duration::from_millis(REMOVE_MS_MAX));
        }
    }
}
