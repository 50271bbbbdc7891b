//! What the host's `ps` printed, as the answer of `top`: titles, and the lines of a container's processes.

use hull_engine::HostPs;

use crate::errors::ApiError;

/// The column that a line's process is told by.
const PID: &str = "PID";

/// Titles and rows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) titles: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// Refuses another column that calls itself `PID`: lines would be picked by it.
pub(super) fn check(arguments: &[&str]) -> Result<(), ApiError> {
    let heading = |word: &&str| {
        let (column, heading) = word.rsplit(',').next()?.split_once('=')?;
        (heading.trim_start().starts_with(PID) && column != "pid")
            .then(|| format!("{column}={heading}"))
    };
    match arguments.iter().find_map(heading) {
        Some(text) => Err(ApiError::invalid(format!(
            "specifying \"{text}\" is not allowed"
        ))),
        None => Ok(()),
    }
}

/// Reads the table and keeps the lines of the container's processes, with those of their threads.
pub(super) fn table(found: &HostPs) -> Result<Table, ApiError> {
    let mut lines = found.text.lines().filter(|line| !line.is_empty());
    let titles = fields(lines.next().unwrap_or_default());
    let no_pid = || ApiError::invalid("Couldn't find PID field in ps output");
    let at = titles
        .iter()
        .position(|title| *title == PID)
        .ok_or_else(no_pid)?;
    let (mut rows, mut is_ours) = (Vec::new(), false);
    for line in lines {
        let fields = fields(line);
        let Some(number) = fields.get(at) else {
            continue;
        };
        if *number != "-" {
            let unexpected = |_| ApiError::invalid(format!("Unexpected pid '{number}'"));
            is_ours = found.pids.contains(&number.parse().map_err(unexpected)?);
        }
        if is_ours {
            rows.push(row(&fields, titles.len()));
        }
    }
    let titles = titles.into_iter().map(str::to_owned).collect();
    Ok(Table { titles, rows })
}

/// As many cells as there are titles: the last one takes what hangs over.
fn row(fields: &[&str], count: usize) -> Vec<String> {
    let whole = fields.len().min(count.saturating_sub(1));
    let (cells, rest) = fields.split_at(whole);
    let mut row: Vec<String> = cells.iter().map(|cell| (*cell).to_owned()).collect();
    row.push(rest.join(" "));
    row
}

fn fields(line: &str) -> Vec<&str> {
    line.split_ascii_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, pids: &[u32]) -> Result<Vec<String>, String> {
        let found = HostPs {
            text: text.to_owned(),
            pids: pids.iter().copied().collect(),
        };
        let table = table(&found).map_err(|error| error.message)?;
        let mut lines = vec![table.titles.join("|")];
        lines.extend(table.rows.iter().map(|row| row.join("|")));
        Ok(lines)
    }

    #[test]
    fn lines_of_the_container_are_kept_and_the_last_cell_takes_the_rest() {
        let text = "  PID USER  CMD\n    1 root /sbin/init x\n   20 me   sleep  5 &\n";
        assert_eq!(
            shown(text, &[20]),
            Ok(vec!["PID|USER|CMD".into(), "20|me|sleep 5 &".into()])
        );
    }

    #[test]
    fn threads_belong_to_the_process_before_them() {
        let text = "PID LWP\n1 -\n- 1\n7 -\n- 7\n- 8\n9 -\n- 9\n";
        let expected = ["PID|LWP", "7|-", "-|7", "-|8"].map(str::to_owned);
        assert_eq!(shown(text, &[7]), Ok(expected.to_vec()));
    }

    #[test]
    fn a_table_without_processes_is_refused() {
        let refused = Err("Couldn't find PID field in ps output".to_owned());
        assert_eq!(shown("COMMAND\nsleep\n", &[1]), refused);
        assert_eq!(shown("", &[1]), refused);
        assert_eq!(
            shown("PID\nx\n", &[1]),
            Err("Unexpected pid 'x'".to_owned())
        );
    }

    #[test]
    fn no_other_column_is_called_pid() {
        assert_eq!(check(&["-o", "pid=PID,args=X"]), Ok(()));
        let refused = check(&["-o", "pid,ppid=PID"]).map_err(|error| error.message);
        assert_eq!(
            refused,
            Err("specifying \"ppid=PID\" is not allowed".to_owned())
        );
    }
}
