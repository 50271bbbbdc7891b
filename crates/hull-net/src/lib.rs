//! Desired networks to kernel state: a network is one bridge and its rules in one table of ours.
//!
//! ```text
//!   Network, Endpoint          what is wanted                                network.rs
//!     | pure
//!     +-> plan_endpoint        requests that a shim sends for one container  plan.rs
//!     +-> table                sets and rules of our nftables table          plan.rs
//!   Networks                   the few functions that touch the kernel
//!     ensure, add, remove, attach, detach, leftovers, settle_next            apply.rs
//!     ensure_parent            links below macvlan and ipvlan                parent.rs
//!     endpoints, verify, rules, choose_subnet                                observe.rs
//!     publish, unpublish, keep_published                                     publish.rs
//!     guard, unguard, allow, egress_of                                       egress.rs
//!       iptables/              the same rules where there is no nftables
//!       forwarding.rs          which links of the host forward, and back
//!       firewall.rs            foreign chains that would drop our traffic
//!   Ipam                       addresses of one subnet, in memory            ipam.rs
//!   files                      contents of /etc/hosts, resolv.conf, hostname files.rs
//! ```
//!
//! Every kernel object of ours carries a tag (the table's name, the alias of a link, the comment
//! of a rule), so that what exists can be listed and compared without memory. Nothing untagged is
//! ever changed. No function enters a namespace: all work on that of the calling thread, which is
//! the host's in the daemon; what is to be done inside a container's is bytes for its shim.

#![forbid(unsafe_code)]

mod apply;
mod egress;
pub mod files;
mod firewall;
mod forwarding;
mod ipam;
mod iptables;
mod network;
mod observe;
mod parent;
mod plan;
mod publish;
mod resolver;

pub use apply::{Networks, Report, Settings};
pub use egress::{Allowed, EgressCount, Flow, Guard, Holder};
pub use firewall::{Firewall, Output, Run};
pub use hull_os::netlink::{IpvlanMode, IpvlanReach, MacvlanMode};
pub use ipam::{AddressPool, Ipam, choose_subnet};
pub use iptables::Backend;
pub use network::{Endpoint, InvalidNetwork, Kind, Mac, Network, Pool, Subnet};
pub use observe::EndpointLink;
pub use plan::{
    LinkSteps, host_link, inner_link, plan_card, plan_endpoint, plan_loopback, plan_removal,
    plan_routes,
};
pub use publish::{Forward, Reach};
pub use resolver::{RESOLVER_ADDRESS, plan_resolver};

use std::io;

use hull_model::ErrorKind;
use hull_os::netlink::NetlinkError;

/// What went wrong with a network.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is asked for cannot be.
    #[error("network {network}: {reason}")]
    Invalid {
        /// Which network.
        network: String,
        /// What is wrong with it.
        #[source]
        reason: InvalidNetwork,
    },
    /// There is no such network.
    #[error("no network {network}")]
    NoNetwork {
        /// Which network.
        network: String,
    },
    /// The network's bridge still has ports.
    #[error("bridge {bridge} is in use by {ports} endpoints")]
    InUse {
        /// Which bridge.
        bridge: String,
        /// How many ports it has.
        ports: usize,
    },
    /// A network is to be on top of a link that is not there.
    #[error(
        "network {network}: this host has no link {link}; one that is made for a network is a VLAN of \
         a link, as eth0.10"
    )]
    NoParent {
        /// Which network.
        network: String,
        /// Which link.
        link: String,
    },
    /// The kernel knows no VLANs.
    #[error("this kernel has no VLANs (8021q), so there is no {link}")]
    NoVlans {
        /// Which link was to be made.
        link: String,
    },
    /// The kernel refused the link that a network is to be on top of.
    #[error("make link {link}")]
    Parent {
        /// Which link.
        link: String,
        /// Which change and why.
        #[source]
        cause: NetlinkError,
    },
    /// The name of a bridge belongs to a link that is no bridge.
    #[error("link {link} exists and is no bridge")]
    NoBridge {
        /// Which link.
        link: String,
    },
    /// Every address of a subnet is taken, or every subnet of the pools.
    #[error("no free address in {subnet}")]
    Exhausted {
        /// Where one was looked for.
        subnet: String,
    },
    /// An address is taken.
    #[error("address {address} is already in use")]
    AddressInUse {
        /// Which address.
        address: std::net::IpAddr,
    },
    /// An address is not one that a subnet can give.
    #[error("address {address} is not an endpoint's address of {subnet}")]
    AddressOutside {
        /// Which address.
        address: std::net::IpAddr,
        /// Which subnet.
        subnet: Subnet,
    },
    /// The kernel refused to be asked what there is.
    #[error("list {what}")]
    List {
        /// Which kind of object.
        what: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The kernel refused a change of links or addresses.
    #[error("set up bridge {bridge}")]
    Bridge {
        /// Which bridge.
        bridge: String,
        /// Which change and why.
        #[source]
        cause: NetlinkError,
    },
    /// The kernel refused to remove a link.
    #[error("remove link {link}")]
    RemoveLink {
        /// Which link.
        link: String,
        /// Why.
        #[source]
        cause: NetlinkError,
    },
    /// The kernel refused the link of an endpoint.
    #[error("connect the sandbox")]
    Connect {
        /// Which change and why.
        #[source]
        cause: NetlinkError,
    },
    /// The kernel refused a setting.
    #[error("set {setting} of link {link}")]
    Setting {
        /// Which link.
        link: String,
        /// Which setting.
        setting: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The kernel refused our table.
    #[error("apply table inet {table}")]
    Table {
        /// Its name.
        table: String,
        /// Which change and why.
        #[source]
        cause: NetlinkError,
    },
    /// A program of iptables refused.
    #[error("run {command}")]
    Iptables {
        /// With its arguments.
        command: String,
        /// What it said.
        #[source]
        cause: io::Error,
    },
    /// A foreign chain could not be told to accept our bridges.
    #[error("add accept rules for our bridges to {chain}")]
    Cooperate {
        /// Which chain.
        chain: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The list of links that we let forward could not be kept.
    #[error("keep the list of forwarding links in {path}")]
    Record {
        /// Its file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

impl Error {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } | Self::AddressOutside { .. } | Self::NoParent { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::NoVlans { .. } => ErrorKind::Unsupported,
            Self::NoNetwork { .. } => ErrorKind::NotFound,
            Self::InUse { .. } | Self::AddressInUse { .. } => ErrorKind::Busy,
            Self::NoBridge { .. } => ErrorKind::AlreadyExists,
            Self::Exhausted { .. } => ErrorKind::LimitReached,
            Self::List { cause, .. }
            | Self::Setting { cause, .. }
            | Self::Iptables { cause, .. }
            | Self::Cooperate { cause, .. }
            | Self::Record { cause, .. } => ErrorKind::of_io(cause),
            Self::Bridge { cause, .. }
            | Self::Parent { cause, .. }
            | Self::RemoveLink { cause, .. }
            | Self::Connect { cause }
            | Self::Table { cause, .. } => ErrorKind::of_io(&cause.cause),
        }
    }
}
