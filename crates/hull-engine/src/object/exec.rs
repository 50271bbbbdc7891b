//! Processes added to a container: who started which, and how they end.
//!
//! What `inspect` shows lies in one table of the engine; the owner keeps only who waits for a
//! start. So that an exec outlives the daemon, what was asked for is a file in the run directory,
//! and its end is the shim's record.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use hull_model::SandboxId;
use hull_model::limits::EXECS_ENDED_KEPT_MAX;
use hull_model::state::{Exit, State};
use hull_sandbox::{Attachment, ExecId, ExecSpec, FailureKind, StartFailure};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::api::{Attached, Delivery, Exec, ExecRequest};
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::object::container::{Owner, answer, stream_pair, to_json};
use crate::translate;

/// All execs of all containers, as `inspect` shows them.
#[derive(Debug, Default)]
pub(crate) struct ExecTable(Mutex<HashMap<String, Exec>>);

impl ExecTable {
    pub(crate) fn get(&self, id: &str) -> Result<Exec> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .get(id)
            .cloned()
            .ok_or_else(|| EngineError::NoSuchExec(id.to_owned()))
    }

    fn put(&self, exec: Exec) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(exec.id.clone(), exec);
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Exec)) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(exec) = table.get_mut(id) {
            change(exec);
        }
    }

    fn remove(&self, id: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
    }
}

struct Starting {
    reply: oneshot::Sender<Result<Option<Attached>>>,
    attached: Option<Attached>,
}

/// What the owner knows of its execs.
#[derive(Default)]
pub(crate) struct Execs {
    starting: HashMap<String, Starting>,
    running: Vec<String>,
    ended: std::collections::VecDeque<String>,
}

impl Execs {
    pub(super) fn running(&self) -> Vec<String> {
        self.running.clone()
    }

    pub(super) fn started(&mut self, id: &str, _pid: u32) {
        if let Some(starting) = self.starting.remove(id) {
            answer(starting.reply, Ok(starting.attached));
        }
    }

    /// The container's end is the end of all of them.
    pub(super) fn end_all(&mut self) {
        for (_, starting) in self.starting.drain() {
            answer(
                starting.reply,
                Err(EngineError::Unavailable("the container ended".to_owned())),
            );
        }
    }

    /// Finds again what ran when the former daemon died; returns those that were health checks.
    pub(super) fn recover(&mut self, core: &Core, id: SandboxId) -> Vec<String> {
        let mut probes = Vec::new();
        let directory = core.exec_dir(id);
        let exits = core.driver.exec_exits(&id).unwrap_or_default();
        let Ok(entries) = std::fs::read_dir(&directory) else {
            return probes;
        };
        for entry in entries.flatten() {
            let Some(file) = read_file(&entry.path()) else {
                continue;
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_probe = file.request.probe;
            let exit = exits.iter().find(|ended| ended.id.to_string() == name);
            core.execs.put(Exec {
                id: name.clone(),
                container: id,
                request: file.request,
                running: exit.is_none(),
                exit_code: exit.map(|ended| ended.exit.code),
                pid: file.pid,
            });
            match exit {
                Some(_) => self.ended.push_back(name),
                None if is_probe => {
                    probes.push(name.clone());
                    self.running.push(name);
                }
                None => self.running.push(name),
            }
        }
        probes
    }
}

/// What lies in the run directory of an exec that was started.
#[derive(Serialize, Deserialize)]
struct ExecFile {
    request: ExecRequest,
    pid: u32,
}

fn read_file(path: &PathBuf) -> Option<ExecFile> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

impl Owner {
    pub(super) fn exec_create(&mut self, id: String, request: ExecRequest) -> Result<()> {
        match self.life.state {
            State::Running => {}
            State::Paused => return Err(EngineError::Paused(self.id)),
            _ => return Err(EngineError::NotRunning(self.id)),
        }
        if request.cmd.is_empty() {
            return Err(EngineError::Invalid("No exec command specified".to_owned()));
        }
        let command = shown(&request.cmd);
        self.core.execs.put(Exec {
            id: id.clone(),
            container: self.id,
            request,
            running: false,
            exit_code: None,
            pid: 0,
        });
        self.event(format!("exec_create: {command}"), [("execID", id)]);
        Ok(())
    }

    pub(super) fn exec_start(
        &mut self,
        id: &str,
        detach: bool,
        size: Option<(u16, u16)>,
        reply: oneshot::Sender<Result<Option<Attached>>>,
    ) {
        match self.exec_begin(id, detach, size) {
            Ok(attached) => {
                self.execs
                    .starting
                    .insert(id.to_owned(), Starting { reply, attached });
            }
            Err(error) => answer(reply, Err(error)),
        }
    }

    pub(super) fn exec_begin(
        &mut self,
        id: &str,
        detach: bool,
        size: Option<(u16, u16)>,
    ) -> Result<Option<Attached>> {
        let exec = self.core.execs.get(id)?;
        if exec.running || self.execs.starting.contains_key(id) {
            return Err(EngineError::WrongState(format!(
                "exec instance {id} is already running"
            )));
        }
        if exec.exit_code.is_some() {
            return Err(EngineError::WrongState(format!(
                "exec instance {id} has already run"
            )));
        }
        if self.life.state == State::Paused {
            return Err(EngineError::Paused(self.id));
        }
        let folder = &exec.request.working_dir;
        if !folder.is_empty() && !folder.starts_with('/') {
            self.exec_over(id, 128);
            return Err(EngineError::StartFailed {
                text: "Cwd must be an absolute path".to_owned(),
                exit_code: 128,
            });
        }
        let (named, by) = self.core.named_as(&self.spec, self.id)?;
        let hostname = translate::hostname(&named, by);
        let request = &exec.request;
        let process = translate::exec_process(&self.linked_spec(), &hostname, request, size)?;
        let exec_id: ExecId = id
            .parse()
            .map_err(|_| EngineError::NoSuchExec(id.to_owned()))?;
        self.write_exec_file(id, &exec)?;
        let Some(shim) = &mut self.shim else {
            return Err(EngineError::NotRunning(self.id));
        };
        let (attached, attachments) = if detach {
            (None, Vec::new())
        } else {
            let (ours, theirs) = stream_pair()?;
            let attachment = Attachment {
                stream: theirs,
                stdin: request.attach.stdin,
                stdout: request.attach.stdout,
                stderr: request.attach.stderr,
                framed: !request.tty,
            };
            let attached = Attached {
                stream: ours,
                tty: request.tty,
                replay: Vec::new(),
                delivery: Delivery::default(),
            };
            (Some(attached), vec![attachment])
        };
        shim.get_mut()
            .exec(
                &ExecSpec {
                    id: exec_id,
                    process,
                },
                attachments,
            )
            .map_err(|e| EngineError::step("start the exec", e.kind(), e))?;
        self.core.execs.change(id, |exec| exec.running = true);
        self.execs.running.push(id.to_owned());
        let command = shown(&request.cmd);
        self.event(
            format!("exec_start: {command}"),
            [("execID", id.to_owned())],
        );
        Ok(attached)
    }

    /// The intent: written before the shim is asked, on a file system of memory.
    fn write_exec_file(&self, id: &str, exec: &Exec) -> Result<()> {
        let directory = self.core.exec_dir(self.id);
        let file = ExecFile {
            request: exec.request.clone(),
            pid: exec.pid,
        };
        std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(directory.join(id), to_json(&file)))
            .map_err(|e| EngineError::io("write down the exec", e))
    }

    pub(super) fn exec_started(&mut self, id: &str, pid: u32) {
        self.core.execs.change(id, |exec| exec.pid = pid);
        self.execs.started(id, pid);
    }

    pub(super) fn exec_failed(&mut self, id: &str, failure: &StartFailure) {
        let error = start_failed(failure);
        let code = match &error {
            // Docker looks the user up itself, and has this code for its own failures.
            EngineError::StartFailed { text, .. } if text.starts_with("unable to find ") => 126,
            EngineError::StartFailed { exit_code, .. } => *exit_code,
            _ => 126,
        };
        self.exec_over(id, code);
        self.probe_not_run(id, &error.chain());
        if let Some(starting) = self.execs.starting.remove(id) {
            answer(starting.reply, Err(error));
        }
    }

    pub(super) fn exec_ended(&mut self, id: &str, exit: Exit) {
        // A very short one may end before its start was told.
        self.execs.started(id, 0);
        self.exec_over(id, exit.code);
        self.event(
            "exec_die",
            [
                ("execID", id.to_owned()),
                ("exitCode", exit.code.to_string()),
            ],
        );
        self.probe_ended(id, exit.code);
    }

    fn exec_over(&mut self, id: &str, code: i32) {
        self.core.execs.change(id, |exec| {
            exec.running = false;
            exec.exit_code = Some(code);
            exec.pid = 0;
        });
        self.execs.running.retain(|running| running != id);
        self.execs.ended.push_back(id.to_owned());
        if self.execs.ended.len() > EXECS_ENDED_KEPT_MAX
            && let Some(oldest) = self.execs.ended.pop_front()
        {
            self.core.execs.remove(&oldest);
            self.forget_exec_files(&oldest);
        }
        self.publish();
    }

    fn forget_exec_files(&self, id: &str) {
        drop(hull_os::durable::remove_if_exists(
            &self.core.exec_dir(self.id).join(id),
        ));
        if let Ok(exec) = id.parse()
            && let Err(error) = self.core.driver.forget_exec(&self.id, &exec)
        {
            tracing::debug!(%error, "record of an exec not removed");
        }
    }

    /// The container ended or is removed: its execs are remembered no longer than Docker does.
    pub(super) fn forget_execs(&mut self) {
        for id in self
            .execs
            .ended
            .drain(..)
            .chain(self.execs.running.drain(..))
        {
            self.core.execs.remove(&id);
        }
    }
}

/// A command as events have it: the blank behind the program is there without arguments too, as in
/// Docker.
fn shown(cmd: &[String]) -> String {
    let (program, arguments) = cmd
        .split_first()
        .map_or(("", &[][..]), |(p, a)| (p.as_str(), a));
    format!("{program} {}", arguments.join(" "))
}

/// Docker's exit codes for a program that could not be started.
pub(super) fn start_failed(failure: &StartFailure) -> EngineError {
    let text = failure.text.as_str();
    let exit_code = match failure.kind {
        FailureKind::NotFound => 127,
        FailureKind::NotExecutable => 126,
        FailureKind::Other if text.ends_with("no such file or directory") => 127,
        FailureKind::Other if text.ends_with("permission denied") => 126,
        FailureKind::Other if text.ends_with("not a directory") => 126,
        FailureKind::Other => 128,
    };
    EngineError::StartFailed {
        text: failure.text.clone(),
        exit_code,
    }
}
