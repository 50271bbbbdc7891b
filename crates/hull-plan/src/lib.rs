//! The format of a plan, its encoder, and the interpreter of process steps.
//!
//! ```text
//! plan    = header, sandbox steps            read by the shim (or the agent of a guest)
//! process = process steps                    the same bytes for container, exec, guest
//! message = one request or event             between daemon and shim
//! frame   = messages, streams                between the shim of a machine and the agent inside
//! ```
//!
//! All but frames are records of one codec ([`codec`]): a tag, a length, fields in fixed order, strings
//! with a NUL at their end. So the interpreter hands pointers into the received bytes to system
//! calls, and a decoder is a bounds check and nothing else. [`interpret`] carries out process steps in
//! a child that has one thread; it decides nothing, the plan already did.

pub mod codec;
pub mod frame;
pub mod interpret;
pub mod message;
pub mod plan;
pub mod process;
mod user;

pub use codec::Malformed;
pub use interpret::{Failure, FailureKind};
pub use plan::{Plan, Step};
pub use process::{Process, ProcessStep};
pub use user::ids as user_ids;

/// Version of plan and messages. A daemon speaks to shims of older versions, never the other way
/// round, as a shim outlives the daemon that started it.
pub const VERSION: u32 = 1;
