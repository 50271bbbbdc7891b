//! What a sandbox shall be: plain values, already decided. The encoder turns them into a plan.
//!
//! Text that reaches the kernel is kept as `String` or `PathBuf`; the encoder refuses a NUL inside.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

pub use hull_model::ids::{IdMap, UserMaps};
use hull_model::{InvalidId, SandboxId};
pub use hull_os::cgroup::Limits;
use hull_plan::plan::LogForm;

/// The id of an exec: 32 random bytes, shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExecId([u8; 32]);

impl ExecId {
    /// Takes 32 random bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ExecId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // The same shape as a sandbox id, so its parser is the one place that knows it.
        text.parse::<SandboxId>()
            .map(|id| Self(*id.as_bytes()))
            .map_err(|_| InvalidId {
                text: text.to_owned(),
                what: "an exec id of 64 hex digits",
            })
    }
}

/// A container to start.
#[derive(Debug)]
pub struct Spec {
    /// Names the run directory.
    pub id: SandboxId,
    /// The root file system.
    pub root: Root,
    /// Host name inside; empty: unchanged. Only with an own UTS namespace.
    pub hostname: String,
    /// NIS domain name; empty: unchanged.
    pub domainname: String,
    /// Which namespaces are its own.
    pub namespaces: Namespaces,
    /// Network links to make while it starts; only with an own network namespace.
    pub link_steps: Vec<LinkSteps>,
    /// Mounts inside, in order.
    pub mounts: Vec<Mount>,
    /// Paths inside that are hidden: files by `/dev/null`, directories by an empty one.
    pub masked_paths: Vec<String>,
    /// Paths inside that become read-only.
    pub readonly_paths: Vec<String>,
    /// Device nodes to make inside.
    pub devices: Vec<DeviceNode>,
    /// Where it is accounted and limited.
    pub cgroup: Cgroup,
    /// Kernel settings of its namespaces.
    pub sysctls: Vec<Sysctl>,
    /// How ready the kernel is to kill it; none: as the daemon.
    pub oom_score_adj: Option<i32>,
    /// Sockets that the shim keeps open as long as the container lives: see
    /// [`crate::Shim::take_kept`].
    pub kept: Vec<KeptSocket>,
    /// A name server's sockets inside, kept likewise.
    pub resolver: Option<Resolver>,
    /// What runs.
    pub process: Process,
    /// Our own small init as process 1, which starts [`Spec::process`] and reaps.
    pub init: bool,
    /// Where output goes.
    pub log: Log,
    /// What carries it where that is not this kernel.
    pub machine: Option<crate::Machine>,
}

/// A name server's sockets in the container's network namespace; the shim makes and keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    /// Port of both, at 127.0.0.11.
    pub port: u16,
    /// Requests of nf_tables, opaque here, that lead questions there.
    pub rules: Vec<u8>,
}

/// A socket that a shim keeps open for this daemon and those after it.
#[derive(Debug)]
pub struct KeptSocket {
    /// What the daemon calls it.
    pub key: u32,
    /// The socket.
    pub socket: OwnedFd,
}

/// The root file system: an overlay made by the shim.
#[derive(Debug)]
pub struct Root {
    /// Read-only layers, the topmost first.
    pub lowers: Lowers,
    /// Directory that takes changes; on the same file system as `work`.
    pub upper: PathBuf,
    /// Overlay's own directory.
    pub work: PathBuf,
    /// The root cannot be written.
    pub readonly: bool,
    /// How mounts travel between host and container; what binds with `shared` or `slave` need.
    pub propagation: Propagation,
}

/// Read-only layers of a root, the topmost first.
#[derive(Debug)]
pub enum Lowers {
    /// Directories or roots of mounts. Kernel 6.8 or newer for more than a few.
    Descriptors(Vec<Arc<OwnedFd>>),
    /// Names relative to `base`: the form for older kernels, where all of them must fit into one
    /// page of mount options.
    Directories {
        /// Directory that the names are relative to.
        base: PathBuf,
        /// The topmost first.
        names: Vec<String>,
    },
}

/// Whose namespace of one kind.
#[derive(Debug, Clone, Default)]
pub enum Namespace {
    /// A new one.
    #[default]
    Own,
    /// The host's.
    Host,
    /// The one that the descriptor names.
    Join(Arc<OwnedFd>),
}

/// Namespaces of a container; the mount namespace is always its own.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    /// Processes.
    pub pid: Namespace,
    /// Links, addresses, ports.
    pub network: Namespace,
    /// System V IPC and POSIX message queues.
    pub ipc: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// The view of cgroups.
    pub cgroup: Namespace,
    /// Mount namespace of the container whose `/dev/shm` it shares; it comes right after `/dev`.
    pub shared_memory: Option<Arc<OwnedFd>>,
    /// With maps: users that are not the host's.
    pub user: Option<UserMaps>,
    /// The user namespace with those maps; it goes with the other namespaces that are joined, which
    /// belong to it. None: one of its own.
    pub joined_user: Option<Arc<OwnedFd>>,
}

/// rtnetlink requests, opaque here, in the form that `hull_os::netlink` executes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkSteps {
    /// Executed in the host's network namespace.
    pub host: Vec<u8>,
    /// Executed in the container's.
    pub inside: Vec<u8>,
    /// Where in `host` the descriptor of the container's network namespace (u32) belongs.
    pub netns_fd_offset: Option<u32>,
}

/// One mount inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// Absolute path inside; made when missing. Symbolic links are followed inside the root.
    pub destination: String,
    /// Flags.
    pub options: MountOptions,
    /// Options of the file system itself, as in `size=64m,mode=1777`.
    pub data: String,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A path of the host: a directory, file, socket or device.
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
        /// With what is mounted below it.
        recursive: bool,
        /// How mounts below travel.
        propagation: Propagation,
        /// Owners there are those inside, where the container has users of its own; else they are
        /// those of the host.
        mapped: bool,
    },
    /// Memory; also `/dev` and `/dev/shm`.
    Tmpfs,
    /// `/proc`.
    Proc,
    /// `/sys`.
    Sysfs,
    /// `/dev/pts`.
    Devpts,
    /// `/dev/mqueue`.
    Mqueue,
    /// `/sys/fs/cgroup`: one mount (v2), or one per hierarchy below a tmpfs (v1).
    Cgroup,
}

/// Flags of a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one flag of the kernel's"
)]
pub struct MountOptions {
    /// Cannot be written.
    pub readonly: bool,
    /// Set-user-id bits have no effect.
    pub nosuid: bool,
    /// Device nodes have no effect.
    pub nodev: bool,
    /// Nothing can be executed.
    pub noexec: bool,
    /// Access times are not kept.
    pub noatime: bool,
    /// Access times are kept as seldom as `relatime` says.
    pub relatime: bool,
}

/// How mounts travel between peers, in the kernel's words. Binds apply it recursively.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// Recursively not at all.
    Rprivate,
    /// Both ways.
    Shared,
    /// Recursively both ways.
    Rshared,
    /// From the host into the container.
    Slave,
    /// Recursively from the host into the container.
    Rslave,
}

/// A device node to make inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Absolute path inside.
    pub path: String,
    /// `true`: block device; `false`: character device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
}

/// Where a container is accounted and limited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// Relative to the root of each hierarchy: `hull/<id>`.
    pub path: String,
    /// What it may use.
    pub limits: Limits,
}

/// A kernel setting of one of the container's own namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// `net.ipv4.ip_forward`.
    pub name: String,
    /// Written as it is.
    pub value: String,
}

/// A process to start: the container's first or an exec.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// Program and arguments; the program is looked up in the `PATH` of `env`.
    pub args: Vec<String>,
    /// `NAME=value`. `HOME` is added from `/etc/passwd` when missing.
    pub env: Vec<String>,
    /// Working directory; empty: `/`.
    pub cwd: String,
    /// Make the working directory when it is missing (containers yes, execs no).
    pub create_cwd: bool,
    /// `user[:group]` as given, resolved inside the root; empty: root.
    pub user: String,
    /// Supplementary groups, names or numbers, resolved inside the root.
    pub extra_groups: Vec<String>,
    /// What it may do.
    pub capabilities: CapabilitySets,
    /// It can never gain privileges.
    pub no_new_privileges: bool,
    /// Bytes of the system-call filter (`sock_filter` array).
    pub seccomp: Option<Arc<[u8]>>,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// How ready the kernel is to kill it; execs only, see [`Spec::oom_score_adj`].
    pub oom_score_adj: Option<i32>,
    /// File mode creation mask; none: 0022.
    pub umask: Option<u32>,
    /// A terminal of so many rows and columns instead of pipes.
    pub tty: Option<(u16, u16)>,
    /// What its standard input is.
    pub stdin: Stdin,
}

/// What standard input is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stdin {
    /// `/dev/null`.
    #[default]
    Closed,
    /// Stays open when nobody is attached.
    Open,
    /// Closed when the first attached client closes its own.
    Once,
}

/// Capability sets, one bit per number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// What can be gained by executing a file.
    pub bounding: u64,
    /// What counts now.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What is kept over execve with a file that inherits.
    pub inheritable: u64,
    /// What is kept over execve with any file.
    pub ambient: u64,
}

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// Number of the resource (`RLIMIT_NOFILE` is 7).
    pub resource: u32,
    /// What is enforced; `u64::MAX`: unlimited.
    pub soft: u64,
    /// How far it may be raised.
    pub hard: u64,
}

/// Where output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// The `json-file` log; none: nowhere. Its directory must exist.
    pub path: Option<PathBuf>,
    /// Bytes after which the file is rotated; 0: never.
    pub max_size: u64,
    /// Files kept, at least 1.
    pub max_files: u32,
    /// What each line has beside its text, as it is written before the time:
    /// `,"attrs":{"tag":"web"}`, or nothing.
    pub attributes: Vec<u8>,
    /// A service on the host that gets the log too.
    pub service: Option<LogService>,
}

/// A service on the host that gets the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogService {
    /// Where it is, in the kernel's form of an address.
    pub address: Vec<u8>,
    /// It takes messages, not a stream.
    pub datagrams: bool,
    /// How it wants a line.
    pub form: LogForm,
    /// Which part of the system speaks, shifted as in a syslog priority.
    pub facility: u32,
    /// Name of the host, in forms that have it.
    pub host: String,
    /// What names the container in each line.
    pub tag: String,
    /// Fields of each entry of the journal, in its own form.
    pub fields: Vec<u8>,
    /// Bytes that may wait before lines are dropped; 0: the container waits instead.
    pub buffer_max: u64,
}

/// An added process in a running container.
#[derive(Debug, Clone)]
pub struct ExecSpec {
    /// Names it in events and records.
    pub id: ExecId,
    /// What runs.
    pub process: Process,
}

/// A client at the standard streams of a process.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a selection of streams")]
pub struct Attachment {
    /// One end of a connected stream socket; the client's bytes come and go at the other end.
    pub stream: OwnedFd,
    /// What arrives is given to the process.
    pub stdin: bool,
    /// Standard output is sent.
    pub stdout: bool,
    /// Standard error is sent.
    pub stderr: bool,
    /// Each piece has Docker's header of 8 bytes (stream, 0, 0, 0, length); never with a terminal.
    pub framed: bool,
}
