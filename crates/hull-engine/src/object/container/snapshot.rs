//! What is shown of a container.

use std::sync::Arc;

use hull_model::SandboxId;
use hull_model::spec::ContainerSpec;

use super::record::{ContainerRecord, StateRecord};
use crate::api::Container;
use crate::core::Core;

/// What a snapshot is made of.
pub(super) struct Shown<'a> {
    pub(super) core: &'a Core,
    pub(super) id: SandboxId,
    pub(super) record: &'a ContainerRecord,
    pub(super) spec: &'a Arc<ContainerSpec>,
    pub(super) life: &'a StateRecord,
    pub(super) pid: u32,
    pub(super) execs: Vec<String>,
}

pub(super) fn view(shown: Shown<'_>) -> Container {
    let Shown {
        core,
        id,
        record,
        spec,
        life,
        pid,
        execs,
    } = shown;
    let files_dir = core.container_dir(id);
    let log_path = crate::log_driver::public_file(&spec.host.log, &files_dir, id);
    Container {
        id,
        spec: spec.clone(),
        state: life.state,
        created_ns: record.created_ns,
        started_ns: life.started_ns,
        finished_ns: life.finished_ns,
        pid,
        error: life.error.clone(),
        error_code: life.error_code,
        failed_to_run: life.failed_to_run,
        restart_count: life.restart_count,
        out_of_memory: life.out_of_memory,
        endpoints: life.endpoints.clone(),
        health: life.health.clone(),
        ports: life.ports.clone(),
        mounts: crate::translate::mount_points(spec, &core.volumes),
        log_path,
        upper_dir: files_dir.join("upper"),
        files_dir,
        execs,
        layers: record.layers.clone(),
        warnings: record.warnings.clone(),
        machine: crate::machine::facts_of(core, id, spec),
    }
}
