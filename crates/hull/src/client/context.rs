//! Docker's contexts: engines with names, kept as files that docker and hull both read and write.
//!
//! ```text
//!   <config>/config.json                              currentContext
//!   <config>/contexts/meta/<sha256 of name>/meta.json {"Name", "Metadata", "Endpoints"}
//!   <config>/contexts/tls/<sha256 of name>/…          keys, which only docker writes
//! ```

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use hull_registry::Trust;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The context that is always there and has no file: what the environment says.
pub(crate) const DEFAULT: &str = "default";

/// One engine with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Context {
    /// Unique among contexts.
    pub(crate) name: String,
    /// For people.
    pub(crate) description: String,
    /// Address of the engine; empty: none is given.
    pub(crate) host: String,
    /// Whether the server's certificate is not checked.
    pub(crate) skip_tls_verify: bool,
}

/// The contexts of a folder of settings.
#[derive(Debug)]
pub(crate) struct Contexts {
    config_dir: PathBuf,
}

impl Contexts {
    /// Those of `config_dir`; nothing is read yet.
    pub(crate) fn of(config_dir: &Path) -> Contexts {
        Contexts {
            config_dir: config_dir.to_owned(),
        }
    }

    /// All but the default one, by name.
    pub(crate) fn list(&self) -> Vec<Context> {
        let folders = std::fs::read_dir(self.config_dir.join("contexts/meta"));
        let mut found: Vec<Context> = folders
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|folder| read(&folder.path().join("meta.json")).ok())
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// The context of that name.
    ///
    /// # Errors
    /// Where its file is missing or is not what docker writes.
    pub(crate) fn find(&self, name: &str) -> io::Result<Context> {
        read(&self.meta_path(name))
    }

    /// Writes a context, in place of one of that name.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(crate) fn write(&self, context: &Context) -> io::Result<()> {
        let path = self.meta_path(&context.name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut metadata = serde_json::Map::new();
        if !context.description.is_empty() {
            metadata.insert("Description".to_owned(), json!(context.description));
        }
        let meta = json!({
            "Name": context.name,
            "Metadata": metadata,
            "Endpoints": {"docker": {"Host": context.host, "SkipTLSVerify": context.skip_tls_verify}},
        });
        replace(&path, meta.to_string().as_bytes())
    }

    /// Removes a context and its keys.
    ///
    /// # Errors
    /// Where its files cannot be removed.
    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        for folder in [self.meta_folder(name), self.tls_folder(name)] {
            match std::fs::remove_dir_all(&folder) {
                Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
                _ => {}
            }
        }
        Ok(())
    }

    /// The context that `docker context use` chose, unless it is the default one.
    pub(crate) fn current(&self) -> Option<String> {
        let config = self.config().ok()?;
        let name = config.get("currentContext")?.as_str()?;
        (!name.is_empty() && name != DEFAULT).then(|| name.to_owned())
    }

    /// Chooses a context for commands that name none; all other settings stay as they are.
    ///
    /// # Errors
    /// Where the settings cannot be read or written.
    pub(crate) fn choose(&self, name: &str) -> io::Result<()> {
        let mut config = match self.config() {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => json!({}),
            config => config?,
        };
        if let Some(members) = config.as_object_mut() {
            members.remove("currentContext");
            if name != DEFAULT {
                members.insert("currentContext".to_owned(), json!(name));
            }
        }
        std::fs::create_dir_all(&self.config_dir)?;
        let text = serde_json::to_vec_pretty(&config).map_err(io::Error::other)?;
        replace(&self.config_dir.join("config.json"), &text)
    }

    /// Where a context's file lies.
    pub(crate) fn meta_folder(&self, name: &str) -> PathBuf {
        self.config_dir.join("contexts/meta").join(folder_of(name))
    }

    /// Where a context's keys lie.
    /// How a context's engine is reached with TLS: by the keys that it has, or without any check.
    pub(crate) fn trust(&self, context: &Context) -> Option<Trust> {
        let folder = self.tls_folder(&context.name).join("docker");
        let file = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let ca = file("ca.pem");
        let trust = Trust {
            skip_verify: context.skip_tls_verify,
            no_system: ca.is_some(),
            authorities: ca.into_iter().collect(),
            identity: file("cert.pem").zip(file("key.pem")),
        };
        (trust != Trust::default()).then_some(trust)
    }

    pub(crate) fn tls_folder(&self, name: &str) -> PathBuf {
        self.config_dir.join("contexts/tls").join(folder_of(name))
    }

    /// The file that describes a context.
    pub(crate) fn meta_path(&self, name: &str) -> PathBuf {
        self.meta_folder(name).join("meta.json")
    }

    fn config(&self) -> io::Result<Value> {
        let text = std::fs::read(self.config_dir.join("config.json"))?;
        serde_json::from_slice(&text).map_err(io::Error::other)
    }
}

fn folder_of(name: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(name.as_bytes()) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

fn read(path: &Path) -> io::Result<Context> {
    let meta: Value = serde_json::from_slice(&std::fs::read(path)?).map_err(io::Error::other)?;
    let text = |pointer: &str| {
        let value = meta.pointer(pointer).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    Ok(Context {
        name: text("/Name"),
        description: text("/Metadata/Description"),
        host: text("/Endpoints/docker/Host"),
        skip_tls_verify: meta.pointer("/Endpoints/docker/SkipTLSVerify")
            == Some(&Value::Bool(true)),
    })
}

/// Never half a file under that name.
#[expect(
    clippy::disallowed_methods,
    reason = "a user's settings need not survive a power cut, they only must not be half"
)]
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_and_chosen_and_other_settings_stay() {
        let folder = std::env::temp_dir().join(format!("hull-contexts-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("config.json"), r#"{"auths":{"a":{}}}"#).unwrap();
        let contexts = Contexts::of(&folder);
        let context = Context {
            name: "far".to_owned(),
            description: "away".to_owned(),
            host: "ssh://me@far".to_owned(),
            skip_tls_verify: false,
        };
        contexts.write(&context).unwrap();
        assert_eq!(contexts.find("far").unwrap(), context);
        assert_eq!(contexts.list(), [context]);
        // The folder's name is docker's: the SHA-256 of the context's.
        let folder_name = contexts.meta_folder("default");
        assert!(
            folder_name
                .ends_with("37a8eec1ce19687d132fe29051dca629d164e2c4958ba141d5f4133a33f0688f")
        );
        contexts.choose("far").unwrap();
        assert_eq!(contexts.current().as_deref(), Some("far"));
        contexts.choose(DEFAULT).unwrap();
        assert_eq!(contexts.current(), None);
        let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
        assert!(config.contains("auths"), "{config}");
        contexts.remove("far").unwrap();
        assert!(contexts.list().is_empty());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
