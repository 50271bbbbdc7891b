//! The cgroup of the container.

use std::io;
use std::time::{Duration, Instant};

/// How long removal waits for what is just ending.
const REMOVE_MS_MAX: u64 = 200;

/// The container's directory in each hierarchy.
#[derive(Debug, Default)]
pub(crate) struct Cgroup {
    dirs: Vec<std::path::PathBuf>,
}

impl Cgroup {
    /// Makes the directories.
    pub(crate) fn create(path: &str, _limits: &[u8]) -> io::Result<Cgroup> {
        let mut dirs = Vec::new();
        for mount in hierarchies()? {
            let dir = mount.join(path);
            std::fs::create_dir_all(&dir)?;
            let mut level = mount.clone();
            for part in path.split('/') {
                let parent = level.clone();
                level.push(part);
                for name in ["cpuset.cpus", "cpuset.mems"] {
                    if let Ok(value) = std::fs::read_to_string(parent.join(name)) {
                        std::fs::write(level.join(name), value)?;
                    }
                }
            }
            dirs.push(dir);
        }
        Ok(Cgroup { dirs })
    }

    /// Moves a process into it.
    pub(crate) fn attach(&self, pid: u32) -> io::Result<()> {
        self.dirs
            .iter()
            .try_for_each(|dir| std::fs::write(dir.join("cgroup.procs"), pid.to_string()))
    }

    /// Whether the kernel killed something for lack of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        self.dirs.iter().any(|dir| {
            ["memory.oom_control", "memory.events"].iter().any(|name| {
                std::fs::read_to_string(dir.join(name)).is_ok_and(|text| {
                    text.lines().any(|line| {
                        line.strip_prefix("oom_kill ")
                            .is_some_and(|count| count != "0")
                    })
                })
            })
        })
    }

    /// Kills everything in it.
    pub(crate) fn kill(&self) {
        for dir in &self.dirs {
            let Ok(text) = std::fs::read_to_string(dir.join("cgroup.procs")) else {
                continue;
            };
            for pid in text.lines().filter_map(|line| line.parse().ok()) {
                // SAFETY: integers only.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
    }

    /// Removes the directories, as far as they are empty.
    pub(crate) fn remove(&self) {
        let deadline = Instant::now() + Duration::from_millis(REMOVE_MS_MAX);
        for dir in &self.dirs {
            while std::fs::remove_dir(dir)
                .is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy)
                && Instant::now() < deadline
            {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

fn hierarchies() -> io::Result<Vec<std::path::PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4).map(Into::into))
        .collect())
}
