//! Checks the rules of the project that no compiler knows.
//!
//! ```text
//!   cargo metadata --> graph --> direction   who may depend on whom
//!                         |----> licence     what may be linked
//!   git ls-files ---> text ----> source      where unsafe may stand, what no file may say
//! ```
//!
//! Each rule is a pure function from facts to findings, so that its test can break it on purpose.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};

use graph::Graph;
use source::SourceFile;

mod direction;
mod graph;
mod licence;
mod source;

/// What we build for: the dependencies of other platforms are never linked.
const PLATFORMS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// One broken rule: where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    rule: &'static str,
    place: String,
    what: String,
}

impl Finding {
    fn new(rule: &'static str, place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            rule,
            place: place.into(),
            what: what.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]", self.place, self.what, self.rule)
    }
}

/// Runs every rule over the tree this program was built from and prints what is broken.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the workspace folder")?;
    let graph = Graph::parse(&cargo_metadata(root)?)?;
    let files = read_tree(root)?;

    let mut findings = direction::check(&graph);
    findings.extend(licence::check(&graph));
    findings.extend(source::check(&files));
    for finding in &findings {
        println!("{finding}");
    }
    println!(
        "tidy: {} packages, {} files, {} findings",
        graph.packages().len(),
        files.len(),
        findings.len()
    );
    Ok(if findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn cargo_metadata(root: &Path) -> anyhow::Result<String> {
    let mut arguments = vec!["metadata", "--format-version=1", "--locked"];
    for platform in PLATFORMS {
        arguments.extend(["--filter-platform", platform]);
    }
    output(root, "cargo", &arguments)
}

/// Every text file that git knows or would add. Files that are not text have no words to check.
fn read_tree(root: &Path) -> anyhow::Result<Vec<SourceFile>> {
    let listing = output(
        root,
        "git",
        &[
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ],
    )?;
    let mut files = Vec::new();
    for name in listing.split_terminator('\0') {
        let path = PathBuf::from(name);
        let Ok(bytes) = std::fs::read(root.join(&path)) else {
            continue;
        }; // deleted, not committed
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(SourceFile { path, text });
        }
    }
    Ok(files)
}

#[allow(
    clippy::disallowed_methods,
    reason = "a tool with one thread, not the daemon"
)]
fn output(folder: &Path, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let result = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stderr(std::process::Stdio::inherit())
        .output()
        .with_context(|| format!("start {program}"))?;
    ensure!(
        result.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        result.status
    );
    Ok(String::from_utf8(result.stdout)?)
}
