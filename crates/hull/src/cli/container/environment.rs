//! Files of variables and labels.

use std::collections::BTreeMap;

/// Reads a file of `NAME=VALUE` lines; `lookup` gives the value of a name that stands alone, and
/// leaves it out with nothing.
///
/// # Errors
/// The words of Docker's client.
pub(crate) fn read_file(
    path: &str,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, String> {
    let bytes = std::fs::read(path).map_err(|cause| {
        let reason = match cause.kind() {
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => cause.to_string(),
        };
        format!("open {path}: {reason}")
    })?;
    parse(&bytes, lookup).map_err(|reason| format!("invalid env file ({path}): {reason}"))
}

fn parse(bytes: &[u8], lookup: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, String> {
    let mut variables = Vec::new();
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line)
            .map_err(|_| format!("invalid utf8 bytes at line {}: {line:?}", number + 1))?;
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or_default();
        if name.is_empty() {
            return Err(format!("no variable name on line '{line}'"));
        }
        if name.contains([' ', '\t']) {
            return Err(format!("variable '{name}' contains whitespaces"));
        }
        if name.len() != line.len() {
            variables.push(line.to_owned());
        } else if let Some(value) = lookup(name) {
            variables.push(format!("{name}={value}"));
        }
    }
    Ok(variables)
}

/// All variables of files and flags, the flags after the files.
///
/// # Errors
/// As [`read_file`].
pub(crate) fn variables(files: &[String], flags: &[String]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for file in files {
        all.extend(read_file(file, |name| std::env::var(name).ok())?);
    }
    all.extend_from_slice(flags);
    Ok(all)
}

/// The last value of each name, in the order in which the names first appear.
pub(crate) fn last_of_each(variables: &[String]) -> Vec<String> {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let last: BTreeMap<String, &String> = variables.iter().map(|v| (name(v), v)).collect();
    let mut seen = std::collections::BTreeSet::new();
    let first_of_name = variables.iter().filter(|v| seen.insert(name(v)));
    first_of_name
        .filter_map(|v| last.get(&name(v)).map(|v| (*v).clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_docker_reads_them() {
        let lookup = |name: &str| (name == "SET").then(|| "1".to_owned());
        let text = b"\xef\xbb\xbfA=1\n# no\n\n  B= x \nSET\nUNSET\r\nC=a=b\r\n";
        assert_eq!(
            parse(text, lookup).unwrap(),
            ["A=1", "B= x ", "SET=1", "C=a=b"]
        );
        assert!(
            parse(b"=1", lookup)
                .unwrap_err()
                .contains("no variable name")
        );
        assert!(parse(b"A B=1", lookup).unwrap_err().contains("whitespaces"));
        assert!(
            parse(b"\xff=1", lookup)
                .unwrap_err()
                .contains("invalid utf8")
        );
    }

    #[test]
    fn a_later_value_replaces_an_earlier_one() {
        let all: Vec<String> = ["A=1", "B=2", "A=3", "C"].map(str::to_owned).to_vec();
        assert_eq!(last_of_each(&all), ["A=3", "B=2", "C"]);
    }
}
