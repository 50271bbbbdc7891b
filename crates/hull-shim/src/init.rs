//! Process 1 of a container that asked for an init: starts the program, hands signals on, reaps.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStringExt;

use hull_os::process::{self, CStrings, Cloned, SignalSet, SingleThreaded, reset_signals};
use hull_plan::FailureKind;

/// Exit code for a program that is not there.
const EXIT_NOT_FOUND: i32 = 127;
/// Exit code for a program that cannot be executed, and for a failure of ours.
const EXIT_NOT_EXECUTABLE: i32 = 126;

/// `args` is our name, `--`, program, arguments. Returns the exit code of the program.
pub(crate) fn run(args: &[CString]) -> i32 {
    process::set_name(c"hull-init");
    let all = SignalSet::all();
    let program: Vec<&CStr> = args.iter().skip(2).map(CString::as_c_str).collect();
    let Ok(proof) = SingleThreaded::prove() else {
        return EXIT_NOT_EXECUTABLE;
    };
    // Only orphans of process 1's own namespace come here by themselves.
    let _ = process::set_subreaper();
    if all.block_exactly().is_err() {
        return EXIT_NOT_EXECUTABLE;
    }
    match process::fork(&proof) {
        Ok(Cloned::Child) => process::exit_now(become_program(&program)),
        Ok(Cloned::Parent { pid, .. }) => look_after(pid, &all),
        Err(_) => EXIT_NOT_EXECUTABLE,
    }
}

fn become_program(program: &[&CStr]) -> i32 {
    reset_signals();
    // A group of its own, and the terminal's foreground where there is one, as with tini.
    // SAFETY: integers only.
    unsafe { libc::setpgid(0, 0) };
    process::ignore_signal(libc::SIGTTOU);
    // SAFETY: integers only; without a terminal it fails, which is fine.
    unsafe { libc::tcsetpgrp(0, libc::getpid()) };
    // SAFETY: SIG_DFL is no function of ours.
    unsafe { libc::signal(libc::SIGTTOU, libc::SIG_DFL) };
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(name, value)| {
            CString::new([name.into_vec(), value.into_vec()].join(&b'=')).ok()
        })
        .collect();
    let env: Vec<&CStr> = env.iter().map(CString::as_c_str).collect();
    let name = program.first().copied().unwrap_or_default();
    let failure = match hull_plan::interpret::look_up(name, &env) {
        Ok(path) => {
            let args: CStrings<'_> = program.iter().copied().collect();
            let cause = process::execute(&path, &args, &env.iter().copied().collect());
            let shown = path.to_string_lossy().into_owned();
            let _ = write_error(&format!("hull-init: exec {shown}: {cause}\n"));
            return if cause.kind() == std::io::ErrorKind::NotFound {
                EXIT_NOT_FOUND
            } else {
                EXIT_NOT_EXECUTABLE
            };
        }
        Err(failure) => failure,
    };
    let _ = write_error(&format!("hull-init: {}\n", failure.text));
    match failure.kind {
        FailureKind::NotFound => EXIT_NOT_FOUND,
        _ => EXIT_NOT_EXECUTABLE,
    }
}

fn write_error(text: &str) -> std::io::Result<()> {
    std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes())
}

fn look_after(pid: u32, all: &SignalSet) -> i32 {
    loop {
        match all.wait() {
            Ok(libc::SIGCHLD) => {
                while let Ok(Some((ended, how))) = process::try_wait_any() {
                    if ended == pid {
                        return how.code();
                    }
                }
            }
            Ok(signal) => {
                // SAFETY: integers only; the child is ours and not reaped, so the number is its own.
                unsafe { libc::kill(pid.cast_signed(), signal) };
            }
            Err(_) => {}
        }
    }
}
