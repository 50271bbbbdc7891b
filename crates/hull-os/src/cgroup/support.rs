//! Which limits this host can hold, and what Docker says about those that it cannot.

use std::io;
use std::os::fd::OwnedFd;

use super::file::{children, exists, read};
use super::limits::{BlkioKind, Limits};
use super::{Hierarchies, Hierarchy};

/// Least memory that a container can be limited to.
pub const MEMORY_BYTES_MIN: i64 = 6 << 20;
/// Bounds of a scheduling period in microseconds, and of a quota from below.
const PERIOD_US: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
/// Bounds of a block I/O weight.
const BLKIO_WEIGHT: std::ops::RangeInclusive<u16> = 10..=1000;
/// Highest swappiness.
const SWAPPINESS_MAX: u8 = 100;

/// Which limits the kernel offers here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about the kernel"
)]
pub struct Support {
    /// Memory.
    pub memory: bool,
    /// Memory and swap together (v1), swap (v2).
    pub swap: bool,
    /// A soft limit.
    pub memory_reservation: bool,
    /// How readily memory is swapped out.
    pub swappiness: bool,
    /// Waiting instead of being killed.
    pub oom_kill_disable: bool,
    /// Relative weight of processors.
    pub cpu_shares: bool,
    /// Quota and period.
    pub cpu_quota: bool,
    /// Real-time scheduling.
    pub cpu_realtime: bool,
    /// Choice of processors and memory nodes.
    pub cpuset: bool,
    /// Processes and threads.
    pub pids: bool,
    /// Weights of block I/O.
    pub blkio_weight: bool,
    /// Rates of block I/O.
    pub blkio_rate: bool,
    /// Devices.
    pub devices: bool,
    /// Processors that a cgroup can have, as in `0-3`; empty: unknown.
    pub cpus: String,
    /// Memory nodes that a cgroup can have; empty: unknown.
    pub mems: String,
}

/// Limits that make no sense; the text is Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

impl From<Refused> for io::Error {
    fn from(error: Refused) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

impl Hierarchies {
    /// Looks which limits can be held here.
    pub fn support(&self) -> Support {
        match self.all.iter().find(|hierarchy| hierarchy.is_v2()) {
            Some(v2) if self.is_v2() => support_v2(&v2.dir),
            _ => self.support_v1(),
        }
    }

    fn support_v1(&self) -> Support {
        let has = |controller: &str, file: &str| {
            self.of(controller)
                .is_some_and(|hierarchy: &Hierarchy| exists(&hierarchy.dir, file))
        };
        let list = |file: &str| {
            let text = self
                .of("cpuset")
                .and_then(|hierarchy| read(&hierarchy.dir, file).ok());
            text.unwrap_or_default().trim().to_owned()
        };
        Support {
            memory: self.of("memory").is_some(),
            swap: has("memory", "memory.memsw.limit_in_bytes"),
            memory_reservation: has("memory", "memory.soft_limit_in_bytes"),
            swappiness: has("memory", "memory.swappiness"),
            oom_kill_disable: has("memory", "memory.oom_control"),
            cpu_shares: has("cpu", "cpu.shares"),
            cpu_quota: has("cpu", "cpu.cfs_quota_us"),
            cpu_realtime: has("cpu", "cpu.rt_period_us"),
            cpuset: self.of("cpuset").is_some(),
            pids: self.of("pids").is_some(),
            blkio_weight: has("blkio", "blkio.weight"),
            blkio_rate: has("blkio", "blkio.throttle.read_bps_device"),
            devices: self.of("devices").is_some(),
            cpus: list("cpuset.cpus"),
            mems: list("cpuset.mems"),
        }
    }
}

fn support_v2(root: &OwnedFd) -> Support {
    let controllers = read(root, "cgroup.controllers").unwrap_or_default();
    let has = |name: &str| controllers.split_whitespace().any(|known| known == name);
    // The root has no limits itself; any child shows whether swap is accounted.
    let child = children(root, "").unwrap_or_default().into_iter().next();
    let swap = child.is_none_or(|child| {
        exists(root, &format!("{child}/memory.swap.max"))
            || !exists(root, &format!("{child}/memory.max"))
    });
    let list = |file| read(root, file).unwrap_or_default().trim().to_owned();
    Support {
        memory: has("memory"),
        swap: has("memory") && swap,
        memory_reservation: has("memory"),
        swappiness: false,
        oom_kill_disable: false,
        cpu_shares: has("cpu"),
        cpu_quota: has("cpu"),
        cpu_realtime: false,
        cpuset: has("cpuset"),
        pids: has("pids"),
        blkio_weight: has("io"),
        blkio_rate: has("io"),
        devices: true,
        cpus: list("cpuset.cpus.effective"),
        mems: list("cpuset.mems.effective"),
    }
}

impl Support {
    /// Makes limits such as this host can hold: takes out what it lacks, with Docker's warnings.
    /// Memory without a limit of swap gets twice as much with swap, as in Docker.
    ///
    /// # Errors
    /// [`Refused`] for limits that make no sense anywhere.
    pub fn fit(&self, limits: &mut Limits, update: bool) -> Result<Vec<String>, Refused> {
        let mut warnings = Vec::new();
        if limits.memory_bytes > 0 && limits.memory_swap_bytes == 0 && !update {
            limits.memory_swap_bytes = limits.memory_bytes.saturating_mul(2);
        }
        self.fit_memory(limits, update, &mut warnings)?;
        self.fit_memory_details(limits, &mut warnings)?;
        self.fit_cpu(limits, &mut warnings)?;
        self.fit_cpuset(limits, &mut warnings)?;
        self.fit_blkio(limits, &mut warnings)?;
        Ok(warnings)
    }

    fn fit_memory(
        &self,
        limits: &mut Limits,
        update: bool,
        warnings: &mut Vec<String>,
    ) -> Result<(), Refused> {
        if limits.memory_bytes != 0 && limits.memory_bytes < MEMORY_BYTES_MIN {
            return refuse("Minimum memory limit allowed is 6MB");
        }
        if limits.memory_bytes > 0 && !self.memory {
            warn(
                warnings,
                "memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
            );
            limits.memory_bytes = 0;
            limits.memory_swap_bytes = 0;
        }
        if limits.memory_bytes > 0 && limits.memory_swap_bytes != -1 && !self.swap {
            let text = "swap limit capabilities or the cgroup is not mounted. Memory limited without swap.";
            warn(warnings, text);
            limits.memory_swap_bytes = 0;
        }
        let swap = limits.memory_swap_bytes;
        if limits.memory_bytes > 0 && swap > 0 && swap < limits.memory_bytes {
            return refuse(
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            );
        }
        if limits.memory_bytes == 0 && swap > 0 && !update {
            return refuse(
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            );
        }
        if !self.swap {
            limits.memory_swap_bytes = 0;
        }
        Ok(())
    }

    fn fit_memory_details(
        &self,
        limits: &mut Limits,
        warnings: &mut Vec<String>,
    ) -> Result<(), Refused> {
        if limits.memory_swappiness.is_some() && !self.swappiness {
            let text = "memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.";
            warn(warnings, text);
            limits.memory_swappiness = None;
        }
        if let Some(value) = limits
            .memory_swappiness
            .filter(|value| *value > SWAPPINESS_MAX)
        {
            let text = format!("Invalid value: {value}, valid memory swappiness range is 0-100");
            return Err(Refused(text));
        }
        if limits.memory_reservation_bytes > 0 && !self.memory_reservation {
            let text = "memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.";
            warn(warnings, text);
            limits.memory_reservation_bytes = 0;
        }
        let reserved = limits.memory_reservation_bytes;
        if reserved > 0 && reserved < MEMORY_BYTES_MIN {
            return refuse("Minimum memory reservation allowed is 6MB");
        }
        if limits.memory_bytes > 0 && reserved > limits.memory_bytes {
            return refuse(
                "Minimum memory limit can not be less than memory reservation limit, see usage",
            );
        }
        if limits.oom_kill_disable && !self.oom_kill_disable {
            warn(warnings, "OomKillDisable. OomKillDisable discarded.");
            limits.oom_kill_disable = false;
        }
        if limits.oom_kill_disable && limits.memory_bytes == 0 {
            warnings.push(
                "OOM killer is disabled for the container, but no memory limit is set, this can \
                 result in the system running out of resources."
                    .to_owned(),
            );
        }
        if limits.pids != 0 && !self.pids {
            if limits.pids > 0 {
                warn(
                    warnings,
                    "PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
                );
            }
            limits.pids = 0;
        }
        Ok(())
    }

    fn fit_cpu(&self, limits: &mut Limits, warnings: &mut Vec<String>) -> Result<(), Refused> {
        if limits.cpu_shares > 0 && !self.cpu_shares {
            warn(
                warnings,
                "CPU shares or the cgroup is not mounted. Shares discarded.",
            );
            limits.cpu_shares = 0;
        }
        if (limits.cpu_period_us, limits.cpu_quota_us) != (0, 0) && !self.cpu_quota {
            warn(warnings, "CPU CFS scheduler. CPU period/quota discarded.");
            (limits.cpu_period_us, limits.cpu_quota_us) = (0, 0);
        }
        if limits.cpu_period_us != 0 && !PERIOD_US.contains(&limits.cpu_period_us) {
            return refuse(
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            );
        }
        if (1..1000).contains(&limits.cpu_quota_us) {
            return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
        }
        let realtime = limits.cpu_realtime_period_us != 0 || limits.cpu_realtime_runtime_us != 0;
        if realtime && !self.cpu_realtime {
            return refuse("Your kernel does not support CPU real-time scheduler");
        }
        Ok(())
    }

    fn fit_cpuset(&self, limits: &mut Limits, warnings: &mut Vec<String>) -> Result<(), Refused> {
        let given = !limits.cpuset_cpus.is_empty() || !limits.cpuset_mems.is_empty();
        if given && !self.cpuset {
            warn(
                warnings,
                "cpuset or the cgroup is not mounted. Cpuset discarded.",
            );
            limits.cpuset_cpus.clear();
            limits.cpuset_mems.clear();
        }
        let rows = [
            (&limits.cpuset_cpus, &self.cpus, "cpus", "CPUs"),
            (&limits.cpuset_mems, &self.mems, "mems", "memory nodes"),
        ];
        for (wanted, available, name, title) in rows {
            let Some(parsed) = parse_list(wanted) else {
                return Err(Refused(format!(
                    "Invalid value {wanted} for cpuset {name}: invalid format: {wanted}"
                )));
            };
            let known = parse_list(available).unwrap_or_default();
            let inside = |range: &(u32, u32)| (range.0..=range.1).all(|n| contains(&known, n));
            if !known.is_empty() && !parsed.iter().all(inside) {
                return Err(Refused(format!(
                    "Requested {title} are not available - requested {wanted}, available: {available}"
                )));
            }
        }
        Ok(())
    }

    fn fit_blkio(&self, limits: &mut Limits, warnings: &mut Vec<String>) -> Result<(), Refused> {
        if limits.blkio_weight > 0 && !self.blkio_weight {
            warn(
                warnings,
                "Block I/O weight or the cgroup is not mounted. Weight discarded.",
            );
            limits.blkio_weight = 0;
        }
        if limits.blkio_weight > 0 && !BLKIO_WEIGHT.contains(&limits.blkio_weight) {
            return refuse("Range of blkio weight is from 10 to 1000");
        }
        let rows = [
            (
                BlkioKind::Weight,
                self.blkio_weight,
                "Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
            ),
            (
                BlkioKind::ReadBytes,
                self.blkio_rate,
                "BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded.",
            ),
            (
                BlkioKind::WriteBytes,
                self.blkio_rate,
                "BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded.",
            ),
            (
                BlkioKind::ReadOperations,
                self.blkio_rate,
                "IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded.",
            ),
            (
                BlkioKind::WriteOperations,
                self.blkio_rate,
                "IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded.",
            ),
        ];
        for (kind, supported, text) in rows {
            let before = limits.blkio_devices.len();
            limits
                .blkio_devices
                .retain(|limit| supported || limit.kind != kind);
            if limits.blkio_devices.len() < before {
                warn(warnings, text);
            }
        }
        Ok(())
    }
}

/// Every warning of Docker's begins with these words.
fn warn(warnings: &mut Vec<String>, what: &str) {
    warnings.push(format!("Your kernel does not support {what}"));
}

fn refuse(text: &str) -> Result<(), Refused> {
    Err(Refused(text.to_owned()))
}

/// Reads `0-2,4` as ranges.
fn parse_list(text: &str) -> Option<Vec<(u32, u32)>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last && last <= CPUS_MAX).then_some((first, last))
    };
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(range)
        .collect()
}

/// Highest number in a list of processors or nodes: bounds the work that a request can cause.
const CPUS_MAX: u32 = 8192;

fn contains(ranges: &[(u32, u32)], number: u32) -> bool {
    ranges
        .iter()
        .any(|range| (range.0..=range.1).contains(&number))
}

#[cfg(test)]
mod tests {
    use super::{Limits, Refused, Support};
    use crate::cgroup::{BlkioKind, BlkioLimit};

    fn everything() -> Support {
        Support {
            memory: true,
            swap: true,
            memory_reservation: true,
            swappiness: true,
            oom_kill_disable: true,
            cpu_shares: true,
            cpu_quota: true,
            cpu_realtime: true,
            cpuset: true,
            pids: true,
            blkio_weight: true,
            blkio_rate: true,
            devices: true,
            cpus: "0-1".to_owned(),
            mems: "0".to_owned(),
        }
    }

    const MIB: i64 = 1 << 20;

    fn refused(limits: &Limits, expected: &str) {
        let found = everything().fit(&mut limits.clone(), false);
        assert_eq!(found, Err(Refused(expected.to_owned())), "{limits:?}");
    }

    #[test]
    fn memory_gets_as_much_swap_again() {
        let mut limits = Limits {
            memory_bytes: 64 * MIB,
            ..Limits::default()
        };
        assert_eq!(everything().fit(&mut limits, false), Ok(Vec::new()));
        assert_eq!(limits.memory_swap_bytes, 128 * MIB);
    }

    #[test]
    fn what_the_host_lacks_is_taken_out_with_dockers_words() {
        let no_swap = Support {
            swap: false,
            ..everything()
        };
        let mut limits = Limits {
            memory_bytes: 64 * MIB,
            ..Limits::default()
        };
        let warnings = no_swap.fit(&mut limits, false).unwrap();
        assert_eq!(
            warnings,
            [
                "Your kernel does not support swap limit capabilities or the cgroup is not mounted. \
              Memory limited without swap."
            ]
        );
        assert_eq!(
            (limits.memory_bytes, limits.memory_swap_bytes),
            (64 * MIB, 0)
        );

        let rate = BlkioLimit {
            kind: BlkioKind::ReadBytes,
            major: 8,
            minor: 0,
            value: 1,
        };
        let mut limits = Limits {
            memory_bytes: 64 * MIB,
            memory_reservation_bytes: 32 * MIB,
            memory_swappiness: Some(1),
            oom_kill_disable: true,
            cpu_shares: 5,
            cpu_quota_us: 1000,
            cpuset_cpus: "0".to_owned(),
            pids: 5,
            blkio_weight: 10,
            blkio_devices: vec![rate],
            ..Limits::default()
        };
        let warnings = Support::default().fit(&mut limits, false).unwrap();
        assert_eq!(warnings.len(), 10, "{warnings:#?}");
        assert_eq!(limits, Limits::default());
    }

    #[test]
    fn nonsense_is_refused_in_dockers_words() {
        let none = Limits::default();
        refused(
            &Limits {
                memory_bytes: 5,
                ..none.clone()
            },
            "Minimum memory limit allowed is 6MB",
        );
        refused(
            &Limits {
                memory_bytes: 10 * MIB,
                memory_swap_bytes: 9 * MIB,
                ..none.clone()
            },
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        );
        refused(
            &Limits {
                memory_swap_bytes: 9 * MIB,
                ..none.clone()
            },
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
        refused(
            &Limits {
                cpuset_cpus: "0-7".to_owned(),
                ..none.clone()
            },
            "Requested CPUs are not available - requested 0-7, available: 0-1",
        );
        refused(
            &Limits {
                cpuset_cpus: "1-".to_owned(),
                ..none.clone()
            },
            "Invalid value 1- for cpuset cpus: invalid format: 1-",
        );
        refused(
            &Limits {
                blkio_weight: 9,
                ..none.clone()
            },
            "Range of blkio weight is from 10 to 1000",
        );
        refused(
            &Limits {
                cpu_quota_us: 999,
                ..none
            },
            "CPU cfs quota can not be less than 1ms (i.e. 1000)",
        );
    }
}
