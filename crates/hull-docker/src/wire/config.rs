//! `Config`: what runs.

use std::collections::BTreeMap;

use hull_model::spec::{ContainerConfig, Healthcheck, Streams};
use serde::{Deserialize, Serialize};

use crate::wire::{
    Empty, OrZero, TextMap, Words, from_text_map, is_zero, null_if_empty, to_text_map,
};

/// The configuration as clients send it and as `inspect` shows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Config {
    pub(crate) hostname: OrZero<String>,
    pub(crate) domainname: OrZero<String>,
    pub(crate) user: OrZero<String>,
    pub(crate) attach_stdin: OrZero<bool>,
    pub(crate) attach_stdout: OrZero<bool>,
    pub(crate) attach_stderr: OrZero<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exposed_ports: Option<BTreeMap<String, Empty>>,
    pub(crate) tty: OrZero<bool>,
    pub(crate) open_stdin: OrZero<bool>,
    pub(crate) stdin_once: OrZero<bool>,
    pub(crate) env: Option<Vec<String>>,
    pub(crate) cmd: Words,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) healthcheck: Option<WireHealthcheck>,
    pub(crate) image: OrZero<String>,
    pub(crate) volumes: Option<BTreeMap<String, Empty>>,
    pub(crate) working_dir: OrZero<String>,
    pub(crate) entrypoint: Words,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) network_disabled: OrZero<bool>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) mac_address: OrZero<String>,
    pub(crate) on_build: Option<Vec<String>>,
    pub(crate) labels: Option<TextMap>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) stop_signal: OrZero<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) shell: Words,
}

/// A health check.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct WireHealthcheck {
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<Vec<String>>,
    #[serde(skip_serializing_if = "is_zero")]
    interval: OrZero<i64>,
    #[serde(skip_serializing_if = "is_zero")]
    timeout: OrZero<i64>,
    #[serde(skip_serializing_if = "is_zero")]
    start_period: OrZero<i64>,
    #[serde(skip_serializing_if = "is_zero")]
    start_interval: OrZero<i64>,
    #[serde(skip_serializing_if = "is_zero")]
    retries: OrZero<i64>,
}

impl From<Config> for ContainerConfig {
    fn from(wire: Config) -> Self {
        Self {
            hostname: wire.hostname.0,
            domainname: wire.domainname.0,
            user: wire.user.0,
            attach: Streams {
                stdin: wire.attach_stdin.0,
                stdout: wire.attach_stdout.0,
                stderr: wire.attach_stderr.0,
            },
            tty: wire.tty.0,
            open_stdin: wire.open_stdin.0,
            stdin_once: wire.stdin_once.0,
            env: wire.env.unwrap_or_default(),
            cmd: wire.cmd.into_list(),
            entrypoint: wire.entrypoint.into_list(),
            working_dir: wire.working_dir.0,
            volumes: wire.volumes.unwrap_or_default().into_keys().collect(),
            labels: from_text_map(wire.labels),
            stop_signal: wire.stop_signal.0,
            stop_timeout_s: wire.stop_timeout,
            exposed_ports: wire.exposed_ports.unwrap_or_default().into_keys().collect(),
            healthcheck: wire.healthcheck.map(Healthcheck::from),
            shell: wire.shell.into_list(),
            on_build: wire.on_build.unwrap_or_default(),
            mac_address: wire.mac_address.0,
        }
    }
}

impl Config {
    /// As `inspect` shows it; the image is not part of the model's half.
    pub(crate) fn show(config: &ContainerConfig, image: &str) -> Self {
        let set = |keys: &std::collections::BTreeSet<String>| {
            let map: BTreeMap<_, _> = keys.iter().map(|key| (key.clone(), Empty {})).collect();
            (!map.is_empty()).then_some(map)
        };
        Self {
            hostname: OrZero(config.hostname.clone()),
            domainname: OrZero(config.domainname.clone()),
            user: OrZero(config.user.clone()),
            attach_stdin: OrZero(config.attach.stdin),
            attach_stdout: OrZero(config.attach.stdout),
            attach_stderr: OrZero(config.attach.stderr),
            exposed_ports: set(&config.exposed_ports),
            tty: OrZero(config.tty),
            open_stdin: OrZero(config.open_stdin),
            stdin_once: OrZero(config.stdin_once),
            env: null_if_empty(&config.env),
            cmd: config.cmd.clone().into(),
            healthcheck: config.healthcheck.as_ref().map(WireHealthcheck::from),
            image: image.into(),
            volumes: set(&config.volumes),
            working_dir: OrZero(config.working_dir.clone()),
            entrypoint: config.entrypoint.clone().into(),
            network_disabled: OrZero(false),
            mac_address: OrZero(config.mac_address.clone()),
            on_build: null_if_empty(&config.on_build),
            labels: Some(to_text_map(&config.labels)),
            stop_signal: OrZero(config.stop_signal.clone()),
            stop_timeout: config.stop_timeout_s,
            shell: config.shell.clone().into(),
        }
    }
}

impl Config {
    /// As from a client whose version of the API has no such interval.
    pub(super) fn forget_start_interval(&mut self) {
        if let Some(check) = &mut self.healthcheck {
            check.start_interval = OrZero::default();
        }
    }
}

impl From<WireHealthcheck> for Healthcheck {
    fn from(wire: WireHealthcheck) -> Self {
        Self {
            test: wire.test.unwrap_or_default(),
            interval_ns: wire.interval.0,
            timeout_ns: wire.timeout.0,
            start_period_ns: wire.start_period.0,
            start_interval_ns: wire.start_interval.0,
            retries: wire.retries.0,
        }
    }
}

impl From<&Healthcheck> for WireHealthcheck {
    fn from(check: &Healthcheck) -> Self {
        Self {
            test: null_if_empty(&check.test),
            interval: OrZero(check.interval_ns),
            timeout: OrZero(check.timeout_ns),
            start_period: OrZero(check.start_period_ns),
            start_interval: OrZero(check.start_interval_ns),
            retries: OrZero(check.retries),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> ContainerConfig {
        serde_json::from_str::<Config>(json).expect("valid").into()
    }

    #[test]
    fn nulls_are_zero_values_and_unknown_fields_are_ignored() {
        let config = read(
            r#"{"Hostname":null,"Tty":null,"Env":null,"Cmd":null,"Volumes":null,"Labels":null,
                "ExposedPorts":null,"StopTimeout":null,"Zz":{"a":1},"Entrypoint":null}"#,
        );
        assert_eq!(config, ContainerConfig::default());
    }

    #[test]
    fn a_command_may_be_one_word() {
        let config = read(r#"{"Cmd":"echo hi","Entrypoint":["sh","-c"]}"#);
        assert_eq!(config.args(), ["sh", "-c", "echo hi"]);
    }

    #[test]
    fn sets_take_any_value_and_ports_have_a_protocol() {
        let config =
            read(r#"{"Volumes":{"/a":null,"/b":{}},"ExposedPorts":{"80":{},"53/udp":{}}}"#);
        assert_eq!(config.volumes.len(), 2);
        let shown = ["53/udp", "80"].map(str::to_owned);
        assert_eq!(config.exposed_ports, shown.into());
        let meant = ["53/udp", "80/tcp"].map(str::to_owned);
        assert_eq!(config.exposed(), meant.into());
    }

    #[test]
    fn what_is_shown_reads_back() {
        let config = read(
            r#"{"Hostname":"h","User":"1:2","AttachStdin":true,"Tty":true,"Env":["A=b"],
                "Cmd":["a","b"],"Labels":{"x":"y"},"StopSignal":"SIGINT","StopTimeout":3,
                "Healthcheck":{"Test":["CMD","true"],"Interval":5},"Shell":["/bin/sh"]}"#,
        );
        let shown = serde_json::to_string(&Config::show(&config, "busybox")).expect("JSON");
        assert_eq!(read(&shown), config);
    }

    #[test]
    fn empty_fields_are_shown_as_docker_shows_them() {
        let shown =
            serde_json::to_value(Config::show(&ContainerConfig::default(), "i")).expect("JSON");
        for null in ["Env", "Cmd", "Volumes", "Entrypoint", "OnBuild"] {
            assert_eq!(shown.get(null), Some(&serde_json::Value::Null), "{null}");
        }
        for absent in [
            "ExposedPorts",
            "Healthcheck",
            "StopSignal",
            "Shell",
            "MacAddress",
        ] {
            assert_eq!(shown.get(absent), None, "{absent}");
        }
        assert_eq!(shown["Labels"], serde_json::json!({}));
    }
}
