//! Programs that add commands: docker's CLI plugins (`docker-compose`, `docker-buildx`), found
//! where docker finds them and given the chosen engine.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::arguments::program_name;
use super::failure::Failure;
use super::session::Session;

/// Where distributions and Docker's packages put them; the user's own folder comes first.
const FOLDERS: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// The program that adds the command `name`.
pub(super) fn find(name: &str, config_dir: &Path) -> Option<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        return None;
    }
    let file = format!("docker-{name}");
    let own = config_dir.join("cli-plugins");
    std::iter::once(own)
        .chain(FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(&file))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Becomes the program; returns only where that fails.
#[expect(
    clippy::disallowed_methods,
    reason = "this process becomes the plugin; a daemon never gets here"
)]
pub(super) fn become_it(path: &Path, name: &str, words: &[OsString], session: &Session) -> Failure {
    let endpoint = match session.endpoint() {
        Ok(endpoint) => endpoint,
        Err(failure) => return failure,
    };
    let cause = Command::new(path)
        .arg(name)
        .args(words)
        .env("DOCKER_HOST", endpoint.to_string())
        .env("DOCKER_CONFIG", session.config_dir())
        .env_remove("DOCKER_CONTEXT")
        .env("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND", program_name())
        .exec();
    Failure::new(format!("run the plugin {}: {cause}", path.display()))
}
