//! `hull export`.

use std::path::PathBuf;

use super::failure::Failure;
use super::session::Session;
use super::{Command, archive};

/// `hull export`.
#[derive(Debug, clap::Args)]
pub(crate) struct Export {
    /// Write to a file, instead of STDOUT
    #[arg(long, short, value_name = "string")]
    output: Option<PathBuf>,
    #[arg(required = true, value_name = "CONTAINER")]
    container: String,
}

impl Command for Export {
    const USAGE: &str = "[OPTIONS] CONTAINER";
    const ABOUT: &str = "Export a container's filesystem as a tar archive";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        archive::refuse_terminal(self.output.as_deref())?;
        archive::check_output(self.output.as_deref(), "export container")?;
        let client = session.client().await?;
        let call = client.get(format!("/containers/{}/export", self.container));
        archive::save(call.send().await?, self.output.as_deref()).await
    }
}
