//! Streams beside plain answers: attached containers and execs, log frames, lines of JSON.
//!
//! ```text
//!  client ◀──▶ upgraded connection ◀── relay ──▶ socket to the shim
//!               (or a plain 200 when the client cannot upgrade)
//! ```
//!
//! Both directions end on their own: the end of the client's input is passed on and output goes on;
//! the end of output ends the relay. A client that vanished ends it too.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hull_engine::api::{Attached, Delivery, LogLine, LogLines};
use hyper::ext::ReasonPhrase;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;

use crate::body::{Body, Reply, reply};
use crate::client::Client;
use crate::detach::DetachKeys;
use crate::request::{ApiMinor, Call};

/// Bytes moved at once in each direction of an attached stream.
const RELAY_BYTES: usize = 64 << 10;
/// Bytes of a terminal's input moved at once.
const TYPED_BYTES: usize = 4 << 10;
/// First version in which frames have a media type of their own.
const MINOR_MULTIPLEXED: ApiMinor = 42;
/// Bytes of a frame's header.
const FRAME_HEADER_BYTES: usize = 8;
/// Bytes of lines after which a frame of several is closed.
const FRAME_BYTES: usize = 32 << 10;

/// The media type of a stream of output.
pub(crate) fn media_type(tty: bool, minor: ApiMinor) -> &'static str {
    if tty || minor < MINOR_MULTIPLEXED {
        "application/vnd.docker.raw-stream"
    } else {
        "application/vnd.docker.multiplexed-stream"
    }
}

/// What becomes of the client's bytes.
#[derive(Debug)]
pub(crate) enum Input {
    /// They were not asked for.
    Unwanted,
    /// The container reads them; on a terminal the keys end the stream.
    Wanted(DetachKeys),
}

/// How long a client may take to close its side after the output has ended. Closing ours before,
/// with bytes of it unread, would cut it off in the middle of what it still has to read.
const LINGER: Duration = Duration::from_secs(5);

/// How a client reads output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadAs {
    /// Frames, each with the stream that it is of.
    Frames,
    /// The bytes of a terminal.
    Bytes,
}

impl ReadAs {
    /// As the engine gives it.
    pub(crate) fn of(attached: &Attached) -> Self {
        match attached.tty {
            true => Self::Bytes,
            false => Self::Frames,
        }
    }
}

/// Room for the header before bytes of a terminal that are to be framed.
fn room(attached: &Attached, read_as: ReadAs) -> usize {
    match attached.tty && read_as == ReadAs::Frames {
        true => FRAME_HEADER_BYTES,
        false => 0,
    }
}

/// Joins the client with an attached stream.
pub(crate) fn hijack(mut call: Call, attached: Attached, input: Input, read_as: ReadAs) -> Reply {
    let media_type = media_type(read_as == ReadAs::Bytes, call.minor);
    let room = room(&attached, read_as);
    if !call.wants_upgrade() {
        return plain(call, attached, &input, (media_type, room));
    }
    let upgrade = hyper::upgrade::on(&mut call.request);
    let place = call.place.clone();
    tokio::spawn(async move {
        match relay(upgrade, attached, input, room).await {
            Ok(()) => {}
            // Most often a client that closed its terminal.
            Err(cause) => tracing::debug!(%cause, "an attached stream ended early"),
        }
        drop(place);
    });
    let mut answer = Response::new(Body::Whole(None));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer
        .extensions_mut()
        .insert(ReasonPhrase::from_static(b"UPGRADED"));
    let headers = answer.headers_mut();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static(media_type),
    );
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    answer
}

/// For clients that cannot upgrade: output as the body of the answer, input from the request's.
fn plain(
    call: Call,
    attached: Attached,
    input: &Input,
    (media_type, room): (&'static str, usize),
) -> Reply {
    let (output, mut to_shim) = attached.stream.into_split();
    let client = call.request.extensions().get::<Client>().cloned();
    if matches!(input, Input::Wanted(_)) {
        let mut body = call.request.into_body();
        // Ends with the request's body, or with the container.
        tokio::spawn(async move {
            while let Some(Ok(frame)) = body.frame().await {
                let Ok(bytes) = frame.into_data() else {
                    continue;
                };
                if to_shim.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            to_shim.shutdown().await.ok();
        });
    } else {
        // Closing the half would read as the end of input.
        to_shim.forget();
    }
    let replay = (!attached.replay.is_empty()).then(|| Bytes::from(attached.replay));
    let from = (output, replay, attached.delivery);
    let pieces = stream::unfold(from, move |(mut output, mut replay, delivery)| {
        let client = client.clone();
        async move {
            if let Some(bytes) = replay.take() {
                return Some((Ok(bytes), (output, replay, delivery)));
            }
            let mut buffer = BytesMut::with_capacity(RELAY_BYTES);
            buffer.put_bytes(0, room);
            match output.read_buf(&mut buffer).await {
                Ok(0) => {
                    was_sent(client).await;
                    None
                }
                // It closed with input unread; all that it had to say came before.
                Err(cause) if cause.kind() == io::ErrorKind::ConnectionReset => {
                    was_sent(client).await;
                    None
                }
                Ok(_) => {
                    put_header(&mut buffer, room);
                    Some((Ok(buffer.freeze()), (output, replay, delivery)))
                }
                Err(cause) => Some((Err(cause), (output, replay, delivery))),
            }
        }
    });
    reply(StatusCode::OK, media_type, Body::streamed(pieces))
}

/// Comes back when the server has sent what it was given and the client has read it: those who wait for the
/// end are told of it only then.
async fn was_sent(client: Option<Client>) {
    // The server sends all that it has before it asks for more.
    tokio::task::yield_now().await;
    if let Some(client) = client {
        client.has_read_output().await;
    }
}

/// A stream that only says something and ends: how a failed exec reports to its client.
pub(crate) fn farewell(call: Call, text: &str, read_as: ReadAs) -> io::Result<Reply> {
    let (ours, theirs) = UnixStream::pair()?;
    drop(theirs);
    let mut said = BytesMut::new();
    let line = format!("{text}\r\n");
    let tty = read_as == ReadAs::Bytes;
    if tty {
        said.put_slice(line.as_bytes());
    } else {
        put_frame(&mut said, false, &[line.as_bytes()]);
    }
    Ok(hijack(
        call,
        Attached {
            stream: ours,
            tty,
            replay: said.into(),
            delivery: Delivery::default(),
        },
        Input::Unwanted,
        read_as,
    ))
}

async fn relay(
    upgrade: OnUpgrade,
    attached: Attached,
    input: Input,
    room: usize,
) -> io::Result<()> {
    let upgraded = upgrade.await.map_err(io::Error::other)?;
    let parts = upgraded
        .downcast::<TokioIo<Client>>()
        .map_err(|_| io::Error::other("an upgraded connection is none of ours"))?;
    let client = parts.io.into_inner();
    Relay {
        client,
        early: parts.read_buf,
        attached,
        input,
        room,
    }
    .run()
    .await
}

struct Relay {
    client: Client,
    /// What the client sent right behind its request.
    early: Bytes,
    attached: Attached,
    input: Input,
    /// See [`room`].
    room: usize,
}

impl Relay {
    async fn run(self) -> io::Result<()> {
        let Self {
            client,
            early,
            attached,
            input,
            room,
        } = self;
        let (mut from, mut to) = (client.clone(), client.clone());
        let (mut from_shim, to_shim) = attached.stream.into_split();
        let delivery = attached.delivery;
        let output = async {
            if !attached.replay.is_empty() {
                to.has_read_head().await;
                to.write_all(&attached.replay).await?;
            }
            let copied = match copy_output(&mut from_shim, &mut to, room).await {
                // The shim has closed and left input unread; all that it said was read.
                Err(cause) if cause.kind() == io::ErrorKind::ConnectionReset => Ok(()),
                copied => copied,
            };
            if copied.is_ok() {
                // First the end, so that a client that reads in one go is not kept waiting for it.
                to.shutdown().await?;
                to.has_read_output().await;
            }
            drop(delivery);
            copied
        };
        let tty = attached.tty;
        let input = async {
            match input {
                Input::Wanted(keys) => {
                    let keys = tty.then_some(keys);
                    if feed(&mut from, to_shim, &early, keys).await == Fed::Detached {
                        return Ok(());
                    }
                }
                Input::Unwanted => {
                    // Closing the half would read as the end of input.
                    to_shim.forget();
                    tokio::io::copy(&mut from, &mut tokio::io::sink())
                        .await
                        .ok();
                }
            }
            // The client said all that it will; it may be half closed, or gone.
            client.vanished().await;
            Err(io::ErrorKind::BrokenPipe.into())
        };
        let mut rest = client.clone();
        {
            tokio::pin!(output, input);
            tokio::select! {
                ended = &mut output => ended,
                detached = &mut input => detached,
            }?;
        }
        rest.shutdown().await?;
        let mut nowhere = tokio::io::sink();
        drop(tokio::time::timeout(LINGER, tokio::io::copy(&mut rest, &mut nowhere)).await);
        Ok(())
    }
}

/// How the client's input ended.
#[derive(Debug, PartialEq, Eq)]
enum Fed {
    /// It said that there is no more.
    Ended,
    /// It left; the container's input stays open.
    Detached,
}

/// Passes the client's input on, and its end.
async fn feed(
    from: &mut (impl AsyncRead + Unpin),
    mut to_shim: OwnedWriteHalf,
    early: &[u8],
    keys: Option<DetachKeys>,
) -> Fed {
    let mut from = early.chain(from);
    let fed = match keys {
        Some(keys) => copy_typed(&mut from, &mut to_shim, keys).await,
        None => copy(&mut from, &mut to_shim).await.map(|()| Fed::Ended),
    };
    // A container that closed its input, or ended, is no failure: its output still counts.
    if fed.is_err() {
        tokio::io::copy(&mut from, &mut tokio::io::sink())
            .await
            .ok();
    }
    let fed = fed.unwrap_or(Fed::Ended);
    if fed == Fed::Ended {
        to_shim.shutdown().await.ok();
    }
    to_shim.forget();
    fed
}

/// Copies until the end, or until the keys that detach.
async fn copy_typed(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut keys: DetachKeys,
) -> io::Result<Fed> {
    let mut typed = vec![0; TYPED_BYTES];
    let mut meant = Vec::with_capacity(TYPED_BYTES);
    loop {
        let size = from.read(&mut typed).await?;
        let detached = keys.filter(&typed[..size], &mut meant);
        to.write_all(&meant).await?;
        meant.clear();
        if detached || size == 0 {
            return Ok(if detached { Fed::Detached } else { Fed::Ended });
        }
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = vec![0; RELAY_BYTES];
    loop {
        let size = match from.read(&mut buffer).await {
            // The other end closed with input unread; all that it had to say came before.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
            read => read?,
        };
        if size == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..size]).await?;
    }
}

/// Copies output until its end; each piece behind `room` bytes that become its frame's header.
async fn copy_output(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut Client,
    room: usize,
) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(RELAY_BYTES);
    let mut first = true;
    loop {
        buffer.clear();
        buffer.put_bytes(0, room);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        if std::mem::take(&mut first) {
            to.has_read_head().await;
        }
        put_header(&mut buffer, room);
        to.write_all(&buffer).await?;
    }
}

/// Makes the first `room` bytes the header of what is behind them.
fn put_header(piece: &mut [u8], room: usize) {
    if room > 0 {
        let size = u32::try_from(piece.len() - room).unwrap_or(u32::MAX);
        piece[..4].copy_from_slice(&[1, 0, 0, 0]);
        piece[4..room].copy_from_slice(&size.to_be_bytes());
    }
}

/// Appends one frame: stream number, length, bytes.
pub(crate) fn put_frame(to: &mut BytesMut, stderr: bool, parts: &[&[u8]]) {
    let size: usize = parts.iter().map(|part| part.len()).sum();
    to.reserve(FRAME_HEADER_BYTES + size);
    to.put_u32(if stderr { 2 << 24 } else { 1 << 24 });
    // A line of a log is far below 4 GiB.
    to.put_u32(u32::try_from(size).unwrap_or(u32::MAX));
    parts.iter().for_each(|part| to.put_slice(part));
}

/// How a client wants log lines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LineForm {
    /// Bare bytes of a terminal instead of frames.
    pub(crate) tty: bool,
    pub(crate) timestamps: bool,
    /// What the log driver was told to put beside each line.
    pub(crate) details: bool,
    /// A frame for each line, as who follows a log wants them; else for as many as fit.
    pub(crate) frame_per_line: bool,
}

/// One batch of log lines as clients read them.
pub(crate) fn frame_lines(lines: &LogLines, form: LineForm) -> Bytes {
    let mut out = BytesMut::new();
    // Where the open frame begins, and of which stream it is.
    let mut open: Option<(usize, bool)> = None;
    for line in lines.iter() {
        let goes_on = open.is_some_and(|(from, stderr)| {
            let size = out.len() - from - FRAME_HEADER_BYTES;
            stderr == line.stderr && !form.frame_per_line && size < FRAME_BYTES
        });
        if !form.tty && !goes_on {
            close_frame(&mut out, open);
            open = Some((out.len(), line.stderr));
            put_frame(&mut out, line.stderr, &[]);
        }
        put_line(&mut out, line, form);
    }
    close_frame(&mut out, open);
    out.freeze()
}

fn close_frame(out: &mut BytesMut, open: Option<(usize, bool)>) {
    let Some((from, _)) = open else { return };
    let size = out.len() - from - FRAME_HEADER_BYTES;
    let size = u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes();
    out[from + FRAME_HEADER_BYTES - size.len()..from + FRAME_HEADER_BYTES].copy_from_slice(&size);
}

fn put_line(out: &mut BytesMut, line: LogLine<'_>, form: LineForm) {
    if form.timestamps {
        out.put_slice(fixed_width(line.time).as_bytes());
        out.put_u8(b' ');
    }
    if form.details {
        out.put_slice(details(line.attributes).as_bytes());
        out.put_u8(b' ');
    }
    out.put_slice(line.text);
}

/// `name=value,name=value`, in the order of names and escaped as in a query.
fn details(attributes: &[u8]) -> String {
    let attributes: BTreeMap<String, String> =
        serde_json::from_slice(attributes).unwrap_or_default();
    let pairs = attributes
        .iter()
        .map(|(name, value)| format!("{}={}", query_escape(name), query_escape(value)));
    pairs.collect::<Vec<_>>().join(",")
}

fn query_escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            b' ' => escaped.push('+'),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// A time with all nine digits, which is how Docker prefixes lines.
fn fixed_width(time: &str) -> String {
    let Some(rest) = time.strip_suffix('Z') else {
        return time.to_owned();
    };
    let (seconds, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    format!("{seconds}.{fraction:0<9}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: LineForm = LineForm {
        tty: false,
        timestamps: false,
        details: false,
        frame_per_line: true,
    };

    fn framed(form: LineForm) -> Vec<u8> {
        let line = |text: &str, stream: &str, attrs: &str| {
            format!(
                "{{\"log\":\"{text}\\n\",\"stream\":\"{stream}\"{attrs},\
                 \"time\":\"2026-11-21T09:32:50.92Z\"}}\n"
            )
        };
        let attrs = ",\"attrs\":{\"b\":\"x y\",\"a\":\"/\"}";
        let text =
            line("hi", "stdout", attrs) + &line("ho", "stdout", "") + &line("oh", "stderr", "");
        frame_lines(&LogLines::parse(text.into_bytes()), form).to_vec()
    }

    #[test]
    fn lines_become_frames_with_their_stream_and_length() {
        assert_eq!(
            framed(PLAIN),
            b"\x01\0\0\0\0\0\0\x03hi\n\x01\0\0\0\0\0\0\x03ho\n\x02\0\0\0\0\0\0\x03oh\n"
        );
        let together = LineForm {
            frame_per_line: false,
            ..PLAIN
        };
        assert_eq!(
            framed(together),
            b"\x01\0\0\0\0\0\0\x06hi\nho\n\x02\0\0\0\0\0\0\x03oh\n"
        );
    }

    #[test]
    fn a_terminal_has_no_frames_and_times_have_nine_digits() {
        let form = LineForm {
            tty: true,
            timestamps: true,
            details: true,
            ..PLAIN
        };
        let time = "2026-11-21T09:32:50.920000000Z";
        let expected = format!("{time} a=%2F,b=x+y hi\n{time}  ho\n{time}  oh\n");
        assert_eq!(String::from_utf8(framed(form)), Ok(expected));
        assert_eq!(
            fixed_width("2026-11-21T09:32:50Z"),
            "2026-11-21T09:32:50.000000000Z"
        );
    }

    #[test]
    fn the_media_type_depends_on_the_version() {
        assert_eq!(media_type(false, 41), "application/vnd.docker.raw-stream");
        assert_eq!(media_type(true, 48), "application/vnd.docker.raw-stream");
        assert_eq!(
            media_type(false, 48),
            "application/vnd.docker.multiplexed-stream"
        );
    }
}
