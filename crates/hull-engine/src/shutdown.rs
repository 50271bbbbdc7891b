//! The orderly end of all containers, with the host.

use std::sync::Arc;
use std::time::Duration;

use hull_model::id::SandboxId;
use hull_model::limits::STOP_TIMEOUT_S;
use hull_model::spec::{ContainerSpec, NamespaceMode, NetworkMode};
use hull_model::state::State;
use tokio::sync::watch;

use crate::api::WaitCondition;
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::object::container::{Handle, Request};

/// How long a container may take at a shutdown beyond its own stop timeout.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// How long the cgroups of containers that just ended may take to go.
const CGROUP_REMOVE_WAIT: Duration = Duration::from_secs(2);

/// Stops all containers, each with its own patience and all at once, as Docker does: a host that goes
/// down does not wait for their sum. Only whom another one relies on ends after that one. Then removes
/// what the host need not keep.
pub(crate) async fn shutdown(core: &Arc<Core>) -> Result<()> {
    let mut live = core.containers.handles();
    live.retain(|(_, handle)| handle.snapshot.borrow().state.is_live());
    let mut stops = tokio::task::JoinSet::new();
    for Stop {
        id,
        handle,
        before,
        ended,
    } in in_order(core, live)
    {
        stops.spawn(async move {
            for mut other in before {
                // An error is what is waited for: the other end is gone.
                while other.changed().await.is_ok() {}
            }
            let stopped = shut_down(id, &handle).await;
            drop(ended);
            (id, stopped)
        });
    }
    let mut first_failure = Ok(());
    while let Some(stopped) = stops.join_next().await {
        // A task that panicked has told it; its container counts below as one that has not ended.
        if let Ok((id, Err(error))) = stopped {
            tracing::error!(container = %id.short(), error = %error.chain(), "shutdown");
            first_failure = first_failure.and(Err(error));
        }
    }
    let all_ended = core.containers.snapshots().iter().all(|container| {
        !matches!(
            container.state,
            State::Starting | State::Running | State::Paused
        )
    });
    if all_ended {
        core.mounts.release_all();
        let job = core.clone();
        let removed = core
            .jobs
            .run(Pool::Kernel, move || remove_cgroup_parent(&job))
            .await;
        first_failure = first_failure.and(removed.and_then(|result| result));
        let job = core.clone();
        let removed = core
            .jobs
            .run(Pool::Kernel, move || job.network.remove())
            .await;
        first_failure = first_failure.and(removed.and_then(|result| result));
    }
    first_failure
}

/// A container that is to be stopped.
struct Stop {
    id: SandboxId,
    handle: Handle,
    /// Containers that rely on it: they end first.
    before: Vec<watch::Receiver<()>>,
    /// Dropped when it has ended.
    ended: watch::Sender<()>,
}

fn in_order(core: &Core, live: Vec<(SandboxId, Handle)>) -> Vec<Stop> {
    let mut stops: Vec<Stop> = live
        .into_iter()
        .map(|(id, handle)| Stop {
            id,
            handle,
            before: Vec::new(),
            ended: watch::Sender::new(()),
        })
        .collect();
    for at in 0..stops.len() {
        let user = stops[at].handle.snapshot.borrow().clone();
        let end = stops[at].ended.subscribe();
        for name in relied_on(&user.spec) {
            let Ok(id) = core.containers.resolve(name.trim_start_matches('/')) else {
                continue;
            };
            // Who is older never waits for who is younger, so that nobody waits for himself.
            let is_older = |stop: &&mut Stop| {
                stop.id == id && stop.handle.snapshot.borrow().created_ns < user.created_ns
            };
            if let Some(other) = stops.iter_mut().find(is_older) {
                other.before.push(end.clone());
            }
        }
    }
    stops
}

/// Names of the containers that this one joins, is linked with or has volumes from.
pub(crate) fn relied_on(spec: &ContainerSpec) -> Vec<&str> {
    let host = &spec.host;
    let named = host.links.iter().chain(&host.volumes_from);
    let mut names: Vec<&str> = named.filter_map(|text| text.split(':').next()).collect();
    if let NetworkMode::Container(name) = &host.network {
        names.push(name);
    }
    for mode in [&host.pid, &host.ipc] {
        if let NamespaceMode::Container(name) = mode {
            names.push(name);
        }
    }
    names
}

/// Asks one container to end, and waits as long as it may take.
async fn shut_down(id: SandboxId, handle: &Handle) -> Result<()> {
    let patience = handle.snapshot.borrow().spec.config.stop_timeout_s;
    let patience = patience.unwrap_or(STOP_TIMEOUT_S).clamp(0, 3600);
    let stop = async {
        handle.ask(|reply| Request::Shutdown { reply }).await?;
        let condition = WaitCondition::NotRunning;
        let end = handle
            .ask(|reply| Request::Wait { condition, reply })
            .await?;
        drop(end.over().await);
        Ok(())
    };
    let limit = Duration::from_secs(patience.unsigned_abs()) + SHUTDOWN_GRACE;
    tokio::time::timeout(limit, stop).await.unwrap_or_else(|_| {
        Err(EngineError::Unavailable(format!(
            "container {} did not end",
            id.short()
        )))
    })
}

/// Removes our parent cgroup, unless something of somebody else's is below it.
fn remove_cgroup_parent(core: &Core) -> Result<()> {
    let parent = core.config.cgroup_parent.as_str();
    let failed = |cause| EngineError::io(format!("remove the cgroup {parent}"), cause);
    let deadline = std::time::Instant::now() + CGROUP_REMOVE_WAIT;
    // Of containers that just ended: their owners take them down beside us.
    while !core.cgroups.list(parent).map_err(failed)?.is_empty() {
        if std::time::Instant::now() >= deadline {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    core.cgroups
        .open_group(parent)
        .remove(deadline)
        .map_err(failed)
}
