//! Finds the handler of a request: version prefix, then one table of method and pattern.
//!
//! A pattern is a path with names in braces. `{name}` stands for one segment, `{name..}` for one or
//! more, because image names contain slashes. The table is data, in `routes/mod.rs`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue, SERVER};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use crate::body::Reply;
use crate::errors::ApiError;
use crate::query::{Query, percent_decode};
use crate::request::{ApiMinor, Call, drain, is_json, read_all};
use crate::routes;
use crate::server::App;
use crate::{API_VERSION, API_VERSION_MIN};

/// Newest minor version, the number in [`API_VERSION`].
const MINOR_MAX: ApiMinor = 48;
/// Oldest minor version, the number in [`API_VERSION_MIN`].
const MINOR_MIN: ApiMinor = 24;

/// What a handler returns.
pub(crate) type Answer = Result<Reply, ApiError>;
/// A handler, boxed so that the table can hold it.
pub(crate) type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Answer> + Send>>;

/// One row of the table.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) pattern: &'static str,
    pub(crate) run: Handler,
}

/// Answers one request; never fails, an error is an answer too.
pub(crate) async fn answer(
    app: Arc<App>,
    request: Request<Incoming>,
    place: Arc<OwnedSemaphorePermit>,
) -> Reply {
    let began = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let server = server_name(&app.config().version);
    let answered = dispatch(app, request, place, &path).await;
    let micros = began.elapsed().as_micros();
    let mut reply = match answered {
        Ok(reply) => {
            tracing::debug!(%method, path, status = reply.status().as_u16(), micros, "answered");
            reply
        }
        Err(error) => {
            log_failure(&method, &path, &error);
            error.into_reply()
        }
    };
    let headers = reply.headers_mut();
    headers.insert("api-version", HeaderValue::from_static(API_VERSION));
    headers.insert(
        HeaderName::from_static("docker-experimental"),
        HeaderValue::from_static("false"),
    );
    headers.insert(
        HeaderName::from_static("ostype"),
        HeaderValue::from_static("linux"),
    );
    headers.insert(SERVER, server);
    reply
}

/// Where the body is an archive, whatever the client calls it: bollard calls it JSON.
const UPLOADS: [&str; 4] = [
    "/images/load",
    "/images/create",
    "/containers/{name}/archive",
    "/hull/volumes/{name}/import",
];

async fn dispatch(
    app: Arc<App>,
    mut request: Request<Incoming>,
    place: Arc<OwnedSemaphorePermit>,
    path: &str,
) -> Answer {
    let found = find(request.method(), path);
    let uploads = |found: &Found| UPLOADS.contains(&found.route.pattern);
    let json = if is_json(&request) && !found.as_ref().is_ok_and(uploads) {
        read_all(request.body_mut()).await?
    } else {
        Bytes::new()
    };
    match found {
        Ok(Found {
            route,
            names,
            minor,
        }) => {
            let query = Query::parse(request.uri().query().unwrap_or(""));
            (route.run)(Call {
                app,
                names,
                query,
                minor,
                request,
                json,
                place,
            })
            .await
        }
        Err(error) => {
            drain(request.body_mut()).await;
            Err(error)
        }
    }
}

fn server_name(version: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("Hull/{version} (linux)"))
        .unwrap_or(HeaderValue::from_static("Hull (linux)"))
}

/// One line per failed request: at `warn` when it is our failure, at `info` when the client's.
fn log_failure(method: &Method, path: &str, error: &ApiError) {
    let (status, message) = (error.status.as_u16(), error.message.as_str());
    match error.status {
        StatusCode::NOT_MODIFIED => tracing::debug!(%method, path, status, "answered"),
        s if s.is_server_error() && s != StatusCode::NOT_IMPLEMENTED => {
            tracing::warn!(%method, path, status, message, "request failed");
        }
        _ => tracing::info!(%method, path, status, message, "request refused"),
    }
}

struct Found {
    route: &'static Route,
    names: Vec<String>,
    minor: ApiMinor,
}

fn find(method: &Method, path: &str) -> Result<Found, ApiError> {
    let path = percent_decode(path, false);
    let (minor, path) = split_version(&path)?;
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    routes::ROUTES
        .iter()
        .filter(|route| route.method == *method)
        .find_map(|route| {
            Some(Found {
                route,
                names: match_path(route.pattern, &segments)?,
                minor,
            })
        })
        .ok_or_else(ApiError::no_such_page)
}

/// Splits `/v1.41/info` into 41 and `/info`; without a prefix the newest version is meant.
fn split_version(path: &str) -> Result<(ApiMinor, &str), ApiError> {
    let Some(rest) = path.strip_prefix("/v") else {
        return Ok((MINOR_MAX, path));
    };
    let (version, _) = rest.split_once('/').unwrap_or((rest, ""));
    let Some((major, minor)) = version.split_once('.') else {
        return Ok((MINOR_MAX, path));
    };
    let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<ApiMinor>()) else {
        return Ok((MINOR_MAX, path));
    };
    if (major, minor) > (1, MINOR_MAX) {
        return Err(ApiError::invalid(format!(
            "client version {version} is too new. Maximum supported API version is {API_VERSION}"
        )));
    }
    if (major, minor) < (1, MINOR_MIN) {
        return Err(ApiError::invalid(format!(
            "client version {version} is too old. Minimum supported API version is \
             {API_VERSION_MIN}, please upgrade your client to a newer version"
        )));
    }
    Ok((minor, &rest[version.len()..]))
}

/// What the names of the pattern stand for; `None` when it does not fit.
fn match_path(pattern: &str, segments: &[&str]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut left = segments;
    let mut parts = pattern.split('/').skip(1);
    while let Some(part) = parts.next() {
        let taken = if part.ends_with("..}") {
            let after = parts.clone().count();
            left.len().checked_sub(after)?
        } else {
            1
        };
        if taken == 0 || taken > left.len() {
            return None;
        }
        let (here, rest) = left.split_at(taken);
        if part.starts_with('{') {
            let name = here.join("/");
            if name.is_empty() {
                return None;
            }
            names.push(name);
        } else if here[0] != part {
            return None;
        }
        left = rest;
    }
    left.is_empty().then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, path: &str, expected: Option<&[&str]>) {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let expected = expected.map(|names| names.iter().map(|n| n.to_string()).collect());
        assert_eq!(match_path(pattern, &segments), expected, "{pattern} {path}");
    }

    #[test]
    fn patterns_fit_whole_paths_only() {
        check("/info", "/info", Some(&[]));
        check("/info", "/info/", None);
        check(
            "/containers/{name}/json",
            "/containers/web/json",
            Some(&["web"]),
        );
        check("/containers/{name}/json", "/containers//json", None);
        check("/containers/{name}/json", "/containers/a/b/json", None);
        check(
            "/images/{name..}/json",
            "/images/h:5/a/b/json",
            Some(&["h:5/a/b"]),
        );
        check("/images/{name..}/json", "/images/json", None);
        check("/images/{name..}", "/images/a/b", Some(&["a/b"]));
        check("/images/{name..}", "/images", None);
        check("/a/{x}/b/{y..}", "/a/1/b/2/3", Some(&["1", "2/3"]));
    }

    #[test]
    fn versions_are_optional_and_bounded() {
        assert_eq!(split_version("/info"), Ok((48, "/info")));
        assert_eq!(split_version("/v1.41/info"), Ok((41, "/info")));
        assert_eq!(split_version("/volumes"), Ok((48, "/volumes")));
        assert_eq!(
            split_version("/v1.99/info").unwrap_err().message,
            "client version 1.99 is too new. Maximum supported API version is 1.48"
        );
        assert_eq!(
            split_version("/v1.12/info").unwrap_err().message,
            "client version 1.12 is too old. Minimum supported API version is 1.24, please \
             upgrade your client to a newer version"
        );
        assert!(split_version("/v2.0/info").is_err());
    }

    #[test]
    fn the_version_numbers_agree() {
        assert_eq!(API_VERSION, format!("1.{MINOR_MAX}"));
        assert_eq!(API_VERSION_MIN, format!("1.{MINOR_MIN}"));
    }

    /// A row behind one that takes the same paths would never be reached.
    #[test]
    fn every_route_reaches_its_own_handler() {
        for (at, route) in routes::ROUTES.iter().enumerate() {
            let path = route
                .pattern
                .replace("{name..}", "a")
                .replace("{name}", "a")
                .replace("{id}", "a")
                .replace("{rest..}", "a");
            let segments: Vec<&str> = path.split('/').skip(1).collect();
            let first = routes::ROUTES.iter().position(|r| {
                r.method == route.method && match_path(r.pattern, &segments).is_some()
            });
            assert_eq!(first, Some(at), "{} {}", route.method, route.pattern);
        }
    }
}
