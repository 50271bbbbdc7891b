//! Cgroups of v1, of v2 and of both at once, behind one interface.
//!
//! ```text
//!  Hierarchies::detect ──▶ create("hull/ID", limits) ──▶ Group: attach, freeze, kill, stats, remove
//!                     └──▶ open_group("hull/ID")     ──▶   (after a restart; nothing is remembered)
//! ```
//!
//! A group is one directory of the same path in every hierarchy, relative to its mount point. In
//! the hybrid form v1 holds the limits, and v2's tree is used for what it does better: killing and
//! freezing a whole group at once, and saying when it is empty. A controller that somebody left in
//! v2's tree beside v1 counts as absent.
//!
//! No global state and no cache of what the kernel holds: daemon and shim use the same group by
//! its path. Which parent, which limits and which devices are decided elsewhere.

mod devices;
mod file;
mod kill;
mod limits;
mod stats;
mod support;
mod v1;
mod v2;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

pub use devices::{Access, CONTAINER_RULES, DENY_ALL, DeviceKind, DeviceRule, InvalidDeviceRule};
pub use limits::{BlkioKind, BlkioLimit, Limits, MalformedLimits};
pub use stats::{BlkioStats, CpuStats, MemoryStats, Stats};
pub use support::{MEMORY_BYTES_MIN, Refused, Support};

use crate::process::own;
use file::{exists, explain, make_directory, open_directory, read, remove_tree, write};

/// Controllers of v1 that this kernel may have; other words in the options of a mount are options.
const V1_CONTROLLERS: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
];

/// Controllers of v2 that are passed on to our groups.
const V2_CONTROLLERS: [&str; 7] = ["cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma"];

/// One mounted tree of cgroups.
#[derive(Debug)]
struct Hierarchy {
    /// Controllers of v1, or `name=systemd`; empty: v2.
    controllers: Vec<String>,
    mount: PathBuf,
    dir: OwnedFd,
}

impl Hierarchy {
    fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }
}

/// The trees of cgroups on this host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Hierarchies {
    all: Arc<[Hierarchy]>,
}

/// A value for a file of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Write {
    controller: &'static str,
    file: Cow<'static, str>,
    value: String,
    /// Where to write, and what, when there is no such file.
    instead: Option<(&'static str, String)>,
    /// The kernel without this file does what is wanted anyway.
    may_lack: bool,
}

impl Write {
    fn new(controller: &'static str, file: impl Into<Cow<'static, str>>, value: String) -> Self {
        Self {
            controller,
            file: file.into(),
            value,
            instead: None,
            may_lack: false,
        }
    }

    fn or_else(mut self, file: &'static str) -> Self {
        self.instead = Some((file, self.value.clone()));
        self
    }

    fn or_else_value(mut self, file: &'static str, value: String) -> Self {
        self.instead = Some((file, value));
        self
    }

    fn or_skip(mut self) -> Self {
        self.may_lack = true;
        self
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.file, self.value)
    }
}

impl Hierarchies {
    /// Finds the trees that are mounted.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn detect() -> io::Result<Self> {
        let text = std::fs::read_to_string("/proc/self/mountinfo")
            .map_err(explain("read", "/proc/self/mountinfo"))?;
        Self::open(parse_mountinfo(&text))
    }

    /// What [`Hierarchies::parse`] reads: spares a child the search on a host with many mounts.
    pub fn describe(&self) -> String {
        let line = |hierarchy: &Hierarchy| {
            format!(
                "{} {}\n",
                hierarchy.controllers.join(","),
                hierarchy.mount.display()
            )
        };
        self.all.iter().map(line).collect()
    }

    /// Opens the trees that [`Hierarchies::describe`] wrote down.
    ///
    /// # Errors
    /// When one is not mounted there any more.
    pub fn parse(description: &str) -> io::Result<Self> {
        let line = |line: &str| {
            let (controllers, mount) = line.split_once(' ')?;
            let names = controllers.split(',').filter(|name| !name.is_empty());
            Some((names.map(str::to_owned).collect(), PathBuf::from(mount)))
        };
        Self::open(description.lines().filter_map(line).collect())
    }

    fn open(found: Vec<(Vec<String>, PathBuf)>) -> io::Result<Self> {
        let one = |(controllers, mount): (Vec<String>, PathBuf)| {
            let dir = file::open_mount(&mount)?;
            Ok(Hierarchy {
                controllers,
                mount,
                dir,
            })
        };
        let all: Arc<[Hierarchy]> = found.into_iter().map(one).collect::<io::Result<_>>()?;
        if all.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no cgroup hierarchy is mounted",
            ));
        }
        Ok(Self { all })
    }

    /// Tells whether v2 is all there is.
    pub fn is_v2(&self) -> bool {
        self.all.iter().all(Hierarchy::is_v2)
    }

    /// Mount points with the names of their controllers, for mounts inside a container: `cpu`,
    /// `cpu,cpuacct`, `systemd` (a named tree), and nothing for v2.
    pub fn mounts(&self) -> impl Iterator<Item = (String, &Path)> {
        self.all.iter().map(|hierarchy| {
            let names = hierarchy.controllers.join(",");
            let name = names
                .strip_prefix("name=")
                .map_or(names.clone(), str::to_owned);
            (name, hierarchy.mount.as_path())
        })
    }

    /// The group of this process in v2's tree, or in the named tree of v1: what a service manager
    /// put it into.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn own_path() -> io::Result<String> {
        let text = std::fs::read_to_string("/proc/self/cgroup")
            .map_err(explain("read", "/proc/self/cgroup"))?;
        Ok(parse_own_path(&text).unwrap_or("/").to_owned())
    }

    /// Where a controller is.
    fn of(&self, controller: &str) -> Option<&Hierarchy> {
        if self.is_v2() {
            return self.all.first();
        }
        self.all
            .iter()
            .find(|hierarchy| hierarchy.controllers.iter().any(|c| c == controller))
    }

    /// v2's tree, alone or beside v1.
    fn unified(&self) -> Option<&Hierarchy> {
        self.all.iter().find(|hierarchy| hierarchy.is_v2())
    }

    /// Names a group without looking whether it exists.
    pub fn open_group(&self, path: &str) -> Group {
        Group {
            hierarchies: self.clone(),
            path: path.trim_matches('/').to_owned(),
        }
    }

    /// Makes a group, with its parents, and sets its limits. One that exists is taken over. What
    /// was made is removed again when something fails.
    ///
    /// # Errors
    /// The step that failed, with the kernel's reason.
    pub fn create(&self, path: &str, limits: &Limits) -> io::Result<Group> {
        let group = self.open_group(path);
        check_path(&group.path)?;
        let mut made = Vec::with_capacity(self.all.len());
        let result = self
            .all
            .iter()
            .try_for_each(|hierarchy| {
                if group.make_in(hierarchy)? {
                    made.push(hierarchy);
                }
                Ok(())
            })
            .and_then(|()| group.apply(limits, None));
        match result {
            Ok(()) => Ok(group),
            Err(error) => {
                for hierarchy in made {
                    // The first error is the one that matters.
                    drop(remove_tree(&hierarchy.dir, &group.path, Instant::now()));
                }
                Err(error)
            }
        }
    }

    /// Makes a group in v2's tree alone and opens it, for a process that is to be cloned into it.
    /// [`Hierarchies::create`] makes the rest while that process prepares itself, which then calls
    /// [`Group::attach_self`]. None on a host with v1 alone.
    ///
    /// # Errors
    /// The step that failed, with the kernel's reason.
    pub fn create_for_clone(&self, path: &str) -> io::Result<Option<OwnedFd>> {
        let group = self.open_group(path);
        check_path(&group.path)?;
        if let Some(unified) = self.unified() {
            group.make_in(unified)?;
        }
        group.open_fd()
    }

    /// Names of the groups directly below one, in any tree: what is left of whom.
    ///
    /// # Errors
    /// When a directory cannot be read; one that is missing has none below it.
    pub fn list(&self, parent: &str) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for hierarchy in self.all.iter() {
            names.extend(file::children(&hierarchy.dir, parent.trim_matches('/'))?);
        }
        Ok(names)
    }
}

/// A path comes from a request: it must stay below the mount point.
fn check_path(path: &str) -> io::Result<()> {
    let plain = |part: &str| !matches!(part, "" | "." | "..");
    if path.split('/').all(plain) {
        Ok(())
    } else {
        Err(explain("use the cgroup path", path)(
            io::ErrorKind::InvalidInput.into(),
        ))
    }
}

/// A cgroup: one directory of this path in every hierarchy.
#[derive(Debug, Clone)]
pub struct Group {
    hierarchies: Hierarchies,
    path: String,
}

impl Group {
    /// Path below the mount points.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// Tells whether it exists in any hierarchy.
    pub fn exists(&self) -> bool {
        self.hierarchies
            .all
            .iter()
            .any(|hierarchy| exists(&hierarchy.dir, &self.path))
    }

    /// Makes the directory in one hierarchy; `false` when it was there.
    fn make_in(&self, hierarchy: &Hierarchy) -> io::Result<bool> {
        if hierarchy.is_v2() && self.hierarchies.is_v2() {
            pass_controllers_down(hierarchy, &self.path)?;
        }
        let made = match make_directory(&hierarchy.dir, &self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_parents(hierarchy, &self.path)?;
                if hierarchy.is_v2() && self.hierarchies.is_v2() {
                    pass_controllers_down(hierarchy, &self.path)?;
                }
                make_directory(&hierarchy.dir, &self.path)
            }
            other => other,
        };
        let made = match made {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(explain("make the cgroup", &self.path)(error)),
        };
        if hierarchy
            .controllers
            .iter()
            .any(|controller| controller == "cpuset")
        {
            inherit_cpuset(hierarchy, &self.path)?;
        }
        Ok(made)
    }

    /// Changes limits of a group that runs; what is not given stays as it is. Device rules apply
    /// one after the other, so a list that begins with [`DENY_ALL`] is for groups without
    /// processes.
    ///
    /// # Errors
    /// The file that refused, with the kernel's reason; those before it are changed.
    pub fn update(&self, limits: &Limits) -> io::Result<()> {
        let swap = self.read("memory", "memory.memsw.limit_in_bytes").ok();
        self.apply(limits, swap.and_then(|text| text.trim().parse().ok()))
    }

    fn apply(&self, limits: &Limits, swap_limit: Option<u64>) -> io::Result<()> {
        if !self.hierarchies.is_v2() {
            if let Some((file, _)) = limits.unified.first() {
                return Err(explain("set on cgroup v1", file)(
                    io::ErrorKind::Unsupported.into(),
                ));
            }
            return v1::plan(limits, swap_limit)
                .iter()
                .try_for_each(|write| self.write(write));
        }
        v2::plan(limits)
            .iter()
            .try_for_each(|write| self.write(write))?;
        if limits.devices.is_empty() {
            return Ok(());
        }
        let unified = self.hierarchies.unified().ok_or(io::ErrorKind::NotFound)?;
        open_directory(&unified.dir, &self.path)
            .and_then(|cgroup| devices::replace_program(&cgroup, &limits.devices))
            .map_err(explain("set the device rules of", &self.path))
    }

    fn write(&self, planned: &Write) -> io::Result<()> {
        let Some(hierarchy) = self.hierarchies.of(planned.controller) else {
            let what = format!(
                "set {planned} without the {} controller for",
                planned.controller
            );
            return Err(explain(what, &self.path)(io::ErrorKind::Unsupported.into()));
        };
        let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        match write(&hierarchy.dir, &self.file(&planned.file), &planned.value) {
            Err(error) if missing(&error) && planned.may_lack => Ok(()),
            Err(error) if missing(&error) => match &planned.instead {
                Some((file, value)) => write(&hierarchy.dir, &self.file(file), value),
                None => Err(error),
            },
            other => other,
        }
    }

    /// Reads a file of a controller.
    ///
    /// # Errors
    /// `NotFound` when there is no such controller, group or file.
    pub fn read(&self, controller: &str, file: &str) -> io::Result<String> {
        let hierarchy = self
            .hierarchies
            .of(controller)
            .ok_or(io::ErrorKind::NotFound)?;
        read(&hierarchy.dir, &self.file(file))
    }

    /// Moves a process here, in every hierarchy. Slow on a busy host, see [`Group::attach_self`].
    ///
    /// # Errors
    /// `ESRCH` when it has ended.
    pub fn attach(&self, pid: u32) -> io::Result<()> {
        let (file, pid) = (self.file("cgroup.procs"), pid.to_string());
        self.hierarchies
            .all
            .iter()
            .try_for_each(|hierarchy| write(&hierarchy.dir, &file, &pid))
    }

    /// Moves the calling process, which has one thread, here in v1's trees. In v2's tree it must be
    /// already, by a clone into [`Group::open_fd`].
    ///
    /// This is the way to start a container: another process than oneself is moved under a lock
    /// that waits for all processors (11 ms measured when nobody moved one just before). Oneself
    /// is moved without it (0.1 to 0.5 ms for nine trees).
    ///
    /// # Errors
    /// The file that refused, with the kernel's reason.
    pub fn attach_self(&self) -> io::Result<()> {
        // "0" is the thread that writes; `cgroup.procs` would take the lock for its siblings.
        let file = self.file("tasks");
        let mut v1 = self
            .hierarchies
            .all
            .iter()
            .filter(|hierarchy| !hierarchy.is_v2());
        v1.try_for_each(|hierarchy| write(&hierarchy.dir, &file, "0"))
    }

    /// Opens the directory in v2's tree, for `CLONE_INTO_CGROUP`; none on a host with v1 alone.
    ///
    /// # Errors
    /// `NotFound` when the group does not exist there.
    pub fn open_fd(&self) -> io::Result<Option<OwnedFd>> {
        let open = |hierarchy: &Hierarchy| open_directory(&hierarchy.dir, &self.path);
        self.hierarchies.unified().map(open).transpose()
    }

    /// Removes the group with all below it. One that does not exist is removed already.
    ///
    /// # Errors
    /// `EBUSY` when processes are left at the deadline; the other hierarchies are done then.
    pub fn remove(&self, deadline: Instant) -> io::Result<()> {
        check_path(&self.path)?;
        let mut first = Ok(());
        for hierarchy in self.hierarchies.all.iter() {
            let removed = remove_tree(&hierarchy.dir, &self.path, deadline);
            // Each is tried before the first error is told.
            if first.is_ok() {
                first = removed;
            }
        }
        first
    }

    /// How many processes of it were killed for lack of memory.
    ///
    /// # Errors
    /// `NotFound` without a memory controller.
    pub fn oom_count(&self) -> io::Result<u64> {
        let file = if self.hierarchies.is_v2() {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        Ok(file::number_of(&self.read("memory", file)?, "oom_kill").unwrap_or(0))
    }

    /// Watches for lack of memory.
    ///
    /// # Errors
    /// `NotFound` without a memory controller.
    pub fn oom_watch(&self) -> io::Result<OomWatch> {
        let memory = self
            .hierarchies
            .of("memory")
            .ok_or(io::ErrorKind::NotFound)?;
        if memory.is_v2() {
            let path = self.file("memory.events");
            let events = file::open_read(&memory.dir, &path).map_err(explain("open", &path))?;
            let mut watch = OomWatch {
                file: events,
                poll_events: libc::POLLPRI,
                kills: 0,
            };
            // Changes are told from the first reading on.
            watch.ran_out()?;
            return Ok(watch);
        }
        let path = self.file("memory.oom_control");
        let control = file::open_read(&memory.dir, &path).map_err(explain("open", &path))?;
        // SAFETY: integers only.
        let fd = own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into())?;
        let registration = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
        write(
            &memory.dir,
            &self.file("cgroup.event_control"),
            &registration,
        )?;
        Ok(OomWatch {
            file: fd.into(),
            poll_events: libc::POLLIN,
            kills: 0,
        })
    }
}

/// A descriptor that becomes ready when a group ran out of memory, or when it is removed.
#[derive(Debug)]
pub struct OomWatch {
    file: std::fs::File,
    poll_events: i16,
    /// Version 2: processes killed until the last look.
    kills: u64,
}

impl OomWatch {
    /// What to give to `poll`.
    pub fn poll_events(&self) -> i16 {
        self.poll_events
    }

    /// Whether memory ran out since the last look; makes it wait for the next time.
    ///
    /// # Errors
    /// When the group is gone.
    pub fn ran_out(&mut self) -> io::Result<bool> {
        if self.poll_events == libc::POLLPRI {
            let mut text = String::new();
            io::Seek::rewind(&mut self.file)?;
            self.file.read_to_string(&mut text)?;
            let kills = file::number_of(&text, "oom_kill").unwrap_or(0);
            return Ok(std::mem::replace(&mut self.kills, kills) < kills);
        }
        // Version 1 tells before it kills, so there is nothing to count yet.
        match self.file.read(&mut [0; 8]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            read => read.map(|_| true),
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn parents(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn make_parents(hierarchy: &Hierarchy, path: &str) -> io::Result<()> {
    for parent in parents(path) {
        match make_directory(&hierarchy.dir, parent) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            other => other.map_err(explain("make the cgroup", parent))?,
        }
        let has = |name: &str| {
            hierarchy
                .controllers
                .iter()
                .any(|controller| controller == name)
        };
        if has("cpuset") {
            inherit_cpuset(hierarchy, parent)?;
            // Groups below get what it has without being written to.
            write(
                &hierarchy.dir,
                &format!("{parent}/cgroup.clone_children"),
                "1",
            )?;
        }
        if has("memory") {
            let file = format!("{parent}/memory.use_hierarchy");
            // Always so since 5.11; before, it must be said while there are no groups below.
            if read(&hierarchy.dir, &file).is_ok_and(|text| text.trim() == "0") {
                write(&hierarchy.dir, &file, "1")?;
            }
        }
    }
    Ok(())
}

/// A group of v1's cpuset takes no process before it has processors and memory nodes: those of its
/// parent, which another process may have made just now and given none yet.
fn inherit_cpuset(hierarchy: &Hierarchy, path: &str) -> io::Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let file = format!("{path}/{name}");
        if !read(&hierarchy.dir, &file)?.trim().is_empty() {
            continue;
        }
        let above = match path.rsplit_once('/') {
            Some((parent, _)) => {
                inherit_cpuset(hierarchy, parent)?;
                format!("{parent}/{name}")
            }
            None => name.to_owned(),
        };
        let value = read(&hierarchy.dir, &above)?;
        write(&hierarchy.dir, &file, value.trim())?;
    }
    Ok(())
}

/// Enables our controllers on v2 in every group above `path`, as far as each has them.
fn pass_controllers_down(hierarchy: &Hierarchy, path: &str) -> io::Result<()> {
    for parent in std::iter::once("").chain(parents(path)) {
        let at = |name: &str| {
            if parent.is_empty() {
                name.to_owned()
            } else {
                format!("{parent}/{name}")
            }
        };
        let Ok(has) = read(&hierarchy.dir, &at("cgroup.controllers")) else {
            return Ok(()); // Not made yet: this is called again when it is.
        };
        let file = at("cgroup.subtree_control");
        let passed = read(&hierarchy.dir, &file)?;
        let in_list = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
        let missing = V2_CONTROLLERS
            .iter()
            .filter(|c| in_list(&has, c) && !in_list(&passed, c));
        let words: Vec<String> = missing.map(|controller| format!("+{controller}")).collect();
        if words.is_empty() || write(&hierarchy.dir, &file, &words.join(" ")).is_ok() {
            continue;
        }
        // One may be refused (real-time processes, a threaded tree) while the others are not.
        for word in &words {
            match write(&hierarchy.dir, &file, word) {
                // A group with processes of its own passes nothing on: that has to be known.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Controllers and mount points, each tree once, in the order of the mounts.
fn parse_mountinfo(text: &str) -> Vec<(Vec<String>, PathBuf)> {
    let mut found: Vec<(Vec<String>, PathBuf)> = Vec::new();
    for (controllers, mount) in text.lines().filter_map(parse_mount) {
        // A tree that is mounted twice shows the same groups.
        if !found.iter().any(|known| known.0 == controllers) {
            found.push((controllers, mount));
        }
    }
    found
}

/// Reads `36 31 0:33 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct`.
fn parse_mount(line: &str) -> Option<(Vec<String>, PathBuf)> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mount = PathBuf::from(unescape(mount.split(' ').nth(4)?));
    let mut words = file_system.split(' ');
    let (kind, options) = (words.next()?, words.nth(1)?);
    let is_controller = |word: &&str| V1_CONTROLLERS.contains(word) || word.starts_with("name=");
    let mut controllers: Vec<String> = match kind {
        "cgroup2" => return Some((Vec::new(), mount)),
        "cgroup" => options
            .split(',')
            .filter(is_controller)
            .map(str::to_owned)
            .collect(),
        _ => return None,
    };
    controllers.sort_unstable();
    (!controllers.is_empty()).then_some((controllers, mount))
}

/// Undoes the kernel's `\040` for a space.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let digits = rest.get(at + 1..at + 4);
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push_str(&rest[..at]);
        out.push(byte.map_or('\\', char::from));
        rest = &rest[at + if byte.is_some() { 4 } else { 1 }..];
    }
    out + rest
}

/// Reads `0::/hull.slice/hull.service`, or the line of v1's named tree.
fn parse_own_path(text: &str) -> Option<&str> {
    let path = |prefix: &str| {
        text.lines()
            .find_map(|line| line.split_once(prefix).map(|l| l.1))
    };
    let unified = text.lines().find_map(|line| line.strip_prefix("0::"));
    match unified {
        None | Some("/") => path(":name=systemd:").or(unified),
        found => found,
    }
}

#[cfg(test)]
mod tests;
