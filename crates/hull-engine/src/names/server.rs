//! The name server of one container: on sockets that its shim opened in its network namespace.
//! Whoever asks there is the container, or one that shares its network.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use hull_model::SandboxId;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::forward::{Forwarder, Transport, read_message, write_message};
use super::wire::{self, Answer, Kind, Question};
use super::{Zone, Zones};
use crate::core::Core;
use crate::jobs::Pool;

/// Datagrams of one container in a window; more wait in its socket, where the kernel drops what
/// does not fit: a container that floods keeps only itself waiting.
const DATAGRAMS_PER_WINDOW_MAX: u32 = 500;
/// Length of that window.
const WINDOW: Duration = Duration::from_millis(100);
/// Streams of one container at a time.
const STREAMS_MAX: usize = 16;
/// How long a stream may be silent.
const STREAM_IDLE: Duration = Duration::from_secs(10);
/// Bytes of a query over UDP.
const QUERY_BYTES_MAX: usize = 4096;
/// Answers that may be waited for at a time, beyond which questions are not read.
const UNANSWERED_MAX: usize = 128;
/// Pause after a failed read.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// A running name server; it ends with this value.
#[derive(Debug)]
pub(crate) struct NameServer(JoinHandle<()>);

impl Drop for NameServer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Resolver {
    core: Weak<Core>,
    id: SandboxId,
    zones: Zones,
    /// Counts questions about our own names.
    turn: AtomicU64,
    forwarder: Forwarder,
}

impl NameServer {
    /// Serves a container's socket for datagrams.
    pub(crate) fn datagrams(core: &Arc<Core>, id: SandboxId, socket: UdpSocket) -> Self {
        let resolver = Resolver::new(core, id);
        Self(tokio::spawn(serve_datagrams(resolver, Arc::new(socket))))
    }

    /// Serves a container's socket for streams.
    pub(crate) fn streams(core: &Arc<Core>, id: SandboxId, listener: TcpListener) -> Self {
        let resolver = Resolver::new(core, id);
        Self(tokio::spawn(serve_streams(resolver, listener)))
    }
}

impl Resolver {
    fn new(core: &Arc<Core>, id: SandboxId) -> Arc<Self> {
        Arc::new(Self {
            core: Arc::downgrade(core),
            id,
            zones: Zones::default(),
            turn: AtomicU64::new(0),
            forwarder: Forwarder::default(),
        })
    }

    /// The answer to a query; none: it is not worth one.
    async fn resolve(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = wire::question(query)?;
        let own = |answer: &Answer| wire::answer(query, &question, answer);
        let core = self.core.upgrade()?;
        let zone = self.zones.of(&core, self.id);
        let answer = match self.look_up(&zone, &question) {
            Some(answer) => own(&answer),
            None if !zone.may_ask(&question.name) => return Some(own(&Answer::Refused)),
            None => {
                let servers = super::servers_of(&core, self.id);
                match self.forwarder.ask(query, transport, &servers).await {
                    Some(answer) => answer,
                    None => return Some(own(&Answer::ServerFailure)),
                }
            }
        };
        if zone.lists(&question.name) {
            let (name, addresses) = (question.name.clone(), wire::addresses(&answer));
            let job = core.clone();
            let allow = move || zone.allow(&job, &name, &addresses);
            let allowed = core.jobs.run(Pool::Kernel, allow).await;
            if let Err(error) = allowed.and_then(|allowed| allowed) {
                tracing::warn!(container = %self.id.short(), error = %error.chain(), "names");
                return Some(own(&Answer::ServerFailure));
            }
        }
        Some(answer)
    }

    /// What we know ourselves.
    fn look_up(&self, zone: &Zone, question: &Question) -> Option<Answer> {
        if question.kind == Kind::Ptr {
            let address = wire::reversed(&question.name)?;
            return zone.name_of(&address).map(Answer::Name);
        }
        let turn = self.turn.load(Ordering::Relaxed);
        let addresses = zone.find(&question.name, turn)?;
        self.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
        let fits = |address: &std::net::IpAddr| match question.kind {
            Kind::A => address.is_ipv4(),
            Kind::Aaaa => address.is_ipv6(),
            _ => false,
        };
        Some(Answer::Addresses(
            addresses.into_iter().filter(fits).collect(),
        ))
    }
}

async fn serve_datagrams(resolver: Arc<Resolver>, socket: Arc<UdpSocket>) {
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; QUERY_BYTES_MAX];
    let (mut window, mut count) = (Instant::now(), 0);
    loop {
        count += 1;
        if count > DATAGRAMS_PER_WINDOW_MAX {
            tokio::time::sleep_until(window + WINDOW).await;
            (window, count) = (Instant::now(), 0);
        } else if window.elapsed() >= WINDOW {
            (window, count) = (Instant::now(), 0);
        }
        while answers.try_join_next().is_some() {}
        if answers.len() >= UNANSWERED_MAX {
            answers.join_next().await;
        }
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(ERROR_PAUSE).await;
            continue;
        };
        let query = buffer[..length].to_vec();
        answers.spawn(answer_datagram(
            resolver.clone(),
            socket.clone(),
            query,
            client,
        ));
    }
}

async fn answer_datagram(
    resolver: Arc<Resolver>,
    socket: Arc<UdpSocket>,
    query: Vec<u8>,
    client: SocketAddr,
) {
    if let Some(answer) = resolver.resolve(&query, Transport::Udp).await
        && let Some(question) = wire::question(&query)
    {
        let answer = wire::fit(&query, &question, answer);
        if let Err(error) = socket.send_to(&answer, client).await {
            tracing::debug!(%error, "an answer to a container");
        }
    }
}

async fn serve_streams(resolver: Arc<Resolver>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(STREAMS_MAX));
    // Ends with this task, and takes what it serves along.
    let mut streams = JoinSet::new();
    while let Ok(place) = places.clone().acquire_owned().await {
        while streams.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let resolver = resolver.clone();
                streams.spawn(async move {
                    serve_stream(&resolver, stream).await;
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
        }
    }
}

async fn serve_stream(resolver: &Resolver, mut stream: TcpStream) {
    while let Ok(Ok(query)) = tokio::time::timeout(STREAM_IDLE, read_message(&mut stream)).await {
        let Some(answer) = resolver.resolve(&query, Transport::Tcp).await else {
            return;
        };
        let written = write_message(&mut stream, &answer);
        if !matches!(tokio::time::timeout(STREAM_IDLE, written).await, Ok(Ok(()))) {
            return;
        }
    }
}
