//! Names of images: just enough to refuse what is none and to say what is meant.
//!
//! The engine has the last word; this is what Docker's client checks before it asks.

use super::failure::Failure;

/// Length of an image's id in digits; a name of that form would be taken for one.
const ID_DIGITS: usize = 64;

/// Refuses what cannot name an image.
///
/// # Errors
/// The words of Docker's client.
pub(crate) fn validate(name: &str) -> Result<(), Failure> {
    if is_id(name) || name.starts_with("sha256:") {
        return Ok(());
    }
    let path = name.split('@').next().unwrap_or_default();
    let (repository, tag) = split_tag(path).unwrap_or((path, "latest"));
    let (host, rest) = match repository.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
        _ => ("", repository),
    };
    if rest.contains(|c: char| c.is_ascii_uppercase()) {
        let library = if host.is_empty() && !rest.contains('/') {
            "library/"
        } else {
            ""
        };
        return Err(Failure::new(format!(
            "invalid reference format: repository name ({library}{rest}) must be lowercase"
        )));
    }
    let valid_part = |part: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        !part.is_empty()
            && part.chars().all(inner)
            && part.starts_with(edge)
            && part.ends_with(edge)
    };
    let valid_tag = !tag.is_empty()
        && tag.len() <= 128
        && !tag.starts_with(['.', '-'])
        && tag
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    let valid_host = host
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || ".:-[]".contains(c));
    if !rest.split('/').all(valid_part) || !valid_tag || !valid_host {
        return Err(Failure::new("invalid reference format"));
    }
    Ok(())
}

/// The name with the tag that is meant where none is said.
pub(crate) fn with_tag(name: &str) -> String {
    if name.contains('@') || split_tag(name).is_some() {
        return name.to_owned();
    }
    format!("{name}:latest")
}

/// Splits `repository:tag`; a port of a registry is no tag.
pub(crate) fn split_tag(name: &str) -> Option<(&str, &str)> {
    let (repository, tag) = name.rsplit_once(':')?;
    (!tag.contains('/')).then_some((repository, tag))
}

/// The name with the registry that is meant where none is said.
pub(crate) fn familiar_to_full(name: &str) -> String {
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

fn is_id(name: &str) -> bool {
    name.len() == ID_DIGITS && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_what_is_none() {
        for good in [
            "busybox",
            "a/b/c:1.2",
            "localhost:5000/x:y",
            "x@sha256:00",
            "my_image-1",
            "a.b/C".to_lowercase().as_str(),
        ] {
            assert!(validate(good).is_ok(), "{good}");
        }
        for bad in ["", "Busybox", "a:", "-a", "a//b", "a b", "a:b c"] {
            assert!(validate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_port_is_no_tag() {
        assert_eq!(with_tag("localhost:5000/x"), "localhost:5000/x:latest");
        assert_eq!(with_tag("x:1"), "x:1");
        assert_eq!(with_tag("x@sha256:00"), "x@sha256:00");
    }
}
