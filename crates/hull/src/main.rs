//! The `hull` program: daemon and command line.
//!
//! `hull daemon` is the engine, every other command is a client of the Docker Engine API: of
//! ours, or of any other that speaks it.

#![forbid(unsafe_code)]

mod cli;
mod client;
mod config_file;
mod copy;
mod daemon;
mod defaults;
mod remap;
mod shim;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
