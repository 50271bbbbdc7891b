//! Registries: pull, push, login, search, and what a registry says about an image.
//!
//! The lines of progress are worded here as dockerd words them: its clients draw a bar for each
//! `id`, and other tools read the sentences.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use futures_util::stream;
use http::StatusCode;
use hull_engine::EngineError;
use hull_engine::api::{LayerStep, PullRequest, PushRequest, RegistryAuth, Transfer};
use hull_model::{Digest, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::images::{Line as Failure, join_tag, platform_query, refuse_other_platform};
use crate::body::{Body, json, json_line, reply};
use crate::download::failure_of;
use crate::errors::ApiError;
use crate::filter::Filters;
use crate::request::Call;
use crate::router::Answer;

/// Lines of progress that wait for the client to read them.
const LINES_MAX: usize = 64;
/// Digits of a digest by which a layer is shown.
const SHORT_DIGITS: usize = 12;
/// Letters of a bar of progress.
const BAR_LETTERS: u64 = 50;
/// Results of a search where nobody said otherwise, and at most.
const SEARCH_DEFAULT: u32 = 25;
const SEARCH_MAX: u32 = 100;
/// What clients send in `X-Registry-Auth`: either alphabet, with padding or without.
const HEADER: &str = "x-registry-auth";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireAuth {
    username: String,
    password: String,
    /// Name and password in one, as `config.json` has it.
    auth: String,
    serveraddress: String,
    identitytoken: String,
    registrytoken: String,
}

impl From<WireAuth> for RegistryAuth {
    fn from(wire: WireAuth) -> Self {
        let both = decode(&wire.auth).and_then(|bytes| String::from_utf8(bytes).ok());
        let both = both.as_deref().and_then(|both| both.split_once(':'));
        let (username, password) = match both {
            Some((user, password)) if wire.username.is_empty() => (user.into(), password.into()),
            _ => (wire.username, wire.password),
        };
        Self {
            username,
            password,
            identity_token: wire.identitytoken,
            registry_token: wire.registrytoken,
        }
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let padding =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let decode = |alphabet| GeneralPurpose::new(alphabet, padding).decode(text);
    decode(&alphabet::URL_SAFE)
        .or_else(|_| decode(&alphabet::STANDARD))
        .ok()
}

/// Who the client is; one that says it in no form that is known is nobody, as in Docker.
fn auth_of(call: &Call) -> RegistryAuth {
    let header = call
        .request
        .headers()
        .get(HEADER)
        .and_then(|value| value.to_str().ok());
    let wire = header
        .and_then(decode)
        .and_then(|bytes| serde_json::from_slice::<WireAuth>(&bytes).ok());
    wire.unwrap_or_default().into()
}

pub(super) async fn pull(call: Call) -> Answer {
    let query = &call.query;
    let request = PullRequest {
        reference: join_tag(query.get("fromImage"), query.get("tag")),
        platform: Some(query.get("platform").to_owned()).filter(|p| !p.is_empty()),
        auth: auth_of(&call),
    };
    let engine = call.engine().clone();
    let (told, lines) = mpsc::channel(LINES_MAX);
    let task = tokio::spawn(async move { engine.images().pull(request, told).await });
    stream_of(lines, task).await
}

pub(super) async fn push(call: Call) -> Answer {
    let reference = join_tag(call.name(), call.query.get("tag"));
    if let Some(platform) = platform_query(&call)? {
        let image = call.engine().images().resolve(&reference)?;
        refuse_other_platform(&call, &image, Some(&platform))?;
    }
    let request = PushRequest {
        reference,
        auth: auth_of(&call),
    };
    let engine = call.engine().clone();
    let (told, lines) = mpsc::channel(LINES_MAX);
    let task = tokio::spawn(async move { engine.images().push(request, told).await });
    stream_of(lines, task).await
}

/// The lines of a transfer. What fails before the first of them is a plain error.
async fn stream_of(
    mut lines: mpsc::Receiver<Transfer>,
    task: JoinHandle<Result<(), EngineError>>,
) -> Answer {
    let first = lines.recv().await;
    if first.is_none() {
        return match failure_of(task).await {
            Some(error) => Err(status_of_registry(error)),
            None => Ok(reply(StatusCode::OK, "application/json", Body::Whole(None))),
        };
    }
    let pieces = stream::unfold(Some((first, lines, task)), |state| async move {
        let (mut first, mut lines, task) = state?;
        let next = match first.take() {
            Some(first) => Some(first),
            None => lines.recv().await,
        };
        match next {
            Some(transfer) => Some((bytes_of(&transfer), Some((None, lines, task)))),
            None => {
                let message = failure_of(task).await?.message;
                tracing::info!(message, "a transfer failed");
                Some((Failure::failure(message).bytes(), None))
            }
        }
    });
    Ok(reply(
        StatusCode::OK,
        "application/json",
        Body::streamed(pieces),
    ))
}

/// Docker answers 500 for whatever a registry or the way to it does wrong.
fn status_of_registry(error: ApiError) -> ApiError {
    match error.status {
        StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST | StatusCode::NOT_IMPLEMENTED => error,
        _ => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.message),
    }
}

/// A line of progress, with the fields in Docker's order.
#[derive(Debug, Default, Serialize)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    detail: Option<Detail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aux: Option<Aux>,
}

#[derive(Debug, Default, Serialize)]
struct Detail {
    #[serde(skip_serializing_if = "crate::wire::is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "crate::wire::is_zero")]
    total: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Aux {
    tag: String,
    digest: Digest,
    size: u64,
}

fn bytes_of(transfer: &Transfer) -> std::io::Result<bytes::Bytes> {
    let mut all = Vec::new();
    for line in lines_of(transfer) {
        let bytes = json_line(&line).map_err(|error| std::io::Error::other(error.message))?;
        all.extend_from_slice(&bytes);
    }
    Ok(all.into())
}

fn status(text: String) -> Line {
    Line {
        status: Some(text),
        ..Line::default()
    }
}

fn lines_of(transfer: &Transfer) -> Vec<Line> {
    match transfer {
        Transfer::Pulling { repository, tag } => {
            let id = Some(tag.clone());
            vec![Line {
                id,
                ..status(format!("Pulling from {repository}"))
            }]
        }
        Transfer::Pushing { repository } => {
            vec![status(format!(
                "The push refers to repository [{repository}]"
            ))]
        }
        Transfer::Layer { digest, step } => layer_lines(digest, step),
        Transfer::Pulled { digest } => vec![status(format!("Digest: {digest}"))],
        Transfer::Status {
            reference,
            newer: true,
        } => {
            vec![status(format!(
                "Status: Downloaded newer image for {reference}"
            ))]
        }
        Transfer::Status {
            reference,
            newer: false,
        } => {
            vec![status(format!(
                "Status: Image is up to date for {reference}"
            ))]
        }
        Transfer::OnePlatform => vec![status(
            "Not all multiplatform-content is present and only the available single-platform \
             image was pushed"
                .to_owned(),
        )],
        Transfer::Pushed { tag, digest, size } => {
            let aux = Aux {
                tag: tag.clone(),
                digest: *digest,
                size: *size,
            };
            let detail = Some(Detail::default());
            vec![
                status(format!("{tag}: digest: {digest} size: {size}")),
                Line {
                    detail,
                    aux: Some(aux),
                    ..Line::default()
                },
            ]
        }
    }
}

fn layer_lines(digest: &Digest, step: &LayerStep) -> Vec<Line> {
    let line = |text: &str| Line {
        detail: Some(Detail::default()),
        id: Some(digest.hex()[..SHORT_DIGITS].to_owned()),
        ..status(text.to_owned())
    };
    let moving = |text: &str, current: u64, total: u64| Line {
        detail: Some(Detail { current, total }),
        progress: Some(bar(current, total)),
        ..line(text)
    };
    match step {
        LayerStep::Queued => vec![line("Pulling fs layer")],
        LayerStep::Waiting => vec![line("Waiting")],
        LayerStep::AlreadyHere => vec![line("Already exists")],
        LayerStep::Downloading { current, total } => vec![moving("Downloading", *current, *total)],
        LayerStep::Downloaded => vec![line("Verifying Checksum"), line("Download complete")],
        LayerStep::Extracting { total } => vec![moving("Extracting", *total, *total)],
        LayerStep::Complete => vec![line("Pull complete")],
        LayerStep::Preparing => vec![line("Preparing")],
        LayerStep::AlreadyThere => vec![line("Layer already exists")],
        LayerStep::Pushing { current, total } => vec![moving("Pushing", *current, *total)],
        LayerStep::Pushed => vec![line("Pushed")],
        LayerStep::Mounted { from } => vec![line(&format!("Mounted from {from}"))],
    }
}

/// `[=====>     ]  1.2MB/3.4MB`, as clients print it that do not draw themselves.
fn bar(current: u64, total: u64) -> String {
    let done = u128::from(current) * u128::from(BAR_LETTERS) / u128::from(total.max(1));
    let done = u64::try_from(done).unwrap_or(BAR_LETTERS).min(BAR_LETTERS);
    let letters = |letter: &str, count: u64| letter.repeat(usize::try_from(count).unwrap_or(0));
    let (done, left) = (letters("=", done), letters(" ", BAR_LETTERS - done));
    format!("[{done}>{left}] {:>8}/{}", size(current), size(total))
}

/// Four digits and a unit of a thousand, as Go's `HumanSize` writes them.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let before = if value >= 100.0 {
        3
    } else if value >= 10.0 {
        2
    } else {
        1
    };
    let mut digits = format!("{value:.*}", 4usize.saturating_sub(before));
    if digits.contains('.') {
        digits = digits
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned();
    }
    format!("{digits}{}", UNITS[unit])
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct LoginAnswer {
    status: &'static str,
    identity_token: String,
}

pub(super) async fn login(mut call: Call) -> Answer {
    let wire: WireAuth = call.json().await?;
    let address = wire.serveraddress.clone();
    let auth = RegistryAuth::from(wire);
    match call.engine().images().login(&address, &auth).await {
        Ok(identity_token) => json(&LoginAnswer {
            status: "Login Succeeded",
            identity_token,
        }),
        Err(error) if error.kind() == ErrorKind::Unauthenticated => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            ApiError::from(error).message,
        )),
        Err(error) => Err(status_of_registry(error.into())),
    }
}

pub(super) async fn distribution(call: Call) -> Answer {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Descriptor {
        media_type: String,
        digest: Digest,
        size: u64,
    }
    #[derive(Serialize)]
    struct Platform {
        architecture: String,
        os: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        variant: String,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Shown {
        descriptor: Descriptor,
        platforms: Vec<Platform>,
    }
    let request = PullRequest {
        reference: call.name().to_owned(),
        platform: None,
        auth: auth_of(&call),
    };
    let looked = call.engine().images().look(request).await;
    let image = looked.map_err(|error| match error.kind() {
        ErrorKind::Unauthenticated => error.into(),
        _ => status_of_registry(error.into()),
    })?;
    let descriptor = Descriptor {
        media_type: image.media_type,
        digest: image.digest,
        size: image.size,
    };
    let platform = |(architecture, os, variant)| Platform {
        architecture,
        os,
        variant,
    };
    let platforms = image.platforms.into_iter().map(platform).collect();
    json(&Shown {
        descriptor,
        platforms,
    })
}

pub(super) async fn search(call: Call) -> Answer {
    let filters = Filters::parse(
        call.query.get("filters"),
        &["is-automated", "is-official", "stars"],
    )?;
    let bad = |text: &String| text.parse::<i64>().is_err();
    if let Some(text) = filters.get("stars").iter().find(|text| bad(text)) {
        return Err(ApiError::invalid(format!("invalid filter 'stars={text}'")));
    }
    let limit = match call.query.get("limit") {
        "" => SEARCH_DEFAULT,
        text => text
            .parse()
            .ok()
            .filter(|limit| (1..=SEARCH_MAX).contains(limit))
            .ok_or_else(|| {
                ApiError::invalid(format!("Limit {text} is outside the range of [1, 100]"))
            })?,
    };
    let images = call.engine().images();
    let found = images
        .search(call.query.get("term"), limit, &auth_of(&call))
        .await;
    let found = found.map_err(|error| status_of_registry(error.into()))?;
    let found: Value = serde_json::from_slice(&found)
        .map_err(|cause| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, cause.to_string()))?;
    let (official, automated) = (
        filters.switch("is-official")?,
        filters.switch("is-automated")?,
    );
    let stars = filters
        .get("stars")
        .first()
        .and_then(|stars| stars.parse::<i64>().ok());
    let is = |row: &Value, name: &str| row.get(name).and_then(Value::as_bool).unwrap_or_default();
    let rows = found.get("results").and_then(Value::as_array);
    let rows: Vec<&Value> = rows
        .into_iter()
        .flatten()
        .filter(|row| {
            let has = row
                .get("star_count")
                .and_then(Value::as_i64)
                .unwrap_or_default();
            official.is_none_or(|wanted| is(row, "is_official") == wanted)
                && automated.is_none_or(|wanted| is(row, "is_automated") == wanted)
                && stars.is_none_or(|stars| has >= stars)
        })
        .collect();
    json(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(transfer: &Transfer) -> String {
        String::from_utf8(bytes_of(transfer).expect("JSON").to_vec()).expect("text")
    }

    #[test]
    fn lines_are_dockers() {
        let digest = Digest::from_bytes([0xab; 32]);
        let step = |step| text(&Transfer::Layer { digest, step });
        assert_eq!(
            step(LayerStep::Complete),
            "{\"status\":\"Pull complete\",\"progressDetail\":{},\"id\":\"abababababab\"}\n"
        );
        assert_eq!(
            step(LayerStep::Downloading {
                current: 1_500_000,
                total: 3_000_000
            }),
            format!(
                "{{\"status\":\"Downloading\",\"progressDetail\":{{\"current\":1500000,\
                 \"total\":3000000}},\"progress\":\"[{}>{}]    1.5MB/3MB\",\
                 \"id\":\"abababababab\"}}\n",
                "=".repeat(25),
                " ".repeat(25)
            )
        );
        let pushed = Transfer::Pushed {
            tag: "t".into(),
            digest,
            size: 7,
        };
        assert!(text(&pushed).ends_with(&format!(
            "\"aux\":{{\"Tag\":\"t\",\"Digest\":\"{digest}\",\"Size\":7}}}}\n"
        )));
    }

    #[test]
    fn credentials_are_read_in_both_alphabets() {
        for text in [
            "eyJ1c2VybmFtZSI6InU_Pj4ifQ==",
            "eyJ1c2VybmFtZSI6InU_Pj4ifQ",
            "eyJ1c2VybmFtZSI6InU/Pj4ifQ==",
        ] {
            let wire: WireAuth =
                serde_json::from_slice(&decode(text).expect("base64")).expect("JSON");
            assert_eq!(RegistryAuth::from(wire).username, "u?>>");
        }
        let wire = WireAuth {
            auth: "dTpwOnE=".into(),
            ..WireAuth::default()
        };
        let auth = RegistryAuth::from(wire);
        assert_eq!(
            (auth.username.as_str(), auth.password.as_str()),
            ("u", "p:q")
        );
    }

    #[test]
    fn sizes_have_four_digits() {
        for (bytes, shown) in [
            (0, "0B"),
            (999, "999B"),
            (1_234_567, "1.235MB"),
            (81_000_000, "81MB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }
}
