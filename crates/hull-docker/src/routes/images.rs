//! Images: list, inspect, tag, remove, and the streams that bring them in and out.

use std::io::{self, Write};

use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use hull_engine::EngineError;
use hull_engine::api::{Image, ImageRemoval};
use hull_engine::api::{ImportRequest, Progress};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::body::{Body, empty, json, json_line, reply};
use crate::errors::ApiError;
use crate::filter::Filters;
use crate::request::{ApiMinor, Call};
use crate::router::Answer;
use crate::time;
use crate::wire::image::{Inspect, Summary, history as rows_of, labels};

const FILTERS: [&str; 7] = [
    "dangling",
    "label",
    "label!",
    "before",
    "since",
    "reference",
    "until",
];
/// First version without `VirtualSize`.
const MINOR_NO_VIRTUAL_SIZE: ApiMinor = 44;
/// Pieces of an archive that wait for the client to read them.
const SAVE_PIECES_MAX: usize = 8;
/// Bytes of one such piece.
const SAVE_PIECE_BYTES: usize = 128 << 10;
/// Lines of progress that wait for the client to read them.
const PROGRESS_LINES_MAX: usize = 64;

pub(super) async fn list(call: Call) -> Answer {
    let filters = Filters::parse(call.query.get("filters"), &FILTERS)?;
    let images = call.engine().images();
    let dangling = filters.switch("dangling")?;
    let until = filters.until_ns(time::now_ns())?;
    let created = |name: &str| match filters.get(name).first() {
        Some(image) => Ok::<_, ApiError>(Some(images.resolve(image)?.created_ns)),
        None => Ok(None),
    };
    let (before, since) = (created("before")?, created("since")?);
    let all = images.list();
    let shown = all.iter().filter(|image| {
        dangling.is_none_or(|wanted| wanted == image.tags.is_empty())
            && until.is_none_or(|until| image.created_ns < until)
            && before.is_none_or(|before| image.created_ns < before)
            && since.is_none_or(|since| image.created_ns > since)
            && filters.labels("label", &labels(image).unwrap_or_default())
            && filters.no_labels("label!", &labels(image).unwrap_or_default())
            && filters.any("reference", |pattern| has_reference(image, pattern))
    });
    let old = call.minor < MINOR_NO_VIRTUAL_SIZE;
    let shared = call.query.flag("shared-size");
    let rows: Vec<_> = shown
        .map(|image| Summary::show(image, shared.then(|| shared_bytes(image, &all)), old))
        .collect();
    json(&rows)
}

/// Bytes of the layers that another image has too.
pub(super) fn shared_bytes(image: &Image, all: &[Image]) -> u64 {
    let others = || all.iter().filter(|other| other.id != image.id);
    image
        .layers
        .iter()
        .zip(&image.layer_sizes)
        .filter(|(layer, _)| others().any(|other| other.layers.contains(layer)))
        .map(|(_, size)| size)
        .sum()
}

/// Whether one of an image's names fits a pattern of shell letters, with or without its tag.
fn has_reference(image: &Image, pattern: &str) -> bool {
    image.tags.iter().chain(&image.digests).any(|name| {
        let cut = name
            .rfind(['@', ':'])
            .filter(|&at| !name[at..].contains('/'));
        let bare = &name[..cut.unwrap_or(name.len())];
        glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), bare.as_bytes())
    })
}

/// Matches `*` (not across a slash) and `?`, as Go's `path.Match` does; classes are taken literally.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            let segment = text.iter().take_while(|&&b| b != b'/').count();
            (0..=segment).any(|skipped| glob(rest, &text[skipped..]))
        }
        (Some((b'?', rest)), Some((&b, after))) if b != b'/' => glob(rest, after),
        (Some((p, rest)), Some((b, after))) if p == b => glob(rest, after),
        _ => false,
    }
}

pub(super) async fn inspect(call: Call) -> Answer {
    let image = call.engine().images().resolve(call.name())?;
    json(&Inspect::show(&image, call.minor < MINOR_NO_VIRTUAL_SIZE))
}

pub(super) async fn history(call: Call) -> Answer {
    let image = call.engine().images().resolve(call.name())?;
    json(&rows_of(&image))
}

pub(super) async fn tag(call: Call) -> Answer {
    let (repository, tag) = (call.query.get("repo"), call.query.get("tag"));
    let reference = join_tag(repository, tag);
    call.engine().images().tag(call.name(), &reference).await?;
    Ok(empty(StatusCode::CREATED))
}

fn join_tag(repository: &str, tag: &str) -> String {
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
        ImageRemoval::Deleted(id) => RemovalRow::Deleted(id.to_string()),
    };
    removals.into_iter().map(row).collect()
}

pub(super) async fn remove(call: Call) -> Answer {
    let force = call.query.flag("force");
    match call.engine().images().remove(call.name(), force).await {
        Ok(removed) => json(&removal_rows(removed)),
        Err(error @ EngineError::ImageInUse { .. }) => Err(in_use(&call, force, error)),
        Err(error) => Err(error.into()),
    }
}

/// Docker speaks of the name first, and of the image only when that was named or force was asked.
fn in_use(call: &Call, force: bool, error: EngineError) -> ApiError {
    let found = call.engine().images().resolve(call.name());
    let (EngineError::ImageInUse { container, .. }, Ok(image)) = (&error, found) else {
        return error.into();
    };
    let (name, hex) = (call.name(), image.id.hex());
    if force || image.id.to_string().starts_with(name) || hex.starts_with(name) {
        return error.into();
    }
    let message = format!(
        "conflict: unable to remove repository reference \"{name}\" (must force) - container \
         {container} is using its referenced image {}",
        &hex[..12]
    );
    ApiError::new(StatusCode::CONFLICT, message)
}

/// Import of one root file system; a pull is answered with what it will be.
pub(super) async fn create(call: Call) -> Answer {
    let query = call.query.clone();
    match query.get("fromSrc") {
        "" => {
            let wanted = join_tag(query.get("fromImage"), query.get("tag"));
            return Err(ApiError::not_there(&format!(
                "pulling an image (\"{wanted}\")"
            )));
        }
        "-" => {}
        _ => return Err(ApiError::not_there("importing an image from an address")),
    }
    let reference = match query.get("repo") {
        "" => None,
        repository => Some(join_tag(repository, query.get("tag"))),
    };
    let changes = query.all("changes").map(str::to_owned).collect();
    let platform = Some(query.get("platform").to_owned()).filter(|p| !p.is_empty());
    let message = match query.get("message") {
        "" => "Imported from -".to_owned(),
        message => message.to_owned(),
    };
    let engine = call.engine().clone();
    let upload = Box::new(call.into_upload());
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
struct Line {
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

    fn failure(message: String) -> Self {
        let error_detail = Some(LineError {
            message: message.clone(),
        });
        Self {
            error_detail,
            error: Some(message),
            ..Self::default()
        }
    }

    fn bytes(&self) -> io::Result<Bytes> {
        json_line(self).map_err(|error| io::Error::other(error.message))
    }
}

pub(super) async fn load(call: Call) -> Answer {
    let quiet = call.query.flag("quiet");
    let engine = call.engine().clone();
    let upload = Box::new(call.into_upload());
    let (progress, lines) = mpsc::channel(PROGRESS_LINES_MAX);
    // Ends with the upload; a client that vanished cuts that.
    let loading = tokio::spawn(async move { engine.images().load(upload, progress).await });
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
    Ok(reply(
        StatusCode::OK,
        "application/json",
        Body::streamed(pieces),
    ))
}

/// Why a task of the engine failed; none: it did not.
async fn failure_of(task: JoinHandle<Result<(), EngineError>>) -> Option<ApiError> {
    match task.await {
        Ok(done) => done.err().map(ApiError::from),
        Err(cause) => {
            let message = format!("a task of the engine ended early: {cause}");
            Some(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message))
        }
    }
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

/// Streams an archive. What fails before its first byte is a plain error; what fails later cuts the
/// connection, so that nobody takes a part for the whole.
async fn save(call: Call, names: Vec<String>) -> Answer {
    for name in &names {
        call.engine().images().resolve(name)?;
    }
    let engine = call.engine().clone();
    let (to_client, mut pieces) = mpsc::channel(SAVE_PIECES_MAX);
    let writer = io::BufWriter::with_capacity(SAVE_PIECE_BYTES, Download { to_client });
    let saving = tokio::spawn(async move { engine.images().save(names, Box::new(writer)).await });
    let Some(first) = pieces.recv().await else {
        return match failure_of(saving).await {
            Some(error) => Err(error),
            None => Ok(empty(StatusCode::OK)),
        };
    };
    let state = Some((Some(first), pieces, saving));
    let stream = stream::unfold(state, |state| async move {
        let (mut first, mut pieces, saving) = state?;
        let next = match first.take() {
            Some(first) => Some(first),
            None => pieces.recv().await,
        };
        if let Some(piece) = next {
            return Some((Ok(piece), Some((None, pieces, saving))));
        }
        let message = failure_of(saving).await?.message;
        tracing::warn!(message, "saving images failed");
        Some((Err(io::Error::other(message)), None))
    });
    Ok(reply(
        StatusCode::OK,
        "application/x-tar",
        Body::streamed(stream),
    ))
}

/// The writing end of an answer, for a blocking thread.
struct Download {
    to_client: mpsc::Sender<Bytes>,
}

impl Write for Download {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        self.to_client
            .blocking_send(piece)
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
