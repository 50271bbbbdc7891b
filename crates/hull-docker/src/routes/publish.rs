//! Changing the published ports of a container that exists: not in Docker's API.

use std::collections::BTreeMap;

use hull_engine::api::PublishRequest;
use hull_model::spec::PortBinding;
use serde::Deserialize;

use super::Answer;
use crate::body::no_content;
use crate::request::Call;
use crate::wire::host_config::{PortMap, read_port_bindings};

/// Ports to publish and to take back, in the form of `PortBindings`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PublishBody {
    add: PortMap,
    remove: PortMap,
}

pub(super) async fn publish(mut call: Call) -> Answer {
    let body: PublishBody = call.json().await?;
    let id = call.container()?;
    let change = PublishRequest {
        add: flat(read_port_bindings(body.add)),
        remove: flat(read_port_bindings(body.remove)),
    };
    call.engine().containers().publish(id, change).await?;
    Ok(no_content())
}

/// One entry per binding; a port without any stands for any port of the host, or for all.
fn flat(bindings: BTreeMap<String, Vec<PortBinding>>) -> Vec<(String, PortBinding)> {
    let each = |(port, bindings): (String, Vec<PortBinding>)| {
        let bindings = match bindings.is_empty() {
            true => vec![PortBinding::default()],
            false => bindings,
        };
        bindings
            .into_iter()
            .map(move |binding| (port.clone(), binding))
    };
    bindings.into_iter().flat_map(each).collect()
}
