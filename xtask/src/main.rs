//! Automation of the project that is easier to get right in Rust than in shell.
//!
//! `cargo run -p xtask -- tidy` checks what the compiler does not: the dependency directions of the
//! design, the licences of everything linked, and the few rules on source text. It reads the tree
//! and the resolved graph, and changes nothing.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod tidy;

const USAGE: &str = "usage: cargo run -p xtask -- tidy";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => tidy::run(),
        _ => {
            eprintln!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}
