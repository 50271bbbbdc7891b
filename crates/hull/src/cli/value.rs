//! JSON as the engine sent it: members keep their order, which `serde_json`'s own values do not.

use std::fmt::Write as _;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    String(String),
    /// A list.
    List(Vec<Value>),
    /// Members in the order of the text.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// The member of that name.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Object(members) => members
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The member that the names lead to.
    pub(crate) fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |value, name| value.get(name))
    }

    /// The text, where it is one.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The text of a member, empty where there is none.
    pub(crate) fn text(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// The whole number of a member, zero where there is none.
    pub(crate) fn int(&self, path: &[&str]) -> i64 {
        match self.at(path) {
            Some(Value::Int(number)) => *number,
            // Sizes may come as floats from a server that is not written in Go.
            Some(Value::Float(number)) => *number as i64,
            _ => 0,
        }
    }

    /// Whether a member is there and true.
    pub(crate) fn flag(&self, path: &[&str]) -> bool {
        self.at(path) == Some(&Value::Bool(true))
    }

    /// The elements of a list, none for anything else.
    pub(crate) fn items(&self, path: &[&str]) -> &[Value] {
        match self.at(path) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    /// The members of an object, none for anything else.
    pub(crate) fn members(&self, path: &[&str]) -> &[(String, Value)] {
        match self.at(path) {
            Some(Value::Object(members)) => members,
            _ => &[],
        }
    }

    /// The value as JSON in one line.
    pub(crate) fn to_json(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, None);
        text
    }

    /// The value as JSON with four blanks per level.
    pub(crate) fn to_pretty_json(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, Some(0));
        text
    }

    fn write(&self, out: &mut String, level: Option<usize>) {
        match self {
            Value::Null => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Int(number) => {
                let _ = write!(out, "{number}");
            }
            Value::Float(number) => out.push_str(&float_text(*number)),
            Value::String(text) => write_text(text, out),
            Value::List(items) => {
                write_all(items.iter(), ['[', ']'], out, level, |v, out, level| {
                    v.write(out, level);
                })
            }
            Value::Object(members) => {
                write_all(
                    members.iter(),
                    ['{', '}'],
                    out,
                    level,
                    |(key, value), out, level| {
                        write_text(key, out);
                        out.push(':');
                        if level.is_some() {
                            out.push(' ');
                        }
                        value.write(out, level);
                    },
                );
            }
        }
    }
}

/// A float as Go prints it by default.
pub(crate) fn float_text(number: f64) -> String {
    if number != 0.0 && (number.abs() < 1e-4 || number.abs() >= 1e21) {
        let text = format!("{number:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    format!("{number}")
}

fn write_all<T>(
    items: impl ExactSizeIterator<Item = T>,
    [open, close]: [char; 2],
    out: &mut String,
    level: Option<usize>,
    mut write: impl FnMut(T, &mut String, Option<usize>),
) {
    let line = |out: &mut String, level: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("    ", level));
    };
    out.push(open);
    let count = items.len();
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        if let Some(level) = level {
            line(out, level + 1);
        }
        write(item, out, level.map(|level| level + 1));
    }
    if let Some(level) = level.filter(|_| count > 0) {
        line(out, level);
    }
    out.push(close);
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(i64::try_from(number).map_or(Value::Float(number as f64), Value::Int))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order() {
        let text = r#"{"b":1,"a":[true,null,1.5,{}],"c":"\u0001\"é<"}"#;
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(value.to_json(), text);
    }

    #[test]
    fn pretty_json_is_indented_as_go_does() {
        let value: Value = serde_json::from_str(r#"{"a":[1,{}],"b":[]}"#).unwrap();
        let expected = "{\n    \"a\": [\n        1,\n        {}\n    ],\n    \"b\": []\n}";
        assert_eq!(value.to_pretty_json(), expected);
    }
}
