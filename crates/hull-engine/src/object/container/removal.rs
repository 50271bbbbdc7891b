//! The removal: intent, effects that are tried until they are done, and the record last.

use std::time::Duration;

use hull_model::signal;
use hull_model::state::{Event as StateEvent, State};

use super::Owner;
use super::life::DISCARD_WAIT;
use super::request::{Reply, answer};
use crate::api::{RemoveOptions, Waited};
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::object::volume;
use crate::store::{Change as Write, Key};

/// Pause before a removal that failed is tried again, the first time and at most.
const REMOVE_AGAIN: Duration = Duration::from_secs(1);

const REMOVE_AGAIN_MAX: Duration = Duration::from_secs(300);

impl Owner {
    pub(super) async fn remove(&mut self, options: RemoveOptions, reply: Reply<()>) {
        let restarting = matches!(
            self.life.state,
            State::Exited {
                restarting: true,
                ..
            }
        );
        if !self.life.state.is_live() && (options.force || !restarting) {
            return answer(reply, self.begin_removal(options.volumes).await);
        }
        if !options.force {
            let state = self.life.state.docker_word();
            return answer(reply, Err(EngineError::StillLive { id: self.id, state }));
        }
        if self.removal.is_some() {
            return answer(reply, Err(EngineError::BeingRemoved(self.id)));
        }
        self.removal = Some((reply, options.volumes));
        self.life.stopped_by_hand = true;
        if self.life.state == State::Paused
            && let Err(error) = self.freeze(StateEvent::Resume).await
        {
            tracing::warn!(container = %self.id.short(), error = %error.chain(), "thaw before removal");
        }
        self.event("kill", [("signal", signal::KILL.to_string())]);
        self.signal(signal::KILL);
    }

    /// Writes the intent to remove; from then on nobody finds the container any more, and what is
    /// left of it goes away beside the answer.
    pub(crate) async fn begin_removal(&mut self, with_volumes: bool) -> Result<()> {
        let before = self.life.clone();
        self.restart_at = None;
        self.apply(StateEvent::Remove)?;
        let (leaving, mut writes) = if with_volumes {
            volume::start_leaving(&self.core, self.id, &self.spec)
        } else {
            Default::default()
        };
        writes.push(self.state_write().releasing());
        if let Err(error) = self.core.store.commit(writes).await {
            self.life = before;
            return Err(error);
        }
        leaving.committed();
        self.leaving = leaving;
        self.core.containers.forget(self.id, &self.spec.name);
        self.publish();
        self.event("destroy", []);
        let code = match before.state {
            State::Exited { exit, .. } => exit.code,
            _ => before.error_code,
        };
        for (_, waiter) in self.waiters.drain(..) {
            drop(waiter.send(Waited {
                code,
                error: String::new(),
            }));
        }
        Ok(())
    }

    /// Destroys what is left; the record goes last, so that a crash here is continued at start-up.
    pub(super) async fn finish_removal(mut self) {
        self.requests.close();
        self.wait_for_ending().await;
        self.views.ended().await;
        if let Some(compressing) = self.compressing.take() {
            drop(compressing.await);
        }
        std::mem::take(&mut self.leaving).finish(&self.core).await;
        let mut pause = REMOVE_AGAIN;
        while let Err(error) = self.destroy().await {
            tracing::error!(
                container = %self.id.short(), error = %error.chain(),
                "removal is not complete; it is tried again"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REMOVE_AGAIN_MAX);
        }
        self.forget_record();
    }

    async fn destroy(&self) -> Result<()> {
        let (core, id, cgroup) = (self.core.clone(), self.id, self.cgroup_path());
        let removed = self.core.jobs.run_own(Pool::Disk, move || {
            core.driver
                .discard(&id, &cgroup, DISCARD_WAIT)
                .map_err(|e| EngineError::step("discard the sandbox", e.kind(), e))?;
            core.remove_files(id)
        });
        removed.await.and_then(|result| result)
    }

    fn forget_record(&self) {
        self.core.store.record(vec![
            Write::remove(Key::Container(*self.id.as_bytes())),
            Write::remove(Key::State(*self.id.as_bytes())),
        ]);
        self.core.moments.forget(self.id);
        self.core.containers.gone(self.id);
    }

    /// Goes on with an automatic removal that a crash cut off between the exit and its intent.
    pub(crate) async fn remove_if_due(&mut self) {
        if self.spec.host.auto_remove
            && let Err(error) = self.begin_removal(true).await
        {
            tracing::error!(container = %self.id.short(), error = %error.chain(), "automatic removal");
        }
    }

    pub(crate) async fn go_on_removing(self) {
        self.finish_removal().await;
    }
}
