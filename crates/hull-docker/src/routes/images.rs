//! Images: list, inspect, tag, remove, and the streams that bring them in and out.

use std::io::{self, Read};
use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use hull_engine::EngineError;
use hull_engine::api::{Image, ImageRemoval};
use hull_engine::api::{ImportRequest, Progress};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::body::{Body, Reply, empty, json, json_line, reply};
use crate::download::{download, failure_of};
use crate::errors::ApiError;
use crate::filter::Filters;
use crate::query::Query;
use crate::request::{ApiMinor, Call, drain};
use crate::router::Answer;
use crate::time;
use crate::wire::image::{Asked, Inspect, Summary, history as rows_of, labels};

const FILTERS: [&str; 7] = [
    "dangling",
    "label",
    "label!",
    "before",
    "since",
    "reference",
    "until",
];
/// First version without `ContainerConfig`.
const MINOR_NO_CONTAINER_CONFIG: ApiMinor = 45;
/// First version without `VirtualSize`.
const MINOR_NO_VIRTUAL_SIZE: ApiMinor = 44;
/// First version that tells of an image's manifests.
const MINOR_MANIFESTS: ApiMinor = 47;
/// First version that tells of the manifest's descriptor.
const MINOR_DESCRIPTOR: ApiMinor = 48;
/// Lines of progress that wait for the client to read them.
const PROGRESS_LINES_MAX: usize = 64;

pub(super) async fn list(call: Call) -> Answer {
    let filters = Filters::parse(call.query.get("filters"), &FILTERS)?;
    let images = call.engine().images();
    let dangling = filters.switch("dangling")?;
    let until = filters.until_ns(time::now_ns())?;
    let created = |name: &str| match filters.get(name) {
        [] => Ok::<_, ApiError>(None),
        [image] => Ok(Some(images.resolve(image)?.created_ns)),
        _ => Err(ApiError::invalid(format!("invalid filter '{name}'"))),
    };
    let (before, since) = (created("before")?, created("since")?);
    let is_shown = |image: &Image| {
        dangling.is_none_or(|wanted| wanted == image.tags.is_empty())
            && until.is_none_or(|until| image.created_ns <= until)
            && before.is_none_or(|before| image.created_ns < before)
            && since.is_none_or(|since| image.created_ns > since)
            && filters.labels("label", &labels(image).unwrap_or_default())
            && filters.no_labels("label!", &labels(image).unwrap_or_default())
    };
    let asked = Asked {
        old_client: call.minor < MINOR_NO_VIRTUAL_SIZE,
        shared: call.query.flag("shared-size"),
        manifests: call.query.flag("manifests") && call.minor >= MINOR_MANIFESTS,
        descriptor: call.minor >= MINOR_DESCRIPTOR,
        container_config: false,
    };
    let usage = match asked.shared {
        true => images.usage().await?.images,
        false => Vec::new(),
    };
    let mut rows = Vec::new();
    for mut image in images.list().into_iter().filter(is_shown) {
        if !filters.get("reference").is_empty() {
            // Only the names that fit are shown.
            let fits =
                |name: &String| filters.any("reference", |pattern| fits_reference(pattern, name));
            image.tags.retain(fits);
            image.digests.retain(fits);
            if image.tags.is_empty() && image.digests.is_empty() {
                continue;
            }
        }
        let shared = usage.iter().find(|row| row.image.id == image.id);
        rows.push(Summary::show(&image, shared.map(|row| row.shared), asked));
    }
    json(&rows)
}

/// Whether a name fits a pattern of shell letters, with or without its tag; parts that the pattern
/// leaves out in front, as people do, do not count.
fn fits_reference(pattern: &str, name: &str) -> bool {
    let cut = name
        .rfind(['@', ':'])
        .filter(|&at| !name[at..].contains('/'));
    let bare = &name[..cut.unwrap_or(name.len())];
    let pattern = pattern
        .strip_prefix("docker.io/library/")
        .or_else(|| pattern.strip_prefix("docker.io/"))
        .unwrap_or(pattern);
    glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), bare.as_bytes())
}

/// Matches `*` (not across a slash), `?`, classes like `[a-c]` and escapes, as Go's `path.Match`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            let segment = text.iter().take_while(|&&b| b != b'/').count();
            (0..=segment).any(|skipped| glob(rest, &text[skipped..]))
        }
        (Some((b'?', rest)), Some((&b, after))) if b != b'/' => glob(rest, after),
        (Some((b'[', rest)), Some((&b, after))) if b != b'/' => match class(rest, b) {
            Some((true, rest)) => glob(rest, after),
            _ => false,
        },
        (Some((b'\\', rest)), Some((b, after))) => match rest.split_first() {
            Some((p, rest)) if p == b => glob(rest, after),
            _ => false,
        },
        (Some((p, rest)), Some((b, after))) if p == b => glob(rest, after),
        _ => false,
    }
}

/// Whether a byte is of the class that the pattern goes on with, and what follows the class; none
/// when it is not closed.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut rest) = match pattern.split_first()? {
        (b'^', rest) => (true, rest),
        _ => (false, pattern),
    };
    let mut found = false;
    loop {
        let (&low, after) = rest.split_first()?;
        rest = after;
        let high = match rest {
            [b'-', high, after @ ..] if *high != b']' => {
                rest = after;
                *high
            }
            _ => low,
        };
        found |= (low..=high).contains(&byte);
        if let [b']', after @ ..] = rest {
            return Some((found != negated, after));
        }
    }
}

pub(super) async fn inspect(call: Call) -> Answer {
    let image = call.engine().images().resolve(call.name())?;
    let platform = platform_query(&call)?;
    refuse_other_platform(&call, &image, platform.as_deref())?;
    let asked = Asked {
        old_client: call.minor < MINOR_NO_VIRTUAL_SIZE,
        manifests: call.query.flag("manifests") && call.minor >= MINOR_DESCRIPTOR,
        descriptor: call.minor >= MINOR_DESCRIPTOR,
        shared: false,
        container_config: call.minor < MINOR_NO_CONTAINER_CONFIG || call.is_compose1(),
    };
    if platform.is_some() && asked.manifests {
        return Err(ApiError::invalid(
            "conflicting options: manifests and platform options cannot both be set",
        ));
    }
    json(&Inspect::show(&image, asked))
}

/// The `platform` parameter of all but `create`: JSON as the client's library writes it. In the
/// words that the engine takes.
pub(super) fn platform_query(call: &Call) -> Result<Option<String>, ApiError> {
    #[derive(serde::Deserialize)]
    struct Platform {
        os: String,
        #[serde(default)]
        architecture: String,
        #[serde(default)]
        variant: String,
    }
    let all: Vec<&str> = call
        .query
        .all("platform")
        .filter(|p| !p.is_empty())
        .collect();
    let text = match all[..] {
        [] => return Ok(None),
        [text] => text,
        _ => {
            return Err(ApiError::invalid(
                "multiple platform parameters are not supported",
            ));
        }
    };
    let read: Platform = serde_json::from_str(text)
        .map_err(|cause| ApiError::invalid(format!("failed to parse platform: {cause}")))?;
    let parts = [read.os, read.architecture, read.variant];
    let named: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    Ok(Some(named.join("/")))
}

pub(super) fn refuse_other_platform(
    call: &Call,
    image: &Image,
    platform: Option<&str>,
) -> Result<(), ApiError> {
    match platform {
        Some(platform) if !call.engine().images().is_for(image, platform)? => {
            Err(ApiError::not_found(format!(
                "image with reference {} was found but does not provide the specified platform \
                 ({platform})",
                call.name()
            )))
        }
        _ => Ok(()),
    }
}

pub(super) async fn history(call: Call) -> Answer {
    let image = call.engine().images().resolve(call.name())?;
    refuse_other_platform(&call, &image, platform_query(&call)?.as_deref())?;
    json(&rows_of(&image))
}

pub(super) async fn tag(call: Call) -> Answer {
    let (repository, tag) = (call.query.get("repo"), call.query.get("tag"));
    let reference = join_tag(repository, tag);
    call.engine().images().tag(call.name(), &reference).await?;
    Ok(empty(StatusCode::CREATED))
}

pub(super) fn join_tag(repository: &str, tag: &str) -> String {
    match tag {
        "" => repository.to_owned(),
        digest if digest.contains(':') => format!("{repository}@{digest}"),
        tag => format!("{repository}:{tag}"),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) enum RemovalRow {
    Untagged(String),
    Deleted(String),
}

/// What was removed, in Docker's words.
pub(super) fn removal_rows(removals: Vec<ImageRemoval>) -> Vec<RemovalRow> {
    let row = |removal| match removal {
        ImageRemoval::Untagged(name) => RemovalRow::Untagged(name),
        ImageRemoval::Deleted(id) | ImageRemoval::LayerDeleted(id) => {
            RemovalRow::Deleted(id.to_string())
        }
    };
    removals.into_iter().map(row).collect()
}

/// `noprune` keeps the untagged parents of an image; here no image has any.
pub(super) async fn remove(call: Call) -> Answer {
    let force = call.query.flag("force");
    let removed = call.engine().images().remove(call.name(), force).await;
    let removed = removed.map_err(|error| match error {
        // What can be no name is said to be none, as by Docker.
        EngineError::NoSuchImage(name) if name.contains(|c: char| c.is_ascii_uppercase()) => {
            let library = if name.contains('/') { "" } else { "library/" };
            ApiError::invalid(format!(
                "invalid reference format: repository name ({library}{name}) must be lowercase"
            ))
        }
        error => error.into(),
    })?;
    json(&removal_rows(removed))
}

/// Import of one root file system; a pull is answered with what it will be.
pub(super) async fn create(call: Call) -> Answer {
    let query = call.query.clone();
    match query.get("fromSrc") {
        "" => super::registry::pull(call).await,
        source => import(call, &query, source).await,
    }
}

/// Import of one root file system, from the body or from an address.
async fn import(mut call: Call, query: &Query, source: &str) -> Answer {
    let reference = match query.get("repo") {
        "" => None,
        repository => Some(join_tag(repository, query.get("tag"))),
    };
    let changes = query.all("changes").map(str::to_owned).collect();
    let platform = Some(query.get("platform").to_owned()).filter(|p| !p.is_empty());
    let system = platform
        .as_deref()
        .and_then(|platform| platform.split('/').next());
    if system.is_some_and(|system| {
        system != "linux" && platform.as_deref().is_some_and(|p| p.contains('/'))
    }) {
        drain(call.request.body_mut()).await;
        return Err(ApiError::invalid("operating system is not supported"));
    }
    let message = match query.get("message") {
        "" => format!("Imported from {source}"),
        message => message.to_owned(),
    };
    let engine = call.engine().clone();
    let upload: Box<dyn Read + Send> = match source {
        "-" => Box::new(call.into_upload()),
        address => engine.images().download(address).await?,
    };
    let request = ImportRequest {
        reference,
        changes,
        message,
        platform,
    };
    let id = engine.images().import(upload, request).await?;
    let line = json_line(&Line {
        status: Some(id.to_string()),
        ..Line::default()
    })?;
    Ok(reply(
        StatusCode::OK,
        "application/json",
        Body::Whole(Some(line)),
    ))
}

/// A line of a progress stream.
#[derive(Debug, Default, Serialize)]
pub(super) struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    detail: Option<LineDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    error_detail: Option<LineError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct LineDetail {
    current: u64,
    #[serde(skip_serializing_if = "crate::wire::is_zero")]
    total: u64,
}

#[derive(Debug, Serialize)]
struct LineError {
    message: String,
}

impl Line {
    fn progress(progress: Progress) -> Self {
        match progress {
            Progress::Message(text) => Self {
                stream: Some(text + "\n"),
                ..Self::default()
            },
            Progress::Layer { id, current, total } => Self {
                status: Some("Loading layer".to_owned()),
                detail: Some(LineDetail { current, total }),
                id: Some(id),
                ..Self::default()
            },
        }
    }

    pub(super) fn failure(message: String) -> Self {
        let error_detail = Some(LineError {
            message: message.clone(),
        });
        Self {
            error_detail,
            error: Some(message),
            ..Self::default()
        }
    }

    pub(super) fn bytes(&self) -> io::Result<Bytes> {
        json_line(self).map_err(|error| io::Error::other(error.message))
    }
}

pub(super) async fn load(call: Call) -> Answer {
    let quiet = call.query.flag("quiet");
    let platform = platform_query(&call)?;
    let engine = call.engine().clone();
    let upload = Box::new(call.into_upload());
    let (progress, lines) = mpsc::channel(PROGRESS_LINES_MAX);
    // Ends with the upload; a client that vanished cuts that.
    let loading = tokio::spawn(async move {
        let platform = platform.as_deref();
        engine.images().load(upload, platform, progress).await
    });
    Ok(tell(lines, loading, quiet))
}

/// Ours: takes over the images of a Docker data root on this host.
pub(super) async fn import_docker(call: Call) -> Answer {
    let quiet = call.query.flag("quiet");
    let root = PathBuf::from(call.query.get("root"));
    if !root.is_absolute() {
        return Err(ApiError::invalid(
            "the data root has to be an absolute path",
        ));
    }
    let engine = call.engine().clone();
    let (progress, lines) = mpsc::channel(PROGRESS_LINES_MAX);
    let loading = tokio::spawn(async move { engine.images().import_docker(root, progress).await });
    Ok(tell(lines, loading, quiet))
}

/// Tells how images come in, line by line, to the end or the error.
fn tell(
    lines: mpsc::Receiver<Progress>,
    loading: JoinHandle<Result<(), EngineError>>,
    quiet: bool,
) -> Reply {
    let pieces = stream::unfold(Some((lines, loading)), move |state| async move {
        let (mut lines, loading) = state?;
        loop {
            match lines.recv().await {
                Some(Progress::Layer { .. }) if quiet => {}
                Some(progress) => {
                    return Some((Line::progress(progress).bytes(), Some((lines, loading))));
                }
                None => {
                    let message = failure_of(loading).await?.message;
                    tracing::info!(message, "loading images failed");
                    return Some((Line::failure(message).bytes(), None));
                }
            }
        }
    });
    reply(StatusCode::OK, "application/json", Body::streamed(pieces))
}

pub(super) async fn save_one(call: Call) -> Answer {
    let names = vec![call.name().to_owned()];
    save(call, names).await
}

pub(super) async fn save_many(call: Call) -> Answer {
    let names: Vec<String> = call.query.all("names").map(str::to_owned).collect();
    if names.is_empty() {
        return Err(ApiError::invalid("no image names were given"));
    }
    save(call, names).await
}

async fn save(call: Call, names: Vec<String>) -> Answer {
    let platform = platform_query(&call)?;
    let engine = call.engine().clone();
    download(move |writer| async move {
        let platform = platform.as_deref();
        engine.images().save(names, platform, writer).await
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_references_stop_at_slashes() {
        let check = |pattern: &str, text: &str| glob(pattern.as_bytes(), text.as_bytes());
        assert!(check("busy*", "busybox:latest"));
        assert!(check("*:latest", "busybox:latest"));
        assert!(check("b?sybox", "busybox"));
        assert!(!check("*", "a/b"));
        assert!(check("*/*", "a/b"));
        assert!(!check("busy", "busybox"));
        assert!(check("b[t-v]sybox", "busybox"));
        assert!(!check("b[^u]sybox", "busybox"));
        assert!(!check("b[u", "bu"));
        assert!(check("a\\*", "a*"));
    }

    #[test]
    fn tags_and_digests_are_joined_differently() {
        assert_eq!(join_tag("a", ""), "a");
        assert_eq!(join_tag("h:5/a", "x"), "h:5/a:x");
        assert_eq!(join_tag("a", "sha256:ab"), "a@sha256:ab");
    }

    #[test]
    fn lines_are_dockers() {
        let text = |line: Line| String::from_utf8(line.bytes().expect("JSON").to_vec());
        assert_eq!(
            text(Line::progress(Progress::Message(
                "Loaded image: a:b".into()
            ))),
            Ok("{\"stream\":\"Loaded image: a:b\\n\"}\n".into())
        );
        assert_eq!(
            text(Line::failure("no".into())),
            Ok("{\"errorDetail\":{\"message\":\"no\"},\"error\":\"no\"}\n".into())
        );
    }
}
