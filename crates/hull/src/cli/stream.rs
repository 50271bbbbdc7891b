//! Joins our standard streams to those of a process in a container.
//!
//! ```text
//!   stdin ──(detach keys)──> hijacked connection ──> container
//!   stdout, stderr <──(frames, or bytes of a terminal)── container
//! ```
//!
//! The end of our input closes one direction only: output still flows until the container ends it.

use hull_os::pty::RawMode;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::detach::{DetachKeys, Typed};
use super::failure::Failure;
use super::signal;
use super::stdio::Stdio;
use crate::client::{Client, Hijacked, Reply};

/// Bytes taken from the connection in one read.
const READ_BYTES_MAX: usize = 32 * 1024;

/// Bytes before each piece of output: which stream, and how many follow.
const FRAME_HEADER_BYTES: usize = 8;

/// How long to wait between tries to set the size of a terminal that is just being made.
const RESIZE_RETRY_MS: u64 = 10;

/// How often to try.
const RESIZE_TRIES_MAX: u32 = 10;

/// Which streams to join, and how.
#[derive(Debug, Clone, Default)]
pub(crate) struct StreamOptions {
    /// Pass our input on.
    pub(crate) stdin: bool,
    /// Show the output.
    pub(crate) stdout: bool,
    /// Show the error output.
    pub(crate) stderr: bool,
    /// The process has a terminal: bytes as they are, no frames, our own terminal raw.
    pub(crate) tty: bool,
    /// Keys that detach.
    pub(crate) detach_keys: String,
    /// A signal ends this program (where it is not passed on to the container).
    pub(crate) ends_by_signal: bool,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The other side closed it.
    Finished,
    /// The keys to detach were typed.
    Detached,
}

/// The words for an end by keys, where that is an error.
pub(crate) const DETACHED_MESSAGE: &str = "read escape sequence";

/// Refuses a terminal for the process where our input is none.
pub(crate) fn check_tty(stdin: bool, tty: bool) -> Result<(), Failure> {
    if stdin && tty && !hull_os::pty::is_terminal(std::io::stdin().as_fd()) {
        return Err(Failure::new("the input device is not a TTY"));
    }
    Ok(())
}

/// Carries bytes until the other side ends, or the keys to detach are typed.
pub(crate) async fn join(stream: Hijacked, options: StreamOptions) -> Result<StreamEnd, Failure> {
    // Restores the terminal wherever this function ends, or is dropped.
    let raw = if options.stdin && options.tty {
        RawMode::enter(std::io::stdin().as_fd()).ok()
    } else {
        None
    };
    let ends_by_signal = raw.is_some() && options.ends_by_signal;
    let (reader, writer) = tokio::io::split(stream);
    let shows_output = options.stdout || options.stderr;
    let output = receive(reader, &options);
    let input = send(writer, &options);
    tokio::pin!(output, input);
    let signaled = async {
        match ends_by_signal {
            true => signal::end_request().await,
            false => std::future::pending().await,
        }
    };
    tokio::pin!(signaled);
    let mut sends = options.stdin;
    if !shows_output && !sends {
        return Ok(StreamEnd::Finished);
    }
    loop {
        tokio::select! {
            ended = &mut output, if shows_output => return ended.map(|()| StreamEnd::Finished),
            ended = &mut input, if sends => match ended {
                StreamEnd::Detached => return Ok(StreamEnd::Detached),
                StreamEnd::Finished if !shows_output => return Ok(StreamEnd::Finished),
                StreamEnd::Finished => sends = false,
            },
            number = &mut signaled => return Err(Failure::status(i64::from(128 + number))),
        }
    }
}

async fn send(mut writer: WriteHalf<Hijacked>, options: &StreamOptions) -> StreamEnd {
    let Ok(input) = Stdio::input() else {
        return StreamEnd::Finished;
    };
    // Keys that make no sense are replaced by the default ones, as Docker does.
    let mut keys = DetachKeys::parse(&options.detach_keys).or_else(|_| DetachKeys::parse(""));
    loop {
        // What goes wrong here is seen, and told, by whoever reads the output.
        let Ok(mut bytes) = input.read().await else {
            break;
        };
        if bytes.is_empty() {
            break;
        }
        let mut detach = false;
        if let (true, Ok(keys)) = (options.tty, &mut keys) {
            bytes = match keys.typed(&bytes) {
                Typed::Pass(bytes) => bytes,
                Typed::Detach(bytes) => {
                    detach = true;
                    bytes
                }
            };
        }
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            break;
        }
        if detach {
            return StreamEnd::Detached;
        }
    }
    let _ = writer.shutdown().await;
    StreamEnd::Finished
}

async fn receive(mut reader: ReadHalf<Hijacked>, options: &StreamOptions) -> Result<(), Failure> {
    let mut sink = Sink::new(options.tty, options.stdout, options.stderr)?;
    let mut buffer = vec![0; READ_BYTES_MAX];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(length) => sink.write(&buffer[..length]).await?,
            // The other side closed while input of ours was on its way to it: all output has been
            // read before the kernel tells so.
            Err(cause) if options.stdin && cause.kind() == ErrorKind::ConnectionReset => {
                return Ok(());
            }
            Err(cause) => return Err(Failure::new(format!("read the output: {cause}"))),
        }
    }
}

/// Shows the body of an answer (logs) until it ends.
pub(crate) async fn show(mut reply: Reply, tty: bool) -> Result<(), Failure> {
    let mut sink = Sink::new(tty, true, true)?;
    while let Some(chunk) = reply.chunk().await? {
        sink.write(&chunk).await?;
    }
    Ok(())
}

/// Takes apart the stream of a container and writes it to our output and error output.
struct Sink {
    output: Option<Stdio>,
    error: Option<Stdio>,
    frames: Option<Frames>,
}

impl Sink {
    fn new(tty: bool, output: bool, error: bool) -> Result<Sink, Failure> {
        Ok(Sink {
            output: output.then(Stdio::output).transpose()?,
            error: error.then(Stdio::error).transpose()?,
            frames: (!tty).then(Frames::default),
        })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Some(frames) = &mut self.frames else {
            return put(self.output.as_ref(), bytes).await;
        };
        let mut rest = bytes;
        while let Some((stream, piece)) = frames.next_piece(&mut rest)? {
            match stream {
                FrameStream::Output => put(self.output.as_ref(), piece).await?,
                FrameStream::Error => put(self.error.as_ref(), piece).await?,
                FrameStream::Failure => {
                    let text = String::from_utf8_lossy(piece);
                    return Err(Failure::new(format!("error from daemon in stream: {text}")));
                }
            }
        }
        Ok(())
    }
}

async fn put(stream: Option<&Stdio>, bytes: &[u8]) -> Result<(), Failure> {
    let Some(stream) = stream else { return Ok(()) };
    stream
        .write_all(bytes)
        .await
        .map_err(|cause| match cause.kind() {
            // 128 + SIGPIPE, as for programs that do not ignore it.
            ErrorKind::BrokenPipe => Failure::status(141),
            _ => Failure::new(format!("write the output: {cause}")),
        })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameStream {
    Output,
    Error,
    /// The engine tells that it cannot go on.
    Failure,
}

/// Finds the frames in a stream that arrives in arbitrary pieces.
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    payload_left: usize,
}

impl Frames {
    /// Takes the next piece of payload off `rest`; nothing where more has to arrive first.
    fn next_piece<'a>(
        &mut self,
        rest: &mut &'a [u8],
    ) -> Result<Option<(FrameStream, &'a [u8])>, Failure> {
        while self.payload_left == 0 {
            if self.header.len() == FRAME_HEADER_BYTES {
                self.header.clear();
            }
            let wanted = (FRAME_HEADER_BYTES - self.header.len()).min(rest.len());
            self.header.extend_from_slice(&rest[..wanted]);
            *rest = &rest[wanted..];
            let Some(length) = self.header.get(4..FRAME_HEADER_BYTES) else {
                return Ok(None);
            };
            self.payload_left = length
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
        }
        let (piece, after) = rest.split_at(self.payload_left.min(rest.len()));
        *rest = after;
        if piece.is_empty() {
            return Ok(None);
        }
        self.payload_left -= piece.len();
        let stream = match self.header[0] {
            0 | 1 => FrameStream::Output,
            2 => FrameStream::Error,
            3 => FrameStream::Failure,
            other => return Err(Failure::new(format!("Unrecognized input header: {other}"))),
        };
        Ok(Some((stream, piece)))
    }
}

/// Keeps the terminal at `path` (`/containers/ID` or `/exec/ID`) as large as ours; never ends.
pub(crate) async fn follow_size(client: &Client, path: &str) {
    let Ok(mut changes) =
        tokio::signal::unix::signal(tokio::signal::unix::SignalKind::window_change())
    else {
        return std::future::pending().await;
    };
    let mut tries = 0;
    while resize(client, path, 0).await.is_err() && tries < RESIZE_TRIES_MAX {
        tries += 1;
        let pause = std::time::Duration::from_millis(RESIZE_RETRY_MS * u64::from(tries));
        tokio::time::sleep(pause).await;
    }
    while changes.recv().await.is_some() {
        let _ = resize(client, path, 0).await;
    }
    std::future::pending().await
}

/// Sets the size of the terminal at `path` to that of ours and `more`.
pub(crate) async fn resize(client: &Client, path: &str, more: u16) -> Result<(), Failure> {
    let size = hull_os::pty::window_size(std::io::stdout().as_fd()).unwrap_or_default();
    if size.rows == 0 && size.columns == 0 {
        return Ok(());
    }
    let (rows, columns) = (
        size.rows.saturating_add(more),
        size.columns.saturating_add(more),
    );
    let call = client.post(format!("{path}/resize"));
    Ok(call
        .query("h", rows.to_string())
        .query("w", columns.to_string())
        .done()
        .await?)
}

/// Whether our output is a terminal.
pub(crate) fn output_is_terminal() -> bool {
    hull_os::pty::is_terminal(std::io::stdout().as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(pieces: &[&[u8]]) -> Vec<(FrameStream, Vec<u8>)> {
        let mut frames = Frames::default();
        let mut found: Vec<(FrameStream, Vec<u8>)> = Vec::new();
        for piece in pieces {
            let mut rest = *piece;
            while let Some((stream, bytes)) = frames.next_piece(&mut rest).unwrap() {
                found.push((stream, bytes.to_vec()));
            }
        }
        found
    }

    #[test]
    fn frames_are_found_however_the_bytes_arrive() {
        let bytes = b"\x01\0\0\0\0\0\0\x02hi\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x01!";
        let whole = collect(&[bytes]);
        let expected = vec![
            (FrameStream::Output, b"hi".to_vec()),
            (FrameStream::Error, b"!".to_vec()),
        ];
        assert_eq!(whole, expected);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let joined: Vec<u8> = collect(&single)
            .into_iter()
            .flat_map(|(_, bytes)| bytes)
            .collect();
        assert_eq!(joined, b"hi!");
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let mut frames = Frames::default();
        let mut rest: &[u8] = b"HTTP/1.1 400";
        assert!(frames.next_piece(&mut rest).is_err());
    }
}
