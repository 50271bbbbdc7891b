//! `hull diff`.

use super::Command;
use super::failure::Failure;
use super::session::{Session, print_line};
use super::value::Value;

/// `hull diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct Diff {
    #[arg(required = true, value_name = "CONTAINER")]
    container: String,
}

impl Command for Diff {
    const USAGE: &str = "CONTAINER";
    const ABOUT: &str = "Inspect changes to files or directories on a container's filesystem";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let path = format!("/containers/{}/changes", self.container);
        let found: Option<Vec<Value>> = client.get(path).receive().await?;
        for change in found.unwrap_or_default() {
            let kind = match change.int(&["Kind"]) {
                0 => 'C',
                1 => 'A',
                _ => 'D',
            };
            print_line(&format!("{kind} {}", change.text(&["Path"])))?;
        }
        Ok(())
    }
}
