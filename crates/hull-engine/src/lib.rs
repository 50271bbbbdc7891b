//! The product: containers and images as objects with owners, rules, records and recovery.
//!
//! ```text
//!  edge ──▶ Engine ──▶ containers() ──▶ one owner task per container ──▶ hull-sandbox ──▶ shim
//!                 └──▶ images()     ──▶ hull-storage
//!                 └──▶ events()         store.rs: the one embedded store
//! ```
//!
//! The engine knows no HTTP and no JSON of any client; it never forks and never enters a
//! namespace. Requests are values ([`api`]), answers are snapshots.

#![forbid(unsafe_code)]

pub mod api;
mod clock;
mod core;
mod defaults;
mod error;
mod events;
mod files;
mod jobs;
mod limits;
mod log_driver;
mod logs;
mod machine;
mod name;
mod names;
mod network;
mod object;
mod open;
mod port;
mod recover;
mod reload;
mod shutdown;
mod sizes;
mod stats;
mod store;
mod translate;
mod users;
mod verify;

pub use defaults::HostDefaults;
pub use error::{Cause, EngineError, Result};
pub use events::KeptEvents;
pub use hull_net::AddressPool;
pub use hull_net::Backend as FirewallBackend;
pub use hull_registry::{Proxies, RegistryOptions};
pub use hull_sandbox::container::{MASKED_PATHS, READONLY_PATHS};
pub use hull_storage::Backing as LayerBacking;
pub use reload::Reload;
pub use stats::STREAM_PAUSE as STATS_PAUSE;

use std::collections::HashMap;
use std::future::Future;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::{
    AttachRequest, Attached, Change, Container, CreateRequest, Created, EgressReport, Exec,
    ExecRequest, Facts, Image, ImagePrune, ImageRemoval, ImagesUsage, ImportRequest, LogLines,
    LogsRequest, Member, Network, NetworkRequest, Progress, PublishRequest, PullRequest,
    PushRequest, RegistryAuth, RemoteImage, RemoveOptions, Transfer, Volume, VolumeCopy,
    VolumeRequest, WaitCondition, Waited,
};
use hull_model::egress::EGRESS_LABEL;
use hull_model::event::{Happening, Subject};
use hull_model::ids::UserMaps;
use hull_model::spec::EndpointSpec;
use hull_model::state::State;
use hull_model::{Digest, NetworkId, SandboxId};
use hull_sandbox::Target;
use object::container::{Handle, Request};
use tokio::sync::{broadcast, mpsc};

/// What the daemon's configuration decides for the engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// What survives a reboot.
    pub data_root: PathBuf,
    /// What does not: sockets, exit records, layer mounts.
    pub run_root: PathBuf,
    /// The static program that is put beside each container.
    pub shim_program: &'static [u8],
    /// Cgroup that the parent of all containers is made in; empty: the root. The parent is ours alone:
    /// `hull`, or a name made of `run_root` where that is not the usual one.
    pub cgroup_parent: String,
    /// What a container gets that does not say otherwise.
    pub defaults: HostDefaults,
    /// The default bridge.
    pub bridge: BridgeConfig,
    /// Mirrors, insecure registries, proxies.
    pub registries: RegistryOptions,
    /// Layers that are fetched at the same time; 0: the usual number.
    pub downloads_max: usize,
    /// Layers of one push that are sent at the same time; 0: the usual number.
    pub uploads_max: usize,
    /// When images go that nobody uses; default: never.
    pub image_gc: ImageGc,
    /// How layers are mounted; none: the best way that works.
    pub layer_backing: Option<LayerBacking>,
    /// Users of containers; empty: those of the host.
    pub users: UserMaps,
}

/// When images without a container are removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ImageGc {
    /// After so long without use; none: never.
    pub unused_for: Option<Duration>,
    /// The longest unused first, while all images together take more; none: never.
    pub bytes_max: Option<u64>,
}

/// The default bridge.
#[derive(Debug, Clone, Default)]
pub struct BridgeConfig {
    /// No default bridge at all (`--bridge none`).
    pub disabled: bool,
    /// Name of the link; empty: `hull0`.
    pub name: String,
    /// Gateway address with prefix, `172.17.0.1/16`; empty: the first free pool.
    pub address: String,
    /// Where its containers' addresses come from (`--fixed-cidr`); empty: all of the subnet.
    pub range: String,
    /// It has IPv6, with a subnet of this engine's own where none is named.
    pub ipv6: bool,
    /// The same as `address` for IPv6.
    pub address6: String,
    /// The same as `range` for IPv6.
    pub range6: String,
    /// Containers on it are seen outside by their own addresses (`--ip-masq=false`).
    pub no_masquerade: bool,
    /// What `host-gateway` stands for; none: the bridge's own address.
    pub host_gateway: Option<std::net::IpAddr>,
    /// Bytes; 0: 1500.
    pub mtu: u32,
    /// Containers on it do not reach each other (`--icc=false`).
    pub no_icc: bool,
    /// Where subnets come from that nobody chose; empty: Docker's defaults.
    pub pools: Vec<AddressPool>,
    /// Only name what blocks our traffic in foreign chains, add nothing there.
    pub hands_off: bool,
    /// Address of port bindings that name none; none: every address.
    pub default_ip: Option<std::net::IpAddr>,
    /// What comes to published ports from outside goes through the host's own firewall, and is
    /// carried to containers by the daemon.
    pub host_firewall: bool,
    /// What enforces our rules; none: nftables, or iptables where the kernel has none.
    pub firewall_backend: Option<FirewallBackend>,
}

/// The engine; cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine(Arc<core::Core>);

impl Engine {
    /// Opens the data root, finds again what runs, finishes or undoes what was half done.
    ///
    /// # Errors
    /// When another daemon holds the data root, or a directory cannot be made.
    pub async fn open(config: EngineConfig) -> Result<Engine> {
        open::open(config).await.map(Engine)
    }

    /// The containers.
    pub fn containers(&self) -> Containers<'_> {
        Containers(&self.0)
    }

    /// The images.
    pub fn images(&self) -> Images<'_> {
        Images(&self.0)
    }

    /// The volumes.
    pub fn volumes(&self) -> Volumes<'_> {
        Volumes(&self.0)
    }

    /// The kept events not older than `since_ns` (none: none), and all that follow.
    pub fn events(
        &self,
        since_ns: Option<i64>,
    ) -> (KeptEvents, broadcast::Receiver<Arc<Happening>>) {
        self.0.events.subscribe(self.0.jobs.clone(), since_ns)
    }

    /// Puts new values of what may change in force, all or none, and tells subscribers.
    ///
    /// # Errors
    /// Which option of registries cannot be used.
    pub fn reload(&self, reload: Reload) -> Result<()> {
        reload::reload(&self.0, reload)
    }

    /// Facts for `info` and `version`.
    pub fn facts(&self) -> Facts {
        open::facts(&self.0)
    }

    /// What machines run on (`kvm` or `tcg`), why, and the release of the kernel that they boot. The
    /// first time after a boot a probe guest runs for this.
    ///
    /// # Errors
    /// When too much waits already.
    pub async fn machine_support(&self) -> Result<(&'static str, String, Option<String>)> {
        let job = self.0.clone();
        let found = self
            .0
            .jobs
            .run(jobs::Pool::Kernel, move || machine::support(&job));
        let (verdict, kernel) = found.await?;
        Ok((verdict.accelerator.word(), verdict.reason, kernel))
    }

    /// Facts for figures of containers.
    pub fn facts_of_host(&self) -> api::HostFacts {
        self.0.host
    }

    /// The networks.
    pub fn networks(&self) -> Networks<'_> {
        Networks(&self.0)
    }

    /// Checks blobs, records and kernel objects against each other; changes nothing. Returns a
    /// sentence for each difference.
    ///
    /// # Errors
    /// When the data root cannot be read at all.
    pub async fn verify(&self) -> Result<Vec<String>> {
        verify::verify(&self.0).await
    }

    /// Stops every container for a shutdown of the host, all at once; their wish to run again is
    /// kept. Then removes bridge, table and layer mounts.
    ///
    /// # Errors
    /// The first failure; the rest is done all the same.
    pub async fn shutdown(&self) -> Result<()> {
        shutdown::shutdown(&self.0).await
    }
}

/// The containers.
#[derive(Debug, Clone, Copy)]
pub struct Containers<'a>(&'a Arc<core::Core>);

impl Containers<'_> {
    fn handle(&self, id: SandboxId) -> Result<Handle> {
        self.0.containers.handle(id)
    }

    /// Finds a container by name, id or unique id prefix.
    ///
    /// # Errors
    /// `NoSuchContainer`, `Ambiguous`.
    pub fn resolve(&self, name: &str) -> Result<SandboxId> {
        self.0.containers.resolve(name)
    }

    /// All containers, newest first.
    pub fn list(&self) -> Vec<Arc<Container>> {
        self.0.containers.snapshots()
    }

    /// One container.
    ///
    /// # Errors
    /// `NoSuchContainer`.
    pub fn inspect(&self, id: SandboxId) -> Result<Arc<Container>> {
        Ok(self.handle(id)?.snapshot.borrow().clone())
    }

    /// What a container may reach outside, where that is limited.
    pub async fn egress(&self, container: &Arc<Container>) -> Option<EgressReport> {
        if !container.spec.config.labels.contains_key(EGRESS_LABEL) {
            return None;
        }
        let (core, container) = (self.0.clone(), container.clone());
        let asked = move || core.network.egress_of(&container);
        self.0.jobs.run(jobs::Pool::Kernel, asked).await.ok()?
    }

    /// Creates a container.
    ///
    /// # Errors
    /// `NoSuchImage`, `NameTaken`, `Invalid`, `Unsupported`, or a full disk.
    pub async fn create(&self, request: CreateRequest) -> Result<Created> {
        let core = self.0.clone();
        finished(async move { object::create::create(&core, request).await }).await
    }

    /// Starts a container; returns when its program runs.
    ///
    /// # Errors
    /// `StartFailed` with the text for the user, or why it may not start now.
    pub async fn start(&self, id: SandboxId) -> Result<Change> {
        self.handle(id)?.ask(|reply| Request::Start { reply }).await
    }

    /// Stops a container: stop signal, then SIGKILL after `timeout_s` (none: its own; negative:
    /// never). Returns when it has ended.
    ///
    /// # Errors
    /// `NoSuchContainer`.
    pub async fn stop(
        &self,
        id: SandboxId,
        timeout_s: Option<i64>,
        signal: Option<i32>,
    ) -> Result<Change> {
        self.handle(id)?
            .ask(|reply| Request::Stop {
                timeout_s,
                signal,
                reply,
            })
            .await
    }

    /// Stops, then starts.
    ///
    /// # Errors
    /// As `stop` and `start`.
    pub async fn restart(
        &self,
        id: SandboxId,
        timeout_s: Option<i64>,
        signal: Option<i32>,
    ) -> Result<()> {
        self.stop(id, timeout_s, signal).await?;
        self.start(id).await?;
        self.tell(id, "restart")
    }

    /// Changes limits and restart policy, also while it runs; returns warnings.
    ///
    /// # Errors
    /// `Invalid`, `WrongState` for what contradicts what it has, or the kernel's refusal.
    pub async fn update(&self, id: SandboxId, update: api::UpdateRequest) -> Result<Vec<String>> {
        self.handle(id)?
            .ask(|reply| Request::Update { update, reply })
            .await
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// `NotRunning`.
    pub async fn kill(&self, id: SandboxId, signal: i32) -> Result<()> {
        self.handle(id)?
            .ask(|reply| Request::Kill { signal, reply })
            .await
    }

    /// Freezes all processes.
    ///
    /// # Errors
    /// `NotRunning`, `WrongState`.
    pub async fn pause(&self, id: SandboxId) -> Result<()> {
        self.handle(id)?.ask(|reply| Request::Pause { reply }).await
    }

    /// Thaws all processes.
    ///
    /// # Errors
    /// `WrongState` when it is not paused.
    pub async fn resume(&self, id: SandboxId) -> Result<()> {
        self.handle(id)?
            .ask(|reply| Request::Resume { reply })
            .await
    }

    /// Changes the name.
    ///
    /// # Errors
    /// `NameTaken`, `Invalid`.
    pub async fn rename(&self, id: SandboxId, name: &str) -> Result<()> {
        let name = name.strip_prefix('/').unwrap_or(name).to_owned();
        self.handle(id)?
            .ask(|reply| Request::Rename { name, reply })
            .await
    }

    /// Publishes and takes back ports of a container, running or not; later starts do likewise.
    ///
    /// # Errors
    /// `PortsFailed` when a port is taken: nothing is changed then; `Invalid`.
    pub async fn publish(&self, id: SandboxId, change: PublishRequest) -> Result<()> {
        self.handle(id)?
            .ask(|reply| Request::Publish { change, reply })
            .await
    }

    /// Removes a container. When this returns nobody finds it any more; its last files go away
    /// beside the answer.
    ///
    /// # Errors
    /// `StillLive` without `force`.
    pub async fn remove(&self, id: SandboxId, options: RemoveOptions) -> Result<()> {
        self.handle(id)?
            .ask(|reply| Request::Remove { options, reply })
            .await
    }

    /// Takes a link of the old kind away from the container that has it.
    ///
    /// # Errors
    /// `NoSuchContainer`, also when it has no such link.
    pub async fn unlink(&self, id: SandboxId, alias: &str) -> Result<()> {
        let alias = alias.to_owned();
        self.handle(id)?
            .ask(|reply| Request::Unlink { alias, reply })
            .await
    }

    /// Registers a wait. It is registered when this returns, so a start after it is not missed.
    ///
    /// # Errors
    /// `NoSuchContainer`.
    pub async fn wait(
        &self,
        id: SandboxId,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = Waited> + Send + 'static + use<>> {
        let end = self
            .handle(id)?
            .ask(|reply| Request::Wait { condition, reply })
            .await?;
        Ok(async move {
            let gone = || Waited {
                code: 0,
                error: "the container is gone".to_owned(),
            };
            end.over().await.unwrap_or_else(gone)
        })
    }

    /// Attaches; also to a container that does not run yet.
    ///
    /// # Errors
    /// `Paused`.
    pub async fn attach(&self, id: SandboxId, request: AttachRequest) -> Result<Attached> {
        self.handle(id)?
            .ask(|reply| Request::Attach { request, reply })
            .await
    }

    /// Changes the size of the terminal.
    ///
    /// # Errors
    /// `NotRunning`.
    pub async fn resize(&self, id: SandboxId, rows: u16, cols: u16) -> Result<()> {
        let target = Target::Init;
        self.handle(id)?
            .ask(|reply| Request::Resize {
                target,
                rows,
                cols,
                reply,
            })
            .await
    }

    /// Reads the log; lines come in a bounded channel, which ends with the log.
    ///
    /// # Errors
    /// `Unsupported` when the log driver keeps none.
    pub async fn logs(
        &self,
        id: SandboxId,
        request: LogsRequest,
    ) -> Result<mpsc::Receiver<LogLines>> {
        let snapshot = self.handle(id)?.snapshot;
        let spec = snapshot.borrow().spec.clone();
        let Some(path) = self.0.log_file(&spec, id) else {
            return Err(EngineError::Unsupported(
                "configured logging driver does not support reading".to_owned(),
            ));
        };
        Ok(logs::read(self.0.jobs.clone(), path, request, snapshot))
    }

    /// Removes every container that does not run and that `keep` does not keep; returns ids and
    /// freed bytes.
    ///
    /// # Errors
    /// None so far: what cannot be removed is left.
    pub async fn prune(
        &self,
        keep: impl Fn(&Container) -> bool + Send,
    ) -> Result<(Vec<SandboxId>, u64)> {
        let mut gone = Vec::new();
        let mut freed = 0;
        for container in self.list() {
            let restarting = matches!(
                container.state,
                State::Exited {
                    restarting: true,
                    ..
                }
            );
            if container.state.is_live() || restarting || keep(&container) {
                continue;
            }
            let alone = std::slice::from_ref(&container);
            let bytes: u64 = self.0.sizes_of(alone).await.iter().sum();
            if self
                .remove(container.id, RemoveOptions::default())
                .await
                .is_ok()
            {
                gone.push(container.id);
                freed += bytes;
            }
        }
        self.0.events.publish_prune(Subject::Container, freed);
        Ok((gone, freed))
    }

    /// Bytes that each container has written to its root, and of all that it sees (its layers too);
    /// a large tree is not walked again for some seconds.
    pub async fn sizes(&self, containers: &[Arc<Container>]) -> Vec<(u64, u64)> {
        let mut known = HashMap::new();
        let mut layer_bytes = |layer: &Digest| {
            let bytes = known.entry(*layer);
            *bytes.or_insert_with(|| self.0.layer_bytes(layer))
        };
        let written = self.0.sizes_of(containers).await;
        let all = containers.iter().zip(written);
        all.map(|(container, written)| {
            let layers: u64 = container.layers.iter().map(&mut layer_bytes).sum();
            (written, written + layers)
        })
        .collect()
    }

    /// Prepares an exec; returns its id.
    ///
    /// # Errors
    /// `NotRunning`, `Paused`, `Invalid`.
    pub async fn exec_create(&self, id: SandboxId, request: ExecRequest) -> Result<String> {
        let exec = clock::new_id()
            .map_err(|e| EngineError::io("draw an id", e))?
            .to_string();
        let handle = self.handle(id)?;
        let id = exec.clone();
        handle
            .ask(|reply| Request::ExecCreate { id, request, reply })
            .await?;
        Ok(exec)
    }

    /// Starts an exec; none when detached.
    ///
    /// # Errors
    /// `NoSuchExec`, `StartFailed`, `WrongState`.
    pub async fn exec_start(
        &self,
        exec: &str,
        detach: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Option<Attached>> {
        let container = self.0.execs.get(exec)?.container;
        let id = exec.to_owned();
        self.handle(container)?
            .ask(|reply| Request::ExecStart {
                id,
                detach,
                size,
                reply,
            })
            .await
    }

    /// One exec. Its end is seen here as soon as its output has ended.
    ///
    /// # Errors
    /// `NoSuchExec`.
    pub async fn exec_inspect(&self, exec: &str) -> Result<Exec> {
        let found = self.0.execs.get(exec)?;
        if !found.running {
            return Ok(found);
        }
        // The shim tells of the end before it closes the output; its owner may not have read it.
        if let Ok(handle) = self.handle(found.container) {
            drop(handle.ask(|reply| Request::Settle { reply }).await);
        }
        self.0.execs.get(exec)
    }

    /// Changes the size of an exec's terminal.
    ///
    /// # Errors
    /// `NoSuchExec`, `NotRunning`.
    pub async fn exec_resize(&self, exec: &str, rows: u16, cols: u16) -> Result<()> {
        let container = self.0.execs.get(exec)?.container;
        let id = exec
            .parse()
            .map_err(|_| EngineError::NoSuchExec(exec.to_owned()))?;
        let target = Target::Exec(id);
        self.handle(container)?
            .ask(|reply| Request::Resize {
                target,
                rows,
                cols,
                reply,
            })
            .await
    }
}

/// The networks.
#[derive(Debug, Clone, Copy)]
pub struct Networks<'a>(&'a Arc<core::Core>);

impl Networks<'_> {
    /// All networks: the predefined ones first, then by name.
    pub fn list(&self) -> Vec<Arc<Network>> {
        self.0.network.list()
    }

    /// Finds a network by name, id or unique id prefix.
    ///
    /// # Errors
    /// `NoSuchNetwork`, `Invalid` for a prefix of several.
    pub fn find(&self, text: &str) -> Result<Arc<Network>> {
        self.0.network.find(text)
    }

    /// What may be reached from a network, where that is limited.
    pub async fn egress(&self, network: &Arc<Network>) -> Option<EgressReport> {
        let (core, network) = (self.0.clone(), network.clone());
        let asked = move || core.network.egress_on(&network);
        self.0.jobs.run(jobs::Pool::Kernel, asked).await.ok()?
    }

    /// Creates a network.
    ///
    /// # Errors
    /// `Invalid`, `Denied`, `WrongState` for a taken name, or what the kernel says.
    pub async fn create(&self, request: NetworkRequest) -> Result<NetworkId> {
        network::create(self.0, request).await
    }

    /// Removes a network.
    ///
    /// # Errors
    /// `NoSuchNetwork`, `Denied` while running containers are on it.
    pub async fn remove(&self, text: &str) -> Result<()> {
        network::remove(self.0, text).await
    }

    /// Removes every network of users that nobody uses and that `keep` does not keep; returns
    /// their names.
    pub async fn prune(&self, keep: impl Fn(&Network) -> bool + Send) -> Vec<String> {
        network::prune(self.0, keep).await
    }

    /// The running containers on a network, with the names by which others find them there.
    pub fn members(&self, id: NetworkId) -> Vec<Member> {
        network::members(self.0, &id.to_string())
    }

    /// Puts a container on a network: at once when it runs, else when it starts.
    ///
    /// # Errors
    /// `NoSuchNetwork`, `NoSuchContainer`, `Denied`, `Invalid`.
    pub async fn connect(&self, text: &str, container: &str, asked: EndpointSpec) -> Result<()> {
        let network = self.find(text)?;
        let id = self.0.containers.resolve(container)?;
        let handle = self.0.containers.handle(id)?;
        handle
            .ask(|reply| Request::Connect {
                network,
                asked,
                reply,
            })
            .await
    }

    /// Takes a container off a network; with `force` also one that is not there any more.
    ///
    /// # Errors
    /// `NoSuchNetwork`, `NoSuchContainer`, `Denied`.
    pub async fn disconnect(&self, text: &str, container: &str, force: bool) -> Result<()> {
        let network = match self.find(text) {
            Ok(network) => network.spec.name.clone(),
            Err(EngineError::NoSuchNetwork(name)) if force => name,
            Err(error) => return Err(error),
        };
        let id = self.0.containers.resolve(container)?;
        let handle = self.0.containers.handle(id)?;
        handle
            .ask(|reply| Request::Disconnect { network, reply })
            .await
    }

    /// What is installed in the kernel and why, for people.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn rules(&self) -> Result<String> {
        let core = self.0.clone();
        self.0
            .jobs
            .run(jobs::Pool::Kernel, move || core.network.rules())
            .await?
    }
}

/// The images.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a>(&'a Arc<core::Core>);

impl Images<'_> {
    /// Finds an image by name, digest, id or unique id prefix.
    ///
    /// # Errors
    /// `NoSuchImage`, `Ambiguous`.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        let mut image = self.0.images.view(name)?;
        let containers = self.0.containers.snapshots();
        let of_it = containers.iter().filter(|c| c.spec.image == image.id);
        image.containers = of_it.count();
        Ok(image)
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<Image> {
        let mut counts: HashMap<Digest, usize> = HashMap::new();
        for container in self.0.containers.snapshots() {
            *counts.entry(container.spec.image).or_default() += 1;
        }
        let mut images = self.0.images.list();
        for image in &mut images {
            image.containers = counts.get(&image.id).copied().unwrap_or_default();
        }
        images
    }

    /// Fetches an image; ends early when nobody listens to its progress any more.
    ///
    /// # Errors
    /// `RegistryRefused`, `Registry`, or a full disk.
    pub async fn pull(&self, request: PullRequest, progress: mpsc::Sender<Transfer>) -> Result<()> {
        object::pull::pull(self.0, request, progress).await
    }

    /// Sends an image; ends early when nobody listens to its progress any more.
    ///
    /// # Errors
    /// `Registry`, or that there is no such image.
    pub async fn push(&self, request: PushRequest, progress: mpsc::Sender<Transfer>) -> Result<()> {
        object::push::push(self.0, request, progress).await
    }

    /// What a registry has under a name, without fetching it.
    ///
    /// # Errors
    /// `RegistryRefused`, `Registry`.
    pub async fn look(&self, request: PullRequest) -> Result<RemoteImage> {
        object::pull::look(self.0, request).await
    }

    /// Shows a credential to a registry; returns the token that stands for it, or nothing.
    ///
    /// # Errors
    /// `Registry`.
    pub async fn login(&self, address: &str, auth: &RegistryAuth) -> Result<String> {
        object::remote::login(self.0, address, auth).await
    }

    /// Searches a registry; returns the JSON that it answers.
    ///
    /// # Errors
    /// `Registry`, also when it has no search.
    pub async fn search(&self, term: &str, limit: u32, auth: &RegistryAuth) -> Result<Vec<u8>> {
        object::remote::search(self.0, term, limit, auth).await
    }

    /// Whether an image is for a platform, `os/arch[/variant]`.
    ///
    /// # Errors
    /// `Invalid`: that is no platform.
    pub fn is_for(&self, image: &Image, platform: &str) -> Result<bool> {
        object::image::is_for(image, platform)
    }

    /// What the images take on the disk, as `du` counts it.
    ///
    /// # Errors
    /// When the data root cannot be read.
    pub async fn usage(&self) -> Result<ImagesUsage> {
        let mut usage = object::image::usage(self.0).await?;
        let counts: HashMap<Digest, usize> = self
            .list()
            .into_iter()
            .map(|image| (image.id, image.containers))
            .collect();
        for row in &mut usage.images {
            row.image.containers = counts.get(&row.image.id).copied().unwrap_or_default();
        }
        Ok(usage)
    }

    /// Loads a docker archive or OCI layout, compressed or not; of an image for many platforms
    /// the one that is asked for (`os/arch[/variant]`), or this host's.
    ///
    /// # Errors
    /// What is wrong with the archive: then nothing of it is kept.
    pub async fn load(
        &self,
        reader: Box<dyn std::io::Read + Send>,
        platform: Option<&str>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<()> {
        object::image::load(self.0, reader, platform, progress).await
    }

    /// Takes over the images of a Docker data root on this host, with their names and ids; reads
    /// only.
    ///
    /// # Errors
    /// What is missing or damaged there: then nothing of it is kept.
    pub async fn import_docker(
        &self,
        root: PathBuf,
        progress: mpsc::Sender<Progress>,
    ) -> Result<()> {
        object::image::import_docker(self.0, root, progress).await
    }

    /// Begins to read what is at an address, for an import.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn download(&self, address: &str) -> Result<Box<dyn std::io::Read + Send>> {
        object::image::download(self.0, address).await
    }

    /// Makes an image of one root file system; returns its id.
    ///
    /// # Errors
    /// What is wrong with the archive, the reference or a change.
    pub async fn import(
        &self,
        reader: Box<dyn std::io::Read + Send>,
        request: ImportRequest,
    ) -> Result<Digest> {
        object::image::import(self.0, reader, request).await
    }

    /// Writes images as a docker archive that is an OCI layout too.
    ///
    /// # Errors
    /// `NoSuchImage`, `NoSuchPlatform`, or the writer's.
    pub async fn save(
        &self,
        names: Vec<String>,
        platform: Option<&str>,
        writer: Box<dyn std::io::Write + Send>,
    ) -> Result<()> {
        object::image::save(self.0, names, platform, writer).await
    }

    /// Gives an image a further name.
    ///
    /// # Errors
    /// `NoSuchImage`, `Invalid`.
    pub async fn tag(&self, name: &str, reference: &str) -> Result<()> {
        object::image::tag(self.0, name, reference).await
    }

    /// Removes a name, and the image with its last one.
    ///
    /// # Errors
    /// `ImageInUse`, `ImageConflict`.
    pub async fn remove(&self, name: &str, force: bool) -> Result<Vec<ImageRemoval>> {
        object::image::remove(self.0, name, force).await
    }

    /// Removes images without containers; returns what went and freed bytes.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn prune(&self, which: &ImagePrune) -> Result<(Vec<ImageRemoval>, u64)> {
        object::image::prune(self.0, which).await
    }
}

/// The volumes.
#[derive(Debug, Clone, Copy)]
pub struct Volumes<'a>(&'a Arc<core::Core>);

impl Volumes<'_> {
    /// All volumes, by name.
    pub fn list(&self) -> Vec<Volume> {
        object::volume::list(self.0)
    }

    /// One volume.
    ///
    /// # Errors
    /// `NoSuchVolume`.
    pub fn inspect(&self, name: &str) -> Result<Volume> {
        object::volume::inspect(self.0, name)
    }

    /// Makes a volume; one that is there is left as it is.
    ///
    /// # Errors
    /// `Invalid`, `NoSuchVolumeDriver`, or a full disk.
    pub async fn create(&self, request: VolumeRequest) -> Result<Volume> {
        let core = self.0.clone();
        finished(async move { object::volume::create(&core, request).await }).await
    }

    /// Removes a volume that no container has.
    ///
    /// # Errors
    /// `NoSuchVolume`, `VolumeInUse`.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let (core, name) = (self.0.clone(), name.to_owned());
        finished(async move { object::volume::remove(&core, &name).await }).await
    }

    /// Removes every volume that no container has and that `keep` does not keep; returns names and
    /// freed bytes.
    ///
    /// # Errors
    /// None so far: what cannot be removed is left.
    pub async fn prune(&self, keep: impl Fn(&Volume) -> bool + Send) -> Result<(Vec<String>, u64)> {
        object::volume::prune(self.0, keep).await
    }

    /// Bytes that each volume takes on the disk; a large one is not walked again for some seconds.
    pub async fn usage(&self, volumes: &[Volume]) -> Vec<u64> {
        object::volume::usage(self.0, volumes).await
    }

    /// Writes what is in a volume as an archive.
    ///
    /// # Errors
    /// `NoSuchVolume`, the writer's, or what the file system says.
    pub async fn export(&self, name: &str, output: Box<dyn Write + Send>) -> Result<()> {
        object::volume::export(self.0, name, output).await
    }

    /// Makes a volume of an archive.
    ///
    /// # Errors
    /// `WrongState` when it is there, what is wrong with the archive, or a full disk: there is no
    /// volume then.
    pub async fn import(
        &self,
        request: VolumeRequest,
        input: Box<dyn Read + Send>,
    ) -> Result<Volume> {
        let core = self.0.clone();
        finished(async move { object::volume::import(&core, request, input).await }).await
    }

    /// Gives a volume that no container has another name.
    ///
    /// # Errors
    /// `NoSuchVolume`, `VolumeInUse`, `WrongState` when the name is taken.
    pub async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (core, from, to) = (self.0.clone(), from.to_owned(), to.to_owned());
        finished(async move { object::volume::rename(&core, &from, &to).await }).await
    }

    /// Makes a volume with what another one holds: a clone, or a read-only snapshot.
    ///
    /// # Errors
    /// `NoSuchVolume`, `WrongState` when the name is taken, or a full disk.
    pub async fn copy(&self, request: VolumeCopy) -> Result<Volume> {
        let core = self.0.clone();
        finished(async move { object::volume::copy(&core, request).await }).await
    }
}

/// Carries a change to its end, also when the client that asked for it goes away in between.
async fn finished<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(change)
        .await
        .unwrap_or_else(|e| Err(EngineError::Unavailable(format!("it was cut off: {e}"))))
}
