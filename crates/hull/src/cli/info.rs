//! `hull info`.

use std::fmt::Write as _;

use super::failure::{EXIT_TEMPLATE, Failure};
use super::session::{Session, print, print_line, warn_line};
use super::template::Template;
use super::value::Value;
use super::{Command, units};
use crate::client::API_VERSION_MAX;

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
                Failure::new(format!("template parsing error: {error}")).with_code(EXIT_TEMPLATE)
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
        ("GitCommit", text(option_env!("HULL_COMMIT").unwrap_or(""))),
        ("GoVersion", text("")),
        ("Os", text("linux")),
        ("Arch", text(super::version::architecture())),
        ("BuildTime", text("")),
        ("DefaultAPIVersion", text(&API_VERSION_MAX.to_string())),
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

/// The lines about the server, in Docker's order.
fn server_part(info: &Value) -> String {
    let mut lines = Lines {
        info,
        out: String::new(),
    };
    lines.counts();
    lines.drivers();
    lines.programs();
    lines.host();
    lines.settings();
    lines.out.push('\n');
    lines.out
}

/// Writes lines of members of the answer.
struct Lines<'a> {
    info: &'a Value,
    out: String,
}

impl Lines<'_> {
    fn put(&mut self, label: &str, value: &str) {
        let _ = writeln!(self.out, " {label}: {value}");
    }

    /// A line only where the member has a value.
    fn text(&mut self, label: &str, name: &str) {
        let value = self.info.text(&[name]);
        if !value.is_empty() {
            self.put(label, value);
        }
    }

    fn number(&mut self, label: &str, name: &str) {
        self.put(label, &self.info.int(&[name]).to_string());
    }

    fn flag(&mut self, label: &str, name: &str) {
        self.put(
            label,
            if self.info.flag(&[name]) {
                "true"
            } else {
                "false"
            },
        );
    }

    fn counts(&mut self) {
        self.number("Containers", "Containers");
        self.number(" Running", "ContainersRunning");
        self.number(" Paused", "ContainersPaused");
        self.number(" Stopped", "ContainersStopped");
        self.number("Images", "Images");
    }

    fn drivers(&mut self) {
        self.text("Server Version", "ServerVersion");
        self.text("Storage Driver", "Driver");
        for pair in self.info.items(&["DriverStatus"]) {
            if let [name, value] = pair.items(&[]) {
                let (name, value) = (name.as_str(), value.as_str());
                self.put(
                    &format!(" {}", name.unwrap_or_default()),
                    value.unwrap_or_default(),
                );
            }
        }
        self.text("Logging Driver", "LoggingDriver");
        self.text("Cgroup Driver", "CgroupDriver");
        self.text("Cgroup Version", "CgroupVersion");
        self.out.push_str(" Plugins:\n");
        for kind in ["Volume", "Network", "Log"] {
            self.put(
                &format!(" {kind}"),
                &words(self.info.items(&["Plugins", kind])),
            );
        }
        self.put("Swarm", self.info.text(&["Swarm", "LocalNodeState"]));
    }

    fn programs(&mut self) {
        let runtimes = self.info.members(&["Runtimes"]);
        if !runtimes.is_empty() {
            let names: Vec<&str> = runtimes.iter().map(|(name, _)| name.as_str()).collect();
            self.put("Runtimes", &names.join(" "));
            self.put("Default Runtime", self.info.text(&["DefaultRuntime"]));
        }
        self.put("Init Binary", self.info.text(&["InitBinary"]));
        for (label, name) in [
            ("containerd version", "ContainerdCommit"),
            ("runc version", "RuncCommit"),
            ("init version", "InitCommit"),
        ] {
            self.put(label, self.info.text(&[name, "ID"]));
        }
        security(self.info.items(&["SecurityOptions"]), &mut self.out);
    }

    fn host(&mut self) {
        self.text("Kernel Version", "KernelVersion");
        self.text("Operating System", "OperatingSystem");
        self.text("OSType", "OSType");
        self.text("Architecture", "Architecture");
        self.number("CPUs", "NCPU");
        let memory = self.info.int(&["MemTotal"]) as f64;
        self.put("Total Memory", &units::bytes_size(memory));
        self.text("Name", "Name");
        self.text("ID", "ID");
    }

    fn settings(&mut self) {
        self.put("Docker Root Dir", self.info.text(&["DockerRootDir"]));
        self.flag("Debug Mode", "Debug");
        if self.info.flag(&["Debug"]) {
            self.number(" File Descriptors", "NFd");
            self.number(" Goroutines", "NGoroutines");
            self.put(" System Time", self.info.text(&["SystemTime"]));
            self.number(" EventsListeners", "NEventsListener");
        }
        self.text("HTTP Proxy", "HttpProxy");
        self.text("HTTPS Proxy", "HttpsProxy");
        self.text("No Proxy", "NoProxy");
        list("Labels", self.info.items(&["Labels"]), &mut self.out);
        self.flag("Experimental", "ExperimentalBuild");
        registries(self.info, &mut self.out);
        self.flag("Live Restore Enabled", "LiveRestoreEnabled");
        self.text("Product License", "ProductLicense");
        let pools = self.info.items(&["DefaultAddressPools"]);
        if !pools.is_empty() {
            self.out.push_str(" Default Address Pools:\n");
            for pool in pools {
                let (base, size) = (pool.text(&["Base"]), pool.int(&["Size"]));
                let _ = writeln!(self.out, "   Base: {base}, Size: {size}");
            }
        }
    }
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
