//! `hull info`.

use std::fmt::Write as _;

use super::failure::Failure;
use super::session::{Session, print, print_line, warn_line};
use super::template::Template;
use super::value::Value;
use super::{Command, units};

/// `hull info`.
#[derive(Debug, clap::Args)]
pub(crate) struct Info {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(long, short, value_name = "string")]
    format: Option<String>,
}

impl Command for Info {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "Display system-wide information";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let template = match self.format.as_deref() {
            None | Some("" | "json") => None,
            Some(text) => Some(Template::parse(text).map_err(|error| {
                Failure::new(format!("template parsing error: {error}")).with_code(64)
            })?),
        };
        let client = client_part();
        let asked =
            async { Ok::<Value, Failure>(session.client().await?.get("/info").receive().await?) };
        let server = asked.await;
        if self.format.as_deref().unwrap_or_default().is_empty() {
            return show(&client, server);
        }
        let server = server?;
        let mut members = server.members(&[]).to_vec();
        members.push(("ClientInfo".to_owned(), client));
        let all = Value::Object(members);
        match template {
            Some(template) => {
                print_line(&template.execute(&all).map_err(|error| {
                    Failure::new(format!("failed to execute template: {error}"))
                })?)
            }
            None => print_line(&all.to_json()),
        }
    }
}

fn client_part() -> Value {
    let text = |text: &str| Value::String(text.to_owned());
    let members = [
        ("Debug", Value::Bool(false)),
        ("Version", text(env!("CARGO_PKG_VERSION"))),
        ("Context", text("default")),
        ("Plugins", Value::List(Vec::new())),
        ("Warnings", Value::Null),
    ];
    Value::Object(
        members
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec(),
    )
}

fn show(client: &Value, server: Result<Value, Failure>) -> Result<(), Failure> {
    let version = client.text(&["Version"]);
    let context = client.text(&["Context"]);
    print(&format!(
        "Client:\n Version:    {version}\n Context:    {context}\n Debug Mode: false\n\nServer:\n"
    ))?;
    match server {
        Ok(server) => {
            print(&server_part(&server))?;
            for warning in server.items(&["Warnings"]) {
                warn_line(warning.as_str().unwrap_or_default());
            }
            Ok(())
        }
        Err(failure) => {
            warn_line(&format!("ERROR: {}", failure.message));
            Err(Failure::new("errors pretty printing info"))
        }
    }
}

/// The lines about the server in Docker's order; those without a value are left out.
fn server_part(info: &Value) -> String {
    let mut out = String::new();
    let text = |name: &str| info.text(&[name]).to_owned();
    let always = |out: &mut String, label: &str, value: &str| {
        let _ = writeln!(out, " {label}: {value}");
    };
    let some = |out: &mut String, label: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, " {label}: {value}");
        }
    };
    let number = |name: &str| info.int(&[name]).to_string();
    let flag = |name: &str| info.flag(&[name]).to_string();
    always(&mut out, "Containers", &number("Containers"));
    always(&mut out, " Running", &number("ContainersRunning"));
    always(&mut out, " Paused", &number("ContainersPaused"));
    always(&mut out, " Stopped", &number("ContainersStopped"));
    always(&mut out, "Images", &number("Images"));
    some(&mut out, "Server Version", &text("ServerVersion"));
    some(&mut out, "Storage Driver", &text("Driver"));
    for pair in info.items(&["DriverStatus"]) {
        if let [name, value] = pair.items(&[]) {
            let (name, value) = (name.as_str(), value.as_str());
            always(
                &mut out,
                &format!(" {}", name.unwrap_or_default()),
                value.unwrap_or_default(),
            );
        }
    }
    some(&mut out, "Logging Driver", &text("LoggingDriver"));
    some(&mut out, "Cgroup Driver", &text("CgroupDriver"));
    some(&mut out, "Cgroup Version", &text("CgroupVersion"));
    out.push_str(" Plugins:\n");
    for kind in ["Volume", "Network", "Log"] {
        always(
            &mut out,
            &format!(" {kind}"),
            &words(info.items(&["Plugins", kind])),
        );
    }
    always(&mut out, "Swarm", info.text(&["Swarm", "LocalNodeState"]));
    let runtimes = info.members(&["Runtimes"]);
    if !runtimes.is_empty() {
        let names: Vec<&str> = runtimes.iter().map(|(name, _)| name.as_str()).collect();
        always(&mut out, "Runtimes", &names.join(" "));
        always(&mut out, "Default Runtime", &text("DefaultRuntime"));
    }
    always(&mut out, "Init Binary", &text("InitBinary"));
    for (label, name) in [
        ("containerd version", "ContainerdCommit"),
        ("runc version", "RuncCommit"),
        ("init version", "InitCommit"),
    ] {
        always(&mut out, label, info.text(&[name, "ID"]));
    }
    security(info.items(&["SecurityOptions"]), &mut out);
    some(&mut out, "Kernel Version", &text("KernelVersion"));
    some(&mut out, "Operating System", &text("OperatingSystem"));
    some(&mut out, "OSType", &text("OSType"));
    some(&mut out, "Architecture", &text("Architecture"));
    always(&mut out, "CPUs", &number("NCPU"));
    always(
        &mut out,
        "Total Memory",
        &units::bytes_size(info.int(&["MemTotal"]) as f64),
    );
    some(&mut out, "Name", &text("Name"));
    some(&mut out, "ID", &text("ID"));
    always(&mut out, "Docker Root Dir", &text("DockerRootDir"));
    always(&mut out, "Debug Mode", &flag("Debug"));
    if info.flag(&["Debug"]) {
        always(&mut out, " File Descriptors", &number("NFd"));
        always(&mut out, " Goroutines", &number("NGoroutines"));
        always(&mut out, " System Time", &text("SystemTime"));
        always(&mut out, " EventsListeners", &number("NEventsListener"));
    }
    some(&mut out, "HTTP Proxy", &text("HttpProxy"));
    some(&mut out, "HTTPS Proxy", &text("HttpsProxy"));
    some(&mut out, "No Proxy", &text("NoProxy"));
    list("Labels", info.items(&["Labels"]), &mut out);
    always(&mut out, "Experimental", &flag("ExperimentalBuild"));
    registries(info, &mut out);
    always(
        &mut out,
        "Live Restore Enabled",
        &flag("LiveRestoreEnabled"),
    );
    some(&mut out, "Product License", &text("ProductLicense"));
    let pools = info.items(&["DefaultAddressPools"]);
    if !pools.is_empty() {
        out.push_str(" Default Address Pools:\n");
        for pool in pools {
            let (base, size) = (pool.text(&["Base"]), pool.int(&["Size"]));
            let _ = writeln!(out, "   Base: {base}, Size: {size}");
        }
    }
    out.push('\n');
    out
}

fn words(items: &[Value]) -> String {
    items
        .iter()
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(" ")
}

fn list(label: &str, items: &[Value], out: &mut String) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(out, " {label}:");
    for item in items.iter().filter_map(Value::as_str) {
        let _ = writeln!(out, "  {item}");
    }
}

/// `name=seccomp,profile=builtin` as a name with its profile below it.
fn security(options: &[Value], out: &mut String) {
    if options.is_empty() {
        return;
    }
    out.push_str(" Security Options:\n");
    for option in options.iter().filter_map(Value::as_str) {
        for part in option.split(',') {
            match part.split_once('=') {
                Some(("name", name)) => {
                    let _ = writeln!(out, "  {name}");
                }
                Some(("profile", profile)) => {
                    let _ = writeln!(out, "   Profile: {profile}");
                }
                _ => {}
            }
        }
    }
}

fn registries(info: &Value, out: &mut String) {
    let insecure: Vec<Value> = info
        .members(&["RegistryConfig", "IndexConfigs"])
        .iter()
        .filter(|(_, config)| !config.flag(&["Secure"]))
        .map(|(name, _)| Value::String(name.clone()))
        .chain(
            info.items(&["RegistryConfig", "InsecureRegistryCIDRs"])
                .iter()
                .cloned(),
        )
        .collect();
    list("Insecure Registries", &insecure, out);
    list(
        "Registry Mirrors",
        info.items(&["RegistryConfig", "Mirrors"]),
        out,
    );
}
