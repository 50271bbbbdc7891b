//! `hull image import-docker`: the images of a Docker on the same host.

use std::path::PathBuf;

use super::Command;
use super::failure::Failure;
use super::progress::{self, Show};
use super::session::Session;

/// `hull image import-docker`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportDocker {
    /// Suppress the output
    #[arg(long, short)]
    quiet: bool,
    #[arg(value_name = "DATA-ROOT", default_value = "/var/lib/docker")]
    root: PathBuf,
}

impl Command for ImportDocker {
    const USAGE: &str = "[OPTIONS] [DATA-ROOT]";
    const ABOUT: &str =
        "Take over the images of a Docker data root on the engine's host; reads only";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let root = std::path::absolute(&self.root)
            .map_err(|cause| Failure::new(format!("{}: {cause}", self.root.display())))?;
        let client = session.client().await?;
        let call = client
            .post("/hull/images/import-docker")
            .query("quiet", "1");
        let call = call.query("root", root.to_string_lossy());
        let show = if self.quiet { Show::Nothing } else { Show::All };
        progress::follow(call.send().await?, show).await
    }
}
