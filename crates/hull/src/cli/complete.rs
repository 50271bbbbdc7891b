//! `hull __complete`: what may stand where the cursor is. The scripts of `hull completion` ask it.
//!
//! ```text
//!  words before the cursor ──▶ command, its parser ──▶ value of an option │ option │ position
//!                                                       └──▶ Sort ──▶ fixed words, or asked of the engine
//!  out: WORD[TAB]ABOUT per line, then `:4`, or `:0` where files are meant too (as of docker's client)
//! ```
//!
//! Nothing here fails loudly: who presses the tabulator wants words, not errors.

mod sort;

use std::ffi::OsString;
use std::time::Duration;

use clap::Arg;

use super::failure::Failure;
use super::session::{GlobalOptions, Session, print};
use super::tree;
use sort::Sort;

pub(super) use sort::SCRIPTS;

/// How long the engine may take; the shell stands still meanwhile.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// One possible word, and what it means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    word: String,
    about: String,
}

impl Candidate {
    fn new(word: impl Into<String>, about: impl Into<String>) -> Candidate {
        Candidate {
            word: word.into(),
            about: about.into(),
        }
    }
}

/// Prints what may stand in the place of the last word.
pub(super) fn run(words: &[OsString], globals: GlobalOptions) -> Result<(), Failure> {
    let words: Vec<String> = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let (before, current) = match words.split_last() {
        Some((current, before)) => (before, current.as_str()),
        None => (&[][..], ""),
    };
    let place = Place::of(before, current);
    // An engine that is named on the line is the one that is asked.
    let globals = GlobalOptions {
        config: place.global("config").map(Into::into).or(globals.config),
        context: place.global("context").or(globals.context),
        host: place.global("host").or(globals.host),
        ..globals
    };
    let session = Session::new(globals);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let found = runtime.block_on(place.candidates(&session));
    let mut text = String::new();
    for Candidate { word, about } in found {
        let about = about.lines().next().unwrap_or_default();
        let tab = if about.is_empty() { "" } else { "\t" };
        text.push_str(&format!("{}{word}{tab}{about}\n", place.lead));
    }
    print(&format!("{text}:{}\n", if place.files() { 0 } else { 4 }))
}

/// Where the cursor is.
#[derive(Debug)]
struct Place {
    /// What of the word stays: `--network=` of `--network=fr`.
    lead: String,
    /// What of the word is to be completed.
    typed: String,
    meant: Meant,
    /// Options before the command's name, with their values.
    globals: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Meant {
    /// A command; none: the first word, else one of a group.
    Command(Option<&'static str>),
    /// An option of a command; empty: of the program.
    Option(String),
    Value(Sort),
}

impl Place {
    fn of(before: &[String], current: &str) -> Place {
        let mut scan = Scan::new(before);
        let root = tree::root_parser();
        let mut globals = Vec::new();
        let first = scan.positional(&root, |option, value| {
            globals.push((option.to_owned(), value.to_owned()));
        });
        let (path, parser) = match first.as_deref().map(tree::group) {
            None => (String::new(), root),
            Some(None) => {
                let name = first.unwrap_or_default();
                let parser = tree::entry(&name).map(|entry| tree::parser(entry, &name));
                (name, parser.unwrap_or_default())
            }
            Some(Some(group)) => match scan.positional(&clap::Command::default(), |_, _| {}) {
                None => {
                    return Place::new(current, Meant::Command(Some(group.name())), globals);
                }
                Some(second) => {
                    let entry = group.entry(&second);
                    let path = format!("{} {}", group.name(), entry.map_or("", |e| e.name()));
                    let parser = entry.map(|entry| tree::parser(entry, &path));
                    (path, parser.unwrap_or_default())
                }
            },
        };
        let mut position = 0;
        while scan.positional(&parser, |_, _| {}).is_some() {
            position += 1;
            // What follows is the program's that runs inside.
            if sort::takes_a_program(&path) {
                break;
            }
        }
        if let Some(option) = scan.open {
            return Place::new(current, Meant::Value(Sort::of_option(&option)), globals);
        }
        let in_options = !sort::takes_a_program(&path) || position == 0;
        if let Some((option, value)) = current.split_once('=').filter(|_| in_options)
            && let Some(long) = option.strip_prefix("--")
        {
            let mut place = Place::new(value, Meant::Value(Sort::of_option(long)), globals);
            place.lead = format!("{option}=");
            return place;
        }
        let meant = match path.as_str() {
            path if current.starts_with('-') && in_options => Meant::Option(path.to_owned()),
            "" => Meant::Command(None),
            path => Meant::Value(Sort::of_position(path, position)),
        };
        Place::new(current, meant, globals)
    }

    fn new(typed: &str, meant: Meant, globals: Vec<(String, String)>) -> Place {
        Place {
            lead: String::new(),
            typed: typed.to_owned(),
            meant,
            globals,
        }
    }

    fn global(&self, name: &str) -> Option<String> {
        let found = self.globals.iter().rfind(|(option, _)| option == name);
        found.map(|(_, value)| value.clone())
    }

    fn files(&self) -> bool {
        matches!(
            self.meant,
            Meant::Value(Sort::Files | Sort::Copied | Sort::Mounted)
        )
    }

    async fn candidates(&self, session: &Session) -> Vec<Candidate> {
        let mut found = match &self.meant {
            Meant::Command(group) => tree::commands(*group)
                .into_iter()
                .map(|(name, about)| Candidate::new(name, about))
                .collect(),
            Meant::Option(path) => options(path),
            Meant::Value(sort) => {
                let asked = tokio::time::timeout(ANSWER_MAX, sort.candidates(session));
                asked.await.unwrap_or_default()
            }
        };
        found.retain(|candidate| candidate.word.starts_with(&self.typed));
        found.sort();
        found.dedup();
        found
    }
}

/// The options of a command.
fn options(path: &str) -> Vec<Candidate> {
    let parser = match path.split_once(' ') {
        _ if path.is_empty() => Some(tree::root_parser()),
        None => tree::entry(path).map(|entry| tree::parser(entry, path)),
        Some((group, name)) => tree::group(group)
            .and_then(|group| group.entry(name))
            .map(|entry| tree::parser(entry, path)),
    };
    let parser = parser.unwrap_or_default();
    let shown = parser.get_arguments().filter(|arg| !arg.is_hide_set());
    shown
        .flat_map(|arg| {
            let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
            let long = arg.get_long().map(|long| format!("--{long}"));
            let short = arg.get_short().map(|short| format!("-{short}"));
            let words = long.into_iter().chain(short);
            words.map(move |word| Candidate::new(word, about.clone()))
        })
        .collect()
}

/// Goes through the words before the cursor.
struct Scan<'w> {
    words: std::slice::Iter<'w, String>,
    /// The option at the end, whose value is where the cursor is.
    open: Option<String>,
}

impl<'w> Scan<'w> {
    fn new(words: &'w [String]) -> Scan<'w> {
        Scan {
            words: words.iter(),
            open: None,
        }
    }

    /// The next word that is neither an option nor a value of one.
    fn positional(
        &mut self,
        parser: &clap::Command,
        mut option: impl FnMut(&str, &str),
    ) -> Option<String> {
        loop {
            let word = self.words.next()?;
            if word == "--" {
                continue;
            }
            let Some(found) = takes_value(parser, word) else {
                if word.starts_with('-') && word.len() > 1 {
                    if let Some((name, value)) = word.split_once('=') {
                        option(name.trim_start_matches('-'), value);
                    }
                    continue;
                }
                return Some(word.clone());
            };
            match self.words.next() {
                Some(value) => option(&found, value),
                None => self.open = Some(found),
            }
        }
    }
}

/// The long name of an option whose value is the next word.
fn takes_value(parser: &clap::Command, word: &str) -> Option<String> {
    let letter = word
        .strip_prefix('-')
        .filter(|rest| !rest.starts_with('-'))
        .and_then(|letters| letters.chars().next_back());
    let long = word.strip_prefix("--");
    let fits = |arg: &&Arg| match long {
        Some(long) => arg.get_long() == Some(long),
        None => letter.is_some() && arg.get_short() == letter,
    };
    let arg = parser.get_arguments().find(fits)?;
    let takes = arg.get_action().takes_values() && !arg.is_require_equals_set();
    takes.then(|| arg.get_long().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(line: &str) -> Meant {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (current, before) = words.split_last().unwrap();
        Place::of(before, current).meant
    }

    #[test]
    fn the_place_is_found() {
        assert_eq!(meant("ru"), Meant::Command(None));
        assert_eq!(meant("-H x ru"), Meant::Command(None));
        assert_eq!(meant("image l"), Meant::Command(Some("image")));
        assert_eq!(meant("run --na"), Meant::Option("run".to_owned()));
        assert_eq!(meant("run -it --network "), Meant::Value(Sort::Networks));
        assert_eq!(meant("run --network=fr"), Meant::Value(Sort::Networks));
        assert_eq!(meant("run --name x --rm "), Meant::Value(Sort::Images));
        assert_eq!(meant("run busybox -"), Meant::Value(Sort::Files));
        assert_eq!(meant("container stop a "), Meant::Value(Sort::Running));
        assert_eq!(meant("network connect a "), Meant::Value(Sort::Containers));
        assert_eq!(meant("--context "), Meant::Value(Sort::Contexts));
        assert_eq!(meant("volume rm "), Meant::Value(Sort::Volumes));
        assert_eq!(meant("no-such-thing "), Meant::Value(Sort::Files));
    }
}
