//! The one embedded store: small records, written by one thread, several changes a commit.
//!
//! ```text
//!  meta        name                    -> text        schema, engine id, boot id
//!  containers  id (32 bytes)           -> JSON        {"v":1, spec, created, layers, warnings}
//!  states      id (32 bytes)           -> JSON        {"v":1, state, started, …}: small, changes often
//!  images      config digest (32)      -> JSON        {"v":1, manifest, layers, …}
//!  networks    id (32 bytes)           -> JSON        {"v":1, spec, created, link}
//!  tags        canonical reference     -> digest (32) + nanoseconds (8, little endian)
//!  volumes     name                    -> JSON        {"v":1, state, created, options, labels, …}
//! ```
//!
//! Everything is read once at open; after that the engine's memory is the truth and this file its
//! durable shadow. [`Store::commit`] returns when the change is on the disk; [`Store::record`]
//! only queues it, in order: for facts that can be found again after a crash (an exit record
//! lies in the run directory until its state is committed).
//!
//! It does not interpret records: bytes in, bytes out.

use std::panic::Location;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hull_model::ErrorKind;
use hull_os::crash;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::{mpsc, oneshot};

use crate::error::{EngineError, Result};

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const CONTAINERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("containers");
const STATES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("states");
const IMAGES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("images");
const NETWORKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("networks");
const TAGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tags");
const VOLUMES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("volumes");

/// The schema that this program writes.
const SCHEMA: &[u8] = b"1";
/// Commits that may wait; more means that the disk does not keep up.
const COMMITS_WAITING_MAX: usize = 4096;
/// Commits that are joined into one transaction at most.
const COMMITS_JOINED_MAX: usize = 256;
/// Pages that the store keeps in memory: its records are in ours already.
const CACHE_BYTES: usize = 256 << 10;
/// How long a killed predecessor may still hold the lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// A file that is given up when the disk is full, so that exits and removals can be recorded.
const RESERVE_BYTES: u64 = 2 << 20;

/// Which table a change is for, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    Meta(&'static str),
    Container([u8; 32]),
    State([u8; 32]),
    Image([u8; 32]),
    Network([u8; 32]),
    Tag(String),
    Volume(String),
}

/// One change: a new value, or none to remove the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    key: Key,
    value: Option<Vec<u8>>,
    /// May use the reserve of a full disk: the change frees something or says what happened.
    releases: bool,
}

impl Change {
    /// Writes a value.
    pub(crate) fn put(key: Key, value: Vec<u8>) -> Self {
        Self {
            key,
            value: Some(value),
            releases: false,
        }
    }

    /// Removes a key.
    pub(crate) fn remove(key: Key) -> Self {
        Self {
            key,
            value: None,
            releases: true,
        }
    }

    /// Lets the change use the reserve.
    pub(crate) fn releasing(mut self) -> Self {
        self.releases = true;
        self
    }
}

struct Job {
    changes: Vec<Change>,
    done: oneshot::Sender<Result<(), String>>,
}

/// A change that is on its way to the disk.
#[derive(Debug)]
pub(crate) struct Recorded(oneshot::Receiver<Result<(), String>>);

impl Recorded {
    /// Waits until it is there; `false`: it could not be written.
    pub(crate) async fn on_disk(self) -> bool {
        matches!(self.0.await, Ok(Ok(())))
    }
}

/// What the store held when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) meta: Vec<(String, Vec<u8>)>,
    pub(crate) containers: Vec<([u8; 32], Vec<u8>)>,
    pub(crate) states: Vec<([u8; 32], Vec<u8>)>,
    pub(crate) images: Vec<([u8; 32], Vec<u8>)>,
    pub(crate) networks: Vec<([u8; 32], Vec<u8>)>,
    pub(crate) tags: Vec<(String, Vec<u8>)>,
    pub(crate) volumes: Vec<(String, Vec<u8>)>,
}

/// The store's door; the writer ends when all doors are gone.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    jobs: mpsc::Sender<Job>,
}

impl Store {
    /// Opens or makes `<data_root>/hull.db` and reads all of it.
    ///
    /// # Errors
    /// When another daemon holds the file, or it is damaged or of a newer schema.
    pub(crate) fn open(data_root: &Path) -> Result<(Store, Contents)> {
        let path = data_root.join("hull.db");
        let database = open_database(&path)?;
        let contents = read_all(&database).map_err(|e| broken(&path, e))?;
        check_schema(&path, &contents)?;
        let (jobs, queue) = mpsc::channel(COMMITS_WAITING_MAX);
        let writer = Writer {
            database: Some(database),
            path,
            reserve: data_root.join("reserve"),
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|e| EngineError::io("start the store's thread", e))?;
        Ok((Store { jobs }, contents))
    }

    /// Writes changes in one transaction; they are on the disk when this returns.
    ///
    /// # Errors
    /// `LimitReached` when the disk is full, `Unavailable` when too many commits wait.
    #[track_caller]
    pub(crate) fn commit(&self, changes: Vec<Change>) -> impl Future<Output = Result<()>> {
        self.commit_for(changes, Location::caller())
    }

    async fn commit_for(
        &self,
        changes: Vec<Change>,
        caller: &'static Location<'static>,
    ) -> Result<()> {
        crash::point_of("before the commit of", caller);
        let (done, answer) = oneshot::channel();
        self.send(Job { changes, done })?;
        match answer.await {
            Ok(Ok(())) => {
                crash::point_of("after the commit of", caller);
                Ok(())
            }
            Ok(Err(text)) => Err(EngineError::step(
                "write to the store; free some space in the data root",
                ErrorKind::LimitReached,
                text,
            )),
            Err(_) => Err(EngineError::Unavailable("the store has stopped".to_owned())),
        }
    }

    /// Queues changes; they are on the disk before any later commit returns.
    #[track_caller]
    pub(crate) fn record(&self, changes: Vec<Change>) {
        drop(self.record_watched(changes));
    }

    /// As [`Store::record`], and the answer says when they are on the disk; an answer that never comes
    /// means that they are not.
    #[track_caller]
    pub(crate) fn record_watched(&self, changes: Vec<Change>) -> Recorded {
        crash::point("before the record of");
        let (done, answer) = oneshot::channel();
        let job = Job { changes, done };
        if let Err(error) = self.send(job) {
            tracing::error!(error = %error.chain(), "a record was not queued");
        }
        Recorded(answer)
    }

    fn send(&self, job: Job) -> Result<()> {
        self.jobs.try_send(job).map_err(|_| {
            EngineError::Unavailable("too many writes wait for the disk; try again".to_owned())
        })
    }
}

struct Writer {
    /// None after an I/O error: the file has to be opened anew.
    database: Option<Database>,
    path: PathBuf,
    reserve: PathBuf,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        self.keep_reserve();
        let mut jobs = Vec::new();
        while let Some(first) = queue.blocking_recv() {
            jobs.push(first);
            while jobs.len() < COMMITS_JOINED_MAX {
                match queue.try_recv() {
                    Ok(job) => jobs.push(job),
                    Err(_) => break,
                }
            }
            self.write(&mut jobs);
        }
    }

    /// Writes all jobs at once; when that fails, each alone, so that one that asks for too much
    /// does not take others with it.
    fn write(&mut self, jobs: &mut Vec<Job>) {
        let all: Vec<&Change> = jobs.iter().flat_map(|job| &job.changes).collect();
        if self.transaction(&all).is_ok() {
            jobs.drain(..).for_each(|job| answer(job, Ok(())));
            return;
        }
        for job in jobs.drain(..) {
            let changes: Vec<&Change> = job.changes.iter().collect();
            let mut result = self.transaction(&changes);
            if result.is_err() && job.changes.iter().any(|change| change.releases) {
                self.give_up_reserve();
                result = self.transaction(&changes);
            }
            answer(job, result);
        }
        self.keep_reserve();
    }

    fn transaction(&mut self, changes: &[&Change]) -> Result<(), String> {
        let database = match self.database.take() {
            Some(database) => database,
            None => Database::create(&self.path).map_err(|e| e.to_string())?,
        };
        crash::point("before a transaction");
        apply(&database, changes).map_err(|e| e.to_string())?;
        crash::point("after a transaction");
        // Only kept when all went well: after an I/O error redb wants to be opened anew.
        self.database = Some(database);
        Ok(())
    }

    fn keep_reserve(&self) {
        if self
            .reserve
            .metadata()
            .is_ok_and(|m| m.len() == RESERVE_BYTES)
        {
            return;
        }
        // Zeros and not a hole: the point is to hold the blocks.
        if std::fs::write(&self.reserve, vec![0; RESERVE_BYTES as usize]).is_err() {
            self.give_up_reserve();
        }
    }

    fn give_up_reserve(&self) {
        if let Err(error) = hull_os::durable::remove_if_exists(&self.reserve) {
            tracing::warn!(%error, path = %self.reserve.display(), "the reserve cannot be given up");
        }
    }
}

fn answer(job: Job, result: Result<(), String>) {
    if let Err(error) = &result {
        tracing::error!(error, "the store cannot be written");
    }
    // The caller may have gone away; the change is made all the same.
    drop(job.done.send(result));
}

fn open_database(path: &Path) -> Result<Database> {
    let start = Instant::now();
    loop {
        match Database::builder().set_cache_size(CACHE_BYTES).create(path) {
            Ok(database) => return Ok(database),
            Err(redb::DatabaseError::DatabaseAlreadyOpen) if start.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(EngineError::step(
                    format!("open {}", path.display()),
                    ErrorKind::Busy,
                    "another hull daemon uses this data root; stop it or choose another --data-root",
                ));
            }
            Err(error) => return Err(broken(path, error)),
        }
    }
}

fn broken(path: &Path, cause: impl Into<crate::error::Cause>) -> EngineError {
    EngineError::step(
        format!("read {}", path.display()),
        ErrorKind::Internal,
        cause,
    )
}

fn check_schema(path: &Path, contents: &Contents) -> Result<()> {
    match contents.meta.iter().find(|(key, _)| key == "schema") {
        None => Ok(()),
        Some((_, value)) if value == SCHEMA => Ok(()),
        Some((_, value)) => Err(EngineError::step(
            format!("open {}", path.display()),
            ErrorKind::Unsupported,
            format!(
                "its schema is {}, this hull knows {}; start the hull that wrote it",
                String::from_utf8_lossy(value),
                String::from_utf8_lossy(SCHEMA)
            ),
        )),
    }
}

fn read_all(database: &Database) -> Result<Contents, redb::Error> {
    let write = database.begin_write()?;
    {
        let mut meta = write.open_table(META)?;
        if meta.get("schema")?.is_none() {
            meta.insert("schema", SCHEMA)?;
        }
        write.open_table(CONTAINERS)?;
        write.open_table(STATES)?;
        write.open_table(IMAGES)?;
        write.open_table(NETWORKS)?;
        write.open_table(TAGS)?;
        write.open_table(VOLUMES)?;
    }
    write.commit()?;
    let read = database.begin_read()?;
    let mut contents = Contents::default();
    for (table, rows) in [
        (META, &mut contents.meta),
        (TAGS, &mut contents.tags),
        (VOLUMES, &mut contents.volumes),
    ] {
        for row in read.open_table(table)?.iter()? {
            let (key, value) = row?;
            rows.push((key.value().to_owned(), value.value().to_vec()));
        }
    }
    for (table, rows) in [
        (CONTAINERS, &mut contents.containers),
        (STATES, &mut contents.states),
        (IMAGES, &mut contents.images),
        (NETWORKS, &mut contents.networks),
    ] {
        for row in read.open_table(table)?.iter()? {
            let (key, value) = row?;
            match <[u8; 32]>::try_from(key.value()) {
                Ok(id) => rows.push((id, value.value().to_vec())),
                Err(_) => tracing::error!(key = ?key.value(), "a record has no id of 32 bytes"),
            }
        }
    }
    Ok(contents)
}

fn apply(database: &Database, changes: &[&Change]) -> Result<(), redb::Error> {
    let write = database.begin_write()?;
    {
        let mut containers = write.open_table(CONTAINERS)?;
        let mut states = write.open_table(STATES)?;
        let mut images = write.open_table(IMAGES)?;
        let mut networks = write.open_table(NETWORKS)?;
        let mut tags = write.open_table(TAGS)?;
        let mut volumes = write.open_table(VOLUMES)?;
        let mut meta = write.open_table(META)?;
        for change in changes {
            let value = change.value.as_deref();
            match &change.key {
                Key::Container(id) => set(&mut containers, id.as_slice(), value)?,
                Key::State(id) => set(&mut states, id.as_slice(), value)?,
                Key::Image(id) => set(&mut images, id.as_slice(), value)?,
                Key::Network(id) => set(&mut networks, id.as_slice(), value)?,
                Key::Tag(name) => set(&mut tags, name.as_str(), value)?,
                Key::Volume(name) => set(&mut volumes, name.as_str(), value)?,
                Key::Meta(name) => set(&mut meta, *name, value)?,
            }
        }
    }
    write.commit()?;
    Ok(())
}

fn set<'k, K: redb::Key + 'static>(
    table: &mut redb::Table<'_, K, &'static [u8]>,
    key: impl std::borrow::Borrow<K::SelfType<'k>>,
    value: Option<&[u8]>,
) -> Result<(), redb::StorageError> {
    match value {
        Some(value) => drop(table.insert(key, value)?),
        None => drop(table.remove(key)?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("hull-store-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("scratch");
        path
    }

    #[tokio::test]
    async fn what_was_committed_is_read_back_and_what_was_removed_is_not() {
        let root = scratch("back");
        let (store, contents) = Store::open(&root).expect("open");
        assert!(contents.containers.is_empty());
        let id = [7; 32];
        store.record(vec![Change::put(Key::State(id), b"a".to_vec())]);
        store.record(vec![Change::put(Key::Tag("x".to_owned()), b"t".to_vec())]);
        store
            .commit(vec![Change::put(Key::Container(id), b"spec".to_vec())])
            .await
            .expect("commit");
        store
            .commit(vec![Change::remove(Key::Tag("x".to_owned()))])
            .await
            .expect("commit");
        drop(store);
        let (store, contents) = Store::open(&root).expect("open again");
        assert_eq!(contents.containers, vec![(id, b"spec".to_vec())]);
        assert_eq!(contents.states, vec![(id, b"a".to_vec())]);
        assert!(contents.tags.is_empty());
        // The writer keeps its reserve before it takes anything.
        store.commit(Vec::new()).await.expect("commit");
        std::fs::remove_dir_all(&root).expect("clean up");
    }
}
