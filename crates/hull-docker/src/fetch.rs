//! Fetches what a client names by an address instead of sending it: a plain GET, for `import`.
//!
//! It sends nothing of the client's or the host's, and follows a few redirects.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::errors::ApiError;
use crate::request::Upload;

/// How long a server may take to answer; its body may take any time.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Redirects that are followed.
const REDIRECTS_MAX: usize = 5;
const HTTP_PORT: u16 = 80;

/// Fetches an address; without a scheme it is `http`, as in Docker.
pub(crate) async fn fetch(address: &str) -> Result<Upload, ApiError> {
    let mut at = match address.contains("://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    };
    for _ in 0..=REDIRECTS_MAX {
        let uri: Uri = at
            .parse()
            .map_err(|cause| ApiError::invalid(format!("invalid address {at}: {cause}")))?;
        let answer = get(&uri).await?;
        let status = answer.status();
        if status.is_redirection() {
            at = next(&uri, &answer)?;
            continue;
        }
        if !status.is_success() {
            return Err(failed(&at, format!("status {status}")));
        }
        return Ok(Upload::of(answer.into_body()));
    }
    Err(failed(
        address,
        format!("more than {REDIRECTS_MAX} redirects"),
    ))
}

fn failed(address: &str, why: impl std::fmt::Display) -> ApiError {
    let message = format!("failed to GET {address}: {why}");
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
}

/// Where a redirect leads.
fn next(uri: &Uri, answer: &Response<Incoming>) -> Result<String, ApiError> {
    let location = answer.headers().get(header::LOCATION);
    let location = location
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| failed(&uri.to_string(), "a redirect to nowhere"))?;
    match (location.starts_with('/'), uri.authority()) {
        (true, Some(authority)) => Ok(format!("http://{authority}{location}")),
        _ => Ok(location.to_owned()),
    }
}

async fn get(uri: &Uri) -> Result<Response<Incoming>, ApiError> {
    let address = uri.to_string();
    if uri.scheme_str() != Some("http") {
        return Err(ApiError::not_there(
            "importing from an address that is not http://",
        ));
    }
    let authority = uri
        .authority()
        .ok_or_else(|| ApiError::invalid(format!("invalid address {address}: it has no host")))?;
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let exchange = async {
        let port = authority.port_u16().unwrap_or(HTTP_PORT);
        let stream = TcpStream::connect((host, port))
            .await
            .map_err(|cause| failed(&address, cause))?;
        let (mut sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|cause| failed(&address, cause))?;
        // Ends with the body.
        tokio::spawn(connection);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(header::HOST, authority.as_str())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|cause| failed(&address, cause))?;
        let answer = sender.send_request(request).await;
        answer.map_err(|cause| failed(&address, cause))
    };
    timeout(ANSWER_WAIT, exchange)
        .await
        .unwrap_or_else(|_| Err(failed(&address, "no answer in time")))
}
