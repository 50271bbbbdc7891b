//! What a container gets that does not say otherwise: the daemon's configuration, laid under what
//! was asked for when the container is created. Later changes of it reach new containers only.

use hull_model::spec::{HostConfig, Isolation, LogConfig, NamespaceMode, SeccompChoice, Ulimit};

use crate::error::Result;
use crate::log_driver;

/// Defaults that the daemon's configuration decides.
#[derive(Debug, Clone, Default)]
pub struct HostDefaults {
    /// A small init as process 1.
    pub init: bool,
    /// Resource limits, each for containers that do not name it.
    pub ulimits: Vec<Ulimit>,
    /// Bytes of `/dev/shm`; none: Docker's 64 MiB.
    pub shm_size: Option<u64>,
    /// Where output goes; its options count where the container takes the same driver.
    pub log: LogConfig,
    /// The system-call filter.
    pub seccomp: SeccompChoice,
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// Name servers instead of the host's.
    pub dns: Vec<String>,
    /// Options of `resolv.conf`.
    pub dns_options: Vec<String>,
    /// Search domains of `resolv.conf`.
    pub dns_search: Vec<String>,
    /// Whose IPC; `Default`: its own.
    pub ipc: NamespaceMode,
    /// Whose cgroup root; `Default`: its own.
    pub cgroupns: NamespaceMode,
    /// What carries a container.
    pub isolation: Isolation,
}

impl HostDefaults {
    /// Fills in what `host` does not say.
    pub(crate) fn apply(&self, host: &mut HostConfig) {
        if !host.isolation_asked {
            host.isolation = self.isolation;
        }
        if self.init {
            host.init.get_or_insert(true);
        }
        for default in &self.ulimits {
            if !host.ulimits.iter().any(|asked| asked.name == default.name) {
                host.ulimits.push(default.clone());
            }
        }
        host.shm_size = host.shm_size.or(self.shm_size);
        self.apply_log(&mut host.log);
        if host.seccomp == SeccompChoice::Default && !says(host, "seccomp") {
            host.seccomp.clone_from(&self.seccomp);
        }
        if !says(host, "no-new-privileges") {
            host.no_new_privileges |= self.no_new_privileges;
        }
        for (asked, default) in [
            (&mut host.dns, &self.dns),
            (&mut host.dns_options, &self.dns_options),
            (&mut host.dns_search, &self.dns_search),
        ] {
            if asked.is_empty() {
                asked.clone_from(default);
            }
        }
        for (asked, default) in [
            (&mut host.ipc, &self.ipc),
            (&mut host.cgroupns, &self.cgroupns),
        ] {
            if *asked == NamespaceMode::Default {
                asked.clone_from(default);
            }
        }
    }

    /// The log driver of who names none.
    pub(crate) fn log_driver(&self) -> &str {
        match self.log.driver.as_str() {
            "" => log_driver::DEFAULT,
            driver => driver,
        }
    }

    /// Checks what can be wrong in them.
    ///
    /// # Errors
    /// Invalid argument, as for a container that asks for the same.
    pub fn check(&self) -> Result<()> {
        log_driver::check(&self.log)
    }

    fn apply_log(&self, log: &mut LogConfig) {
        let default = self.log_driver();
        if log.driver.is_empty() {
            default.clone_into(&mut log.driver);
        }
        if log.driver == default {
            for (name, value) in &self.log.options {
                let value = || value.clone();
                log.options.entry(name.clone()).or_insert_with(value);
            }
        }
    }
}

/// Whether a security option of this name was given, whatever it says.
fn says(host: &HostConfig, name: &str) -> bool {
    host.security_opt
        .iter()
        .any(|option| option.split(['=', ':']).next() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(driver: &str, options: &[(&str, &str)]) -> LogConfig {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        LogConfig {
            driver: driver.to_owned(),
            options: options.iter().map(own).collect(),
        }
    }

    fn ulimit(name: &str, soft: i64) -> Ulimit {
        Ulimit {
            name: name.to_owned(),
            soft,
            hard: soft,
        }
    }

    #[test]
    fn what_was_asked_for_wins_over_the_daemons_configuration() {
        let defaults = HostDefaults {
            ulimits: vec![ulimit("nofile", 1), ulimit("core", 0)],
            shm_size: Some(1),
            no_new_privileges: true,
            seccomp: SeccompChoice::Unconfined,
            dns: vec!["9.9.9.9".to_owned()],
            ..HostDefaults::default()
        };
        let mut silent = HostConfig::default();
        defaults.apply(&mut silent);
        assert_eq!(silent.ulimits, defaults.ulimits);
        assert_eq!((silent.shm_size, silent.no_new_privileges), (Some(1), true));
        assert_eq!(silent.seccomp, SeccompChoice::Unconfined);
        assert_eq!((silent.dns, silent.init), (defaults.dns.clone(), None));
        let mut asked = HostConfig {
            ulimits: vec![ulimit("nofile", 7)],
            shm_size: Some(2),
            dns: vec!["1.1.1.1".to_owned()],
            init: Some(true),
            security_opt: ["no-new-privileges=false", "seccomp=builtin"]
                .map(str::to_owned)
                .to_vec(),
            ..HostConfig::default()
        };
        defaults.apply(&mut asked);
        assert_eq!(asked.ulimits, [ulimit("nofile", 7), ulimit("core", 0)]);
        assert_eq!((asked.shm_size, asked.no_new_privileges), (Some(2), false));
        assert_eq!(asked.seccomp, SeccompChoice::Default);
        assert_eq!(
            (asked.dns, asked.init),
            (vec!["1.1.1.1".to_owned()], Some(true))
        );
    }

    #[test]
    fn log_options_are_for_their_own_driver() {
        let check = |asked: LogConfig, expected: LogConfig| {
            let defaults = HostDefaults {
                log: log("", &[("max-size", "1m"), ("max-file", "2")]),
                ..HostDefaults::default()
            };
            let mut host = HostConfig {
                log: asked,
                ..HostConfig::default()
            };
            defaults.apply(&mut host);
            assert_eq!(host.log, expected);
        };
        let both = [("max-size", "1m"), ("max-file", "2")];
        check(log("", &[]), log("json-file", &both));
        check(
            log("json-file", &[("max-file", "9")]),
            log("json-file", &[("max-size", "1m"), ("max-file", "9")]),
        );
        check(log("none", &[]), log("none", &[]));
    }
}
