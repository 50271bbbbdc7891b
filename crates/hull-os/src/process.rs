//! Processes by descriptor: clone, wait, signal; and what a process may change of itself.
//!
//! The second half is for single-threaded programs only (a shim, a child before its execve): it
//! changes identity, limits and signals of the whole process.

use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::namespace::Kinds;

/// Turns the result of a system call into a value or the error of this thread.
pub(crate) fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes a descriptor that the kernel just returned.
pub(crate) fn own(result: c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(check(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave us this descriptor and nobody else holds it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a path relative to a directory, close-on-exec.
///
/// # Errors
/// What the kernel says.
pub fn open(dir: BorrowedFd<'_>, path: &CStr, flags: c_int, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: the path is NUL-terminated and outlives the call.
    own(unsafe {
        libc::openat(
            dir.as_raw_fd(),
            path.as_ptr(),
            flags | libc::O_CLOEXEC,
            mode,
        )
    }
    .into())
}

/// A path that leads any process of this host to what a descriptor of ours is open on, whatever
/// it is called by then. Good for as long as the descriptor is open.
pub fn path_of_own_descriptor(fd: BorrowedFd<'_>) -> std::path::PathBuf {
    format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()).into()
}

/// Opens a handle to a process that cannot be confused with a later one of the same number.
///
/// # Errors
/// `ESRCH` when there is none.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: two integers.
    own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Sends a signal.
///
/// # Errors
/// `ESRCH` when the process has ended.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null pointer means a plain signal.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            info,
            0,
        )
    })
    .map(drop)
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Ended {
    /// Exit code, or 128 + signal.
    pub const fn code(self) -> i32 {
        match self {
            Ended::Code(code) => code,
            Ended::Signal(signal) => 128 + signal,
        }
    }
}

/// Takes the end of a child, if it has ended. `Ok(None)`: it still runs.
///
/// # Errors
/// `ECHILD` when it is not our child or was taken before.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    let id = libc::id_t::try_from(pidfd.as_raw_fd()).map_err(io::Error::other)?;
    wait_id(libc::P_PIDFD, id, libc::WEXITED | libc::WNOHANG).map(|ended| ended.map(|(_, e)| e))
}

/// Waits for the end of a child.
///
/// # Errors
/// As [`try_wait`].
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Ended> {
    let id = libc::id_t::try_from(pidfd.as_raw_fd()).map_err(io::Error::other)?;
    loop {
        match wait_id(libc::P_PIDFD, id, libc::WEXITED) {
            Ok(Some((_, ended))) => return Ok(ended),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Takes the end of any child that has ended.
///
/// # Errors
/// `ECHILD` when there is no child at all.
pub fn try_wait_any() -> io::Result<Option<(u32, Ended)>> {
    wait_id(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG)
}

fn wait_id(kind: libc::idtype_t, id: libc::id_t, flags: c_int) -> io::Result<Option<(u32, Ended)>> {
    // SAFETY: all-zero is a valid value of this structure of integers.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // `__WALL` also takes children whose end sends no signal.
    // SAFETY: the structure is valid for writes.
    check(unsafe { libc::waitid(kind, id, &raw mut info, flags | libc::__WALL) }.into())?;
    // SAFETY: waitid succeeded, so the fields of a SIGCHLD are set or all are zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let ended = if info.si_code == libc::CLD_EXITED {
        Ended::Code(status)
    } else {
        Ended::Signal(status)
    };
    Ok(Some((pid.unsigned_abs(), ended)))
}

/// Proof that this process has one thread. Only a `main` can honestly make it, before starting any.
#[derive(Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Looks into `/proc/self/task`.
    ///
    /// # Errors
    /// When there is more than one thread.
    pub fn prove() -> io::Result<SingleThreaded> {
        // One link for each thread and two of the directory itself.
        let links = std::os::unix::fs::MetadataExt::nlink(&std::fs::metadata("/proc/self/task")?);
        if links == 3 {
            Ok(SingleThreaded(()))
        } else {
            Err(io::Error::other("this process has more than one thread"))
        }
    }
}

/// libc's own constant does not fit into its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What [`clone`] shall do besides copying the process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClonePlan<'a> {
    /// New namespaces of the child.
    pub namespaces: Kinds,
    /// Our parent becomes the child's parent too.
    pub sibling: bool,
    /// The child starts in this cgroup (v2).
    pub cgroup: Option<BorrowedFd<'a>>,
}

/// Where [`clone`] returns.
#[derive(Debug)]
pub enum Cloned {
    /// In the new process.
    Child,
    /// In the old one.
    Parent {
        /// Number of the child in our process namespace.
        pid: u32,
        /// Handle to the child.
        pidfd: OwnedFd,
    },
}

/// Copies the process, into new namespaces where asked for.
///
/// # Errors
/// What the kernel says.
pub fn clone(_proof: &SingleThreaded, plan: &ClonePlan<'_>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid value of this structure of integers.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = plan.namespaces.bits() | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    if plan.sibling {
        args.flags |= libc::CLONE_PARENT as u64;
    } else {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = plan.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: without CLONE_VM the child has a copy of all memory, and by the proof no other
    // thread could hold a lock in that copy. `args` and `pidfd` are valid for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    cloned(result, pidfd)
}

/// Copies this process by the older call, for where a filter lets no clone3 through because it
/// cannot look behind its pointer: inside a container.
///
/// # Errors
/// What the kernel says.
pub fn fork(_proof: &SingleThreaded) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    const NONE: libc::c_long = 0;
    let flags = libc::c_long::from(libc::CLONE_PIDFD | libc::SIGCHLD);
    // SAFETY: as in `clone`; without a stack of its own the child goes on with a copy of ours. The
    // arguments behind the third, which differ between architectures, are unused.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, NONE, &raw mut pidfd, NONE, NONE) };
    cloned(result, pidfd)
}

fn cloned(result: libc::c_long, pidfd: RawFd) -> io::Result<Cloned> {
    match check(result)? {
        0 => Ok(Cloned::Child),
        pid => Ok(Cloned::Parent {
            pid: u32::try_from(pid).map_err(io::Error::other)?,
            pidfd: own(pidfd.into())?,
        }),
    }
}

/// Ends this process at once: no destructors, no buffers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns; the kernel frees everything.
    unsafe { libc::_exit(code) }
}

/// When a process started, in clock ticks since boot: with its number it names it for good.
///
/// # Errors
/// When there is no such process.
pub fn start_time(pid: u32) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_time(&text).ok_or_else(|| io::Error::other("/proc/<pid>/stat has another form"))
}

/// The name of the program is in parentheses and may hold anything, also `) 1 2`.
fn parse_start_time(stat: &str) -> Option<u64> {
    /// Field 22 of proc(5), counted from the one after the name.
    const FIELD: usize = 22 - 3;
    stat.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(FIELD)?
        .parse()
        .ok()
}

/// The id of this boot.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim_end()
        .to_owned())
}

/// Now, in nanoseconds since the epoch.
pub fn now_ns() -> i64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is valid for writes; this clock exists everywhere.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// A sealed descriptor of bytes in memory: nobody can change them, not even through `/proc`.
///
/// # Errors
/// What the kernel says.
pub fn sealed_copy(name: &CStr, bytes: &[u8], executable: bool) -> io::Result<OwnedFd> {
    let base = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let kind = if executable {
        libc::MFD_EXEC
    } else {
        libc::MFD_NOEXEC_SEAL
    };
    // Kernels before 6.3 do not know the kind, and do not need it.
    let fd = memfd(name, base | kind).or_else(|_| memfd(name, base))?;
    let mut file = std::fs::File::from(fd);
    io::Write::write_all(&mut file, bytes)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    let mut looks = SEAL_LOOKS;
    loop {
        // SAFETY: integers only.
        let sealed =
            check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }.into());
        match sealed {
            // Something of the kernel's own still holds a page that was just written.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && looks > 0 => looks -= 1,
            Err(error) => return Err(error),
            Ok(_) => return Ok(file.into()),
        }
    }
}

/// How often a seal is tried again that the kernel calls busy; each time it waits a while itself.
const SEAL_LOOKS: u32 = 20;

fn memfd(name: &CStr, flags: libc::c_uint) -> io::Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated and outlives the call.
    own(unsafe { libc::memfd_create(name.as_ptr(), flags) }.into())
}

/// Sets whether other processes may look into this one (`PR_SET_DUMPABLE`).
///
/// # Errors
/// Never in practice.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable))
}

/// Words of a set of processors: as many as a kernel can be made for.
const PROCESSOR_WORDS: usize = 8192 / 64;

/// Keeps this process, and what it starts, to the first processor.
///
/// # Errors
/// When it may not be used.
pub fn use_first_processor() -> io::Result<()> {
    let mut mask = [0u64; PROCESSOR_WORDS];
    mask[0] = 1;
    use_processors(&mask)
}

/// Lets this process, and what it starts, run on every processor that its group may use.
///
/// # Errors
/// Never in practice.
pub fn use_all_processors() -> io::Result<()> {
    use_processors(&[u64::MAX; PROCESSOR_WORDS])
}

fn use_processors(mask: &[u64; PROCESSOR_WORDS]) -> io::Result<()> {
    let size = std::mem::size_of_val(mask);
    // SAFETY: the mask is valid for reads of its size.
    let result = unsafe { libc::sched_setaffinity(0, size, mask.as_ptr().cast()) };
    check(result.into()).map(drop)
}

/// Gives this process, and what it executes, no huge pages, even where it asks for them.
///
/// # Errors
/// Where the kernel knows no huge pages.
pub fn refuse_huge_pages() -> io::Result<()> {
    prctl(libc::PR_SET_THP_DISABLE, 1)
}

/// Makes this process the parent of orphans among its descendants.
///
/// # Errors
/// Never in practice.
pub fn set_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// The signal this process gets when its parent ends. Cleared by a change of credentials.
///
/// # Errors
/// `EINVAL` for no signal number.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(
        libc::PR_SET_PDEATHSIG,
        libc::c_ulong::from(signal.unsigned_abs()),
    )
}

/// Nothing that is executed from now on gains privileges.
///
/// # Errors
/// Never in practice.
pub fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Capabilities stay permitted when the user changes from 0.
///
/// # Errors
/// When the securebits are locked.
pub fn set_keep_capabilities(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, libc::c_ulong::from(keep))
}

fn prctl(option: c_int, value: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: integers only.
    check(unsafe { libc::prctl(option, value, zero, zero, zero) }.into()).map(drop)
}

/// Sets the name that `ps` shows, at most 15 bytes of it.
pub fn set_name(name: &CStr) {
    // SAFETY: the name is NUL-terminated and outlives the call. Cannot fail for a valid pointer.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: RawFd) {
    close_range(first, RawFd::MAX);
}

/// Closes every descriptor from 3 on but these.
pub fn close_all_except(keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut first = 3;
    for &fd in keep.iter() {
        if fd > first {
            close_range(first, fd - 1);
        }
        first = first.max(fd + 1);
    }
    close_range(first, RawFd::MAX);
}

fn close_range(first: RawFd, last: RawFd) {
    // SAFETY: integers only. A caller that owned one of these descriptors must not use it again;
    // callers are children that are about to execute and never drop what they had. Cannot fail.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
}

/// Lets no descriptor from this one on survive an execve.
///
/// # Errors
/// What the kernel says; before Linux 5.11 `EINVAL`.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: integers only; nothing is closed now.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, RawFd::MAX, flags) }).map(drop)
}

/// Lets a descriptor, by its number, stay open in the next program.
///
/// # Errors
/// When it is not open.
pub fn keep_open(fd: RawFd) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }.into()).map(drop)
}

/// Makes a descriptor survive execve, or not.
///
/// # Errors
/// `EBADF`.
pub fn set_close_on_exec(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let flags = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) }.into()).map(drop)
}

/// Makes `to` a duplicate of `fd` that survives execve.
///
/// # Errors
/// What the kernel says.
pub fn duplicate_to(fd: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == to {
        return set_close_on_exec(fd, false);
    }
    // SAFETY: integers only; the caller says that nobody owns `to`, as for 0, 1 and 2.
    check(unsafe { libc::dup2(fd.as_raw_fd(), to) }.into()).map(drop)
}

/// Sets `O_NONBLOCK`.
///
/// # Errors
/// What the kernel says.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: integers only.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }.into())?;
    let flags = c_int::try_from(flags).map_err(io::Error::other)? | libc::O_NONBLOCK;
    // SAFETY: integers only.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) }.into()).map(drop)
}

/// A pipe, close-on-exec: reading end, writing end.
///
/// # Errors
/// What the kernel says.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    // SAFETY: the array is valid for writes.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }.into())?;
    Ok((own(fds[0].into())?, own(fds[1].into())?))
}

/// Reads once. 0 bytes: the end.
///
/// # Errors
/// `WouldBlock` where there is nothing now.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for writes of its length.
    let result = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Writes once, as much as goes.
///
/// # Errors
/// `WouldBlock` where nothing goes now.
pub fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for reads of its length.
    let result = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A descriptor to wait for, and what is ready after the wait.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct PollFd(libc::pollfd);

impl PollFd {
    /// There is something to read, or the end.
    pub const READ: i16 = libc::POLLIN;
    /// Something can be written.
    pub const WRITE: i16 = libc::POLLOUT;
    /// The other end is closed, in both directions; always waited for.
    pub const HANG_UP: i16 = libc::POLLHUP | libc::POLLERR;

    /// Waits for any of `events`.
    pub fn new(fd: BorrowedFd<'_>, events: i16) -> PollFd {
        PollFd(libc::pollfd {
            fd: fd.as_raw_fd(),
            events,
            revents: 0,
        })
    }

    /// Waits for something to read.
    pub fn readable(fd: BorrowedFd<'_>) -> PollFd {
        PollFd::new(fd, PollFd::READ)
    }

    /// The number of the descriptor.
    pub fn descriptor(&self) -> RawFd {
        self.0.fd
    }

    /// What is ready.
    pub fn ready(&self) -> i16 {
        self.0.revents
    }
}

impl std::fmt::Debug for PollFd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PollFd({}, {:#x})", self.0.fd, self.0.revents)
    }
}

/// Waits until one of these is ready, or the time is over (`None`: without end).
///
/// # Errors
/// What the kernel says, except interruption, which is as if nothing were ready.
pub fn poll(fds: &mut [PollFd], timeout_ms: Option<u32>) -> io::Result<usize> {
    let timeout = timeout_ms.map_or(-1, |ms| c_int::try_from(ms).unwrap_or(c_int::MAX));
    let count = fds.len() as libc::nfds_t;
    // SAFETY: the slice is valid for reads and writes of `count` structures of that layout.
    match check(unsafe { libc::poll(fds.as_mut_ptr().cast(), count, timeout) }.into()) {
        Ok(ready) => usize::try_from(ready).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(error) => Err(error),
    }
}

/// A set of signals.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl std::fmt::Debug for SignalSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignalSet")
    }
}

impl SignalSet {
    /// These signals.
    pub fn of(signals: &[i32]) -> SignalSet {
        let mut set = SignalSet::with(libc::sigemptyset);
        for &signal in signals {
            // SAFETY: the set is initialized; a wrong number only fails.
            unsafe { libc::sigaddset(&raw mut set.0, signal) };
        }
        set
    }

    /// Every signal.
    pub fn all() -> SignalSet {
        SignalSet::with(libc::sigfillset)
    }

    fn with(fill: unsafe extern "C" fn(*mut libc::sigset_t) -> c_int) -> SignalSet {
        let mut set = std::mem::MaybeUninit::uninit();
        // SAFETY: both functions initialize the whole set.
        unsafe {
            fill(set.as_mut_ptr());
            SignalSet(set.assume_init())
        }
    }

    pub(crate) fn raw(&self) -> &libc::sigset_t {
        &self.0
    }

    /// Replaces the set of blocked signals of this thread.
    ///
    /// # Errors
    /// Never in practice.
    pub fn block_exactly(&self) -> io::Result<()> {
        let old = std::ptr::null_mut();
        // SAFETY: the set is initialized; a null pointer means that the old one is not wanted.
        check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.0, old) }.into())
            .map(drop)
    }

    /// A descriptor that is readable when one of these is pending; they must be blocked.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the set is initialized.
        own(unsafe { libc::signalfd(-1, &raw const self.0, flags) }.into())
    }

    /// Waits for one of these, which must be blocked, and takes it.
    ///
    /// # Errors
    /// `Interrupted`.
    pub fn wait(&self) -> io::Result<i32> {
        // SAFETY: the set is initialized; a null pointer means that details are not wanted.
        check(unsafe { libc::sigwaitinfo(&raw const self.0, std::ptr::null_mut()) }.into())
            .map(|signal| signal as i32)
    }
}

/// Undoes what was done to signals of this program, for the one that it is about to execute: execve
/// takes handlers away by itself, but not what is ignored or blocked. Rust ignores SIGPIPE, and
/// glibc's `posix_spawn` the two signals that it has for itself.
pub fn reset_signals() {
    /// glibc's SIGCANCEL and SIGSETXID, which its own functions refuse to touch.
    const INTERNAL: [c_int; 2] = [32, 33];
    /// The kernel's structure with all fields zero: SIG_DFL, no flags, empty mask.
    const DEFAULT: [u64; 4] = [0; 4];
    /// Bytes of the kernel's signal set.
    const SET_BYTES: usize = 8;
    for signal in [libc::SIGPIPE].into_iter().chain(INTERNAL) {
        let (new, old) = (DEFAULT.as_ptr(), std::ptr::null_mut::<u64>());
        // SAFETY: the structure is valid for reads; SIG_DFL is no function of ours.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, old, SET_BYTES) };
    }
    let _ = SignalSet::of(&[]).block_exactly();
}

/// Ignores a signal.
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN is no function of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Starts a session: no controlling terminal.
///
/// # Errors
/// `EPERM` for a leader of a process group.
pub fn start_session() -> io::Result<()> {
    // SAFETY: no arguments.
    check(unsafe { libc::setsid() }.into()).map(drop)
}

/// Sets the file mode creation mask.
pub fn set_umask(mask: u32) {
    // SAFETY: one integer; cannot fail.
    unsafe { libc::umask(mask) };
}

/// Sets a resource limit of this process.
///
/// # Errors
/// `EPERM` above the hard limit without CAP_SYS_RESOURCE.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the structure is valid for reads.
    check(unsafe { libc::setrlimit(resource, &raw const limit) }.into()).map(drop)
}

/// Sets a resource limit of another process.
///
/// # Errors
/// As [`set_rlimit`].
pub fn set_rlimit_of(pid: u32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let old = std::ptr::null_mut::<libc::rlimit64>();
    // SAFETY: the structure is valid for reads, and nothing is written.
    let result =
        unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, old) };
    check(result).map(drop)
}

/// Sets user, group and supplementary groups, real, effective and saved.
///
/// # Errors
/// `EPERM` without the capabilities, `EINVAL` for an id without a mapping.
pub fn set_identity(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the slice is valid for reads of its length. Raw calls, as this process has one
    // thread and glibc's wrappers would look for others.
    unsafe {
        check(libc::syscall(
            libc::SYS_setgroups,
            groups.len(),
            groups.as_ptr(),
        ))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Sets host and NIS domain name of this UTS namespace; empty: unchanged.
///
/// # Errors
/// What the kernel says.
pub fn set_host_name(host: &CStr, domain: &CStr) -> io::Result<()> {
    let (host_length, domain_length) = (host.count_bytes(), domain.count_bytes());
    if host_length > 0 {
        // SAFETY: the pointer is valid for reads of the length.
        check(unsafe { libc::sethostname(host.as_ptr(), host_length) }.into())?;
    }
    if domain_length > 0 {
        // SAFETY: the pointer is valid for reads of the length.
        check(unsafe { libc::setdomainname(domain.as_ptr(), domain_length) }.into())?;
    }
    Ok(())
}

/// Strings in the form that execve takes: a list of pointers that ends with a null one.
#[derive(Debug)]
pub struct CStrings<'a> {
    pointers: Vec<*const c_char>,
    strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> FromIterator<&'a CStr> for CStrings<'a> {
    fn from_iter<I: IntoIterator<Item = &'a CStr>>(strings: I) -> Self {
        let mut pointers: Vec<_> = strings.into_iter().map(CStr::as_ptr).collect();
        pointers.push(std::ptr::null());
        CStrings {
            pointers,
            strings: std::marker::PhantomData,
        }
    }
}

/// Becomes another program; returns only on failure.
pub fn execute(program: &CStr, args: &CStrings<'_>, env: &CStrings<'_>) -> io::Error {
    // SAFETY: the program is NUL-terminated, both lists end with a null pointer, and by their
    // lifetime the strings outlive the call.
    unsafe {
        libc::execve(
            program.as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
        )
    };
    io::Error::last_os_error()
}

/// Becomes the program that `file` is open on; returns only on failure.
pub fn execute_file(file: BorrowedFd<'_>, args: &CStrings<'_>, env: &CStrings<'_>) -> io::Error {
    // SAFETY: as for `execute`; the empty path means the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Writes a small file that exists, such as one below `/proc`.
///
/// # Errors
/// What the kernel says.
pub fn write_file(dir: BorrowedFd<'_>, path: &str, text: &str) -> io::Result<()> {
    let fd = open(dir, &CString::new(path)?, libc::O_WRONLY, 0)?;
    io::Write::write_all(&mut std::fs::File::from(fd), text.as_bytes())
}

unsafe extern "C" {
    /// First byte of the program, from the linker.
    static __executable_start: u8;
    /// First byte behind its text, from the linker.
    static etext: u8;
}

/// Gives back what only an earlier phase needed: free pages of the heap, and pages of the program,
/// which come again from the page cache when they are used again.
pub fn give_back_memory() {
    // SAFETY: only free pages; no pointer into them exists.
    unsafe { libc::malloc_trim(0) };
    let (start, end) = (&raw const __executable_start, &raw const etext);
    let length = end.addr() - start.addr();
    // SAFETY: these pages are mapped from the program's file and were never written, so what is
    // read from them stays the same. The address is that of a page, as a segment begins there.
    unsafe { libc::madvise(start.cast_mut().cast(), length, libc::MADV_DONTNEED) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_cannot_forge_its_start_time() {
        let stat = "7 (a) 1 2 3) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 9 9";
        assert_eq!(parse_start_time(stat), Some(4711));
        assert_eq!(parse_start_time("7 (a"), None);
        assert!(start_time(std::process::id()).unwrap() > 0);
    }

    #[test]
    fn a_sealed_copy_cannot_be_changed() {
        let fd = sealed_copy(c"test", b"bytes", false).unwrap();
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        assert!(io::Write::write_all(&mut file, b"x").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
    }

    #[test]
    fn proof_of_one_thread_is_refused_here() {
        let other = std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(1)));
        assert!(SingleThreaded::prove().is_err());
        drop(other);
    }
}
