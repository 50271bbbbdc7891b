//! A plain download from an address that is no registry's: for `import`.
//!
//! It sends nothing of the client's or the host's, follows redirects, and goes the same way as all
//! other requests: proxies, authorities and certs.d count.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::connection::Connections;
use crate::error::{Error, Result};
use crate::hosts::Hosts;
use crate::registry::{Ask, Client, good};
use crate::stream::{PIECES_MAX, Pieces, Watch};
use crate::url::Url;

/// Gets what is at an address, `http://` or `https://`. It is not asked for again when that breaks:
/// nobody knows what it should be.
///
/// # Errors
/// When the address is none, or the server does not answer with it.
pub async fn download(hosts: &Arc<Hosts>, address: &str) -> Result<Pieces> {
    let no_address = || Error::Unsupported(format!("{address} is no address of HTTP"));
    let url = Url::parse(address).ok_or_else(no_address)?;
    let connections = Connections::new(hosts.clone(), HashMap::new());
    let client = Client { connections };
    let ask = Ask::new(Method::GET, url, "");
    let response = client.follow(None, &ask).await?;
    let body = good(response, &ask).await?.into_body();
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    // Ends with the body, or with whoever reads it.
    tokio::spawn(pass_on(body, ask.url.to_string(), sender));
    Ok(pieces)
}

async fn pass_on(mut body: Incoming, url: String, out: mpsc::Sender<Result<bytes::Bytes>>) {
    let mut watch = Watch::new();
    loop {
        let piece = match watch.next(&mut body).await {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => return,
            Err(cause) => Err(Error::Exchange {
                method: "Get",
                url: url.clone(),
                cause,
            }),
        };
        let broken = piece.is_err();
        if out.send(piece).await.is_err() || broken {
            return;
        }
    }
}
