//! Bounded places for blocking work, so that a slow disk never takes all threads.
//!
//! Each pool is a number of places in front of the runtime's blocking threads. A caller waits
//! for a place in line; when the line is too long it hears so at once. What the engine has to do
//! anyway, once for each container (clean up, find again, remove), is not refused: it waits before
//! the line, and only so much of it stands in the line that clients always get on.

use std::future::Future;
use std::panic::Location;
use std::sync::Arc;

use hull_model::limits::{
    DISK_JOBS_MAX, FILE_JOBS_MAX, JOBS_WAITING_MAX, KERNEL_JOBS_MAX, PLACES_FOR_CLIENTS,
    TRANSFERS_MAX,
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
    own: Semaphore,
}

impl Places {
    fn new(count: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(count)),
            waiting: Arc::new(Semaphore::new(count + JOBS_WAITING_MAX)),
            own: Semaphore::new(own_max(count)),
        }
    }
}

/// How many of the places in a pool the engine's own work may have.
fn own_max(places: usize) -> usize {
    places.saturating_sub(PLACES_FOR_CLIENTS).max(1)
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
            download: Places::new(TRANSFERS_MAX),
            kernel: Places::new(KERNEL_JOBS_MAX),
            files: Places::new(FILE_JOBS_MAX),
        }
    }

    /// Runs blocking work that is the engine's own and must be done: it waits for its turn however
    /// much there is of it, as after a start with thousands of containers.
    ///
    /// # Errors
    /// `Unavailable` when the line is full of others' work or the work panicked.
    #[track_caller]
    pub(crate) fn run_own<T: Send + 'static>(
        &self,
        pool: Pool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T>> {
        let done = self.run(pool, work);
        async move {
            let _turn = self.places(pool).own.acquire().await;
            done.await
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
        let places = self.places(pool);
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

    fn places(&self, pool: Pool) -> &Places {
        match pool {
            Pool::Disk => &self.disk,
            Pool::Download => &self.download,
            Pool::Kernel => &self.kernel,
            Pool::Files => &self.files,
        }
    }
}

/// Carries a change to its end, also when the client that asked for it goes away in between.
pub(crate) async fn finished<T: Send + 'static>(
    change: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(change)
        .await
        .unwrap_or_else(|e| Err(EngineError::Unavailable(format!("it was cut off: {e}"))))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    const MANY: usize = JOBS_WAITING_MAX + KERNEL_JOBS_MAX + 1000;

    /// How many of `MANY` jobs that are asked for at once are done, and the most that ran together.
    async fn crowd<F: Future<Output = Result<()>> + Send + 'static>(
        ask: impl Fn(&'static Jobs, Box<dyn FnOnce() + Send>) -> F,
    ) -> (usize, usize) {
        let jobs: &'static Jobs = Box::leak(Box::new(Jobs::new()));
        let running: Arc<AtomicUsize> = Arc::default();
        let most: Arc<AtomicUsize> = Arc::default();
        let mut asked = Vec::new();
        for _ in 0..MANY {
            let (running, most) = (running.clone(), most.clone());
            let work = Box::new(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_micros(100));
                running.fetch_sub(1, Ordering::SeqCst);
            });
            asked.push(tokio::spawn(ask(jobs, work)));
        }
        let mut done = 0;
        for one in asked {
            done += usize::from(one.await.unwrap().is_ok());
        }
        (done, most.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn own_work_is_done_however_much_there_is_and_leaves_places_to_others() {
        let (done, most) = crowd(|jobs, work| jobs.run_own(Pool::Kernel, work)).await;
        assert_eq!(done, MANY);
        assert!(most <= own_max(KERNEL_JOBS_MAX), "{most} at once");
    }

    #[tokio::test]
    async fn clients_work_is_refused_when_the_line_is_full() {
        let (done, most) = crowd(|jobs, work| jobs.run(Pool::Kernel, work)).await;
        assert!((JOBS_WAITING_MAX..MANY).contains(&done), "{done} of {MANY}");
        assert!(most <= KERNEL_JOBS_MAX, "{most} at once");
    }
}
