//! What every command has: the chosen engine, the client's own settings, and where it prints.

use std::io::Write;
use std::path::PathBuf;

use tokio::sync::OnceCell;

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
    /// Set the logging level ("debug", "info", "warn", "error", "fatal")
    #[arg(long, short, value_name = "string")]
    pub(crate) log_level: Option<String>,
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
        Ok(Endpoint::choose(host, context, &self.config_dir())?)
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
