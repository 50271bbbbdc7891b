//! Changes of a configuration in the words of a Dockerfile, as `import` and `commit` take them.

use std::collections::BTreeMap;

use super::config::{Empty, Healthcheck, RunConfig};
use crate::error::Error;

/// Ports that one range may span: all there are.
const PORTS_MAX: usize = 65_536;
/// What a change may begin with.
const INSTRUCTIONS: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// What is wrong with a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeFault {
    /// An instruction that is not a change of the configuration.
    #[error("it is no change of a configuration")]
    Instruction,
    /// An instruction without anything behind it.
    #[error("it has no argument")]
    NoArgument,
    /// A pair without equals sign.
    #[error("it needs the form NAME=value")]
    Pair,
    /// A quote that is not closed.
    #[error("a quote is not closed")]
    Quote,
    /// Something that is no port.
    #[error("it has no valid port, such as 80, 53/udp or 8000-8010")]
    Port,
    /// A health check that is malformed.
    #[error("it needs the form NONE or [--interval=30s ...] CMD command")]
    Healthcheck,
}

/// Applies instructions such as `CMD ["sh"]` or `ENV A=b`, in order.
///
/// # Errors
/// `InvalidArgument` at the first malformed one; those before it are applied.
pub fn apply_changes(config: &mut RunConfig, changes: &[String]) -> Result<(), Error> {
    changes.iter().try_for_each(|change| {
        apply(config, change).map_err(|cause| Error::Change {
            text: change.clone(),
            cause,
        })
    })
}

fn apply(config: &mut RunConfig, change: &str) -> Result<(), ChangeFault> {
    let change = change.trim();
    let (instruction, rest) = change
        .split_once(char::is_whitespace)
        .unwrap_or((change, ""));
    let rest = rest.trim();
    let instruction = instruction.to_ascii_uppercase();
    if !INSTRUCTIONS.contains(&instruction.as_str()) {
        return Err(ChangeFault::Instruction);
    }
    if rest.is_empty() && !matches!(instruction.as_str(), "CMD" | "ENTRYPOINT") {
        return Err(ChangeFault::NoArgument);
    }
    match instruction.as_str() {
        "CMD" => config.cmd = Some(command(rest)),
        "ENTRYPOINT" => {
            config.entrypoint = Some(command(rest));
        }
        "ENV" => {
            for (name, value) in pairs(rest)? {
                let known = format!("{name}=");
                config.env.retain(|line| !line.starts_with(&known));
                config.env.push(known + &value);
            }
        }
        "LABEL" => config.labels.extend(pairs(rest)?),
        "EXPOSE" => {
            for port in words(rest)? {
                expose(&mut config.exposed_ports, &port)?;
            }
        }
        "VOLUME" => {
            let paths = match json_list(rest) {
                Some(paths) => paths,
                None => words(rest)?,
            };
            config
                .volumes
                .extend(paths.into_iter().map(|path| (path, Empty {})));
        }
        "USER" => config.user = rest.to_owned(),
        "STOPSIGNAL" => config.stop_signal = rest.to_owned(),
        "ONBUILD" => config.on_build.push(rest.to_owned()),
        "WORKDIR" if rest.starts_with('/') => config.working_dir = rest.to_owned(),
        "WORKDIR" => {
            let base = config.working_dir.trim_end_matches('/');
            config.working_dir = format!("{base}/{rest}");
        }
        "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest)?),
        _ => {}
    }
    Ok(())
}

/// A JSON list is run as it is, anything else by a shell.
fn command(text: &str) -> Vec<String> {
    json_list(text).unwrap_or_else(|| match text {
        "" => Vec::new(),
        _ => SHELL
            .iter()
            .map(|&part| part.to_owned())
            .chain([text.to_owned()])
            .collect(),
    })
}

fn json_list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// `A=b C="d e"`, or the older `A b` with one name and the rest as its value.
fn pairs(text: &str) -> Result<Vec<(String, String)>, ChangeFault> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or(ChangeFault::Pair)?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let split = |word: String| {
        let (name, value) = word.split_once('=').ok_or(ChangeFault::Pair)?;
        if name.is_empty() {
            return Err(ChangeFault::Pair);
        }
        Ok((name.to_owned(), value.to_owned()))
    };
    words(text)?.into_iter().map(split).collect()
}

/// Words as a shell splits them: quotes group, a backslash takes the next character as it is.
fn words(text: &str) -> Result<Vec<String>, ChangeFault> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', None | Some('"')) => {
                word.get_or_insert_default().extend(characters.next());
            }
            (_, Some(open)) if character == open => quote = None,
            ('"' | '\'', None) => {
                word.get_or_insert_default();
                quote = Some(character);
            }
            (_, None) if character.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    words.extend(word);
    if quote.is_some() {
        Err(ChangeFault::Quote)
    } else {
        Ok(words)
    }
}

fn expose(ports: &mut BTreeMap<String, Empty>, text: &str) -> Result<(), ChangeFault> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().map_err(|_| ChangeFault::Port);
    let (first, last) = (number(first)?, number(last)?);
    if first == 0 || first > last || !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(ChangeFault::Port);
    }
    let named = (first..=last)
        .take(PORTS_MAX)
        .map(|port| (format!("{port}/{protocol}"), Empty {}));
    ports.extend(named);
    Ok(())
}

fn healthcheck(text: &str) -> Result<Healthcheck, ChangeFault> {
    let fault = ChangeFault::Healthcheck;
    if text.eq_ignore_ascii_case("none") {
        return Ok(Healthcheck {
            test: vec!["NONE".to_owned()],
            ..Healthcheck::default()
        });
    }
    let mut check = Healthcheck::default();
    let mut rest = text;
    while rest.starts_with("--") {
        let (option, after) = rest.split_once(char::is_whitespace).ok_or(fault)?;
        rest = after.trim_start();
        let (name, value) = option.split_once('=').ok_or(fault)?;
        match name {
            "--interval" => check.interval = duration(value).ok_or(fault)?,
            "--timeout" => check.timeout = duration(value).ok_or(fault)?,
            "--start-period" => check.start_period = duration(value).ok_or(fault)?,
            "--start-interval" => check.start_interval = duration(value).ok_or(fault)?,
            "--retries" => check.retries = value.parse().map_err(|_| fault)?,
            _ => return Err(fault),
        }
    }
    let (word, command) = rest.split_once(char::is_whitespace).ok_or(fault)?;
    if !word.eq_ignore_ascii_case("cmd") {
        return Err(fault);
    }
    check.test = match json_list(command.trim()) {
        Some(list) => std::iter::once("CMD".to_owned()).chain(list).collect(),
        None => vec!["CMD-SHELL".to_owned(), command.trim().to_owned()],
    };
    Ok(check)
}

/// A duration as Go writes it, `1m30s` or `500ms`, in nanoseconds.
fn duration(mut text: &str) -> Option<i64> {
    let mut total = 0i64;
    while !text.is_empty() {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, rest) = text.split_at(digits);
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(letters);
        let nanos = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        // Saturates far above any sensible duration.
        total = total.checked_add((number.parse::<f64>().ok()? * nanos) as i64)?;
        text = rest;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_applied_in_order() {
        let changes = [
            "CMD [\"a\", \"b c\"]",
            "entrypoint run it",
            "ENV A=1 B=\"x y\" C='z\"' D=a\\ b",
            "ENV A two words",
            "EXPOSE 80 53/UDP 8000-8002",
            "LABEL a.b=c \"d e\"=f",
            "VOLUME /a /b",
            "VOLUME [\"/c d\"]",
            "WORKDIR /x",
            "WORKDIR y",
            "USER 1:2",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f x",
        ];
        let mut config = RunConfig::default();
        apply_changes(&mut config, &changes.map(str::to_owned)).unwrap();
        assert_eq!(config.cmd.unwrap(), ["a", "b c"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "run it"]);
        assert_eq!(config.env, ["B=x y", "C=z\"", "D=a b", "A=two words"]);
        let ports: Vec<_> = config.exposed_ports.keys().map(String::as_str).collect();
        assert_eq!(
            ports,
            ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]
        );
        assert_eq!(config.labels["a.b"], "c");
        assert_eq!(config.labels["d e"], "f");
        assert_eq!(
            config.volumes.keys().collect::<Vec<_>>(),
            ["/a", "/b", "/c d"]
        );
        assert_eq!(
            (config.working_dir.as_str(), config.user.as_str()),
            ("/x/y", "1:2")
        );
        let check = config.healthcheck.unwrap();
        assert_eq!(check.test, ["CMD-SHELL", "curl -f x"]);
        assert_eq!((check.interval, check.retries), (90_000_000_000, 3));
    }

    #[test]
    fn malformed_changes_are_refused() {
        let check = |change, fault| {
            assert_eq!(
                apply(&mut RunConfig::default(), change),
                Err(fault),
                "{change}"
            );
        };
        check("FROM x", ChangeFault::Instruction);
        check("RUN x", ChangeFault::Instruction);
        check("USER", ChangeFault::NoArgument);
        check("ENV A", ChangeFault::Pair);
        check("ENV A=\"b", ChangeFault::Quote);
        check("EXPOSE 0", ChangeFault::Port);
        check("EXPOSE 9-8", ChangeFault::Port);
        check("EXPOSE 80/x", ChangeFault::Port);
        check("HEALTHCHECK --interval=5 CMD x", ChangeFault::Healthcheck);
    }
}
