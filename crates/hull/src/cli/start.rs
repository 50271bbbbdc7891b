//! `hull start`.

use super::failure::Failure;
use super::run::{accompany, attach, exit_status, flatten, start, wait_for_exit};
use super::session::{Session, print_line, warn_line};
use super::stream::{self, StreamEnd, StreamOptions};
use super::value::Value;
use super::{Command, signal};

/// `hull start`.
#[derive(Debug, clap::Args)]
pub(crate) struct Start {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(long, short)]
    attach: bool,
    /// Attach container's STDIN
    #[arg(long, short)]
    interactive: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Command for Start {
    const USAGE: &str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ABOUT: &str = "Start one or more stopped containers";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        if !self.attach && !self.interactive {
            return self.start_all(session).await;
        }
        match &self.containers[..] {
            [container] => self.start_attached(session, container).await,
            _ => Err(Failure::new(
                "you cannot start and attach multiple containers at once",
            )),
        }
    }
}

impl Start {
    async fn start_all(&self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let mut failed = Vec::new();
        for container in &self.containers {
            match start(client, container).await {
                Ok(()) => print_line(container)?,
                Err(error) => {
                    warn_line(&Failure::from(error).message);
                    failed.push(container.as_str());
                }
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        Err(Failure::new(format!(
            "Error: failed to start containers: {}",
            failed.join(", ")
        )))
    }

    async fn start_attached(&self, session: &Session, name: &str) -> Result<(), Failure> {
        let client = session.client().await?;
        let found: Value = client
            .get(format!("/containers/{name}/json"))
            .receive()
            .await?;
        let id = found.text(&["Id"]);
        let tty = found.flag(&["Config", "Tty"]);
        let auto_remove = found.flag(&["HostConfig", "AutoRemove"]);
        let keys = self
            .detach_keys
            .clone()
            .or_else(|| session.setting("detachKeys"));
        let signals = (!tty).then(signal::catch_all);
        let options = StreamOptions {
            stdin: self.interactive && found.flag(&["Config", "OpenStdin"]),
            stdout: true,
            stderr: true,
            tty,
            detach_keys: keys.unwrap_or_default(),
            ends_by_signal: true,
        };
        let attached = attach(client, id, &options).await?;
        let mut stream = tokio::spawn(stream::join(attached, options));
        let waiting = wait_for_exit(client, id, auto_remove).await?;
        let status = tokio::spawn(exit_status(waiting));
        if let Err(error) = start(client, id).await {
            stream.abort();
            let _ = (&mut stream).await;
            if auto_remove {
                let _ = status.await;
            }
            return Err(error.into());
        }
        let ended = async {
            match flatten(stream.await)? {
                StreamEnd::Detached => Ok(0),
                StreamEnd::Finished => flatten(status.await),
            }
        };
        let code = tokio::select! {
            code = ended => code?,
            never = accompany(client, id, signals, tty) => never,
        };
        if code == 0 {
            Ok(())
        } else {
            Err(Failure::status(code))
        }
    }
}
