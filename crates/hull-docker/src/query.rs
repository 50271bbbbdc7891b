//! Query strings and percent-decoding, read as Go's `net/url` and Docker's form values are.

use crate::errors::ApiError;

/// The parameters of a query string, in order.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decode(key, true), percent_decode(value, true))
                })
                .collect(),
        )
    }

    /// The first value; empty when there is none.
    pub(crate) fn get(&self, key: &str) -> &str {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map_or("", |(_, value)| value)
    }

    /// Every value.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, value)| value.as_str())
    }

    /// Docker's reading of a flag: anything but an empty or a negative word is true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        let value = self.get(key).trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A number; `None` when missing or empty.
    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, ApiError> {
        match self.get(key) {
            "" => Ok(None),
            text => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(ApiError::invalid(format!(
                    "invalid value for {key}: parsing {text:?}: invalid syntax"
                ))),
            },
        }
    }
}

/// Decodes `%41`; in queries also `+`. What is not a valid escape stays as it is.
pub(crate) fn percent_decode(text: &str, plus: bool) -> String {
    if !(text.contains('%') || plus && text.contains('+')) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let value = escape
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(value) = value {
            out.push(value);
            at += 3;
        } else {
            out.push(if plus && bytes[at] == b'+' {
                b' '
            } else {
                bytes[at]
            });
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_broken_ones_kept() {
        assert_eq!(percent_decode("a%2Fb%3a%zz%4", false), "a/b:%zz%4");
        assert_eq!(percent_decode("a+b%20c", true), "a b c");
        assert_eq!(percent_decode("a+b", false), "a+b");
        assert_eq!(percent_decode("%+1", false), "%+1");
    }

    #[test]
    fn flags_read_as_docker_reads_them() {
        let query = Query::parse("a=1&b=0&c=True&d&e=none&f=x&g=%7B%7D");
        let flags: Vec<bool> = "abcdefz"
            .chars()
            .map(|c| query.flag(&c.to_string()))
            .collect();
        assert_eq!(flags, [true, false, true, false, false, true, false]);
        assert_eq!(query.get("g"), "{}");
    }

    #[test]
    fn numbers_name_what_is_wrong_with_them() {
        let query = Query::parse("h=12&w=a&t=-1");
        assert_eq!(query.number::<u16>("h"), Ok(Some(12)));
        assert_eq!(query.number::<u16>("none"), Ok(None));
        assert_eq!(query.number::<i64>("t"), Ok(Some(-1)));
        assert_eq!(query.number::<u16>("w").unwrap_err().status, 400);
    }
}
