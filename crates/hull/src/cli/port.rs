//! `hull port`.

use super::Command;
use super::failure::Failure;
use super::session::{Session, print_line};
use super::value::Value;

/// `hull port`.
#[derive(Debug, clap::Args)]
pub(crate) struct Port {
    #[arg(required = true, value_name = "CONTAINER")]
    container: String,
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    port: Option<String>,
}

impl Command for Port {
    const USAGE: &str = "CONTAINER [PRIVATE_PORT[/PROTO]]";
    const ABOUT: &str = "List port mappings or a specific mapping for the container";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let path = format!("/containers/{}/json", self.container);
        let found: Value = client.get(path).receive().await?;
        let bound = |binding: &Value| {
            let (ip, port) = (binding.text(&["HostIp"]), binding.text(&["HostPort"]));
            if ip.contains(':') {
                format!("[{ip}]:{port}")
            } else {
                format!("{ip}:{port}")
            }
        };
        let ports = found.members(&["NetworkSettings", "Ports"]);
        let Some(wanted) = &self.port else {
            let mut lines: Vec<String> = ports
                .iter()
                .flat_map(|(port, list)| {
                    list.items(&[])
                        .iter()
                        .map(move |one| format!("{port} -> {}", bound(one)))
                })
                .collect();
            lines.sort_by_key(|line| port_number(line));
            return lines.iter().try_for_each(|line| print_line(line));
        };
        let number = wanted.split('/').next().unwrap_or_default();
        if let Err(reason) = super::arguments::parse_uint16(number) {
            return Err(Failure::new(format!(
                "Error: invalid port ({wanted}): {reason}"
            )));
        }
        let key = if wanted.contains('/') {
            wanted.clone()
        } else {
            format!("{wanted}/tcp")
        };
        let bindings = ports.iter().find(|(port, _)| *port == key);
        let bindings = bindings.map_or(&[][..], |(_, list)| list.items(&[]));
        if bindings.is_empty() {
            return Err(Failure::new(format!(
                "Error: No public port '{wanted}' published for {}",
                self.container
            )));
        }
        bindings
            .iter()
            .try_for_each(|binding| print_line(&bound(binding)))
    }
}

fn port_number(line: &str) -> u32 {
    line.split('/')
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}
