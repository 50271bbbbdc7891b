//! The name of a container in its log: `--log-opt tag`, a template with the names of Docker's.

use hull_model::SandboxId;
use hull_model::spec::{ContainerSpec, LogConfig};

use crate::error::{EngineError, Result};

/// What a line is tagged with when nobody says otherwise.
const DEFAULT: &str = "{{.ID}}";
/// Characters of a short id.
const SHORT_ID: usize = 12;

/// Which fact about a container.
#[derive(Debug, Clone, Copy)]
enum Field {
    Id,
    FullId,
    Name,
    ImageId,
    ImageFullId,
    ImageName,
    DaemonName,
    Command,
}

impl Field {
    fn parse(name: &str) -> Option<Field> {
        Some(match name {
            ".ID" => Field::Id,
            ".FullID" => Field::FullId,
            ".Name" => Field::Name,
            ".ImageID" => Field::ImageId,
            ".ImageFullID" => Field::ImageFullId,
            ".ImageName" => Field::ImageName,
            ".DaemonName" => Field::DaemonName,
            ".Command" => Field::Command,
            _ => return None,
        })
    }

    fn of(self, spec: &ContainerSpec, id: SandboxId) -> String {
        let image = spec.image.to_string();
        match self {
            Field::Id => id.short(),
            Field::FullId => id.to_string(),
            Field::Name => spec.name.clone(),
            Field::ImageId => image.chars().take(SHORT_ID).collect(),
            Field::ImageFullId => image,
            Field::ImageName => spec.image_reference.clone(),
            Field::DaemonName => "hull".to_owned(),
            Field::Command => spec.config.args().join(" "),
        }
    }
}

/// A piece of a template: text, or a fact.
type Piece<'a> = (&'a str, Option<Field>);

/// Checks the template.
pub(super) fn check(log: &LogConfig) -> Result<()> {
    parse(log.options.get("tag").map_or("", String::as_str)).map(drop)
}

/// Fills in a template; none or an empty one is the short id.
pub(super) fn fill(template: Option<&str>, spec: &ContainerSpec, id: SandboxId) -> Result<String> {
    let template = template.filter(|text| !text.is_empty()).unwrap_or(DEFAULT);
    let mut tag = String::new();
    for (text, field) in parse(template)? {
        tag.push_str(text);
        tag.push_str(&field.map_or_else(String::new, |field| field.of(spec, id)));
    }
    // It becomes part of a line.
    tag.retain(|letter| !letter.is_control());
    Ok(tag)
}

fn parse(mut template: &str) -> Result<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    while let Some((text, rest)) = template.split_once("{{") {
        let known = rest
            .split_once("}}")
            .and_then(|(name, rest)| Some((Field::parse(name.trim())?, rest)));
        let Some((field, rest)) = known else {
            return Err(EngineError::Invalid(format!(
                "template: log-tag: \"{{{{{rest}\" is none of {{{{.ID}}}}, {{{{.FullID}}}}, {{{{.Name}}}}, \
                 {{{{.ImageID}}}}, {{{{.ImageFullID}}}}, {{{{.ImageName}}}}, {{{{.DaemonName}}}}, {{{{.Command}}}}"
            )));
        };
        pieces.push((text, Some(field)));
        template = rest;
    }
    pieces.push((template, None));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_texts_and_facts() {
        let texts = |template| {
            let pieces = parse(template).expect("valid");
            pieces.iter().map(|(text, _)| *text).collect::<Vec<_>>()
        };
        assert_eq!(texts("a/{{.Name}}/{{ .ID }}"), ["a/", "/", ""]);
        assert_eq!(texts("plain"), ["plain"]);
        for template in ["{{.Nope}}", "{{", "{{.ID}", "{{if .ID}}x{{end}}"] {
            assert!(parse(template).is_err(), "{template}");
        }
    }
}
