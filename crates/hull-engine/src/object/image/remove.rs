//! Names and images go: by Docker's rules, which are spread over what users see as one command.
//!
//! A name that was given goes alone while the image has others. The last one takes the image with
//! it, unless a container has it: then force takes the name, and the image stays without one. An
//! id takes all names at once if they are of one repository.

use std::collections::HashSet;
use std::sync::Arc;

use hull_model::Digest;
use hull_model::event::Subject;
use hull_storage::Hasher;

use super::sweep::{Scope, sweep};
use super::table::{Known, Tables, diff_ids, familiar};
use super::{event, storage_error};
use crate::api::{Image, ImagePrune, ImageRemoval};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::store::{Change, Key};

/// What a removal takes.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    id: Digest,
    /// Keys of names, in the order in which they are told.
    names: Vec<String>,
    image: bool,
}

/// Which container has an image.
#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    container: String,
    running: bool,
}

/// Removes a name, and the image with its last one.
pub(crate) async fn remove(core: &Arc<Core>, name: &str, force: bool) -> Result<Vec<ImageRemoval>> {
    let _changing = core.images.changing.lock().await;
    let (plan, known) = {
        let tables = core.images.lock();
        let id = tables.find(name)?;
        let plan = plan(&tables, id, name, force, user_of(core, &id))?;
        (plan, tables.images.get(&id).cloned())
    };
    let mut changes: Vec<Change> = plan
        .names
        .iter()
        .map(|name| Change::remove(Key::Tag(name.clone())))
        .collect();
    if plan.image {
        changes.push(Change::remove(Key::Image(*plan.id.as_bytes())));
    }
    core.store.commit(changes).await?;
    {
        let mut tables = core.images.lock();
        for name in &plan.names {
            tables.tags.remove(name);
        }
        if plan.image {
            tables.images.remove(&plan.id);
        }
    }
    let mut removals = Vec::new();
    for name in &plan.names {
        event(core, "untag", &plan.id, None);
        removals.push(ImageRemoval::Untagged(familiar(name)));
    }
    if let Some(known) = known.filter(|_| plan.image) {
        event(core, "delete", &plan.id, None);
        removals.push(ImageRemoval::Deleted(plan.id));
        removals.extend(chains_gone(core, &known));
        sweep(core, Scope::of(&known)).await?;
    }
    Ok(removals)
}

/// Decides what goes, or why nothing does.
fn plan(tables: &Tables, id: Digest, name: &str, force: bool, user: Option<User>) -> Result<Plan> {
    let all: Vec<String> = tables
        .names_of(&id)
        .into_iter()
        .map(|(name, _)| name.to_owned())
        .collect();
    let in_use = |user: User, reference: Option<&str>| EngineError::ImageInUse {
        image: id,
        reference: reference.map(str::to_owned),
        container: user.container,
        running: user.running,
    };
    let Some(given) = tables.name(name) else {
        if !is_of_one_repository(&all) && !force {
            return Err(EngineError::ImageConflict(format!(
                "conflict: unable to delete {} (must be forced) - image is referenced in multiple \
                 repositories",
                &id.hex()[..12]
            )));
        }
        // By id: a running container forbids it, a stopped one unless forced.
        return match user.filter(|user| user.running || !force) {
            Some(user) => Err(in_use(user, None)),
            None => Ok(Plan {
                id,
                names: all,
                image: true,
            }),
        };
    };
    if let Some(user) = user
        .clone()
        .filter(|_| !force && is_of_one_repository(&all))
    {
        return Err(in_use(user, Some(name)));
    }
    let mut names = vec![given.clone()];
    // With the last tag of a repository go its digests: they are not what the user sees.
    let repository = repository_of(&given);
    let has_tag = |other: &&String| !other.contains('@') && repository_of(other) == repository;
    if !given.contains('@') && all.iter().filter(has_tag).count() == 1 {
        let digests = all
            .iter()
            .filter(|other| other.contains('@') && repository_of(other) == repository);
        names.extend(digests.cloned());
    }
    let last = names.len() == all.len();
    let kept = user.is_some_and(|user| user.running || !force);
    Ok(Plan {
        id,
        names,
        image: last && !kept,
    })
}

/// One tag at most, and digests of the same repository.
fn is_of_one_repository(names: &[String]) -> bool {
    let repositories: HashSet<&str> = names.iter().map(|name| repository_of(name)).collect();
    let tags = names.iter().filter(|name| !name.contains('@')).count();
    tags <= 1 && repositories.len() <= 1
}

/// A name in full form without its tag or digest.
fn repository_of(name: &str) -> &str {
    match name.split_once('@') {
        Some((repository, _)) => repository,
        None => name
            .rsplit_once(':')
            .map_or(name, |(repository, _)| repository),
    }
}

/// A container of an image, one that runs before one that does not.
fn user_of(core: &Core, id: &Digest) -> Option<User> {
    let all = core.containers.snapshots();
    let users = all.iter().filter(|container| container.spec.has_image(id));
    let user = users.max_by_key(|container| container.state.is_live())?;
    Some(User {
        container: user.id.short(),
        running: user.state.is_live(),
    })
}

/// The stacks of layers that nobody has any more, the highest first.
fn chains_gone(core: &Core, known: &Known) -> Vec<ImageRemoval> {
    let mut kept: HashSet<Digest> = HashSet::new();
    for image in core.images.list() {
        kept.extend(chain_ids(&image.layers));
    }
    for container in core.containers.snapshots() {
        kept.extend(chain_ids(&container.layers));
    }
    let gone = chain_ids(&diff_ids(&known.record))
        .into_iter()
        .rev()
        .filter(|chain| !kept.contains(chain));
    gone.map(ImageRemoval::LayerDeleted).collect()
}

/// The names that Docker and OCI give to a layer on top of others.
fn chain_ids(layers: &[Digest]) -> Vec<Digest> {
    let mut chains: Vec<Digest> = Vec::with_capacity(layers.len());
    for layer in layers {
        let chain = match chains.last() {
            Some(below) => Hasher::digest(format!("{below} {layer}").as_bytes()),
            None => *layer,
        };
        chains.push(chain);
    }
    chains
}

/// Removes images without containers: dangling ones, or all. Returns what went and freed bytes.
pub(crate) async fn prune(
    core: &Arc<Core>,
    which: &ImagePrune,
) -> Result<(Vec<ImageRemoval>, u64)> {
    let used: HashSet<Digest> = core
        .containers
        .snapshots()
        .iter()
        .flat_map(|container| container.spec.images().collect::<Vec<_>>())
        .collect();
    let before = super::usage(core).await?.total;
    let mut removals = Vec::new();
    for image in core.images.list() {
        let dangles = image.tags.is_empty();
        if used.contains(&image.id) || !(which.all || dangles) || !is_meant(which, &image) {
            continue;
        }
        match remove(core, &image.id.to_string(), true).await {
            Ok(mut gone) => removals.append(&mut gone),
            // It came into use meanwhile.
            Err(EngineError::ImageInUse { .. } | EngineError::NoSuchImage(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let job = core.clone();
    let partials = core
        .jobs
        .run(Pool::Disk, move || job.storage.remove_partials());
    let partials = partials
        .await?
        .map_err(storage_error("remove old downloads"))?;
    let freed = match removals.is_empty() && partials == 0 {
        true => 0,
        false => before.saturating_sub(super::usage(core).await?.total),
    };
    core.events.publish_prune(Subject::Image, freed);
    Ok((removals, freed))
}

fn is_meant(which: &ImagePrune, image: &Image) -> bool {
    let labels = image.config.get("config").and_then(|run| run.get("Labels"));
    let has = |(key, value): &(String, Option<String>)| {
        let found = labels.and_then(|labels| labels.get(key)?.as_str());
        match value {
            Some(value) => found == Some(value),
            None => found.is_some(),
        }
    };
    which.until_ns.is_none_or(|until| image.created_ns <= until)
        && which.labels.iter().all(has)
        && !which.no_labels.iter().any(has)
}

#[cfg(test)]
mod tests {
    use super::super::table::Tagged;
    use super::*;

    const A: &str = "docker.io/library/a:1";
    const A2: &str = "docker.io/library/a:2";
    const B: &str = "docker.io/library/b:1";

    fn digest_name(repository: &str) -> String {
        format!("docker.io/library/{repository}@sha256:{}", "0".repeat(64))
    }

    fn check(names: &[&str], asked: &str, force: bool, running: Option<bool>) -> String {
        let id = Digest::from_bytes([7; 32]);
        let mut tables = Tables::default();
        for name in names {
            let tagged = Tagged {
                image: id,
                at_ns: 0,
            };
            tables.tags.insert((*name).to_owned(), tagged);
        }
        let user = running.map(|running| User {
            container: "c".to_owned(),
            running,
        });
        match plan(&tables, id, asked, force, user) {
            Ok(plan) => format!(
                "{}{}",
                plan.names.len(),
                if plan.image { " image" } else { "" }
            ),
            Err(EngineError::ImageInUse { reference, .. }) => format!("in use {reference:?}"),
            Err(_) => "conflict".to_owned(),
        }
    }

    #[test]
    fn names_go_one_by_one_and_ids_at_once() {
        let digest = digest_name("a");
        assert_eq!(check(&[A, B], "a:1", false, None), "1");
        assert_eq!(check(&[A], "a:1", false, None), "1 image");
        assert_eq!(check(&[A, &digest], "a:1", false, None), "2 image");
        assert_eq!(check(&[A, A2, &digest], "a:1", false, None), "1");
        assert_eq!(check(&[A, &digest], &digest, false, None), "1");
        assert_eq!(check(&[A, B], "07", false, None), "conflict");
        assert_eq!(check(&[A, B], "07", true, None), "2 image");
        assert_eq!(check(&[A, &digest], "07", false, None), "2 image");
        assert_eq!(check(&[], "07", false, None), "0 image");
    }

    #[test]
    fn what_containers_have_stays() {
        assert_eq!(
            check(&[A], "a:1", false, Some(false)),
            "in use Some(\"a:1\")"
        );
        assert_eq!(check(&[A], "a:1", true, Some(false)), "1 image");
        assert_eq!(check(&[A], "a:1", true, Some(true)), "1");
        assert_eq!(check(&[A, B], "a:1", false, Some(true)), "1");
        assert_eq!(check(&[A], "07", true, Some(true)), "in use None");
        assert_eq!(check(&[A], "07", false, Some(false)), "in use None");
        assert_eq!(check(&[A], "07", true, Some(false)), "1 image");
    }

    #[test]
    fn chains_are_dockers() {
        let digest = |byte| Digest::from_bytes([byte; 32]);
        let chains = chain_ids(&[digest(1), digest(2)]);
        let text = format!("{} {}", digest(1), digest(2));
        assert_eq!(chains, [digest(1), Hasher::digest(text.as_bytes())]);
    }
}
