//! What the host's own `ps` says of a container's processes.
//!
//! Docker's `top` takes every option of it, so nothing else will do. Only processes of the host's kernel are
//! there: those of a machine are not, and a host may have no `ps`; then the caller has a table of its own.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::path::Path;
use std::time::Duration;

use hull_model::SandboxId;
use hull_model::spec::Isolation;
use hull_os::spawn;

use crate::Containers;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;

/// Where the program is.
const PLACES: [&str; 2] = ["/usr/bin/ps", "/bin/ps"];
/// How long it may take.
const PS_WAIT: Duration = Duration::from_secs(10);

/// What it printed, and which of the processes in there are the container's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPs {
    /// Its output: a line of titles, then one for each process, also of others.
    pub text: String,
    /// Processes of the container.
    pub pids: BTreeSet<u32>,
}

impl Containers<'_> {
    /// Asks the host's `ps` for the processes of a container; nothing where that is not possible.
    ///
    /// # Errors
    /// When it does not run, or what `ps` says of its arguments.
    pub async fn host_ps(&self, id: SandboxId, arguments: &[&str]) -> Result<Option<HostPs>> {
        let container = self.inspect(id)?;
        if !container.state.is_live() {
            return Err(EngineError::NotRunning(id));
        }
        let program = PLACES.iter().find(|place| Path::new(place).exists());
        let (Some(program), Isolation::Container) = (program, container.spec.host.isolation) else {
            return Ok(None);
        };
        let words = arguments.iter().map(|word| (*word).to_owned()).collect();
        let core = self.0.clone();
        let asked = self.0.jobs.run(Pool::Files, move || {
            let pids = core.processes(&core.cgroup_path(&container.spec, id))?;
            let text = ask(program, words, &pids)?;
            Ok::<_, EngineError>(HostPs { text, pids })
        });
        let found = asked.await??;
        self.tell(id, "top")?;
        Ok(Some(found))
    }
}

/// Some options cannot be used together with a list of processes: then all of them are asked for.
fn ask(program: &str, mut words: Vec<String>, pids: &BTreeSet<u32>) -> Result<String> {
    let list: Vec<String> = pids.iter().map(u32::to_string).collect();
    words.push(format!("-q{}", list.join(",")));
    let of_these = run(program, &words)?;
    if let Ok(text) = of_these {
        return Ok(text);
    }
    words.pop();
    let failed = |text: String| {
        EngineError::Invalid(format!("ps: {}", text.lines().next().unwrap_or_default()))
    };
    run(program, &words)?.map_err(failed)
}

/// What it printed; as an error when it says that it failed.
fn run(program: &str, words: &[String]) -> Result<std::result::Result<String, String>> {
    let run = || -> io::Result<_> {
        let mut argv = vec!["ps"];
        argv.extend(words.iter().map(String::as_str));
        let argv = spawn::words(&argv)?;
        let argv: Vec<_> = argv.iter().map(CString::as_c_str).collect();
        let env = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin", c"LC_ALL=C"];
        spawn::run(&CString::new(program)?, &argv, &env, PS_WAIT)
    };
    let output = run().map_err(|e| EngineError::io("run ps", e))?;
    let text = String::from_utf8_lossy(&output.text).into_owned();
    Ok(match output.ended.code() {
        0 => Ok(text),
        _ => Err(text),
    })
}
