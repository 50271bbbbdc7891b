//! Bounded places for blocking work, so that a slow disk never takes all threads.
//!
//! Each pool is a number of places in front of the runtime's blocking threads. A caller waits
//! for a place in line; when the line is too long it hears so at once.

use std::panic::Location;
use std::sync::Arc;

use hull_model::limits::{
    DISK_JOBS_MAX, DOWNLOADS_MAX, FILE_JOBS_MAX, JOBS_WAITING_MAX, KERNEL_JOBS_MAX,
};
use hull_os::crash;
use tokio::sync::Semaphore;

use crate::error::{EngineError, Result};

/// What sort of work a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    /// Reads and writes much: load, import, save, removal of trees.
    Disk,
    /// Unpacks what comes from the network, as fast as it comes; the transfers have places of their
    /// own before this.
    Download,
    /// Short calls that may wait in the kernel: mounts, spawns, cgroups.
    Kernel,
    /// Works on the files of containers, as fast as a client reads or writes.
    Files,
}

#[derive(Debug)]
struct Places {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Places {
    fn new(count: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(count)),
            waiting: Arc::new(Semaphore::new(count + JOBS_WAITING_MAX)),
        }
    }
}

/// The pools.
#[derive(Debug)]
pub(crate) struct Jobs {
    disk: Places,
    download: Places,
    kernel: Places,
    files: Places,
}

impl Jobs {
    pub(crate) fn new() -> Self {
        Self {
            disk: Places::new(DISK_JOBS_MAX),
            download: Places::new(DOWNLOADS_MAX),
            kernel: Places::new(KERNEL_JOBS_MAX),
            files: Places::new(FILE_JOBS_MAX),
        }
    }

    /// Runs blocking work in a pool. When the caller goes away, the work still ends.
    ///
    /// # Errors
    /// `Unavailable` when the line is full or the work panicked.
    #[track_caller]
    pub(crate) fn run<T: Send + 'static>(
        &self,
        pool: Pool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T>> {
        self.run_for(pool, work, Location::caller())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one bounded door to it"
    )]
    async fn run_for<T: Send + 'static>(
        &self,
        pool: Pool,
        work: impl FnOnce() -> T + Send + 'static,
        caller: &'static Location<'static>,
    ) -> Result<T> {
        let places = match pool {
            Pool::Disk => &self.disk,
            Pool::Download => &self.download,
            Pool::Kernel => &self.kernel,
            Pool::Files => &self.files,
        };
        let full = || EngineError::Unavailable(format!("too many {pool:?} jobs wait; try again"));
        let _in_line = places
            .waiting
            .clone()
            .try_acquire_owned()
            .map_err(|_| full())?;
        let place = places
            .running
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| full())?;
        let result = tokio::task::spawn_blocking(move || {
            crash::point_of("before the job of", caller);
            let result = work();
            crash::point_of("after the job of", caller);
            drop(place);
            result
        });
        result
            .await
            .map_err(|e| EngineError::Unavailable(format!("a {pool:?} job failed: {e}")))
    }
}
