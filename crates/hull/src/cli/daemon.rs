//! The flags of `hull daemon`: those of dockerd, so that what starts one today starts us.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::FromArgMatches;
use hull_engine::{FirewallBackend, LayerBacking};

use super::arguments::{self, parse_int};
use super::units::{parse_duration, ram_in_bytes};

/// A flag of dockerd that is accepted and changes nothing.
struct Ignored {
    flag: &'static str,
    short: Option<char>,
    /// A switch rather than a flag with a value.
    switch: bool,
    /// Values that ask for what is so anyway, and are not warned of.
    fulfilled: &'static [&'static str],
    /// The sentence that the warning ends with.
    reason: &'static str,
}

const fn value(flag: &'static str, fulfilled: &'static [&str], reason: &'static str) -> Ignored {
    Ignored {
        flag,
        short: None,
        switch: false,
        fulfilled,
        reason,
    }
}

const fn switch(flag: &'static str, fulfilled: &'static [&str], reason: &'static str) -> Ignored {
    Ignored {
        flag,
        short: None,
        switch: true,
        fulfilled,
        reason,
    }
}

const NO_CONTAINERD: &str = "there is no containerd";
const NO_RUNTIMES: &str = "containers are started by Hull itself, not by a named runtime";
const ONE_STORAGE: &str = "layers are EROFS files under overlay, the only storage there is";
const NO_REALTIME: &str = "real-time scheduling of all containers together is not supported";
const NO_PROXY: &str = "published ports are forwarded by the kernel";

/// Levels of dockerd's log.
const LOG_LEVELS: [&str; 7] = ["trace", "debug", "info", "warn", "error", "fatal", "panic"];

/// The flags that are not applicable, in the order of their names.
static IGNORED: &[Ignored] = &[
    value("add-runtime", &[], NO_RUNTIMES),
    value(
        "allow-nondistributable-artifacts",
        &[],
        "all layers are pushed",
    ),
    value(
        "api-cors-header",
        &[],
        "cross-origin requests are never answered",
    ),
    value(
        "authorization-plugin",
        &[],
        "there are no plugins: the socket decides who may connect",
    ),
    value("containerd", &[], NO_CONTAINERD),
    value("containerd-namespace", &[], NO_CONTAINERD),
    value("containerd-plugins-namespace", &[], NO_CONTAINERD),
    value("cpu-rt-period", &["0"], NO_REALTIME),
    value("cpu-rt-runtime", &["0"], NO_REALTIME),
    switch("cri-containerd", &["false"], NO_CONTAINERD),
    value("default-runtime", &["hull"], NO_RUNTIMES),
    value(
        "exec-opt",
        &["native.cgroupdriver=cgroupfs"],
        "control groups are driven directly",
    ),
    switch(
        "experimental",
        &["false"],
        "there are no experimental features",
    ),
    value("feature", &[], "there are no features to choose by name"),
    value("init-path", &[], "the init program is part of Hull"),
    switch(
        "live-restore",
        &["true"],
        "containers always outlive the daemon",
    ),
    value("log-format", &["text"], "the log has one format"),
    value(
        "max-download-attempts",
        &[],
        "downloads are tried again until their deadline",
    ),
    value("metrics-addr", &[], "there is no endpoint for metrics yet"),
    value(
        "network-control-plane-mtu",
        &[],
        "there is no separate control plane",
    ),
    value(
        "node-generic-resource",
        &[],
        "generic resources are not counted",
    ),
    switch("raw-logs", &["false"], "the log has one format"),
    switch(
        "selinux-enabled",
        &["false"],
        "there are no labels of SELinux yet",
    ),
    value(
        "shutdown-timeout",
        &["15"],
        "containers outlive the daemon; each has a stop timeout of its own",
    ),
    Ignored {
        short: Some('s'),
        ..value(
            "storage-driver",
            &["erofs", "overlay2", "overlayfs"],
            ONE_STORAGE,
        )
    },
    value("storage-opt", &[], ONE_STORAGE),
    value(
        "swarm-default-advertise-addr",
        &[],
        "nodes are joined by address",
    ),
    switch("userland-proxy", &["false", "true"], NO_PROXY),
    value("userland-proxy-path", &[], NO_PROXY),
];

/// Where the daemon's options come from: its command line, and the file that it names or ours.
#[derive(Debug)]
pub(crate) struct Configuration {
    parser: clap::Command,
    words: Vec<OsString>,
}

impl Configuration {
    /// `parser` knows every flag, `words` are those of the command line.
    pub(crate) fn new(parser: clap::Command, words: Vec<OsString>) -> Self {
        Self { parser, words }
    }

    /// Reads all, again at each call: the file may have changed.
    ///
    /// # Errors
    /// A sentence, in dockerd's words where it is about the file.
    pub(crate) fn read(&self) -> Result<DaemonOptions, String> {
        let flags = self.parse(self.words.clone())?;
        let mut file = crate::config_file::read(&self.parser, &flags)?;
        let mut warnings = std::mem::take(&mut file.warnings);
        let matches = self.parse([file.words, self.words.clone()].concat())?;
        let mut options =
            DaemonOptions::from_arg_matches(&matches).map_err(|error| error.to_string())?;
        options.ignored.warnings.append(&mut warnings);
        options.check()?;
        Ok(options)
    }

    fn parse(&self, words: Vec<OsString>) -> Result<clap::ArgMatches, String> {
        let words = std::iter::once(OsString::from("hull")).chain(words);
        let matches = self.parser.clone().try_get_matches_from(words);
        matches.map_err(|error| {
            let place = arguments::Place {
                parser: &self.parser,
                path: "daemon",
                usage: "[OPTIONS]",
            };
            let message = arguments::failure(&error, &place, "").message;
            message.lines().next().unwrap_or_default().to_owned()
        })
    }
}

/// Options of `hull daemon`.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct DaemonOptions {
    /// Root directory of persistent state
    #[arg(
        long,
        short = 'g',
        alias = "graph",
        value_name = "string",
        default_value = "/var/lib/hull"
    )]
    pub(crate) data_root: PathBuf,
    /// Root directory for execution state files
    #[arg(long, value_name = "string", default_value = "/run/hull")]
    pub(crate) exec_root: PathBuf,
    /// Daemon socket(s) to connect to
    #[arg(long, short = 'H', value_name = "list")]
    pub(crate) host: Vec<String>,
    /// Path to use for daemon PID file
    #[arg(long, short, value_name = "string")]
    pub(crate) pidfile: Option<PathBuf>,
    /// Daemon configuration file
    #[arg(long, value_name = "string")]
    pub(crate) config_file: Option<PathBuf>,
    /// Set the logging level ("debug"|"info"|"warn"|"error"|"fatal")
    #[arg(long, short, value_name = "string", default_value = "info")]
    pub(crate) log_level: String,
    /// Enable debug mode
    #[arg(long, short = 'D')]
    pub(crate) debug: bool,
    /// Group for the unix socket
    #[arg(long, short = 'G', value_name = "string")]
    pub(crate) group: Option<String>,
    /// Preferred registry mirror
    #[arg(long, value_name = "list")]
    pub(crate) registry_mirror: Vec<String>,
    /// Enable insecure registry communication
    #[arg(long, value_name = "list")]
    pub(crate) insecure_registry: Vec<String>,
    /// HTTP proxy URL to use for outgoing traffic
    #[arg(long, value_name = "string")]
    pub(crate) http_proxy: Option<String>,
    /// HTTPS proxy URL to use for outgoing traffic
    #[arg(long, value_name = "string")]
    pub(crate) https_proxy: Option<String>,
    /// Comma-separated list of hosts or IP addresses for which the proxy is skipped
    #[arg(long, value_name = "string")]
    pub(crate) no_proxy: Option<String>,
    /// Set the max concurrent downloads
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub(crate) max_concurrent_downloads: Option<i64>,
    /// Set the max concurrent uploads
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub(crate) max_concurrent_uploads: Option<i64>,
    /// Set key=value labels to the daemon
    #[arg(long, value_name = "list")]
    pub(crate) label: Vec<String>,
    /// Default ulimits for containers
    #[arg(long, value_name = "ulimit", value_parser = super::container::parse::ulimit)]
    pub(crate) default_ulimit: Vec<super::container::Ulimit>,
    /// Default shm size for containers
    #[arg(long, value_name = "bytes", value_parser = ram_in_bytes)]
    pub(crate) default_shm_size: Option<i64>,
    /// Set parent cgroup for all containers
    #[arg(
        long,
        value_name = "string",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) cgroup_parent: String,
    /// Default cgroup namespace mode ("host" | "private")
    #[arg(long, value_name = "string")]
    pub(crate) default_cgroupns_mode: Option<String>,
    /// Default isolation of containers ("container" | "vm")
    #[arg(long, value_name = "string")]
    pub(crate) default_isolation: Option<String>,
    /// Default ipc mode ("shareable" | "private")
    #[arg(long, value_name = "string")]
    pub(crate) default_ipc_mode: Option<String>,
    /// Default driver for container logs
    #[arg(long, value_name = "string")]
    pub(crate) log_driver: Option<String>,
    /// Default log driver options for containers
    #[arg(long, value_name = "map")]
    pub(crate) log_opt: Vec<String>,
    /// Run an init in the container to forward signals and reap processes
    #[arg(long)]
    pub(crate) init: bool,
    /// Path to seccomp profile, or "unconfined"
    #[arg(long, value_name = "string")]
    pub(crate) seccomp_profile: Option<String>,
    /// Set no-new-privileges by default for new containers
    #[arg(long)]
    pub(crate) no_new_privileges: bool,
    /// Set the oom_score_adj for the daemon
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub(crate) oom_score_adjust: Option<i64>,
    /// User/Group setting for user namespaces
    #[arg(long, value_name = "string")]
    pub(crate) userns_remap: Option<String>,
    /// Only verify the configuration and end
    #[arg(long)]
    pub(crate) validate: bool,
    /// Remove images that no container has after so long without use; 0: never
    #[arg(long, value_name = "duration", default_value = "0", value_parser = parse_pause)]
    pub(crate) image_gc_unused_for: Duration,
    /// Remove unused images, the longest unused first, while all take more; 0: never
    #[arg(long, value_name = "bytes", default_value = "0", value_parser = parse_bytes)]
    pub(crate) image_gc_size_max: u64,
    /// How layers are mounted ("file" | "buffered" | "loop" | "directory"); default: the first that works
    #[arg(long, value_name = "string", value_parser = parse_backing)]
    pub(crate) layer_backing: Option<LayerBacking>,
    #[command(flatten)]
    pub(crate) network: DaemonNetworkOptions,
    #[command(flatten)]
    pub(crate) tls: DaemonTlsOptions,
    #[command(flatten)]
    ignored: IgnoredOptions,
}

/// Flags about networks.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct DaemonNetworkOptions {
    /// Attach containers to a network bridge ("none" for no default bridge)
    #[arg(long, short, value_name = "string")]
    pub(crate) bridge: Option<String>,
    /// Specify default-bridge IPv4 network
    #[arg(long, value_name = "string")]
    pub(crate) bip: Option<String>,
    /// Specify default-bridge IPv6 network
    #[arg(long, value_name = "string")]
    pub(crate) bip6: Option<String>,
    /// Set the MTU of the default bridge
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub(crate) mtu: Option<i64>,
    /// DNS server to use
    #[arg(long, value_name = "list")]
    pub(crate) dns: Vec<String>,
    /// DNS options to use
    #[arg(long, alias = "dns-opts", value_name = "list")]
    pub(crate) dns_opt: Vec<String>,
    /// DNS search domains to use
    #[arg(long, value_name = "list")]
    pub(crate) dns_search: Vec<String>,
    /// Default address pools for node specific local networks
    #[arg(long, value_name = "pool-options")]
    pub(crate) default_address_pool: Vec<String>,
    /// Container default gateway IPv4 address
    #[arg(long, value_name = "ip")]
    pub(crate) default_gateway: Option<String>,
    /// Container default gateway IPv6 address
    #[arg(long, value_name = "ip")]
    pub(crate) default_gateway_v6: Option<String>,
    /// Firewall backend to use, iptables or nftables (default: nftables, where the kernel has it)
    #[arg(long, value_name = "string", value_parser = parse_firewall_backend)]
    pub(crate) firewall_backend: Option<FirewallBackend>,
    /// IPv4 subnet for the default bridge network
    #[arg(long, value_name = "string")]
    pub(crate) fixed_cidr: Option<String>,
    /// IPv6 subnet for the default bridge network
    #[arg(long, value_name = "string")]
    pub(crate) fixed_cidr_v6: Option<String>,
    /// IP addresses that host-gateway resolves to
    #[arg(long, value_name = "list")]
    pub(crate) host_gateway_ip: Vec<String>,
    /// Enable inter-container communication for the default bridge network
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "bool",
        value_parser = super::arguments::parse_bool, action = clap::ArgAction::Set)]
    pub(crate) icc: bool,
    /// Default IP address for container port bindings
    #[arg(long, value_name = "ip", default_value = "0.0.0.0")]
    pub(crate) ip: String,
    /// Let the host's own firewall decide who reaches published ports, and carry their traffic
    /// through the daemon instead of the kernel
    #[arg(long)]
    pub(crate) host_firewall: bool,
    /// Enable IP masquerading for the default bridge network
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "bool",
        value_parser = super::arguments::parse_bool, action = clap::ArgAction::Set)]
    pub(crate) ip_masq: bool,
    /// Enable forwarding of packets
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "bool",
        value_parser = super::arguments::parse_bool, action = clap::ArgAction::Set)]
    pub(crate) ip_forward: bool,
    /// Enable addition of firewall rules
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "bool",
        value_parser = super::arguments::parse_bool, action = clap::ArgAction::Set)]
    pub(crate) iptables: bool,
    /// Enable addition of IPv6 firewall rules
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", value_name = "bool",
        value_parser = super::arguments::parse_bool, action = clap::ArgAction::Set)]
    pub(crate) ip6tables: bool,
    /// Enable IPv6 networking for the default bridge network
    #[arg(long)]
    pub(crate) ipv6: bool,
}

/// Flags about TLS.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct DaemonTlsOptions {
    /// Use TLS; implied by --tlsverify
    #[arg(long)]
    pub(crate) tls: bool,
    /// Trust certs signed only by this CA
    #[arg(long, value_name = "string")]
    pub(crate) tlscacert: Option<PathBuf>,
    /// Path to TLS certificate file
    #[arg(long, value_name = "string")]
    pub(crate) tlscert: Option<PathBuf>,
    /// Path to TLS key file
    #[arg(long, value_name = "string")]
    pub(crate) tlskey: Option<PathBuf>,
    /// Use TLS and verify the remote
    #[arg(long)]
    pub(crate) tlsverify: bool,
}

/// The flags of the table that were given, as the sentences to warn with.
#[derive(Debug, Clone, Default)]
struct IgnoredOptions {
    warnings: Vec<String>,
}

fn parse_backing(text: &str) -> Result<LayerBacking, String> {
    match text {
        "file" => Ok(LayerBacking::FileDirect),
        "buffered" => Ok(LayerBacking::FileBuffered),
        "loop" => Ok(LayerBacking::Loop),
        "directory" => Ok(LayerBacking::Directory),
        _ => Err(format!("no such way to mount layers: {text}")),
    }
}

fn parse_firewall_backend(text: &str) -> Result<FirewallBackend, String> {
    let known = [FirewallBackend::Iptables, FirewallBackend::Nftables];
    let found = known.into_iter().find(|backend| backend.word() == text);
    found.ok_or_else(|| format!("invalid firewall-backend {text:?}"))
}

fn parse_pause(text: &str) -> Result<Duration, String> {
    let nanoseconds = u64::try_from(parse_duration(text)?);
    let nanoseconds = nanoseconds.map_err(|_| format!("a negative duration: {text}"))?;
    Ok(Duration::from_nanos(nanoseconds))
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let bytes = u64::try_from(ram_in_bytes(text)?);
    bytes.map_err(|_| format!("a negative size: {text}"))
}

impl DaemonOptions {
    /// What a parser of one flag does not see.
    fn check(&self) -> Result<(), String> {
        if let Some(label) = self.label.iter().find(|label| !label.contains('=')) {
            return Err(format!("bad attribute format: {label}"));
        }
        if !LOG_LEVELS.contains(&self.log_level.as_str()) {
            return Err(format!("invalid logging level: {}", self.log_level));
        }
        let counts = [
            ("downloads", self.max_concurrent_downloads),
            ("uploads", self.max_concurrent_uploads),
        ];
        match counts
            .iter()
            .find(|(_, count)| count.is_some_and(|count| count < 0))
        {
            Some((what, Some(count))) => Err(format!("invalid max concurrent {what}: {count}")),
            _ => Ok(()),
        }
    }

    /// What was asked for and is not done, one sentence each.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.ignored.warnings
    }
}

impl clap::Args for IgnoredOptions {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(IGNORED.iter().map(|ignored| {
            let arg = clap::Arg::new(ignored.flag).long(ignored.flag).hide(true);
            let arg = match ignored.short {
                Some(short) => arg.short(short),
                None => arg,
            };
            let arg = arg.action(clap::ArgAction::Append);
            if !ignored.switch {
                return arg;
            }
            arg.num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
        }))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for IgnoredOptions {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let mut warnings = Vec::new();
        for ignored in IGNORED {
            let values = matches.get_many::<String>(ignored.flag).unwrap_or_default();
            let asks_for_more = values
                .into_iter()
                .find(|value| !ignored.fulfilled.contains(&value.as_str()));
            if let Some(value) = asks_for_more {
                let Ignored { flag, reason, .. } = ignored;
                warnings.push(format!("--{flag}={value} changes nothing: {reason}"));
            }
        }
        Ok(IgnoredOptions { warnings })
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;

    fn parse(words: &[&str]) -> DaemonOptions {
        let command = DaemonOptions::augment_args(clap::Command::new("daemon"));
        let command = super::super::arguments::like_docker(command);
        let words = std::iter::once("daemon").chain(words.iter().copied());
        DaemonOptions::from_arg_matches(&command.get_matches_from(words)).unwrap()
    }

    #[test]
    fn what_starts_a_dockerd_starts_us() {
        let words = "--data-root /d --exec-root /e -H unix:///a -H tcp://b:1 -p /pid \
            --registry-mirror http://m --insecure-registry r:5000 --iptables=false -D \
            --live-restore --userland-proxy=false --storage-driver vfs \
            --exec-opt native.cgroupdriver=systemd --add-runtime x=/y --default-ulimit nofile=1:2 \
            --log-opt max-size=1m --bip 10.0.0.1/24 --mtu 1400 --default-address-pool \
            base=10.0.0.0/8,size=24 --tlsverify --containerd /run/c.sock --shutdown-timeout 5";
        let options = parse(&words.split_whitespace().collect::<Vec<_>>());
        assert_eq!(options.data_root, PathBuf::from("/d"));
        assert_eq!(options.host, ["unix:///a", "tcp://b:1"]);
        assert_eq!((options.network.iptables, options.debug), (false, true));
        assert_eq!(options.network.mtu, Some(1400));
        let flags: Vec<&str> = options
            .warnings()
            .iter()
            .map(|w| w.split('=').next().unwrap())
            .collect();
        assert_eq!(
            flags,
            [
                "--add-runtime",
                "--containerd",
                "--exec-opt",
                "--shutdown-timeout",
                "--storage-driver"
            ]
        );
    }
}
