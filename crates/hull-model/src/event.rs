//! What happened, for subscribers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
    /// The daemon itself.
    Daemon,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// Nanoseconds since the epoch.
    pub at_ns: i64,
    /// What it is about.
    pub subject: Subject,
    /// Docker's word: `create`, `start`, `die`, `exec_create: sh -c …`.
    pub action: String,
    /// Id of the object.
    pub id: String,
    /// Facts beside it: name, image, labels, exit code.
    pub attributes: BTreeMap<String, String>,
}
