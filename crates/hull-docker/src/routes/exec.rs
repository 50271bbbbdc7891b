//! Exec: an added process in a container.

use http::StatusCode;
use hull_engine::EngineError;
use hull_engine::api::ExecRequest;
use hull_model::spec::Streams;
use serde::{Deserialize, Serialize};

use super::io::terminal_size;
use crate::body::{empty, json, json_with};
use crate::detach::DetachKeys;
use crate::errors::{ApiError, is_own_words};
use crate::request::Call;
use crate::router::Answer;
use crate::stream::{Input, ReadAs, farewell, hijack};
use crate::wire::container::ExecInspect;
use crate::wire::{OrZero, Words};

/// First version whose start takes a terminal size.
const MINOR_CONSOLE_SIZE: u32 = 42;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CreateBody {
    user: OrZero<String>,
    privileged: OrZero<bool>,
    tty: OrZero<bool>,
    attach_stdin: OrZero<bool>,
    attach_stdout: OrZero<bool>,
    attach_stderr: OrZero<bool>,
    // Go reads names in any case, and docker-py counts on it here.
    #[serde(alias = "detachKeys")]
    detach_keys: OrZero<String>,
    env: OrZero<Vec<String>>,
    working_dir: OrZero<String>,
    cmd: Words,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CreateAnswer {
    id: String,
}

pub(super) async fn create(mut call: Call) -> Answer {
    let body: CreateBody = call.json().await?;
    let cmd = body.cmd.into_list().unwrap_or_default();
    if cmd.is_empty() {
        return Err(ApiError::invalid("no exec command specified"));
    }
    DetachKeys::parse(&body.detach_keys.0)?;
    let request = ExecRequest {
        cmd,
        env: body.env.0,
        user: body.user.0,
        working_dir: body.working_dir.0,
        tty: body.tty.0,
        attach: Streams {
            stdin: body.attach_stdin.0,
            stdout: body.attach_stdout.0,
            stderr: body.attach_stderr.0,
        },
        privileged: body.privileged.0,
        detach_keys: body.detach_keys.0,
        probe: false,
    };
    let container = call.container()?;
    let created = call
        .engine()
        .containers()
        .exec_create(container, request)
        .await;
    let id = created.map_err(|error| match error {
        EngineError::Paused(_) => ApiError::new(
            StatusCode::CONFLICT,
            format!(
                "Container {} is paused, unpause the container before exec",
                call.name()
            ),
        ),
        error => error.into(),
    })?;
    json_with(StatusCode::CREATED, &CreateAnswer { id })
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StartBody {
    detach: OrZero<bool>,
    tty: OrZero<bool>,
    console_size: Option<(u16, u16)>,
}

pub(super) async fn start(mut call: Call) -> Answer {
    let body: StartBody = call.json().await?;
    let containers = call.engine().containers();
    let exec = containers.exec_inspect(call.name()).await?;
    let tty = exec.request.tty;
    // How the client takes the output apart is what it says now; docker-py says nothing.
    let read_as = if tty && body.tty.0 {
        ReadAs::Bytes
    } else {
        ReadAs::Frames
    };
    let size = body
        .console_size
        .filter(|_| tty && call.minor >= MINOR_CONSOLE_SIZE);
    match containers.exec_start(&exec.id, body.detach.0, size).await {
        Ok(Some(attached)) => {
            let input = if exec.request.attach.stdin {
                Input::Wanted(DetachKeys::parse(&exec.request.detach_keys)?)
            } else {
                Input::Unwanted
            };
            Ok(hijack(call, attached, input, read_as))
        }
        Ok(None) => Ok(empty(StatusCode::OK)),
        Err(error) => match error {
            // Docker has taken over the connection by then, and says it in the stream.
            EngineError::StartFailed { text, .. } if !body.detach.0 => {
                farewell(call, &exec_text(&text), read_as).map_err(|cause| {
                    EngineError::io("make a socket pair for a failed exec", cause).into()
                })
            }
            EngineError::StartFailed { text, .. } => Err(ApiError::invalid(exec_text(&text))),
            error => Err(error.into()),
        },
    }
}

/// Docker's sentence around runc's words.
fn exec_text(text: &str) -> String {
    if is_own_words(text) {
        return text.to_owned();
    }
    if text.starts_with("Cwd must be ") {
        return format!("OCI runtime exec failed: exec failed: {text}: unknown");
    }
    format!(
        "OCI runtime exec failed: exec failed: unable to start container process: {text}: unknown"
    )
}

pub(super) async fn resize(call: Call) -> Answer {
    let (rows, cols) = terminal_size(&call)?;
    call.engine()
        .containers()
        .exec_resize(call.name(), rows, cols)
        .await?;
    Ok(empty(StatusCode::OK))
}

pub(super) async fn inspect(call: Call) -> Answer {
    let exec = call.engine().containers().exec_inspect(call.name()).await?;
    json(&ExecInspect::show(&exec, call.minor))
}
