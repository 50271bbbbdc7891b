//! `hull pause` and `hull unpause`.

use super::Command;
use super::failure::Failure;
use super::names::{self, Missing};
use super::session::Session;

/// `hull pause`.
#[derive(Debug, clap::Args)]
pub(crate) struct Pause {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Command for Pause {
    const USAGE: &str = "CONTAINER [CONTAINER...]";
    const ABOUT: &str = "Pause all processes within one or more containers";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        post_each(session, &self.containers, "pause").await
    }
}

/// `hull unpause`.
#[derive(Debug, clap::Args)]
pub(crate) struct Unpause {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Command for Unpause {
    const USAGE: &str = "CONTAINER [CONTAINER...]";
    const ABOUT: &str = "Unpause all processes within one or more containers";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        post_each(session, &self.containers, "unpause").await
    }
}

async fn post_each(session: &Session, names: &[String], verb: &str) -> Result<(), Failure> {
    let client = session.client().await?;
    let post = async |name| {
        Ok(client
            .post(format!("/containers/{name}/{verb}"))
            .done()
            .await?)
    };
    names::each(names, Missing::Fails, post).await
}
