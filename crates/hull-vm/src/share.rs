//! Directories of the host that a guest sees: one file server for each, by virtiofs.
//!
//! The server is the distribution's. It is started in a mount namespace of its own where the directory is
//! read-only if the guest shall only read it, and locks itself into the directory.

use std::path::Path;

use crate::error::Error;

/// Where the server may lie, and whether it is the older one that came with QEMU.
const PROGRAMS: [(&str, bool); 4] = [
    ("/usr/libexec/virtiofsd", false),
    ("/usr/lib/virtiofsd", false),
    ("/usr/local/bin/virtiofsd", false),
    ("/usr/lib/qemu/virtiofsd", true),
];

/// The command line of a server for `source`, with the listening socket as descriptor 3.
///
/// # Errors
/// When no server is installed.
pub fn command(source: &Path) -> Result<Vec<String>, Error> {
    let found = PROGRAMS.iter().find(|(path, _)| Path::new(path).exists());
    let (program, is_old) = found.copied().ok_or(Error::MissingProgram {
        program: "virtiofsd",
        package: "virtiofsd (qemu-system-common in Debian 12)",
    })?;
    let source = source.to_string_lossy();
    let words: Vec<String> = match is_old {
        // Its limit of open files stays what it is: the hard limit may be low. Sizes are asked for each time
        // (`timeout=0`): others write there too, and who appends behind an old end loses their lines.
        // `flock` is the guest's own, since the server refuses to wait for one and even to give it back.
        true => vec![
            program.to_owned(),
            "--fd=3".to_owned(),
            "-f".to_owned(),
            "--rlimit-nofile=0".to_owned(),
            "-o".to_owned(),
            format!(
                "source={source},sandbox=namespace,cache=auto,timeout=0,xattr,no_flock,posix_lock,\
                 announce_submounts,log_level=err"
            ),
        ],
        false => vec![
            program.to_owned(),
            "--fd=3".to_owned(),
            format!("--shared-dir={source}"),
            "--sandbox=namespace".to_owned(),
            "--cache=auto".to_owned(),
            "--xattr".to_owned(),
            "--announce-submounts".to_owned(),
            "--rlimit-nofile=0".to_owned(),
            "--log-level=error".to_owned(),
        ],
    };
    Ok(words)
}

/// Whether a directory's name can be given to a server.
pub fn can_be_named(source: &Path) -> bool {
    !source.to_string_lossy().contains(',')
}
