//! `hull completion` and `hull man`: what is generated from the tree of commands.

use std::path::PathBuf;

use clap_complete::Shell;

use super::failure::Failure;
use super::session::{Session, print};
use super::{Command, arguments, tree};

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
        let shell = match self.shell.as_str() {
            "bash" => Shell::Bash,
            "zsh" => Shell::Zsh,
            "fish" => Shell::Fish,
            other => {
                let text = format!("unknown shell {other:?}: must be bash, zsh or fish");
                return Err(Failure::new(text));
            }
        };
        let mut script = Vec::new();
        clap_complete::generate(
            shell,
            &mut tree::whole(),
            arguments::program_name(),
            &mut script,
        );
        print(&String::from_utf8_lossy(&script))
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
