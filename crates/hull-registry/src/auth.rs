//! Proof of who we are: basic, or a token from the server that the registry names.
//!
//! Tokens are kept per scope until shortly before they end. A credential goes to the registry's own
//! origin and to its token server, and to the latter only by TLS when the registry itself is
//! reached by TLS.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method};
use serde::Deserialize;

use crate::challenge::Challenge;
use crate::error::{Error, Result};
use crate::registry::{Ask, Client};
use crate::url::{Origin, Url, percent_encode};

/// Bytes of a token server's answer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Bytes of one token: what fits into a header that servers take.
const TOKEN_BYTES_MAX: usize = 64 << 10;
/// How long a token holds that does not say so.
const TOKEN_S: u64 = 60;
/// A token is not used any more so long before its end.
const TOKEN_MARGIN_S: u64 = 10;
/// Tokens that are kept.
const TOKENS_MAX: usize = 256;
/// How we name ourselves to token servers.
const CLIENT_ID: &str = "hull";

/// Who we are to one registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credential {
    /// Nobody.
    #[default]
    Anonymous,
    /// Name and password.
    Password {
        /// Name.
        user: String,
        /// Password.
        password: String,
    },
    /// A token that token servers change into others.
    IdentityToken(String),
    /// A token for the registry itself.
    RegistryToken(String),
}

/// Without the secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Password { .. } => "Password",
            Self::IdentityToken(_) => "IdentityToken",
            Self::RegistryToken(_) => "RegistryToken",
        })
    }
}

impl Credential {
    fn basic(&self) -> Option<HeaderValue> {
        let Self::Password { user, password } = self else {
            return None;
        };
        secret(&format!(
            "Basic {}",
            STANDARD.encode(format!("{user}:{password}"))
        ))
    }
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What one server has asked for, and what it got.
#[derive(Default)]
pub(crate) struct Auth {
    credential: Credential,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    challenge: Option<Challenge>,
    /// By scope.
    tokens: HashMap<String, Token>,
    /// Given for the identity, to be kept by the client.
    refresh: Option<String>,
}

struct Token {
    header: HeaderValue,
    until: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    refresh_token: String,
    expires_in: Option<u64>,
}

impl Auth {
    pub(crate) fn new(credential: Credential) -> Self {
        Self {
            credential,
            known: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token for the identity that a login brought.
    pub(crate) fn refresh_token(&self) -> Option<String> {
        self.lock().refresh.clone()
    }

    /// The header for a scope, if what was learnt before suffices to say it.
    pub(crate) fn header(&self, scope: &str) -> Option<HeaderValue> {
        if let Credential::RegistryToken(token) = &self.credential {
            return secret(&format!("Bearer {token}"));
        }
        let known = self.lock();
        match known.challenge.as_ref()? {
            Challenge::Basic => self.credential.basic(),
            Challenge::Bearer { .. } => {
                let token = known.tokens.get(scope)?;
                (token.until > Instant::now()).then(|| token.header.clone())
            }
        }
    }

    /// Takes note of what a server asks for, so that it need not ask again.
    pub(crate) fn learn(&self, challenges: &[Challenge]) {
        let basic = self.credential.basic().is_some() && challenges.contains(&Challenge::Basic);
        let bearer = challenges
            .iter()
            .any(|c| matches!(c, Challenge::Bearer { .. }));
        if basic && !bearer {
            self.lock().challenge = Some(Challenge::Basic);
        }
    }

    /// Meets one of the challenges; after this [`Auth::header`] has an answer.
    ///
    /// # Errors
    /// When none can be met, or the token server says no.
    pub(crate) async fn answer(
        &self,
        client: &Client,
        challenges: Vec<Challenge>,
        refused: &Ask<'_>,
    ) -> Result<()> {
        let origin = &refused.url.origin;
        let has_basic = self.credential.basic().is_some();
        let bearer = challenges
            .iter()
            .find(|c| matches!(c, Challenge::Bearer { .. }));
        let basic = challenges.contains(&Challenge::Basic);
        match bearer {
            Some(challenge) => {
                self.lock().challenge = Some(challenge.clone());
                self.fetch_token(client, origin, challenge, refused.scope)
                    .await
            }
            None if basic && has_basic => {
                self.lock().challenge = Some(Challenge::Basic);
                Ok(())
            }
            None if basic => Err(Error::NoCredential {
                method: refused.go_method(),
                url: refused.url.to_string(),
            }),
            None => Err(Error::Malformed {
                what: "the challenge",
                url: refused.url.to_string(),
                problem: "neither Basic nor Bearer".to_owned(),
            }),
        }
    }

    async fn fetch_token(
        &self,
        client: &Client,
        origin: &Origin,
        challenge: &Challenge,
        scope: &str,
    ) -> Result<()> {
        let Challenge::Bearer {
            realm,
            service,
            scope: asked,
        } = challenge
        else {
            return Ok(());
        };
        let malformed = |problem: &str| Error::Malformed {
            what: "the challenge",
            url: origin.to_string(),
            problem: problem.to_owned(),
        };
        let realm = Url::parse(realm).ok_or_else(|| malformed("its realm is no address"))?;
        if origin.tls && !realm.origin.tls {
            return Err(malformed(
                "its realm is not reached by TLS, the registry is",
            ));
        }
        let scopes: Vec<&str> = match scope {
            "" => asked.split(' ').filter(|scope| !scope.is_empty()).collect(),
            scope => scope.split(' ').collect(),
        };
        let ask = self.token_request(realm, service, &scopes);
        let answer = client.document(&ask, ANSWER_BYTES_MAX, "the token").await?;
        let answer: TokenAnswer = answer.json("the token")?;
        let token = if answer.token.is_empty() {
            answer.access_token
        } else {
            answer.token
        };
        let header = Some(token)
            .filter(|token| !token.is_empty() && token.len() <= TOKEN_BYTES_MAX)
            .and_then(|token| secret(&format!("Bearer {token}")));
        let header = header.ok_or_else(|| Error::Malformed {
            what: "the token",
            url: ask.url.to_string(),
            problem: "it is missing, or cannot be sent".to_owned(),
        })?;
        let seconds = answer
            .expires_in
            .unwrap_or(TOKEN_S)
            .max(TOKEN_S)
            .min(u64::from(u32::MAX));
        let until = Instant::now() + Duration::from_secs(seconds - TOKEN_MARGIN_S);
        let mut known = self.lock();
        if known.tokens.len() >= TOKENS_MAX {
            known.tokens.clear();
        }
        known
            .tokens
            .insert(scope.to_owned(), Token { header, until });
        if !answer.refresh_token.is_empty() {
            known.refresh = Some(answer.refresh_token);
        }
        Ok(())
    }

    fn token_request(&self, realm: Url, service: &str, scopes: &[&str]) -> Ask<'static> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Credential::IdentityToken(token) = &self.credential {
            let mut form = String::new();
            let scope = scopes.join(" ");
            let pairs = [
                ("grant_type", "refresh_token"),
                ("service", service),
                ("client_id", CLIENT_ID),
                ("refresh_token", token),
                ("scope", &scope),
            ];
            for (name, value) in pairs {
                form.push_str(if form.is_empty() { "" } else { "&" });
                form.push_str(name);
                form.push('=');
                percent_encode(value, &mut form);
            }
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(CONTENT_TYPE, kind);
            let body = Bytes::from(form);
            return Ask {
                method: Method::POST,
                url: realm,
                headers,
                scope: "",
                body,
            };
        }
        let mut url = realm;
        if !service.is_empty() {
            url = url.with_query("service", service);
        }
        for scope in scopes {
            url = url.with_query("scope", scope);
        }
        if let Credential::Password { user, .. } = &self.credential {
            url = url.with_query("account", user);
        }
        if let Some(basic) = self.credential.basic() {
            headers.insert(AUTHORIZATION, basic);
        }
        Ask {
            method: Method::GET,
            url,
            headers,
            scope: "",
            body: Bytes::new(),
        }
    }
}
