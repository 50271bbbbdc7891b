//! Creating a container: merge with the image, check, name, write down.
//!
//! One commit and no other effect: directories are made at the first start, so that a crash
//! leaves either nothing or a whole container.

use std::collections::BTreeMap;
use std::sync::Arc;

use hull_model::limits::{CONTAINER_NETWORKS_MAX, CONTAINERS_MAX};
use hull_model::spec::{
    ContainerConfig, ContainerSpec, EndpointSpec, Healthcheck, HostConfig, Isolation, MountForm,
    MountKind, MountSpec, NamespaceMode, NetworkMode, RestartPolicy, VolumeSpec,
};
use hull_model::{SandboxId, signal};

use crate::api::{CreateRequest, Created};
use crate::clock::{new_id, now_ns, random_bytes};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::object::connect::check_endpoint;
use crate::object::container::{ContainerRecord, Owner, RECORD_VERSION, StateRecord, to_json};
use crate::object::{health, image, image_mount, volume};
use crate::store::{Change, Key};
use crate::{limits, log_driver, name, network, port, translate};

/// Draws of a name before we give up.
const NAME_DRAWS_MAX: u32 = 20;

/// Creates a container and starts its owner.
pub(crate) async fn create(core: &Arc<Core>, request: CreateRequest) -> Result<Created> {
    if core.containers.count() >= CONTAINERS_MAX {
        return Err(EngineError::Unavailable(format!(
            "there are {CONTAINERS_MAX} containers already; remove some"
        )));
    }
    // No layer goes away between here and the record that names it.
    let _sweep = core.images.sweep.clone().read_owned().await;
    let image = core.images.resolve(&request.image)?;
    let wanted = request.platform.as_deref();
    let foreign = image::check_platform(wanted, &image.platform, &request.image)?;
    let mut config = request.config;
    merge_image(&mut config, &image.defaults);
    let mut host = request.host;
    core.config.defaults.apply(&mut host);
    if host.resources.memory > 0 && host.resources.memory_swap == 0 {
        // Docker's default: as much swap again.
        host.resources.memory_swap = host.resources.memory.saturating_mul(2);
    }
    volumes_from(core, &mut host)?;
    anonymous_volumes(&config, &mut host);
    image_mount::resolve(core, &mut host)?;
    let mut warnings = check(&config, &host)?;
    crate::users::check(&core.config.users, &host)?;
    warnings.extend(foreign);
    let id = new_id().map_err(|e| EngineError::io("draw an id", e))?;
    let name = take_name(core, request.name.as_deref(), id)?;
    let checked = endpoints(core, &host, request.endpoints);
    let endpoints = match checked {
        Ok(endpoints) => endpoints,
        Err(error) => {
            core.containers.free_name(&name, id);
            return Err(error);
        }
    };
    let spec = ContainerSpec {
        name: name.clone(),
        image_reference: request.image,
        image: image.id,
        config,
        host,
        endpoints,
    };
    let written = match dry_run(core, &spec, id) {
        Ok(found) => {
            warnings.extend(found);
            let record = ContainerRecord {
                v: RECORD_VERSION,
                spec,
                created_ns: now_ns(),
                layers: image.layers,
                warnings,
            };
            write(core, id, record).await
        }
        Err(error) => Err(error),
    };
    let (record, life, _volumes) = match written {
        Ok(written) => written,
        Err(error) => {
            core.containers.free_name(&name, id);
            return Err(error);
        }
    };
    let warnings = record.warnings.clone();
    let (owner, handle) = Owner::new(core.clone(), id, record, life);
    owner.event("create", []);
    core.containers.insert(id, &name, handle);
    tokio::spawn(owner.run());
    image::used(core, &image.id);
    Ok(Created { id, warnings })
}

/// Makes the volumes that are not there, then writes them and the container down in one go. The
/// volumes are held until others see the container.
async fn write(
    core: &Arc<Core>,
    id: SandboxId,
    mut record: ContainerRecord,
) -> Result<(ContainerRecord, StateRecord, volume::Prepared)> {
    let mut volumes = volume::prepare(core, &mut record.spec.host, &record.layers).await?;
    let life = StateRecord::created(&core.boot_id);
    let mut writes = volumes.writes();
    writes.push(Change::put(
        Key::Container(*id.as_bytes()),
        to_json(&record),
    ));
    writes.push(Change::put(Key::State(*id.as_bytes()), to_json(&life)));
    match core.store.commit(writes).await {
        Ok(()) => {
            volumes.committed();
            Ok((record, life, volumes))
        }
        Err(error) => {
            volumes.abandon().await;
            Err(error)
        }
    }
}

fn take_name(core: &Core, wanted: Option<&str>, id: SandboxId) -> Result<String> {
    if let Some(wanted) = wanted.map(|name| name.strip_prefix('/').unwrap_or(name))
        && !wanted.is_empty()
    {
        core.containers.take_name(wanted, id)?;
        return Ok(wanted.to_owned());
    }
    let bytes = random_bytes().map_err(|e| EngineError::io("draw a name", e))?;
    let mut random = u64::from_le_bytes([
        bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
    ]);
    for attempt in 0..NAME_DRAWS_MAX {
        let drawn = name::draw(random, attempt);
        if core.containers.take_name(&drawn, id).is_ok() {
            return Ok(drawn);
        }
        random = random.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    Err(EngineError::Unavailable(
        "no free name was found; give one with --name".to_owned(),
    ))
}

/// What is asked for on each network, by the networks' own names. One that is not there is refused
/// by the start, as in Docker.
fn endpoints(
    core: &Core,
    host: &HostConfig,
    asked: BTreeMap<String, EndpointSpec>,
) -> Result<BTreeMap<String, EndpointSpec>> {
    if !network::has_networks(&host.network) {
        return Ok(BTreeMap::new());
    }
    let mut endpoints = BTreeMap::new();
    for (text, asked) in asked {
        if let Ok(network) = core.network.find(&text) {
            check_endpoint(&network, &asked)?;
        }
        endpoints.insert(core.network.name_of(&text), asked);
    }
    for link in &host.links {
        let (name, _) = network::parse_link(link);
        core.containers.resolve(name).map_err(|_| {
            EngineError::Invalid(format!(
                "could not get container for {name}: No such container: {name}"
            ))
        })?;
    }
    let main = core.network.name_of(network::main_network(&host.network));
    endpoints.entry(main).or_default();
    if endpoints.len() > CONTAINER_NETWORKS_MAX {
        return Err(EngineError::Invalid(format!(
            "a container can be on {CONTAINER_NETWORKS_MAX} networks at most"
        )));
    }
    Ok(endpoints)
}

/// Fills in what the image says where the request does not, by Docker's rules.
pub(crate) fn merge_image(config: &mut ContainerConfig, image: &ContainerConfig) {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    if config.entrypoint.is_none() {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
        }
        config.entrypoint.clone_from(&image.entrypoint);
    } else if config.entrypoint.as_deref() == Some(&[String::new()]) {
        // `--entrypoint ""` takes the image's away.
        config.entrypoint = None;
    }
    // What was asked for comes first, as Docker lists it.
    for variable in &image.env {
        let name = variable.split('=').next();
        if !config
            .env
            .iter()
            .any(|asked| asked.split('=').next() == name)
        {
            config.env.push(variable.clone());
        }
    }
    for (key, value) in &image.labels {
        config
            .labels
            .entry(key.clone())
            .or_insert_with(|| value.clone());
    }
    config
        .exposed_ports
        .extend(image.exposed_ports.iter().cloned());
    config.volumes.extend(image.volumes.iter().cloned());
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    if config.stop_signal.is_empty() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    config.shell = config.shell.take().or_else(|| image.shell.clone());
    config.on_build.clear();
    merge_healthcheck(config, image);
}

fn merge_healthcheck(config: &mut ContainerConfig, image: &ContainerConfig) {
    let Some(from) = &image.healthcheck else {
        return;
    };
    let Some(own) = &mut config.healthcheck else {
        config.healthcheck = Some(from.clone());
        return;
    };
    let Healthcheck {
        test,
        interval_ns,
        timeout_ns,
        start_period_ns,
        start_interval_ns,
        retries,
    } = own;
    if test.is_empty() {
        test.clone_from(&from.test);
    }
    for (value, inherited) in [
        (interval_ns, from.interval_ns),
        (timeout_ns, from.timeout_ns),
        (start_period_ns, from.start_period_ns),
        (start_interval_ns, from.start_interval_ns),
        (retries, from.retries),
    ] {
        if *value == 0 {
            *value = inherited;
        }
    }
}

/// Takes over what other containers have mounted, except where something else is asked for.
fn volumes_from(core: &Core, host: &mut HostConfig) -> Result<()> {
    // The last one that is named wins a place, as in Docker.
    for from in host.volumes_from.clone().iter().rev() {
        let (name, mode) = from.split_once(':').unwrap_or((from, "rw"));
        if name.is_empty() {
            return Err(EngineError::Invalid(format!(
                "malformed volumes-from specification: {from}"
            )));
        }
        let known = ["ro", "rw", "z", "Z"];
        if !mode.split(',').all(|word| known.contains(&word)) {
            return Err(EngineError::Invalid(format!("invalid mode: {mode}")));
        }
        // Not "not found": clients would take the image for missing, and pull it.
        let id = core
            .containers
            .resolve(name)
            .map_err(|_| EngineError::Invalid(format!("No such container: {name}")))?;
        let source = core.containers.handle(id)?.snapshot.borrow().spec.clone();
        for mount in &source.host.mounts {
            let taken = host
                .mounts
                .iter()
                .any(|known| known.destination == mount.destination);
            if taken || matches!(mount.kind, MountKind::Tmpfs { .. }) {
                continue;
            }
            host.mounts.push(MountSpec {
                readonly: mount.readonly || mode.split(',').any(|word| word == "ro"),
                form: MountForm::VolumesFrom,
                mode: String::new(),
                ..mount.clone()
            });
        }
    }
    Ok(())
}

/// Each path in `volumes` that nothing else is mounted on gets an anonymous volume.
fn anonymous_volumes(config: &ContainerConfig, host: &mut HostConfig) {
    for path in &config.volumes {
        let destination = path.trim_end_matches('/');
        if host
            .mounts
            .iter()
            .any(|known| known.destination == destination)
        {
            continue;
        }
        host.mounts.push(MountSpec {
            kind: MountKind::Volume {
                name: String::new(),
                anonymous: false,
                no_copy: false,
                subpath: String::new(),
                request: VolumeSpec::default(),
            },
            destination: destination.to_owned(),
            readonly: false,
            form: MountForm::Anonymous,
            mode: String::new(),
        });
    }
}

/// Refuses what cannot be or is not there, in words that say what to do.
fn check(config: &ContainerConfig, host: &HostConfig) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if config.args().is_empty() {
        return Err(EngineError::Invalid("no command specified".to_owned()));
    }
    if !config.stop_signal.is_empty() && signal::parse(&config.stop_signal).is_none() {
        return Err(EngineError::Invalid(format!(
            "Invalid signal: {}",
            config.stop_signal
        )));
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(EngineError::Invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    if host.auto_remove && host.restart != RestartPolicy::No {
        return Err(EngineError::Invalid(
            "can't create 'AutoRemove' container with restart policy".to_owned(),
        ));
    }
    check_shared_network(config, host)?;
    if host.network == NetworkMode::Host
        && (host.publish_all_ports || !host.port_bindings.is_empty())
    {
        let words = "Published ports are discarded when using host network mode";
        warnings.push(words.to_owned());
    }
    crate::machine::check(host)?;
    check_mounts(host)?;
    check_storage_options(host)?;
    if host
        .oom_score_adj
        .is_some_and(|adj| !(-1000..=1000).contains(&adj))
    {
        return Err(EngineError::Invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj.unwrap_or_default()
        )));
    }
    let own_names = host.network == NetworkMode::Host || host.uts == NamespaceMode::Host;
    if host.uts == NamespaceMode::Host && !config.hostname.is_empty() && own_names {
        return Err(EngineError::Invalid(
            "conflicting options: hostname and the UTS mode".to_owned(),
        ));
    }
    log_driver::check(&host.log)?;
    if let Some(complaint) = config
        .healthcheck
        .as_ref()
        .and_then(|check| check.complaint())
    {
        return Err(EngineError::Invalid(complaint));
    }
    Ok(warnings)
}

/// What a container that shares another's network cannot have of its own.
fn check_shared_network(config: &ContainerConfig, host: &HostConfig) -> Result<()> {
    if !matches!(host.network, NetworkMode::Container(_)) {
        return Ok(());
    }
    let dns = [&host.dns, &host.dns_search, &host.dns_options];
    let published = !host.port_bindings.is_empty() || host.publish_all_ports;
    let conflicts = [
        (!config.hostname.is_empty(), "hostname and the network mode"),
        (
            !host.links.is_empty(),
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (
            dns.iter().any(|list| !list.is_empty()),
            "dns and the network mode",
        ),
        (
            !host.extra_hosts.is_empty(),
            "custom host-to-IP mapping and the network mode",
        ),
        (
            published,
            "port publishing and the container type network mode",
        ),
    ];
    match conflicts.iter().find(|(conflict, _)| *conflict) {
        Some((_, what)) => Err(EngineError::Invalid(format!("conflicting options: {what}"))),
        None => Ok(()),
    }
}

/// Refuses what would be silently left out: the root of a container has no size of its own.
fn check_storage_options(host: &HostConfig) -> Result<()> {
    let of_machine = |key: &String| host.isolation == Isolation::Vm && key == "size";
    match host.storage_opt.keys().find(|key| !of_machine(key)) {
        None => Ok(()),
        Some(key) if key == "size" => Err(EngineError::Invalid(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option, and with \
             --isolation vm"
                .to_owned(),
        )),
        Some(key) => Err(EngineError::Invalid(format!("Unknown option {key}"))),
    }
}

fn check_mounts(host: &HostConfig) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for mount in &host.mounts {
        let destination = mount.destination.as_str();
        if !destination.starts_with('/') {
            return Err(EngineError::Invalid(format!(
                "invalid mount path: '{destination}' mount path must be absolute"
            )));
        }
        if destination.trim_end_matches('/').is_empty() {
            return Err(EngineError::Invalid(
                "invalid specification: destination can't be '/'".to_owned(),
            ));
        }
        if !seen.insert(destination) {
            return Err(EngineError::Invalid(format!(
                "Duplicate mount point: {destination}"
            )));
        }
        match &mount.kind {
            MountKind::Bind {
                source,
                create_source: false,
                ..
            } if !std::path::Path::new(source).exists() => {
                return Err(EngineError::Invalid(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {source}"
                )));
            }
            MountKind::Volume { .. }
            | MountKind::Bind { .. }
            | MountKind::Image { .. }
            | MountKind::Tmpfs { .. } => {}
        }
    }
    Ok(())
}

/// Translates once, so that what cannot be is said at create and not at start.
fn dry_run(core: &Core, spec: &ContainerSpec, id: SandboxId) -> Result<Vec<String>> {
    let hostname = translate::hostname(spec, id);
    health::on_failure(spec)?;
    network::egress_policy(spec)?;
    translate::process(spec, &hostname)?;
    translate::devices(spec)?;
    port::asked(spec)?;
    let (_, mut warnings) = translate::capabilities(spec)?;
    warnings.extend(limits::of(&core.support, spec)?.1);
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(items: &[&str]) -> Option<Vec<String>> {
        Some(items.iter().map(|item| (*item).to_owned()).collect())
    }

    fn merged(
        entrypoint: Option<Vec<String>>,
        cmd: Option<Vec<String>>,
        image: (Option<Vec<String>>, Option<Vec<String>>),
    ) -> Vec<String> {
        let mut config = ContainerConfig {
            entrypoint,
            cmd,
            ..ContainerConfig::default()
        };
        let (entrypoint, cmd) = image;
        merge_image(
            &mut config,
            &ContainerConfig {
                entrypoint,
                cmd,
                ..ContainerConfig::default()
            },
        );
        config.args()
    }

    #[test]
    fn entrypoint_and_command_merge_as_in_docker() {
        let image = || (list(&["e"]), list(&["c"]));
        assert_eq!(merged(None, None, image()), ["e", "c"]);
        assert_eq!(merged(None, list(&["x"]), image()), ["e", "x"]);
        assert_eq!(merged(list(&["y"]), None, image()), ["y"]);
        assert_eq!(merged(list(&["y"]), list(&["x"]), image()), ["y", "x"]);
        assert_eq!(merged(list(&[""]), list(&["x"]), image()), ["x"]);
    }
}
