//! What can be asked of networks.

use std::sync::Arc;

use hull_model::NetworkId;
use hull_model::spec::EndpointSpec;

use crate::api::{EgressReport, Member, Network, NetworkRequest};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::object::container::Request;
use crate::{jobs, network};

/// The networks.
#[derive(Debug, Clone, Copy)]
pub struct Networks<'a>(pub(crate) &'a Arc<Core>);

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
