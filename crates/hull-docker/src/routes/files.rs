//! Files of containers: the archive of a path, changes, export, commit.

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use hull_engine::EngineError;
use hull_engine::api::{ArchiveOptions, CommitRequest, PathStat};
use hull_model::SandboxId;
use serde::Serialize;

use crate::body::{empty, json, json_with};
use crate::download::download;
use crate::errors::ApiError;
use crate::request::{Call, drain};
use crate::router::Answer;
use crate::time;
use crate::wire::config::Config;

const PATH_STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

/// Bits of Go's `os.FileMode` with the bits of `st_mode` that they stand for.
const GO_TYPES: [(u32, u32); 6] = [
    (0o040_000, 1 << 31),
    (0o120_000, 1 << 27),
    (0o060_000, 1 << 26),
    (0o020_000, 1 << 26 | 1 << 21),
    (0o010_000, 1 << 25),
    (0o140_000, 1 << 24),
];
const GO_SPECIAL: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stat {
    name: String,
    size: u64,
    mode: u32,
    mtime: String,
    link_target: String,
}

/// `GET` gives an archive, `HEAD` only what is there, `PUT` unpacks one.
pub(super) async fn archive(mut call: Call) -> Answer {
    let found = match call.query.get("path") {
        "" => Err(ApiError::invalid(
            "bad parameter: path cannot be empty".to_owned(),
        )),
        path => Ok(path.to_owned()),
    };
    let found = found.and_then(|path| Ok((call.container()?, path)));
    let (id, path) = match found {
        Ok(found) => found,
        Err(error) => {
            drain(call.request.body_mut()).await;
            return Err(error);
        }
    };
    if call.request.method() == Method::PUT {
        return put(call, id, path).await;
    }
    let name = call.name().to_owned();
    let missing = |error| no_such_file(error, &name);
    let engine = call.engine().clone();
    let stat = engine.containers().path_stat(id, &path).await;
    let header = stat_header(&stat.map_err(missing)?)?;
    let mut reply = if call.request.method() == Method::HEAD {
        empty(StatusCode::OK)
    } else {
        download(|output| async move { engine.containers().read_archive(id, &path, output).await })
            .await?
    };
    reply.headers_mut().insert(PATH_STAT, header);
    reply
        .headers_mut()
        .entry(CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("application/json"));
    Ok(reply)
}

async fn put(call: Call, id: SandboxId, path: String) -> Answer {
    let options = ArchiveOptions {
        keep_kinds: call.query.flag("noOverwriteDirNonDir"),
        owned_by_user: call.query.flag("copyUIDGID"),
    };
    let name = call.name().to_owned();
    let engine = call.engine().clone();
    let upload = Box::new(call.into_upload());
    let containers = engine.containers();
    match containers.write_archive(id, &path, options, upload).await {
        Ok(()) => Ok(empty(StatusCode::OK)),
        Err(error) => Err(no_such_file(error, &name)),
    }
}

/// Docker names the container as it was asked for.
fn no_such_file(error: EngineError, container: &str) -> ApiError {
    match error {
        EngineError::NoSuchFile(path) => ApiError::not_found(format!(
            "Could not find the file {path} in container {container}"
        )),
        error => error.into(),
    }
}

fn stat_header(PathStat(found): &PathStat) -> Result<HeaderValue, ApiError> {
    let mode = found.mode;
    let mut go_mode = mode & 0o777;
    for (bits, go) in GO_TYPES {
        if mode & 0o170_000 == bits {
            go_mode |= go;
        }
    }
    for (bit, go) in GO_SPECIAL {
        if mode & bit != 0 {
            go_mode |= go;
        }
    }
    let nanos = found.modified.seconds.saturating_mul(1_000_000_000);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let name = text(&found.name);
    let stat = Stat {
        name: if name.is_empty() {
            "/".to_owned()
        } else {
            name
        },
        size: found.size,
        mode: go_mode,
        mtime: time::rfc3339(nanos.saturating_add(found.modified.nanos.into())),
        link_target: found.target.as_deref().map(text).unwrap_or_default(),
    };
    let json = serde_json::to_vec(&stat).map_err(|cause| ApiError::unspeakable(&cause))?;
    HeaderValue::from_str(&base64(&json))
        .map_err(|cause| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, cause.to_string()))
}

/// Standard base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(word);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(match digit as usize <= group.len() {
                true => char::from(DIGITS[index as usize]),
                false => '=',
            });
        }
    }
    text
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    path: String,
    kind: u8,
}

pub(super) async fn changes(call: Call) -> Answer {
    let id = call.container()?;
    let changes = call.engine().containers().changes(id).await?;
    if changes.is_empty() {
        return json(&());
    }
    let rows: Vec<Change> = changes
        .into_iter()
        .map(|change| Change {
            path: change.path,
            kind: change.kind as u8,
        })
        .collect();
    json(&rows)
}

pub(super) async fn export(call: Call) -> Answer {
    let id = call.container()?;
    let engine = call.engine().clone();
    download(|output| async move { engine.containers().export(id, output).await }).await
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Committed {
    id: String,
}

pub(super) async fn commit(mut call: Call) -> Answer {
    let config: Option<Config> = call.json().await?;
    let query = &call.query;
    let name = query.get("container").to_owned();
    let (repository, tag) = (query.get("repo"), query.get("tag"));
    let reference = match (repository, tag) {
        ("", _) => None,
        (repository, "") => Some(repository.to_owned()),
        (repository, tag) => Some(format!("{repository}:{tag}")),
    };
    let changes: Vec<String> = query
        .all("changes")
        .flat_map(str::lines)
        .filter(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect();
    let request = CommitRequest {
        reference,
        author: query.get("author").to_owned(),
        message: query.get("comment").to_owned(),
        changes,
        config: config.map(Into::into),
        pause: query.get("pause").is_empty() || query.flag("pause"),
    };
    let containers = call.engine().containers();
    let id = containers.resolve(&name)?;
    let image = containers.commit(id, request).await?;
    let id = image.to_string();
    json_with(StatusCode::CREATED, &Committed { id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
