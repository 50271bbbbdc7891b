//! The options of log drivers: their names, their values, Docker's words for what is wrong.

use hull_model::limits::{LOCAL_LOG_FILE_BYTES_MAX, LOCAL_LOG_FILES_MAX};
use hull_model::limits::{LOG_BUFFER_BYTES_MAX, LOG_FILE_BYTES_MAX, LOG_FILES_MAX};
use hull_model::spec::LogConfig;
use regex_lite::Regex;

use super::{Driver, service};
use crate::error::{EngineError, Result};

/// Known to every driver.
const OF_ALL: [&str; 7] = [
    "env",
    "env-regex",
    "labels",
    "labels-regex",
    "max-buffer-size",
    "mode",
    "tag",
];
/// Known to drivers that keep files of their own.
const OF_FILES: [&str; 3] = ["compress", "max-file", "max-size"];
/// The same for the cache of those that do not.
const OF_CACHE: [&str; 4] = [
    "cache-compress",
    "cache-disabled",
    "cache-max-file",
    "cache-max-size",
];
/// Known to `syslog`.
const OF_SYSLOG: [&str; 3] = ["syslog-address", "syslog-facility", "syslog-format"];

/// How much output is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Bytes of one file; 0: without limit.
    pub(super) file_bytes_max: u64,
    pub(super) files_max: u32,
    pub(super) compress: bool,
}

/// What the options of any driver say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Options {
    /// None: nothing is kept.
    pub(super) kept: Option<Kept>,
    /// Bytes that may wait for a service; 0: the container waits instead.
    pub(super) buffer_max: u64,
}

/// Checks all options of a container, as far as that can be done before it starts.
///
/// # Errors
/// Invalid argument for a driver or a name that is none, or a value that cannot be, in Docker's
/// words.
pub(crate) fn check(log: &LogConfig) -> Result<()> {
    let driver = Driver::of(log)?;
    if driver == Driver::None {
        return Ok(());
    }
    let (own, name): (&[&str], _) = match driver {
        Driver::Syslog => (&OF_SYSLOG, "syslog"),
        Driver::Journald => (&[], "journald"),
        Driver::Local => (&OF_FILES, "local"),
        Driver::JsonFile | Driver::None => (&OF_FILES, "json-file"),
    };
    let known = |option: &str| {
        OF_ALL.contains(&option)
            || own.contains(&option)
            || (driver.is_service() && OF_CACHE.contains(&option))
    };
    if let Some(option) = log.options.keys().find(|option| !known(option)) {
        if option.starts_with("syslog-tls") && driver == Driver::Syslog {
            return Err(EngineError::Unsupported(format!(
                "log opt '{option}': syslog over TLS is not there; send to a relay on this host"
            )));
        }
        return Err(EngineError::Invalid(format!(
            "unknown log opt '{option}' for {name} log driver"
        )));
    }
    Options::parse(log)?;
    Wanted::parse(log, "labels")?;
    Wanted::parse(log, "env")?;
    super::tag::check(log)?;
    if driver == Driver::Syslog {
        service::check_syslog(log)?;
    }
    Ok(())
}

impl Options {
    pub(super) fn parse(log: &LogConfig) -> Result<Options> {
        let driver = Driver::of(log)?;
        let kept = match driver {
            Driver::None => None,
            Driver::JsonFile | Driver::Local => Some(kept(log, driver)?),
            Driver::Journald | Driver::Syslog if flag(log, "cache-disabled")? == Some(true) => None,
            Driver::Journald | Driver::Syslog => Some(kept(log, driver)?),
        };
        Ok(Options {
            kept,
            buffer_max: buffer_max(log)?,
        })
    }
}

fn kept(log: &LogConfig, driver: Driver) -> Result<Kept> {
    let names = match driver.is_service() {
        true => ["cache-max-size", "cache-max-file", "cache-compress"],
        false => ["max-size", "max-file", "compress"],
    };
    let default = match driver {
        Driver::JsonFile => Kept {
            file_bytes_max: LOG_FILE_BYTES_MAX,
            files_max: LOG_FILES_MAX,
            compress: false,
        },
        _ => Kept {
            file_bytes_max: LOCAL_LOG_FILE_BYTES_MAX,
            files_max: LOCAL_LOG_FILES_MAX,
            compress: true,
        },
    };
    let [size, files, compress] = names;
    let file_bytes_max = match log.options.get(size) {
        Some(text) => parse_size(text).ok_or_else(|| invalid(size, text))?,
        None => default.file_bytes_max,
    };
    let files_max = match log.options.get(files) {
        Some(text) => text.parse().map_err(|_| invalid(files, text))?,
        None => default.files_max,
    };
    if files_max == 0 {
        return Err(EngineError::Invalid(format!(
            "{files} cannot be less than 1"
        )));
    }
    let asked = flag(log, compress)?;
    if asked == Some(true) && (files_max < 2 || file_bytes_max == 0) {
        return Err(EngineError::Invalid(format!(
            "{compress} cannot be true when {files} is less than 2 or {size} is not set"
        )));
    }
    Ok(Kept {
        file_bytes_max,
        files_max,
        compress: asked.unwrap_or(default.compress && files_max > 1),
    })
}

fn buffer_max(log: &LogConfig) -> Result<u64> {
    const NAME: &str = "max-buffer-size";
    let waits = match log.options.get("mode").map(String::as_str) {
        None | Some("" | "blocking") => true,
        Some("non-blocking") => false,
        Some(other) => {
            return Err(EngineError::Invalid(format!(
                "logger: logging mode not supported: {other}"
            )));
        }
    };
    match log.options.get(NAME) {
        Some(_) if waits => Err(EngineError::Invalid(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'".to_owned(),
        )),
        Some(text) => parse_size(text)
            .filter(|bytes| *bytes > 0)
            .ok_or_else(|| invalid(NAME, text)),
        None if waits => Ok(0),
        None => Ok(LOG_BUFFER_BYTES_MAX),
    }
}

fn flag(log: &LogConfig, name: &str) -> Result<Option<bool>> {
    match log.options.get(name).map(String::as_str) {
        None => Ok(None),
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
        Some(other) => Err(invalid(name, other)),
    }
}

fn invalid(name: &str, text: &str) -> EngineError {
    EngineError::Invalid(format!("invalid value for the log option {name}: {text}"))
}

/// Bytes as in `10m`; -1 means without limit, 0 here.
fn parse_size(text: &str) -> Option<u64> {
    if text == "-1" {
        return Some(0);
    }
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return None,
    };
    digits
        .parse::<u64>()
        .ok()?
        .checked_mul(1 << shift)
        .filter(|bytes| *bytes > 0)
}

/// Which labels or variables a line carries.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    names: Vec<&'a str>,
    pattern: Option<Regex>,
}

impl<'a> Wanted<'a> {
    /// Reads `labels` and `labels-regex`, or `env` and `env-regex`.
    pub(super) fn parse(log: &'a LogConfig, option: &str) -> Result<Wanted<'a>> {
        let names = log.options.get(option).map(String::as_str).unwrap_or("");
        let pattern = match log.options.get(&format!("{option}-regex")) {
            Some(text) if !text.is_empty() => Some(Regex::new(text).map_err(|error| {
                EngineError::Invalid(format!("error parsing regexp: {error}: `{text}`"))
            })?),
            _ => None,
        };
        Ok(Wanted {
            names: names.split(',').filter(|name| !name.is_empty()).collect(),
            pattern,
        })
    }

    pub(super) fn fits(&self, name: &str) -> bool {
        let matches = |pattern: &Regex| pattern.is_match(name);
        self.names.contains(&name) || self.pattern.as_ref().is_some_and(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Given = &'static [(&'static str, &'static str)];

    fn log(driver: &str, options: &[(&str, &str)]) -> LogConfig {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        LogConfig {
            driver: driver.to_owned(),
            options: options.iter().map(own).collect(),
        }
    }

    #[test]
    fn names_and_values_are_checked() {
        let good: &[(&str, Given)] = &[
            ("json-file", &[("max-size", "1k"), ("compress", "true")]),
            ("", &[("tag", "{{.Name}}"), ("labels", "a,b")]),
            ("local", &[("max-file", "1")]),
            ("journald", &[("cache-disabled", "true")]),
            ("syslog", &[("syslog-address", "udp://127.0.0.1:5514")]),
            (
                "syslog",
                &[("mode", "non-blocking"), ("max-buffer-size", "4m")],
            ),
            ("none", &[("whatever", "x")]),
        ];
        for (driver, options) in good {
            check(&log(driver, options)).expect(driver);
        }
        let bad: &[(&str, Given, &str)] = &[
            (
                "splunk",
                &[],
                "logger: no log driver named 'splunk' is registered",
            ),
            (
                "",
                &[("max-sise", "1")],
                "unknown log opt 'max-sise' for json-file log driver",
            ),
            (
                "syslog",
                &[("max-size", "1")],
                "unknown log opt 'max-size' for syslog log driver",
            ),
            ("", &[("max-file", "0")], "max-file cannot be less than 1"),
            (
                "",
                &[("max-size", "much")],
                "invalid value for the log option max-size: much",
            ),
            (
                "",
                &[("compress", "true"), ("max-file", "1")],
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ),
            (
                "",
                &[("mode", "x")],
                "logger: logging mode not supported: x",
            ),
            (
                "",
                &[("max-buffer-size", "1m")],
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            (
                "syslog",
                &[("syslog-facility", "x")],
                "invalid syslog facility",
            ),
            ("", &[("tag", "{{.Nix}}")], "template"),
        ];
        for (driver, options, said) in bad {
            let error = check(&log(driver, options)).expect_err(said).to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes) in [
            ("10m", Some(10 << 20)),
            ("1k", Some(1024)),
            ("-1", Some(0)),
            ("5", Some(5)),
            ("x", None),
            ("", None),
            ("0", None),
        ] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }

    #[test]
    fn labels_are_wanted_by_name_or_pattern() {
        let log = log("", &[("labels", "a,b"), ("labels-regex", "^x-")]);
        let wanted = Wanted::parse(&log, "labels").expect("valid");
        let fit = ["a", "b", "c", "x-1", "ax-"].map(|name| wanted.fits(name));
        assert_eq!(fit, [true, true, false, true, false]);
    }
}
