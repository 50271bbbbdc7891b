//! Help pages as docker's client prints them: options by name, in columns, with their defaults.

use clap::{Arg, Command};

/// Characters of a line: what docker's client takes where there is no terminal.
const WIDTH: usize = 80;
/// Characters that a description has at least, however long the options are.
const TEXT_WIDTH_MIN: usize = 24;

/// The page of one command.
pub(super) fn page(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim();
    let about = command.get_about().map(ToString::to_string);
    let about = about.unwrap_or_default();
    let options = options(command);
    let options = match options.is_empty() {
        true => String::new(),
        false => format!("\nOptions:\n{options}"),
    };
    format!("Usage:  {usage}\n\n{about}\n{options}")
}

/// The options of a command, one or more lines each.
pub(super) fn options(command: &Command) -> String {
    let is_shown =
        |arg: &&Arg| !arg.is_positional() && !arg.is_hide_set() && arg.get_id() != "help";
    let mut shown: Vec<&Arg> = command.get_arguments().filter(is_shown).collect();
    shown.sort_by_key(|arg| arg.get_long().unwrap_or_default());
    let rows: Vec<(String, String)> = shown
        .into_iter()
        .map(|arg| (name(arg), text(arg)))
        .collect();
    let column = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 3;
    let mut page = String::new();
    for (name, text) in rows {
        let mut lines =
            wrapped(&text, WIDTH.saturating_sub(column).max(TEXT_WIDTH_MIN)).into_iter();
        let first = lines.next().unwrap_or_default();
        page.push_str(format!("{name:column$}{first}").trim_end());
        page.push('\n');
        for line in lines {
            page.push_str(&format!("{:column$}{line}\n", ""));
        }
    }
    page
}

/// `  -f, --filter filter`.
fn name(arg: &Arg) -> String {
    let short = match arg.get_short() {
        Some(short) => format!("-{short}, "),
        None => "    ".to_owned(),
    };
    let long = arg.get_long().unwrap_or_default();
    let takes = arg.get_action().takes_values() && !arg.is_require_equals_set();
    let names = arg.get_value_names().unwrap_or_default();
    match names.first().filter(|_| takes) {
        Some(value) => format!("  {short}--{long} {value}"),
        None => format!("  {short}--{long}"),
    }
}

/// What it does, and what it is without being given.
fn text(arg: &Arg) -> String {
    let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let default = arg.get_default_values().first();
    let default = default.map(|value| value.to_string_lossy().into_owned());
    let of_switch = arg.is_require_equals_set();
    let is_text = arg
        .get_value_names()
        .is_some_and(|names| names.first().is_some_and(|name| name == "string"));
    match default {
        None => about,
        Some(default) if default.is_empty() || default == "0" => about,
        Some(default) if of_switch && default == "false" => about,
        Some(default) if is_text => format!("{about} (default {default:?})"),
        Some(default) => format!("{about} (default {default})"),
    }
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().map_or(0, |line| line.len());
        if last > 0 && last + 1 + word.len() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use clap::ArgAction;

    use super::*;

    #[test]
    fn options_stand_as_docker_prints_them() {
        let command = Command::new("x").args([
            Arg::new("time")
                .long("time")
                .short('t')
                .value_name("int")
                .default_value("10")
                .help("Seconds to wait before what is killed is killed indeed, and by whom it is"),
            Arg::new("all")
                .long("all")
                .short('a')
                .action(ArgAction::SetTrue)
                .help("Show all"),
            Arg::new("pull")
                .long("pull")
                .value_name("string")
                .default_value("missing")
                .help("Pull"),
        ]);
        assert_eq!(
            options(&super::super::arguments::like_docker(command)),
            "  -a, --all           Show all\n      --pull string   Pull (default \"missing\")\n  \
             -t, --time int      Seconds to wait before what is killed is killed indeed,\n                      \
             and by whom it is (default 10)\n"
        );
    }
}
