//! Values of single flags, parsed as Docker's client parses them.

use std::net::IpAddr;

use super::wire::{DeviceMapping, RestartPolicy, ThrottleDevice, Ulimit, WeightDevice};
use crate::cli::units::ram_in_bytes;

/// Names that `--ulimit` knows.
const ULIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Sysctls that belong to the ipc namespace; those of the network one have a prefix.
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

type Parsed<T> = Result<T, String>;

/// `stdin`, `stdout` or `stderr` in any case.
pub(super) fn attach(text: &str) -> Parsed<String> {
    let stream = text.to_lowercase();
    match stream.as_str() {
        "stdin" | "stdout" | "stderr" => Ok(stream),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".to_owned()),
    }
}

/// `NAME=VALUE`, or `NAME` for the value of our own environment.
pub(crate) fn env(text: &str) -> Parsed<String> {
    let name = text.split('=').next().unwrap_or_default();
    if name.is_empty() {
        return Err(format!("invalid environment variable: {text}"));
    }
    if name.len() != text.len() {
        return Ok(text.to_owned());
    }
    Ok(match std::env::var(name) {
        Ok(value) => format!("{name}={value}"),
        Err(_) => text.to_owned(),
    })
}

/// `key` or `key=value`, the key without blanks.
pub(crate) fn label(text: &str) -> Parsed<String> {
    let key = text
        .split('=')
        .next()
        .unwrap_or_default()
        .trim_start_matches([' ', '\t']);
    if key.is_empty() {
        return Err(format!("invalid label '{text}': empty name"));
    }
    if key.contains([' ', '\t']) {
        return Err(format!("label '{text}' contains whitespaces"));
    }
    Ok(text.to_owned())
}

/// A sysctl of a namespace that a container has for itself.
pub(super) fn sysctl(text: &str) -> Parsed<(String, String)> {
    let refused = || format!("sysctl '{text}' is not allowed");
    let (key, value) = text.split_once('=').ok_or_else(refused)?;
    let namespaced =
        IPC_SYSCTLS.contains(&key) || key.starts_with("net.") || key.starts_with("fs.mqueue.");
    if !namespaced {
        return Err(refused());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// `key=value`, with an empty value where there is none.
pub(crate) fn pair(text: &str) -> Parsed<(String, String)> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    Ok((key.to_owned(), value.to_owned()))
}

/// `name=soft[:hard]`.
pub(crate) fn ulimit(text: &str) -> Parsed<Ulimit> {
    let (name, limits) = text
        .split_once('=')
        .ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |text: &str| {
        text.parse::<i64>()
            .map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
    };
    let (soft, hard) = match limits.split(':').collect::<Vec<_>>()[..] {
        [soft] => (number(soft)?, number(soft)?),
        [soft, hard] => {
            let hard = number(hard)?;
            (number(soft)?, hard)
        }
        _ => {
            return Err(format!(
                "too many limit value arguments - {limits}, can only have up to two, \
                 `soft[:hard]`"
            ));
        }
    };
    let order = "ulimit soft limit must be less than or equal to hard limit:";
    match (soft, hard) {
        (_, -1) => {}
        (-1, _) => return Err(format!("{order} soft: -1 (unlimited), hard: {hard}")),
        _ if soft > hard => return Err(format!("{order} {soft} > {hard}")),
        _ => {}
    }
    Ok(Ulimit {
        name: name.to_owned(),
        hard,
        soft,
    })
}

/// An address.
pub(super) fn ip_address(text: &str) -> Parsed<String> {
    match text.trim().parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(format!("IP address is not correctly formatted: {text}")),
    }
}

/// A search domain; `.` means none.
pub(super) fn dns_search(text: &str) -> Parsed<String> {
    let domain = text.trim_matches(' ');
    if domain == "." {
        return Ok(domain.to_owned());
    }
    let valid_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    let trimmed = domain.strip_suffix('.').unwrap_or(domain);
    let valid = trimmed.len() < 255
        && trimmed.contains(|c: char| c.is_ascii_alphabetic())
        && trimmed.split('.').all(valid_label);
    if !valid {
        return Err(format!("{domain} is not a valid domain"));
    }
    Ok(trimmed.to_owned())
}

/// `host:address` or `host=address`; returned with a colon, as the API wants it.
pub(super) fn extra_host(text: &str) -> Parsed<String> {
    let split = text.split_once('=').or_else(|| text.split_once(':'));
    let (host, address) = match split {
        Some((host, address)) if !host.is_empty() && !host.contains(':') => (host, address),
        _ => return Err(format!("bad format for add-host: {text:?}")),
    };
    let bare = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    if bare != "host-gateway" && bare.trim().parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {bare:?}"));
    }
    Ok(format!("{host}:{bare}"))
}

/// `name` or `name:alias`.
pub(crate) fn link(text: &str) -> Parsed<String> {
    if text.is_empty() {
        return Err("empty string specified for links".to_owned());
    }
    if text.split(':').count() > 2 {
        return Err(format!("bad format for links: {text}"));
    }
    Ok(text.to_owned())
}

/// `device:weight`.
pub(super) fn weight_device(text: &str) -> Parsed<WeightDevice> {
    let bad = || format!("bad format: {text}");
    let (path, weight) = text.split_once(':').ok_or_else(bad)?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    let invalid = || format!("invalid weight for device: {text}");
    let weight: u16 = weight.parse().map_err(|_| invalid())?;
    if weight > 0 && !(10..=1000).contains(&weight) {
        return Err(invalid());
    }
    Ok(WeightDevice {
        path: path.to_owned(),
        weight,
    })
}

/// `device:rate` with a unit.
pub(super) fn throttle_bps(text: &str) -> Parsed<ThrottleDevice> {
    let invalid = || {
        format!(
            "invalid rate for device: {text}. The correct format is \
             <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional \
             and can be kb, mb, or gb"
        )
    };
    let (path, rate) = device_and_rate(text)?;
    let rate = ram_in_bytes(rate).map_err(|_| invalid())?;
    Ok(ThrottleDevice {
        path: path.to_owned(),
        rate: rate.try_into().map_err(|_| invalid())?,
    })
}

/// `device:rate` without a unit.
pub(super) fn throttle_iops(text: &str) -> Parsed<ThrottleDevice> {
    let invalid = || {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. \
             Number must be a positive integer"
        )
    };
    let (path, rate) = device_and_rate(text)?;
    Ok(ThrottleDevice {
        path: path.to_owned(),
        rate: rate.parse().map_err(|_| invalid())?,
    })
}

fn device_and_rate(text: &str) -> Parsed<(&str, &str)> {
    let (path, rate) = text
        .split_once(':')
        .ok_or_else(|| format!("bad format: {text}"))?;
    if !path.starts_with("/dev/") {
        return Err(format!("bad format for device path: {text}"));
    }
    Ok((path, rate))
}

/// `type major:minor access`.
pub(super) fn device_cgroup_rule(text: &str) -> Parsed<String> {
    let number = |text: &str| {
        text == "*" || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let valid = match text.split(' ').collect::<Vec<_>>()[..] {
        [kind, numbers, access] => {
            matches!(kind, "a" | "b" | "c")
                && numbers
                    .split_once(':')
                    .is_some_and(|(a, b)| number(a) && number(b))
                && (1..=3).contains(&access.len())
                && access.chars().all(|c| "rwm".contains(c))
        }
        _ => false,
    };
    if valid {
        Ok(text.to_owned())
    } else {
        Err(format!("invalid device cgroup format '{text}'"))
    }
}

/// `/dev/x[:/dev/y][:rwm]`.
pub(super) fn device(text: &str) -> Parsed<DeviceMapping> {
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() > 3 || parts[0].is_empty() {
        return Err(format!("bad format for path: {text}"));
    }
    let (source, inside, access) = match parts[..] {
        [source, access] if is_access(access) => (source, source, access),
        [source, inside] => (source, inside, "rwm"),
        [source, inside, access] if is_access(access) => (source, inside, access),
        [_, _, access] => return Err(format!("bad mode specified: {access}")),
        _ => (parts[0], parts[0], "rwm"),
    };
    if !inside.starts_with('/') {
        return Err(format!("{inside} is not an absolute path"));
    }
    Ok(DeviceMapping {
        path_on_host: source.to_owned(),
        path_in_container: inside.to_owned(),
        cgroup_permissions: access.to_owned(),
    })
}

fn is_access(text: &str) -> bool {
    let once = |letter| text.matches(letter).count() <= 1;
    !text.is_empty()
        && text.chars().all(|c| "rwm".contains(c))
        && ['r', 'w', 'm'].iter().all(|l| once(*l))
}

/// A decimal fraction of processors, in billionths.
pub(crate) fn cpus(text: &str) -> Parsed<i64> {
    let not_rational = || format!("failed to parse {text} as a rational number");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err(not_rational());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let padded = format!("{whole}{fraction:0<9}");
    padded.parse().map_err(|_| not_rational())
}

/// Bytes with `-1` for no limit.
pub(crate) fn memory_swap(text: &str) -> Parsed<i64> {
    if text == "-1" {
        Ok(-1)
    } else {
        ram_in_bytes(text)
    }
}

/// `name[:count]`.
pub(crate) fn restart_policy(text: &str) -> Result<RestartPolicy, String> {
    let (name, count) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() && !text.is_empty() {
        return Err("invalid restart policy format: no policy provided before colon".to_owned());
    }
    let count = match count {
        "" => 0,
        count => count.parse().map_err(|_| {
            "invalid restart policy format: maximum retry count must be an integer".to_owned()
        })?,
    };
    Ok(RestartPolicy {
        name: name.to_owned(),
        maximum_retry_count: count,
    })
}

/// Whether the text is a MAC address of six bytes.
pub(super) fn is_mac_address(text: &str) -> bool {
    let text = text.trim();
    let separator = if text.contains('-') { '-' } else { ':' };
    let byte = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    text.split(separator).count() == 6 && text.split(separator).all(byte)
}

/// Parses one line of comma-separated values, quoted where they contain commas.
pub(super) fn csv(text: &str) -> Parsed<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let Some(quoted) = rest.strip_prefix('"') else {
            let (field, after) = rest
                .split_once(',')
                .map_or((rest, None), |(f, a)| (f, Some(a)));
            if field.contains('"') {
                return Err("parse error on line 1: bare \" in non-quoted-field".to_owned());
            }
            fields.push(field.to_owned());
            match after {
                Some(after) => rest = after,
                None => return Ok(fields),
            }
            continue;
        };
        let mut field = String::new();
        let mut characters = quoted.char_indices().peekable();
        let end = loop {
            match characters.next() {
                Some((_, '"')) if characters.next_if(|(_, c)| *c == '"').is_some() => {
                    field.push('"');
                }
                Some((index, '"')) => break index + 1,
                Some((_, c)) => field.push(c),
                None => return Err("parse error on line 1: extraneous or missing \"".to_owned()),
            }
        };
        fields.push(field);
        match quoted[end..].strip_prefix(',') {
            Some(after) => rest = after,
            None if end == quoted.len() => return Ok(fields),
            None => return Err("parse error on line 1: extraneous or missing \"".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_of_processors_are_exact() {
        assert_eq!(cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(cpus("0.000000001"), Ok(1));
        assert_eq!(cpus("2"), Ok(2_000_000_000));
        assert!(cpus("0.0000000001").unwrap_err().contains("too precise"));
        assert!(cpus("x").unwrap_err().contains("rational"));
    }

    #[test]
    fn devices_have_up_to_three_parts() {
        let check = |text: &str, expected: [&str; 3]| {
            let found = device(text).unwrap();
            let found = [
                found.path_on_host,
                found.path_in_container,
                found.cgroup_permissions,
            ];
            assert_eq!(found, expected);
        };
        check("/dev/fuse", ["/dev/fuse", "/dev/fuse", "rwm"]);
        check("/dev/fuse:r", ["/dev/fuse", "/dev/fuse", "r"]);
        check("/dev/a:/dev/b", ["/dev/a", "/dev/b", "rwm"]);
        check("/dev/a:/dev/b:rw", ["/dev/a", "/dev/b", "rw"]);
        assert!(device("/dev/a:/dev/b:x").is_err());
        assert!(device("dev").is_err());
    }

    #[test]
    fn quoted_fields_keep_their_commas() {
        assert_eq!(csv(r#"a,"b,c",d"#).unwrap(), ["a", "b,c", "d"]);
        assert_eq!(csv(r#""say ""hi""""#).unwrap(), [r#"say "hi""#]);
        assert!(csv(r#""open"#).is_err());
    }

    #[test]
    fn limits_are_ordered() {
        assert_eq!(
            ulimit("nofile=1:2").unwrap(),
            Ulimit {
                name: "nofile".into(),
                hard: 2,
                soft: 1
            }
        );
        assert!(ulimit("nofile=3:2").is_err());
        assert!(ulimit("foo=1").is_err());
    }
}
