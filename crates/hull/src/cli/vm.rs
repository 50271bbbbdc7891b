//! `hull vm kernel`: the kernels that machines boot.
//!
//! It works on the data root itself, beside the daemon, which looks there at each start of a machine.

use std::path::PathBuf;

use hull_vm::kernel::{Kernel, Kernels};

use super::Command;
use super::failure::Failure;
use super::session::{Session, print_line};
use super::units;

/// Debian's package with the source that the options are for.
const SOURCE: &str = "linux-source-6.1";

/// `hull vm kernel`.
#[derive(Debug, clap::Args)]
pub(crate) struct VmKernel {
    /// Root directory of persistent state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/hull")]
    data_root: PathBuf,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Take a kernel in: `debian` or `debian-generic` (fetched by apt), `host` (the one in /boot),
    /// a .deb file, or an image with its modules
    Import {
        /// Where it comes from
        #[arg(value_name = "debian|debian-generic|host|FILE")]
        source: String,
    },
    /// Build a kernel that has what images expect and starts sooner, from Linux's source
    Build {
        /// Folder or archive with the source, or Debian's package of it, fetched by apt where it is
        /// not installed
        #[arg(long, value_name = "DIR|FILE|PACKAGE", default_value = SOURCE)]
        source: String,
    },
    /// List kernels
    #[command(alias = "list")]
    Ls,
    /// Boot new machines with a kernel
    Use {
        /// Id or release
        #[arg(value_name = "KERNEL")]
        kernel: String,
    },
    /// Remove a kernel
    #[command(alias = "remove")]
    Rm {
        /// Id or release
        #[arg(value_name = "KERNEL")]
        kernel: String,
    },
    /// Say whether machines can be started here, and what is missing
    Check,
}

impl Command for VmKernel {
    const USAGE: &str = "[OPTIONS] import|build|ls|use|rm|check";
    const ABOUT: &str = "Manage the kernels that machines boot";

    async fn run(self, _session: &Session) -> Result<(), Failure> {
        let kernels = Kernels::at(&self.data_root);
        let failed = |error: hull_vm::Error| {
            let cause = std::error::Error::source(&error);
            let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
            Failure::new(format!("{error}{cause}"))
        };
        match self.action {
            Action::Import { source } => {
                let kernel = kernels.import(&source).map_err(failed)?;
                Ok(print_line(&kernel.id)?)
            }
            Action::Build { source } => {
                let tell = |step: &str| eprintln!("{step}");
                let kernel = kernels.build(&source, &tell).map_err(failed)?;
                Ok(print_line(&kernel.id)?)
            }
            Action::Use { kernel } => {
                let kernel = kernels.choose(&kernel).map_err(failed)?;
                Ok(print_line(&kernel.id)?)
            }
            Action::Rm { kernel } => {
                let kernel = kernels.remove(&kernel).map_err(failed)?;
                Ok(print_line(&kernel.id)?)
            }
            Action::Ls => {
                let line = "KERNEL ID      RELEASE                        SIZE       USED   SOURCE";
                print_line(line)?;
                for kernel in kernels.list().map_err(failed)? {
                    print_line(&row(&kernel))?;
                }
                Ok(())
            }
            Action::Check => {
                let kernel = kernels.used().map_err(failed)?;
                let program = hull_vm::qemu::program().map_err(failed)?;
                print_line(&format!("kernel   {} {}", kernel.id, kernel.release))?;
                print_line(&format!("modules  {}", kernel.modules.join(" ")))?;
                Ok(print_line(&format!("machine  {}", program.display()))?)
            }
        }
    }
}

fn row(kernel: &Kernel) -> String {
    let used = if kernel.in_use { "yes" } else { "" };
    #[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
    let size = units::bytes_size(kernel.bytes as f64);
    format!(
        "{:<14} {:<30} {size:<10} {used:<6} {}",
        kernel.id, kernel.release, kernel.source
    )
}
