//! `hull manifest create`, `annotate`, `push`, `rm`: one name for images of several platforms.

use std::collections::BTreeMap;

use bytes::Bytes;
use hull_registry::{Access, Repository};
use hull_storage::image::Reference;

use super::super::failure::Failure;
use super::super::session::{Session, print_line};
use super::super::{Command, registry_end};
use super::lists::{Folder, List, Member, On};
use super::{asked, config_of};
use crate::copy::{self, Copy, End, Options};

/// What a Go program can be built for, and so what an image may say that it runs on.
const PLATFORMS: &[(&str, &[&str])] = &[
    ("darwin", &["386", "amd64", "arm", "arm64"]),
    ("dragonfly", &["amd64"]),
    ("freebsd", &["386", "amd64", "arm"]),
    (
        "linux",
        &[
            "386", "amd64", "arm", "arm64", "ppc64le", "mips64", "mips64le", "riscv64", "s390x",
        ],
    ),
    ("netbsd", &["386", "amd64", "arm"]),
    ("openbsd", &["386", "amd64", "arm"]),
    ("plan9", &["386", "amd64"]),
    ("solaris", &["amd64"]),
    ("windows", &["386", "amd64"]),
];

/// `hull manifest create`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManifestCreate {
    /// Amend an existing manifest list
    #[arg(long, short)]
    amend: bool,
    /// Allow communication with an insecure registry
    #[arg(long)]
    insecure: bool,
    #[arg(required = true, value_name = "MANIFEST_LIST")]
    list: String,
    #[arg(required = true, value_name = "MANIFEST")]
    manifests: Vec<String>,
}

impl Command for ManifestCreate {
    const USAGE: &str = "MANIFEST_LIST MANIFEST [MANIFEST...]";
    const ABOUT: &str = "Create a local manifest list for annotating and pushing to a registry";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let list = named("error parsing name for manifest list", &self.list)?;
        let folder = Folder::of(session, &list);
        if folder.exists() && !self.amend {
            let text = "refusing to amend an existing manifest list with no --amend flag";
            return Err(Failure::new(text));
        }
        for name in &self.manifests {
            let name = registry_end::parse(name)?;
            let member = match folder.member(&name)? {
                Some(member) if member.bytes().is_some() => member,
                _ => fetch(session, &name, self.insecure).await?,
            };
            folder.put(&name, &member)?;
        }
        print_line(&format!("Created manifest list {list}"))
    }
}

/// An image of a registry, as a list names it.
async fn fetch(session: &Session, name: &Reference, insecure: bool) -> Result<Member, Failure> {
    let repository = registry_end::open(session, name, Access::Pull, insecure).await?;
    let fetched = repository.manifest(&asked(name)).await;
    let fetched = fetched.map_err(|error| Failure::chain(&error))?;
    if copy::is_index(&fetched).map_err(|error| Failure::chain(&error))? {
        return Err(Failure::new(format!("{name} is a manifest list")));
    }
    let config = config_of(&repository, &fetched).await?.unwrap_or_default();
    // What is no image says of no platform; `annotate` can.
    let platform: On = serde_json::from_slice(&config).unwrap_or_default();
    let kind = copy::media_type(&fetched).map_err(|error| Failure::chain(&error))?;
    Member::new(name, kind, &fetched, platform)
}

/// `hull manifest annotate`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManifestAnnotate {
    /// Set architecture
    #[arg(long, value_name = "string")]
    arch: Option<String>,
    /// Set operating system
    #[arg(long, value_name = "string")]
    os: Option<String>,
    /// Set operating system feature
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    os_features: Vec<String>,
    /// Set operating system version
    #[arg(long, value_name = "string")]
    os_version: Option<String>,
    /// Set architecture variant
    #[arg(long, value_name = "string")]
    variant: Option<String>,
    #[arg(required = true, value_name = "MANIFEST_LIST")]
    list: String,
    #[arg(required = true, value_name = "MANIFEST")]
    manifest: String,
}

impl Command for ManifestAnnotate {
    const USAGE: &str = "[OPTIONS] MANIFEST_LIST MANIFEST";
    const ABOUT: &str = "Add additional information to a local image manifest";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let list = "annotate: error parsing name for manifest list";
        let list = named(list, &self.list)?;
        let name = named("annotate: error parsing name for manifest", &self.manifest)?;
        let folder = Folder::of(session, &list);
        let mut member = folder.member(&name)?.ok_or_else(|| {
            let (image, list) = (&self.manifest, &self.list);
            Failure::new(format!(
                "manifest for image {image} does not exist in {list}"
            ))
        })?;
        let on = &mut member.descriptor.platform;
        let texts = [
            (&self.os, &mut on.os),
            (&self.arch, &mut on.architecture),
            (&self.variant, &mut on.variant),
            (&self.os_version, &mut on.os_version),
        ];
        for (given, place) in texts {
            if let Some(given) = given.as_ref().filter(|given| !given.is_empty()) {
                place.clone_from(given);
            }
        }
        for feature in &self.os_features {
            if !on.os_features.contains(feature) {
                on.os_features.push(feature.clone());
            }
        }
        let known = PLATFORMS
            .iter()
            .any(|(os, all)| *os == on.os && all.contains(&on.architecture.as_str()));
        if !known {
            let given = |text: &Option<String>| text.clone().unwrap_or_default();
            return Err(Failure::new(format!(
                "manifest entry for image has unsupported os/arch combination: {}/{}",
                given(&self.os),
                given(&self.arch)
            )));
        }
        folder.put(&name, &member)
    }
}

/// `hull manifest push`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManifestPush {
    /// Allow push to an insecure registry
    #[arg(long)]
    insecure: bool,
    /// Remove the local manifest list after push
    #[arg(long, short)]
    purge: bool,
    #[arg(required = true, value_name = "MANIFEST_LIST")]
    list: String,
}

impl Command for ManifestPush {
    const USAGE: &str = "[OPTIONS] MANIFEST_LIST";
    const ABOUT: &str = "Push a manifest list to a repository";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let list = registry_end::parse(&self.list)?;
        let folder = Folder::of(session, &list);
        let members = folder.members()?;
        if members.is_empty() {
            return Err(Failure::new(format!("{list} not found")));
        }
        let to = registry_end::open(session, &list, Access::Push, self.insecure).await?;
        let target = registry_end::of(&list, to.clone());
        // One connection to each repository that something comes from.
        let mut sources: BTreeMap<String, End> = BTreeMap::new();
        for member in &members {
            let name = checked(member, &list)?;
            if name.path() == list.path() {
                continue;
            }
            if !sources.contains_key(name.path()) {
                let from = registry_end::open(session, &name, Access::Pull, self.insecure).await?;
                sources.insert(name.path().to_owned(), registry_end::of(&name, from));
            }
            let digest = member.descriptor.digest;
            let options = Options::default();
            let one = Copy::new(&sources[name.path()], &target, &options, &|_, _| {});
            let brought = one.only(&digest).await;
            brought.map_err(|error| Failure::chain(&error))?;
            let there = list.name();
            print_line(&format!(
                "Pushed ref {there}@{digest} with digest: {digest}"
            ))?;
        }
        push(&to, &list, &members).await?;
        match self.purge {
            true => folder.remove(),
            false => Ok(()),
        }
    }
}

/// The name of a member that may be in this list.
fn checked(member: &Member, list: &Reference) -> Result<Reference, Failure> {
    let name = registry_end::parse(&member.name)?;
    let on = &member.descriptor.platform;
    if on.os.is_empty() || on.architecture.is_empty() {
        return Err(Failure::new(format!(
            "manifest {name} must have an OS and Architecture to be pushed to a registry"
        )));
    }
    if name.domain() != list.domain() {
        return Err(Failure::new(format!(
            "cannot use source images from a different registry than the target image: {} != {}",
            name.domain(),
            list.domain()
        )));
    }
    Ok(name)
}

async fn push(to: &Repository, list: &Reference, members: &[Member]) -> Result<(), Failure> {
    let made = List::of(members);
    let bytes = made.bytes()?;
    let digest = hull_storage::Hasher::digest(&bytes);
    let tag = asked(list);
    let put = to.put_manifest(&tag, &made.media_type, Bytes::from(bytes));
    put.await.map_err(|error| Failure::chain(&error))?;
    print_line(&digest.to_string())
}

/// `hull manifest rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManifestRemove {
    #[arg(required = true, value_name = "MANIFEST_LIST")]
    lists: Vec<String>,
}

impl Command for ManifestRemove {
    const USAGE: &str = "MANIFEST_LIST [MANIFEST_LIST...]";
    const ABOUT: &str = "Delete one or more manifest lists from local storage";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let remove = |name: &String| {
            let list = registry_end::parse(name)?;
            let folder = Folder::of(session, &list);
            // Says that it is not there.
            folder.members()?;
            folder.remove()
        };
        let removed: Vec<_> = self.lists.iter().map(remove).collect();
        Failure::join(removed.into_iter().filter_map(Result::err).collect())
    }
}

fn named(what: &str, name: &str) -> Result<Reference, Failure> {
    registry_end::parse(name).map_err(|error| error.prefixed(&format!("{what} {name}: ")))
}
