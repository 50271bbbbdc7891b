//! Questions about the world outside: asked of the host's resolvers, or of those that the
//! container was given, and remembered for a while for the one who asked.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::wire;

/// Questions of one container that may be under way outside; more are answered with a failure.
const FORWARDS_MAX: usize = 64;
/// Servers that are asked, one after the other.
const SERVERS_MAX: usize = 3;
/// How long one server may take, as in Docker.
const SERVER_WAIT: Duration = Duration::from_secs(4);
/// Answers that are remembered per container.
const CACHE_ENTRIES_MAX: usize = 256;
/// How long an answer is remembered at most, in seconds: containers have caches of their own.
const CACHE_S_MAX: u32 = 30;
/// Bytes of a message over UDP from a server.
const UDP_ANSWER_BYTES_MAX: usize = 4096;
/// The port of name servers.
const DNS_PORT: u16 = 53;

/// How a client asks, and so how we do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Transport {
    /// Datagrams.
    Udp,
    /// A stream: for long answers.
    Tcp,
}

#[derive(Debug)]
struct Remembered {
    answer: Vec<u8>,
    at: Instant,
    lifetime_s: u32,
}

/// One container's way outside.
#[derive(Debug)]
pub(crate) struct Forwarder {
    places: Arc<Semaphore>,
    /// By the query without its number: whatever differs in it may differ in the answer.
    cache: Mutex<HashMap<(Transport, Vec<u8>), Remembered>>,
}

impl Default for Forwarder {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(FORWARDS_MAX)),
            cache: Mutex::default(),
        }
    }
}

impl Forwarder {
    /// Asks the servers in turn; none when nobody answers, or too much is under way already.
    pub(crate) async fn ask(
        &self,
        query: &[u8],
        transport: Transport,
        servers: &[IpAddr],
    ) -> Option<Vec<u8>> {
        if let Some(answer) = self.recall(query, transport) {
            return Some(answer);
        }
        let _place = self.places.try_acquire().ok()?;
        for server in servers.iter().take(SERVERS_MAX) {
            let to = SocketAddr::new(*server, DNS_PORT);
            let asked = async {
                match transport {
                    Transport::Udp => ask_udp(query, to).await,
                    Transport::Tcp => ask_tcp(query, to).await,
                }
            };
            match tokio::time::timeout(SERVER_WAIT, asked).await {
                Ok(Ok(answer)) => {
                    self.remember(query, transport, &answer);
                    return Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%to, %error, "a name server"),
                Err(_) => tracing::debug!(%to, "a name server does not answer"),
            }
        }
        None
    }

    fn recall(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let key = (transport, query.get(2..)?.to_vec());
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let found = cache.get(&key)?;
        let age_s = u32::try_from(found.at.elapsed().as_secs()).unwrap_or(u32::MAX);
        if age_s >= found.lifetime_s {
            return None;
        }
        let mut answer = found.answer.clone();
        drop(cache);
        answer[..2].copy_from_slice(query.get(..2)?);
        wire::age(&mut answer, age_s);
        Some(answer)
    }

    fn remember(&self, query: &[u8], transport: Transport, answer: &[u8]) {
        let Some(lifetime_s) = wire::lifetime_s(answer).filter(|&s| s > 0) else {
            return;
        };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHE_ENTRIES_MAX {
            cache.retain(|_, old| old.at.elapsed().as_secs() < u64::from(old.lifetime_s));
        }
        if cache.len() >= CACHE_ENTRIES_MAX {
            cache.clear();
        }
        let entry = Remembered {
            answer: answer.to_vec(),
            at: Instant::now(),
            lifetime_s: lifetime_s.min(CACHE_S_MAX),
        };
        cache.insert((transport, query[2..].to_vec()), entry);
    }
}

async fn ask_udp(query: &[u8], to: SocketAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    // A socket of its own for each question: a port that nobody can guess.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; UDP_ANSWER_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // What is not an answer to this question is not listened to; the wait has an end.
        if wire::answers(query, &buffer[..length]) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(query: &[u8], to: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to).await?;
    write_message(&mut stream, query).await?;
    let answer = read_message(&mut stream).await?;
    if wire::answers(query, &answer) {
        Ok(answer)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// Reads one message of a stream: its length comes first.
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes one message to a stream.
pub(super) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(message);
    stream.write_all(&bytes).await
}
