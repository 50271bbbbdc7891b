//! `hull exec`.

use serde::Serialize;

use super::container::{self, parse};
use super::create::terminal_size;
use super::failure::Failure;
use super::run::flatten;
use super::session::Session;
use super::stream::{self, DETACHED_MESSAGE, StreamEnd, StreamOptions};
use super::value::Value;
use super::{Command, arguments};

/// `hull exec`.
#[derive(Debug, clap::Args)]
pub(crate) struct Exec {
    /// Detached mode: run command in the background
    #[arg(long, short)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "string")]
    detach_keys: Option<String>,
    /// Set environment variables
    #[arg(long, short, value_name = "list", value_parser = parse::env)]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    env_file: Vec<String>,
    /// Keep STDIN open even if not attached
    #[arg(long, short)]
    interactive: bool,
    /// Give extended privileges to the command
    #[arg(long)]
    privileged: bool,
    /// Allocate a pseudo-TTY
    #[arg(long, short)]
    tty: bool,
    /// Username or UID (format: "<name|uid>[:<group|gid>]")
    #[arg(long, short, value_name = "string")]
    user: Option<String>,
    /// Working directory inside the container
    #[arg(long, short, value_name = "string")]
    workdir: Option<String>,
    #[arg(trailing_var_arg = true, required = true, num_args = 1.., value_name = "CONTAINER")]
    words: Vec<String>,
}

/// The body of `POST /containers/{id}/exec`, as Docker's client sends it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ExecBody<'a> {
    user: &'a str,
    privileged: bool,
    tty: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    console_size: Option<[u16; 2]>,
    attach_stdin: bool,
    attach_stderr: bool,
    attach_stdout: bool,
    detach: bool,
    detach_keys: &'a str,
    env: Option<Vec<String>>,
    working_dir: &'a str,
    cmd: &'a [String],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ExecStartBody {
    detach: bool,
    tty: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    console_size: Option<[u16; 2]>,
}

impl Command for Exec {
    const USAGE: &str = "[OPTIONS] CONTAINER COMMAND [ARG...]";
    const ABOUT: &str = "Execute a command in a running container";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let Some((name, command)) = self.words.split_first().filter(|(_, c)| !c.is_empty()) else {
            let usage = format!("exec {}", Self::USAGE);
            let demand = "requires at least 2 arguments";
            return Err(arguments::wrong_count("exec", &usage, demand));
        };
        let env = container::variables(&self.env_file, &self.env)?;
        let client = session.client().await?;
        // "No such container" comes before "not a TTY", as with Docker.
        client
            .get(format!("/containers/{name}/json"))
            .done()
            .await?;
        let keys = self
            .detach_keys
            .clone()
            .or_else(|| session.setting("detachKeys"));
        let keys = keys.unwrap_or_default();
        if !self.detach {
            stream::check_tty(self.interactive, self.tty)?;
        }
        let console_size = self.tty.then(terminal_size);
        let body = ExecBody {
            user: self.user.as_deref().unwrap_or_default(),
            privileged: self.privileged,
            tty: self.tty,
            console_size,
            attach_stdin: !self.detach && self.interactive,
            attach_stderr: !self.detach,
            attach_stdout: !self.detach,
            detach: self.detach,
            detach_keys: &keys,
            env: (!env.is_empty()).then_some(env),
            working_dir: self.workdir.as_deref().unwrap_or_default(),
            cmd: command,
        };
        let call = client
            .post(format!("/containers/{name}/exec"))
            .json(&body)?;
        let created: Value = call.receive().await?;
        let path = format!("/exec/{}", created.text(&["Id"]));
        let start = ExecStartBody {
            detach: self.detach,
            tty: self.tty,
            console_size,
        };
        let call = client.post(format!("{path}/start")).json(&start)?;
        if self.detach {
            return Ok(call.done().await?);
        }
        let options = StreamOptions {
            stdin: self.interactive,
            stdout: true,
            stderr: true,
            tty: self.tty,
            detach_keys: keys,
            ends_by_signal: true,
        };
        let joined = tokio::spawn(stream::join(call.hijack().await?, options));
        let size = async {
            if self.tty && stream::output_is_terminal() {
                stream::follow_size(client, &path).await;
            }
            std::future::pending().await
        };
        let ended = tokio::select! {
            ended = joined => flatten(ended)?,
            never = size => never,
        };
        if ended == StreamEnd::Detached {
            return Err(Failure::new(DETACHED_MESSAGE));
        }
        let found: Value = client.get(format!("{path}/json")).receive().await?;
        match found.int(&["ExitCode"]) {
            0 => Ok(()),
            code => Err(Failure::status(code)),
        }
    }
}
