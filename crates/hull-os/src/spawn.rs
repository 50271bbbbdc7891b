//! Starts a program with exactly the descriptors it is given: the daemon's only door to a new
//! process.
//!
//! It is `posix_spawn`, that is a vfork: the address space is not copied, no code of ours runs
//! between the copy and the execve, so it is safe in a process with threads and cheap in a large
//! one. There is no hook and there will be none.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use crate::process::{self, Ended, PollFd, SignalSet};

/// First descriptor number that a spawned program is given beyond the three standard ones.
pub const FIRST_DESCRIPTOR: RawFd = 3;

/// Where a program is.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// At a path.
    Path(&'a CStr),
    /// Only in memory. It keeps one more descriptor, the number after the listed ones, open on
    /// its own text.
    Descriptor(BorrowedFd<'a>),
}

/// A program to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program itself.
    pub program: Program<'a>,
    /// Its arguments, the name first.
    pub args: &'a [&'a CStr],
    /// Its whole environment.
    pub env: &'a [&'a CStr],
    /// Its standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Become 3, 4, 5 … in this order.
    pub descriptors: &'a [BorrowedFd<'a>],
}

/// A child that was spawned.
#[derive(Debug)]
pub struct Child {
    /// Its number.
    pub pid: u32,
    /// Its handle. Readable when it has ended; it stays a zombie until it is waited for.
    pub pidfd: OwnedFd,
}

/// Starts a program in a session of its own, with default signals.
///
/// # Errors
/// What the kernel says; `ENOENT` when there is no such program.
pub fn spawn(spawn: &Spawn<'_>) -> io::Result<Child> {
    let attributes = Attributes::new()?;
    let mut actions = Actions::new()?;
    // A source must not be overwritten by an earlier target, so all sources move out of the way.
    let first_free = FIRST_DESCRIPTOR + RawFd::try_from(spawn.descriptors.len()).unwrap_or(0);
    let mut sources: Vec<BorrowedFd<'_>> = spawn.stdio.to_vec();
    sources.extend(spawn.descriptors);
    let (program, first_closed) = match spawn.program {
        Program::Path(path) => (path.to_owned(), first_free),
        Program::Descriptor(fd) => {
            sources.push(fd);
            (
                CString::new(format!("/proc/self/fd/{first_free}"))?,
                first_free + 1,
            )
        }
    };
    let moved: Vec<OwnedFd> = sources
        .into_iter()
        .map(|fd| duplicate_above(fd, first_closed))
        .collect::<Result<_, _>>()?;
    for (target, fd) in (0..).zip(&moved) {
        actions.duplicate(fd.as_raw_fd(), target)?;
    }
    actions.close_from(first_closed)?;
    let args = pointers(spawn.args);
    let env = pointers(spawn.env);
    let mut pid: libc::pid_t = 0;
    // SAFETY: all strings are NUL-terminated, both lists end with a null pointer, attributes and
    // actions are initialized; everything outlives the call.
    let error = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            program.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            args.as_ptr().cast(),
            env.as_ptr().cast(),
        )
    };
    failed(error)?;
    let pid = pid.unsigned_abs();
    // The number is not reused before somebody waits for the child, and only we know it.
    Ok(Child {
        pid,
        pidfd: process::pidfd_open(pid)?,
    })
}

/// What a short program wrote and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub ended: Ended,
    /// Standard output and standard error, in the order written.
    pub text: Vec<u8>,
}

/// Runs a short program to its end and collects what it writes.
///
/// # Errors
/// `TimedOut` when it did not end in time; it is killed then. `FileTooLarge` when it wrote more
/// than 1 MiB.
pub fn run(
    program: &CStr,
    args: &[&CStr],
    env: &[&CStr],
    time_limit: Duration,
) -> io::Result<Output> {
    let null = process::open(crate::mount::cwd(), c"/dev/null", libc::O_RDWR, 0)?;
    let (reader, writer) = process::pipe()?;
    process::set_nonblocking(reader.as_fd())?;
    let stdio = [null.as_fd(), writer.as_fd(), writer.as_fd()];
    let child = spawn(&Spawn {
        program: Program::Path(program),
        args,
        env,
        stdio,
        descriptors: &[],
    })?;
    drop(writer);
    let result = collect(reader.as_fd(), Instant::now() + time_limit);
    if result.is_err() {
        let _ = process::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
    }
    let ended = process::wait(child.pidfd.as_fd())?;
    Ok(Output {
        ended,
        text: result?,
    })
}

fn collect(reader: BorrowedFd<'_>, deadline: Instant) -> io::Result<Vec<u8>> {
    /// More output than this is a defect of the program.
    const OUTPUT_BYTES_MAX: usize = 1 << 20;
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        let mut ready = [PollFd::readable(reader)];
        if process::poll(&mut ready, Some(left_ms))? == 0 && left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match process::read(reader, &mut buffer) {
            Ok(0) => return Ok(text),
            Ok(length) => text.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if text.len() > OUTPUT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
    }
}

/// Splits a command line of plain words into what [`run`] takes.
///
/// # Errors
/// When a word holds a NUL.
pub fn words(argv: &[&str]) -> io::Result<Vec<CString>> {
    argv.iter()
        .map(|word| CString::new(*word).map_err(io::Error::from))
        .collect()
}

fn duplicate_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: integers only.
    process::own(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) }.into())
}

fn pointers(strings: &[&CStr]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|s| s.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// The functions of this family return the error number instead of setting it.
fn failed(error: libc::c_int) -> io::Result<()> {
    if error == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(error))
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> io::Result<Attributes> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: initializes what it points to.
        failed(unsafe { libc::posix_spawnattr_init(raw.as_mut_ptr()) })?;
        // SAFETY: just initialized.
        let mut attributes = Attributes(unsafe { raw.assume_init() });
        let flags = libc::POSIX_SPAWN_SETSIGMASK
            | libc::POSIX_SPAWN_SETSIGDEF
            | i32::from(libc::POSIX_SPAWN_SETSID);
        let (none, all) = (SignalSet::of(&[]), SignalSet::all());
        // SAFETY: the attributes are initialized, the sets are valid for reads.
        unsafe {
            failed(libc::posix_spawnattr_setflags(
                &raw mut attributes.0,
                flags as _,
            ))?;
            failed(libc::posix_spawnattr_setsigmask(
                &raw mut attributes.0,
                none.raw(),
            ))?;
            failed(libc::posix_spawnattr_setsigdefault(
                &raw mut attributes.0,
                all.raw(),
            ))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: initialized by `new`, not used after.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Actions> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: initializes what it points to.
        failed(unsafe { libc::posix_spawn_file_actions_init(raw.as_mut_ptr()) })?;
        // SAFETY: just initialized.
        Ok(Actions(unsafe { raw.assume_init() }))
    }

    fn duplicate(&mut self, from: RawFd, to: RawFd) -> io::Result<()> {
        // SAFETY: the actions are initialized; integers else.
        failed(unsafe { libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from, to) })
    }

    fn close_from(&mut self, first: RawFd) -> io::Result<()> {
        // SAFETY: as above.
        failed(unsafe { posix_spawn_file_actions_addclosefrom_np(&raw mut self.0, first) })
    }
}

unsafe extern "C" {
    /// In glibc since 2.34, not yet in the libc crate.
    fn posix_spawn_file_actions_addclosefrom_np(
        actions: *mut libc::posix_spawn_file_actions_t,
        first: libc::c_int,
    ) -> libc::c_int;
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialized by `new`, not used after.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_its_descriptors_in_order_and_no_others() {
        let null = process::open(crate::mount::cwd(), c"/dev/null", libc::O_RDWR, 0).unwrap();
        let (reader, writer) = process::pipe().unwrap();
        let (_, other) = process::pipe().unwrap();
        let args = words(&["sh", "-c", "echo three >&3; exec ls /proc/self/fd >&4"]).unwrap();
        let args: Vec<&CStr> = args.iter().map(CString::as_c_str).collect();
        let child = spawn(&Spawn {
            program: Program::Path(c"/bin/sh"),
            args: &args,
            env: &[c"PATH=/usr/bin:/bin"],
            stdio: [null.as_fd(), null.as_fd(), null.as_fd()],
            descriptors: &[writer.as_fd(), writer.as_fd()],
        })
        .unwrap();
        drop((writer, other));
        assert_eq!(process::wait(child.pidfd.as_fd()).unwrap(), Ended::Code(0));
        let text = io::read_to_string(std::fs::File::from(reader)).unwrap();
        // 5 is the directory that `ls` reads.
        assert_eq!(
            text.split_ascii_whitespace().collect::<Vec<_>>(),
            ["three", "0", "1", "2", "3", "4", "5"]
        );
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let error = run(
            c"/bin/sleep",
            &[c"sleep", c"60"],
            &[],
            Duration::from_millis(50),
        )
        .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn output_and_code_are_collected() {
        let output = run(
            c"/bin/sh",
            &[c"sh", c"-c", c"echo out; echo err >&2; exit 3"],
            &[c"PATH=/usr/bin:/bin"],
            Duration::from_secs(10),
        )
        .unwrap();
        assert_eq!(
            (output.ended, &output.text[..]),
            (Ended::Code(3), &b"out\nerr\n"[..])
        );
    }
}
