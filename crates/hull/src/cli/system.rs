//! `hull system verify` and `hull system shutdown`: what Docker does not have.

use super::Command;
use super::failure::Failure;
use super::session::{Session, print_line, warn_line};
use super::value::Value;

/// `hull system verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Verify {}

impl Command for Verify {
    const USAGE: &str = "";
    const ABOUT: &str = "Compare stored bytes, records and kernel objects, and change nothing";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let found: Value = client.get("/hull/system/verify").receive().await?;
        let problems = found.items(&["problems"]);
        for problem in problems {
            match problem.as_str() {
                Some(text) => print_line(text)?,
                None => print_line(&problem.to_json())?,
            }
        }
        match problems.len() {
            0 => {
                warn_line("no problems found");
                Ok(())
            }
            1 => Err(Failure::new("1 problem found")),
            count => Err(Failure::new(format!("{count} problems found"))),
        }
    }
}

/// `hull system shutdown`.
#[derive(Debug, clap::Args)]
pub(crate) struct Shutdown {}

impl Command for Shutdown {
    const USAGE: &str = "";
    const ABOUT: &str = "Stop all containers as the host's shutdown does, and keep what shall \
                         run again";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        Ok(session
            .client()
            .await?
            .post("/hull/system/shutdown")
            .done()
            .await?)
    }
}
