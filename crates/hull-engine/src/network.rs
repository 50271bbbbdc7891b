//! The default bridge, as the engine sees it: an address and link steps for each start, and the
//! files by which a container finds names.
//!
//! The bridge is made when the daemon starts and stays when it ends: running containers need it.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hull_model::SandboxId;
use hull_model::spec::{ContainerSpec, NetworkMode};
use hull_net::files::{self, Hosts, ResolverOverrides};
use hull_net::{Firewall, Ipam, Networks, Output, Pool, Report, Settings, Subnet};
use hull_sandbox::LinkSteps;

use crate::BridgeConfig;
use crate::api::{self, Container, Endpoint};
use crate::clock::now_ns;
use crate::error::{EngineError, Result};

/// Largest packet where nobody says otherwise, and the uplink takes it.
const MTU_DEFAULT: u32 = 1500;
/// How long a firewall's own program may take.
const PROGRAM_WAIT: Duration = Duration::from_secs(10);
/// How long links of containers that just ended may hold the bridge.
const REMOVE_WAIT: Duration = Duration::from_secs(5);
/// Pause between two looks whether they are gone.
const REMOVE_PAUSE: Duration = Duration::from_millis(20);
/// Pause after the host's networks could not be followed.
const SETTLE_PAUSE: Duration = Duration::from_secs(1);
/// Name of the default network, as clients know it.
const DEFAULT_NETWORK: &str = "bridge";

/// What a start gets from the network.
#[derive(Debug, Default)]
pub(crate) struct Attachment {
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) steps: Option<LinkSteps>,
}

#[derive(Debug)]
struct Bridge {
    network: hull_net::Network,
    pool: Pool,
    id: String,
    ipam: Mutex<Ipam>,
}

/// The engine's network.
#[derive(Debug)]
pub(crate) struct Network {
    networks: Arc<Networks>,
    tag: String,
    /// When this daemon made or found them.
    created_ns: i64,
    /// None with `--bridge none`.
    bridge: Option<Bridge>,
    warnings: Vec<String>,
}

fn failed(step: &str) -> impl FnOnce(hull_net::Error) -> EngineError {
    let step = step.to_owned();
    move |error| EngineError::step(step, error.kind(), error)
}

impl Network {
    /// Makes the bridge and our table, or finds them as they are.
    pub(crate) fn open(config: &BridgeConfig, run_root: &Path, tag: &str) -> Result<Self> {
        let tag = tag.to_owned();
        let created_ns = now_ns();
        let firewall = if config.hands_off {
            Firewall::HandsOff
        } else {
            Firewall::Cooperate
        };
        let settings = Settings {
            run: run_root.to_owned(),
            tag: tag.clone(),
            firewall,
            reach: if config.host_firewall {
                hull_net::Reach::Inside
            } else {
                hull_net::Reach::All
            },
        };
        let networks = Arc::new(Networks::open(settings, Box::new(run_program)));
        if config.disabled {
            networks
                .ensure(&[])
                .map_err(failed("take our bridges down"))?;
            return Ok(Self {
                networks,
                tag,
                created_ns,
                bridge: None,
                warnings: Vec::new(),
            });
        }
        let bridge = plan_bridge(config, &tag, &networks)?;
        let report = networks
            .ensure(std::slice::from_ref(&bridge.network))
            .map_err(failed("set up the default bridge"))?;
        let warnings = warnings(&report, config.hands_off);
        for warning in &warnings {
            tracing::warn!(warning, "default bridge");
        }
        keep_settled(networks.clone())?;
        Ok(Self {
            networks,
            tag,
            created_ns,
            bridge: Some(bridge),
            warnings,
        })
    }

    /// An address and link steps for one start.
    pub(crate) fn attach(&self, id: SandboxId, spec: &ContainerSpec) -> Result<Attachment> {
        match &spec.host.network {
            NetworkMode::Host | NetworkMode::Container(_) => Ok(Attachment::default()),
            NetworkMode::None => Ok(Attachment {
                endpoint: None,
                steps: Some(loopback()),
            }),
            NetworkMode::Default | NetworkMode::Named(_) => {
                let Some(bridge) = &self.bridge else {
                    return Ok(Attachment {
                        endpoint: None,
                        steps: Some(loopback()),
                    });
                };
                self.attach_to(bridge, id, spec)
            }
        }
    }

    fn attach_to(
        &self,
        bridge: &Bridge,
        id: SandboxId,
        spec: &ContainerSpec,
    ) -> Result<Attachment> {
        let asked = spec
            .endpoints
            .values()
            .next()
            .map(|endpoint| endpoint.mac_address.as_str());
        let mac = asked
            .filter(|mac| !mac.is_empty())
            .map(str::parse)
            .transpose()
            .map_err(|error: hull_net::InvalidNetwork| EngineError::Invalid(error.to_string()))?;
        let address = bridge
            .ipam()
            .allocate()
            .map_err(failed("find an address"))?;
        let mut wanted = hull_net::Endpoint::only(id, vec![address]);
        wanted.mac = mac;
        let steps = match self.networks.attach(&bridge.network.name, &wanted) {
            Ok(steps) => steps,
            Err(error) => {
                bridge.ipam().release(address);
                return Err(failed("plan the container's link")(error));
            }
        };
        let (IpAddr::V4(address), IpAddr::V4(gateway)) = (address, bridge.pool.gateway) else {
            return Err(EngineError::Unsupported(
                "the default bridge has no IPv4".to_owned(),
            ));
        };
        let endpoint = Endpoint {
            network: DEFAULT_NETWORK.to_owned(),
            network_id: bridge.id.clone(),
            endpoint_id: digest_of(&format!("{id}/{}", bridge.id)),
            address,
            prefix: bridge.pool.subnet.prefix_length(),
            gateway: Some(gateway),
            mac: wanted.mac().to_string(),
        };
        Ok(Attachment {
            endpoint: Some(endpoint),
            steps: Some(convert(steps)),
        })
    }

    /// Removes the link of a life that is over: the kernel takes it away by and by, and another
    /// start of the same container must not find it.
    pub(crate) fn detach(&self, id: SandboxId) -> Result<()> {
        self.networks
            .detach(&id, 0)
            .map_err(failed("remove the link of the former life"))
    }

    /// Gives an address back.
    pub(crate) fn release(&self, endpoint: &Endpoint) {
        if let Some(bridge) = &self.bridge {
            bridge.ipam().release(IpAddr::V4(endpoint.address));
        }
    }

    /// Takes the address of a container that a former daemon started.
    pub(crate) fn reserve(&self, endpoint: &Endpoint) {
        if let Some(bridge) = &self.bridge
            && let Err(error) = bridge.ipam().reserve(IpAddr::V4(endpoint.address))
        {
            // Of another boot and another subnet: the next start gives a new one.
            tracing::debug!(%error, "a recorded address is not one of the bridge's");
        }
    }

    /// Removes links of sandboxes that nobody knows.
    pub(crate) fn remove_unknown(&self, known: &HashSet<String>) {
        match self.networks.leftovers(known) {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => tracing::info!(?removed, "links without a container were removed"),
            Err(error) => tracing::warn!(%error, "links without a container"),
        }
    }

    /// `/etc/hosts` of a container.
    pub(crate) fn hosts_file(
        &self,
        spec: &ContainerSpec,
        hostname: &str,
        endpoint: Option<&Endpoint>,
    ) -> io::Result<String> {
        if spec.host.network == NetworkMode::Host {
            let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
            for (name, address) in self.extra_hosts(spec) {
                text.push_str(&format!("{address}\t{name}\n"));
            }
            return Ok(text);
        }
        let addresses: Vec<IpAddr> = endpoint
            .iter()
            .map(|endpoint| IpAddr::V4(endpoint.address))
            .collect();
        Ok(files::hosts(&Hosts {
            hostname,
            domain: &spec.config.domainname,
            addresses: &addresses,
            extra: &self.extra_hosts(spec),
        }))
    }

    /// `--add-host` by name; `host-gateway` is the bridge's own address.
    fn extra_hosts(&self, spec: &ContainerSpec) -> Vec<(String, IpAddr)> {
        let gateway = self.bridge.as_ref().map(|bridge| bridge.pool.gateway);
        let parse = |entry: &String| {
            let (name, address) = entry.split_once(':')?;
            let address = match address {
                "host-gateway" => gateway?,
                text => text.trim_matches(['[', ']']).parse().ok()?,
            };
            Some((name.to_owned(), address))
        };
        spec.host.extra_hosts.iter().filter_map(parse).collect()
    }

    /// `/etc/resolv.conf` of a container.
    pub(crate) fn resolv_conf(&self, spec: &ContainerSpec) -> String {
        let mut host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let path = files::resolvers_path(&host);
        if let Ok(real) = std::fs::read_to_string(path) {
            host = real;
        }
        let servers: Vec<IpAddr> = spec
            .host
            .dns
            .iter()
            .filter_map(|server| server.parse().ok())
            .collect();
        let overrides = ResolverOverrides {
            servers: &servers,
            search: &spec.host.dns_search,
            options: &spec.host.dns_options,
        };
        match spec.host.network {
            NetworkMode::Host => files::resolv_conf_of_host(&host, &overrides),
            _ => files::resolv_conf(&host, &overrides),
        }
    }

    /// The kernel's side of it.
    pub(crate) fn kernel(&self) -> Arc<Networks> {
        self.networks.clone()
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    /// The networks as people see them: the default bridge unless it is disabled, `host`, `none`.
    pub(crate) fn list(&self) -> Vec<api::Network> {
        let plain = |name: &str, driver| api::Network {
            name: name.to_owned(),
            id: digest_of(&format!("{}/{name}", self.tag)),
            driver,
            created_ns: self.created_ns,
            subnet: None,
            gateway: None,
            link: String::new(),
            mtu: 0,
        };
        let bridge = self.bridge.as_ref().map(|bridge| {
            let v4 = |address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            };
            let subnet = bridge.pool.subnet;
            api::Network {
                id: bridge.id.clone(),
                subnet: v4(subnet.address()).map(|first| (first, subnet.prefix_length())),
                gateway: v4(bridge.pool.gateway),
                link: bridge.network.bridge.clone(),
                mtu: bridge.network.mtu,
                ..plain(DEFAULT_NETWORK, "bridge")
            }
        });
        bridge
            .into_iter()
            .chain([plain("host", "host"), plain("none", "null")])
            .collect()
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

    /// Differences between what is wanted and what is, as sentences.
    pub(crate) fn differences(&self, containers: &[Arc<Container>]) -> Vec<String> {
        let mut problems = self
            .networks
            .verify()
            .unwrap_or_else(|error| vec![format!("networks: {error}")]);
        let known: HashSet<String> = containers
            .iter()
            .filter(|container| container.state.is_live())
            .map(|container| container.id.short())
            .collect();
        for link in self.networks.endpoints().unwrap_or_default() {
            if !known.contains(&link.sandbox) {
                problems.push(format!(
                    "link {} belongs to no running container",
                    link.link
                ));
            }
        }
        problems
    }
}

impl Bridge {
    fn ipam(&self) -> MutexGuard<'_, Ipam> {
        self.ipam.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

fn plan_bridge(config: &BridgeConfig, tag: &str, networks: &Networks) -> Result<Bridge> {
    let link = match (config.name.as_str(), tag) {
        ("", "hull") => "hull0".to_owned(),
        ("", tag) => format!("hl{}", tag.trim_start_matches("hull-")),
        (name, _) => name.to_owned(),
    };
    let pool = if config.address.is_empty() {
        let subnet = networks
            .choose_subnet(&link, &[])
            .map_err(failed("choose a subnet"))?;
        Pool::of(subnet)
    } else {
        pool_of(&config.address)?
    };
    let mtu = if config.mtu == 0 {
        MTU_DEFAULT
    } else {
        config.mtu
    };
    let mut network = hull_net::Network::default_bridge(pool.subnet, mtu);
    network.pools = vec![pool];
    network.bridge.clone_from(&link);
    network
        .validate()
        .map_err(|error| EngineError::Invalid(error.to_string()))?;
    let ipam = Mutex::new(Ipam::new(&pool));
    Ok(Bridge {
        id: digest_of(&format!("{tag}/{link}")),
        network,
        pool,
        ipam,
    })
}

/// Reads `172.17.0.1/16`: the gateway with the length of the prefix.
fn pool_of(text: &str) -> Result<Pool> {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        Some((address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?))
    });
    let Some((gateway, length)) = parsed else {
        return Err(EngineError::Invalid(format!(
            "{text:?} is not an address with a prefix, such as 172.17.0.1/16"
        )));
    };
    Ok(Pool {
        subnet: Subnet::containing(gateway, length),
        gateway,
    })
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

fn loopback() -> LinkSteps {
    convert(hull_net::plan_loopback())
}

fn convert(steps: hull_net::LinkSteps) -> LinkSteps {
    LinkSteps {
        host: steps.host,
        inside: steps.inside,
        netns_fd_offset: steps.netns_fd_offset,
    }
}

/// 64 hex digits that stay the same for the same text.
fn digest_of(text: &str) -> String {
    hull_storage::Hasher::digest(text.as_bytes()).hex()
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
