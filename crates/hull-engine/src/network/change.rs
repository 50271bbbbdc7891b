//! Creating and removing networks: the record first, then the kernel.
//!
//! A record without a bridge gets one when the daemon starts; a bridge of ours without a record is
//! removed then. So a crash between the two is an ordinary start.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hull_model::NetworkId;
use hull_model::event::Subject;
use hull_model::limits::NETWORKS_MAX;
use hull_net::{AddressPool, Subnet};
use serde::{Deserialize, Serialize};

use super::table::{Entry, Table};
use super::{Network, failed, request};
use crate::api::{self, NetworkDriver, NetworkPool, NetworkRequest, NetworkSpec};
use crate::clock::{new_id, now_ns};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::object::container::to_json;
use crate::store::{Change, Contents, Key};

/// Length of the prefix of IPv6 subnets that nobody chose.
const IPV6_PREFIX_LENGTH: u8 = 64;

/// What is stored of a network.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    v: u32,
    spec: NetworkSpec,
    created_ns: i64,
}

/// The recorded networks.
pub(super) fn read(contents: &Contents) -> Table {
    let mut table = Table::default();
    for (key, bytes) in &contents.networks {
        let id = NetworkId::from_bytes(*key);
        match serde_json::from_slice::<NetworkRecord>(bytes) {
            Ok(record) => {
                let network = view(id, record);
                table.0.insert(id, Entry::new(network));
            }
            // Never repaired by guess and never removed: a person has to look.
            Err(error) => {
                tracing::error!(network = %id.short(), %error, "a record cannot be read; it is left alone");
            }
        }
    }
    table
}

fn view(id: NetworkId, record: NetworkRecord) -> api::Network {
    api::Network {
        id,
        link: request::link(id, &record.spec),
        spec: Arc::new(record.spec),
        created_ns: record.created_ns,
        predefined: false,
    }
}

/// Creates a network.
pub(crate) async fn create(core: &Arc<Core>, mut request: NetworkRequest) -> Result<NetworkId> {
    let network = &core.network;
    let _one_at_a_time = network.changes.lock().await;
    request::take_configuration(&mut request, |name| network.find(name))?;
    let mut spec = request::parse(request)?;
    let id = new_id().map_err(|e| EngineError::io("draw an id", e))?;
    let id = NetworkId::from_bytes(*id.as_bytes());
    network.check_new(&spec)?;
    let planned = match spec.config_only {
        true => None,
        false => {
            network.add_pools(&mut spec)?;
            Some(request::plan(id, &spec)?)
        }
    };
    let record = NetworkRecord {
        v: 1,
        spec,
        created_ns: now_ns(),
    };
    let key = || Key::Network(*id.as_bytes());
    core.store
        .commit(vec![Change::put(key(), to_json(&record))])
        .await?;
    let job = core.clone();
    let made = core.jobs.run(Pool::Kernel, move || match planned {
        Some(planned) => job.network.make(planned),
        None => Ok(()),
    });
    let made = made.await.and_then(|made| made);
    if let Err(error) = made {
        core.store.record(vec![Change::remove(key())]);
        return Err(error);
    }
    let made = view(id, record);
    publish(core, &made, "create", []);
    network.table().0.insert(id, Entry::new(made));
    Ok(id)
}

impl Network {
    fn make(&self, planned: hull_net::Network) -> Result<()> {
        if matches!(planned.kind, hull_net::Kind::Ipvlan(..)) {
            let there = self.networks.has_link_kind("ipvlan");
            if !there.map_err(failed("ask the kernel for ipvlan"))? {
                return Err(EngineError::Unsupported(
                    "this kernel has no ipvlan; use the driver macvlan or bridge".to_owned(),
                ));
            }
        }
        let added = self.networks.add(planned);
        added.map(drop).map_err(failed("set up the network"))
    }
}

/// Removes a network that no running container is on.
pub(crate) async fn remove(core: &Arc<Core>, text: &str) -> Result<()> {
    let _one_at_a_time = core.network.changes.lock().await;
    let found = core.network.begin_removal(core, text)?;
    let removed = finish_removal(core, &found).await;
    if removed.is_err()
        && let Some(entry) = core.network.table().0.get_mut(&found.id)
    {
        entry.leaving = false;
    }
    removed
}

async fn finish_removal(core: &Arc<Core>, found: &Arc<api::Network>) -> Result<()> {
    let id = found.id;
    let (job, network) = (core.clone(), found.clone());
    core.jobs
        .run(Pool::Kernel, move || job.network.clear(&network))
        .await??;
    core.store
        .commit(vec![Change::remove(Key::Network(*id.as_bytes()))])
        .await?;
    let (job, name) = (core.clone(), found.spec.name.clone());
    let removed = core
        .jobs
        .run(Pool::Kernel, move || {
            match job.network.networks.network(&name) {
                Some(_) => job.network.networks.remove(&name).map(drop),
                // It only configured others.
                None => Ok(()),
            }
        })
        .await;
    // The record is gone, and with it the network; what is left of it goes at the next start.
    match removed {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let error = failed("take the network down")(error);
            tracing::error!(network = found.spec.name, error = %error.chain(), "something is left");
        }
        Err(error) => tracing::error!(network = found.spec.name, error = %error.chain(), "left"),
    }
    core.network.table().0.remove(&id);
    publish(core, found, "destroy", []);
    Ok(())
}

/// Removes every network of users that no running container is on and that `keep` does not keep;
/// returns their names.
pub(crate) async fn prune(
    core: &Arc<Core>,
    keep: impl Fn(&api::Network) -> bool + Send,
) -> Vec<String> {
    let mut gone = Vec::new();
    for network in core.network.list() {
        if network.predefined || keep(&network) {
            continue;
        }
        if remove(core, &network.id.to_string()).await.is_ok() {
            gone.push(network.spec.name.clone());
        }
    }
    core.events.publish_prune(Subject::Network, 0);
    gone
}

/// Tells subscribers what happened to a network.
pub(crate) fn publish<const N: usize>(
    core: &Core,
    network: &api::Network,
    action: &str,
    facts: [(&str, String); N],
) {
    let mut attributes = BTreeMap::from([
        ("name".to_owned(), network.spec.name.clone()),
        ("type".to_owned(), network.spec.driver.word().to_owned()),
    ]);
    attributes.extend(facts.map(|(key, value)| (key.to_owned(), value)));
    let id = network.id.to_string();
    core.events
        .publish(Subject::Network, action, id, attributes);
}

impl Network {
    fn check_new(&self, spec: &NetworkSpec) -> Result<()> {
        let table = self.table();
        if table.0.len() >= NETWORKS_MAX {
            return Err(EngineError::Unavailable(format!(
                "there are {NETWORKS_MAX} networks already; remove some"
            )));
        }
        let link = request::link(NetworkId::from_bytes([0; 32]), spec);
        for entry in table.0.values() {
            let other = &entry.network;
            if other.spec.name == spec.name {
                return Err(EngineError::WrongState(format!(
                    "network with name {} already exists",
                    spec.name
                )));
            }
            let both = [spec.driver, other.spec.driver] == [NetworkDriver::Bridge; 2];
            if both && other.link == link {
                return Err(EngineError::Denied(format!(
                    "cannot create network {}: it conflicts with network {} ({link}): networks \
                     have same bridge name",
                    spec.name, other.id
                )));
            }
        }
        let taken = table.subnets();
        let overlaps = |pool: &NetworkPool| taken.iter().any(|other| other.overlaps(&pool.subnet));
        if spec.driver == NetworkDriver::Bridge && spec.pools.iter().any(overlaps) {
            return Err(request::overlapping());
        }
        Ok(())
    }

    /// Chooses a subnet for each family that has none.
    fn add_pools(&self, spec: &mut NetworkSpec) -> Result<()> {
        let taken = self.table().subnets();
        for (v6, wanted) in [(false, spec.ipv4), (true, spec.ipv6)] {
            let of_family = |pool: &NetworkPool| pool.subnet.address().is_ipv6() == v6;
            if !wanted || spec.pools.iter().any(of_family) {
                continue;
            }
            let subnet = self.choose(v6, &taken)?;
            spec.pools.push(NetworkPool {
                subnet,
                gateway: subnet.at(1),
                range: None,
                auxiliary: BTreeMap::new(),
                chosen: false,
            });
        }
        Ok(())
    }

    fn choose(&self, v6: bool, taken: &[Subnet]) -> Result<Subnet> {
        let mut pools: Vec<AddressPool> = self
            .pools
            .iter()
            .filter(|pool| pool.range.address().is_ipv6() == v6)
            .copied()
            .collect();
        if v6 && pools.is_empty() {
            pools.push(AddressPool {
                range: self.ula,
                prefix_length: IPV6_PREFIX_LENGTH,
            });
        }
        self.networks
            .choose_subnet("", &pools, taken)
            .map_err(|error| match error {
                hull_net::Error::Exhausted { .. } => EngineError::Invalid(
                    "all predefined address pools have been fully subnetted".to_owned(),
                ),
                other => failed("choose a subnet")(other),
            })
    }

    /// From here on nobody gets an address on the network.
    fn begin_removal(&self, core: &Core, text: &str) -> Result<Arc<api::Network>> {
        let mut table = self.table();
        let entry = table.find_mut(text)?;
        let network = entry.network.clone();
        if network.predefined {
            return Err(EngineError::Denied(format!(
                "{} is a pre-defined network and cannot be removed",
                network.spec.name
            )));
        }
        let name = network.spec.name.clone();
        let dependent = |other: &Entry| other.network.spec.config_from == name;
        if network.spec.config_only && table.0.values().any(dependent) {
            return Err(EngineError::Denied(format!(
                "configuration network {name:?} is in use"
            )));
        }
        let entry = table.find_mut(text)?;
        if !entry.members.is_empty() {
            let id = network.id.to_string();
            let mut names: Vec<String> = entry
                .members
                .iter()
                .filter_map(|id| core.containers.handle(*id).ok())
                .map(|handle| handle.snapshot.borrow().clone())
                .map(|container| {
                    let on = container.endpoints.iter().find(|e| e.network_id == id);
                    let endpoint = on
                        .map(|e| e.endpoint_id[..12].to_owned())
                        .unwrap_or_default();
                    format!("name:{:?} id:{endpoint:?}", container.spec.name)
                })
                .collect();
            names.sort();
            return Err(EngineError::Denied(format!(
                "error while removing network: network {} has active endpoints ({})",
                network.spec.name,
                names.join(", ")
            )));
        }
        entry.leaving = true;
        Ok(network)
    }

    /// Removes links of containers that ended: the kernel takes them away by and by. Blocks.
    fn clear(&self, network: &api::Network) -> Result<()> {
        let links = self.networks.endpoints().map_err(failed("list links"))?;
        for link in links {
            if link.bridge.as_ref() == Some(&network.link) {
                self.networks
                    .remove_link(&link.link)
                    .map_err(failed("remove the link of a container that ended"))?;
            }
        }
        Ok(())
    }

    /// The address by which containers reach the host: the default bridge's.
    pub(crate) fn host_gateway(&self) -> Option<IpAddr> {
        if self.host_gateway.is_some() {
            return self.host_gateway;
        }
        let bridge = self.find(super::DEFAULT_NETWORK).ok()?;
        bridge.spec.pools.first().map(|pool| pool.gateway)
    }
}
