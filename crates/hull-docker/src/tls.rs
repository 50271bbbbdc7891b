//! TLS in front of the API, as dockerd's `--tls` and `--tlsverify` have it.
//!
//! ```text
//!  client ◀──TLS──▶ pump ◀──socket pair──▶ server.rs, which knows nothing of it
//! ```
//!
//! The pair costs a copy for those who connect from afar; in exchange half-closed and upgraded
//! connections behave as on the unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hull_model::ErrorKind;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncWriteExt, copy};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;

/// How long a handshake may take.
const HANDSHAKE_MS_MAX: u64 = 10_000;
/// How long a client may take to close when we have.
const CLOSE_MS_MAX: u64 = 1_000;
/// First byte of a TLS record that begins a handshake.
const HANDSHAKE_RECORD: u8 = 22;
/// What Go's server, and so dockerd, tells a client that speaks HTTP to it.
const NOT_TLS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// The files that a TLS server needs.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Our certificate and what leads to its authority, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Authorities of the only clients that may connect, PEM; none: all may.
    pub client_authorities: Option<PathBuf>,
}

/// Why a TLS server cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds something else.
    #[error("read the {what} {path}")]
    File {
        /// What it should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: rustls::pki_types::pem::Error,
    },
    /// There is no authority in the file.
    #[error("no certificate authority in {0}")]
    NoAuthority(PathBuf),
    /// The files do not go together.
    #[error("use the certificate {certificate}")]
    Certificate {
        /// Which.
        certificate: PathBuf,
        /// Why not.
        #[source]
        cause: rustls::Error,
    },
    /// The authorities cannot verify clients.
    #[error("use the certificate authorities {path}")]
    Authorities {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: rustls::server::VerifierBuilderError,
    },
}

impl TlsError {
    /// The kind, for callers that map it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

/// A TLS server's side, ready to take connections. Cheap to clone.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] with the file that is missing or does not fit.
    pub fn read(files: &TlsFiles) -> Result<Tls, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates("certificate", &files.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|cause| TlsError::File {
            what: "key",
            path: files.key.clone(),
            cause,
        })?;
        let unusable = |cause| TlsError::Certificate {
            certificate: files.certificate.clone(),
            cause,
        };
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &files.client_authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(authorities(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|cause| TlsError::Authorities {
                        path: path.clone(),
                        cause,
                    })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let config = builder.with_single_cert(chain, key).map_err(unusable)?;
        Ok(Tls(TlsAcceptor::from(Arc::new(config))))
    }

    /// The plain side of a connection whose handshake goes on beside the caller; one that fails ends
    /// it.
    pub(crate) fn unwrap(&self, socket: TcpStream) -> io::Result<UnixStream> {
        let (plain, inner) = UnixStream::pair()?;
        let acceptor = self.0.clone();
        tokio::spawn(async move {
            if let Err(cause) = pump(socket, acceptor, inner).await {
                tracing::info!(%cause, "a TLS connection ended early");
            }
        });
        Ok(plain)
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|cause| TlsError::File {
            what,
            path: path.to_owned(),
            cause,
        })
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let (added, _ignored) = roots.add_parsable_certificates(certificates("authorities", path)?);
    match added {
        0 => Err(TlsError::NoAuthority(path.to_owned())),
        _ => Ok(roots),
    }
}

/// Answers a client that speaks plain HTTP. Its request is read, for unread input would reset the
/// connection and take the answer with it.
async fn refuse(mut socket: TcpStream) -> io::Result<()> {
    socket.write_all(NOT_TLS).await?;
    socket.shutdown().await?;
    let rest = Duration::from_millis(CLOSE_MS_MAX);
    let mut nowhere = tokio::io::sink();
    let read = copy(&mut socket, &mut nowhere);
    tokio::time::timeout(rest, read).await.ok();
    Ok(())
}

async fn pump(socket: TcpStream, acceptor: TlsAcceptor, inner: UnixStream) -> io::Result<()> {
    let handshake = async {
        let mut first = [0];
        if socket.peek(&mut first).await? != 0 && first != [HANDSHAKE_RECORD] {
            refuse(socket).await?;
            return Err(io::Error::other("it began with no handshake"));
        }
        acceptor.accept(socket).await
    };
    let tls = tokio::time::timeout(Duration::from_millis(HANDSHAKE_MS_MAX), handshake).await??;
    let (mut from_client, mut to_client) = tokio::io::split(tls);
    let (mut from_server, mut to_server) = inner.into_split();
    let requests = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let answers = async {
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::pin!(requests, answers);
    tokio::select! {
        ended = &mut requests => {
            ended?;
            answers.await
        }
        ended = &mut answers => {
            ended?;
            let rest = Duration::from_millis(CLOSE_MS_MAX);
            tokio::time::timeout(rest, requests).await.unwrap_or(Ok(()))
        }
    }
}
