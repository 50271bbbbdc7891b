//! From Linux's source to a kernel that has what images expect and nothing else.
//!
//! ```text
//! package ─apt─▶ archive ─tar─▶ folder ─▶ make allnoconfig + hull.config ─▶ make vmlinux ─strip─▶
//!     <scratch>/out/boot/vmlinux-<release>, <scratch>/out/lib/modules/<release>/modules.builtin
//! ```
//!
//! The options are `hull.config`; one that the source does not take is an error, not a kernel that lacks
//! something. Who, when and where are left out of the image, so that the same source and compiler make
//! the same kernel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::package::{self, run_for};
use crate::error::{Error, unusable};

/// What images expect, as the kernel's own options.
const OPTIONS: &str = include_str!("../../kernel/hull.config");
/// How long the compiler may take; it takes some ten minutes on two processors.
const BUILD_LIMIT: Duration = Duration::from_secs(6 * 3600);
/// How long an archive may take to unpack.
const UNPACK_LIMIT: Duration = Duration::from_secs(1800);
/// Where Debian's packages of sources put their archives.
const SOURCES: &str = "/usr/src";
/// What is needed to build: a file that shows that it is there, and the package that brings it.
const NEEDED: [(&str, &str, &str); 8] = [
    ("make", "/usr/bin/make", "build-essential"),
    ("gcc", "/usr/bin/gcc", "build-essential"),
    ("xz", "/usr/bin/xz", "xz-utils"),
    ("flex", "/usr/bin/flex", "flex"),
    ("bison", "/usr/bin/bison", "bison"),
    ("bc", "/usr/bin/bc", "bc"),
    ("libelf.h", "/usr/include/libelf.h", "libelf-dev"),
    (
        "openssl/opensslv.h",
        "/usr/include/openssl/opensslv.h",
        "libssl-dev",
    ),
];
/// What would make two builds of one source differ.
const SAME_EACH_TIME: [&str; 4] = [
    "KBUILD_BUILD_TIMESTAMP=1970-01-01",
    "KBUILD_BUILD_USER=hull",
    "KBUILD_BUILD_HOST=hull",
    "KBUILD_BUILD_VERSION=1",
];

/// Builds below `scratch` and returns the path of the image, its list of built-in modules in the usual place
/// beside it.
pub(super) fn build(source: &str, scratch: &Path, tell: &dyn Fn(&str)) -> Result<PathBuf, Error> {
    let missing = |(_, file, _): &&(&str, &str, &str)| !Path::new(file).exists();
    if let Some(&(program, _, package)) = NEEDED.iter().find(missing) {
        return Err(Error::MissingProgram { program, package });
    }
    let tree = tree(source, scratch, tell)?;
    let objects = scratch.join("objects");
    let out = scratch.join("out");
    fs::create_dir_all(&objects).map_err(Error::at("make", &objects))?;
    tell("configuring");
    let options = scratch.join("hull.config");
    fs::write(&options, OPTIONS).map_err(Error::at("write", &options))?;
    let in_objects = format!("O={}", objects.display());
    let make = |words: &[&str], limit| {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = format!("-j{jobs}");
        let mut argv = vec!["make", "-s", jobs.as_str(), in_objects.as_str()];
        argv.extend(SAME_EACH_TIME);
        argv.extend(words);
        run_for(&argv, &tree, limit)
    };
    let all_options = format!("KCONFIG_ALLCONFIG={}", options.display());
    make(&[&all_options, "allnoconfig"], UNPACK_LIMIT)?;
    let config = objects.join(".config");
    let config = fs::read_to_string(&config).map_err(Error::at("read", &config))?;
    if let Some(lost) = lost(OPTIONS, &config) {
        return Err(unusable(
            source,
            format!("does not take {lost}, which images expect: take Linux 6.1"),
        ));
    }
    let release = make(&["kernelrelease"], UNPACK_LIMIT)?.trim().to_owned();
    tell(&format!(
        "building {release}: this takes some ten minutes on two processors"
    ));
    make(&["vmlinux"], BUILD_LIMIT)?;
    lay_out(&objects, &out, &release)
}

/// Puts image and list where a distribution has them.
fn lay_out(objects: &Path, out: &Path, release: &str) -> Result<PathBuf, Error> {
    let modules = out.join("lib/modules").join(release);
    let boot = out.join("boot");
    for folder in [&modules, &boot] {
        fs::create_dir_all(folder).map_err(Error::at("make", folder))?;
    }
    let list = modules.join("modules.builtin");
    fs::copy(objects.join("modules.builtin"), &list).map_err(Error::at("copy", &list))?;
    let image = boot.join(format!("vmlinux-{release}"));
    // Names of functions are for nobody: each machine would map them.
    let (from, to) = (objects.join("vmlinux"), image.to_string_lossy());
    let words = ["strip", "-s", "-o", to.as_ref(), &from.to_string_lossy()];
    run_for(&words, out, UNPACK_LIMIT)?;
    Ok(image)
}

/// The folder with the source: what was named, or unpacked from it.
fn tree(source: &str, scratch: &Path, tell: &dyn Fn(&str)) -> Result<PathBuf, Error> {
    let named = Path::new(source);
    if named.is_dir() {
        return fs::canonicalize(named).map_err(Error::at("find", named));
    }
    let archive = match named.is_file() {
        true => fs::canonicalize(named).map_err(Error::at("find", named))?,
        false => archive_of(source, scratch, tell)?,
    };
    tell(&format!("unpacking {}", archive.display()));
    let folder = scratch.join("source");
    fs::create_dir_all(&folder).map_err(Error::at("make", &folder))?;
    let archive_word = archive.to_string_lossy();
    run_for(&["tar", "-xf", &archive_word], &folder, UNPACK_LIMIT)?;
    only_entry(&folder)
}

/// The archive of a package of Debian's, installed or fetched.
fn archive_of(package: &str, scratch: &Path, tell: &dyn Fn(&str)) -> Result<PathBuf, Error> {
    let name = format!("{package}.tar.xz");
    let installed = Path::new(SOURCES).join(&name);
    if installed.is_file() {
        return Ok(installed);
    }
    tell(&format!("fetching the package {package}"));
    let folder = scratch.join("package");
    fs::create_dir_all(&folder).map_err(Error::at("make", &folder))?;
    package::fetch(package, &folder)?;
    let deb = only_entry(&folder)?;
    let words = ["dpkg-deb", "-x", &deb.to_string_lossy(), "unpacked"];
    run_for(&words, &folder, UNPACK_LIMIT)?;
    let archive = folder.join("unpacked").join("usr/src").join(&name);
    match archive.is_file() {
        true => Ok(archive),
        false => Err(unusable(package, format!("holds no {name}"))),
    }
}

fn only_entry(folder: &Path) -> Result<PathBuf, Error> {
    let first = || -> io::Result<PathBuf> {
        let entry = fs::read_dir(folder)?.next();
        Ok(entry.ok_or(io::ErrorKind::NotFound)??.path())
    };
    first().map_err(Error::at("find what was unpacked in", folder))
}

/// The first option that was asked for and is not so.
fn lost<'a>(asked: &'a str, config: &str) -> Option<&'a str> {
    let has = |line: &str| config.lines().any(|known| known == line);
    let is_so = |line: &str| match line.strip_suffix("=n") {
        Some(name) => !has(&format!("{name}=y")),
        None => has(line),
    };
    let options = asked.lines().filter(|line| line.starts_with("CONFIG_"));
    options.into_iter().find(|line| !is_so(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_is_not_taken_is_named() {
        let config = "CONFIG_A=y\nCONFIG_B=3\n# CONFIG_C is not set\n";
        assert_eq!(lost("# words\nCONFIG_A=y\nCONFIG_C=n\n", config), None);
        assert_eq!(lost("CONFIG_A=n\n", config), Some("CONFIG_A=n"));
        assert_eq!(lost("CONFIG_B=4\n", config), Some("CONFIG_B=4"));
    }

    #[test]
    fn what_images_expect_is_asked_for_once() {
        let mut names: Vec<&str> = OPTIONS
            .lines()
            .filter(|line| line.starts_with("CONFIG_"))
            .filter_map(|line| line.split('=').next())
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for name in [
            "NETFILTER",
            "BPF_SYSCALL",
            "FANOTIFY",
            "IA32_EMULATION",
            "TUN",
            "9P_FS",
        ] {
            assert!(OPTIONS.contains(&format!("CONFIG_{name}=y\n")), "{name}");
        }
    }
}
