//! `hull inspect`, and `inspect` of containers, images, networks and volumes.

use super::Command;
use super::failure::{EXIT_TEMPLATE, Failure};
use super::load::platform_query;
use super::session::{Session, print, print_line};
use super::template::Template;
use super::value::Value;
use crate::client::{Client, ClientError};

/// Sorts of things in the order in which a plain name is looked for; the path that inspects one.
const KINDS: [(&str, &str); 10] = [
    ("container", "/containers/{}/json"),
    ("image", "/images/{}/json"),
    ("network", "/networks/{}"),
    ("volume", "/volumes/{}"),
    ("service", "/services/{}"),
    ("task", "/tasks/{}"),
    ("node", "/nodes/{}"),
    ("plugin", "/plugins/{}/json"),
    ("secret", "/secrets/{}"),
    ("config", "/configs/{}"),
];

/// `hull inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct Inspect {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(long, short, value_name = "string")]
    format: Option<String>,
    /// Display total file sizes if the type is container
    #[arg(long, short)]
    size: bool,
    /// Only inspect objects of the given type
    #[arg(long = "type", value_name = "string")]
    kind: Option<String>,
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

impl Command for Inspect {
    const USAGE: &str = "[OPTIONS] NAME|ID [NAME|ID...]";
    const ABOUT: &str = "Return low-level information on Docker objects";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let kinds: Vec<_> = match self.kind.as_deref() {
            None => KINDS.to_vec(),
            Some(kind) => KINDS
                .iter()
                .filter(|(known, _)| *known == kind)
                .copied()
                .collect(),
        };
        if kinds.is_empty() {
            let kind = self.kind.unwrap_or_default();
            let problem = match kind.as_str() {
                "" => "type is empty".to_owned(),
                kind => format!("unknown type: {kind:?}"),
            };
            let text = format!(
                "{problem}: must be one of \"config\", \"container\", \"image\", \"network\", \
                 \"node\", \"plugin\", \"secret\", \"service\", \"task\", \"volume\""
            );
            return Err(Failure::new(text));
        }
        let client = session.client().await?;
        let inspected = async |name: &str| {
            let typed = self.kind.is_some();
            find(client, &kinds, name, self.size, typed).await
        };
        show(&self.names, self.format.as_deref(), inspected).await
    }
}

/// `hull container inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct ContainerInspect {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(long, short, value_name = "string")]
    format: Option<String>,
    /// Display total file sizes
    #[arg(long, short)]
    size: bool,
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

impl Command for ContainerInspect {
    const USAGE: &str = "[OPTIONS] CONTAINER [CONTAINER...]";
    const ABOUT: &str = "Display detailed information on one or more containers";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let inspected = async |name: &str| find(client, &KINDS[..1], name, self.size, true).await;
        show(&self.names, self.format.as_deref(), inspected).await
    }
}

/// `hull image inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageInspect {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(long, short, value_name = "string")]
    format: Option<String>,
    /// Inspect a specific platform of the multi-platform image. Formatted as "os[/arch[/variant]]"
    #[arg(long, value_name = "string")]
    platform: Option<String>,
    #[arg(required = true, value_name = "IMAGE")]
    names: Vec<String>,
}

impl Command for ImageInspect {
    const USAGE: &str = "[OPTIONS] IMAGE [IMAGE...]";
    const ABOUT: &str = "Display detailed information on one or more images";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let platform = platform_query(self.platform.as_deref());
        let inspected = async |name: &str| {
            let call = client.get(KINDS[1].1.replace("{}", name));
            let call = call.query_some("platform", platform.clone());
            Ok(call.receive::<Value>().await?)
        };
        show(&self.names, self.format.as_deref(), inspected).await
    }
}

/// `hull network inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct NetworkInspect {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(long, short, value_name = "string")]
    format: Option<String>,
    /// Verbose output for diagnostics
    #[arg(long, short)]
    verbose: bool,
    #[arg(required = true, value_name = "NETWORK")]
    names: Vec<String>,
}

impl Command for NetworkInspect {
    const USAGE: &str = "[OPTIONS] NETWORK [NETWORK...]";
    const ABOUT: &str = "Display detailed information on one or more networks";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let inspected = async |name: &str| {
            let call = client.get(KINDS[2].1.replace("{}", name));
            let call = call.query_flag("verbose", self.verbose);
            Ok(call.receive::<Value>().await?)
        };
        show(&self.names, self.format.as_deref(), inspected).await
    }
}

/// `hull volume inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct VolumeInspect {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(long, short, value_name = "string")]
    format: Option<String>,
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
}

impl Command for VolumeInspect {
    const USAGE: &str = "[OPTIONS] VOLUME [VOLUME...]";
    const ABOUT: &str = "Display detailed information on one or more volumes";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let client = session.client().await?;
        let inspected = async |name: &str| find(client, &KINDS[3..4], name, false, true).await;
        show(&self.names, self.format.as_deref(), inspected).await
    }
}

/// Looks for a name among things of these kinds.
async fn find(
    client: &Client,
    kinds: &[(&str, &str)],
    name: &str,
    size: bool,
    typed: bool,
) -> Result<Value, Failure> {
    for (kind, path) in kinds {
        let call = client.get(path.replace("{}", name));
        let call = call.query_flag("size", size && *kind == "container");
        match call.receive().await {
            Ok(value) => return Ok(value),
            Err(error) if typed => return Err(error.into()),
            Err(error) if says_no_such_thing(&error, kind) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(format!("Error: No such object: {name}")))
}

/// A cluster that is off, or a sort of thing that this engine does not have, has nothing either.
fn says_no_such_thing(error: &ClientError, kind: &str) -> bool {
    let optional = !matches!(kind, "container" | "image" | "network" | "volume");
    error.is_not_found() || (optional && matches!(error, ClientError::Refused { .. }))
}

/// Prints what was found as the user wants it; what was not found afterwards.
pub(super) async fn show(
    names: &[String],
    format: Option<&str>,
    inspected: impl AsyncFn(&str) -> Result<Value, Failure>,
) -> Result<(), Failure> {
    let template = match format {
        None | Some("" | "json") => None,
        Some(text) => Some(Template::parse(text).map_err(|error| {
            Failure::new(format!("template parsing error: {error}")).with_code(EXIT_TEMPLATE)
        })?),
    };
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in names {
        match inspected(name).await {
            Ok(value) => found.push(value),
            Err(failure) => failures.push(failure),
        }
    }
    match (&template, format) {
        (Some(template), _) => {
            if found.is_empty() {
                print_line("")?;
            }
            for value in &found {
                match template.execute(value) {
                    Ok(text) => print_line(&text)?,
                    Err(error) => {
                        print_line("")?;
                        failures.push(Failure::new(format!("template parsing error: {error}")));
                        break;
                    }
                }
            }
        }
        (None, Some("json")) => print_line(&Value::List(found).to_json())?,
        (None, _) => print(&(Value::List(found).to_pretty_json() + "\n"))?,
    }
    Failure::join(failures)
}
