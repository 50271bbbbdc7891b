//! What every command has: the chosen engine, the client's own settings, and where it prints.

use std::io::Write;
use std::path::{Path, PathBuf};

use hull_registry::Trust;
use tokio::sync::OnceCell;

use super::arguments::parse_bool;
use super::failure::Failure;
use crate::client::{Client, Endpoint};

/// Options before the name of the command.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct GlobalOptions {
    /// Location of client config files
    #[arg(long, value_name = "string")]
    pub(crate) config: Option<PathBuf>,
    /// Name of the context to use to connect to the daemon
    #[arg(long, short, value_name = "string")]
    pub(crate) context: Option<String>,
    /// Enable debug mode
    #[arg(long, short = 'D')]
    pub(crate) debug: bool,
    /// Daemon socket to connect to
    #[arg(long, short = 'H', value_name = "list")]
    pub(crate) host: Option<String>,
    /// Set the logging level ("debug", "info", "warn", "error", "fatal") (default "info")
    #[arg(long, short, value_name = "string")]
    pub(crate) log_level: Option<String>,
    /// How it is encrypted.
    #[command(flatten)]
    pub(crate) tls: TlsOptions,
}

/// Options for an engine that is reached by TCP with TLS.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct TlsOptions {
    /// Use TLS; implied by --tlsverify
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_name = "bool", value_parser = parse_bool)]
    tls: Option<bool>,
    /// Trust certs signed only by this CA
    #[arg(long, value_name = "string")]
    tlscacert: Option<PathBuf>,
    /// Path to TLS certificate file
    #[arg(long, value_name = "string")]
    tlscert: Option<PathBuf>,
    /// Path to TLS key file
    #[arg(long, value_name = "string")]
    tlskey: Option<PathBuf>,
    /// Use TLS and verify the remote
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_name = "bool", value_parser = parse_bool)]
    tlsverify: Option<bool>,
}

impl TlsOptions {
    /// Whom the other side is taken for; none: there is no TLS. By the rules of docker's client:
    /// DOCKER_TLS, DOCKER_TLS_VERIFY and DOCKER_CERT_PATH stand for options that are not given.
    fn trust(&self, config_dir: &Path) -> Option<Trust> {
        let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let verify = self
            .tlsverify
            .unwrap_or(given("DOCKER_TLS_VERIFY").is_some());
        let on = self.tls.unwrap_or(given("DOCKER_TLS").is_some());
        if !(on || verify || self.tlsverify.is_some()) {
            return None;
        }
        let folder = given("DOCKER_CERT_PATH").map_or(config_dir.to_owned(), PathBuf::from);
        // A file that nobody named may be missing.
        let usual = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let cert = self.tlscert.clone().or_else(|| usual("cert.pem"));
        let key = self.tlskey.clone().or_else(|| usual("key.pem"));
        let ca = self.tlscacert.clone().unwrap_or(folder.join("ca.pem"));
        Some(Trust {
            skip_verify: !verify,
            authorities: if verify { vec![ca] } else { Vec::new() },
            no_system: true,
            identity: cert.zip(key),
        })
    }
}

/// One run of the command line.
#[derive(Debug)]
pub(crate) struct Session {
    options: GlobalOptions,
    client: OnceCell<Client>,
    settings: std::cell::OnceCell<serde_json::Value>,
}

impl Session {
    /// Makes a session; nothing is opened or read before a command asks for it.
    pub(crate) fn new(options: GlobalOptions) -> Session {
        Session {
            options,
            client: OnceCell::new(),
            settings: std::cell::OnceCell::new(),
        }
    }

    /// The client of the chosen engine.
    pub(crate) async fn client(&self) -> Result<&Client, Failure> {
        let make = || async { Ok(Client::new(self.endpoint()?)) };
        self.client.get_or_try_init(make).await
    }

    /// Where the chosen engine is.
    pub(crate) fn endpoint(&self) -> Result<Endpoint, Failure> {
        let host = self.options.host.as_deref();
        let context = self.options.context.as_deref();
        let config_dir = self.config_dir();
        let tls = self.options.tls.trust(&config_dir);
        Ok(Endpoint::choose_secured(host, context, &config_dir, tls)?)
    }

    /// The context that `--context` names.
    pub(crate) fn context(&self) -> Option<&str> {
        self.options.context.as_deref()
    }

    /// The folder of the client's settings: Docker's, so that both read the same.
    pub(crate) fn config_dir(&self) -> PathBuf {
        let from_environment = || std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
        let home = || std::env::home_dir().unwrap_or_default().join(".docker");
        self.options
            .config
            .clone()
            .or_else(from_environment)
            .unwrap_or_else(home)
    }

    /// A text setting (`psFormat`, `detachKeys`) of `config.json`.
    pub(crate) fn setting(&self, name: &str) -> Option<String> {
        let read = || {
            let text = std::fs::read(self.config_dir().join("config.json")).unwrap_or_default();
            serde_json::from_slice(&text).unwrap_or_default()
        };
        let value = self.settings.get_or_init(read).get(name)?.as_str()?;
        (!value.is_empty()).then(|| value.to_owned())
    }
}

/// Prints to the standard output.
///
/// # Errors
/// Where nobody reads it any more, which ends the command as it would end any other program.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(|cause| match cause.kind() {
        // 128 + SIGPIPE, as for programs that do not ignore it.
        std::io::ErrorKind::BrokenPipe => Failure::status(141),
        _ => Failure::new(format!("write to standard output: {cause}")),
    })
}

/// Prints a line to the standard output.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// Prints to the standard error; there is nobody to tell where that fails.
pub(crate) fn warn(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Prints a line to the standard error; there is nobody to tell where that fails.
pub(crate) fn warn_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
