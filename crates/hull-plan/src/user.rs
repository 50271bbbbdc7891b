//! Who `user[:group]` is, by the files of the root that the process runs in.
//!
//! The rules and texts are those of Docker: a name wins over a number, a number needs no entry,
//! supplementary groups come from the group file only when no group was given.

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Highest id that Docker accepts.
const ID_MAX: u32 = i32::MAX as u32;

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next(), fields.next(), fields.next());
        let home = fields.nth(1).unwrap_or("");
        Some(PasswdEntry {
            name,
            uid: number(uid)?,
            gid: number(gid)?,
            home,
        })
    })
}

fn group_entries(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, gid) = (fields.next()?, fields.next(), fields.next());
        Some(GroupEntry {
            name,
            gid: number(gid)?,
            members: fields.next().unwrap_or(""),
        })
    })
}

fn number(field: Option<&str>) -> Option<u32> {
    field?.parse().ok()
}

/// A number as Docker takes it: none for a name, an error for one out of range.
fn given_id(text: &str) -> Result<Option<u32>, String> {
    match text.parse::<i64>() {
        Err(_) => Ok(None),
        Ok(id) => match u32::try_from(id) {
            Ok(id) if id <= ID_MAX => Ok(Some(id)),
            _ => Err(format!("uids and gids must be in range 0-{ID_MAX}")),
        },
    }
}

/// Resolves a user specification.
pub(crate) fn resolve(
    user: &str,
    extra_groups: &[&str],
    passwd: &str,
    group: &str,
) -> Result<Identity, String> {
    let (user_part, group_part) = user.split_once(':').unwrap_or((user, ""));
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let user_id = given_id(user_part)?;
    let entry =
        passwd_entries(passwd).find(|entry| entry.name == user_part || Some(entry.uid) == user_id);
    let mut identity = match (&entry, user_id) {
        (Some(entry), _) => Identity {
            uid: entry.uid,
            gid: entry.gid,
            groups: Vec::new(),
            home: entry.home.to_owned(),
        },
        (None, Some(uid)) => Identity {
            uid,
            gid: 0,
            groups: Vec::new(),
            home: "/".to_owned(),
        },
        (None, None) => {
            return Err(format!(
                "unable to find user {user_part}: no matching entries in passwd file"
            ));
        }
    };
    if !group_part.is_empty() {
        identity.gid = find_group(group_part, group)?;
    } else if let Some(entry) = &entry {
        identity.groups = group_entries(group)
            .filter(|group| group.members.split(',').any(|member| member == entry.name))
            .map(|group| group.gid)
            .collect();
    }
    // Without its own group among them, a process could get rid of that group, and with it of what a
    // file denies to the group (CVE-2022-36109).
    identity.groups.retain(|gid| *gid != identity.gid);
    identity.groups.insert(0, identity.gid);
    for name in extra_groups {
        let gid = find_group(name, group)?;
        if !identity.groups.contains(&gid) {
            identity.groups.push(gid);
        }
    }
    Ok(identity)
}

/// User and group of `user[:group]` by the texts of a root's `passwd` and `group`.
///
/// # Errors
/// A sentence about what was not found.
pub fn ids(user: &str, passwd: &str, group: &str) -> Result<(u32, u32), String> {
    resolve(user, &[], passwd, group).map(|identity| (identity.uid, identity.gid))
}

fn find_group(text: &str, group: &str) -> Result<u32, String> {
    let id = given_id(text)?;
    let found = group_entries(group).find(|entry| entry.name == text || Some(entry.gid) == id);
    found
        .map(|entry| entry.gid)
        .or(id)
        .ok_or_else(|| format!("unable to find group {text}: no matching entries in group file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
        # comment\n\
        web:x:101:102:Web:/srv/web:/bin/false\n\
        300:x:7:7::/seven:\n";
    const GROUP: &str = "root:x:0:root\nweb:x:102:\naudio:x:63:other,web\nvideo:x:39:web\nbroken\n";

    fn check(user: &str, extra: &[&str], expected: (u32, u32, &[u32], &str)) {
        let (uid, gid, groups, home) = expected;
        let identity = Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.to_owned(),
        };
        assert_eq!(resolve(user, extra, PASSWD, GROUP), Ok(identity), "{user}");
    }

    fn refused(user: &str, extra: &[&str], expected: &str) {
        assert_eq!(
            resolve(user, extra, PASSWD, GROUP),
            Err(expected.to_owned())
        );
    }

    #[test]
    fn names_and_numbers_are_found_as_docker_finds_them() {
        check("", &[], (0, 0, &[0], "/root"));
        check("web", &[], (101, 102, &[102, 63, 39], "/srv/web"));
        check("101", &[], (101, 102, &[102, 63, 39], "/srv/web"));
        check("web:audio", &[], (101, 63, &[63], "/srv/web"));
        check("1234", &[], (1234, 0, &[0], "/"));
        check("1234:5678", &[], (1234, 5678, &[5678], "/"));
        check(":video", &[], (0, 39, &[39], "/root"));
        check("300", &[], (7, 7, &[7], "/seven"));
        check(
            "web",
            &["audio", "77"],
            (101, 102, &[102, 63, 39, 77], "/srv/web"),
        );
    }

    #[test]
    fn what_is_not_there_is_refused_in_dockers_words() {
        refused(
            "nope",
            &[],
            "unable to find user nope: no matching entries in passwd file",
        );
        refused(
            "web:nope",
            &[],
            "unable to find group nope: no matching entries in group file",
        );
        refused(
            "",
            &["x"],
            "unable to find group x: no matching entries in group file",
        );
        refused("-1", &[], "uids and gids must be in range 0-2147483647");
        refused(
            "4294967296",
            &[],
            "uids and gids must be in range 0-2147483647",
        );
    }
}
