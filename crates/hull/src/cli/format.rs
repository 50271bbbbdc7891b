//! What lists look like: as a table, as JSON, or as a template of the user says.
//!
//! A list is rows of one shape; each row is an object of texts, one per column. The field
//! `Label` is special: it holds all labels of a row for `{{.Label "x"}}` and is never printed.

use super::failure::Failure;
use super::template::{Template, TemplateError};
use super::value::Value;

/// How wide columns are, in characters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Width {
    /// Least width, padding included.
    pub(crate) least: usize,
    /// Blanks after the widest cell.
    pub(crate) padding: usize,
}

/// Columns of lists.
const LIST_WIDTH: Width = Width {
    least: 10,
    padding: 3,
};

/// The name of the member that is no column.
const HIDDEN: &str = "Label";

/// The template that prints all of a row.
const WHOLE_ROW: &str = "{{json .}}";

/// What a command can print: the names of its columns and the headers over them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    /// Names that a template uses, with their headers.
    pub(crate) headers: &'static [(&'static str, &'static str)],
    /// The template of the plain table, after the word `table`.
    pub(crate) table: &'static str,
    /// What is printed for each row when only names are wanted.
    pub(crate) quiet: &'static str,
}

/// How the user wants it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style<'a> {
    /// After `--format`.
    pub(crate) format: Option<&'a str>,
    /// Only names.
    pub(crate) quiet: bool,
}

/// Writes rows as the user wants them.
///
/// # Errors
/// Where the template is none, or asks for a column that is not there.
pub(crate) fn render(
    columns: &Columns,
    style: Style<'_>,
    rows: &[Value],
) -> Result<String, Failure> {
    let given = style.format.filter(|format| !format.is_empty());
    let template = match given {
        _ if style.quiet && given.is_none_or(|format| format.starts_with("table")) => columns.quiet,
        None | Some("table") => &format!("table {}", columns.table),
        Some("json") => WHOLE_ROW,
        Some("raw") => return Ok(raw(columns, rows)),
        Some(format) => format,
    };
    let (template, is_table) = match template.strip_prefix("table") {
        Some(rest) => (rest.trim_start_matches([' ', '\t']), true),
        None => (template, false),
    };
    let template = &template.replace("\\t", "\t").replace("\\n", "\n");
    let parsed = Template::parse(template)
        .map_err(|error| Failure::new(format!("failed to parse template: {error}")))?;
    let failed =
        |error: TemplateError| Failure::new(format!("failed to execute template: {error}"));
    let mut lines = Vec::with_capacity(rows.len() + 1);
    if is_table {
        lines.push(parsed.execute(&header_row(columns)).map_err(failed)?);
    }
    for row in rows {
        let line = parsed.execute(&printable(template, row)).map_err(failed)?;
        lines.push(if template == WHOLE_ROW {
            escape_for_html(&line)
        } else {
            line
        });
    }
    if rows.is_empty() && !is_table {
        // A template that asks for what is not there is wrong with any number of rows.
        parsed.execute(&header_row(columns)).map_err(failed)?;
    }
    if is_table {
        return Ok(align(&lines, LIST_WIDTH));
    }
    Ok(lines.into_iter().map(|line| line + "\n").collect())
}

/// Go writes these so where a whole row becomes JSON.
fn escape_for_html(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
}

/// The headers as a row: labels are asked for by name, and that name is the header.
fn header_row(columns: &Columns) -> Value {
    let text = |text: &str| Value::String(text.to_owned());
    let mut members: Vec<(String, Value)> = columns
        .headers
        .iter()
        .map(|(name, header)| ((*name).to_owned(), text(header)))
        .collect();
    members.push((HIDDEN.to_owned(), Value::Object(Vec::new())));
    Value::Object(members)
}

/// Without the hidden member where the whole row is printed, and that sorted as Go does.
fn printable(template: &str, row: &Value) -> Value {
    let Value::Object(members) = row else {
        return row.clone();
    };
    if !template.contains("json .}") && !template.contains("{{.}}") && !template.contains("json . ")
    {
        return row.clone();
    }
    let mut members: Vec<(String, Value)> = members
        .iter()
        .filter(|(name, _)| name != HIDDEN)
        .cloned()
        .collect();
    members.sort_by(|(a, _), (b, _)| a.cmp(b));
    Value::Object(members)
}

/// One `name: value` per line, as old scripts ask for it.
fn raw(columns: &Columns, rows: &[Value]) -> String {
    let mut text = String::new();
    for row in rows {
        for (name, header) in columns.headers {
            if let Some(Value::String(value)) = row.get(name) {
                let header = header.to_lowercase().replace(' ', "_");
                text.push_str(&format!("{header}: {value}\n"));
            }
        }
        text.push('\n');
    }
    text
}

/// Aligns cells that are separated by tabs, as Go's tabwriter does.
pub(crate) fn align(lines: &[String], width: Width) -> String {
    let lines: Vec<&str> = lines.iter().flat_map(|line| line.split('\n')).collect();
    let cells: Vec<Vec<&str>> = lines
        .iter()
        .map(|line| line.split('\t').collect())
        .collect();
    let mut output = String::new();
    for (number, line) in cells.iter().enumerate() {
        for (column, cell) in line.iter().enumerate() {
            output.push_str(cell);
            if column + 1 < line.len() {
                let width = column_width(&cells, number, column, width);
                let blanks = width - cell.chars().count();
                output.extend(std::iter::repeat_n(' ', blanks));
            }
        }
        output.push('\n');
    }
    output
}

/// A column is as wide as its widest cell in the lines around that have it too.
fn column_width(cells: &[Vec<&str>], line: usize, column: usize, width: Width) -> usize {
    let has = |line: &Vec<&str>| line.len() > column + 1;
    let before = cells[..line].iter().rev().take_while(|line| has(line));
    let after = cells[line..].iter().take_while(|line| has(line));
    let widest = before
        .chain(after)
        .map(|line| line[column].chars().count() + width.padding);
    widest.max().unwrap_or(0).max(width.least)
}

/// Cuts a text to `length` characters, the last of them an ellipsis.
pub(crate) fn ellipsis(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    if length <= 1 {
        return text.chars().take(length).collect();
    }
    text.chars().take(length - 1).chain(['…']).collect()
}

/// The first 12 digits of an id, without the name of its algorithm.
pub(crate) fn short_id(id: &str) -> &str {
    let digits = id.split_once(':').map_or(id, |(_, digits)| digits);
    digits.get(..12).unwrap_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: Columns = Columns {
        headers: &[("ID", "CONTAINER ID"), ("Names", "NAMES")],
        table: r"{{.ID}}\t{{.Names}}",
        quiet: "{{.ID}}",
    };

    fn rows() -> Vec<Value> {
        let text =
            r#"[{"ID":"b","Names":"web","Label":{"x":"1"}},{"ID":"a","Names":"db","Label":{}}]"#;
        serde_json::from_str(text).unwrap()
    }

    fn check(format: Option<&str>, quiet: bool, expected: &str) {
        assert_eq!(
            render(&COLUMNS, Style { format, quiet }, &rows()).unwrap(),
            expected
        );
    }

    #[test]
    fn a_list_is_a_table_unless_asked_otherwise() {
        check(
            None,
            false,
            "CONTAINER ID   NAMES\nb              web\na              db\n",
        );
        check(None, true, "b\na\n");
        check(Some("table {{.Names}}"), false, "NAMES\nweb\ndb\n");
        check(Some("{{.Names}}:{{.ID}}"), false, "web:b\ndb:a\n");
        check(
            Some("json"),
            false,
            "{\"ID\":\"b\",\"Names\":\"web\"}\n{\"ID\":\"a\",\"Names\":\"db\"}\n",
        );
        check(Some(r#"{{.Label "x"}}"#), false, "1\n\n");
    }

    #[test]
    fn cells_without_a_tab_after_them_do_not_widen_a_column() {
        let lines = [
            "a\tb".to_owned(),
            "longer than that".to_owned(),
            "c\td".to_owned(),
        ];
        assert_eq!(
            align(
                &lines,
                Width {
                    least: 4,
                    padding: 3
                }
            ),
            "a   b\nlonger than that\nc   d\n"
        );
    }

    #[test]
    fn texts_are_cut_with_an_ellipsis() {
        assert_eq!(ellipsis("abcdef", 4), "abc…");
        assert_eq!(ellipsis("abcd", 4), "abcd");
        assert_eq!(short_id("sha256:0123456789abcdef"), "0123456789ab");
    }
}
