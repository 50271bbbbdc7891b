//! What stands where: which sort of thing an option or a position takes, and which there are.

use super::super::failure::Failure;
use super::super::session::Session;
use super::super::value::Value;
use super::Candidate;
use crate::client::Contexts;

/// The script of each shell; `PROGRAM` is to be replaced.
pub(crate) const SCRIPTS: [(&str, &str); 3] = [
    ("bash", include_str!("complete.bash")),
    ("zsh", include_str!("complete.zsh")),
    ("fish", include_str!("complete.fish")),
];

/// What may stand in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Containers,
    Running,
    Stopped,
    Paused,
    Images,
    Networks,
    Volumes,
    Contexts,
    /// Containers, images, networks and volumes.
    Objects,
    Files,
    /// A path in a container or of the host.
    Copied,
    /// A volume or a path of the host.
    Mounted,
    Words(&'static [&'static str]),
    Nothing,
}

const SIGNALS: &[&str] = &[
    "SIGHUP", "SIGINT", "SIGKILL", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGSTOP", "SIGCONT",
];
const LOG_DRIVERS: &[&str] = &["journald", "json-file", "local", "none", "syslog"];
const PLATFORMS: &[&str] = &["linux/amd64", "linux/arm64"];
const RESTARTS: &[&str] = &["always", "no", "on-failure", "unless-stopped"];
const SHELLS: &[&str] = &["bash", "zsh", "fish"];

/// Whether what follows the first name is a program with options of its own.
pub(super) fn takes_a_program(path: &str) -> bool {
    let name = path.strip_prefix("container ").unwrap_or(path);
    matches!(name, "run" | "create" | "exec" | "top")
}

impl Sort {
    /// Of the value of an option.
    pub(super) fn of_option(long: &str) -> Sort {
        match long {
            "network" | "net" => Sort::Networks,
            "volumes-from" | "link" => Sort::Containers,
            "volume" => Sort::Mounted,
            "context" => Sort::Contexts,
            "signal" | "stop-signal" => Sort::Words(SIGNALS),
            "log-driver" => Sort::Words(LOG_DRIVERS),
            "platform" => Sort::Words(PLATFORMS),
            "restart" => Sort::Words(RESTARTS),
            "pull" => Sort::Words(&["always", "missing", "never"]),
            "isolation" => Sort::Words(&["default", "vm"]),
            "log-level" => Sort::Words(&["debug", "info", "warn", "error", "fatal"]),
            "format" => Sort::Words(&["json", "table"]),
            "type" => Sort::Words(&["container", "image", "network", "volume"]),
            "config" | "env-file" | "label-file" | "cidfile" | "output" | "input" | "file"
            | "iidfile" => Sort::Files,
            _ => Sort::Nothing,
        }
    }

    /// Of the word at a position, counted from 0.
    pub(super) fn of_position(path: &str, position: usize) -> Sort {
        let name = path
            .strip_prefix("container ")
            .or(path.strip_prefix("image "))
            .unwrap_or(path);
        match (name, position) {
            ("run" | "create", 0) => Sort::Images,
            ("attach" | "exec" | "port" | "top", 0) => Sort::Running,
            ("kill" | "pause" | "stats" | "stop", _) => Sort::Running,
            ("start", _) => Sort::Stopped,
            ("unpause", _) => Sort::Paused,
            ("inspect", _) if path == "image inspect" => Sort::Images,
            ("inspect", _) if path == "inspect" => Sort::Objects,
            ("commit" | "diff" | "export" | "logs" | "rename", 0) => Sort::Containers,
            ("rm" | "remove", _) if path.starts_with("image") => Sort::Images,
            ("inspect" | "restart" | "rm" | "update" | "wait", _) => Sort::Containers,
            ("commit", 1) | ("tag", _) => Sort::Images,
            ("history" | "push" | "pull" | "copy", _) => Sort::Images,
            ("rmi" | "save", _) => Sort::Images,
            ("cp", _) => Sort::Copied,
            ("network connect" | "network disconnect", 1) => Sort::Containers,
            ("network connect" | "network disconnect", 0)
            | ("network inspect" | "network rm", _) => Sort::Networks,
            ("volume inspect" | "volume rm", _)
            | ("volume export" | "volume clone" | "volume snapshot" | "volume rename", 0) => {
                Sort::Volumes
            }
            ("context inspect" | "context rm" | "context update" | "context use", _) => {
                Sort::Contexts
            }
            ("completion", 0) => Sort::Words(SHELLS),
            (
                "system df" | "system info" | "system prune" | "version" | "info" | "ps" | "ls",
                _,
            ) => Sort::Nothing,
            _ => Sort::Files,
        }
    }

    /// Which there are; of what cannot be asked there is nothing.
    pub(super) async fn candidates(self, session: &Session) -> Vec<Candidate> {
        let none = |_| Vec::new();
        let of_state = |states: &'static [&'static str]| async move {
            containers(session, states).await.unwrap_or_else(none)
        };
        match self {
            Sort::Containers => of_state(&[]).await,
            Sort::Running => of_state(&["running", "paused"]).await,
            Sort::Stopped => of_state(&["created", "exited"]).await,
            Sort::Paused => of_state(&["paused"]).await,
            Sort::Images => images(session).await.unwrap_or_else(none),
            Sort::Networks => networks(session).await.unwrap_or_else(none),
            Sort::Volumes | Sort::Mounted => volumes(session).await.unwrap_or_else(none),
            Sort::Contexts => contexts(session),
            Sort::Objects => {
                let mut all = of_state(&[]).await;
                all.extend(images(session).await.unwrap_or_else(none));
                all.extend(networks(session).await.unwrap_or_else(none));
                all.extend(volumes(session).await.unwrap_or_else(none));
                all
            }
            Sort::Copied => {
                let mut all = of_state(&[]).await;
                for candidate in &mut all {
                    candidate.word.push(':');
                }
                all
            }
            Sort::Words(words) => words.iter().map(|word| Candidate::new(*word, "")).collect(),
            Sort::Files | Sort::Nothing => Vec::new(),
        }
    }
}

/// Containers in one of these states; none given: all.
async fn containers(session: &Session, states: &[&str]) -> Result<Vec<Candidate>, Failure> {
    let client = session.client().await?;
    let call = client.get("/containers/json").query_flag("all", true);
    let all: Vec<Value> = call.receive().await?;
    let wanted = |one: &&Value| states.is_empty() || states.contains(&one.text(&["State"]));
    let named = all.iter().filter(wanted).flat_map(|one| {
        let about = format!("{}: {}", one.text(&["Image"]), one.text(&["Status"]));
        let names = one.items(&["Names"]).iter();
        names
            .map(|name| {
                name.as_str()
                    .unwrap_or_default()
                    .trim_start_matches('/')
                    .to_owned()
            })
            // What a link calls it.
            .filter(|name| !name.contains('/'))
            .map(move |name| Candidate::new(name, about.clone()))
            .collect::<Vec<_>>()
    });
    Ok(named.collect())
}

async fn images(session: &Session) -> Result<Vec<Candidate>, Failure> {
    let client = session.client().await?;
    let all: Vec<Value> = client.get("/images/json").receive().await?;
    let tags = all.iter().flat_map(|one| one.items(&["RepoTags"]));
    let tags = tags.filter_map(Value::as_str);
    let tags = tags.filter(|tag| !tag.contains("<none>"));
    let mut found = Vec::new();
    for tag in tags {
        found.push(Candidate::new(tag, ""));
        if let Some(short) = tag.strip_suffix(":latest") {
            found.push(Candidate::new(short, ""));
        }
    }
    Ok(found)
}

async fn networks(session: &Session) -> Result<Vec<Candidate>, Failure> {
    let client = session.client().await?;
    let all: Vec<Value> = client.get("/networks").receive().await?;
    let named = |one: &Value| Candidate::new(one.text(&["Name"]), one.text(&["Driver"]));
    Ok(all.iter().map(named).collect())
}

async fn volumes(session: &Session) -> Result<Vec<Candidate>, Failure> {
    let client = session.client().await?;
    let all: Value = client.get("/volumes").receive().await?;
    let named = |one: &Value| Candidate::new(one.text(&["Name"]), one.text(&["Driver"]));
    Ok(all.items(&["Volumes"]).iter().map(named).collect())
}

fn contexts(session: &Session) -> Vec<Candidate> {
    let all = Contexts::of(&session.config_dir()).list();
    let described = |one: crate::client::Context| Candidate::new(one.name, one.description);
    all.into_iter().map(described).collect()
}
