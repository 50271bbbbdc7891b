//! `hull rename`.

use super::Command;
use super::failure::Failure;
use super::session::Session;

/// `hull rename`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rename {
    #[arg(required = true, value_name = "CONTAINER")]
    container: String,
    #[arg(required = true, value_name = "NEW_NAME")]
    name: String,
}

impl Command for Rename {
    const USAGE: &str = "CONTAINER NEW_NAME";
    const ABOUT: &str = "Rename a container";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        if self.container.trim().is_empty() || self.name.trim().is_empty() {
            let text = "Error: Neither old nor new names may be empty";
            return Err(Failure::new(text));
        }
        let client = session.client().await?;
        let call = client.post(format!("/containers/{}/rename", self.container));
        call.query("name", &self.name)
            .done()
            .await
            .map_err(|error| {
                super::session::warn_line(&Failure::from(error).message);
                Failure::new(format!(
                    "Error: failed to rename container named {}",
                    self.container
                ))
            })
    }
}
