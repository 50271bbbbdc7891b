//! Builds the program that runs beside each container, to be embedded by `src/shim.rs`.
//!
//! An inner cargo with a profile, flags and target folder of its own: the outer one's folder is
//! locked, and its flags (coverage, sanitizers, a wrapper) must not end in every container.

use std::env;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the program is made of; a change of any builds it again.
const SOURCES: [&str; 6] = [
    "Cargo.lock",
    "Cargo.toml",
    "crates/hull-os",
    "crates/hull-plan",
    "crates/hull-shim/Cargo.toml",
    "crates/hull-shim/src",
];
/// Static and at a fixed address: fewest pages that each copy has to write.
const FLAGS: &str = "-Ctarget-feature=+crt-static -Crelocation-model=static";

fn main() -> ExitCode {
    println!("cargo::rerun-if-env-changed=HULL_SHIM");
    // Of this run and not of its compilation: a target folder may come from another checkout.
    let manifest_dir = env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let workspace = Path::new(&manifest_dir).join("../..");
    for source in SOURCES {
        println!(
            "cargo::rerun-if-changed={}",
            workspace.join(source).display()
        );
    }
    match program(&workspace) {
        Ok(path) => {
            println!("cargo::rustc-env=HULL_SHIM_PROGRAM={}", path.display());
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("cargo::error=hull-shim: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The program's path: given by `HULL_SHIM`, or built here.
fn program(workspace: &Path) -> Result<PathBuf, String> {
    if let Some(given) = env::var_os("HULL_SHIM") {
        return Ok(given.into());
    }
    let variable = |name| env::var(name).map_err(|_| format!("cargo did not set {name}"));
    let (target, host) = (variable("TARGET")?, variable("HOST")?);
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    match build(workspace, &target, &out_dir) {
        // `cargo check` for another architecture needs no linker for it, and there is none.
        Err(why) if target != host => {
            println!("cargo::warning=no shim is embedded, as it was not built for {target}: {why}");
            let empty = out_dir.join("no-shim");
            std::fs::write(&empty, []).map_err(|error| error.to_string())?;
            Ok(empty)
        }
        result => result,
    }
}

#[expect(clippy::disallowed_methods, reason = "a build script runs cargo")]
fn build(workspace: &Path, target: &str, out_dir: &Path) -> Result<PathBuf, String> {
    // By checkout: cargo tells sources of two of them apart by their times alone.
    let mut checkout = DefaultHasher::new();
    workspace.hash(&mut checkout);
    let target_dir = out_dir.join(format!("shim-{:016x}", checkout.finish()));
    let cargo = env::var_os("CARGO").unwrap_or("cargo".into());
    let mut command = std::process::Command::new(cargo);
    command
        .current_dir(workspace)
        .args([
            "build",
            "--quiet",
            "--package",
            "hull-shim",
            "--profile",
            "shim",
        ])
        .args(["--locked", "--offline", "--target", target, "--target-dir"])
        .arg(&target_dir);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let is_outer = (text.starts_with("CARGO") && text != "CARGO_HOME")
            || text.starts_with("RUSTC")
            || ["RUSTFLAGS", "RUSTDOCFLAGS", "MAKEFLAGS", "TARGET", "HOST"]
                .contains(&text.as_ref());
        if is_outer {
            command.env_remove(name);
        }
    }
    let output = command
        .env("RUSTFLAGS", FLAGS)
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr)
            .trim()
            .replace('\n', " | "));
    }
    Ok(target_dir.join(target).join("shim/hull-shim"))
}
