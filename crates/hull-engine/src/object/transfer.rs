//! Layers on their way: each is fetched once, however many pulls want it.
//!
//! A transfer lives as long as somebody waits for it; the last one to leave ends it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use hull_model::limits::{DOWNLOADS_MAX, TRANSFERS_MAX};
use hull_model::{Digest, ErrorKind};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

use crate::api::{LayerStep, Transfer};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::object::pull::Wanted;

/// Bytes between two reports of one layer.
const REPORT_BYTES: u64 = 512 << 10;

/// How a transfer stands.
#[derive(Debug, Clone)]
struct Standing {
    step: LayerStep,
    end: Option<Result<(), (String, ErrorKind)>>,
}

/// A transfer that somebody waits for.
#[derive(Debug)]
pub(crate) struct Running {
    digest: Digest,
    standing: watch::Receiver<Standing>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The transfers that go on, by the digest of blob and layer.
#[derive(Debug)]
pub(crate) struct Transfers {
    running: Mutex<HashMap<(Digest, Digest), Weak<Running>>>,
    places: Mutex<Arc<Semaphore>>,
}

/// So many transfers at the same time; 0: the usual number.
fn places(count: usize) -> Arc<Semaphore> {
    let count = if count == 0 { DOWNLOADS_MAX } else { count };
    Arc::new(Semaphore::new(count.min(TRANSFERS_MAX)))
}

impl Transfers {
    /// With so many places; 0: the usual number.
    pub(crate) fn new(count: usize) -> Self {
        Self {
            running: Mutex::default(),
            places: Mutex::new(places(count)),
        }
    }

    /// Another number of places, for transfers that begin from now on.
    pub(crate) fn resize(&self, count: usize) {
        *self.places.lock().unwrap_or_else(PoisonError::into_inner) = places(count);
    }

    fn places(&self) -> Arc<Semaphore> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.clone()
    }

    /// Joins the transfer of a layer, or begins it.
    pub(crate) fn join(&self, core: &Arc<Core>, wanted: Wanted) -> Arc<Running> {
        let key = (wanted.digest, wanted.diff_id);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, transfer| transfer.strong_count() > 0);
        let known = running.get(&key).and_then(Weak::upgrade);
        // One that failed does not fail those who come later.
        if let Some(known) = known.filter(|k| !matches!(k.standing.borrow().end, Some(Err(_)))) {
            return known;
        }
        let step = LayerStep::Queued;
        let (standing, receiver) = watch::channel(Standing { step, end: None });
        let (core, places) = (core.clone(), self.places());
        let digest = wanted.digest;
        let task = tokio::spawn(async move {
            let report = |step: LayerStep| report(&standing, step);
            if places.available_permits() == 0 {
                report(LayerStep::Waiting);
            }
            // Held until the bytes are named by a record, or not needed; also by the thread that
            // unpacks, which may end after this.
            let sweep = Arc::new(core.images.sweep.clone().read_owned().await);
            let _place = places.acquire_owned().await;
            let done = wanted.bring(&core, &sweep, &report).await;
            let end = done.map_err(|error| (error.chain(), error.kind()));
            standing.send_modify(|standing| standing.end = Some(end));
        });
        let task = task.abort_handle();
        let transfer = Arc::new(Running {
            digest,
            standing: receiver,
            task,
        });
        running.insert(key, Arc::downgrade(&transfer));
        transfer
    }
}

/// Wakes those who wait at each step, and at some of the bytes in between.
fn report(standing: &watch::Sender<Standing>, step: LayerStep) {
    standing.send_if_modified(|standing| {
        let (
            LayerStep::Downloading { current: old, .. },
            LayerStep::Downloading { current, total },
        ) = (&standing.step, &step)
        else {
            standing.step = step;
            return true;
        };
        let wakes = old / REPORT_BYTES != current / REPORT_BYTES || current == total;
        standing.step = step;
        wakes
    });
}

/// Whoever is told about transfers.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    told: mpsc::Sender<Transfer>,
}

impl Told {
    pub(crate) fn new(told: mpsc::Sender<Transfer>) -> Self {
        Self { told }
    }

    /// Tells a step; waits for a slow listener.
    pub(crate) async fn step(&self, digest: Digest, step: LayerStep) {
        drop(self.told.send(Transfer::Layer { digest, step }).await);
    }

    /// Tells of a transfer until its end.
    pub(crate) async fn follow(&self, running: &Arc<Running>) -> Result<()> {
        let mut standing = running.standing.clone();
        let mut downloading = false;
        loop {
            let now = standing.borrow_and_update().clone();
            match now.end {
                Some(Ok(())) => {
                    self.step(running.digest, LayerStep::Complete).await;
                    return Ok(());
                }
                Some(Err((text, kind))) => return Err(EngineError::Registry { text, kind }),
                None => {}
            }
            if now.step != LayerStep::Queued {
                // A step that was too short to be seen belongs to the picture all the same.
                if downloading && matches!(now.step, LayerStep::Extracting { .. }) {
                    self.step(running.digest, LayerStep::Downloaded).await;
                }
                downloading = matches!(now.step, LayerStep::Downloading { .. });
                self.step(running.digest, now.step).await;
            }
            if standing.changed().await.is_err() {
                let text = "a transfer ended without saying how".to_owned();
                return Err(EngineError::Registry {
                    text,
                    kind: ErrorKind::Internal,
                });
            }
        }
    }
}
