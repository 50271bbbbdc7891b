//! From the resources that were asked for to what the cgroup holds.

use hull_model::spec::{BlkioLimit as Asked, ContainerSpec, Resources};
use hull_os::cgroup::{BlkioKind, BlkioLimit, CONTAINER_RULES, DeviceRule, Limits, Support};
use hull_sandbox::DeviceNode;

use crate::error::{EngineError, Result};
use crate::translate;

/// Length of a period of the processor quota that `--cpus` is written as, in microseconds.
const CPU_PERIOD_US: u64 = 100_000;
/// Billionths of a processor that make one.
const NANOS_PER_CPU: i64 = 1_000_000_000;

/// Limits of the container's cgroup as this host can hold them, and a sentence for each that it
/// cannot.
///
/// # Errors
/// `Invalid` for limits that make no sense anywhere.
pub(crate) fn of(support: &Support, spec: &ContainerSpec) -> Result<(Limits, Vec<String>)> {
    let invalid = |error: &dyn std::error::Error| EngineError::Invalid(error.to_string());
    let asked = &spec.host.resources;
    let mut limits = plain(asked)?;
    limits.blkio_devices = blkio_devices(asked)?;
    limits.devices = device_rules(spec)?;
    let warnings = support.fit(&mut limits, false).map_err(|e| invalid(&e))?;
    Ok((limits, warnings))
}

/// The limits that are given of a group that runs; the others stay.
///
/// # Errors
/// As [`of`].
pub(crate) fn of_update(support: &Support, given: &Resources) -> Result<(Limits, Vec<String>)> {
    let mut limits = plain(given)?;
    let fitted = support.fit(&mut limits, true);
    let warnings = fitted.map_err(|error| EngineError::Invalid(error.to_string()))?;
    Ok((limits, warnings))
}

fn plain(asked: &Resources) -> Result<Limits> {
    let positive = |value: i64| u64::try_from(value).unwrap_or_default();
    for (also, what) in [(asked.cpu_period, "Period"), (asked.cpu_quota, "Quota")] {
        if asked.nano_cpus > 0 && also > 0 {
            return Err(EngineError::Invalid(format!(
                "Conflicting options: Nano CPUs and CPU {what} cannot both be set"
            )));
        }
    }
    if asked.cpu_shares < 0 {
        return Err(EngineError::Invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            asked.cpu_shares
        )));
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let most = i64::try_from(cpus)
        .unwrap_or(i64::MAX)
        .saturating_mul(NANOS_PER_CPU);
    if asked.nano_cpus < 0 || asked.nano_cpus > most {
        return Err(EngineError::Invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    let (quota, period) = if asked.nano_cpus > 0 {
        // Billionths of a processor in a tenth of a second are ten thousandths of a microsecond.
        (asked.nano_cpus / 10_000, CPU_PERIOD_US)
    } else {
        (asked.cpu_quota, positive(asked.cpu_period))
    };
    Ok(Limits {
        memory_bytes: asked.memory,
        memory_reservation_bytes: asked.memory_reservation,
        memory_swap_bytes: asked.memory_swap,
        memory_swappiness: asked
            .memory_swappiness
            .and_then(|value| u8::try_from(value).ok()),
        oom_kill_disable: asked.oom_kill_disable.unwrap_or_default(),
        cpu_shares: positive(asked.cpu_shares),
        cpu_quota_us: quota,
        cpu_period_us: period,
        cpu_realtime_runtime_us: asked.cpu_realtime_runtime,
        cpu_realtime_period_us: positive(asked.cpu_realtime_period),
        cpuset_cpus: asked.cpuset_cpus.clone(),
        cpuset_mems: asked.cpuset_mems.clone(),
        pids: asked.pids_limit.unwrap_or_default(),
        blkio_weight: asked.blkio_weight,
        ..Limits::default()
    })
}

fn blkio_devices(asked: &Resources) -> Result<Vec<BlkioLimit>> {
    let one = |device: &hull_model::spec::BlkioDevice| {
        let node = translate::device_at(&device.path).map_err(|_| {
            EngineError::Invalid(format!("stat {}: no such file or directory", device.path))
        })?;
        Ok(BlkioLimit {
            kind: match device.what {
                Asked::Weight => BlkioKind::Weight,
                Asked::ReadBps => BlkioKind::ReadBytes,
                Asked::WriteBps => BlkioKind::WriteBytes,
                Asked::ReadIops => BlkioKind::ReadOperations,
                Asked::WriteIops => BlkioKind::WriteOperations,
            },
            major: node.major,
            minor: node.minor,
            value: device.rate,
        })
    };
    asked.blkio_devices.iter().map(one).collect()
}

/// Which devices may be used: the usual ones, those asked for, everything with `--privileged`.
fn device_rules(spec: &ContainerSpec) -> Result<Vec<DeviceRule>> {
    if spec.host.privileged {
        return Ok(Vec::new());
    }
    let mut rules = CONTAINER_RULES.to_vec();
    for asked in &spec.host.devices {
        let mut nodes = Vec::new();
        translate::asked_devices(asked, &mut nodes)?;
        for node in &nodes {
            rules.push(rule_of(node, &asked.access)?);
        }
    }
    for text in &spec.host.device_cgroup_rules {
        let rule = text.parse::<DeviceRule>();
        rules.push(rule.map_err(|error| EngineError::Invalid(error.to_string()))?);
    }
    Ok(rules)
}

fn rule_of(node: &DeviceNode, access: &str) -> Result<DeviceRule> {
    let kind = if node.block { 'b' } else { 'c' };
    let access = if access.is_empty() { "rwm" } else { access };
    format!("{kind} {}:{} {access}", node.major, node.minor)
        .parse()
        .map_err(|_| EngineError::Invalid(format!("invalid device mode: {access}")))
}
