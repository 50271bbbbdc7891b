//! Registries that a command speaks to by itself: as whom, and how.

use std::path::Path;
use std::sync::Arc;

use hull_registry::{Access, Credential, Hosts, Proxies, Registry, RegistryOptions, Repository};
use hull_storage::image::Reference;

use super::credentials::{self, Credentials};
use super::failure::Failure;
use super::session::Session;
use crate::copy::{CopyError, End, Form, Layout};

/// How the name of a layout begins, in a folder and in a file.
const LAYOUT: &str = "oci:";
const OCI_ARCHIVE: &str = "oci-archive:";
/// How the name of an archive of `docker save` begins.
const DOCKER_ARCHIVE: &str = "docker-archive:";
/// How the name in a registry may begin, for those who know it from other tools.
const REGISTRY: &str = "docker://";

/// A name with `latest` where it has neither tag nor digest.
pub(super) fn parse(name: &str) -> Result<Reference, Failure> {
    let reference: Reference = name
        .parse()
        .map_err(|error: hull_storage::Error| Failure::chain(&error))?;
    Ok(reference.with_default_tag())
}

/// Opens the repository of a name, as whom `config.json` says that we are there.
pub(super) async fn open(
    session: &Session,
    reference: &Reference,
    access: Access,
    insecure: bool,
) -> Result<Repository, Failure> {
    let domain = reference.domain();
    let options = RegistryOptions {
        insecure: match insecure {
            true => vec![domain.to_owned()],
            false => Vec::new(),
        },
        proxies: Proxies::from_environment(),
        ..RegistryOptions::default()
    };
    let hosts = Hosts::new(options).map_err(|error| Failure::chain(&error))?;
    let known = Credentials::read(session)?;
    let known = known.find(&credentials::key_of(domain)).await?;
    let credential = match (known.identitytoken, known.username) {
        (token, _) if !token.is_empty() => Credential::IdentityToken(token),
        (_, user) if !user.is_empty() => Credential::Password {
            user,
            password: known.password,
        },
        _ => Credential::Anonymous,
    };
    let registry = Registry::open(&Arc::new(hosts), domain, &credential);
    let registry = registry.map_err(|error| Failure::chain(&error))?;
    Ok(registry.repository(reference.path(), access))
}

/// One side of a copy: `NAME`, `oci:FOLDER[:NAME]`, `oci-archive:FILE[:NAME]` or
/// `docker-archive:FILE[:NAME]`.
pub(super) async fn end(
    session: &Session,
    text: &str,
    access: Access,
    insecure: bool,
) -> Result<End, Failure> {
    let failed = |error| Failure::chain(&error);
    if let Some(rest) = text.strip_prefix(LAYOUT) {
        let (folder, name) = named(rest);
        let layout = match access {
            Access::Pull => Layout::open(folder),
            Access::Push => Layout::make(folder).map_err(failed)?,
        };
        return Ok(layout_end(layout, name, access));
    }
    if let Some(rest) = text.strip_prefix(OCI_ARCHIVE) {
        let (file, name) = named(rest);
        let layout = archive(file, Form::Oci, access).map_err(failed)?;
        return Ok(layout_end(layout, name, access));
    }
    if let Some(rest) = text.strip_prefix(DOCKER_ARCHIVE) {
        // A whole reference follows, with slashes and a colon of its own.
        let (file, name) = rest.split_once(':').unwrap_or((rest, ""));
        let layout = archive(Path::new(file), Form::Docker, access).map_err(failed)?;
        let name = match (access, name) {
            (Access::Push, "") | (Access::Pull, _) => name.to_owned(),
            (Access::Push, name) => parse(name)?.familiar(),
        };
        return Ok(End::Layout { layout, name });
    }
    let reference = parse(text.strip_prefix(REGISTRY).unwrap_or(text))?;
    let repository = open(session, &reference, access, insecure).await?;
    Ok(of(&reference, repository))
}

/// A name in a repository that is open.
pub(super) fn of(reference: &Reference, repository: Repository) -> End {
    let digest = reference.digest().map(|digest| digest.to_string());
    let tag = digest.as_deref().or(reference.tag()).unwrap_or_default();
    End::Registry {
        repository,
        domain: reference.domain().to_owned(),
        path: reference.path().to_owned(),
        tag: tag.to_owned(),
    }
}

/// A path with the name behind it; a name cannot have a slash here, a path can: `a/b:tag`.
fn named(text: &str) -> (&Path, &str) {
    match text.rsplit_once(':') {
        Some((path, name)) if !name.contains('/') => (Path::new(path), name),
        _ => (Path::new(text), ""),
    }
}

fn archive(file: &Path, form: Form, access: Access) -> Result<Layout, CopyError> {
    match access {
        Access::Pull => Layout::open_archive(file, form),
        Access::Push => Layout::make_archive(file, form),
    }
}

fn layout_end(layout: Layout, name: &str, access: Access) -> End {
    let name = match (access, name) {
        (Access::Push, "") => "latest",
        (_, name) => name,
    };
    let name = name.to_owned();
    End::Layout { layout, name }
}
