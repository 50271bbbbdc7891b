//! File servers of a machine: each a child in a mount namespace of its own, in the machine's cgroup.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use hull_os::mount::{self, Attributes, Change};
use hull_os::namespace::Kinds;
use hull_os::process::{self, CStrings, ClonePlan, Cloned, SingleThreaded};
use hull_plan::{Plan, Process, ProcessStep, Step};

use crate::cgroup::Cgroup;
use crate::take;

/// The descriptor that a server listens on.
const LISTENER: i32 = 3;
/// Exit code of a server that could not be started.
const EXIT_FAILED: i32 = 127;

/// Starts the file servers of the plan. They end with their machine, which closes their sockets, and with us.
pub(crate) fn start_all(plan: &Plan<'_>, cgroup: &Cgroup) -> io::Result<()> {
    for step in plan.steps() {
        let Step::Share {
            listener,
            readonly,
            source,
            command,
        } = step
        else {
            continue;
        };
        let listener = take(listener)?;
        let command = Process::parse(command)?;
        let proof = SingleThreaded::prove()?;
        let into = cgroup.clone_into()?;
        let clone = ClonePlan {
            namespaces: Kinds::MOUNT,
            cgroup: into.as_ref().map(AsFd::as_fd),
            ..ClonePlan::default()
        };
        match process::clone(&proof, &clone)? {
            Cloned::Child => {
                // Its machine says that its file server is not there.
                let _ = become_server(&command, &listener, source, readonly);
                process::exit_now(EXIT_FAILED)
            }
            Cloned::Parent { pid, .. } => cgroup.attach(pid)?,
        }
    }
    Ok(())
}

fn become_server(
    command: &Process<'_>,
    listener: &OwnedFd,
    source: &CStr,
    readonly: bool,
) -> io::Error {
    let prepare = || -> io::Result<()> {
        process::set_parent_death_signal(libc::SIGKILL)?;
        mount::set_tree_propagation(mount::Propagation::Slave)?;
        if readonly {
            cover_readonly(source)?;
        }
        process::duplicate_to(listener.as_fd(), LISTENER)?;
        process::close_all_except(&mut [LISTENER]);
        process::reset_signals();
        Ok(())
    };
    if let Err(error) = prepare() {
        return error;
    }
    let args: Vec<&CStr> = command
        .steps()
        .filter_map(|step| match step {
            ProcessStep::Arg(text) => Some(text),
            _ => None,
        })
        .collect();
    let program = args.first().copied().unwrap_or_default();
    let args: CStrings<'_> = args.iter().copied().collect();
    let env: CStrings<'_> = [c"PATH=/usr/sbin:/usr/bin"].into_iter().collect();
    process::execute(program, &args, &env)
}

/// Lays a read-only copy of the tree over itself, in this mount namespace.
fn cover_readonly(source: &CStr) -> io::Result<()> {
    let tree = mount::clone_tree(mount::cwd(), source, true)?;
    let change = Change {
        set: Attributes::READONLY,
        recursive: true,
        ..Change::default()
    };
    mount::set_attributes(tree.as_fd(), &change)?;
    mount::attach_at(tree.as_fd(), source)
}
