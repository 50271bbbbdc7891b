//! Takes down the cgroup of a sandbox.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Kills what is in the cgroup, sees it empty, removes it. Says what is left at the deadline.
pub(crate) fn remove(path: &str, until: Instant) -> io::Result<Option<String>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    let dirs: Vec<PathBuf> = text
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| Some(PathBuf::from(line.split(' ').nth(4)?).join(path)))
        .collect();
    loop {
        let mut left = None;
        for dir in &dirs {
            for pid in std::fs::read_to_string(dir.join("cgroup.procs"))
                .unwrap_or_default()
                .lines()
            {
                left = Some(format!("process {pid}"));
                let pidfd = pid
                    .parse()
                    .ok()
                    .and_then(|pid| hull_os::process::pidfd_open(pid).ok());
                if let Some(pidfd) = pidfd {
                    use std::os::fd::AsFd;
                    let _ = hull_os::process::pidfd_send_signal(pidfd.as_fd(), 9);
                }
            }
            match std::fs::remove_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    left = left.or(Some(format!("cgroup {}", dir.display())));
                }
                _ => {}
            }
        }
        if left.is_none() || Instant::now() >= until {
            return Ok(left);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
