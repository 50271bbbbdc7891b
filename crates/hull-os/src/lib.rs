//! Linux, made safe. Effects without policy: no Hull words, no decision that a caller may want
//! to make otherwise.
//!
//! Every function takes what it needs as arguments (descriptors, not global state), returns
//! `io::Result` or an error that names the step, and blocks at most as long as its caller says.

pub mod capability;
pub mod cgroup;
pub mod conntrack;
pub mod copy;
pub mod crash;
pub mod durable;
pub mod entry;
pub mod inotify;
pub mod loopdev;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod nft;
pub mod port;
pub mod process;
pub mod pty;
pub mod seccomp;
pub mod service;
pub mod socket;
pub mod spawn;
pub mod tap;
