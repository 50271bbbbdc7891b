//! The flags that describe a container, and the request that they become.
//!
//! `run` and `create` share them. Each flag is parsed where it stands (`parse`, `mount`, `port`,
//! `network`), so that what a program sees here is valid; `body` puts the parts together.

mod body;
mod environment;
mod mount;
mod network;
mod options;
pub(crate) mod parse;
pub(crate) mod port;
mod wire;

pub(crate) use environment::variables;
pub(crate) use options::ContainerOptions;
pub(crate) use wire::{CreateBody, Ulimit};
