//! What pull, push and login have in common: credentials, and the sentences of failures.

use std::sync::Arc;

use hull_model::{Digest, ErrorKind};
use hull_registry::{Credential, Error, Registry, Repository};
use hull_storage::Hasher;
use hull_storage::image::{Descriptor, Reference};

use crate::api::RegistryAuth;
use crate::core::Core;
use crate::error::{EngineError, Result};

/// The domain of Docker Hub, and the other names that clients have for it.
const HUB: &str = "docker.io";
const HUB_NAMES: [&str; 3] = ["", "index.docker.io", "registry-1.docker.io"];

pub(crate) fn credential(auth: &RegistryAuth) -> Credential {
    if !auth.registry_token.is_empty() {
        return Credential::RegistryToken(auth.registry_token.clone());
    }
    if !auth.identity_token.is_empty() {
        return Credential::IdentityToken(auth.identity_token.clone());
    }
    if auth.username.is_empty() {
        return Credential::Anonymous;
    }
    Credential::Password {
        user: auth.username.clone(),
        password: auth.password.clone(),
    }
}

/// A failure with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// The failure of an exchange about an image.
pub(crate) fn refused(error: Error, reference: &Reference) -> EngineError {
    let text = chain(&error);
    match &error {
        Error::Refused { reason, .. } if !reason.code.is_empty() => EngineError::RegistryRefused {
            repository: reference.familiar_name(),
            reference: reference.familiar(),
            code: reason.code.clone(),
            message: text,
        },
        _ => failed(error),
    }
}

/// The failure of any other exchange.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn failed(error: Error) -> EngineError {
    EngineError::Registry {
        text: chain(&error),
        kind: error.kind(),
    }
}

/// Whether bytes are those of a digest.
pub(crate) fn check(bytes: &[u8], expected: &Digest, what: &str) -> Result<()> {
    let actual = Hasher::digest(bytes);
    if actual == *expected {
        return Ok(());
    }
    Err(EngineError::Registry {
        text: format!("{what} verification failed for digest {expected}: it is {actual}"),
        kind: ErrorKind::InvalidArgument,
    })
}

/// A small blob, checked.
pub(crate) async fn blob(
    repository: &Repository,
    wanted: &Descriptor,
    max: u64,
    what: &str,
) -> Result<Vec<u8>> {
    if wanted.size > max {
        return Err(EngineError::step(
            format!("fetch the {what}"),
            ErrorKind::LimitReached,
            format!("it is larger than {max} bytes"),
        ));
    }
    let opened = repository.blob(&wanted.digest, wanted.size, 0).await;
    let mut stream = opened.map_err(failed)?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.map_err(failed)?);
    }
    check(&bytes, &wanted.digest, what)?;
    Ok(bytes)
}

fn registry(core: &Core, address: &str, auth: &RegistryAuth) -> Result<Registry> {
    let bare = address
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let domain = bare.split('/').next().unwrap_or(bare);
    let domain = if HUB_NAMES.contains(&domain) {
        HUB
    } else {
        domain
    };
    Registry::open(&core.reloadable.registries(), domain, &credential(auth)).map_err(failed)
}

/// Shows a credential to a registry; returns the token that stands for it, if it gives one.
pub(crate) async fn login(core: &Arc<Core>, address: &str, auth: &RegistryAuth) -> Result<String> {
    let registry = registry(core, address, auth)?;
    let login = registry.login().await.map_err(failed)?;
    Ok(login.identity_token)
}

/// What a registry finds, as the JSON that it answers.
pub(crate) async fn search(
    core: &Arc<Core>,
    term: &str,
    limit: u32,
    auth: &RegistryAuth,
) -> Result<Vec<u8>> {
    let (domain, term) = match term.split_once('/') {
        Some((domain, term)) if domain.contains(['.', ':']) || domain == "localhost" => {
            (domain, term)
        }
        _ => ("index.docker.io", term),
    };
    let credential = credential(auth);
    let registry =
        Registry::open(&core.reloadable.registries(), domain, &credential).map_err(failed)?;
    let found = registry.search(term, limit).await.map_err(failed)?;
    Ok(found.to_vec())
}
