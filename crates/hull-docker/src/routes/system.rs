//! The system: ping, version, info, events, disk usage, and our own verify and shutdown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use http::header::{CACHE_CONTROL, HeaderValue, PRAGMA};
use http::{Method, StatusCode};
use hull_engine::api::Facts;
use hull_model::event::{Happening, Subject};
use hull_model::state::State;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::containers::ImageNames;
use crate::body::{Body, json, json_line, no_content, reply};
use crate::errors::ApiError;
use crate::filter::Filters;
use crate::host;
use crate::request::{ApiMinor, Call};
use crate::router::Answer;
use crate::time::{self, rfc3339};
use crate::wire::container::{STORAGE_DRIVER, Summary};
use crate::wire::image;
use crate::wire::volume::Volume;
use crate::{API_VERSION, API_VERSION_MIN};

/// First version in which a client can ask for the usage of some kinds of objects only.
const MINOR_TYPES_OF_USAGE: ApiMinor = 42;
/// Kinds of objects that take space.
const USAGES: [&str; 4] = ["container", "image", "volume", "build-cache"];
/// Filters of events that name an object.
const OBJECTS: [&str; 9] = [
    "config",
    "container",
    "daemon",
    "network",
    "node",
    "plugin",
    "secret",
    "service",
    "volume",
];

pub(super) async fn ping(call: Call) -> Answer {
    let text = if call.request.method() == Method::HEAD {
        ""
    } else {
        "OK"
    };
    let body = Body::Whole(Some(text.into()));
    let mut answer = reply(StatusCode::OK, "text/plain; charset=utf-8", body);
    let headers = answer.headers_mut();
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    // Version 1 makes the CLI use the classic builder, which asks for no session.
    headers.insert("builder-version", HeaderValue::from_static("1"));
    headers.insert("swarm", HeaderValue::from_static("inactive"));
    Ok(answer)
}

pub(super) async fn version(call: Call) -> Answer {
    let config = call.app.config();
    let details = json!({
        "ApiVersion": API_VERSION,
        "Arch": host::ARCHITECTURE,
        "BuildTime": config.build_time,
        "Experimental": "false",
        "GitCommit": config.commit,
        "GoVersion": "",
        "KernelVersion": host::facts().kernel,
        "MinAPIVersion": API_VERSION_MIN,
        "Os": "linux",
    });
    json(&json!({
        "Platform": {"Name": "Hull"},
        "Components": [{"Name": "Engine", "Version": config.version, "Details": details}],
        "Version": config.version,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": API_VERSION_MIN,
        "GitCommit": config.commit,
        "GoVersion": "",
        "Os": "linux",
        "Arch": host::ARCHITECTURE,
        "KernelVersion": host::facts().kernel,
        "BuildTime": config.build_time,
    }))
}

pub(super) async fn info(call: Call) -> Answer {
    let facts = call.engine().facts();
    let machines = machines(&call).await?;
    let containers = call.engine().containers().list();
    let count = |test: fn(&State) -> bool| containers.iter().filter(|c| test(&c.state)).count();
    let (running, paused) = (
        count(|state| matches!(state, State::Running)),
        count(|state| matches!(state, State::Paused)),
    );
    let mut info = host_info(&call);
    let ours = json!({
        "ID": facts.id,
        "Containers": containers.len(),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": containers.len() - running - paused,
        "Images": call.engine().images().list().len(),
        "Driver": STORAGE_DRIVER,
        "DriverStatus": [["Layers", facts.layer_backing], ["Machines", machines]],
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": facts.cgroup_version.to_string(),
        "NCPU": facts.cpus,
        "MemTotal": facts.memory_bytes,
        "DockerRootDir": facts.data_root,
        "Warnings": (!facts.warnings.is_empty()).then_some(&facts.warnings),
    });
    for part in [settings(&call), ours] {
        if let (Value::Object(info), Value::Object(part)) = (&mut info, part) {
            info.extend(part);
        }
    }
    json(&info)
}

/// The part of `info` about the host.
fn host_info(call: &Call) -> Value {
    let host = host::facts();
    json!({
        "MemoryLimit": true,
        "SwapLimit": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "IPv4Forwarding": true,
        "OomKillDisable": false,
        "SystemTime": rfc3339(time::now_ns()),
        "KernelVersion": host.kernel,
        "OperatingSystem": host.system,
        "OSVersion": host.system_version,
        "OSType": "linux",
        "Architecture": host::MACHINE,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registry_config(call),
        "GenericResources": null,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
        "Name": host.name,
    })
}

/// The part of `info` about the daemon.
fn settings(call: &Call) -> Value {
    let config = call.app.config();
    let facts = call.engine().facts();
    json!({
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
            "Authorization": null,
            "Log": facts.log_drivers,
        },
        "Debug": config.debug,
        "NFd": 0,
        "NGoroutines": 0,
        "LoggingDriver": facts.log_driver,
        "NEventsListener": 0,
        "Labels": config.labels,
        "ExperimentalBuild": false,
        "ServerVersion": config.version,
        "Runtimes": {"hull": {"path": "hull"}, "vm": {"path": "hull"}},
        "DefaultRuntime": "hull",
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": false,
            "Error": "",
            "RemoteManagers": null,
        },
        "LiveRestoreEnabled": true,
        "FirewallBackend": {"Driver": facts.firewall_backend},
        "Isolation": "",
        "InitBinary": "hull-shim",
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""},
        "InitCommit": {"ID": ""},
        "SecurityOptions": security_options(&facts),
        "CDISpecDirs": [],
    })
}

fn security_options(facts: &Facts) -> Vec<&'static str> {
    let mut options = vec!["name=seccomp,profile=builtin"];
    if facts.users_mapped {
        options.push("name=userns");
    }
    options.push("name=cgroupns");
    options
}

/// Whether containers can be machines here, on what, and why.
async fn machines(call: &Call) -> Result<String, ApiError> {
    let (accelerator, reason, kernel) = call.engine().machine_support().await?;
    Ok(match kernel {
        Some(kernel) => format!("{accelerator} ({reason}), kernel {kernel}"),
        None => format!("{accelerator} ({reason}), no kernel: see hull vm kernel import"),
    })
}

fn registry_config(call: &Call) -> Value {
    let config = call.app.config();
    let mut indexes: BTreeMap<&str, Value> = BTreeMap::new();
    indexes.insert(
        "docker.io",
        json!({
            "Name": "docker.io",
            "Mirrors": config.registry_mirrors,
            "Secure": true,
            "Official": true,
        }),
    );
    for name in &config.insecure_registries {
        let index = json!({"Name": name, "Mirrors": [], "Secure": false, "Official": false});
        indexes.insert(name, index);
    }
    json!({
        "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"],
        "IndexConfigs": indexes,
        "Mirrors": config.registry_mirrors,
    })
}

/// One event as Docker writes it.
#[derive(Debug, Serialize)]
struct Message<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(rename = "Action")]
    action: &'a str,
    #[serde(rename = "Actor")]
    actor: Actor<'a>,
    scope: &'static str,
    time: i64,
    #[serde(rename = "timeNano")]
    time_nano: i64,
}

#[derive(Debug, Serialize)]
struct Actor<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(rename = "Attributes")]
    attributes: &'a BTreeMap<String, String>,
}

fn subject_word(subject: Subject) -> &'static str {
    match subject {
        Subject::Container => "container",
        Subject::Image => "image",
        Subject::Network => "network",
        Subject::Volume => "volume",
        Subject::Daemon => "daemon",
    }
}

impl<'a> Message<'a> {
    fn show(happening: &'a Happening) -> Self {
        // The old fields are kept for what old clients know.
        let old = matches!(happening.subject, Subject::Container | Subject::Image);
        let image = happening.attributes.get("image").map(String::as_str);
        Self {
            status: old.then_some(happening.action.as_str()),
            id: old.then_some(happening.id.as_str()),
            from: image.filter(|_| happening.subject == Subject::Container),
            kind: subject_word(happening.subject),
            action: &happening.action,
            actor: Actor {
                id: &happening.id,
                attributes: &happening.attributes,
            },
            scope: "local",
            time: time::seconds(happening.at_ns),
            time_nano: happening.at_ns,
        }
    }
}

/// Events whose action has an argument behind a colon, which filters by event may leave out.
const WITH_ARGUMENT: [&str; 3] = ["health_status", "exec_create", "exec_start"];

/// Whether a client wants an event, by Docker's rules: an object's filter compares with the id and
/// the name of whatever the event is about, and each may be cut short.
fn wants(filters: &Filters, happening: &Happening) -> bool {
    let fact = |name: &str| happening.attributes.get(name).map_or("", String::as_str);
    let object = |filter: &str| {
        filters.any(filter, |wanted| {
            happening.id.starts_with(wanted) || fact("name").starts_with(wanted)
        })
    };
    let bare = |name: &str| {
        let tag = name.rfind(':').filter(|&at| !name[at..].contains('/'));
        name[..tag.unwrap_or(name.len())].to_owned()
    };
    let of_image = |wanted: &str| {
        let image = match happening.subject {
            Subject::Image => fact("name"),
            _ => fact("image"),
        };
        wanted == happening.id
            || wanted == image
            || [bare(&happening.id), bare(image)].contains(&wanted.to_owned())
    };
    let may_be_short = filters
        .get("event")
        .iter()
        .any(|e| WITH_ARGUMENT.contains(&e.as_str()));
    filters.exact("type", subject_word(happening.subject))
        && filters.any("event", |wanted| {
            wanted == happening.action || (may_be_short && happening.action.starts_with(wanted))
        })
        && OBJECTS.iter().all(|filter| object(filter))
        && filters.any("image", of_image)
        && filters.labels("label", &happening.attributes)
        && filters.exact("scope", "local")
}

/// The bounds of the events that a client wants; none: no bound.
fn bounds(call: &Call, now_ns: i64) -> Result<(Option<i64>, Option<i64>), ApiError> {
    let bound = |key: &str| match call.query.get(key) {
        "" => Ok(None),
        text => time::parse(text, now_ns).map(Some),
    };
    let (since, until) = (bound("since")?, bound("until")?);
    if let (Some(after), Some(before)) = (since, until)
        && before < after
    {
        return Err(ApiError::invalid(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            call.query.get("since"),
            call.query.get("until")
        )));
    }
    Ok((since, until))
}

pub(super) async fn events(call: Call) -> Answer {
    let filters = Filters::parse_any(call.query.get("filters"))?;
    let now_ns = time::now_ns();
    let (since, until) = bounds(&call, now_ns)?;
    // Who wants an end and no beginning gets all that is kept.
    let since = since.or(until.map(|_| i64::MIN));
    let (kept, live) = call.engine().events(since);
    let left = until.map(|until| u64::try_from(until - now_ns).unwrap_or(0));
    let deadline = left.map(|ns| tokio::time::Instant::now() + Duration::from_nanos(ns));
    let pieces = stream::unfold((kept, live), move |(mut kept, mut live)| {
        let filters = filters.clone();
        async move {
            loop {
                let happening = match kept.next().await {
                    Some(happening) => Arc::new(happening),
                    None => next_event(&mut live, deadline).await?,
                };
                let in_time = until.is_none_or(|until| happening.at_ns <= until);
                if in_time && wants(&filters, &happening) {
                    let line = json_line(&Message::show(&happening))
                        .map_err(|error| std::io::Error::other(error.message));
                    return Some((line, (kept, live)));
                }
            }
        }
    });
    Ok(reply(
        StatusCode::OK,
        "application/json",
        Body::streamed(pieces),
    ))
}

/// The next event; none at the deadline, at the daemon's end, or for a client that is too slow.
async fn next_event(
    live: &mut tokio::sync::broadcast::Receiver<Arc<Happening>>,
    deadline: Option<tokio::time::Instant>,
) -> Option<Arc<Happening>> {
    let received = match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, live.recv()).await.ok()?,
        None => live.recv().await,
    };
    match received {
        Ok(happening) => Some(happening),
        Err(RecvError::Lagged(missed)) => {
            tracing::info!(
                missed,
                "a subscriber was too slow for the events and is cut off"
            );
            None
        }
        Err(RecvError::Closed) => None,
    }
}

/// What `system df` shows; of what was not asked for, nothing.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DiskUsage<'a> {
    layers_size: u64,
    images: Option<Vec<image::Summary>>,
    containers: Option<Vec<Summary<'a>>>,
    volumes: Option<Vec<Volume<'a>>>,
    build_cache: Option<[(); 0]>,
}

pub(super) async fn disk_usage(call: Call) -> Answer {
    let asked: Vec<&str> = match call.minor {
        MINOR_TYPES_OF_USAGE.. => call.query.all("type").collect(),
        _ => Vec::new(),
    };
    if let Some(unknown) = asked.iter().find(|word| !USAGES.contains(word)) {
        return Err(ApiError::invalid(format!("unknown object type: {unknown}")));
    }
    let is_asked = |word: &str| asked.is_empty() || asked.contains(&word);
    let engine = call.engine();
    let (containers, volumes, images) = (engine.containers(), engine.volumes(), engine.images());
    let list = is_asked("container").then(|| containers.list());
    let volume_list = is_asked("volume").then(|| volumes.list());
    let (usage, sizes, volume_sizes) = tokio::join!(
        async {
            if is_asked("image") {
                images.usage().await.map(Some)
            } else {
                Ok(None)
            }
        },
        containers.sizes(list.as_deref().unwrap_or_default()),
        volumes.usage(volume_list.as_deref().unwrap_or_default()),
    );
    let now_ns = time::now_ns();
    let mut names = ImageNames::new(images);
    let rows = list.as_ref().map(|list| {
        let measured = list.iter().zip(sizes);
        let rows = measured.map(|(container, sizes)| {
            Summary::show(container, names.of(container), now_ns, Some(sizes))
        });
        rows.collect()
    });
    let volumes = volume_list.as_ref().map(|list| {
        let measured = list.iter().zip(volume_sizes);
        let rows = measured.map(|(volume, bytes)| Volume::show(volume, Some(bytes)));
        rows.collect()
    });
    let mut answer = DiskUsage {
        containers: rows,
        volumes,
        build_cache: is_asked("build-cache").then_some([]),
        ..DiskUsage::default()
    };
    if let Some(usage) = usage? {
        let rows = usage.images.iter();
        let rows = rows.map(|row| image::Summary::on_disk(&row.image, row.total, row.shared));
        answer.images = Some(rows.collect());
        answer.layers_size = usage.total;
    }
    json(&answer)
}

/// Ours: what a check of everything on disk and in the kernel found.
pub(super) async fn verify(call: Call) -> Answer {
    json(&json!({ "problems": call.engine().verify().await? }))
}

/// Ours: stops every container for a shutdown of the host.
pub(super) async fn shutdown(call: Call) -> Answer {
    call.engine().shutdown().await.map_err(ApiError::from)?;
    Ok(no_content())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happening(action: &str) -> Happening {
        Happening {
            at_ns: 5_000_000_001,
            subject: Subject::Container,
            action: action.into(),
            id: "abcdef".into(),
            attributes: [("name", "web"), ("image", "busybox:1"), ("tier", "x")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        }
    }

    #[test]
    fn events_are_written_in_both_old_and_new_fields() {
        let written = serde_json::to_value(Message::show(&happening("start"))).expect("JSON");
        assert_eq!(
            written,
            json!({
                "status": "start", "id": "abcdef", "from": "busybox:1", "Type": "container",
                "Action": "start",
                "Actor": {"ID": "abcdef",
                    "Attributes": {"name": "web", "image": "busybox:1", "tier": "x"}},
                "scope": "local", "time": 5, "timeNano": 5_000_000_001_i64
            })
        );
    }

    #[test]
    fn filters_of_events_are_one_of_each_and_all_together() {
        let check = |filters: Value, expected: bool| {
            let parsed = Filters::parse_any(&filters.to_string()).expect("JSON");
            assert_eq!(
                wants(&parsed, &happening("exec_create: sh")),
                expected,
                "{filters}"
            );
        };
        check(json!({}), true);
        check(json!({"event": ["exec_create"]}), true);
        check(json!({"event": ["start", "die"]}), false);
        check(json!({"container": ["web"], "type": ["container"]}), true);
        check(json!({"container": ["abc"]}), true);
        check(json!({"container": ["db"]}), false);
        check(json!({"image": ["busybox"]}), true);
        check(json!({"image": ["alpine"]}), false);
        check(json!({"label": ["tier=x"]}), true);
        check(json!({"label": ["tier=y"]}), false);
        check(json!({"network": ["we"]}), true);
        check(json!({"nonsense": ["web"]}), true);
        check(json!({"service": ["db"]}), false);
    }
}
