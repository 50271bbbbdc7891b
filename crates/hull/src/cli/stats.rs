//! `hull stats`.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::failure::Failure;
use super::format::{self, Columns, Style};
use super::session::{Session, print};
use super::stream::output_is_terminal;
use super::value::Value;
use super::{Command, units};
use crate::client::{Client, Reply};

/// How often the screen is drawn again.
const REFRESH_MS: u64 = 500;

/// Clears the screen and goes to its first place.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Bytes that one sample may have; more is no sample.
const SAMPLE_BYTES_MAX: usize = 1 << 20;

const COLUMNS: Columns = Columns {
    headers: &[
        ("Container", "CONTAINER"),
        ("Name", "NAME"),
        ("ID", "CONTAINER ID"),
        ("CPUPerc", "CPU %"),
        ("MemUsage", "MEM USAGE / LIMIT"),
        ("MemPerc", "MEM %"),
        ("NetIO", "NET I/O"),
        ("BlockIO", "BLOCK I/O"),
        ("PIDs", "PIDS"),
    ],
    table: r"{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
    quiet: "{{.ID}}",
};

/// `hull stats`.
#[derive(Debug, clap::Args)]
pub(crate) struct Stats {
    /// Show all containers (default shows just running)
    #[arg(long, short)]
    all: bool,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Command for Stats {
    const USAGE: &str = "[OPTIONS] [CONTAINER...]";
    const ABOUT: &str = "Display a live stream of container(s) resource usage statistics";

    async fn run(self, session: &Session) -> Result<(), Failure> {
        let format = self
            .format
            .clone()
            .or_else(|| session.setting("statsFormat"));
        let style = Style {
            format: format.as_deref(),
            quiet: false,
        };
        let client = session.client().await?;
        if self.no_stream {
            let names = self.names(client).await?;
            let samples = join_all(names.iter().map(|name| sample(client, name))).await;
            let mut rows = Vec::new();
            let mut failures = Vec::new();
            for (name, sample) in names.iter().zip(samples) {
                match sample {
                    Ok(sample) => rows.push(self.row(name, Some(&sample))),
                    // A container that ended while we asked is no mistake of the user.
                    Err(failure) if failure.not_found && self.containers.is_empty() => {}
                    Err(failure) => failures.push(failure),
                }
            }
            if failures.is_empty() || !rows.is_empty() {
                print(&format::render(&COLUMNS, style, &rows)?)?;
            }
            return Failure::join(failures);
        }
        self.stream(client, style).await
    }
}

impl Stats {
    /// The containers to watch: those named, or all that run.
    async fn names(&self, client: &Client) -> Result<Vec<String>, Failure> {
        if !self.containers.is_empty() {
            return Ok(self.containers.clone());
        }
        let call = client.get("/containers/json").query_flag("all", self.all);
        let found: Vec<Value> = call.receive().await?;
        Ok(found
            .iter()
            .map(|one| format::short_id(one.text(&["Id"])).to_owned())
            .collect())
    }

    /// Draws the table again and again. One stream is read for each container; containers that
    /// come and go are noticed where none was named.
    async fn stream(&self, client: &Client, style: Style<'_>) -> Result<(), Failure> {
        let mut open: BTreeMap<String, Stream> = BTreeMap::new();
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(REFRESH_MS));
        loop {
            let names = self.names(client).await?;
            open.retain(|name, stream| names.contains(name) && !stream.ended());
            for name in &names {
                if !open.contains_key(name) {
                    open.insert(name.clone(), Stream::open(client, name).await?);
                }
            }
            ticks.tick().await;
            let rows: Vec<Value> = names
                .iter()
                .filter_map(|name| {
                    let stream = open.get(name)?;
                    Some(self.row(name, stream.last.borrow().as_ref()))
                })
                .collect();
            let clear = if output_is_terminal() { CLEAR } else { "" };
            print(&format!(
                "{clear}{}",
                format::render(&COLUMNS, style, &rows)?
            ))?;
            if names.is_empty() && !self.containers.is_empty() {
                return Ok(());
            }
        }
    }

    fn row(&self, asked: &str, sample: Option<&Value>) -> Value {
        let empty = Value::Object(Vec::new());
        let stats = sample.unwrap_or(&empty);
        let unknown = sample.is_none();
        let or_dashes = |text: String| if unknown { "--".to_owned() } else { text };
        let percent = |value: f64| format!("{value:.2}%");
        let size = |bytes: f64| units::human_size_with_precision(bytes, 3);
        let (used, limit) = memory(stats);
        let (read, written) = block_io(stats);
        let (received, sent) = network_io(stats);
        let share = if limit > 0.0 {
            used / limit * 100.0
        } else {
            0.0
        };
        let name = stats.text(&["name"]).trim_start_matches('/');
        let id = stats.text(&["id"]);
        let memory = match unknown {
            true => "-- / --".to_owned(),
            false => format!("{} / {}", units::bytes_size(used), units::bytes_size(limit)),
        };
        let members = [
            (
                "BlockIO",
                or_dashes(format!("{} / {}", size(read), size(written))),
            ),
            ("CPUPerc", or_dashes(percent(cpu_percent(stats)))),
            ("Container", asked.to_owned()),
            (
                "ID",
                if self.no_trunc {
                    id
                } else {
                    format::short_id(id)
                }
                .to_owned(),
            ),
            ("MemPerc", or_dashes(percent(share))),
            ("MemUsage", memory),
            ("Name", if name.is_empty() { "--" } else { name }.to_owned()),
            (
                "NetIO",
                or_dashes(format!("{} / {}", size(received), size(sent))),
            ),
            (
                "PIDs",
                or_dashes(stats.int(&["pids_stats", "current"]).to_string()),
            ),
        ];
        Value::Object(
            members
                .map(|(name, text)| (name.to_owned(), Value::String(text)))
                .to_vec(),
        )
    }
}

/// The samples of one container, read beside everything else.
struct Stream {
    last: tokio::sync::watch::Receiver<Option<Value>>,
    task: tokio::task::JoinHandle<()>,
}

impl Stream {
    async fn open(client: &Client, name: &str) -> Result<Stream, Failure> {
        let call = client
            .get(format!("/containers/{name}/stats"))
            .query("stream", "1");
        let reply = call.send().await?;
        let (sender, last) = tokio::sync::watch::channel(None);
        let task = tokio::spawn(follow(reply, sender));
        Ok(Stream { last, task })
    }

    fn ended(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(mut reply: Reply, last: tokio::sync::watch::Sender<Option<Value>>) {
    let mut pending = Vec::new();
    while let Ok(Some(chunk)) = reply.chunk().await {
        pending.extend_from_slice(&chunk);
        let mut samples = serde_json::Deserializer::from_slice(&pending).into_iter::<Value>();
        let mut read = 0;
        while let Some(Ok(sample)) = samples.next() {
            read = samples.byte_offset();
            last.send_replace(Some(sample));
        }
        pending.drain(..read);
        if pending.len() > SAMPLE_BYTES_MAX {
            return;
        }
    }
}

async fn sample(client: &Client, name: &str) -> Result<Value, Failure> {
    let call = client
        .get(format!("/containers/{name}/stats"))
        .query("stream", "0");
    Ok(call.receive().await?)
}

fn cpu_percent(stats: &Value) -> f64 {
    let used = |when| stats.int(&[when, "cpu_usage", "total_usage"]) as f64;
    let whole = |when| stats.int(&[when, "system_cpu_usage"]) as f64;
    let used = used("cpu_stats") - used("precpu_stats");
    let whole = whole("cpu_stats") - whole("precpu_stats");
    let cpus = match stats.int(&["cpu_stats", "online_cpus"]) {
        0 => stats
            .items(&["cpu_stats", "cpu_usage", "percpu_usage"])
            .len() as f64,
        count => count as f64,
    };
    if whole > 0.0 && used > 0.0 {
        used / whole * cpus * 100.0
    } else {
        0.0
    }
}

/// Memory in use and its limit; cache that can go at any time does not count.
fn memory(stats: &Value) -> (f64, f64) {
    let memory = |name: &str| stats.int(&["memory_stats", name]);
    let usage = memory("usage");
    let stat = |name| {
        stats
            .at(&["memory_stats", "stats", name])
            .map(|_| stats.int(&["memory_stats", "stats", name]))
    };
    let cache = stat("total_inactive_file")
        .or_else(|| stat("inactive_file"))
        .unwrap_or(0);
    let used = if cache < usage { usage - cache } else { usage };
    (used as f64, memory("limit") as f64)
}

fn block_io(stats: &Value) -> (f64, f64) {
    let entries = stats.items(&["blkio_stats", "io_service_bytes_recursive"]);
    let sum = |letter: char| {
        entries
            .iter()
            .filter(|entry| entry.text(&["op"]).to_lowercase().starts_with(letter))
            .map(|entry| entry.int(&["value"]) as f64)
            .sum()
    };
    (sum('r'), sum('w'))
}

fn network_io(stats: &Value) -> (f64, f64) {
    let networks = stats.members(&["networks"]);
    let sum = |name: &str| {
        networks
            .iter()
            .map(|(_, one)| one.int(&[name]) as f64)
            .sum()
    };
    (sum("rx_bytes"), sum("tx_bytes"))
}
