//! From leased endpoints to requests for links.
//!
//! A container's endpoints are numbered; the number is that of its link inside (`eth0`) and part
//! of the name of its link on the host, so that both are known before they exist. The way out is
//! that of the endpoint with the highest gateway priority, among equals of the first network by
//! name, for each family of addresses by itself.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use hull_model::SandboxId;
use hull_model::spec::{ContainerSpec, EndpointSpec, Isolation, NetworkMode};
use hull_sandbox::LinkSteps;

use super::{Network, failed};
use crate::api::Endpoint;
use crate::error::{EngineError, Result};
use crate::network::table::DEFAULT_NETWORK;

/// Whether a container has a network namespace that can be on networks.
pub(crate) fn has_networks(mode: &NetworkMode) -> bool {
    matches!(mode, NetworkMode::Default | NetworkMode::Named(_))
}

/// Name of the network of a mode.
pub(crate) fn main_network(mode: &NetworkMode) -> &str {
    match mode {
        NetworkMode::Named(name) => name,
        _ => DEFAULT_NETWORK,
    }
}

/// The endpoints with the way out, of IPv4 and of IPv6.
pub(crate) fn with_way_out(endpoints: &[Endpoint]) -> (Option<&Endpoint>, Option<&Endpoint>) {
    let best = |able: fn(&&Endpoint) -> bool| {
        endpoints
            .iter()
            .filter(able)
            .min_by_key(|e| (std::cmp::Reverse(e.gateway_priority), e.network.as_str()))
    };
    (
        best(|e| e.gateway.is_some()),
        best(|e| e.gateway6.is_some()),
    )
}

/// Over which gateways leaves what has no other route.
pub(super) fn way_out(endpoints: &[Endpoint]) -> Vec<(u8, IpAddr)> {
    let (v4, v6) = with_way_out(endpoints);
    let v4 = v4.and_then(|e| Some((e.number, IpAddr::V4(e.gateway?))));
    let v6 = v6.and_then(|e| Some((e.number, IpAddr::V6(e.gateway6?))));
    v4.into_iter().chain(v6).collect()
}

impl Network {
    /// The networks that a container wants when it starts, the main one first.
    pub(crate) fn wanted(&self, spec: &ContainerSpec) -> Vec<(String, EndpointSpec)> {
        if !has_networks(&spec.host.network) || self.has_no_bridge(&spec.host.network) {
            return Vec::new();
        }
        let main = self.name_of(main_network(&spec.host.network));
        let mut all: Vec<_> = spec.endpoints.clone().into_iter().collect();
        all.sort_by_key(|(name, _)| *name != main);
        all
    }

    /// Link steps for one start.
    pub(crate) fn steps(
        &self,
        id: SandboxId,
        spec: &ContainerSpec,
        endpoints: &[Endpoint],
    ) -> Result<Vec<LinkSteps>> {
        match spec.host.network {
            NetworkMode::Host | NetworkMode::Container(_) => Ok(Vec::new()),
            _ if endpoints.is_empty() => Ok(vec![convert(hull_net::plan_loopback())]),
            _ => endpoints
                .iter()
                .map(|endpoint| {
                    let is_tap = spec.host.isolation == Isolation::Vm;
                    self.steps_of(id, endpoint, endpoints, is_tap).map(convert)
                })
                .collect(),
        }
    }

    fn steps_of(
        &self,
        id: SandboxId,
        endpoint: &Endpoint,
        all: &[Endpoint],
        is_tap: bool,
    ) -> Result<hull_net::LinkSteps> {
        let mac = endpoint
            .mac
            .parse()
            .map_err(|error: hull_net::InvalidNetwork| EngineError::Invalid(error.to_string()))?;
        let gateways = way_out(all)
            .into_iter()
            .filter(|(number, _)| *number == endpoint.number)
            .map(|(_, gateway)| gateway)
            .collect();
        let wanted = hull_net::Endpoint {
            sandbox: id,
            number: endpoint.number,
            link: hull_net::inner_link(endpoint.number),
            addresses: endpoint.addresses().collect(),
            link_local: endpoint.link_local.clone(),
            mac: Some(mac),
            gateways,
            is_tap,
        };
        self.networks
            .attach(&endpoint.network, &wanted)
            .map_err(failed("plan the container's link"))
    }

    /// Makes the link of an endpoint of a container that runs; returns the requests that its shim
    /// has to carry out next. Doing it again changes nothing.
    pub(crate) fn connect(
        &self,
        id: SandboxId,
        endpoint: &Endpoint,
        all: &[Endpoint],
        namespace: BorrowedFd<'_>,
        is_tap: bool,
    ) -> Result<Vec<u8>> {
        let steps = self.steps_of(id, endpoint, all, is_tap)?;
        self.networks
            .connect(&steps, namespace)
            .map_err(failed("connect the container"))?;
        if !is_tap {
            return Ok(steps.inside);
        }
        let mac: hull_net::Mac = endpoint
            .mac
            .parse()
            .map_err(|error: hull_net::InvalidNetwork| EngineError::Invalid(error.to_string()))?;
        let link = hull_net::inner_link(endpoint.number);
        let mut requests = hull_net::plan_card(&link, mac);
        requests.extend(steps.inside);
        Ok(requests)
    }

    /// Removes the link of an endpoint of a container that runs; returns the requests that its
    /// shim has to carry out next: the rest's way out, and the link where it has no end here.
    pub(crate) fn disconnect(
        &self,
        id: SandboxId,
        endpoint: &Endpoint,
        rest: &[Endpoint],
        is_tap: bool,
    ) -> Result<Vec<u8>> {
        let mut requests = Vec::new();
        if is_tap {
            // The card stays where it is, with nothing behind it.
            let addresses: Vec<IpAddr> = endpoint.addresses().collect();
            requests = self
                .networks
                .idle_card(&id, endpoint.number, &endpoint.network, &addresses)
                .map_err(failed("take the card off its network"))?;
        } else {
            self.detach(id, endpoint.number)?;
        }
        if self.is_on_top(endpoint) {
            let link = hull_net::inner_link(endpoint.number);
            requests.extend(hull_net::plan_removal(&link));
        }
        let gateways: Vec<(String, IpAddr)> = way_out(rest)
            .into_iter()
            .map(|(number, gateway)| (hull_net::inner_link(number), gateway))
            .collect();
        requests.extend(hull_net::plan_routes(&gateways));
        Ok(requests)
    }

    /// Removes the link of a life that is over: the kernel takes it away by and by, and another
    /// start of the same container must not find it.
    pub(crate) fn detach(&self, id: SandboxId, number: u8) -> Result<()> {
        self.networks
            .detach(&id, number)
            .map_err(failed("remove the link of the former life"))
    }
}

fn convert(steps: hull_net::LinkSteps) -> LinkSteps {
    LinkSteps {
        host: steps.host,
        inside: steps.inside,
        netns_fd_offset: steps.netns_fd_offset,
    }
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, way_out};

    fn endpoint(number: u8, network: &str, priority: i64, gateway: Option<[u8; 4]>) -> Endpoint {
        Endpoint {
            network: network.to_owned(),
            network_id: String::new(),
            endpoint_id: String::new(),
            number,
            address: None,
            prefix: 16,
            gateway: gateway.map(Into::into),
            address6: None,
            prefix6: 0,
            gateway6: None,
            mac: String::new(),
            gateway_priority: priority,
            link_local: Vec::new(),
        }
    }

    #[test]
    fn the_way_out_is_that_of_the_highest_priority_then_of_the_first_name() {
        let one = endpoint(0, "b", 0, Some([10, 0, 0, 1]));
        let two = endpoint(1, "a", 0, Some([10, 1, 0, 1]));
        let high = endpoint(2, "c", 5, Some([10, 2, 0, 1]));
        let internal = endpoint(3, "0", 9, None);
        let of = |all: &[&Endpoint]| {
            let all: Vec<Endpoint> = all.iter().map(|e| (*e).clone()).collect();
            way_out(&all)
                .iter()
                .map(|(number, _)| *number)
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[&one, &two]), [1]);
        assert_eq!(of(&[&one, &two, &high, &internal]), [2]);
        assert!(of(&[&internal]).is_empty());
    }
}
