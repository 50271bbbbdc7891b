//! Ends by hand: stop, kill, the host going down; and pauses.

use std::time::Duration;

use hull_model::limits::STOP_TIMEOUT_S;
use hull_model::signal;
use hull_model::state::{Event as StateEvent, State};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::request::{Reply, answer};
use super::{Owner, Stopping};
use crate::api::Change;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;

impl Owner {
    pub(super) async fn stop(
        &mut self,
        timeout_s: Option<i64>,
        with: Option<i32>,
        reply: Reply<Change>,
    ) {
        if !self.life.state.is_live() {
            self.disarm().await;
            return answer(reply, Ok(Change::AlreadySo));
        }
        if self.life.state == State::Paused {
            // A frozen process cannot receive the signal.
            if let Err(error) = self.freeze(StateEvent::Resume).await {
                return answer(reply, Err(error));
            }
        }
        self.stop_running(timeout_s, with, reply);
    }

    /// Sends the stop signal; its answer comes with the end.
    pub(in crate::object) fn stop_running(
        &mut self,
        timeout_s: Option<i64>,
        with: Option<i32>,
        reply: Reply<Change>,
    ) {
        self.life.stopped_by_hand = true;
        self.record_state();
        let timeout_s = timeout_s
            .or(self.spec.config.stop_timeout_s)
            .unwrap_or(STOP_TIMEOUT_S);
        let kill_at = u64::try_from(timeout_s)
            .ok()
            .map(|s| Instant::now() + Duration::from_secs(s));
        let with = with.unwrap_or_else(|| self.stop_signal());
        self.event("kill", [("signal", with.to_string())]);
        self.signal(with);
        let stopping = self.stopping.get_or_insert(Stopping {
            kill_at,
            replies: Vec::new(),
        });
        stopping.kill_at = match (stopping.kill_at, kill_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        stopping.replies.push(reply);
    }

    /// Asks for the end without a wish to stay stopped; the caller waits for it.
    pub(super) async fn shutdown(&mut self, reply: Reply<()>) {
        self.restart_at = None;
        self.shutting_down = true;
        if !self.life.state.is_live() {
            return answer(reply, Ok(()));
        }
        let by_hand = self.life.stopped_by_hand;
        let (stopped, _ends_with_the_host) = oneshot::channel();
        self.stop(None, None, stopped).await;
        self.life.stopped_by_hand = by_hand;
        self.record_state();
        answer(reply, Ok(()));
    }

    fn stop_signal(&self) -> i32 {
        signal::parse(&self.spec.config.stop_signal).unwrap_or(signal::TERM)
    }

    pub(super) async fn kill(&mut self, with: i32) -> Result<()> {
        if !self.life.state.is_live() {
            return Err(EngineError::NotRunning(self.id));
        }
        if with == signal::KILL || with == self.stop_signal() {
            self.forget_restart();
            self.life.stopped_by_hand = true;
            self.record_state();
        }
        if with == signal::KILL && self.life.state == State::Paused {
            self.freeze(StateEvent::Resume).await?;
        }
        self.event("kill", [("signal", with.to_string())]);
        self.signal(with);
        Ok(())
    }

    /// Sends a signal; that the process is gone already is not an error, its exit is on the way.
    pub(in crate::object) fn signal(&self, with: i32) {
        if let Some(shim) = &self.shim
            && let Err(error) = shim.get().signal(with)
        {
            tracing::debug!(container = %self.id.short(), %error, "signal not sent");
        }
    }

    pub(super) async fn freeze(&mut self, event: StateEvent) -> Result<()> {
        let before = self.life.state;
        self.apply(event)?;
        let frozen = self.life.state == State::Paused;
        let cgroup = self.cgroup_path();
        let core = self.core.clone();
        let done = self
            .core
            .jobs
            .run(Pool::Kernel, move || core.freeze(&cgroup, frozen))
            .await
            .and_then(|result| result);
        if let Err(error) = done {
            self.life.state = before;
            return Err(error);
        }
        if frozen {
            self.suspend_health();
        } else {
            self.resume_health();
        }
        self.record_state();
        self.publish_with(if frozen { "pause" } else { "unpause" }, []);
        Ok(())
    }
}
