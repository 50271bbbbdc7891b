//! `hull tag`.

use super::failure::Failure;
use super::session::Session;
use super::{Command, reference};

/// `hull tag`.
#[derive(Debug, clap::Args)]
pub(crate) struct Tag {
    #[arg(required = true, value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    #[arg(required = true, value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

impl Command for Tag {
    const USAGE: &str = "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]";
    const ABOUT: &str = "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let invalid = |name: &str, what: &str, failure: Failure| {
            failure.prefixed(&format!(
                "Error parsing reference: {name:?} is not a valid {what}: "
            ))
        };
        reference::validate(&self.source)
            .map_err(|failure| invalid(&self.source, "repository/tag", failure))?;
        reference::validate(&self.target)
            .map_err(|failure| invalid(&self.target, "repository/tag", failure))?;
        let target = reference::with_tag(&self.target);
        let (repository, tag) = reference::split_tag(&target).unwrap_or((&target, "latest"));
        let client = session.client().await?;
        let call = client.post(format!("/images/{}/tag", self.source));
        Ok(call
            .query("repo", repository)
            .query("tag", tag)
            .done()
            .await?)
    }
}
