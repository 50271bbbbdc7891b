//! Carries out process steps: from a child with full powers to the program with its own.
//!
//! ```text
//! limits ─ who it is ─ working directory ─ filter* ─ capabilities and identity ─ filter** ─ execve
//! ```
//!
//! The filter is installed late (**) where no new privileges can be gained, and else early (*), as
//! installing it then needs a capability that the process may be about to lose; runc does the same.
//! Every failure has the text that Docker's runtime prints for it, where it has one.

use std::ffi::{CStr, CString, OsStr};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use hull_os::process::{self, CStrings};
use hull_os::{capability, mount, seccomp};

use crate::process::{Capabilities, Process, ProcessStep};
use crate::user::{self, Identity};

/// Mask of a process that asks for none.
const UMASK: u32 = 0o022;
/// The first descriptor that is not a standard stream.
const FIRST_OTHER: i32 = 3;
/// Bytes of a user or group file; a longer one is no such file.
const USER_FILE_BYTES_MAX: u64 = 8 << 20;

/// What a failed start depends on, as far as Docker's exit codes distinguish it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The program is not there: 127.
    NotFound,
    /// The program cannot be executed: 126.
    NotExecutable,
    /// Anything else.
    Other,
}

/// Why a process could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The failed step.
    pub step: &'static str,
    /// The system's error number; 0: none.
    pub errno: i32,
    /// The text for a client.
    pub text: String,
    /// What exit codes depend on.
    pub kind: FailureKind,
}

impl Failure {
    /// A failure of the system, told as `text: reason`.
    pub fn system(step: &'static str, text: &str, cause: &io::Error) -> Failure {
        Failure {
            step,
            errno: cause.raw_os_error().unwrap_or(0),
            text: format!("{text}: {}", reason(cause)),
            kind: FailureKind::Other,
        }
    }

    /// A failure that is no error of the system.
    pub fn plain(step: &'static str, text: String) -> Failure {
        Failure {
            step,
            errno: 0,
            text,
            kind: FailureKind::Other,
        }
    }

    fn exec(kind: FailureKind, errno: i32, text: String) -> Failure {
        Failure {
            step: "exec",
            errno,
            text,
            kind,
        }
    }
}

/// The words for an error that C and Go programs print: lower case, without the number; behind
/// them those of what caused it.
fn reason(cause: &io::Error) -> String {
    let mut text = plain_words(&cause.to_string());
    let mut next = cause.get_ref().and_then(std::error::Error::source);
    while let Some(deeper) = next {
        text.push_str(": ");
        text.push_str(&plain_words(&deeper.to_string()));
        next = deeper.source();
    }
    text
}

fn plain_words(words: &str) -> String {
    let words = words.split(" (os error").next().unwrap_or_default();
    let mut chars = words.chars();
    // "I/O error" stays as it is; "No such file" does not.
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => words.to_owned(),
    }
}

/// What is executed when all steps are done.
#[derive(Debug, Clone, Copy)]
pub enum Program<'a> {
    /// The first argument, looked up in the environment's `PATH`.
    Argument,
    /// Our own init in memory, which gets the arguments behind its name.
    Init(BorrowedFd<'a>),
}

/// The name that our init shows, and knows its role by.
pub const INIT_NAME: &CStr = c"hull-init";

/// Becomes the process. Returns only on failure.
///
/// `/` is the root of the process and its standard streams are in place. `announce` is called when
/// nothing but the execve is left to do; an error there ends the attempt.
pub fn enter(
    steps: Process<'_>,
    program: Program<'_>,
    announce: impl FnOnce() -> io::Result<()>,
) -> Failure {
    match try_enter(steps, program, announce) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

enum Never {}

/// The steps sorted by what they are about.
#[derive(Default)]
struct Sorted<'a> {
    args: Vec<&'a CStr>,
    env: Vec<&'a CStr>,
    cwd: Option<(&'a CStr, bool)>,
    user: &'a CStr,
    groups: Vec<&'a CStr>,
    capabilities: Option<Capabilities>,
    no_new_privileges: bool,
    seccomp: Option<&'a [u8]>,
    umask: Option<u32>,
}

impl<'a> Sorted<'a> {
    /// Sorts, and sets limits on the way: they depend on nothing and nothing depends on them.
    fn sort(process: Process<'a>) -> Result<Sorted<'a>, Failure> {
        let mut sorted = Sorted::default();
        for step in process.steps() {
            match step {
                ProcessStep::Arg(text) => sorted.args.push(text),
                ProcessStep::Env(text) => sorted.env.push(text),
                ProcessStep::Cwd(path, create) => sorted.cwd = Some((path, create)),
                ProcessStep::User(text) => sorted.user = text,
                ProcessStep::Group(text) => sorted.groups.push(text),
                ProcessStep::Capabilities(sets) => sorted.capabilities = Some(sets),
                ProcessStep::NoNewPrivileges => sorted.no_new_privileges = true,
                ProcessStep::Seccomp(filter) => sorted.seccomp = Some(filter),
                ProcessStep::Rlimit(resource, soft, hard) => {
                    process::set_rlimit(resource, soft, hard).map_err(|cause| {
                        let text = format!("error setting rlimits for resource {resource}");
                        Failure::system("rlimit", &text, &cause)
                    })?;
                }
                ProcessStep::Umask(mask) => sorted.umask = Some(mask),
                ProcessStep::Pass(fd) => process::keep_open(fd)
                    .map_err(|cause| Failure::system("descriptors", "pass a descriptor", &cause))?,
                // A kernel without huge pages has only small ones.
                ProcessStep::SmallPages => drop(process::refuse_huge_pages()),
                // Its group decides anyway where it runs.
                ProcessStep::AllProcessors => drop(process::use_all_processors()),
                // Carried out by whoever made this child.
                ProcessStep::OomScoreAdj(_) | ProcessStep::Terminal(..) | ProcessStep::Stdin(_) => {
                }
            }
        }
        Ok(sorted)
    }
}

fn try_enter(
    steps: Process<'_>,
    program: Program<'_>,
    announce: impl FnOnce() -> io::Result<()>,
) -> Result<Never, Failure> {
    // Whatever was opened before, and however: the program gets its three streams and nothing else.
    // A directory of the host among them would be a way out (CVE-2024-21626).
    process::close_on_exec_from(FIRST_OTHER)
        .map_err(|cause| Failure::system("descriptors", "close other descriptors", &cause))?;
    let sorted = Sorted::sort(steps)?;
    process::set_umask(0);
    let identity = identify(&sorted)?;
    let cwd = sorted
        .cwd
        .filter(|(path, _)| !path.is_empty())
        .unwrap_or((c"/", false));
    let entered = enter_directory(cwd.0, cwd.1);
    give_streams(&identity);
    let install = |when: bool| match sorted.seccomp {
        Some(filter) if when => seccomp::install(filter)
            .map_err(|cause| Failure::system("seccomp", "error installing seccomp filter", &cause)),
        _ => Ok(()),
    };
    install(!sorted.no_new_privileges)?;
    become_identity(&identity, sorted.capabilities)
        .map_err(|cause| Failure::system("identity", "unable to apply identity", &cause))?;
    if sorted.no_new_privileges {
        process::set_no_new_privileges()
            .map_err(|cause| Failure::system("privileges", "set no_new_privs", &cause))?;
    }
    install(sorted.no_new_privileges)?;
    // The user may enter what root may not (a network file system), so the second try counts.
    entered
        .or_else(|_| enter_directory(cwd.0, false))
        .map_err(|cause| {
            let path = cwd.0.to_string_lossy();
            let text = format!("chdir to cwd (\"{path}\") set in config.json failed");
            Failure::system("cwd", &text, &cause)
        })?;
    process::set_umask(sorted.umask.unwrap_or(UMASK));
    execute(&sorted, &identity, program, announce)
}

fn identify(sorted: &Sorted<'_>) -> Result<Identity, Failure> {
    let read = |path: &str| {
        // A fifo or device of a hostile image must neither block nor fill the memory.
        let mut options = std::fs::OpenOptions::new();
        let file = options
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path);
        let mut text = Vec::new();
        match file {
            Ok(file) if file.metadata().is_ok_and(|m| m.is_file()) => {
                let _ = file.take(USER_FILE_BYTES_MAX).read_to_end(&mut text);
            }
            _ => {}
        }
        String::from_utf8_lossy(&text).into_owned()
    };
    let user = sorted.user.to_string_lossy();
    let groups: Vec<_> = sorted
        .groups
        .iter()
        .map(|group| group.to_string_lossy())
        .collect();
    let groups: Vec<&str> = groups.iter().map(AsRef::as_ref).collect();
    user::resolve(&user, &groups, &read("/etc/passwd"), &read("/etc/group"))
        .map_err(|text| Failure::plain("user", text))
}

/// Changes into a directory and makes sure that it lies below the root: a descriptor of the host
/// that was left open would otherwise be a way out (CVE-2024-21626).
fn enter_directory(path: &CStr, create: bool) -> io::Result<()> {
    let as_path = Path::new(OsStr::from_bytes(path.to_bytes()));
    match mount::chdir(path) {
        Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(as_path)?;
            mount::chdir(path)?;
        }
        result => result?,
    }
    if std::env::current_dir()?.is_absolute() {
        Ok(())
    } else {
        Err(io::Error::other(
            "current working directory is outside of container mount namespace root",
        ))
    }
}

/// Lets the user open its own `/dev/stdout` again. Where that cannot be, it cannot be.
fn give_streams(identity: &Identity) {
    for stream in [
        io::stdin().as_fd(),
        io::stdout().as_fd(),
        io::stderr().as_fd(),
    ] {
        let Ok(copy) = stream.try_clone_to_owned() else {
            continue;
        };
        let file = std::fs::File::from(copy);
        let Ok(metadata) = file.metadata() else {
            continue;
        };
        let is_null = metadata.rdev() == libc::makedev(1, 3);
        if metadata.uid() != identity.uid && !is_null {
            let _ = std::os::unix::fs::fchown(&file, Some(identity.uid), None);
        }
    }
}

fn become_identity(identity: &Identity, capabilities: Option<Capabilities>) -> io::Result<()> {
    let Some(sets) = capabilities else {
        return process::set_identity(identity.uid, identity.gid, &identity.groups);
    };
    capability::drop_bounding(sets.bounding)?;
    process::set_keep_capabilities(true)?;
    process::set_identity(identity.uid, identity.gid, &identity.groups)?;
    process::set_keep_capabilities(false)?;
    capability::set(sets.effective, sets.permitted, sets.inheritable)?;
    capability::raise_ambient(sets.ambient)
}

fn execute(
    sorted: &Sorted<'_>,
    identity: &Identity,
    program: Program<'_>,
    announce: impl FnOnce() -> io::Result<()>,
) -> Result<Never, Failure> {
    let home = CString::new(format!("HOME={}", identity.home)).unwrap_or_default();
    let has_home = |text: &&CStr| text.to_bytes().starts_with(b"HOME=") && text.count_bytes() > 5;
    let mut env = sorted.env.clone();
    if !env.iter().any(has_home) {
        env.retain(|text| !text.to_bytes().starts_with(b"HOME="));
        env.push(&home);
    }
    let env_list: CStrings<'_> = env.iter().copied().collect();
    let announce =
        || announce().map_err(|cause| Failure::system("announce", "parent of the process", &cause));
    let name = sorted.args.first().copied().unwrap_or_default();
    match program {
        Program::Init(file) => {
            announce()?;
            let args = [INIT_NAME, c"--"]
                .into_iter()
                .chain(sorted.args.iter().copied())
                .collect();
            let cause = process::execute_file(file, &args, &env_list);
            Err(Failure::system("exec", "exec init", &cause))
        }
        Program::Argument => {
            let path = look_up(name, &env)?;
            announce()?;
            let args = sorted.args.iter().copied().collect();
            let cause = process::execute(&path, &args, &env_list);
            let text = format!("exec {}: {}", path.to_string_lossy(), reason(&cause));
            let kind = match cause.kind() {
                io::ErrorKind::NotFound => FailureKind::NotFound,
                _ => FailureKind::NotExecutable,
            };
            Err(Failure::exec(kind, cause.raw_os_error().unwrap_or(0), text))
        }
    }
}

/// Finds a program as Go's `exec.LookPath` does, whose texts clients know.
///
/// # Errors
/// With [`FailureKind::NotFound`] or [`FailureKind::NotExecutable`].
pub fn look_up(name: &CStr, env: &[&CStr]) -> Result<CString, Failure> {
    let shown = name.to_string_lossy();
    if name.to_bytes().contains(&b'/') {
        return match executable(name) {
            Ok(()) => Ok(name.to_owned()),
            Err(cause) => {
                let reason = reason(&cause);
                let (kind, text) = match cause.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => (
                        FailureKind::NotFound,
                        format!("exec: \"{shown}\": stat {shown}: {reason}"),
                    ),
                    _ => (
                        FailureKind::NotExecutable,
                        format!("exec: \"{shown}\": {reason}"),
                    ),
                };
                Err(Failure::exec(kind, cause.raw_os_error().unwrap_or(0), text))
            }
        };
    }
    let path = env
        .iter()
        .rev()
        .find_map(|text| text.to_bytes().strip_prefix(b"PATH="));
    for dir in path.unwrap_or_default().split(|&byte| byte == b':') {
        let dir = if dir.is_empty() { b"." } else { dir };
        let candidate = [dir, b"/", name.to_bytes()].concat();
        match CString::new(candidate) {
            Ok(candidate) if !name.is_empty() && executable(&candidate).is_ok() => {
                return Ok(candidate);
            }
            _ => {}
        }
    }
    let text = format!("exec: \"{shown}\": executable file not found in $PATH");
    Err(Failure::exec(FailureKind::NotFound, libc::ENOENT, text))
}

fn executable(path: &CStr) -> io::Result<()> {
    let metadata = std::fs::metadata(OsStr::from_bytes(path.to_bytes()))?;
    if metadata.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    // SAFETY: the path is NUL-terminated and outlives the call.
    let result =
        unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
