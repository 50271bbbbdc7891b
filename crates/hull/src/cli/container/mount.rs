//! `--mount` and `--volume`.

use super::parse;
use super::wire::{BindOptions, ImageOptions, Mount, TmpfsOptions, VolumeOptions};
use crate::cli::arguments::parse_bool;
use crate::cli::units::ram_in_bytes;

/// Parses `type=bind,source=/a,target=/b,...`.
///
/// # Errors
/// The words of Docker's client.
pub(super) fn mount(text: &str) -> Result<Mount, String> {
    let mut mount = Mount {
        kind: "volume".to_owned(),
        ..Mount::default()
    };
    for field in parse::csv(text)? {
        match field.split_once('=') {
            Some((key, value)) => set(&mut mount, &key.to_lowercase(), value, &field)?,
            None => match field.to_lowercase().as_str() {
                "readonly" | "ro" => mount.read_only = true,
                "volume-nocopy" => volume(&mut mount).no_copy = true,
                "bind-nonrecursive" => bind(&mut mount).non_recursive = true,
                _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
            },
        }
    }
    check(&mount)?;
    Ok(mount)
}

fn set(mount: &mut Mount, key: &str, value: &str, field: &str) -> Result<(), String> {
    let invalid = || format!("invalid value for {key}: {value}");
    match key {
        "type" => mount.kind = value.to_lowercase(),
        "source" | "src" => mount.source = absolute_where_dotted(value),
        "target" | "dst" | "destination" => mount.target = value.to_owned(),
        "readonly" | "ro" => mount.read_only = parse_bool(value).map_err(|_| invalid())?,
        "consistency" => mount.consistency = value.to_lowercase(),
        "bind-propagation" => bind(mount).propagation = value.to_lowercase(),
        "bind-nonrecursive" => {
            bind(mount).non_recursive = parse_bool(value).map_err(|_| invalid())?;
        }
        "bind-recursive" => match value {
            "enabled" => {}
            "disabled" => bind(mount).non_recursive = true,
            "writable" => bind(mount).read_only_non_recursive = true,
            "readonly" => bind(mount).read_only_force_recursive = true,
            _ => {
                let choices = "\"enabled\", \"disabled\", \"writable\", or \"readonly\"";
                return Err(format!("{} (must be {choices})", invalid()));
            }
        },
        "volume-subpath" => value.clone_into(&mut volume(mount).subpath),
        "volume-nocopy" => volume(mount).no_copy = parse_bool(value).map_err(|_| invalid())?,
        "volume-label" => {
            let (key, value) = parse::pair(value)?;
            volume(mount).labels.insert(key, value);
        }
        "volume-driver" => value.clone_into(&mut volume(mount).driver_config.name),
        "volume-opt" => {
            let (key, value) = parse::pair(value)?;
            volume(mount).driver_config.options.insert(key, value);
        }
        "image-subpath" => {
            let options = mount
                .image_options
                .get_or_insert_with(ImageOptions::default);
            value.clone_into(&mut options.subpath);
        }
        "tmpfs-size" => tmpfs(mount).size_bytes = ram_in_bytes(value).map_err(|_| invalid())?,
        "tmpfs-mode" => {
            tmpfs(mount).mode = u32::from_str_radix(value, 8).map_err(|_| invalid())?;
        }
        _ => return Err(format!("unexpected key '{key}' in '{field}'")),
    }
    Ok(())
}

fn check(mount: &Mount) -> Result<(), String> {
    if mount.kind.is_empty() {
        return Err("type is required".to_owned());
    }
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    let foreign = [
        ("volume", mount.volume_options.is_some()),
        ("image", mount.image_options.is_some()),
        ("bind", mount.bind_options.is_some()),
        ("tmpfs", mount.tmpfs_options.is_some()),
    ];
    for (kind, given) in foreign {
        if given && mount.kind != kind {
            return Err(format!(
                "cannot mix '{kind}-*' options with mount type '{}'",
                mount.kind
            ));
        }
    }
    let Some(bind) = &mount.bind_options else {
        return Ok(());
    };
    let requires = |option: &str, what: &str| {
        Err(format!(
            "option 'bind-recursive={option}' requires '{what}' to be specified in conjunction"
        ))
    };
    if bind.read_only_non_recursive && !mount.read_only {
        return requires("writable", "readonly");
    }
    if bind.read_only_force_recursive && !mount.read_only {
        return requires("readonly", "readonly");
    }
    if bind.read_only_force_recursive && bind.propagation != "rprivate" {
        return requires("readonly", "bind-propagation=rprivate");
    }
    Ok(())
}

fn volume(mount: &mut Mount) -> &mut VolumeOptions {
    mount
        .volume_options
        .get_or_insert_with(VolumeOptions::default)
}

fn bind(mount: &mut Mount) -> &mut BindOptions {
    mount.bind_options.get_or_insert_with(BindOptions::default)
}

fn tmpfs(mount: &mut Mount) -> &mut TmpfsOptions {
    mount
        .tmpfs_options
        .get_or_insert_with(TmpfsOptions::default)
}

/// What one `--volume` is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Volume {
    /// A path inside, with a volume of its own.
    Anonymous(String),
    /// Something of the host or a named volume, in the form that the API takes.
    Bind(String),
}

/// Parses `[source:]target[:options]`.
///
/// # Errors
/// The words of Docker's client.
pub(super) fn parse_volume(text: &str) -> Result<Volume, String> {
    if text.is_empty() {
        return Err("invalid empty volume spec".to_owned());
    }
    let parts: Vec<&str> = text.split(':').collect();
    if text.len() <= 2 || parts.len() == 1 {
        return Ok(Volume::Anonymous(text.to_owned()));
    }
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!(
            "invalid spec: {text}: empty section between colons"
        ));
    }
    if parts.len() > 3 {
        // The engine says what is wrong with it.
        return Ok(Volume::Bind(text.to_owned()));
    }
    let (source, rest) = text.split_once(':').unwrap_or((text, ""));
    Ok(Volume::Bind(format!(
        "{}:{rest}",
        absolute_where_dotted(source)
    )))
}

/// A path that begins with a dot, seen from the current directory.
fn absolute_where_dotted(path: &str) -> String {
    if !path.starts_with('.') {
        return path.to_owned();
    }
    let Ok(current) = std::env::current_dir() else {
        return path.to_owned();
    };
    let mut absolute = std::path::PathBuf::new();
    for component in current.join(path).components() {
        match component {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                absolute.pop();
            }
            other => absolute.push(other),
        }
    }
    absolute.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_with_one_part_are_anonymous() {
        assert_eq!(
            parse_volume("/data").unwrap(),
            Volume::Anonymous("/data".into())
        );
        assert_eq!(
            parse_volume("a:/b:ro").unwrap(),
            Volume::Bind("a:/b:ro".into())
        );
        assert!(
            parse_volume("/a::/b")
                .unwrap_err()
                .contains("empty section")
        );
    }

    #[test]
    fn dots_are_resolved_here_because_the_engine_has_another_directory() {
        let here = std::env::current_dir().unwrap();
        let expected = format!("{}:/b", here.join("x").display());
        assert_eq!(parse_volume("./x:/b").unwrap(), Volume::Bind(expected));
    }

    #[test]
    fn options_of_one_type_do_not_mix_with_another() {
        let error = mount("type=bind,src=/a,dst=/b,tmpfs-size=1m").unwrap_err();
        assert_eq!(error, "cannot mix 'tmpfs-*' options with mount type 'bind'");
        assert_eq!(mount("type=tmpfs").unwrap_err(), "target is required");
        assert_eq!(
            mount("foo=1").unwrap_err(),
            "unexpected key 'foo' in 'foo=1'"
        );
    }
}
