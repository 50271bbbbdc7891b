//! What a container uses: once, or every second.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use hull_engine::api::Usage;
use hull_engine::{Engine, EngineError, STATS_PAUSE};
use hull_model::SandboxId;

use crate::body::{Body, json_line, reply};
use crate::errors::ApiError;
use crate::request::Call;
use crate::router::Answer;
use crate::wire::stats::Stats;

pub(super) async fn stats(call: Call) -> Answer {
    let id = call.container()?;
    let engine = call.engine().clone();
    let streams = call.query.get("stream").is_empty() || call.query.flag("stream");
    let one_shot = call.query.flag("one-shot");
    if streams && one_shot {
        return Err(ApiError::invalid(
            "cannot have stream=true and one-shot=true",
        ));
    }
    let first = sample(&engine, id, one_shot).await?;
    if !streams {
        return Ok(reply(
            StatusCode::OK,
            "application/json",
            Body::Whole(Some(first)),
        ));
    }
    let state = (engine, Some(first));
    let samples = stream::unfold(state, move |(engine, first)| async move {
        if let Some(first) = first {
            return Some((Ok(first), (engine, None)));
        }
        tokio::time::sleep(STATS_PAUSE).await;
        match sample(&engine, id, false).await {
            Ok(line) => Some((Ok(line), (engine, None))),
            // Its end is that of the stream.
            Err(error) if error.status == StatusCode::NOT_FOUND => None,
            Err(error) => Some((Err(io::Error::other(error.message)), (engine, None))),
        }
    });
    Ok(reply(
        StatusCode::OK,
        "application/json",
        Body::streamed(samples),
    ))
}

async fn sample(engine: &Engine, id: SandboxId, alone: bool) -> Result<Bytes, ApiError> {
    let containers = engine.containers();
    let usage: Result<Option<Usage>, EngineError> = containers.usage(id, alone).await;
    let usage = usage?;
    let container = containers.inspect(id)?;
    json_line(&Stats::show(
        &container,
        usage.as_ref(),
        &engine.facts_of_host(),
    ))
}
