//! Streams over the agent's channel: the same on both of its ends.
//!
//! ```text
//!  pipe or socket ──read, as far as there is credit──▶ Data ──▶ channel
//!  pipe or socket ◀──write, then give credit back──── Data ◀── channel
//! ```
//!
//! Nothing waits here without a bound: what comes is at most what we gave credit for, and nothing is
//! read from a process while the channel is behind.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use hull_os::process::{self, PollFd};
use hull_os::socket;
use hull_plan::frame::{
    self, DATA_BYTES_MAX, Frame, Inbox, Kind, TO_GUEST_BYTES_MAX, WINDOW_BYTES,
};

/// Bytes that may wait for the channel before streams are not read any more.
const OUTBOX_BYTES_BEHIND: usize = 256 << 10;
/// Bytes that are not kept for the end of a turn.
const OUTBOX_BYTES_TOGETHER: usize = 16 << 10;
/// Bytes that may wait at all: the largest frame twice. The other side that makes us answer and never reads
/// is broken.
const OUTBOX_BYTES_MAX: usize = 2 * TO_GUEST_BYTES_MAX;
/// Bytes got rid of before credit for them is given back: a frame for each write would answer a flood of
/// single bytes by one of credit.
const CREDIT_BYTES_MIN: u32 = WINDOW_BYTES / 4;

/// The channel itself.
#[derive(Debug)]
pub(crate) struct Channel {
    fd: OwnedFd,
    inbox: Inbox,
    outbox: Vec<u8>,
    /// Nothing more can come or go.
    pub(crate) is_broken: bool,
}

impl Channel {
    /// On a descriptor that does not block, for payloads of a bounded length.
    pub(crate) fn new(fd: OwnedFd, payload_max: usize) -> Channel {
        Channel {
            fd,
            inbox: Inbox::new(payload_max),
            outbox: Vec::new(),
            is_broken: false,
        }
    }

    pub(crate) fn interest(&self) -> Option<PollFd> {
        let wanted = match self.outbox.is_empty() {
            true => PollFd::READ,
            false => PollFd::READ | PollFd::WRITE,
        };
        (!self.is_broken).then(|| PollFd::new(self.fd.as_fd(), wanted))
    }

    /// Queues a frame. It is sent with others of the same turn: each write wakes the other side's processor, which
    /// costs an emulated guest more than the frame.
    pub(crate) fn send(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        if self.is_broken {
            return;
        }
        frame::put(&mut self.outbox, kind, stream, payload);
        if self.outbox.len() >= OUTBOX_BYTES_TOGETHER {
            self.flush();
        }
        if self.outbox.len() > OUTBOX_BYTES_MAX {
            self.is_broken = true;
            self.outbox = Vec::new();
        }
    }

    /// Whether so much waits that no stream is read.
    pub(crate) fn is_behind(&self) -> bool {
        self.outbox.len() >= OUTBOX_BYTES_BEHIND
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.outbox.is_empty()
    }

    pub(crate) fn flush(&mut self) {
        while !self.outbox.is_empty() && !self.is_broken {
            match process::write(self.fd.as_fd(), &self.outbox) {
                Ok(0) => return,
                Ok(written) => {
                    self.outbox.drain(..written);
                }
                Err(error) if is_temporary(&error) => return,
                Err(_) => self.is_broken = true,
            }
        }
        self.outbox = Vec::new();
    }

    /// Reads once; frames are taken with [`Channel::take`].
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) {
        match process::read(self.fd.as_fd(), buffer) {
            Ok(0) => self.is_broken = true,
            Ok(length) => self.inbox.push(&buffer[..length]),
            Err(error) if is_temporary(&error) => {}
            Err(_) => self.is_broken = true,
        }
    }

    /// The next whole frame. What cannot be understood breaks the channel.
    pub(crate) fn take(&mut self) -> Option<Frame> {
        match self.inbox.take() {
            Ok(frame) => frame,
            Err(_) => {
                self.is_broken = true;
                None
            }
        }
    }

    pub(crate) fn is_ready(&self, fds: &[PollFd]) -> bool {
        ready(fds, self.fd.as_raw_fd()) != 0
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

fn ready(fds: &[PollFd], fd: RawFd) -> i16 {
    fds.iter()
        .find(|entry| entry.descriptor() == fd)
        .map_or(0, PollFd::ready)
}

/// One stream of a process: what is read here goes to the other side, what comes is written here.
#[derive(Debug)]
pub(crate) struct Stream {
    /// What is read; none: nothing, or its end was sent.
    source: Option<OwnedFd>,
    source_number: u32,
    credit: u32,
    /// What is written; none: nothing, or it does not take more.
    sink: Option<OwnedFd>,
    sink_number: u32,
    waiting: Vec<u8>,
    /// Bytes that were got rid of and not given credit for.
    owed: u32,
    /// The other side sends no more.
    ended: bool,
}

impl Stream {
    /// Reads from `source` as stream `source_number`, writes what comes as `sink_number`.
    pub(crate) fn new(
        source: Option<OwnedFd>,
        source_number: u32,
        sink: Option<OwnedFd>,
        sink_number: u32,
    ) -> io::Result<Stream> {
        for fd in source.iter().chain(&sink) {
            process::set_nonblocking(fd.as_fd())?;
        }
        Ok(Stream {
            source,
            source_number,
            credit: WINDOW_BYTES,
            sink,
            sink_number,
            waiting: Vec::new(),
            owed: 0,
            ended: false,
        })
    }

    /// Whether nothing comes or goes any more.
    pub(crate) fn is_over(&self) -> bool {
        self.source.is_none() && self.sink.is_none()
    }

    /// Whether its own end was sent.
    pub(crate) fn has_sent_end(&self) -> bool {
        self.source.is_none()
    }

    /// The other side says nothing more, whether or not it said so of this stream: what came is written, then it ends.
    pub(crate) fn end_there(&mut self, channel: &mut Channel) {
        self.ended = true;
        self.source = None;
        self.write(channel);
    }

    /// Ends it from this side, as if the other had.
    pub(crate) fn break_off(&mut self) {
        self.ended = true;
        self.source = None;
        self.waiting = Vec::new();
        self.sink = None;
    }

    pub(crate) fn interests(&self, fds: &mut Vec<PollFd>, is_behind: bool) {
        if let Some(source) = &self.source
            && self.credit > 0
            && !is_behind
        {
            fds.push(PollFd::new(source.as_fd(), PollFd::READ));
        }
        if let Some(sink) = &self.sink
            && !self.waiting.is_empty()
        {
            fds.push(PollFd::new(sink.as_fd(), PollFd::WRITE));
        }
    }

    /// Does what can be done after a wait.
    pub(crate) fn turn(&mut self, fds: &[PollFd], channel: &mut Channel, buffer: &mut [u8]) {
        if let Some(source) = &self.source
            && self.credit > 0
            && !channel.is_behind()
            && ready(fds, source.as_raw_fd()) != 0
        {
            self.read(channel, buffer);
        }
        if let Some(sink) = &self.sink
            && ready(fds, sink.as_raw_fd()) != 0
        {
            self.write(channel);
        }
    }

    fn read(&mut self, channel: &mut Channel, buffer: &mut [u8]) {
        let Some(source) = &self.source else { return };
        let most = buffer.len().min(DATA_BYTES_MAX).min(self.credit as usize);
        match process::read(source.as_fd(), &mut buffer[..most]) {
            Ok(length) if length > 0 => {
                self.credit -= u32::try_from(length).unwrap_or(self.credit);
                channel.send(Kind::Data, self.source_number, &buffer[..length]);
            }
            Err(error) if is_temporary(&error) => {}
            _ => {
                self.source = None;
                channel.send(Kind::End, self.source_number, &[]);
            }
        }
    }

    /// Takes a frame of this stream; whether it was one, and within what the other side may do.
    pub(crate) fn hear(&mut self, frame: &Frame, channel: &mut Channel) -> bool {
        match frame.kind {
            Kind::Data if frame.stream == self.sink_number => {
                if self.waiting.len() + frame.payload.len() > WINDOW_BYTES as usize {
                    // More than it was given credit for.
                    channel.is_broken = true;
                    return true;
                }
                self.waiting.extend_from_slice(&frame.payload);
                self.write(channel);
            }
            Kind::End if frame.stream == self.sink_number => {
                self.ended = true;
                self.write(channel);
            }
            Kind::Credit if frame.stream == self.source_number => {
                let more = frame
                    .payload
                    .first_chunk()
                    .map_or(0, |n| u32::from_le_bytes(*n));
                self.credit = self.credit.saturating_add(more).min(WINDOW_BYTES);
            }
            _ => return false,
        }
        true
    }

    fn write(&mut self, channel: &mut Channel) {
        let mut written = 0;
        if let Some(sink) = &self.sink
            && !self.waiting.is_empty()
        {
            match process::write(sink.as_fd(), &self.waiting) {
                Ok(length) => {
                    self.waiting.drain(..length);
                    written = length;
                }
                Err(error) if is_temporary(&error) => {}
                // Nobody reads any more: what comes goes nowhere, and is not held up.
                Err(_) => self.sink = None,
            }
        }
        if self.sink.is_none() {
            written += self.waiting.len();
            self.waiting = Vec::new();
        }
        self.owed += u32::try_from(written).unwrap_or(0);
        if self.owed >= CREDIT_BYTES_MIN && !self.ended {
            channel.send(Kind::Credit, self.sink_number, &self.owed.to_le_bytes());
            self.owed = 0;
        }
        if self.ended
            && self.waiting.is_empty()
            && let Some(sink) = self.sink.take()
        {
            // A socket that is read too stays open for that.
            socket::close_writing(sink.as_fd());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A channel to a side that never reads, and a stream to a reader that takes all.
    fn to_a_side_that_never_reads() -> (OwnedFd, Channel, Stream) {
        let (ours, theirs) = socket::stream_pair().unwrap();
        process::set_nonblocking(ours.as_fd()).unwrap();
        let null = process::open(hull_os::mount::cwd(), c"/dev/null", libc::O_WRONLY, 0).unwrap();
        let stream = Stream::new(None, 0, Some(null), 1).unwrap();
        (theirs, Channel::new(ours, 64), stream)
    }

    #[test]
    fn single_bytes_are_not_answered_one_by_one() {
        let (theirs, mut channel, mut stream) = to_a_side_that_never_reads();
        let frame = Frame {
            kind: Kind::Data,
            stream: 1,
            payload: vec![b'x'],
        };
        let mut buffer = vec![0; 1 << 20];
        let sent = 4 * CREDIT_BYTES_MIN;
        for _ in 0..sent {
            assert!(stream.hear(&frame, &mut channel));
        }
        channel.flush();
        let length = process::read(theirs.as_fd(), &mut buffer).unwrap();
        let mut inbox = Inbox::new(64);
        inbox.push(&buffer[..length]);
        let mut credit = 0;
        let mut frames = 0;
        while let Some(frame) = inbox.take().unwrap() {
            credit += u32::from_le_bytes(frame.payload.try_into().unwrap());
            frames += 1;
        }
        assert_eq!((frames, credit), (4, sent));
    }

    #[test]
    fn one_that_never_reads_breaks_the_channel_and_nothing_grows() {
        let (_theirs, mut channel, _) = to_a_side_that_never_reads();
        let payload = vec![0; 1 << 20];
        for _ in 0..64 {
            channel.send(Kind::Request, 0, &payload);
            assert!(channel.outbox.len() <= OUTBOX_BYTES_MAX);
        }
        assert!(channel.is_broken && channel.is_empty());
    }
}
