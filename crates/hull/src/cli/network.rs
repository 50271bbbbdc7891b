//! `hull network`: list, create, connect, disconnect and remove networks.

use std::net::IpAddr;

use hull_engine::api::Subnet;
use hull_model::egress::EGRESS_LABEL;
use serde_json::json;

use super::container::parse;
use super::failure::Failure;
use super::format::{self, Columns, Style};
use super::session::{Session, print, print_line, warn_line};
use super::value::Value;
use super::{Command, arguments, filter, units};

const COLUMNS: Columns = Columns {
    headers: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
    table: r"{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
    quiet: "{{.ID}}",
};

/// `hull network ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkList {
    /// Provide filter values (e.g. "driver=bridge")
    #[arg(long, short, value_name = "filter", value_parser = filter::parse)]
    filter: Vec<(String, String)>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Do not truncate the output
    #[arg(long)]
    no_trunc: bool,
    /// Only display network IDs
    #[arg(long, short)]
    quiet: bool,
}

impl Command for NetworkList {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "List networks";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let call = client.get("/networks");
        let call = call.query_some("filters", filter::to_query(&self.filter));
        let mut found: Vec<Value> = call.receive().await?;
        found.sort_by(|a, b| a.text(&["Name"]).cmp(b.text(&["Name"])));
        let rows: Vec<Value> = found.iter().map(|network| self.row(network)).collect();
        let settings = || {
            if self.quiet {
                None
            } else {
                session.setting("networksFormat")
            }
        };
        let format = self.format.clone().or_else(settings);
        let style = Style {
            format: format.as_deref(),
            quiet: self.quiet,
        };
        print(&format::render(&COLUMNS, style, &rows)?)
    }
}

impl NetworkList {
    fn row(&self, network: &Value) -> Value {
        let labels = network.members(&["Labels"]);
        let words: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let id = network.text(&["Id"]);
        let flag = |name: &str| network.flag(&[name]).to_string();
        let text = |name: &str| network.text(&[name]).to_owned();
        let members = [
            ("CreatedAt", units::go_time(network.text(&["Created"]))),
            ("Driver", text("Driver")),
            (
                "ID",
                if self.no_trunc {
                    id
                } else {
                    format::short_id(id)
                }
                .to_owned(),
            ),
            ("IPv4", flag("EnableIPv4")),
            ("IPv6", flag("EnableIPv6")),
            ("Internal", flag("Internal")),
            ("Labels", words.join(",")),
            ("Name", text("Name")),
            ("Scope", text("Scope")),
        ];
        let mut members = members
            .map(|(name, text)| (name.to_owned(), Value::String(text)))
            .to_vec();
        members.push(("Label".to_owned(), Value::Object(labels.to_vec())));
        Value::Object(members)
    }
}

/// `hull network create`.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkCreate {
    /// Enable manual container attachment
    #[arg(long)]
    attachable: bool,
    /// Auxiliary IPv4 or IPv6 addresses used by Network driver
    #[arg(long, value_name = "map", value_parser = parse::pair)]
    aux_address: Vec<(String, String)>,
    /// The network from which to copy the configuration
    #[arg(long, value_name = "string")]
    config_from: Option<String>,
    /// Create a configuration only network
    #[arg(long)]
    config_only: bool,
    /// Driver to manage the Network
    #[arg(long, short, default_value = "bridge", value_name = "string")]
    driver: String,
    /// What may be reached from it outside (NAME:PORT, ADDRESS/PREFIX:PORT, or none)
    #[arg(long, value_name = "list")]
    egress: Vec<String>,
    /// IPv4 or IPv6 Gateway for the master subnet
    #[arg(long, value_name = "strings")]
    gateway: Vec<String>,
    /// Create swarm routing-mesh network
    #[arg(long)]
    ingress: bool,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Allocate container ip from a sub-range
    #[arg(long, value_name = "strings")]
    ip_range: Vec<String>,
    /// IP Address Management Driver
    #[arg(long, default_value = "default", value_name = "string")]
    ipam_driver: String,
    /// Set IPAM driver specific options
    #[arg(long, value_name = "map", value_parser = parse::pair)]
    ipam_opt: Vec<(String, String)>,
    /// Enable or disable IPv4 address assignment (default true)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_name = "bool", value_parser = arguments::parse_bool)]
    ipv4: Option<bool>,
    /// Enable or disable IPv6 address assignment
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_name = "bool", value_parser = arguments::parse_bool)]
    ipv6: Option<bool>,
    /// Set metadata on a network
    #[arg(long, value_name = "list", value_parser = parse::label)]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(long, short, value_name = "map", value_parser = parse::pair)]
    opt: Vec<(String, String)>,
    /// Control the network's scope
    #[arg(long, value_name = "string")]
    scope: Option<String>,
    /// Subnet in CIDR format that represents a network segment
    #[arg(long, value_name = "strings")]
    subnet: Vec<String>,
    #[arg(required = true, value_name = "NETWORK")]
    name: String,
}

impl NetworkCreate {
    /// Each gateway and range is to be in one of the subnets; what cannot be read is the engine's to
    /// refuse.
    fn check_pools(&self) -> Result<(), Failure> {
        let subnets: Option<Vec<Subnet>> =
            self.subnet.iter().map(|text| text.parse().ok()).collect();
        let Some(subnets) = subnets else {
            return Ok(());
        };
        let address = |text: &str| text.split('/').next()?.parse::<IpAddr>().ok();
        let is_outside = |text: &str| {
            let inside = |address: IpAddr, subnet: &Subnet| {
                address.is_ipv4() == subnet.address().is_ipv4()
                    && Subnet::containing(address, subnet.prefix_length()) == *subnet
            };
            address(text).is_some_and(|address| !subnets.iter().any(|s| inside(address, s)))
        };
        for (what, given) in [("range", &self.ip_range), ("gateway", &self.gateway)] {
            if let Some(text) = given.iter().find(|text| is_outside(text)) {
                return Err(Failure::new(format!(
                    "no matching subnet for {what} {text}"
                )));
            }
        }
        let is_lost = |text: &str| address(text).is_none() || is_outside(text);
        match self.aux_address.iter().find(|(_, text)| is_lost(text)) {
            Some((_, text)) => {
                let told = format!("no matching subnet for aux-address {text}");
                Err(Failure::new(told.trim_end()))
            }
            None => Ok(()),
        }
    }
}

impl Command for NetworkCreate {
    const USAGE: &str = "[OPTIONS] NETWORK";
    const ABOUT: &str = "Create a network";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        if self.subnet.is_empty() && !(self.gateway.is_empty() && self.ip_range.is_empty()) {
            return Err(Failure::new(
                "every ip-range or gateway must have a corresponding subnet",
            ));
        }
        self.check_pools()?;
        let map = |pairs: &[(String, String)]| -> serde_json::Map<String, serde_json::Value> {
            pairs
                .iter()
                .map(|(key, value)| (key.clone(), json!(value)))
                .collect()
        };
        let mut options = map(&self.opt);
        if !self.egress.is_empty() {
            options.insert(EGRESS_LABEL.to_owned(), json!(self.egress.join(",")));
        }
        let labels: Vec<(String, String)> = self
            .label
            .iter()
            .filter_map(|label| parse::pair(label).ok())
            .collect();
        // The n-th gateway and range belong to the n-th subnet of the same family.
        let pools = self.subnet.iter().enumerate().map(|(index, subnet)| {
            let of = |list: &[String]| list.get(index).cloned().unwrap_or_default();
            json!({
                "Subnet": subnet, "Gateway": of(&self.gateway), "IPRange": of(&self.ip_range),
                "AuxiliaryAddresses": if index == 0 { map(&self.aux_address) } else { map(&[]) },
            })
        });
        let mut body = json!({
            "Name": self.name, "Driver": self.driver, "Internal": self.internal,
            "Attachable": self.attachable, "Options": options, "Ingress": self.ingress,
            "ConfigOnly": self.config_only, "Scope": self.scope.clone().unwrap_or_default(),
            "Labels": map(&labels), "CheckDuplicate": true,
            "IPAM": {
                "Driver": self.ipam_driver, "Options": map(&self.ipam_opt),
                "Config": pools.collect::<Vec<_>>(),
            },
        });
        // What is not said is the engine's to choose.
        for (name, given) in [("EnableIPv4", self.ipv4), ("EnableIPv6", self.ipv6)] {
            if let Some(given) = given {
                body[name] = json!(given);
            }
        }
        if let Some(from) = &self.config_from {
            body["ConfigFrom"] = json!({ "Network": from });
        }
        let client = session.client().await?;
        let created: Value = client
            .post("/networks/create")
            .json(&body)?
            .receive()
            .await?;
        print_line(created.text(&["Id"]))
    }
}

/// `hull network rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkRemove {
    /// Do not error if the network does not exist
    #[arg(long, short)]
    force: bool,
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
}

impl Command for NetworkRemove {
    const USAGE: &str = "NETWORK [NETWORK...]";
    const ABOUT: &str = "Remove one or more networks";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let mut failed = false;
        for name in &self.names {
            match client.delete(format!("/networks/{name}")).done().await {
                Ok(()) => print_line(name)?,
                Err(error) if self.force && error.is_not_found() => {}
                Err(error) => {
                    warn_line(&Failure::from(error).message);
                    failed = true;
                }
            }
        }
        // Docker's client says this too.
        if failed {
            Err(Failure::new("exit status 1"))
        } else {
            Ok(())
        }
    }
}

/// `hull network connect`.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkConnect {
    /// Add network-scoped alias for the container
    #[arg(long, value_name = "strings")]
    alias: Vec<String>,
    /// driver options for the network
    #[arg(long, value_name = "strings")]
    driver_opt: Vec<String>,
    /// Highest gw-priority provides the default gateway. Accepts positive and negative values
    #[arg(long, value_name = "int", value_parser = arguments::parse_int)]
    gw_priority: Option<i64>,
    /// IPv4 address (e.g., "172.30.100.104")
    #[arg(long, value_name = "string")]
    ip: Option<String>,
    /// IPv6 address (e.g., "2001:db8::33")
    #[arg(long, value_name = "string")]
    ip6: Option<String>,
    /// Add link to another container
    #[arg(long, value_name = "list", value_parser = parse::link)]
    link: Vec<String>,
    /// Add a link-local address for the container
    #[arg(long, value_name = "strings")]
    link_local_ip: Vec<String>,
    #[arg(required = true, value_name = "NETWORK")]
    network: String,
    #[arg(required = true, value_name = "CONTAINER")]
    container: String,
}

impl Command for NetworkConnect {
    const USAGE: &str = "[OPTIONS] NETWORK CONTAINER";
    const ABOUT: &str = "Connect a container to a network";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let mut addresses = serde_json::Map::new();
        for (name, address) in [("IPv4Address", &self.ip), ("IPv6Address", &self.ip6)] {
            if let Some(address) = address {
                addresses.insert(name.to_owned(), json!(address));
            }
        }
        if !self.link_local_ip.is_empty() {
            addresses.insert("LinkLocalIPs".to_owned(), json!(self.link_local_ip));
        }
        let option = |text: &String| match text.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_owned(), json!(value.trim()))),
            None => Err(Failure::new(
                "invalid key/value pair format in driver options",
            )),
        };
        let options: serde_json::Map<String, serde_json::Value> = self
            .driver_opt
            .iter()
            .map(option)
            .collect::<Result<_, _>>()?;
        let body = json!({
            "Container": self.container,
            "EndpointConfig": {
                "IPAMConfig": addresses, "Links": self.link, "Aliases": self.alias,
                "DriverOpts": options, "GwPriority": self.gw_priority.unwrap_or_default(),
            },
        });
        let client = session.client().await?;
        let call = client.post(format!("/networks/{}/connect", self.network));
        Ok(call.json(&body)?.done().await?)
    }
}

/// `hull network disconnect`.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkDisconnect {
    /// Force the container to disconnect from a network
    #[arg(long, short)]
    force: bool,
    #[arg(required = true, value_name = "NETWORK")]
    network: String,
    #[arg(required = true, value_name = "CONTAINER")]
    container: String,
}

impl Command for NetworkDisconnect {
    const USAGE: &str = "[OPTIONS] NETWORK CONTAINER";
    const ABOUT: &str = "Disconnect a container from a network";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let body = json!({ "Container": self.container, "Force": self.force });
        let client = session.client().await?;
        let call = client.post(format!("/networks/{}/disconnect", self.network));
        Ok(call.json(&body)?.done().await?)
    }
}

/// `hull network rules`.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkRules {}

impl Command for NetworkRules {
    const USAGE: &str = "";
    const ABOUT: &str = "Show what is installed in the kernel for networks, and why";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let found: Value = client.get("/hull/network/rules").receive().await?;
        print(found.text(&["rules"]))
    }
}
