//! The host's side of a guest's files: a FUSE mount, whose requests go to the guest's file server.
//!
//! ```text
//!  daemon ── walks a descriptor ──▶ kernel ──/dev/fuse──▶ here ══ stream ══ guest: files.rs
//! ```
//!
//! The mount is attached nowhere and is gone with its descriptors. What comes from the guest is
//! hostile: an answer is bounded, belongs to a question, and comes in time, or the mount is ended; then
//! whoever waits for it hears that it is not connected. The guest has no say in how the mount works.

use std::collections::HashMap;
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
/// How long the guest may take for each answer.
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
        asked: HashMap::new(),
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
    /// Questions that the guest has to answer, by their numbers, and since when. The kernel has a bound on
    /// how many there are.
    asked: HashMap<u64, Instant>,
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

    /// Milliseconds until the guest has not answered a question for too long; other answers do not help.
    fn patience(&self) -> Option<u32> {
        let oldest = self.asked.values().min()?;
        let left = (*oldest + ANSWER_WAIT).saturating_duration_since(Instant::now());
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
                self.asked.insert(number(question), Instant::now());
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
            if !(ANSWER_BYTES..=MESSAGE_BYTES_MAX).contains(&length)
                || !self.asked.contains_key(&number(rest))
            {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let Some(answer) = rest.get(..length) else {
                break;
            };
            self.asked.remove(&number(answer));
            match process::write(self.device.as_fd(), answer) {
                // Nobody waits for it any more.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                result => drop(result?),
            }
            taken += length;
        }
        self.from_guest.drain(..taken);
        Ok(())
    }
}

/// Which question this is, or answers; 0 is none's.
fn number(message: &[u8]) -> u64 {
    u64::from(word(message, 8)) | u64::from(word(message, 12)) << 32
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

#[cfg(test)]
mod tests {
    use super::*;

    const GETATTR: u32 = 3;

    fn question(number: u64) -> Vec<u8> {
        let mut bytes = vec![0u8; QUESTION_BYTES];
        bytes[4..8].copy_from_slice(&GETATTR.to_le_bytes());
        bytes[8..16].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    fn answer(number: u64) -> Vec<u8> {
        let mut bytes = vec![0u8; ANSWER_BYTES];
        bytes[..4].copy_from_slice(&16u32.to_le_bytes());
        bytes[8..].copy_from_slice(&number.to_le_bytes());
        bytes
    }

    /// A pump between the ends of a kernel and of a guest.
    fn pump() -> (Pump, OwnedFd, OwnedFd) {
        let (device, kernel) = socket::message_pair().unwrap();
        let (stream, guest) = socket::stream_pair().unwrap();
        for fd in [&device, &stream] {
            process::set_nonblocking(fd.as_fd()).unwrap();
        }
        let pump = Pump {
            device,
            stream,
            to_guest: Vec::new(),
            from_guest: Vec::new(),
            asked: HashMap::new(),
        };
        (pump, kernel, guest)
    }

    #[test]
    fn a_question_is_waited_for_whatever_else_is_answered() {
        let (mut pump, kernel, guest) = pump();
        let mut buffer = vec![0u8; MESSAGE_BYTES_MAX];
        for number in [7, 8] {
            process::write(kernel.as_fd(), &question(number)).unwrap();
            pump.ask(&mut buffer).unwrap();
        }
        let long_ago = Instant::now().checked_sub(ANSWER_WAIT).unwrap();
        pump.asked.insert(7, long_ago);
        process::write(guest.as_fd(), &answer(8)).unwrap();
        pump.exchange(&mut buffer).unwrap();
        assert_eq!(pump.asked.keys().collect::<Vec<_>>(), [&7]);
        assert_eq!(pump.patience(), Some(0));
    }

    #[test]
    fn an_answer_to_no_question_ends_the_mount() {
        for number in [0, 8, u64::MAX] {
            let (mut pump, kernel, guest) = pump();
            let mut buffer = vec![0u8; MESSAGE_BYTES_MAX];
            process::write(kernel.as_fd(), &question(7)).unwrap();
            pump.ask(&mut buffer).unwrap();
            process::write(guest.as_fd(), &answer(number)).unwrap();
            let refused = pump.exchange(&mut buffer).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
            assert!(pump.patience().is_some());
        }
    }
}
