//! Says what a container's filter answers to every system call, without running anything.
//!
//! `seccomp_verdicts [--profile FILE.json] [--capabilities HEX]`: Docker's default profile and set
//! where nothing is given. Lines are `NUMBER VERDICT`, with arguments of which all bits are set, as
//! the probe in `tests/isolation` makes its calls; `allowed` leaves the answer to the kernel.

use std::error::Error;
use std::sync::Arc;

use hull_os::seccomp::{Action, Arch, Call, evaluate};
use hull_sandbox::container::{capability, seccomp};

/// As in the probe.
const NUMBERS: std::ops::Range<u32> = 0..512;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut capabilities = capability::DEFAULT;
    let mut profile = None;
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or("a flag needs a value")?;
        match flag.as_str() {
            "--profile" => profile = Some(std::fs::read_to_string(value)?),
            "--capabilities" => capabilities = u64::from_str_radix(&value, 16)?,
            other => return Err(format!("unknown flag {other}").into()),
        }
    }
    let program: Arc<[u8]> = match profile {
        Some(text) => seccomp::compile_json(&text, capabilities)?,
        None => seccomp::compile_default(capabilities)?,
    };
    eprintln!("{} instructions", program.len() / 8);
    for number in NUMBERS {
        let call = Call {
            arch: Arch::NATIVE.audit(),
            number,
            arguments: [u64::MAX; 6],
        };
        let (value, _) = evaluate(&program, &call).ok_or("not a program")?;
        println!("{number} {}", name(value));
    }
    Ok(())
}

fn name(value: u32) -> &'static str {
    let is = |action: Action| action.value() == value;
    if is(Action::Errno(1)) {
        "EPERM"
    } else if is(Action::Errno(38)) {
        "ENOSYS"
    } else if is(Action::KillThread) || is(Action::KillProcess) || is(Action::Trap) {
        "killed"
    } else {
        "allowed"
    }
}
