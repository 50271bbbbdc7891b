//! Containers: the body of create, `inspect`, and the rows of `ps`.

use std::collections::BTreeMap;

use hull_engine::api::{Container, CreateRequest, EgressReport, Exec, exit_of};
use hull_model::health::{Health, HealthStatus, ProbeResult};
use hull_model::port::PublishedPort;
use hull_model::spec::ContainerConfig;
use hull_model::state::State;
use serde::{Deserialize, Serialize};

use crate::errors::{ApiError, start_sentence};
use crate::request::ApiMinor;
use crate::time::{self, rfc3339};
use crate::wire::OrZero;
use crate::wire::config::Config;
use crate::wire::host_config::{HostConfig, network_word};
use crate::wire::mount::WireMountPoint;
use crate::wire::network::{EndpointRequest, EndpointSettings, NetworkSettings, show_endpoints};

/// Exit code of an exec whose program is not there, and of one that cannot be executed; which was
/// also that of the former in the versions before.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
const MINOR_NOT_FOUND: ApiMinor = 44;

/// The storage driver's name in answers: what Docker calls an overlay with one upper directory.
pub(crate) const STORAGE_DRIVER: &str = "overlay2";

/// First version with several endpoints in a create, each with a MAC address of its own, and with an
/// interval of probes while the container starts.
const MINOR_ENDPOINTS: ApiMinor = 44;
/// First version in which an endpoint can claim the default route.
const MINOR_GATEWAY_PRIORITY: ApiMinor = 48;

/// The body of `POST /containers/create`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct CreateBody {
    #[serde(flatten)]
    config: Config,
    host_config: Option<HostConfig>,
    networking_config: Option<NetworkingConfig>,
    /// Where docker-py says it.
    runtime: OrZero<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NetworkingConfig {
    endpoints_config: Option<BTreeMap<String, Option<EndpointRequest>>>,
}

impl CreateBody {
    /// What a client of this version is to be told about what it sent.
    pub(crate) fn warning(&self, minor: ApiMinor) -> Option<String> {
        let is_deprecated = minor >= MINOR_ENDPOINTS && !self.config.mac_address.0.is_empty();
        is_deprecated.then(|| {
            "The container-wide MacAddress field is now deprecated. It should be specified in \
             EndpointsConfig instead."
                .to_owned()
        })
    }

    /// Without what its version of the API does not have.
    fn for_version(mut self, minor: ApiMinor) -> Result<Self, ApiError> {
        if minor < MINOR_ENDPOINTS {
            self.config.forget_start_interval();
        }
        let endpoints = self.networking_config.as_mut();
        let Some(endpoints) = endpoints.and_then(|config| config.endpoints_config.as_mut()) else {
            return Ok(self);
        };
        if minor < MINOR_ENDPOINTS && endpoints.len() > 1 {
            let names: Vec<&str> = endpoints.keys().map(String::as_str).collect();
            return Err(ApiError::invalid(format!(
                "Container cannot be created with multiple network endpoints: {}",
                names.join(", ")
            )));
        }
        if minor < MINOR_GATEWAY_PRIORITY {
            for endpoint in endpoints.values_mut().flatten() {
                endpoint.forget_gateway_priority();
            }
        }
        Ok(self)
    }

    /// The engine's request.
    pub(crate) fn into_request(
        self,
        name: Option<String>,
        minor: ApiMinor,
    ) -> Result<CreateRequest, ApiError> {
        let this = self.for_version(minor)?;
        this.into_request_as_is(name, minor)
    }

    fn into_request_as_is(
        self,
        name: Option<String>,
        minor: ApiMinor,
    ) -> Result<CreateRequest, ApiError> {
        let image = self.config.image.0.clone();
        if image.is_empty() {
            return Err(ApiError::invalid(
                "config cannot be empty in order to create a container",
            ));
        }
        let (network_disabled, mac) = (
            self.config.network_disabled.0,
            self.config.mac_address.0.clone(),
        );
        let config = ContainerConfig::from(self.config);
        let host = self.host_config.unwrap_or_default();
        let host = host.or_runtime(self.runtime.0).for_version(minor)?;
        let mut host: hull_model::spec::HostConfig = host.try_into()?;
        if network_disabled {
            host.network = hull_model::spec::NetworkMode::None;
        }
        let main = network_word(&host.network);
        let asked = self
            .networking_config
            .unwrap_or_default()
            .endpoints_config
            .unwrap_or_default();
        let mut endpoints: BTreeMap<String, hull_model::spec::EndpointSpec> = asked
            .into_iter()
            .map(|(network, endpoint)| {
                let name = if network == "default" {
                    main.clone()
                } else {
                    network
                };
                (name, endpoint.unwrap_or_default().into())
            })
            .collect();
        if !mac.is_empty() {
            let endpoint = endpoints.entry(main).or_default();
            if !endpoint.mac_address.is_empty() && endpoint.mac_address != mac {
                return Err(ApiError::invalid(
                    "the container-wide MAC address must match the endpoint-specific MAC address \
                     for the main network, or be left empty",
                ));
            }
            endpoint.mac_address = mac;
        }
        Ok(CreateRequest {
            name,
            platform: None,
            image,
            config,
            host,
            endpoints,
        })
    }
}

/// Checks a container name and takes off the slash that Docker's API puts before it.
pub(crate) fn parse_name(text: &str) -> Result<String, ApiError> {
    let name = text.strip_prefix('/').unwrap_or(text);
    let mut letters = name.chars();
    let valid = letters.next().is_some_and(|c| c.is_ascii_alphanumeric())
        && name.len() >= 2
        && letters.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !valid {
        return Err(ApiError::invalid(format!(
            "Invalid container name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )));
    }
    Ok(name.to_owned())
}

/// `State` of `inspect`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct WireState<'a> {
    status: &'static str,
    running: bool,
    paused: bool,
    restarting: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    dead: bool,
    pid: u32,
    exit_code: i32,
    error: String,
    started_at: String,
    finished_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<WireHealth<'a>>,
}

/// `State.Health` of `inspect`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct WireHealth<'a> {
    status: &'static str,
    failing_streak: u32,
    log: Vec<WireProbe<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct WireProbe<'a> {
    start: String,
    end: String,
    exit_code: i32,
    output: &'a str,
}

impl<'a> WireHealth<'a> {
    fn show(health: &'a Health) -> Self {
        let probe = |result: &'a ProbeResult| WireProbe {
            start: rfc3339(result.start_ns),
            end: rfc3339(result.end_ns),
            exit_code: result.exit_code,
            output: &result.output,
        };
        Self {
            status: health.status.word(),
            failing_streak: health.failing_streak,
            log: health.results.iter().map(probe).collect(),
        }
    }
}

impl<'a> WireState<'a> {
    fn show(container: &'a Container) -> Self {
        let exit = exit_of(&container.state);
        let restarting = matches!(
            container.state,
            State::Exited {
                restarting: true,
                ..
            }
        );
        // A start that failed leaves a container that never ran, as `ps` shows it.
        let never_ran = container.started_ns == 0;
        Self {
            status: shown_word(container),
            running: restarting || matches!(container.state, State::Running | State::Paused),
            paused: matches!(container.state, State::Paused),
            restarting,
            oom_killed: container.out_of_memory || exit.is_some_and(|exit| exit.oom_killed),
            dead: matches!(container.state, State::Dead),
            pid: container.pid,
            exit_code: exit.map_or(container.error_code, |exit| exit.code),
            error: match container.failed_to_run {
                true => start_sentence(&container.error),
                false => container.error.clone(),
            },
            started_at: rfc3339(container.started_ns),
            // While it runs again, that of the life before.
            finished_at: rfc3339(match exit {
                Some(exit) if !never_ran => exit.at_ns,
                _ => container.finished_ns,
            }),
            health: container.health.as_ref().map(WireHealth::show),
        }
    }
}

/// Docker's word for the state; a container whose only start failed is `created`.
pub(crate) fn shown_word(container: &Container) -> &'static str {
    match container.state {
        State::Exited {
            restarting: false, ..
        } if container.started_ns == 0 => "created",
        state => state.docker_word(),
    }
}

/// `GraphDriver` of `inspect`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct GraphDriver {
    pub(crate) data: BTreeMap<&'static str, String>,
    pub(crate) name: &'static str,
}

/// The answer of `GET /containers/{id}/json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspect<'a> {
    id: String,
    created: String,
    path: String,
    args: Vec<String>,
    state: WireState<'a>,
    image: String,
    resolv_conf_path: String,
    hostname_path: String,
    hosts_path: String,
    log_path: String,
    name: String,
    restart_count: u32,
    driver: &'static str,
    platform: &'static str,
    mount_label: &'static str,
    process_label: &'static str,
    app_armor_profile: &'static str,
    #[serde(rename = "ExecIDs")]
    exec_ids: Option<&'a [String]>,
    host_config: HostConfig,
    graph_driver: GraphDriver,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    mounts: Vec<WireMountPoint<'a>>,
    config: Config,
    network_settings: NetworkSettings,
    /// Ours: what was weaker than asked for at create and still is.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
    /// Ours: the machine that it was last started in.
    #[serde(skip_serializing_if = "Option::is_none")]
    machine: Option<WireMachine<'a>>,
}

/// The machine of a container with isolation `vm`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WireMachine<'a> {
    kernel: &'a str,
    kernel_release: &'a str,
    accelerator: &'a str,
    reason: &'a str,
    memory: u64,
    cpus: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_memory: Option<u64>,
}

impl<'a> WireMachine<'a> {
    fn show(machine: &'a hull_engine::api::MachineFacts) -> Self {
        Self {
            kernel: &machine.kernel,
            kernel_release: &machine.kernel_release,
            accelerator: &machine.accelerator,
            reason: &machine.reason,
            memory: machine.memory_bytes,
            cpus: machine.cpus,
            host_memory: None,
        }
    }
}

/// Bytes of the upper directory, and of all that the container sees.
pub(crate) type Sizes = Option<(u64, u64)>;

impl<'a> Inspect<'a> {
    pub(crate) fn show(
        container: &'a Container,
        sizes: Sizes,
        egress: Option<EgressReport>,
    ) -> Self {
        let mut args = container.spec.config.args().into_iter();
        let file = |name: &str| {
            container
                .files_dir
                .join(name)
                .to_string_lossy()
                .into_owned()
        };
        let data = BTreeMap::from([
            ("ID", container.id.to_string()),
            (
                "UpperDir",
                container.upper_dir.to_string_lossy().into_owned(),
            ),
            (
                "LowerDir",
                container
                    .layers
                    .iter()
                    .rev()
                    .map(|d| d.hex())
                    .collect::<Vec<_>>()
                    .join(":"),
            ),
        ]);
        let mut config = Config::show(&container.spec.config, &container.spec.image_reference);
        config.hostname.0 = container.hostname();
        Self {
            id: container.id.to_string(),
            created: rfc3339(container.created_ns),
            path: args.next().unwrap_or_default(),
            args: args.collect(),
            state: WireState::show(container),
            image: container.spec.image.to_string(),
            resolv_conf_path: file("resolv.conf"),
            hostname_path: file("hostname"),
            hosts_path: file("hosts"),
            log_path: container
                .log_path
                .as_ref()
                .map(|path| path.to_string_lossy().into_owned())
                .unwrap_or_default(),
            name: format!("/{}", container.spec.name),
            restart_count: container.restart_count,
            driver: STORAGE_DRIVER,
            platform: "linux",
            mount_label: "",
            process_label: "",
            app_armor_profile: "",
            exec_ids: (!container.execs.is_empty()).then_some(&container.execs[..]),
            host_config: HostConfig::show(&container.spec.host).linked_by(&container.spec.name),
            graph_driver: GraphDriver {
                data,
                name: STORAGE_DRIVER,
            },
            size_rw: sizes.map(|(rw, _)| rw),
            size_root_fs: sizes.map(|(_, all)| all),
            mounts: container.mounts.iter().map(WireMountPoint::from).collect(),
            config,
            network_settings: NetworkSettings::show(container, egress),
            warnings: &container.warnings,
            machine: container.machine.as_ref().map(WireMachine::show),
        }
    }
}

impl Inspect<'_> {
    /// With what its machine takes of the host's memory now.
    pub(crate) fn with_host_memory(mut self, bytes: Option<u64>) -> Self {
        if let Some(machine) = &mut self.machine {
            machine.host_memory = bytes;
        }
        self
    }

    /// As clients up to API 1.44 know it.
    pub(crate) fn with_own_aliases(mut self, container: &Container) -> Self {
        let own = [container.id.short(), container.hostname()];
        self.network_settings = self.network_settings.with_own_aliases(&own);
        self
    }
}

/// A row of `GET /containers/json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Summary<'a> {
    id: String,
    names: [String; 1],
    image: String,
    #[serde(rename = "ImageID")]
    image_id: String,
    command: String,
    created: i64,
    ports: Vec<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    labels: &'a BTreeMap<String, String>,
    state: &'static str,
    status: String,
    host_config: SummaryHostConfig<'a>,
    network_settings: SummaryNetworks,
    mounts: Vec<WireMountPoint<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryHostConfig<'a> {
    network_mode: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct SummaryNetworks {
    networks: BTreeMap<String, EndpointSettings>,
}

/// An exposed or published port.
#[derive(Debug, Serialize)]
struct Port {
    #[serde(rename = "IP", skip_serializing_if = "String::is_empty")]
    ip: String,
    #[serde(rename = "PrivatePort")]
    private: u16,
    #[serde(rename = "PublicPort", skip_serializing_if = "Option::is_none")]
    public: Option<u16>,
    #[serde(rename = "Type")]
    protocol: String,
}

impl<'a> Summary<'a> {
    /// `image` is the name it was made of, or the id when that name means another image by now.
    pub(crate) fn show(container: &'a Container, image: String, now_ns: i64, sizes: Sizes) -> Self {
        let spec = &container.spec;
        Self {
            id: container.id.to_string(),
            names: [format!("/{}", spec.name)],
            image,
            image_id: spec.image.to_string(),
            command: command_line(&spec.config.args()),
            created: time::seconds(container.created_ns),
            ports: ports(container),
            // Docker leaves out a zero here.
            size_rw: sizes.map(|(rw, _)| rw).filter(|&rw| rw != 0),
            size_root_fs: sizes.map(|(_, all)| all),
            labels: &spec.config.labels,
            state: shown_word(container),
            status: status_line(container, now_ns),
            host_config: SummaryHostConfig {
                network_mode: network_word(&spec.host.network),
                annotations: &spec.host.annotations,
            },
            network_settings: SummaryNetworks {
                networks: show_endpoints(container),
            },
            mounts: container.mounts.iter().map(WireMountPoint::from).collect(),
        }
    }
}

fn command_line(args: &[String]) -> String {
    let quoted = args.iter().enumerate().map(|(at, arg)| {
        if at > 0 && arg.contains(' ') {
            format!("'{arg}'")
        } else {
            arg.clone()
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

fn ports(container: &Container) -> Vec<Port> {
    let split = |port: &str| -> Option<(u16, String)> {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        Some((number.parse().ok()?, protocol.to_owned()))
    };
    if container.pid == 0 {
        return Vec::new();
    }
    let published = container.ports.iter().map(|port| Port {
        ip: port.host_ip.to_string(),
        private: port.container_port,
        public: Some(port.host_port),
        protocol: port.protocol.to_string(),
    });
    let is_published = |private: u16, protocol: &str| {
        let same = |p: &PublishedPort| p.container_port == private && p.protocol.word() == protocol;
        container.ports.iter().any(same)
    };
    let exposed = container.spec.config.exposed().into_iter();
    let only_exposed = exposed
        .filter_map(|port| split(&port))
        .filter(|(private, protocol)| !is_published(*private, protocol))
        .map(|(private, protocol)| Port {
            ip: String::new(),
            private,
            public: None,
            protocol,
        });
    published.chain(only_exposed).collect()
}

/// The status in words, as in `Up 3 minutes` or `Exited (1) 2 hours ago`.
fn status_line(container: &Container, now_ns: i64) -> String {
    let since = |ns: i64| time::human_span(now_ns - ns);
    match container.state {
        State::Exited {
            restarting: false, ..
        } if container.started_ns == 0 => "Created".into(),
        State::Created | State::Starting => "Created".into(),
        State::Running => {
            let health = match container.health.as_ref().map(|health| health.status) {
                Some(HealthStatus::Starting) => " (health: starting)",
                Some(HealthStatus::Healthy) => " (healthy)",
                Some(HealthStatus::Unhealthy) => " (unhealthy)",
                None => "",
            };
            format!("Up {}{health}", since(container.started_ns))
        }
        State::Paused => format!("Up {} (Paused)", since(container.started_ns)),
        State::Exited {
            exit,
            restarting: true,
        } => {
            format!("Restarting ({}) {} ago", exit.code, since(exit.at_ns))
        }
        State::Exited { exit, .. } => format!("Exited ({}) {} ago", exit.code, since(exit.at_ns)),
        State::Removing => "Removal In Progress".into(),
        State::Dead => "Dead".into(),
    }
}

/// The answer of `GET /exec/{id}/json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ExecInspect<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    running: bool,
    exit_code: Option<i32>,
    process_config: ProcessConfig<'a>,
    open_stdin: bool,
    open_stderr: bool,
    open_stdout: bool,
    can_remove: bool,
    #[serde(rename = "ContainerID")]
    container_id: String,
    detach_keys: &'a str,
    pid: u32,
}

#[derive(Debug, Serialize)]
struct ProcessConfig<'a> {
    tty: bool,
    entrypoint: &'a str,
    arguments: &'a [String],
    privileged: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    user: &'a str,
}

impl<'a> ExecInspect<'a> {
    pub(crate) fn show(exec: &'a Exec, minor: ApiMinor) -> Self {
        let request = &exec.request;
        let failed_to_start = exec.pid == 0 && exec.exit_code == Some(NOT_FOUND);
        let old_client = minor < MINOR_NOT_FOUND;
        let (entrypoint, arguments) = request
            .cmd
            .split_first()
            .map_or(("", &[][..]), |(first, rest)| (first, rest));
        Self {
            id: &exec.id,
            running: exec.running,
            exit_code: match failed_to_start && old_client {
                true => Some(NOT_EXECUTABLE),
                false => exec.exit_code,
            },
            process_config: ProcessConfig {
                tty: request.tty,
                entrypoint,
                arguments,
                privileged: request.privileged,
                user: &request.user,
            },
            open_stdin: request.attach.stdin,
            open_stderr: request.attach.stderr,
            open_stdout: request.attach.stdout,
            can_remove: false,
            container_id: exec.container.to_string(),
            detach_keys: &request.detach_keys,
            pid: exec.pid,
        }
    }
}

/// The answer of wait.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WaitAnswer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<WaitError>,
    pub(crate) status_code: i32,
}

/// Why a wait did not end well.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WaitError {
    pub(crate) message: String,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hull_model::spec::{ContainerSpec, NetworkMode};
    use hull_model::state::Exit;
    use hull_model::{Digest, SandboxId};
    use serde_json::{Value, json};

    use super::*;

    const S: i64 = 1_000_000_000;

    fn container(state: State) -> Container {
        let config = ContainerConfig {
            cmd: Some(vec!["sh".into(), "-c".into(), "echo hi; exit 3".into()]),
            exposed_ports: ["80/tcp".to_owned()].into(),
            ..ContainerConfig::default()
        };
        Container {
            id: SandboxId::from_bytes([0xab; 32]),
            spec: Arc::new(ContainerSpec {
                name: "web".into(),
                image_reference: "busybox".into(),
                image: Digest::from_bytes([1; 32]),
                config,
                host: hull_model::spec::HostConfig::default(),
                endpoints: [(
                    "bridge".to_owned(),
                    hull_model::spec::EndpointSpec::default(),
                )]
                .into(),
            }),
            state,
            created_ns: 10 * S,
            started_ns: 20 * S,
            finished_ns: 0,
            pid: if state.is_live() { 7 } else { 0 },
            error: String::new(),
            error_code: 0,
            failed_to_run: false,
            restart_count: 0,
            out_of_memory: false,
            endpoints: Vec::new(),
            health: None,
            ports: Vec::new(),
            mounts: Vec::new(),
            log_path: None,
            files_dir: "/f".into(),
            upper_dir: "/u".into(),
            machine: None,
            execs: Vec::new(),
            layers: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn exited(code: i32) -> State {
        State::Exited {
            exit: Exit {
                code,
                oom_killed: false,
                at_ns: 30 * S,
            },
            restarting: false,
        }
    }

    fn check_status(container: &Container, expected: &str) {
        assert_eq!(status_line(container, 100 * S), expected);
    }

    #[test]
    fn status_lines_read_like_dockers() {
        check_status(&container(State::Created), "Created");
        check_status(&container(State::Running), "Up About a minute");
        check_status(&container(State::Paused), "Up About a minute (Paused)");
        check_status(&container(exited(3)), "Exited (3) About a minute ago");
        let never = Container {
            started_ns: 0,
            finished_ns: 0,
            ..container(exited(127))
        };
        check_status(&never, "Created");
        assert_eq!(shown_word(&never), "created");
    }

    #[test]
    fn rows_quote_arguments_with_spaces() {
        let container = container(State::Running);
        let row = serde_json::to_value(Summary::show(&container, "busybox".into(), 0, None));
        let row = row.expect("JSON");
        assert_eq!(row["Command"], "sh -c 'echo hi; exit 3'");
        assert_eq!(row["Names"], json!(["/web"]));
        assert_eq!(row["Ports"], json!([{"PrivatePort": 80, "Type": "tcp"}]));
        assert_eq!(
            row["NetworkSettings"]["Networks"]["bridge"]["IPAddress"],
            ""
        );
    }

    /// Every field that Docker 28 shows, except what belongs to other systems.
    #[test]
    fn inspect_has_every_field() {
        let container = container(exited(3));
        let shown = serde_json::to_value(Inspect::show(&container, None, None)).expect("JSON");
        for key in [
            "Id",
            "Created",
            "Path",
            "Args",
            "State",
            "Image",
            "ResolvConfPath",
            "HostnamePath",
            "HostsPath",
            "LogPath",
            "Name",
            "RestartCount",
            "Driver",
            "Platform",
            "MountLabel",
            "ProcessLabel",
            "AppArmorProfile",
            "ExecIDs",
            "HostConfig",
            "GraphDriver",
            "Mounts",
            "Config",
            "NetworkSettings",
        ] {
            assert!(shown.get(key).is_some(), "{key}");
        }
        for key in [
            "Status",
            "Running",
            "Paused",
            "Restarting",
            "OOMKilled",
            "Dead",
            "Pid",
            "ExitCode",
            "Error",
            "StartedAt",
            "FinishedAt",
        ] {
            assert!(shown["State"].get(key).is_some(), "{key}");
        }
        assert_eq!(shown["ExecIDs"], Value::Null);
        assert_eq!(shown["State"]["FinishedAt"], "1970-01-01T00:00:30Z");
        assert_eq!(
            (&shown["Path"], &shown["Args"][0]),
            (&json!("sh"), &json!("-c"))
        );
        assert_eq!(shown.get("SizeRw"), None);
    }

    fn request(body: Value) -> Result<CreateRequest, ApiError> {
        serde_json::from_value::<CreateBody>(body)
            .expect("valid")
            .into_request(None, 48)
    }

    #[test]
    fn a_create_body_is_config_host_and_endpoints() {
        let request = request(json!({
            "Image": "busybox", "Cmd": ["a"], "MacAddress": "02:00:00:00:00:01",
            "HostConfig": {"NetworkMode": "web", "Memory": 5},
            "NetworkingConfig": {"EndpointsConfig": {"web": {"Aliases": ["x"]}, "b": null}}
        }))
        .expect("accepted");
        assert_eq!(request.image, "busybox");
        assert_eq!(request.host.network, NetworkMode::Named("web".into()));
        assert_eq!(request.host.resources.memory, 5);
        assert_eq!(request.endpoints.len(), 2);
        assert_eq!(request.endpoints["web"].mac_address, "02:00:00:00:00:01");
    }

    #[test]
    fn an_empty_create_body_is_refused() {
        assert_eq!(
            request(json!({})).map_err(|e| e.status.as_u16()).err(),
            Some(400)
        );
        assert!(serde_json::from_value::<CreateBody>(json!({"Image": 5})).is_err());
    }

    #[test]
    fn names_are_checked_like_dockers() {
        assert_eq!(parse_name("/web_1.a-b"), Ok("web_1.a-b".into()));
        for name in ["", "/", "a", "-w", "a b", "a/b", "//ab", "ä1"] {
            assert_eq!(
                parse_name(name).map_err(|e| e.message),
                Err(format!(
                    "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
                ))
            );
        }
    }
}
