//! Makes clap's parser accept what Docker's accepts, and complain with Docker's words.
//!
//! Docker's parser (pflag) differs from clap's in four ways that scripts rely on: `--rm=false`
//! is possible for every switch, a later flag replaces an earlier one, the value of a flag may
//! begin with a dash, and errors have their own texts and exit code 125.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use super::failure::{EXIT_USAGE, Failure};

/// Adapts the flags of a command.
pub(crate) fn like_docker(command: Command) -> Command {
    let takes_h = command
        .get_arguments()
        .any(|arg| arg.get_short() == Some('h'));
    let command = command.args_override_self(true).mut_args(adapt);
    let mut help = Arg::new("help")
        .long("help")
        .action(ArgAction::Help)
        .help("Print usage");
    if !takes_h {
        help = help.short('h');
    }
    command.disable_help_flag(true).arg(help)
}

fn adapt(arg: Arg) -> Arg {
    match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .hide_default_value(true)
            .hide_possible_values(true)
            .value_name("bool")
            .value_parser(parse_bool),
        ArgAction::Set | ArgAction::Append if !arg.is_positional() => arg.allow_hyphen_values(true),
        _ => arg,
    }
}

/// Parses what Go's `strconv.ParseBool` takes for true and false.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "strconv.ParseBool: parsing {text:?}: invalid syntax"
        )),
    }
}

/// Parses a whole number as Go's `strconv.ParseInt` with base 0.
pub(crate) fn parse_int(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        Some("0o" | "0O") => (8, &digits[2..]),
        Some(prefix) if prefix.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    let signed = if negative {
        format!("-{digits}")
    } else {
        digits.to_owned()
    };
    i64::from_str_radix(&signed, radix).map_err(|error| {
        let reason = match error.kind() {
            std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
                "value out of range"
            }
            _ => "invalid syntax",
        };
        format!("strconv.ParseInt: parsing {text:?}: {reason}")
    })
}

/// Parses a number that is not negative and not above 65535.
pub(crate) fn parse_uint16(text: &str) -> Result<u16, String> {
    text.parse().map_err(|error: std::num::ParseIntError| {
        let reason = match error.kind() {
            std::num::IntErrorKind::PosOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.ParseUint: parsing {text:?}: {reason}")
    })
}

/// The command that words were given to.
pub(crate) struct Place<'a> {
    /// What parsed them.
    pub(crate) parser: &'a Command,
    /// Its name, with that of its group before it.
    pub(crate) path: &'a str,
    /// What follows the name in its usage line.
    pub(crate) usage: &'a str,
}

/// Turns an error of the parser into Docker's text and exit code; `last` is the last word.
pub(crate) fn failure(error: &clap::Error, place: &Place<'_>, last: &str) -> Failure {
    let Place {
        parser,
        path,
        usage,
    } = place;
    let usage = &format!("{path} {usage}");
    let usage = usage.trim_start();
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let flag = context(ContextKind::InvalidArg);
    let text = match error.kind() {
        ErrorKind::UnknownArgument if !flag.starts_with('-') => {
            return wrong_number(path, usage);
        }
        ErrorKind::UnknownArgument if flag.starts_with("--") => {
            let nearest = match error.get(ContextKind::SuggestedArg) {
                Some(ContextValue::String(nearest)) => format!(" (did you mean {nearest}?)"),
                _ => String::new(),
            };
            format!("unknown flag: {flag}{nearest}")
        }
        ErrorKind::UnknownArgument => {
            format!(
                "unknown shorthand flag: {:?} in {flag}",
                flag.chars().nth(1).unwrap_or('-')
            )
        }
        ErrorKind::MissingRequiredArgument => return wrong_number(path, usage),
        ErrorKind::InvalidValue if context(ContextKind::InvalidValue).is_empty() => {
            match last.strip_prefix('-').filter(|rest| !rest.starts_with('-')) {
                Some(letters) => {
                    let letter = letters.chars().last().unwrap_or('-');
                    format!("flag needs an argument: {letter:?} in {last}")
                }
                None => format!("flag needs an argument: {}", flag_name(&flag)),
            }
        }
        ErrorKind::WrongNumberOfValues | ErrorKind::TooFewValues
            if flag.starts_with('<') || flag.starts_with('[') =>
        {
            return wrong_number(path, usage);
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = context(ContextKind::InvalidValue);
            let reason = std::error::Error::source(error).map(ToString::to_string);
            format!(
                "invalid argument {value:?} for {:?} flag: {}",
                with_short(&flag, parser),
                reason.unwrap_or_else(|| "invalid value".to_owned())
            )
        }
        _ => error
            .to_string()
            .trim_start_matches("error: ")
            .trim_end()
            .to_owned(),
    };
    let program = program_name();
    let space = if path.is_empty() { "" } else { " " };
    let usage = usage.replace("\n\t", &format!("\n\t{program} "));
    let message = format!(
        "{text}\n\nUsage:  {program} {usage}\n\n\
         Run '{program} {path}{space}--help' for more information"
    );
    Failure::new(message).with_code(EXIT_USAGE)
}

/// How many names a command takes is read from its usage line.
fn wrong_number(path: &str, usage: &str) -> Failure {
    let first_form = usage.lines().next().unwrap_or_default();
    let words = first_form.split(' ').skip(path.split(' ').count());
    let mut depth = 0_usize;
    let (mut least, mut most) = (0, 0);
    for word in words.filter(|word| *word != "[OPTIONS]" && *word != "|") {
        least += usize::from(depth == 0 && !word.starts_with('['));
        most += usize::from(depth == 0);
        depth = (depth + word.matches('[').count()).saturating_sub(word.matches(']').count());
    }
    let open_ended = usage.ends_with("...]") || usage.ends_with("[ps OPTIONS]");
    let plural = |count: usize| if count == 1 { "" } else { "s" };
    let demand = match (least, most) {
        _ if open_ended => format!("requires at least {least} argument{}", plural(least)),
        (0, 0) => "accepts no arguments".to_owned(),
        (0, most) => format!("requires at most {most} argument{}", plural(most)),
        (least, most) if least == most => format!("requires {least} argument{}", plural(least)),
        // Docker's command does not look at how many there are above the least.
        (least, _) if path.ends_with("import") => {
            format!("requires at least {least} argument{}", plural(least))
        }
        (least, most) => format!("requires at least {least} and at most {most} arguments"),
    };
    wrong_count(path, usage, &demand)
}

/// The failure of a command that got more or fewer names than it takes.
pub(crate) fn wrong_count(path: &str, usage: &str, demand: &str) -> Failure {
    let program = program_name();
    let pointer = if demand.contains("at least") && !demand.contains("at most") {
        "See"
    } else {
        "Run"
    };
    let usage = usage.replace("\n\t", &format!("\n\t{program} "));
    Failure::new(format!(
        "{program}: '{program} {path}' {demand}\n\nUsage:  {program} {usage}\n\n\
         {pointer} '{program} {path} --help' for more information"
    ))
}

/// The failure of a command that is not there, with the nearest one that is.
pub(crate) fn unknown_command(path: &str, name: &str, nearest: Option<&str>) -> Failure {
    let program = program_name();
    let space = if path.is_empty() { "" } else { " " };
    let mut message = format!("{program}: unknown command: {program} {path}{space}{name}");
    if !path.is_empty() {
        // As docker's two ways to define a group print it.
        let what = if matches!(path, "volume" | "context") {
            " COMMAND"
        } else {
            ""
        };
        message.push_str(&format!("\n\nUsage:  {program} {path}{what}"));
    }
    message.push_str(&format!(
        "\n\nRun '{program} {path}{space}--help' for more information"
    ));
    if let Some(nearest) = nearest {
        message.push_str(&format!(
            "\nhint: did you mean '{program} {path}{space}{nearest}'?"
        ));
    }
    Failure::new(message)
}

/// `--memory` out of `--memory <bytes>`.
fn flag_name(display: &str) -> &str {
    display.split([' ', '[', '=']).next().unwrap_or(display)
}

/// `-m, --memory` out of `--memory <bytes>`.
fn with_short(display: &str, parser: &Command) -> String {
    let name = flag_name(display);
    let long = name.trim_start_matches('-');
    let arg = parser
        .get_arguments()
        .find(|arg| arg.get_long() == Some(long));
    match arg.and_then(Arg::get_short) {
        Some(short) => format!("-{short}, {name}"),
        None => name.to_owned(),
    }
}

/// What this program is called: `docker` where somebody made a link of that name to it.
pub(crate) fn program_name() -> &'static str {
    static NAME: std::sync::OnceLock<&str> = std::sync::OnceLock::new();
    NAME.get_or_init(|| {
        let first = std::env::args_os().next().unwrap_or_default();
        let is_docker = std::path::Path::new(&first)
            .file_name()
            .is_some_and(|n| n == "docker");
        if is_docker { "docker" } else { "hull" }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_with_the_prefixes_of_go() {
        assert_eq!(parse_int("-12"), Ok(-12));
        assert_eq!(parse_int("0x10"), Ok(16));
        assert_eq!(parse_int("010"), Ok(8));
        assert_eq!(parse_int("0"), Ok(0));
        assert!(parse_int("x").unwrap_err().contains("invalid syntax"));
        assert!(
            parse_int("99999999999999999999")
                .unwrap_err()
                .contains("out of range")
        );
    }

    #[test]
    fn switches_take_a_value_only_with_an_equals_sign() {
        let command = || {
            let flag = |name: &'static str, short| {
                Arg::new(name)
                    .long(name)
                    .short(short)
                    .action(ArgAction::SetTrue)
            };
            let names = Arg::new("names").action(ArgAction::Append).num_args(0..);
            like_docker(Command::new("x").args([flag("all", 'a'), flag("quiet", 'q'), names]))
        };
        let matches = command().get_matches_from(["x", "-aq", "one"]);
        assert!(matches.get_flag("all") && matches.get_flag("quiet"));
        let matches = command().get_matches_from(["x", "--all=false", "-q=1", "--all", "two"]);
        assert!(matches.get_flag("all") && matches.get_flag("quiet"));
        let error = command()
            .try_get_matches_from(["x", "--all=maybe"])
            .unwrap_err();
        let failure = failure(
            &error,
            &Place {
                parser: &command(),
                path: "x",
                usage: "[OPTIONS]",
            },
            "",
        );
        assert!(
            failure
                .message
                .starts_with("invalid argument \"maybe\" for \"-a, --all\" flag: strconv"),
            "{}",
            failure.message
        );
        assert_eq!(failure.code, 125);
    }
}
