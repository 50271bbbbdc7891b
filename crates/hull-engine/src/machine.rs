//! A container with isolation `vm`: what is refused, and from the sandbox of a container to that of a
//! machine with the container in its guest.
//!
//! ```text
//!  sandbox of a container ──into_machine──▶ + kernel, disks, taps, channel     (hull_vm)
//!                                           QEMU's sandbox, guest's files and limits
//! ```
//!
//! The rest of the engine does not know the difference: the same states, shim, records, networks and logs.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hull_model::SandboxId;
use hull_model::spec::{
    ContainerSpec, HostConfig, Isolation, NamespaceMode, NetworkMode, Resources,
};
use hull_os::cgroup::Limits;
use hull_sandbox::{
    GUEST_FILES, GUEST_SHARES, LinkSteps, Lowers, Machine, Mount, MountKind, Propagation, Root,
    Share, Spec,
};
use hull_vm::accelerator::{self, Accelerator, Verdict};
use hull_vm::kernel::{Kernel, Kernels};
use hull_vm::{disk, qemu, share};
use serde::{Deserialize, Serialize};

use crate::api::{Endpoint, MachineFacts};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::sizes::STAT_BLOCK_BYTES;

/// Memory of a machine where nobody set a limit. It takes place on the host only as the guest uses it.
const MEMORY_BYTES_DEFAULT: u64 = 1 << 30;
/// Below this a distribution's kernel does not start.
const MEMORY_BYTES_MIN: u64 = 128 << 20;
/// What the guest's kernel takes for itself, beside a part of all memory.
const KERNEL_BYTES: u64 = 40 << 20;
/// The kernel describes so much memory by one byte.
const MEMORY_PER_DESCRIPTION: u64 = 48;
/// Processors of a machine where nobody set a limit, at most.
const CPUS_DEFAULT_MAX: u32 = 4;
/// Processors of a machine at most.
const CPUS_MAX: u32 = 64;
/// Users that QEMU runs as: one per machine, from here on.
const USER_BASE: u32 = 0x7000_0000;
/// Network cards of a machine.
pub(crate) const CARDS_MAX: usize = 4;
/// Bytes of a small file that the guest gets by value.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Name of the disk that a machine writes.
const UPPER: &str = "upper.img";
/// Name of the file with what `inspect` shows of a machine.
const FACTS: &str = "machine.json";

/// Refuses by name what cannot be in a machine.
pub(crate) fn check(host: &HostConfig) -> Result<()> {
    if host.isolation != Isolation::Vm {
        return Ok(());
    }
    let shared =
        |mode: &NamespaceMode| matches!(mode, NamespaceMode::Host | NamespaceMode::Container(_));
    let of_host = [
        (host.network == NetworkMode::Host, "the host's network"),
        (
            matches!(host.network, NetworkMode::Container(_)),
            "another container's network",
        ),
        (
            shared(&host.pid),
            "a process table of the host or of another container",
        ),
        (shared(&host.ipc), "IPC of the host or of another container"),
        (host.uts == NamespaceMode::Host, "the host's name"),
        (host.cgroupns == NamespaceMode::Host, "the host's cgroups"),
        (host.userns == NamespaceMode::Host, "the host's users"),
        (!host.devices.is_empty(), "devices of the host"),
        (
            !host.device_cgroup_rules.is_empty(),
            "rules for devices of the host",
        ),
        (
            host.resources.cpu_realtime_runtime != 0,
            "real-time scheduling on the host",
        ),
    ];
    match of_host.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(EngineError::Invalid(format!(
            "isolation \"vm\" has a kernel of its own and cannot have {what}"
        ))),
        None => Ok(()),
    }
}

/// Refuses limits that a machine which runs cannot be given.
pub(crate) fn check_update(core: &Core, id: SandboxId, given: &Resources) -> Result<()> {
    let Some(facts) = read_facts(core, id) else {
        return Ok(());
    };
    let asked = u64::try_from(given.memory).unwrap_or(0);
    if whole_memory(asked) > facts.memory_bytes {
        return Err(EngineError::WrongState(format!(
            "the machine of this container has {} MiB, which a limit of memory must leave room in; a larger \
             one needs a container that is not running",
            facts.memory_bytes >> 20
        )));
    }
    let processors = i64::from(facts.cpus) * 1_000_000_000;
    if given.nano_cpus > processors {
        return Err(EngineError::WrongState(format!(
            "the machine of this container has {} processors; more need a container that is not running",
            facts.cpus
        )));
    }
    Ok(())
}

/// The memory of a machine whose programs may have so much.
fn whole_memory(programs: u64) -> u64 {
    programs + programs / MEMORY_PER_DESCRIPTION + KERNEL_BYTES
}

fn read_facts(core: &Core, id: SandboxId) -> Option<MachineFacts> {
    let text = fs::read(core.container_dir(id).join(FACTS)).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    Some(record.facts)
}

/// What `inspect` shows of the machine of a container, as it was started last.
pub(crate) fn facts_of(core: &Core, id: SandboxId, spec: &ContainerSpec) -> Option<MachineFacts> {
    if spec.host.isolation != Isolation::Vm {
        return None;
    }
    read_facts(core, id)
}

/// What a machine takes of the host's memory for itself, by the first process of its sandbox.
pub(crate) fn host_memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let of_line = |line: &str| -> Option<u64> {
        let rest = line.strip_prefix("Private_")?;
        let (_, kilobytes) = rest.split_once(':')?;
        kilobytes.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some(text.lines().filter_map(of_line).sum::<u64>() << 10)
}

/// What the disk that a machine writes takes of the host's.
pub(crate) fn written_bytes(files_dir: &Path) -> u64 {
    let facts = fs::metadata(files_dir.join(UPPER));
    facts.map_or(0, |facts| {
        std::os::unix::fs::MetadataExt::blocks(&facts) * STAT_BLOCK_BYTES
    })
}

/// Whether a machine of it ever had a disk to write to.
pub(crate) fn has_written(core: &Core, id: SandboxId) -> bool {
    core.container_dir(id).join(UPPER).exists()
}

/// Whether machines can be had here, for `info`: accelerator and reason, release of the kernel.
pub(crate) fn support(core: &Core) -> (Verdict, Option<String>) {
    let kernel = Kernels::at(&core.config.data_root).used();
    let verdict = accelerator::decide(&core.config.run_root, core.driver.program());
    (verdict, kernel.ok().map(|kernel| kernel.release))
}

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    facts: MachineFacts,
}

/// What a start in a machine needs beside the sandbox of a container.
pub(crate) struct Asked<'a> {
    pub(crate) core: &'a Core,
    pub(crate) id: SandboxId,
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) layers: &'a [hull_model::Digest],
    pub(crate) endpoints: &'a [Endpoint],
    /// Nothing runs in it; it is there for its files.
    pub(crate) files_only: bool,
}

impl Asked<'_> {
    /// Puts the container into a machine.
    pub(crate) fn into_machine(self, mut sandbox: Spec) -> Result<Spec> {
        let failed = |e: hull_vm::Error| EngineError::step("make the machine", e.kind(), e);
        let program = qemu::program().map_err(failed)?;
        let kernels = Kernels::at(&self.core.config.data_root);
        let kernel = kernels.used().map_err(failed)?;
        let agent_program = self.core.config.shim_program;
        let initramfs = kernels.initramfs(&kernel, agent_program).map_err(failed)?;
        let run_root = &self.core.config.run_root;
        let verdict = accelerator::decide(run_root, self.core.driver.program());
        let (ours, theirs) = hull_os::socket::stream_pair()
            .map_err(|e| EngineError::io("make the agent's channel", e))?;
        let mut descriptors = vec![theirs];
        let directory = self.core.container_dir(self.id);
        let shared = Shared::take(&mut sandbox.mounts, &directory)?;
        let (connected, shares) = self.shares(&shared, &mut descriptors)?;
        let layers = self.layers(&mut descriptors)?;
        let upper = self.upper().map_err(failed)?;
        let upper = add(&mut descriptors, upper.into());
        let cards = self.cards(&mut descriptors)?;
        let memory_bytes = self.memory_bytes();
        let machine = qemu::Machine {
            accelerator: verdict.accelerator,
            memory_bytes,
            cpus: self.cpus(),
            agent: 0,
            layers,
            upper,
            cards,
            shares: connected,
        };
        if !self.files_only {
            self.keep_facts(&kernel, &verdict, &machine)?;
        }
        let (host_limits, guest_limits) = split(std::mem::take(&mut sandbox.cgroup.limits));
        sandbox.cgroup.limits = host_limits;
        let (links, guest_links) = split_links(std::mem::take(&mut sandbox.link_steps))?;
        sandbox.link_steps = links;
        sandbox.machine = Some(Machine {
            command: qemu::command(&program, &machine),
            descriptors,
            agent: ours,
            files: vec![
                (kernel.image(), qemu::KERNEL_PLACE.to_owned()),
                (initramfs, qemu::INITRAMFS_PLACE.to_owned()),
            ],
            root: self.root()?,
            user: self.user(),
            kvm: verdict.accelerator == Accelerator::Kvm,
            layers: u32::try_from(machine.layers.len()).unwrap_or(u32::MAX),
            guest_links,
            guest_files: shared.files,
            shares,
            files_only: self.files_only,
            guest_limits,
        });
        Ok(sandbox)
    }

    /// The image's layers as disks, the topmost first: the very files that containers have mounted.
    fn layers(&self, descriptors: &mut Vec<OwnedFd>) -> Result<Vec<usize>> {
        if self.layers.len() > qemu::LAYERS_MAX {
            return Err(EngineError::Unsupported(format!(
                "the image has {} layers, a machine takes {} at most",
                self.layers.len(),
                qemu::LAYERS_MAX
            )));
        }
        let open = |layer: &hull_model::Digest| {
            let path = self.core.storage.layer_path(layer);
            let file = File::open(&path)
                .map_err(|e| EngineError::io(format!("open the layer {}", path.display()), e))?;
            Ok(add(descriptors, file.into()))
        };
        self.layers.iter().rev().map(open).collect()
    }

    fn upper(&self) -> std::result::Result<File, hull_vm::Error> {
        let size = self.spec.host.storage_opt.get("size");
        let bytes = size.and_then(|text| hull_vm::disk::parse_bytes(text));
        let path = self.core.container_dir(self.id).join(UPPER);
        disk::open_upper(&path, bytes.unwrap_or(disk::BYTES_DEFAULT))
    }

    /// Sockets between QEMU and the file servers that the shim starts.
    fn shares(
        &self,
        shared: &Shared,
        descriptors: &mut Vec<OwnedFd>,
    ) -> Result<(Vec<usize>, Vec<Share>)> {
        let directory = self.core.container_dir(self.id).join("machine");
        let connect = |name: &str| -> std::io::Result<(OwnedFd, OwnedFd)> {
            fs::create_dir_all(&directory)?;
            let path = directory.join(name);
            hull_os::durable::remove_if_exists(&path)?;
            // However long the path of the directory is: an address holds 107 bytes.
            let opened = File::open(&directory)?;
            let place = format!("/proc/self/fd/{}/{name}", opened.as_raw_fd());
            let listener = UnixListener::bind(&place)?;
            let connected = UnixStream::connect(&place)?;
            // Nobody else is to find it.
            hull_os::durable::remove_if_exists(&path)?;
            Ok((listener.into(), connected.into()))
        };
        let failed = |e: hull_vm::Error| EngineError::step("share a directory", e.kind(), e);
        let mut numbers = Vec::new();
        let mut shares = Vec::new();
        for (index, (source, readonly)) in shared.directories.iter().enumerate() {
            let (listener, connected) = connect(&format!("fs{index}"))
                .map_err(|e| EngineError::io("open the socket of a file server", e))?;
            numbers.push(add(descriptors, connected));
            shares.push(Share {
                source: source.clone(),
                readonly: *readonly,
                command: share::command(source).map_err(failed)?,
                listener,
            });
        }
        Ok((numbers, shares))
    }

    /// A tap for each card: those of endpoints, which the shim makes ports of their bridges, and those that
    /// wait for a connect, since a machine gets no card while it runs.
    fn cards(&self, descriptors: &mut Vec<OwnedFd>) -> Result<Vec<qemu::Card>> {
        if self.endpoints.len() > CARDS_MAX {
            return Err(EngineError::Invalid(format!(
                "a machine has at most {CARDS_MAX} networks"
            )));
        }
        let has_networks = crate::network::has_networks(&self.spec.host.network);
        let cards = if self.files_only || !has_networks {
            0
        } else {
            CARDS_MAX
        };
        let card = |number: usize| {
            let number = u8::try_from(number).unwrap_or(u8::MAX);
            let endpoint = self.endpoints.iter().find(|e| e.number == number);
            let mac = match endpoint {
                Some(endpoint) => {
                    let mac: hull_net::Mac =
                        endpoint
                            .mac
                            .parse()
                            .map_err(|e: hull_net::InvalidNetwork| {
                                EngineError::Invalid(e.to_string())
                            })?;
                    mac.0
                }
                // It gets that of its endpoint when there is one.
                None => [2, 0, 0, 0, 0, number],
            };
            let name = hull_net::host_link(&self.id, number);
            let tap = hull_os::tap::open(&name)
                .map_err(|e| EngineError::io(format!("open the tap {name}"), e))?;
            Ok(qemu::Card {
                tap: add(descriptors, tap),
                mac,
            })
        };
        (0..cards).map(card).collect()
    }

    /// What the guest's programs may have, and what its kernel needs for that.
    fn memory_bytes(&self) -> u64 {
        let asked = u64::try_from(self.spec.host.resources.memory).unwrap_or(0);
        let programs = match asked {
            0 => MEMORY_BYTES_DEFAULT,
            bytes => bytes,
        };
        whole_memory(programs).max(MEMORY_BYTES_MIN)
    }

    fn cpus(&self) -> u32 {
        let here = std::thread::available_parallelism().map_or(1, usize::from);
        let here = u32::try_from(here).unwrap_or(CPUS_MAX);
        let asked = self.spec.host.resources.nano_cpus.max(0);
        let asked = u32::try_from(asked.unsigned_abs().div_ceil(1_000_000_000)).unwrap_or(0);
        match asked {
            0 => here.min(CPUS_DEFAULT_MAX),
            asked => asked.min(CPUS_MAX),
        }
    }

    /// A user that nobody else is.
    fn user(&self) -> u32 {
        let id = self.id.as_bytes();
        USER_BASE + u32::from_le_bytes([id[0], id[1], id[2], 0])
    }

    /// The root of QEMU's own sandbox: nothing but what is mounted into it.
    fn root(&self) -> Result<Root> {
        let directory = self.core.container_dir(self.id).join("machine");
        let made = |name: &str| {
            let path = directory.join(name);
            fs::create_dir_all(&path)
                .map_err(|e| EngineError::io(format!("make {}", path.display()), e))
                .map(|()| path)
        };
        let empty = made("empty")?;
        let lowers = match self.core.lowers_by_descriptor {
            true => {
                let opened = File::open(&empty)
                    .map_err(|e| EngineError::io(format!("open {}", empty.display()), e))?;
                Lowers::Descriptors(vec![Arc::new(opened.into())])
            }
            false => Lowers::Directories {
                base: directory.clone(),
                names: vec!["empty".to_owned()],
            },
        };
        Ok(Root {
            lowers,
            upper: made("upper")?,
            work: made("work")?,
            readonly: true,
            propagation: Propagation::Private,
        })
    }

    /// Writes down what `inspect` shows.
    fn keep_facts(
        &self,
        kernel: &Kernel,
        verdict: &Verdict,
        machine: &qemu::Machine,
    ) -> Result<()> {
        let record = Record {
            version: 1,
            facts: MachineFacts {
                kernel: kernel.id.clone(),
                kernel_release: kernel.release.clone(),
                accelerator: verdict.accelerator.word().to_owned(),
                reason: verdict.reason.clone(),
                memory_bytes: machine.memory_bytes,
                cpus: machine.cpus,
            },
        };
        let path = self.core.container_dir(self.id).join(FACTS);
        let text = serde_json::to_vec(&record).unwrap_or_default();
        hull_os::durable::replace_file(&path, &text, 0o600, hull_os::durable::Durability::Lost)
            .map_err(|e| EngineError::io(format!("write {}", path.display()), e))
    }
}

fn add(descriptors: &mut Vec<OwnedFd>, fd: OwnedFd) -> usize {
    descriptors.push(fd);
    descriptors.len() - 1
}

/// What of the host's files a guest has.
#[derive(Default)]
struct Shared {
    files: Vec<(String, Vec<u8>)>,
    directories: Vec<(PathBuf, bool)>,
}

impl Shared {
    /// Takes what is bound out of the mounts: our own small files and single files that are only read come
    /// to the guest by value, directories are shared. Binds are left with their places in the guest.
    fn take(mounts: &mut [Mount], own: &Path) -> Result<Shared> {
        let mut shared = Shared::default();
        for mount in mounts {
            let MountKind::Bind { source, .. } = &mut mount.kind else {
                continue;
            };
            let path = fs::canonicalize(&source)
                .map_err(|e| EngineError::io(format!("find {}", source.display()), e))?;
            if path.is_dir() {
                let number = shared.directory(path, mount.options.readonly)?;
                *source = Path::new(GUEST_SHARES).join(number.to_string());
                continue;
            }
            if !mount.options.readonly && path.parent() != Some(own) {
                return Err(EngineError::Unsupported(format!(
                    "{} is a single file, which isolation \"vm\" can only share read-only (`:ro`): \
                     share its directory",
                    path.display()
                )));
            }
            // Ours are known by their names, so that they can be written anew.
            let own_name = path.file_name().filter(|_| path.parent() == Some(own));
            let name = match own_name {
                Some(name) => name.to_string_lossy().into_owned(),
                None => format!("{}", shared.files.len()),
            };
            *source = Path::new(GUEST_FILES).join(&name);
            shared.files.push((name, read_file(&path)?));
        }
        Ok(shared)
    }

    /// The number of a shared directory; one for each pair of directory and right.
    fn directory(&mut self, path: PathBuf, readonly: bool) -> Result<usize> {
        if !share::can_be_named(&path) {
            return Err(EngineError::Invalid(format!(
                "{} has a comma in its name, which isolation \"vm\" cannot share",
                path.display()
            )));
        }
        let wanted = (path, readonly);
        let found = self.directories.iter().position(|known| *known == wanted);
        Ok(found.unwrap_or_else(|| {
            self.directories.push(wanted);
            self.directories.len() - 1
        }))
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let failed = |e| EngineError::io(format!("read {}", path.display()), e);
    let file = File::open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    if !facts.is_file() || facts.len() > FILE_BYTES_MAX {
        return Err(EngineError::Unsupported(format!(
            "{} is no small file, which isolation \"vm\" cannot share: share its directory",
            path.display()
        )));
    }
    let mut contents = Vec::new();
    std::io::Read::read_to_end(
        &mut std::io::Read::take(file, FILE_BYTES_MAX),
        &mut contents,
    )
    .map_err(failed)?;
    Ok(contents)
}

/// What holds for QEMU, and what in the guest.
pub(crate) fn split(asked: Limits) -> (Limits, Limits) {
    let guest = Limits {
        memory_bytes: asked.memory_bytes,
        memory_reservation_bytes: asked.memory_reservation_bytes,
        pids: asked.pids,
        devices: asked.devices.clone(),
        ..Limits::default()
    };
    let host = Limits {
        memory_bytes: 0,
        memory_reservation_bytes: 0,
        memory_swap_bytes: 0,
        memory_swappiness: None,
        oom_kill_disable: false,
        pids: 0,
        hugepages: Vec::new(),
        devices: Vec::new(),
        ..asked
    };
    (host, guest)
}

/// Links on the host stay what they are; what was for inside a namespace is for the guest.
fn split_links(steps: Vec<LinkSteps>) -> Result<(Vec<LinkSteps>, Vec<Vec<u8>>)> {
    let mut guest = Vec::new();
    // The name server of the machine listens in QEMU's namespace.
    let mut host = vec![LinkSteps {
        inside: hull_net::plan_loopback().inside,
        ..LinkSteps::default()
    }];
    for step in steps {
        if step.netns_fd_offset.is_some() {
            return Err(EngineError::Unsupported(
                "isolation \"vm\" can be on bridge networks only".to_owned(),
            ));
        }
        guest.push(step.inside);
        host.push(LinkSteps {
            host: step.host,
            ..LinkSteps::default()
        });
    }
    Ok((host, guest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_the_hosts_kernel_is_refused_by_name() {
        let vm = || HostConfig {
            isolation: Isolation::Vm,
            ..HostConfig::default()
        };
        assert!(check(&vm()).is_ok());
        assert!(
            check(&HostConfig {
                privileged: true,
                ..vm()
            })
            .is_ok()
        );
        let wishes = [
            HostConfig {
                network: NetworkMode::Host,
                ..vm()
            },
            HostConfig {
                pid: NamespaceMode::Host,
                ..vm()
            },
            HostConfig {
                ipc: NamespaceMode::Container("x".to_owned()),
                ..vm()
            },
            HostConfig {
                uts: NamespaceMode::Host,
                ..vm()
            },
        ];
        for wish in wishes {
            assert!(check(&wish).is_err(), "{wish:?}");
        }
    }

    #[test]
    fn memory_is_limited_in_the_guest_and_processors_on_the_host() {
        let (host, guest) = split(Limits {
            memory_bytes: 5,
            pids: 6,
            cpu_quota_us: 7,
            ..Limits::default()
        });
        assert_eq!((host.memory_bytes, host.pids, host.cpu_quota_us), (0, 0, 7));
        assert_eq!(
            (guest.memory_bytes, guest.pids, guest.cpu_quota_us),
            (5, 6, 0)
        );
    }
}
