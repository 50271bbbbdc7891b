//! `hull volume`: list, create and remove volumes; and, beside docker's commands, rename, clone,
//! snapshot, export and import them.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::container::parse;
use super::failure::Failure;
use super::format::{self, Columns, Style};
use super::names::{self, Missing};
use super::session::{Session, print, print_line};
use super::value::Value;
use super::{Command, archive, filter};

const COLUMNS: Columns = Columns {
    headers: &[
        ("Name", "VOLUME NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("Availability", "AVAILABILITY"),
        ("Mountpoint", "MOUNTPOINT"),
        ("Labels", "LABELS"),
        ("Links", "LINKS"),
        ("Size", "SIZE"),
        ("Group", "GROUP"),
        ("Status", "STATUS"),
    ],
    table: r"{{.Driver}}\t{{.Name}}",
    quiet: "{{.Name}}",
};

/// `hull volume ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct VolumeList {
    /// Provide filter values (e.g. "dangling=true")
    #[arg(long, short, value_name = "filter", value_parser = filter::parse)]
    filter: Vec<(String, String)>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Only display volume names
    #[arg(long, short)]
    quiet: bool,
}

impl Command for VolumeList {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "List volumes";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let call = client.get("/volumes");
        let call = call.query_some("filters", filter::to_query(&self.filter));
        let found: Value = call.receive().await?;
        let mut volumes = found.items(&["Volumes"]).to_vec();
        volumes.sort_by(|a, b| a.text(&["Name"]).cmp(b.text(&["Name"])));
        let rows: Vec<Value> = volumes.iter().map(row).collect();
        let settings = || {
            if self.quiet {
                None
            } else {
                session.setting("volumesFormat")
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

fn row(volume: &Value) -> Value {
    let labels = volume.members(&["Labels"]);
    let words: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let unknown = || "N/A".to_owned();
    let members = [
        ("Availability", unknown()),
        ("Driver", volume.text(&["Driver"]).to_owned()),
        ("Group", unknown()),
        ("Labels", words.join(",")),
        ("Links", unknown()),
        ("Mountpoint", volume.text(&["Mountpoint"]).to_owned()),
        ("Name", volume.text(&["Name"]).to_owned()),
        ("Scope", volume.text(&["Scope"]).to_owned()),
        ("Size", unknown()),
        ("Status", unknown()),
    ];
    let mut members = members
        .map(|(name, text)| (name.to_owned(), Value::String(text)))
        .to_vec();
    members.push(("Label".to_owned(), Value::Object(labels.to_vec())));
    Value::Object(members)
}

/// `hull volume create`.
#[derive(Debug, clap::Args)]
pub(crate) struct VolumeCreate {
    /// Specify volume driver name
    #[arg(long, short, default_value = "local", value_name = "string")]
    driver: String,
    /// Set metadata for a volume
    #[arg(long, value_name = "list", value_parser = parse::label)]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(long, short, value_name = "map", value_parser = parse::pair)]
    opt: Vec<(String, String)>,
    /// Specify volume name
    #[arg(long = "name", value_name = "string", hide = true)]
    by_option: Option<String>,
    #[arg(value_name = "VOLUME")]
    name: Option<String>,
}

impl Command for VolumeCreate {
    const USAGE: &str = "[OPTIONS] [VOLUME]";
    const ABOUT: &str = "Create a volume";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let map = |pairs: Vec<(String, String)>| -> serde_json::Map<String, serde_json::Value> {
            pairs
                .into_iter()
                .map(|(key, value)| (key, json!(value)))
                .collect()
        };
        if self.by_option.is_some() && self.name.is_some() {
            return Err(Failure::new(
                "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
            ));
        }
        let name = self.name.or(self.by_option).unwrap_or_default();
        let labels = self
            .label
            .iter()
            .filter_map(|label| parse::pair(label).ok())
            .collect();
        let options = (!self.opt.is_empty()).then(|| map(self.opt));
        let body = json!({
            "Name": name, "Driver": self.driver,
            "DriverOpts": options, "Labels": map(labels),
        });
        let client = session.client().await?;
        let created: Value = client
            .post("/volumes/create")
            .json(&body)?
            .receive()
            .await?;
        print_line(created.text(&["Name"]))
    }
}

/// `hull volume rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct VolumeRemove {
    /// Force the removal of one or more volumes
    #[arg(long, short)]
    force: bool,
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
}

impl Command for VolumeRemove {
    const USAGE: &str = "[OPTIONS] VOLUME [VOLUME...]";
    const ABOUT: &str = "Remove one or more volumes";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        names::each(&self.names, Missing::Fails, async |name| {
            let call = client.delete(format!("/volumes/{name}"));
            Ok(call.query_flag("force", self.force).done().await?)
        })
        .await
    }
}

/// What becomes of a volume's contents in another one.
#[derive(Debug, clap::Args)]
pub(crate) struct Copied {
    /// Set metadata for the new volume instead of taking over that of the old one
    #[arg(long, value_name = "list", value_parser = parse::label)]
    label: Vec<String>,
    /// Do not pause the containers that write to the volume meanwhile
    #[arg(long)]
    no_pause: bool,
    #[arg(value_name = "VOLUME")]
    name: String,
    #[arg(value_name = "NEW")]
    new: String,
}

impl Copied {
    async fn run(self, session: &Session, how: &str) -> Result<(), Failure> {
        let labels: serde_json::Map<String, serde_json::Value> = self
            .label
            .iter()
            .filter_map(|label| parse::pair(label).ok())
            .map(|(key, value)| (key, json!(value)))
            .collect();
        let body = json!({
            "Name": self.new,
            "NoPause": self.no_pause,
            "Labels": if labels.is_empty() { json!(null) } else { json!(labels) },
        });
        let client = session.client().await?;
        let made: Value = client
            .post(format!("/hull/volumes/{}/{how}", self.name))
            .json(&body)?
            .receive()
            .await?;
        print_line(made.text(&["Name"]))
    }
}

/// `hull volume clone`.
#[derive(Debug, clap::Args)]
pub(crate) struct VolumeClone {
    #[command(flatten)]
    copied: Copied,
}

impl Command for VolumeClone {
    const USAGE: &str = "[OPTIONS] VOLUME NEW";
    const ABOUT: &str = "Create a volume with the contents of another one";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        self.copied.run(session, "clone").await
    }
}

/// `hull volume snapshot`.
#[derive(Debug, clap::Args)]
pub(crate) struct VolumeSnapshot {
    #[command(flatten)]
    copied: Copied,
}

impl Command for VolumeSnapshot {
    const USAGE: &str = "[OPTIONS] VOLUME NEW";
    const ABOUT: &str = "Keep the contents of a volume in a new one that can only be read";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        self.copied.run(session, "snapshot").await
    }
}

/// `hull volume rename`.
#[derive(Debug, clap::Args)]
pub(crate) struct VolumeRename {
    #[arg(value_name = "VOLUME")]
    name: String,
    #[arg(value_name = "NEW")]
    new: String,
}

impl Command for VolumeRename {
    const USAGE: &str = "VOLUME NEW";
    const ABOUT: &str = "Rename a volume that no container uses";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let call = client.post(format!("/hull/volumes/{}/rename", self.name));
        Ok(call.json(&json!({ "Name": self.new }))?.done().await?)
    }
}

/// `hull volume export`.
#[derive(Debug, clap::Args)]
pub(crate) struct VolumeExport {
    /// Write to a file, instead of STDOUT
    #[arg(long, short, value_name = "string")]
    output: Option<PathBuf>,
    #[arg(required = true, value_name = "VOLUME")]
    name: String,
}

impl Command for VolumeExport {
    const USAGE: &str = "[OPTIONS] VOLUME";
    const ABOUT: &str = "Export a volume's contents as a tar archive";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        archive::refuse_terminal(self.output.as_deref())?;
        archive::check_output(self.output.as_deref(), "export volume")?;
        let client = session.client().await?;
        let call = client.get(format!("/hull/volumes/{}/export", self.name));
        archive::save(call.send().await?, self.output.as_deref()).await
    }
}

/// `hull volume import`.
#[derive(Debug, clap::Args)]
pub(crate) struct VolumeImport {
    /// Set metadata for the volume
    #[arg(long, value_name = "list", value_parser = parse::label)]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(long, short, value_name = "map", value_parser = parse::label)]
    opt: Vec<String>,
    #[arg(required = true, value_name = "VOLUME")]
    name: String,
    #[arg(default_value = "-", value_name = "file|-")]
    source: String,
}

impl Command for VolumeImport {
    const USAGE: &str = "[OPTIONS] VOLUME [file|-]";
    const ABOUT: &str = "Create a volume with the contents of a tar archive";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let mut call = client.post(format!("/hull/volumes/{}/import", self.name));
        for (key, given) in [("label", &self.label), ("opt", &self.opt)] {
            for pair in given {
                call = call.query(key, pair);
            }
        }
        let call = match self.source.as_str() {
            "-" => call.stream(archive::input()?),
            path => call.stream(archive::file(Path::new(path))?),
        };
        let made: Value = call.receive().await?;
        print_line(made.text(&["Name"]))
    }
}
