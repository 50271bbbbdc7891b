//! `hull run`: create, attach, wait, start, and the exit code of the program.

use serde::Deserialize;

use super::container::{ContainerOptions, CreateBody};
use super::create::{CreateOptions, create};
use super::failure::{EXIT_USAGE, Failure};
use super::session::{Session, print_line};
use super::stream::{self, StreamEnd, StreamOptions};
use super::{Command, arguments, signal};
use crate::client::{Client, ClientError, Reply};

/// Options of `run` that `create` lacks.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Run container in background and print container ID
    #[arg(long, short)]
    detach: bool,
    /// Proxy received signals to the process
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "bool",
        value_parser = arguments::parse_bool, action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// Override the key sequence for detaching a container
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "string"
    )]
    detach_keys: String,
    #[command(flatten)]
    create: CreateOptions,
    #[command(flatten)]
    container: ContainerOptions,
}

impl Command for Run {
    const USAGE: &str = "[OPTIONS] IMAGE [COMMAND] [ARG...]";
    const ABOUT: &str = "Create and run a new container from an image";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let mut body = self
            .container
            .body()
            .map_err(|failure| with_help(&failure, "run"))?;
        self.create
            .validate()
            .map_err(|failure| with_help(&failure, "run"))?;
        if self.detach {
            if !self.container.attach.is_empty() {
                let text = "conflicting options: cannot specify both --attach and --detach";
                return Err(Failure::new(text));
            }
            body.config.attach_stdin = false;
            body.config.attach_stdout = false;
            body.config.attach_stderr = false;
            body.config.stdin_once = false;
        } else {
            stream::check_tty(body.config.attach_stdin, body.config.tty)?;
        }
        self.run_container(session, body).await
    }
}

impl Run {
    async fn run_container(self, session: &Session, body: CreateBody) -> Result<(), Failure> {
        let client = session.client().await?;
        let config = body.config.clone();
        let auto_remove = body.host_config.auto_remove;
        let created = create(session, body, &self.create).await;
        let id = created.map_err(|failure| start_failure(&failure))?;
        let signals = self.sig_proxy.then(signal::catch_all);
        if !(config.attach_stdin || config.attach_stdout || config.attach_stderr) {
            print_line(&id)?;
            let started = start(client, &id).await;
            return started.map_err(|error| start_failure(&error.into()));
        }
        let keys = self.detach_keys.clone();
        let keys = if keys.is_empty() {
            session.setting("detachKeys")
        } else {
            Some(keys)
        };
        let options = StreamOptions {
            stdin: config.attach_stdin,
            stdout: config.attach_stdout,
            stderr: config.attach_stderr,
            tty: config.tty,
            detach_keys: keys.unwrap_or_default(),
            ends_by_signal: !self.sig_proxy,
        };
        let attached = attach(client, &id, &options).await?;
        let shows_output = options.stdout || options.stderr;
        let mut stream = tokio::spawn(stream::join(attached, options));
        let waiting = wait_for_exit(client, &id, auto_remove).await?;
        let mut status = tokio::spawn(exit_status(waiting));
        if let Err(error) = start(client, &id).await {
            stream.abort();
            // The terminal is restored once the task is gone.
            let _ = (&mut stream).await;
            if auto_remove {
                let _ = status.await;
            }
            return Err(start_failure(&error.into()));
        }
        let ended = async {
            tokio::select! {
                ended = &mut stream => match flatten(ended)? {
                    StreamEnd::Detached => Ok(0),
                    StreamEnd::Finished => flatten(status.await),
                },
                code = &mut status => {
                    if shows_output {
                        // The program is over, its last words may still be on their way.
                        let _ = stream.await;
                    } else {
                        stream.abort();
                        let _ = stream.await;
                    }
                    flatten(code)
                }
            }
        };
        let code = tokio::select! {
            code = ended => code?,
            never = accompany(client, &id, signals, config.tty) => never,
        };
        if code == 0 {
            Ok(())
        } else {
            Err(Failure::status(code))
        }
    }
}

/// What goes on beside a stream: signals and sizes are passed on. Never ends.
pub(crate) async fn accompany<T>(
    client: &Client,
    id: &str,
    signals: Option<tokio::sync::mpsc::Receiver<&'static str>>,
    tty: bool,
) -> T {
    let path = format!("/containers/{id}");
    let forward = async {
        let Some(mut signals) = signals else {
            return std::future::pending().await;
        };
        while let Some(name) = signals.recv().await {
            // A container that is gone meanwhile needs no signal any more.
            let _ = client
                .post(format!("{path}/kill"))
                .query("signal", name)
                .done()
                .await;
        }
        std::future::pending().await
    };
    let size = async {
        if tty && stream::output_is_terminal() {
            stream::follow_size(client, &path).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        never = forward => never,
        never = size => never,
    }
}

/// Takes over the standard streams of a container.
pub(crate) async fn attach(
    client: &Client,
    id: &str,
    options: &StreamOptions,
) -> Result<crate::client::Hijacked, ClientError> {
    let keys = (!options.detach_keys.is_empty()).then_some(options.detach_keys.as_str());
    client
        .post(format!("/containers/{id}/attach"))
        .query_some("detachKeys", keys)
        .query_flag("stderr", options.stderr)
        .query_flag("stdin", options.stdin)
        .query_flag("stdout", options.stdout)
        .query("stream", "1")
        .hijack()
        .await
}

/// Asks to be told when the container ends; from the answer on, its end cannot be missed.
pub(crate) async fn wait_for_exit(
    client: &Client,
    id: &str,
    auto_remove: bool,
) -> Result<Reply, ClientError> {
    let condition = if auto_remove { "removed" } else { "next-exit" };
    client
        .post(format!("/containers/{id}/wait"))
        .query("condition", condition)
        .send()
        .await
}

/// Starts a container.
pub(crate) async fn start(client: &Client, id: &str) -> Result<(), ClientError> {
    client.post(format!("/containers/{id}/start")).done().await
}

/// What `wait` answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WaitAnswer {
    pub(crate) status_code: i64,
    #[serde(default)]
    pub(crate) error: Option<WaitError>,
}

/// Why the end of a container is not known.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WaitError {
    pub(crate) message: String,
}

/// The exit code out of the answer of `wait`.
pub(crate) async fn exit_status(waiting: Reply) -> Result<i64, Failure> {
    let answer: WaitAnswer = waiting.json().await?;
    if let Some(WaitError { message }) = answer.error {
        super::session::warn_line(&format!("Error waiting for container: {message}"));
        return Ok(i64::from(EXIT_USAGE));
    }
    Ok(answer.status_code)
}

/// The result of a task of ours; one that panicked is a defect and says so.
pub(crate) fn flatten<T>(
    joined: Result<Result<T, Failure>, tokio::task::JoinError>,
) -> Result<T, Failure> {
    joined.unwrap_or_else(|error| Err(Failure::new(format!("internal error: {error}"))))
}

/// The message of a failed `run` or `create`, as Docker words it.
pub(crate) fn with_help(failure: &Failure, command: &str) -> Failure {
    let program = arguments::program_name();
    let message = format!(
        "{program}: {}\n\nRun '{program} {command} --help' for more information",
        failure.message
    );
    Failure::new(message).with_code(EXIT_USAGE)
}

/// The exit code of a failed start tells whose fault it is: 127 where the program was not found,
/// 126 where it cannot be executed, else 125.
fn start_failure(failure: &Failure) -> Failure {
    let has = |texts: &[&str]| texts.iter().any(|text| failure.message.contains(text));
    let code = if has(&["executable file not found", "no such file or directory"]) {
        127
    } else if has(&["permission denied", "is a directory"])
        && !failure
            .message
            .starts_with("permission denied while trying to connect")
    {
        126
    } else {
        EXIT_USAGE
    };
    with_help(failure, "run").with_code(code)
}
