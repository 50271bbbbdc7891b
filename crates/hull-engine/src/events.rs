//! What happened, to whoever listens: a bounded broadcast and the last thousand for `since`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use hull_model::event::{Happening, Subject};
use hull_model::limits::{EVENTS_BEHIND_MAX, EVENTS_KEPT_MAX};
use tokio::sync::broadcast;

use crate::clock::now_ns;

/// The engine's events.
#[derive(Debug)]
pub(crate) struct Events {
    live: broadcast::Sender<Arc<Happening>>,
    kept: Mutex<VecDeque<Arc<Happening>>>,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self {
            live: broadcast::Sender::new(EVENTS_BEHIND_MAX),
            kept: Mutex::default(),
        }
    }

    /// Publishes one event; never waits.
    pub(crate) fn publish(
        &self,
        subject: Subject,
        action: impl Into<String>,
        id: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        let (action, id) = (action.into(), id.into());
        let happening = Arc::new(Happening {
            at_ns: now_ns(),
            subject,
            action,
            id,
            attributes,
        });
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == EVENTS_KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(happening.clone());
        // Sent under the lock, so that a subscriber gets each event exactly once. No receiver: fine.
        drop(self.live.send(happening));
    }

    /// The kept events not older than `since_ns` and all that follow, without gap or repetition.
    pub(crate) fn subscribe(
        &self,
        since_ns: Option<i64>,
    ) -> (Vec<Arc<Happening>>, broadcast::Receiver<Arc<Happening>>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let old = match since_ns {
            Some(since) => kept.iter().filter(|h| h.at_ns >= since).cloned().collect(),
            None => Vec::new(),
        };
        (old, self.live.subscribe())
    }
}
