//! Options of the log driver `json-file`: their names and what they mean.

use hull_model::limits::{LOG_FILE_BYTES_MAX, LOG_FILES_MAX};
use hull_model::spec::LogConfig;

use crate::error::{EngineError, Result};

/// What Docker's `json-file` knows. What tags, labels and variables would add to each line is
/// left out, as it is by Docker's own reader.
const NAMES: [&str; 9] = [
    "compress",
    "env",
    "env-regex",
    "labels",
    "labels-regex",
    "max-buffer-size",
    "max-file",
    "max-size",
    "mode",
];
/// Beside them, for every driver.
const TAG: &str = "tag";

/// How much output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Bytes of one file; 0: without limit.
    pub(crate) file_bytes_max: u64,
    pub(crate) files_max: u32,
}

/// Reads and checks the options.
///
/// # Errors
/// Invalid argument for a name that is none or a value that cannot be, in Docker's words.
pub(crate) fn parse(log: &LogConfig) -> Result<Kept> {
    if log.driver == "none" {
        return Ok(Kept {
            file_bytes_max: LOG_FILE_BYTES_MAX,
            files_max: LOG_FILES_MAX,
        });
    }
    let known = |name: &str| name == TAG || NAMES.contains(&name);
    if let Some(name) = log.options.keys().find(|name| !known(name)) {
        return Err(EngineError::Invalid(format!(
            "unknown log opt '{name}' for json-file log driver"
        )));
    }
    let invalid = |name: &str, text: &str| {
        EngineError::Invalid(format!("invalid value for the log option {name}: {text}"))
    };
    let file_bytes_max = match log.options.get("max-size") {
        Some(text) => parse_size(text).ok_or_else(|| invalid("max-size", text))?,
        None => LOG_FILE_BYTES_MAX,
    };
    let files_max = match log.options.get("max-file") {
        Some(text) => text
            .parse()
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| invalid("max-file", text))?,
        None => LOG_FILES_MAX,
    };
    Ok(Kept {
        file_bytes_max,
        files_max,
    })
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
        "k" | "kb" => 10,
        "m" | "mb" => 20,
        "g" | "gb" => 30,
        _ => return None,
    };
    digits
        .parse::<u64>()
        .ok()?
        .checked_shl(shift)
        .filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_checked() {
        let check = |driver: &str, name: &str, value: &str, expected: Option<(u64, u32)>| {
            let log = LogConfig {
                driver: driver.to_owned(),
                options: [(name.to_owned(), value.to_owned())].into(),
            };
            let got = parse(&log).ok();
            let got = got.map(|kept| (kept.file_bytes_max, kept.files_max));
            assert_eq!(got, expected, "{driver} {name}={value}");
        };
        check("json-file", "max-size", "1k", Some((1024, LOG_FILES_MAX)));
        check("json-file", "max-file", "3", Some((LOG_FILE_BYTES_MAX, 3)));
        check("", "tag", "x", Some((LOG_FILE_BYTES_MAX, LOG_FILES_MAX)));
        check("", "max-file", "0", None);
        check("", "max-size", "much", None);
        check("", "max-sise", "1k", None);
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
}
