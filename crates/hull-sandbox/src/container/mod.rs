//! What a container's isolation consists of: the parts of a [`crate::Spec`] that have defaults.

pub mod capability;
mod defaults;
pub mod seccomp;

pub use defaults::{MASKED_PATHS, READONLY_PATHS, default_devices, default_mounts};
