//! Containers: attach, logs, terminal size.

use futures_util::stream;
use http::StatusCode;
use hull_engine::api::{AttachRequest, LogsRequest};

use crate::body::{Body, empty, reply};
use crate::detach::DetachKeys;
use crate::errors::ApiError;
use crate::request::Call;
use crate::router::Answer;
use crate::stream::{Input, LineForm, ReadAs, frame_lines, hijack, media_type};
use crate::time;

pub(super) async fn attach(call: Call) -> Answer {
    let query = &call.query;
    let request = AttachRequest {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        logs: query.flag("logs"),
        stream: query.flag("stream"),
    };
    let keys = DetachKeys::parse(query.get("detachKeys"))?;
    let id = call.container()?;
    let attached = call.engine().containers().attach(id, request).await?;
    let input = if request.stdin {
        Input::Wanted(keys)
    } else {
        Input::Unwanted
    };
    let read_as = ReadAs::of(&attached);
    Ok(hijack(call, attached, input, read_as))
}

pub(super) async fn logs(call: Call) -> Answer {
    let query = &call.query;
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let now_ns = time::now_ns();
    let request = LogsRequest {
        stdout,
        stderr,
        follow: query.flag("follow"),
        // What is not a number means all, as in Docker.
        tail: query.get("tail").parse().ok(),
        since_ns: time::parse(query.get("since"), now_ns)?,
        until_ns: time::parse(query.get("until"), now_ns)?,
    };
    let id = call.container()?;
    let containers = call.engine().containers();
    let tty = containers.inspect(id)?.spec.config.tty;
    let form = LineForm {
        tty,
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
        frame_per_line: request.follow,
    };
    let lines = containers.logs(id, request).await?;
    let pieces = stream::unfold(lines, move |mut lines| async move {
        let batch = lines.recv().await?;
        Some((Ok(frame_lines(&batch, form)), lines))
    });
    Ok(reply(
        StatusCode::OK,
        media_type(tty, call.minor),
        Body::streamed(pieces),
    ))
}

/// Rows and columns of a resize.
pub(super) fn terminal_size(call: &Call) -> Result<(u16, u16), ApiError> {
    let side = |key: &str, what: &str| {
        call.query.get(key).parse::<u16>().map_err(|_| {
            ApiError::invalid(format!(
                "invalid resize {what} \"{0}\": parsing \"{0}\": invalid syntax",
                call.query.get(key)
            ))
        })
    };
    Ok((side("h", "height")?, side("w", "width")?))
}

pub(super) async fn resize(call: Call) -> Answer {
    let (rows, cols) = terminal_size(&call)?;
    let id = call.container()?;
    call.engine().containers().resize(id, rows, cols).await?;
    Ok(empty(StatusCode::OK))
}
