//! Terminals: making one, asking about one, and putting one into raw mode.
//!
//! ```text
//!   Pty::open(devpts) ── master ──── the shim reads and writes here
//!                     └─ peer ────── becomes stdin, stdout, stderr of the process
//!
//!   RawMode::enter(fd) ... drop ──── what the terminal was before is restored
//! ```
//!
//! Nothing here waits: `readable_now` and `writable_now` answer for this instant, so that a
//! program with one thread can use a descriptor that it must not make non-blocking (standard
//! streams share their flags with every other process that holds them).

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}

/// Both ends of a new pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// The end that a shim or a terminal program keeps.
    pub master: OwnedFd,
    /// The end that a process has as its terminal.
    pub peer: OwnedFd,
    /// Number of the terminal: its peer is the file of that name in its devpts.
    pub number: u32,
}

impl Pty {
    /// Opens a new terminal in the devpts instance whose root folder is `devpts`.
    ///
    /// The peer is opened through the master, so the path of the folder never matters and nobody
    /// can put another file in its place. Neither end becomes our controlling terminal.
    ///
    /// # Errors
    /// `NotFound` where `devpts` has no `ptmx`; otherwise what the kernel says.
    pub fn open(devpts: BorrowedFd<'_>) -> io::Result<Pty> {
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: a descriptor that lives through the call, a terminated constant, two integers.
        let raw = unsafe {
            libc::openat(
                devpts.as_raw_fd(),
                c"ptmx".as_ptr(),
                flags | libc::O_NOFOLLOW,
            )
        };
        let master = owned(raw)?;
        let unlocked: libc::c_int = 0;
        // SAFETY: TIOCSPTLCK reads one int, which lives through the call.
        check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
        let mut number: libc::c_uint = 0;
        // SAFETY: TIOCGPTN writes one unsigned int, which lives through the call.
        check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) })?;
        // SAFETY: TIOCGPTPEER takes open flags by value and returns a new descriptor.
        let peer = owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
        Ok(Pty {
            master,
            peer,
            number,
        })
    }
}

/// Whether `fd` is a terminal.
pub fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    io::IsTerminal::is_terminal(&fd)
}

/// Returns the size of the terminal `fd`.
///
/// # Errors
/// ENOTTY where it is not a terminal.
pub fn window_size(fd: BorrowedFd<'_>) -> io::Result<WindowSize> {
    let mut size = MaybeUninit::<libc::winsize>::uninit();
    // SAFETY: TIOCGWINSZ fills one winsize, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) })?;
    // SAFETY: the call above succeeded and so has written all of it.
    let size = unsafe { size.assume_init() };
    Ok(WindowSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Changes the size of the terminal `fd`; the processes on it get SIGWINCH.
///
/// # Errors
/// ENOTTY where it is not a terminal.
pub fn set_window_size(fd: BorrowedFd<'_>, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}

/// A terminal in raw mode for as long as this value lives.
///
/// In raw mode each byte typed is passed on as it is: no line editing, no echo, no signals.
pub struct RawMode {
    terminal: File,
    before: libc::termios,
}

impl std::fmt::Debug for RawMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawMode")
            .field("terminal", &self.terminal)
            .finish_non_exhaustive()
    }
}

impl RawMode {
    /// Puts the terminal `fd` into raw mode.
    ///
    /// # Errors
    /// ENOTTY where it is not a terminal.
    pub fn enter(fd: BorrowedFd<'_>) -> io::Result<RawMode> {
        let terminal = File::from(fd.try_clone_to_owned()?);
        let mut before = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: tcgetattr fills one termios, which lives through the call.
        check(unsafe { libc::tcgetattr(terminal.as_raw_fd(), before.as_mut_ptr()) })?;
        // SAFETY: the call above succeeded and so has written all of it.
        let before = unsafe { before.assume_init() };
        let mut raw = before;
        // SAFETY: cfmakeraw changes one termios in place.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        set_attributes(terminal.as_fd(), &raw)?;
        Ok(RawMode { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring, and there is nobody to tell.
        let _ = set_attributes(self.terminal.as_fd(), &self.before);
    }
}

/// Whether a read from `fd` would return at once (also at its end, or with an error).
pub fn readable_now(fd: BorrowedFd<'_>) -> bool {
    ready_now(fd, libc::POLLIN)
}

/// Whether a small write (up to `PIPE_BUF` bytes) to `fd` would return at once.
pub fn writable_now(fd: BorrowedFd<'_>) -> bool {
    ready_now(fd, libc::POLLOUT)
}

fn ready_now(fd: BorrowedFd<'_>, events: libc::c_short) -> bool {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one entry, which lives through the call; a timeout of zero never waits.
    let count = unsafe { libc::poll(&raw mut entry, 1, 0) };
    count > 0
}

fn set_attributes(fd: BorrowedFd<'_>, attributes: &libc::termios) -> io::Result<()> {
    // SAFETY: tcsetattr reads one termios, which lives through the call.
    check(unsafe { libc::tcsetattr(fd.as_raw_fd(), libc::TCSANOW, attributes) })?;
    Ok(())
}

fn owned(raw: RawFd) -> io::Result<OwnedFd> {
    let raw = check(raw)?;
    // SAFETY: the kernel just gave us this descriptor and nobody else holds it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn open() -> Pty {
        let devpts = File::open("/dev/pts").unwrap();
        Pty::open(devpts.as_fd()).unwrap()
    }

    #[test]
    fn a_new_terminal_has_two_connected_ends() {
        let pty = open();
        assert!(is_terminal(pty.peer.as_fd()));
        assert!(!readable_now(pty.peer.as_fd()));
        let mut master = File::from(pty.master);
        master.write_all(b"hello\n").unwrap();
        let mut line = [0_u8; 6];
        File::from(pty.peer).read_exact(&mut line).unwrap();
        assert_eq!(&line, b"hello\n");
    }

    #[test]
    fn the_size_set_on_the_master_is_seen_on_the_peer() {
        let pty = open();
        let size = WindowSize {
            rows: 33,
            columns: 101,
        };
        set_window_size(pty.master.as_fd(), size).unwrap();
        assert_eq!(window_size(pty.peer.as_fd()).unwrap(), size);
    }

    #[test]
    fn raw_mode_ends_with_its_guard() {
        let pty = open();
        let cooked = |pty: &Pty| {
            let mut attributes = MaybeUninit::<libc::termios>::uninit();
            // SAFETY: tcgetattr fills the termios given to it.
            check(unsafe { libc::tcgetattr(pty.peer.as_raw_fd(), attributes.as_mut_ptr()) })
                .unwrap();
            // SAFETY: written by the call above.
            unsafe { attributes.assume_init() }.c_lflag & libc::ICANON != 0
        };
        assert!(cooked(&pty));
        let raw = RawMode::enter(pty.peer.as_fd()).unwrap();
        assert!(!cooked(&pty));
        drop(raw);
        assert!(cooked(&pty));
    }

    #[test]
    fn a_pipe_is_not_a_terminal() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(!is_terminal(reader.as_fd()));
        assert!(window_size(reader.as_fd()).is_err());
        assert!(RawMode::enter(reader.as_fd()).is_err());
        assert!(writable_now(writer.as_fd()));
        assert!(!readable_now(reader.as_fd()));
        drop(writer);
        assert!(
            readable_now(reader.as_fd()),
            "the end of a pipe can be read at once"
        );
    }
}
