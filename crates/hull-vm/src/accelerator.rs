//! What runs guest code: the processor itself (`kvm`) or QEMU's translator (`tcg`).
//!
//! That `/dev/kvm` opens proves nothing: there are hosts where guests are interpreted, or stop at their
//! first interrupt. So a small guest is run, in a process of its own that is killed when it takes
//! too long; what came out is kept for as long as this kernel runs.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use hull_os::durable::{self, Durability};
use hull_os::process::{self, PollFd};
use hull_os::spawn::{self, Program, Spawn};

/// How long the probe may take; it takes 5 ms where guests run.
const PROBE_LIMIT: Duration = Duration::from_millis(500);
/// Name by which the shim program knows that it is to probe.
const PROBE_ROLE: &std::ffi::CStr = c"hull-kvm-probe";
/// Name of the file that keeps the verdict.
const VERDICT: &str = "accelerator";

/// What runs guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// Which one, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What new machines run on.
    pub accelerator: Accelerator,
    /// In a few words.
    pub reason: String,
}

impl Accelerator {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg",
        }
    }
}

/// The verdict of this boot: remembered in `run_dir`, or found out by running `program`, the shim's.
pub fn decide(run_dir: &Path, program: BorrowedFd<'_>) -> Verdict {
    let boot = process::boot_id().unwrap_or_default();
    let path = run_dir.join(VERDICT);
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let mut lines = kept.lines();
    if let (Some(of), Some(word), Some(reason)) = (lines.next(), lines.next(), lines.next())
        && of == boot
    {
        return verdict(word == "kvm", reason.to_owned());
    }
    let (usable, reason) = probe(program);
    let text = format!("{boot}\n{}\n{reason}\n", if usable { "kvm" } else { "tcg" });
    // Not kept: asked again next time.
    let _ = durable::replace_file(&path, text.as_bytes(), 0o600, Durability::Lost);
    verdict(usable, reason)
}

fn verdict(usable: bool, reason: String) -> Verdict {
    let accelerator = match usable {
        true => Accelerator::Kvm,
        false => Accelerator::Tcg,
    };
    Verdict {
        accelerator,
        reason,
    }
}

/// Whether a guest runs here, and a sentence about it.
fn probe(program: BorrowedFd<'_>) -> (bool, String) {
    if fs::symlink_metadata("/dev/kvm").is_err() {
        return (false, "there is no /dev/kvm".to_owned());
    }
    let ran = (|| {
        let null = process::open(hull_os::mount::cwd(), c"/dev/null", 2, 0)?;
        let child = spawn::spawn(&Spawn {
            program: Program::Descriptor(program),
            args: &[PROBE_ROLE],
            env: &[],
            stdio: [null.as_fd(); 3],
            descriptors: &[],
        })?;
        let until = Instant::now() + PROBE_LIMIT;
        let mut fds = [PollFd::readable(child.pidfd.as_fd())];
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        if process::poll(&mut fds, Some(u32::try_from(left).unwrap_or(0)))? == 0 {
            let _ = process::pidfd_send_signal(child.pidfd.as_fd(), hull_model::signal::KILL);
        }
        process::wait(child.pidfd.as_fd())
    })();
    let code = ran.map_or(-1, |ended: process::Ended| ended.code());
    let words = match code {
        0 => "a probe guest ran at native speed and took an interrupt",
        10 => "/dev/kvm cannot be opened",
        11 => "/dev/kvm makes no machine",
        12 => "a probe guest did not take an interrupt",
        13 => "a probe guest is interpreted, not run",
        14 => "no probe for this architecture",
        137 => "a probe guest hangs",
        _ => "the probe failed",
    };
    (code == 0, words.to_owned())
}
