//! One running thing, seen from the daemon.
//!
//! ```text
//!  Spec ──▶ plan (bytes) ──▶ Driver::start ──▶ shim ──▶ container
//!                                   ▲            │
//!                 Shim (requests) ──┴── socket ──┴──▶ Event
//! ```
//!
//! [`Driver`] spawns a shim for a [`Spec`], finds it again after a restart of the daemon and removes
//! what is left of one that ended; [`Shim`] is the connection to one that runs. All functions
//! block at most for a few system calls; what takes longer comes as an [`Event`]. Nothing here
//! knows images, networks or Docker: layers, links and limits come as descriptors and plain values.

#![forbid(unsafe_code)]

pub mod container;
mod driver;
mod encode;
mod error;
mod machine;
mod record;
mod shim;
mod spec;
mod view;

pub use driver::{Driver, Found, Status};
pub use error::Error;
pub use hull_model::state::Exit;
pub use hull_plan::frame::{FILES as GUEST_FILES, SHARES as GUEST_SHARES};
pub use hull_plan::message::{KEY_RESOLVER_TCP, KEY_RESOLVER_UDP};
pub use hull_plan::plan::LogForm;
pub use hull_plan::{FailureKind, user_ids};
pub use machine::{Machine, Share};
pub use record::ExecExit;
pub use shim::{Event, Shim, StartFailure, Target};
pub use spec::{
    Attachment, CapabilitySets, Cgroup, DeviceNode, ExecId, ExecSpec, IdMap, KeptSocket, Limits,
    LinkSteps, Log, LogService, Lowers, Mount, MountKind, MountOptions, Namespace, Namespaces,
    Process, Propagation, Resolver, Rlimit, Root, Spec, Stdin, Sysctl, UserMaps,
};
pub use view::{View, ViewOf};
