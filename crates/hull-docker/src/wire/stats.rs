//! `StatsResponse`: figures of a container in Docker's form.

use std::collections::BTreeMap;

use hull_engine::api::{Container, CpuMoment, HostFacts, Usage};
use serde::Serialize;

use crate::time;

/// What Go prints for no time.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// One answer.
#[derive(Serialize)]
pub(crate) struct Stats<'a> {
    read: String,
    preread: String,
    pids_stats: Pids,
    blkio_stats: Blkio,
    num_procs: u32,
    storage_stats: BTreeMap<(), ()>,
    cpu_stats: Cpu<'a>,
    precpu_stats: Cpu<'a>,
    memory_stats: Memory<'a>,
    name: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    networks: Option<BTreeMap<&'a str, Link>>,
}

#[derive(Default, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
}

/// Lists that this kernel does not count are empty; all are null for a container that does not run.
#[derive(Default, Serialize)]
struct Blkio {
    io_service_bytes_recursive: Option<Vec<Row>>,
    io_serviced_recursive: Option<Vec<Row>>,
    io_queue_recursive: Option<[(); 0]>,
    io_service_time_recursive: Option<[(); 0]>,
    io_wait_time_recursive: Option<[(); 0]>,
    io_merged_recursive: Option<[(); 0]>,
    io_time_recursive: Option<[(); 0]>,
    sectors_recursive: Option<[(); 0]>,
}

#[derive(Serialize)]
struct Row {
    major: u32,
    minor: u32,
    op: &'static str,
    value: u64,
}

#[derive(Default, Serialize)]
struct Cpu<'a> {
    cpu_usage: CpuUsage<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_cpu_usage: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    online_cpus: Option<u32>,
    throttling_data: Throttling,
}

#[derive(Default, Serialize)]
struct CpuUsage<'a> {
    total_usage: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    percpu_usage: Option<&'a [u64]>,
    usage_in_kernelmode: u64,
    usage_in_usermode: u64,
}

#[derive(Default, Serialize)]
struct Throttling {
    periods: u64,
    throttled_periods: u64,
    throttled_time: u64,
}

#[derive(Default, Serialize)]
struct Memory<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_usage: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<BTreeMap<&'a str, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failcnt: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
}

#[derive(Serialize)]
struct Link {
    rx_bytes: u64,
    rx_packets: u64,
    rx_errors: u64,
    rx_dropped: u64,
    tx_bytes: u64,
    tx_packets: u64,
    tx_errors: u64,
    tx_dropped: u64,
}

impl<'a> Stats<'a> {
    pub(crate) fn show(container: &Container, usage: Option<&'a Usage>, host: &HostFacts) -> Self {
        let moment = |moment: Option<&CpuMoment>| {
            moment.map_or(NO_TIME.to_owned(), |moment| time::rfc3339(moment.at_ns))
        };
        let now = usage.map(|usage| &usage.cpu);
        let before = usage.and_then(|usage| usage.before.as_ref());
        Self {
            read: moment(now),
            preread: moment(before),
            pids_stats: Pids {
                current: usage.map(|usage| usage.pids),
                limit: usage.and_then(|usage| usage.pids_limit),
            },
            blkio_stats: usage.map(|usage| blkio(usage, host)).unwrap_or_default(),
            num_procs: 0,
            storage_stats: BTreeMap::new(),
            cpu_stats: now.map(cpu).unwrap_or_default(),
            precpu_stats: before.map(cpu).unwrap_or_default(),
            memory_stats: usage.map(|usage| memory(usage, host)).unwrap_or_default(),
            name: format!("/{}", container.spec.name),
            id: container.id.to_string(),
            networks: usage.and_then(networks),
        }
    }
}

fn cpu(moment: &CpuMoment) -> Cpu<'_> {
    let used = &moment.cpu;
    Cpu {
        cpu_usage: CpuUsage {
            total_usage: used.total_ns,
            percpu_usage: Some(&used.each_ns[..]).filter(|each| !each.is_empty()),
            usage_in_kernelmode: used.system_ns,
            usage_in_usermode: used.user_ns,
        },
        system_cpu_usage: Some(moment.system_ns),
        online_cpus: Some(moment.online),
        throttling_data: Throttling {
            periods: used.periods,
            throttled_periods: used.throttled_periods,
            throttled_time: used.throttled_ns,
        },
    }
}

fn memory<'a>(usage: &'a Usage, host: &HostFacts) -> Memory<'a> {
    let memory = &usage.memory;
    let v1 = host.cgroup_version == 1;
    let detail = memory.detail.iter();
    Memory {
        usage: Some(memory.usage),
        max_usage: Some(memory.usage_max).filter(|_| v1),
        stats: Some(
            detail
                .map(|(name, value)| (name.as_str(), *value))
                .collect(),
        ),
        failcnt: Some(memory.limit_reached).filter(|&count| v1 && count > 0),
        limit: Some(
            memory
                .limit
                .unwrap_or(host.memory_bytes)
                .min(host.memory_bytes),
        ),
    }
}

fn blkio(usage: &Usage, host: &HostFacts) -> Blkio {
    let [read, write] = match host.cgroup_version {
        1 => ["Read", "Write"],
        _ => ["read", "write"],
    };
    let mut bytes = Vec::new();
    let mut operations = Vec::new();
    for device in &usage.blkio {
        let row = |op, value| Row {
            major: device.major,
            minor: device.minor,
            op,
            value,
        };
        bytes.extend([row(read, device.read_bytes), row(write, device.write_bytes)]);
        operations.extend([row(read, device.reads), row(write, device.writes)]);
    }
    let uncounted = Some([]).filter(|_| host.cgroup_version == 1);
    Blkio {
        io_service_bytes_recursive: Some(bytes),
        io_serviced_recursive: Some(operations).filter(|_| host.cgroup_version == 1),
        io_queue_recursive: uncounted,
        io_service_time_recursive: uncounted,
        io_wait_time_recursive: uncounted,
        io_merged_recursive: uncounted,
        io_time_recursive: uncounted,
        sectors_recursive: uncounted,
    }
}

fn networks(usage: &Usage) -> Option<BTreeMap<&str, Link>> {
    let links = usage.links.iter().map(|link| {
        let ([rx_bytes, rx_packets, rx_errors, rx_dropped], tx) = (link.rx, link.tx);
        let [tx_bytes, tx_packets, tx_errors, tx_dropped] = tx;
        let link_stats = Link {
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        };
        (link.name.as_str(), link_stats)
    });
    let links: BTreeMap<_, _> = links.collect();
    Some(links).filter(|links| !links.is_empty())
}
