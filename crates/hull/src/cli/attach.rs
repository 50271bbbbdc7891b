//! `hull attach`.

use super::arguments::parse_bool;
use super::failure::Failure;
use super::run::{WaitAnswer, accompany, attach, flatten};
use super::session::Session;
use super::stream::{self, DETACHED_MESSAGE, StreamEnd, StreamOptions};
use super::value::Value;
use super::{Command, signal};
use crate::client::Client;

/// `hull attach`.
#[derive(Debug, clap::Args)]
pub(crate) struct Attach {
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "bool", value_parser = parse_bool,
        action = clap::ArgAction::Set)]
    sig_proxy: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    container: String,
}

impl Command for Attach {
    const USAGE: &str = "[OPTIONS] CONTAINER";
    const ABOUT: &str =
        "Attach local standard input, output, and error streams to a running container";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        // Asked before anything else, so that an end in between is not missed.
        let name = &self.container;
        let waiting = client
            .post(format!("/containers/{name}/wait"))
            .send()
            .await?;
        let found = inspect_running(client, name).await?;
        let tty = found.flag(&["Config", "Tty"]);
        stream::check_tty(!self.no_stdin, tty)?;
        let keys = self
            .detach_keys
            .clone()
            .or_else(|| session.setting("detachKeys"));
        let options = StreamOptions {
            stdin: !self.no_stdin && found.flag(&["Config", "OpenStdin"]),
            stdout: true,
            stderr: true,
            tty,
            detach_keys: keys.unwrap_or_default(),
            ends_by_signal: true,
        };
        let signals = (self.sig_proxy && !tty).then(signal::catch_all);
        let attached = attach(client, name, &options).await?;
        inspect_running(client, name).await?;
        if tty && stream::output_is_terminal() {
            // A program draws its screen again when the size changes: make it change.
            let _ = stream::resize(client, &format!("/containers/{name}"), 1).await;
        }
        let joined = tokio::spawn(stream::join(attached, options));
        let ended = tokio::select! {
            ended = joined => flatten(ended)?,
            never = accompany(client, name, signals, tty) => never,
        };
        if ended == StreamEnd::Detached {
            return Err(Failure::new(DETACHED_MESSAGE));
        }
        let answer: WaitAnswer = waiting.json().await?;
        match (answer.error, answer.status_code) {
            (Some(error), _) => Err(Failure::new(error.message)),
            (None, 0) => Ok(()),
            (None, code) => Err(Failure::status(code)),
        }
    }
}

async fn inspect_running(client: &Client, name: &str) -> Result<Value, Failure> {
    let found: Value = client
        .get(format!("/containers/{name}/json"))
        .receive()
        .await?;
    let refuse = |text: &str| Err(Failure::new(format!("You cannot attach to a {text}")));
    if !found.flag(&["State", "Running"]) {
        return refuse("stopped container, start it first");
    }
    if found.flag(&["State", "Paused"]) {
        return refuse("paused container, unpause it first");
    }
    if found.flag(&["State", "Restarting"]) {
        return refuse("restarting container, wait until it is running");
    }
    Ok(found)
}
