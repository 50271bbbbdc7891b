//! From the daemon's flags to what containers get that do not say otherwise.

use std::fs;
use std::net::IpAddr;

use hull_engine::HostDefaults;
use hull_model::spec::{Isolation, LogConfig, NamespaceMode, SeccompChoice, Ulimit};

use crate::cli::DaemonOptions;

/// Reads and checks them; the error is a sentence for the person who started the daemon.
pub(crate) fn of(options: &DaemonOptions) -> Result<HostDefaults, String> {
    let network = &options.network;
    for server in &network.dns {
        if server.parse::<IpAddr>().is_err() {
            return Err(format!("--dns: \"{server}\" is not an IP address"));
        }
    }
    let shm_size = options.default_shm_size.filter(|bytes| *bytes > 0);
    let defaults = HostDefaults {
        init: options.init,
        ulimits: options.default_ulimit.iter().map(ulimit).collect(),
        shm_size: shm_size.and_then(|bytes| u64::try_from(bytes).ok()),
        log: log(options)?,
        seccomp: seccomp(options.seccomp_profile.as_deref().unwrap_or_default())?,
        no_new_privileges: options.no_new_privileges,
        dns: network.dns.clone(),
        dns_options: network.dns_opt.clone(),
        dns_search: network.dns_search.clone(),
        ipc: match options.default_ipc_mode.as_deref() {
            None | Some("private") => NamespaceMode::Default,
            Some("shareable") => NamespaceMode::Shareable,
            Some(other) => {
                return Err(format!(
                    "--default-ipc-mode: \"{other}\" is not private or shareable"
                ));
            }
        },
        cgroupns: match options.default_cgroupns_mode.as_deref() {
            None | Some("private") => NamespaceMode::Default,
            Some("host") => NamespaceMode::Host,
            Some(other) => {
                return Err(format!(
                    "--default-cgroupns-mode: \"{other}\" is not private or host"
                ));
            }
        },
        isolation: match options.default_isolation.as_deref() {
            None | Some("container") => Isolation::Container,
            Some("vm") => Isolation::Vm,
            Some(other) => {
                return Err(format!(
                    "--default-isolation: \"{other}\" is not container or vm"
                ));
            }
        },
    };
    defaults.check().map_err(|error| error.chain())?;
    Ok(defaults)
}

fn ulimit(given: &crate::cli::Ulimit) -> Ulimit {
    Ulimit {
        name: given.name.clone(),
        soft: given.soft,
        hard: given.hard,
    }
}

fn log(options: &DaemonOptions) -> Result<LogConfig, String> {
    let mut log = LogConfig::default();
    for option in &options.log_opt {
        let Some((name, value)) = option.split_once('=') else {
            return Err(format!("--log-opt: \"{option}\" is not NAME=VALUE"));
        };
        log.options.insert(name.to_owned(), value.to_owned());
    }
    log.driver = options.log_driver.clone().unwrap_or_default();
    Ok(log)
}

fn seccomp(choice: &str) -> Result<SeccompChoice, String> {
    match choice {
        "" | "builtin" => Ok(SeccompChoice::Default),
        "unconfined" => Ok(SeccompChoice::Unconfined),
        path => fs::read_to_string(path)
            .map(SeccompChoice::Profile)
            .map_err(|error| format!("--seccomp-profile: read {path}: {error}")),
    }
}
