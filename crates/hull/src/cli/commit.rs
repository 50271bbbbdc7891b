//! `hull commit`.

use super::arguments::parse_bool;
use super::failure::Failure;
use super::session::{Session, print_line};
use super::value::Value;
use super::{Command, reference};

/// `hull commit`.
#[derive(Debug, clap::Args)]
pub(crate) struct Commit {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(long, short, value_name = "string")]
    author: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(long, short, value_name = "list")]
    change: Vec<String>,
    /// Commit message
    #[arg(long, short, value_name = "string")]
    message: Option<String>,
    /// Pause container during commit
    #[arg(long, short, default_value = "true", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "bool", value_parser = parse_bool,
        action = clap::ArgAction::Set)]
    pause: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

impl Command for Commit {
    const USAGE: &str = "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]";
    const ABOUT: &str = "Create a new image from a container's changes";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let name = self.name.as_deref().map(reference::with_tag);
        if let Some(name) = &name {
            reference::validate(name)?;
        }
        let split = name.as_deref().and_then(reference::split_tag);
        let client = session.client().await?;
        let mut call = client.post("/commit");
        for change in &self.change {
            call = call.query("changes", change);
        }
        let call = call
            .query_some("author", self.author.as_ref())
            .query_some("comment", self.message.as_ref())
            .query("container", &self.container)
            .query("pause", if self.pause { "1" } else { "0" })
            .query_some("repo", split.map(|(repository, _)| repository))
            .query_some("tag", split.map(|(_, tag)| tag));
        let call = call.json(&serde_json::Value::Null)?;
        let created: Value = call.receive().await?;
        print_line(created.text(&["Id"]))
    }
}
