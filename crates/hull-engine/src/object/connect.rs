//! Networks of one container: addresses for a start, and connect and disconnect.
//!
//! While the container runs, a change is written down with the mark `links_changing` before any
//! link is touched. Making and removing links again changes nothing, so a daemon that finds the mark
//! brings the links to what is recorded.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use hull_model::limits::{CONTAINER_NETWORKS_MAX, SHIM_REPLY_MS_MAX};
use hull_model::spec::{EndpointSpec, Isolation, NetworkMode};
use hull_sandbox::Event as ShimEvent;

use crate::api::{Endpoint, Network, NetworkDriver};
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::object::container::{ContainerRecord, Owner, to_json};
use crate::object::port;
use crate::store::{Change, Key};
use crate::{names, network, translate};

/// How long a guest may take for a change, which is emulated where there is no KVM.
const GUEST_REPLY_MS_MAX: u64 = 20_000;

impl Owner {
    /// Takes addresses for the start that is about to be recorded.
    pub(super) fn lease_endpoints(&mut self) -> Result<()> {
        let wanted = self.core.network.wanted(&self.spec);
        self.life.endpoints = self.core.network.lease_all(self.id, &wanted)?;
        Ok(())
    }

    /// Gives back the addresses of a life that is over.
    pub(super) fn release_endpoints(&mut self) {
        // Before anybody else can have its addresses; nothing is asked of the kernel for a container
        // without a policy.
        self.core.network.unguard(self.id, &self.life.endpoints);
        for endpoint in std::mem::take(&mut self.life.endpoints) {
            self.core.network.release(self.id, &endpoint);
            self.former_links.push(endpoint.number);
        }
    }

    /// Tells subscribers of networks that the container came or went.
    pub(super) fn network_events(&self, action: &str, endpoints: &[Endpoint]) {
        for endpoint in endpoints {
            if let Ok(network) = self.core.network.find(&endpoint.network_id) {
                let container = ("container", self.id.to_string());
                network::publish(&self.core, &network, action, [container]);
            }
        }
    }

    /// Puts the container on a network.
    pub(super) async fn connect(
        &mut self,
        to: &Arc<Network>,
        mut asked: EndpointSpec,
    ) -> Result<()> {
        self.check_connect(to, &asked)?;
        let main = self
            .core
            .network
            .name_of(network::main_network(&self.spec.host.network));
        if asked.mac_address.is_empty() && main == to.spec.name {
            // Compose takes a container off its networks and puts it on again.
            asked.mac_address.clone_from(&self.spec.config.mac_address);
        }
        let before = port::target_of(&self.life.endpoints);
        let name = to.spec.name.clone();
        let mut record = self.record.clone();
        record.spec.endpoints.insert(name.clone(), asked.clone());
        if !self.life.state.is_live() {
            return self.commit_record(record, false).await;
        }
        let number = self.free_number();
        self.check_card(number)?;
        let endpoint = self.core.network.lease(self.id, &name, &asked, number)?;
        self.life.endpoints.push(endpoint.clone());
        let mut connected = self.commit_record(record, true).await;
        if connected.is_ok() {
            connected = self.guard().await;
        }
        if connected.is_ok() {
            connected = self.make_link(&endpoint).await;
        }
        if let Err(error) = connected {
            self.undo_connect(&endpoint).await;
            return Err(error);
        }
        self.move_ports(before).await;
        self.change_hosts(std::slice::from_ref(&endpoint), &[]);
        self.open_resolver();
        self.settle_links();
        self.network_events("connect", &[endpoint]);
        Ok(())
    }

    /// On its first network with names, a container begins to ask us for them.
    fn open_resolver(&mut self) {
        if self.name_servers.is_open() || !names::are_served(&self.spec, &self.life.endpoints) {
            return;
        }
        let Some(shim) = &mut self.shim else {
            return;
        };
        let opened = names::resolver().and_then(|resolver| {
            shim.get_mut()
                .open_resolver(&resolver)
                .map_err(|e| EngineError::step("open the name server's sockets", e.kind(), e))?;
            let path = self.core.container_dir(self.id).join("resolv.conf");
            let text = self
                .core
                .network
                .resolv_conf(&self.spec, &self.life.endpoints);
            // In place: the file is mounted in the container.
            std::fs::write(path, text).map_err(|e| EngineError::io("write resolv.conf", e))
        });
        self.send_file("resolv.conf");
        if let Err(error) = opened {
            tracing::warn!(container = %self.id.short(), error = %error.chain(), "names are not served");
        }
    }

    fn check_connect(&self, to: &Network, asked: &EndpointSpec) -> Result<()> {
        if self.life.state == hull_model::state::State::Removing {
            return Err(EngineError::BeingRemoved(self.id));
        }
        let denied = |text: &str| Err(EngineError::Denied(text.to_owned()));
        match &self.spec.host.network {
            NetworkMode::Container(_) => {
                return denied(
                    "container sharing network namespace with another container or host cannot be \
                     connected to any other network",
                );
            }
            NetworkMode::Host => {
                return denied(
                    "container cannot be disconnected from host network or connected to host \
                     network",
                );
            }
            NetworkMode::None => {
                return denied(
                    "container cannot be connected to multiple networks with one of the networks \
                     in private (none) mode",
                );
            }
            NetworkMode::Default | NetworkMode::Named(_) => {}
        }
        match to.spec.driver {
            NetworkDriver::Host => {
                return denied(
                    "container cannot be disconnected from host network or connected to host \
                     network",
                );
            }
            NetworkDriver::Null => {
                return denied(
                    "container cannot be connected to multiple networks with one of the networks \
                     in private (none) mode",
                );
            }
            NetworkDriver::Bridge | NetworkDriver::Macvlan | NetworkDriver::Ipvlan => {}
        }
        if self.spec.endpoints.contains_key(&to.spec.name) {
            return Err(EngineError::Denied(format!(
                "endpoint with name {} already exists in network {}",
                self.spec.name, to.spec.name
            )));
        }
        if self.spec.endpoints.len() >= CONTAINER_NETWORKS_MAX {
            return Err(EngineError::Denied(format!(
                "a container can be on {CONTAINER_NETWORKS_MAX} networks at most"
            )));
        }
        check_endpoint(to, asked)
    }

    /// A machine gets no card while it runs: it has as many as it was started with.
    fn check_card(&self, number: u8) -> Result<()> {
        let cards = crate::machine::CARDS_MAX;
        match self.spec.host.isolation {
            Isolation::Vm if usize::from(number) >= cards => Err(EngineError::Denied(format!(
                "a container with isolation \"vm\" can be on {cards} networks at most"
            ))),
            _ => Ok(()),
        }
    }

    fn is_machine(&self) -> bool {
        self.spec.host.isolation == Isolation::Vm
    }

    /// Gives a guest one of its small files as it is now.
    fn send_file(&self, name: &str) {
        let (true, Some(shim)) = (self.is_machine(), &self.shim) else {
            return;
        };
        let path = self.core.container_dir(self.id).join(name);
        let sent = std::fs::read(&path)
            .map_err(|e| EngineError::io(format!("read {}", path.display()), e))
            .and_then(|contents| {
                shim.get()
                    .write_file(name, contents)
                    .map_err(|e| EngineError::step("send a file to the guest", e.kind(), e))
            });
        if let Err(error) = sent {
            tracing::warn!(container = %self.id.short(), error = %error.chain(), "a file in its guest");
        }
    }

    fn free_number(&self) -> u8 {
        let taken = |number: &u8| self.life.endpoints.iter().any(|e| e.number == *number);
        (0..u8::MAX)
            .find(|number| !taken(number))
            .unwrap_or(u8::MAX)
    }

    async fn undo_connect(&mut self, endpoint: &Endpoint) {
        self.life
            .endpoints
            .retain(|other| other.number != endpoint.number);
        // The kernel may have made the link before something later was refused.
        if let Err(error) = self.remove_link(endpoint).await {
            tracing::warn!(container = %self.id.short(), error = %error.chain(), "undo of a connect");
        }
        self.guard_rest(endpoint).await;
        self.core.network.release(self.id, endpoint);
        let mut record = self.record.clone();
        record.spec.endpoints.remove(&endpoint.network);
        if let Err(error) = self.commit_record(record, false).await {
            tracing::warn!(container = %self.id.short(), error = %error.chain(), "undo of a connect");
        }
    }

    /// Takes the container off a network.
    pub(super) async fn disconnect(&mut self, name: &str) -> Result<()> {
        match self.spec.host.network {
            NetworkMode::Host if name == "host" => {
                return Err(EngineError::Denied(
                    "container cannot be disconnected from host network or connected to host \
                     network"
                        .to_owned(),
                ));
            }
            _ if !self.spec.endpoints.contains_key(name) => {
                return Err(EngineError::NotConnected {
                    container: self.id,
                    network: name.to_owned(),
                });
            }
            _ => {}
        }
        let mut record = self.record.clone();
        record.spec.endpoints.remove(name);
        let at = self.life.endpoints.iter().position(|e| e.network == name);
        let Some(at) = at.filter(|_| self.life.state.is_live()) else {
            return self.commit_record(record, false).await;
        };
        let before = port::target_of(&self.life.endpoints);
        let endpoint = self.life.endpoints.remove(at);
        if let Err(error) = self.commit_record(record, true).await {
            self.life.endpoints.insert(at, endpoint);
            return Err(error);
        }
        // The record says that it is gone, so it goes: what fails now is tried again at a start.
        let removed = self.remove_link(&endpoint).await;
        self.guard_rest(&endpoint).await;
        self.core.network.release(self.id, &endpoint);
        self.move_ports(before).await;
        self.change_hosts(&[], std::slice::from_ref(&endpoint));
        self.settle_links();
        self.network_events("disconnect", &[endpoint]);
        removed
    }

    /// Takes back a link of the old kind.
    pub(super) async fn unlink(&mut self, alias: &str) -> Result<()> {
        let mut record = self.record.clone();
        let links = &mut record.spec.host.links;
        let before = links.len();
        links.retain(|link| network::parse_link(link).1 != alias);
        if links.len() == before {
            let name = format!("{}/{alias}", self.spec.name);
            return Err(EngineError::NoSuchContainer(name));
        }
        self.commit_record(record, self.life.links_changing).await?;
        if self.life.state.is_live() {
            self.write_hosts();
        }
        Ok(())
    }

    /// Holds it to its egress policy on the networks that it has now.
    async fn guard(&self) -> Result<()> {
        let (core, id, spec) = (self.core.clone(), self.id, self.spec.clone());
        let endpoints = self.life.endpoints.clone();
        let guarded = self.core.jobs.run(Pool::Kernel, move || {
            core.network.guard(id, &spec, &endpoints)
        });
        guarded.await?
    }

    async fn guard_rest(&self, gone: &Endpoint) {
        let (core, id, spec) = (self.core.clone(), self.id, self.spec.clone());
        let (rest, gone) = (self.life.endpoints.clone(), gone.clone());
        let guarded = self.core.jobs.run(Pool::Kernel, move || {
            core.network.guard_rest(id, &spec, &rest, &gone);
        });
        if let Err(error) = guarded.await {
            tracing::warn!(container = %self.id.short(), error = %error.chain(), "its egress policy");
        }
    }

    /// Writes down what was asked and, while it runs, what it has.
    async fn commit_record(&mut self, record: ContainerRecord, links_changing: bool) -> Result<()> {
        let id = *self.id.as_bytes();
        self.life.links_changing = links_changing;
        let writes = vec![
            Change::put(Key::Container(id), to_json(&record)),
            self.state_write(),
        ];
        if let Err(error) = self.core.store.commit(writes).await {
            self.life.links_changing = false;
            return Err(error);
        }
        self.spec = Arc::new(record.spec.clone());
        self.record = record;
        self.publish();
        Ok(())
    }

    fn settle_links(&mut self) {
        self.life.links_changing = false;
        self.record_state();
        self.publish();
    }

    async fn make_link(&mut self, endpoint: &Endpoint) -> Result<()> {
        let (core, id, pid) = (self.core.clone(), self.id, self.pid);
        let (endpoint, all) = (endpoint.clone(), self.life.endpoints.clone());
        let is_tap = self.is_machine();
        let requests = self.core.jobs.run(Pool::Kernel, move || {
            let namespace = hull_os::namespace::open(pid, "net")
                .map_err(|e| EngineError::io("open the container's network namespace", e))?;
            // The number could have been given to another process before it was opened.
            let handle = core.containers.handle(id)?;
            if handle.snapshot.borrow().pid != pid {
                return Err(EngineError::NotRunning(id));
            }
            let namespace = namespace.as_fd();
            core.network.connect(id, &endpoint, &all, namespace, is_tap)
        });
        let requests = requests.await??;
        self.change_links(requests).await
    }

    async fn remove_link(&mut self, endpoint: &Endpoint) -> Result<()> {
        let (core, id) = (self.core.clone(), self.id);
        let (endpoint, rest) = (endpoint.clone(), self.life.endpoints.clone());
        let is_tap = self.is_machine();
        let requests = self.core.jobs.run(Pool::Kernel, move || {
            core.network.disconnect(id, &endpoint, &rest, is_tap)
        });
        let requests = requests.await??;
        self.change_links(requests).await
    }

    /// Has the shim carry out requests in the container's namespace.
    async fn change_links(&mut self, requests: Vec<u8>) -> Result<()> {
        if requests.is_empty() {
            return Ok(());
        }
        let Some(shim) = &self.shim else {
            return Err(EngineError::NotRunning(self.id));
        };
        self.link_changes = self.link_changes.wrapping_add(1);
        let wanted = self.link_changes;
        shim.get()
            .change_links(wanted, requests)
            .map_err(|e| EngineError::step("change the container's links", e.kind(), e))?;
        self.await_change(wanted, "change the container's links")
            .await
    }

    /// Changes limits in the guest of its machine.
    pub(super) async fn limit_guest(&mut self, limits: &hull_os::cgroup::Limits) -> Result<()> {
        let Some(shim) = &self.shim else {
            return Err(EngineError::NotRunning(self.id));
        };
        self.link_changes = self.link_changes.wrapping_add(1);
        let wanted = self.link_changes;
        shim.get()
            .limit_guest(wanted, limits)
            .map_err(|e| EngineError::step("change the guest's limits", e.kind(), e))?;
        self.await_change(wanted, "change the guest's limits").await
    }

    /// Waits until the shim, or its guest, has made a change.
    async fn await_change(&mut self, wanted: u32, what: &str) -> Result<()> {
        let limit = Duration::from_millis(match self.is_machine() {
            true => GUEST_REPLY_MS_MAX,
            false => SHIM_REPLY_MS_MAX,
        });
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let Some(shim) = &mut self.shim else {
                return Err(EngineError::NotRunning(self.id));
            };
            let event = tokio::time::timeout_at(deadline, shim.next()).await;
            match event {
                Ok(ShimEvent::LinksChanged { number, failure }) if number == wanted => {
                    return match failure.is_empty() {
                        true => Ok(()),
                        false => Err(EngineError::WrongState(format!("{what}: {failure}"))),
                    };
                }
                // A shim of an older version.
                Ok(ShimEvent::Refused { text }) => {
                    return Err(EngineError::Unsupported(format!(
                        "this container was started by an older hull, which cannot change its \
                         networks while it runs: {text}"
                    )));
                }
                Ok(event) => Box::pin(self.on_shim(event)).await,
                Err(_) => {
                    return Err(EngineError::Unavailable(format!(
                        "the shim does not answer; {what}: may be incomplete"
                    )));
                }
            }
        }
    }

    /// Brings the links of a container that was found again to what is recorded, where a change
    /// was cut off. Links that are in no record were removed before.
    pub(super) async fn finish_link_change(&mut self) {
        if !self.life.links_changing || self.pid == 0 {
            return;
        }
        // Whoever asks for our state has to see the process that we work on.
        self.publish();
        for endpoint in self.life.endpoints.clone() {
            if let Err(error) = self.make_link(&endpoint).await {
                let error = error.chain();
                tracing::warn!(container = %self.id.short(), error, "a cut off change of its links");
            }
        }
        self.write_hosts();
        self.settle_links();
    }

    /// What it was asked to be, with the variables of its links as far as those are there.
    pub(super) fn linked_spec(&self) -> Arc<hull_model::spec::ContainerSpec> {
        match network::find_linked(&self.core, &self.spec) {
            Ok(linked) if !linked.env.is_empty() => {
                let mut spec = (*self.spec).clone();
                spec.config.env.splice(0..0, linked.env);
                Arc::new(spec)
            }
            _ => self.spec.clone(),
        }
    }

    /// Writes `/etc/hosts` as a start does: which lines a cut off change left is not known.
    fn write_hosts(&self) {
        let path = self.core.container_dir(self.id).join("hosts");
        let hostname = translate::hostname(&self.spec, self.id);
        let linked = network::find_linked(&self.core, &self.spec).unwrap_or_default();
        let network = &self.core.network;
        let text = network.hosts_file(&self.spec, &hostname, &self.life.endpoints, &linked);
        if let Err(error) = text.and_then(|text| std::fs::write(&path, text)) {
            tracing::warn!(container = %self.id.short(), %error, "its hosts file");
        }
        self.send_file("hosts");
    }

    /// Keeps `/etc/hosts` of a running container true.
    fn change_hosts(&self, added: &[Endpoint], removed: &[Endpoint]) {
        let path = self.core.container_dir(self.id).join("hosts");
        let hostname = translate::hostname(&self.spec, self.id);
        let addresses = |endpoints: &[Endpoint]| -> Vec<IpAddr> {
            endpoints.iter().flat_map(Endpoint::addresses).collect()
        };
        let names = (hostname.as_str(), self.spec.config.domainname.as_str());
        let changed = network::change_hosts(&path, names, &addresses(added), &addresses(removed));
        if let Err(error) = changed {
            tracing::warn!(container = %self.id.short(), %error, "its hosts file");
        }
        self.send_file("hosts");
    }
}

/// What cannot be asked for on a network, whichever container asks.
pub(crate) fn check_endpoint(network: &Network, asked: &EndpointSpec) -> Result<()> {
    if network.predefined && !asked.aliases.is_empty() {
        return Err(EngineError::Invalid(
            "network-scoped alias is supported only for containers in user defined networks"
                .to_owned(),
        ));
    }
    Ok(())
}
