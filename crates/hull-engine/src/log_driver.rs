//! Log drivers: which there are, the options of each, and what the shim is told to do.
//!
//! | driver | the shim writes | `logs` reads |
//! |---|---|---|
//! | `json-file` | `<id>-json.log` | that |
//! | `local` | `local-logs/container.log`, in the same form | that |
//! | `journald`, `syslog` | to the service, and `container-cached.log` | the cache, as in Docker |
//! | `none` | nothing | an error |
//!
//! Options are checked when a container is created and looked at again at each start, when host
//! names are resolved and the templates of tags are filled in.

mod options;
mod service;
mod tag;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hull_model::SandboxId;
use hull_model::spec::{ContainerSpec, LogConfig};
use hull_sandbox::Log;

use crate::error::{EngineError, Result};
pub(crate) use options::check;
use options::{Kept, Options};

/// The driver of whoever names none.
pub(crate) const DEFAULT: &str = "json-file";
/// What `info` lists, in order.
pub(crate) const NAMES: [&str; 4] = ["journald", "json-file", "local", "syslog"];
/// The driver that keeps nothing; not listed, as in Docker.
const NONE: &str = "none";

/// Which driver a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    JsonFile,
    Local,
    Journald,
    Syslog,
    None,
}

impl Driver {
    fn of(log: &LogConfig) -> Result<Driver> {
        Ok(match log.driver.as_str() {
            "" | DEFAULT => Driver::JsonFile,
            "local" => Driver::Local,
            "journald" => Driver::Journald,
            "syslog" => Driver::Syslog,
            NONE => Driver::None,
            other => {
                return Err(EngineError::Invalid(format!(
                    "logger: no log driver named '{other}' is registered"
                )));
            }
        })
    }

    fn is_service(self) -> bool {
        matches!(self, Driver::Journald | Driver::Syslog)
    }
}

/// The file that `inspect` names: only `json-file` promises its form to others.
pub(crate) fn public_file(log: &LogConfig, directory: &Path, id: SandboxId) -> Option<PathBuf> {
    (Driver::of(log).ok()? == Driver::JsonFile).then(|| directory.join(format!("{id}-json.log")))
}

/// The file that `logs` reads; none: the driver keeps nothing here.
pub(crate) fn file(log: &LogConfig, directory: &Path, id: SandboxId) -> Option<PathBuf> {
    let options = Options::parse(log).ok()?;
    options.kept?;
    Some(directory.join(match Driver::of(log).ok()? {
        Driver::JsonFile => format!("{id}-json.log"),
        Driver::Local => "local-logs/container.log".to_owned(),
        Driver::Journald | Driver::Syslog => "container-cached.log".to_owned(),
        Driver::None => return None,
    }))
}

/// Whether files that are full are compressed.
pub(crate) fn compresses(log: &LogConfig) -> bool {
    let kept = Options::parse(log).ok().and_then(|options| options.kept);
    kept.is_some_and(|kept| kept.compress)
}

/// What the shim is told; makes the directory of the log.
///
/// # Errors
/// `StartFailed` when the service is not there.
pub(crate) fn plan(spec: &ContainerSpec, directory: &Path, id: SandboxId) -> Result<Log> {
    let log = &spec.host.log;
    let (driver, options) = (Driver::of(log)?, Options::parse(log)?);
    if driver == Driver::None {
        return Ok(Log::default());
    }
    let path = file(log, directory, id);
    if let Some(parent) = path.as_ref().and_then(|path| path.parent()) {
        std::fs::create_dir_all(parent)
            .map_err(|e| EngineError::io("make the directory of the log", e))?;
    }
    let mut attributes = attributes(spec)?;
    let tag = tag::fill(log.options.get("tag").map(String::as_str), spec, id)?;
    let service = match driver {
        Driver::Journald => Some(service::journald(spec, id, &tag, &attributes)),
        Driver::Syslog => Some(service::syslog(log, &tag)),
        Driver::JsonFile | Driver::Local | Driver::None => None,
    };
    let mut service = service
        .transpose()
        .map_err(|text| EngineError::StartFailed {
            text: format!("failed to initialize logging driver: {text}"),
            exit_code: 128,
        })?;
    if let Some(service) = &mut service {
        service.buffer_max = options.buffer_max;
    }
    if !driver.is_service() && log.options.get("tag").is_some_and(|tag| !tag.is_empty()) {
        attributes.insert("tag".to_owned(), tag);
    }
    let kept = options.kept.unwrap_or(Kept::default());
    Ok(Log {
        path,
        max_size: kept.file_bytes_max,
        max_files: kept.files_max,
        attributes: encode(&attributes),
        service,
    })
}

/// What each line carries beside its text: the labels and variables that were asked for.
fn attributes(spec: &ContainerSpec) -> Result<BTreeMap<String, String>> {
    let config = &spec.config;
    let env: BTreeMap<&str, &str> = config
        .env
        .iter()
        .filter_map(|variable| variable.split_once('='))
        .collect();
    let labels: BTreeMap<&str, &str> = config
        .labels
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut found = BTreeMap::new();
    for (from, option) in [(labels, "labels"), (env, "env")] {
        let wanted = options::Wanted::parse(&spec.host.log, option)?;
        let named = from.iter().filter(|(name, _)| wanted.fits(name));
        found.extend(named.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    }
    Ok(found)
}

/// The attributes as they stand in each line of a file.
fn encode(attributes: &BTreeMap<String, String>) -> Vec<u8> {
    if attributes.is_empty() {
        return Vec::new();
    }
    // Texts only, which JSON always can hold.
    let json = serde_json::to_string(attributes).unwrap_or_default();
    // As Go's encoder does, with HTML in mind: these occur inside strings only.
    let json = json
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026");
    format!(",\"attrs\":{json}").into_bytes()
}
