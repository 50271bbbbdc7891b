//! Accepts connections and serves HTTP/1.1 on them, within named limits.
//!
//! One task per connection; an upgraded connection (attach, exec) goes on in a task of its own and
//! keeps its place among the counted connections. Nothing here knows a route.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hull_engine::Engine;
use hull_model::ErrorKind;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use crate::client::Client;
use crate::router;
use crate::tls::Tls;

/// Connections at the same time, waiting and attached clients included. Further ones wait in the
/// kernel's backlog.
const CONNECTIONS_MAX: u32 = 4096;
/// Header fields of one request; more are answered with 431.
const HEADERS_MAX: usize = 100;
/// Bytes of one request's head, and of what is read ahead of a body.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Seconds from the end of one request on a kept connection to the end of the next one's head:
/// what an idle or a slow client may take.
const HEAD_S_MAX: u64 = 300;
/// How long answers under way may take after the shutdown was asked for. Attached clients and
/// followers are cut off: their containers go on without the daemon.
const SHUTDOWN_MS_MAX: u64 = 500;
/// Wait after a failed accept: out of descriptors, which only others can give back.
const ACCEPT_RETRY_MS: u64 = 50;

/// A bound socket to serve.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket; its file mode is the access control.
    Unix(UnixListener),
    /// Plain HTTP over TCP: whoever reaches it owns the host.
    Tcp(TcpListener),
    /// HTTP over TLS.
    Tls(TcpListener, Tls),
}

/// What the daemon knows and the engine does not: versions and settings that clients are shown.
#[derive(Debug, Clone, Default)]
pub struct ServeConfig {
    /// Version of this engine, `0.1.0`.
    pub version: String,
    /// Commit it was built from; empty: unknown.
    pub commit: String,
    /// When it was built, RFC 3339; empty: unknown.
    pub build_time: String,
    /// Labels of the daemon, `key=value`.
    pub labels: Vec<String>,
    /// Mirrors of Docker's registry.
    pub registry_mirrors: Vec<String>,
    /// Registries that are spoken to without TLS.
    pub insecure_registries: Vec<String>,
    /// Whether the daemon logs at debug level.
    pub debug: bool,
    /// Told of each answer.
    pub answered: Arc<Notify>,
}

/// Why serving ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There was nothing to listen on.
    #[error("no socket to serve the Docker API on")]
    NoListener,
    /// A listener could not say where it is.
    #[error("read the address of a listening socket")]
    Address(#[source] io::Error),
}

impl ServeError {
    /// The kind, for callers that map it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoListener => ErrorKind::InvalidArgument,
            Self::Address(cause) => ErrorKind::of_io(cause),
        }
    }
}

/// What every request can see.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) engine: Engine,
    config: watch::Receiver<Arc<ServeConfig>>,
}

impl App {
    /// What is shown of the daemon; it may change while a request is answered.
    pub(crate) fn config(&self) -> Arc<ServeConfig> {
        self.config.borrow().clone()
    }
}

/// Serves the Docker Engine API on the listeners until `shutdown` is ready; shows the newest `config`.
///
/// Containers are not touched by a shutdown. Answers under way get a short time to end.
///
/// # Errors
/// [`ServeError`] when there is nothing to serve on; a failure of one connection is only logged.
pub async fn serve(
    engine: Engine,
    listeners: Vec<Listener>,
    config: watch::Receiver<Arc<ServeConfig>>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    if listeners.is_empty() {
        return Err(ServeError::NoListener);
    }
    for listener in &listeners {
        match listener {
            Listener::Unix(socket) => {
                let address = socket.local_addr().map_err(ServeError::Address)?;
                tracing::info!(?address, "serving the Docker API");
            }
            Listener::Tcp(socket) => {
                let address = socket.local_addr().map_err(ServeError::Address)?;
                tracing::warn!(%address, "serving the Docker API without protection");
            }
            Listener::Tls(socket, _) => {
                let address = socket.local_addr().map_err(ServeError::Address)?;
                tracing::info!(%address, "serving the Docker API over TLS");
            }
        }
    }
    let app = Arc::new(App { engine, config });
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
    let (stop, stopped) = watch::channel(false);
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| {
            tokio::spawn(accept(
                listener,
                app.clone(),
                places.clone(),
                stopped.clone(),
            ))
        })
        .collect();
    shutdown.await;
    stop.send_replace(true);
    for task in accepting {
        // A panic there was reported where it happened; the socket is closed either way.
        task.await.ok();
    }
    let all_ended = places.acquire_many(CONNECTIONS_MAX);
    let cut_off = tokio::time::timeout(Duration::from_millis(SHUTDOWN_MS_MAX), all_ended).await;
    if cut_off.is_err() {
        tracing::info!("clients were still connected at the end");
    }
    Ok(())
}

async fn accept(
    listener: Listener,
    app: Arc<App>,
    places: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let accepted = async {
            // The semaphore is never closed; were it, no connection would be taken.
            let place = places.clone().acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = asked_to_stop(&mut stopped) => return,
        };
        let Some((place, connection)) = accepted else {
            return;
        };
        let place = Arc::new(place);
        match connection {
            Ok(client) => {
                tokio::spawn(converse(client, app.clone(), place, stopped.clone()));
            }
            Err(cause) => {
                tracing::warn!(%cause, "accept a connection");
                tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
            }
        }
    }
}

async fn asked_to_stop(stopped: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone, and so is `serve`.
    stopped.wait_for(|stopped| *stopped).await.ok();
}

impl Listener {
    async fn accept(&self) -> io::Result<Client> {
        match self {
            Self::Unix(socket) => Ok(socket.accept().await?.0.into()),
            Self::Tcp(socket) => {
                let stream = socket.accept().await?.0;
                // Small frames of an attached terminal must not wait for acknowledgements.
                stream.set_nodelay(true)?;
                Ok(stream.into())
            }
            Self::Tls(socket, tls) => {
                let stream = socket.accept().await?.0;
                stream.set_nodelay(true)?;
                Ok(tls.unwrap(stream)?.into())
            }
        }
    }
}

/// Serves one connection until it ends or is upgraded.
async fn converse(
    client: Client,
    app: Arc<App>,
    place: Arc<OwnedSemaphorePermit>,
    mut stopped: watch::Receiver<bool>,
) {
    let caller = client.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (app, place) = (app.clone(), place.clone());
        request.extensions_mut().insert(caller.clone());
        async move {
            let answer = router::answer(app.clone(), request, place).await;
            app.config().answered.notify_one();
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .title_case_headers(true)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEAD_S_MAX))
        .serve_connection(TokioIo::new(client.clone()), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // Somebody who listened to events or waited for an exit, and was killed.
        () = client.vanished() => return,
        () = asked_to_stop(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(cause) = ended {
        tracing::debug!(%cause, "a connection ended early");
    }
}
