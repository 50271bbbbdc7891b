//! `hull rmi`.

use super::Command;
use super::failure::Failure;
use super::session::{Session, print_line, warn_line};
use super::value::Value;

/// `hull rmi`.
#[derive(Debug, clap::Args)]
pub(crate) struct Rmi {
    /// Force removal of the image
    #[arg(long, short)]
    force: bool,
    /// Do not delete untagged parents
    #[arg(long)]
    no_prune: bool,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Command for Rmi {
    const USAGE: &str = "[OPTIONS] IMAGE [IMAGE...]";
    const ABOUT: &str = "Remove one or more images";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let mut failures = Vec::new();
        for image in &self.images {
            let call = client.delete(format!("/images/{image}"));
            let call = call
                .query_flag("force", self.force)
                .query_flag("noprune", self.no_prune);
            match call.receive::<Vec<Value>>().await {
                Ok(removed) => {
                    for one in &removed {
                        match one.text(&["Deleted"]) {
                            "" => print_line(&format!("Untagged: {}", one.text(&["Untagged"])))?,
                            id => print_line(&format!("Deleted: {id}"))?,
                        }
                    }
                }
                Err(error) => failures.push(Failure::from(error)),
            }
        }
        let only_missing = failures.iter().all(|failure| failure.not_found);
        match Failure::join(failures) {
            Err(failure) if self.force && only_missing => {
                warn_line(&failure.message);
                Ok(())
            }
            other => other,
        }
    }
}
