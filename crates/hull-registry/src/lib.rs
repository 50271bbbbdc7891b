//! Client of image registries: the OCI distribution protocol, version 1.1, as Docker speaks it too.
//!
//! ```text
//!  Hosts (mirrors, certs.d, hosts.toml, proxies)     read from the daemon's options and files
//!    └─▶ Registry: endpoints of one domain           connections, tokens, back-off, redirects
//!          └─▶ Repository: manifest, tags, blob, upload, referrers
//! ```
//!
//! Bytes come and go as bounded streams of pieces: [`Pieces`]. A download goes on after a broken
//! connection from where it was, and one of a big blob uses several connections. What comes is
//! bounded by named limits and believed only as far as its digest goes.
//!
//! It knows no store, no image and no name that people type; it never retries what could be done
//! twice. A credential is for one registry: it goes to it and to the token server that it names,
//! never to a mirror or to where it redirects to.

#![forbid(unsafe_code)]

pub mod challenge;

mod auth;
mod connection;
mod download;
mod error;
mod fetch;
mod hosts;
mod push;
mod registry;
mod stream;
mod tls;
mod url;

pub use auth::Credential;
pub use connection::encrypted;
pub use download::download;
pub use error::{Error, Reason, Result};
pub use fetch::{Fetched, MANIFEST_BYTES_MAX, MANIFEST_TYPES, TAGS_MAX, cosign_tags};
pub use hosts::{Hosts, HostsError, Proxies, RegistryOptions, Trust};
pub use push::{Referrer, Source, Uploaded};
pub use registry::{Access, Login, Registry, Repository};
pub use stream::{BlobStream, Pieces};
