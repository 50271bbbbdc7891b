//! `hull create`, and the part of `hull run` that is the same.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use serde::Deserialize;

use super::container::{ContainerOptions, CreateBody};
use super::failure::Failure;
use super::run::with_help;
use super::session::{Session, print_line, warn_line};
use super::{Command, pull, reference};
use crate::client::{ApiVersion, Client, ClientError};

/// Options about the creation that are no property of the container.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateOptions {
    /// Assign a name to the container
    #[arg(long, value_name = "string")]
    name: Option<String>,
    /// Pull image before running ("always", "missing", "never")
    #[arg(long, default_value = "missing", value_name = "string")]
    pull: String,
    /// Suppress the pull output
    #[arg(long, short)]
    quiet: bool,
    /// Set platform if server is multi-platform capable
    #[arg(
        long,
        env = "DOCKER_DEFAULT_PLATFORM",
        hide_env = true,
        value_name = "string"
    )]
    platform: Option<String>,
    /// Skip image verification
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, hide = true,
        default_missing_value = "true", value_parser = super::arguments::parse_bool,
        action = clap::ArgAction::Set)]
    disable_content_trust: bool,
}

impl CreateOptions {
    /// Refuses what cannot be asked for.
    pub(crate) fn validate(&self) -> Result<(), Failure> {
        match self.pull.as_str() {
            "always" | "missing" | "never" | "" => {}
            other => {
                return Err(Failure::new(format!(
                    "invalid pull option: '{other}': must be one of \"always\", \"missing\" \
                     or \"never\""
                )));
            }
        }
        if !self.disable_content_trust {
            return Err(Failure::new(
                "content trust is not supported: its service has ended",
            ));
        }
        Ok(())
    }
}

/// `hull create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    #[command(flatten)]
    create: CreateOptions,
    #[command(flatten)]
    container: ContainerOptions,
}

impl Command for Create {
    const USAGE: &str = "[OPTIONS] IMAGE [COMMAND] [ARG...]";
    const ABOUT: &str = "Create a new container";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        self.create
            .validate()
            .map_err(|failure| with_help(&failure, "create"))?;
        let body = self
            .container
            .body()
            .map_err(|failure| with_help(&failure, "create"))?;
        print_line(&create(session, body, &self.create).await?)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Created {
    id: String,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// Creates a container, after fetching its image where that is missing; returns its id.
pub(crate) async fn create(
    session: &Session,
    mut body: CreateBody,
    options: &CreateOptions,
) -> Result<String, Failure> {
    let client = session.client().await?;
    let image = body.config.image.clone();
    reference::validate(&image)?;
    let id_file = IdFile::create(&body.host_config.container_id_file)?;
    if options.pull == "always" {
        pull::quietly_or_not(session, &image, options.platform.as_deref(), options.quiet).await?;
    }
    let version = client.version().await?;
    body.adapt(version)?;
    if options.platform.is_none() || version >= ApiVersion::minor(42) {
        body.host_config.console_size = terminal_size();
    }
    let created = match post(client, &body, options).await {
        Err(ClientError::Refused { status, .. })
            if status == http::StatusCode::NOT_FOUND && options.pull == "missing" =>
        {
            if !options.quiet {
                let name = reference::with_tag(&image);
                warn_line(&format!("Unable to find image '{name}' locally"));
            }
            let platform = options.platform.as_deref();
            pull::quietly_or_not(session, &image, platform, options.quiet).await?;
            post(client, &body, options).await
        }
        other => other,
    }?;
    let mut warnings = created.warnings.unwrap_or_default();
    warnings.extend(body.loopback_dns_warning());
    for warning in warnings {
        warn_line(&format!("WARNING: {warning}"));
    }
    if let Some(file) = id_file {
        file.keep(&created.id)?;
    }
    Ok(created.id)
}

async fn post(
    client: &Client,
    body: &CreateBody,
    options: &CreateOptions,
) -> Result<Created, ClientError> {
    client
        .post("/containers/create")
        .query_some(
            "name",
            options.name.as_ref().filter(|name| !name.is_empty()),
        )
        .query_some(
            "platform",
            options.platform.as_ref().filter(|name| !name.is_empty()),
        )
        .json(body)?
        .receive()
        .await
}

/// Lines and columns of our terminal, zeros where there is none.
pub(crate) fn terminal_size() -> [u16; 2] {
    use std::os::fd::AsFd;
    let size = hull_os::pty::window_size(std::io::stdout().as_fd()).unwrap_or_default();
    [size.rows, size.columns]
}

/// The file of `--cidfile`: made before the container, removed again where that fails.
struct IdFile {
    path: PathBuf,
    file: Option<File>,
}

impl IdFile {
    fn create(path: &str) -> Result<Option<IdFile>, Failure> {
        if path.is_empty() {
            return Ok(None);
        }
        let path = PathBuf::from(path);
        match File::create_new(&path) {
            Ok(file) => Ok(Some(IdFile {
                path,
                file: Some(file),
            })),
            Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Failure::new(format!(
                    "container ID file found, make sure the other container isn't running or \
                     delete {}",
                    path.display()
                )))
            }
            Err(cause) => Err(Failure::new(format!(
                "failed to create the container ID file: {cause}"
            ))),
        }
    }

    fn keep(mut self, id: &str) -> Result<(), Failure> {
        let Some(mut file) = self.file.take() else {
            return Ok(());
        };
        file.write_all(id.as_bytes()).map_err(|cause| {
            Failure::new(format!(
                "failed to write the container ID to the file: {cause}"
            ))
        })
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
