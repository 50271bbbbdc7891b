//! The program that runs beside each container, as part of this one: nothing to install, nothing
//! that could be of another version.

/// The bytes of the program; empty only in a build for another architecture without its linker.
pub(crate) static PROGRAM: &[u8] = include_bytes!(env!("HULL_SHIM_PROGRAM"));
