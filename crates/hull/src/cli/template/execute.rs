//! Fills a template in.

use super::TemplateError;
use super::function::{display, is_true};
use super::parse::{Node, Operand, OperandKind, Pipeline};
use crate::cli::value::{Value, float_text};

pub(super) fn execute(nodes: &[Node], value: &Value) -> Result<String, TemplateError> {
    let variables = vec![("$".to_owned(), value.clone())];
    let mut run = Run {
        variables,
        output: String::new(),
        lenient: 0,
    };
    run.list(nodes, value)?;
    Ok(run.output)
}

struct Run {
    variables: Vec<(String, Value)>,
    output: String,
    /// Missing fields are nothing while this is not zero: in conditions.
    lenient: u32,
}

/// The field that a pipeline is, where it is nothing but that.
fn last_field(pipeline: &Pipeline) -> Option<&str> {
    let [command] = &pipeline.commands[..] else {
        return None;
    };
    let [operand] = &command[..] else { return None };
    match &operand.kind {
        OperandKind::Fields(names) | OperandKind::Variable(_, names) => {
            names.last().map(String::as_str)
        }
        _ => None,
    }
}

/// Fields of Docker's answers that are lists in Go, and print as one also where there is none.
const LISTS: [&str; 31] = [
    "Aliases",
    "Args",
    "Binds",
    "BlkioWeightDevice",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "DNSNames",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "MaskedPaths",
    "Mounts",
    "OnBuild",
    "ReadonlyPaths",
    "RepoDigests",
    "RepoTags",
    "SecurityOpt",
    "Shell",
    "Ulimits",
    "VolumesFrom",
    "Warnings",
];

/// Those that are maps.
const MAPS: [&str; 8] = [
    "DriverOpts",
    "ExposedPorts",
    "Labels",
    "Options",
    "PortBindings",
    "StorageOpt",
    "Sysctls",
    "Volumes",
];

/// Those that point to something.
const POINTERS: [&str; 7] = [
    "Health",
    "Healthcheck",
    "IPAMConfig",
    "Init",
    "MemorySwappiness",
    "OomKillDisable",
    "PidsLimit",
];

/// How Go prints a field of that name that is null.
fn nothing(name: &str) -> &'static str {
    if LISTS.contains(&name) {
        "[]"
    } else if MAPS.contains(&name) {
        "map[]"
    } else if POINTERS.contains(&name) {
        "<nil>"
    } else {
        "<no value>"
    }
}

/// How a list of nodes ended.
#[derive(PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

impl Run {
    fn list(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, TemplateError> {
        let scope = self.variables.len();
        let flow = match node {
            Node::Text(text) => {
                self.output.push_str(text);
                Flow::Next
            }
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.output.push_str(&match last_field(pipeline) {
                        Some(name) if value == Value::Null => nothing(name).to_owned(),
                        _ => display(&value),
                    });
                }
                // What an action declares lives on after it.
                return Ok(Flow::Next);
            }
            Node::If {
                condition,
                then,
                otherwise,
            } => {
                let value = self.condition(condition, dot)?;
                self.list(if is_true(&value) { then } else { otherwise }, dot)?
            }
            Node::With {
                value,
                then,
                otherwise,
            } => {
                let value = self.condition(value, dot)?;
                if is_true(&value) {
                    self.list(then, &value)?
                } else {
                    self.list(otherwise, dot)?
                }
            }
            Node::Range {
                list,
                body,
                otherwise,
            } => self.range(list, body, otherwise, dot)?,
            Node::Break => Flow::Break,
            Node::Continue => Flow::Continue,
        };
        self.variables.truncate(scope);
        Ok(flow)
    }

    fn condition(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        self.lenient += 1;
        let value = self.pipeline(pipeline, dot);
        self.lenient -= 1;
        value
    }

    fn range(
        &mut self,
        list: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, TemplateError> {
        let value = self.commands(list, dot)?;
        let items = elements(value);
        if items.is_empty() {
            return self.list(otherwise, dot);
        }
        let scope = self.variables.len();
        for (key, item) in items {
            match &list.variables[..] {
                [element] => self.set(element, item.clone(), list.declares),
                [number, element] => {
                    self.set(number, key, list.declares);
                    self.set(element, item.clone(), list.declares);
                }
                _ => {}
            }
            let flow = self.list(body, &item)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn set(&mut self, name: &str, value: Value, declare: bool) {
        let known = self
            .variables
            .iter_mut()
            .rev()
            .find(|(known, _)| known == name);
        match known {
            Some((_, variable)) if !declare => *variable = value,
            _ => self.variables.push((name.to_owned(), value)),
        }
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.set(name, value.clone(), pipeline.declares);
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut result = None;
        for command in &pipeline.commands {
            result = Some(self.command(command, dot, result)?);
        }
        Ok(result.unwrap_or(Value::Null))
    }

    fn command(
        &mut self,
        operands: &[Operand],
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, TemplateError> {
        let Some((first, rest)) = operands.split_first() else {
            return Ok(Value::Null);
        };
        let (name, boolean) = match &first.kind {
            OperandKind::Function(function) => (function.name(), function.is_boolean()),
            _ => ("", false),
        };
        self.lenient += u32::from(boolean);
        let arguments: Result<Vec<Value>, TemplateError> = rest
            .iter()
            .map(|operand| self.operand(operand, dot))
            .collect();
        self.lenient -= u32::from(boolean);
        let mut arguments = arguments?;
        arguments.extend(piped);
        let failed = |reason: String| TemplateError::Execute {
            column: first.start,
            expression: if name.is_empty() {
                expression(first)
            } else {
                name.to_owned()
            },
            reason,
        };
        match &first.kind {
            OperandKind::Function(function) => function.call(&arguments).map_err(failed),
            _ if arguments.is_empty() => self.operand(first, dot),
            // A method with arguments: what it knows is an object, the argument its key.
            _ => match (self.operand(first, dot)?, &arguments[..]) {
                (object @ Value::Object(_), [Value::String(key)]) => Ok(object
                    .get(key)
                    .cloned()
                    .unwrap_or(Value::String(String::new()))),
                _ => Err(failed("can't give argument to non-function".to_owned())),
            },
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        match &operand.kind {
            OperandKind::Literal(value) => Ok(value.clone()),
            OperandKind::Fields(fields) => self.fields(dot.clone(), fields, operand),
            OperandKind::Variable(name, fields) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                let Some((_, value)) = known else {
                    return Err(TemplateError::Parse {
                        line: 1,
                        reason: format!("undefined variable {name:?}"),
                    });
                };
                self.fields(value.clone(), fields, operand)
            }
            OperandKind::Nested(pipeline, fields) => {
                let value = self.pipeline(pipeline, dot)?;
                self.fields(value, fields, operand)
            }
            OperandKind::Function(function) => {
                function.call(&[]).map_err(|reason| TemplateError::Execute {
                    column: operand.start,
                    expression: function.name().to_owned(),
                    reason,
                })
            }
        }
    }

    fn fields(
        &self,
        mut value: Value,
        fields: &[String],
        operand: &Operand,
    ) -> Result<Value, TemplateError> {
        for field in fields {
            let failed = |reason: String| TemplateError::Execute {
                column: operand.start,
                expression: expression(operand),
                reason,
            };
            value = match &value {
                Value::Object(_) => match value.get(field) {
                    Some(found) => found.clone(),
                    // A key of a map that may be missing, and no field of Docker's API.
                    None if self.lenient > 0 || !field.starts_with(char::is_uppercase) => {
                        Value::Null
                    }
                    None => return Err(failed(format!("map has no entry for key {field:?}"))),
                },
                Value::Null if self.lenient > 0 => Value::Null,
                Value::Null => {
                    return Err(failed(format!(
                        "nil pointer evaluating interface {{}}.{field}"
                    )));
                }
                other => {
                    let kind = type_name(other);
                    return Err(failed(format!(
                        "can't evaluate field {field} in type {kind}"
                    )));
                }
            };
        }
        Ok(value)
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null | Value::Object(_) => "interface {}",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Float(_) => "float64",
        Value::String(_) => "string",
        Value::List(_) => "[]interface {}",
    }
}

/// Keys and elements; those of an object sorted by key.
fn elements(value: Value) -> Vec<(Value, Value)> {
    match value {
        Value::List(items) => (0..).map(Value::Int).zip(items).collect(),
        Value::Object(mut members) => {
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            members
                .into_iter()
                .map(|(key, value)| (Value::String(key), value))
                .collect()
        }
        Value::Int(count) => (0..count).map(|n| (Value::Int(n), Value::Int(n))).collect(),
        _ => Vec::new(),
    }
}

fn expression(operand: &Operand) -> String {
    match &operand.kind {
        OperandKind::Fields(fields) => format!(".{}", fields.join(".")),
        OperandKind::Variable(name, fields) => {
            let fields: String = fields.iter().map(|field| format!(".{field}")).collect();
            format!("{name}{fields}")
        }
        OperandKind::Literal(value) => value.to_json(),
        OperandKind::Nested(..) => "(...)".to_owned(),
        OperandKind::Function(function) => function.name().to_owned(),
    }
}

/// The verbs of Go's `Printf` that make sense here.
pub(super) fn printf(format: &str, arguments: &[Value]) -> String {
    let mut output = String::new();
    let mut arguments = arguments.iter();
    let mut characters = format.chars().peekable();
    while let Some(c) = characters.next() {
        if c != '%' {
            output.push(c);
            continue;
        }
        let mut flags = String::new();
        while let Some(flag) = characters.next_if(|c| "-+# 0".contains(*c)) {
            flags.push(flag);
        }
        let mut number = || {
            let mut digits = String::new();
            while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits.parse::<usize>().ok()
        };
        let width = number().unwrap_or(0);
        let precision = characters.next_if_eq(&'.').map(|_| {
            let mut digits = String::new();
            while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits.parse::<usize>().unwrap_or(0)
        });
        let verb = characters.next().unwrap_or('%');
        if verb == '%' {
            output.push('%');
            continue;
        }
        let Some(argument) = arguments.next() else {
            output.push_str(&format!("%!{verb}(MISSING)"));
            continue;
        };
        let text = format_one(verb, precision, argument);
        let padding = width.saturating_sub(text.chars().count());
        if flags.contains('-') {
            output.push_str(&text);
            output.push_str(&" ".repeat(padding));
        } else {
            let fill = if flags.contains('0') { "0" } else { " " };
            output.push_str(&fill.repeat(padding));
            output.push_str(&text);
        }
    }
    output
}

fn format_one(verb: char, precision: Option<usize>, value: &Value) -> String {
    match (verb, value) {
        ('q', value) => Value::String(display(value)).to_json(),
        ('x', Value::Int(number)) => format!("{number:x}"),
        ('X', Value::Int(number)) => format!("{number:X}"),
        ('o', Value::Int(number)) => format!("{number:o}"),
        ('c', Value::Int(number)) => {
            let c = u32::try_from(*number).ok().and_then(char::from_u32);
            c.map(String::from).unwrap_or_default()
        }
        ('x', Value::String(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('f', Value::Float(number)) => format!("{number:.*}", precision.unwrap_or(6)),
        ('f', Value::Int(number)) => format!("{:.*}", precision.unwrap_or(6), *number as f64),
        ('g' | 'v', Value::Float(number)) => float_text(*number),
        ('s' | 'v', Value::String(text)) => match precision {
            Some(length) => text.chars().take(length).collect(),
            None => text.clone(),
        },
        ('t', Value::Bool(_)) | ('d', Value::Int(_)) | ('s' | 'v', _) => display(value),
        (verb, value) => format!("%!{verb}({}={})", type_name(value), display(value)),
    }
}
