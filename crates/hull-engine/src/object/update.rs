//! Changing limits and restart policy of a container that exists.

use std::sync::Arc;

use hull_model::spec::{Isolation, Resources, RestartPolicy};

use crate::api::UpdateRequest;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::limits;
use crate::object::container::{Owner, to_json};
use crate::store::{Change as Write, Key};

impl Owner {
    /// Changes what is given, now and for later starts; returns warnings.
    pub(super) async fn update(&mut self, update: UpdateRequest) -> Result<Vec<String>> {
        if update.resources != Resources::default() {
            self.check_machine(&update.resources)?;
        }
        let (changed, warnings) = limits::of_update(&self.core.support, &update.resources)?;
        let before = self.record.clone();
        let mut record = before.clone();
        let host = &mut record.spec.host;
        merge(&mut host.resources, &update.resources).map_err(|why| self.cannot(&why))?;
        // What contradicts each other only together would be refused by the next start.
        limits::of_update(&self.core.support, &host.resources)?;
        if let Some(policy) = update.restart {
            if host.auto_remove && policy != RestartPolicy::No {
                let why = "Restart policy cannot be updated because AutoRemove is enabled for the container";
                return Err(self.cannot(why));
            }
            host.restart = policy;
        }
        self.write_record(record).await?;
        if self.life.state.is_live() {
            let (core, cgroup) = (self.core.clone(), self.cgroup_path());
            let (changed, guest) = match self.spec.host.isolation {
                Isolation::Container => (changed, None),
                Isolation::Vm => {
                    let (host, guest) = crate::machine::split(changed);
                    (host, Some(guest))
                }
            };
            let done = self.core.jobs.run(Pool::Kernel, move || {
                core.cgroups.open_group(&cgroup).update(&changed)
            });
            let done = done.await?.map_err(|error| {
                EngineError::io(format!("Cannot update container {}", self.id), error)
            });
            let done = match (done, guest) {
                (Ok(()), Some(limits)) => self.limit_guest(&limits).await,
                (done, _) => done,
            };
            if let Err(error) = done {
                self.write_record(before).await?;
                return Err(error);
            }
        }
        if self.record.spec.host.restart == RestartPolicy::No {
            self.disarm().await;
        }
        self.publish_with("update", []);
        Ok(warnings)
    }

    fn check_machine(&self, given: &Resources) -> Result<()> {
        match self.spec.host.isolation {
            Isolation::Vm if self.life.state.is_live() => {
                crate::machine::check_update(&self.core, self.id, given)
            }
            _ => Ok(()),
        }
    }

    async fn write_record(&mut self, record: super::container::ContainerRecord) -> Result<()> {
        let write = Write::put(Key::Container(*self.id.as_bytes()), to_json(&record));
        self.core.store.commit(vec![write]).await?;
        self.record = record;
        self.spec = Arc::new(self.record.spec.clone());
        Ok(())
    }

    fn cannot(&self, why: &str) -> EngineError {
        EngineError::WrongState(format!("Cannot update container {}: {why}", self.id))
    }
}

/// Takes what is given; what contradicts what stays is refused in Docker's words.
fn merge(now: &mut Resources, given: &Resources) -> Result<(), String> {
    for (cpus, other, what, with) in [
        (given.nano_cpus, now.cpu_period, "Nano CPUs", "CPU Period"),
        (given.nano_cpus, now.cpu_quota, "Nano CPUs", "CPU Quota"),
        (given.cpu_period, now.nano_cpus, "CPU Period", "NanoCPUs"),
        (given.cpu_quota, now.nano_cpus, "CPU Quota", "NanoCPUs"),
    ] {
        if cpus > 0 && other > 0 {
            return Err(format!(
                "Conflicting options: {what} cannot be updated as {with} has already been set"
            ));
        }
    }
    if given.memory > now.memory_swap && given.memory != 0 && given.memory_swap == 0 {
        return Err(
            "Memory limit should be smaller than already set memoryswap limit, update the \
             memoryswap at the same time"
                .to_owned(),
        );
    }
    for (to, from) in [
        (&mut now.memory, given.memory),
        (&mut now.memory_reservation, given.memory_reservation),
        (&mut now.memory_swap, given.memory_swap),
        (&mut now.nano_cpus, given.nano_cpus),
        (&mut now.cpu_shares, given.cpu_shares),
        (&mut now.cpu_period, given.cpu_period),
        (&mut now.cpu_quota, given.cpu_quota),
        (&mut now.cpu_realtime_period, given.cpu_realtime_period),
        (&mut now.cpu_realtime_runtime, given.cpu_realtime_runtime),
    ] {
        if from != 0 {
            *to = from;
        }
    }
    for (to, from) in [
        (&mut now.cpuset_cpus, &given.cpuset_cpus),
        (&mut now.cpuset_mems, &given.cpuset_mems),
    ] {
        if !from.is_empty() {
            to.clone_from(from);
        }
    }
    if given.blkio_weight != 0 {
        now.blkio_weight = given.blkio_weight;
    }
    now.pids_limit = given.pids_limit.or(now.pids_limit);
    Ok(())
}
