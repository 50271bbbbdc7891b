//! Files of containers from outside: copied in and out, listed, exported, made an image of.
//!
//! Each request takes a view of its container (`object/view.rs`) and works on it on a thread of the
//! pool for files; when the last of them lets go, the mounts are gone.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use hull_model::spec::{ContainerConfig, ContainerSpec, Healthcheck, Isolation};
use hull_model::{Digest, SandboxId};
use hull_os::entry;
use hull_storage::image::{self, History, ImageConfig, LayerRef, RunConfig, apply_changes};
use hull_storage::tree::{self, MakeOptions};

use crate::Containers;
use crate::api::{
    ArchiveOptions, CommitRequest, Container, FileChange, PathStat, ProcessFiles, Processes,
};
use crate::clock::{now_ns, rfc3339};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::machine;
use crate::object::container::Request;
use crate::object::create::merge_image;
use crate::object::image as images;
use crate::object::view::{FileView, is_seen};

/// Bytes of an archive that are read at once.
const INPUT_BYTES: usize = 256 << 10;
/// Bytes of `/etc/passwd` and `/etc/group` that are looked at.
const ACCOUNTS_BYTES_MAX: u64 = 1 << 20;

/// Bytes of a description of a process: a guest could say any number.
const DESCRIPTION_BYTES_MAX: u64 = 256 << 10;
/// Processes that are listed of one guest.
const PROCESSES_MAX: usize = 10_000;

/// What is in a file of `/proc`, as far as it is told; nothing when it is gone.
fn read_bounded(path: &std::path::Path) -> Vec<u8> {
    let mut text = Vec::new();
    if let Ok(file) = File::open(path) {
        drop(file.take(DESCRIPTION_BYTES_MAX).read_to_end(&mut text));
    }
    text
}

impl Processes {
    fn read(proc: &std::path::Path, pids: BTreeSet<u32>) -> Processes {
        let text = |path: &str| {
            let bytes = read_bounded(&proc.join(path));
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let described = |pid: u32| ProcessFiles {
            stat: text(&format!("{pid}/stat")),
            status: text(&format!("{pid}/status")),
            command: text(&format!("{pid}/cmdline")),
        };
        Processes {
            uptime: text("uptime"),
            memory: text("meminfo"),
            list: pids.into_iter().map(described).collect(),
        }
    }
}

impl Containers<'_> {
    /// What is at a path of a container.
    ///
    /// # Errors
    /// `NoSuchFile`.
    pub async fn path_stat(&self, id: SandboxId, path: &str) -> Result<PathStat> {
        let path = path.to_owned();
        self.on_files(id, move |view, _| {
            let found = tree::look(view.whole(), path.as_bytes());
            found.map(PathStat).map_err(|error| failure(error, &path))
        })
        .await
    }

    /// Writes what is at a path as an archive.
    ///
    /// # Errors
    /// `NoSuchFile`, or the writer's.
    pub async fn read_archive(
        &self,
        id: SandboxId,
        path: &str,
        output: Box<dyn Write + Send>,
    ) -> Result<()> {
        let path = path.to_owned();
        self.tell(id, "archive-path")?;
        self.on_files(id, move |view, _| {
            tree::pack_path(view.whole(), path.as_bytes(), view.ids(), output)
                .map_err(|error| failure(error, &path))
        })
        .await
    }

    /// Unpacks an archive, plain or compressed, into a directory.
    ///
    /// # Errors
    /// `NoSuchFile`, `Invalid` when it is no directory or may not be written, or what is wrong with
    /// the archive.
    pub async fn write_archive(
        &self,
        id: SandboxId,
        path: &str,
        options: ArchiveOptions,
        input: Box<dyn Read + Send>,
    ) -> Result<()> {
        let path = path.to_owned();
        let live = self.inspect(id)?.state.is_live();
        self.on_files(id, move |view, spec| {
            unpack(view, spec, live, &path, options, input)
        })
        .await?;
        self.tell(id, "extract-to-dir")
    }

    /// Writes the whole root as an archive, without what is mounted on it.
    ///
    /// # Errors
    /// The writer's, or what the file system says.
    pub async fn export(&self, id: SandboxId, output: Box<dyn Write + Send>) -> Result<()> {
        self.tell(id, "export")?;
        self.on_files(id, move |view, _| {
            tree::pack_root(view.root(), view.ids(), output)
                .map_err(|e| EngineError::step("export the files", e.kind(), e))
        })
        .await
    }

    /// The processes of a container as the kernel that runs them describes them.
    ///
    /// # Errors
    /// `NotRunning`.
    pub async fn processes(&self, id: SandboxId) -> Result<Processes> {
        let container = self.inspect(id)?;
        if !container.state.is_live() {
            return Err(EngineError::NotRunning(id));
        }
        let view = match container.spec.host.isolation {
            Isolation::Container => None,
            Isolation::Vm => {
                let handle = self.handle(id)?;
                Some(handle.ask(|reply| Request::View { reply }).await?)
            }
        };
        let core = self.0.clone();
        let read = self.0.jobs.run(Pool::Files, move || {
            let Some(view) = view else {
                let cgroup = core.cgroup_path(&container.spec, id);
                let pids = core.processes(&cgroup)?;
                return Ok(Processes::read(std::path::Path::new("/proc"), pids));
            };
            let (proc, cgroup) = (
                view.guest_directory(c"proc")?,
                view.guest_directory(c"cgroup")?,
            );
            let listed = read_bounded(&entry::open_path(cgroup.as_fd()).join("hull/cgroup.procs"));
            let listed = String::from_utf8_lossy(&listed).into_owned();
            let pids = listed.lines().filter_map(|line| line.parse().ok());
            let pids: BTreeSet<u32> = pids.take(PROCESSES_MAX).collect();
            Ok(Processes::read(&entry::open_path(proc.as_fd()), pids))
        });
        let processes = read.await??;
        self.tell(id, "top")?;
        Ok(processes)
    }

    /// What a container changed in its root, sorted by path.
    ///
    /// # Errors
    /// When its files or layers cannot be read.
    pub async fn changes(&self, id: SandboxId) -> Result<Vec<FileChange>> {
        changes(self.0, id).await
    }

    /// Makes an image of a container; returns its id. Its processes are stopped meanwhile where that
    /// was asked for. Goes on when the caller goes away.
    ///
    /// # Errors
    /// What is wrong with a change or the name, or what the file system says.
    pub async fn commit(&self, id: SandboxId, request: CommitRequest) -> Result<Digest> {
        let core = self.0.clone();
        tokio::spawn(async move { commit(&core, id, request).await })
            .await
            .map_err(|e| EngineError::Unavailable(format!("the commit ended early: {e}")))?
    }

    pub(crate) fn tell(&self, id: SandboxId, action: &str) -> Result<()> {
        let container = self.inspect(id)?;
        self.0.publish_container(id, &container.spec, action, []);
        Ok(())
    }

    /// Works on the files of a container.
    async fn on_files<T: Send + 'static>(
        &self,
        id: SandboxId,
        work: impl FnOnce(&FileView, &ContainerSpec) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let handle = self.handle(id)?;
        let spec = handle.snapshot.borrow().spec.clone();
        let view = handle.ask(|reply| Request::View { reply }).await?;
        self.0
            .jobs
            .run(Pool::Files, move || work(&view, &spec))
            .await?
    }
}

fn failure(error: hull_storage::Error, path: &str) -> EngineError {
    if error.is_not_there() {
        EngineError::NoSuchFile(path.to_owned())
    } else {
        EngineError::step(format!("read {path}"), error.kind(), error)
    }
}

fn unpack(
    view: &FileView,
    spec: &ContainerSpec,
    live: bool,
    path: &str,
    options: ArchiveOptions,
    input: Box<dyn Read + Send>,
) -> Result<()> {
    let whole = view.whole();
    let real = tree::resolve(whole, path.as_bytes()).map_err(|error| failure(error, path))?;
    if let Err(error) = tree::open_directory(whole, &real) {
        return Err(match error.is_not_directory() {
            true => EngineError::Invalid("extraction point is not a directory".to_owned()),
            false => failure(error, path),
        });
    }
    refuse_read_only(spec, live, &String::from_utf8_lossy(&real))?;
    let owner = match options.owned_by_user && !spec.config.user.is_empty() {
        true => Some(user_ids(view, &spec.config.user)?),
        false => None,
    };
    let options = MakeOptions {
        keep_kinds: options.keep_kinds,
        owner,
        ids: view.ids(),
        ..MakeOptions::default()
    };
    let failed = |e: hull_storage::Error| EngineError::step("unpack the archive", e.kind(), e);
    let input = hull_storage::decompress(input).map_err(failed)?;
    let input = BufReader::with_capacity(INPUT_BYTES, input);
    match tree::unpack(whole, &real, options, input) {
        Err(error @ hull_storage::Error::Kind { .. }) => {
            Err(EngineError::Invalid(error.to_string()))
        }
        result => result.map_err(failed),
    }
}

/// Refuses what the kernel would refuse a process inside, in Docker's words.
fn refuse_read_only(spec: &ContainerSpec, live: bool, path: &str) -> Result<()> {
    let covers = |destination: &str| {
        let destination = destination.trim_end_matches('/');
        path.strip_prefix(destination)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mounts = spec.host.mounts.iter();
    let mount = mounts
        .filter(|mount| is_seen(&mount.kind, live) && covers(&mount.destination))
        .max_by_key(|mount| mount.destination.len());
    let refused = |text: &str| Err(EngineError::Invalid(text.to_owned()));
    match mount {
        Some(mount) if mount.readonly => refused("mounted volume is marked read-only"),
        None if spec.host.readonly_rootfs => refused("container rootfs is marked read-only"),
        _ => Ok(()),
    }
}

fn user_ids(view: &FileView, user: &str) -> Result<(u32, u32)> {
    let read = |path: &str| -> String {
        let (dir, name) = ("/etc", std::ffi::OsStr::new(path));
        let mut text = String::new();
        // A root without such a file knows numbers only.
        if let Ok(dir) = tree::open_directory(view.whole(), dir.as_bytes())
            && let Ok(file) = hull_os::entry::open_file(dir.as_fd(), name)
        {
            drop(file.take(ACCOUNTS_BYTES_MAX).read_to_string(&mut text));
        }
        text
    };
    hull_sandbox::user_ids(user, &read("passwd"), &read("group")).map_err(EngineError::Invalid)
}

async fn changes(core: &Arc<Core>, id: SandboxId) -> Result<Vec<FileChange>> {
    let container = core.containers.handle(id)?.snapshot.borrow().clone();
    let upper = upper_of(core, &container).await?;
    let job = core.clone();
    let failed = |e: hull_storage::Error| EngineError::step("compare the files", e.kind(), e);
    core.jobs
        .run(Pool::Files, move || {
            let Some(upper) = upper else {
                return Ok(Vec::new());
            };
            let changes = job.storage.changes(upper.as_fd(), &container.layers);
            changes.map_err(failed)
        })
        .await?
}

/// What a container changed.
struct Upper {
    directory: OwnedFd,
    _view: Option<Arc<FileView>>,
}

impl AsFd for Upper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// The upper directory, here or in a guest; none before the first start.
async fn upper_of(core: &Arc<Core>, container: &Container) -> Result<Option<Upper>> {
    if container.spec.host.isolation == Isolation::Container {
        let found = upper(&container.upper_dir)?;
        return Ok(found.map(|file| Upper {
            directory: file.into(),
            _view: None,
        }));
    }
    if !machine::has_written(core, container.id) {
        return Ok(None);
    }
    let handle = core.containers.handle(container.id)?;
    let view = handle.ask(|reply| Request::View { reply }).await?;
    let opened = core.jobs.run(Pool::Files, move || {
        view.guest_directory(c"upper").map(|directory| Upper {
            directory,
            _view: Some(view),
        })
    });
    opened.await?.map(Some)
}

/// The upper directory; none before the first start.
fn upper(path: &std::path::Path) -> Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        opened => opened
            .map(Some)
            .map_err(|e| EngineError::io(format!("open {}", path.display()), e)),
    }
}

async fn commit(core: &Arc<Core>, id: SandboxId, request: CommitRequest) -> Result<Digest> {
    let handle = core.containers.handle(id)?;
    let container = handle.snapshot.borrow().clone();
    let reference = request
        .reference
        .as_deref()
        .map(images::parse)
        .transpose()?;
    let reference = reference.map(image::Reference::with_default_tag);
    let base = core.images.record(&container.spec.image)?;
    let mut config = image_config(&container.spec, &base.config, &request)?;
    config.other.extend(origin(id, &container.spec));
    // No layer goes away between here and the record that names it.
    let making = core.images.sweep.clone().read_owned().await;
    let held = request.pause && handle.ask(|reply| Request::Hold { reply }).await?;
    let layer = new_layer(core, id).await;
    if held {
        drop(handle.ask(|reply| Request::Release { reply }).await);
    }
    let (parent, names) = (container.spec.image, reference.as_slice());
    let made = match layer {
        Ok(layer) => make_image(core, parent, &base, config, layer, names).await,
        Err(error) => Err(error),
    };
    drop(making);
    if made.is_err() {
        // What came before the fault.
        images::sweep(core, images::Scope::All).await?;
    }
    let image = made?;
    images::tell_names(core, &image, names);
    let named = reference.as_ref().map(image::Reference::familiar);
    core.publish_container(
        id,
        &container.spec,
        "commit",
        [
            ("comment", request.message.clone()),
            ("imageID", image.to_string()),
            ("imageRef", named.unwrap_or_default()),
        ],
    );
    Ok(image)
}

/// Makes an image of another one and the layer of what a container changed in it.
async fn make_image(
    core: &Arc<Core>,
    parent: Digest,
    base: &image::ImageRecord,
    config: ImageConfig,
    layer: Option<LayerRef>,
    names: &[image::Reference],
) -> Result<Digest> {
    let (job, mut layers) = (core.clone(), base.layers.clone());
    let record = core.jobs.run(Pool::Disk, move || {
        let mut config = config;
        if let Some(last) = config.history.last_mut() {
            last.empty_layer = layer.is_none();
        }
        layers.extend(layer);
        job.storage
            .put_image(config, &layers)
            .map_err(|e| EngineError::step("write the image", e.kind(), e))
    });
    let record = record.await??;
    let origin = images::Origin {
        parent: Some(parent),
        ..images::Origin::default()
    };
    images::add_from(core, record, names, origin).await
}

/// As Docker writes down in an image which container it came from.
fn origin(id: SandboxId, spec: &ContainerSpec) -> [(String, serde_json::Value); 2] {
    let mut config = serde_json::json!(run_config(&spec.config));
    config["Hostname"] = spec.config.hostname.as_str().into();
    config["Image"] = spec.image_reference.as_str().into();
    [
        ("container".to_owned(), id.to_string().into()),
        ("container_config".to_owned(), config),
    ]
}

/// The layer of what a container changed; none when it changed nothing.
async fn new_layer(core: &Arc<Core>, id: SandboxId) -> Result<Option<LayerRef>> {
    if changes(core, id).await?.is_empty() {
        return Ok(None);
    }
    let container = core.containers.handle(id)?.snapshot.borrow().clone();
    let upper = upper_of(core, &container).await?;
    let job = core.clone();
    core.jobs
        .run(Pool::Disk, move || {
            let Some(upper) = upper else {
                return Ok(None);
            };
            let layer = job.storage.ingest_upper(upper.as_fd());
            layer
                .map(|layer| Some(LayerRef::from(&layer)))
                .map_err(|e| EngineError::step("make a layer of the changes", e.kind(), e))
        })
        .await?
}

/// The configuration of the new image: the request's, its changes, then the container's.
fn image_config(
    spec: &ContainerSpec,
    base: &ImageConfig,
    request: &CommitRequest,
) -> Result<ImageConfig> {
    let mut run = run_config(request.config.as_ref().unwrap_or(&spec.config));
    apply_changes(&mut run, &request.changes)
        .map_err(|error| EngineError::Invalid(error.to_string()))?;
    let on_build = run.on_build.clone();
    let mut config = images::defaults(&run);
    merge_image(&mut config, &spec.config);
    config.on_build = on_build;
    let created = rfc3339(now_ns());
    let mut history = base.history.clone();
    history.push(History {
        created: Some(created.clone()),
        created_by: spec.config.cmd.clone().unwrap_or_default().join(" "),
        author: request.author.clone(),
        comment: request.message.clone(),
        ..History::default()
    });
    Ok(ImageConfig {
        created: Some(created),
        author: request.author.clone(),
        config: run_config(&config),
        history,
        ..base.clone()
    })
}

/// What of a container's configuration is an image's.
fn run_config(config: &ContainerConfig) -> RunConfig {
    let check = |check: &Healthcheck| image::Healthcheck {
        test: check.test.clone(),
        interval: check.interval_ns,
        timeout: check.timeout_ns,
        start_period: check.start_period_ns,
        start_interval: check.start_interval_ns,
        retries: check.retries,
    };
    let empty = |name: &String| (name.clone(), image::Empty {});
    RunConfig {
        user: config.user.clone(),
        exposed_ports: config.exposed_ports.iter().map(empty).collect(),
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        healthcheck: config.healthcheck.as_ref().map(check),
        volumes: config.volumes.iter().map(empty).collect(),
        working_dir: config.working_dir.clone(),
        on_build: config.on_build.clone(),
        labels: config.labels.clone(),
        stop_signal: config.stop_signal.clone(),
        stop_timeout: config.stop_timeout_s,
        shell: config.shell.clone(),
        ..RunConfig::default()
    }
}
