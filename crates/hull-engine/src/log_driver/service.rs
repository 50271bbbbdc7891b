//! What the shim is told about a log service: its address, and what each line begins with.

use std::collections::BTreeMap;
use std::net::ToSocketAddrs;
use std::path::Path;
use std::time::Duration;

use hull_model::SandboxId;
use hull_model::spec::{ContainerSpec, LogConfig};
use hull_os::socket;
use hull_sandbox::{LogForm, LogService};

use crate::error::{EngineError, Result};

/// Where the journal listens.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where the syslog of the host may listen.
const LOCAL_SYSLOGS: [&str; 3] = ["/dev/log", "/var/run/syslog", "/var/run/log"];
/// Port of syslog.
const PORT: u16 = 514;
/// How long looking whether a local socket answers may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);
/// The facility `daemon`, as in Docker.
const FACILITY_DEFAULT: u32 = 3;
/// Where the facility stands in a priority.
const FACILITY_SHIFT: u32 = 3;
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6",
    "local7",
];

/// Where a syslog is, as `syslog-address` says.
#[derive(Debug, PartialEq, Eq)]
enum Address<'a> {
    Local,
    /// A path; it may take messages or a stream.
    Unix(&'a str),
    Internet {
        datagrams: bool,
        host: &'a str,
        port: u16,
    },
}

/// The journal of the host. The error is for a sentence.
pub(super) fn journald(
    spec: &ContainerSpec,
    id: SandboxId,
    tag: &str,
    attributes: &BTreeMap<String, String>,
) -> Result<LogService, String> {
    if !Path::new(JOURNAL).exists() {
        return Err("journald is not enabled on this host".to_owned());
    }
    let mut fields = Vec::new();
    for (name, value) in [
        ("CONTAINER_ID", id.short().as_str()),
        ("CONTAINER_ID_FULL", &id.to_string()),
        ("CONTAINER_NAME", &spec.name),
        ("CONTAINER_TAG", tag),
        ("IMAGE_NAME", &spec.image_reference),
        ("SYSLOG_IDENTIFIER", tag),
    ] {
        put_field(&mut fields, name, value);
    }
    for (name, value) in attributes {
        put_field(&mut fields, &field_name(name), value);
    }
    Ok(LogService {
        address: socket::unix_address(Path::new(JOURNAL)).map_err(|e| e.to_string())?,
        datagrams: true,
        form: LogForm::Journal,
        facility: 0,
        host: String::new(),
        tag: String::new(),
        fields,
        buffer_max: 0,
    })
}

/// A name as the journal takes it: capital letters, digits, underscores, none in front.
fn field_name(name: &str) -> String {
    let mut fit = name.to_ascii_uppercase();
    fit = fit.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
    fit.trim_start_matches('_').to_owned()
}

fn put_field(fields: &mut Vec<u8>, name: &str, value: &str) {
    if name.is_empty() {
        return;
    }
    fields.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        fields.push(b'\n');
        fields.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        fields.push(b'=');
    }
    fields.extend_from_slice(value.as_bytes());
    fields.push(b'\n');
}

/// Checks the options of `syslog` without asking anybody.
pub(super) fn check_syslog(log: &LogConfig) -> Result<()> {
    let option = |name: &str| log.options.get(name).map_or("", String::as_str);
    facility(option("syslog-facility"))?;
    form(option("syslog-format"))?;
    if let Address::Unix(path) = address(option("syslog-address"))?
        && !Path::new(path).exists()
    {
        return Err(EngineError::Invalid(format!(
            "stat {path}: no such file or directory"
        )));
    }
    Ok(())
}

/// A syslog. The error is for a sentence.
pub(super) fn syslog(log: &LogConfig, tag: &str) -> Result<LogService, String> {
    let option = |name: &str| log.options.get(name).map_or("", String::as_str);
    let said = |error: EngineError| error.to_string();
    let (address, datagrams) = match address(option("syslog-address")).map_err(said)? {
        Address::Local => LOCAL_SYSLOGS
            .iter()
            .find_map(|path| local(path).ok())
            .ok_or("Unix syslog delivery error")?,
        Address::Unix(path) => local(path).map_err(|error| format!("dial unix {path}: {error}"))?,
        Address::Internet {
            datagrams,
            host,
            port,
        } => {
            let found = (host, port).to_socket_addrs();
            let found = found.ok().and_then(|mut all| all.next());
            let found = found.ok_or_else(|| format!("dial: lookup {host}: no such host"))?;
            (socket::internet_address(&found), datagrams)
        }
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Ok(LogService {
        address,
        datagrams,
        form: form(option("syslog-format")).map_err(said)?,
        facility: facility(option("syslog-facility")).map_err(said)?,
        host: host.trim().to_owned(),
        tag: tag.to_owned(),
        fields: Vec::new(),
        buffer_max: 0,
    })
}

/// A socket of this host, and whether it takes messages.
fn local(path: &str) -> std::io::Result<(Vec<u8>, bool)> {
    let address = socket::unix_address(Path::new(path))?;
    if socket::connect_to(&address, true, PROBE_PATIENCE).is_ok() {
        return Ok((address, true));
    }
    socket::connect_to(&address, false, PROBE_PATIENCE).map(|_| (address, false))
}

fn address(text: &str) -> Result<Address<'_>> {
    if text.is_empty() {
        return Ok(Address::Local);
    }
    let unsupported = || {
        EngineError::Invalid(format!(
            "unsupported syslog address \"{text}\": use unix://PATH, unixgram://PATH, \
             udp://HOST[:PORT] or tcp://HOST[:PORT]"
        ))
    };
    let (scheme, place) = text.split_once("://").ok_or_else(unsupported)?;
    let datagrams = match scheme {
        "unix" | "unixgram" => return Ok(Address::Unix(place)),
        "udp" => true,
        "tcp" => false,
        _ => return Err(unsupported()),
    };
    let place = place.trim_end_matches('/');
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host, port.parse().map_err(|_| unsupported())?)
        }
        _ => (place, PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(unsupported());
    }
    Ok(Address::Internet {
        datagrams,
        host,
        port,
    })
}

fn form(text: &str) -> Result<LogForm> {
    Ok(match text {
        "" => LogForm::SyslogUnix,
        "rfc3164" => LogForm::Rfc3164,
        "rfc5424" => LogForm::Rfc5424,
        "rfc5424micro" => LogForm::Rfc5424Micro,
        _ => return Err(EngineError::Invalid("Invalid syslog format".to_owned())),
    })
}

fn facility(text: &str) -> Result<u32> {
    let named = || FACILITIES.iter().position(|name| *name == text);
    let number = match text {
        "" => Some(FACILITY_DEFAULT),
        _ => match text.parse::<u32>() {
            Ok(number) => Some(number).filter(|number| *number < 24),
            Err(_) => named().and_then(|at| u32::try_from(at).ok()),
        },
    };
    let number =
        number.ok_or_else(|| EngineError::Invalid("invalid syslog facility".to_owned()))?;
    Ok(number << FACILITY_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_docker_reads_them() {
        let internet = |datagrams, host, port| Address::Internet {
            datagrams,
            host,
            port,
        };
        for (text, expected) in [
            ("", Some(Address::Local)),
            ("unix:///dev/log", Some(Address::Unix("/dev/log"))),
            ("unixgram:///x", Some(Address::Unix("/x"))),
            ("udp://a.b", Some(internet(true, "a.b", 514))),
            ("tcp://10.0.0.1:99", Some(internet(false, "10.0.0.1", 99))),
            ("tcp://[::1]:99", Some(internet(false, "::1", 99))),
            ("udp://[fe80::1]", Some(internet(true, "fe80::1", 514))),
            ("http://a", None),
            ("tcp://a:x", None),
            ("a", None),
        ] {
            assert_eq!(address(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn facilities_have_names_and_numbers() {
        for (text, expected) in [("", 24), ("local7", 184), ("kern", 0), ("23", 184)] {
            assert_eq!(facility(text).ok(), Some(expected), "{text}");
        }
        assert!(facility("24").is_err() && facility("me").is_err());
    }

    #[test]
    fn the_journal_gets_names_that_it_takes() {
        assert_eq!(field_name("com.example/x-1"), "COM_EXAMPLE_X_1");
        assert_eq!(field_name("_hidden"), "HIDDEN");
    }
}
