//! Registries that a command speaks to by itself: as whom, and how.

use std::path::Path;
use std::sync::Arc;

use hull_registry::{Access, Credential, Hosts, Proxies, Registry, RegistryOptions, Repository};
use hull_storage::image::Reference;

use super::credentials::{self, Credentials};
use super::failure::Failure;
use super::session::Session;
use crate::copy::{End, Layout};

/// How the name of a layout begins.
const LAYOUT: &str = "oci:";
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

/// One side of a copy: `NAME`, or `oci:FOLDER[:NAME]`.
pub(super) async fn end(
    session: &Session,
    text: &str,
    access: Access,
    insecure: bool,
) -> Result<End, Failure> {
    if let Some(rest) = text.strip_prefix(LAYOUT) {
        // A name cannot have a slash here, a folder can: `oci:a/b:tag`.
        let (folder, name) = match rest.rsplit_once(':') {
            Some((folder, name)) if !name.contains('/') => (folder, name),
            _ => (rest, ""),
        };
        let folder = Path::new(folder);
        let layout = match access {
            Access::Pull => Layout::open(folder),
            Access::Push => Layout::make(folder).map_err(|error| Failure::chain(&error))?,
        };
        let name = match (access, name) {
            (Access::Push, "") => "latest",
            (_, name) => name,
        };
        let name = name.to_owned();
        return Ok(End::Layout { layout, name });
    }
    let reference = parse(text.strip_prefix(REGISTRY).unwrap_or(text))?;
    let repository = open(session, &reference, access, insecure).await?;
    let digest = reference.digest().map(|digest| digest.to_string());
    let tag = digest.as_deref().or(reference.tag()).unwrap_or_default();
    Ok(End::Registry {
        repository,
        domain: reference.domain().to_owned(),
        path: reference.path().to_owned(),
        tag: tag.to_owned(),
    })
}
