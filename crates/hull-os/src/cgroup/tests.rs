use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{
    BlkioKind, BlkioLimit, CONTAINER_RULES, Group, Hierarchies, Limits, OomWatch, parse_mountinfo,
    parse_own_path,
};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// A group of this test alone, gone at its end whatever happened.
struct Owned(Group);

impl Owned {
    fn new(name: &str, limits: &Limits) -> Self {
        let path = format!("hull-os-test-{}/{name}", std::process::id());
        Self(
            Hierarchies::detect()
                .unwrap()
                .create(&path, limits)
                .unwrap(),
        )
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.thaw();
        let _ = self.0.kill_all(soon());
        let removed = self.0.remove(soon());
        // The parent goes with the last of them.
        let parent = self
            .0
            .path()
            .split('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        for hierarchy in self.0.hierarchies.all.iter() {
            let _ = std::fs::remove_dir(hierarchy.mount.join(&parent));
        }
        if !std::thread::panicking() {
            removed.unwrap();
            assert!(!self.0.exists());
        }
    }
}

/// A process that does nothing, killed and reaped at its end.
struct Sleeper(libc::pid_t);

impl Sleeper {
    fn new() -> Self {
        Self::run(|| {
            loop {
                // SAFETY: no arguments.
                unsafe { libc::pause() };
            }
        })
    }

    fn run(body: impl FnOnce()) -> Self {
        // SAFETY: the child only makes system calls and ends without unwinding or destructors.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            body();
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        Self(pid)
    }

    fn pid(&self) -> u32 {
        u32::try_from(self.0).unwrap()
    }

    /// Waits for its end and returns the raw status.
    fn reap(&mut self) -> i32 {
        let mut status = 0;
        // SAFETY: the status lives here.
        assert_eq!(unsafe { libc::waitpid(self.0, &raw mut status, 0) }, self.0);
        self.0 = 0;
        status
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if self.0 > 0 {
            // SAFETY: our own child, not reaped yet.
            unsafe { libc::kill(self.0, libc::SIGKILL) };
            self.reap();
        }
    }
}

#[test]
fn trees_are_found_in_the_mount_table() {
    let names = |text: &str| -> Vec<String> {
        let line = |(names, mount): (Vec<String>, PathBuf)| {
            format!("{} {}", names.join("+"), mount.display())
        };
        parse_mountinfo(text).into_iter().map(line).collect()
    };
    let v1 = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd
35 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw shared:15 - cgroup cgroup rw,cpu,cpuacct
36 30 0:31 /docker /mnt/with\\040space rw shared:15 - cgroup cgroup rw,cpu,cpuacct
37 30 0:32 / /mnt/a\\040b rw - cgroup cgroup rw,memory
";
    let expected = [
        " /sys/fs/cgroup/unified",
        "name=systemd /sys/fs/cgroup/systemd",
        "cpu+cpuacct /sys/fs/cgroup/cpu,cpuacct",
        "memory /mnt/a b",
    ];
    assert_eq!(names(v1), expected);
    let v2 = "30 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
    assert_eq!(names(v2), [" /sys/fs/cgroup"]);
}

#[test]
fn the_own_path_is_what_the_service_manager_chose() {
    assert_eq!(
        parse_own_path("0::/hull.slice/hull.service\n"),
        Some("/hull.slice/hull.service")
    );
    assert_eq!(
        parse_own_path("9:name=systemd:/a.service\n4:memory:/x\n0::/\n"),
        Some("/a.service")
    );
    assert_eq!(parse_own_path("4:memory:/x\n0::/\n"), Some("/"));
}

#[test]
fn a_description_opens_the_same_trees() {
    let found = Hierarchies::detect().unwrap();
    let again = Hierarchies::parse(&found.describe()).unwrap();
    assert_eq!(found.describe(), again.describe());
    assert_eq!(found.is_v2(), again.is_v2());
}

#[test]
fn a_path_out_of_the_tree_is_refused() {
    let trees = Hierarchies::detect().unwrap();
    for path in ["", "/", "../x", "hull/../../x", "hull//x", "a/./b"] {
        let error = trees.create(path, &Limits::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
        assert!(trees.open_group(path).remove(soon()).is_err(), "{path}");
    }
}

#[test]
fn processes_are_attached_listed_killed_and_the_group_removed() {
    let owned = Owned::new("kill", &Limits::default());
    let group = &owned.0;
    let mut processes: Vec<Sleeper> = (0..3).map(|_| Sleeper::new()).collect();
    for process in &processes {
        group.attach(process.pid()).unwrap();
    }
    let pids: BTreeSet<u32> = processes.iter().map(Sleeper::pid).collect();
    assert_eq!(group.pids().unwrap(), pids);
    let (parent, name) = group.path().split_once('/').unwrap();
    assert!(group.hierarchies.list(parent).unwrap().contains(name));
    let busy = group.remove(Instant::now()).unwrap_err();
    assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
    // Found again by its path alone, as after a restart.
    let again = Hierarchies::detect().unwrap().open_group(group.path());
    again.kill_all(soon()).unwrap();
    assert!(again.pids().unwrap().is_empty());
    for process in &mut processes {
        let status = process.reap();
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL);
    }
    again.remove(soon()).unwrap();
    assert!(!group.exists());
    again.remove(soon()).unwrap();
    again.kill_all(soon()).unwrap();
}

#[test]
fn a_group_below_is_killed_and_removed_with_its_parent() {
    let owned = Owned::new("nested", &Limits::default());
    let below = format!("{}/a/b", owned.0.path());
    let below = owned
        .0
        .hierarchies
        .create(&below, &Limits::default())
        .unwrap();
    let mut process = Sleeper::new();
    below.attach(process.pid()).unwrap();
    assert!(owned.0.pids().unwrap().contains(&process.pid()));
    owned.0.kill_all(soon()).unwrap();
    process.reap();
    owned.0.remove(soon()).unwrap();
    assert!(!below.exists());
}

#[test]
fn a_killed_group_that_was_frozen_dies() {
    let owned = Owned::new("frozen", &Limits::default());
    let mut process = Sleeper::new();
    owned.0.attach(process.pid()).unwrap();
    owned.0.freeze().unwrap();
    owned.0.kill_all(soon()).unwrap();
    process.reap();
}

#[test]
fn a_frozen_group_does_nothing_until_it_thaws() {
    let owned = Owned::new("freeze", &Limits::default());
    let (reader, writer) = io::pipe().unwrap();
    let process = Sleeper::run(|| {
        loop {
            // SAFETY: one byte that lives here, to a pipe that is open.
            unsafe {
                libc::write(writer.as_raw_fd(), [1u8].as_ptr().cast(), 1);
                libc::usleep(500);
            }
        }
    });
    drop(writer);
    owned.0.attach(process.pid()).unwrap();
    owned.0.freeze().unwrap();
    owned.0.freeze().unwrap();
    let written = || {
        let mut count = 0;
        // SAFETY: the count lives here.
        unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &raw mut count) };
        count
    };
    let before = written();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(written(), before);
    owned.0.thaw().unwrap();
    let deadline = soon();
    while written() == before {
        assert!(Instant::now() < deadline, "it does not go on");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn value(group: &Group, controller: &str, file: &str) -> String {
    group.read(controller, file).unwrap().trim().to_owned()
}

#[test]
fn limits_are_what_the_kernel_shows_and_can_grow_and_shrink() {
    let trees = Hierarchies::detect().unwrap();
    let support = trees.support();
    let mut limits = Limits {
        memory_bytes: 64 << 20,
        memory_reservation_bytes: 32 << 20,
        cpu_shares: 512,
        cpu_quota_us: 50_000,
        cpu_period_us: 100_000,
        cpuset_cpus: "0".to_owned(),
        pids: 77,
        devices: CONTAINER_RULES.to_vec(),
        ..Limits::default()
    };
    let warnings = support.fit(&mut limits, false).unwrap();
    let owned = Owned::new("limits", &limits);
    let group = &owned.0;
    let stats = group.stats().unwrap();
    assert_eq!(stats.memory.limit, Some(64 << 20), "{warnings:?}");
    assert_eq!(stats.pids_limit, Some(77));
    assert_eq!(value(group, "cpuset", "cpuset.cpus"), "0");
    if !trees.is_v2() {
        assert_eq!(value(group, "cpu", "cpu.shares"), "512");
        assert_eq!(value(group, "cpu", "cpu.cfs_quota_us"), "50000");
        let devices = value(group, "devices", "devices.list");
        assert!(
            devices.contains("c 1:3 rwm") && !devices.contains('a'),
            "{devices}"
        );
    }
    for mib in [512, 16, 128] {
        let new = Limits {
            memory_bytes: mib << 20,
            memory_swap_bytes: if support.swap { mib << 21 } else { 0 },
            pids: -1,
            ..Limits::default()
        };
        group.update(&new).unwrap();
        let stats = group.stats().unwrap();
        assert_eq!(stats.memory.limit, Some(u64::try_from(mib << 20).unwrap()));
        assert_eq!(stats.pids_limit, None);
    }
}

#[test]
fn a_limit_that_is_refused_leaves_no_group() {
    let path = format!("hull-os-test-{}-refused", std::process::id());
    let trees = Hierarchies::detect().unwrap();
    let device = BlkioLimit {
        kind: BlkioKind::ReadBytes,
        major: 4094,
        minor: 7,
        value: 1,
    };
    let limits = Limits {
        blkio_devices: vec![device],
        ..Limits::default()
    };
    let error = trees.create(&path, &limits).unwrap_err();
    assert!(error.to_string().contains("4094:7"), "{error}");
    assert!(!trees.open_group(&path).exists());
}

#[test]
fn more_processes_than_allowed_cannot_be_made() {
    let owned = Owned::new(
        "pids",
        &Limits {
            pids: 1,
            ..Limits::default()
        },
    );
    let (reader, writer) = io::pipe().unwrap();
    let mut process = Sleeper::run(|| {
        let mut byte = [0u8];
        // SAFETY: waits for the parent's byte, then forks; plain system calls.
        unsafe {
            libc::read(reader.as_raw_fd(), byte.as_mut_ptr().cast(), 1);
            libc::_exit(if libc::fork() < 0 { 7 } else { 0 });
        }
    });
    owned.0.attach(process.pid()).unwrap();
    io::Write::write_all(&mut &writer, &[1]).unwrap();
    let status = process.reap();
    assert!(
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7,
        "{status:#x}"
    );
}

#[test]
fn lack_of_memory_is_counted_and_told() {
    let mut limits = Limits {
        memory_bytes: 8 << 20,
        memory_swap_bytes: 8 << 20,
        ..Limits::default()
    };
    let trees = Hierarchies::detect().unwrap();
    trees.support().fit(&mut limits, false).unwrap();
    let owned = Owned::new("oom", &limits);
    let mut watch = owned.0.oom_watch().unwrap();
    assert_eq!(owned.0.oom_count().unwrap(), 0);
    let (reader, writer) = io::pipe().unwrap();
    let mut process = Sleeper::run(|| {
        let mut byte = [0u8];
        // SAFETY: waits for the parent's byte, then fills memory that it maps; plain system calls.
        unsafe {
            libc::read(reader.as_raw_fd(), byte.as_mut_ptr().cast(), 1);
            let length = 64 << 20;
            let (rw, flags) = (
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON,
            );
            let memory = libc::mmap(std::ptr::null_mut(), length, rw, flags, -1, 0);
            libc::memset(memory, 1, length);
        }
    });
    owned.0.attach(process.pid()).unwrap();
    io::Write::write_all(&mut &writer, &[1]).unwrap();
    let status = process.reap();
    assert!(
        libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL,
        "{status:#x}"
    );
    let ready = |watch: &OomWatch| {
        let fd = watch.as_fd().as_raw_fd();
        let mut entry = libc::pollfd {
            fd,
            events: watch.poll_events(),
            revents: 0,
        };
        // SAFETY: one entry, which lives here.
        unsafe {
            libc::poll(&raw mut entry, 1, 2000) == 1 && entry.revents & watch.poll_events() != 0
        }
    };
    assert!(ready(&watch));
    // Version 2 also tells of a limit that was met; what was killed is counted by then or soon after.
    while !watch.ran_out().unwrap() {
        assert!(ready(&watch));
    }
    assert_eq!(owned.0.oom_count().unwrap(), 1);
    assert_eq!(owned.0.stats().unwrap().memory.oom_kills, 1);
}

#[test]
fn a_child_cloned_into_the_group_moves_itself_into_the_rest() {
    let path = format!("hull-os-test-{}/self", std::process::id());
    let trees = Hierarchies::detect().unwrap();
    let cgroup = trees.create_for_clone(&path).unwrap();
    let owned = Owned(trees.create(&path, &Limits::default()).unwrap());
    let (reader, writer) = io::pipe().unwrap();
    // SAFETY: all zero is a valid value of this plain structure.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = &cgroup {
        // libc's own constant does not fit into its type.
        args.flags = 0x2_0000_0000;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    let size = size_of::<libc::clone_args>();
    // SAFETY: the arguments live here; without CLONE_VM this is a fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size) };
    assert!(pid >= 0, "{}", io::Error::last_os_error());
    if pid == 0 {
        let byte = [u8::from(owned.0.attach_self().is_ok())];
        // SAFETY: one byte that lives here, to a pipe that is open; then waits to be killed.
        unsafe {
            libc::write(writer.as_raw_fd(), byte.as_ptr().cast(), 1);
            libc::pause();
            libc::_exit(0);
        }
    }
    let process = Sleeper(libc::pid_t::try_from(pid).unwrap());
    drop(writer);
    let mut byte = [0];
    io::Read::read_exact(&mut &reader, &mut byte).unwrap();
    assert_eq!(byte, [1]);
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid())).unwrap();
    for line in text
        .lines()
        .filter(|line| cgroup.is_some() || !line.starts_with("0::"))
    {
        assert!(line.ends_with(owned.0.path()), "{line}");
    }
}

#[test]
fn the_descriptor_is_of_the_group() {
    let owned = Owned::new("clone", &Limits::default());
    let Some(fd) = owned.0.open_fd().unwrap() else {
        eprintln!("skipped: no v2 tree on this host");
        return;
    };
    let target = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    assert!(target.ends_with(owned.0.path()), "{target:?}");
}

#[test]
fn used_processor_time_is_counted() {
    let owned = Owned::new("cpu", &Limits::default());
    let process = Sleeper::run(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    owned.0.attach(process.pid()).unwrap();
    let deadline = soon();
    while owned.0.stats().unwrap().cpu.total_ns < 1_000_000 {
        assert!(Instant::now() < deadline, "no time is counted");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(owned.0.stats().unwrap().pids, 1);
}

/// On v1 the files hold the rules; the program of v2 can be tried beside it.
#[test]
fn the_device_program_of_v2_holds() {
    let owned = Owned::new("devices", &Limits::default());
    let Some(fd) = owned.0.open_fd().unwrap() else {
        eprintln!("skipped: no v2 tree on this host");
        return;
    };
    super::devices::replace_program(&fd, &CONTAINER_RULES).unwrap();
    // A second list takes the place of the first: without null.
    let opened = |path: &'static std::ffi::CStr| {
        let mut process = Sleeper::run(|| {
            // SAFETY: plain system calls of a child on a constant path.
            unsafe {
                libc::raise(libc::SIGSTOP);
                let fd = libc::open(path.as_ptr(), libc::O_RDWR);
                libc::_exit(if fd >= 0 {
                    0
                } else {
                    *libc::__errno_location()
                });
            }
        });
        let mut status = 0;
        // SAFETY: the status lives here.
        unsafe { libc::waitpid(process.0, &raw mut status, libc::WUNTRACED) };
        owned.0.attach(process.pid()).unwrap();
        // SAFETY: our own child.
        unsafe { libc::kill(process.0, libc::SIGCONT) };
        libc::WEXITSTATUS(process.reap())
    };
    assert_eq!(opened(c"/dev/null"), 0);
    assert_eq!(opened(c"/dev/kmsg"), libc::EPERM);
    super::devices::replace_program(&fd, &CONTAINER_RULES[..3]).unwrap();
    assert_eq!(opened(c"/dev/null"), libc::EPERM);
    super::devices::replace_program(&fd, &["a".parse().unwrap()]).unwrap();
    assert_eq!(opened(c"/dev/null"), 0);
}
