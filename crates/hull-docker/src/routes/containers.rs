//! Containers: list, create, inspect and the verbs that change them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http::StatusCode;
use hull_engine::api::{Change, Container, CreateRequest, RemoveOptions, WaitCondition};
use hull_engine::{EngineError, Images};
use hull_model::{SandboxId, signal};
use serde::Serialize;

use crate::body::{Body, empty, json, json_line, json_with, no_content, reply};
use crate::errors::ApiError;
use crate::filter::Filters;
use crate::request::{ApiMinor, Call};
use crate::router::Answer;
use crate::time;
use crate::wire::container::{
    CreateBody, Inspect, Sizes, Summary, WaitAnswer, WaitError, parse_name, shown_word,
};
use crate::wire::host_config::UpdateBody;

/// From here on aliases are those that were asked for; before, the container's short id and host
/// name were among them.
const MINOR_ALIASES_AS_GIVEN: ApiMinor = 45;

/// How long a container may take to end after SIGKILL before its killer is answered.
const KILL_WAIT: Duration = Duration::from_secs(10);

const FILTERS: [&str; 16] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "label!",
];
const STATES: [&str; 7] = [
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
];
const HEALTHS: [&str; 4] = ["starting", "healthy", "unhealthy", "none"];

fn health_word(container: &Container) -> &'static str {
    let health = container.health.as_ref();
    health.map_or("none", |health| health.status.word())
}

pub(super) async fn list(call: Call) -> Answer {
    let filters = Filters::parse(call.query.get("filters"), &FILTERS)?;
    let limit = call
        .query
        .number::<i64>("limit")?
        .and_then(|n| usize::try_from(n).ok());
    let limit = limit.filter(|&limit| limit > 0);
    // A filter by state says which states are meant; so does a count.
    let all = call.query.flag("all")
        || limit.is_some()
        || !filters.get("status").is_empty()
        || !filters.get("exited").is_empty();
    let wanted = Wanted::parse(&call, filters)?;
    let shown: Vec<_> = wanted
        .window(call.engine().containers().list())
        .into_iter()
        .filter(|container| all || container.state.is_live())
        .filter(|container| wanted.fits(container))
        .take(limit.unwrap_or(usize::MAX))
        .collect();
    let now_ns = time::now_ns();
    let mut names = ImageNames::new(call.engine().images());
    let mut rows = Vec::with_capacity(shown.len());
    let measured = sizes(&call, &shown).await;
    for (container, sizes) in shown.iter().zip(measured) {
        rows.push(Summary::show(container, names.of(container), now_ns, sizes));
    }
    json(&rows)
}

/// What containers take on disk, when the client asked: it is a walk through files.
async fn sizes(call: &Call, containers: &[Arc<Container>]) -> Vec<Sizes> {
    if !call.query.flag("size") {
        return vec![None; containers.len()];
    }
    let sizes = call.engine().containers().sizes(containers).await;
    sizes.into_iter().map(Some).collect()
}

/// Looks up what image names mean now, each once per request.
pub(super) struct ImageNames<'a> {
    images: Images<'a>,
    known: HashMap<String, Option<hull_model::Digest>>,
}

impl<'a> ImageNames<'a> {
    pub(super) fn new(images: Images<'a>) -> Self {
        Self {
            images,
            known: HashMap::new(),
        }
    }

    /// The name a container was made with, or its image's id when that name means another by now.
    pub(super) fn of(&mut self, container: &Container) -> String {
        let name = &container.spec.image_reference;
        if !self.known.contains_key(name) {
            let meant = self.images.resolve(name).ok().map(|image| image.id);
            self.known.insert(name.clone(), meant);
        }
        match self.known.get(name) {
            Some(Some(meant)) if *meant == container.spec.image => name.clone(),
            _ => container.spec.image.to_string(),
        }
    }
}

/// Filters of the list, with everything looked up that they name.
struct Wanted {
    filters: Filters,
    before: Option<SandboxId>,
    since: Option<SandboxId>,
    ancestors: Vec<hull_model::Digest>,
    exit_codes: Vec<i32>,
}

impl Wanted {
    fn parse(call: &Call, filters: Filters) -> Result<Self, ApiError> {
        let word = |name: &str, allowed: &[&str]| match filters
            .get(name)
            .iter()
            .find(|value| !allowed.contains(&value.as_str()))
        {
            None => Ok(()),
            Some(value) => Err(ApiError::invalid(format!(
                "invalid filter '{name}={value}': must be one of {}",
                allowed.join(", ")
            ))),
        };
        word("status", &STATES)?;
        word("health", &HEALTHS)?;
        let containers = call.engine().containers();
        let named = |name: &str| match filters.get(name).first().map(String::as_str) {
            Some(container) => containers.resolve(container).map(Some).map_err(|error| {
                let error = ApiError::from(error);
                // Docker's words of another place.
                let message = error
                    .message
                    .replace("No such container: ", "no such container ");
                ApiError { message, ..error }
            }),
            None => match call.query.get(name) {
                "" => Ok(None),
                container => Ok(Some(containers.resolve(container)?)),
            },
        };
        let (before, since) = (named("before")?, named("since")?);
        // An image that is not there has no containers.
        let images = filters.get("ancestor").iter();
        let ancestors = images
            .filter_map(|i| call.engine().images().resolve(i).ok())
            .map(|i| i.id)
            .collect();
        let code = |text: &String| {
            text.parse().map_err(|_| {
                ApiError::invalid(format!("strconv.Atoi: parsing {text:?}: invalid syntax"))
            })
        };
        filters.switch("is-task")?;
        for name in ["publish", "expose"] {
            filters
                .get(name)
                .iter()
                .try_for_each(|value| check_ports(name, value))?;
        }
        let exit_codes = filters
            .get("exited")
            .iter()
            .map(code)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            filters,
            before,
            since,
            ancestors,
            exit_codes,
        })
    }

    /// The part of the list, newest first, that lies behind `before` and in front of `since`.
    fn window(&self, list: Vec<std::sync::Arc<Container>>) -> Vec<std::sync::Arc<Container>> {
        let at = |id: SandboxId| list.iter().position(|container| container.id == id);
        let start = self.before.and_then(at).map_or(0, |at| at + 1);
        let end = self.since.and_then(at).unwrap_or(list.len());
        list.into_iter().take(end).skip(start).collect()
    }

    fn fits(&self, container: &Container) -> bool {
        let (filters, spec) = (&self.filters, &container.spec);
        let slashed = format!("/{}", spec.name);
        let network = crate::wire::host_config::network_word(&spec.host.network);
        (filters.fuzzy("name", &spec.name) || filters.fuzzy("name", &slashed))
            && filters.any("id", |id| container.id.to_string().starts_with(id))
            && filters.labels("label", &spec.config.labels)
            && filters.no_labels("label!", &spec.config.labels)
            && filters.exact("status", shown_word(container))
            && filters.exact("health", health_word(container))
            && (filters.get("exited").is_empty() || self.exited(container))
            && (filters.get("ancestor").is_empty() || self.ancestors.contains(&spec.image))
            && filters.any("network", |wanted| {
                wanted == network
                    || spec.endpoints.contains_key(wanted)
                    || container
                        .endpoints
                        .iter()
                        .any(|e| e.network_id.starts_with(wanted))
            })
            && filters.any("volume", |wanted| {
                container
                    .mounts
                    .iter()
                    .any(|m| m.name == wanted || m.destination == wanted)
            })
            && filters.any("publish", |port| {
                has_port(spec.host.port_bindings.keys(), port)
            })
            && filters.any("expose", |port| {
                has_port(spec.config.exposed_ports.iter(), port)
            })
            && filters
                .switch("is-task")
                .is_ok_and(|is_task| is_task != Some(true))
    }

    fn exited(&self, container: &Container) -> bool {
        let exit = hull_engine::api::exit_of(&container.state);
        exit.is_some_and(|exit| self.exit_codes.contains(&exit.code))
    }
}

/// Refuses what is no port and no range, in Docker's words.
fn check_ports(filter: &str, value: &str) -> Result<(), ApiError> {
    if value.contains(':') {
        return Err(ApiError::invalid(format!(
            "filter for '{filter}' should not contain ':': {value}"
        )));
    }
    let failed = |why: String| {
        ApiError::invalid(format!(
            "error while looking up for {filter} {value}: {why}"
        ))
    };
    let (range, _) = value.split_once('/').unwrap_or((value, ""));
    if range.is_empty() {
        return Err(failed("empty string specified for ports".to_owned()));
    }
    let mut ends = Vec::new();
    for end in range.splitn(2, '-') {
        let number = end.parse::<u16>().map_err(|error| {
            let why = match error.kind() {
                std::num::IntErrorKind::PosOverflow => "value out of range",
                _ => "invalid syntax",
            };
            failed(format!("strconv.ParseUint: parsing {end:?}: {why}"))
        });
        ends.push(number?);
    }
    if ends.is_sorted() {
        return Ok(());
    }
    Err(failed(format!("invalid range specified for port: {range}")))
}

/// Whether a list of `80/tcp` has a wanted `80`, `80/tcp` or `8000-8080`.
fn has_port<'a>(ports: impl Iterator<Item = &'a String>, wanted: &str) -> bool {
    let (range, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (low, high) = range.split_once('-').unwrap_or((range, range));
    let (Ok(low), Ok(high)) = (low.parse::<u16>(), high.parse::<u16>()) else {
        return false;
    };
    ports.into_iter().any(|port| {
        let (number, has) = port.split_once('/').unwrap_or((port, "tcp"));
        has == protocol
            && number
                .parse::<u16>()
                .is_ok_and(|n| (low..=high).contains(&n))
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CreateAnswer {
    id: String,
    warnings: Vec<String>,
}

pub(super) async fn create(mut call: Call) -> Answer {
    let name = match call.query.get("name") {
        "" => None,
        name => Some(parse_name(name)?),
    };
    let platform = Some(call.query.get("platform").to_owned()).filter(|p| !p.is_empty());
    let body: CreateBody = call.json().await?;
    let warning = body.warning(call.minor);
    let request = CreateRequest {
        platform,
        ..body.into_request(name, call.minor)?
    };
    let created = call.engine().containers().create(request).await?;
    let answer = CreateAnswer {
        id: created.id.to_string(),
        warnings: warning.into_iter().chain(created.warnings).collect(),
    };
    json_with(StatusCode::CREATED, &answer)
}

pub(super) async fn inspect(call: Call) -> Answer {
    let id = call.container()?;
    let container = call.engine().containers().inspect(id)?;
    let sizes = sizes(&call, std::slice::from_ref(&container)).await;
    let egress = call.engine().containers().egress(&container).await;
    let sizes = sizes.first().copied().flatten();
    let memory = call.engine().containers().host_memory(&container).await;
    let shown = Inspect::show(&container, sizes, egress).with_host_memory(memory);
    // From its first start on.
    if call.minor < MINOR_ALIASES_AS_GIVEN && container.started_ns != 0 {
        return json(&shown.with_own_aliases(&container));
    }
    json(&shown)
}

/// 204 when something changed, 304 when it was so before.
fn changed(change: Change) -> Answer {
    match change {
        Change::Made => Ok(no_content()),
        Change::AlreadySo => Ok(empty(StatusCode::NOT_MODIFIED)),
    }
}

pub(super) async fn start(call: Call) -> Answer {
    if !call.query.get("checkpoint").is_empty() {
        return Err(ApiError::not_there("starting from a checkpoint"));
    }
    let id = call.container()?;
    changed(call.engine().containers().start(id).await?)
}

fn parse_signal(text: &str) -> Result<i32, ApiError> {
    signal::parse(text).ok_or_else(|| {
        let number = text.parse::<i64>().ok().filter(|&number| number > 0);
        ApiError::invalid(match number {
            Some(number) => format!("the linux daemon does not support signal {number}"),
            None => format!("invalid signal: {text}"),
        })
    })
}

/// The signal and the seconds that stop and restart take.
fn stop_options(call: &Call) -> Result<(Option<i64>, Option<i32>), ApiError> {
    let stop_signal = match call.query.get("signal") {
        "" => None,
        text => Some(parse_signal(text)?),
    };
    Ok((call.query.number("t")?, stop_signal))
}

pub(super) async fn stop(call: Call) -> Answer {
    let (timeout_s, stop_signal) = stop_options(&call)?;
    let id = call.container()?;
    changed(
        call.engine()
            .containers()
            .stop(id, timeout_s, stop_signal)
            .await?,
    )
}

pub(super) async fn restart(call: Call) -> Answer {
    let (timeout_s, stop_signal) = stop_options(&call)?;
    let id = call.container()?;
    call.engine()
        .containers()
        .restart(id, timeout_s, stop_signal)
        .await?;
    Ok(no_content())
}

pub(super) async fn kill(call: Call) -> Answer {
    let signal = match call.query.get("signal") {
        "" => signal::KILL,
        text => parse_signal(text)?,
    };
    let id = call.container()?;
    let containers = call.engine().containers();
    // Registered before, so that the end is not missed.
    let ended = containers.wait(id, WaitCondition::NextExit).await?;
    match containers.kill(id, signal).await {
        // Who kills and then removes relies on it.
        Ok(()) if signal == signal::KILL => {
            drop(tokio::time::timeout(KILL_WAIT, ended).await);
            Ok(no_content())
        }
        Ok(()) => Ok(no_content()),
        Err(error @ EngineError::NotRunning(_)) => {
            let cause = ApiError::from(error);
            let message = format!("cannot kill container: {}: {}", call.name(), cause.message);
            Err(ApiError { message, ..cause })
        }
        Err(error) => Err(error.into()),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct UpdateAnswer {
    warnings: Option<Vec<String>>,
}

pub(super) async fn update(mut call: Call) -> Answer {
    let body: UpdateBody = call.json().await?;
    let id = call.container()?;
    let update = body.into_request()?;
    let warnings = call.engine().containers().update(id, update).await?;
    let warnings = Some(warnings).filter(|warnings| !warnings.is_empty());
    json(&UpdateAnswer { warnings })
}

pub(super) async fn pause(call: Call) -> Answer {
    let id = call.container()?;
    match call.engine().containers().pause(id).await {
        Ok(()) => Ok(no_content()),
        Err(EngineError::Paused(id)) => Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("Container {id} is already paused"),
        )),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn unpause(call: Call) -> Answer {
    let id = call.container()?;
    call.engine().containers().resume(id).await?;
    Ok(no_content())
}

pub(super) async fn rename(call: Call) -> Answer {
    let text = call.query.get("name");
    if text.is_empty() {
        return Err(ApiError::invalid("Neither old nor new names may be empty"));
    }
    let id = call.container()?;
    let name = parse_name(text).map_err(|error| {
        let name = text.trim_start_matches('/');
        let message = error
            .message
            .replace(&format!("({text})"), &format!("(/{name})"));
        let message = format!("Error when allocating new name: {message}");
        ApiError { message, ..error }
    })?;
    match call.engine().containers().rename(id, &name).await {
        Ok(()) => Ok(no_content()),
        Err(error @ EngineError::NameTaken { .. }) => {
            let cause = ApiError::from(error);
            let message = format!("Error when allocating new name: {}", cause.message);
            Err(ApiError { message, ..cause })
        }
        Err(error) => Err(error.into()),
    }
}

/// Answers with its head at once and with its body at the end: `docker run` starts the container
/// only after it has seen the head.
pub(super) async fn wait(call: Call) -> Answer {
    let condition = match call.query.get("condition") {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: \"{other}\""))),
    };
    let id = call.container()?;
    let waited = call.engine().containers().wait(id, condition).await?;
    let body = stream::once(async move {
        let waited = waited.await;
        let error = Some(waited.error).filter(|e| !e.is_empty());
        let error = error.map(|message| WaitError { message });
        json_line(&WaitAnswer {
            error,
            status_code: waited.code,
        })
        .map_err(|error| std::io::Error::other(error.message))
    });
    Ok(reply(
        StatusCode::OK,
        "application/json",
        Body::streamed(body),
    ))
}

pub(super) async fn remove(call: Call) -> Answer {
    if call.query.flag("link") {
        return remove_link(&call).await;
    }
    let options = RemoveOptions {
        force: call.query.flag("force"),
        volumes: call.query.flag("v"),
    };
    let id = call.container()?;
    match call.engine().containers().remove(id, options).await {
        Ok(()) => Ok(no_content()),
        Err(EngineError::StillLive { id, state }) => Err(still_live(&call, id, state)),
        Err(error) => Err(error.into()),
    }
}

/// `/parent/alias`, a link of the old kind.
async fn remove_link(call: &Call) -> Answer {
    let name = call.name().trim_matches('/');
    let containers = call.engine().containers();
    let Some((parent, alias)) = name.split_once('/') else {
        containers.resolve(name)?;
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            "Conflict, cannot remove the default link name of the container",
        ));
    };
    containers
        .unlink(containers.resolve(parent)?, alias)
        .await?;
    Ok(no_content())
}

fn still_live(call: &Call, id: SandboxId, state: &str) -> ApiError {
    let container = call.engine().containers().inspect(id);
    let name = container.map_or_else(|_| id.to_string(), |c| format!("/{}", c.spec.name));
    let reason = match state {
        "paused" => "container is paused and must be unpaused first".to_owned(),
        state => {
            format!("container is {state}: stop the container before removing or force remove")
        }
    };
    ApiError::new(
        StatusCode::CONFLICT,
        format!("cannot remove container \"{name}\": {reason}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_fit_numbers_protocols_and_ranges() {
        let ports = ["80/tcp".to_owned(), "53/udp".to_owned()];
        for (wanted, expected) in [
            ("80", true),
            ("80/tcp", true),
            ("80/udp", false),
            ("53/udp", true),
            ("70-90", true),
            ("1-2", false),
            ("x", false),
        ] {
            assert_eq!(has_port(ports.iter(), wanted), expected, "{wanted}");
        }
    }
}
