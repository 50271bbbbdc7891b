//! Tries every system call from inside a container, so that two engines can be compared.
//!
//! Prints one line per call, `NUMBER VERDICT`: `EPERM` and `ENOSYS` are what filters answer,
//! `killed` is death by SIGSYS, `other` is anything else, success included. Each call is made by a
//! child of its own with arguments that no call takes (all bits set), so that nothing happens; one
//! that blocks is ended after a moment. At the end come calls whose arguments a filter looks at.
//!
//! The kernel itself says EPERM or ENOSYS now and then. It says so under every engine.

use std::io;
use std::time::{Duration, Instant};

/// Numbers that are tried: beyond the newest call.
const NUMBERS: std::ops::Range<i64> = 0..512;

/// How long one call may take; what takes longer blocks, which is no answer of a filter.
const CALL_MS_MAX: u64 = 200;

/// An argument that is no address, no descriptor, no length and no known flag.
const INVALID: i64 = -1;

/// Calls by name, with arguments that decide.
const SPECIAL: &[(&str, i64, [i64; 3])] = &[
    ("socket(AF_UNIX)", libc::SYS_socket, [1, 1, 0]),
    ("socket(AF_ALG)", libc::SYS_socket, [38, 5, 0]),
    ("socket(AF_VSOCK)", libc::SYS_socket, [40, 1, 0]),
    ("socket(41)", libc::SYS_socket, [41, 1, 0]),
    ("personality(0)", libc::SYS_personality, [0, 0, 0]),
    (
        "personality(UNAME26)",
        libc::SYS_personality,
        [0x2_0000, 0, 0],
    ),
    (
        "personality(ADDR_NO_RANDOMIZE)",
        libc::SYS_personality,
        [0x4_0000, 0, 0],
    ),
    (
        "personality(query)",
        libc::SYS_personality,
        [0xffff_ffff, 0, 0],
    ),
    ("unshare(NEWUSER)", libc::SYS_unshare, [0x1000_0000, 0, 0]),
    ("clone(NEWUSER)", libc::SYS_clone, [0x1000_0011, 0, 0]),
    ("clone(SIGCHLD)", libc::SYS_clone, [0x11, 0, 0]),
];

fn main() -> io::Result<()> {
    for number in NUMBERS {
        println!("{number} {}", verdict(number, [INVALID; 6])?);
    }
    for (name, number, [first, second, third]) in SPECIAL {
        println!(
            "{name} {}",
            verdict(*number, [*first, *second, *third, 0, 0, 0])?
        );
    }
    Ok(())
}

/// Makes a call in a child and says how it ended.
fn verdict(number: i64, arguments: [i64; 6]) -> io::Result<&'static str> {
    // SAFETY: this process has one thread, so the child may do what it likes.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let result = call(number, arguments);
            let errno = i32::try_from(-result)
                .ok()
                .filter(|errno| (1..4096).contains(errno));
            // SAFETY: ends the child at once, with nothing to clean up.
            unsafe { libc::_exit(code_of(errno)) }
        }
        child => ended(child),
    }
}

/// Exit codes that the two errors travel as; other errors are all the same.
const CODE_EPERM: i32 = 101;
const CODE_ENOSYS: i32 = 138;

fn code_of(errno: Option<i32>) -> i32 {
    match errno {
        Some(libc::EPERM) => CODE_EPERM,
        Some(libc::ENOSYS) => CODE_ENOSYS,
        _ => 0,
    }
}

fn ended(child: libc::pid_t) -> io::Result<&'static str> {
    let deadline = Instant::now() + Duration::from_millis(CALL_MS_MAX);
    let mut status = 0;
    let mut pause = Duration::from_micros(50);
    loop {
        // SAFETY: our own child, and a status that lives here.
        match unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } {
            -1 => return Err(io::Error::last_os_error()),
            0 if Instant::now() >= deadline => {
                // SAFETY: our own child, not reaped yet.
                unsafe { libc::kill(child, libc::SIGKILL) };
            }
            0 => {}
            _ => break,
        }
        std::thread::sleep(pause);
        pause = (2 * pause).min(Duration::from_millis(2));
    }
    let by_filter = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS;
    Ok(
        match (
            by_filter,
            libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
        ) {
            (true, _) => "killed",
            (false, Some(CODE_EPERM)) => "EPERM",
            (false, Some(CODE_ENOSYS)) => "ENOSYS",
            (false, _) => "other",
        },
    )
}

/// The raw call: the result, or a negative error number. A new process that a call makes ends
/// before it returns, as it may share our stack.
#[cfg(target_arch = "x86_64")]
fn call(number: i64, arguments: [i64; 6]) -> i64 {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    let result;
    // SAFETY: only in a child that ends right after; what the call does to it hurts nobody.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "mov eax, 231", // exit_group(0): success of a call, or the start of a new process
            "xor edi, edi",
            "syscall",
            "2:",
            inlateout("rax") number => result,
            inlateout("rdi") first => _,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            in("r9") sixth,
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

#[cfg(not(target_arch = "x86_64"))]
fn call(number: i64, arguments: [i64; 6]) -> i64 {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: only in a child that ends right after; what the call does to it hurts nobody.
    match unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) } {
        -1 => -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        result => result,
    }
}
