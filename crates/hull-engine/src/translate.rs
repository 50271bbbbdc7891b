//! From what was asked for to what a sandbox is: defaults, masks, mounts, environment.
//!
//! Pure but for the look at the host's devices that `--privileged` and `--device` need. The
//! defaults are Docker's, so that an image sees what it sees there.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use hull_model::SandboxId;
use hull_model::limits::SHM_BYTES;
use hull_model::spec::{
    ContainerSpec, DeviceSpec, Isolation, MountForm, MountKind as Asked, MountSpec, NamespaceMode,
    NetworkMode, Propagation as Travels, SeccompChoice,
};
use hull_sandbox::container::{self, capability, seccomp};
use hull_sandbox::{
    CapabilitySets, DeviceNode, Mount, MountKind, MountOptions, Process, Propagation, Rlimit,
    Stdin, Sysctl,
};

use crate::api::{ExecRequest, MountPoint};
use crate::error::{EngineError, Result};
use crate::object::volume::{Sources, VolumeTable};

/// Where programs are looked for when the image does not say.
const PATH_DEFAULT: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn mount(kind: MountKind, destination: &str, options: MountOptions, data: &str) -> Mount {
    Mount {
        kind,
        destination: destination.to_owned(),
        options,
        data: data.to_owned(),
    }
}

/// All mounts, in the order in which they are made.
pub(crate) fn mounts(spec: &ContainerSpec, files: &Path, volumes: &Sources) -> Vec<Mount> {
    let host = &spec.host;
    let own_shm = !matches!(
        host.ipc,
        NamespaceMode::None | NamespaceMode::Host | NamespaceMode::Container(_)
    );
    let shm_bytes = if own_shm {
        host.shm_size.unwrap_or(SHM_BYTES)
    } else {
        0
    };
    let mut mounts = container::default_mounts(shm_bytes, host.privileged);
    if host.ipc == NamespaceMode::Host {
        mounts.push(bind("/dev/shm", "/dev/shm", false, false));
    }
    let mut asked: Vec<Mount> = Vec::new();
    for name in ["resolv.conf", "hostname", "hosts"] {
        let destination = format!("/etc/{name}");
        let own = host
            .mounts
            .iter()
            .any(|asked| asked.destination == destination);
        if !own {
            let source = files.join(name);
            let readonly = host.readonly_rootfs;
            asked.push(bind(
                &source.to_string_lossy(),
                &destination,
                readonly,
                true,
            ));
        }
    }
    let ordered = host.mounts.iter();
    asked.extend(ordered.filter_map(|asked| asked_mount(asked, volumes)));
    // What lies deeper is mounted later, or it would be hidden: also our files, by a mount on `/etc`.
    asked.sort_by_key(|mount| mount.destination.trim_end_matches('/').matches('/').count());
    mounts.extend(asked);
    mounts
}

/// A bind; `mapped`: owners there are those inside.
fn bind(source: &str, destination: &str, readonly: bool, mapped: bool) -> Mount {
    Mount {
        kind: MountKind::Bind {
            source: PathBuf::from(source),
            recursive: true,
            propagation: Propagation::Rprivate,
            mapped,
        },
        destination: destination.to_owned(),
        options: MountOptions {
            readonly,
            ..MountOptions::default()
        },
        data: String::new(),
    }
}

fn asked_mount(asked: &MountSpec, volumes: &Sources) -> Option<Mount> {
    let plain = MountOptions {
        readonly: asked.readonly,
        ..MountOptions::default()
    };
    match &asked.kind {
        Asked::Bind {
            source,
            propagation,
            non_recursive,
            ..
        } => Some(Mount {
            kind: MountKind::Bind {
                source: PathBuf::from(source),
                recursive: !non_recursive,
                propagation: travels(*propagation),
                mapped: false,
            },
            destination: asked.destination.clone(),
            options: plain,
            data: String::new(),
        }),
        Asked::Tmpfs { options } => Some(tmpfs(asked, options)),
        Asked::Volume { .. } | Asked::Image { .. } => {
            let (source, only_read) = volumes.at(&asked.destination)?;
            let readonly = asked.readonly || only_read;
            Some(bind(
                &source.to_string_lossy(),
                &asked.destination,
                readonly,
                // An image of several layers is an overlay, whose ids cannot be mapped.
                matches!(asked.kind, Asked::Volume { .. }),
            ))
        }
    }
}

/// A tmpfs by Docker's rule: `noexec,nosuid,nodev` unless the options say otherwise.
fn tmpfs(asked: &MountSpec, text: &str) -> Mount {
    let mut flags = MountOptions {
        readonly: asked.readonly,
        nosuid: true,
        nodev: true,
        noexec: true,
        ..MountOptions::default()
    };
    let mut data = Vec::new();
    for word in text.split(',').filter(|word| !word.is_empty()) {
        match word {
            "ro" => flags.readonly = true,
            "rw" => flags.readonly = false,
            "exec" => flags.noexec = false,
            "noexec" => flags.noexec = true,
            "suid" => flags.nosuid = false,
            "nosuid" => flags.nosuid = true,
            "dev" => flags.nodev = false,
            "nodev" => flags.nodev = true,
            "noatime" => flags.noatime = true,
            "relatime" => flags.relatime = true,
            // What a mount in memory has anyway, or what makes no difference to one.
            "defaults" | "async" | "nomand" | "atime" | "diratime" | "nodiratime"
            | "norelatime" | "strictatime" | "nostrictatime" | "private" | "rprivate"
            | "shared" | "rshared" | "slave" | "rslave" => {}
            other => data.push(other),
        }
    }
    mount(MountKind::Tmpfs, &asked.destination, flags, &data.join(","))
}

fn travels(propagation: Travels) -> Propagation {
    match propagation {
        Travels::Rprivate => Propagation::Rprivate,
        Travels::Private => Propagation::Private,
        Travels::Rshared => Propagation::Rshared,
        Travels::Shared => Propagation::Shared,
        Travels::Rslave => Propagation::Rslave,
        Travels::Slave => Propagation::Slave,
    }
}

/// How the root must travel so that the binds can do as asked.
pub(crate) fn root_propagation(spec: &ContainerSpec) -> Propagation {
    let of = |mount: &MountSpec| match &mount.kind {
        Asked::Bind { propagation, .. } => Some(*propagation),
        _ => None,
    };
    let mut strongest = Propagation::Rprivate;
    for propagation in spec.host.mounts.iter().filter_map(of) {
        match propagation {
            Travels::Rshared | Travels::Shared => return Propagation::Rshared,
            Travels::Rslave | Travels::Slave => strongest = Propagation::Rslave,
            Travels::Rprivate | Travels::Private => {}
        }
    }
    strongest
}

/// Mounts as `inspect` shows them.
pub(crate) fn mount_points(spec: &ContainerSpec, volumes: &VolumeTable) -> Vec<MountPoint> {
    let show = |asked: &MountSpec| {
        let (kind, name, source, propagation) = match &asked.kind {
            Asked::Bind {
                source,
                propagation,
                ..
            } => ("bind", String::new(), source.clone(), word(*propagation)),
            Asked::Volume { name, .. } => {
                let source = volumes.data(name).to_string_lossy().into_owned();
                ("volume", name.clone(), source, "")
            }
            Asked::Image { source, .. } => ("image", String::new(), source.clone(), ""),
            Asked::Tmpfs { .. } => ("tmpfs", String::new(), String::new(), ""),
        };
        MountPoint {
            kind,
            name,
            source,
            destination: asked.destination.clone(),
            mode: shown_mode(asked),
            writable: !asked.readonly,
            propagation,
        }
    };
    // Docker does not list `--tmpfs`, only `--mount type=tmpfs`.
    let listed = |asked: &&MountSpec| asked.form != MountForm::Tmpfs;
    spec.host.mounts.iter().filter(listed).map(show).collect()
}

/// Docker shows a shared SELinux label on the volumes that a client named a place for.
fn shown_mode(asked: &MountSpec) -> String {
    let named = matches!(asked.form, MountForm::Bind | MountForm::Mount);
    if named && asked.mode.is_empty() && matches!(asked.kind, Asked::Volume { .. }) {
        return "z".to_owned();
    }
    asked.mode.clone()
}

fn word(propagation: Travels) -> &'static str {
    match propagation {
        Travels::Rprivate => "rprivate",
        Travels::Private => "private",
        Travels::Rshared => "rshared",
        Travels::Shared => "shared",
        Travels::Rslave => "rslave",
        Travels::Slave => "slave",
    }
}

/// Paths to hide; none with `--privileged`.
pub(crate) fn masked_paths(spec: &ContainerSpec) -> Vec<String> {
    static THERMAL: LazyLock<Vec<String>> =
        LazyLock::new(|| thermal_paths(Path::new("/sys/devices/system/cpu")));
    let asked = spec.host.masked_paths.as_ref();
    let mut paths = path_list(spec, asked, &container::MASKED_PATHS);
    if asked.is_none() && !spec.host.privileged {
        paths.extend(THERMAL.iter().cloned());
    }
    paths
}

/// Counters of each processor's heat, which tell what others compute; few machines have them.
fn thermal_paths(processors: &Path) -> Vec<String> {
    let mut paths: Vec<String> = std::fs::read_dir(processors)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    paths.sort();
    paths
}

/// Paths that may only be read; none with `--privileged`.
pub(crate) fn readonly_paths(spec: &ContainerSpec) -> Vec<String> {
    path_list(
        spec,
        spec.host.readonly_paths.as_ref(),
        &container::READONLY_PATHS,
    )
}

fn path_list(spec: &ContainerSpec, asked: Option<&Vec<String>>, default: &[&str]) -> Vec<String> {
    match asked {
        Some(paths) => paths.clone(),
        None if spec.host.privileged => Vec::new(),
        None => default.iter().map(|path| (*path).to_owned()).collect(),
    }
}

/// Host name inside.
pub(crate) fn hostname(spec: &ContainerSpec, id: SandboxId) -> String {
    if !spec.config.hostname.is_empty() {
        return spec.config.hostname.clone();
    }
    let hosts = spec.host.network == NetworkMode::Host || spec.host.uts == NamespaceMode::Host;
    if hosts {
        std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_or_else(|_| id.short(), |name| name.trim().to_owned())
    } else {
        id.short()
    }
}

/// The environment by Docker's rule: ours first, what was asked for over it.
pub(crate) fn environment(asked: &[String], hostname: &str, tty: bool) -> Vec<String> {
    let mut env = vec![PATH_DEFAULT.to_owned(), format!("HOSTNAME={hostname}")];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    merge_environment(&mut env, asked);
    env
}

/// Lays variables over others: `NAME=value` replaces or adds, `NAME` alone removes.
pub(crate) fn merge_environment(env: &mut Vec<String>, over: &[String]) {
    for variable in over {
        let name = variable.split('=').next().unwrap_or_default();
        let at = env
            .iter()
            .position(|known| known.split('=').next() == Some(name));
        match (at, variable.contains('=')) {
            (Some(at), true) => env[at].clone_from(variable),
            (Some(at), false) => drop(env.remove(at)),
            (None, true) => env.push(variable.clone()),
            (None, false) => {}
        }
    }
}

/// All capabilities that Linux has: in its guest a privileged container has what its kernel gives, whatever
/// the daemon has on the host.
const ALL_OF_A_GUEST: u64 = (1 << 41) - 1;
/// Devices of a guest that a privileged container finds: log, FUSE, TUN, loop devices.
const GUEST_DEVICES: [(&str, bool, u32, u32); 4] = [
    ("/dev/kmsg", false, 1, 11),
    ("/dev/fuse", false, 10, 229),
    ("/dev/net/tun", false, 10, 200),
    ("/dev/loop-control", false, 10, 237),
];
/// Loop devices among them, and their number of a driver.
const GUEST_LOOPS: (u32, u32) = (8, 7);

/// Capabilities by name, as bits, with warnings for those that the daemon itself lacks.
pub(crate) fn capabilities(spec: &ContainerSpec) -> Result<(u64, Vec<String>)> {
    let host = &spec.host;
    if host.privileged && host.isolation == Isolation::Vm {
        return Ok((ALL_OF_A_GUEST, Vec::new()));
    }
    capability::resolve(host.privileged, &host.cap_add, &host.cap_drop)
        .map_err(|error| EngineError::Invalid(error.to_string()))
}

fn capability_sets(bits: u64, user: &str) -> CapabilitySets {
    // As runc: a user that is not root has no effective ones; execve decides for root.
    let is_root = matches!(user.split(':').next(), None | Some("" | "0" | "root"));
    let effective = if is_root { bits } else { 0 };
    CapabilitySets {
        bounding: bits,
        effective,
        permitted: effective,
        inheritable: 0,
        ambient: 0,
    }
}

fn filter(spec: &ContainerSpec, bits: u64) -> Result<Option<Arc<[u8]>>> {
    if spec.host.privileged {
        return Ok(None);
    }
    let compiled = match &spec.host.seccomp {
        SeccompChoice::Unconfined => return Ok(None),
        SeccompChoice::Default => seccomp::compile_default(bits),
        SeccompChoice::Profile(text) => seccomp::compile_json(text, bits),
    };
    compiled
        .map(Some)
        .map_err(|error| EngineError::Invalid(error.to_string()))
}

/// The container's first process.
pub(crate) fn process(spec: &ContainerSpec, hostname: &str) -> Result<Process> {
    let (bits, _) = capabilities(spec)?;
    let config = &spec.config;
    Ok(Process {
        args: config.args(),
        env: environment(&config.env, hostname, config.tty),
        cwd: config.working_dir.clone(),
        create_cwd: true,
        user: config.user.clone(),
        extra_groups: spec.host.group_add.clone(),
        capabilities: capability_sets(bits, &config.user),
        no_new_privileges: spec.host.no_new_privileges,
        seccomp: filter(spec, bits)?,
        rlimits: rlimits(spec)?,
        oom_score_adj: None,
        umask: None,
        tty: config.tty.then_some(spec.host.console_size),
        stdin: match (config.open_stdin, config.stdin_once) {
            (false, _) => Stdin::Closed,
            (true, false) => Stdin::Open,
            (true, true) => Stdin::Once,
        },
    })
}

/// An added process.
pub(crate) fn exec_process(
    spec: &ContainerSpec,
    hostname: &str,
    request: &ExecRequest,
    size: Option<(u16, u16)>,
) -> Result<Process> {
    let mut process = process(spec, hostname)?;
    process.args.clone_from(&request.cmd);
    if request.tty
        && !process
            .env
            .iter()
            .any(|variable| variable.starts_with("TERM="))
    {
        process.env.push("TERM=xterm".to_owned());
    }
    merge_environment(&mut process.env, &request.env);
    if !request.user.is_empty() {
        process.user.clone_from(&request.user);
    }
    if !request.working_dir.is_empty() {
        process.cwd.clone_from(&request.working_dir);
    }
    process.create_cwd = false;
    if request.privileged {
        let all = match spec.host.isolation {
            Isolation::Vm => ALL_OF_A_GUEST,
            Isolation::Container => {
                capability::resolve(true, &[], &[])
                    .map_err(|error| EngineError::Invalid(error.to_string()))?
                    .0
            }
        };
        process.capabilities = capability_sets(all, &process.user);
        process.seccomp = None;
    } else {
        process.capabilities = capability_sets(process.capabilities.bounding, &process.user);
    }
    process.tty = request.tty.then_some(size.unwrap_or((0, 0)));
    // A client that gives input ends it by closing its side.
    process.stdin = if request.attach.stdin {
        Stdin::Once
    } else {
        Stdin::Closed
    };
    Ok(process)
}

const RLIMITS: &[(&str, u32)] = &[
    ("cpu", 0),
    ("fsize", 1),
    ("data", 2),
    ("stack", 3),
    ("core", 4),
    ("rss", 5),
    ("nproc", 6),
    ("nofile", 7),
    ("memlock", 8),
    ("as", 9),
    ("locks", 10),
    ("sigpending", 11),
    ("msgqueue", 12),
    ("nice", 13),
    ("rtprio", 14),
    ("rttime", 15),
];

/// Resource limits by number.
pub(crate) fn rlimits(spec: &ContainerSpec) -> Result<Vec<Rlimit>> {
    let value = |given: i64| u64::try_from(given).unwrap_or(u64::MAX);
    let one = |asked: &hull_model::spec::Ulimit| {
        let known = RLIMITS.iter().find(|(name, _)| *name == asked.name);
        let Some((_, resource)) = known else {
            return Err(EngineError::Invalid(format!(
                "invalid ulimit type: {}",
                asked.name
            )));
        };
        let (soft, hard) = (value(asked.soft), value(asked.hard));
        if soft > hard {
            return Err(EngineError::Invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                asked.soft, asked.hard
            )));
        }
        Ok(Rlimit {
            resource: *resource,
            soft,
            hard,
        })
    };
    spec.host.ulimits.iter().map(one).collect()
}

/// Kernel settings.
pub(crate) fn sysctls(spec: &ContainerSpec) -> Vec<Sysctl> {
    let one = |(name, value): (&String, &String)| Sysctl {
        name: name.clone(),
        value: value.clone(),
    };
    let mut all: Vec<Sysctl> = spec.host.sysctls.iter().map(one).collect();
    let own_network = !matches!(
        spec.host.network,
        NetworkMode::Host | NetworkMode::Container(_)
    );
    // As Docker: an unprivileged process may bind low ports and ping in a network of its own.
    if own_network {
        for (name, value) in [
            ("net.ipv4.ip_unprivileged_port_start", "0"),
            ("net.ipv4.ping_group_range", "0 2147483647"),
        ] {
            if !all.iter().any(|known| known.name == name) {
                all.push(Sysctl {
                    name: name.to_owned(),
                    value: value.to_owned(),
                });
            }
        }
    }
    all
}

/// Device nodes: the usual ones, what was asked for, everything with `--privileged`.
pub(crate) fn devices(spec: &ContainerSpec) -> Result<Vec<DeviceNode>> {
    let mut nodes = container::default_devices();
    if spec.host.privileged && spec.host.isolation == Isolation::Vm {
        nodes.extend(guest_devices());
        return Ok(nodes);
    }
    if spec.host.privileged {
        host_devices(Path::new("/dev"), Path::new("/dev"), &mut nodes);
        return Ok(nodes);
    }
    for asked in &spec.host.devices {
        asked_devices(asked, &mut nodes)?;
    }
    Ok(nodes)
}

/// What a privileged container finds in its guest: nothing of the host.
fn guest_devices() -> impl Iterator<Item = DeviceNode> {
    let node = |path: String, block, major, minor| DeviceNode {
        path,
        block,
        major,
        minor,
        mode: 0o660,
        uid: 0,
        gid: 0,
    };
    let (loops, major) = GUEST_LOOPS;
    GUEST_DEVICES
        .into_iter()
        .map(move |(path, block, major, minor)| node(path.to_owned(), block, major, minor))
        .chain((0..loops).map(move |minor| node(format!("/dev/loop{minor}"), true, major, minor)))
}

/// Device nodes that an option asks for, also with the letters of its cgroup rule.
pub(crate) fn asked_devices(asked: &DeviceSpec, nodes: &mut Vec<DeviceNode>) -> Result<()> {
    let path = Path::new(&asked.host_path);
    let facts = path.metadata().map_err(|cause| {
        EngineError::Invalid(format!(
            "error gathering device information while adding custom device \"{}\": {}",
            asked.host_path,
            if cause.kind() == std::io::ErrorKind::NotFound {
                "no such file or directory".to_owned()
            } else {
                cause.to_string()
            }
        ))
    })?;
    if facts.is_dir() {
        host_devices(path, Path::new(&asked.container_path), nodes);
        return Ok(());
    }
    match device_node(&facts, asked.container_path.clone()) {
        Some(node) => nodes.push(node),
        None => {
            return Err(EngineError::Invalid(format!(
                "error gathering device information while adding custom device \"{}\": not a device node",
                asked.host_path
            )));
        }
    }
    Ok(())
}

/// The device node at a path of the host.
pub(crate) fn device_at(path: &str) -> Result<DeviceNode> {
    let mut nodes = Vec::new();
    let asked = DeviceSpec {
        host_path: path.to_owned(),
        container_path: path.to_owned(),
        access: String::new(),
    };
    asked_devices(&asked, &mut nodes)?;
    nodes
        .pop()
        .ok_or_else(|| EngineError::Invalid(format!("{path} is not a device")))
}

fn device_node(facts: &std::fs::Metadata, path: String) -> Option<DeviceNode> {
    let kind = facts.file_type();
    if !kind.is_block_device() && !kind.is_char_device() {
        return None;
    }
    let rdev = facts.rdev();
    // The kernel's 64-bit device number: 12 bits of major and 20 of minor, split in two.
    let major = u32::try_from(((rdev >> 8) & 0xfff) | ((rdev >> 32) & !0xfff)).ok()?;
    let minor = u32::try_from((rdev & 0xff) | ((rdev >> 12) & 0xffff_ff00)).ok()?;
    Some(DeviceNode {
        path,
        block: kind.is_block_device(),
        major,
        minor,
        mode: facts.mode() & 0o7777,
        uid: facts.uid(),
        gid: facts.gid(),
    })
}

fn host_devices(from: &Path, to: &Path, nodes: &mut Vec<DeviceNode>) {
    const NOT_OURS: &[&str] = &[
        "pts",
        "shm",
        "fd",
        "mqueue",
        ".lxc",
        ".lxd-mounts",
        ".udev",
        "console",
        "ptmx",
    ];
    let Ok(entries) = std::fs::read_dir(from) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if NOT_OURS.iter().any(|not_ours| name == *not_ours) {
            continue;
        }
        let Ok(facts) = entry.path().symlink_metadata() else {
            continue;
        };
        let inside = to.join(&name);
        if facts.is_dir() {
            host_devices(&entry.path(), &inside, nodes);
        } else if let Some(node) = device_node(&facts, inside.to_string_lossy().into_owned())
            && !nodes.iter().any(|known| known.path == node.path)
        {
            nodes.push(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heat_of_every_processor_that_tells_it_is_hidden() {
        let root = std::env::temp_dir().join(format!("hull-thermal-{}", std::process::id()));
        for directory in [
            "cpu0/thermal_throttle",
            "cpu1/thermal_throttle",
            "cpu2/cache",
        ] {
            std::fs::create_dir_all(root.join(directory)).expect("scratch");
        }
        let found = thermal_paths(&root);
        std::fs::remove_dir_all(&root).expect("clean up");
        let wanted = ["cpu0", "cpu1"].map(|cpu| root.join(cpu).join("thermal_throttle"));
        assert_eq!(
            found,
            wanted.map(|path| path.to_string_lossy().into_owned())
        );
    }

    fn merged(env: &[&str], over: &[&str]) -> Vec<String> {
        let mut env: Vec<String> = env.iter().map(|v| (*v).to_owned()).collect();
        let over: Vec<String> = over.iter().map(|v| (*v).to_owned()).collect();
        merge_environment(&mut env, &over);
        env
    }

    #[test]
    fn variables_replace_add_and_remove() {
        assert_eq!(
            merged(&["A=1", "B=2"], &["B=3", "C=4", "A"]),
            ["B=3", "C=4"]
        );
        assert_eq!(merged(&["AB=1"], &["A=2"]), ["AB=1", "A=2"]);
        assert_eq!(merged(&[], &["GONE"]), Vec::<String>::new());
    }

    #[test]
    fn a_user_that_is_not_root_has_no_effective_capabilities() {
        for (user, effective) in [
            ("", 3),
            ("0:5", 3),
            ("root", 3),
            ("1000", 0),
            ("www-data:0", 0),
        ] {
            assert_eq!(capability_sets(3, user).effective, effective, "{user}");
        }
    }
}
