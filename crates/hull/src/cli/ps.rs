//! `hull ps`.

use super::arguments::parse_int;
use super::failure::Failure;
use super::format::{self, Columns, Style};
use super::session::{Session, print};
use super::value::Value;
use super::{Command, filter, units};

/// Characters of a command that are shown, quotes included.
const COMMAND_CHARACTERS_MAX: usize = 20;

/// Characters of a mount's name that are shown.
const MOUNT_CHARACTERS_MAX: usize = 15;

const COLUMNS: Columns = Columns {
    headers: &[
        ("ID", "CONTAINER ID"),
        ("Names", "NAMES"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("Ports", "PORTS"),
        ("State", "STATE"),
        ("Status", "STATUS"),
        ("Size", "SIZE"),
        ("Labels", "LABELS"),
        ("Mounts", "MOUNTS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Networks", "NETWORKS"),
        ("Platform", "PLATFORM"),
    ],
    table: r"{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
    quiet: "{{.ID}}",
};

/// The table with sizes.
const SIZE_COLUMNS: Columns = Columns {
    table: r"{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}",
    ..COLUMNS
};

/// `hull ps`.
#[derive(Debug, clap::Args)]
pub(crate) struct Ps {
    /// Show all containers (default shows just running)
    #[arg(long, short)]
    all: bool,
    /// Filter output based on conditions provided
    #[arg(long, short, value_name = "filter", value_parser = filter::parse)]
    filter: Vec<(String, String)>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show n last created containers (includes all states)
    #[arg(long, short = 'n', value_name = "int", default_value = "-1", value_parser = parse_int)]
    last: i64,
    /// Show the latest created container (includes all states)
    #[arg(long, short)]
    latest: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display container IDs
    #[arg(long, short)]
    quiet: bool,
    /// Display total file sizes
    #[arg(long, short)]
    size: bool,
}

impl Command for Ps {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "List containers";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let settings = || {
            if self.quiet {
                None
            } else {
                session.setting("psFormat")
            }
        };
        let format = self
            .format
            .clone()
            .filter(|f| !f.is_empty())
            .or_else(settings);
        let format = format.as_deref();
        let wants_size = self.size
            || format.is_some_and(|f| {
                // Who asks for the whole row asks for the size too.
                f.contains(".Size") || f.contains("json .}")
            });
        let wants_size = wants_size && !(self.quiet && format.is_none());
        let limit = if self.latest { 1 } else { self.last };
        let client = session.client().await?;
        let call = client.get("/containers/json").query_flag("all", self.all);
        let call = call.query_some("limit", (limit > 0).then(|| limit.to_string()));
        let call = call.query_flag("size", wants_size);
        let call = call.query_some("filters", filter::to_query(&self.filter));
        let found: Vec<Value> = call.receive().await?;
        let rows: Vec<Value> = found.iter().map(|one| row(one, self.no_trunc)).collect();
        let columns = if self.size && !self.quiet {
            &SIZE_COLUMNS
        } else {
            &COLUMNS
        };
        print(&format::render(
            columns,
            Style {
                format,
                quiet: self.quiet,
            },
            &rows,
        )?)
    }
}

pub(super) fn row(container: &Value, no_trunc: bool) -> Value {
    let cut = |text: &str, length| {
        if no_trunc {
            text.to_owned()
        } else {
            format::ellipsis(text, length)
        }
    };
    let id = container.text(&["Id"]);
    let created = container.int(&["Created"]);
    let command = cut(container.text(&["Command"]), COMMAND_CHARACTERS_MAX);
    let labels = container.members(&["Labels"]);
    let mut label_words: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    label_words.sort();
    let mounts = container.items(&["Mounts"]).iter().map(|mount| {
        let name = match mount.text(&["Name"]) {
            "" => mount.text(&["Source"]),
            name => name,
        };
        cut(name, MOUNT_CHARACTERS_MAX)
    });
    let volumes = container
        .items(&["Mounts"])
        .iter()
        .filter(|m| m.text(&["Driver"]) == "local")
        .count();
    let networks = container.members(&["NetworkSettings", "Networks"]);
    let mut networks: Vec<&str> = networks.iter().map(|(name, _)| name.as_str()).collect();
    networks.sort_unstable();
    let text = |text: String| Value::String(text);
    let ago = units::human_duration(units::now_seconds() - created);
    let members = [
        ("Command", text(Value::String(command).to_json())),
        ("CreatedAt", text(units::local_time(created))),
        (
            "ID",
            text(if no_trunc { id } else { format::short_id(id) }.to_owned()),
        ),
        ("Image", text(image(container, no_trunc))),
        ("Label", Value::Object(labels.to_vec())),
        ("Labels", text(label_words.join(","))),
        ("LocalVolumes", text(volumes.to_string())),
        ("Mounts", text(mounts.collect::<Vec<_>>().join(","))),
        ("Names", text(names(container, no_trunc))),
        ("Networks", text(networks.join(","))),
        ("Platform", platform(container)),
        ("Ports", text(ports(container.items(&["Ports"])))),
        ("RunningFor", text(format!("{ago} ago"))),
        ("Size", text(size(container))),
        ("State", text(container.text(&["State"]).to_owned())),
        ("Status", text(container.text(&["Status"]).to_owned())),
    ];
    Value::Object(
        members
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec(),
    )
}

/// Names without the slash before them; those that come from links have more than one.
fn names(container: &Value, no_trunc: bool) -> String {
    let names = container.items(&["Names"]).iter().filter_map(Value::as_str);
    let names = names.map(|name| name.trim_start_matches('/'));
    let names: Vec<&str> = names
        .filter(|name| no_trunc || !name.contains('/'))
        .collect();
    names.join(",")
}

/// The image's name as the container was made with; of an image without one the short id.
fn image(container: &Value, no_trunc: bool) -> String {
    let image = container.text(&["Image"]);
    if image.is_empty() {
        return "<no image>".to_owned();
    }
    let id = container.text(&["ImageID"]);
    if !no_trunc {
        let short = format::short_id(id);
        if !short.is_empty() && short == format::short_id(image) {
            return short.to_owned();
        }
        // A digest says nothing to people: the name stands alone.
        if let Some((name, _)) = image.split_once('@') {
            return name.to_owned();
        }
    }
    image.to_owned()
}

fn platform(container: &Value) -> Value {
    match container.at(&["ImageManifestDescriptor", "platform"]) {
        Some(platform @ Value::Object(_)) => platform.clone(),
        _ => Value::Null,
    }
}

fn size(container: &Value) -> String {
    let size = |name| units::human_size_with_precision(container.int(&[name]) as f64, 3);
    let own = size("SizeRw");
    if container.int(&["SizeRootFs"]) > 0 {
        return format!("{own} (virtual {})", size("SizeRootFs"));
    }
    own
}

/// Ports as ranges where they follow each other: `0.0.0.0:8000-8001->80-81/tcp, 443/tcp`.
pub(crate) fn ports(ports: &[Value]) -> String {
    #[derive(PartialEq, Eq, PartialOrd, Ord, Clone)]
    struct Port {
        private: i64,
        ip: String,
        kind: String,
        public: i64,
    }
    let mut all: Vec<Port> = ports
        .iter()
        .map(|port| Port {
            private: port.int(&["PrivatePort"]),
            public: port.int(&["PublicPort"]),
            ip: port.text(&["IP"]).to_owned(),
            kind: port.text(&["Type"]).to_owned(),
        })
        .collect();
    all.sort();
    let range = |first: i64, last: i64| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let word = |first: &Port, last: i64| {
        let inside = range(first.private, last);
        match first.public {
            0 => format!("{inside}/{}", first.kind),
            _ => format!("{}->{inside}/{}", join_host(&first.ip, &inside), first.kind),
        }
    };
    let mut words = Vec::new();
    let mut published = Vec::new();
    // The last range of each address and protocol, in the order in which they first appear.
    let mut open: Vec<(Port, i64)> = Vec::new();
    for port in all {
        if port.public != 0 && port.public != port.private {
            let host = join_host(&port.ip, &port.public.to_string());
            published.push(format!("{host}->{}/{}", port.private, port.kind));
            continue;
        }
        let same = |other: &Port| {
            other.kind == port.kind
                && (other.public == 0) == (port.public == 0)
                && other.ip == port.ip
        };
        match open.iter_mut().find(|(first, _)| same(first)) {
            Some((_, last)) if *last + 1 == port.private => *last = port.private,
            Some((first, last)) => {
                words.push(word(first, *last));
                (*first, *last) = (port.clone(), port.private);
            }
            None => open.push((port.clone(), port.private)),
        }
    }
    words.extend(open.iter().map(|(first, last)| word(first, *last)));
    words.extend(published);
    words.join(", ")
}

fn join_host(ip: &str, port: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_follow_each_other_are_one_range() {
        let check = |json: &str, expected: &str| {
            let list: Vec<Value> = serde_json::from_str(json).unwrap();
            assert_eq!(ports(&list), expected);
        };
        check(r#"[{"PrivatePort":80,"Type":"tcp"}]"#, "80/tcp");
        check(
            r#"[{"PrivatePort":81,"Type":"tcp"},{"PrivatePort":80,"Type":"tcp"}]"#,
            "80-81/tcp",
        );
        check(
            r#"[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},
                {"IP":"::","PrivatePort":80,"PublicPort":8080,"Type":"tcp"}]"#,
            "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
        );
        check(
            r#"[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":80,"Type":"tcp"},
                {"IP":"0.0.0.0","PrivatePort":81,"PublicPort":81,"Type":"tcp"}]"#,
            "0.0.0.0:80-81->80-81/tcp",
        );
    }
}
