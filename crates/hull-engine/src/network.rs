//! The default bridge, as the engine sees it: an address and link steps for each start.

use std::collections::HashSet;

use hull_model::SandboxId;
use hull_model::spec::ContainerSpec;
use hull_sandbox::LinkSteps;

use crate::api::Endpoint;
use crate::error::Result;

/// What a start gets from the network.
#[derive(Debug, Default)]
pub(crate) struct Attachment {
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) steps: Option<LinkSteps>,
}

/// The engine's network.
#[derive(Debug)]
pub(crate) struct Network {}

impl Network {
    pub(crate) fn open(_c: &crate::BridgeConfig, _run: &std::path::Path) -> Result<Self> {
        Ok(Self {})
    }
    pub(crate) fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
    pub(crate) fn facts(&self) -> Option<crate::api::BridgeFacts> {
        None
    }
    pub(crate) fn remove(&self) -> Result<()> {
        Ok(())
    }
    pub(crate) fn differences(&self, _c: &[std::sync::Arc<crate::api::Container>]) -> Vec<String> {
        Vec::new()
    }

    pub(crate) fn attach(&self, _id: SandboxId, _spec: &ContainerSpec) -> Result<Attachment> {
        Ok(Attachment::default())
    }
    pub(crate) fn release(&self, _endpoint: &Endpoint) {}
    pub(crate) fn reserve(&self, _endpoint: &Endpoint) {}
    pub(crate) fn remove_unknown(&self, _known: &HashSet<String>) {}
    pub(crate) fn hosts_file(
        &self,
        _spec: &ContainerSpec,
        _hostname: &str,
        _endpoint: Option<&Endpoint>,
    ) -> String {
        String::new()
    }
    pub(crate) fn resolv_conf(&self, _spec: &ContainerSpec) -> String {
        String::new()
    }
}
