//! `--userns-remap`: from a name to the users of containers, as dockerd reads it.
//!
//! `default`, `USER`, `UID`, `USER:GROUP` or `UID:GID` name an account of the host; its ranges in
//! `/etc/subuid` and `/etc/subgid`, one after the other, are the ids from 0 on in containers. For
//! `default` the account `dockremap` and its ranges are made where there are none.

use std::ffi::{CStr, CString};
use std::fs;
use std::path::Path;
use std::time::Duration;

use hull_model::ids::{IdMap, UserMaps};

/// What dockerd calls the account of `default`, so that both have the same.
const ACCOUNT: &str = "dockremap";
const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
const SUBUID: &str = "/etc/subuid";
const SUBGID: &str = "/etc/subgid";
/// How many ids a container has by `default`, and the first one that is given away.
const RANGE_LENGTH: u32 = 65_536;
const RANGE_FIRST: u32 = 100_000;
/// Time that one program that changes accounts may take.
const PROGRAM_WAIT: Duration = Duration::from_secs(30);

/// Looks whether the text can be used, and changes nothing.
pub(crate) fn check(text: &str) -> Result<(), String> {
    match name_of(text, &read(PASSWD), &read(GROUP))? {
        // It is made at the start.
        Account::Missing => Ok(()),
        Account::Root => Ok(()),
        Account::Found { name, uid } => maps(&name, &uid).map(drop),
    }
}

/// The users; makes the account of `default`.
pub(crate) fn users(text: &str) -> Result<UserMaps, String> {
    match name_of(text, &read(PASSWD), &read(GROUP))? {
        Account::Root => {
            tracing::warn!("--userns-remap: root stays itself, so users are those of the host");
            Ok(UserMaps::default())
        }
        Account::Found { name, uid } if name == ACCOUNT => {
            make_ranges()?;
            maps(&name, &uid)
        }
        Account::Found { name, uid } => maps(&name, &uid),
        Account::Missing => {
            run(&["useradd", "-r", "-s", "/bin/false", ACCOUNT])?;
            make_ranges()?;
            maps(ACCOUNT, "")
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Account {
    /// Of `default`, and not there yet.
    Missing,
    Root,
    Found {
        name: String,
        uid: String,
    },
}

fn name_of(text: &str, passwd: &str, group: &str) -> Result<Account, String> {
    let (user, asked_group) = match text.split_once(':') {
        None => (text, None),
        Some((_, rest)) if rest.contains(':') => {
            return Err(format!(
                "Invalid user/group specification in --userns-remap: {text:?}"
            ));
        }
        Some((user, group)) => (user, Some(group)),
    };
    let name = if user == "default" { ACCOUNT } else { user };
    let Some((name, uid)) = find(passwd, name) else {
        return match user {
            "default" => Ok(Account::Missing),
            _ => Err(format!("--userns-remap {text}: no user {user} in {PASSWD}")),
        };
    };
    let wanted = asked_group.unwrap_or(if user == uid { &uid } else { &name });
    if find(group, wanted).is_none() {
        return Err(format!(
            "--userns-remap {text}: no group {wanted} in {GROUP}"
        ));
    }
    Ok(match name.as_str() {
        "root" => Account::Root,
        _ => Account::Found { name, uid },
    })
}

/// Name and number of an account or a group, by either.
fn find(text: &str, wanted: &str) -> Option<(String, String)> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (name == wanted || number == wanted).then(|| (name.to_owned(), number.to_owned()))
    })
}

fn maps(name: &str, uid: &str) -> Result<UserMaps, String> {
    let of = |path: &str| {
        let found = ranges(&read(path), name, uid);
        match found.is_empty() {
            true => Err(format!(
                "--userns-remap: no ranges for user {name:?} in {path}"
            )),
            false => Ok(found),
        }
    };
    Ok(UserMaps {
        uids: of(SUBUID)?,
        gids: of(SUBGID)?,
    })
}

/// The ranges of a user in one of the files, one after the other from 0 on.
fn ranges(text: &str, name: &str, uid: &str) -> Vec<IdMap> {
    let mut maps = Vec::new();
    let mut inside = 0u32;
    for (owner, host, count) in text.lines().filter_map(range) {
        if owner != name && (uid.is_empty() || owner != uid) {
            continue;
        }
        maps.push(IdMap {
            inside,
            host,
            count,
        });
        inside = inside.saturating_add(count);
    }
    maps
}

/// Owner, first id and count of a line.
fn range(line: &str) -> Option<(&str, u32, u32)> {
    let mut fields = line.trim().split(':');
    let (owner, first, count) = (fields.next()?, fields.next()?, fields.next()?);
    let (first, count) = (first.parse().ok()?, count.parse::<u32>().ok()?);
    (count > 0).then_some((owner, first, count))
}

/// Gives the account of `default` ranges behind all others, where it has none.
fn make_ranges() -> Result<(), String> {
    for (path, flag) in [(SUBUID, "-v"), (SUBGID, "-w")] {
        let text = read(path);
        if text
            .lines()
            .filter_map(range)
            .any(|(owner, ..)| owner == ACCOUNT)
        {
            continue;
        }
        let (first, last) = next_range(&text);
        run(&["usermod", flag, &format!("{first}-{last}"), ACCOUNT])?;
    }
    Ok(())
}

fn next_range(text: &str) -> (u32, u32) {
    let ends = text
        .lines()
        .filter_map(range)
        .map(|(_, first, count)| first.saturating_add(count));
    let first = ends.max().unwrap_or(0).max(RANGE_FIRST);
    (first, first.saturating_add(RANGE_LENGTH - 1))
}

fn read(path: &str) -> String {
    // None is as good as an empty one.
    fs::read_to_string(path).unwrap_or_default()
}

fn run(argv: &[&str]) -> Result<(), String> {
    let shown = argv.join(" ");
    let failed = |why: &str| format!("--userns-remap: {shown}: {why}");
    let program = ["/usr/sbin", "/sbin", "/usr/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(argv.first().copied().unwrap_or_default()))
        .find(|path| path.exists())
        .ok_or_else(|| failed("there is no such program"))?;
    let words = argv
        .iter()
        .map(|word| CString::new(*word))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| failed(&e.to_string()))?;
    let program =
        CString::new(program.to_string_lossy().as_bytes()).map_err(|e| failed(&e.to_string()))?;
    let args: Vec<&CStr> = words.iter().map(CString::as_c_str).collect();
    let env = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin", c"LC_ALL=C"];
    let output = hull_os::spawn::run(&program, &args, &env, PROGRAM_WAIT)
        .map_err(|e| failed(&e.to_string()))?;
    match output.ended.code() {
        0 => Ok(()),
        _ => Err(failed(String::from_utf8_lossy(&output.text).trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nanna:x:1000:\nteam:x:50:anna\n";

    fn check(text: &str, expected: &str) {
        let shown = match name_of(text, PASSWD, GROUP) {
            Ok(Account::Found { name, uid }) => format!("{name} {uid}"),
            Ok(other) => format!("{other:?}"),
            Err(error) => error,
        };
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn accounts_are_named_in_all_of_docker_s_ways() {
        for text in ["anna", "1000", "anna:team", "1000:50", "anna:1000"] {
            check(text, "anna 1000");
        }
        check("root", "Root");
        check("default", "Missing");
        check("bob", "--userns-remap bob: no user bob in /etc/passwd");
        check(
            "anna:no",
            "--userns-remap anna:no: no group no in /etc/group",
        );
        check(
            "a:b:c",
            "Invalid user/group specification in --userns-remap: \"a:b:c\"",
        );
    }

    #[test]
    fn ranges_follow_each_other_inside() {
        let text = "bob:100000:65536\nanna:165536:10\n# no range\n1000:500000:5\n";
        let map = |inside, host, count| IdMap {
            inside,
            host,
            count,
        };
        assert_eq!(
            ranges(text, "anna", "1000"),
            [map(0, 165_536, 10), map(10, 500_000, 5)]
        );
        assert_eq!(ranges(text, "carl", ""), []);
        assert_eq!(next_range(text), (500_005, 565_540));
        assert_eq!(next_range(""), (100_000, 165_535));
    }
}
