//! `hull load` and `hull save`.

use std::path::PathBuf;

use super::failure::Failure;
use super::progress::{self, Show};
use super::session::Session;
use super::{Command, archive};

/// `hull load`.
#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    /// Read from tar archive file, instead of STDIN
    #[arg(long, short, value_name = "string")]
    input: Option<PathBuf>,
    /// Load only the given platform variant. Formatted as "os[/arch[/variant]]"
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Suppress the load output
    #[arg(long, short)]
    quiet: bool,
}

impl Command for Load {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "Load an image from a tar archive or STDIN";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        use std::os::fd::AsFd;
        if self.input.is_none() && hull_os::pty::is_terminal(std::io::stdin().as_fd()) {
            return Err(Failure::new(
                "requested load from stdin, but stdin is empty",
            ));
        }
        let client = session.client().await?;
        let call = client.post("/images/load").query("quiet", "1");
        let call = call.query_some("platform", platform_query(self.platform.as_deref()));
        let call = match &self.input {
            Some(path) => call.stream(archive::file(path)?),
            None => call.stream(archive::input()?),
        };
        progress::follow(call.send().await?, Show::All).await
    }
}

/// `hull save`.
#[derive(Debug, clap::Args)]
pub(crate) struct Save {
    /// Write to a file, instead of STDOUT
    #[arg(long, short, value_name = "string")]
    output: Option<PathBuf>,
    /// Save only the given platform variant. Formatted as "os[/arch[/variant]]"
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Command for Save {
    const USAGE: &str = "[OPTIONS] IMAGE [IMAGE...]";
    const ABOUT: &str = "Save one or more images to a tar archive (streamed to STDOUT by default)";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        archive::refuse_terminal(self.output.as_deref())?;
        archive::check_output(self.output.as_deref(), "save image")?;
        let client = session.client().await?;
        let call = client.get("/images/get");
        let call = self
            .images
            .iter()
            .fold(call, |call, image| call.query("names", image));
        let call = call.query_some("platform", platform_query(self.platform.as_deref()));
        archive::save(call.send().await?, self.output.as_deref()).await
    }
}

/// `linux/arm64/v8` as the JSON that the API takes.
pub(super) fn platform_query(platform: Option<&str>) -> Option<String> {
    let mut parts = platform?.split('/');
    let mut object = serde_json::Map::new();
    for name in ["os", "architecture", "variant"] {
        if let Some(part) = parts.next() {
            object.insert(name.to_owned(), part.into());
        }
    }
    Some(serde_json::Value::Object(object).to_string())
}
