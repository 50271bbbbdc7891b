//! `hull completion` and `hull man`: what a shell and a reader of manuals get.

use std::path::PathBuf;

use super::failure::Failure;
use super::session::{Session, print};
use super::{Command, arguments, complete, tree};

/// `hull completion`.
#[derive(Debug, clap::Args)]
pub(crate) struct Completion {
    /// bash, zsh or fish
    #[arg(required = true, value_name = "SHELL")]
    shell: String,
}

impl Command for Completion {
    const USAGE: &str = "SHELL";
    const ABOUT: &str = "Print the completion of a shell: bash, zsh or fish";

    async fn run(self, _session: &Session) -> Result<(), Failure> {
        let mut scripts = complete::SCRIPTS.iter();
        let found = scripts.find(|(shell, _)| *shell == self.shell);
        let (_, script) = found.ok_or_else(|| {
            let text = format!("unknown shell {:?}: must be bash, zsh or fish", self.shell);
            Failure::new(text)
        })?;
        print(&script.replace("PROGRAM", arguments::program_name()))
    }
}

/// `hull man`.
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Folder to write the pages into
    #[arg(required = true, value_name = "FOLDER")]
    folder: PathBuf,
}

impl Command for Man {
    const USAGE: &str = "FOLDER";
    const ABOUT: &str = "Write the manual pages into a folder";

    async fn run(self, _session: &Session) -> Result<(), Failure> {
        std::fs::create_dir_all(&self.folder).map_err(|cause| {
            Failure::new(format!(
                "make the folder {}: {cause}",
                self.folder.display()
            ))
        })?;
        clap_mangen::generate_to(tree::whole(), &self.folder).map_err(|cause| {
            Failure::new(format!(
                "write into the folder {}: {cause}",
                self.folder.display()
            ))
        })
    }
}
