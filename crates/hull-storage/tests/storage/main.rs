//! The store against real tools and the real kernel: GNU tar, erofs-utils, mounts, overlay.

#![expect(
    clippy::disallowed_methods,
    reason = "the tests compare with what real tools do"
)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "that is how a test fails"
)]

mod corpus;
mod hostile;
mod image;
mod layer;
mod support;
