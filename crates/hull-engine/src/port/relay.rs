//! What comes to a published port's own socket: carried to the container by the daemon.
//!
//! Nearly nothing does, since the kernel leads packets to the container before they get here. Left
//! are IPv6 clients of a container without IPv6, the host's own `::1`, whoever comes in the moment
//! before the kernel's map is there, and all from outside where the host's firewall is to decide.
//! While no daemon runs, connections wait in the sockets, which the shim keeps.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hull_model::port::{Protocol, PublishedPort};
use hull_sandbox::KeptSocket;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use super::Target;

/// Connections that one published port carries at a time beside the kernel.
const CONNECTIONS_MAX: usize = 1024;
/// Clients of one UDP port that are remembered.
const UDP_CLIENTS_MAX: usize = 1024;
/// How long a UDP client that says nothing is remembered, as by Docker's proxy.
const UDP_IDLE: Duration = Duration::from_secs(90);
/// How long a container may take to accept.
const CONNECT_WAIT: Duration = Duration::from_secs(30);
/// Pause after a failed accept or read: the process may be out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes of the largest datagram.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// The sockets of a container's ports, each with its relay; they end with this value.
#[derive(Debug, Default)]
pub(crate) struct OpenPorts(Vec<OpenPort>);

#[derive(Debug)]
struct OpenPort {
    port: PublishedPort,
    /// What the shim calls the socket.
    key: u32,
    /// Where new connections go.
    to: watch::Sender<SocketAddr>,
    task: JoinHandle<()>,
}

impl OpenPorts {
    /// Carries what comes to the socket of a port to an endpoint. Needs the runtime.
    pub(crate) fn add(&mut self, port: PublishedPort, kept: KeptSocket, target: Target) {
        let Some(ip) = target.for_host(port.host_ip) else {
            return;
        };
        let KeptSocket { key, socket } = kept;
        let (to, place) = watch::channel(SocketAddr::new(ip, port.container_port));
        let task = match port.protocol {
            Protocol::Tcp => tcp(socket, place),
            Protocol::Udp => udp(socket, place),
            // Forwarded by the kernel or not at all.
            Protocol::Sctp => Ok(tokio::spawn(async {})),
        };
        match task {
            Ok(task) => self.0.push(OpenPort {
                port,
                key,
                to,
                task,
            }),
            Err(error) => tracing::warn!(%port, %error, "a port is not relayed"),
        }
    }

    /// Ends those of some ports; gives what the shim calls their sockets.
    pub(crate) fn end(&mut self, ports: &[PublishedPort]) -> Vec<u32> {
        let (ended, stay) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|open: &OpenPort| ports.contains(&open.port));
        self.0 = stay;
        OpenPorts(ended).0.iter().map(|open| open.key).collect()
    }

    /// Carries new connections to another endpoint.
    pub(crate) fn lead_to(&self, target: Target) {
        for open in &self.0 {
            if let Some(ip) = target.for_host(open.port.host_ip) {
                open.to
                    .send_replace(SocketAddr::new(ip, open.port.container_port));
            }
        }
    }

    /// A key's index that none of them has.
    pub(crate) fn next_index(&self) -> usize {
        let index = |open: &OpenPort| super::index_of(open.key) + 1;
        self.0.iter().map(index).max().unwrap_or_default()
    }
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn tcp(socket: OwnedFd, to: watch::Receiver<SocketAddr>) -> io::Result<JoinHandle<()>> {
    let listener = TcpListener::from_std(std::net::TcpListener::from(socket))?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    Ok(tokio::spawn(async move {
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((client, _)) => {
                    let to = *to.borrow();
                    tokio::spawn(async move {
                        carry(client, to).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "accept at a published port");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }))
}

async fn carry(mut client: TcpStream, to: SocketAddr) {
    let connect = tokio::time::timeout(CONNECT_WAIT, TcpStream::connect(to));
    // Nobody listens inside: the client sees a connection that ends, as with Docker's proxy.
    if let Ok(Ok(mut server)) = connect.await {
        for stream in [&client, &server] {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::trace!(%error, "a connection that is gone already");
            }
        }
        // An end by either side is the end of the connection, not our error.
        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
    }
}

type Clients = Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>>;

fn udp(socket: OwnedFd, to: watch::Receiver<SocketAddr>) -> io::Result<JoinHandle<()>> {
    let socket = Arc::new(UdpSocket::from_std(std::net::UdpSocket::from(socket))?);
    Ok(tokio::spawn(async move {
        let clients = Clients::default();
        let mut answers = tokio::task::JoinSet::new();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            // A refusal by a former client's host is told here too.
            let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            while answers.try_join_next().is_some() {}
            let known = lock(&clients).get(&client).cloned();
            let server = match known {
                Some(server) => server,
                None if answers.len() >= UDP_CLIENTS_MAX => continue,
                None => {
                    let to = *to.borrow();
                    let Ok(server) = connected(to).await else {
                        continue;
                    };
                    let server = Arc::new(server);
                    lock(&clients).insert(client, server.clone());
                    let (socket, all) = (socket.clone(), clients.clone());
                    let answered = server.clone();
                    answers.spawn(async move {
                        carry_answers(&answered, &socket, client).await;
                        lock(&all).remove(&client);
                    });
                    server
                }
            };
            drop(server.send(&buffer[..length]).await);
        }
    }))
}

fn lock(clients: &Clients) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, Arc<UdpSocket>>> {
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Until the container says nothing for a while.
async fn carry_answers(server: &UdpSocket, socket: &UdpSocket, client: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        match tokio::time::timeout(UDP_IDLE, server.recv(&mut buffer)).await {
            Ok(Ok(length)) => drop(socket.send_to(&buffer[..length], client).await),
            // Nobody listens inside yet.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            _ => return,
        }
    }
}
