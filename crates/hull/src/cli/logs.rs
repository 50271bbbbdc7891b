//! `hull logs`.

use super::failure::Failure;
use super::session::Session;
use super::value::Value;
use super::{Command, stream, units};

/// `hull logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// Show extra details provided to logs
    #[arg(long)]
    details: bool,
    /// Follow log output
    #[arg(long, short)]
    follow: bool,
    /// Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m")
    #[arg(long, value_name = "string")]
    since: Option<String>,
    /// Number of lines to show from the end of the logs
    #[arg(long, short = 'n', value_name = "string", default_value = "all")]
    tail: String,
    /// Show timestamps
    #[arg(long, short)]
    timestamps: bool,
    /// Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m")
    #[arg(long, value_name = "string")]
    until: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    container: String,
}

impl Command for Logs {
    const USAGE: &str = "[OPTIONS] CONTAINER";
    const ABOUT: &str = "Fetch the logs of a container";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let name = &self.container;
        let found: Value = client
            .get(format!("/containers/{name}/json"))
            .receive()
            .await?;
        let moment = |name: &str, text: &Option<String>| {
            let parse = |text: &String| {
                units::api_timestamp(text)
                    .map_err(|reason| Failure::new(format!("invalid value for {name:?}: {reason}")))
            };
            text.as_ref().map(parse).transpose()
        };
        let reply = client
            .get(format!("/containers/{}/logs", found.text(&["Id"])))
            .query_flag("details", self.details)
            .query_flag("follow", self.follow)
            .query_some("since", moment("since", &self.since)?)
            .query("stderr", "1")
            .query("stdout", "1")
            .query("tail", &self.tail)
            .query_flag("timestamps", self.timestamps)
            .query_some("until", moment("until", &self.until)?)
            .send()
            .await?;
        stream::show(reply, found.flag(&["Config", "Tty"])).await
    }
}
