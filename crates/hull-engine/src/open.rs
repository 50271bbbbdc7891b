//! Opening the engine, and facts about it.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::EngineConfig;
use crate::api::{Facts, HostFacts};
use crate::clock::random_bytes;
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::events::Events;
use crate::jobs::Jobs;
use crate::names::Changes;
use crate::network::Network;
use crate::object::exec::ExecTable;
use crate::object::image::{self, ImageTable};
use crate::object::registry::Registry;
use crate::object::transfer::Transfers;
use crate::object::volume::VolumeTable;
use crate::port::Ports;
use crate::recover;
use crate::reload::Reloadable;
use crate::stats::{Guests, Moments};
use crate::store::{Change, Contents, Key, Store};

/// Run root of the one daemon that people have; others get names of their own.
const RUN_ROOT_DEFAULT: &str = "/run/hull";
/// First kernel whose overlay takes layers by descriptor.
const LOWERS_BY_DESCRIPTOR_SINCE: (u32, u32) = (6, 13);
/// Opens the data root and takes over what runs.
pub(crate) async fn open(mut config: EngineConfig) -> Result<Arc<Core>> {
    let tag = tag(&config.run_root);
    // Never the given group itself: what lies in ours and has no record is removed.
    config.cgroup_parent = format!("{}/{tag}", config.cgroup_parent.trim_matches('/'))
        .trim_start_matches('/')
        .to_owned();
    for (path, mode) in [(&config.data_root, 0o710), (&config.run_root, 0o700)] {
        make_private(path, mode)
            .map_err(|e| EngineError::io(format!("make {}", path.display()), e))?;
    }
    let (store, contents) = Store::open(&config.data_root)?;
    let boot_id =
        hull_os::process::boot_id().map_err(|e| EngineError::io("read the boot id", e))?;
    let engine_id = engine_id(&store, &contents).await?;
    let storage = hull_storage::Store::open(&config.data_root)
        .map_err(|e| EngineError::step("open the layer store", e.kind(), e))?;
    let (run_root, data_root) = (&config.run_root, &config.data_root);
    let mounts = hull_storage::LayerMounts::open(run_root, data_root, config.layer_backing)
        .map_err(|e| EngineError::step("open the layer mounts", e.kind(), e))?;
    let driver = hull_sandbox::Driver::open(&config.run_root, config.shim_program)
        .map_err(|e| EngineError::step("open the sandbox driver", e.kind(), e))?;
    if !config.users.is_empty() {
        probe_users(&config.data_root, &mounts, &driver)?;
    }
    let cgroups = hull_os::cgroup::Hierarchies::detect()
        .map_err(|e| EngineError::io("read the cgroup hierarchies", e))?;
    // Made here and not by the first containers, whose shims would race to fill in its processors.
    cgroups
        .create(&config.cgroup_parent, &hull_os::cgroup::Limits::default())
        .map_err(|e| EngineError::io(format!("make the cgroup {}", config.cgroup_parent), e))?;
    let network = Network::open(
        &config.bridge,
        &config.run_root,
        &tag,
        &engine_id,
        &contents,
    )?;
    let images = ImageTable::recover(&storage, &contents);
    let reloadable = Reloadable::new(&config)?;
    let volumes = VolumeTable::open(&config.data_root, &contents)?;
    let data_root = config.data_root.clone();
    let core = Arc::new(Core {
        support: cgroups.support(),
        host: host_facts(&cgroups),
        moments: Moments::default(),
        sizes: crate::sizes::Sizes::default(),
        guests: Guests::default(),
        lowers_by_descriptor: kernel_version() >= LOWERS_BY_DESCRIPTOR_SINCE,
        boot_id,
        engine_id,
        store,
        jobs: Arc::new(Jobs::new()),
        events: Events::open(&data_root),
        containers: Registry::default(),
        execs: ExecTable::default(),
        images,
        reloadable,
        transfers: Transfers::new(config.downloads_max),
        volumes,
        storage,
        mounts,
        driver,
        name_changes: Changes::default(),
        ports: Ports::new(network.kernel(), config.bridge.default_ip),
        network,
        cgroups,
        config,
    });
    image::after_boot(&core, &contents).await?;
    recover::containers(&core, &contents).await?;
    image::sweep_at_start(&core).await;
    image::collect_forever(&core);
    Ok(core)
}

/// Refuses to start where no mount can have other users than its file system.
fn probe_users(
    data_root: &Path,
    mounts: &hull_storage::LayerMounts,
    driver: &hull_sandbox::Driver,
) -> Result<()> {
    let containers = data_root.join("containers");
    let opened = fs::create_dir_all(&containers).and_then(|()| fs::File::open(&containers));
    let opened =
        opened.map_err(|e| EngineError::io(format!("open {}", containers.display()), e))?;
    for dir in [opened.as_fd(), mounts.points().root.as_fd()] {
        driver.try_users(dir).map_err(|e| {
            EngineError::io(
                format!(
                    "--userns-remap: the file system of {}, or of layers there, cannot map users",
                    data_root.display()
                ),
                e,
            )
        })?;
    }
    Ok(())
}

/// What names kernel objects: `hull` for the usual daemon, with a number for one with a run root
/// of its own, so that two never touch each other's.
fn tag(run_root: &Path) -> String {
    if run_root == Path::new(RUN_ROOT_DEFAULT) {
        return "hull".to_owned();
    }
    let digest = hull_storage::Hasher::digest(run_root.as_os_str().as_encoded_bytes());
    format!("hull-{}", &digest.hex()[..8])
}

fn make_private(path: &Path, mode: u32) -> io::Result<()> {
    if !path.exists() {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// The id that was drawn with the data root, in the form of a UUID.
async fn engine_id(store: &Store, contents: &Contents) -> Result<String> {
    if let Some((_, value)) = contents.meta.iter().find(|(key, _)| key == "engine") {
        return Ok(String::from_utf8_lossy(value).into_owned());
    }
    let bytes = random_bytes().map_err(|e| EngineError::io("draw the engine's id", e))?;
    let hex: String = bytes[..16]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let id = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-");
    store
        .commit(vec![Change::put(
            Key::Meta("engine"),
            id.clone().into_bytes(),
        )])
        .await?;
    Ok(id)
}

fn kernel_version() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = text
        .split(['.', '-'])
        .map_while(|part| part.trim().parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn host_facts(cgroups: &hull_os::cgroup::Hierarchies) -> HostFacts {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total_kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    HostFacts {
        cgroup_version: if cgroups.is_v2() { 2 } else { 1 },
        memory_bytes: total_kib.unwrap_or_default() << 10,
    }
}

/// Facts for `info` and `version`.
pub(crate) fn facts(core: &Core) -> Facts {
    let backing = core.mounts.backing();
    Facts {
        data_root: core.config.data_root.clone(),
        id: core.engine_id.clone(),
        cgroup_version: core.host.cgroup_version,
        memory_bytes: core.host.memory_bytes,
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        warnings: core.network.warnings(),
        firewall_backend: core.network.firewall_backend().word(),
        layer_backing: backing
            .map_or("erofs", |backing| backing.words())
            .to_owned(),
        log_drivers: &crate::log_driver::NAMES,
        log_driver: core.config.defaults.log_driver().to_owned(),
        users_mapped: !core.config.users.is_empty(),
    }
}
