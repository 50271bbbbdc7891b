//! `system verify`: blobs, records and kernel objects against each other. Changes nothing.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hull_model::state::State;

use crate::core::Core;
use crate::error::Result;
use crate::jobs::Pool;
use crate::object::volume;

/// Longest that the kernel is given to take down links and groups of containers that just ended,
/// and the pause between two looks.
const SETTLE: Duration = Duration::from_secs(5);
const SETTLE_PAUSE: Duration = Duration::from_millis(100);

/// A sentence for each difference. What is only on its way passes by itself and is none.
pub(crate) async fn verify(core: &Arc<Core>) -> Result<Vec<String>> {
    let mut problems = look(core).await?;
    let until = Instant::now() + SETTLE;
    while !problems.is_empty() && Instant::now() < until {
        tokio::time::sleep(SETTLE_PAUSE).await;
        let again = look(core).await?;
        problems.retain(|problem| again.contains(problem));
    }
    let job = core.clone();
    let found = core.jobs.run(Pool::Disk, move || bytes(&job)).await?;
    problems.extend(found);
    Ok(problems)
}

async fn look(core: &Arc<Core>) -> Result<Vec<String>> {
    let job = core.clone();
    core.jobs.run(Pool::Disk, move || objects(&job)).await
}

/// Containers against sandboxes, cgroups and files.
fn objects(core: &Core) -> Vec<String> {
    let mut problems = Vec::new();
    let containers = core.containers.snapshots();
    for container in &containers {
        let running = matches!(container.state, State::Running | State::Paused);
        let gone = || {
            // Its end may be on the way: then it is no longer recorded as running.
            let now = core
                .containers
                .handle(container.id)
                .map(|h| h.snapshot.borrow().pid);
            hull_os::process::start_time(container.pid).is_err()
                && now.is_ok_and(|pid| pid == container.pid)
        };
        if running && gone() {
            problems.push(format!(
                "container {} is recorded as {}, its process {} is not there",
                container.spec.name,
                container.state.docker_word(),
                container.pid
            ));
        }
        for layer in &container.layers {
            if !core.storage.layer_path(layer).exists() {
                problems.push(format!(
                    "container {} needs layer {layer}, which is not there; load its image again",
                    container.spec.name
                ));
            }
        }
    }
    problems.extend(core.network.differences(&containers));
    leftovers(core, &mut problems);
    problems
}

/// What has no container. Containers come and go meanwhile, so those count that were there before
/// the look as well as those after it.
fn leftovers(core: &Core, problems: &mut Vec<String>) {
    let mut known: HashSet<String> = ids(core);
    let sandboxes = core.driver.list().unwrap_or_default();
    let groups = core
        .cgroups
        .list(&core.config.cgroup_parent)
        .unwrap_or_default();
    let directory = core.config.data_root.join("containers");
    let files: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    known.extend(ids(core));
    let unknown = |name: &&String| !known.iter().any(|short| name.starts_with(short.as_str()));
    for short in sandboxes.iter().filter(unknown) {
        problems.push(format!(
            "sandbox {short} has a run directory and no container"
        ));
    }
    for name in files.iter().filter(unknown) {
        problems.push(format!("files of container {name} have no record"));
    }
    for name in groups.iter().filter(unknown) {
        problems.push(format!("cgroup {name} has no container"));
    }
}

/// Short ids of all containers, also of those that are leaving.
fn ids(core: &Core) -> HashSet<String> {
    let there = core
        .containers
        .snapshots()
        .into_iter()
        .map(|container| container.id);
    there
        .chain(core.containers.leaving())
        .map(|id| id.short())
        .collect()
}

/// Blobs and layers against their digests and the images that name them.
fn bytes(core: &Core) -> Vec<String> {
    let mut problems: Vec<String> = match core.storage.verify() {
        Ok(problems) => problems.iter().map(ToString::to_string).collect(),
        Err(error) => vec![format!("the layer store cannot be read: {error}")],
    };
    problems.extend(volume::differences(core));
    let (named, complete) = core.images.named();
    if !complete {
        problems.push("an image cannot be read; the log says which and why".to_owned());
    }
    for layer in &named.layers {
        if !core.storage.layer_path(layer).exists() {
            problems.push(format!(
                "layer {layer} of an image is not there; load the image again"
            ));
        }
    }
    for blob in &named.blobs {
        if !core.storage.has_blob(blob).unwrap_or(false) {
            problems.push(format!(
                "blob {blob} of an image is not there; load the image again"
            ));
        }
    }
    problems
}
