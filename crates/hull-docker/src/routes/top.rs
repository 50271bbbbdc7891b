//! `top`: the processes of a container, in the columns of `ps`.
//!
//! Docker runs the host's `ps` and picks the lines, and so do we where it is given arguments (`ps.rs`). What it
//! shows without any is made here from `/proc`, without a program; as is, where there is no `ps` and of the
//! processes of a machine, what people ask for most: other columns are refused by name then.

use std::collections::HashMap;
use std::fs;

use hull_engine::api::{ProcessFiles, Processes};
use serde_json::json;

use crate::body::json;
use crate::errors::ApiError;
use crate::request::Call;
use crate::router::Answer;
use crate::time;

use super::ps;

/// Clock ticks per second in `/proc`: the same on every architecture that we run on.
const TICKS_PER_S: u64 = 100;
const NS_PER_TICK: u64 = 1_000_000_000 / TICKS_PER_S;
/// Bytes of a memory page, for the resident size.
const PAGE_KIB: u64 = 4;

pub(super) async fn top(call: Call) -> Answer {
    let arguments = call.query.get("ps_args");
    let id = call.container()?;
    if !matches!(arguments.trim(), "" | "-ef") {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        ps::check(&words)?;
        if let Some(found) = call.engine().containers().host_ps(id, &words).await? {
            let table = ps::table(&found)?;
            return json(&json!({ "Titles": table.titles, "Processes": table.rows }));
        }
    }
    let columns = columns(arguments)?;
    let processes = call.engine().containers().processes(id).await?;
    let clock = Clock::of(&processes);
    let users = user_names(&fs::read_to_string("/etc/passwd").unwrap_or_default());
    let rows: Vec<Vec<String>> = processes
        .list
        .iter()
        // One that ended since is not shown, as by ps.
        .filter_map(|process| Process::of(process, &users))
        .map(|process| {
            columns
                .iter()
                .map(|column| column.show(&process, &clock))
                .collect()
        })
        .collect();
    let titles: Vec<&str> = columns.iter().map(|column| column.title()).collect();
    json(&json!({ "Titles": titles, "Processes": rows }))
}

/// One column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    User(&'static str),
    Pid,
    Ppid,
    /// Processor use in percent, whole or with a decimal.
    Use(&'static str),
    MemoryUse,
    VirtualKib,
    ResidentKib,
    Terminal(&'static str),
    State(&'static str),
    Started(&'static str),
    /// Processor time as `00:00:00`.
    Time,
    Name,
    CommandLine(&'static str),
}

/// What `ps -ef`, Docker's default, shows.
const FULL: [Column; 8] = [
    Column::User("UID"),
    Column::Pid,
    Column::Ppid,
    Column::Use("C"),
    Column::Started("STIME"),
    Column::Terminal("TTY"),
    Column::Time,
    Column::CommandLine("CMD"),
];
/// What `ps aux` shows.
const BSD: [Column; 11] = [
    Column::User("USER"),
    Column::Pid,
    Column::Use("%CPU"),
    Column::MemoryUse,
    Column::VirtualKib,
    Column::ResidentKib,
    Column::Terminal("TTY"),
    Column::State("STAT"),
    Column::Started("START"),
    Column::Time,
    Column::CommandLine("COMMAND"),
];

/// Reads the arguments of `ps` that are understood.
fn columns(arguments: &str) -> Result<Vec<Column>, ApiError> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    match words[..] {
        [] | ["-ef" | "-eF" | "-f" | "-e" | "-A" | "ef"] => return Ok(FULL.into()),
        ["aux" | "-aux" | "auxww" | "u" | "ux"] => return Ok(BSD.into()),
        _ => {}
    }
    let refused = |what: &str| ApiError::not_there(&format!("\"ps {what}\" in top"));
    let mut chosen = Vec::new();
    let mut left = words.into_iter();
    while let Some(word) = left.next() {
        let list = match word {
            "-e" | "-A" | "a" | "x" | "ax" | "-ax" => continue,
            "-o" | "o" | "-eo" | "axo" | "-axo" | "--format" => {
                left.next().ok_or_else(|| refused(arguments))?
            }
            word => word.strip_prefix("-o").ok_or_else(|| refused(arguments))?,
        };
        for name in list.split(',') {
            chosen.push(column(name).ok_or_else(|| {
                ApiError::invalid(format!(
                    "ps: error: unknown user-defined format specifier {name:?}"
                ))
            })?);
        }
    }
    if !chosen.contains(&Column::Pid) {
        return Err(ApiError::invalid("Couldn't find PID field in ps output"));
    }
    Ok(chosen)
}

fn column(name: &str) -> Option<Column> {
    Some(match name {
        "user" | "euser" | "uname" => Column::User("USER"),
        "uid" => Column::User("UID"),
        "pid" => Column::Pid,
        "ppid" => Column::Ppid,
        "c" => Column::Use("C"),
        "pcpu" | "%cpu" => Column::Use("%CPU"),
        "pmem" | "%mem" => Column::MemoryUse,
        "vsz" | "vsize" => Column::VirtualKib,
        "rss" | "rssize" => Column::ResidentKib,
        "tty" | "tt" | "tname" => Column::Terminal("TTY"),
        "stat" => Column::State("STAT"),
        "s" | "state" => Column::State("S"),
        "stime" => Column::Started("STIME"),
        "start" | "start_time" => Column::Started("START"),
        "time" | "cputime" => Column::Time,
        "comm" | "ucmd" => Column::Name,
        "cmd" => Column::CommandLine("CMD"),
        "args" | "command" => Column::CommandLine("COMMAND"),
        _ => return None,
    })
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::User(title)
            | Self::Use(title)
            | Self::Terminal(title)
            | Self::State(title)
            | Self::Started(title)
            | Self::CommandLine(title) => title,
            Self::Pid => "PID",
            Self::Ppid => "PPID",
            Self::MemoryUse => "%MEM",
            Self::VirtualKib => "VSZ",
            Self::ResidentKib => "RSS",
            Self::Time => "TIME",
            Self::Name => "COMMAND",
        }
    }

    fn show(self, process: &Process, clock: &Clock) -> String {
        let stat = &process.stat;
        match self {
            Self::User(_) => process.user.clone(),
            Self::Pid => stat.pid.to_string(),
            Self::Ppid => stat.parent.to_string(),
            Self::Use(title) => {
                let permille = clock.use_permille(stat);
                if title == "C" {
                    (permille / 10).to_string()
                } else {
                    format!("{}.{}", permille / 10, permille % 10)
                }
            }
            Self::MemoryUse => {
                let permille = stat.resident_pages * PAGE_KIB * 1000 / clock.memory_kib.max(1);
                format!("{}.{}", permille / 10, permille % 10)
            }
            Self::VirtualKib => (stat.virtual_bytes >> 10).to_string(),
            Self::ResidentKib => (stat.resident_pages * PAGE_KIB).to_string(),
            Self::Terminal(_) => terminal(stat.terminal),
            Self::State(_) => stat.state.to_string(),
            Self::Started(_) => clock.started(stat),
            Self::Time => {
                let seconds = stat.used_ticks / TICKS_PER_S;
                let (minutes, hours) = (seconds / 60 % 60, seconds / 3600);
                format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
            }
            Self::Name => stat.name.clone(),
            Self::CommandLine(_) => process.command.clone(),
        }
    }
}

/// A terminal's name by its device number; the numbers are the kernel's.
fn terminal(device: u64) -> String {
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    match (major, minor) {
        (0, 0) => "?".to_owned(),
        (136..=143, minor) => format!("pts/{}", (major - 136) * 256 + minor),
        (4, minor) => format!("tty{minor}"),
        _ => "?".to_owned(),
    }
}

/// What the columns need to know of the host.
struct Clock {
    now_ns: i64,
    uptime_ticks: u64,
    memory_kib: u64,
}

impl Clock {
    fn of(processes: &Processes) -> Self {
        let seconds = processes
            .uptime
            .split(['.', ' '])
            .next()
            .and_then(|s| s.parse::<u64>().ok());
        let kib = processes
            .memory
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok());
        Self {
            now_ns: time::now_ns(),
            uptime_ticks: seconds.unwrap_or(0) * TICKS_PER_S,
            memory_kib: kib.unwrap_or(0),
        }
    }

    fn use_permille(&self, stat: &Stat) -> u64 {
        let lived = self.uptime_ticks.saturating_sub(stat.start_ticks);
        (stat.used_ticks * 1000).checked_div(lived).unwrap_or(0)
    }

    /// The start as hour and minute, in UTC like the daemon's other times.
    fn started(&self, stat: &Stat) -> String {
        let ago_ns = self.uptime_ticks.saturating_sub(stat.start_ticks) * NS_PER_TICK;
        let at_ns = self.now_ns - i64::try_from(ago_ns).unwrap_or(0);
        let text = time::rfc3339(at_ns);
        let today = time::rfc3339(self.now_ns);
        let (date, clock) = text.split_once('T').unwrap_or((&text, ""));
        let part = if today.starts_with(date) {
            clock.get(..5)
        } else {
            date.get(5..)
        };
        part.unwrap_or("?").to_owned()
    }
}

struct Process {
    stat: Stat,
    user: String,
    command: String,
}

impl Process {
    fn of(files: &ProcessFiles, users: &HashMap<u32, String>) -> Option<Self> {
        let stat = Stat::parse(&files.stat)?;
        let uid = effective_uid(&files.status)?;
        let user = users.get(&uid).cloned().unwrap_or_else(|| uid.to_string());
        let command = command_line(&files.command, &stat.name);
        Some(Self {
            stat,
            user,
            command,
        })
    }
}

/// The fields of `/proc/<pid>/stat` that are shown.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    pid: u32,
    name: String,
    state: char,
    parent: u32,
    terminal: u64,
    used_ticks: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name may hold anything, parentheses too.
        let (head, tail) = text.rsplit_once(") ")?;
        let (pid, name) = head.split_once(" (")?;
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            pid: pid.parse().ok()?,
            name: name.to_owned(),
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            terminal: number(4)?,
            used_ticks: number(11)? + number(12)?,
            start_ticks: number(19)?,
            virtual_bytes: number(20)?,
            resident_pages: number(21)?,
        })
    }
}

fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn command_line(text: &str, name: &str) -> String {
    let text = text.trim_end_matches('\0').replace('\0', " ");
    if text.is_empty() {
        format!("[{name}]")
    } else {
        text
    }
}

fn user_names(passwd: &str) -> HashMap<u32, String> {
    let line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    passwd.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) b (c) S 1 7 7 34816 7 4194560 1 0 0 0 250 50 0 0 20 0 1 0 99 4096 2 1";
        let expected = Stat {
            pid: 7,
            name: "a) b (c".into(),
            state: 'S',
            parent: 1,
            terminal: 34816,
            used_ticks: 300,
            start_ticks: 99,
            virtual_bytes: 4096,
            resident_pages: 2,
        };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(terminal(34816), "pts/0");
        assert_eq!(terminal(0), "?");
    }

    #[test]
    fn our_own_process_is_read() {
        let users = user_names("root:x:0:0:root:/root:/bin/bash\nbad\n");
        let file = |name: &str| fs::read_to_string(format!("/proc/{name}")).unwrap();
        let files = ProcessFiles {
            stat: file("self/stat"),
            status: file("self/status"),
            command: file("self/cmdline"),
        };
        let process = Process::of(&files, &users).expect("we run");
        assert_eq!(process.stat.pid, std::process::id());
        assert!(
            process.command.contains("hull_docker"),
            "{}",
            process.command
        );
        let shown = Column::Started("STIME").show(
            &process,
            &Clock::of(&Processes {
                uptime: file("uptime"),
                memory: file("meminfo"),
                list: Vec::new(),
            }),
        );
        assert_eq!(shown.len(), 5, "{shown}");
    }

    #[test]
    fn arguments_of_ps_choose_columns() {
        let titles = |arguments: &str| {
            columns(arguments).map(|c| c.iter().map(|c| c.title()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(titles(""), Ok("UID PID PPID C STIME TTY TIME CMD".into()));
        assert_eq!(
            titles("aux"),
            Ok("USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND".into())
        );
        assert_eq!(titles("-o pid,comm"), Ok("PID COMMAND".into()));
        assert_eq!(titles("-eo pid,user"), Ok("PID USER".into()));
        assert_eq!(titles("-o comm").map_err(|e| e.status.as_u16()), Err(400));
        assert_eq!(titles("-Z").map_err(|e| e.status.as_u16()), Err(501));
    }
}
