//! Takes down the cgroup of a sandbox.

use std::io;
use std::time::Instant;

use hull_os::cgroup::Hierarchies;

/// Kills what is in the cgroup, sees it empty, removes it. Says what is left at the deadline.
pub(crate) fn remove(path: &str, until: Instant) -> io::Result<Option<String>> {
    let group = Hierarchies::detect()?.open_group(path);
    let removed = group.kill_all(until).and_then(|()| group.remove(until));
    match removed {
        Ok(()) => Ok(None),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::TimedOut | io::ErrorKind::ResourceBusy
            ) =>
        {
            let pids = group.pids().unwrap_or_default();
            let named: Vec<String> = pids.iter().map(u32::to_string).collect();
            Ok(Some(format!(
                "cgroup {path} with processes {}",
                named.join(" ")
            )))
        }
        Err(error) => Err(error),
    }
}
