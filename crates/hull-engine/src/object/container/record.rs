//! What is stored of a container, and how older records become ours.

use hull_model::Digest;
use hull_model::health::Health;
use hull_model::port::PublishedPort;
use hull_model::spec::ContainerSpec;
use hull_model::state::{Exit, State};
use serde::{Deserialize, Serialize};

use crate::api::Endpoint;
use crate::network;

/// What is stored of a container once; changed by rename and update.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) v: u32,
    pub(crate) spec: ContainerSpec,
    pub(crate) created_ns: i64,
    pub(crate) layers: Vec<Digest>,
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
}

/// What is stored of a container at each change of its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct StateRecord {
    pub(crate) v: u32,
    pub(crate) state: State,
    pub(crate) started_ns: i64,
    /// When a life last ended; 0: none did.
    #[serde(default)]
    pub(crate) finished_ns: i64,
    /// Somebody stopped it: only `always` starts it again with the daemon.
    pub(crate) stopped_by_hand: bool,
    pub(crate) restart_count: u32,
    /// How the life before ended: what is so again if this one never began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) former_exit: Option<Exit>,
    /// Memory ran out in this life, which may go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) out_of_memory: bool,
    #[serde(default)]
    pub(crate) error: String,
    #[serde(default)]
    pub(crate) error_code: i32,
    #[serde(default)]
    pub(crate) failed_to_run: bool,
    /// What a daemon wrote that knew one network only.
    #[serde(default, skip_serializing)]
    endpoint: Option<Endpoint>,
    /// Leased before the start that they are for is recorded.
    #[serde(default)]
    pub(crate) endpoints: Vec<Endpoint>,
    /// A connect or disconnect is under way: links may differ from `endpoints`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) links_changing: bool,
    /// Published while it runs.
    #[serde(default)]
    pub(crate) ports: Vec<PublishedPort>,
    /// None: it has no check, or never ran.
    #[serde(default)]
    pub(crate) health: Option<Health>,
    /// Boot in which `state` was true, for what only lives as long as the kernel.
    pub(crate) boot_id: String,
}

impl StateRecord {
    pub(crate) fn created(boot_id: &str) -> Self {
        Self {
            v: 1,
            state: State::Created,
            started_ns: 0,
            finished_ns: 0,
            stopped_by_hand: false,
            restart_count: 0,
            former_exit: None,
            out_of_memory: false,
            error: String::new(),
            error_code: 0,
            failed_to_run: false,
            endpoint: None,
            ports: Vec::new(),
            endpoints: Vec::new(),
            links_changing: false,
            health: None,
            boot_id: boot_id.to_owned(),
        }
    }
}

/// Version of [`ContainerRecord`]: since 2, `spec.endpoints` names every network.
pub(crate) const RECORD_VERSION: u32 = 2;

impl ContainerRecord {
    /// Brings a record of an older version to ours.
    pub(crate) fn upgrade(&mut self) {
        let mode = &self.spec.host.network;
        if self.v < 2 && self.spec.endpoints.is_empty() && network::has_networks(mode) {
            let main = network::main_network(mode).to_owned();
            self.spec.endpoints.entry(main).or_default();
        }
        self.v = RECORD_VERSION;
    }
}

impl StateRecord {
    /// Brings a record of an older version to ours.
    pub(crate) fn upgrade(&mut self) {
        self.endpoints.extend(self.endpoint.take());
    }
}
