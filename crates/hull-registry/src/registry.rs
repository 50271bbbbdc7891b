//! One registry: which of its servers answers, and how one request is brought to its end.
//!
//! ```text
//!  ask ──▶ token known? ──▶ send ──▶ 401: get a token, once   ─┐
//!   ▲                                3xx: follow, bare          │ again
//!   └── back-off ◀── 429, 5xx, broken connection ───────────────┘
//! ```

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::auth::{Auth, Credential};
use crate::challenge;
use crate::connection::{Connections, RequestBody};
use crate::error::{ConnectionError, Error, Reason, Result};
use crate::hosts::{Endpoint, Hosts};
use crate::stream::read_all;
use crate::url::{Origin, Url};

/// How often one request is sent before its failure counts.
pub(crate) const ATTEMPTS_MAX: u32 = 6;
/// The first pause between two attempts; doubled each time.
const BACKOFF_MS: u64 = 200;
/// The longest pause, also when a server asks for more.
const BACKOFF_MS_MAX: u64 = 30_000;
/// Redirects that are followed.
const REDIRECTS_MAX: u32 = 8;
/// Bytes of a refusal that are read.
const REFUSAL_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a refusal's message that are passed on.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// Bytes of the answer to a search.
const SEARCH_BYTES_MAX: u64 = 4 << 20;

/// One request that may be sent again.
#[derive(Debug, Clone)]
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// What a token must be for.
    pub(crate) scope: &'a str,
    pub(crate) body: Bytes,
}

impl<'a> Ask<'a> {
    pub(crate) fn new(method: Method, url: Url, scope: &'a str) -> Self {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Self {
            method,
            url,
            headers,
            scope,
            body,
        }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    /// As Go names it, and Docker's sentences with it.
    pub(crate) fn go_method(&self) -> &'static str {
        go_method(&self.method)
    }

    /// Whether sending it twice does no harm.
    fn repeats(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

pub(crate) fn go_method(method: &Method) -> &'static str {
    match *method {
        Method::HEAD => "Head",
        Method::PUT => "Put",
        Method::POST => "Post",
        Method::PATCH => "Patch",
        Method::DELETE => "Delete",
        _ => "Get",
    }
}

/// A small answer, whole.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) url: String,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Document {
    pub(crate) fn media_type(&self) -> &str {
        let given = self
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        given
            .and_then(|given| given.split(';').next())
            .unwrap_or_default()
            .trim()
    }

    pub(crate) fn json<T: DeserializeOwned>(&self, what: &'static str) -> Result<T> {
        serde_json::from_slice(&self.bytes).map_err(|cause| Error::Malformed {
            what,
            url: self.url.clone(),
            problem: match self.media_type() {
                "text/html" => "a web page came; is this the address of a registry?".to_owned(),
                _ => cause.to_string(),
            },
        })
    }
}

/// What asks: the connections, without any server.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) connections: Connections,
}

impl Client {
    /// Sends a request until it is answered: redirects are followed, failures that may pass are
    /// waited out. `server` is whose credential may be used.
    ///
    /// Boxed, because on its way it may ask a token server, by itself.
    pub(crate) fn ask<'a>(
        &'a self,
        server: Option<&'a Server>,
        ask: &'a Ask<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Incoming>>> + Send + 'a>> {
        Box::pin(self.ask_patiently(server, ask))
    }

    async fn ask_patiently(
        &self,
        server: Option<&Server>,
        ask: &Ask<'_>,
    ) -> Result<Response<Incoming>> {
        let mut attempt = 1;
        loop {
            let answered = self.follow(server, ask).await;
            let pause = match &answered {
                _ if attempt == ATTEMPTS_MAX || !ask.repeats() => None,
                Ok(response) => pause_before_retry(response, attempt),
                Err(error) => error.is_transient().then(|| backoff(attempt)),
            };
            let Some(pause) = pause else {
                return answered;
            };
            tracing::debug!(url = %ask.url, attempt, ?pause, "asking again");
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// One attempt, with its redirects and one new token.
    pub(crate) async fn follow(
        &self,
        server: Option<&Server>,
        ask: &Ask<'_>,
    ) -> Result<Response<Incoming>> {
        let mut url = ask.url.clone();
        let mut authenticated = false;
        let mut redirects = 0;
        loop {
            let body = Full::new(ask.body.clone()).map_err(|never| match never {});
            let own = server.filter(|server| server.is(&url.origin));
            let request = request(ask, own, &url.origin, BodyExt::boxed_unsync(body));
            let response = self
                .connections
                .send(ask.go_method(), &url, request)
                .await?;
            let status = response.status();
            if let (StatusCode::UNAUTHORIZED, Some(own), false) = (status, own, authenticated) {
                let challenges = challenges(&response);
                if !challenges.is_empty() {
                    own.auth.answer(self, challenges, ask).await?;
                    authenticated = true;
                    continue;
                }
            }
            let moves = status.is_redirection() && ask.repeats();
            let Some(location) = response.headers().get(LOCATION).filter(|_| moves) else {
                return Ok(response);
            };
            redirects += 1;
            let location = location
                .to_str()
                .ok()
                .and_then(|location| url.join(location));
            let malformed = |problem: &str| Error::Malformed {
                what: "the redirect",
                url: url.to_string(),
                problem: problem.to_owned(),
            };
            let next = location.ok_or_else(|| malformed("it leads to no address"))?;
            if redirects > REDIRECTS_MAX {
                return Err(malformed("it is one of too many"));
            }
            if url.origin.tls && !next.origin.tls {
                return Err(malformed("it leads away from TLS"));
            }
            url = next;
        }
    }

    /// Sends a request and reads a good answer whole.
    pub(crate) async fn document(
        &self,
        ask: &Ask<'_>,
        max: u64,
        what: &'static str,
    ) -> Result<Document> {
        self.document_of(None, ask, max, what).await
    }

    /// The same, with the credential of a server.
    pub(crate) async fn document_of(
        &self,
        server: Option<&Server>,
        ask: &Ask<'_>,
        max: u64,
        what: &'static str,
    ) -> Result<Document> {
        let mut attempt = 1;
        loop {
            let response = self.ask(server, ask).await?;
            let response = good(response, ask).await?;
            let headers = response.headers().clone();
            match read_all(response.into_body(), ask, max, what).await {
                Ok(bytes) => {
                    return Ok(Document {
                        url: ask.url.to_string(),
                        headers,
                        bytes,
                    });
                }
                Err(error) if error.is_transient() && attempt < ATTEMPTS_MAX => {
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

pub(crate) fn request(
    ask: &Ask<'_>,
    own: Option<&Server>,
    origin: &Origin,
    body: RequestBody,
) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = ask.method.clone();
    let headers = request.headers_mut();
    *headers = ask.headers.clone();
    if *origin != ask.url.origin {
        // Led elsewhere: what proves who we are stays here.
        headers.remove(AUTHORIZATION);
    }
    if let Some(own) = own {
        for (name, value) in &own.endpoint.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
                headers.append(name, value);
            }
        }
        if let Some(header) = own.auth.header(ask.scope) {
            headers.insert(AUTHORIZATION, header);
        }
    }
    request
}

fn challenges(response: &Response<Incoming>) -> Vec<challenge::Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE);
    let texts = headers.iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(challenge::parse).collect()
}

/// How long to wait before the same is asked again; none: the answer counts.
fn pause_before_retry(response: &Response<Incoming>, attempt: u32) -> Option<Duration> {
    let status = response.status();
    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
        return None;
    }
    let asked = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    let asked = asked.and_then(|seconds| seconds.trim().parse().ok());
    let longest = Duration::from_millis(BACKOFF_MS_MAX);
    Some(asked.map_or_else(
        || backoff(attempt),
        |seconds| Duration::from_secs(seconds).min(longest),
    ))
}

/// Doubles from attempt to attempt, and differs a little between clients.
pub(crate) fn backoff(attempt: u32) -> Duration {
    let doubled = BACKOFF_MS << attempt.saturating_sub(1).min(16);
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let jitter = clock.map_or(0, |now| u64::from(now.subsec_micros())) % (doubled / 2 + 1);
    Duration::from_millis((doubled + jitter).min(BACKOFF_MS_MAX))
}

/// The answer, if it is a good one.
///
/// # Errors
/// What the registry says against it.
pub(crate) async fn good(
    response: Response<Incoming>,
    ask: &Ask<'_>,
) -> Result<Response<Incoming>> {
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status().as_u16();
    let body = read_all(response.into_body(), ask, REFUSAL_BYTES_MAX, "the refusal").await;
    // What a server says that is in trouble itself is not about the request.
    let said = body.ok().filter(|_| status < 500);
    let reason = said.map(|bytes| reason(&bytes)).unwrap_or_default();
    Err(Error::Refused {
        url: ask.url.to_string(),
        status,
        reason,
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    errors: Vec<RefusalEntry>,
    /// Token servers.
    details: String,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RefusalEntry {
    code: String,
    message: String,
}

fn reason(bytes: &[u8]) -> Reason {
    let refusal: Refusal = serde_json::from_slice(bytes).unwrap_or_default();
    let (code, mut message) = match refusal.errors.into_iter().next() {
        Some(entry) => (entry.code, entry.message),
        None if !refusal.details.is_empty() => ("UNAUTHORIZED".to_owned(), refusal.details),
        None if !refusal.message.is_empty() => ("UNKNOWN".to_owned(), refusal.message),
        None => return Reason::default(),
    };
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    message = message
        .chars()
        .take(MESSAGE_BYTES_MAX)
        .map(visible)
        .collect();
    let code = code
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .take(64)
        .collect();
    Reason { code, message }
}

/// One server that may be asked, and what it has told so far.
pub(crate) struct Server {
    pub(crate) endpoint: Endpoint,
    pub(crate) auth: Auth,
    base: OnceCell<Url>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Server {
    fn is(&self, origin: &Origin) -> bool {
        self.endpoint
            .bases
            .iter()
            .any(|base| base.origin == *origin)
    }

    /// The base that answers, found out once.
    pub(crate) async fn base(&self, client: &Client) -> Result<&Url> {
        self.base.get_or_try_init(|| self.find_base(client)).await
    }

    async fn find_base(&self, client: &Client) -> Result<Url> {
        let mut failure = None;
        for base in &self.endpoint.bases {
            let mut url = base.clone();
            url.target.push('/');
            let ask = Ask::new(Method::GET, url, "");
            let request = request(&ask, None, &ask.url.origin, empty());
            match client.connections.send("Get", &ask.url, request).await {
                Ok(response) => {
                    if response.status() == StatusCode::UNAUTHORIZED {
                        self.auth.learn(&challenges(&response));
                    }
                    return Ok(base.clone());
                }
                Err(error @ Error::Configuration { .. }) => return Err(error),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| Error::Unsupported("there is no server to ask".to_owned())))
    }
}

pub(crate) fn empty() -> RequestBody {
    BodyExt::boxed_unsync(Full::new(Bytes::new()).map_err(|never| match never {}))
}

/// What is to be done with a repository: tokens are asked for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read.
    Pull,
    /// Read and write.
    Push,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) client: Client,
    pub(crate) servers: Vec<Server>,
}

/// All servers of one domain, and one credential for them. Cheap to clone; connections and tokens
/// are kept as long as one of them lives.
#[derive(Debug, Clone)]
pub struct Registry(pub(crate) Arc<Inner>);

/// A successful login.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    /// Stands for name and password from now on; empty: there is none.
    pub identity_token: String,
}

/// A repository of a registry.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(crate) inner: Arc<Inner>,
    /// Its path, without the domain.
    pub(crate) path: String,
    pub(crate) scope: String,
    /// Servers that may be asked, by their index.
    pub(crate) access: Access,
}

impl Registry {
    /// Reads what the files say about a domain; nothing is connected yet.
    ///
    /// # Errors
    /// When a file of the configuration cannot be used.
    pub fn open(hosts: &Arc<Hosts>, domain: &str, credential: &Credential) -> Result<Registry> {
        let endpoints = hosts.endpoints(domain)?;
        let mut given = HashMap::new();
        let mut servers = Vec::new();
        for endpoint in endpoints {
            for base in &endpoint.bases {
                given.insert(base.origin.clone(), endpoint.trust.clone());
            }
            let credential = match endpoint.mirror {
                true => Credential::Anonymous,
                false => credential.clone(),
            };
            let (auth, base) = (Auth::new(credential), OnceCell::new());
            servers.push(Server {
                endpoint,
                auth,
                base,
            });
        }
        let connections = Connections::new(hosts.clone(), given);
        Ok(Registry(Arc::new(Inner {
            client: Client { connections },
            servers,
        })))
    }

    /// A repository; `path` is its name without the domain.
    pub fn repository(&self, path: &str, access: Access) -> Repository {
        let actions = match access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        Repository {
            inner: self.0.clone(),
            path: path.to_owned(),
            scope: format!("repository:{path}:{actions}"),
            access,
        }
    }

    /// Shows the credential to the registry.
    ///
    /// # Errors
    /// `Unauthenticated` when it is not taken.
    pub async fn login(&self) -> Result<Login> {
        let client = &self.0.client;
        let none = || Error::Unsupported("there is no registry to log in to".to_owned());
        let server = self.0.servers.last().ok_or_else(none)?;
        let mut url = server.base(client).await?.clone();
        url.target.push('/');
        let ask = Ask::new(Method::GET, url, "");
        let response = client.ask(Some(server), &ask).await?;
        good(response, &ask).await?;
        let identity_token = server.auth.refresh_token().unwrap_or_default();
        Ok(Login { identity_token })
    }

    /// What a search of the registry answers (`/v1/search`, which Docker Hub and few others have).
    ///
    /// # Errors
    /// When it has none.
    pub async fn search(&self, term: &str, limit: u32) -> Result<Bytes> {
        let client = &self.0.client;
        let none = || Error::Unsupported("there is no registry to search".to_owned());
        let server = self.0.servers.last().ok_or_else(none)?;
        let mut url = server.base(client).await?.clone();
        url.target = "/v1/search".to_owned();
        let url = url
            .with_query("q", term)
            .with_query("n", &limit.to_string());
        let ask = Ask::new(Method::GET, url, "").header(ACCEPT, "application/json");
        let found = client
            .document_of(Some(server), &ask, SEARCH_BYTES_MAX, "the search")
            .await?;
        found.json::<serde::de::IgnoredAny>("the search")?;
        Ok(found.bytes)
    }
}

impl Repository {
    /// The servers that may be asked for this access, in order.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &Server> {
        let all = self.inner.servers.iter();
        all.filter(|server| self.access == Access::Pull || server.endpoint.takes_pushes)
    }

    /// The address of something in the repository at a server.
    pub(crate) async fn url(&self, server: &Server, rest: &str) -> Result<Url> {
        let base = server.base(&self.inner.client).await?;
        let target = format!("{}/{}/{rest}", base.target, self.path);
        Ok(Url {
            origin: base.origin.clone(),
            target,
        })
    }
}

/// A failure of the other side to keep to the protocol.
pub(crate) fn protocol(ask: &Ask<'_>, problem: &'static str) -> Error {
    Error::Exchange {
        method: ask.go_method(),
        url: ask.url.to_string(),
        cause: ConnectionError::Protocol(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit() {
        assert!((200..=300).contains(&backoff(1).as_millis()));
        assert!((800..=1200).contains(&backoff(3).as_millis()));
        assert_eq!(backoff(40).as_millis(), 30_000);
    }

    #[test]
    fn reasons_are_read_from_registries_and_token_servers() {
        let check = |text: &str, code: &str, message: &str| {
            let expected = Reason {
                code: code.into(),
                message: message.into(),
            };
            assert_eq!(reason(text.as_bytes()), expected, "{text}");
        };
        check(
            r#"{"errors":[{"code":"DENIED","message":"no\u001b[0m"}]}"#,
            "DENIED",
            "no [0m",
        );
        check(
            r#"{"details":"incorrect username or password"}"#,
            "UNAUTHORIZED",
            "incorrect username or password",
        );
        check("<html>", "", "");
        check("{}", "", "");
    }
}
