//! What a new daemon does with a container that it finds (the table is in `recover.rs`).

use std::time::Duration;

use hull_model::spec::RestartPolicy;
use hull_model::state::{Event as StateEvent, Exit, State};
use hull_sandbox::{Event as ShimEvent, Found, Shim, Status, Target};
use tokio::time::Instant;

use super::{Owner, next_event};
use crate::clock::now_ns;
use crate::error::{EngineError, Result};
use crate::events::Told;
use crate::jobs::Pool;
use crate::object::connection::Connection;

impl Owner {
    /// What the store said: the state, and whether it was written in this boot.
    pub(crate) fn recorded(&self) -> (State, bool) {
        (self.life.state, self.life.boot_id == self.core.boot_id)
    }

    pub(crate) fn is_being_removed(&self) -> bool {
        self.life.state == State::Removing
    }

    pub(crate) fn short(&self) -> String {
        self.id.short()
    }

    /// Asks for the shim of a former daemon.
    pub(crate) async fn reattach(&self) -> Result<Found> {
        let (core, id) = (self.core.clone(), self.id);
        self.core
            .jobs
            .run_own(Pool::Kernel, move || core.driver.reattach(&id))
            .await?
            .map_err(|e| EngineError::step("find the sandbox again", e.kind(), e))
    }

    /// Tells what a former daemon recorded and died before it told.
    pub(crate) fn tell_creation(&self, told: &Told) {
        if !told.knows(self.id, "create", self.record.created_ns) {
            self.event("create", []);
        }
    }

    /// As [`Owner::tell_creation`], of the program that runs.
    pub(crate) fn tell_start(&self, told: &Told) {
        if self.life.state.is_live() && !told.knows(self.id, "start", self.life.started_ns) {
            self.network_events("connect", &self.life.endpoints);
            self.event("start", []);
        }
    }

    /// As [`Owner::tell_creation`], of the end of the last life.
    pub(crate) fn tell_exit(&self, told: &Told) {
        if let State::Exited { exit, .. } = self.life.state
            && self.life.started_ns != 0
            && !told.knows(self.id, "die", exit.at_ns)
        {
            self.tell_death(exit);
        }
    }

    /// As [`Owner::tell_creation`], of the removal.
    pub(crate) fn tell_end(&self, told: &Told) {
        if !told.knows(self.id, "destroy", self.record.created_ns) {
            self.event("destroy", []);
        }
    }

    /// Notes an end that is not recorded and may have been told.
    pub(crate) fn was_told(&mut self, told: &Told, exit: Exit) {
        self.told_exit = told.knows(self.id, "die", exit.at_ns).then_some(exit);
    }

    /// Takes over a shim that was found again.
    pub(crate) async fn adopt_found(&mut self, shim: Shim, status: &Status) {
        match Connection::new(shim) {
            Ok(connection) => self.shim = Some(connection),
            Err(error) => {
                tracing::error!(container = %self.id.short(), error = %error.chain(), "not adopted");
                return;
            }
        }
        match status.started {
            Some((pid, started_ns)) => self.adopt_running(pid, started_ns),
            // The former daemon died between spawn and start: the shim tells us how that ends.
            None => self.adopt_starting().await,
        }
        self.republish().await;
        self.wake().await;
        self.finish_link_change().await;
        for probe in self.execs.recover(&self.core, self.id) {
            // Nobody waits for it any more; another one follows.
            self.kill_exec(&probe);
        }
        self.compress_log();
        self.publish();
    }

    fn adopt_running(&mut self, pid: u32, started_ns: i64) {
        self.pid = pid;
        // The only look at the clock, for what ran before us.
        let ran_ns = now_ns().saturating_sub(started_ns).try_into().unwrap_or(0);
        let now = Instant::now();
        let began = now.checked_sub(Duration::from_nanos(ran_ns));
        self.running_since = Some(began.unwrap_or(now));
        if self.spec.config.stdin_once
            && let Some(shim) = &mut self.shim
        {
            // The client that was attached died with the former daemon, and its input with it.
            drop(shim.get_mut().close_stdin(Target::Init));
        }
        if self.life.state == State::Starting {
            self.life.started_ns = started_ns;
            drop(self.apply(StateEvent::Ready));
            self.begin_health();
            self.record_state();
        }
        if self.life.state == State::Running {
            self.resume_health();
        }
    }

    async fn adopt_starting(&mut self) {
        let mut event = next_event(&mut self.shim).await;
        while event == ShimEvent::Kept {
            self.take_kept().await;
            event = next_event(&mut self.shim).await;
        }
        match event {
            ShimEvent::Started { pid, started_at_ns } => self.adopt_running(pid, started_at_ns),
            ShimEvent::StartFailed(failure) => {
                self.undo_start(&crate::object::exec::start_failed(&failure))
                    .await;
            }
            ShimEvent::Exited(exit) => self.on_exit(exit).await,
            _ => self.on_shim_gone().await,
        }
    }

    /// Carries on a life that ended while no daemon was there.
    pub(crate) async fn ended_meanwhile(&mut self, exit: Exit) {
        if self.life.state == State::Starting {
            // It did run: the former daemon died before it heard so.
            let started = self.core.driver.started_ns(&self.id);
            self.life.started_ns = started.unwrap_or(exit.at_ns);
        }
        self.on_exit(exit).await;
    }

    /// Whether the program of a life that was starting ran.
    pub(crate) fn has_run(&self) -> bool {
        self.core.driver.started_ns(&self.id).is_some()
    }

    /// A start that a crash cut off before anything ran: it is as it was before, and a restart that
    /// its policy wanted is still owed.
    pub(crate) fn start_never_happened(&mut self) {
        let event = match self.life.former_exit.take() {
            Some(exit) => StateEvent::Failed(exit),
            None => StateEvent::Undone,
        };
        self.life.restart_count = self.life.restart_count.saturating_sub(1);
        drop(self.apply(event));
        self.end_life();
        self.publish();
    }

    /// What a life left that had ended before the former daemon did.
    pub(crate) fn discard_leftovers(&mut self) {
        let ports = self.close_ports();
        self.release_endpoints();
        self.clean_up(ports, None);
    }

    /// Arms what the restart policy wants when the daemon starts.
    pub(crate) fn resume_wishes(&mut self) {
        let State::Exited { exit, restarting } = self.life.state else {
            return;
        };
        let always = self.spec.host.restart == RestartPolicy::Always;
        if !(restarting || always || self.wants_restart(exit)) {
            return;
        }
        self.resuming = true;
        if self.restart_at.is_none() && self.apply(StateEvent::Rearm).is_ok() {
            self.restart_at = Some(Instant::now() + Duration::from_millis(self.backoff_ms));
            self.publish();
        }
    }
}
