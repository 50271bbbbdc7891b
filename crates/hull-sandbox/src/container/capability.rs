//! Which capabilities a container gets: names, Docker's default set, `--cap-add`, `--cap-drop`.
//!
//! Bit `n` of a set is capability number `n`. A daemon can only give what it holds itself: the rest
//! is left out, and said in a warning when it was asked for.

use hull_model::ErrorKind;

/// Names by number, as in `linux/capability.h`.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Docker's default set: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
/// NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
pub const DEFAULT: u64 = 0xa804_25fb;

/// Every capability that has a name.
const ALL: u64 = (1 << NAMES.len()) - 1;

/// What a request means when it names no single capability.
const ALL_NAME: &str = "ALL";

/// The number of a capability by its full name.
pub fn number(name: &str) -> Option<u8> {
    let found = NAMES.iter().position(|known| *known == name)?;
    u8::try_from(found).ok()
}

/// The full names of a set, by number.
pub fn names(bits: u64) -> impl Iterator<Item = &'static str> {
    NAMES
        .iter()
        .enumerate()
        .filter(move |(number, _)| bits & 1 << number != 0)
        .map(|(_, n)| *n)
}

/// A request for capabilities that cannot be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CapabilityError {
    /// No capability has this name. The text is Docker's.
    #[error("invalid {list}: unknown capability: \"{name}\"")]
    Unknown {
        /// Which list it is in, as the API calls it.
        list: &'static str,
        /// With its prefix.
        name: String,
    },
}

impl CapabilityError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidArgument
    }
}

/// The bounding set of a container, and a warning for each capability that was asked for but that
/// this daemon or this kernel lacks.
///
/// # Errors
/// [`CapabilityError::Unknown`] for a name that is none.
pub fn resolve(
    privileged: bool,
    add: &[String],
    drop: &[String],
) -> Result<(u64, Vec<String>), CapabilityError> {
    let wanted = requested(privileged, add, drop)?;
    let held = hull_os::capability::own_bounding() & ALL;
    Ok(clamp(wanted, held, hull_os::capability::known()))
}

/// What is asked for, by Docker's rules: `ALL` in one list is narrowed by single names in the other.
fn requested(privileged: bool, add: &[String], drop: &[String]) -> Result<u64, CapabilityError> {
    let (add, add_all) = parse(add, "CapAdd")?;
    let (drop, drop_all) = parse(drop, "CapDrop")?;
    Ok(match (privileged, add_all, drop_all) {
        (true, ..) => ALL,
        (false, true, _) => ALL & !drop,
        (false, false, true) => add,
        (false, false, false) => (DEFAULT & !drop) | add,
    })
}

fn parse(given: &[String], list: &'static str) -> Result<(u64, bool), CapabilityError> {
    let mut bits = 0;
    let mut all = false;
    for text in given {
        let upper = text.trim().to_ascii_uppercase();
        if upper == ALL_NAME {
            all = true;
            continue;
        }
        let name = if upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        let number = number(&name).ok_or(CapabilityError::Unknown { list, name })?;
        bits |= 1 << number;
    }
    Ok((bits, all))
}

/// Leaves out what cannot be given. Capabilities newer than this kernel go silently, as in Docker;
/// what the default set lacks goes silently too, as nobody asked for it.
fn clamp(wanted: u64, held: u64, known: u64) -> (u64, Vec<String>) {
    let missing = wanted & known & !held & !DEFAULT;
    let warning = |name| format!("{name} is not given: the daemon does not have it itself");
    (wanted & held, names(missing).map(warning).collect())
}

#[cfg(test)]
mod tests {
    use super::{ALL, DEFAULT, clamp, names, number, requested};

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn check(add: &str, drop: &str, expected: u64) {
        assert_eq!(
            requested(false, &list(add), &list(drop)),
            Ok(expected),
            "+{add} -{drop}"
        );
    }

    fn bits(text: &str) -> u64 {
        text.split_whitespace()
            .map(|name| 1 << number(name).unwrap())
            .sum()
    }

    #[test]
    fn the_default_set_is_dockers_fourteen() {
        let expected = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID \
            CAP_SETUID CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_NET_RAW CAP_SYS_CHROOT CAP_MKNOD \
            CAP_AUDIT_WRITE CAP_SETFCAP";
        assert_eq!(names(DEFAULT).collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn names_are_taken_with_and_without_prefix_in_any_case() {
        check("NET_ADMIN", "", DEFAULT | bits("CAP_NET_ADMIN"));
        check("cap_net_admin", "", DEFAULT | bits("CAP_NET_ADMIN"));
        check("", "Chown CAP_KILL", DEFAULT & !bits("CAP_CHOWN CAP_KILL"));
    }

    #[test]
    fn all_is_narrowed_by_single_names() {
        check("ALL", "", ALL);
        check("all", "CAP_SYS_ADMIN", ALL & !bits("CAP_SYS_ADMIN"));
        check("", "ALL", 0);
        check("CHOWN", "ALL", bits("CAP_CHOWN"));
        check("ALL", "ALL", ALL);
        check("KILL", "KILL", DEFAULT);
    }

    #[test]
    fn an_unknown_name_is_refused_in_dockers_words() {
        let error = requested(false, &list("SYS_ADMINN"), &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid CapAdd: unknown capability: \"CAP_SYS_ADMINN\""
        );
    }

    #[test]
    fn what_the_daemon_lacks_is_left_out_with_a_warning() {
        let held = ALL & !bits("CAP_SYS_RESOURCE CAP_CHOWN");
        let (given, warnings) = clamp(ALL, held, ALL & !bits("CAP_BPF"));
        assert_eq!(given, held);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("CAP_SYS_RESOURCE "));
        assert_eq!(clamp(DEFAULT, held, ALL), (DEFAULT & held, Vec::new()));
    }

    #[test]
    fn the_last_name_is_the_last_of_linux_5_9() {
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(number("CAP_SYS_RESOURCE"), Some(24));
    }
}
