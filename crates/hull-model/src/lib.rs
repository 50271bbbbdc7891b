//! The words of the system: what the engine speaks of, without any effect.
//!
//! No I/O, no async, no system calls. Values are parsed at the edge; in here they are valid.

#![forbid(unsafe_code)]

pub mod egress;
pub mod error;
pub mod event;
pub mod health;
pub mod id;
pub mod ids;
pub mod limits;
pub mod port;
pub mod signal;
pub mod spec;
pub mod state;

pub use error::ErrorKind;
pub use id::{Digest, InvalidId, NetworkId, SandboxId};
