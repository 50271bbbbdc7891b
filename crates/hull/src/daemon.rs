//! The daemon's start-up.

use std::process::ExitCode;

use crate::cli::DaemonOptions;

/// Runs the daemon until it is asked to end.
pub(crate) fn run(options: DaemonOptions) -> ExitCode {
    for warning in options.warnings() {
        eprintln!("hull: {warning}");
    }
    eprintln!("hull: the daemon is not there yet");
    ExitCode::FAILURE
}
