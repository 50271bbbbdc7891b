//! The Docker Engine API edge: parses a request, makes one call of the engine, formats the answer.
//!
//! ```text
//!  connection ─▶ server.rs ─▶ router.rs ─▶ routes/*.rs ─▶ Engine
//!                (limits)     (one table)   │      ▲
//!                                           ▼      └─ wire/*.rs: JSON twins <-> hull_model::spec
//!                              stream.rs: attach, exec, logs, progress
//!                              errors.rs: ErrorKind -> status and Docker's sentence
//! ```
//!
//! It decides nothing about containers: what is not supported is refused by the engine, and rules
//! about objects live there. It knows the words of Docker's clients, and nobody else does.

#![forbid(unsafe_code)]

mod body;
mod client;
mod detach;
mod download;
mod errors;
mod filter;
mod host;
mod query;
mod request;
mod router;
mod routes;
mod server;
mod stream;
mod time;
mod tls;
mod wire;

pub use errors::status;
pub use server::{Listener, ServeConfig, ServeError, serve};
pub use tls::{Tls, TlsError, TlsFiles};

/// Newest version of Docker's API that is spoken.
pub const API_VERSION: &str = "1.48";
/// Oldest version of Docker's API that is spoken.
pub const API_VERSION_MIN: &str = "1.24";
