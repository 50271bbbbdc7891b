//! Docker's default mounts, devices and hidden paths.

use crate::spec::{DeviceNode, Mount, MountKind, MountOptions};

/// Paths hidden from a container that is not privileged, as in Docker.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    // Power drawn tells what neighbours compute (CVE-2020-8694).
    "/sys/devices/virtual/powercap",
];

/// Paths that a container that is not privileged can only read, as in Docker.
pub const READONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The mounts every container has: `/proc`, `/dev` with pts, shm and mqueue, `/sys`, cgroups.
///
/// A privileged one may write to `/sys` and to its cgroups. `shm_bytes` of 0 leaves `/dev/shm` out
/// (IPC of another container or of the host brings its own).
pub fn default_mounts(shm_bytes: u64, privileged: bool) -> Vec<Mount> {
    let strict = MountOptions {
        nosuid: true,
        nodev: true,
        noexec: true,
        ..MountOptions::default()
    };
    let system = MountOptions {
        readonly: !privileged,
        ..strict
    };
    let pts = MountOptions {
        nosuid: true,
        noexec: true,
        ..MountOptions::default()
    };
    let dev = MountOptions {
        nosuid: true,
        ..MountOptions::default()
    };
    let mut mounts = vec![
        mount(MountKind::Proc, "/proc", strict, ""),
        mount(MountKind::Tmpfs, "/dev", dev, "mode=755,size=65536k"),
        mount(
            MountKind::Devpts,
            "/dev/pts",
            pts,
            "mode=0620,ptmxmode=0666,gid=5",
        ),
        mount(MountKind::Sysfs, "/sys", system, ""),
        mount(MountKind::Cgroup, "/sys/fs/cgroup", system, ""),
        mount(MountKind::Mqueue, "/dev/mqueue", strict, ""),
    ];
    if shm_bytes > 0 {
        let data = format!("mode=1777,size={shm_bytes}");
        mounts.push(mount(MountKind::Tmpfs, "/dev/shm", strict, &data));
    }
    mounts
}

fn mount(kind: MountKind, destination: &str, options: MountOptions, data: &str) -> Mount {
    Mount {
        kind,
        destination: destination.to_owned(),
        options,
        data: data.to_owned(),
    }
}

/// The device nodes every container has. Links such as `/dev/stdin` are made by the shim.
pub fn default_devices() -> Vec<DeviceNode> {
    [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ]
    .into_iter()
    .map(|(name, major, minor)| DeviceNode {
        path: format!("/dev/{name}"),
        block: false,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    })
    .collect()
}
