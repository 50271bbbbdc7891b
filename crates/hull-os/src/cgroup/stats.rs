//! What a cgroup used, as the kernel counts it: raw numbers, no percentages.

use std::io;

use super::Group;
use super::file::number_of;

/// Figures of one cgroup. What this host does not count is 0 or empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Memory.
    pub memory: MemoryStats,
    /// Processors.
    pub cpu: CpuStats,
    /// Processes and threads now.
    pub pids: u64,
    /// Most processes and threads allowed; none: unlimited.
    pub pids_limit: Option<u64>,
    /// Block I/O by device.
    pub blkio: Vec<BlkioStats>,
}

/// Memory of a cgroup, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Now, with the page cache.
    pub usage: u64,
    /// The most there was.
    pub usage_max: u64,
    /// The limit; none: unlimited.
    pub limit: Option<u64>,
    /// How often the limit was reached.
    pub limit_reached: u64,
    /// Processes killed for lack of memory.
    pub oom_kills: u64,
    /// Every line of `memory.stat`.
    pub detail: Vec<(String, u64)>,
}

/// Processor time of a cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Nanoseconds in all.
    pub total_ns: u64,
    /// Nanoseconds of them in programs.
    pub user_ns: u64,
    /// Nanoseconds of them in the kernel.
    pub system_ns: u64,
    /// Nanoseconds by processor. Only v1.
    pub each_ns: Vec<u64>,
    /// Periods with a quota.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Nanoseconds of waiting for the next period.
    pub throttled_ns: u64,
}

/// Block I/O of a cgroup on one device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlkioStats {
    /// Major number of the device.
    pub major: u32,
    /// Minor number of the device.
    pub minor: u32,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// v1 shows a limit of about 2^63 where there is none.
const UNLIMITED_BYTES_MIN: u64 = 1 << 62;

/// Nanoseconds of one tick in `cpuacct.stat`: `USER_HZ` is 100 on all our architectures.
const TICK_NS: u64 = 10_000_000;

impl Group {
    /// Reads all figures.
    ///
    /// # Errors
    /// When the cgroup does not exist.
    pub fn stats(&self) -> io::Result<Stats> {
        if !self.exists() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(if self.hierarchies().is_v2() {
            self.stats_v2()
        } else {
            self.stats_v1()
        })
    }

    fn text(&self, controller: &str, file: &str) -> String {
        self.read(controller, file).unwrap_or_default()
    }

    fn one(&self, controller: &str, file: &str) -> u64 {
        self.text(controller, file).trim().parse().unwrap_or(0)
    }

    fn stats_v1(&self) -> Stats {
        let oom = self.text("memory", "memory.oom_control");
        let throttling = self.text("cpu", "cpu.stat");
        let ticks = self.text("cpuacct", "cpuacct.stat");
        let limit = self.one("memory", "memory.limit_in_bytes");
        let bytes = self.text("blkio", "blkio.throttle.io_service_bytes_recursive");
        let operations = self.text("blkio", "blkio.throttle.io_serviced_recursive");
        let each = self.text("cpuacct", "cpuacct.usage_percpu");
        Stats {
            memory: MemoryStats {
                usage: self.one("memory", "memory.usage_in_bytes"),
                usage_max: self.one("memory", "memory.max_usage_in_bytes"),
                limit: (1..UNLIMITED_BYTES_MIN).contains(&limit).then_some(limit),
                limit_reached: self.one("memory", "memory.failcnt"),
                oom_kills: number_of(&oom, "oom_kill").unwrap_or(0),
                detail: pairs(&self.text("memory", "memory.stat")),
            },
            cpu: CpuStats {
                total_ns: self.one("cpuacct", "cpuacct.usage"),
                user_ns: number_of(&ticks, "user").unwrap_or(0) * TICK_NS,
                system_ns: number_of(&ticks, "system").unwrap_or(0) * TICK_NS,
                each_ns: each
                    .split_whitespace()
                    .filter_map(|n| n.parse().ok())
                    .collect(),
                periods: number_of(&throttling, "nr_periods").unwrap_or(0),
                throttled_periods: number_of(&throttling, "nr_throttled").unwrap_or(0),
                throttled_ns: number_of(&throttling, "throttled_time").unwrap_or(0),
            },
            pids: self.one("pids", "pids.current"),
            pids_limit: self.text("pids", "pids.max").trim().parse().ok(),
            blkio: blkio_v1(&bytes, &operations),
        }
    }

    fn stats_v2(&self) -> Stats {
        let events = self.text("memory", "memory.events");
        let cpu = self.text("cpu", "cpu.stat");
        let cpu_us = |word| number_of(&cpu, word).unwrap_or(0);
        Stats {
            memory: MemoryStats {
                usage: self.one("memory", "memory.current"),
                usage_max: self.one("memory", "memory.peak"),
                limit: self.text("memory", "memory.max").trim().parse().ok(),
                limit_reached: number_of(&events, "max").unwrap_or(0),
                oom_kills: number_of(&events, "oom_kill").unwrap_or(0),
                detail: pairs(&self.text("memory", "memory.stat")),
            },
            cpu: CpuStats {
                total_ns: cpu_us("usage_usec") * 1000,
                user_ns: cpu_us("user_usec") * 1000,
                system_ns: cpu_us("system_usec") * 1000,
                each_ns: Vec::new(),
                periods: cpu_us("nr_periods"),
                throttled_periods: cpu_us("nr_throttled"),
                throttled_ns: cpu_us("throttled_usec") * 1000,
            },
            pids: self.one("pids", "pids.current"),
            pids_limit: self.text("pids", "pids.max").trim().parse().ok(),
            blkio: self
                .text("io", "io.stat")
                .lines()
                .filter_map(blkio_v2)
                .collect(),
        }
    }
}

fn pairs(text: &str) -> Vec<(String, u64)> {
    let pair = |line: &str| {
        let (word, number) = line.split_once(' ')?;
        Some((word.to_owned(), number.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Joins the lines `8:0 Read 4096` of two files by device.
fn blkio_v1(bytes: &str, operations: &str) -> Vec<BlkioStats> {
    let mut found: Vec<BlkioStats> = Vec::new();
    for (text, counts_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some((major, minor)), Some(what), Some(Ok(value))) = (
                words.next().and_then(device),
                words.next(),
                words.next().map(str::parse::<u64>),
            ) else {
                continue;
            };
            let known = found
                .iter()
                .position(|s| (s.major, s.minor) == (major, minor));
            let at = known.unwrap_or_else(|| {
                found.push(BlkioStats {
                    major,
                    minor,
                    ..BlkioStats::default()
                });
                found.len() - 1
            });
            match (what, counts_bytes) {
                ("Read", true) => found[at].read_bytes = value,
                ("Write", true) => found[at].write_bytes = value,
                ("Read", false) => found[at].reads = value,
                ("Write", false) => found[at].writes = value,
                _ => {}
            }
        }
    }
    found
}

/// Reads `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
fn blkio_v2(line: &str) -> Option<BlkioStats> {
    let mut words = line.split(' ');
    let (major, minor) = device(words.next()?)?;
    let mut stats = BlkioStats {
        major,
        minor,
        ..BlkioStats::default()
    };
    for (name, value) in words.filter_map(|word| word.split_once('=')) {
        let value = value.parse().unwrap_or(0);
        match name {
            "rbytes" => stats.read_bytes = value,
            "wbytes" => stats.write_bytes = value,
            "rios" => stats.reads = value,
            "wios" => stats.writes = value,
            _ => {}
        }
    }
    Some(stats)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::{Group, Hierarchies};
    use super::{BlkioStats, blkio_v1, blkio_v2, pairs};

    #[test]
    fn lines_of_both_versions_become_the_same_numbers() {
        let expected = BlkioStats {
            major: 254,
            minor: 16,
            read_bytes: 4096,
            write_bytes: 8192,
            reads: 1,
            writes: 2,
        };
        let bytes = "254:16 Read 4096\n254:16 Write 8192\n254:16 Total 12288\nTotal 12288\n";
        let operations = "254:16 Read 1\n254:16 Write 2\n254:16 Sync 3\nTotal 3\n";
        assert_eq!(blkio_v1(bytes, operations), [expected]);
        let line = "254:16 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0";
        assert_eq!(blkio_v2(line), Some(expected));
        assert_eq!(pairs("cache 7\nrss x\nnone\n"), [("cache".to_owned(), 7)]);
    }

    /// Files of a cgroup as Linux 6.1 writes them, version 2 alone.
    const V2: [(&str, &str); 10] = [
        ("memory.current", "29880320\n"),
        ("memory.peak", "31457280\n"),
        ("memory.max", "67108864\n"),
        (
            "memory.stat",
            "anon 1073152\nfile 25710592\nkernel 2117632\nkernel_stack 49152\nfile_mapped 135168\n\
             inactive_anon 1060864\nactive_anon 12288\ninactive_file 24637440\nactive_file 1073152\n\
             pgfault 2310\npgmajfault 4\n",
        ),
        (
            "memory.events",
            "low 0\nhigh 0\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n",
        ),
        (
            "cpu.stat",
            "usage_usec 1500250\nuser_usec 1000100\nsystem_usec 500150\nnr_periods 40\nnr_throttled 3\n\
             throttled_usec 70001\nnr_bursts 0\nburst_usec 0\n",
        ),
        ("pids.current", "5\n"),
        ("pids.max", "100\n"),
        (
            "io.stat",
            "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n7:1 \n\
             8:16 rbytes=12288 wbytes=0 rios=3 wios=0 dbytes=0 dios=0\n",
        ),
        ("cgroup.procs", "1\n"),
    ];

    fn group(name: &str, files: &[(&str, &str)]) -> (PathBuf, Group) {
        let folder = format!("hull-os-stats-{name}-{}", std::process::id());
        let mount = std::env::temp_dir().join(folder);
        std::fs::create_dir_all(mount.join("hull/c")).unwrap();
        for (file, text) in files {
            std::fs::write(mount.join("hull/c").join(file), text).unwrap();
        }
        let trees = Hierarchies::parse(&format!(" {}\n", mount.display())).unwrap();
        (mount, trees.open_group("hull/c"))
    }

    #[test]
    fn files_of_version_2_are_read_as_the_kernel_writes_them() {
        let (mount, group) = group("all", &V2);
        let stats = group.stats().unwrap();
        let (memory, cpu) = (&stats.memory, &stats.cpu);
        assert_eq!(
            (memory.usage, memory.usage_max, memory.limit),
            (29_880_320, 31_457_280, Some(67_108_864))
        );
        assert_eq!((memory.limit_reached, memory.oom_kills), (12, 1));
        let of = |word: &str| memory.detail.iter().find(|(w, _)| w == word).unwrap().1;
        assert_eq!((of("inactive_file"), of("pgmajfault")), (24_637_440, 4));
        assert_eq!(
            (cpu.total_ns, cpu.user_ns, cpu.system_ns),
            (1_500_250_000, 1_000_100_000, 500_150_000)
        );
        assert_eq!(
            (cpu.periods, cpu.throttled_periods, cpu.throttled_ns),
            (40, 3, 70_001_000)
        );
        // Version 2 does not count by processor.
        assert!(cpu.each_ns.is_empty());
        assert_eq!((stats.pids, stats.pids_limit), (5, Some(100)));
        let io = |major, minor, read_bytes, write_bytes, reads, writes| BlkioStats {
            major,
            minor,
            read_bytes,
            write_bytes,
            reads,
            writes,
        };
        // A device that nothing was read from or written to has no figures.
        let used = stats
            .blkio
            .iter()
            .filter(|device| **device != io(7, 1, 0, 0, 0, 0));
        let expected = [io(254, 0, 4096, 8192, 1, 2), io(8, 16, 12_288, 0, 3, 0)];
        assert!(used.eq(&expected), "{:?}", stats.blkio);
        std::fs::remove_dir_all(mount).unwrap();
    }

    #[test]
    fn what_version_2_does_not_limit_or_count_is_none_or_nothing() {
        let unlimited = [
            ("memory.max", "max\n"),
            ("pids.max", "max\n"),
            ("pids.current", "1\n"),
        ];
        let (mount, group) = group("none", &unlimited);
        let stats = group.stats().unwrap();
        assert_eq!(
            (stats.memory.limit, stats.pids_limit, stats.pids),
            (None, None, 1)
        );
        // Kernels before 5.19 have no memory.peak; a host may have no io controller.
        assert_eq!((stats.memory.usage_max, stats.blkio.len()), (0, 0));
        std::fs::remove_dir_all(mount).unwrap();
    }
}
