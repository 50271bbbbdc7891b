//! Facts about the host that only Docker's clients ask for: names and versions, read once.

use std::sync::OnceLock;

/// Names and versions of the host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Host {
    pub(crate) kernel: String,
    pub(crate) name: String,
    pub(crate) system: String,
    pub(crate) system_version: String,
}

/// The host's facts. They do not change while a daemon runs, except for the name, which then stays
/// the one that it had.
pub(crate) fn facts() -> &'static Host {
    static FACTS: OnceLock<Host> = OnceLock::new();
    FACTS.get_or_init(|| {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let release = read("/etc/os-release");
        Host {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            name: read("/proc/sys/kernel/hostname").trim().to_owned(),
            system: os_release(&release, "PRETTY_NAME")
                .unwrap_or("Linux")
                .to_owned(),
            system_version: os_release(&release, "VERSION_ID").unwrap_or("").to_owned(),
        }
    })
}

fn os_release<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(line.trim_matches(['"', '\'']))
}

/// The processor architecture in the words of `uname`.
pub(crate) const MACHINE: &str = std::env::consts::ARCH;

/// The processor architecture in Go's words.
pub(crate) const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};

#[cfg(test)]
mod tests {
    use super::os_release;

    #[test]
    fn values_are_taken_out_of_their_quotes() {
        let text = "NAME=x\nPRETTY_NAME=\"Debian 12\"\nVERSION_ID=12\n";
        assert_eq!(os_release(text, "PRETTY_NAME"), Some("Debian 12"));
        assert_eq!(os_release(text, "VERSION_ID"), Some("12"));
        assert_eq!(os_release(text, "ID"), None);
    }
}
