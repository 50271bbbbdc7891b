//! `hull import`.

use std::path::Path;

use super::failure::Failure;
use super::progress::{self, Show};
use super::session::Session;
use super::{Command, archive, reference};

/// `hull import`.
#[derive(Debug, clap::Args)]
pub(crate) struct Import {
    /// Apply Dockerfile instruction to the created image
    #[arg(long, short, value_name = "list")]
    change: Vec<String>,
    /// Set commit message for imported image
    #[arg(long, short, value_name = "string")]
    message: Option<String>,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    #[arg(required = true, value_name = "file|URL|-")]
    source: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

impl Command for Import {
    const USAGE: &str = "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]";
    const ABOUT: &str = "Import the contents from a tarball to create a filesystem image";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        if let Some(name) = &self.name {
            reference::validate(name)?;
        }
        let is_url = self.source.starts_with("http://") || self.source.starts_with("https://");
        let client = session.client().await?;
        let mut call = client.post("/images/create");
        for change in &self.change {
            call = call.query("changes", change);
        }
        let call = call
            .query("fromSrc", if is_url { &self.source } else { "-" })
            .query_some("message", self.message.as_ref())
            .query_some("platform", self.platform.as_ref())
            .query_some("repo", self.name.as_ref());
        let call = match self.source.as_str() {
            _ if is_url => call,
            "-" => call.stream(archive::input()?),
            path => call.stream(archive::file(Path::new(path))?),
        };
        progress::follow(call.send().await?, Show::All).await
    }
}
