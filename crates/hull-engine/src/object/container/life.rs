//! A life of the container: its start, its end, and whether another follows.

use std::time::Duration;

use hull_model::limits::{RESTART_BACKOFF_MS, RESTART_BACKOFF_MS_MAX, RESTART_BACKOFF_RESET_S};
use hull_model::spec::RestartPolicy;
use hull_model::state::{EXIT_LOST, Event as StateEvent, Exit, State};
use hull_sandbox::Found;
use tokio::time::Instant;

use super::Owner;
use super::request::answer;
use crate::api::Change;
use crate::clock::now_ns;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::object::port::ClosedPorts;
use crate::object::volume;
use crate::shutdown::relied_on;
use crate::store::Recorded;

/// How long the processes of a container may take to vanish after SIGKILL.
pub(super) const DISCARD_WAIT: Duration = Duration::from_secs(10);
/// How long the shim of a container that ended may take to clean up before we do it.
const SHIM_END_WAIT: Duration = Duration::from_secs(10);

/// Times that a start is put off for others: one that fails again and again is not waited for.
const PUT_OFF_MAX: u32 = 100;

impl Owner {
    pub(super) async fn start_by_hand(&mut self) -> Result<Change> {
        match self.life.state {
            State::Running => return Ok(Change::AlreadySo),
            State::Paused => {
                return Err(EngineError::WrongState(
                    "cannot start a paused container, try unpause instead".to_owned(),
                ));
            }
            State::Removing | State::Dead => {
                return Err(EngineError::WrongState(
                    "container is marked for removal and cannot be started".to_owned(),
                ));
            }
            _ => {}
        }
        self.restart_at = None;
        self.backoff_ms = RESTART_BACKOFF_MS;
        self.life.restart_count = 0;
        self.resuming = false;
        self.life.stopped_by_hand = false;
        let started = self.start().await;
        if started.is_err() && self.spec.host.auto_remove {
            self.begin_removal(true).await.ok();
        }
        started.map(|()| Change::Made)
    }

    /// Writes the intent, spawns the shim and waits until the program runs.
    pub(super) async fn start(&mut self) -> Result<()> {
        self.forget_former_life().await?;
        let before = self.life.clone();
        self.apply(StateEvent::Start)?;
        self.life.former_exit = match before.state {
            State::Exited { exit, .. } => Some(exit),
            _ => None,
        };
        self.life.boot_id.clone_from(&self.core.boot_id);
        self.life.error.clear();
        self.life.error_code = 0;
        self.life.out_of_memory = false;
        self.life.links_changing = false;
        if let Err(error) = self.lease_endpoints() {
            self.undo_start(&error).await;
            return Err(error);
        }
        if let Err(error) = self.core.store.commit(vec![self.state_write()]).await {
            self.release_endpoints();
            self.life = before;
            return Err(error);
        }
        match self.spawn().await {
            Ok((pid, started_ns)) => {
                self.pid = pid;
                self.put_off = 0;
                self.running_since = Some(Instant::now());
                self.life.started_ns = started_ns;
                self.apply(StateEvent::Ready)?;
                self.begin_health();
                self.record_state();
                self.network_events("connect", &self.life.endpoints);
                volume::tell(&self.core, self.id, &self.spec, true);
                self.publish_with("start", []);
                Ok(())
            }
            Err(error) => {
                self.undo_start(&error).await;
                Err(error)
            }
        }
    }

    pub(super) async fn undo_start(&mut self, error: &EngineError) {
        let code = match error {
            EngineError::StartFailed { exit_code, .. } => *exit_code,
            _ => 128,
        };
        self.life.error = error.chain();
        self.life.error_code = code;
        self.life.failed_to_run = matches!(error, EngineError::StartFailed { .. });
        let never_ran = self.life.started_ns == 0;
        let exit = Exit {
            code,
            oom_killed: false,
            at_ns: now_ns(),
        };
        let event = if never_ran {
            StateEvent::Undone
        } else {
            StateEvent::Failed(exit)
        };
        if let Err(error) = self.apply(event) {
            tracing::error!(container = %self.id.short(), error = %error.chain(), "undo of a start");
        }
        self.end_life();
        self.publish_with("die", [("exitCode", code.to_string())]);
    }

    pub(super) async fn on_exit(&mut self, exit: Exit) {
        if self.apply(StateEvent::Exited(exit)).is_err() {
            return;
        }
        self.life.finished_ns = exit.at_ns;
        let ran = self.running_since.take().map(|since| since.elapsed());
        if ran.is_some_and(|ran| ran >= Duration::from_secs(RESTART_BACKOFF_RESET_S)) {
            self.backoff_ms = RESTART_BACKOFF_MS;
        }
        let endpoints = self.life.endpoints.clone();
        self.end_health();
        self.end_life();
        // Before anybody is told that it ended, who may ask for the events then.
        if self.told_exit.take() != Some(exit) {
            self.tell_death(exit);
            self.network_events("disconnect", &endpoints);
        }
        self.rearm_or_rest().await;
        if let Some(stopping) = self.stopping.take() {
            self.event("stop", []);
            stopping
                .replies
                .into_iter()
                .for_each(|reply| answer(reply, Ok(Change::Made)));
        }
        if let Some((reply, volumes)) = self.removal.take() {
            let volumes = volumes || self.spec.host.auto_remove;
            answer(reply, self.begin_removal(volumes).await);
        } else if self.spec.host.auto_remove
            && let Err(error) = self.begin_removal(true).await
        {
            tracing::error!(container = %self.id.short(), error = %error.chain(), "automatic removal");
        }
    }

    /// Told at once and not only with the end: a container may lose a process and go on.
    pub(super) fn on_out_of_memory(&mut self) {
        self.life.out_of_memory = true;
        self.record_state();
        self.publish_with("oom", []);
    }

    pub(super) fn tell_death(&self, exit: Exit) {
        if exit.oom_killed && !self.life.out_of_memory {
            self.event("oom", []);
        }
        let seconds = exit.at_ns.saturating_sub(self.life.started_ns) / 1_000_000_000;
        self.event(
            "die",
            [
                ("exitCode", exit.code.to_string()),
                ("execDuration", seconds.to_string()),
            ],
        );
    }

    /// Tells the waiters, then decides whether the restart policy wants another start.
    pub(super) async fn rearm_or_rest(&mut self) {
        let State::Exited { exit, .. } = self.life.state else {
            return;
        };
        if self.wants_restart(exit)
            && self.removal.is_none()
            && self.apply(StateEvent::Rearm).is_ok()
        {
            let wait = Duration::from_millis(self.backoff_ms);
            self.restart_at = Some(Instant::now() + wait);
            self.backoff_ms = (self.backoff_ms * 2).min(RESTART_BACKOFF_MS_MAX);
            self.record_state();
        }
        self.publish();
        self.tell_waiters(exit.code);
    }

    /// Whether a container that this one joins or is linked with is about to start too, as all are
    /// after a start of the host.
    pub(super) fn waits_for_others(&mut self) -> bool {
        let names = relied_on(&self.spec);
        let is_starting = |name: &&str| {
            let id = self.core.containers.resolve(name.trim_start_matches('/'));
            let handle = id.and_then(|id| self.core.containers.handle(id));
            handle.is_ok_and(|handle| {
                let state = handle.snapshot.borrow().state;
                matches!(
                    state,
                    State::Starting
                        | State::Exited {
                            restarting: true,
                            ..
                        }
                )
            })
        };
        let waits = self.put_off < PUT_OFF_MAX && names.iter().any(is_starting);
        self.put_off += u32::from(waits);
        waits
    }

    pub(super) fn wants_restart(&self, exit: Exit) -> bool {
        if self.life.stopped_by_hand {
            return false;
        }
        if self.restart_is_due() && !self.shutting_down {
            return true;
        }
        if self.shutting_down {
            // Kept as a wish: the next daemon sees an exited container whose policy wants a start.
            return false;
        }
        match self.spec.host.restart {
            RestartPolicy::No => false,
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
            RestartPolicy::OnFailure { retries_max } => {
                exit.code != 0 && (retries_max == 0 || self.life.restart_count < retries_max)
            }
        }
    }

    /// The shim's connection ended without an exit: it was killed, and took its container with it.
    pub(super) async fn on_shim_gone(&mut self) {
        if !self.life.state.is_live() {
            self.shim = None;
            return;
        }
        let (core, id) = (self.core.clone(), self.id);
        let cgroup = self.cgroup_path();
        let found = self.core.jobs.run_own(Pool::Kernel, move || {
            match core.driver.reattach(&id) {
                Ok(Found::Exited(exit)) => Some(exit),
                // Nobody may run twice on one root: what is left is killed before we say so.
                _ => core
                    .driver
                    .discard(&id, &cgroup, DISCARD_WAIT)
                    .err()
                    .and(None),
            }
        });
        let lost = Exit {
            code: EXIT_LOST,
            oom_killed: false,
            at_ns: now_ns(),
        };
        let exit = found.await.ok().flatten().unwrap_or(lost);
        self.on_exit(exit).await;
    }

    /// Lets go of what only a running container holds, and records the state; the rest is cleaned up
    /// beside us.
    pub(super) fn end_life(&mut self) {
        if self.pid != 0 {
            volume::tell(&self.core, self.id, &self.spec, false);
        }
        self.pid = 0;
        self.execs.end_all();
        let ports = self.close_ports();
        self.release_endpoints();
        let recorded = self
            .core
            .store
            .record_watched(vec![self.state_write().releasing()]);
        self.clean_up(ports, Some(recorded));
    }

    /// Takes down what is left of a life, but not before it is recorded how that ended: until then
    /// its exit record is all that says so.
    pub(super) fn clean_up(&mut self, ports: ClosedPorts, recorded: Option<Recorded>) {
        let shim = self.shim.take();
        let (core, id, cgroup) = (self.core.clone(), self.id, self.cgroup_path());
        let spec = self.spec.clone();
        self.ending = Some(tokio::spawn(async move {
            if let Some(mut shim) = shim {
                shim.ended(SHIM_END_WAIT).await;
            }
            if let Some(recorded) = recorded
                && !recorded.on_disk().await
            {
                tracing::error!(container = %id.short(), "its end is not recorded; what is left of it stays");
                return;
            }
            let job = core.clone();
            let done = core.jobs.run_own(Pool::Kernel, move || {
                ports.take_back(&job);
                let done = job.driver.discard(&id, &cgroup, DISCARD_WAIT);
                job.volumes.release_all(&id.to_string(), &spec);
                done
            });
            match done.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(container = %id.short(), %error, "something of it is left");
                }
                Err(error) => {
                    tracing::warn!(container = %id.short(), error = %error.chain(), "not cleaned up");
                }
            }
        }));
    }

    /// Nothing of the life before stands in the way of the next one.
    pub(in crate::object) async fn forget_former_life(&mut self) -> Result<()> {
        let Some(ending) = self.ending.take() else {
            return Ok(());
        };
        let (core, id) = (self.core.clone(), self.id);
        let numbers = std::mem::take(&mut self.former_links);
        let jobs = self.core.jobs.clone();
        let detached = jobs.run(Pool::Kernel, move || {
            numbers
                .into_iter()
                .try_for_each(|number| core.network.detach(id, number))
        });
        // Both wait for the kernel: for links to go, and for the disk, as an overlay syncs its
        // file system when it goes.
        let (ended, detached) = tokio::join!(ending, detached);
        drop(ended);
        detached?
    }

    pub(super) async fn wait_for_ending(&mut self) {
        if let Some(ending) = self.ending.take() {
            drop(ending.await);
        }
    }

    /// Calls a pending restart off.
    pub(in crate::object) async fn disarm(&mut self) {
        if self.restart_at.take().is_some() {
            self.life.stopped_by_hand = true;
            drop(self.apply(StateEvent::Disarm));
            self.record_state();
            self.publish();
        }
    }

    /// How long it runs in this life; 0: it does not.
    pub(in crate::object) fn ran_ns(&self) -> i64 {
        let ran = self
            .running_since
            .map_or(Duration::ZERO, |since| since.elapsed());
        i64::try_from(ran.as_nanos()).unwrap_or(i64::MAX)
    }
}
