//! A sandbox whose first process is QEMU: two plans instead of one.
//!
//! ```text
//! Spec ─┬─▶ host plan:  QEMU as a container of its own, without a path, a link or a right that it
//!       │               does not need; log, clients and kept sockets as ever
//!       └─▶ guest plan: the container, as the shim inside carries it out
//! ```

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use hull_os::namespace::Kinds;
use hull_plan::frame::{self, Guest};
use hull_plan::plan::{self, Step, streams};
use hull_plan::process::ProcessStep;

use crate::encode::{Encoded, Encoder, Host, encode_process, encode_streams, path, text};
use crate::error::Error;
use crate::spec::{
    Attachment, DeviceNode, Lowers, Mount, MountKind, MountOptions, Namespace, Namespaces, Process,
    Propagation, Root, Spec, Stdin,
};

/// Directories of the host that QEMU's program and libraries lie in, read-only in its root.
const LIBRARIES: [&str; 3] = ["/usr", "/lib", "/lib64"];
/// The first descriptors that the shim inside is given, behind its own.
const GUEST_CLIENTS: [(i32, u32); 2] =
    [(7, streams::STDIN | streams::STDOUT), (8, streams::STDERR)];
/// Its cgroup in the guest.
const GUEST_CGROUP: &CStr = c"hull";
/// The device that QEMU opens where the processor runs its guest.
const KVM: (u32, u32) = (10, 232);

/// A machine that carries a container.
#[derive(Debug)]
pub struct Machine {
    /// QEMU's command line; `{fdN}` stands for the number of the N-th descriptor.
    pub command: Vec<String>,
    /// What it is given.
    pub descriptors: Vec<OwnedFd>,
    /// Our end of the agent's channel.
    pub agent: OwnedFd,
    /// Files of the host and where they are in QEMU's root.
    pub files: Vec<(PathBuf, String)>,
    /// An empty directory, and two that take what makes QEMU's root.
    pub root: Root,
    /// Who QEMU runs as.
    pub user: u32,
    /// Whether it may open `/dev/kvm`.
    pub kvm: bool,
    /// How many of its disks are layers.
    pub layers: u32,
    /// Directories of the host that the guest has, in order; binds of the container name them below
    /// [`hull_plan::frame::SHARES`].
    pub shares: Vec<Share>,
    /// Requests for the guest's network.
    pub guest_links: Vec<Vec<u8>>,
    /// Small files that the guest gets, by name; binds of the container name them below
    /// [`hull_plan::frame::FILES`].
    pub guest_files: Vec<(String, Vec<u8>)>,
    /// The guest is there for its files only: nothing runs in it.
    pub files_only: bool,
    /// Limits that hold in the guest; those of [`Spec::cgroup`] hold for QEMU.
    pub guest_limits: crate::spec::Limits,
}

/// A directory of the host in a guest.
#[derive(Debug)]
pub struct Share {
    /// The directory.
    pub source: PathBuf,
    /// The guest must not write.
    pub readonly: bool,
    /// The command of its file server, which gets the listening socket as descriptor 3.
    pub command: Vec<String>,
    /// The listening socket, that QEMU is connected to.
    pub listener: OwnedFd,
}

/// Encodes both plans.
pub(crate) fn encode<'a>(
    spec: &'a Spec,
    machine: &'a Machine,
    attach: &'a [Attachment],
    host: &Host<'a>,
) -> Result<Encoded<'a>, Error> {
    let guest = guest(spec, machine)?;
    let mut encoder = Encoder::new(host.given);
    encoder.step(&Step::Name(&text("id", &spec.id.short())?));
    let own = Kinds::PID
        .with(Kinds::NETWORK)
        .with(Kinds::IPC)
        .with(Kinds::UTS);
    encoder.step(&Step::Namespaces(own.bits()));
    encoder.root(&machine.root)?;
    encoder.step(&Step::HostName(c"machine", c""));
    encoder.links(&spec.link_steps);
    for library in LIBRARIES {
        if std::path::Path::new(library).is_dir() {
            encoder.mount(&bind(library.into(), library))?;
        }
    }
    for (source, place) in &machine.files {
        encoder.mount(&bind(source.clone(), place))?;
    }
    if machine.kvm {
        encoder.device(&DeviceNode {
            path: "/dev/kvm".to_owned(),
            block: false,
            major: KVM.0,
            minor: KVM.1,
            mode: 0o600,
            uid: machine.user,
            gid: machine.user,
        })?;
    }
    encoder.cgroup(&spec.cgroup, host.hierarchies)?;
    encoder.outside(spec, attach, host.log_dir)?;
    let numbers: Vec<i32> = machine
        .descriptors
        .iter()
        .map(|fd| encoder.add(fd.as_fd()))
        .collect();
    for share in &machine.shares {
        let listener = encoder.add(share.listener.as_fd());
        let mut command = hull_plan::codec::Writer::default();
        for word in &share.command {
            ProcessStep::Arg(&text("file server", word)?).encode(&mut command);
        }
        encoder.step(&Step::Share {
            listener,
            readonly: share.readonly,
            source: &path("shared directory", &share.source)?,
            command: &command.finish(),
        });
    }
    let agent = encoder.add(machine.agent.as_fd());
    encoder.step(&Step::Machine {
        agent,
        stdio: &stdio(&spec.process),
        guest: &guest,
    });
    encoder.step(&Step::Process(&qemu(machine, &numbers)?));
    Ok(encoder.finish())
}

/// What of a process its streams depend on.
fn stdio(process: &Process) -> Vec<u8> {
    let mut w = hull_plan::codec::Writer::default();
    encode_streams(process, &mut w);
    w.finish()
}

/// The steps of QEMU itself: a user of its own and no power at all.
fn qemu(machine: &Machine, numbers: &[i32]) -> Result<Vec<u8>, Error> {
    let number = |argument: &String| {
        let mut argument = argument.clone();
        for (index, number) in numbers.iter().enumerate() {
            argument = argument.replace(&format!("{{fd{index}}}"), &number.to_string());
        }
        argument
    };
    let mut steps = encode_process(&Process {
        args: machine.command.iter().map(number).collect(),
        env: vec!["PATH=/usr/bin".to_owned(), "HOME=/".to_owned()],
        cwd: "/".to_owned(),
        user: format!("{0}:{0}", machine.user),
        no_new_privileges: true,
        ..Process::default()
    })?;
    let mut w = hull_plan::codec::Writer::default();
    if !machine.kvm {
        // QEMU asks for huge pages for all that a guest may use and for translated code. They make a processor's
        // own guests faster; under emulation they only hold what was never touched.
        ProcessStep::SmallPages.encode(&mut w);
    }
    for &number in numbers {
        ProcessStep::Pass(number).encode(&mut w);
    }
    steps.extend(w.finish());
    Ok(steps)
}

/// What the agent makes, with the plan of the container inside.
fn guest(spec: &Spec, machine: &Machine) -> Result<Vec<u8>, Error> {
    let plan = guest_plan(spec, machine)?;
    let names: Vec<CString> = machine
        .guest_files
        .iter()
        .map(|(name, _)| text("file", name))
        .collect::<Result<_, _>>()?;
    let files = names.iter().zip(&machine.guest_files);
    Ok(Guest {
        layers: machine.layers,
        shares: u32::try_from(machine.shares.len()).unwrap_or(u32::MAX),
        links: machine.guest_links.iter().map(Vec::as_slice).collect(),
        resolver: spec.resolver.is_some(),
        files: files
            .map(|(name, (_, contents))| (name.as_c_str(), contents.as_slice()))
            .collect(),
        files_only: machine.files_only,
        plan: &plan,
    }
    .encode())
}

fn guest_plan(spec: &Spec, machine: &Machine) -> Result<Vec<u8>, Error> {
    let root = Root {
        lowers: Lowers::Directories {
            base: frame::LAYERS.into(),
            names: (0..machine.layers).map(|layer| layer.to_string()).collect(),
        },
        upper: format!("{}/upper", frame::UPPER).into(),
        work: format!("{}/work", frame::UPPER).into(),
        readonly: spec.root.readonly,
        propagation: Propagation::Private,
    };
    if machine.files_only {
        return view_plan(spec, &root);
    }
    let namespaces = Namespaces {
        // The guest's network is the container's.
        network: Namespace::Host,
        ..Namespaces::default()
    };
    let mut encoder = Encoder::new(0);
    encoder.step(&Step::Name(&text("id", &spec.id.short())?));
    encoder.namespaces(&namespaces)?;
    encoder.root(&root)?;
    encoder.inside(spec)?;
    encoder.step(&Step::Cgroup {
        hierarchies: frame::HIERARCHIES,
        path: GUEST_CGROUP,
        limits: &machine.guest_limits.encode(),
    });
    for (fd, streams) in GUEST_CLIENTS {
        encoder.step(&Step::Attachment(plan::Attachment { fd, streams }));
    }
    if spec.init {
        encoder.step(&Step::Init);
    }
    let mut process = spec.process.clone();
    if process.stdin != Stdin::Closed {
        // Whether it stays open is decided at our end of the channel.
        process.stdin = Stdin::Once;
    }
    let mut steps = encode_process(&process)?;
    let mut w = hull_plan::codec::Writer::default();
    // The agent keeps to one.
    ProcessStep::AllProcessors.encode(&mut w);
    steps.extend(w.finish());
    encoder.step(&Step::Process(&steps));
    Ok(encoder.finish().plan)
}

/// What a server of files makes its view by.
fn view_plan(spec: &Spec, root: &Root) -> Result<Vec<u8>, Error> {
    let mut encoder = Encoder::new(0);
    encoder.root(root)?;
    for mount in &spec.mounts {
        if matches!(mount.kind, MountKind::Bind { .. }) {
            encoder.mount(mount)?;
        }
    }
    Ok(encoder.finish().plan)
}

fn bind(source: PathBuf, destination: &str) -> Mount {
    Mount {
        kind: MountKind::Bind {
            source,
            recursive: false,
            propagation: Propagation::Rprivate,
            mapped: false,
        },
        destination: destination.to_owned(),
        options: MountOptions {
            readonly: true,
            nosuid: true,
            nodev: true,
            ..MountOptions::default()
        },
        data: String::new(),
    }
}
