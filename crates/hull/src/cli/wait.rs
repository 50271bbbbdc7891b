//! `hull wait`.

use super::Command;
use super::failure::Failure;
use super::run::WaitAnswer;
use super::session::{Session, print_line};

/// `hull wait`.
#[derive(Debug, clap::Args)]
pub(crate) struct Wait {
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Command for Wait {
    const USAGE: &str = "CONTAINER [CONTAINER...]";
    const ABOUT: &str = "Block until one or more containers stop, then print their exit codes";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let mut failures = Vec::new();
        for name in &self.containers {
            let call = client.post(format!("/containers/{name}/wait"));
            match call.receive::<WaitAnswer>().await {
                Ok(answer) => print_line(&answer.status_code.to_string())?,
                Err(error) => failures.push(Failure::from(error)),
            }
        }
        Failure::join(failures)
    }
}
