//! Mounts in their three forms: `Binds`, `Mounts`, `Tmpfs`.

use std::collections::BTreeMap;

use hull_engine::api::MountPoint;
use hull_model::spec::{MountForm, MountKind, MountSpec, Propagation, VolumeSpec};
use serde::{Deserialize, Serialize};

use crate::errors::ApiError;
use crate::request::ApiMinor;
use crate::wire::{OrZero, TextMap, from_text_map, is_zero, to_text_map};

/// First version that refuses options of another type of mount, instead of forgetting them.
const MINOR_OPTIONS_CHECKED: ApiMinor = 42;
/// First version in which a part of a volume can be mounted.
const MINOR_SUBPATH: ApiMinor = 45;
/// First version in which an image can be mounted.
const MINOR_IMAGE_MOUNT: ApiMinor = 48;

/// An element of `HostConfig.Mounts`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Mount {
    #[serde(skip_serializing_if = "is_zero")]
    r#type: OrZero<String>,
    #[serde(skip_serializing_if = "is_zero")]
    source: OrZero<String>,
    #[serde(skip_serializing_if = "is_zero")]
    target: OrZero<String>,
    #[serde(skip_serializing_if = "is_zero")]
    read_only: OrZero<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bind_options: Option<BindOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_options: Option<VolumeOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_options: Option<ImageOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tmpfs_options: Option<TmpfsOptions>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct BindOptions {
    #[serde(skip_serializing_if = "is_zero")]
    propagation: OrZero<String>,
    #[serde(skip_serializing_if = "is_zero")]
    non_recursive: OrZero<bool>,
    #[serde(skip_serializing_if = "is_zero")]
    create_mountpoint: OrZero<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct VolumeOptions {
    #[serde(skip_serializing_if = "is_zero")]
    no_copy: OrZero<bool>,
    #[serde(skip_serializing_if = "is_zero")]
    subpath: OrZero<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<TextMap>,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver_config: Option<DriverConfig>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct DriverConfig {
    #[serde(skip_serializing_if = "is_zero")]
    name: OrZero<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<TextMap>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ImageOptions {
    #[serde(skip_serializing_if = "is_zero")]
    subpath: OrZero<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct TmpfsOptions {
    #[serde(skip_serializing_if = "is_zero")]
    size_bytes: OrZero<i64>,
    #[serde(skip_serializing_if = "is_zero")]
    mode: OrZero<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<Vec<Vec<String>>>,
}

/// A mount as `inspect` and `ps` list it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct WireMountPoint<'a> {
    r#type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    source: &'a str,
    destination: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    driver: &'a str,
    mode: &'a str,
    #[serde(rename = "RW")]
    rw: bool,
    propagation: &'a str,
}

impl<'a> From<&'a MountPoint> for WireMountPoint<'a> {
    fn from(mount: &'a MountPoint) -> Self {
        Self {
            r#type: mount.kind,
            name: &mount.name,
            source: &mount.source,
            destination: &mount.destination,
            driver: if mount.kind == "volume" { "local" } else { "" },
            mode: &mount.mode,
            rw: mount.writable,
            propagation: mount.propagation,
        }
    }
}

/// Reads one word of propagation.
fn propagation(word: &str) -> Option<Propagation> {
    Some(match word {
        "rprivate" => Propagation::Rprivate,
        "private" => Propagation::Private,
        "rshared" => Propagation::Rshared,
        "shared" => Propagation::Shared,
        "rslave" => Propagation::Rslave,
        "slave" => Propagation::Slave,
        _ => return None,
    })
}

/// Writes a propagation; the default is not written.
fn propagation_word(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Rprivate => "",
        Propagation::Private => "private",
        Propagation::Rshared => "rshared",
        Propagation::Shared => "shared",
        Propagation::Rslave => "rslave",
        Propagation::Slave => "slave",
    }
}

/// Reads `source:destination[:mode]`, or a destination alone, which gets an anonymous volume.
pub(crate) fn parse_bind(text: &str) -> Result<MountSpec, ApiError> {
    let invalid = || ApiError::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err(invalid());
    }
    let (source, destination, mode) = match parts[..] {
        [destination] => ("", destination, ""),
        // `/path:ro`: an anonymous volume with a mode.
        [destination, mode] if bind_mode(mode).is_some() => ("", destination, mode),
        [source, destination] => (source, destination, ""),
        [source, destination, mode] => (source, destination, mode),
        _ => return Err(invalid()),
    };
    let kind = if source.starts_with('/') {
        "bind"
    } else {
        "volume"
    };
    let refused = |what: &str| {
        ApiError::invalid(format!(
            "invalid volume specification: '{text}': invalid mount config for type \"{kind}\": \
             {what}"
        ))
    };
    if !destination.starts_with('/') {
        return Err(refused(&format!(
            "invalid mount path: '{destination}' mount path must be absolute"
        )));
    }
    if destination.trim_matches('/').is_empty() {
        return Err(refused("invalid specification: destination can't be '/'"));
    }
    let Some(words) = bind_mode(mode) else {
        return Err(ApiError::invalid(format!("invalid mode: {mode}")));
    };
    let kind = if source.starts_with('/') {
        MountKind::Bind {
            source: source.to_owned(),
            create_source: true,
            propagation: words.propagation,
            non_recursive: false,
        }
    } else if source.starts_with('.') {
        return Err(ApiError::invalid(format!(
            "create {source}: \"{source}\" includes invalid characters for a local volume name, \
             only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host \
             directory, use absolute path"
        )));
    } else {
        MountKind::Volume {
            name: source.to_owned(),
            anonymous: false,
            no_copy: words.no_copy,
            subpath: String::new(),
            request: VolumeSpec::default(),
        }
    };
    Ok(MountSpec {
        kind,
        destination: destination.to_owned(),
        readonly: words.readonly,
        form: MountForm::Bind,
        mode: mode.to_owned(),
    })
}

#[derive(Default)]
struct BindWords {
    readonly: bool,
    no_copy: bool,
    propagation: Propagation,
}

/// Reads the mode of a bind; `None` when a word is unknown, or two are of one sort.
fn bind_mode(mode: &str) -> Option<BindWords> {
    let mut words = BindWords::default();
    let mut sorts = Vec::new();
    for word in mode.split(',').filter(|word| !word.is_empty()) {
        let sort = match word {
            "ro" | "rw" => "access",
            "z" | "Z" => "label",
            "nocopy" => "copy",
            "cached" | "delegated" | "consistent" | "default" => "consistency",
            _ => "propagation",
        };
        if sorts.contains(&sort) {
            return None;
        }
        sorts.push(sort);
        match word {
            "ro" => words.readonly = true,
            "nocopy" => words.no_copy = true,
            // Labels of SELinux, and hints of a desktop product: no meaning here, as in Docker.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" | "default" => {}
            word => words.propagation = propagation(word)?,
        }
    }
    Some(words)
}

/// Writes a mount of the bind form as the client wrote it.
pub(crate) fn show_bind(mount: &MountSpec) -> String {
    let source = match &mount.kind {
        MountKind::Bind { source, .. } => source.as_str(),
        MountKind::Volume {
            anonymous: true, ..
        } => "",
        MountKind::Volume { name, .. } => name.as_str(),
        MountKind::Image { .. } | MountKind::Tmpfs { .. } => "",
    };
    let parts = [source, &mount.destination, &mount.mode];
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(":")
}

/// Whether Docker takes this word for a tmpfs: a flag of mounts, or a value that a tmpfs has.
fn is_tmpfs_option(word: &str) -> bool {
    const FLAGS: &[&str] = &[
        "",
        "defaults",
        "ro",
        "rw",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "exec",
        "noexec",
        "sync",
        "async",
        "dirsync",
        "mand",
        "nomand",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "private",
        "rprivate",
        "shared",
        "rshared",
        "slave",
        "rslave",
    ];
    const VALUES: &[&str] = &[
        "size",
        "mode",
        "uid",
        "gid",
        "nr_inodes",
        "nr_blocks",
        "mpol",
    ];
    match word.split_once('=') {
        Some((name, _)) => VALUES.contains(&name),
        None => FLAGS.contains(&word),
    }
}

/// Reads one entry of `Tmpfs`.
pub(crate) fn parse_tmpfs(destination: String, options: String) -> Result<MountSpec, ApiError> {
    if !destination.starts_with('/') {
        return Err(ApiError::invalid(format!(
            "invalid mount path: '{destination}' mount path must be absolute"
        )));
    }
    if let Some(wrong) = options.split(',').find(|word| !is_tmpfs_option(word)) {
        let parts: Vec<String> = wrong.splitn(2, '=').map(|p| format!("{p:?}")).collect();
        return Err(ApiError::invalid(format!(
            "invalid tmpfs option [{}]",
            parts.join(" ")
        )));
    }
    Ok(MountSpec {
        readonly: options.split(',').any(|word| word == "ro"),
        kind: MountKind::Tmpfs {
            options: options.clone(),
        },
        destination,
        form: MountForm::Tmpfs,
        mode: options,
    })
}

impl Mount {
    /// Refuses what a version of the API does not have, and options of another type of mount.
    pub(super) fn check_version(&self, minor: ApiMinor) -> Result<(), ApiError> {
        let kind = self.r#type.0.as_str();
        let options = [
            ("VolumeOptions", "volume", self.volume_options.is_some()),
            ("BindOptions", "bind", self.bind_options.is_some()),
            ("TmpfsOptions", "tmpfs", self.tmpfs_options.is_some()),
        ];
        let strange = |(_, of, given): &&(&str, &str, bool)| *given && *of != kind;
        if minor >= MINOR_OPTIONS_CHECKED
            && let Some((name, _, _)) = options.iter().find(strange)
        {
            return Err(ApiError::invalid(format!(
                "{name} must not be specified on mount type \"{kind}\""
            )));
        }
        let subpath = self
            .volume_options
            .as_ref()
            .map(|options| &options.subpath.0);
        if minor < MINOR_SUBPATH && subpath.is_some_and(|path| !path.is_empty()) {
            let text = "VolumeOptions.Subpath needs API v1.45 or newer";
            return Err(ApiError::invalid(text));
        }
        if minor < MINOR_IMAGE_MOUNT && kind == "image" {
            let text = "Mount type \"Image\" needs API v1.48 or newer";
            return Err(ApiError::invalid(text));
        }
        Ok(())
    }
}

impl TryFrom<Mount> for MountSpec {
    type Error = ApiError;

    fn try_from(wire: Mount) -> Result<Self, ApiError> {
        let invalid = |kind: &str, what: &str| {
            ApiError::invalid(format!("invalid mount config for type \"{kind}\": {what}"))
        };
        let (kind, source) = (wire.r#type.0.as_str(), wire.source.0);
        if wire.target.0.is_empty() {
            return Err(invalid(kind, "field Target must not be empty"));
        }
        if !wire.target.0.starts_with('/') {
            let what = format!(
                "invalid mount path: '{}' mount path must be absolute",
                wire.target.0
            );
            return Err(invalid(kind, &what));
        }
        let mount = match kind {
            "bind" if source.is_empty() => {
                return Err(invalid(kind, "field Source must not be empty"));
            }
            "bind" => bind_kind(source, wire.bind_options.unwrap_or_default())?,
            "volume" => volume_kind(source, wire.volume_options.unwrap_or_default()),
            "tmpfs" if !source.is_empty() => {
                return Err(invalid(kind, "field Source must not be specified"));
            }
            "tmpfs" => tmpfs_kind(wire.tmpfs_options.unwrap_or_default()),
            "image" if source.is_empty() => {
                return Err(invalid(kind, "field Source must not be empty"));
            }
            "image" => MountKind::Image {
                source,
                image: None,
                subpath: wire.image_options.unwrap_or_default().subpath.0,
            },
            "npipe" | "cluster" => {
                return Err(ApiError::not_there(&format!("a mount of type \"{kind}\"")));
            }
            _ => return Err(invalid(kind, "mount type unknown")),
        };
        Ok(Self {
            kind: mount,
            destination: wire.target.0,
            readonly: wire.read_only.0,
            form: MountForm::Mount,
            mode: String::new(),
        })
    }
}

fn bind_kind(source: String, options: BindOptions) -> Result<MountKind, ApiError> {
    let word = options.propagation.0;
    let propagation = match word.as_str() {
        "" => Propagation::default(),
        word => propagation(word).ok_or_else(|| {
            ApiError::invalid(format!(
                "invalid mount config for type \"bind\": invalid propagation mode: {word}"
            ))
        })?,
    };
    if !source.starts_with('/') {
        return Err(ApiError::invalid(format!(
            "invalid mount config for type \"bind\": invalid mount path: '{source}' mount path \
             must be absolute"
        )));
    }
    Ok(MountKind::Bind {
        source,
        create_source: options.create_mountpoint.0,
        propagation,
        non_recursive: options.non_recursive.0,
    })
}

fn volume_kind(name: String, options: VolumeOptions) -> MountKind {
    let driver = options.driver_config.unwrap_or_default();
    MountKind::Volume {
        name,
        anonymous: false,
        no_copy: options.no_copy.0,
        subpath: options.subpath.0,
        request: VolumeSpec {
            driver: driver.name.0,
            options: driver.options.map(|map| from_text_map(Some(map))),
            labels: options.labels.map(|map| from_text_map(Some(map))),
        },
    }
}

/// What was asked for about a volume, as it came.
fn show_volume_options(no_copy: bool, subpath: &str, request: &VolumeSpec) -> VolumeOptions {
    VolumeOptions {
        no_copy: OrZero(no_copy),
        subpath: OrZero(subpath.to_owned()),
        labels: request.labels.as_ref().map(to_text_map),
        driver_config: Some(DriverConfig {
            name: OrZero(request.driver.clone()),
            options: request.options.as_ref().map(to_text_map),
        })
        .filter(|config| *config != DriverConfig::default()),
    }
}

fn tmpfs_kind(options: TmpfsOptions) -> MountKind {
    let mut words = Vec::new();
    if options.size_bytes.0 > 0 {
        words.push(format!("size={}", options.size_bytes.0));
    }
    if options.mode.0 != 0 {
        words.push(format!("mode={:o}", options.mode.0));
    }
    words.extend(
        options
            .options
            .unwrap_or_default()
            .into_iter()
            .map(|pair| pair.join("=")),
    );
    MountKind::Tmpfs {
        options: words.join(","),
    }
}

impl From<&MountSpec> for Mount {
    fn from(mount: &MountSpec) -> Self {
        let base = Self {
            target: OrZero(mount.destination.clone()),
            read_only: OrZero(mount.readonly),
            ..Self::default()
        };
        match &mount.kind {
            MountKind::Bind {
                source,
                create_source,
                propagation,
                non_recursive,
            } => Self {
                r#type: "bind".into(),
                source: OrZero(source.clone()),
                bind_options: Some(BindOptions {
                    propagation: propagation_word(*propagation).into(),
                    non_recursive: OrZero(*non_recursive),
                    create_mountpoint: OrZero(*create_source),
                })
                .filter(|options| *options != BindOptions::default()),
                ..base
            },
            MountKind::Volume {
                name,
                anonymous,
                no_copy,
                subpath,
                request,
            } => Self {
                r#type: "volume".into(),
                source: OrZero(if *anonymous {
                    String::new()
                } else {
                    name.clone()
                }),
                volume_options: Some(show_volume_options(*no_copy, subpath, request))
                    .filter(|options| *options != VolumeOptions::default()),
                ..base
            },
            MountKind::Image {
                source, subpath, ..
            } => Self {
                r#type: "image".into(),
                source: OrZero(source.clone()),
                image_options: (!subpath.is_empty()).then(|| ImageOptions {
                    subpath: OrZero(subpath.clone()),
                }),
                ..base
            },
            MountKind::Tmpfs { options } => Self {
                r#type: "tmpfs".into(),
                tmpfs_options: Some(show_tmpfs(options))
                    .filter(|options| *options != TmpfsOptions::default()),
                ..base
            },
        }
    }
}

fn show_tmpfs(options: &str) -> TmpfsOptions {
    let mut shown = TmpfsOptions::default();
    let mut others = Vec::new();
    for word in options.split(',').filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some(("size", bytes)) if bytes.parse::<i64>().is_ok() => {
                shown.size_bytes = OrZero(bytes.parse().unwrap_or(0));
            }
            Some(("mode", octal)) => {
                shown.mode = OrZero(u32::from_str_radix(octal, 8).unwrap_or(0))
            }
            _ => others.push(word.split('=').map(str::to_owned).collect()),
        }
    }
    shown.options = (!others.is_empty()).then_some(others);
    shown
}

/// The options of `Tmpfs` by destination.
pub(crate) fn show_tmpfs_map(mounts: &[MountSpec]) -> Option<TextMap> {
    let map: BTreeMap<_, _> = mounts
        .iter()
        .filter(|mount| mount.form == MountForm::Tmpfs)
        .map(|mount| (mount.destination.clone(), OrZero(mount.mode.clone())))
        .collect();
    (!map.is_empty()).then_some(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_bind(text: &str, expected: &str) {
        let got = match parse_bind(text) {
            Ok(mount) => {
                assert_eq!(show_bind(&mount), text);
                let kind = match &mount.kind {
                    MountKind::Bind {
                        source,
                        propagation,
                        ..
                    } => {
                        format!("bind {source} {propagation:?}")
                    }
                    MountKind::Volume { name, no_copy, .. } => format!("volume {name:?} {no_copy}"),
                    MountKind::Tmpfs { .. } => "tmpfs".to_owned(),
                    MountKind::Image { .. } => "image".to_owned(),
                };
                format!("{kind} on {} ro={}", mount.destination, mount.readonly)
            }
            Err(error) => error.message,
        };
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn binds_are_read_as_docker_reads_them() {
        check_bind("/tmp:/x", "bind /tmp Rprivate on /x ro=false");
        check_bind("/tmp:/x:ro,rslave", "bind /tmp Rslave on /x ro=true");
        check_bind("/tmp:/x:z", "bind /tmp Rprivate on /x ro=false");
        check_bind("data:/x:nocopy", "volume \"data\" true on /x ro=false");
        check_bind("/x", "volume \"\" false on /x ro=false");
    }

    #[test]
    fn wrong_binds_say_what_is_wrong() {
        check_bind("/a:/b:/c:/d", "invalid volume specification: '/a:/b:/c:/d'");
        check_bind("/a::ro", "invalid volume specification: '/a::ro'");
        check_bind("/a:/b:zz", "invalid mode: zz");
        check_bind("/a:/b:ro,rw", "invalid mode: ro,rw");
        for text in ["", "/a:/", "/a:b", "./a:/b", "a"] {
            assert_eq!(
                parse_bind(text).map_err(|e| e.status.as_u16()),
                Err(400),
                "{text}"
            );
        }
    }

    fn round_trip(json: &str) {
        let wire: Mount = serde_json::from_str(json).expect("valid");
        let spec = MountSpec::try_from(wire).expect("accepted");
        let shown = serde_json::to_value(Mount::from(&spec)).expect("JSON");
        assert_eq!(
            shown,
            serde_json::from_str::<serde_json::Value>(json).expect("JSON")
        );
    }

    #[test]
    fn mounts_are_shown_as_they_came() {
        round_trip(r#"{"Type":"bind","Source":"/a","Target":"/b","ReadOnly":true}"#);
        round_trip(
            r#"{"Type":"bind","Source":"/a","Target":"/b",
                "BindOptions":{"Propagation":"rshared","NonRecursive":true}}"#,
        );
        round_trip(
            r#"{"Type":"volume","Source":"v","Target":"/b",
                "VolumeOptions":{"NoCopy":true,"Subpath":"s"}}"#,
        );
        round_trip(
            r#"{"Type":"volume","Target":"/b","VolumeOptions":{"Labels":{"a":"b"},
                "DriverConfig":{"Name":"local","Options":{"size":"1m"}}}}"#,
        );
        round_trip(r#"{"Type":"image","Source":"i","Target":"/b","ImageOptions":{"Subpath":"s"}}"#);
        round_trip(
            r#"{"Type":"tmpfs","Target":"/b","TmpfsOptions":{"SizeBytes":65536,"Mode":1023}}"#,
        );
    }

    #[test]
    fn wrong_mounts_are_refused() {
        for (json, status) in [
            (r#"{"Type":"bind","Target":"/b"}"#, 400),
            (r#"{"Type":"bind","Source":"a","Target":"/b"}"#, 400),
            (r#"{"Type":"bind","Source":"/a"}"#, 400),
            (r#"{"Type":"zz","Target":"/b"}"#, 400),
            (r#"{"Type":"tmpfs","Source":"/a","Target":"/b"}"#, 400),
            (r#"{"Type":"image","Target":"/b"}"#, 400),
            (r#"{"Type":"cluster","Source":"a","Target":"/b"}"#, 501),
        ] {
            let wire: Mount = serde_json::from_str(json).expect("valid");
            let refused = MountSpec::try_from(wire).map_err(|e| e.status.as_u16());
            assert_eq!(refused, Err(status), "{json}");
        }
    }
}
