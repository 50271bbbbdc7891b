//! The host's side of a guest's files: a FUSE mount, whose requests go to the guest's file server.
//!
//! ```text
//!  daemon ── walks a descriptor ──▶ kernel ──/dev/fuse──▶ here ══ stream ══ guest: files.rs
//! ```
//!
//! The mount is attached nowhere and is gone with its descriptors. What comes from the guest is
//! hostile: an answer is bounded, belongs to a question, and comes in time, or the mount is ended; then
//! whoever waits for it hears that it is not connected. The guest has no say in how the mount works.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use hull_os::mount::{self, Attributes};
use hull_os::process::{self, PollFd};
use hull_os::socket;

use crate::inside;

/// Bytes of one question or answer: the largest write, and what is before it.
pub(crate) const MESSAGE_BYTES_MAX: usize = DATA_BYTES_MAX as usize + 8192;
/// Bytes of one read or write.
const DATA_BYTES_MAX: u32 = 64 << 10;
/// How long the guest may take for the next answer.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Bytes that may wait for the stream before no more is taken from the kernel.
const WAITING_BYTES_MAX: usize = 1 << 20;

/// Bytes before a question and before an answer.
pub(crate) const QUESTION_BYTES: usize = 40;
pub(crate) const ANSWER_BYTES: usize = 16;

/// Numbers of the operations that are told apart here.
mod operation {
    pub(super) const FORGET: u32 = 2;
    pub(super) const INIT: u32 = 26;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// The form of the protocol that is spoken, and its flags: reads at the same time, large writes, and
/// that directories may be read with less questions.
const VERSION: [u32; 2] = [7, 31];
const FLAGS: u32 = 1 | 1 << 5 | 1 << 15;

/// Mounts, tells the daemon, and carries questions and answers until either side is gone.
pub(crate) fn serve(stream: OwnedFd, daemon: &OwnedFd) -> io::Result<()> {
    let device = process::open(
        mount::cwd(),
        c"/dev/fuse",
        libc::O_RDWR | libc::O_NONBLOCK,
        0,
    );
    let mounted = device.and_then(|device| Ok((attach(&device)?, device)));
    let device = match mounted {
        Ok((root, device)) => {
            socket::send(daemon.as_fd(), &[inside::report::READY], &[root.as_fd()])?;
            device
        }
        Err(cause) => {
            let failure = hull_plan::Failure::system("view", "mount the guest's files", &cause);
            inside::fail(daemon.as_fd(), &failure)
        }
    };
    process::set_nonblocking(stream.as_fd())?;
    let mut pump = Pump {
        device,
        stream,
        to_guest: Vec::new(),
        from_guest: Vec::new(),
        unanswered: 0,
        answered: Instant::now(),
    };
    pump.run(daemon)
}

fn attach(device: &OwnedFd) -> io::Result<OwnedFd> {
    let fs = mount::Filesystem::open(c"fuse")?;
    fs.set(c"source", c"hull")?;
    fs.set(c"fd", &crate::c_string(device.as_raw_fd().to_string())?)?;
    fs.set(c"rootmode", c"40000")?;
    fs.set(c"user_id", c"0")?;
    fs.set(c"group_id", c"0")?;
    fs.set(c"max_read", &crate::c_string(DATA_BYTES_MAX.to_string())?)?;
    fs.mount(Attributes::NOSUID.with(Attributes::NODEV))
}

struct Pump {
    device: OwnedFd,
    stream: OwnedFd,
    to_guest: Vec<u8>,
    from_guest: Vec<u8>,
    /// Questions that the guest has to answer.
    unanswered: usize,
    /// When it last did, or had nothing to answer.
    answered: Instant,
}

impl Pump {
    fn run(&mut self, daemon: &OwnedFd) -> io::Result<()> {
        let mut buffer = vec![0u8; MESSAGE_BYTES_MAX];
        loop {
            let mut fds = vec![PollFd::readable(daemon.as_fd())];
            let is_full = self.to_guest.len() >= WAITING_BYTES_MAX;
            fds.push(PollFd::new(
                self.device.as_fd(),
                if is_full { 0 } else { PollFd::READ },
            ));
            let wanted = match self.to_guest.is_empty() {
                true => PollFd::READ,
                false => PollFd::READ | PollFd::WRITE,
            };
            fds.push(PollFd::new(self.stream.as_fd(), wanted));
            process::poll(&mut fds, self.patience())?;
            if fds[0].ready() != 0 || self.patience() == Some(0) {
                return Ok(());
            }
            if fds[1].ready() != 0 {
                self.ask(&mut buffer)?;
            }
            if fds[2].ready() != 0 {
                self.exchange(&mut buffer)?;
            }
        }
    }

    /// Milliseconds until the guest has not answered for too long.
    fn patience(&self) -> Option<u32> {
        if self.unanswered == 0 {
            return None;
        }
        let left = (self.answered + ANSWER_WAIT).saturating_duration_since(Instant::now());
        u32::try_from(left.as_millis()).ok()
    }

    /// Takes one question of the kernel.
    fn ask(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let length = match process::read(self.device.as_fd(), buffer) {
            Ok(length) => length,
            // One that was taken back.
            Err(error) if is_passing(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let question = &buffer[..length];
        match word(question, 4) {
            operation::INIT => return self.begin(question),
            operation::FORGET | operation::BATCH_FORGET | operation::INTERRUPT => {}
            _ => {
                if self.unanswered == 0 {
                    self.answered = Instant::now();
                }
                self.unanswered += 1;
            }
        }
        self.to_guest.extend_from_slice(question);
        self.flush()
    }

    /// How the mount works is for us to say.
    fn begin(&mut self, question: &[u8]) -> io::Result<()> {
        let mut answer = Vec::with_capacity(80);
        answer.extend_from_slice(&80u32.to_le_bytes());
        answer.extend_from_slice(&0u32.to_le_bytes());
        answer.extend_from_slice(question.get(8..16).unwrap_or(&[0; 8]));
        let readahead = word(question, QUESTION_BYTES + 8);
        for number in [VERSION[0], VERSION[1], readahead, FLAGS] {
            answer.extend_from_slice(&number.to_le_bytes());
        }
        // Questions in the background, and how many are too many.
        answer.extend_from_slice(&16u16.to_le_bytes());
        answer.extend_from_slice(&12u16.to_le_bytes());
        for number in [DATA_BYTES_MAX, 1] {
            answer.extend_from_slice(&number.to_le_bytes());
        }
        answer.resize(80, 0);
        process::write(self.device.as_fd(), &answer).map(drop)
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.to_guest.is_empty() {
            match process::write(self.stream.as_fd(), &self.to_guest) {
                Ok(written) => {
                    self.to_guest.drain(..written);
                }
                Err(error) if is_passing(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends what waits, and gives the kernel the answers that came.
    fn exchange(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.flush()?;
        match process::read(self.stream.as_fd(), buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.from_guest.extend_from_slice(&buffer[..length]),
            Err(error) if is_passing(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut taken = 0;
        while let Some(rest) = self.from_guest.get(taken..)
            && rest.len() >= ANSWER_BYTES
        {
            let length = word(rest, 0) as usize;
            // Without a question's number it would not be an answer.
            let is_answer = rest[8..16] != [0; 8] && self.unanswered > 0;
            if !(ANSWER_BYTES..=MESSAGE_BYTES_MAX).contains(&length) || !is_answer {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let Some(answer) = rest.get(..length) else {
                break;
            };
            match process::write(self.device.as_fd(), answer) {
                // Nobody waits for it any more.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                result => drop(result?),
            }
            taken += length;
            self.unanswered -= 1;
            self.answered = Instant::now();
        }
        self.from_guest.drain(..taken);
        Ok(())
    }
}

/// A number of a message; what is too short has none.
pub(crate) fn word(bytes: &[u8], at: usize) -> u32 {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
    part.map_or(0, |part| u32::from_le_bytes(*part))
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    ) || error.raw_os_error() == Some(libc::ENOENT)
}
