//! The small files that a shim leaves in its run directory.

use std::io;
use std::path::Path;

use crate::Exit;
use crate::spec::ExecId;

/// First line of every record of the version that we read.
const VERSION_LINE: &str = "hull-record 1";
/// What names of exec records begin with.
pub(crate) const EXEC_PREFIX: &str = "e.";

/// How an exec ended, from its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecExit {
    /// Which exec.
    pub id: ExecId,
    /// How.
    pub exit: Exit,
}

/// Reads an exit record; none when there is no such file.
pub(crate) fn read_exit(path: &Path) -> io::Result<Option<Exit>> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse_exit(&text)
            .map(Some)
            .ok_or_else(|| io::ErrorKind::InvalidData.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse_exit(text: &str) -> Option<Exit> {
    let rest = text.strip_prefix(VERSION_LINE)?;
    Some(Exit {
        code: i32::try_from(field(rest, "code")?).ok()?,
        oom_killed: field(rest, "oom_killed")? != 0,
        at_ns: field(rest, "at_ns")?,
    })
}

/// The shim that wrote a status record: process id and start time.
pub(crate) fn read_shim(path: &Path) -> Option<(u32, u64)> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut words = text
        .strip_prefix(VERSION_LINE)?
        .lines()
        .find_map(|line| line.strip_prefix("shim "))?
        .split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// When the first process began to run, from a status record.
pub(crate) fn read_started(path: &Path) -> Option<i64> {
    let text = std::fs::read_to_string(path).ok()?;
    field(text.strip_prefix(VERSION_LINE)?, "at_ns")
}

fn field(text: &str, name: &str) -> Option<i64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_record_is_whole_or_none() {
        let text = "hull-record 1\ncode 137\noom_killed 1\nat_ns 5\n";
        let exit = Exit {
            code: 137,
            oom_killed: true,
            at_ns: 5,
        };
        assert_eq!(parse_exit(text), Some(exit));
        assert_eq!(parse_exit("hull-record 1\ncode 137\n"), None);
        assert_eq!(
            parse_exit("hull-record 2\ncode 0\noom_killed 0\nat_ns 5\n"),
            None
        );
    }
}
