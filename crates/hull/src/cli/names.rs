//! The same action on several names: print each that succeeded, report each that did not.

use std::future::Future;

use futures_util::StreamExt;

use super::failure::Failure;
use super::session::{print_line, warn_line};

/// Actions that run at once; more would only wait in the engine.
const PARALLEL_MAX: usize = 50;

/// What to do about a name that the engine does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Report it and fail.
    Fails,
    /// Report it: it was to go anyway.
    Passes,
}

/// Acts on every name at the same time; prints and reports in the order given.
///
/// # Errors
/// All failures, one line each.
pub(crate) async fn each<F: Future<Output = Result<(), Failure>>>(
    names: &[String],
    missing: Missing,
    action: impl Fn(String) -> F,
) -> Result<(), Failure> {
    let mut results = futures_util::stream::iter(names)
        .map(|name| {
            let running = action(name.clone());
            async move { (name, running.await) }
        })
        .buffered(PARALLEL_MAX);
    let mut failures = Vec::new();
    while let Some((name, result)) = results.next().await {
        match result {
            Ok(()) => print_line(name)?,
            Err(failure) if failure.not_found && missing == Missing::Passes => {
                warn_line(&failure.message);
            }
            Err(failure) => failures.push(failure),
        }
    }
    Failure::join(failures)
}
