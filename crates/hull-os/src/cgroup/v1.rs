//! Limits in the words of v1: which value goes to which file, in which order.

use super::Write;
use super::devices::{DeviceKind, DeviceRule};
use super::limits::{BlkioKind, BlkioLimit, Limits};

/// Where block I/O weights are, in the order of preference: the second is of the BFQ scheduler.
const WEIGHT_FILES: [&str; 2] = ["blkio.weight", "blkio.bfq.weight"];

/// Plans all writes. `swap_limit` is the limit of memory and swap together that is in force now.
pub(super) fn plan(limits: &Limits, swap_limit: Option<u64>) -> Vec<Write> {
    let mut writes = memory(limits, swap_limit);
    cpu(limits, &mut writes);
    blkio(limits, &mut writes);
    let cpuset = |file, value: &String| {
        (!value.is_empty()).then(|| Write::new("cpuset", file, value.clone()))
    };
    writes.extend(cpuset("cpuset.cpus", &limits.cpuset_cpus));
    writes.extend(cpuset("cpuset.mems", &limits.cpuset_mems));
    if limits.pids != 0 {
        writes.push(Write::new("pids", "pids.max", pids_value(limits.pids)));
    }
    for (size, bytes) in &limits.hugepages {
        let file = format!("hugetlb.{size}.limit_in_bytes");
        writes.push(Write::new("hugetlb", file, bytes.to_string()));
    }
    writes.extend(limits.devices.iter().map(device));
    writes
}

/// What both versions write to `pids.max`.
pub(super) fn pids_value(pids: i64) -> String {
    if pids < 0 {
        "max".to_owned()
    } else {
        pids.to_string()
    }
}

fn memory(limits: &Limits, swap_limit: Option<u64>) -> Vec<Write> {
    let number =
        |file, value: i64| (value != 0).then(|| Write::new("memory", file, value.to_string()));
    let memory = number("memory.limit_in_bytes", limits.memory_bytes);
    // Unlimited memory with limited swap cannot be.
    let swap = match (limits.memory_bytes, limits.memory_swap_bytes) {
        (-1, 0) => -1,
        (_, swap) => swap,
    };
    let swap = number("memory.memsw.limit_in_bytes", swap);
    // The kernel refuses memory above memory and swap together at any moment, so what grows past
    // the other's present value goes last.
    let grows_past_swap = swap_limit.is_some_and(|now| {
        limits.memory_bytes < 0 || u64::try_from(limits.memory_bytes).is_ok_and(|new| new > now)
    });
    let (first, second) = if grows_past_swap {
        (swap, memory)
    } else {
        (memory, swap)
    };
    let mut writes: Vec<Write> = first.into_iter().chain(second).collect();
    writes.extend(number(
        "memory.soft_limit_in_bytes",
        limits.memory_reservation_bytes,
    ));
    if let Some(swappiness) = limits.memory_swappiness {
        writes.push(Write::new(
            "memory",
            "memory.swappiness",
            swappiness.to_string(),
        ));
    }
    if limits.oom_kill_disable {
        writes.push(Write::new("memory", "memory.oom_control", "1".to_owned()));
    }
    writes
}

fn cpu(limits: &Limits, writes: &mut Vec<Write>) {
    let mut number = |file, value: i64| {
        if value != 0 {
            writes.push(Write::new("cpu", file, value.to_string()));
        }
    };
    number("cpu.shares", limits.cpu_shares.cast_signed());
    number("cpu.cfs_period_us", limits.cpu_period_us.cast_signed());
    number("cpu.cfs_quota_us", limits.cpu_quota_us);
    number(
        "cpu.rt_period_us",
        limits.cpu_realtime_period_us.cast_signed(),
    );
    number("cpu.rt_runtime_us", limits.cpu_realtime_runtime_us);
}

fn blkio(limits: &Limits, writes: &mut Vec<Write>) {
    if limits.blkio_weight != 0 {
        let value = limits.blkio_weight.to_string();
        writes.push(Write::new("blkio", WEIGHT_FILES[0], value).or_else(WEIGHT_FILES[1]));
    }
    for limit in &limits.blkio_devices {
        let BlkioLimit {
            major,
            minor,
            value,
            ..
        } = limit;
        let value = format!("{major}:{minor} {value}");
        let throttle = |what| {
            Write::new(
                "blkio",
                format!("blkio.throttle.{what}_device"),
                value.clone(),
            )
        };
        writes.push(match limit.kind {
            BlkioKind::Weight => {
                Write::new("blkio", "blkio.weight_device", value).or_else("blkio.bfq.weight_device")
            }
            BlkioKind::ReadBytes => throttle("read_bps"),
            BlkioKind::WriteBytes => throttle("write_bps"),
            BlkioKind::ReadOperations => throttle("read_iops"),
            BlkioKind::WriteOperations => throttle("write_iops"),
        });
    }
}

fn device(rule: &DeviceRule) -> Write {
    debug_assert!(
        rule.kind != DeviceKind::All || rule.major.is_none(),
        "all is without numbers"
    );
    let file = if rule.allow {
        "devices.allow"
    } else {
        "devices.deny"
    };
    Write::new("devices", file, rule.kernel_text())
}

#[cfg(test)]
mod tests {
    use super::super::Write;
    use super::{Limits, plan};
    use crate::cgroup::devices::DENY_ALL;
    use crate::cgroup::{BlkioKind, BlkioLimit};

    fn check(limits: &Limits, swap_limit: Option<u64>, expected: &[&str]) {
        let written: Vec<String> = plan(limits, swap_limit)
            .iter()
            .map(Write::to_string)
            .collect();
        assert_eq!(written, expected, "{limits:?}");
    }

    #[test]
    fn the_default_writes_nothing() {
        check(&Limits::default(), None, &[]);
    }

    #[test]
    fn memory_and_swap_go_in_the_order_that_the_kernel_takes() {
        let limits = Limits {
            memory_bytes: 100,
            memory_swap_bytes: 200,
            ..Limits::default()
        };
        let memory = "memory.limit_in_bytes=100";
        let swap = "memory.memsw.limit_in_bytes=200";
        check(&limits, Some(u64::MAX >> 1), &[memory, swap]);
        check(&limits, Some(100), &[memory, swap]);
        check(&limits, Some(99), &[swap, memory]);
        let unlimited = Limits {
            memory_bytes: -1,
            ..Limits::default()
        };
        let expected = ["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"];
        check(&unlimited, Some(99), &expected);
    }

    #[test]
    fn each_limit_has_its_file() {
        let limits = Limits {
            memory_reservation_bytes: 5,
            memory_swappiness: Some(0),
            oom_kill_disable: true,
            cpu_shares: 2,
            cpu_period_us: 1000,
            cpu_quota_us: -1,
            cpuset_cpus: "0".to_owned(),
            pids: -1,
            blkio_devices: vec![BlkioLimit {
                kind: BlkioKind::WriteBytes,
                major: 8,
                minor: 16,
                value: 9,
            }],
            hugepages: vec![("2MB".to_owned(), 7)],
            devices: vec![DENY_ALL, "c 1:3 rw".parse().unwrap()],
            ..Limits::default()
        };
        check(
            &limits,
            None,
            &[
                "memory.soft_limit_in_bytes=5",
                "memory.swappiness=0",
                "memory.oom_control=1",
                "cpu.shares=2",
                "cpu.cfs_period_us=1000",
                "cpu.cfs_quota_us=-1",
                "blkio.throttle.write_bps_device=8:16 9",
                "cpuset.cpus=0",
                "pids.max=max",
                "hugetlb.2MB.limit_in_bytes=7",
                "devices.deny=a",
                "devices.allow=c 1:3 rw",
            ],
        );
    }
}
