//! Requests and answers of the engine's public interface: plain values, no behaviour.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

pub use crate::logs::lines::{LogLine, LogLines};
use hull_model::health::Health;
use hull_model::port::PublishedPort;
use hull_model::spec::{
    ContainerConfig, ContainerSpec, EndpointSpec, HostConfig, PortBinding, Resources,
    RestartPolicy, VolumeSpec,
};
use hull_model::state::{Exit, State};
use hull_model::{Digest, NetworkId, SandboxId};
pub use hull_net::Subnet;

/// Whether a request changed anything; edges answer 304 to `AlreadySo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It did.
    Made,
    /// It was so before.
    AlreadySo,
}

/// A container to create.
#[derive(Debug, Clone, Default)]
pub struct CreateRequest {
    /// Wanted name without slash; none: a drawn one (`adjective_noun`).
    pub name: Option<String>,
    /// Image as the user wrote it: name, tag, digest or id.
    pub image: String,
    /// What the image must be for, `os/arch[/variant]`; none: whatever it is.
    pub platform: Option<String>,
    /// What runs; image defaults are merged in by the engine.
    pub config: ContainerConfig,
    /// How it is held.
    pub host: HostConfig,
    /// Networks by name.
    pub endpoints: BTreeMap<String, EndpointSpec>,
}

/// A created container.
#[derive(Debug, Clone)]
pub struct Created {
    /// Its id.
    pub id: SandboxId,
    /// What was weaker than asked for, in sentences.
    pub warnings: Vec<String>,
}

/// A container as it is now: an immutable snapshot.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: SandboxId,
    /// What it was asked to be.
    pub spec: Arc<ContainerSpec>,
    /// Where it is in its life.
    pub state: State,
    /// Nanoseconds since the epoch.
    pub created_ns: i64,
    /// Nanoseconds since the epoch of the last start; 0: never.
    pub started_ns: i64,
    /// Nanoseconds since the epoch of the last end; 0: never.
    pub finished_ns: i64,
    /// Process id of its first process on the host; 0: none.
    pub pid: u32,
    /// Text of the last failed start; empty: none.
    pub error: String,
    /// Exit code that goes with `error`, as `docker inspect` shows it; 0: none.
    pub error_code: i32,
    /// Whether [`Container::error`] is what kept the program itself from running, in runc's words.
    pub failed_to_run: bool,
    /// How often the restart policy started it since the last start by hand.
    pub restart_count: u32,
    /// Memory ran out in its present or last life.
    pub out_of_memory: bool,
    /// Its networks while it runs, by number.
    pub endpoints: Vec<Endpoint>,
    /// What its health check says; none: it has none, or never ran.
    pub health: Option<Health>,
    /// Its published ports while it runs.
    pub ports: Vec<PublishedPort>,
    /// Mounts with their sources resolved.
    pub mounts: Vec<MountPoint>,
    /// Where its output is kept, for drivers that keep a file.
    pub log_path: Option<PathBuf>,
    /// Files that it sees as `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`.
    pub files_dir: PathBuf,
    /// Upper directory of its root.
    pub upper_dir: PathBuf,
    /// Ids of execs that run.
    pub execs: Vec<String>,
    /// Diff ids of its layers, lowest first.
    pub layers: Vec<Digest>,
    /// Warnings that were given at create and still hold.
    pub warnings: Vec<String>,
    /// The machine that it was last started in; none with isolation by the host's kernel.
    pub machine: Option<MachineFacts>,
}

/// An attachment of a running container to a network.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Endpoint {
    /// Name of the network.
    pub network: String,
    /// 64 hex digits.
    pub network_id: String,
    /// 64 hex digits.
    pub endpoint_id: String,
    /// Which of the container's: its link inside is `eth<number>`.
    #[serde(default)]
    pub number: u8,
    /// Address; none on a network without IPv4.
    pub address: Option<Ipv4Addr>,
    /// Bits of the network part.
    pub prefix: u8,
    /// Gateway; none where nothing leads out.
    pub gateway: Option<Ipv4Addr>,
    /// Address; none on a network without IPv6.
    #[serde(default)]
    pub address6: Option<Ipv6Addr>,
    /// Bits of the network part.
    #[serde(default)]
    pub prefix6: u8,
    /// Gateway; none where nothing leads out.
    #[serde(default)]
    pub gateway6: Option<Ipv6Addr>,
    /// Hardware address, `02:42:ac:11:00:02`.
    pub mac: String,
    /// Which of several networks has the way out: the highest.
    #[serde(default)]
    pub gateway_priority: i64,
    /// Further addresses that reach no further than the link.
    #[serde(default)]
    pub link_local: Vec<IpAddr>,
}

impl Endpoint {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.address.map(IpAddr::V4);
        v4.into_iter().chain(self.address6.map(IpAddr::V6))
    }
}

impl Container {
    /// Its host name: what was asked for, else its short id, or the host's own where it shares that.
    pub fn hostname(&self) -> String {
        crate::translate::hostname(&self.spec, self.id)
    }

    /// Its names on one network, most official first.
    pub fn dns_names(&self, asked: &EndpointSpec) -> Vec<String> {
        let spec = &self.spec;
        let mut names = vec![spec.name.clone()];
        names.extend(asked.aliases.iter().cloned());
        names.push(self.id.short());
        if !spec.config.hostname.is_empty() {
            names.push(spec.config.hostname.clone());
        }
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }
}

/// A mount with its source resolved, as `inspect` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// `bind`, `volume`, `image` or `tmpfs`.
    pub kind: &'static str,
    /// Name of the volume; empty for others.
    pub name: String,
    /// Path on the host, or an image's name; empty for tmpfs.
    pub source: String,
    /// Path inside.
    pub destination: String,
    /// Mode text as given.
    pub mode: String,
    /// Whether it may be written.
    pub writable: bool,
    /// Propagation word; empty for volumes and tmpfs.
    pub propagation: &'static str,
}

/// When a wait ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// As soon as it does not run; at once when it never ran.
    #[default]
    NotRunning,
    /// At the next exit.
    NextExit,
    /// When it is gone.
    Removed,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waited {
    /// Exit code.
    pub code: i32,
    /// Why the container could not be started or removed; empty: fine.
    pub error: String,
}

/// How to remove a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveOptions {
    /// Kill it first.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
}

/// A change of a container's published ports.
#[derive(Debug, Clone, Default)]
pub struct PublishRequest {
    /// Container port (`80/tcp`) and where on the host.
    pub add: Vec<(String, PortBinding)>,
    /// Likewise; an empty address or port of the host stands for all.
    pub remove: Vec<(String, PortBinding)>,
}

/// What to attach to.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttachRequest {
    /// Give it our input.
    pub stdin: bool,
    /// Its output.
    pub stdout: bool,
    /// Its errors.
    pub stderr: bool,
    /// What it printed before, first.
    pub logs: bool,
    /// Stay attached.
    pub stream: bool,
}

/// An attached stream: one end of a socket pair, whose other end the shim has.
///
/// Reading gives output (8-byte frame headers as in Docker's attach unless `tty`), end of file
/// means that the process ended. Writing gives input, `shutdown(Write)` ends it.
#[derive(Debug)]
pub struct Attached {
    /// The stream.
    pub stream: tokio::net::UnixStream,
    /// Raw bytes of a terminal instead of frames.
    pub tty: bool,
    /// What was printed before, framed likewise, when it was asked for.
    pub replay: Vec<u8>,
    /// To be dropped when all output has reached the client: a wait for the container's end is
    /// answered after that.
    pub delivery: Delivery,
}

/// Output on its way to a client.
#[derive(Debug, Default)]
pub struct Delivery(#[allow(dead_code, reason = "its end is what counts")] Option<Pending>);

type Pending = tokio::sync::watch::Receiver<()>;

impl Delivery {
    pub(crate) fn new(pending: Pending) -> Self {
        Self(Some(pending))
    }
}

/// Whether a client has read all that was written to its unix socket.
pub fn has_read_all(client: std::os::fd::BorrowedFd<'_>) -> bool {
    // Where the kernel does not tell, there is nothing to wait for.
    hull_os::socket::unread_by_peer(client).map_or(true, |bytes| bytes == 0)
}

/// Which log lines.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogsRequest {
    /// Of stdout.
    pub stdout: bool,
    /// Of stderr.
    pub stderr: bool,
    /// Go on while the container runs.
    pub follow: bool,
    /// Only the last so many; none: all.
    pub tail: Option<u64>,
    /// Not before, nanoseconds since the epoch; 0: from the start.
    pub since_ns: i64,
    /// Not after, nanoseconds since the epoch; 0: to the end.
    pub until_ns: i64,
}

/// A command to run in a container.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct ExecRequest {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// Added to the container's environment.
    pub env: Vec<String>,
    /// `user[:group]`; empty: the container's.
    pub user: String,
    /// Empty: the container's.
    pub working_dir: String,
    /// A terminal.
    pub tty: bool,
    /// Which streams the client wants.
    pub attach: hull_model::spec::Streams,
    /// All capabilities.
    pub privileged: bool,
    /// Detach keys as given; only echoed.
    pub detach_keys: String,
    /// A health check's, by the engine itself.
    #[serde(default)]
    pub probe: bool,
}

/// An exec as it is now.
#[derive(Debug, Clone)]
pub struct Exec {
    /// 64 hex digits.
    pub id: String,
    /// Where it runs.
    pub container: SandboxId,
    /// What was asked for.
    pub request: ExecRequest,
    /// Whether it runs.
    pub running: bool,
    /// How it ended; none: it did not.
    pub exit_code: Option<i32>,
    /// On the host; 0: did not start.
    pub pid: u32,
}

/// What of a container is changed; what is not given stays.
#[derive(Debug, Clone, Default)]
pub struct UpdateRequest {
    /// 0, empty and none: not given.
    pub resources: Resources,
    /// None: not given.
    pub restart: Option<RestartPolicy>,
}

/// What figures of containers are measured by.
#[derive(Debug, Clone, Copy)]
pub struct HostFacts {
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Bytes.
    pub memory_bytes: u64,
}

/// What a container uses.
#[derive(Debug, Clone)]
pub struct Usage {
    /// Processors, now.
    pub cpu: CpuMoment,
    /// And before, for a share of them.
    pub before: Option<CpuMoment>,
    /// Memory.
    pub memory: hull_os::cgroup::MemoryStats,
    /// Processes and threads.
    pub pids: u64,
    /// Most of them; none: unlimited.
    pub pids_limit: Option<u64>,
    /// Block I/O by device.
    pub blkio: Vec<hull_os::cgroup::BlkioStats>,
    /// Its network links but the loopback.
    pub links: Vec<LinkStats>,
}

/// Processor time up to a moment.
#[derive(Debug, Clone, Default)]
pub struct CpuMoment {
    /// Nanoseconds since the epoch.
    pub at_ns: i64,
    /// Of the container.
    pub cpu: hull_os::cgroup::CpuStats,
    /// Of all processors, idle time too, in nanoseconds.
    pub system_ns: u64,
    /// Processors.
    pub online: u32,
}

/// Figures of a link: bytes, packets, errors, dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStats {
    /// As the container calls it.
    pub name: String,
    /// Received.
    pub rx: [u64; 4],
    /// Sent.
    pub tx: [u64; 4],
}

/// What is at a path of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat(pub hull_storage::tree::Found);

/// How an archive is unpacked into a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct ArchiveOptions {
    /// Neither a directory takes the place of something else nor the other way round.
    pub keep_kinds: bool,
    /// Everything belongs to the container's user.
    pub owned_by_user: bool,
}

/// A path that a container changed.
pub type FileChange = hull_storage::tree::Change;

/// How to make an image of a container.
#[derive(Debug, Clone, Default)]
pub struct CommitRequest {
    /// Its name; none: only an id.
    pub reference: Option<String>,
    /// For its history.
    pub author: String,
    /// For its history.
    pub message: String,
    /// Dockerfile instructions that change its configuration.
    pub changes: Vec<String>,
    /// What goes before the container's configuration; none: the changes begin with that.
    pub config: Option<ContainerConfig>,
    /// Stop all processes meanwhile.
    pub pause: bool,
}

/// An image as people see it.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of its configuration.
    pub id: Digest,
    /// Names with tags in familiar form, `busybox:latest`.
    pub tags: Vec<String>,
    /// Names with digests in familiar form.
    pub digests: Vec<String>,
    /// The configuration blob as it is, OCI or Docker form.
    pub config: Arc<serde_json::Value>,
    /// Bytes of its layer files.
    pub size: u64,
    /// Nanoseconds since the epoch.
    pub created_ns: i64,
    /// Nanoseconds since the epoch of the last tagging; 0: unknown.
    pub tagged_ns: i64,
    /// Diff ids, lowest first.
    pub layers: Vec<Digest>,
    /// Bytes of each layer file, in the order of `layers`.
    pub layer_sizes: Vec<u64>,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Bytes of its manifest.
    pub manifest_bytes: u64,
    /// What its manifest is.
    pub manifest_type: String,
    /// Bytes of its manifest and of its layers as they came.
    pub content_bytes: u64,
    /// How many containers were made of it.
    pub containers: usize,
    /// The image of the container that it was committed from, while that image is there.
    pub parent: Option<Digest>,
}

/// What images take on the disk, as `du` counts it.
#[derive(Debug, Clone, Default)]
pub struct ImagesUsage {
    /// Bytes of all images, and of what is half done.
    pub total: u64,
    /// Each image with its own share.
    pub images: Vec<ImageUsage>,
}

/// What one image takes on the disk.
#[derive(Debug, Clone)]
pub struct ImageUsage {
    /// The image.
    pub image: Image,
    /// Bytes of all its parts.
    pub total: u64,
    /// Bytes of those that another image has too.
    pub shared: u64,
}

/// Which images a prune removes.
#[derive(Debug, Clone, Default)]
pub struct ImagePrune {
    /// Those with names too, not only dangling ones.
    pub all: bool,
    /// Only those made before, nanoseconds since the epoch.
    pub until_ns: Option<i64>,
    /// Only those with all of these labels: a key, perhaps with a value.
    pub labels: Vec<(String, Option<String>)>,
    /// Only those without any of these.
    pub no_labels: Vec<(String, Option<String>)>,
}

/// What removing an image did, in Docker's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRemoval {
    /// A name is gone.
    Untagged(String),
    /// The image is gone.
    Deleted(Digest),
    /// A stack of layers is gone, by its chain id.
    LayerDeleted(Digest),
}

/// How a start failed or how a process ended, for `State` of inspect.
pub fn exit_of(state: &State) -> Option<Exit> {
    match state {
        State::Exited { exit, .. } => Some(*exit),
        _ => None,
    }
}

/// Facts about the host and the engine.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What survives a reboot.
    pub data_root: PathBuf,
    /// Drawn with the data root; 36 characters in the form of a UUID.
    pub id: String,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Bytes.
    pub memory_bytes: u64,
    /// Processors.
    pub cpus: usize,
    /// Sentences about what the host lacks.
    pub warnings: Vec<String>,
    /// How layers are held: `erofs (file, direct)`, `erofs (loop)`.
    pub layer_backing: String,
    /// Log drivers that there are.
    pub log_drivers: &'static [&'static str],
    /// The log driver of who names none.
    pub log_driver: String,
    /// What enforces the rules of networks.
    pub firewall_backend: &'static str,
    /// Whether users of containers are not those of the host.
    pub users_mapped: bool,
}

/// The processes of a container, in the words of the kernel that runs them: the host's or a guest's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processes {
    /// `/proc/uptime`.
    pub uptime: String,
    /// `/proc/meminfo`.
    pub memory: String,
    /// Each process; of one that ended since it was listed nothing is told.
    pub list: Vec<ProcessFiles>,
}

/// What `/proc` has of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessFiles {
    /// `stat`.
    pub stat: String,
    /// `status`.
    pub status: String,
    /// `cmdline`.
    pub command: String,
}

/// The machine of a container with isolation `vm`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MachineFacts {
    /// Id of its kernel in the store.
    pub kernel: String,
    /// What `uname -r` says inside.
    pub kernel_release: String,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Why that one.
    pub reason: String,
    /// Its memory, with what its kernel needs.
    pub memory_bytes: u64,
    /// Its processors.
    pub cpus: u32,
}

/// How a network connects its endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkDriver {
    /// A bridge of this host.
    #[default]
    Bridge,
    /// The host's own links.
    Host,
    /// None at all.
    Null,
    /// Links on top of one of the host's.
    Macvlan,
    /// The same with the hardware address of that one.
    Ipvlan,
}

impl NetworkDriver {
    /// Whether its endpoints are on top of a link of the host, which has no end of theirs.
    pub(crate) fn is_on_top(self) -> bool {
        matches!(self, Self::Macvlan | Self::Ipvlan)
    }

    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::Null => "null",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        }
    }
}

/// Addresses of a network in one family.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NetworkPool {
    /// All of them.
    pub subnet: Subnet,
    /// The one that leads out.
    pub gateway: IpAddr,
    /// Where addresses come from that nobody chose; none: anywhere.
    #[serde(default)]
    pub range: Option<Subnet>,
    /// Addresses that are somebody else's, by name.
    #[serde(default)]
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Whether the subnet was asked for, and so fixed addresses in it make sense.
    #[serde(default)]
    pub chosen: bool,
}

/// What a network was asked to be, with all that was left open decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    /// Unique among networks.
    pub name: String,
    /// How endpoints are connected.
    pub driver: NetworkDriver,
    /// Whether nothing leads in or out.
    pub internal: bool,
    /// Only carried.
    pub attachable: bool,
    /// Whether endpoints get IPv4 addresses.
    pub ipv4: bool,
    /// Whether endpoints get IPv6 addresses.
    pub ipv6: bool,
    /// Address pools, at most one per family for bridges.
    pub pools: Vec<NetworkPool>,
    /// Options of address management; only carried.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Options of the driver, as given.
    pub options: BTreeMap<String, String>,
    /// Free text by key.
    pub labels: BTreeMap<String, String>,
    /// It is only there for others to take their configuration from.
    #[serde(default)]
    pub config_only: bool,
    /// Name of the network whose configuration it took.
    #[serde(default)]
    pub config_from: String,
}

/// What an egress policy says and has done.
#[derive(Debug, Clone, Default)]
pub struct EgressReport {
    /// Its entries; none: nothing is allowed.
    pub allowed: Vec<String>,
    /// Connections that it let out.
    pub connections: u64,
    /// Packets that it dropped.
    pub blocked_packets: u64,
    /// Bytes of those.
    pub blocked_bytes: u64,
}

/// A network to create; texts as the client wrote them.
#[derive(Debug, Clone, Default)]
pub struct NetworkRequest {
    /// Its name.
    pub name: String,
    /// Docker's word; empty: `bridge`.
    pub driver: String,
    /// Whether nothing leads in or out.
    pub internal: bool,
    /// Only carried.
    pub attachable: bool,
    /// Whether endpoints get IPv4 addresses.
    pub ipv4: bool,
    /// Whether endpoints get IPv6 addresses.
    pub ipv6: bool,
    /// Address management; empty: `default`.
    pub ipam_driver: String,
    /// Its options.
    pub ipam_options: Option<BTreeMap<String, String>>,
    /// Subnets.
    pub pools: Vec<PoolRequest>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Free text by key.
    pub labels: BTreeMap<String, String>,
    /// It is only there for others to take their configuration from.
    pub config_only: bool,
    /// Name of the network whose configuration it takes; empty: none.
    pub config_from: String,
}

/// One subnet of a network to create; empty texts: we choose.
#[derive(Debug, Clone, Default)]
pub struct PoolRequest {
    /// `10.1.0.0/24`.
    pub subnet: String,
    /// `10.1.0.1`.
    pub gateway: String,
    /// `10.1.0.128/25`.
    pub range: String,
    /// Addresses by name.
    pub auxiliary: BTreeMap<String, String>,
}

/// A network as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The same after a restart.
    pub id: NetworkId,
    /// What it was asked to be.
    pub spec: Arc<NetworkSpec>,
    /// Nanoseconds since the epoch.
    pub created_ns: i64,
    /// `bridge`, `host` and `none` are there without being made.
    pub predefined: bool,
    /// Name of the bridge link, or of the parent; empty for others.
    pub link: String,
}

/// A container's place on a network, with all the names by which others find it there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The container.
    pub container: SandboxId,
    /// Its name.
    pub name: String,
    /// Its place.
    pub endpoint: Endpoint,
    /// Name, short id, aliases and host name, without repetition.
    pub names: Vec<String>,
    /// Names that only this container has for others: alias, and the container that it means.
    pub links: Vec<(String, String)>,
}

/// What happened while bytes came in, for progress streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Bytes of a layer so far.
    Layer {
        /// Short id.
        id: String,
        /// Done.
        current: u64,
        /// All; 0: unknown.
        total: u64,
    },
    /// A line for the user, `Loaded image: busybox:latest`.
    Message(String),
}

/// How an imported image shall be.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// Its name; none: only an id.
    pub reference: Option<String>,
    /// Dockerfile instructions that change its configuration.
    pub changes: Vec<String>,
    /// Comment in its history.
    pub message: String,
    /// `os/arch[/variant]`; none: this host's.
    pub platform: Option<String>,
}

/// Who the client is to a registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    /// Name; empty: none.
    pub username: String,
    /// Password.
    pub password: String,
    /// Stands for name and password.
    pub identity_token: String,
    /// Stands for all of it, at the registry itself.
    pub registry_token: String,
}

/// Without the secrets.
impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// An image to be fetched.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// Name with tag or digest; without either: all tags.
    pub reference: String,
    /// `os[/arch[/variant]]`; none: this host's.
    pub platform: Option<String>,
    /// Who asks.
    pub auth: RegistryAuth,
}

/// An image to be sent.
#[derive(Debug, Clone, Default)]
pub struct PushRequest {
    /// Name with tag; without: all tags.
    pub reference: String,
    /// Who asks.
    pub auth: RegistryAuth,
}

/// What happens while an image is fetched or sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transfer {
    /// A tag or digest of a repository is being fetched.
    Pulling {
        /// As people write it.
        repository: String,
        /// Tag or digest.
        tag: String,
    },
    /// A repository is being sent to.
    Pushing {
        /// With its domain.
        repository: String,
    },
    /// A layer came a step further.
    Layer {
        /// Digest of the blob when fetched, diff id when sent.
        digest: Digest,
        /// Where it is.
        step: LayerStep,
    },
    /// The digest of what was fetched.
    Pulled {
        /// Of manifest or index.
        digest: Digest,
    },
    /// The end of a pull.
    Status {
        /// As people write it.
        reference: String,
        /// Whether anything changed.
        newer: bool,
    },
    /// Of an image that came by an index, only the platform that is here is sent.
    OnePlatform,
    /// A tag was sent.
    Pushed {
        /// Which.
        tag: String,
        /// Of the manifest.
        digest: Digest,
        /// Of the manifest, in bytes.
        size: u64,
    },
}

/// Where a layer is on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerStep {
    /// It will be fetched.
    Queued,
    /// It waits for a place.
    Waiting,
    /// It is here already.
    AlreadyHere,
    /// Bytes come.
    Downloading {
        /// So far.
        current: u64,
        /// In all.
        total: u64,
    },
    /// All came.
    Downloaded,
    /// It is checked and stored.
    Extracting {
        /// Bytes in all.
        total: u64,
    },
    /// It is here.
    Complete,
    /// It will be sent.
    Preparing,
    /// It is there already.
    AlreadyThere,
    /// Bytes go.
    Pushing {
        /// So far.
        current: u64,
        /// In all.
        total: u64,
    },
    /// It is there.
    Pushed,
    /// The registry took it from another repository.
    Mounted {
        /// Which.
        from: String,
    },
}

/// What a registry says about a reference.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteImage {
    /// What the manifest or index is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it runs on: architecture, operating system, variant.
    pub platforms: Vec<(String, String, String)>,
}

/// A volume to make.
#[derive(Debug, Clone, Default)]
pub struct VolumeRequest {
    /// Its name; empty: one is drawn.
    pub name: String,
    /// How to make it.
    pub spec: VolumeSpec,
}

/// A volume to make with what another one holds.
#[derive(Debug, Clone, Default)]
pub struct VolumeCopy {
    /// What is copied.
    pub from: String,
    /// Name of the new one.
    pub to: String,
    /// It can only be read.
    pub snapshot: bool,
    /// Hold programs that write to it meanwhile, so that the copy is of one moment.
    pub pause: bool,
    /// Free text by key; none: that of the source.
    pub labels: Option<BTreeMap<String, String>>,
}

/// A volume as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Unique among volumes.
    pub name: String,
    /// Options of the driver as given; none: none were.
    pub options: Option<BTreeMap<String, String>>,
    /// Free text by key; none: none was given.
    pub labels: Option<BTreeMap<String, String>>,
    /// Nanoseconds since the epoch.
    pub created_ns: i64,
    /// Where its contents are on the host.
    pub mountpoint: PathBuf,
    /// Its name was drawn.
    pub anonymous: bool,
    /// The volume that it is a read-only copy of.
    pub snapshot_of: Option<String>,
    /// Containers that have it, also those that do not run.
    pub users: Vec<VolumeUser>,
}

/// A container that has a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeUser {
    /// Its id.
    pub id: SandboxId,
    /// Its name.
    pub name: String,
    /// It runs and may write to the volume.
    pub writes: bool,
}
