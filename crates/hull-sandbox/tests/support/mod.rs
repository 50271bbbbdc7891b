//! A host for tests of real containers: a driver in a folder of its own, a root from busybox.
//!
//! Nothing is faked: the shim is the one that is embedded, built with its own profile.

#![allow(dead_code, reason = "each test program uses its part")]
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hull_model::SandboxId;
use hull_os::process::{self, PollFd};
use hull_sandbox::container::{MASKED_PATHS, READONLY_PATHS, default_devices, default_mounts};
use hull_sandbox::{
    Attachment, CapabilitySets, Cgroup, Driver, Event, ExecId, ExecSpec, Exit, Log, Lowers,
    Namespace, Namespaces, Process, Propagation, Root, Shim, Spec, Stdin,
};

/// How long any single thing in a test may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Docker's default set: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap,
/// net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
pub(crate) const DEFAULT_CAPABILITIES: u64 = 0xa80425fb;

/// Whether overlay takes layers by descriptor here; says that the test is skipped where not.
pub(crate) fn lowers_by_descriptor(test: &str) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap(), numbers.next().unwrap());
    let can = version >= (6, 13);
    if !can {
        println!("skip {test}: overlay takes no layers by descriptor before Linux 6.13");
    }
    can
}

/// The bytes of the shim program: from `HULL_SHIM`, or built here once.
pub(crate) fn program() -> &'static [u8] {
    static PROGRAM: OnceLock<Vec<u8>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = std::env::var_os("HULL_SHIM").map_or_else(build_shim, PathBuf::from);
        fs::read(path).expect("read the shim program")
    })
}

#[expect(clippy::disallowed_methods, reason = "a test may run cargo")]
fn build_shim() -> PathBuf {
    let target_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shim");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../hull-shim/Cargo.toml");
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let status = std::process::Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--profile",
            "shim",
            "--manifest-path",
            manifest,
        ])
        .args(["--target", &triple, "--target-dir"])
        .arg(&target_dir)
        .env(
            "RUSTFLAGS",
            "-Ctarget-feature=+crt-static -Crelocation-model=static",
        )
        .status()
        .expect("run cargo");
    assert!(status.success(), "the shim does not build");
    target_dir.join(triple).join("shim/hull-shim")
}

/// A driver, a busybox root, and what is needed to see that nothing is left.
pub(crate) struct Host {
    pub(crate) base: PathBuf,
    pub(crate) driver: Driver,
}

impl Host {
    pub(crate) fn new() -> Host {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let program = program();
        let base = PathBuf::from(format!(
            "/dev/shm/hull-test-{}-{number}",
            std::process::id()
        ));
        fs::create_dir_all(base.join("layers")).unwrap();
        make_busybox(&base.join("layers/0"));
        let driver = Driver::open(&base, program).unwrap();
        Host { base, driver }
    }

    /// A new id whose kernel objects nobody else has.
    pub(crate) fn id(&self) -> SandboxId {
        let mut bytes = [0u8; 32];
        fs::File::open("/dev/urandom")
            .unwrap()
            .read_exact(&mut bytes)
            .unwrap();
        bytes[0] |= 0xa0;
        SandboxId::from_bytes(bytes)
    }

    /// A container with Docker's defaults, no network, that runs `args`.
    pub(crate) fn spec(&self, args: &[&str]) -> Spec {
        let id = self.id();
        let own = self.base.join(id.short());
        for name in ["upper", "work", "log"] {
            fs::create_dir_all(own.join(name)).unwrap();
        }
        Spec {
            id,
            root: Root {
                lowers: Lowers::Directories {
                    base: self.base.join("layers"),
                    names: vec!["0".to_owned()],
                },
                upper: own.join("upper"),
                work: own.join("work"),
                readonly: false,
                propagation: Propagation::Rprivate,
            },
            hostname: id.short(),
            domainname: String::new(),
            namespaces: Namespaces::default(),
            link_steps: Vec::new(),
            mounts: default_mounts(64 << 20, false),
            masked_paths: MASKED_PATHS.iter().map(ToString::to_string).collect(),
            readonly_paths: READONLY_PATHS.iter().map(ToString::to_string).collect(),
            devices: default_devices(),
            cgroup: Cgroup {
                path: format!("hull-test/{id}"),
                ..Cgroup::default()
            },
            sysctls: Vec::new(),
            oom_score_adj: None,
            process: process_of(args),
            kept: Vec::new(),
            machine: None,
            resolver: None,
            init: false,
            log: Log {
                attributes: Vec::new(),
                service: None,
                path: Some(own.join("log/json.log")),
                max_size: 0,
                max_files: 1,
            },
        }
    }

    /// The text of a container's log file.
    pub(crate) fn log(&self, spec: &Spec) -> String {
        fs::read_to_string(spec.log.path.as_ref().unwrap()).unwrap()
    }

    /// Starts, waits for the end, and returns how it ended and what it wrote to both streams.
    pub(crate) fn run(&self, spec: &Spec) -> (Exit, String) {
        let (attachment, mut client) = attach(false, true, false);
        let mut shim = self.driver.start(spec, vec![attachment]).unwrap();
        let exit = wait_exit(&mut shim);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        self.discard(spec, shim);
        (exit, text)
    }

    /// Waits for the shim, takes away what is left, and sees that nothing is.
    pub(crate) fn discard(&self, spec: &Spec, shim: Shim) {
        wait_gone(&shim);
        drop(shim);
        self.driver
            .discard(&spec.id, &spec.cgroup.path, PATIENCE)
            .unwrap();
        assert_eq!(leftovers(spec), Vec::<String>::new());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that failed leaves its containers running.
        for short in self.driver.list().unwrap_or_default() {
            let _ = self.driver.discard_unknown(&short, PATIENCE);
        }
        let _ = fs::remove_dir_all(&self.base);
        // Only the last test of this process finds it empty.
        for entry in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = fs::remove_dir(entry.path().join("hull-test"));
        }
        let _ = fs::remove_dir("/sys/fs/cgroup/hull-test");
    }
}

/// A root with every applet of busybox and the files that user names come from.
fn make_busybox(root: &Path) {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "echo", "sleep", "ls", "id", "env", "true", "false", "kill", "mount", "ps",
        "hostname", "pwd", "dd", "head", "wc", "grep", "seq", "stty", "tty", "touch", "mkdir",
        "sync", "ln", "test", "printf", "yes", "tail", "stat", "readlink", "umount", "nproc", "rm",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv:/bin/sh\n",
    )
    .unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\nweb:x:102:\naudio:x:63:web\n",
    )
    .unwrap();
    fs::write(root.join("etc/plain"), "not a program\n").unwrap();
}

pub(crate) fn process_of(args: &[&str]) -> Process {
    let all = DEFAULT_CAPABILITIES;
    Process {
        args: args.iter().map(ToString::to_string).collect(),
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
        create_cwd: true,
        capabilities: CapabilitySets {
            bounding: all,
            effective: all,
            permitted: all,
            ..CapabilitySets::default()
        },
        ..Process::default()
    }
}

pub(crate) fn exec_of(args: &[&str]) -> ExecSpec {
    let mut bytes = [0u8; 32];
    fs::File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    ExecSpec {
        id: ExecId::from_bytes(bytes),
        process: process_of(args),
    }
}

/// An attachment of stdout and stderr, and of stdin where asked for, and the client's end of it.
pub(crate) fn attach(stdin: bool, output: bool, framed: bool) -> (Attachment, UnixStream) {
    let (theirs, ours) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    let stream = OwnedFd::from(theirs);
    (
        Attachment {
            stream,
            stdin,
            stdout: output,
            stderr: output,
            framed,
        },
        ours,
    )
}

/// Waits for the next event.
pub(crate) fn next_event(shim: &mut Shim) -> Event {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(event) = shim.try_event().unwrap() {
            return event;
        }
        assert!(Instant::now() < deadline, "no event in {PATIENCE:?}");
        process::poll(&mut [PollFd::readable(shim.as_fd())], Some(1000)).unwrap();
    }
}

/// Waits for an event that the function takes; others are passed over, the end is a failure.
pub(crate) fn wait_for<T>(shim: &mut Shim, mut take: impl FnMut(&Event) -> Option<T>) -> T {
    loop {
        let event = next_event(shim);
        if let Some(value) = take(&event) {
            return value;
        }
        assert!(
            !matches!(
                event,
                Event::Gone | Event::StartFailed(_) | Event::Exited(_)
            ),
            "unexpected {event:?}"
        );
    }
}

pub(crate) fn wait_started(shim: &mut Shim) -> u32 {
    wait_for(shim, |event| match event {
        Event::Started { pid, .. } => Some(*pid),
        _ => None,
    })
}

pub(crate) fn wait_exit(shim: &mut Shim) -> Exit {
    wait_for(shim, |event| match event {
        Event::Exited(exit) => Some(*exit),
        _ => None,
    })
}

pub(crate) fn wait_exec(shim: &mut Shim, id: ExecId) -> Exit {
    wait_for(shim, |event| match event {
        Event::ExecExited { id: ended, exit } if *ended == id => Some(*exit),
        _ => None,
    })
}

pub(crate) fn wait_gone(shim: &Shim) {
    let mut fds = [PollFd::readable(shim.pidfd())];
    assert_eq!(
        process::poll(&mut fds, Some(20_000)).unwrap(),
        1,
        "the shim does not end"
    );
}

/// What is left of a sandbox, by an outside look.
pub(crate) fn leftovers(spec: &Spec) -> Vec<String> {
    let short = spec.id.short();
    let mut left = Vec::new();
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        if line.contains(&short) {
            left.push(format!("mount {line}"));
        }
    }
    for entry in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let dir = entry.path().join(&spec.cgroup.path);
        if dir.exists() {
            left.push(dir.display().to_string());
        }
    }
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let root = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        // A dead process that the host's init has not taken yet is no process.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if root.contains(&short) && !stat.contains(") Z ") {
            left.push(format!("process {:?}", entry.file_name()));
        }
    }
    left
}

/// Whether every container of the test uses an own network namespace.
pub(crate) fn host_network() -> Namespaces {
    Namespaces {
        network: Namespace::Host,
        ..Namespaces::default()
    }
}

pub(crate) fn write_all(client: &mut UnixStream, bytes: &[u8]) {
    client.write_all(bytes).unwrap();
}

pub(crate) fn close_writing(client: &UnixStream) {
    client.shutdown(std::net::Shutdown::Write).unwrap();
}

pub(crate) fn stdin_once(mut spec: Spec) -> Spec {
    spec.process.stdin = Stdin::Once;
    spec
}

pub(crate) fn number_of_descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

pub(crate) fn raw(fd: &OwnedFd) -> i32 {
    fd.as_raw_fd()
}
