//! Start-up: what was recorded against what is.
//!
//! | recorded          | shim alive | exit record     | nothing, same boot | nothing, other boot |
//! |-------------------|------------|-----------------|--------------------|---------------------|
//! | Starting          | adopt      | Exited          | undo, or 137 [^1]  | undo                |
//! | Running, Paused   | adopt      | Exited + policy | Exited 137 + policy| Exited 255 + policy |
//! | Created, Exited   | –          | discard         | –                  | –                   |
//! | Removing          | go on      | go on           | go on              | go on               |
//!
//! [^1]: The shim writes down that the program runs before it says so; then both were killed.
//!
//! A shim that is there and does not answer is asked again and again; the container stays as it
//! was recorded, and nothing of it is touched. What has no record at all is removed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hull_model::SandboxId;
use hull_model::egress::EGRESS_LABEL;
use hull_model::spec::ContainerSpec;
use hull_model::state::{EXIT_LOST, EXIT_REBOOT, Exit, State};
use hull_sandbox::Found;
use tokio::sync::oneshot;

use crate::api::Endpoint;
use crate::clock::now_ns;
use crate::core::Core;
use crate::error::Result;
use crate::events::Told;
use crate::object::container::{ContainerRecord, Owner, StateRecord};
use crate::object::{port, volume};
use crate::store::Contents;

/// How long the leftovers of a sandbox without a record may take to vanish.
const DISCARD_WAIT: Duration = Duration::from_secs(5);
/// How long requests are held back until every container is looked at; a shim that does not answer holds
/// nobody up for longer.
const LOOKS_WAIT: Duration = Duration::from_secs(3);
/// Pause between two questions to a shim that does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Makes the owners of all recorded containers and puts each into its right state.
pub(crate) async fn containers(core: &Arc<Core>, contents: &Contents) -> Result<()> {
    let mut known = HashSet::new();
    let mut links = HashMap::new();
    let mut owners = Vec::new();
    let mut published = Vec::new();
    let states: HashMap<_, _> = contents.states.iter().map(|(k, v)| (k, v)).collect();
    for (key, bytes) in &contents.containers {
        let id = SandboxId::from_bytes(*key);
        known.insert(id.short());
        let Some(record) = read_container(bytes, id) else {
            continue;
        };
        let life = states
            .get(key)
            .and_then(|bytes| read_state(bytes, id))
            .unwrap_or_else(|| StateRecord::created(&core.boot_id));
        for endpoint in &life.endpoints {
            core.network.reserve(id, endpoint);
            let link = hull_net::host_link(&id, endpoint.number);
            links.insert(link, endpoint.network_id.clone());
        }
        if life.state.is_live() || life.state == State::Starting {
            core.volumes.adopt(id, &record.spec);
        }
        let name = record.spec.name.clone();
        core.ports
            .adopt(id, (&name, record.spec.host.isolation), &life.ports);
        published.push((life.ports.clone(), port::target(&life)));
        let (owner, handle) = Owner::new(core.clone(), id, record, life);
        if owner.is_being_removed() {
            core.containers.forget(id, &name);
        } else {
            core.containers.insert(id, &name, handle);
        }
        owners.push(owner);
    }
    core.ports.keep_only(&published);
    discard_unknown(core, &known);
    core.network.settle_links(&links);
    let told = Arc::new(core.events.told());
    let mut looks = Vec::new();
    // Before any owner may start its container again.
    volume::recover(core).await;
    for owner in owners {
        let (looked, look) = oneshot::channel();
        tokio::spawn(find_again(owner, told.clone(), looked));
        looks.push(look);
    }
    // So that nobody is told what was, and is no more.
    let all = async {
        for look in looks {
            look.await.ok();
        }
    };
    if tokio::time::timeout(LOOKS_WAIT, all).await.is_err() {
        tracing::warn!("not every container was found again yet; those are shown as recorded");
    }
    Ok(())
}

/// What containers with an egress policy were asked to be, and the endpoints that they have as far as
/// is recorded; before anybody looks whether they still run.
pub(crate) fn recorded_endpoints(
    contents: &Contents,
) -> Vec<(SandboxId, ContainerSpec, Vec<Endpoint>)> {
    let states: HashMap<_, _> = contents.states.iter().map(|(k, v)| (k, v)).collect();
    // Few have one, and reading a record costs.
    let mentions = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(EGRESS_LABEL);
    let mentioning = contents.containers.iter().filter(|(_, b)| mentions(b));
    let recorded = mentioning.filter_map(|(key, bytes)| {
        let id = SandboxId::from_bytes(*key);
        let life = read_state(states.get(key)?, id).filter(|life| !life.endpoints.is_empty())?;
        Some((id, read_container(bytes, id)?.spec, life.endpoints))
    });
    recorded.collect()
}

fn read_container(bytes: &[u8], id: SandboxId) -> Option<ContainerRecord> {
    let mut record = read::<ContainerRecord>(bytes, id)?;
    record.upgrade();
    Some(record)
}

fn read_state(bytes: &[u8], id: SandboxId) -> Option<StateRecord> {
    let mut life = read::<StateRecord>(bytes, id)?;
    life.upgrade();
    Some(life)
}

fn read<T: serde::de::DeserializeOwned>(bytes: &[u8], id: SandboxId) -> Option<T> {
    match serde_json::from_slice(bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            // Never repaired by guess and never removed: a person has to look.
            tracing::error!(container = %id.short(), %error, "a record cannot be read; it is left alone");
            None
        }
    }
}

/// Removes sandboxes, links and files of containers that no record knows: half-done creates and
/// removals whose record went last.
fn discard_unknown(core: &Core, known: &HashSet<String>) {
    let Ok(found) = core.driver.list() else {
        return;
    };
    for short in found.iter().filter(|short| !known.contains(*short)) {
        tracing::info!(sandbox = short, "a sandbox without a record is discarded");
        if let Err(error) = core.driver.discard_unknown(short, DISCARD_WAIT) {
            tracing::warn!(sandbox = short, %error, "it is left");
        }
    }
    discard_unknown_cgroups(core, known);
    let directory = core.config.data_root.join("containers");
    for entry in std::fs::read_dir(&directory)
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(id) = name.parse::<SandboxId>() else {
            continue;
        };
        if !known.contains(&id.short())
            && let Err(error) = core.remove_files(id)
        {
            tracing::warn!(container = %id.short(), error = %error.chain(), "files are left");
        }
    }
}

/// Kills and removes what is in our parent cgroup and belongs to no container. The parent is ours
/// alone: another daemon has one of another name.
fn discard_unknown_cgroups(core: &Core, known: &HashSet<String>) {
    let parent = &core.config.cgroup_parent;
    for name in core.cgroups.list(parent).unwrap_or_default() {
        let is_ours = name
            .parse::<SandboxId>()
            .is_ok_and(|id| !known.contains(&id.short()));
        if !is_ours {
            continue;
        }
        tracing::info!(cgroup = name, "a cgroup without a record is removed");
        let group = core.cgroups.open_group(&format!("{parent}/{name}"));
        let deadline = std::time::Instant::now() + DISCARD_WAIT;
        if let Err(error) = group
            .kill_all(deadline)
            .and_then(|()| group.remove(deadline))
        {
            tracing::warn!(cgroup = name, %error, "it is left");
        }
    }
}

/// Puts one owner into its right state, then lets it serve.
async fn find_again(mut owner: Owner, told: Arc<Told>, looked: oneshot::Sender<()>) {
    owner.tell_creation(&told);
    let (state, same_boot) = owner.recorded();
    match state {
        State::Removing => {
            owner.tell_end(&told);
            drop(looked);
            return owner.go_on_removing().await;
        }
        State::Created | State::Dead => owner.discard_leftovers(),
        State::Exited { .. } => {
            owner.tell_exit(&told);
            owner.discard_leftovers();
            owner.remove_if_due().await;
        }
        State::Starting | State::Running | State::Paused => {
            let found = ask(&owner).await;
            let starting = state == State::Starting;
            let lost = |code| Exit {
                code,
                oom_killed: false,
                at_ns: now_ns(),
            };
            match found {
                Found::Alive(shim, status) => {
                    owner.adopt_found(shim, &status).await;
                    owner.tell_start(&told);
                }
                Found::Exited(exit) => {
                    owner.was_told(&told, exit);
                    owner.ended_meanwhile(exit).await;
                }
                _ if starting && !(same_boot && owner.has_run()) => owner.start_never_happened(),
                _ if same_boot => owner.ended_meanwhile(lost(EXIT_LOST)).await,
                _ => owner.ended_meanwhile(lost(EXIT_REBOOT)).await,
            }
        }
    }
    owner.resume_wishes();
    drop(looked);
    owner.run().await;
}

/// Asks until there is an answer: nothing is decided about a sandbox that merely does not answer.
async fn ask(owner: &Owner) -> Found {
    loop {
        match owner.reattach().await {
            Ok(Found::NoAnswer(why)) => {
                tracing::warn!(
                    container = owner.short(),
                    why,
                    "its shim does not answer; asking again"
                );
            }
            Ok(found) => return found,
            Err(error) => {
                tracing::warn!(container = owner.short(), error = %error.chain(), "asking its shim failed");
            }
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}
