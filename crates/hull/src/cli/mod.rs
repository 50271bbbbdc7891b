//! The command line: from words to one command, run to its end.
//!
//! ```text
//!   words ──> global options ──> entry in `tree` ──> its own options ──> Command::run ──> exit code
//! ```
//!
//! Only the command that is asked for is built, so that a start costs little; the whole tree is
//! built for help, completion and manual pages, from the same entries. One file per command.

mod archive;
mod arguments;
mod attach;
mod bootstrap;
mod commit;
mod complete;
mod container;
mod context;
mod copy;
mod cp;
mod create;
mod credentials;
mod daemon;
mod detach;
mod diff;
mod disk;
mod events;
mod exec;
mod export;
mod failure;
mod filter;
mod format;
mod generate;
mod help;
mod history;
mod image_list;
mod image_tree;
mod import;
mod import_docker;
mod info;
mod inspect;
mod kill;
mod later;
mod load;
mod login;
mod logs;
mod manifest;
mod names;
mod network;
mod pause;
mod plugin;
mod port;
mod progress;
mod prune;
mod ps;
mod pull;
mod push;
mod reference;
mod registry_end;
mod rename;
mod rm;
mod rmi;
mod run;
mod search;
mod session;
mod signal;
mod start;
mod stats;
mod stdio;
mod stop;
mod stream;
mod system;
mod tag;
mod template;
mod top;
mod tree;
mod units;
mod update;
mod value;
mod version;
mod vm;
mod volume;
mod wait;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::ArgMatches;
use clap::error::ErrorKind;

pub(crate) use container::Ulimit;
pub(crate) use daemon::{Configuration, DaemonOptions};
use failure::Failure;
use session::{GlobalOptions, Session, warn_line};
pub(crate) use tree::nearest;
use tree::{Action, Entry};

/// A command of the client.
pub(crate) trait Command: clap::Args + Sized {
    /// What follows its name in the usage line.
    const USAGE: &str;
    /// What it does, in one line.
    const ABOUT: &str;

    /// Runs it to its end.
    async fn run(self, session: &Session) -> Result<(), Failure>;
}

/// Says something to the person who started us, beside what a command prints.
pub(crate) fn say(text: &str) {
    warn_line(text);
}

/// Runs what the arguments of this process ask for.
pub(crate) fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let first = std::env::args_os().next().unwrap_or_default();
    if std::path::Path::new(&first)
        .file_name()
        .is_some_and(|name| name == "dockerd")
    {
        words.insert(0, OsString::from("daemon"));
    }
    let ended = dispatch(words);
    match ended {
        Ok(code) => code,
        Err(failure) => {
            if !failure.message.is_empty() {
                warn_line(&failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(words: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(root) = parsed(tree::root_parser(), words, "", "[OPTIONS] COMMAND [ARG...]")? else {
        return Ok(ExitCode::SUCCESS);
    };
    let globals = <GlobalOptions as clap::FromArgMatches>::from_arg_matches(&root)
        .map_err(|error| Failure::new(error.to_string()))?;
    let Some((name, rest)) = root.subcommand() else {
        return tree::print_help(&[]).map(|()| ExitCode::SUCCESS);
    };
    let mut words: Vec<OsString> = rest
        .get_many::<OsString>("")
        .unwrap_or_default()
        .cloned()
        .collect();
    if name == "help" {
        return tree::print_help(&words).map(|()| ExitCode::SUCCESS);
    }
    if name == "__complete" {
        return complete::run(&words, globals).map(|()| ExitCode::SUCCESS);
    }
    let Some(group) = tree::group(name) else {
        let session = Session::new(globals.clone());
        let entry = match (plugin::find(name, &session.config_dir()), tree::entry(name)) {
            // What this program has itself is not replaced, but what it only names is.
            (Some(path), None) => return Err(plugin::become_it(&path, name, &words, &session)),
            (Some(path), Some(entry)) if entry.yields => {
                return Err(plugin::become_it(&path, name, &words, &session));
            }
            (_, entry) => entry.ok_or_else(|| tree::unknown("", name))?,
        };
        return run_entry(entry, entry.name(), words, globals);
    };
    if words.is_empty() {
        session::warn(&tree::group_help(group));
        return Ok(ExitCode::SUCCESS);
    }
    if words[0] == "--help" || words[0] == "-h" {
        return tree::print_help(&[OsString::from(name)]).map(|()| ExitCode::SUCCESS);
    }
    let second = words.remove(0).to_string_lossy().into_owned();
    let entry = group
        .entry(&second)
        .ok_or_else(|| tree::unknown(name, &second))?;
    run_entry(entry, &format!("{name} {}", entry.name()), words, globals)
}

fn run_entry(
    entry: &Entry,
    path: &str,
    words: Vec<OsString>,
    globals: GlobalOptions,
) -> Result<ExitCode, Failure> {
    let parser = tree::parser(entry, path);
    let Some(matches) = parsed(parser.clone(), words.clone(), path, entry.usage)? else {
        return Ok(ExitCode::SUCCESS);
    };
    match entry.action {
        Action::Daemon => Ok(crate::daemon::run(Configuration::new(parser, words))),
        Action::Client(run) => {
            // One thread: a command waits for the engine most of its time, and starts fast.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let session = Session::new(globals);
            runtime
                .block_on(run(&session, matches))
                .map(|()| ExitCode::SUCCESS)
        }
    }
}

/// Parses words; nothing where they asked for help, which has been printed.
fn parsed(
    mut parser: clap::Command,
    words: Vec<OsString>,
    path: &str,
    usage: &str,
) -> Result<Option<ArgMatches>, Failure> {
    let last = words.last().map(|word| word.to_string_lossy().into_owned());
    let words = std::iter::once(OsString::from("hull")).chain(words);
    match parser.try_get_matches_from_mut(words) {
        Ok(matches) => Ok(Some(matches)),
        // The parser of the first words does not know the commands that help shall show.
        Err(error) if error.kind() == ErrorKind::DisplayHelp && path.is_empty() => {
            tree::print_help(&[])?;
            Ok(None)
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            session::print(&help::page(&parser))?;
            Ok(None)
        }
        Err(error) if error.kind() == ErrorKind::DisplayVersion => {
            session::print_line(&version::one_line())?;
            Ok(None)
        }
        Err(error) => {
            let place = arguments::Place {
                parser: &parser,
                path,
                usage,
            };
            Err(arguments::failure(
                &error,
                &place,
                &last.unwrap_or_default(),
            ))
        }
    }
}
