//! Every command and where it is found: the one definition behind parsing, help, completion and
//! manual pages.

use std::ffi::OsString;
use std::future::Future;
use std::pin::Pin;

use clap::{ArgMatches, Args};

use super::failure::Failure;
use super::session::{GlobalOptions, Session, print};
use super::{
    Command, DaemonOptions, arguments, attach, bootstrap, commit, context, copy, cp, create, diff,
    disk, events, exec, export, generate, help, history, image_list, import, import_docker, info,
    inspect, kill, later, load, login, logs, manifest, network, pause, port, prune, ps, pull, push,
    rename, rm, rmi, run, search, start, stats, stop, system, tag, top, update, version, vm,
    volume, wait,
};

type Running<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'a>>;

/// What runs a command.
#[derive(Clone, Copy)]
pub(super) enum Action {
    /// A client: needs a session.
    Client(for<'a> fn(&'a Session, ArgMatches) -> Running<'a>),
    /// The daemon, which has a runtime of its own.
    Daemon,
}

/// One command at one place.
pub(super) struct Entry {
    /// Its name, then others that also find it.
    names: &'static [&'static str],
    pub(super) usage: &'static str,
    about: &'static str,
    augment: fn(clap::Command) -> clap::Command,
    pub(super) action: Action,
    /// A plugin of that name takes its place.
    pub(super) yields: bool,
}

impl Entry {
    pub(super) fn name(&self) -> &'static str {
        self.names[0]
    }
}

/// Commands about one sort of thing.
pub(super) struct Group {
    name: &'static str,
    about: &'static str,
    entries: &'static [Entry],
}

impl Group {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn entry(&self, name: &str) -> Option<&'static Entry> {
        self.entries
            .iter()
            .find(|entry| entry.names.contains(&name))
    }
}

const fn at<C: Command + 'static>(names: &'static [&'static str]) -> Entry {
    Entry {
        names,
        usage: C::USAGE,
        about: C::ABOUT,
        augment: C::augment_args,
        action: Action::Client(run_boxed::<C>),
        yields: false,
    }
}

/// A command that only says what is missing, until somebody installs a plugin that has it.
const fn until_installed<C: Command + 'static>(names: &'static [&'static str]) -> Entry {
    Entry {
        yields: true,
        ..at::<C>(names)
    }
}

fn run_boxed<C: Command>(session: &Session, matches: ArgMatches) -> Running<'_> {
    Box::pin(async move {
        let command =
            C::from_arg_matches(&matches).map_err(|error| Failure::new(error.to_string()))?;
        command.run(session).await
    })
}

/// What the program is.
const ABOUT: &str = "Containers and virtual machines: one engine, by the Docker Engine API";

static TOP: &[Entry] = &[
    at::<run::Run>(&["run"]),
    at::<exec::Exec>(&["exec"]),
    at::<ps::Ps>(&["ps"]),
    at::<later::Build>(&["build"]),
    at::<pull::Pull>(&["pull"]),
    at::<push::Push>(&["push"]),
    at::<image_list::ImageList>(&["images"]),
    at::<login::Login>(&["login"]),
    at::<login::Logout>(&["logout"]),
    at::<search::Search>(&["search"]),
    at::<version::Version>(&["version"]),
    at::<info::Info>(&["info"]),
    until_installed::<later::Compose>(&["compose"]),
    at::<attach::Attach>(&["attach"]),
    at::<commit::Commit>(&["commit"]),
    at::<cp::Cp>(&["cp"]),
    at::<create::Create>(&["create"]),
    at::<diff::Diff>(&["diff"]),
    at::<events::Events>(&["events"]),
    at::<export::Export>(&["export"]),
    at::<history::History>(&["history"]),
    at::<import::Import>(&["import"]),
    at::<inspect::Inspect>(&["inspect"]),
    at::<kill::Kill>(&["kill"]),
    at::<load::Load>(&["load"]),
    at::<logs::Logs>(&["logs"]),
    at::<pause::Pause>(&["pause"]),
    at::<port::Port>(&["port"]),
    at::<rename::Rename>(&["rename"]),
    at::<stop::Restart>(&["restart"]),
    at::<rm::Rm>(&["rm"]),
    at::<rmi::Rmi>(&["rmi"]),
    at::<load::Save>(&["save"]),
    at::<start::Start>(&["start"]),
    at::<stats::Stats>(&["stats"]),
    at::<stop::Stop>(&["stop"]),
    at::<tag::Tag>(&["tag"]),
    at::<top::Top>(&["top"]),
    at::<pause::Unpause>(&["unpause"]),
    at::<update::Update>(&["update"]),
    at::<wait::Wait>(&["wait"]),
    at::<generate::Completion>(&["completion"]),
    at::<generate::Man>(&["man"]),
    Entry {
        names: &["daemon"],
        usage: "[OPTIONS]",
        about: "Run the engine",
        augment: DaemonOptions::augment_args,
        action: Action::Daemon,
        yields: false,
    },
];

static GROUPS: &[Group] = &[
    Group {
        name: "container",
        about: "Manage containers",
        entries: &[
            at::<attach::Attach>(&["attach"]),
            at::<commit::Commit>(&["commit"]),
            at::<cp::Cp>(&["cp"]),
            at::<create::Create>(&["create"]),
            at::<diff::Diff>(&["diff"]),
            at::<exec::Exec>(&["exec"]),
            at::<export::Export>(&["export"]),
            at::<inspect::ContainerInspect>(&["inspect"]),
            at::<kill::Kill>(&["kill"]),
            at::<logs::Logs>(&["logs"]),
            at::<ps::Ps>(&["ls", "ps", "list"]),
            at::<pause::Pause>(&["pause"]),
            at::<port::Port>(&["port"]),
            at::<prune::ContainerPrune>(&["prune"]),
            at::<rename::Rename>(&["rename"]),
            at::<stop::Restart>(&["restart"]),
            at::<rm::Rm>(&["rm", "remove"]),
            at::<run::Run>(&["run"]),
            at::<start::Start>(&["start"]),
            at::<stats::Stats>(&["stats"]),
            at::<stop::Stop>(&["stop"]),
            at::<top::Top>(&["top"]),
            at::<pause::Unpause>(&["unpause"]),
            at::<update::Update>(&["update"]),
            at::<wait::Wait>(&["wait"]),
        ],
    },
    Group {
        name: "context",
        about: "Manage contexts",
        entries: &[
            at::<context::ContextCreate>(&["create"]),
            at::<context::ContextInspect>(&["inspect"]),
            at::<context::ContextList>(&["ls", "list"]),
            at::<context::ContextRemove>(&["rm", "remove"]),
            at::<context::ContextShow>(&["show"]),
            at::<context::ContextUpdate>(&["update"]),
            at::<context::ContextUse>(&["use"]),
        ],
    },
    Group {
        name: "image",
        about: "Manage images",
        entries: &[
            at::<bootstrap::Bootstrap>(&["bootstrap"]),
            at::<copy::ImageCopy>(&["copy"]),
            at::<later::Build>(&["build"]),
            at::<history::History>(&["history"]),
            at::<import::Import>(&["import"]),
            at::<import_docker::ImportDocker>(&["import-docker"]),
            at::<inspect::ImageInspect>(&["inspect"]),
            at::<load::Load>(&["load"]),
            at::<image_list::ImageList>(&["ls", "list"]),
            at::<prune::ImagePrune>(&["prune"]),
            at::<pull::Pull>(&["pull"]),
            at::<push::Push>(&["push"]),
            at::<rmi::Rmi>(&["rm", "remove"]),
            at::<load::Save>(&["save"]),
            at::<tag::Tag>(&["tag"]),
        ],
    },
    Group {
        name: "manifest",
        about: "Manage Docker image manifests and manifest lists",
        entries: &[
            at::<manifest::ManifestAnnotate>(&["annotate"]),
            at::<manifest::ManifestCreate>(&["create"]),
            at::<manifest::ManifestInspect>(&["inspect"]),
            at::<manifest::ManifestPush>(&["push"]),
            at::<manifest::ManifestRemove>(&["rm"]),
        ],
    },
    Group {
        name: "network",
        about: "Manage networks",
        entries: &[
            at::<network::NetworkConnect>(&["connect"]),
            at::<network::NetworkCreate>(&["create"]),
            at::<network::NetworkDisconnect>(&["disconnect"]),
            at::<network::NetworkRules>(&["rules"]),
            at::<inspect::NetworkInspect>(&["inspect"]),
            at::<network::NetworkList>(&["ls", "list"]),
            at::<prune::NetworkPrune>(&["prune"]),
            at::<network::NetworkRemove>(&["rm", "remove"]),
        ],
    },
    Group {
        name: "vm",
        about: "Manage what machines are made of",
        entries: &[at::<vm::VmKernel>(&["kernel"])],
    },
    Group {
        name: "volume",
        about: "Manage volumes",
        entries: &[
            at::<volume::VolumeCreate>(&["create"]),
            at::<inspect::VolumeInspect>(&["inspect"]),
            at::<volume::VolumeList>(&["ls", "list"]),
            at::<prune::VolumePrune>(&["prune"]),
            at::<volume::VolumeClone>(&["clone"]),
            at::<volume::VolumeExport>(&["export"]),
            at::<volume::VolumeImport>(&["import"]),
            at::<volume::VolumeRename>(&["rename"]),
            at::<volume::VolumeRemove>(&["rm", "remove"]),
            at::<volume::VolumeSnapshot>(&["snapshot"]),
        ],
    },
    Group {
        name: "system",
        about: "Manage the engine",
        entries: &[
            at::<disk::DiskUsage>(&["df"]),
            at::<events::Events>(&["events"]),
            at::<info::Info>(&["info"]),
            at::<disk::SystemPrune>(&["prune"]),
            at::<system::DialStdio>(&["dial-stdio"]),
            at::<system::Shutdown>(&["shutdown"]),
            at::<system::Verify>(&["verify"]),
        ],
    },
];

/// The command of that name outside of any group.
pub(super) fn entry(name: &str) -> Option<&'static Entry> {
    TOP.iter().find(|entry| entry.names.contains(&name))
}

/// Names and purposes of the commands of a group; no group: of all that stands first.
pub(super) fn commands(of: Option<&str>) -> Vec<(&'static str, &'static str)> {
    let described = |entry: &Entry| (entry.name(), entry.about);
    match of.and_then(group) {
        Some(group) => group.entries.iter().map(described).collect(),
        None => {
            let groups = GROUPS.iter().map(|group| (group.name, group.about));
            TOP.iter().map(described).chain(groups).collect()
        }
    }
}

/// The group of that name.
pub(super) fn group(name: &str) -> Option<&'static Group> {
    GROUPS.iter().find(|group| group.name == name)
}

/// Parses the options before the command's name, and leaves the rest as it is.
pub(super) fn root_parser() -> clap::Command {
    let parser = clap::Command::new(arguments::program_name())
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(true)
        .arg(
            clap::Arg::new("version")
                .long("version")
                .short('v')
                .action(clap::ArgAction::Version)
                .help("Print version information and quit"),
        )
        .allow_external_subcommands(true)
        .disable_help_subcommand(true);
    about(
        arguments::like_docker(GlobalOptions::augment_args(parser)),
        ABOUT,
    )
}

/// Says what a command does, instead of what the comment of its options says.
fn about(command: clap::Command, text: &'static str) -> clap::Command {
    command.about(text).long_about(None)
}

/// The parser of one command.
pub(super) fn parser(entry: &Entry, path: &str) -> clap::Command {
    let program = arguments::program_name();
    let usage = format!("{program} {path} {}", entry.usage);
    let usage = usage.replace("\n\t", &format!("\n       {program} "));
    let command = clap::Command::new(entry.name()).override_usage(usage);
    about(
        arguments::like_docker((entry.augment)(command)),
        entry.about,
    )
}

/// The whole tree.
pub(super) fn whole() -> clap::Command {
    let top = TOP.iter().map(|entry| parser(entry, entry.name()));
    let groups = GROUPS.iter().map(|group| {
        let command = clap::Command::new(group.name).about(group.about);
        let command = command
            .subcommand_required(true)
            .disable_help_subcommand(true);
        command.subcommands(group.entries.iter().map(|entry| {
            let path = format!("{} {}", group.name, entry.name());
            parser(entry, &path).visible_aliases(entry.names[1..].iter().copied())
        }))
    });
    root_parser()
        .allow_external_subcommands(false)
        .subcommands(top)
        .subcommands(groups)
}

/// Prints the help of the command that `path` leads to.
pub(super) fn print_help(path: &[OsString]) -> Result<(), Failure> {
    let words: Vec<String> = path
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let of = |entry: &Entry, path: &str| help::page(&parser(entry, path));
    let text = match words[..] {
        [] => root_help(),
        [first] => match group(first) {
            Some(group) => group_help(group),
            None => of(entry(first).ok_or_else(|| unknown("", first))?, first),
        },
        [first, second, ..] => {
            let group = group(first).ok_or_else(|| unknown("", first))?;
            let entry = group.entry(second).ok_or_else(|| unknown(first, second))?;
            of(entry, &format!("{first} {second}"))
        }
    };
    print(&text)
}

/// Least width of the column of names.
const NAME_WIDTH_MIN: usize = 11;

fn root_help() -> String {
    let program = arguments::program_name();
    let parser = root_parser();
    let about = parser
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    let options = help::options(&parser);
    let commands = list(TOP.iter().map(|entry| (entry.name(), entry.about)));
    let groups = list(GROUPS.iter().map(|group| (group.name, group.about)));
    format!(
        "Usage:  {program} [OPTIONS] COMMAND\n\n{about}\n\nCommands:\n{commands}\n\
         Management Commands:\n{groups}\nGlobal Options:\n{options}\n\
         Run '{program} COMMAND --help' for more information on a command.\n"
    )
}

pub(super) fn group_help(group: &Group) -> String {
    let program = arguments::program_name();
    let Group {
        name,
        about,
        entries,
    } = group;
    let commands = list(entries.iter().map(|entry| (entry.name(), entry.about)));
    format!(
        "Usage:  {program} {name} COMMAND\n\n{about}\n\nCommands:\n{commands}\n\
         Run '{program} {name} COMMAND --help' for more information on a command.\n"
    )
}

fn list<'a>(rows: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> String {
    let width = rows
        .clone()
        .map(|(name, _)| name.len())
        .max()
        .unwrap_or(0)
        .max(NAME_WIDTH_MIN);
    rows.map(|(name, about)| format!("  {name:width$} {about}\n"))
        .collect()
}

/// The failure of a command that is not there.
pub(super) fn unknown(group_name: &str, name: &str) -> Failure {
    let names: Vec<&str> = match group(group_name) {
        Some(group) => group
            .entries
            .iter()
            .flat_map(|entry| entry.names)
            .copied()
            .collect(),
        None => {
            let top = TOP.iter().flat_map(|entry| entry.names).copied();
            top.chain(GROUPS.iter().map(|group| group.name)).collect()
        }
    };
    arguments::unknown_command(group_name, name, nearest(name, names))
}

/// The word that was probably meant.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distances = known
        .into_iter()
        .map(|known| (distance(known, name), known));
    // A third of the letters may be wrong: more is another word.
    let nearest = distances.min();
    let nearest = nearest.filter(|(distance, known)| *distance * 3 <= known.len().max(3));
    nearest.map(|(_, known)| known)
}

/// How many letters have to be changed, added or removed to get from one word to the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let change = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_parser_without_contradictions() {
        whole().debug_assert();
    }

    #[test]
    fn a_misspelt_name_finds_its_neighbour() {
        assert_eq!(
            (
                distance("run", "run"),
                distance("run", "rnu"),
                distance("", "ab")
            ),
            (0, 2, 2)
        );
        assert!(
            unknown("", "contianer")
                .message
                .contains("hint: did you mean 'hull container'?")
        );
        assert!(!unknown("", "xyzzy").message.contains("Did you mean"));
    }
}
