//! The `filters` parameter: JSON of names to values, matched by Docker's rules.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::errors::ApiError;

/// Parsed filters: each name with its values.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

/// Clients send `{"status":["exited"]}` or, older, `{"status":{"exited":true}}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    List(Vec<String>),
    Set(BTreeMap<String, bool>),
}

impl Filters {
    /// Reads the parameter and refuses names that the endpoint does not know.
    pub(crate) fn parse(text: &str, known: &[&str]) -> Result<Self, ApiError> {
        let filters = Self::parse_any(text)?;
        match filters
            .0
            .keys()
            .find(|name| !known.contains(&name.as_str()))
        {
            Some(name) => Err(ApiError::invalid(format!("invalid filter '{name}'"))),
            None => Ok(filters),
        }
    }

    /// Reads the parameter; names that the endpoint does not know say nothing.
    pub(crate) fn parse_any(text: &str) -> Result<Self, ApiError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let raw: BTreeMap<String, Values> = serde_json::from_str(text)
            .map_err(|cause| ApiError::invalid(format!("invalid filter: {cause}")))?;
        let mut filters = BTreeMap::new();
        for (name, values) in raw {
            let values = match values {
                Values::List(list) => list,
                Values::Set(set) => set.into_keys().collect(),
            };
            filters.insert(name, values);
        }
        Ok(Self(filters))
    }

    /// The values of a name.
    pub(crate) fn get(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether no value of `name` was given, or one of them satisfies `test`.
    pub(crate) fn any(&self, name: &str, test: impl Fn(&str) -> bool) -> bool {
        let values = self.get(name);
        values.is_empty() || values.iter().any(|value| test(value))
    }

    /// Whether one of the values is this word.
    pub(crate) fn exact(&self, name: &str, word: &str) -> bool {
        self.any(name, |value| value == word)
    }

    /// Whether one of the values is part of `text`. Docker reads them as regular expressions; of
    /// those the anchors `^` and `$` and escaped dots are understood, which is what clients send.
    pub(crate) fn fuzzy(&self, name: &str, text: &str) -> bool {
        self.any(name, |value| fits(value, text))
    }

    /// Whether each `key` or `key=value` under `name` is found in the map.
    pub(crate) fn labels(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.get(name)
            .iter()
            .all(|wanted| has_label(wanted, labels))
    }

    /// Whether none of the labels under `name` is found in the map.
    pub(crate) fn no_labels(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        !self
            .get(name)
            .iter()
            .any(|wanted| has_label(wanted, labels))
    }

    /// A filter that is on or off.
    pub(crate) fn switch(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name).first().map(String::as_str) {
            None => Ok(None),
            Some("1" | "true" | "True" | "TRUE" | "t" | "T") => Ok(Some(true)),
            Some("0" | "false" | "False" | "FALSE" | "f" | "F") => Ok(Some(false)),
            Some(other) => Err(ApiError::invalid(format!(
                "invalid filter '{name}=[{other}]'"
            ))),
        }
    }

    /// The time before which `prune` removes; none: no bound.
    pub(crate) fn until_ns(&self, now_ns: i64) -> Result<Option<i64>, ApiError> {
        match self.get("until") {
            [] => Ok(None),
            [until] => crate::time::parse(until, now_ns).map(Some),
            _ => Err(ApiError::invalid("more than one until filter specified")),
        }
    }
}

fn has_label(wanted: &str, labels: &BTreeMap<String, String>) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

fn fits(pattern: &str, text: &str) -> bool {
    let (start, pattern) = pattern
        .strip_prefix('^')
        .map_or((false, pattern), |p| (true, p));
    let (end, pattern) = pattern
        .strip_suffix('$')
        .map_or((false, pattern), |p| (true, p));
    let plain = pattern.replace("\\.", ".").replace("\\-", "-");
    match (start, end) {
        (true, true) => text == plain,
        (true, false) => text.starts_with(&plain),
        (false, true) => text.ends_with(&plain),
        (false, false) => text.contains(&plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_json_forms_mean_the_same() {
        let list = Filters::parse(r#"{"label":["a=b","c"]}"#, &["label"]);
        let set = Filters::parse(r#"{"label":{"a=b":true,"c":true}}"#, &["label"]);
        assert_eq!(list, set);
        assert_eq!(list.map(|f| f.get("label").len()), Ok(2));
    }

    #[test]
    fn unknown_names_are_refused_by_name() {
        let refused = Filters::parse(r#"{"zz":["a"]}"#, &["label"]).unwrap_err();
        assert_eq!(refused.message, "invalid filter 'zz'");
        assert_eq!(Filters::parse("zz", &[]).unwrap_err().status, 400);
    }

    #[test]
    fn labels_are_all_wanted_names_one_of() {
        let filters = Filters::parse(
            r#"{"label":["a=b","c"],"name":["we","^x$"]}"#,
            &["label", "name"],
        )
        .unwrap();
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect::<BTreeMap<_, _>>()
        };
        assert!(filters.labels("label", &labels(&[("a", "b"), ("c", "")])));
        assert!(!filters.labels("label", &labels(&[("a", "x"), ("c", "")])));
        assert!(filters.fuzzy("name", "web") && filters.fuzzy("name", "x"));
        assert!(!filters.fuzzy("name", "xx"));
        assert!(filters.fuzzy("other", "anything"));
    }
}
