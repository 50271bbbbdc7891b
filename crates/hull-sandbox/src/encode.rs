//! Turns a [`Spec`] into the bytes of a plan, and its descriptors into the list that the shim is
//! given: the plan names them by number.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hull_os::cgroup::Hierarchies;
use hull_os::mount::Attributes;
use hull_os::namespace::Kinds;
use hull_os::spawn::FIRST_DESCRIPTOR;
use hull_plan::Plan;
use hull_plan::codec::Writer;
use hull_plan::plan::{self, Step, streams};
use hull_plan::process::{self, ProcessStep};

use crate::error::Error;
use crate::spec::{
    Attachment, Cgroup, DeviceNode, LinkSteps, Lowers, Mount, MountKind, MountOptions, Namespace,
    Namespaces, Process, Propagation, Root, Spec, Stdin,
};

/// A plan and the descriptors that it names, which follow the given ones in this order.
#[derive(Debug)]
pub(crate) struct Encoded<'a> {
    pub(crate) plan: Vec<u8>,
    pub(crate) descriptors: Vec<BorrowedFd<'a>>,
}

/// Writes steps and collects descriptors.
pub(crate) struct Encoder<'a> {
    writer: Writer,
    descriptors: Vec<BorrowedFd<'a>>,
    /// How many descriptors every shim is given before these.
    given: usize,
}

/// What of the host a plan depends on.
#[derive(Debug)]
pub(crate) struct Host<'a> {
    /// Directory of the container's log.
    pub(crate) log_dir: Option<&'a OwnedFd>,
    pub(crate) hierarchies: &'a Hierarchies,
    /// How many descriptors every shim is given before those of the plan.
    pub(crate) given: usize,
}

/// Encodes a specification.
pub(crate) fn encode<'a>(
    spec: &'a Spec,
    attach: &'a [Attachment],
    host: &Host<'a>,
) -> Result<Encoded<'a>, Error> {
    if let Some(machine) = &spec.machine {
        return crate::machine::encode(spec, machine, attach, host);
    }
    let mut encoder = Encoder::new(host.given);
    encoder.step(&Step::Name(&text("id", &spec.id.short())?));
    encoder.namespaces(&spec.namespaces)?;
    encoder.root(&spec.root)?;
    encoder.links(&spec.link_steps);
    encoder.cgroup(&spec.cgroup, host.hierarchies)?;
    encoder.inside(spec)?;
    encoder.outside(spec, attach, host.log_dir)?;
    if spec.init {
        encoder.step(&Step::Init);
    }
    encoder.step(&Step::Process(&encode_process(&spec.process)?));
    Ok(encoder.finish())
}

/// Which streams a client has, as the shim takes them.
pub(crate) fn stream_bits(attachment: &Attachment) -> u32 {
    [
        (attachment.stdin, streams::STDIN),
        (attachment.stdout, streams::STDOUT),
        (attachment.stderr, streams::STDERR),
        (attachment.framed, streams::FRAMED),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(0, |bits, (_, bit)| bits | bit)
}

/// Encodes process steps: the same bytes for a container and an exec.
pub(crate) fn encode_process(process: &Process) -> Result<Vec<u8>, Error> {
    let mut w = Writer::default();
    if process.args.is_empty() {
        return Err(invalid("command", "is empty"));
    }
    for arg in &process.args {
        ProcessStep::Arg(&text("command", arg)?).encode(&mut w);
    }
    for variable in &process.env {
        ProcessStep::Env(&text("environment", variable)?).encode(&mut w);
    }
    ProcessStep::Cwd(
        &text("working directory", &process.cwd)?,
        process.create_cwd,
    )
    .encode(&mut w);
    ProcessStep::User(&text("user", &process.user)?).encode(&mut w);
    for group in &process.extra_groups {
        ProcessStep::Group(&text("group", group)?).encode(&mut w);
    }
    let sets = process.capabilities;
    ProcessStep::Capabilities(process::Capabilities {
        bounding: sets.bounding,
        effective: sets.effective,
        permitted: sets.permitted,
        inheritable: sets.inheritable,
        ambient: sets.ambient,
    })
    .encode(&mut w);
    if process.no_new_privileges {
        ProcessStep::NoNewPrivileges.encode(&mut w);
    }
    if let Some(filter) = &process.seccomp {
        ProcessStep::Seccomp(filter).encode(&mut w);
    }
    for limit in &process.rlimits {
        ProcessStep::Rlimit(limit.resource, limit.soft, limit.hard).encode(&mut w);
    }
    if let Some(value) = process.oom_score_adj {
        ProcessStep::OomScoreAdj(value).encode(&mut w);
    }
    if let Some(mask) = process.umask {
        ProcessStep::Umask(mask).encode(&mut w);
    }
    encode_streams(process, &mut w);
    Ok(w.finish())
}

/// The steps on which a process's streams depend.
pub(crate) fn encode_streams(process: &Process, w: &mut Writer) {
    if let Some((rows, cols)) = process.tty {
        ProcessStep::Terminal(rows, cols).encode(w);
    }
    ProcessStep::Stdin(match process.stdin {
        Stdin::Closed => process::Stdin::Closed,
        Stdin::Open => process::Stdin::Open,
        Stdin::Once => process::Stdin::Once,
    })
    .encode(w);
}

impl<'a> Encoder<'a> {
    /// Begins a plan for a program that is given so many descriptors before those of the plan.
    pub(crate) fn new(given: usize) -> Self {
        Self {
            writer: Plan::begin(),
            descriptors: Vec::new(),
            given,
        }
    }

    pub(crate) fn finish(self) -> Encoded<'a> {
        Encoded {
            plan: self.writer.finish(),
            descriptors: self.descriptors,
        }
    }

    /// Enters a namespace.
    pub(crate) fn join(&mut self, kind: Kinds, namespace: &'a OwnedFd) {
        let fd = self.add(namespace.as_fd());
        self.step(&Step::Join {
            kinds: kind.bits(),
            fd,
        });
    }

    /// What the container sees of itself, wherever it runs.
    pub(crate) fn inside(&mut self, spec: &'a Spec) -> Result<(), Error> {
        self.step(&Step::HostName(
            &text("hostname", &spec.hostname)?,
            &text("domainname", &spec.domainname)?,
        ));
        for mount in &spec.mounts {
            self.mount(mount)?;
            if let Some(mounts) = &spec.namespaces.shared_memory
                && mount.destination == "/dev"
            {
                let fd = self.add(mounts.as_fd());
                self.step(&Step::SharedMemory(fd));
            }
        }
        spec.devices
            .iter()
            .try_for_each(|device| self.device(device))?;
        for sysctl in &spec.sysctls {
            let path = sysctl_path(&sysctl.name);
            self.step(&Step::Sysctl(
                &text("sysctl", &path)?,
                &text("sysctl", &sysctl.value)?,
            ));
        }
        for path in &spec.masked_paths {
            self.step(&Step::Mask(&text("masked path", path)?));
        }
        for path in &spec.readonly_paths {
            self.step(&Step::ReadOnly(&text("read-only path", path)?));
        }
        if let Some(value) = spec.oom_score_adj {
            self.step(&Step::OomScoreAdj(value));
        }
        Ok(())
    }

    /// What its shim on this host has: log, clients, sockets.
    pub(crate) fn outside(
        &mut self,
        spec: &'a Spec,
        attach: &'a [Attachment],
        log_dir: Option<&'a OwnedFd>,
    ) -> Result<(), Error> {
        self.log(spec, log_dir)?;
        for attachment in attach {
            let fd = self.add(attachment.stream.as_fd());
            let streams = stream_bits(attachment);
            self.step(&Step::Attachment(plan::Attachment { fd, streams }));
        }
        if let Some(resolver) = &spec.resolver {
            self.step(&Step::Resolver {
                port: resolver.port.into(),
                rules: &resolver.rules,
            });
        }
        for kept in &spec.kept {
            let fd = self.add(kept.socket.as_fd());
            self.step(&Step::Keep { key: kept.key, fd });
        }
        Ok(())
    }

    pub(crate) fn links(&mut self, steps: &[LinkSteps]) {
        for links in steps {
            self.step(&Step::Links {
                host: &links.host,
                inside: &links.inside,
                netns_fd_offset: links.netns_fd_offset.unwrap_or(u32::MAX),
            });
        }
    }

    pub(crate) fn step(&mut self, step: &Step<'_>) {
        step.encode(&mut self.writer);
    }

    /// Adds a descriptor and returns the number that it will have.
    pub(crate) fn add(&mut self, fd: BorrowedFd<'a>) -> i32 {
        let index = self.given + self.descriptors.len();
        self.descriptors.push(fd);
        // Far below what a number holds: the process could not have opened so many.
        FIRST_DESCRIPTOR + i32::try_from(index).unwrap_or(i32::MAX - FIRST_DESCRIPTOR)
    }

    pub(crate) fn namespaces(&mut self, namespaces: &'a Namespaces) -> Result<(), Error> {
        let mut own = Kinds::none();
        for (kind, namespace) in [
            (Kinds::PID, &namespaces.pid),
            (Kinds::NETWORK, &namespaces.network),
            (Kinds::IPC, &namespaces.ipc),
            (Kinds::UTS, &namespaces.uts),
            (Kinds::CGROUP, &namespaces.cgroup),
        ] {
            match namespace {
                Namespace::Own => own = own.with(kind),
                Namespace::Host => {}
                Namespace::Join(fd) => self.join(kind, fd),
            }
        }
        if let Some(maps) = &namespaces.user {
            let map = |map: &crate::spec::IdMap| plan::IdMap {
                inside: map.inside,
                host: map.host,
                count: map.count,
            };
            if maps.uids.is_empty() || maps.gids.is_empty() {
                return Err(invalid("user namespace", "has no maps"));
            }
            maps.uids
                .iter()
                .for_each(|ids| self.step(&Step::UidMap(map(ids))));
            maps.gids
                .iter()
                .for_each(|ids| self.step(&Step::GidMap(map(ids))));
            match &namespaces.joined_user {
                Some(fd) => self.join(Kinds::USER, fd),
                None => own = own.with(Kinds::USER),
            }
        }
        self.step(&Step::Namespaces(own.bits()));
        Ok(())
    }

    pub(crate) fn root(&mut self, root: &'a Root) -> Result<(), Error> {
        self.step(&Step::Root(plan::Root {
            upper: &path("upper directory", &root.upper)?,
            work: &path("work directory", &root.work)?,
            readonly: root.readonly,
            propagation: propagation(root.propagation),
        }));
        match &root.lowers {
            Lowers::Descriptors(layers) => {
                for layer in layers {
                    let fd = self.add(layer.as_fd());
                    self.step(&Step::LowerDescriptor(fd));
                }
            }
            Lowers::Directories { base, names } => {
                self.step(&Step::LowerBase(&path("directory of layers", base)?));
                for name in names {
                    // These would be read as separators of mount options.
                    if name.contains([':', ',', '\\']) {
                        return Err(invalid("layer", "has a separator in its name"));
                    }
                    self.step(&Step::LowerName(&text("layer", name)?));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn mount(&mut self, mount: &Mount) -> Result<(), Error> {
        let private = plan::Propagation::Private;
        let (kind, source, travel) = match &mount.kind {
            MountKind::Bind {
                source,
                recursive,
                propagation: travel,
                mapped,
            } => {
                let kind = if *mapped {
                    plan::MountKind::BindMapped
                } else if *recursive {
                    plan::MountKind::BindRecursive
                } else {
                    plan::MountKind::Bind
                };
                (kind, path("mount source", source)?, propagation(*travel))
            }
            MountKind::Tmpfs => (plan::MountKind::Tmpfs, CString::default(), private),
            MountKind::Proc => (plan::MountKind::Proc, CString::default(), private),
            MountKind::Sysfs => (plan::MountKind::Sysfs, CString::default(), private),
            MountKind::Devpts => (plan::MountKind::Devpts, CString::default(), private),
            MountKind::Mqueue => (plan::MountKind::Mqueue, CString::default(), private),
            MountKind::Cgroup => (plan::MountKind::Cgroup, CString::default(), private),
        };
        if !mount.destination.starts_with('/') {
            return Err(invalid("mount destination", "is not absolute"));
        }
        self.step(&Step::Mount(plan::Mount {
            kind,
            attributes: attributes(mount.options).bits(),
            propagation: travel,
            source: &source,
            destination: &text("mount destination", &mount.destination)?,
            data: &text("mount data", &mount.data)?,
        }));
        Ok(())
    }

    pub(crate) fn device(&mut self, device: &DeviceNode) -> Result<(), Error> {
        /// Type bits of a block and a character device.
        const BLOCK: u32 = 0o060_000;
        const CHARACTER: u32 = 0o020_000;
        let kind = if device.block { BLOCK } else { CHARACTER };
        self.step(&Step::Device(plan::Device {
            path: &text("device", &device.path)?,
            mode: kind | (device.mode & 0o7777),
            major: device.major,
            minor: device.minor,
            uid: device.uid,
            gid: device.gid,
        }));
        Ok(())
    }

    pub(crate) fn cgroup(
        &mut self,
        cgroup: &Cgroup,
        hierarchies: &Hierarchies,
    ) -> Result<(), Error> {
        if !is_safe_cgroup(&cgroup.path) {
            return Err(invalid("cgroup", "has no safe path"));
        }
        self.step(&Step::Cgroup {
            hierarchies: &text("cgroup hierarchies", &hierarchies.describe())?,
            path: &text("cgroup", &cgroup.path)?,
            limits: &cgroup.limits.encode(),
        });
        Ok(())
    }

    fn log(&mut self, spec: &Spec, dir: Option<&'a OwnedFd>) -> Result<(), Error> {
        if let Some(service) = &spec.log.service {
            self.step(&Step::LogService(plan::LogService {
                address: &service.address,
                datagrams: service.datagrams,
                form: service.form,
                facility: service.facility,
                host: &text("host of the log", &service.host)?,
                tag: &text("tag of the log", &service.tag)?,
                fields: &service.fields,
                buffer_max: service.buffer_max,
            }));
        }
        let (Some(log), Some(dir)) = (&spec.log.path, dir) else {
            return Ok(());
        };
        let name = log
            .file_name()
            .ok_or_else(|| invalid("log", "has no file name"))?;
        let fd = self.add(dir.as_fd());
        self.step(&Step::Log(plan::Log {
            dir: fd,
            name: &path("log", Path::new(name))?,
            size_max: spec.log.max_size,
            files_max: spec.log.max_files.max(1),
            attributes: &spec.log.attributes,
        }));
        Ok(())
    }
}

/// Whether a cgroup path stays below the hierarchies' roots and is not one itself.
pub(crate) fn is_safe_cgroup(path: &str) -> bool {
    let parts = || path.split('/').filter(|part| !part.is_empty());
    parts().next().is_some() && parts().all(|part| part != "." && part != "..")
}

/// A dot separates, but a slash in its place means that dots are part of names, as in `sysctl(8)`.
fn sysctl_path(name: &str) -> String {
    if name.contains('/') {
        name.to_owned()
    } else {
        name.replace('.', "/")
    }
}

fn attributes(options: MountOptions) -> Attributes {
    [
        (options.readonly, Attributes::READONLY),
        (options.nosuid, Attributes::NOSUID),
        (options.nodev, Attributes::NODEV),
        (options.noexec, Attributes::NOEXEC),
        (options.noatime, Attributes::NOATIME),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(Attributes::none(), |all, (_, one)| all.with(one))
}

fn propagation(propagation: Propagation) -> plan::Propagation {
    match propagation {
        Propagation::Private | Propagation::Rprivate => plan::Propagation::Private,
        Propagation::Shared | Propagation::Rshared => plan::Propagation::Shared,
        Propagation::Slave | Propagation::Rslave => plan::Propagation::Slave,
    }
}

fn invalid(what: &'static str, why: &str) -> Error {
    Error::Invalid {
        what,
        why: why.to_owned(),
    }
}

pub(crate) fn text(what: &'static str, value: &str) -> Result<CString, Error> {
    CString::new(value).map_err(|_| invalid(what, "has a NUL inside"))
}

pub(crate) fn path(what: &'static str, value: &Path) -> Result<CString, Error> {
    CString::new(value.as_os_str().as_bytes()).map_err(|_| invalid(what, "has a NUL inside"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_path_cannot_leave_its_place() {
        for (path, expected) in [
            ("hull/0123", true),
            ("/hull/0123", true),
            ("", false),
            ("/", false),
            ("hull/../..", false),
            ("./x", false),
        ] {
            assert_eq!(is_safe_cgroup(path), expected, "{path}");
        }
    }

    #[test]
    fn a_nul_inside_is_refused() {
        let process = Process {
            args: vec!["a\0b".to_owned()],
            ..Process::default()
        };
        assert!(matches!(
            encode_process(&process),
            Err(Error::Invalid {
                what: "command",
                ..
            })
        ));
    }
}
