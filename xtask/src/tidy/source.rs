//! Rules on source text: where `unsafe` may stand, what every crate says first, what no file says.

use std::path::PathBuf;

use super::Finding;

/// A text file of the tree, by its path from the root.
#[derive(Debug, Clone)]
pub(super) struct SourceFile {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// The crates that may contain `unsafe`; each other crate forbids it in its root.
const UNSAFE_CRATES: &[&str] = &["hull-os", "hull-plan", "hull-shim"];

const FORBID_UNSAFE: &str = "#![forbid(unsafe_code)]";

/// Words of workplaces and tools, which no reader of the project knows. Each is written in two
/// halves, so that this file does not break its own rule.
const BANNED: &[(&str, &str)] = &[
    ("clau", "de"),
    ("anthro", "pic"),
    ("chat", "gpt"),
    ("as an ", "ai "),
    ("co-authored-", "by:"),
    ("earlier ", "session"),
    ("previous ", "session"),
    ("sub", "agent"),
];

/// Folders of somebody's machine, as absolute paths.
const BANNED_FOLDERS: &[(&str, &str)] = &[("/wo", "rk/"), ("/root/", ".cargo")];

pub(super) fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let path = file.path.to_string_lossy();
        if let Some(name) = crate_root(&path) {
            check_root(name, file, &mut findings);
        }
        for (number, line) in file.text.lines().enumerate() {
            for what in banned(line) {
                findings.push(Finding::new(
                    "words",
                    format!("{path}:{}", number + 1),
                    what,
                ));
            }
        }
    }
    findings
}

/// The name of the crate whose root file `path` is.
fn crate_root(path: &str) -> Option<&str> {
    let (folder, file) = path
        .strip_prefix("crates/")
        .unwrap_or(path)
        .split_once('/')?;
    matches!(file, "src/lib.rs" | "src/main.rs").then_some(folder)
}

fn check_root(name: &str, file: &SourceFile, findings: &mut Vec<Finding>) {
    let place = file.path.to_string_lossy();
    if !file.text.starts_with("//! ") {
        findings.push(Finding::new(
            "comment",
            place.clone(),
            "starts without a module comment",
        ));
    }
    let forbids = file.text.lines().any(|line| line.trim() == FORBID_UNSAFE);
    if !forbids && !UNSAFE_CRATES.contains(&name) {
        let what = format!(
            "lacks {FORBID_UNSAFE}: only {} may do without",
            UNSAFE_CRATES.join(", ")
        );
        findings.push(Finding::new("unsafe", place, what));
    }
}

fn banned(line: &str) -> Vec<String> {
    let lower = line.to_ascii_lowercase();
    let words = BANNED
        .iter()
        .map(|(a, b)| format!("{a}{b}"))
        .filter(|word| lower.contains(word));
    let folders = BANNED_FOLDERS
        .iter()
        .map(|(a, b)| format!("{a}{b}"))
        .filter(|folder| {
            lower
                .match_indices(folder)
                .any(|(at, _)| starts_a_path(&lower[..at]))
        });
    words
        .chain(folders)
        .map(|word| format!("says {word:?}"))
        .collect()
}

/// Whether a slash after `before` begins an absolute path, as opposed to continuing one.
fn starts_a_path(before: &str) -> bool {
    !before.ends_with(|c: char| c.is_ascii_alphanumeric() || "._-/$}{*~".contains(c))
}

#[cfg(test)]
mod tests {
    use super::{SourceFile, check};

    fn broken(path: &str, text: &str) -> Vec<&'static str> {
        let file = SourceFile {
            path: path.into(),
            text: text.to_owned(),
        };
        check(&[file])
            .into_iter()
            .map(|finding| finding.rule)
            .collect()
    }

    const CLEAN: &str = "//! Does one thing.\n#![forbid(unsafe_code)]\n";

    #[test]
    fn a_crate_that_says_what_it_is_and_forbids_unsafe_is_clean() {
        assert_eq!(broken("crates/hull-net/src/lib.rs", CLEAN), [""; 0]);
        assert_eq!(broken("xtask/src/main.rs", CLEAN), [""; 0]);
    }

    #[test]
    fn a_crate_without_a_module_comment_is_refused() {
        let text = "#![forbid(unsafe_code)]\n";
        assert_eq!(broken("crates/hull-net/src/lib.rs", text), ["comment"]);
    }

    #[test]
    fn only_the_three_may_do_without_the_ban_on_unsafe() {
        let text = "//! Does one thing.\n// #![forbid(unsafe_code)] is not needed\n";
        assert_eq!(broken("crates/hull-net/src/lib.rs", text), ["unsafe"]);
        assert_eq!(broken("crates/hull/src/main.rs", text), ["unsafe"]);
        assert_eq!(broken("crates/hull-os/src/lib.rs", text), [""; 0]);
        assert_eq!(broken("crates/hull-net/src/plan.rs", text), [""; 0]);
    }

    #[test]
    fn words_of_a_workplace_are_refused_in_any_file() {
        for text in [
            concat!("cd /wo", "rk/main"),
            concat!("path = \"/wo", "rk/x\""),
            concat!("Written by Clau", "de"),
            concat!("as the previous ", "session found"),
        ] {
            assert_eq!(broken("docs/x.md", text), ["words"], "{text}");
        }
    }

    #[test]
    fn a_folder_of_that_name_inside_another_is_fine() {
        for text in [
            "$tmp/work/upper",
            "{root}/work/",
            "/srv/work/x",
            "network/workers",
        ] {
            assert_eq!(broken("docs/x.md", text), [""; 0], "{text}");
        }
    }
}
