//! From the engine's errors to Docker's statuses and sentences.
//!
//! The status comes from the kind alone. The sentence is the engine's, except where clients parse
//! it: those variants are worded here as Docker 28 words them.

use http::StatusCode;
use hull_engine::EngineError;
use hull_model::ErrorKind;
use serde::Serialize;

use crate::body::{Body, Reply, json_line, reply};

/// The HTTP status of a kind of error.
pub fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::WrongState | ErrorKind::Busy => StatusCode::CONFLICT,
        ErrorKind::LimitReached => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Deadline => StatusCode::GATEWAY_TIMEOUT,
        // 499, which has no standard name: the client is gone and does not read it.
        ErrorKind::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What a failed request answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

#[derive(Serialize)]
struct Message<'a> {
    message: &'a str,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }

    /// 400.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 404.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 501, naming what is not there.
    pub(crate) fn not_there(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            format!("{what} is not there yet in hull"),
        )
    }

    /// 404 as for a path that no route has.
    pub(crate) fn no_such_page() -> Self {
        Self::not_found("page not found")
    }

    /// Our own value could not be written as JSON: a defect.
    pub(crate) fn unspeakable(cause: &serde_json::Error) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("write the answer as JSON: {cause}"),
        )
    }

    /// The answer that carries it.
    pub(crate) fn into_reply(self) -> Reply {
        if self.status == StatusCode::NOT_MODIFIED {
            return crate::body::empty(self.status);
        }
        let line = json_line(&Message {
            message: &self.message,
        })
        .unwrap_or_default();
        reply(self.status, "application/json", Body::Whole(Some(line)))
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        Self {
            status: status(error.kind()),
            message: sentence(&error),
        }
    }
}

/// Docker's sentence for an error of the engine.
fn sentence(error: &EngineError) -> String {
    match error {
        EngineError::NoSuchContainer(name) => format!("No such container: {name}"),
        EngineError::RegistryRefused {
            repository,
            reference,
            code,
            message,
        } => match code.as_str() {
            "DENIED" => format!(
                "pull access denied for {repository}, repository does not exist or may require \
                 'docker login': {message}"
            ),
            "MANIFEST_UNKNOWN" => format!("manifest for {reference} not found: {message}"),
            "NAME_UNKNOWN" => format!("repository {repository} not found: {message}"),
            _ => message.clone(),
        },
        EngineError::NoSuchImage(name) => format!("No such image: {}", with_tag(name)),
        EngineError::NoSuchExec(id) => format!("No such exec instance: {id}"),
        EngineError::NoSuchFile(path) => format!("Could not find the file {path} in the container"),
        EngineError::NoSuchVolume(name) => format!("get {name}: no such volume"),
        EngineError::NoSuchVolumeDriver { volume, plugin } => format!(
            "create {volume}: error looking up volume plugin {plugin}: plugin \"{plugin}\" not found"
        ),
        EngineError::VolumeInUse { name, users } => {
            format!("remove {name}: volume is in use - [{}]", users.join(", "))
        }
        EngineError::Ambiguous(prefix) => {
            format!("multiple IDs found with provided prefix: {prefix}")
        }
        EngineError::NameTaken { name, holder } => format!(
            "Conflict. The container name \"/{name}\" is already in use by container \
             \"{holder}\". You have to remove (or rename) that container to be able to reuse that \
             name."
        ),
        EngineError::NotRunning(id) => format!("container {id} is not running"),
        EngineError::Paused(id) => {
            format!("Container {id} is paused, unpause the container before exec")
        }
        EngineError::StillLive { id, state } => format!("container {id} is {state}"),
        EngineError::BeingRemoved(id) => {
            format!("removal of container {id} is already in progress")
        }
        EngineError::StartFailed { text, .. } => start_sentence(text),
        EngineError::PortsFailed {
            name,
            endpoint_id,
            text,
        } => format!(
            "driver failed programming external connectivity on endpoint {name} ({endpoint_id}): \
             {text}"
        ),
        EngineError::ImageInUse {
            image,
            reference,
            container,
            running,
        } => image_in_use(
            &image.hex()[..12],
            reference.as_deref(),
            container,
            *running,
        ),
        EngineError::NoSuchPlatform { image, platform } => format!(
            "image with reference {image} was found but does not provide the specified platform \
             ({platform})"
        ),
        EngineError::NoSuchNetwork(_)
        | EngineError::NotConnected { .. }
        | EngineError::NoSuchPlugin(_)
        | EngineError::Denied(_)
        | EngineError::ImageConflict(_)
        | EngineError::Invalid(_)
        | EngineError::Unsupported(_)
        | EngineError::Registry { .. }
        | EngineError::Unavailable(_)
        | EngineError::WrongState(_)
        | EngineError::Step { .. } => error.chain(),
    }
}

/// Docker speaks of the name where one was to be removed.
fn image_in_use(image: &str, reference: Option<&str>, container: &str, running: bool) -> String {
    let (force, state) = if running {
        ("cannot be forced", "running")
    } else {
        ("must be forced", "stopped")
    };
    match reference {
        Some(name) => format!(
            "conflict: unable to remove repository reference \"{name}\" (must force) - container \
             {container} is using its referenced image {image}"
        ),
        None => format!(
            "conflict: unable to delete {image} ({force}) - image is being used by {state} \
             container {container}"
        ),
    }
}

/// Whether it is of what dockerd looks up itself before it calls runc.
pub(crate) fn is_own_words(text: &str) -> bool {
    const OWN_WORDS: [&str; 4] = [
        "unable to find user ",
        "unable to find group ",
        "Unable to find group ",
        "uids and gids must be ",
    ];
    OWN_WORDS.iter().any(|word| text.starts_with(word))
}

/// Docker's sentence around runc's words, in which clients look for the reason.
pub(crate) fn start_sentence(text: &str) -> String {
    if is_own_words(text) || text.starts_with("Cannot mkdir: ") {
        return text.to_owned();
    }
    let directory = text.strip_prefix("chdir to cwd (\"");
    let directory = directory
        .and_then(|rest| rest.strip_suffix("\") set in config.json failed: not a directory"));
    if let Some(directory) = directory {
        return format!("Cannot mkdir: {directory} is not a directory");
    }
    if text.starts_with("failed to initialize logging driver") {
        return format!("failed to create task for container: {text}");
    }
    // The CLI exits with 126 for this word only.
    let directory = text.ends_with("is a directory");
    let suffix = if directory { ": permission denied" } else { "" };
    format!(
        "failed to create task for container: failed to create shim task: OCI runtime create \
         failed: runc create failed: unable to start container process: {text}: unknown{suffix}"
    )
}

/// The name as Docker repeats it: with a tag, unless it has one, or is a digest or an id.
fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if name.contains('@') || last.contains(':') || name.is_empty() {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_an_error_status() {
        for kind in ErrorKind::ALL {
            assert!(status(kind).as_u16() >= 400, "{kind:?}");
        }
    }

    fn check(error: EngineError, expected: u16, text: &str) {
        let got = ApiError::from(error);
        assert_eq!(
            (got.status.as_u16(), got.message.as_str()),
            (expected, text)
        );
    }

    #[test]
    fn sentences_that_clients_parse() {
        let id = hull_model::SandboxId::from_bytes([0xab; 32]);
        let hex = "ab".repeat(32);
        check(
            EngineError::NoSuchContainer("zz".into()),
            404,
            "No such container: zz",
        );
        check(
            EngineError::NoSuchImage("zz".into()),
            404,
            "No such image: zz:latest",
        );
        check(
            EngineError::NoSuchImage("h:5000/z".into()),
            404,
            "No such image: h:5000/z:latest",
        );
        check(
            EngineError::NoSuchImage("z:1".into()),
            404,
            "No such image: z:1",
        );
        check(
            EngineError::NoSuchExec("e".into()),
            404,
            "No such exec instance: e",
        );
        check(
            EngineError::NotRunning(id),
            409,
            &format!("container {hex} is not running"),
        );
        check(
            EngineError::NameTaken {
                name: "x".into(),
                holder: id,
            },
            409,
            &format!(
                "Conflict. The container name \"/x\" is already in use by container \"{hex}\". \
                 You have to remove (or rename) that container to be able to reuse that name."
            ),
        );
        check(
            EngineError::StartFailed {
                text: "exec: nope".into(),
                exit_code: 127,
            },
            400,
            "failed to create task for container: failed to create shim task: OCI runtime create \
             failed: runc create failed: unable to start container process: exec: nope: unknown",
        );
    }

    #[test]
    fn a_failed_step_tells_its_causes_once() {
        let error = EngineError::io("mount layer", std::io::Error::other("no space"));
        check(error, 500, "mount layer: no space");
    }
}
