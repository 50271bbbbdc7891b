//! The daemon's configuration file: each key is a flag, under dockerd's name for it.
//!
//! ```text
//!  config.toml or daemon.json ──▶ keys ──▶ words of a command line ──▶ the parser of the flags
//! ```
//!
//! So a value in the file is checked by what checks the flag, and a flag that changes nothing here
//! is warned of in the same words. `/etc/hull/config.toml` is read where it is; another engine's
//! `/etc/docker/daemon.json` only when `--config-file` names it, for it may name that engine's data
//! root and sockets. What is given both as a flag and as a key is an error, as it is for dockerd.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches};
use serde_json::{Map, Value};

/// What is read when nobody names a file.
const FILE_DEFAULT: &str = "/etc/hull/config.toml";
/// Keys whose flag has another name, mostly because they hold several.
const RENAMED: &[(&str, &str)] = &[
    ("authorization-plugins", "authorization-plugin"),
    ("default-address-pools", "default-address-pool"),
    ("default-ulimits", "default-ulimit"),
    ("dns-opts", "dns-opt"),
    ("exec-opts", "exec-opt"),
    ("features", "feature"),
    ("graph", "data-root"),
    ("hosts", "host"),
    ("host-gateway-ips", "host-gateway-ip"),
    ("insecure-registries", "insecure-registry"),
    ("labels", "label"),
    ("log-opts", "log-opt"),
    ("node-generic-resources", "node-generic-resource"),
    ("registry-mirrors", "registry-mirror"),
    ("runtimes", "add-runtime"),
    ("storage-opts", "storage-opt"),
];
/// Flags that are keys under their own name too.
const BOTH: [&str; 2] = ["data-root", "host-gateway-ip"];
/// Keys of dockerd that have no flag and no meaning here, with the reason.
const NOT_APPLICABLE: &[(&str, &str)] = &[
    ("allow-direct-routing", "each network has an option for it"),
    ("builder", "images are built by a client's own builder"),
    ("cluster-advertise", "there is no external cluster store"),
    ("cluster-store", "there is no external cluster store"),
    ("cluster-store-opts", "there is no external cluster store"),
    ("default-network-opts", "give options to each network"),
    ("deprecated-key-path", "manifests are not signed"),
    ("mtu-discovery", "each network has its own"),
];
/// Flags that a file cannot hold.
const NOT_IN_FILES: [&str; 3] = ["config-file", "help", "validate"];

/// A file that was read: the words to parse, and what to warn of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FromFile {
    pub(crate) words: Vec<OsString>,
    pub(crate) warnings: Vec<String>,
}

/// Reads the file that the flags name, or ours; `parser` knows all flags.
///
/// # Errors
/// A sentence, in dockerd's words.
pub(crate) fn read(parser: &clap::Command, flags: &ArgMatches) -> Result<FromFile, String> {
    let named = flags.get_one::<PathBuf>("config_file");
    let path = named.map_or(Path::new(FILE_DEFAULT), PathBuf::as_path);
    let failed = |why: String| {
        let path = path.display();
        format!("unable to configure the Docker daemon with file {path}: {why}")
    };
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {
            return Ok(FromFile::default());
        }
        Err(error) => return Err(failed(format!("open {}: {error}", path.display()))),
        Ok(text) => text,
    };
    let keys = if path.extension().is_some_and(|ending| ending == "json") {
        parse_json(&text)
    } else {
        toml::from_str(&text).map_err(|error| error.to_string())
    };
    keys.and_then(|keys| translate(&keys, parser, flags))
        .map_err(failed)
}

fn parse_json(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn translate(
    keys: &Map<String, Value>,
    parser: &clap::Command,
    flags: &ArgMatches,
) -> Result<FromFile, String> {
    let mut found = FromFile::default();
    let mut unknown = Vec::new();
    let mut twice = Vec::new();
    let known: Vec<&str> = parser
        .get_arguments()
        .filter_map(clap::Arg::get_long)
        .filter(|flag| !NOT_IN_FILES.contains(flag))
        .collect();
    for (key, value) in flattened(keys) {
        if let Some((_, reason)) = NOT_APPLICABLE.iter().find(|(name, _)| *name == key) {
            found.warnings.push(format!(
                "{key} in the configuration file changes nothing: {reason}"
            ));
            continue;
        }
        let renamed = RENAMED.iter().find(|(name, _)| *name == key);
        let flag = renamed.map_or(key, |(_, flag)| *flag);
        // A key with several values has its own name, and not that of the flag too.
        let is_flag = RENAMED.iter().any(|(_, flag)| *flag == key);
        let is_other = is_flag && !BOTH.contains(&key);
        if !known.contains(&flag) || is_other && renamed.is_none() {
            unknown.push(key);
            continue;
        }
        let values = values(key, value)?;
        if let Some(given) = given(parser, flags, flag) {
            let held = printed(value);
            twice.push(format!("{key}: (from flag: {given}, from file: {held})"));
        }
        let word = |value: String| OsString::from(format!("--{flag}={value}"));
        found.words.extend(values.into_iter().map(word));
    }
    if !unknown.is_empty() {
        let hints: Vec<String> = unknown.iter().filter_map(|key| hint(key, &known)).collect();
        return Err(format!(
            "the following directives don't match any configuration option: {}{}",
            unknown.join(", "),
            hints.concat()
        ));
    }
    if !twice.is_empty() {
        return Err(format!(
            "the following directives are specified both as a flag and in the configuration file: {}",
            twice.join(", ")
        ));
    }
    Ok(found)
}

/// The keys, with those of `proxies` among them.
fn flattened(keys: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let mut all = Vec::new();
    for (key, value) in keys {
        match value {
            Value::Object(inner) if key == "proxies" => {
                all.extend(inner.iter().map(|(key, value)| (key.as_str(), value)));
            }
            _ => all.push((key.as_str(), value)),
        }
    }
    all
}

/// What was given for a flag on the command line.
fn given(parser: &clap::Command, flags: &ArgMatches, flag: &str) -> Option<String> {
    let arg = parser
        .get_arguments()
        .find(|arg| arg.get_long() == Some(flag))?;
    let id = arg.get_id().as_str();
    if flags.value_source(id) != Some(ValueSource::CommandLine) {
        return None;
    }
    let raw = flags.get_raw(id).into_iter().flatten();
    let texts: Vec<_> = raw.map(|value| value.to_string_lossy()).collect();
    let texts = texts.join(" ");
    let is_list = matches!(arg.get_action(), ArgAction::Append);
    Some(if is_list { format!("[{texts}]") } else { texts })
}

/// A value as Go prints it.
fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(printed).collect();
            format!("[{}]", values.join(" "))
        }
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| format!("{name}:{}", printed(value));
            let fields: Vec<_> = fields.iter().map(field).collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

/// What a key is worth, as the flag takes it.
fn values(key: &str, value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Array(values) => values.iter().map(|value| scalar(key, value)).collect(),
        Value::Object(pairs) => pairs
            .iter()
            .map(|(name, value)| pair(key, name, value))
            .collect(),
        value => scalar(key, value).map(|value| vec![value]),
    }
}

fn pair(key: &str, name: &str, value: &Value) -> Result<String, String> {
    let number = |field: &str| value.get(field).and_then(Value::as_i64);
    match value {
        Value::Object(_) if key == "default-ulimits" => {
            let (soft, hard) = (number("Soft"), number("Hard"));
            let limits = soft.or(hard).zip(hard.or(soft));
            let (soft, hard) =
                limits.ok_or_else(|| format!("{key}: {name} has no Soft and Hard"))?;
            Ok(format!("{name}={soft}:{hard}"))
        }
        Value::Object(runtime) if key == "runtimes" => {
            let path = runtime.get("path").and_then(Value::as_str);
            Ok(format!("{name}={}", path.unwrap_or_default()))
        }
        value => Ok(format!("{name}={}", scalar(key, value)?)),
    }
}

fn scalar(key: &str, value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Bool(_) | Value::Number(_) => Ok(value.to_string()),
        Value::Object(fields) if key == "default-address-pools" => {
            let field = |(name, value): (&String, &Value)| {
                scalar(key, value).map(|value| format!("{name}={value}"))
            };
            let fields: Result<Vec<_>, _> = fields.iter().map(field).collect();
            Ok(fields?.join(","))
        }
        other => Err(format!("{key}: {other} is no value for it")),
    }
}

/// The nearest key that there is.
fn hint(key: &str, flags: &[&str]) -> Option<String> {
    let several = RENAMED.iter().map(|(name, _)| *name);
    let plain = flags
        .iter()
        .copied()
        .filter(|flag| RENAMED.iter().all(|(_, renamed)| renamed != flag));
    let nearest = crate::cli::nearest(key, several.chain(plain).chain(["data-root"]))?;
    Some(format!("; did you mean \"{nearest}\" for \"{key}\"?"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;

    fn check(json: &str, flags: &[&str], expected: Result<&str, &str>) {
        let parser = crate::cli::DaemonOptions::augment_args(clap::Command::new("daemon"));
        let words = std::iter::once("daemon").chain(flags.iter().copied());
        let matches = parser.clone().get_matches_from(words);
        let got = parse_json(json).and_then(|keys| translate(&keys, &parser, &matches));
        match (got, expected) {
            (Ok(found), Ok(expected)) => {
                let words: Vec<_> = found.words.iter().map(|w| w.to_string_lossy()).collect();
                assert_eq!(words.join(" "), expected, "{json}");
            }
            (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
            (got, _) => panic!("{json}: {got:?}"),
        }
    }

    #[test]
    fn keys_become_flags() {
        check("", &[], Ok(""));
        check(
            r#"{"debug": true, "mtu": 1400}"#,
            &[],
            Ok("--debug=true --mtu=1400"),
        );
        check(
            r#"{"hosts": ["unix:///a", "tcp://b"]}"#,
            &[],
            Ok("--host=unix:///a --host=tcp://b"),
        );
        check(
            r#"{"log-opts": {"max-size": "1m"}}"#,
            &[],
            Ok("--log-opt=max-size=1m"),
        );
        check(
            r#"{"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}}}"#,
            &[],
            Ok("--default-ulimit=nofile=1:2"),
        );
        check(
            r#"{"default-address-pools": [{"base": "10.0.0.0/8", "size": 24}]}"#,
            &[],
            Ok("--default-address-pool=base=10.0.0.0/8,size=24"),
        );
        check(
            r#"{"proxies": {"http-proxy": "http://p"}}"#,
            &[],
            Ok("--http-proxy=http://p"),
        );
        check(
            r#"{"data-root": "/d", "builder": {"gc": {}}}"#,
            &[],
            Ok("--data-root=/d"),
        );
    }

    #[test]
    fn what_is_unknown_or_given_twice_is_said() {
        let unknown = "the following directives don't match any configuration option: lables; did you \
                       mean \"labels\"";
        check(r#"{"lables": ["a=b"]}"#, &[], Err(unknown));
        check(
            r#"{"label": ["a=b"]}"#,
            &[],
            Err("don't match any configuration option: label"),
        );
        check(r#"{"validate": true}"#, &[], Err("don't match any"));
        check(
            r#"{"debug": false}"#,
            &["--debug"],
            Err("both as a flag and in the configuration file: debug: (from flag: "),
        );
        check("{", &[], Err("EOF"));
    }
}
