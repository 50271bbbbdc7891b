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
mod containers;
mod core;
mod defaults;
mod error;
mod events;
mod files;
mod images;
mod jobs;
mod limits;
mod log_driver;
mod logs;
mod machine;
mod name;
mod names;
mod network;
mod networks;
mod object;
mod open;
mod port;
mod ps;
mod recover;
mod reload;
mod shutdown;
mod sizes;
mod stats;
mod store;
mod translate;
mod users;
mod verify;
mod volumes;

pub use containers::Containers;
pub use defaults::HostDefaults;
pub use error::{Cause, EngineError, Result};
pub use events::KeptEvents;
pub use hull_net::AddressPool;
pub use hull_net::Backend as FirewallBackend;
pub use hull_registry::{Proxies, RegistryOptions};
pub use hull_sandbox::container::{MASKED_PATHS, READONLY_PATHS};
pub use hull_storage::Backing as LayerBacking;
pub use images::Images;
pub use networks::Networks;
pub use ps::HostPs;
pub use reload::Reload;
pub use stats::STREAM_PAUSE as STATS_PAUSE;
pub use volumes::Volumes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::Facts;
use hull_model::event::Happening;
use hull_model::ids::UserMaps;
use tokio::sync::broadcast;

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
