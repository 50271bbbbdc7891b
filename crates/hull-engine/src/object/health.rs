//! Health checks: when a probe runs, what it says, and what follows from that.
//!
//! ```text
//!  timer ──▶ exec ──▶ output, exit code ──▶ Health::take ──▶ record, event, snapshot
//!              └── over its time: killed            └──▶ unhealthy: none, kill, restart or stop
//! ```
//!
//! A probe is an exec like any other, so it is seen as one, and outlives the daemon as one: the
//! next daemon kills it and goes on with a probe of its own. While a container is paused nothing is
//! asked. The rule is `hull_model::health`.

use std::time::Duration;

use hull_model::health::{
    EXIT_UNKNOWN, Health, HealthStatus, ON_FAILURE_LABEL, OUTPUT_BYTES_MAX, OnFailure, ProbeResult,
};
use hull_model::signal;
use hull_model::spec::{ContainerSpec, Healthcheck, Streams};
use hull_model::state::State;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::api::ExecRequest;
use crate::clock::{new_id, now_ns};
use crate::error::{EngineError, Result};
use crate::object::container::Owner;

/// Bytes of the header of a piece of output.
const FRAME_HEADER_BYTES: usize = 8;

/// When the next probe runs, and the one that does.
#[derive(Debug, Default)]
pub(super) struct Monitor {
    next_at: Option<Instant>,
    /// How long the container ran when the last probe began.
    ran_ns: i64,
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    exec: String,
    start_ns: i64,
    deadline: Instant,
    /// Ends with the probe's output.
    collecting: Option<JoinHandle<Vec<u8>>>,
    output: Vec<u8>,
    exit_code: Option<i32>,
}

impl Monitor {
    pub(super) fn deadline(&self) -> Option<Instant> {
        let probe = self.probe.as_ref().map(|probe| probe.deadline);
        probe.into_iter().chain(self.next_at).min()
    }

    /// Waits for the end of a probe's output. Cancel safe.
    pub(super) async fn output(&mut self) -> Vec<u8> {
        let collecting = self
            .probe
            .as_mut()
            .and_then(|probe| probe.collecting.as_mut());
        match collecting {
            Some(collecting) => collecting.await.unwrap_or_default(),
            None => std::future::pending().await,
        }
    }

    /// Whether an exec is the probe that runs.
    pub(super) fn is_probe(&self, exec: &str) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.exec == exec)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Some(collecting) = &self.collecting {
            collecting.abort();
        }
    }
}

/// The check of a container, and the command of a probe; none: it has none.
fn check_of(spec: &ContainerSpec) -> Option<(&Healthcheck, Vec<String>)> {
    let check = spec.config.healthcheck.as_ref()?;
    let command = check.command(spec.config.shell.as_deref())?;
    Some((check, command))
}

/// What shall happen when it becomes unhealthy.
///
/// # Errors
/// Invalid argument for a word that is none.
pub(crate) fn on_failure(spec: &ContainerSpec) -> Result<OnFailure> {
    let word = spec.config.labels.get(ON_FAILURE_LABEL);
    let word = word.map_or("", String::as_str);
    let action = OnFailure::parse(word).ok_or_else(|| {
        EngineError::Invalid(format!(
            "invalid value \"{word}\" for {ON_FAILURE_LABEL}: use none, kill, restart or stop"
        ))
    })?;
    if action == OnFailure::Restart && spec.host.auto_remove {
        return Err(EngineError::Invalid(format!(
            "can't create 'AutoRemove' container with {ON_FAILURE_LABEL}=restart"
        )));
    }
    Ok(action)
}

impl Owner {
    /// Begins with a new life.
    pub(super) fn begin_health(&mut self) {
        if check_of(&self.spec).is_some() {
            self.life.health.get_or_insert_default().begin();
            self.arm_health(0);
        } else {
            self.life.health = None;
        }
    }

    /// Goes on with a life that another daemon, or a pause, left.
    pub(super) fn resume_health(&mut self) {
        let last = self.life.health.as_ref().map(|health| {
            let last = health.results.last();
            last.map_or(self.life.started_ns, |result| result.end_ns)
        });
        if let Some(last) = last {
            self.arm_health(now_ns().saturating_sub(last).max(0));
        }
        if self.restart_is_due() {
            self.stop_for_restart();
        }
    }

    /// Ends with a life, or for the time of a pause.
    pub(super) fn suspend_health(&mut self) {
        self.monitor.next_at = None;
        if let Some(probe) = self.monitor.probe.take() {
            self.kill_exec(&probe.exec);
        }
    }

    /// The life is over. Docker says unhealthy then, and scripts know it.
    pub(super) fn end_health(&mut self) {
        self.monitor = Monitor::default();
        if let Some(health) = &mut self.life.health {
            health.status = HealthStatus::Unhealthy;
        }
    }

    /// Sets the timer to an interval, of which a part is over.
    fn arm_health(&mut self, waited_ns: i64) {
        let Some((check, _)) = check_of(&self.spec) else {
            return;
        };
        let Some(health) = &self.life.health else {
            return;
        };
        let interval = health.interval_ns(check, self.ran_ns());
        let left = u64::try_from(interval.saturating_sub(waited_ns)).unwrap_or(0);
        self.monitor.next_at = Some(Instant::now() + Duration::from_nanos(left));
    }

    /// Does what is due.
    pub(super) fn tend_health(&mut self, now: Instant) {
        if let Some(probe) = &self.monitor.probe {
            if probe.deadline <= now {
                self.probe_took_too_long();
            }
        } else if self.monitor.next_at.is_some_and(|at| at <= now) {
            self.monitor.next_at = None;
            if self.life.state == State::Running {
                self.start_probe();
            }
        }
    }

    fn start_probe(&mut self) {
        let Some((check, command)) = check_of(&self.spec) else {
            return;
        };
        let limit = Duration::from_nanos(check.probe_ns_max().unsigned_abs());
        let start_ns = now_ns();
        self.monitor.ran_ns = self.ran_ns();
        let id = match new_id() {
            Ok(id) => id.to_string(),
            Err(error) => return self.probe_failed(start_ns, &error.to_string()),
        };
        let request = ExecRequest {
            cmd: command,
            attach: Streams {
                stdin: false,
                stdout: true,
                stderr: true,
            },
            probe: true,
            ..ExecRequest::default()
        };
        let begun = self
            .exec_create(id.clone(), request)
            .and_then(|()| self.exec_begin(&id, false, None));
        let stream = match begun {
            Ok(Some(attached)) => attached.stream,
            Ok(None) => return,
            Err(error) => return self.probe_failed(start_ns, &error.chain()),
        };
        self.monitor.probe = Some(Probe {
            exec: id,
            start_ns,
            deadline: Instant::now() + limit,
            collecting: Some(tokio::spawn(collect(stream))),
            output: Vec::new(),
            exit_code: None,
        });
    }

    /// A probe could not be started.
    fn probe_failed(&mut self, start_ns: i64, why: &str) {
        self.probe_done(ProbeResult {
            start_ns,
            end_ns: now_ns(),
            exit_code: EXIT_UNKNOWN,
            output: why.to_owned(),
        });
    }

    /// The program of the probe could not be run.
    pub(super) fn probe_not_run(&mut self, exec: &str, why: &str) {
        if self.monitor.is_probe(exec)
            && let Some(probe) = self.monitor.probe.take()
        {
            self.probe_failed(probe.start_ns, why);
        }
    }

    /// The probe's process ended; its output may still come.
    pub(super) fn probe_ended(&mut self, exec: &str, code: i32) {
        if let Some(probe) = &mut self.monitor.probe
            && probe.exec == exec
        {
            probe.exit_code = Some(code);
            self.finish_probe();
        }
    }

    /// The probe's output ended; its process may still run.
    pub(super) fn probe_said(&mut self, output: Vec<u8>) {
        if let Some(probe) = &mut self.monitor.probe {
            probe.collecting = None;
            probe.output = output;
            self.finish_probe();
        }
    }

    fn finish_probe(&mut self) {
        let over = self
            .monitor
            .probe
            .take_if(|probe| probe.collecting.is_none());
        let Some(mut probe) = over else { return };
        let Some(exit_code) = probe.exit_code else {
            self.monitor.probe = Some(probe);
            return;
        };
        let output = std::mem::take(&mut probe.output);
        self.probe_done(ProbeResult {
            start_ns: probe.start_ns,
            end_ns: now_ns(),
            exit_code,
            output: String::from_utf8_lossy(&output).into_owned(),
        });
    }

    fn probe_took_too_long(&mut self) {
        let Some(probe) = self.monitor.probe.take() else {
            return;
        };
        self.kill_exec(&probe.exec);
        let limit_ns = check_of(&self.spec).map_or(0, |(check, _)| check.probe_ns_max());
        let mut said = format!(
            "Health check exceeded timeout ({})",
            duration(limit_ns.unsigned_abs())
        );
        if !probe.output.is_empty() {
            said += ": ";
            said += &String::from_utf8_lossy(&probe.output);
        }
        self.probe_failed(probe.start_ns, &said);
    }

    pub(super) fn kill_exec(&mut self, exec: &str) {
        if let (Some(shim), Ok(id)) = (&mut self.shim, exec.parse())
            && let Err(error) = shim.get_mut().signal_exec(id, signal::KILL)
        {
            tracing::debug!(container = %self.id.short(), %error, "a probe was not killed");
        }
    }

    fn probe_done(&mut self, result: ProbeResult) {
        let Some(check) = self.spec.config.healthcheck.clone() else {
            return;
        };
        let health = self.life.health.get_or_insert_with(Health::default);
        let changed = health.take(result, &check, self.monitor.ran_ns);
        let status = health.status;
        self.record_state();
        if changed {
            self.publish_with(format!("health_status: {}", status.word()), []);
        } else {
            self.publish();
        }
        if self.life.state == State::Running {
            self.arm_health(0);
        }
        if changed && status == HealthStatus::Unhealthy {
            self.became_unhealthy();
        }
    }

    fn became_unhealthy(&mut self) {
        let action = on_failure(&self.spec).unwrap_or_default();
        if action != OnFailure::None {
            tracing::info!(container = %self.id.short(), ?action, "unhealthy");
        }
        match action {
            OnFailure::None => {}
            OnFailure::Kill => {
                self.event("kill", [("signal", signal::KILL.to_string())]);
                self.signal(signal::KILL);
            }
            OnFailure::Stop => {
                let (reply, _nobody_waits) = oneshot::channel();
                self.stop_running(None, None, reply);
            }
            OnFailure::Restart => {
                if let Some(health) = &mut self.life.health {
                    health.restart_due = true;
                }
                self.record_state();
                self.stop_for_restart();
            }
        }
    }

    /// A stop after which the container starts again, also under another daemon.
    fn stop_for_restart(&mut self) {
        let (reply, _nobody_waits) = oneshot::channel();
        self.stop_running(None, None, reply);
        self.life.stopped_by_hand = false;
        self.record_state();
    }

    pub(super) fn restart_is_due(&self) -> bool {
        let due = |health: &Health| health.restart_due;
        self.life.health.as_ref().is_some_and(due)
    }

    /// Somebody wants it stopped now.
    pub(super) fn forget_restart(&mut self) {
        if let Some(health) = &mut self.life.health {
            health.restart_due = false;
        }
    }
}

/// The output of a probe without the headers of its pieces; what is too much is read and left out.
async fn collect(mut stream: UnixStream) -> Vec<u8> {
    let mut output = Vec::new();
    let mut header = [0; FRAME_HEADER_BYTES];
    let mut nowhere = tokio::io::sink();
    while stream.read_exact(&mut header).await.is_ok() {
        let size = u64::from(u32::from_be_bytes([
            header[4], header[5], header[6], header[7],
        ]));
        let room = (OUTPUT_BYTES_MAX - output.len()) as u64;
        let mut wanted = (&mut stream).take(size.min(room));
        let Ok(kept) = wanted.read_to_end(&mut output).await else {
            break;
        };
        let mut rest = (&mut stream).take(size - kept as u64);
        if tokio::io::copy(&mut rest, &mut nowhere).await.is_err() {
            break;
        }
    }
    output
}

/// A duration as Go writes it: `1m30s`, `1.5s`, `200ms`.
fn duration(ns: u64) -> String {
    const SECOND_NS: u64 = 1_000_000_000;
    let fraction = |value: u64, unit: u64| {
        let text = format!("{}.{:09}", value / unit, value % unit * (SECOND_NS / unit));
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if ns < 1_000_000 {
        return format!("{}µs", fraction(ns, 1000));
    }
    if ns < SECOND_NS {
        return format!("{}ms", fraction(ns, 1_000_000));
    }
    let minutes = ns / SECOND_NS / 60;
    let seconds = fraction(ns % (60 * SECOND_NS), SECOND_NS);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        for (ms, text) in [
            (1, "1ms"),
            (1500, "1.5s"),
            (30_000, "30s"),
            (90_000, "1m30s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(duration(ms * 1_000_000), text);
        }
    }
}
