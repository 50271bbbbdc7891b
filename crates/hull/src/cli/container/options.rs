//! The flags themselves, with Docker's names and help texts.

use clap::ArgAction;

use super::mount;
use super::network::{self, Attachment};
use super::parse;
use super::wire::{DeviceMapping, Mount, ThrottleDevice, Ulimit, WeightDevice};
use crate::cli::arguments::{parse_int, parse_uint16};
use crate::cli::units::{parse_duration, ram_in_bytes};

/// Flags of `run` and `create` that describe the container.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ContainerOptions {
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long, value_name = "list", value_parser = parse::extra_host)]
    pub(super) add_host: Vec<String>,
    /// Add an annotation to the container (passed through to the OCI runtime)
    #[arg(long, value_name = "map", value_parser = parse::pair)]
    pub(super) annotation: Vec<(String, String)>,
    /// Attach to STDIN, STDOUT or STDERR
    #[arg(long, short, value_name = "list", value_parser = parse::attach)]
    pub(crate) attach: Vec<String>,
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable
    #[arg(long, value_name = "uint16", value_parser = parse_uint16)]
    pub(super) blkio_weight: Option<u16>,
    /// Block IO weight (relative device weight)
    #[arg(long, value_name = "list", value_parser = parse::weight_device)]
    pub(super) blkio_weight_device: Vec<WeightDevice>,
    /// Add Linux capabilities
    #[arg(long, value_name = "list")]
    pub(super) cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "list")]
    pub(super) cap_drop: Vec<String>,
    /// Optional parent cgroup for the container
    #[arg(long, value_name = "string")]
    pub(super) cgroup_parent: Option<String>,
    /// Cgroup namespace to use (host|private)
    #[arg(long, value_name = "string")]
    pub(super) cgroupns: Option<String>,
    /// Write the container ID to the file
    #[arg(long, value_name = "string")]
    pub(super) cidfile: Option<String>,
    /// CPU count (Windows only)
    #[arg(long, value_name = "int", value_parser = parse_int, hide = true)]
    pub(super) cpu_count: Option<i64>,
    /// CPU percent (Windows only)
    #[arg(long, value_name = "int", value_parser = parse_int, hide = true)]
    pub(super) cpu_percent: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub(super) cpu_period: Option<i64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub(super) cpu_quota: Option<i64>,
    /// Limit CPU real-time period in microseconds
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub(super) cpu_rt_period: Option<i64>,
    /// Limit CPU real-time runtime in microseconds
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub(super) cpu_rt_runtime: Option<i64>,
    /// CPU shares (relative weight)
    #[arg(long, short, value_name = "int", value_parser = parse_int)]
    pub(super) cpu_shares: Option<i64>,
    /// Number of CPUs
    #[arg(long, value_name = "decimal", value_parser = parse::cpus)]
    pub(super) cpus: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    pub(super) cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string")]
    pub(super) cpuset_mems: Option<String>,
    /// Add a host device to the container
    #[arg(long, value_name = "list")]
    pub(super) device: Vec<String>,
    /// Add a rule to the cgroup allowed devices list
    #[arg(long, value_name = "list", value_parser = parse::device_cgroup_rule)]
    pub(super) device_cgroup_rule: Vec<String>,
    /// Limit read rate (bytes per second) from a device
    #[arg(long, value_name = "list", value_parser = parse::throttle_bps)]
    pub(super) device_read_bps: Vec<ThrottleDevice>,
    /// Limit read rate (IO per second) from a device
    #[arg(long, value_name = "list", value_parser = parse::throttle_iops)]
    pub(super) device_read_iops: Vec<ThrottleDevice>,
    /// Limit write rate (bytes per second) to a device
    #[arg(long, value_name = "list", value_parser = parse::throttle_bps)]
    pub(super) device_write_bps: Vec<ThrottleDevice>,
    /// Limit write rate (IO per second) to a device
    #[arg(long, value_name = "list", value_parser = parse::throttle_iops)]
    pub(super) device_write_iops: Vec<ThrottleDevice>,
    /// Set custom DNS servers
    #[arg(long, value_name = "list", value_parser = parse::ip_address)]
    pub(super) dns: Vec<String>,
    /// Set DNS options
    #[arg(long, alias = "dns-opt", value_name = "list")]
    pub(super) dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long, value_name = "list", value_parser = parse::dns_search)]
    pub(super) dns_search: Vec<String>,
    /// Container NIS domain name
    #[arg(long, value_name = "string")]
    pub(super) domainname: Option<String>,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long, value_name = "string")]
    pub(super) entrypoint: Option<String>,
    /// Set environment variables
    #[arg(long, short, value_name = "list", value_parser = parse::env)]
    pub(super) env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "list")]
    pub(super) env_file: Vec<String>,
    /// Expose a port or a range of ports
    #[arg(long, value_name = "list")]
    pub(super) expose: Vec<String>,
    /// GPU devices to add to the container ('all' to pass all GPUs)
    #[arg(long, value_name = "gpu-request")]
    pub(super) gpus: Option<String>,
    /// Add additional groups to join
    #[arg(long, value_name = "list")]
    pub(super) group_add: Vec<String>,
    /// What may be reached outside its networks (NAME:PORT, ADDRESS/PREFIX:PORT, or none)
    #[arg(long, value_name = "list")]
    pub(super) egress: Vec<String>,
    /// Command to run to check health
    #[arg(long, value_name = "string")]
    pub(super) health_cmd: Option<String>,
    /// Time between running the check (ms|s|m|h)
    #[arg(long, value_name = "duration", value_parser = parse_duration)]
    pub(super) health_interval: Option<i64>,
    /// What to do when the container becomes unhealthy ("none", "kill", "restart", "stop")
    #[arg(long, value_name = "string")]
    pub(super) health_on_failure: Option<String>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub(super) health_retries: Option<i64>,
    /// Time between running the check during the start period (ms|s|m|h)
    #[arg(long, value_name = "duration", value_parser = parse_duration)]
    pub(super) health_start_interval: Option<i64>,
    /// Start period for the container to initialize before starting health-retries countdown
    #[arg(long, value_name = "duration", value_parser = parse_duration)]
    pub(super) health_start_period: Option<i64>,
    /// Maximum time to allow one check to run (ms|s|m|h)
    #[arg(long, value_name = "duration", value_parser = parse_duration)]
    pub(super) health_timeout: Option<i64>,
    /// Container host name
    #[arg(long, short = 'h', value_name = "string")]
    pub(super) hostname: Option<String>,
    /// Run an init inside the container that forwards signals and reaps processes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_name = "bool", value_parser = crate::cli::arguments::parse_bool,
        action = ArgAction::Set)]
    pub(super) init: Option<bool>,
    /// Keep STDIN open even if not attached
    #[arg(long, short)]
    pub(super) interactive: bool,
    /// Maximum IO bandwidth limit for the system drive (Windows only)
    #[arg(long, value_name = "bytes", value_parser = ram_in_bytes, hide = true)]
    pub(super) io_maxbandwidth: Option<i64>,
    /// Maximum IOps limit for the system drive (Windows only)
    #[arg(long, value_name = "uint", hide = true)]
    pub(super) io_maxiops: Option<u64>,
    /// IPv4 address (e.g., 172.30.100.104)
    #[arg(long, value_name = "string")]
    pub(super) ip: Option<String>,
    /// IPv6 address (e.g., 2001:db8::33)
    #[arg(long, value_name = "string")]
    pub(super) ip6: Option<String>,
    /// IPC mode to use
    #[arg(long, value_name = "string")]
    pub(super) ipc: Option<String>,
    /// Container isolation technology
    #[arg(long, value_name = "string")]
    pub(super) isolation: Option<String>,
    /// Kernel memory limit (deprecated)
    #[arg(long, value_name = "bytes", value_parser = ram_in_bytes, hide = true)]
    pub(super) kernel_memory: Option<i64>,
    /// Set meta data on a container
    #[arg(long, short, value_name = "list", value_parser = parse::label)]
    pub(super) label: Vec<String>,
    /// Read in a line delimited file of labels
    #[arg(long, value_name = "list")]
    pub(super) label_file: Vec<String>,
    /// Add link to another container
    #[arg(long, value_name = "list", value_parser = parse::link)]
    pub(super) link: Vec<String>,
    /// Container IPv4/IPv6 link-local addresses
    #[arg(long, value_name = "list")]
    pub(super) link_local_ip: Vec<String>,
    /// Logging driver for the container
    #[arg(long, value_name = "string")]
    pub(super) log_driver: Option<String>,
    /// Log driver options
    #[arg(long, value_name = "list")]
    pub(super) log_opt: Vec<String>,
    /// Container MAC address (e.g., 92:d0:c6:0a:29:33)
    #[arg(long, value_name = "string")]
    pub(super) mac_address: Option<String>,
    /// Memory limit
    #[arg(long, short, value_name = "bytes", value_parser = ram_in_bytes)]
    pub(super) memory: Option<i64>,
    /// Memory soft limit
    #[arg(long, value_name = "bytes", value_parser = ram_in_bytes)]
    pub(super) memory_reservation: Option<i64>,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    #[arg(long, value_name = "bytes", value_parser = parse::memory_swap)]
    pub(super) memory_swap: Option<i64>,
    /// Tune container memory swappiness (0 to 100) (default -1)
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub(super) memory_swappiness: Option<i64>,
    /// Attach a filesystem mount to the container
    #[arg(long, value_name = "mount", value_parser = mount::mount)]
    pub(super) mount: Vec<Mount>,
    /// Connect a container to a network
    #[arg(long, alias = "net", value_name = "network", value_parser = network::attachment)]
    pub(super) network: Vec<Attachment>,
    /// Add network-scoped alias for the container
    #[arg(long, alias = "net-alias", value_name = "list")]
    pub(super) network_alias: Vec<String>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    pub(super) no_healthcheck: bool,
    /// Disable OOM Killer
    #[arg(long)]
    pub(super) oom_kill_disable: bool,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub(super) oom_score_adj: Option<i64>,
    /// PID namespace to use
    #[arg(long, value_name = "string")]
    pub(super) pid: Option<String>,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub(super) pids_limit: Option<i64>,
    /// Give extended privileges to this container
    #[arg(long)]
    pub(super) privileged: bool,
    /// Publish a container's port(s) to the host
    #[arg(long, short, value_name = "list")]
    pub(super) publish: Vec<String>,
    /// Publish all exposed ports to random ports
    #[arg(long, short = 'P')]
    pub(super) publish_all: bool,
    /// Mount the container's root filesystem as read only
    #[arg(long)]
    pub(super) read_only: bool,
    /// Restart policy to apply when a container exits
    #[arg(long, value_name = "string", default_value = "no")]
    pub(super) restart: String,
    /// Automatically remove the container and its associated anonymous volumes when it exits
    #[arg(long)]
    pub(super) rm: bool,
    /// Runtime to use for this container
    #[arg(long, value_name = "string")]
    pub(super) runtime: Option<String>,
    /// Security Options
    #[arg(long, value_name = "list")]
    pub(super) security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "bytes", value_parser = ram_in_bytes)]
    pub(super) shm_size: Option<i64>,
    /// Signal to stop the container
    #[arg(long, value_name = "string")]
    pub(super) stop_signal: Option<String>,
    /// Timeout (in seconds) to stop a container
    #[arg(long, value_name = "int", value_parser = parse_int)]
    pub(super) stop_timeout: Option<i64>,
    /// Storage driver options for the container
    #[arg(long, value_name = "list")]
    pub(super) storage_opt: Vec<String>,
    /// Sysctl options
    #[arg(long, value_name = "map", value_parser = parse::sysctl)]
    pub(super) sysctl: Vec<(String, String)>,
    /// Mount a tmpfs directory
    #[arg(long, value_name = "list")]
    pub(super) tmpfs: Vec<String>,
    /// Allocate a pseudo-TTY
    #[arg(long, short)]
    pub(super) tty: bool,
    /// Ulimit options
    #[arg(long, value_name = "ulimit", value_parser = parse::ulimit)]
    pub(super) ulimit: Vec<Ulimit>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(long, short, value_name = "string")]
    pub(super) user: Option<String>,
    /// User namespace to use
    #[arg(long, value_name = "string")]
    pub(super) userns: Option<String>,
    /// UTS namespace to use
    #[arg(long, value_name = "string")]
    pub(super) uts: Option<String>,
    /// Bind mount a volume
    #[arg(long, short, value_name = "list")]
    pub(super) volume: Vec<String>,
    /// Optional volume driver for the container
    #[arg(long, value_name = "string")]
    pub(super) volume_driver: Option<String>,
    /// Mount volumes from the specified container(s)
    #[arg(long, value_name = "list")]
    pub(super) volumes_from: Vec<String>,
    /// Working directory inside the container
    #[arg(long, short, value_name = "string")]
    pub(super) workdir: Option<String>,
    /// Image, command and arguments: everything after the image belongs to the command.
    #[arg(trailing_var_arg = true, required = true, num_args = 1.., value_name = "IMAGE")]
    pub(super) words: Vec<String>,
}

impl ContainerOptions {
    /// The devices, parsed: whether they are right depends on the engine's system, so Docker's
    /// client reports them with other mistakes of the request.
    pub(super) fn devices(&self) -> Result<Vec<DeviceMapping>, String> {
        self.device.iter().map(|text| parse::device(text)).collect()
    }
}
