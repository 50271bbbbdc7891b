//! `hull context`: engines with names. The files are docker's, so both see the same contexts.

use super::Command;
use super::failure::Failure;
use super::format::{self, Columns, Style};
use super::session::{Session, print, print_line, warn_line};
use super::value::Value;
use crate::client::{Context, Contexts, DEFAULT_CONTEXT, Endpoint, not_found};

const COLUMNS: Columns = Columns {
    headers: &[
        ("Name", "NAME"),
        ("Description", "DESCRIPTION"),
        ("DockerEndpoint", "DOCKER ENDPOINT"),
        ("Error", "ERROR"),
    ],
    table: r"{{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}",
    quiet: "{{.Name}}",
};

/// What docker says of the context that is no file.
const DEFAULT_DESCRIPTION: &str = "Current DOCKER_HOST based configuration";

/// Letters of a context's name, in docker's words.
const NAME_PATTERN: &str = "^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$";

fn contexts(session: &Session) -> Contexts {
    Contexts::of(&session.config_dir())
}

/// The variable that names an engine and so hides the chosen context.
fn overriding() -> Option<&'static str> {
    ["HULL_HOST", "DOCKER_HOST"]
        .into_iter()
        .find(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
        .map(|_| "DOCKER_HOST")
}

fn warn_overridden(subject: &str) {
    if let Some(variable) = overriding() {
        warn_line(&format!(
            "Warning: {variable} environment variable overrides the active context. To use \
             {subject}, either set the global --context flag, or unset {variable} environment \
             variable."
        ));
    }
}

/// Where a context's file is missing.
fn missing(contexts: &Contexts, name: &str, cause: &std::io::Error) -> Failure {
    let cause = not_found(&contexts.meta_path(name), cause);
    Failure::new(format!("context {name:?}: context not found: {cause}"))
}

fn check_name(name: &str) -> Result<(), Failure> {
    if name == DEFAULT_CONTEXT {
        return Err(Failure::new("\"default\" is a reserved context name"));
    }
    let mut letters = name.chars();
    let first = letters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    if first && name.len() > 1 && letters.all(rest) {
        return Ok(());
    }
    Err(Failure::new(format!(
        "context name {name:?} is invalid, names are validated against regexp {NAME_PATTERN:?}"
    )))
}

/// Reads `host=…,skip-tls-verify=…` into a context.
fn set_endpoint(context: &mut Context, text: &str) -> Result<(), Failure> {
    for pair in text.split(',') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name.trim() {
            "host" => {
                if !value.is_empty() {
                    Endpoint::parse(value)?;
                }
                value.clone_into(&mut context.host);
            }
            "skip-tls-verify" => context.skip_tls_verify = matches!(value, "1" | "t" | "true"),
            name @ ("ca" | "cert" | "key") => {
                return Err(Failure::new(format!(
                    "--docker {name}: keys are not stored by hull yet; make this context with \
                     the docker CLI"
                )));
            }
            name => {
                return Err(Failure::new(format!("unrecognized config key: {name}")));
            }
        }
    }
    Ok(())
}

/// `hull context ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct ContextList {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Only show context names
    #[arg(long, short)]
    quiet: bool,
}

impl Command for ContextList {
    const USAGE: &str = "[OPTIONS]";
    const ABOUT: &str = "List contexts";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let contexts = contexts(session);
        let current = current(session);
        let engine = Endpoint::choose(None, Some(DEFAULT_CONTEXT), &session.config_dir())?;
        let engine = match overriding() {
            Some(_) => Endpoint::choose(None, None, &session.config_dir())?,
            None => engine,
        };
        let default = Context {
            name: DEFAULT_CONTEXT.to_owned(),
            description: DEFAULT_DESCRIPTION.to_owned(),
            host: engine.to_string(),
            skip_tls_verify: false,
        };
        let mut all = vec![default];
        all.extend(contexts.list());
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let text = |text: &str| Value::String(text.to_owned());
        let row = |context: &Context| {
            let members = [
                ("Current", Value::Bool(context.name == current)),
                ("Description", text(&context.description)),
                ("DockerEndpoint", text(&context.host)),
                ("Error", text("")),
                ("Name", text(&context.name)),
            ];
            Value::Object(
                members
                    .map(|(name, value)| (name.to_owned(), value))
                    .to_vec(),
            )
        };
        let rows: Vec<Value> = all.iter().map(row).collect();
        let style = Style {
            format: self.format.as_deref(),
            quiet: self.quiet,
        };
        print(&format::render(&COLUMNS, style, &rows)?)?;
        if !self.quiet {
            warn_overridden("a context");
        }
        Ok(())
    }
}

/// The context that commands use now.
fn current(session: &Session) -> String {
    let named = session.context().map(str::to_owned);
    let chosen = || match overriding() {
        Some(_) => None,
        None => std::env::var("DOCKER_CONTEXT")
            .ok()
            .filter(|name| !name.is_empty())
            .or_else(|| contexts(session).current()),
    };
    named
        .or_else(chosen)
        .unwrap_or_else(|| DEFAULT_CONTEXT.to_owned())
}

/// `hull context show`.
#[derive(Debug, clap::Args)]
pub(crate) struct ContextShow {}

impl Command for ContextShow {
    const USAGE: &str = "";
    const ABOUT: &str = "Print the name of the current context";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        print_line(&current(session))
    }
}

/// `hull context create`.
#[derive(Debug, clap::Args)]
pub(crate) struct ContextCreate {
    /// Description of the context
    #[arg(long, value_name = "string")]
    description: Option<String>,
    /// Set the docker endpoint
    #[arg(long, value_name = "stringToString")]
    docker: Option<String>,
    /// Create context from a named context
    #[arg(long, value_name = "string")]
    from: Option<String>,
    #[arg(required = true, value_name = "CONTEXT")]
    name: String,
}

impl Command for ContextCreate {
    const USAGE: &str = "[OPTIONS] CONTEXT";
    const ABOUT: &str = "Create a context";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        check_name(&self.name)?;
        let contexts = contexts(session);
        if contexts.find(&self.name).is_ok() {
            let text = format!("context {:?} already exists", self.name);
            return Err(Failure::new(text));
        }
        let mut context = Context {
            name: self.name.clone(),
            description: String::new(),
            host: String::new(),
            skip_tls_verify: false,
        };
        match (&self.docker, &self.from) {
            (Some(docker), None) => set_endpoint(&mut context, docker)?,
            (None, from) => {
                let from = from.clone().unwrap_or_else(|| current(session));
                context.host = if from == DEFAULT_CONTEXT {
                    Endpoint::choose(None, None, &session.config_dir())?.to_string()
                } else {
                    let found = contexts.find(&from);
                    found
                        .map_err(|cause| missing(&contexts, &from, &cause))?
                        .host
                };
            }
            (Some(_), Some(_)) => {
                let text = "cannot use --docker flag when --from is set";
                return Err(Failure::new(text));
            }
        }
        context.description = self.description.unwrap_or_default();
        contexts.write(&context)?;
        print_line(&self.name)?;
        warn_line(&format!("Successfully created context {:?}", self.name));
        Ok(())
    }
}

/// `hull context update`.
#[derive(Debug, clap::Args)]
pub(crate) struct ContextUpdate {
    /// Description of the context
    #[arg(long, value_name = "string")]
    description: Option<String>,
    /// Set the docker endpoint
    #[arg(long, value_name = "stringToString")]
    docker: Option<String>,
    #[arg(required = true, value_name = "CONTEXT")]
    name: String,
}

impl Command for ContextUpdate {
    const USAGE: &str = "[OPTIONS] CONTEXT";
    const ABOUT: &str = "Update a context";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let contexts = contexts(session);
        let found = contexts.find(&self.name);
        let mut context = found.map_err(|cause| missing(&contexts, &self.name, &cause))?;
        if let Some(description) = self.description {
            context.description = description;
        }
        if let Some(docker) = &self.docker {
            set_endpoint(&mut context, docker)?;
        }
        contexts.write(&context)?;
        print_line(&self.name)?;
        warn_line(&format!("Successfully updated context {:?}", self.name));
        Ok(())
    }
}

/// `hull context use`.
#[derive(Debug, clap::Args)]
pub(crate) struct ContextUse {
    #[arg(required = true, value_name = "CONTEXT")]
    name: String,
}

impl Command for ContextUse {
    const USAGE: &str = "CONTEXT";
    const ABOUT: &str = "Set the current docker context";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let contexts = contexts(session);
        if self.name != DEFAULT_CONTEXT {
            let found = contexts.find(&self.name);
            found.map_err(|cause| missing(&contexts, &self.name, &cause))?;
        }
        contexts.choose(&self.name)?;
        print_line(&self.name)?;
        warn_line(&format!("Current context is now {:?}", self.name));
        if self.name != DEFAULT_CONTEXT {
            warn_overridden(&format!("{:?}", self.name));
        }
        Ok(())
    }
}

/// `hull context rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct ContextRemove {
    /// Force the removal of a context in use
    #[arg(long, short)]
    force: bool,
    #[arg(required = true, value_name = "CONTEXT")]
    names: Vec<String>,
}

impl Command for ContextRemove {
    const USAGE: &str = "CONTEXT [CONTEXT...]";
    const ABOUT: &str = "Remove one or more contexts";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let contexts = contexts(session);
        let chosen = contexts.current();
        let current = current(session);
        let mut failures = Vec::new();
        for name in &self.names {
            let problem = if name == DEFAULT_CONTEXT {
                Some("context \"default\" cannot be removed".to_owned())
            } else if contexts.find(name).is_err() && !self.force {
                Some(format!("context {name:?} does not exist"))
            } else if *name == current && !self.force {
                Some(format!(
                    "context {name:?} is in use, set -f flag to force remove"
                ))
            } else {
                None
            };
            if let Some(problem) = problem {
                failures.push(Failure::new(problem));
                continue;
            }
            if chosen.as_deref() == Some(name) {
                contexts.choose(DEFAULT_CONTEXT)?;
            }
            contexts.remove(name)?;
            print_line(name)?;
        }
        Failure::join(failures)
    }
}

/// `hull context inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct ContextInspect {
    /// Format output using a custom template: 'json' or a Go template
    #[arg(long, short, value_name = "string")]
    format: Option<String>,
    #[arg(value_name = "CONTEXT")]
    names: Vec<String>,
}

impl Command for ContextInspect {
    const USAGE: &str = "[OPTIONS] [CONTEXT] [CONTEXT...]";
    const ABOUT: &str = "Display detailed information on one or more contexts";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let mut names = self.names.clone();
        if names.is_empty() {
            names.push(current(session));
        }
        let inspected = async |name: &str| describe(session, name);
        super::inspect::show(&names, self.format.as_deref(), inspected).await
    }
}

fn describe(session: &Session, name: &str) -> Result<Value, Failure> {
    let contexts = contexts(session);
    let is_default = name == DEFAULT_CONTEXT;
    let context = if is_default {
        Context {
            name: name.to_owned(),
            description: String::new(),
            host: Endpoint::choose(None, None, &session.config_dir())?.to_string(),
            skip_tls_verify: false,
        }
    } else {
        let found = contexts.find(name);
        found.map_err(|cause| missing(&contexts, name, &cause))?
    };
    let place = |path: std::path::PathBuf| match is_default {
        true => "<IN MEMORY>".to_owned(),
        false => path.display().to_string(),
    };
    let mut metadata = serde_json::Map::new();
    if !context.description.is_empty() {
        metadata.insert("Description".to_owned(), context.description.into());
    }
    let value = serde_json::json!({
        "Name": context.name,
        "Metadata": metadata,
        "Endpoints": {"docker": {"Host": context.host, "SkipTLSVerify": context.skip_tls_verify}},
        "TLSMaterial": {},
        "Storage": {
            "MetadataPath": place(contexts.meta_folder(name)),
            "TLSPath": place(contexts.tls_folder(name)),
        },
    });
    serde_json::from_value(value).map_err(|error| Failure::new(error.to_string()))
}
