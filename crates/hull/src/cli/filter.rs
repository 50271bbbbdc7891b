//! `--filter name=value`, as the API wants it.

use std::collections::BTreeMap;

/// Parses one filter.
///
/// # Errors
/// Where it has no value.
pub(crate) fn parse(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("bad format of filter (expected name=value)")?;
    Ok((name.trim().to_lowercase(), value.trim().to_owned()))
}

/// The value of the query parameter, nothing where there is no filter.
pub(crate) fn to_query(filters: &[(String, String)]) -> Option<String> {
    if filters.is_empty() {
        return None;
    }
    let mut by_name: BTreeMap<&str, BTreeMap<&str, bool>> = BTreeMap::new();
    for (name, value) in filters {
        by_name.entry(name).or_default().insert(value, true);
    }
    serde_json::to_string(&by_name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_grouped_by_name() {
        let filters: Vec<_> = ["name=a", "Name = b", "status=exited"]
            .iter()
            .map(|f| parse(f).unwrap())
            .collect();
        let expected = r#"{"name":{"a":true,"b":true},"status":{"exited":true}}"#;
        assert_eq!(to_query(&filters).unwrap(), expected);
        assert!(parse("name").is_err());
    }
}
