//! `hull version`.

use super::Command;
use super::failure::{EXIT_TEMPLATE, Failure};
use super::format::{self, Width};
use super::session::{Session, print, print_line};
use super::template::Template;
use super::value::Value;
use crate::client::API_VERSION_MAX;

/// Columns of the table.
const WIDTH: Width = Width {
    least: 20,
    padding: 1,
};

/// What `hull --version` prints.
pub(crate) fn one_line() -> String {
    let commit = option_env!("HULL_COMMIT").unwrap_or("unknown");
    format!("Hull version {}, build {commit}", env!("CARGO_PKG_VERSION"))
}

/// `hull version`.
#[derive(Debug, clap::Args)]
pub(crate) struct Version {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(long, short, value_name = "string")]
    format: Option<String>,
}

impl Command for Version {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "Show the Docker version information";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let template = match self.format.as_deref() {
            None | Some("" | "json") => None,
            Some(text) => Some(Template::parse(text).map_err(|error| {
                Failure::new(format!("template parsing error: {error}")).with_code(EXIT_TEMPLATE)
            })?),
        };
        // A server that is away is told after what is known without it.
        let (server, failure, api) = match ask(session).await {
            Ok((server, api)) => (Some(server), None, api),
            Err(failure) => (None, Some(failure), API_VERSION_MAX.to_string()),
        };
        let fields = self
            .format
            .as_deref()
            .is_some_and(|text| !text.contains("json"));
        let client = client(&api, fields);
        match (template, self.format.as_deref()) {
            (None, None | Some("")) => print(&table(&client, server.as_ref()))?,
            (template, _) => {
                let both = Value::Object(vec![
                    ("Client".to_owned(), client),
                    ("Server".to_owned(), server.unwrap_or(Value::Null)),
                ]);
                match template {
                    Some(template) => {
                        let text = template.execute(&both).map_err(|error| {
                            Failure::new(format!("failed to execute template: {error}"))
                        })?;
                        print_line(&text)?;
                    }
                    None => print_line(&both.to_json())?,
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

async fn ask(session: &Session) -> Result<(Value, String), Failure> {
    let client = session.client().await?;
    let server = client.get("/version").receive().await?;
    Ok((server, client.version().await?.to_string()))
}

/// What is known of this program; `fields`: by the names of fields, as templates see it, instead
/// of those in JSON.
fn client(api: &str, fields: bool) -> Value {
    let text = |text: &str| Value::String(text.to_owned());
    let members = [
        ("Version", text(env!("CARGO_PKG_VERSION"))),
        (if fields { "APIVersion" } else { "ApiVersion" }, text(api)),
        ("DefaultAPIVersion", text(&API_VERSION_MAX.to_string())),
        ("GitCommit", text(option_env!("HULL_COMMIT").unwrap_or(""))),
        ("GoVersion", text("")),
        ("Os", text("linux")),
        ("Arch", text(architecture())),
        ("BuildTime", text("")),
        ("Context", text("default")),
    ];
    Value::Object(
        members
            .map(|(name, value)| (name.to_owned(), value))
            .to_vec(),
    )
}

/// This machine's architecture in the words of Go.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn table(client: &Value, server: Option<&Value>) -> String {
    let mut lines = vec![
        "Client:".to_owned(),
        format!(" Version:\t{}", client.text(&["Version"])),
        format!(" API version:\t{}", client.text(&["ApiVersion"])),
        format!(" OS/Arch:\tlinux/{}", architecture()),
        format!(" Context:\t{}", client.text(&["Context"])),
    ];
    let Some(server) = server else {
        return format::align(&lines, WIDTH);
    };
    lines.push(String::new());
    match server.text(&["Platform", "Name"]) {
        "" => lines.push("Server:".to_owned()),
        name => lines.push(format!("Server: {name}")),
    }
    for component in server.items(&["Components"]) {
        lines.push(format!(" {}:", component.text(&["Name"])));
        lines.push(format!("  Version:\t{}", component.text(&["Version"])));
        let details = |name: &str| component.text(&["Details", name]);
        if component.text(&["Name"]) == "Engine" {
            let minimum = details("MinAPIVersion");
            let api = details("ApiVersion");
            lines.push(format!("  API version:\t{api} (minimum version {minimum})"));
            // An engine that is not written in Go has no version of it to tell.
            let texts = [("Go version", "GoVersion"), ("Git commit", "GitCommit")];
            for (title, name) in texts
                .into_iter()
                .filter(|(_, name)| !details(name).is_empty())
            {
                lines.push(format!("  {title}:\t{}", details(name)));
            }
            if !details("BuildTime").is_empty() {
                lines.push(format!("  Built:\t{}", build_time(details("BuildTime"))));
            }
            lines.push(format!("  OS/Arch:\t{}/{}", details("Os"), details("Arch")));
            lines.push(format!("  Experimental:\t{}", details("Experimental")));
            continue;
        }
        for (name, value) in component.members(&["Details"]) {
            lines.push(format!("  {name}:\t{}", value.as_str().unwrap_or_default()));
        }
    }
    format::align(&lines, WIDTH)
}

/// A time as Go's `time.ANSIC` writes it.
fn build_time(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%a %b %e %H:%M:%S %Y").to_string(),
        Err(_) => text.to_owned(),
    }
}
