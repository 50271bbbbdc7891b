//! The functions of templates: Go's own and those that Docker adds.

use std::cmp::Ordering;

use crate::cli::value::{Value, float_text};

/// A function by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Function(&'static str);

const NAMES: [&str; 28] = [
    "and", "or", "not", "eq", "ne", "lt", "le", "gt", "ge", "index", "len", "slice", "print",
    "printf", "println", "json", "split", "join", "title", "upper", "lower", "pad", "truncate",
    "table", "html", "js", "urlquery", "call",
];

impl Function {
    pub(super) fn named(name: &str) -> Option<Function> {
        NAMES
            .iter()
            .find(|known| **known == name)
            .map(|known| Function(known))
    }

    pub(super) fn name(self) -> &'static str {
        self.0
    }

    /// Whether missing fields in its arguments are nothing instead of a mistake.
    pub(super) fn is_boolean(self) -> bool {
        matches!(self.0, "and" | "or" | "not" | "eq" | "ne")
    }

    /// Calls it.
    ///
    /// # Errors
    /// What Go says about arguments that do not fit.
    pub(super) fn call(self, arguments: &[Value]) -> Result<Value, String> {
        let text = |string: String| Ok(Value::String(string));
        match (self.0, arguments) {
            ("and", [.., last]) => Ok(arguments
                .iter()
                .find(|v| !is_true(v))
                .unwrap_or(last)
                .clone()),
            ("or", [.., last]) => Ok(arguments
                .iter()
                .find(|v| is_true(v))
                .unwrap_or(last)
                .clone()),
            ("not", [value]) => Ok(Value::Bool(!is_true(value))),
            ("eq", [first, others @ ..]) if !others.is_empty() => {
                Ok(Value::Bool(others.iter().any(|other| equal(first, other))))
            }
            ("ne", [a, b]) => Ok(Value::Bool(!equal(a, b))),
            ("lt" | "le" | "gt" | "ge", [a, b]) => compare(self.0, a, b),
            ("index", [value, keys @ ..]) => keys
                .iter()
                .try_fold(value.clone(), |value, key| index(&value, key)),
            ("len", [value]) => length(value),
            ("slice", [value, bounds @ ..]) => slice(value, bounds),
            ("print", _) => text(print(arguments)),
            ("println", _) => {
                let words: Vec<String> = arguments.iter().map(display).collect();
                text(format!("{}\n", words.join(" ")))
            }
            ("printf", [Value::String(format), rest @ ..]) => {
                text(super::execute::printf(format, rest))
            }
            ("json", [value]) => text(value.to_json()),
            ("split", [Value::String(whole), Value::String(separator)]) => {
                let parts = whole
                    .split(separator.as_str())
                    .map(|p| Value::String(p.to_owned()));
                Ok(Value::List(parts.collect()))
            }
            ("join", [Value::List(items), Value::String(separator)]) => text(
                items
                    .iter()
                    .map(display)
                    .collect::<Vec<_>>()
                    .join(separator),
            ),
            ("join", [Value::Null, _]) => text(String::new()),
            ("title", [Value::String(word)]) => text(title(word)),
            ("upper", [Value::String(word)]) => text(word.to_uppercase()),
            ("lower", [Value::String(word)]) => text(word.to_lowercase()),
            ("pad", [value, Value::Int(before), Value::Int(after)]) => {
                let blanks = |count: &i64| " ".repeat(usize::try_from(*count).unwrap_or(0));
                text(format!(
                    "{}{}{}",
                    blanks(before),
                    display(value),
                    blanks(after)
                ))
            }
            ("truncate", [Value::String(word), Value::Int(length)]) => text(
                word.chars()
                    .take(usize::try_from(*length).unwrap_or(0))
                    .collect(),
            ),
            ("table", [value]) => Ok(value.clone()),
            (name, _) => Err(format!("wrong number or type of arguments for {name}")),
        }
    }
}

/// Go's notion of truth: not zero and not empty.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Int(number) => *number != 0,
        Value::Float(number) => *number != 0.0,
        Value::String(text) => !text.is_empty(),
        Value::List(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// Objects that are structures in docker's client, whose fields Go prints without their names.
const STRUCTURES: [[&str; 2]; 2] = [["Name", "MaximumRetryCount"], ["Type", "Config"]];

/// The fields of a structure, in the order that Go prints them.
fn fields_of(members: &[(String, Value)]) -> Option<[&Value; 2]> {
    let field = |name: &str| {
        members
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    };
    let mut known = STRUCTURES.iter().filter(|_| members.len() == 2);
    known.find_map(|[first, second]| Some([field(first)?, field(second)?]))
}

/// A value as Go prints it.
pub(super) fn display(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => float_text(*number),
        Value::String(text) => text.clone(),
        Value::List(items) => {
            let words: Vec<String> = items.iter().map(display_inner).collect();
            format!("[{}]", words.join(" "))
        }
        Value::Object(members) if fields_of(members).is_some() => {
            let fields = fields_of(members).into_iter().flatten();
            let words: Vec<String> = fields.map(display_inner).collect();
            format!("{{{}}}", words.join(" "))
        }
        Value::Object(members) => {
            let mut words: Vec<(&String, String)> = members
                .iter()
                .map(|(key, value)| (key, display_inner(value)))
                .collect();
            words.sort();
            let words: Vec<String> = words
                .into_iter()
                .map(|(key, value)| format!("{key}:{value}"))
                .collect();
            format!("map[{}]", words.join(" "))
        }
    }
}

fn display_inner(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        other => display(other),
    }
}

/// `print` puts blanks only between operands that are no strings.
fn print(arguments: &[Value]) -> String {
    let mut text = String::new();
    for (position, argument) in arguments.iter().enumerate() {
        let is_text = |value: &Value| matches!(value, Value::String(_));
        if position > 0 && !is_text(argument) && !is_text(&arguments[position - 1]) {
            text.push(' ');
        }
        text.push_str(&display(argument));
    }
    text
}

fn equal(a: &Value, b: &Value) -> bool {
    order(a, b).map_or(a == b, Ordering::is_eq)
}

fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Float(b)) => (*a as f64).partial_cmp(b),
        (Value::Float(a), Value::Int(b)) => a.partial_cmp(&(*b as f64)),
        (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
        _ => None,
    }
}

fn compare(name: &str, a: &Value, b: &Value) -> Result<Value, String> {
    let Some(order) = order(a, b) else {
        return Err(format!(
            "error calling {name}: incompatible types for comparison"
        ));
    };
    Ok(Value::Bool(match name {
        "lt" => order.is_lt(),
        "le" => order.is_le(),
        "gt" => order.is_gt(),
        _ => order.is_ge(),
    }))
}

fn index(value: &Value, key: &Value) -> Result<Value, String> {
    match (value, key) {
        (Value::List(items), Value::Int(number)) => {
            let item = usize::try_from(*number)
                .ok()
                .and_then(|number| items.get(number));
            item.cloned().ok_or_else(|| {
                format!("error calling index: reflect: slice index out of range: {number}")
            })
        }
        (Value::Object(_), Value::String(name)) => Ok(value
            .get(name)
            .cloned()
            .unwrap_or(Value::String(String::new()))),
        (Value::Null, _) => Err("error calling index: index of untyped nil".to_owned()),
        (Value::List(_), _) => {
            Err("error calling index: cannot index slice/array with type string".to_owned())
        }
        _ => Err("error calling index: can't index item of this type".to_owned()),
    }
}

fn length(value: &Value) -> Result<Value, String> {
    let length = match value {
        Value::String(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Object(members) => members.len(),
        Value::Null => 0,
        _ => return Err("error calling len: len of type without a length".to_owned()),
    };
    Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, String> {
    let bound = |position: usize, default: usize| match bounds.get(position) {
        Some(Value::Int(number)) => usize::try_from(*number).unwrap_or(usize::MAX),
        _ => default,
    };
    let range = |length: usize| {
        let (start, end) = (bound(0, 0), bound(1, length));
        if start <= end && end <= length {
            Ok(start..end)
        } else {
            Err(format!(
                "error calling slice: index out of range: {}",
                start.max(end)
            ))
        }
    };
    match value {
        Value::String(text) => {
            let part = text.get(range(text.len())?).unwrap_or_default();
            Ok(Value::String(part.to_owned()))
        }
        Value::List(items) => Ok(Value::List(items[range(items.len())?].to_vec())),
        _ => Err("error calling slice: can't slice item of this type".to_owned()),
    }
}

fn title(text: &str) -> String {
    let mut previous = ' ';
    let capital = |c: char| {
        let capital = if previous.is_alphanumeric() {
            c
        } else {
            c.to_ascii_uppercase()
        };
        previous = c;
        capital
    };
    text.chars().map(capital).collect()
}
