//! Freezing, thawing and killing a whole group, and seeing it empty.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::file::{
    PAUSE, children, exists, explain, number_of, open_read, read, wait_change, write,
};
use super::{Group, Hierarchy};

/// How long freezing may take: a process in an uninterruptible wait holds it up.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

/// Time until the second look at `cgroup.events`, doubled at each. The kernel tells of changes at
/// most every 10 ms, and a killed process is gone in a tenth of one.
const FIRST_LOOK: Duration = Duration::from_micros(50);
/// Longest time between two looks.
const LAST_LOOK: Duration = Duration::from_millis(10);

impl Group {
    /// The processes in it and below it, in whatever hierarchy they are.
    ///
    /// # Errors
    /// When a list cannot be read; a group that does not exist has none.
    pub fn pids(&self) -> io::Result<BTreeSet<u32>> {
        let mut pids = BTreeSet::new();
        for hierarchy in self.hierarchies.all.iter() {
            collect(hierarchy, &self.path, &mut pids)?;
        }
        Ok(pids)
    }

    /// Kills every process in it and below it, and waits until none is left.
    ///
    /// # Errors
    /// `TimedOut` when some are left at the deadline.
    pub fn kill_all(&self, deadline: Instant) -> io::Result<()> {
        if let Some(unified) = self.hierarchies.unified() {
            // Since 5.14: at once, frozen or not, and no process can fork away from it.
            let kill = self.file("cgroup.kill");
            if write(&unified.dir, &kill, "1").is_ok() {
                self.wait_event(unified, "populated", 0, deadline)?;
            }
        }
        // What v1 holds elsewhere, or all of it where there is no such file.
        for round in 0.. {
            let pids = self.pids()?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let text = format!("kill {} processes of", pids.len());
                return Err(explain(text, &self.path)(io::ErrorKind::TimedOut.into()));
            }
            // Who forks faster than we read is stopped for the while; what is frozen dies when
            // it thaws.
            if round > 0 {
                drop(self.set_freezer("FROZEN"));
            }
            for pid in self.pids()? {
                let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
                // SAFETY: integers only. It may have ended since: then nothing happens.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            drop(self.set_freezer("THAWED"));
            sleep(PAUSE);
        }
        Ok(())
    }

    /// Stops every process in it, and waits until they stand.
    ///
    /// # Errors
    /// `TimedOut` when one does not stop; all run again then. `Unsupported` without a freezer.
    pub fn freeze(&self) -> io::Result<()> {
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        let frozen = match self.freezing_tree() {
            Some(unified) => write(&unified.dir, &self.file("cgroup.freeze"), "1")
                .and_then(|()| self.wait_event(unified, "frozen", 1, deadline)),
            None => self.freeze_v1(deadline),
        };
        if frozen.is_err() {
            // The first error is the one that matters.
            drop(self.thaw());
        }
        frozen
    }

    /// Lets every process in it go on.
    ///
    /// # Errors
    /// `Unsupported` without a freezer.
    pub fn thaw(&self) -> io::Result<()> {
        match self.freezing_tree() {
            Some(unified) => write(&unified.dir, &self.file("cgroup.freeze"), "0"),
            None => self.set_freezer("THAWED"),
        }
    }

    /// v2's tree where it can freeze (since 5.2) and this group is in it.
    fn freezing_tree(&self) -> Option<&Hierarchy> {
        let unified = self.hierarchies.unified()?;
        exists(&unified.dir, &self.file("cgroup.freeze")).then_some(unified)
    }

    fn freeze_v1(&self, deadline: Instant) -> io::Result<()> {
        // A process that forked meanwhile needs to be told again, so the state is written anew.
        loop {
            self.set_freezer("FROZEN")?;
            if self.read("freezer", "freezer.state")?.trim() == "FROZEN" {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(explain("freeze", &self.path)(
                    io::ErrorKind::TimedOut.into(),
                ));
            }
            sleep(PAUSE);
        }
    }

    fn set_freezer(&self, state: &str) -> io::Result<()> {
        let Some(freezer) = self.hierarchies.all.iter().find(|hierarchy| {
            hierarchy
                .controllers
                .iter()
                .any(|controller| controller == "freezer")
        }) else {
            return Err(explain("freeze", &self.path)(
                io::ErrorKind::Unsupported.into(),
            ));
        };
        write(&freezer.dir, &self.file("freezer.state"), state)
    }

    /// Waits for a number in `cgroup.events`; a group that is gone has no processes.
    fn wait_event(
        &self,
        unified: &Hierarchy,
        word: &str,
        wanted: u64,
        deadline: Instant,
    ) -> io::Result<()> {
        let path = self.file("cgroup.events");
        let mut file = open_read(&unified.dir, &path).map_err(explain("open", &path))?;
        let mut look_again = FIRST_LOOK;
        loop {
            match reread(&mut file) {
                Ok(text) if number_of(&text, word) == Some(wanted) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
                Err(error) => return Err(explain("read", &path)(error)),
            }
            if Instant::now() >= deadline {
                let step = format!("wait for {word} {wanted} in");
                return Err(explain(step, &path)(io::ErrorKind::TimedOut.into()));
            }
            wait_change(
                &file,
                look_again.min(deadline.saturating_duration_since(Instant::now())),
            )?;
            look_again = (2 * look_again).min(LAST_LOOK);
        }
    }
}

fn reread(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn collect(hierarchy: &Hierarchy, path: &str, pids: &mut BTreeSet<u32>) -> io::Result<()> {
    match read(&hierarchy.dir, &format!("{path}/cgroup.procs")) {
        // 0 stands for a process that this process namespace does not show.
        Ok(text) => pids.extend(
            text.lines()
                .filter_map(|n| n.parse().ok())
                .filter(|n: &u32| *n != 0),
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    for child in children(&hierarchy.dir, path)? {
        collect(hierarchy, &format!("{path}/{child}"), pids)?;
    }
    Ok(())
}
