//! Images: `inspect`, the rows of `images`, `history`.
//!
//! The configuration of an image is stored as it came, in Docker's or OCI form; what is shown is
//! read from it here, field by field.

use std::collections::BTreeMap;

use hull_engine::api::Image;
use hull_model::spec::ContainerConfig;
use serde::Serialize;
use serde_json::Value;

use crate::time::{self, rfc3339};
use crate::wire::config::Config;
use crate::wire::container::{GraphDriver, STORAGE_DRIVER};

fn text<'a>(image: &'a Image, key: &str) -> &'a str {
    image.config.get(key).and_then(Value::as_str).unwrap_or("")
}

/// The labels of an image; none when its configuration has none.
pub(crate) fn labels(image: &Image) -> Option<BTreeMap<String, String>> {
    let map = image.config.get("config")?.get("Labels")?.as_object()?;
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    Some(map.iter().filter_map(text).collect())
}

/// What a client asked for, or is too old for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    /// It knows `VirtualSize`.
    pub(crate) old_client: bool,
    /// It looks for the configuration of the container that an image was committed from; compose
    /// 1.29 cannot do without.
    pub(crate) container_config: bool,
    /// Sizes of layers that others have too, and counts of containers.
    pub(crate) shared: bool,
    /// One entry per platform.
    pub(crate) manifests: bool,
    /// The manifest's descriptor.
    pub(crate) descriptor: bool,
}

/// A row of `GET /images/json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Summary {
    containers: i64,
    created: i64,
    id: String,
    labels: Option<BTreeMap<String, String>>,
    parent_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptor: Option<Descriptor>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    manifests: Vec<ManifestRow>,
    repo_digests: Vec<String>,
    repo_tags: Vec<String>,
    shared_size: i64,
    size: u64,
    /// Only for clients before 1.44.
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
}

impl Summary {
    /// `shared` is how many bytes are in parts that other images have too, when that was asked.
    pub(crate) fn show(image: &Image, shared: Option<u64>, asked: Asked) -> Self {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        Self {
            containers: if asked.shared {
                count(image.containers)
            } else {
                -1
            },
            created: time::seconds(image.created_ns),
            id: image.id.to_string(),
            labels: labels(image),
            parent_id: parent(image),
            descriptor: asked.descriptor.then(|| Descriptor::show(image)),
            manifests: manifests(image, asked),
            repo_digests: image.digests.clone(),
            repo_tags: image.tags.clone(),
            shared_size: shared.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            size: image.size,
            virtual_size: asked.old_client.then_some(image.size),
        }
    }

    /// The same with the bytes that it takes on the disk, for `system df`.
    pub(crate) fn on_disk(image: &Image, total: u64, shared: u64) -> Self {
        let asked = Asked {
            shared: true,
            ..Asked::default()
        };
        Self {
            size: total,
            ..Self::show(image, Some(shared), asked)
        }
    }
}

/// Points to the manifest.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
}

impl Descriptor {
    fn show(image: &Image) -> Self {
        Self {
            media_type: image.manifest_type.clone(),
            digest: image.manifest.to_string(),
            size: image.manifest_bytes,
            platform: None,
        }
    }
}

#[derive(Debug, Serialize)]
struct Platform {
    architecture: String,
    os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
}

impl Platform {
    fn show(image: &Image) -> Self {
        Self {
            architecture: text(image, "architecture").to_owned(),
            os: text(image, "os").to_owned(),
            variant: text(image, "variant").to_owned(),
        }
    }
}

/// An image of one platform, as `docker images --tree` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestRow {
    #[serde(rename = "ID")]
    id: String,
    descriptor: Descriptor,
    available: bool,
    size: ManifestSize,
    kind: &'static str,
    image_data: ImageData,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManifestSize {
    content: u64,
    total: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImageData {
    platform: Platform,
    size: Unpacked,
    containers: Option<Vec<String>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Unpacked {
    unpacked: u64,
}

/// The platforms of an image: of an index, the one that was taken is kept.
fn manifests(image: &Image, asked: Asked) -> Vec<ManifestRow> {
    let row = ManifestRow {
        id: image.manifest.to_string(),
        descriptor: Descriptor {
            platform: Some(Platform::show(image)),
            ..Descriptor::show(image)
        },
        available: true,
        size: ManifestSize {
            content: image.content_bytes,
            total: image.content_bytes + image.size,
        },
        kind: "image",
        image_data: ImageData {
            platform: Platform::show(image),
            size: Unpacked {
                unpacked: image.size,
            },
            containers: None,
        },
    };
    if asked.manifests {
        vec![row]
    } else {
        Vec::new()
    }
}

/// The answer of `GET /images/{name}/json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspect<'a> {
    id: String,
    repo_tags: &'a [String],
    repo_digests: &'a [String],
    parent: String,
    comment: &'a str,
    created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_config: Option<Config>,
    docker_version: &'a str,
    author: &'a str,
    config: Config,
    architecture: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    variant: &'a str,
    os: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    os_version: &'a str,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
    graph_driver: GraphDriver,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    metadata: Metadata,
    #[serde(skip_serializing_if = "Option::is_none")]
    descriptor: Option<Descriptor>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    manifests: Vec<ManifestRow>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    last_tag_time: String,
}

impl<'a> Inspect<'a> {
    pub(crate) fn show(image: &'a Image, asked: Asked) -> Self {
        let old_client = asked.old_client;
        let newest = last_history(image);
        let comment = match text(image, "comment") {
            "" => newest
                .and_then(|entry| entry.get("comment"))
                .and_then(Value::as_str)
                .unwrap_or(""),
            comment => comment,
        };
        Self {
            id: image.id.to_string(),
            repo_tags: &image.tags,
            repo_digests: &image.digests,
            parent: parent(image),
            comment,
            created: rfc3339(image.created_ns),
            container: asked.container_config.then(|| text(image, "container")),
            container_config: asked.container_config.then(|| container_config(image)),
            docker_version: text(image, "docker_version"),
            author: text(image, "author"),
            config: image_config(image),
            architecture: text(image, "architecture"),
            variant: text(image, "variant"),
            os: text(image, "os"),
            os_version: text(image, "os.version"),
            size: image.size,
            virtual_size: old_client.then_some(image.size),
            graph_driver: GraphDriver {
                data: BTreeMap::new(),
                name: STORAGE_DRIVER,
            },
            root_fs: RootFs {
                r#type: "layers",
                layers: image.layers.iter().map(ToString::to_string).collect(),
            },
            metadata: Metadata {
                last_tag_time: rfc3339(image.tagged_ns),
            },
            descriptor: asked.descriptor.then(|| Descriptor::show(image)),
            manifests: manifests(image, asked),
        }
    }
}

fn parent(image: &Image) -> String {
    image.parent.map_or_else(String::new, |id| id.to_string())
}

/// Of images that say nothing of a container, what their own containers get.
fn container_config(image: &Image) -> Config {
    let member = image.config.get("container_config");
    let config = member.and_then(|member| serde_json::from_value(member.clone()).ok());
    config.unwrap_or_else(|| image_config(image))
}

/// The `config` member, shown with all of Docker's fields.
fn image_config(image: &Image) -> Config {
    let member = image.config.get("config").unwrap_or(&Value::Null);
    // A member of the wrong type was refused when the image came in; here it shows as empty.
    let config: Config = serde_json::from_value(member.clone()).unwrap_or_default();
    let had_labels = labels(image).is_some();
    let mut shown = Config::show(&ContainerConfig::from(config), "");
    if !had_labels {
        shown.labels = None;
    }
    shown
}

fn last_history(image: &Image) -> Option<&Value> {
    image.config.get("history")?.as_array()?.last()
}

/// A row of `GET /images/{name}/history`.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HistoryRow {
    id: String,
    created: i64,
    created_by: String,
    tags: Option<Vec<String>>,
    size: u64,
    comment: String,
}

/// The history, newest first; layers that no entry speaks of are rows of their own.
pub(crate) fn history(image: &Image) -> Vec<HistoryRow> {
    let mut sizes = image.layer_sizes.iter().copied();
    let entries = image.config.get("history").and_then(Value::as_array);
    let mut rows: Vec<HistoryRow> = entries
        .into_iter()
        .flatten()
        .map(|entry| {
            let text = |key: &str| {
                entry
                    .get(key)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let is_empty = entry
                .get("empty_layer")
                .and_then(Value::as_bool)
                .unwrap_or(false);
            let created = text("created").parse::<jiff::Timestamp>();
            HistoryRow {
                id: "<missing>".to_owned(),
                created: created.map_or(0, jiff::Timestamp::as_second),
                created_by: text("created_by"),
                tags: None,
                size: if is_empty {
                    0
                } else {
                    sizes.next().unwrap_or(0)
                },
                comment: text("comment"),
            }
        })
        .collect();
    rows.extend(sizes.map(|size| HistoryRow {
        id: "<missing>".to_owned(),
        created: time::seconds(image.created_ns),
        created_by: String::new(),
        tags: None,
        size,
        comment: String::new(),
    }));
    rows.reverse();
    if let Some(newest) = rows.first_mut() {
        newest.id = image.id.to_string();
        newest.tags = Some(image.tags.clone()).filter(|tags| !tags.is_empty());
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hull_model::Digest;
    use serde_json::json;

    use super::*;

    fn image(config: Value) -> Image {
        Image {
            id: Digest::from_bytes([1; 32]),
            tags: vec!["busybox:latest".into()],
            digests: Vec::new(),
            config: Arc::new(config),
            size: 30,
            created_ns: 5_000_000_000,
            tagged_ns: 0,
            layers: vec![Digest::from_bytes([2; 32]), Digest::from_bytes([3; 32])],
            layer_sizes: vec![10, 20],
            manifest: Digest::from_bytes([4; 32]),
            manifest_bytes: 5,
            manifest_type: "m".into(),
            content_bytes: 6,
            containers: 2,
            parent: None,
        }
    }

    #[test]
    fn inspect_reads_the_configuration() {
        let image = image(json!({
            "architecture": "amd64", "os": "linux", "author": "me",
            "config": {"Cmd": ["sh"], "Env": ["A=b"], "Labels": {"x": "y"}}
        }));
        let shown = serde_json::to_value(Inspect::show(&image, Asked::default())).expect("JSON");
        assert_eq!(shown["Architecture"], "amd64");
        assert_eq!(shown["Config"]["Cmd"], json!(["sh"]));
        assert_eq!(shown["Config"]["Labels"], json!({"x": "y"}));
        assert_eq!(shown["RootFS"]["Layers"].as_array().map(Vec::len), Some(2));
        assert_eq!(shown["Metadata"]["LastTagTime"], time::NEVER);
        assert_eq!(shown.get("VirtualSize"), None);
    }

    #[test]
    fn an_image_without_configuration_is_shown_empty() {
        let shown = serde_json::to_value(Inspect::show(
            &image(json!({})),
            Asked {
                old_client: true,
                ..Asked::default()
            },
        ))
        .expect("JSON");
        assert_eq!(shown["Config"]["Labels"], Value::Null);
        assert_eq!(shown["VirtualSize"], 30);
    }

    #[test]
    fn history_is_newest_first_and_knows_empty_layers() {
        let rows = history(&image(json!({"history": [
            {"created": "1970-01-01T00:00:01Z", "created_by": "ADD"},
            {"created_by": "ENV", "empty_layer": true, "comment": "c"},
        ]})));
        let short: Vec<_> = rows
            .iter()
            .map(|r| (r.created_by.as_str(), r.size, r.created))
            .collect();
        assert_eq!(short, [("", 20, 5), ("ENV", 0, 0), ("ADD", 10, 1)]);
        assert!(rows[0].id.starts_with("sha256:") && rows[1].id == "<missing>");
    }
}
