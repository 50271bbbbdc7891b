//! Frames between the shim of a machine and the agent in its guest: one stream of bytes each way.
//!
//! ```text
//! frame = length u32, kind u16, 0 u16, stream u32, payload          little-endian
//!
//!   shim                                     agent
//!    │◀──────────────── Hello ────────────────│   it is up
//!    │───────────────── Start ───────────────▶│   disks, links, files, plan ([`Guest`])
//!    │◀─ Event ─── Data, End, Credit ── Request, Exec ─▶│
//!    │◀──────────────── Done ─────────────────│   everything is on the disk
//! ```
//!
//! Events and requests are those of [`crate::message`], as they are. A stream is numbered by its process
//! and by which of its streams it is ([`stream`]); who sends on one has credit, which the other
//! gives back as it gets rid of what came, so that a slow reader holds up nobody else. All that
//! comes from a guest is hostile: what is longer than a bound ends the machine, nothing is
//! reserved by what a length claims.

use std::ffi::CStr;

use crate::codec::{Malformed, Reader, Writer};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 12;
/// Bytes of the payload of a frame from a guest.
pub const FROM_GUEST_BYTES_MAX: usize = 64 << 10;
/// Bytes of the payload of a frame to a guest: a plan with its whole environment.
pub const TO_GUEST_BYTES_MAX: usize = 8 << 20;
/// Bytes that may be under way on a stream: the credit that each has at its beginning.
pub const WINDOW_BYTES: u32 = 256 << 10;
/// Bytes of data in one frame.
pub const DATA_BYTES_MAX: usize = 32 << 10;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The agent is up; its version.
    Hello,
    /// What to make: time (i64), random bytes ([`SEED_BYTES`]), then [`Guest`].
    Start,
    /// A [`crate::message::Request`].
    Request,
    /// Start an added process, whose number is in the place of the stream: id, process steps.
    Exec,
    /// [`crate::message::Event`]s.
    Event,
    /// Bytes of a stream.
    Data,
    /// The end of a stream.
    End,
    /// So many bytes (u32) more may be sent on a stream.
    Credit,
    /// A question to the name server, or its answer.
    Name,
    /// The process ended and its disk is complete.
    Done,
    /// Serve the guest's files, on the streams of this process.
    Files,
    /// From a guest: connect these streams to the name server, for a question that came as a stream. Their
    /// numbers are the guest's own ([`DIALED_MIN`]).
    Dial,
}

/// The first number that a guest gives to streams it asks for; those of processes stay below.
pub const DIALED_MIN: u32 = 1 << 28;
/// How many such numbers there are.
pub const DIALED_COUNT: u32 = 1 << 16;
/// Such streams at a time.
pub const DIALED_MAX: usize = 16;

/// Random bytes of a start.
pub const SEED_BYTES: usize = 64;

const KINDS: [Kind; 12] = [
    Kind::Hello,
    Kind::Start,
    Kind::Request,
    Kind::Exec,
    Kind::Event,
    Kind::Data,
    Kind::End,
    Kind::Credit,
    Kind::Name,
    Kind::Done,
    Kind::Files,
    Kind::Dial,
];

/// A frame that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Which stream, or process.
    pub stream: u32,
    /// The rest.
    pub payload: Vec<u8>,
}

/// The number of a stream: `which` is 0 for standard input, 1 for output, 2 for error.
pub const fn stream(process: u32, which: u32) -> u32 {
    process * 4 + which
}

/// Appends a frame.
pub fn put(bytes: &mut Vec<u8>, kind: Kind, stream: u32, payload: &[u8]) {
    let number = KINDS.iter().position(|&known| known == kind).unwrap_or(0);
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(number).unwrap_or(0).to_le_bytes());
    bytes.extend_from_slice(&stream.to_le_bytes());
    bytes.extend_from_slice(payload);
}

/// Puts frames together from the bytes that came.
#[derive(Debug)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// Up to here they have been taken. They are moved once per [`Inbox::push`], not per frame: many small
    /// frames would cost the square of their number.
    taken: usize,
    payload_max: usize,
}

impl Inbox {
    /// For frames of at most so long a payload.
    pub fn new(payload_max: usize) -> Inbox {
        Inbox {
            bytes: Vec::new(),
            taken: 0,
            payload_max,
        }
    }

    /// Adds what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole frame.
    ///
    /// # Errors
    /// When it is of no known kind or claims to be too long: nothing that follows can be understood.
    pub fn take(&mut self) -> Result<Option<Frame>, Malformed> {
        let malformed = Malformed { what: "frame" };
        let waiting = &self.bytes[self.taken..];
        let Some((header, rest)) = waiting.split_at_checked(HEADER_BYTES) else {
            return Ok(None);
        };
        let mut reader = Reader::new(header, "frame");
        let (length, kind, stream) = (reader.u32()? as usize, reader.u32()?, reader.u32()?);
        let kind = *KINDS.get(kind as usize).ok_or(malformed)?;
        if length > self.payload_max {
            return Err(malformed);
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let payload = payload.to_vec();
        self.taken += HEADER_BYTES + length;
        if self.taken == self.bytes.len() {
            (self.bytes, self.taken) = (Vec::new(), 0);
        }
        Ok(Some(Frame {
            kind,
            stream,
            payload,
        }))
    }
}

/// What the agent makes before the first process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest<'a> {
    /// How many disks are layers, the topmost first; the one after them is the upper disk.
    pub layers: u32,
    /// rtnetlink requests for the guest's network.
    pub links: Vec<&'a [u8]>,
    /// How many directories of the host are mounted below [`SHARES`]; their tags are `s0`, `s1`, ….
    pub shares: u32,
    /// Questions to 127.0.0.11 go to the host.
    pub resolver: bool,
    /// Small files by name, put into [`FILES`].
    pub files: Vec<(&'a CStr, &'a [u8])>,
    /// Nothing is started: the guest is there for its files, and the plan is that of a view of them.
    pub files_only: bool,
    /// The plan of the container, for the shim inside.
    pub plan: &'a [u8],
}

/// Where the agent puts small files.
pub const FILES: &str = "/files";
/// Where it mounts shared directories, by their numbers.
pub const SHARES: &str = "/v";
/// Where it mounts layers, by their numbers.
pub const LAYERS: &str = "/l";
/// Where it mounts the upper disk.
pub const UPPER: &str = "/u";
/// The cgroup hierarchy of a guest, as `hull_os::cgroup` writes it down.
pub const HIERARCHIES: &CStr = c" /sys/fs/cgroup\n";
/// Links and files of one guest.
const LIST_MAX: usize = 64;

impl<'a> Guest<'a> {
    /// Writes it.
    pub fn encode(&self) -> Vec<u8> {
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let mut w = Writer::default();
        w.u32(self.layers);
        w.u32(count(self.links.len()));
        self.links.iter().for_each(|links| w.blob(links));
        w.u32(self.shares);
        w.bool(self.resolver);
        w.u32(count(self.files.len()));
        for (name, contents) in &self.files {
            w.text(name);
            w.blob(contents);
        }
        w.bool(self.files_only);
        w.blob(self.plan);
        w.finish()
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is not well-formed.
    pub fn decode(bytes: &'a [u8]) -> Result<Guest<'a>, Malformed> {
        let mut r = Reader::new(bytes, "guest");
        let list = |count: u32| match count as usize {
            count if count > LIST_MAX => Err(Malformed { what: "guest" }),
            count => Ok(0..count),
        };
        let layers = r.u32()?;
        let links = list(r.u32()?)?;
        let links = links.map(|_| r.blob()).collect::<Result<_, _>>()?;
        let shares = r.u32()?;
        let resolver = r.bool()?;
        let files = list(r.u32()?)?;
        let files = files
            .map(|_| Ok((r.text()?, r.blob()?)))
            .collect::<Result<_, Malformed>>()?;
        Ok(Guest {
            layers,
            links,
            shares,
            resolver,
            files,
            files_only: r.bool()?,
            plan: r.blob()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_whatever_pieces_they_come_in() {
        let mut bytes = Vec::new();
        put(&mut bytes, Kind::Hello, 0, &[1]);
        put(&mut bytes, Kind::Data, stream(2, 1), b"out");
        put(&mut bytes, Kind::Done, 0, &[]);
        for size in 1..bytes.len() {
            let mut inbox = Inbox::new(16);
            let mut seen = Vec::new();
            for piece in bytes.chunks(size) {
                inbox.push(piece);
                while let Some(frame) = inbox.take().unwrap() {
                    seen.push((frame.kind, frame.stream, frame.payload));
                }
            }
            assert_eq!(
                seen,
                [
                    (Kind::Hello, 0, vec![1]),
                    (Kind::Data, 9, b"out".to_vec()),
                    (Kind::Done, 0, vec![])
                ]
            );
        }
    }

    #[test]
    fn a_piece_may_end_anywhere_in_a_frame() {
        let mut inbox = Inbox::new(16);
        let mut bytes = Vec::new();
        for number in 0..1000 {
            put(&mut bytes, Kind::Data, number, b"x");
        }
        let mut next = 0;
        for piece in bytes.chunks(100) {
            inbox.push(piece);
            while let Some(frame) = inbox.take().unwrap() {
                assert_eq!((frame.stream, frame.payload.as_slice()), (next, &b"x"[..]));
                next += 1;
            }
            // What was taken is not kept beyond the next piece.
            assert!(inbox.bytes.len() - inbox.taken < HEADER_BYTES + 1);
            assert!(inbox.bytes.len() <= 100 + HEADER_BYTES);
        }
        assert_eq!(next, 1000);
    }

    #[test]
    fn what_claims_too_much_is_refused_before_it_comes() {
        let mut bytes = Vec::new();
        put(&mut bytes, Kind::Data, 1, &[0; 17]);
        let mut inbox = Inbox::new(16);
        inbox.push(&bytes[..HEADER_BYTES]);
        assert!(inbox.take().is_err());
        let mut inbox = Inbox::new(16);
        inbox.push(&[0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0]);
        assert!(inbox.take().is_err());
    }

    #[test]
    fn a_guest_comes_back_as_it_was() {
        let guest = Guest {
            layers: 3,
            links: vec![b"one", b"two"],
            shares: 2,
            resolver: true,
            files: vec![(c"hosts", b"127.0.0.1")],
            files_only: true,
            plan: b"plan",
        };
        let bytes = guest.encode();
        assert_eq!(Guest::decode(&bytes), Ok(guest));
        for length in 0..bytes.len() {
            assert!(Guest::decode(&bytes[..length]).is_err());
        }
    }
}
