//! What a container is asked to be: validated values, in the units of the kernel.
//!
//! Two halves, as in the OCI and Docker words: [`ContainerConfig`] is what runs (an image carries
//! one too, and the two are merged at create), [`HostConfig`] is how it is held. Both are stored
//! as they are inside a versioned record, so a field is only added with a default.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::Digest;

/// Everything that is decided at create, and what `update` and `rename` change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Unique among containers, without the leading slash of Docker's API.
    pub name: String,
    /// The image as the user wrote it.
    pub image_reference: String,
    /// The image that the reference meant at create.
    pub image: Digest,
    /// What runs, image defaults merged in.
    pub config: ContainerConfig,
    /// How it is held.
    pub host: HostConfig,
    /// Networks by name, as asked for at create; the first is the one of `host.network`.
    pub endpoints: BTreeMap<String, EndpointSpec>,
}

/// What runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerConfig {
    /// Host name inside; empty: the short id.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// `user[:group]`, names or numbers, resolved inside the root when the process starts.
    pub user: String,
    /// Whether the creating client meant to attach; only echoed.
    pub attach: Streams,
    /// A terminal instead of pipes.
    pub tty: bool,
    /// Keep stdin open when nobody is attached.
    pub open_stdin: bool,
    /// Close stdin when the first attached client closes its.
    pub stdin_once: bool,
    /// `NAME=value`; at create also `NAME`, which removes an image's variable.
    pub env: Vec<String>,
    /// Arguments, or the whole command when there is no entrypoint.
    pub cmd: Option<Vec<String>>,
    /// What the arguments are given to.
    pub entrypoint: Option<Vec<String>>,
    /// Directory in which the process starts; empty: `/`.
    pub working_dir: String,
    /// Paths that get an anonymous volume.
    pub volumes: BTreeSet<String>,
    /// Free text by key.
    pub labels: BTreeMap<String, String>,
    /// Name or number of the signal that `stop` sends; empty: SIGTERM.
    pub stop_signal: String,
    /// Seconds between that signal and SIGKILL; none: 10.
    pub stop_timeout_s: Option<i64>,
    /// `port/protocol` that the process listens on; information only.
    pub exposed_ports: BTreeSet<String>,
    /// How to find out whether the process is well.
    pub healthcheck: Option<Healthcheck>,
    /// The shell of `RUN` and `CMD` in shell form; only carried.
    pub shell: Option<Vec<String>>,
    /// Build triggers; only carried.
    pub on_build: Vec<String>,
    /// Hardware address on the main network as the client gave it for the container.
    #[serde(default)]
    pub mac_address: String,
}

impl ContainerConfig {
    /// The exposed ports, each with its protocol; `exposed_ports` has them as the client wrote them.
    pub fn exposed(&self) -> BTreeSet<String> {
        let whole = |port: &String| match port.contains('/') {
            true => port.clone(),
            false => format!("{port}/tcp"),
        };
        self.exposed_ports.iter().map(whole).collect()
    }

    /// The program and its arguments: entrypoint followed by command.
    pub fn args(&self) -> Vec<String> {
        self.entrypoint
            .iter()
            .chain(&self.cmd)
            .flatten()
            .cloned()
            .collect()
    }
}

/// A selection of the three standard streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// A health check, as in the Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Healthcheck {
    /// `NONE`, `CMD …` or `CMD-SHELL …`; empty: inherit.
    pub test: Vec<String>,
    /// Nanoseconds between two checks; 0: inherit.
    pub interval_ns: i64,
    /// Nanoseconds a check may take; 0: inherit.
    pub timeout_ns: i64,
    /// Nanoseconds in which failures do not count; 0: inherit.
    pub start_period_ns: i64,
    /// Nanoseconds between checks in the start period; 0: inherit.
    pub start_interval_ns: i64,
    /// Failures in a row that mean unhealthy; 0: inherit.
    pub retries: i64,
}

impl ContainerSpec {
    /// The images that it needs: its own, and those that are mounted in it.
    pub fn images(&self) -> impl Iterator<Item = Digest> {
        let mounts = self.host.mounts.iter();
        let mounted = mounts.filter_map(|mount| match &mount.kind {
            MountKind::Image { image, .. } => *image,
            _ => None,
        });
        std::iter::once(self.image).chain(mounted)
    }

    /// Whether it needs an image.
    pub fn has_image(&self, image: &Digest) -> bool {
        self.images().any(|one| one == *image)
    }
}

/// How a container is held: isolation, limits, mounts, what happens at its end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostConfig {
    /// Mounts of every form (`-v`, `--mount`, `--tmpfs`), in the order asked for.
    pub mounts: Vec<MountSpec>,
    /// Driver of volumes that `-v` makes; empty: `local`.
    pub volume_driver: String,
    /// Containers whose volumes are mounted too, `name[:ro|rw]`.
    pub volumes_from: Vec<String>,
    /// What happens after the process ended.
    pub restart: RestartPolicy,
    /// Remove the container when it ended.
    pub auto_remove: bool,
    /// Whose network.
    pub network: NetworkMode,
    /// Published ports; accepted by a later issue.
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    /// Publish every exposed port.
    pub publish_all_ports: bool,
    /// Name servers instead of the host's.
    pub dns: Vec<String>,
    /// Whether the client gave a list of resolvers, if an empty one: `inspect` repeats it.
    #[serde(default)]
    pub dns_said: bool,
    /// Options of `resolv.conf`.
    pub dns_options: Vec<String>,
    /// Search domains of `resolv.conf`.
    pub dns_search: Vec<String>,
    /// `name:address` lines of `/etc/hosts`.
    pub extra_hosts: Vec<String>,
    /// Legacy links, `container:alias`; by a later issue.
    pub links: Vec<String>,
    /// Whose process table.
    pub pid: NamespaceMode,
    /// Whose System V and POSIX IPC.
    pub ipc: NamespaceMode,
    /// Whose host name.
    pub uts: NamespaceMode,
    /// Whose cgroup root; `Private` unless asked for the host's.
    pub cgroupns: NamespaceMode,
    /// `host` or empty; remapping is decided by the daemon's configuration.
    pub userns: NamespaceMode,
    /// Which isolation carries the image.
    pub isolation: Isolation,
    /// Whether the client said which; else it is the daemon's default.
    #[serde(default)]
    pub isolation_asked: bool,
    /// Whether the client called the default isolation by its name, which `inspect` then shows.
    #[serde(default)]
    pub isolation_named: bool,
    /// Processors and percent of them on another system than ours; only shown.
    #[serde(default)]
    pub cpu_count: i64,
    /// See `cpu_count`.
    #[serde(default)]
    pub cpu_percent: i64,
    /// All capabilities, all devices, no masks, no filter.
    pub privileged: bool,
    /// The root file system cannot be written.
    pub readonly_rootfs: bool,
    /// Capabilities added to the default set, as given.
    pub cap_add: Vec<String>,
    /// Capabilities taken from the default set, as given.
    pub cap_drop: Vec<String>,
    /// Supplementary groups, names or numbers.
    pub group_add: Vec<String>,
    /// The system-call filter.
    pub seccomp: SeccompChoice,
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// Security options as given, for `inspect`.
    pub security_opt: Vec<String>,
    /// Paths hidden from the container; none: the default list.
    pub masked_paths: Option<Vec<String>>,
    /// Paths that the container may only read; none: the default list.
    pub readonly_paths: Option<Vec<String>>,
    /// Device nodes to make.
    pub devices: Vec<DeviceSpec>,
    /// Extra rules of the device cgroup, as in `c 1:3 rwm`.
    pub device_cgroup_rules: Vec<String>,
    /// Kernel settings inside.
    pub sysctls: BTreeMap<String, String>,
    /// Resource limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Limits that the cgroup holds.
    pub resources: Resources,
    /// Parent cgroup; empty: `hull`.
    pub cgroup_parent: String,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<u64>,
    /// How ready the kernel is to kill it.
    pub oom_score_adj: Option<i32>,
    /// A small init as process 1.
    pub init: Option<bool>,
    /// Where output goes.
    pub log: LogConfig,
    /// Terminal size at start, rows and columns.
    pub console_size: (u16, u16),
    /// Storage options, as given.
    pub storage_opt: BTreeMap<String, String>,
    /// Free text for runtimes.
    pub annotations: BTreeMap<String, String>,
    /// Where the client keeps the id; only echoed.
    pub container_id_file: String,
    /// Runtime name as given; only `hull` and Docker's default names mean us.
    pub runtime: String,
}

/// Which isolation carries an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Namespaces of the host's kernel.
    #[default]
    Container,
    /// A kernel of its own.
    Vm,
}

/// One mount into the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// What is mounted.
    pub kind: MountKind,
    /// Absolute path inside.
    pub destination: String,
    /// Read-only.
    pub readonly: bool,
    /// How the client wrote it, because `inspect` shows each form in its own field.
    pub form: MountForm,
    /// Mode text of `-v` (`ro,z`), as given.
    pub mode: String,
}

/// In which field of Docker's API a mount was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountForm {
    /// `HostConfig.Binds`.
    Bind,
    /// `HostConfig.Mounts`.
    Mount,
    /// `HostConfig.Tmpfs`.
    Tmpfs,
    /// `Config.Volumes`, or an image's `VOLUME`.
    Anonymous,
    /// Taken over from another container by `HostConfig.VolumesFrom`.
    VolumesFrom,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A path of the host.
    Bind {
        /// Absolute path on the host.
        source: String,
        /// Make a directory when nothing is there (`-v` does, `--mount` refuses).
        create_source: bool,
        /// How mounts below travel between host and container.
        propagation: Propagation,
        /// Without what is mounted below the source.
        non_recursive: bool,
    },
    /// A volume.
    Volume {
        /// Name of the volume; empty until create draws one.
        name: String,
        /// Its name was drawn for this container, and it goes with it.
        #[serde(default)]
        anonymous: bool,
        /// Do not copy what the image has at the destination.
        no_copy: bool,
        /// Path inside the volume; empty: all of it.
        subpath: String,
        /// How to make it when it is not there.
        #[serde(default)]
        request: VolumeSpec,
    },
    /// The files of an image, for reading.
    Image {
        /// The image as the client named it.
        source: String,
        /// Which that was at create.
        #[serde(default)]
        image: Option<Digest>,
        /// Path inside the image; empty: all of it.
        #[serde(default)]
        subpath: String,
    },
    /// Memory.
    Tmpfs {
        /// Mount options as in `size=64m,mode=1777`.
        options: String,
    },
}

/// How a volume shall be made; nothing of it changes one that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeSpec {
    /// Name of the driver; empty: `local`.
    pub driver: String,
    /// Options of the driver; none: none were given, which `inspect` tells from an empty list.
    pub options: Option<BTreeMap<String, String>>,
    /// Free text by key; likewise.
    pub labels: Option<BTreeMap<String, String>>,
}

/// Mount propagation, in the kernel's words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Recursively private: the default.
    #[default]
    Rprivate,
    /// Private.
    Private,
    /// Recursively shared.
    Rshared,
    /// Shared.
    Shared,
    /// Recursively receiving.
    Rslave,
    /// Receiving.
    Slave,
}

/// What happens after the process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// Start again, also after the daemon starts, even if it had been stopped by hand.
    Always,
    /// Start again, but not after the daemon starts when it had been stopped by hand.
    UnlessStopped,
    /// Start again when the exit code is not 0.
    OnFailure {
        /// How often; 0: without end.
        retries_max: u32,
    },
}

/// Whose network a container has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// The default bridge.
    #[default]
    Default,
    /// Only a loopback of its own.
    None,
    /// The host's.
    Host,
    /// That of another container, by the name or id as given.
    Container(String),
    /// A named network.
    Named(String),
}

/// Whose namespace of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// The engine's default: its own.
    #[default]
    Default,
    /// Its own, asked for by word.
    Private,
    /// Its own, which others may join (IPC).
    Shareable,
    /// The host's.
    Host,
    /// No such namespace set-up (IPC without `/dev/shm`).
    None,
    /// That of another container.
    Container(String),
}

/// A port of the host that leads to one of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// Address of the host; empty: all.
    pub host_ip: String,
    /// Port or range; empty: one that is free.
    pub host_port: String,
}

/// The system-call filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompChoice {
    /// Docker's default profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// A profile in Docker's JSON form.
    Profile(String),
}

/// A device node to make inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Path on the host; a directory means every device in it.
    pub host_path: String,
    /// Path inside.
    pub container_path: String,
    /// Letters of `rwm`.
    pub access: String,
}

/// One resource limit of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, …
    pub name: String,
    /// What is enforced; -1: unlimited.
    pub soft: i64,
    /// How far it may be raised; -1: unlimited.
    pub hard: i64,
}

/// Limits that the cgroup holds; 0 or none: not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Bytes.
    pub memory: i64,
    /// Bytes kept when memory is short.
    pub memory_reservation: i64,
    /// Bytes of memory and swap together; -1: unlimited swap.
    pub memory_swap: i64,
    /// 0 to 100.
    pub memory_swappiness: Option<i64>,
    /// Do not kill when memory is exhausted.
    pub oom_kill_disable: Option<bool>,
    /// Billionths of a processor.
    pub nano_cpus: i64,
    /// Relative weight, 1024 being normal.
    pub cpu_shares: i64,
    /// Microseconds.
    pub cpu_period: i64,
    /// Microseconds of each period.
    pub cpu_quota: i64,
    /// Microseconds.
    pub cpu_realtime_period: i64,
    /// Microseconds.
    pub cpu_realtime_runtime: i64,
    /// As in `0-2,4`.
    pub cpuset_cpus: String,
    /// As in `0,1`.
    pub cpuset_mems: String,
    /// Processes and threads; 0 or -1: unlimited.
    pub pids_limit: Option<i64>,
    /// 10 to 1000.
    pub blkio_weight: u16,
    /// Weights and rates by device.
    pub blkio_devices: Vec<BlkioDevice>,
}

/// One limit for one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlkioDevice {
    /// What is limited.
    pub what: BlkioLimit,
    /// Path of the device.
    pub path: String,
    /// Weight, bytes per second or operations per second.
    pub rate: u64,
}

/// What a [`BlkioDevice`] limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlkioLimit {
    /// Relative weight.
    Weight,
    /// Bytes read per second.
    ReadBps,
    /// Bytes written per second.
    WriteBps,
    /// Reads per second.
    ReadIops,
    /// Writes per second.
    WriteIops,
}

/// Where output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// Driver name; empty: the daemon's default.
    pub driver: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
}

/// What was asked for on one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSpec {
    /// Fixed address.
    pub ipv4_address: String,
    /// Fixed address.
    pub ipv6_address: String,
    /// Further addresses that reach no further than the link.
    pub link_local_ips: Vec<String>,
    /// Fixed hardware address.
    pub mac_address: String,
    /// Further names on this network.
    pub aliases: Vec<String>,
    /// Legacy links on this network.
    pub links: Vec<String>,
    /// Options of the driver.
    pub driver_opts: BTreeMap<String, String>,
    /// Which of several networks has the way out: the highest.
    pub gateway_priority: i64,
}
