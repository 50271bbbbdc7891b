//! `hull image copy`: from registry to registry, or between a registry and a layout, without any
//! engine.

use std::sync::{Mutex, PoisonError};

use hull_model::Digest;
use hull_registry::Access;
use hull_storage::image::Platform;

use super::failure::Failure;
use super::progress::Screen;
use super::session::{Session, print, print_line};
use super::{Command, registry_end};
use crate::copy::{Copy, Options, Step};

/// Digits by which a blob is shown.
const SHORT_DIGITS: usize = 12;

/// `hull image copy`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageCopy {
    /// Allow plain HTTP and certificates that nobody vouches for
    #[arg(long)]
    insecure: bool,
    /// Copy only this platform instead of all
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    /// Print only the digest
    #[arg(long, short)]
    quiet: bool,
    /// Also copy what refers to the image: signatures, lists of contents, attestations
    #[arg(long)]
    referrers: bool,
    #[arg(required = true, value_name = "SOURCE")]
    source: String,
    #[arg(required = true, value_name = "TARGET")]
    target: String,
}

impl Command for ImageCopy {
    const USAGE: &str = "[OPTIONS] SOURCE TARGET\n\nEach of them: NAME of a registry, \
        oci:FOLDER[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME]";
    const ABOUT: &str = "Copy an image past the engine: registries, OCI layouts, archives";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let platform = self
            .platform
            .as_deref()
            .map(str::parse::<Platform>)
            .transpose();
        let options = Options {
            platform: platform.map_err(|error| Failure::chain(&error))?,
            referrers: self.referrers,
        };
        let insecure = self.insecure;
        let from = registry_end::end(session, &self.source, Access::Pull, insecure).await?;
        let to = registry_end::end(session, &self.target, Access::Push, insecure).await?;
        let screen = Mutex::new(Screen::of_stdout());
        let tell = |digest: &Digest, step: Step| {
            if self.quiet {
                return;
            }
            let mut screen = screen.lock().unwrap_or_else(PoisonError::into_inner);
            let id = &digest.hex()[..SHORT_DIGITS];
            let text = match step {
                Step::Copying(sent, size) => screen.row(id, "Copying", Some((sent, size))),
                Step::Copied => screen.row(id, "Copied", None),
                Step::AlreadyThere => screen.row(id, "Already exists", None),
                Step::Mounted => screen.row(id, "Mounted", None),
            };
            // Progress that nobody reads is none; the copy goes on.
            drop(print(&text));
        };
        let copied = Copy::new(&from, &to, &options, &tell).run().await;
        let digest = copied.map_err(|error| Failure::chain(&error))?;
        match self.quiet {
            true => print_line(&digest.to_string()),
            false => print_line(&format!("Digest: {digest}")),
        }
    }
}
