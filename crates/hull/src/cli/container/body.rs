//! From flags to the body of the request.

use std::collections::BTreeMap;

use super::environment;
use super::mount::{Volume, parse_volume};
use super::network;
use super::options::ContainerOptions;
use super::parse;
use super::port;
use hull_model::egress::EGRESS_LABEL;
use hull_model::health::ON_FAILURE_LABEL;

use super::wire::{Config, CreateBody, Empty, Healthcheck, HostConfig, LogConfig, Resources};
use crate::cli::failure::Failure;
use crate::client::{ApiVersion, ClientError};

impl ContainerOptions {
    /// Makes the request.
    ///
    /// # Errors
    /// The words of Docker's client, where flags contradict each other or name what is not there.
    pub(crate) fn body(&self) -> Result<CreateBody, Failure> {
        if let Some(request) = &self.gpus {
            return Err(Failure::new(format!(
                "--gpus {request}: passing GPUs by vendor hooks is not supported: \
                 give the device files with --device"
            )));
        }
        let mut host_config = self.host_config()?;
        let config = self.config(&mut host_config)?;
        if self.rm && !matches!(host_config.restart_policy.name.as_str(), "" | "no") {
            let text = "conflicting options: cannot specify both --restart and --rm";
            return Err(Failure::new(text));
        }
        Ok(CreateBody {
            config,
            host_config,
            networking: network::networking(self)?,
        })
    }

    fn config(&self, host_config: &mut HostConfig) -> Result<Config, String> {
        let attached = |stream: &str| self.attach.iter().any(|attach| attach == stream);
        let none_named = self.attach.is_empty();
        let (image, command) = self
            .words
            .split_first()
            .map_or(("", &[][..]), |(i, c)| (i, c));
        let mut exposed_ports: BTreeMap<String, Empty> = host_config
            .port_bindings
            .keys()
            .map(|port| (port.clone(), Empty {}))
            .collect();
        for text in &self.expose {
            port::expose(text, &mut exposed_ports)?;
        }
        // A flag replaces an earlier flag, but stands beside what files say: the engine decides.
        let flags = environment::last_of_each(&self.env);
        let env = environment::variables(&self.env_file, &flags)?;
        let attach_stdin = attached("stdin") || self.interactive;
        Ok(Config {
            hostname: text(&self.hostname),
            domainname: text(&self.domainname),
            user: text(&self.user),
            attach_stdin,
            attach_stdout: none_named || attached("stdout"),
            attach_stderr: none_named || attached("stderr"),
            exposed_ports,
            tty: self.tty,
            open_stdin: self.interactive,
            // Its end shall be the end of the container's input too.
            stdin_once: self.interactive && attach_stdin,
            env: list(&env),
            cmd: list(command),
            healthcheck: self.healthcheck()?,
            image: image.to_owned(),
            volumes: self.anonymous_volumes()?,
            working_dir: text(&self.workdir),
            entrypoint: self
                .entrypoint
                .as_ref()
                .map(|program| vec![program.clone()]),
            mac_address: None,
            on_build: None,
            labels: self.labels()?,
            stop_signal: text(&self.stop_signal),
            stop_timeout: self.stop_timeout,
        })
    }

    fn host_config(&self) -> Result<HostConfig, String> {
        self.check_modes()?;
        let (security_opt, unconfined_paths) = self.security()?;
        let mut port_bindings = port::PortBindings::new();
        for text in &self.publish {
            port::publish(text, &mut port_bindings)?;
        }
        let empty_paths = || unconfined_paths.then(Vec::new);
        Ok(HostConfig {
            binds: list(&self.binds()?),
            container_id_file: text(&self.cidfile),
            log_config: self.log_config()?,
            network_mode: network::mode(self),
            port_bindings,
            restart_policy: parse::restart_policy(&self.restart)?,
            auto_remove: self.rm,
            volume_driver: text(&self.volume_driver),
            volumes_from: list(&self.volumes_from),
            annotations: self.annotation.iter().cloned().collect(),
            cap_add: list(&capabilities(&self.cap_add)),
            cap_drop: list(&capabilities(&self.cap_drop)),
            cgroupns_mode: text(&self.cgroupns),
            dns: self.dns.clone(),
            dns_options: self.dns_option.clone(),
            dns_search: self.dns_search.clone(),
            extra_hosts: list(&self.add_host),
            group_add: list(&self.group_add),
            ipc_mode: text(&self.ipc),
            links: list(&self.link),
            oom_score_adj: self.oom_score_adj.unwrap_or(0),
            pid_mode: text(&self.pid),
            privileged: self.privileged,
            publish_all_ports: self.publish_all,
            readonly_rootfs: self.read_only,
            security_opt,
            storage_opt: self.storage_options()?,
            tmpfs: self
                .tmpfs
                .iter()
                .map(|text| split_or_empty(text, ':'))
                .collect(),
            uts_mode: text(&self.uts),
            userns_mode: text(&self.userns),
            shm_size: self.shm_size.unwrap_or(0),
            sysctls: self.sysctl.iter().cloned().collect(),
            runtime: text(&self.runtime),
            isolation: text(&self.isolation),
            resources: self.resources()?,
            mounts: self.mount.clone(),
            masked_paths: empty_paths(),
            readonly_paths: empty_paths(),
            init: self.init,
            ..HostConfig::default()
        })
    }

    fn resources(&self) -> Result<Resources, String> {
        let swappiness = self.memory_swappiness.unwrap_or(-1);
        if !(-1..=100).contains(&swappiness) {
            return Err(format!(
                "invalid value: {swappiness}. Valid memory swappiness range is 0-100"
            ));
        }
        Ok(Resources {
            cpu_shares: self.cpu_shares.unwrap_or(0),
            memory: self.memory.unwrap_or(0),
            nano_cpus: self.cpus.unwrap_or(0),
            cgroup_parent: text(&self.cgroup_parent),
            blkio_weight: self.blkio_weight.unwrap_or(0),
            blkio_weight_device: Some(self.blkio_weight_device.clone()),
            blkio_device_read_bps: Some(self.device_read_bps.clone()),
            blkio_device_write_bps: Some(self.device_write_bps.clone()),
            blkio_device_read_iops: Some(self.device_read_iops.clone()),
            blkio_device_write_iops: Some(self.device_write_iops.clone()),
            cpu_period: self.cpu_period.unwrap_or(0),
            cpu_quota: self.cpu_quota.unwrap_or(0),
            cpu_realtime_period: self.cpu_rt_period.unwrap_or(0),
            cpu_realtime_runtime: self.cpu_rt_runtime.unwrap_or(0),
            cpuset_cpus: text(&self.cpuset_cpus),
            cpuset_mems: text(&self.cpuset_mems),
            devices: Some(self.devices()?),
            device_cgroup_rules: list(&self.device_cgroup_rule),
            device_requests: None,
            memory_reservation: self.memory_reservation.unwrap_or(0),
            memory_swap: self.memory_swap.unwrap_or(0),
            memory_swappiness: Some(swappiness),
            oom_kill_disable: Some(self.oom_kill_disable),
            pids_limit: Some(self.pids_limit.unwrap_or(0)),
            ulimits: Some(last_ulimits(&self.ulimit)),
            cpu_count: self.cpu_count.unwrap_or(0),
            cpu_percent: self.cpu_percent.unwrap_or(0),
            io_maximum_iops: self.io_maxiops.unwrap_or(0),
            io_maximum_bandwidth: self.io_maxbandwidth.unwrap_or(0).unsigned_abs(),
        })
    }

    fn healthcheck(&self) -> Result<Option<Healthcheck>, String> {
        let numbers = [
            ("interval", self.health_interval),
            ("timeout", self.health_timeout),
            ("retries", self.health_retries),
            ("start-period", self.health_start_period),
            ("start-interval", self.health_start_interval),
        ];
        let command = self
            .health_cmd
            .as_ref()
            .filter(|command| !command.is_empty());
        let given = command.is_some() || numbers.iter().any(|(_, n)| n.unwrap_or(0) != 0);
        if self.no_healthcheck {
            if given {
                return Err("--no-healthcheck conflicts with --health-* options".to_owned());
            }
            let test = Some(vec!["NONE".to_owned()]);
            return Ok(Some(Healthcheck {
                test,
                ..Healthcheck::default()
            }));
        }
        if let Some((name, _)) = numbers.iter().find(|(_, n)| n.unwrap_or(0) < 0) {
            return Err(format!("--health-{name} cannot be negative"));
        }
        Ok(given.then(|| Healthcheck {
            test: command.map(|command| vec!["CMD-SHELL".to_owned(), command.clone()]),
            interval: self.health_interval.unwrap_or(0),
            timeout: self.health_timeout.unwrap_or(0),
            start_period: self.health_start_period.unwrap_or(0),
            start_interval: self.health_start_interval.unwrap_or(0),
            retries: self.health_retries.unwrap_or(0),
        }))
    }

    fn check_modes(&self) -> Result<(), String> {
        let of_container = |mode: &str| {
            mode.strip_prefix("container:")
                .is_some_and(|name| !name.is_empty())
        };
        let valid = |mode: &Option<String>, allowed: &[&str]| {
            let mode = mode.as_deref().unwrap_or_default();
            mode.is_empty() || allowed.contains(&mode)
        };
        let pid = self.pid.as_deref().unwrap_or_default();
        if !valid(&self.pid, &["host"]) && !of_container(pid) {
            return Err("--pid: invalid PID mode".to_owned());
        }
        if !valid(&self.uts, &["host"]) {
            return Err("--uts: invalid UTS mode".to_owned());
        }
        if !valid(&self.userns, &["host"]) {
            return Err("--userns: invalid USER mode".to_owned());
        }
        if !valid(&self.cgroupns, &["host", "private"]) {
            return Err("--cgroupns: invalid CGROUP mode".to_owned());
        }
        match &self.mac_address {
            Some(mac) if !mac.is_empty() && !parse::is_mac_address(mac) => {
                Err(format!("{mac} is not a valid mac address"))
            }
            _ => Ok(()),
        }
    }

    fn binds(&self) -> Result<Vec<String>, String> {
        let mut binds = Vec::new();
        for text in &self.volume {
            // Said twice is meant once.
            if let Volume::Bind(bind) = parse_volume(text)?
                && !binds.contains(&bind)
            {
                binds.push(bind);
            }
        }
        Ok(binds)
    }

    fn anonymous_volumes(&self) -> Result<BTreeMap<String, Empty>, String> {
        let mut volumes = BTreeMap::new();
        for text in &self.volume {
            if let Volume::Anonymous(path) = parse_volume(text)? {
                volumes.insert(path, Empty {});
            }
        }
        Ok(volumes)
    }

    fn labels(&self) -> Result<BTreeMap<String, String>, String> {
        let mut labels = Vec::new();
        for file in &self.label_file {
            labels.extend(environment::read_file(file, |_| None)?);
        }
        labels.extend_from_slice(&self.label);
        let mut labels: BTreeMap<String, String> = labels
            .iter()
            .map(|text| split_or_empty(text, '='))
            .collect();
        if let Some(action) = &self.health_on_failure {
            labels.insert(ON_FAILURE_LABEL.to_owned(), action.clone());
        }
        if !self.egress.is_empty() {
            labels.insert(EGRESS_LABEL.to_owned(), self.egress.join(","));
        }
        Ok(labels)
    }

    fn log_config(&self) -> Result<LogConfig, String> {
        let driver = text(&self.log_driver);
        if driver == "none" && !self.log_opt.is_empty() {
            return Err(format!("invalid logging opts for driver {driver}"));
        }
        let config = self
            .log_opt
            .iter()
            .map(|text| split_or_empty(text, '='))
            .collect();
        Ok(LogConfig { driver, config })
    }

    fn storage_options(&self) -> Result<BTreeMap<String, String>, String> {
        let pair = |text: &String| {
            let (key, value) = text.split_once('=').ok_or("invalid storage option")?;
            Ok((key.to_owned(), value.to_owned()))
        };
        self.storage_opt.iter().map(pair).collect()
    }

    /// The security options, and whether the kernel's paths shall be unprotected.
    fn security(&self) -> Result<(Option<Vec<String>>, bool), String> {
        let mut options = Vec::new();
        let mut unconfined_paths = false;
        for option in &self.security_opt {
            let (key, value) = match option.split_once('=') {
                Some(split) => split,
                None if option == "no-new-privileges" => (option.as_str(), "true"),
                None => option.split_once(':').unwrap_or((option, "")),
            };
            if value.is_empty() && key != "no-new-privileges" {
                return Err(format!("Invalid --security-opt: {option:?}"));
            }
            match (key, value) {
                _ if option == "systempaths=unconfined" => unconfined_paths = true,
                ("seccomp", "builtin" | "unconfined") => options.push(option.clone()),
                ("seccomp", path) => options.push(format!("seccomp={}", read_profile(path)?)),
                _ => options.push(option.clone()),
            }
        }
        let given = !self.security_opt.is_empty();
        Ok((given.then_some(options), unconfined_paths))
    }
}

impl CreateBody {
    /// Removes what an older server does not know, or refuses where it was asked for.
    ///
    /// # Errors
    /// The option and the version that it needs.
    pub(crate) fn adapt(&mut self, version: ApiVersion) -> Result<(), ClientError> {
        let require = |given: bool, minor: u16, what: &'static str| {
            let needed = ApiVersion::minor(minor);
            if given && version < needed {
                return Err(ClientError::Version {
                    what,
                    needed,
                    has: version,
                });
            }
            Ok(())
        };
        let starts = self
            .config
            .healthcheck
            .as_ref()
            .map_or(0, |check| check.start_interval);
        require(starts != 0, 44, "specify health-check start interval")?;
        let endpoints = &mut self.networking.endpoints_config;
        let named = self.host_config.network_mode.as_str();
        // Before 1.44 the address belonged to the container.
        if version < ApiVersion::minor(44)
            && let Some(endpoint) = endpoints.get_mut(named)
            && !endpoint.mac_address.is_empty()
        {
            self.config.mac_address = Some(std::mem::take(&mut endpoint.mac_address));
        }
        let has_address = endpoints
            .values()
            .any(|endpoint| !endpoint.mac_address.is_empty());
        require(has_address, 44, "specify mac-address per network")?;
        let forced = |mount: &super::wire::Mount| {
            mount
                .bind_options
                .as_ref()
                .is_some_and(|bind| bind.read_only_force_recursive)
        };
        require(
            self.host_config.mounts.iter().any(forced),
            44,
            "bind-recursive=readonly",
        )
    }

    /// Docker's client warns of name servers that a container cannot reach.
    pub(crate) fn loopback_dns_warning(&self) -> Option<String> {
        let is_loopback = |address: &&String| {
            address
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
        };
        let address = self.host_config.dns.iter().find(is_loopback)?;
        Some(format!("Localhost DNS ({address}) may fail in containers."))
    }
}

/// The profile's text without blanks, for the engine may not see our files.
fn read_profile(path: &str) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|cause| {
        let reason = match cause.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => cause.to_string(),
        };
        format!("opening seccomp profile ({path}) failed: open {path}: {reason}")
    })?;
    let failed =
        |reason: String| format!("compacting json for seccomp profile ({path}) failed: {reason}");
    serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).map_err(|cause| {
        match cause.is_eof() {
            true => failed("unexpected end of JSON input".to_owned()),
            false => failed(cause.to_string()),
        }
    })?;
    let text = String::from_utf8(bytes).map_err(|cause| failed(cause.to_string()))?;
    Ok(compact(&text))
}

/// Removes the blanks between the words of valid JSON; everything else stays as written.
fn compact(json: &str) -> String {
    let mut compacted = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if in_string || !c.is_ascii_whitespace() {
            compacted.push(c);
        }
        in_string ^= c == '"' && !escaped;
        escaped = in_string && c == '\\' && !escaped;
    }
    compacted
}

/// In upper case with the prefix, sorted, each once.
fn capabilities(names: &[String]) -> Vec<String> {
    let canonical = |name: &String| {
        let name = name.to_uppercase();
        if name == "ALL" || name.starts_with("CAP_") {
            name
        } else {
            format!("CAP_{name}")
        }
    };
    let mut names: Vec<String> = names.iter().map(canonical).collect();
    names.sort();
    names.dedup();
    names
}

/// The last limit of each name, by name.
fn last_ulimits(ulimits: &[super::wire::Ulimit]) -> Vec<super::wire::Ulimit> {
    let by_name: BTreeMap<&str, _> = ulimits.iter().map(|u| (u.name.as_str(), u)).collect();
    by_name.into_values().cloned().collect()
}

fn text(option: &Option<String>) -> String {
    option.clone().unwrap_or_default()
}

/// Docker's client sends null for a list that nobody gave.
fn list(values: &[String]) -> Option<Vec<String>> {
    (!values.is_empty()).then(|| values.to_vec())
}

fn split_or_empty(text: &str, separator: char) -> (String, String) {
    let (key, value) = text.split_once(separator).unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}
