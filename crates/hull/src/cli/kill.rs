//! `hull kill`.

use super::Command;
use super::failure::Failure;
use super::names::{self, Missing};
use super::session::Session;

/// `hull kill`.
#[derive(Debug, clap::Args)]
pub(crate) struct Kill {
    /// Signal to send to the container
    #[arg(long, short, value_name = "string")]
    signal: Option<String>,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Command for Kill {
    const USAGE: &str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ABOUT: &str = "Kill one or more running containers";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        names::each(&self.containers, Missing::Fails, async |name| {
            let call = client.post(format!("/containers/{name}/kill"));
            Ok(call
                .query_some("signal", self.signal.as_ref())
                .done()
                .await?)
        })
        .await
    }
}
