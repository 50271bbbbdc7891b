//! What may be linked: permissive licences only, each one named here.
//!
//! An SPDX expression passes if at least one of its alternatives asks for nothing but listed
//! licences. What is not listed is refused, so GPL, LGPL and AGPL are, and a licence nobody has
//! looked at is too.

use super::Finding;
use super::graph::Graph;

const PERMITTED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    // That of BSD in other words; OSI-approved.
    "bzip2-1.0.6",
];

/// Exceptions only add permissions, yet each is named so that a new one is seen.
const EXCEPTIONS: &[&str] = &["LLVM-exception"];

pub(super) fn check(graph: &Graph) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in graph.packages().values() {
        let what = match package.licence.as_deref() {
            Some(expression) if permitted(expression) => continue,
            Some(expression) => format!("licence {expression:?} is not permitted"),
            None => "names no licence".to_owned(),
        };
        findings.push(Finding::new("licence", &package.name, what));
    }
    findings
}

/// Whether an SPDX expression lets us link. What cannot be parsed does not.
fn permitted(expression: &str) -> bool {
    // `MIT/Apache-2.0` is how crates wrote OR before there was a standard.
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &tokens[..];
    any_of(&mut rest).is_some_and(|permitted| permitted && rest.is_empty())
}

fn any_of(rest: &mut &[&str]) -> Option<bool> {
    let mut permitted = all_of(rest)?;
    while eat(rest, "OR") {
        permitted |= all_of(rest)?;
    }
    Some(permitted)
}

fn all_of(rest: &mut &[&str]) -> Option<bool> {
    let mut permitted = one(rest)?;
    while eat(rest, "AND") {
        permitted &= one(rest)?;
    }
    Some(permitted)
}

fn one(rest: &mut &[&str]) -> Option<bool> {
    if eat(rest, "(") {
        let permitted = any_of(rest)?;
        return eat(rest, ")").then_some(permitted);
    }
    let mut permitted = PERMITTED.contains(&take(rest)?);
    if eat(rest, "WITH") {
        permitted &= EXCEPTIONS.contains(&take(rest)?);
    }
    Some(permitted)
}

fn take<'a>(rest: &mut &[&'a str]) -> Option<&'a str> {
    let (first, others) = rest.split_first()?;
    *rest = others;
    Some(first)
}

fn eat(rest: &mut &[&str], token: &str) -> bool {
    let found = rest.first() == Some(&token);
    if found {
        *rest = &rest[1..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Graph, check, permitted};

    #[test]
    fn permissive_expressions_pass() {
        for expression in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT",
            "GPL-2.0-only OR MIT",
        ] {
            assert!(permitted(expression), "{expression}");
        }
    }

    #[test]
    fn copyleft_unknown_and_broken_expressions_do_not() {
        for expression in [
            "GPL-3.0-or-later",
            "LGPL-2.1-only",
            "AGPL-3.0",
            "MIT AND GPL-2.0-only",
            "(MIT OR Apache-2.0) AND LGPL-3.0",
            "Apache-2.0 WITH Classpath-exception-2.0",
            "LicenseRef-Shareware",
            "(MIT",
            "MIT OR",
            "MIT MIT",
            "",
        ] {
            assert!(!permitted(expression), "{expression}");
        }
    }

    #[test]
    fn a_dependency_without_a_permitted_licence_is_named() {
        let graph = Graph::draw(&["hull > x y"]);
        assert_eq!(check(&graph), []);
        let graph = graph
            .with_licence("x", Some("AGPL-3.0-only"))
            .with_licence("y", None);
        let places: Vec<String> = check(&graph)
            .into_iter()
            .map(|finding| finding.place)
            .collect();
        assert_eq!(places, ["x", "y"]);
    }
}
