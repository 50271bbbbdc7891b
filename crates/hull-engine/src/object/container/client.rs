//! Clients that stay: attached ones, and those that wait for an end.

use std::sync::Arc;
use std::time::Duration;

use hull_model::state::State;
use hull_sandbox::{Attachment, Target};
use tokio::sync::{oneshot, watch};

use super::{Owner, stream_pair};
use crate::api::{AttachRequest, Attached, Delivery, WaitCondition, Waited};
use crate::error::{EngineError, Result};

/// Clients that may wait attached for a start; the oldest is let go.
const ATTACHMENTS_WAITING_MAX: usize = 16;

/// How long an attached client may take to read what was printed before others are told of the end,
/// as in dockerd.
const DELIVERY_WAIT: Duration = Duration::from_secs(2);

/// What a wait is told by.
#[derive(Debug)]
pub(crate) struct Waiting {
    end: oneshot::Receiver<Waited>,
    deliveries: Option<Arc<watch::Sender<()>>>,
}

impl Waiting {
    /// The end, after the clients that were attached have what was printed before it: who waits
    /// reads what came meanwhile, as with dockerd.
    pub(crate) async fn over(self) -> Option<Waited> {
        let waited = self.end.await.ok();
        if let Some(deliveries) = self.deliveries {
            // A client that does not read keeps nobody else waiting.
            drop(tokio::time::timeout(DELIVERY_WAIT, deliveries.closed()).await);
        }
        waited
    }
}

impl Owner {
    pub(super) fn wait(&mut self, condition: WaitCondition) -> Waiting {
        let (sender, end) = oneshot::channel();
        let at_once = match (condition, self.life.state) {
            (
                WaitCondition::NotRunning,
                State::Exited {
                    exit,
                    restarting: false,
                },
            ) => Some(exit.code),
            (WaitCondition::NotRunning, State::Created) => Some(self.life.error_code),
            _ => None,
        };
        match at_once {
            Some(code) => drop(sender.send(Waited {
                code,
                error: String::new(),
            })),
            None => {
                self.waiters.retain(|(_, waiter)| !waiter.is_closed());
                self.waiters.push((condition, sender));
            }
        }
        // Who waits attached for a start is no client that still reads.
        let delivered = at_once.is_some() && !self.attachments.is_empty();
        Waiting {
            end,
            deliveries: (!delivered).then(|| self.deliveries.clone()),
        }
    }

    pub(super) fn tell_waiters(&mut self, code: i32) {
        for (condition, waiter) in std::mem::take(&mut self.waiters) {
            if condition == WaitCondition::Removed {
                self.waiters.push((condition, waiter));
            } else {
                drop(waiter.send(Waited {
                    code,
                    error: String::new(),
                }));
            }
        }
    }

    pub(super) fn attach(&mut self, request: AttachRequest) -> Result<Attached> {
        if self.life.state == State::Paused {
            return Err(EngineError::Paused(self.id));
        }
        let tty = self.spec.config.tty;
        let (ours, theirs) = stream_pair()?;
        let replay = if request.logs {
            self.core.read_replay(&self.spec, self.id, request)?
        } else {
            Vec::new()
        };
        if request.stream {
            let attachment = Attachment {
                stream: theirs,
                stdin: request.stdin && self.spec.config.open_stdin,
                stdout: request.stdout,
                stderr: request.stderr,
                framed: !tty,
            };
            match &mut self.shim {
                Some(shim) => shim
                    .get_mut()
                    .attach(Target::Init, attachment)
                    .map_err(|e| EngineError::step("attach", e.kind(), e))?,
                None => {
                    if self.attachments.len() == ATTACHMENTS_WAITING_MAX {
                        self.attachments.remove(0);
                    }
                    self.attachments.push(attachment);
                }
            }
        }
        self.event("attach", []);
        Ok(Attached {
            stream: ours,
            tty,
            replay,
            delivery: Delivery::new(self.deliveries.subscribe()),
        })
    }

    pub(super) fn resize(&mut self, target: Target, rows: u16, cols: u16) -> Result<()> {
        let Some(shim) = &mut self.shim else {
            return Err(EngineError::NotRunning(self.id));
        };
        shim.get_mut()
            .resize(target, rows, cols)
            .map_err(|e| EngineError::step("resize the terminal", e.kind(), e))?;
        self.event(
            "resize",
            [("height", rows.to_string()), ("width", cols.to_string())],
        );
        Ok(())
    }
}
