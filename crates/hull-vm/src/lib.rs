//! What a machine is made of, as files and words; it starts nothing that stays.
//!
//! ```text
//!  package, /boot ──kernel──▶ <data>/vm/kernels/<id>/{vmlinux, modules.cpio, facts.json}
//!  image layers ──(as they are)──▶ read-only disks     empty ext4 ──disk──▶ upper disk
//!  /dev/kvm ──accelerator──▶ kvm or tcg, and why     directories of the host ──share──▶ file servers
//!                     all of it ──qemu──▶ one command line, descriptors by number
//! ```
//!
//! Nothing here knows containers, plans or shims: the engine brings a [`qemu::Machine`] and the driver of
//! sandboxes together. Another VMM would be another module beside [`qemu`].

#![forbid(unsafe_code)]

pub mod accelerator;
mod cpio;
pub mod disk;
mod error;
pub mod kernel;
pub mod qemu;
pub mod share;

pub use error::Error;
