//! Starting: everything between the written intent and the first instruction of the program.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hull_model::SandboxId;
use hull_model::limits::{MACHINE_START_MS_MAX, START_MS_MAX};
use hull_model::spec::{ContainerSpec, Isolation, MountKind, NamespaceMode, NetworkMode};
use hull_model::state::State;
use hull_sandbox::{
    Attachment, Event as ShimEvent, KeptSocket, Namespace, Namespaces, Root, Shim, Spec,
};

use crate::api::Endpoint;
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::network::{self, Linked};
use crate::object::connection::Connection;
use crate::object::container::{Owner, next_event};
use crate::object::exec::start_failed;
use crate::object::port::{self, ClosedPorts};
use crate::object::{image_mount, volume};
use crate::port::{Reservation, ports_of};
use crate::users::Users;
use crate::{log_driver, machine, names, translate, users};

impl Owner {
    /// Spawns the shim and waits until the program runs; returns its process id and start time.
    pub(super) async fn spawn(&mut self) -> Result<(u32, i64)> {
        self.forget_execs();
        let attachments = std::mem::take(&mut self.attachments);
        let endpoints = self.life.endpoints.clone();
        let job = Job {
            core: self.core.clone(),
            id: self.id,
            spec: self.spec.clone(),
            layers: self.record.layers.clone(),
            cgroup: self.cgroup_path(),
        };
        // Parts of volumes stay open until the shim has mounted them.
        let (shim, ports, _volumes) = self
            .core
            .jobs
            .run(Pool::Kernel, move || job.start(&endpoints, attachments))
            .await??;
        self.open_ports(ports);
        self.shim = Some(Connection::new(shim)?);
        let limit = tokio::time::Instant::now() + Duration::from_millis(self.start_ms_max());
        let mut event = tokio::time::timeout_at(limit, next_event(&mut self.shim)).await;
        while matches!(event, Ok(ShimEvent::Kept)) {
            self.take_kept().await;
            event = tokio::time::timeout_at(limit, next_event(&mut self.shim)).await;
        }
        match event {
            Ok(ShimEvent::Started { pid, started_at_ns }) => Ok((pid, started_at_ns)),
            Ok(ShimEvent::StartFailed(failure)) => Err(start_failed(&failure)),
            Ok(other) => Err(EngineError::StartFailed {
                text: format!("the shim ended before the program ran ({other:?})"),
                exit_code: 128,
            }),
            Err(_) => Err(self.give_up_start()),
        }
    }
}

impl Owner {
    fn start_ms_max(&self) -> u64 {
        match self.spec.host.isolation {
            Isolation::Vm => MACHINE_START_MS_MAX,
            Isolation::Container => START_MS_MAX,
        }
    }

    /// A machine whose guest does not come up is not waited for.
    fn give_up_start(&self) -> EngineError {
        if let (Isolation::Vm, Some(shim)) = (self.spec.host.isolation, &self.shim) {
            drop(shim.get().signal(hull_model::signal::KILL));
        }
        EngineError::StartFailed {
            text: format!("nothing ran after {} ms", self.start_ms_max()),
            exit_code: 128,
        }
    }
}

/// What the blocking part of a start needs.
struct Job {
    core: Arc<Core>,
    id: SandboxId,
    spec: Arc<ContainerSpec>,
    layers: Vec<hull_model::Digest>,
    cgroup: String,
}

impl Job {
    /// Takes the ports, then starts; what was taken is given back if that fails.
    fn start(
        self,
        endpoints: &[Endpoint],
        attachments: Vec<Attachment>,
    ) -> Result<(Shim, Vec<Reservation>, volume::Sources)> {
        let target = port::target_of(endpoints);
        let ports = port::reserve(&self.core, self.id, &self.spec, endpoints)?;
        let published = ports_of(&ports);
        let (core, id) = (self.core.clone(), self.id);
        let started = crate::port::to_keep(&ports, 0).and_then(|kept| {
            core.ports.publish(&published, target)?;
            core.network.guard(id, &self.spec, endpoints)?;
            self.start_with(endpoints, attachments, kept)
        });
        if started.is_err() {
            core.network.unguard(id, endpoints);
            ClosedPorts::new(id, published, target).take_back(&core);
        }
        started.map(|(shim, volumes)| (shim, ports, volumes))
    }

    fn start_with(
        self,
        endpoints: &[Endpoint],
        attachments: Vec<Attachment>,
        kept: Vec<KeptSocket>,
    ) -> Result<(Shim, volume::Sources)> {
        let directory = self.core.container_dir(self.id);
        let (named, named_by) = self.core.named_as(&self.spec, self.id)?;
        let hostname = translate::hostname(&named, named_by);
        let names = self.core.container_dir(named_by);
        let linked = network::find_linked(&self.core, &self.spec)?;
        self.make_files(&directory, &hostname, endpoints, &linked)?;
        hull_os::crash::point("after the files");
        let network = &self.core.network;
        let log = log_driver::plan(&self.spec, &directory, self.id)?;
        let images = image_mount::sources(&self.core, &self.spec)?;
        let volumes = self
            .core
            .volumes
            .acquire_all(&self.id.to_string(), &self.spec)?
            .and(images);
        let mut spec = Spec {
            id: self.id,
            root: Root {
                lowers: match self.spec.host.isolation {
                    Isolation::Container => self.core.lowers(&self.layers)?,
                    // They are disks of the machine.
                    Isolation::Vm => hull_sandbox::Lowers::Descriptors(Vec::new()),
                },
                upper: directory.join("upper"),
                work: directory.join("work"),
                readonly: self.spec.host.readonly_rootfs,
                propagation: translate::root_propagation(&self.spec),
            },
            namespaces: self.namespaces()?,
            link_steps: network.steps(self.id, &self.spec, endpoints)?,
            mounts: translate::mounts(&self.spec, &names, &volumes),
            masked_paths: translate::masked_paths(&self.spec),
            readonly_paths: translate::readonly_paths(&self.spec),
            devices: translate::devices(&self.spec)?,
            cgroup: hull_sandbox::Cgroup {
                path: self.cgroup.clone(),
                limits: crate::limits::of(&self.core.support, &self.spec)?.0,
            },
            sysctls: translate::sysctls(&self.spec),
            oom_score_adj: self.spec.host.oom_score_adj,
            process: self.process(&hostname, linked)?,
            kept,
            resolver: match names::are_served(&self.spec, endpoints) {
                true => Some(names::resolver()?),
                false => None,
            },
            init: self.spec.host.init.unwrap_or_default(),
            log,
            domainname: self.spec.config.domainname.clone(),
            // The host's is there already.
            hostname: match self.spec.host.uts {
                NamespaceMode::Host => String::new(),
                _ => hostname,
            },
            machine: None,
        };
        users::adapt(&mut spec, &self.spec);
        let spec = match self.spec.host.isolation {
            Isolation::Container => spec,
            Isolation::Vm => machine::Asked {
                core: &self.core,
                id: self.id,
                spec: &self.spec,
                layers: &self.layers,
                endpoints,
                files_only: false,
            }
            .into_machine(spec)?,
        };
        self.core
            .driver
            .start(&spec, attachments)
            .map(|shim| (shim, volumes))
            .map_err(|e| EngineError::step("start the sandbox", e.kind(), e))
    }

    /// The process; variables of links come before its own.
    fn process(&self, hostname: &str, linked: Linked) -> Result<hull_sandbox::Process> {
        if linked.env.is_empty() {
            return translate::process(&self.spec, hostname);
        }
        let mut spec = (*self.spec).clone();
        spec.config.env.splice(0..0, linked.env);
        translate::process(&spec, hostname)
    }

    /// Directories and files of the container; making them again changes nothing.
    fn make_files(
        &self,
        directory: &Path,
        hostname: &str,
        endpoints: &[Endpoint],
        linked: &Linked,
    ) -> Result<()> {
        let make = || -> io::Result<()> {
            fs::create_dir_all(directory.join("upper"))?;
            fs::create_dir_all(directory.join("work"))?;
            if matches!(self.spec.host.network, NetworkMode::Container(_)) {
                return Ok(());
            }
            fs::write(directory.join("hostname"), format!("{hostname}\n"))?;
            let network = &self.core.network;
            let hosts = network.hosts_file(&self.spec, hostname, endpoints, linked);
            fs::write(directory.join("hosts"), hosts?)?;
            fs::write(
                directory.join("resolv.conf"),
                self.core.network.resolv_conf(&self.spec, endpoints),
            )
        };
        make().map_err(|e| EngineError::io(format!("prepare {}", directory.display()), e))?;
        for mount in &self.spec.host.mounts {
            if let MountKind::Bind {
                source,
                create_source: true,
                ..
            } = &mount.kind
                && !Path::new(source).exists()
            {
                fs::create_dir_all(source)
                    .map_err(|e| EngineError::io(format!("make the bind source {source}"), e))?;
            }
        }
        Ok(())
    }

    fn namespaces(&self) -> Result<Namespaces> {
        let host = &self.spec.host;
        let network = match &host.network {
            NetworkMode::Host => Namespace::Host,
            NetworkMode::Container(name) => self.join(name, "net", "network")?,
            NetworkMode::Default | NetworkMode::None | NetworkMode::Named(_) => Namespace::Own,
        };
        let users = Users::of(&self.core, &self.spec)?;
        Ok(Namespaces {
            network,
            pid: self.namespace(&host.pid, "pid")?,
            ipc: self.namespace(&host.ipc, "ipc")?,
            uts: self.namespace(&host.uts, "uts")?,
            cgroup: self.namespace(&host.cgroupns, "cgroup")?,
            shared_memory: self.shared_memory()?,
            joined_user: users.as_ref().and_then(|users| users.joined.clone()),
            user: users.map(|users| users.maps),
        })
    }

    fn namespace(&self, mode: &NamespaceMode, kind: &str) -> Result<Namespace> {
        Ok(match mode {
            NamespaceMode::Host => Namespace::Host,
            NamespaceMode::Container(name) => self.join(name, kind, &kind.to_ascii_uppercase())?,
            NamespaceMode::Default
            | NamespaceMode::Private
            | NamespaceMode::Shareable
            | NamespaceMode::None => Namespace::Own,
        })
    }

    /// The mounts of the container whose IPC it joins, for its `/dev/shm`: unless it has a mount of
    /// its own there.
    fn shared_memory(&self) -> Result<Option<Arc<OwnedFd>>> {
        let NamespaceMode::Container(name) = &self.spec.host.ipc else {
            return Ok(None);
        };
        let id = self.core.containers.resolve(name)?;
        let donor = self.core.containers.handle(id)?.snapshot.borrow().clone();
        if !matches!(
            donor.spec.host.ipc,
            NamespaceMode::Shareable | NamespaceMode::Container(_) | NamespaceMode::Host
        ) {
            return Err(EngineError::WrongState(format!(
                "can't join IPC of container {id}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
            )));
        }
        let mut mounts = self.spec.host.mounts.iter();
        if mounts.any(|mount| mount.destination == "/dev/shm") {
            return Ok(None);
        }
        match self.join(name, "mnt", "IPC")? {
            Namespace::Join(mounts) => Ok(Some(mounts)),
            Namespace::Own | Namespace::Host => Ok(None),
        }
    }

    /// A namespace of another container, which has to run.
    fn join(&self, name: &str, kind: &str, shown: &str) -> Result<Namespace> {
        let id = self.core.containers.resolve(name)?;
        let handle = self.core.containers.handle(id)?;
        let before = handle.snapshot.borrow().clone();
        if before.state != State::Running || before.pid == 0 {
            return Err(EngineError::WrongState(format!(
                "cannot join {shown} of a non running container: {id}"
            )));
        }
        let opened = hull_os::namespace::open(before.pid, kind)
            .map_err(|e| EngineError::io(format!("open the {kind} namespace of {name}"), e))?;
        // The number could have been given to another process between the two looks.
        if handle.snapshot.borrow().pid != before.pid {
            return Err(EngineError::NotRunning(id));
        }
        Ok(Namespace::Join(Arc::new(opened)))
    }
}
