//! `hull stop` and `hull restart`: the same request but for its last word.

use super::Command;
use super::arguments::parse_int;
use super::failure::Failure;
use super::names::{self, Missing};
use super::session::{Session, warn_line};

/// Options of both.
#[derive(Debug, clap::Args)]
struct StopOptions {
    /// Signal to send to the container
    #[arg(long, short, value_name = "string")]
    signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(long, short, value_name = "int", value_parser = parse_int)]
    timeout: Option<i64>,
    /// Seconds to wait before killing the container (deprecated: use --timeout)
    #[arg(long, value_name = "int", value_parser = parse_int, hide = true)]
    time: Option<i64>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl StopOptions {
    async fn run(self, session: &Session, verb: &str) -> Result<(), Failure> {
        if self.time.is_some() {
            warn_line("Flag --time has been deprecated, use --timeout instead");
            if self.timeout.is_some() {
                let text = "conflicting options: cannot specify both --timeout and --time";
                return Err(Failure::new(text));
            }
        }
        let client = session.client().await?;
        let timeout = self
            .timeout
            .or(self.time)
            .map(|seconds| seconds.to_string());
        names::each(&self.containers, Missing::Fails, async |name| {
            let call = client.post(format!("/containers/{name}/{verb}"));
            let call = call.query_some("signal", self.signal.as_ref());
            Ok(call.query_some("t", timeout.as_ref()).done().await?)
        })
        .await
    }
}

/// `hull stop`.
#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    options: StopOptions,
}

impl Command for Stop {
    const USAGE: &str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ABOUT: &str = "Stop one or more running containers";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        self.options.run(session, "stop").await
    }
}

/// `hull restart`.
#[derive(Debug, clap::Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    options: StopOptions,
}

impl Command for Restart {
    const USAGE: &str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ABOUT: &str = "Restart one or more containers";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        self.options.run(session, "restart").await
    }
}
