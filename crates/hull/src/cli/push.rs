//! `hull push`.

use super::failure::Failure;
use super::load::platform_query;
use super::progress::{self, Show};
use super::session::{Session, print_line};
use super::{Command, credentials, reference};

/// `hull push`.
#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// Push all tags of an image to the repository
    #[arg(long, short)]
    all_tags: bool,
    /// Push only what is for this platform. Formatted as "os[/arch[/variant]]"
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(long, short)]
    quiet: bool,
    /// Skip image signing
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, hide = true,
        default_missing_value = "true", value_parser = super::arguments::parse_bool,
        action = clap::ArgAction::Set)]
    disable_content_trust: bool,
    #[arg(required = true, value_name = "NAME[:TAG]")]
    name: String,
}

impl Command for Push {
    const USAGE: &str = "[OPTIONS] NAME[:TAG]";
    const ABOUT: &str = "Upload an image to a registry";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        reference::validate(&self.name)?;
        let tagged = reference::split_tag(&self.name);
        if self.all_tags && tagged.is_some() {
            return Err(Failure::new("tag can't be used with --all-tags/-a"));
        }
        if !self.all_tags && tagged.is_none() && !self.quiet {
            print_line("Using default tag: latest")?;
        }
        let (repository, tag) = tagged.unwrap_or((&self.name, "latest"));
        let tag = (!self.all_tags).then_some(tag);
        let (name, value) = credentials::header_for(session, repository).await?;
        let client = session.client().await?;
        let call = client.post(format!("/images/{repository}/push"));
        let call = call.query_some("platform", platform_query(self.platform.as_deref()));
        let call = call.query_some("tag", tag).header(name, value);
        let reply = call.send().await?;
        progress::follow(reply, if self.quiet { Show::Nothing } else { Show::All }).await?;
        if self.quiet {
            let whole = tag.map_or_else(
                || repository.to_owned(),
                |tag| format!("{repository}:{tag}"),
            );
            print_line(&reference::familiar_to_full(&whole))?;
        }
        Ok(())
    }
}
