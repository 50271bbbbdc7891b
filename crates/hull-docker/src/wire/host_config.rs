//! `HostConfig`: how a container is held.
//!
//! Reading checks only what can be said without knowing anything but the request: the shape of
//! each value. Whether something can be done is the engine's to say.

use std::collections::BTreeMap;

use hull_model::limits::SHM_BYTES;
use hull_model::port::PublishedPort;
use hull_model::spec::{
    BlkioDevice, BlkioLimit, DeviceSpec, HostConfig as HostSpec, Isolation, LogConfig, MountForm,
    MountKind, MountSpec, NamespaceMode, NetworkMode, PortBinding, Resources, RestartPolicy,
    SeccompChoice, Ulimit,
};
use serde::{Deserialize, Serialize};

use crate::errors::ApiError;
use crate::request::ApiMinor;
use crate::wire::mount::{Mount, parse_bind, parse_tmpfs, show_bind, show_tmpfs_map};
use hull_engine::api::UpdateRequest;
use hull_engine::{MASKED_PATHS, READONLY_PATHS};

use crate::wire::{OrZero, TextMap, Words, from_text_map, is_zero, null_if_empty, to_text_map};

/// The driver of logs where nobody asked for one.
const LOG_DRIVER: &str = "json-file";
/// Names of a runtime that mean ours: none, our own, and those that Docker's clients send for its default.
const RUNTIMES: [&str; 5] = ["", RUNTIME, RUNTIME_VM, "runc", "io.containerd.runc.v2"];
/// First versions in which a container's IPC and cgroup namespaces are its own by default.
const MINOR_IPC_PRIVATE: ApiMinor = 40;
const MINOR_CGROUPNS_PRIVATE: ApiMinor = 41;
/// First version with annotations.
const MINOR_ANNOTATIONS: ApiMinor = 43;
/// The isolation where nobody asks for one.
const DEFAULT_ISOLATION: &str = "default";
/// What `inspect` calls the runtime where nobody asked for one.
const RUNTIME: &str = "hull";
/// The runtime that means isolation `vm`, for clients that have no word for that.
const RUNTIME_VM: &str = "vm";
/// The host configuration as clients send it and as `inspect` shows it, in Docker's order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct HostConfig {
    binds: Option<Vec<String>>,
    #[serde(rename = "ContainerIDFile")]
    container_id_file: OrZero<String>,
    log_config: OrZero<WireLogConfig>,
    network_mode: OrZero<String>,
    port_bindings: OrZero<PortMap>,
    restart_policy: OrZero<WireRestartPolicy>,
    auto_remove: OrZero<bool>,
    volume_driver: OrZero<String>,
    volumes_from: Option<Vec<String>>,
    console_size: OrZero<[u16; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<TextMap>,
    cap_add: Words,
    cap_drop: Words,
    cgroupns_mode: OrZero<String>,
    dns: Option<Vec<String>>,
    dns_options: OrZero<Vec<String>>,
    dns_search: OrZero<Vec<String>>,
    extra_hosts: Option<Vec<String>>,
    group_add: Option<Vec<String>>,
    ipc_mode: OrZero<String>,
    cgroup: OrZero<String>,
    links: Option<Vec<String>>,
    oom_score_adj: OrZero<i32>,
    pid_mode: OrZero<String>,
    privileged: OrZero<bool>,
    publish_all_ports: OrZero<bool>,
    readonly_rootfs: OrZero<bool>,
    security_opt: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_opt: Option<TextMap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmpfs: Option<TextMap>,
    #[serde(rename = "UTSMode")]
    uts_mode: OrZero<String>,
    userns_mode: OrZero<String>,
    shm_size: OrZero<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sysctls: Option<TextMap>,
    #[serde(skip_serializing_if = "is_zero")]
    runtime: OrZero<String>,
    isolation: OrZero<String>,
    #[serde(flatten)]
    resources: WireResources,
    #[serde(skip_serializing_if = "Option::is_none")]
    mounts: Option<Vec<Mount>>,
    masked_paths: Option<Vec<String>>,
    readonly_paths: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    init: Option<bool>,
}

/// The body of `update`: what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct UpdateBody {
    restart_policy: OrZero<WireRestartPolicy>,
    #[serde(flatten)]
    resources: WireResources,
}

impl UpdateBody {
    pub(crate) fn into_request(self) -> Result<UpdateRequest, ApiError> {
        let policy = &self.restart_policy.0;
        let restart = match policy.name.0.as_str() {
            "" => None,
            _ => Some(restart_policy(policy, false)?),
        };
        let mut resources = resources(&self.resources)?;
        // Here 0 means something other than not given.
        let pids = self.resources.pids_limit;
        resources.pids_limit = pids.map(|limit| if limit > 0 { limit } else { -1 });
        Ok(UpdateRequest { resources, restart })
    }
}

/// Docker's `Resources`, which lie flat in `HostConfig` and in the body of `update`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WireResources {
    cpu_shares: OrZero<i64>,
    memory: OrZero<i64>,
    nano_cpus: OrZero<i64>,
    cgroup_parent: OrZero<String>,
    blkio_weight: OrZero<u16>,
    blkio_weight_device: OrZero<Vec<WeightDevice>>,
    blkio_device_read_bps: OrZero<Vec<ThrottleDevice>>,
    blkio_device_write_bps: OrZero<Vec<ThrottleDevice>>,
    #[serde(rename = "BlkioDeviceReadIOps")]
    blkio_device_read_iops: OrZero<Vec<ThrottleDevice>>,
    #[serde(rename = "BlkioDeviceWriteIOps")]
    blkio_device_write_iops: OrZero<Vec<ThrottleDevice>>,
    cpu_period: OrZero<i64>,
    cpu_quota: OrZero<i64>,
    cpu_realtime_period: OrZero<i64>,
    cpu_realtime_runtime: OrZero<i64>,
    cpuset_cpus: OrZero<String>,
    cpuset_mems: OrZero<String>,
    devices: OrZero<Vec<Device>>,
    device_cgroup_rules: Option<Vec<String>>,
    device_requests: Option<Vec<DeviceRequest>>,
    memory_reservation: OrZero<i64>,
    memory_swap: OrZero<i64>,
    memory_swappiness: Option<i64>,
    oom_kill_disable: Option<bool>,
    pids_limit: Option<i64>,
    ulimits: OrZero<Vec<WireUlimit>>,
    // Of another operating system; shown as zeros, as Docker does.
    cpu_count: OrZero<i64>,
    cpu_percent: OrZero<i64>,
    #[serde(rename = "IOMaximumIOps")]
    io_maximum_iops: OrZero<u64>,
    #[serde(rename = "IOMaximumBandwidth")]
    io_maximum_bandwidth: OrZero<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WireLogConfig {
    r#type: OrZero<String>,
    config: OrZero<TextMap>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct WirePortBinding {
    host_ip: OrZero<String>,
    host_port: OrZero<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WireRestartPolicy {
    name: OrZero<String>,
    maximum_retry_count: OrZero<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WeightDevice {
    path: OrZero<String>,
    weight: OrZero<u16>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ThrottleDevice {
    path: OrZero<String>,
    rate: OrZero<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Device {
    path_on_host: OrZero<String>,
    path_in_container: OrZero<String>,
    cgroup_permissions: OrZero<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DeviceRequest {
    driver: OrZero<String>,
    capabilities: Option<Vec<Vec<String>>>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct WireUlimit {
    name: OrZero<String>,
    hard: OrZero<i64>,
    soft: OrZero<i64>,
}

impl TryFrom<HostConfig> for HostSpec {
    type Error = ApiError;

    fn try_from(wire: HostConfig) -> Result<Self, ApiError> {
        refuse_unknown(&wire)?;
        let restart = restart_policy(&wire.restart_policy.0, wire.auto_remove.0)?;
        let (seccomp, no_new_privileges) = security_options(&wire)?;
        let mounts = mounts(&wire)?;
        let resources = resources(&wire.resources)?;
        let rest = wire.resources;
        Ok(Self {
            mounts,
            volume_driver: wire.volume_driver.0,
            volumes_from: wire.volumes_from.unwrap_or_default(),
            restart,
            auto_remove: wire.auto_remove.0,
            network: network_mode(&wire.network_mode.0),
            port_bindings: read_port_bindings(wire.port_bindings.0),
            publish_all_ports: wire.publish_all_ports.0,
            dns_said: wire.dns.is_some(),
            dns: wire.dns.unwrap_or_default(),
            dns_options: wire.dns_options.0,
            dns_search: wire.dns_search.0,
            extra_hosts: wire.extra_hosts.unwrap_or_default(),
            links: wire.links.unwrap_or_default(),
            pid: namespace("PID", &wire.pid_mode.0, &["host"])?,
            ipc: namespace(
                "IPC",
                &wire.ipc_mode.0,
                &["host", "private", "shareable", "none"],
            )?,
            uts: namespace("UTS", &wire.uts_mode.0, &["host"])?,
            cgroupns: namespace(
                "cgroup namespace",
                &wire.cgroupns_mode.0,
                &["host", "private"],
            )?,
            userns: namespace("user namespace", &wire.userns_mode.0, &["host"])?,
            isolation: isolation(&wire.isolation.0, &wire.runtime.0)?,
            isolation_asked: matches!(wire.isolation.0.as_str(), "container" | "vm")
                || wire.runtime.0 == RUNTIME_VM,
            isolation_named: wire.isolation.0 == DEFAULT_ISOLATION,
            cpu_count: rest.cpu_count.0,
            cpu_percent: rest.cpu_percent.0,
            privileged: wire.privileged.0,
            readonly_rootfs: wire.readonly_rootfs.0,
            cap_add: wire.cap_add.into_list().unwrap_or_default(),
            cap_drop: wire.cap_drop.into_list().unwrap_or_default(),
            group_add: wire.group_add.unwrap_or_default(),
            seccomp,
            no_new_privileges,
            security_opt: wire.security_opt.unwrap_or_default(),
            masked_paths: wire.masked_paths,
            readonly_paths: wire.readonly_paths,
            devices: rest.devices.0.into_iter().map(DeviceSpec::from).collect(),
            device_cgroup_rules: rest.device_cgroup_rules.unwrap_or_default(),
            sysctls: from_text_map(wire.sysctls),
            ulimits: rest.ulimits.0.into_iter().map(Ulimit::from).collect(),
            resources,
            cgroup_parent: rest.cgroup_parent.0,
            shm_size: shm_size(wire.shm_size.0)?,
            oom_score_adj: oom_score_adj(wire.oom_score_adj.0)?,
            init: wire.init,
            log: LogConfig {
                driver: wire.log_config.0.r#type.0,
                options: from_text_map(Some(wire.log_config.0.config.0)),
            },
            console_size: wire.console_size.0.into(),
            storage_opt: from_text_map(wire.storage_opt),
            annotations: from_text_map(wire.annotations),
            container_id_file: wire.container_id_file.0,
            runtime: wire.runtime.0,
        })
    }
}

/// Refuses what the model has no word for.
fn refuse_unknown(wire: &HostConfig) -> Result<(), ApiError> {
    if !RUNTIMES.contains(&wire.runtime.0.as_str()) {
        return Err(ApiError::invalid(format!(
            "unknown or invalid runtime name: {}",
            wire.runtime.0
        )));
    }
    if !wire.cgroup.0.is_empty() {
        return Err(ApiError::not_there(
            "joining the cgroup of another container",
        ));
    }
    if let Some(request) = wire.resources.device_requests.iter().flatten().next() {
        let capabilities: Vec<String> = request
            .capabilities
            .iter()
            .flatten()
            .map(|all_of| format!("[{}]", all_of.join(" ")))
            .collect();
        return Err(ApiError::invalid(format!(
            "could not select device driver \"{}\" with capabilities: [{}]",
            request.driver.0,
            capabilities.join(" ")
        )));
    }
    Ok(())
}

fn mounts(wire: &HostConfig) -> Result<Vec<MountSpec>, ApiError> {
    let mut mounts = Vec::new();
    for bind in wire.binds.iter().flatten() {
        let mut mount = parse_bind(bind)?;
        if let MountKind::Volume { request, .. } = &mut mount.kind {
            request.driver.clone_from(&wire.volume_driver.0);
        }
        mounts.push(mount);
    }
    for mount in wire.mounts.iter().flatten() {
        mounts.push(mount.clone().try_into()?);
    }
    for (destination, options) in wire.tmpfs.iter().flatten() {
        mounts.push(parse_tmpfs(destination.clone(), options.0.clone())?);
    }
    Ok(mounts)
}

fn restart_policy(wire: &WireRestartPolicy, auto_remove: bool) -> Result<RestartPolicy, ApiError> {
    let retries = wire.maximum_retry_count.0;
    let name = wire.name.0.as_str();
    let policy = match name {
        "" | "no" => RestartPolicy::No,
        "always" => RestartPolicy::Always,
        "unless-stopped" => RestartPolicy::UnlessStopped,
        "on-failure" => RestartPolicy::OnFailure {
            retries_max: u32::try_from(retries).map_err(|_| {
                ApiError::invalid("invalid restart policy: maximum retry count cannot be negative")
            })?,
        },
        _ => {
            return Err(ApiError::invalid(format!(
                "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', \
                 'on-failure', or 'unless-stopped'"
            )));
        }
    };
    if retries != 0 && !matches!(policy, RestartPolicy::OnFailure { .. }) {
        return Err(ApiError::invalid(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ));
    }
    if auto_remove && policy != RestartPolicy::No {
        return Err(ApiError::invalid(
            "can't create 'AutoRemove' container with restart policy",
        ));
    }
    Ok(policy)
}

/// Reads `--security-opt`; what labels and profiles mean without such a module is Docker's: nothing.
fn security_options(wire: &HostConfig) -> Result<(SeccompChoice, bool), ApiError> {
    let mut seccomp = SeccompChoice::Default;
    let mut no_new_privileges = false;
    for option in wire.security_opt.iter().flatten() {
        let (key, value) = option
            .split_once('=')
            .or_else(|| option.split_once(':'))
            .unwrap_or((option, ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => no_new_privileges = true,
            ("no-new-privileges", "false") => no_new_privileges = false,
            ("seccomp", "unconfined") => seccomp = SeccompChoice::Unconfined,
            ("seccomp", "builtin" | "") => seccomp = SeccompChoice::Default,
            ("seccomp", profile) => seccomp = SeccompChoice::Profile(profile.to_owned()),
            ("apparmor" | "label" | "writable-cgroups", _) => {}
            _ => {
                return Err(ApiError::invalid(format!(
                    "invalid --security-opt 2: \"{option}\""
                )));
            }
        }
    }
    if wire.privileged.0 && seccomp == SeccompChoice::Default {
        seccomp = SeccompChoice::Unconfined;
    }
    Ok((seccomp, no_new_privileges))
}

fn network_mode(word: &str) -> NetworkMode {
    match word {
        "" | "default" | "bridge" => NetworkMode::Default,
        "none" => NetworkMode::None,
        "host" => NetworkMode::Host,
        _ => match word.strip_prefix("container:") {
            Some(other) => NetworkMode::Container(other.to_owned()),
            None => NetworkMode::Named(word.to_owned()),
        },
    }
}

/// Docker's word for a network mode.
pub(crate) fn network_word(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Default => "bridge".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Container(other) => format!("container:{other}"),
        NetworkMode::Named(name) => name.clone(),
    }
}

fn namespace(what: &str, word: &str, allowed: &[&str]) -> Result<NamespaceMode, ApiError> {
    let invalid = || ApiError::invalid(format!("invalid {what} mode: {word}"));
    if let Some(other) = word.strip_prefix("container:") {
        let joinable = matches!(what, "PID" | "IPC") && !other.is_empty();
        return if joinable {
            Ok(NamespaceMode::Container(other.to_owned()))
        } else {
            Err(invalid())
        };
    }
    match word {
        "" => Ok(NamespaceMode::Default),
        word if !allowed.contains(&word) => Err(invalid()),
        "host" => Ok(NamespaceMode::Host),
        "private" => Ok(NamespaceMode::Private),
        "shareable" => Ok(NamespaceMode::Shareable),
        "none" => Ok(NamespaceMode::None),
        _ => Err(invalid()),
    }
}

fn namespace_word(mode: &NamespaceMode, default: &str) -> String {
    match mode {
        NamespaceMode::Default => default.to_owned(),
        NamespaceMode::Private => "private".to_owned(),
        NamespaceMode::Shareable => "shareable".to_owned(),
        NamespaceMode::Host => "host".to_owned(),
        NamespaceMode::None => "none".to_owned(),
        NamespaceMode::Container(other) => format!("container:{other}"),
    }
}

fn isolation(word: &str, runtime: &str) -> Result<Isolation, ApiError> {
    match word {
        "container" if runtime == RUNTIME_VM => Err(ApiError::invalid(
            "isolation \"container\" and runtime \"vm\" contradict each other",
        )),
        "" | "default" if runtime == RUNTIME_VM => Ok(Isolation::Vm),
        "" | "default" | "container" => Ok(Isolation::Container),
        "vm" => Ok(Isolation::Vm),
        _ => Err(ApiError::invalid(format!(
            "invalid isolation '{word}' on linux"
        ))),
    }
}

fn shm_size(bytes: i64) -> Result<Option<u64>, ApiError> {
    match u64::try_from(bytes) {
        Ok(0) => Ok(None),
        Ok(bytes) => Ok(Some(bytes)),
        Err(_) => Err(ApiError::invalid("SHM size can not be less than 0")),
    }
}

fn oom_score_adj(score: i32) -> Result<Option<i32>, ApiError> {
    if !(-1000..=1000).contains(&score) {
        return Err(ApiError::invalid(format!(
            "Invalid value {score}, range for oom score adj is [-1000, 1000]"
        )));
    }
    Ok((score != 0).then_some(score))
}

impl From<&PublishedPort> for WirePortBinding {
    fn from(port: &PublishedPort) -> Self {
        Self {
            host_ip: OrZero(port.host_ip.to_string()),
            host_port: OrZero(port.host_port.to_string()),
        }
    }
}

/// Port bindings as clients send them.
pub(crate) type PortMap = BTreeMap<String, Option<Vec<WirePortBinding>>>;

/// Port bindings as the engine takes them.
pub(crate) fn read_port_bindings(wire: PortMap) -> BTreeMap<String, Vec<PortBinding>> {
    let binding = |wire: WirePortBinding| PortBinding {
        host_ip: wire.host_ip.0,
        host_port: wire.host_port.0,
    };
    wire.into_iter()
        .map(|(port, bindings)| {
            (
                port,
                bindings
                    .unwrap_or_default()
                    .into_iter()
                    .map(binding)
                    .collect(),
            )
        })
        .collect()
}

/// Port bindings as `inspect` shows them.
fn show_port_bindings(bindings: &BTreeMap<String, Vec<PortBinding>>) -> PortMap {
    let show = |binding: &PortBinding| WirePortBinding {
        host_ip: OrZero(binding.host_ip.clone()),
        host_port: OrZero(binding.host_port.clone()),
    };
    bindings
        .iter()
        .map(|(port, bindings)| (port.clone(), Some(bindings.iter().map(show).collect())))
        .collect()
}

fn resources(wire: &WireResources) -> Result<Resources, ApiError> {
    let mut blkio_devices = Vec::new();
    for device in &wire.blkio_weight_device.0 {
        blkio_devices.push(BlkioDevice {
            what: BlkioLimit::Weight,
            path: device.path.0.clone(),
            rate: device.weight.0.into(),
        });
    }
    for (what, devices) in [
        (BlkioLimit::ReadBps, &wire.blkio_device_read_bps),
        (BlkioLimit::WriteBps, &wire.blkio_device_write_bps),
        (BlkioLimit::ReadIops, &wire.blkio_device_read_iops),
        (BlkioLimit::WriteIops, &wire.blkio_device_write_iops),
    ] {
        blkio_devices.extend(devices.0.iter().map(|device| BlkioDevice {
            what,
            path: device.path.0.clone(),
            rate: device.rate.0,
        }));
    }
    let swappiness = wire.memory_swappiness.filter(|&value| value != -1);
    if swappiness.is_some_and(|value| !(0..=100).contains(&value)) {
        return Err(ApiError::invalid(format!(
            "Invalid value: {}, valid memory swappiness range is 0-100",
            swappiness.unwrap_or_default()
        )));
    }
    Ok(Resources {
        memory: wire.memory.0,
        memory_reservation: wire.memory_reservation.0,
        memory_swap: wire.memory_swap.0,
        memory_swappiness: swappiness,
        oom_kill_disable: wire.oom_kill_disable,
        nano_cpus: wire.nano_cpus.0,
        cpu_shares: wire.cpu_shares.0,
        cpu_period: wire.cpu_period.0,
        cpu_quota: wire.cpu_quota.0,
        cpu_realtime_period: wire.cpu_realtime_period.0,
        cpu_realtime_runtime: wire.cpu_realtime_runtime.0,
        cpuset_cpus: wire.cpuset_cpus.0.clone(),
        cpuset_mems: wire.cpuset_mems.0.clone(),
        // 0 and -1 mean none, and `inspect` says so.
        pids_limit: wire.pids_limit.filter(|limit| *limit > 0),
        blkio_weight: wire.blkio_weight.0,
        blkio_devices,
    })
}

impl From<Device> for DeviceSpec {
    fn from(wire: Device) -> Self {
        let inside = if wire.path_in_container.0.is_empty() {
            wire.path_on_host.0.clone()
        } else {
            wire.path_in_container.0
        };
        let access = if wire.cgroup_permissions.0.is_empty() {
            "rwm".to_owned()
        } else {
            wire.cgroup_permissions.0
        };
        Self {
            host_path: wire.path_on_host.0,
            container_path: inside,
            access,
        }
    }
}

impl From<WireUlimit> for Ulimit {
    fn from(wire: WireUlimit) -> Self {
        Self {
            name: wire.name.0,
            soft: wire.soft.0,
            hard: wire.hard.0,
        }
    }
}

impl HostConfig {
    /// As `inspect` shows it.
    /// With a runtime that was named elsewhere, unless one is named here.
    pub(crate) fn or_runtime(mut self, runtime: String) -> Self {
        if self.runtime.0.is_empty() {
            self.runtime = OrZero(runtime);
        }
        self
    }

    /// With the defaults that clients of an older version of the API count on, and without what it
    /// does not have.
    pub(crate) fn for_version(mut self, minor: ApiMinor) -> Result<Self, ApiError> {
        let defaults = [
            (MINOR_IPC_PRIVATE, &mut self.ipc_mode, "shareable"),
            (MINOR_CGROUPNS_PRIVATE, &mut self.cgroupns_mode, "host"),
        ];
        for (since, mode, before) in defaults {
            if minor < since && mode.0.is_empty() {
                *mode = before.into();
            }
        }
        if minor < MINOR_ANNOTATIONS {
            self.annotations = None;
        }
        let mut mounts = self.mounts.iter().flatten();
        mounts.try_for_each(|mount| mount.check_version(minor))?;
        Ok(self)
    }

    /// With its links in Docker's form, `/target:/name/alias`.
    pub(crate) fn linked_by(mut self, name: &str) -> Self {
        for link in self.links.iter_mut().flatten() {
            let (target, alias) = link.split_once(':').unwrap_or((link, link));
            let target = target.trim_start_matches('/');
            let alias = alias.rsplit('/').next().unwrap_or_default();
            *link = format!("/{target}:/{name}/{alias}");
        }
        self
    }

    pub(crate) fn show(host: &HostSpec) -> Self {
        let binds: Vec<String> = form(host, MountForm::Bind).map(show_bind).collect();
        let mounts: Vec<Mount> = form(host, MountForm::Mount).map(Mount::from).collect();
        let paths = |given: &Option<Vec<String>>, default: &[&str]| match given {
            Some(paths) => Some(paths.clone()),
            None if host.privileged => None,
            None => Some(default.iter().map(|path| (*path).to_owned()).collect()),
        };
        let text_map = |map: &BTreeMap<String, String>| (!map.is_empty()).then(|| to_text_map(map));
        Self {
            binds: null_if_empty(&binds),
            container_id_file: OrZero(host.container_id_file.clone()),
            log_config: OrZero(WireLogConfig {
                r#type: or(&host.log.driver, LOG_DRIVER),
                config: OrZero(to_text_map(&host.log.options)),
            }),
            network_mode: OrZero(network_word(&host.network)),
            port_bindings: OrZero(show_port_bindings(&host.port_bindings)),
            restart_policy: OrZero(show_restart_policy(host.restart)),
            auto_remove: OrZero(host.auto_remove),
            volume_driver: OrZero(host.volume_driver.clone()),
            volumes_from: null_if_empty(&host.volumes_from),
            console_size: OrZero(host.console_size.into()),
            annotations: text_map(&host.annotations),
            cap_add: null_if_empty(&host.cap_add).into(),
            cap_drop: null_if_empty(&host.cap_drop).into(),
            cgroupns_mode: OrZero(namespace_word(&host.cgroupns, "private")),
            dns: host.dns_said.then(|| host.dns.clone()),
            dns_options: OrZero(host.dns_options.clone()),
            dns_search: OrZero(host.dns_search.clone()),
            extra_hosts: null_if_empty(&host.extra_hosts),
            group_add: null_if_empty(&host.group_add),
            ipc_mode: OrZero(namespace_word(&host.ipc, "private")),
            cgroup: OrZero::default(),
            links: null_if_empty(&host.links),
            oom_score_adj: OrZero(host.oom_score_adj.unwrap_or(0)),
            pid_mode: OrZero(namespace_word(&host.pid, "")),
            privileged: OrZero(host.privileged),
            publish_all_ports: OrZero(host.publish_all_ports),
            readonly_rootfs: OrZero(host.readonly_rootfs),
            security_opt: null_if_empty(&host.security_opt),
            storage_opt: text_map(&host.storage_opt),
            tmpfs: show_tmpfs_map(&host.mounts),
            uts_mode: OrZero(namespace_word(&host.uts, "")),
            userns_mode: OrZero(namespace_word(&host.userns, "")),
            shm_size: OrZero(i64::try_from(host.shm_size.unwrap_or(SHM_BYTES)).unwrap_or(i64::MAX)),
            sysctls: text_map(&host.sysctls),
            runtime: or(&host.runtime, RUNTIME),
            isolation: OrZero(match host.isolation {
                Isolation::Container if host.isolation_named => DEFAULT_ISOLATION.to_owned(),
                Isolation::Container => String::new(),
                Isolation::Vm => "vm".to_owned(),
            }),
            resources: show_resources(host),
            mounts: null_if_empty(&mounts),
            masked_paths: paths(&host.masked_paths, &MASKED_PATHS),
            readonly_paths: paths(&host.readonly_paths, &READONLY_PATHS),
            init: host.init,
        }
    }
}

fn form(host: &HostSpec, form: MountForm) -> impl Iterator<Item = &MountSpec> {
    host.mounts.iter().filter(move |mount| mount.form == form)
}

fn or(text: &str, default: &str) -> OrZero<String> {
    if text.is_empty() {
        default.into()
    } else {
        text.into()
    }
}

fn show_restart_policy(policy: RestartPolicy) -> WireRestartPolicy {
    let (name, retries) = match policy {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
        RestartPolicy::OnFailure { retries_max } => ("on-failure", retries_max),
    };
    WireRestartPolicy {
        name: name.into(),
        maximum_retry_count: OrZero(retries.into()),
    }
}

fn show_resources(host: &HostSpec) -> WireResources {
    let limits = &host.resources;
    let throttle = |what: BlkioLimit| {
        OrZero(
            limits
                .blkio_devices
                .iter()
                .filter(|device| device.what == what)
                .map(|device| ThrottleDevice {
                    path: OrZero(device.path.clone()),
                    rate: OrZero(device.rate),
                })
                .collect::<Vec<_>>(),
        )
    };
    let weights = throttle(BlkioLimit::Weight)
        .0
        .into_iter()
        .map(|device| WeightDevice {
            path: device.path,
            weight: OrZero(u16::try_from(device.rate.0).unwrap_or(u16::MAX)),
        });
    let device = |device: &DeviceSpec| Device {
        path_on_host: OrZero(device.host_path.clone()),
        path_in_container: OrZero(device.container_path.clone()),
        cgroup_permissions: OrZero(device.access.clone()),
    };
    let ulimit = |limit: &Ulimit| WireUlimit {
        name: OrZero(limit.name.clone()),
        hard: OrZero(limit.hard),
        soft: OrZero(limit.soft),
    };
    WireResources {
        cpu_shares: OrZero(limits.cpu_shares),
        memory: OrZero(limits.memory),
        nano_cpus: OrZero(limits.nano_cpus),
        cgroup_parent: OrZero(host.cgroup_parent.clone()),
        blkio_weight: OrZero(limits.blkio_weight),
        blkio_weight_device: OrZero(weights.collect()),
        blkio_device_read_bps: throttle(BlkioLimit::ReadBps),
        blkio_device_write_bps: throttle(BlkioLimit::WriteBps),
        blkio_device_read_iops: throttle(BlkioLimit::ReadIops),
        blkio_device_write_iops: throttle(BlkioLimit::WriteIops),
        cpu_count: OrZero(host.cpu_count),
        cpu_percent: OrZero(host.cpu_percent),
        cpu_period: OrZero(limits.cpu_period),
        cpu_quota: OrZero(limits.cpu_quota),
        cpu_realtime_period: OrZero(limits.cpu_realtime_period),
        cpu_realtime_runtime: OrZero(limits.cpu_realtime_runtime),
        cpuset_cpus: OrZero(limits.cpuset_cpus.clone()),
        cpuset_mems: OrZero(limits.cpuset_mems.clone()),
        devices: OrZero(host.devices.iter().map(device).collect()),
        device_cgroup_rules: null_if_empty(&host.device_cgroup_rules),
        device_requests: None,
        memory_reservation: OrZero(limits.memory_reservation),
        memory_swap: OrZero(limits.memory_swap),
        memory_swappiness: limits.memory_swappiness,
        oom_kill_disable: limits.oom_kill_disable,
        pids_limit: limits.pids_limit,
        ulimits: OrZero(host.ulimits.iter().map(ulimit).collect()),
        ..WireResources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<HostSpec, ApiError> {
        serde_json::from_str::<HostConfig>(json)
            .expect("valid")
            .try_into()
    }

    fn refused(json: &str) -> String {
        read(json).expect_err("refused").message
    }

    /// What docker CLI 28 sends for a plain `docker run`, with every field that it names.
    const PLAIN: &str = r#"{"Binds":null,"ContainerIDFile":"","LogConfig":{"Type":"","Config":{}},
        "NetworkMode":"default","PortBindings":{},"RestartPolicy":{"Name":"no",
        "MaximumRetryCount":0},"AutoRemove":true,"VolumeDriver":"","VolumesFrom":null,
        "ConsoleSize":[24,80],"CapAdd":null,"CapDrop":null,"CgroupnsMode":"","Dns":[],
        "DnsOptions":[],"DnsSearch":[],"ExtraHosts":null,"GroupAdd":null,"IpcMode":"","Cgroup":"",
        "Links":null,"OomScoreAdj":0,"PidMode":"","Privileged":false,"PublishAllPorts":false,
        "ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"","UsernsMode":"","ShmSize":0,
        "Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,
        "BlkioWeightDevice":[],"BlkioDeviceReadBps":[],"BlkioDeviceWriteBps":[],
        "BlkioDeviceReadIOps":[],"BlkioDeviceWriteIOps":[],"CpuPeriod":0,"CpuQuota":0,
        "CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"","CpusetMems":"","Devices":[],
        "DeviceCgroupRules":null,"DeviceRequests":null,"MemoryReservation":0,"MemorySwap":0,
        "MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,"Ulimits":[],"CpuCount":0,
        "CpuPercent":0,"IOMaximumIOps":0,"IOMaximumBandwidth":0,"MaskedPaths":null,
        "ReadonlyPaths":null}"#;

    #[test]
    fn a_plain_run_asks_for_nothing_special() {
        let host = read(PLAIN).expect("accepted");
        let expected = HostSpec {
            auto_remove: true,
            console_size: (24, 80),
            dns_said: true,
            resources: Resources {
                oom_kill_disable: Some(false),
                pids_limit: None,
                ..Resources::default()
            },
            ..HostSpec::default()
        };
        assert_eq!(host, expected);
    }

    #[test]
    fn inspect_shows_every_field_in_dockers_words() {
        let shown =
            serde_json::to_value(HostConfig::show(&read(PLAIN).expect("accepted"))).expect("JSON");
        let sent: serde_json::Value = serde_json::from_str(PLAIN).expect("JSON");
        let filled = [
            "LogConfig",
            "NetworkMode",
            "CgroupnsMode",
            "IpcMode",
            "ShmSize",
            "MemorySwappiness",
            "PidsLimit",
            "MaskedPaths",
            "ReadonlyPaths",
        ];
        for (key, value) in sent.as_object().expect("object") {
            if !filled.contains(&key.as_str()) {
                assert_eq!(shown.get(key), Some(value), "{key}");
            }
        }
        assert_eq!(shown["NetworkMode"], "bridge");
        assert_eq!(shown["IpcMode"], "private");
        assert_eq!(shown["ShmSize"], 67_108_864);
        assert_eq!(shown["LogConfig"]["Type"], "json-file");
        assert_eq!(shown["MaskedPaths"].as_array().map(Vec::len), Some(12));
        assert_eq!(shown["RestartPolicy"]["Name"], "no");
    }

    #[test]
    fn null_is_a_zero_value_for_every_field() {
        let fields = serde_json::to_value(HostConfig::show(&HostSpec::default())).expect("JSON");
        let nulls: serde_json::Map<_, _> = fields
            .as_object()
            .expect("object")
            .keys()
            .map(|key| (key.clone(), serde_json::Value::Null))
            .collect();
        let json = serde_json::Value::Object(nulls).to_string();
        assert_eq!(read(&json).expect("accepted"), HostSpec::default());
    }

    #[test]
    fn limits_devices_and_mounts_arrive_and_are_shown() {
        let json = r#"{"Memory":1048576,"MemorySwap":-1,"NanoCpus":1500000000,"PidsLimit":7,
            "Ulimits":[{"Name":"nofile","Soft":1,"Hard":2}],
            "Devices":[{"PathOnHost":"/dev/null","CgroupPermissions":"r"}],
            "BlkioDeviceReadBps":[{"Path":"/dev/vda","Rate":9}],
            "Binds":["/a:/b:ro"],"Tmpfs":{"/t":"size=1m"},
            "Mounts":[{"Type":"bind","Source":"/m","Target":"/n"}],
            "PortBindings":{"80/tcp":[{"HostIp":"","HostPort":"8080"}],"81/tcp":null},
            "RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3},
            "PidMode":"host","IpcMode":"container:x","NetworkMode":"container:y","Init":true,
            "Sysctls":{"net.a":"1"},"CapAdd":["NET_ADMIN"],"SecurityOpt":["seccomp=unconfined"]}"#;
        let host = read(json).expect("accepted");
        assert_eq!(host.mounts.len(), 3);
        assert!(
            matches!(&host.mounts[2].kind, MountKind::Tmpfs { options } if options == "size=1m")
        );
        assert_eq!(host.devices[0].container_path, "/dev/null");
        assert_eq!(host.seccomp, SeccompChoice::Unconfined);
        assert_eq!(host.restart, RestartPolicy::OnFailure { retries_max: 3 });
        assert_eq!(host.network, NetworkMode::Container("y".into()));
        let shown = serde_json::to_string(&HostConfig::show(&host)).expect("JSON");
        let mut again = read(&shown).expect("accepted");
        // Defaults that are shown were not asked for.
        assert_eq!(again.shm_size, Some(SHM_BYTES));
        again = HostSpec {
            shm_size: host.shm_size,
            masked_paths: None,
            readonly_paths: None,
            cgroupns: NamespaceMode::Default,
            log: LogConfig::default(),
            runtime: String::new(),
            ..again
        };
        assert_eq!(again, host);
    }

    #[test]
    fn security_options_have_old_and_new_forms() {
        let choice = |option: &str| {
            let host = read(&serde_json::json!({ "SecurityOpt": [option] }).to_string())?;
            Ok::<_, ApiError>((host.seccomp, host.no_new_privileges))
        };
        assert_eq!(
            choice("no-new-privileges"),
            Ok((SeccompChoice::Default, true))
        );
        assert_eq!(
            choice("no-new-privileges:true"),
            Ok((SeccompChoice::Default, true))
        );
        assert_eq!(
            choice("no-new-privileges=false"),
            Ok((SeccompChoice::Default, false))
        );
        assert_eq!(
            choice("seccomp:unconfined"),
            Ok((SeccompChoice::Unconfined, false))
        );
        let profile = r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW"}"#;
        assert!(
            matches!(choice(profile), Ok((SeccompChoice::Profile(p), _)) if p.starts_with('{'))
        );
        assert_eq!(choice("zz=1").map_err(|e| e.status.as_u16()), Err(400));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_reason() {
        for (json, text) in [
            (r#"{"RestartPolicy":{"Name":"zz"}}"#, "unknown policy 'zz'"),
            (
                r#"{"RestartPolicy":{"Name":"always","MaximumRetryCount":1}}"#,
                "can only be used",
            ),
            (
                r#"{"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":-1}}"#,
                "negative",
            ),
            (
                r#"{"RestartPolicy":{"Name":"always"},"AutoRemove":true}"#,
                "AutoRemove",
            ),
            (r#"{"PidMode":"zz"}"#, "invalid PID mode: zz"),
            (r#"{"UTSMode":"container:x"}"#, "invalid UTS mode"),
            (r#"{"IpcMode":"container:"}"#, "invalid IPC mode"),
            (r#"{"ShmSize":-1}"#, "SHM size"),
            (r#"{"OomScoreAdj":2000}"#, "[-1000, 1000]"),
            (r#"{"MemorySwappiness":101}"#, "0-100"),
            (r#"{"Isolation":"hyperv"}"#, "invalid isolation 'hyperv'"),
            (
                r#"{"DeviceRequests":[{"Capabilities":[["gpu"]]}]}"#,
                "device driver",
            ),
        ] {
            let message = refused(json);
            assert!(message.contains(text), "{json}: {message}");
        }
    }
}
