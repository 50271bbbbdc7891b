//! `system verify`: blobs, records and kernel objects against each other. Changes nothing.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use hull_model::state::State;

use crate::core::Core;
use crate::error::Result;
use crate::jobs::Pool;

/// A sentence for each difference.
pub(crate) async fn verify(core: &Arc<Core>) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    objects(core, &mut problems);
    let job = core.clone();
    let found = core.jobs.run(Pool::Disk, move || bytes(&job)).await?;
    problems.extend(found);
    Ok(problems)
}

/// Containers against sandboxes, cgroups and files.
fn objects(core: &Core, problems: &mut Vec<String>) {
    let containers = core.containers.snapshots();
    let known: HashSet<String> = containers
        .iter()
        .map(|container| container.id.short())
        .collect();
    for container in &containers {
        let running = matches!(container.state, State::Running | State::Paused);
        if running && hull_os::process::start_time(container.pid).is_err() {
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
    for short in core.driver.list().unwrap_or_default() {
        if !known.contains(&short) {
            problems.push(format!(
                "sandbox {short} has a run directory and no container"
            ));
        }
    }
    let directory = core.config.data_root.join("containers");
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !known.iter().any(|short| name.starts_with(short)) {
            problems.push(format!("files of container {name} have no record"));
        }
    }
    problems.extend(core.network.differences(&containers));
    for leftover in core
        .cgroups
        .list(&core.config.cgroup_parent)
        .unwrap_or_default()
    {
        if !known.iter().any(|short| leftover.starts_with(short)) {
            problems.push(format!("cgroup {leftover} has no container"));
        }
    }
}

/// Blobs and layers against their digests and the images that name them.
fn bytes(core: &Core) -> Vec<String> {
    let mut problems = match core.storage.verify() {
        Ok(problems) => problems.iter().map(ToString::to_string).collect(),
        Err(error) => vec![format!("the layer store cannot be read: {error}")],
    };
    let (blobs, layers) = core.images.named();
    for layer in &layers {
        if !core.storage.layer_path(layer).exists() {
            problems.push(format!(
                "layer {layer} of an image is not there; load the image again"
            ));
        }
    }
    for blob in &blobs {
        if !core.storage.has_blob(blob).unwrap_or(false) {
            problems.push(format!(
                "blob {blob} of an image is not there; load the image again"
            ));
        }
    }
    problems
}
