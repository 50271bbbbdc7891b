//! The daemon's start-up: from options to an engine that listens, and its orderly end.
//!
//! Its end is not that of its containers: SIGTERM closes the sockets, nothing more. The next
//! daemon finds them again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hull_docker::{Listener, ServeConfig, Tls, TlsFiles};
use hull_engine::api::Subnet;
use hull_engine::{
    AddressPool, BridgeConfig, Engine, EngineConfig, ImageGc, Proxies, RegistryOptions, Reload,
};
use hull_model::ids::UserMaps;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::cli::{Configuration, DaemonOptions};
use crate::remap;

/// Where clients look when nobody says otherwise.
const HOST_DEFAULT: &str = "unix:///run/hull/hull.sock";
/// Threads for blocking work: the pools of the engine have fewer places, this is their sum and
/// some for the runtime's own.
const BLOCKING_THREADS_MAX: usize = 36;
/// How often memory is given back where nobody asks for anything. It costs less than a tenth of a
/// millisecond.
const GIVE_BACK_PAUSE: Duration = Duration::from_secs(10);
/// How long after an answer it is given back: the next request is often the same client's.
const GIVE_BACK_DELAY: Duration = Duration::from_millis(500);
/// Groups whose members may use the socket, the first that exists.
const SOCKET_GROUPS: [&str; 2] = ["hull", "docker"];

/// Changes the level of the log.
type SetLevel = Box<dyn Fn(&str) -> Result<(), String> + Send>;

/// Runs the daemon until it is asked to end, or looks at its configuration only.
pub(crate) fn run(configuration: Configuration) -> ExitCode {
    let options = match configuration.read().and_then(checked) {
        Ok(options) if options.validate => {
            crate::cli::say("configuration OK");
            return ExitCode::SUCCESS;
        }
        Ok(options) => options,
        Err(text) => {
            crate::cli::say(&text);
            return ExitCode::FAILURE;
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("hull")
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(serve(configuration, options)),
        Err(error) => Err(format!("start the runtime: {error}")),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            tracing::error!("{text}");
            ExitCode::FAILURE
        }
    }
}

/// Options that can be used: each value is looked at as far as that changes nothing.
fn checked(options: DaemonOptions) -> Result<DaemonOptions, String> {
    refuse_unsafe(&options)?;
    remap(&options).map_or(Ok(()), remap::check)?;
    engine_config(&options)?;
    tls(&options)?;
    match hosts(&options).iter().find(|host| !is_place(host)) {
        Some(host) => Err(no_place(host)),
        None => Ok(options),
    }
}

/// What would be weaker than asked for is refused, not warned of.
fn refuse_unsafe(options: &DaemonOptions) -> Result<(), String> {
    let network = &options.network;
    if network.default_gateway.is_some() || network.default_gateway_v6.is_some() {
        return Err(
            "--default-gateway is not there yet; the bridge's own address is it".to_owned(),
        );
    }
    Ok(())
}

async fn serve(configuration: Configuration, options: DaemonOptions) -> Result<(), String> {
    let set_level = start_log(&options);
    let tls = tls(&options)?;
    for warning in options.warnings() {
        tracing::warn!("{warning}");
    }
    if let Some(score) = options.oom_score_adjust {
        fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(|e| format!("set the daemon's oom_score_adj to {score}: {e}"))?;
    }
    if let Err(error) = hull_os::service::raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let mut end = signal(SignalKind::terminate()).map_err(|e| format!("wait for signals: {e}"))?;
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(|e| format!("wait for signals: {e}"))?;
    let hangup = signal(SignalKind::hangup()).map_err(|e| format!("wait for signals: {e}"))?;
    let users = remap(&options).map_or(Ok(UserMaps::default()), remap::users)?;
    let config = EngineConfig {
        users,
        ..engine_config(&options)?
    };
    let engine = Engine::open(config).await.map_err(|e| e.chain())?;
    let mut sockets = Vec::new();
    let mut listeners = Vec::new();
    for host in hosts(&options) {
        let group = options.group.as_deref();
        listeners.append(&mut listen(&host, group, tls.as_ref(), &mut sockets).await?);
    }
    let pidfile = options.pidfile.clone();
    if let Some(path) = &pidfile {
        fs::write(path, std::process::id().to_string())
            .map_err(|e| format!("write the pid file {}: {e}", path.display()))?;
    }
    notify_ready();
    let config = serve_config(&options);
    tokio::spawn(keep_small(config.answered.clone()));
    let (shown, config) = watch::channel(Arc::new(config));
    let reloading = Reloading {
        configuration,
        set_level,
        shown,
        engine: engine.clone(),
    };
    tokio::spawn(reloading.follow(hangup));
    let asked = async move {
        tokio::select! {
            _ = end.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending; containers go on");
    };
    let served = hull_docker::serve(engine, listeners, config, asked).await;
    for path in sockets.iter().chain(&pidfile) {
        if let Err(error) = fs::remove_file(path) {
            tracing::debug!(%error, path = %path.display(), "not removed");
        }
    }
    served.map_err(|error| error.to_string())
}

fn log_level(options: &DaemonOptions) -> &str {
    match options.log_level.as_str() {
        _ if options.debug => "debug",
        "fatal" | "panic" => "error",
        other => other,
    }
}

fn start_log(options: &DaemonOptions) -> SetLevel {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HULL_LOG")
        .or_else(|_| tracing_subscriber::EnvFilter::try_new(log_level(options)))
        .unwrap_or_default();
    let log = tracing_subscriber::fmt()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .with_env_filter(filter)
        .with_filter_reloading();
    let filter = log.reload_handle();
    log.init();
    Box::new(move |level| {
        let new = tracing_subscriber::EnvFilter::try_new(level).map_err(|e| e.to_string())?;
        filter.reload(new).map_err(|e| e.to_string())
    })
}

/// What SIGHUP needs to read the configuration again.
struct Reloading {
    configuration: Configuration,
    set_level: SetLevel,
    shown: watch::Sender<Arc<ServeConfig>>,
    engine: Engine,
}

impl Reloading {
    async fn follow(self, mut hangup: Signal) {
        while hangup.recv().await.is_some() {
            match self.reload() {
                Ok(()) => tracing::info!("the configuration was read again"),
                Err(text) => tracing::error!("the configuration stays as it was: {text}"),
            }
        }
    }

    /// Puts in force what may change while we run; all other keys wait for the next start.
    fn reload(&self) -> Result<(), String> {
        let options = self.configuration.read().and_then(checked)?;
        let reload = Reload {
            registries: registry_options(&options),
            downloads_max: transfers(options.max_concurrent_downloads),
            uploads_max: transfers(options.max_concurrent_uploads),
            image_gc: image_gc(&options),
            facts: reload_facts(&options),
        };
        self.engine.reload(reload).map_err(|error| error.chain())?;
        // Whom the end of an answer wakes stays the same.
        let answered = self.shown.borrow().answered.clone();
        let shown = ServeConfig {
            answered,
            ..serve_config(&options)
        };
        self.shown.send_replace(Arc::new(shown));
        for warning in options.warnings() {
            tracing::warn!("{warning}");
        }
        (self.set_level)(log_level(&options))
    }
}

/// What the event `reload` tells, as dockerd writes it.
fn reload_facts(options: &DaemonOptions) -> BTreeMap<String, String> {
    let list = |values: &[String]| serde_json::to_string(values).unwrap_or_default();
    [
        ("debug", options.debug.to_string()),
        ("insecure-registries", list(&options.insecure_registry)),
        ("labels", list(&options.label)),
        ("live-restore", "true".to_owned()),
        (
            "max-concurrent-downloads",
            options.max_concurrent_downloads.unwrap_or(3).to_string(),
        ),
        (
            "max-concurrent-uploads",
            options.max_concurrent_uploads.unwrap_or(5).to_string(),
        ),
        ("image-gc-size-max", options.image_gc_size_max.to_string()),
        (
            "image-gc-unused-for",
            format!("{}s", options.image_gc_unused_for.as_secs()),
        ),
        ("registry-mirrors", list(&options.registry_mirror)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

fn engine_config(options: &DaemonOptions) -> Result<EngineConfig, String> {
    let network = &options.network;
    Ok(EngineConfig {
        data_root: options.data_root.clone(),
        run_root: options.exec_root.clone(),
        shim_program: crate::shim::PROGRAM,
        cgroup_parent: options.cgroup_parent.clone(),
        defaults: crate::defaults::of(options)?,
        bridge: BridgeConfig {
            disabled: network.bridge.as_deref() == Some("none"),
            name: network
                .bridge
                .clone()
                .filter(|name| name != "none")
                .unwrap_or_default(),
            address: network.bip.clone().unwrap_or_default(),
            mtu: network
                .mtu
                .and_then(|mtu| u32::try_from(mtu).ok())
                .unwrap_or_default(),
            range: network.fixed_cidr.clone().unwrap_or_default(),
            ipv6: network.ipv6,
            address6: network.bip6.clone().unwrap_or_default(),
            range6: network.fixed_cidr_v6.clone().unwrap_or_default(),
            no_masquerade: !network.ip_masq,
            host_gateway: host_gateway(&network.host_gateway_ip)?,
            no_icc: !network.icc,
            pools: address_pools(&network.default_address_pool)?,
            hands_off: !network.iptables,
            default_ip: match network.ip.parse() {
                Ok(ip) => Some(ip),
                Err(_) => return Err(format!("--ip {}: not an address", network.ip)),
            },
            host_firewall: network.host_firewall,
            firewall_backend: network.firewall_backend,
        },
        registries: registry_options(options),
        downloads_max: transfers(options.max_concurrent_downloads),
        uploads_max: transfers(options.max_concurrent_uploads),
        image_gc: image_gc(options),
        layer_backing: options.layer_backing,
        users: UserMaps::default(),
    })
}

fn image_gc(options: &DaemonOptions) -> ImageGc {
    ImageGc {
        unused_for: Some(options.image_gc_unused_for).filter(|limit| !limit.is_zero()),
        bytes_max: Some(options.image_gc_size_max).filter(|&limit| limit > 0),
    }
}

/// Whose ids containers shall have, where not the host's.
fn remap(options: &DaemonOptions) -> Option<&str> {
    options
        .userns_remap
        .as_deref()
        .filter(|text| !text.is_empty())
}

/// How many transfers were asked for; 0: nobody said.
fn transfers(asked: Option<i64>) -> usize {
    asked
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or_default()
}

/// The first address, which is what containers are told.
fn host_gateway(texts: &[String]) -> Result<Option<IpAddr>, String> {
    let parse = |text: &String| match text.parse() {
        Ok(address) => Ok(address),
        Err(_) => Err(format!("--host-gateway-ip {text}: not an address")),
    };
    texts.first().map(parse).transpose()
}

fn registry_options(options: &DaemonOptions) -> RegistryOptions {
    let environment = Proxies::from_environment();
    let proxies = Proxies {
        http: options.http_proxy.clone().or(environment.http),
        https: options.https_proxy.clone().or(environment.https),
        exceptions: options.no_proxy.clone().unwrap_or(environment.exceptions),
    };
    RegistryOptions {
        mirrors: options.registry_mirror.clone(),
        insecure: options.insecure_registry.clone(),
        proxies,
        certs_dirs: Vec::new(),
    }
}

/// Reads `base=10.0.0.0/8,size=24`.
fn address_pools(texts: &[String]) -> Result<Vec<AddressPool>, String> {
    let parse = |text: &String| {
        let field = |key: &str| {
            let fields = text.split(',').filter_map(|field| field.split_once('='));
            fields
                .into_iter()
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value)
        };
        let range = field("base").and_then(|base| base.parse::<Subnet>().ok());
        let size = field("size").and_then(|size| size.parse::<u8>().ok());
        match (range, size) {
            (Some(range), Some(prefix_length)) if prefix_length >= range.prefix_length() => {
                Ok(AddressPool {
                    range,
                    prefix_length,
                })
            }
            _ => Err(format!(
                "--default-address-pool {text}: it has the form base=10.0.0.0/8,size=24, with a \
                 size not smaller than the prefix of the base"
            )),
        }
    };
    texts.iter().map(parse).collect()
}

fn serve_config(options: &DaemonOptions) -> ServeConfig {
    ServeConfig {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: options.label.clone(),
        registry_mirrors: options.registry_mirror.clone(),
        insecure_registries: options.insecure_registry.clone(),
        debug: options.debug,
        ..ServeConfig::default()
    }
}

fn hosts(options: &DaemonOptions) -> Vec<String> {
    if options.host.is_empty() {
        vec![HOST_DEFAULT.to_owned()]
    } else {
        options.host.clone()
    }
}

/// What `--tls` and `--tlsverify` ask for on all `tcp://` sockets; the files lie by default where
/// dockerd looks for them.
fn tls(options: &DaemonOptions) -> Result<Option<Tls>, String> {
    let asked = &options.tls;
    if !(asked.tls || asked.tlsverify) {
        return Ok(None);
    }
    let folder = std::env::var_os("DOCKER_CERT_PATH")
        .or_else(|| std::env::var_os("DOCKER_CONFIG"))
        .map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker"),
            PathBuf::from,
        );
    let file =
        |given: &Option<PathBuf>, name: &str| given.clone().unwrap_or_else(|| folder.join(name));
    let files = TlsFiles {
        certificate: file(&asked.tlscert, "cert.pem"),
        key: file(&asked.tlskey, "key.pem"),
        client_authorities: asked.tlsverify.then(|| file(&asked.tlscacert, "ca.pem")),
    };
    let chain = |error: hull_docker::TlsError| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        format!("set up TLS: {error}{}", cause.unwrap_or_default())
    };
    Tls::read(&files).map(Some).map_err(chain)
}

/// Binds what one `-H` names.
async fn listen(
    host: &str,
    group: Option<&str>,
    tls: Option<&Tls>,
    sockets: &mut Vec<PathBuf>,
) -> Result<Vec<Listener>, String> {
    if let Some(path) = host.strip_prefix("unix://") {
        let path = PathBuf::from(path);
        let listener = listen_unix(&path, group)
            .await
            .map_err(|error| format!("listen on {}: {error}", path.display()))?;
        sockets.push(path);
        return Ok(vec![Listener::Unix(listener)]);
    }
    if let Some(address) = host.strip_prefix("tcp://") {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| format!("listen on {address}: {error}"))?;
        return Ok(vec![match tls {
            Some(tls) => Listener::Tls(listener, tls.clone()),
            None => Listener::Tcp(listener),
        }]);
    }
    if host.starts_with("fd://") {
        return inherited().map_err(|error| format!("take the sockets of {host}: {error}"));
    }
    Err(no_place(host))
}

fn is_place(host: &str) -> bool {
    ["unix://", "tcp://", "fd://"]
        .iter()
        .any(|kind| host.starts_with(kind))
}

fn no_place(host: &str) -> String {
    format!("{host} is not a place to listen: use unix://PATH, tcp://ADDRESS:PORT or fd://")
}

/// Sockets that systemd bound for us.
fn inherited() -> io::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for socket in hull_os::service::activated()? {
        let socket = std::os::unix::net::UnixListener::from(socket);
        socket.set_nonblocking(true)?;
        listeners.push(Listener::Unix(UnixListener::from_std(socket)?));
    }
    if listeners.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no socket was passed; start the daemon by its socket unit, or use -H unix://PATH",
        ));
    }
    Ok(listeners)
}

async fn listen_unix(path: &Path, group: Option<&str>) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    if path.exists() {
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another daemon answers there; stop it or choose another -H",
            ));
        }
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    if let Some(gid) = socket_group(group)? {
        let uid = path.metadata()?.uid();
        std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
    }
    Ok(listener)
}

fn socket_group(asked: Option<&str>) -> io::Result<Option<u32>> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let find = |name: &str| {
        groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            let id = fields
                .next()
                .filter(|first| *first == name)
                .and(fields.nth(1))?;
            id.parse::<u32>().ok()
        })
    };
    match asked {
        Some("") => Ok(None),
        Some(name) => match name.parse().ok().or_else(|| find(name)) {
            Some(gid) => Ok(Some(gid)),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no group {name}"),
            )),
        },
        None => Ok(SOCKET_GROUPS.iter().find_map(|name| find(name))),
    }
}

/// Gives back, now and then, pages of the program and the heap that the last requests needed and an
/// idle daemon does not.
async fn keep_small(answered: Arc<Notify>) {
    loop {
        hull_os::process::give_back_memory();
        if tokio::time::timeout(GIVE_BACK_PAUSE, answered.notified())
            .await
            .is_ok()
        {
            tokio::time::sleep(GIVE_BACK_DELAY).await;
        }
    }
}

/// Tells systemd that we answer.
fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = std::os::unix::net::UnixDatagram::unbound()
        .and_then(|socket| socket.send_to(b"READY=1", Path::new(&path)));
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd was not told that the daemon is ready");
    }
}
