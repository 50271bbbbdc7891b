//! Points at which a test ends this process as `kill -9` would, to see what the next one makes of it.
//!
//! ```text
//! HULL_CRASH_TRACE=FILE     writes down each point that is passed: `WHAT PLACE#COUNT`
//! HULL_CRASH_AT=POINT       ends the process there; `#COUNT` alone: at the so manieth point of all
//! ```
//!
//! A point is named by what is about to be done, or is done, and by the place in the source that asked
//! for it, so one behind a door that all effects pass (a commit, a job) is many points, and new code
//! gets its own without a word. Nothing of this is in release builds.

#[cfg(debug_assertions)]
use std::collections::HashMap;
#[cfg(debug_assertions)]
use std::io::Write as _;
use std::panic::Location;
#[cfg(debug_assertions)]
use std::sync::{Mutex, OnceLock, PoisonError};

/// A point of the place that is given, for doors that are asked by others.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point_of(_what: &'static str, _place: &Location<'static>) {}

/// A point of the place that is given, for doors that are asked by others.
#[cfg(debug_assertions)]
pub fn point_of(what: &'static str, place: &Location<'static>) {
    static WANTED: OnceLock<Option<Wanted>> = OnceLock::new();
    let wanted = WANTED.get_or_init(Wanted::of_environment);
    if let Some(wanted) = wanted {
        wanted.pass(&format!("{what} {}:{}", place.file(), place.line()));
    }
}

/// A point at the place of the call.
#[track_caller]
#[inline(always)]
pub fn point(what: &'static str) {
    point_of(what, Location::caller());
}

#[cfg(debug_assertions)]
struct Wanted {
    at: Option<String>,
    trace: Option<std::fs::File>,
    passed: Mutex<(HashMap<String, u32>, u32)>,
}

#[cfg(debug_assertions)]
impl Wanted {
    fn of_environment() -> Option<Wanted> {
        let at = std::env::var("HULL_CRASH_AT").ok();
        let path = std::env::var_os("HULL_CRASH_TRACE");
        if at.is_none() && path.is_none() {
            return None;
        }
        let trace = path.and_then(|path| {
            let mut options = std::fs::OpenOptions::new();
            options.append(true).create(true).open(path).ok()
        });
        let passed = Mutex::default();
        Some(Wanted { at, trace, passed })
    }

    fn pass(&self, name: &str) {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed.1 += 1;
        let all = format!("#{}", passed.1);
        let count = passed.0.entry(name.to_owned()).or_default();
        *count += 1;
        let point = format!("{name}#{count}");
        if let Some(mut trace) = self.trace.as_ref() {
            // Whoever reads the trace misses what could not be written.
            let _ = writeln!(trace, "{point}");
        }
        if self
            .at
            .as_ref()
            .is_some_and(|at| *at == point || *at == all)
        {
            // SAFETY: integers only.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
            // Other threads may go on until the signal is there; this one does nothing more.
            loop {
                std::thread::park();
            }
        }
    }
}
