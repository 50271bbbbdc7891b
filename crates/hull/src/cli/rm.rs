//! `hull rm`.

use super::Command;
use super::failure::Failure;
use super::names::{self, Missing};
use super::session::Session;

/// `hull rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(long, short)]
    force: bool,
    /// Remove the specified link
    #[arg(long, short)]
    link: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(long, short)]
    volumes: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Command for Rm {
    const USAGE: &str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ABOUT: &str = "Remove one or more containers";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let missing = if self.force {
            Missing::Passes
        } else {
            Missing::Fails
        };
        names::each(&self.containers, missing, async |name| {
            let name = name.trim_matches('/');
            if name.is_empty() {
                return Err(Failure::new("container name cannot be empty"));
            }
            let call = client.delete(format!("/containers/{name}"));
            let call = call
                .query_flag("v", self.volumes)
                .query_flag("link", self.link);
            Ok(call.query_flag("force", self.force).done().await?)
        })
        .await
    }
}
