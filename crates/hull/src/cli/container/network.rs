//! `--network` and the older flags about it, joined into endpoints.

use std::collections::BTreeMap;

use super::ContainerOptions;
use super::parse;
use super::wire::{EndpointSettings, IpamConfig, NetworkingConfig};

/// A network and how to join it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attachment {
    target: String,
    /// The long form was used: then there is a list of aliases, even if empty.
    aliases: Vec<String>,
    links: Vec<String>,
    driver_opts: BTreeMap<String, String>,
    ipv4_address: String,
    ipv6_address: String,
    link_local_ips: Vec<String>,
    mac_address: String,
    gw_priority: i64,
}

/// Parses a network's name, or `name=...,alias=...,ip=...`.
///
/// # Errors
/// The words of Docker's client.
pub(super) fn attachment(text: &str) -> Result<Attachment, String> {
    if !is_long_form(text) {
        return Ok(Attachment {
            target: text.to_owned(),
            ..Attachment::default()
        });
    }
    let mut attachment = Attachment::default();
    for field in parse::csv(text)? {
        let lower = field.to_lowercase();
        let (key, value) = match lower.split_once('=') {
            Some((key, value)) if !key.is_empty() => (key.trim(), value.trim().to_owned()),
            _ => return Err(format!("invalid field {field}")),
        };
        match key {
            "name" => attachment.target = value,
            "alias" => attachment.aliases.push(value),
            "ip" => attachment.ipv4_address = value,
            "ip6" => attachment.ipv6_address = value,
            "mac-address" => attachment.mac_address = value,
            "link-local-ip" => attachment.link_local_ips.push(value),
            "driver-opt" => {
                let invalid = || "invalid key value pair format in driver options".to_owned();
                let (key, value) = value.split_once('=').ok_or_else(invalid)?;
                let (key, value) = (key.trim(), value.trim());
                attachment
                    .driver_opts
                    .insert(key.to_owned(), value.to_owned());
            }
            "gw-priority" => {
                attachment.gw_priority = value
                    .parse()
                    .map_err(|_| format!("invalid gw-priority ({value}): invalid syntax"))?;
            }
            _ => return Err(format!("invalid field key {key}")),
        }
    }
    if attachment.target.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok(attachment)
}

/// Whether there is a `word=word` anywhere in it.
fn is_long_form(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices('=')
        .any(|(at, _)| text[..at].ends_with(word) && text[at + 1..].starts_with(word))
}

/// The name of the first network: the API's `NetworkMode`.
pub(super) fn mode(options: &ContainerOptions) -> String {
    options
        .network
        .first()
        .map_or("default", |first| &first.target)
        .to_owned()
}

/// What the flags say about networks.
///
/// # Errors
/// The words of Docker's client, where they contradict each other.
pub(super) fn networking(options: &ContainerOptions) -> Result<NetworkingConfig, String> {
    let mut endpoints = BTreeMap::new();
    let mut networks = options.network.clone();
    if networks.is_empty() {
        networks.push(Attachment {
            target: "default".to_owned(),
            ..Attachment::default()
        });
    } else if !networks.iter().all(|n| is_user_defined(&n.target))
        && networks.iter().any(|n| is_user_defined(&n.target))
    {
        return Err(
            "conflicting options: cannot attach both user-defined and non-user-defined \
                    network-modes"
                .to_owned(),
        );
    }
    let single = networks.len() == 1;
    for (index, mut network) in networks.into_iter().enumerate() {
        if index == 0 {
            apply_older_flags(&mut network, options)?;
        }
        let target = network.target.clone();
        let settings = endpoint(network)?;
        if endpoints.contains_key(&target) {
            return Err(format!("network {target:?} is specified multiple times"));
        }
        // A plain name is left to the server, as before there was more to say.
        let plain = settings == EndpointSettings::default();
        if single && plain && !options.network.is_empty() {
            continue;
        }
        endpoints.insert(target, settings);
    }
    Ok(NetworkingConfig {
        endpoints_config: endpoints,
    })
}

/// `--ip`, `--network-alias` and others are about the first network.
fn apply_older_flags(network: &mut Attachment, options: &ContainerOptions) -> Result<(), String> {
    let both = |flag: &str, what: &str| {
        Err(format!(
            "conflicting options: cannot specify both {flag} and per-network {what}"
        ))
    };
    let list = |older: &Vec<String>, own: &mut Vec<String>| {
        if older.is_empty() {
            return true;
        }
        let free = own.is_empty();
        own.clone_from(older);
        free
    };
    let single = |older: &Option<String>, own: &mut String| {
        let Some(older) = older else { return true };
        let free = own.is_empty();
        own.clone_from(older);
        free
    };
    if !list(&options.network_alias, &mut network.aliases) {
        return both("--network-alias", "alias");
    }
    // For the default bridge a link is something else, and not of the endpoint.
    if is_user_defined(&network.target) && !list(&options.link, &mut network.links) {
        return both("--link", "links");
    }
    if !single(&options.ip, &mut network.ipv4_address) {
        return both("--ip", "IPv4 address");
    }
    if !single(&options.ip6, &mut network.ipv6_address) {
        return both("--ip6", "IPv6 address");
    }
    if !single(&options.mac_address, &mut network.mac_address) {
        return both("--mac-address", "MAC address");
    }
    if !list(&options.link_local_ip, &mut network.link_local_ips) {
        return both("--link-local-ip", "link-local IP addresses");
    }
    Ok(())
}

fn endpoint(network: Attachment) -> Result<EndpointSettings, String> {
    if network.target.trim().is_empty() {
        return Err("no name set for network".to_owned());
    }
    if !is_user_defined(&network.target) && !network.aliases.is_empty() {
        let text = "network-scoped aliases are only supported for user-defined networks";
        return Err(text.to_owned());
    }
    if !network.mac_address.is_empty() && !parse::is_mac_address(&network.mac_address) {
        return Err(format!(
            "{} is not a valid mac address",
            network.mac_address
        ));
    }
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    let ipam = IpamConfig {
        ipv4_address: network.ipv4_address,
        ipv6_address: network.ipv6_address,
        link_local_ips: network.link_local_ips,
    };
    Ok(EndpointSettings {
        ipam_config: (ipam != IpamConfig::default()).then_some(ipam),
        links: some(network.links),
        aliases: some(network.aliases),
        mac_address: network.mac_address,
        driver_opts: (!network.driver_opts.is_empty()).then_some(network.driver_opts),
        gw_priority: network.gw_priority,
        ..EndpointSettings::default()
    })
}

fn is_user_defined(name: &str) -> bool {
    !matches!(name, "default" | "bridge" | "host" | "none") && !name.starts_with("container:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_form_is_told_from_a_name() {
        assert_eq!(attachment("web").unwrap().target, "web");
        assert_eq!(attachment("container:a").unwrap().target, "container:a");
        let long = attachment("name=web,alias=a,alias=b,ip=10.0.0.2,gw-priority=3").unwrap();
        assert_eq!(
            (long.target.as_str(), long.aliases.len(), long.gw_priority),
            ("web", 2, 3)
        );
        assert_eq!(
            attachment("alias=a").unwrap_err(),
            "network name/id is not specified"
        );
        assert_eq!(
            attachment("name=a,foo=1").unwrap_err(),
            "invalid field key foo"
        );
    }
}
