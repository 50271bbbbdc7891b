//! `hull pull`, and fetching an image that `run` needs.

use super::failure::Failure;
use super::progress::{self, Show};
use super::session::{Session, print_line, warn_line};
use super::{Command, credentials, reference};
use crate::client::Reply;

/// `hull pull`.
#[derive(Debug, clap::Args)]
pub(crate) struct Pull {
    /// Download all tagged images in the repository
    #[arg(long, short)]
    all_tags: bool,
    /// Set platform if server is multi-platform capable
    #[arg(
        long,
        value_name = "string",
        env = "DOCKER_DEFAULT_PLATFORM",
        hide_env = true
    )]
    platform: Option<String>,
    /// Suppress verbose output
    #[arg(long, short)]
    quiet: bool,
    /// Skip image verification
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, hide = true,
        default_missing_value = "true", value_parser = super::arguments::parse_bool,
        action = clap::ArgAction::Set)]
    disable_content_trust: bool,
    #[arg(required = true, value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

impl Command for Pull {
    const USAGE: &str = "[OPTIONS] NAME[:TAG|@DIGEST]";
    const ABOUT: &str = "Download an image from a registry";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        reference::validate(&self.name)?;
        let tagged = reference::split_tag(&self.name).is_some() || self.name.contains('@');
        if self.all_tags && tagged {
            return Err(Failure::new("tag can't be used with --all-tags/-a"));
        }
        if !self.all_tags && !tagged && !self.quiet {
            print_line("Using default tag: latest")?;
        }
        let name = if self.all_tags {
            self.name
        } else {
            reference::with_tag(&self.name)
        };
        let reply = create_image(session, &name, self.platform.as_deref()).await?;
        progress::follow(reply, if self.quiet { Show::Nothing } else { Show::All }).await?;
        print_line(&reference::familiar_to_full(&name))
    }
}

/// Fetches an image for a command that is about something else: its output goes to ours only as
/// messages of errors would.
pub(crate) async fn quietly_or_not(
    session: &Session,
    image: &str,
    platform: Option<&str>,
    quiet: bool,
) -> Result<(), Failure> {
    let name = reference::with_tag(image);
    let reply = create_image(session, &name, platform).await?;
    progress::follow(reply, Show::Nothing).await?;
    if !quiet {
        warn_line(&format!("Downloaded {name}"));
    }
    Ok(())
}

async fn create_image(
    session: &Session,
    name: &str,
    platform: Option<&str>,
) -> Result<Reply, Failure> {
    let (repository, tag) = match name.split_once('@') {
        Some((repository, digest)) => (repository, Some(digest)),
        None => reference::split_tag(name).map_or((name, None), |(name, tag)| (name, Some(tag))),
    };
    let (header, value) = credentials::header_for(session, repository).await?;
    let client = session.client().await?;
    let call = client.post("/images/create").header(header, value);
    let call = call.query("fromImage", repository);
    let call = call.query_some("platform", platform).query_some("tag", tag);
    Ok(call.send().await?)
}
