//! Who we are to registries: `config.json` and credential helpers, as Docker's client keeps them.
//!
//! ```text
//!  credHelpers[host] or credsStore ──▶ docker-credential-NAME get/store/erase
//!  else auths[host].auth           ──▶ base64 of name:password, in config.json itself
//! ```

use std::path::PathBuf;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use http::{HeaderName, HeaderValue};
use hull_os::durable::{self, Durability};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::failure::Failure;
use super::session::Session;

/// The key of Docker Hub.
pub(crate) const HUB: &str = "https://index.docker.io/v1/";
/// The name that helpers give to what is a token.
const TOKEN_USER: &str = "<token>";
/// What only its owner may read.
const FILE_MODE: u32 = 0o600;

/// A credential as the Docker API takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Credential {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) password: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) identitytoken: String,
    pub(crate) serveraddress: String,
}

/// What helpers speak.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Spoken {
    #[serde(rename = "ServerURL")]
    server_url: String,
    username: String,
    secret: String,
}

/// The key under which the credential for a registry is kept.
pub(crate) fn key_of(address: &str) -> String {
    let bare = address
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let host = bare.split('/').next().unwrap_or(bare);
    match host {
        "" | "docker.io" | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        host => host.to_owned(),
    }
}

/// The registry that an image's name begins with.
pub(crate) fn key_of_image(name: &str) -> String {
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => key_of(host),
        _ => HUB.to_owned(),
    }
}

/// The credentials of the user.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) path: PathBuf,
    settings: Map<String, Value>,
}

impl Credentials {
    /// Reads `config.json`; one that is not there is empty.
    pub(crate) fn read(session: &Session) -> Result<Credentials, Failure> {
        let path = session.config_dir().join("config.json");
        let settings = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|cause| Failure::new(format!("read {}: {cause}", path.display())))?,
            Err(_) => Map::new(),
        };
        Ok(Credentials { path, settings })
    }

    /// The helper for a registry, if there is one.
    pub(crate) fn helper(&self, key: &str) -> Option<String> {
        let own = self
            .settings
            .get("credHelpers")
            .and_then(|all| all.get(key));
        let name = own.or_else(|| self.settings.get("credsStore"))?.as_str()?;
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// The credential for a registry; an empty one when there is none.
    pub(crate) async fn find(&self, key: &str) -> Result<Credential, Failure> {
        let mut credential = Credential {
            serveraddress: key.to_owned(),
            ..Credential::default()
        };
        if let Some(helper) = self.helper(key) {
            let Ok(answer) = speak(&helper, "get", key.as_bytes()).await else {
                // Most often: none is known.
                return Ok(credential);
            };
            let spoken: Spoken = serde_json::from_slice(&answer).map_err(|cause| {
                Failure::new(format!(
                    "docker-credential-{helper} answered no JSON: {cause}"
                ))
            })?;
            if spoken.username == TOKEN_USER {
                credential.identitytoken = spoken.secret;
            } else {
                (credential.username, credential.password) = (spoken.username, spoken.secret);
            }
            return Ok(credential);
        }
        let known = self.settings.get("auths").and_then(Value::as_object);
        // Older files have addresses as keys.
        let entry = known.and_then(|all| {
            all.get(key).or_else(|| {
                let mut entries = all.iter();
                entries
                    .find(|(other, _)| key_of(other) == key)
                    .map(|(_, entry)| entry)
            })
        });
        let text = |name: &str| entry?.get(name)?.as_str();
        credential.identitytoken = text("identitytoken").unwrap_or_default().to_owned();
        let both = text("auth").and_then(|auth| STANDARD.decode(auth).ok());
        let both = both
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .unwrap_or_default();
        let (user, password) = both.split_once(':').unwrap_or_default();
        credential.username = user.to_owned();
        if credential.identitytoken.is_empty() {
            credential.password = password.trim_end_matches('\0').to_owned();
        }
        Ok(credential)
    }

    /// Keeps a credential.
    pub(crate) async fn store(&mut self, credential: &Credential) -> Result<(), Failure> {
        let key = credential.serveraddress.clone();
        let token = !credential.identitytoken.is_empty();
        if let Some(helper) = self.helper(&key) {
            let spoken = Spoken {
                server_url: key,
                username: if token {
                    TOKEN_USER.to_owned()
                } else {
                    credential.username.clone()
                },
                secret: match token {
                    true => credential.identitytoken.clone(),
                    false => credential.password.clone(),
                },
            };
            let spoken = serde_json::to_vec(&spoken).map_err(|e| Failure::new(e.to_string()))?;
            return speak(&helper, "store", &spoken).await.map(drop);
        }
        let secret = if token { "" } else { &credential.password };
        let both = STANDARD.encode(format!("{}:{secret}", credential.username));
        let mut entry = json!({ "auth": both });
        if token {
            entry["identitytoken"] = Value::String(credential.identitytoken.clone());
        }
        let auths = self.settings.entry("auths").or_insert_with(|| json!({}));
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(key, entry);
        }
        self.write()
    }

    /// Forgets a credential.
    pub(crate) async fn erase(&mut self, key: &str) -> Result<(), Failure> {
        if let Some(helper) = self.helper(key) {
            return speak(&helper, "erase", key.as_bytes()).await.map(drop);
        }
        if let Some(auths) = self
            .settings
            .get_mut("auths")
            .and_then(Value::as_object_mut)
        {
            auths.retain(|other, _| key_of(other) != key);
        }
        self.write()
    }

    fn write(&self) -> Result<(), Failure> {
        let failed =
            |cause: std::io::Error| Failure::new(format!("write {}: {cause}", self.path.display()));
        let text = serde_json::to_vec_pretty(&self.settings);
        let text = text.map_err(|cause| Failure::new(cause.to_string()))?;
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        durable::replace_file(&self.path, &text, FILE_MODE, Durability::Synced).map_err(failed)
    }
}

/// The header that shows the credential for an image to the engine.
pub(crate) async fn header_for(
    session: &Session,
    image: &str,
) -> Result<(HeaderName, HeaderValue), Failure> {
    let credential = Credentials::read(session)?
        .find(&key_of_image(image))
        .await?;
    let text = serde_json::to_vec(&credential).map_err(|e| Failure::new(e.to_string()))?;
    let value = HeaderValue::from_str(&URL_SAFE.encode(text));
    let value = value.map_err(|cause| Failure::new(cause.to_string()))?;
    Ok((HeaderName::from_static("x-registry-auth"), value))
}

/// One exchange with a helper.
async fn speak(helper: &str, action: &str, input: &[u8]) -> Result<Vec<u8>, Failure> {
    let name = format!("docker-credential-{helper}");
    let failed = |cause: std::io::Error| Failure::new(format!("{name} {action}: {cause}"));
    let mut child = Command::new(&name)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input).await.map_err(failed)?;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    // Helpers say what is wrong on their standard output.
    let said = String::from_utf8_lossy(&output.stdout);
    Err(Failure::new(format!("{name} {action}: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_have_one_key_each() {
        let check = |address: &str, key: &str| assert_eq!(key_of(address), key, "{address}");
        check("", HUB);
        check("docker.io", HUB);
        check("https://index.docker.io/v1/", HUB);
        check("https://r.io:5000/v2/", "r.io:5000");
        check("r.io", "r.io");
        assert_eq!(key_of_image("busybox"), HUB);
        assert_eq!(key_of_image("a/b"), HUB);
        assert_eq!(key_of_image("localhost/b"), "localhost");
        assert_eq!(key_of_image("r.io:5000/a/b:c"), "r.io:5000");
    }
}
