//! What happened, to whoever listens, and from the disk to who asks later.
//!
//! ```text
//!  <data>/events.jsonl     one JSON object a line, the newest last
//!  <data>/events.1.jsonl   what was in it before it was full
//! ```
//!
//! An event is in the file before anybody hears of it, so it is there after the daemon was killed;
//! only a crash of the host can take the last ones. Memory holds none of them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hull_model::SandboxId;
use hull_model::event::{Happening, Subject};
use hull_model::limits::{EVENTS_BEHIND_MAX, EVENTS_FILE_BYTES_MAX};
use hull_os::durable::{self, Durability};
use tokio::sync::broadcast;

use crate::clock::now_ns;
use crate::jobs::{Jobs, Pool};

/// Events that are read from the files at once.
const BATCH: usize = 256;
/// What each line begins with, so that the time is read without the rest.
const LINE_START: &str = "{\"at_ns\":";

/// The engine's events.
#[derive(Debug)]
pub(crate) struct Events {
    live: broadcast::Sender<Arc<Happening>>,
    log: Mutex<Log>,
}

/// The files.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    /// None: it could not be opened; tried again at the next event.
    file: Option<File>,
    bytes: u64,
    /// The last write was cut off: a new line begins before the next one.
    torn: bool,
}

impl Events {
    /// Opens the files of a data root.
    pub(crate) fn open(data_root: &Path) -> Self {
        let mut log = Log {
            path: data_root.join("events.jsonl"),
            file: None,
            bytes: 0,
            torn: false,
        };
        log.open();
        Self {
            live: broadcast::Sender::new(EVENTS_BEHIND_MAX),
            log: Mutex::new(log),
        }
    }

    /// Publishes one event; waits for nobody but the page cache.
    pub(crate) fn publish(
        &self,
        subject: Subject,
        action: impl Into<String>,
        id: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        self.publish_with(subject, action.into(), id.into(), attributes, || ());
    }

    /// Publishes one event as one with what `show` does: who sees what that shows finds the event
    /// among the kept ones, and who hears of the event sees what it shows.
    pub(crate) fn publish_with(
        &self,
        subject: Subject,
        action: String,
        id: String,
        attributes: BTreeMap<String, String>,
        show: impl FnOnce(),
    ) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let happening = Arc::new(Happening {
            at_ns: now_ns(),
            subject,
            action,
            id,
            attributes,
        });
        log.append(&happening);
        show();
        // Sent under the lock, so that a subscriber gets each event exactly once. No receiver: fine.
        drop(self.live.send(happening));
    }

    /// Publishes how much a removal of what nobody uses gave back.
    pub(crate) fn publish_prune(&self, subject: Subject, bytes: u64) {
        let reclaimed = ("reclaimed".to_owned(), bytes.to_string());
        self.publish(subject, "prune", "", BTreeMap::from([reclaimed]));
    }

    /// The kept events not older than `since_ns` and all that follow, without gap or repetition.
    pub(crate) fn subscribe(
        &self,
        jobs: Arc<Jobs>,
        since_ns: Option<i64>,
    ) -> (KeptEvents, broadcast::Receiver<Arc<Happening>>) {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let files = since_ns.map_or_else(VecDeque::new, |_| log.readers());
        let kept = KeptEvents {
            jobs,
            since_ns: since_ns.unwrap_or_default(),
            files,
            batch: VecDeque::new(),
        };
        (kept, self.live.subscribe())
    }

    /// What was told of containers by former daemons.
    pub(crate) fn told(&self) -> Told {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut files = log.readers();
        drop(log);
        let mut told = Told::default();
        while let Some(happening) = next(&mut files, i64::MIN) {
            told.oldest_ns.get_or_insert(happening.at_ns);
            if happening.subject == Subject::Container {
                let key = (happening.id, happening.action);
                told.last.insert(key, happening.at_ns);
            }
        }
        told
    }
}

impl Log {
    fn older(&self) -> PathBuf {
        self.path.with_extension("1.jsonl")
    }

    fn open(&mut self) {
        let mut options = OpenOptions::new();
        let opened = options
            .create(true)
            .read(true)
            .append(true)
            .open(&self.path);
        match opened.and_then(|file| ends_in_line(&file).map(|(bytes, ends)| (file, bytes, ends))) {
            Ok((file, bytes, ends)) => {
                (self.file, self.bytes, self.torn) = (Some(file), bytes, !ends);
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "events are not kept");
            }
        }
    }

    fn append(&mut self, happening: &Happening) {
        if self.file.is_none() {
            self.open();
        }
        if self.bytes >= EVENTS_FILE_BYTES_MAX {
            self.rotate();
        }
        let mut line = Vec::new();
        if self.torn {
            line.push(b'\n');
        }
        // Our own value: plain texts and numbers, which JSON always can hold.
        if serde_json::to_writer(&mut line, happening).is_err() {
            return;
        }
        line.push(b'\n');
        let Some(file) = &mut self.file else {
            return;
        };
        match file.write_all(&line) {
            Ok(()) => {
                self.bytes += line.len() as u64;
                self.torn = false;
            }
            Err(error) => {
                self.torn = true;
                tracing::warn!(%error, action = happening.action, "an event is not kept");
            }
        }
    }

    fn rotate(&mut self) {
        // Not synced: only the newest events would suffer, and only from a crash of the host.
        match durable::publish(&self.path, &self.older(), Durability::Lost) {
            Ok(()) => {
                self.file = None;
                self.open();
            }
            Err(error) => tracing::warn!(%error, "the file of events is not rotated"),
        }
    }

    /// All that is kept now, the oldest first.
    fn readers(&self) -> VecDeque<Reader> {
        let newest = (self.path.clone(), self.bytes);
        let files = [(self.older(), u64::MAX), newest];
        let open = |(path, bytes): (PathBuf, u64)| {
            let file = File::open(path).ok()?;
            Some(BufReader::new(file.take(bytes)))
        };
        files.into_iter().filter_map(open).collect()
    }
}

/// The length of a file, and whether it ends with a whole line.
fn ends_in_line(mut file: &File) -> io::Result<(u64, bool)> {
    let bytes = file.metadata()?.len();
    if bytes == 0 {
        return Ok((0, true));
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok((bytes, last == *b"\n"))
}

type Reader = BufReader<io::Take<File>>;

/// The next event that is not older; what cannot be read as one is passed over.
fn next(files: &mut VecDeque<Reader>, since_ns: i64) -> Option<Happening> {
    let mut line = String::new();
    loop {
        let file = files.front_mut()?;
        line.clear();
        match file.read_line(&mut line) {
            Ok(0) => {
                files.pop_front();
            }
            Ok(_) if is_older(&line, since_ns) => {}
            Ok(_) => match serde_json::from_str(&line) {
                Ok(happening) => return Some(happening),
                Err(error) => tracing::debug!(%error, "a torn line of events"),
            },
            // Bytes that are no text: a torn line too.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(error) => {
                tracing::warn!(%error, "read the file of events");
                files.pop_front();
            }
        }
    }
}

fn is_older(line: &str, since_ns: i64) -> bool {
    let number = line.strip_prefix(LINE_START);
    let number = number.and_then(|rest| rest.split(',').next()?.parse::<i64>().ok());
    number.is_some_and(|at_ns| at_ns < since_ns)
}

/// Events of the past, read from the disk as they are asked for.
#[derive(Debug)]
pub struct KeptEvents {
    jobs: Arc<Jobs>,
    since_ns: i64,
    files: VecDeque<Reader>,
    batch: VecDeque<Happening>,
}

impl KeptEvents {
    /// The next one, the oldest first; none after the last.
    pub async fn next(&mut self) -> Option<Happening> {
        if self.batch.is_empty() && !self.files.is_empty() {
            let (mut files, since_ns) = (std::mem::take(&mut self.files), self.since_ns);
            let read = self.jobs.run(Pool::Files, move || {
                let batch: VecDeque<_> = std::iter::from_fn(|| next(&mut files, since_ns))
                    .take(BATCH)
                    .collect();
                (files, batch)
            });
            match read.await {
                Ok((files, batch)) => (self.files, self.batch) = (files, batch),
                Err(error) => tracing::warn!(error = %error.chain(), "events of the past"),
            }
        }
        self.batch.pop_front()
    }
}

/// What was told of containers before this start: a daemon that is killed may have recorded
/// a change and not told it, or told it and not recorded it.
#[derive(Debug, Default)]
pub(crate) struct Told {
    oldest_ns: Option<i64>,
    last: HashMap<(String, String), i64>,
}

impl Told {
    /// Whether subscribers heard of something that happened at this time; what is older than the
    /// files counts as told.
    pub(crate) fn knows(&self, id: SandboxId, action: &str, at_ns: i64) -> bool {
        let last = self.last.get(&(id.to_string(), action.to_owned()));
        self.oldest_ns.is_none_or(|oldest| oldest > at_ns)
            || last.is_some_and(|&last| last >= at_ns)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn remove(data_root: &Path) {
        fs::remove_dir_all(data_root).expect("clean up");
    }

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("hull-events-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("scratch");
        path
    }

    async fn actions(events: &Events, since_ns: i64) -> Vec<String> {
        let (mut kept, _live) = events.subscribe(Arc::new(Jobs::new()), Some(since_ns));
        let mut actions = Vec::new();
        while let Some(happening) = kept.next().await {
            actions.push(happening.action);
        }
        actions
    }

    fn publish(events: &Events, action: &str) {
        events.publish(Subject::Container, action, "ab", BTreeMap::new());
    }

    #[tokio::test]
    async fn events_are_there_after_a_restart_and_torn_lines_are_passed_over() {
        let root = scratch("restart");
        let events = Events::open(&root);
        publish(&events, "create");
        publish(&events, "start");
        drop(events);
        let mut file = OpenOptions::new()
            .append(true)
            .open(root.join("events.jsonl"))
            .expect("open");
        file.write_all(b"{\"at_ns\":17,\"sub\xff").expect("tear");
        let events = Events::open(&root);
        publish(&events, "die");
        assert_eq!(actions(&events, 0).await, ["create", "start", "die"]);
        assert!(actions(&events, i64::MAX).await.is_empty());
        remove(&root);
    }

    #[tokio::test]
    async fn the_files_are_bounded_and_keep_the_newest() {
        let root = scratch("bounded");
        let events = Events::open(&root);
        let long = "x".repeat(64 << 10);
        let count = 3 * EVENTS_FILE_BYTES_MAX / long.len() as u64;
        for number in 0..count {
            publish(&events, &format!("{number} {long}"));
        }
        let kept = actions(&events, 0).await;
        let numbers: Vec<u64> = kept
            .iter()
            .map(|action| {
                action
                    .split(' ')
                    .next()
                    .expect("number")
                    .parse()
                    .expect("number")
            })
            .collect();
        assert_eq!(numbers.last(), Some(&(count - 1)));
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        let bytes: u64 = fs::read_dir(&root)
            .expect("list")
            .map(|entry| entry.expect("entry").metadata().expect("facts").len())
            .sum();
        assert!(bytes <= 2 * EVENTS_FILE_BYTES_MAX + (1 << 20), "{bytes}");
        remove(&root);
    }

    #[test]
    fn what_former_daemons_told_is_known() {
        let root = scratch("told");
        let id = SandboxId::from_bytes([7; 32]);
        assert!(Events::open(&root).told().knows(id, "die", 5));
        let events = Events::open(&root);
        publish(&events, "create");
        let before = now_ns();
        events.publish(Subject::Container, "die", id.to_string(), BTreeMap::new());
        let told = Events::open(&root).told();
        assert!(told.knows(id, "die", before) && !told.knows(id, "die", i64::MAX));
        assert!(told.knows(id, "start", 5) && !told.knows(id, "start", before));
        remove(&root);
    }
}
