//! Limits in the words of v2: which value goes to which file, and what v1's numbers become.

use super::Write;
use super::limits::{BlkioKind, BlkioLimit, Limits};
use super::v1::pids_value;

/// Length of a period where none was given, in microseconds: the kernel's own default.
const PERIOD_US: u64 = 100_000;

/// Plans all writes but those of devices, which have no file here.
pub(super) fn plan(limits: &Limits) -> Vec<Write> {
    let mut writes = memory(limits);
    if limits.cpu_shares != 0 {
        let weight = cpu_weight(limits.cpu_shares);
        writes.push(Write::new("cpu", "cpu.weight", weight.to_string()));
    }
    if limits.cpu_quota_us != 0 || limits.cpu_period_us != 0 {
        let quota = match u64::try_from(limits.cpu_quota_us) {
            Ok(quota) if quota > 0 => quota.to_string(),
            _ => "max".to_owned(),
        };
        let period = if limits.cpu_period_us == 0 {
            PERIOD_US
        } else {
            limits.cpu_period_us
        };
        writes.push(Write::new("cpu", "cpu.max", format!("{quota} {period}")));
    }
    for (file, value) in [
        ("cpuset.cpus", &limits.cpuset_cpus),
        ("cpuset.mems", &limits.cpuset_mems),
    ] {
        if !value.is_empty() {
            writes.push(Write::new("cpuset", file, value.clone()));
        }
    }
    if limits.pids != 0 {
        writes.push(Write::new("pids", "pids.max", pids_value(limits.pids)));
    }
    io(limits, &mut writes);
    for (size, bytes) in &limits.hugepages {
        writes.push(Write::new(
            "hugetlb",
            format!("hugetlb.{size}.max"),
            bytes.to_string(),
        ));
    }
    for (file, value) in &limits.unified {
        writes.push(Write::new("unified", file.clone(), value.clone()));
    }
    writes
}

fn memory(limits: &Limits) -> Vec<Write> {
    let mut writes = Vec::new();
    let amount = |bytes: i64| {
        if bytes < 0 {
            "max".to_owned()
        } else {
            bytes.to_string()
        }
    };
    if let Some(swap) = swap_bytes(limits) {
        let write = Write::new("memory", "memory.swap.max", amount(swap));
        // A kernel without swap accounting has no such file, nor any swap to limit.
        writes.push(if swap <= 0 { write.or_skip() } else { write });
    }
    if limits.memory_bytes != 0 {
        writes.push(Write::new(
            "memory",
            "memory.max",
            amount(limits.memory_bytes),
        ));
    }
    if limits.memory_reservation_bytes != 0 {
        writes.push(Write::new(
            "memory",
            "memory.low",
            amount(limits.memory_reservation_bytes),
        ));
    }
    writes
}

/// Swap alone, which v1 counts together with memory; -1: unlimited, none: not given.
fn swap_bytes(limits: &Limits) -> Option<i64> {
    match (limits.memory_bytes, limits.memory_swap_bytes) {
        (-1, 0) => Some(-1),
        (_, 0) => None,
        (_, -1) => Some(-1),
        (memory, both) => Some(both - memory.max(0)),
    }
}

/// v1's shares, 2 to 262144, as v2's weight, 1 to 10000. The curve is runc's: both ends and the
/// default (1024 is 100) meet.
pub(super) fn cpu_weight(shares: u64) -> u64 {
    const SHARES_MAX: u64 = 262_144;
    const WEIGHT_MAX: u64 = 10_000;
    if shares <= 2 {
        return 1;
    }
    if shares >= SHARES_MAX {
        return WEIGHT_MAX;
    }
    // Below 2^18, so the conversion is exact.
    let log = u32::try_from(shares).map_or(18.0, f64::from).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    let weight = 10f64.powf(exponent).ceil();
    (1..=WEIGHT_MAX)
        .find(|candidate| {
            u32::try_from(*candidate).is_ok_and(|candidate| f64::from(candidate) >= weight)
        })
        .unwrap_or(WEIGHT_MAX)
}

/// v1's 10 to 1000 as v2's 1 to 10000, in a straight line as runc does.
fn io_weight(weight: u64) -> u64 {
    1 + weight.saturating_sub(10) * 9999 / 990
}

fn io(limits: &Limits, writes: &mut Vec<Write>) {
    if limits.blkio_weight != 0 {
        let weight = u64::from(limits.blkio_weight);
        writes.push(weight_write(
            &weight.to_string(),
            &io_weight(weight).to_string(),
        ));
    }
    for limit in &limits.blkio_devices {
        let BlkioLimit {
            major,
            minor,
            value,
            ..
        } = limit;
        let throttle =
            |what: &str| Write::new("io", "io.max", format!("{major}:{minor} {what}={value}"));
        writes.push(match limit.kind {
            BlkioKind::Weight => weight_write(
                &format!("{major}:{minor} {value}"),
                &format!("{major}:{minor} {}", io_weight(*value)),
            ),
            BlkioKind::ReadBytes => throttle("rbps"),
            BlkioKind::WriteBytes => throttle("wbps"),
            BlkioKind::ReadOperations => throttle("riops"),
            BlkioKind::WriteOperations => throttle("wiops"),
        });
    }
}

/// The BFQ scheduler, where it is used, has a file of its own with v1's scale.
fn weight_write(bfq: &str, weight: &str) -> Write {
    Write::new("io", "io.bfq.weight", bfq.to_owned()).or_else_value("io.weight", weight.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::Write;
    use super::{Limits, cpu_weight, io_weight, plan};
    use crate::cgroup::{BlkioKind, BlkioLimit};

    fn check(limits: &Limits, expected: &[&str]) {
        let written: Vec<String> = plan(limits).iter().map(Write::to_string).collect();
        assert_eq!(written, expected, "{limits:?}");
    }

    #[test]
    fn shares_become_weights_as_in_runc() {
        let rows = [
            (1, 1),
            (2, 1),
            (10, 4),
            (100, 17),
            (512, 59),
            (1024, 100),
            (262_144, 10_000),
        ];
        for (shares, weight) in rows {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        assert!(
            (3..262_144)
                .step_by(97)
                .all(|s| cpu_weight(s) <= cpu_weight(s + 97))
        );
        assert_eq!(
            (io_weight(10), io_weight(500), io_weight(1000)),
            (1, 4950, 10_000)
        );
    }

    #[test]
    fn swap_is_counted_alone() {
        let memory = |memory_bytes, memory_swap_bytes| Limits {
            memory_bytes,
            memory_swap_bytes,
            ..Limits::default()
        };
        check(
            &memory(100, 300),
            &["memory.swap.max=200", "memory.max=100"],
        );
        check(&memory(100, 100), &["memory.swap.max=0", "memory.max=100"]);
        check(&memory(100, -1), &["memory.swap.max=max", "memory.max=100"]);
        check(&memory(100, 0), &["memory.max=100"]);
        check(&memory(-1, 0), &["memory.swap.max=max", "memory.max=max"]);
    }

    #[test]
    fn each_limit_has_its_file() {
        let limits = Limits {
            memory_reservation_bytes: 5,
            memory_swappiness: Some(3),
            oom_kill_disable: true,
            cpu_quota_us: 50_000,
            cpuset_cpus: "0-1".to_owned(),
            pids: 9,
            blkio_weight: 10,
            blkio_devices: vec![BlkioLimit {
                kind: BlkioKind::ReadOperations,
                major: 8,
                minor: 16,
                value: 9,
            }],
            hugepages: vec![("2MB".to_owned(), 7)],
            unified: vec![("memory.high".to_owned(), "6".to_owned())],
            ..Limits::default()
        };
        check(
            &limits,
            &[
                "memory.low=5",
                "cpu.max=50000 100000",
                "cpuset.cpus=0-1",
                "pids.max=9",
                "io.bfq.weight=10",
                "io.max=8:16 riops=9",
                "hugetlb.2MB.max=7",
                "memory.high=6",
            ],
        );
        check(
            &Limits {
                cpu_period_us: 7,
                ..Limits::default()
            },
            &["cpu.max=max 7"],
        );
        check(&Limits::default(), &[]);
    }
}
