//! The networks: which there are, who has which address, and the links of containers.
//!
//! ```text
//!   request.rs   what a client asks for -> NetworkSpec -> hull_net::Network        pure
//!   table.rs     networks in memory, and the addresses that they gave              pure
//!   change.rs    create, remove, prune: record first, then the kernel
//!   attach.rs    leased endpoints -> requests for links
//!   default.rs   the default bridge, from the daemon's flags
//!   egress.rs    what may be reached outside, and by which names
//!   linked.rs    what --link gives a container on the default bridge
//!   names.rs     hosts, resolv.conf, and who is found by which name
//! ```
//!
//! Networks outlive the daemon: running containers need their bridges. A start leases addresses
//! before its intent is written, so an address that a shim may have is always in a record.

mod attach;
mod change;
mod default;
mod egress;
mod linked;
mod names;
mod request;
mod table;

pub(crate) use attach::{has_networks, main_network, with_way_out};
pub(crate) use change::{create, prune, publish, remove};
pub(crate) use egress::{follows_names, of_container as egress_policy};
pub(crate) use linked::{Linked, find as find_linked, parse as parse_link};
pub(crate) use names::{change_hosts, members};
pub(crate) use table::DEFAULT_NETWORK;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hull_model::spec::{EndpointSpec, NetworkMode};
use hull_model::{NetworkId, SandboxId};
use hull_net::{AddressPool, Backend, Firewall, Networks, Output, Report, Settings, Subnet};

use crate::BridgeConfig;
use crate::api::{self, Container, Endpoint, NetworkDriver, NetworkSpec};
use crate::clock::now_ns;
use crate::error::{EngineError, Result};
use crate::store::Contents;
use table::{Entry, Table};

/// How long a firewall's own program may take.
const PROGRAM_WAIT: Duration = Duration::from_secs(10);
/// How long links of containers that just ended may hold a bridge.
const REMOVE_WAIT: Duration = Duration::from_secs(5);
/// Pause between two looks whether they are gone.
const REMOVE_PAUSE: Duration = Duration::from_millis(20);
/// Where ports are published that name no address.
const OPTION_HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
/// Pause after the host's networks could not be followed.
const SETTLE_PAUSE: Duration = Duration::from_secs(1);

/// The engine's networks.
#[derive(Debug)]
pub(crate) struct Network {
    networks: Arc<Networks>,
    /// Its lock is held for look-ups only, never over a wait.
    table: Mutex<Table>,
    /// Creations and removals, one after the other.
    changes: tokio::sync::Mutex<()>,
    /// Where subnets come from that nobody chose.
    pools: Vec<AddressPool>,
    /// Begin of IPv6 subnets that nobody chose, of this engine alone.
    ula: Subnet,
    /// Whether there is no default bridge (`--bridge none`).
    no_bridge: bool,
    /// What `host-gateway` stands for, where it is not the default bridge's address.
    host_gateway: Option<IpAddr>,
    warnings: Vec<String>,
}

fn failed(step: &str) -> impl FnOnce(hull_net::Error) -> EngineError {
    let step = step.to_owned();
    move |error| EngineError::step(step, error.kind(), error)
}

impl Network {
    /// Makes the bridges and our table, or finds them as they are.
    pub(crate) fn open(
        config: &BridgeConfig,
        run_root: &Path,
        tag: &str,
        engine_id: &str,
        contents: &Contents,
    ) -> Result<Self> {
        let firewall = if config.hands_off {
            Firewall::HandsOff
        } else {
            Firewall::Cooperate
        };
        let settings = Settings {
            run: run_root.to_owned(),
            tag: tag.to_owned(),
            firewall,
            reach: if config.host_firewall {
                hull_net::Reach::Inside
            } else {
                hull_net::Reach::All
            },
            backend: config.firewall_backend.unwrap_or_else(Backend::probe),
        };
        let networks = Arc::new(Networks::open(settings, Box::new(run_program)));
        let mut table = change::read(contents);
        let pools = match config.pools.as_slice() {
            [] => AddressPool::defaults(),
            pools => pools.to_vec(),
        };
        let ula = unique_local(engine_id);
        let mut wanted = Vec::new();
        if !config.disabled {
            let subnets = table.subnets();
            let bridge = default::bridge(config, tag, &networks, (&pools, ula), &subnets)?;
            wanted.push(request::plan(bridge.id, &bridge.spec)?);
            table.0.insert(bridge.id, Entry::new(bridge));
        }
        for (name, driver) in [("host", NetworkDriver::Host), ("none", NetworkDriver::Null)] {
            let network = predefined(tag, name, driver);
            table.0.insert(network.id, Entry::new(network));
        }
        let planned = |entry: &&Entry| !entry.network.predefined && !entry.network.spec.config_only;
        let of_users = table.0.values().filter(planned);
        for entry in of_users {
            match request::plan(entry.network.id, &entry.network.spec) {
                Ok(network) => wanted.push(network),
                Err(error) => {
                    let name = &entry.network.spec.name;
                    tracing::error!(network = name, error = %error.chain(), "it is left out");
                }
            }
        }
        networks.expect_guards(egress::recorded(&table, contents));
        let report = ensure(&networks, &wanted, usize::from(!config.disabled))?;
        let warnings = warnings(&report, config.hands_off);
        for warning in &warnings {
            tracing::warn!(warning, "networks");
        }
        keep_settled(networks.clone())?;
        Ok(Self {
            networks,
            table: Mutex::new(table),
            changes: tokio::sync::Mutex::new(()),
            pools,
            ula,
            no_bridge: config.disabled,
            host_gateway: config.host_gateway,
            warnings,
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All networks, the predefined ones first, then by name.
    pub(crate) fn list(&self) -> Vec<Arc<api::Network>> {
        let table = self.table();
        let there = table.0.values().filter(|entry| !entry.leaving);
        let mut all: Vec<_> = there.map(|entry| entry.network.clone()).collect();
        drop(table);
        all.sort_by_key(|network| (!network.predefined, network.spec.name.clone()));
        all
    }

    /// Finds a network by name, id or unique id prefix.
    pub(crate) fn find(&self, text: &str) -> Result<Arc<api::Network>> {
        self.table().find(text).map(|entry| entry.network.clone())
    }

    /// The name of the network that a text means; of none: the text.
    pub(crate) fn name_of(&self, text: &str) -> String {
        self.find(text)
            .map_or_else(|_| text.to_owned(), |network| network.spec.name.clone())
    }

    /// Whether the mode means a default bridge that is switched off.
    fn has_no_bridge(&self, mode: &NetworkMode) -> bool {
        self.no_bridge && *mode == NetworkMode::Default
    }

    fn is_on_top(&self, endpoint: &Endpoint) -> bool {
        let found = self.find(&endpoint.network_id);
        found.is_ok_and(|network| network.spec.driver.is_on_top())
    }

    /// Takes addresses on a network for a container.
    pub(crate) fn lease(
        &self,
        id: SandboxId,
        network: &str,
        asked: &EndpointSpec,
        number: u8,
    ) -> Result<Endpoint> {
        self.table().find_mut(network)?.lease(id, asked, number)
    }

    /// Takes addresses on all networks that a container wants, or on none.
    pub(crate) fn lease_all(
        &self,
        id: SandboxId,
        wanted: &[(String, EndpointSpec)],
    ) -> Result<Vec<Endpoint>> {
        let mut endpoints = Vec::with_capacity(wanted.len());
        for (number, (network, asked)) in (0..).zip(wanted) {
            match self.lease(id, network, asked, number) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => {
                    endpoints
                        .iter()
                        .for_each(|endpoint| self.release(id, endpoint));
                    return Err(error);
                }
            }
        }
        Ok(endpoints)
    }

    /// Gives addresses back.
    pub(crate) fn release(&self, id: SandboxId, endpoint: &Endpoint) {
        if let Some(entry) = self.table().entry(&endpoint.network_id) {
            entry.release(id, endpoint);
        }
    }

    /// Takes the addresses of a container that a former daemon started.
    pub(crate) fn reserve(&self, id: SandboxId, endpoint: &Endpoint) {
        match self.table().entry(&endpoint.network_id) {
            Some(entry) => entry.reserve(id, endpoint),
            None => tracing::warn!(
                container = %id.short(), network = endpoint.network,
                "an endpoint is recorded on a network that is not there"
            ),
        }
    }

    /// Brings links on the host to what is recorded (link, network): others are removed, and those
    /// whose bridge was taken away meanwhile become ports again.
    pub(crate) fn settle_links(&self, recorded: &HashMap<String, String>) {
        for link in self.networks.endpoints().unwrap_or_default() {
            let network = recorded.get(&link.link);
            let bridge = network.and_then(|network| self.find(network).ok());
            let Some(bridge) = bridge.filter(|n| link.bridge.as_ref() != Some(&n.link)) else {
                continue;
            };
            tracing::warn!(
                link = link.link,
                bridge = bridge.link,
                "a link lost its bridge"
            );
            if let Err(error) = self.networks.make_port(&link.link, &bridge.link) {
                tracing::warn!(link = link.link, %error, "it is left without one");
            }
        }
        let known = recorded.keys().cloned().collect();
        match self.networks.leftovers(&known) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(?removed, "links without a container were removed"),
            Err(error) => tracing::warn!(%error, "links without a container"),
        }
    }

    /// The address of ports that name none, where the network of an endpoint has its own.
    pub(crate) fn host_binding(&self, endpoint: &Endpoint) -> Option<IpAddr> {
        let network = self.find(&endpoint.network_id).ok()?;
        let of_users = Some(&network).filter(|network| !network.predefined)?;
        of_users.spec.options.get(OPTION_HOST_BINDING)?.parse().ok()
    }

    /// The kernel's side of it.
    pub(crate) fn kernel(&self) -> Arc<Networks> {
        self.networks.clone()
    }

    pub(crate) fn firewall_backend(&self) -> Backend {
        self.networks.backend()
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    /// What is installed in the kernel and why, for people.
    pub(crate) fn rules(&self) -> Result<String> {
        self.networks.rules().map_err(failed("read our rules"))
    }

    /// Takes bridge, table and accept rules away. Blocks: links of containers that just ended go
    /// with their namespaces, which the kernel takes down by and by.
    pub(crate) fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVE_WAIT;
        loop {
            let report = self
                .networks
                .ensure(&[])
                .map_err(failed("take our bridge down"))?;
            if report.bridges_in_use.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let bridges = report.bridges_in_use.join(", ");
                return Err(EngineError::WrongState(format!(
                    "{bridges} still has links"
                )));
            }
            std::thread::sleep(REMOVE_PAUSE);
        }
    }

    /// Differences between what is wanted and what is, as sentences. Blocks.
    pub(crate) fn differences(&self, containers: &[Arc<Container>]) -> Vec<String> {
        let mut problems = self
            .networks
            .verify()
            .unwrap_or_else(|error| vec![format!("networks: {error}")]);
        let live = containers.iter().filter(|c| c.state.is_live());
        let mut wanted: BTreeMap<String, (String, &Endpoint)> = BTreeMap::new();
        for container in live {
            for endpoint in &container.endpoints {
                if !self.is_on_top(endpoint) {
                    let link = hull_net::host_link(&container.id, endpoint.number);
                    wanted.insert(link, (container.spec.name.clone(), endpoint));
                }
            }
        }
        let found = self.networks.endpoints().unwrap_or_default();
        for link in &found {
            let Some((name, endpoint)) = wanted.remove(&link.link) else {
                problems.push(format!(
                    "link {} belongs to no running container",
                    link.link
                ));
                continue;
            };
            let bridge = self.find(&endpoint.network_id).map(|n| n.link.clone()).ok();
            if link.bridge != bridge {
                problems.push(format!(
                    "link {} of container {name} is a port of {:?} instead of {bridge:?}",
                    link.link, link.bridge
                ));
            }
        }
        for (link, (name, endpoint)) in wanted {
            problems.push(format!(
                "container {name} has no link {link} on network {}",
                endpoint.network
            ));
        }
        problems.extend(self.lease_differences(containers));
        problems
    }

    /// Addresses that were given against those that running containers have.
    fn lease_differences(&self, containers: &[Arc<Container>]) -> Vec<String> {
        let mut problems = Vec::new();
        let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
        for container in containers {
            for address in container.endpoints.iter().flat_map(Endpoint::addresses) {
                if let Some(other) = owners.insert(address, &container.spec.name) {
                    let name = &container.spec.name;
                    problems.push(format!(
                        "address {address} is that of {other} and of {name}"
                    ));
                }
            }
        }
        let members = |network: &str| -> HashSet<SandboxId> {
            let on = |c: &&Arc<Container>| c.endpoints.iter().any(|e| e.network_id == network);
            containers.iter().filter(on).map(|c| c.id).collect()
        };
        for entry in self.table().0.values() {
            let network = &entry.network;
            for id in entry
                .members
                .iter()
                .filter(|id| !members(&network.id.to_string()).contains(id))
            {
                problems.push(format!(
                    "network {} holds addresses for {}, which is not on it",
                    network.spec.name,
                    id.short()
                ));
            }
        }
        problems
    }
}

/// Makes the kernel have these networks. One that cannot be made any more does not keep the others
/// and the daemon from it, but for the first `needed` ones.
fn ensure(networks: &Networks, wanted: &[hull_net::Network], needed: usize) -> Result<Report> {
    let first = match networks.ensure(wanted) {
        Ok(report) => return Ok(report),
        Err(error) if wanted.len() <= needed => {
            return Err(failed("set up the default bridge")(error));
        }
        Err(error) => error,
    };
    tracing::error!(error = %failed("set up the networks")(first).chain(), "now one by one");
    let mut good = Vec::new();
    let mut last = Report::default();
    for (at, network) in wanted.iter().enumerate() {
        good.push(network.clone());
        match networks.ensure(&good) {
            Ok(report) => last = report,
            Err(error) if at < needed => return Err(failed("set up the default bridge")(error)),
            Err(error) => {
                let error = failed("set it up")(error);
                tracing::error!(network = network.name, error = %error.chain(), "it is left out");
                good.pop();
            }
        }
    }
    Ok(last)
}

fn predefined(tag: &str, name: &str, driver: NetworkDriver) -> api::Network {
    api::Network {
        id: id_of(&format!("{tag}/{name}")),
        spec: Arc::new(NetworkSpec {
            name: name.to_owned(),
            driver,
            ipv4: true,
            ..NetworkSpec::default()
        }),
        created_ns: now_ns(),
        predefined: true,
        link: String::new(),
    }
}

/// `fd00::/8` with forty bits that are this engine's own.
fn unique_local(engine_id: &str) -> Subnet {
    let digest = hull_storage::Hasher::digest(engine_id.as_bytes());
    let own = digest.as_bytes();
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&own[..5]);
    Subnet::containing(IpAddr::from(octets), 48)
}

/// Repairs what others change under us: a flushed rule set, a firewall that begins to drop, an
/// uplink that comes late.
fn keep_settled(networks: Arc<Networks>) -> Result<()> {
    let mut events = networks
        .watch()
        .map_err(failed("watch the host's networks"))?;
    let settle = move || {
        loop {
            match networks.settle_next(&mut events) {
                Ok(report) if report.not_settled.is_empty() => {}
                Ok(report) => {
                    tracing::warn!(chains = ?report.not_settled, "our accept rules were refused")
                }
                Err(error) => {
                    tracing::warn!(%error, "the host's networks changed and ours could not follow");
                    std::thread::sleep(SETTLE_PAUSE);
                }
            }
        }
    };
    std::thread::Builder::new()
        .name("settle".to_owned())
        .spawn(settle)
        .map(drop)
        .map_err(|e| EngineError::io("start the thread that watches the host's networks", e))
}

fn warnings(report: &Report, hands_off: bool) -> Vec<String> {
    let blocked = |chain: &String| {
        if hands_off {
            format!(
                "{chain} drops the traffic of our bridge; accept it there, or use the firewall mode cooperate"
            )
        } else {
            format!("{chain} drops what it does not know; rules there accept our bridge")
        }
    };
    let refused =
        |chain: &String| format!("{chain} drops our bridge's traffic and refused our rules");
    let refused = report.not_settled.iter().map(refused);
    report
        .blocked_by
        .iter()
        .map(blocked)
        .chain(refused)
        .collect()
}

/// 64 hex digits that stay the same for the same text.
fn digest_of(text: &str) -> String {
    hull_storage::Hasher::digest(text.as_bytes()).hex()
}

/// An id that stays the same for the same text.
fn id_of(text: &str) -> NetworkId {
    NetworkId::from_bytes(*hull_storage::Hasher::digest(text.as_bytes()).as_bytes())
}

/// Starts a firewall's own program, for hosts whose rules netlink does not reach.
fn run_program(argv: &[&str]) -> io::Result<Output> {
    let words: Vec<CString> = argv
        .iter()
        .map(|word| CString::new(*word))
        .collect::<Result<_, _>>()?;
    let Some(name) = argv.first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let program = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
        .ok_or(io::ErrorKind::NotFound)?;
    let program = CString::new(program.to_string_lossy().as_bytes())?;
    let args: Vec<&std::ffi::CStr> = words.iter().map(CString::as_c_str).collect();
    let path = c"PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    let output = hull_os::spawn::run(&program, &args, &[path, c"LC_ALL=C"], PROGRAM_WAIT)?;
    let text = String::from_utf8_lossy(&output.text).into_owned();
    Ok(Output {
        code: Some(output.ended.code()),
        stderr: text.clone(),
        stdout: text,
    })
}
