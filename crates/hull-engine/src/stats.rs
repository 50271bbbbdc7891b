//! What containers use, as often as somebody asks.
//!
//! Nothing is sampled while nobody looks. A share of processor time needs two moments: the one before
//! is that of an earlier answer, and for the first one the start of the container, whose figures are
//! known without having been there: nothing was used, and the host's processors had so much less.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hull_model::SandboxId;
use hull_model::spec::Isolation;
use hull_os::cgroup::{Hierarchies, Stats};
use hull_os::entry;

use crate::Containers;
use crate::api::{Container, CpuMoment, LinkStats, Usage};
use crate::clock::now_ns;
use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::jobs::Pool;
use crate::object::container::Request;
use crate::object::view::FileView;

/// Distance of two moments that a share can be computed of.
const DISTANCE_NS_MIN: i64 = 500_000_000;
/// Nanoseconds of a tick in `/proc/stat`: `USER_HZ` is 100 on all our architectures.
const TICK_NS: u64 = 10_000_000;
/// Time words of `/proc/stat` that Docker adds up: user to softirq.
const TIME_WORDS: usize = 7;
/// Cgroup of the container in its guest.
const GUEST_GROUP: &str = "hull";
/// How long a view of a guest stays for the next who asks.
const GUEST_KEPT: Duration = Duration::from_secs(5);
/// Pause between two samples of a stream, as in Docker.
pub const STREAM_PAUSE: Duration = Duration::from_secs(1);

/// The last moments of each container: the newest, and one that is far enough behind it.
#[derive(Debug, Default)]
pub(crate) struct Moments(Mutex<HashMap<SandboxId, [Option<CpuMoment>; 2]>>);

impl Moments {
    /// Takes a moment and returns the one to compare it with.
    fn exchange(&self, id: SandboxId, now: &CpuMoment, started_ns: i64) -> Option<CpuMoment> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let [newest, behind] = all.entry(id).or_default();
        // Those of a former life tell nothing.
        for moment in [&mut *newest, &mut *behind] {
            moment.take_if(|moment| moment.at_ns < started_ns || moment.at_ns > now.at_ns);
        }
        let is_far = |m: &Option<CpuMoment>| {
            m.as_ref()
                .is_some_and(|m| now.at_ns - m.at_ns >= DISTANCE_NS_MIN)
        };
        if is_far(newest) {
            *behind = newest.replace(now.clone());
            behind.clone()
        } else {
            newest.get_or_insert_with(|| now.clone());
            behind.clone()
        }
    }

    pub(crate) fn forget(&self, id: SandboxId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&id);
    }
}

impl Containers<'_> {
    /// What a container uses now; none when it does not run. `alone`: without a moment before.
    ///
    /// # Errors
    /// `NoSuchContainer`.
    pub async fn usage(&self, id: SandboxId, alone: bool) -> Result<Option<Usage>> {
        let container = self.inspect(id)?;
        if !container.state.is_live() || container.pid == 0 {
            return Ok(None);
        }
        let core = self.0.clone();
        let job = core.clone();
        let seen = container.clone();
        let view = match container.spec.host.isolation {
            Isolation::Container => None,
            // A guest that does not answer has the figures of its machine.
            Isolation::Vm => core.guests.view(self, &container).await.ok(),
        };
        // A guest takes the time that it wants, and a place that no start waits for.
        let pool = match view {
            None => Pool::Kernel,
            Some(_) => Pool::Files,
        };
        let usage = core.jobs.run(pool, move || {
            let mut usage = sample(&job, &seen)?;
            if let Some(view) = &view {
                add_guest(&mut usage, view);
            }
            Ok::<_, std::io::Error>(usage)
        });
        let mut usage = match usage.await? {
            Ok(usage) => usage,
            // It ended since we looked.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EngineError::io("read the figures of the cgroup", error)),
        };
        let before = core.moments.exchange(id, &usage.cpu, container.started_ns);
        if !alone {
            usage.before = before.or_else(|| at_start(&usage.cpu, container.started_ns));
        }
        Ok(Some(usage))
    }
}

/// Views of guests for their figures: who asks once usually asks again.
#[derive(Debug, Default)]
pub(crate) struct Guests(Mutex<HashMap<SandboxId, (i64, Weak<FileView>)>>);

impl Guests {
    async fn view(
        &self,
        containers: &Containers<'_>,
        container: &Container,
    ) -> Result<Arc<FileView>> {
        let (id, started) = (container.id, container.started_ns);
        {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let known = all.get(&id).filter(|(life, _)| *life == started);
            if let Some(view) = known.and_then(|(_, view)| view.upgrade()) {
                return Ok(view);
            }
        }
        let handle = containers.handle(id)?;
        let view = handle.ask(|reply| Request::View { reply }).await?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (_, view)| view.strong_count() > 0);
        all.insert(id, (started, Arc::downgrade(&view)));
        let kept = view.clone();
        tokio::spawn(async move {
            tokio::time::sleep(GUEST_KEPT).await;
            drop(kept);
        });
        Ok(view)
    }
}

/// Memory and processes are counted in the guest; what its machine takes of the host is in `inspect`.
fn add_guest(usage: &mut Usage, view: &FileView) {
    let read = || -> std::io::Result<Stats> {
        let directory = view
            .guest_directory(c"cgroup")
            .map_err(|error| std::io::Error::other(error.chain()))?;
        let place = entry::open_path(directory.as_fd());
        let hierarchies = Hierarchies::parse(&format!(" {}\n", place.display()))?;
        hierarchies.open_group(GUEST_GROUP).stats()
    };
    match read() {
        Ok(stats) => {
            usage.memory = stats.memory;
            usage.pids = stats.pids;
            usage.pids_limit = stats.pids_limit;
        }
        Err(error) => tracing::debug!(%error, "the figures of a guest"),
    }
}

fn sample(core: &Core, container: &Container) -> std::io::Result<Usage> {
    let cgroup = core.cgroup_path(&container.spec, container.id);
    let stats: Stats = core.cgroups.open_group(&cgroup).stats()?;
    let (system_ns, online) = processors(&fs::read_to_string("/proc/stat")?);
    // The view of the container's own network; without one the host's is not its figure.
    let links = match container.endpoints.is_empty() {
        false => fs::read_to_string(format!("/proc/{}/net/dev", container.pid)),
        true => Ok(String::new()),
    };
    Ok(Usage {
        cpu: CpuMoment {
            at_ns: now_ns(),
            cpu: stats.cpu,
            system_ns,
            online,
        },
        before: None,
        memory: stats.memory,
        pids: stats.pids,
        pids_limit: stats.pids_limit,
        blkio: stats.blkio,
        links: links.map(|text| parse_links(&text)).unwrap_or_default(),
    })
}

/// The moment of the start, when nothing had been used.
fn at_start(now: &CpuMoment, started_ns: i64) -> Option<CpuMoment> {
    let lived_ns = u64::try_from(now.at_ns - started_ns).ok()?;
    Some(CpuMoment {
        at_ns: started_ns,
        cpu: hull_os::cgroup::CpuStats::default(),
        system_ns: now
            .system_ns
            .saturating_sub(lived_ns.saturating_mul(now.online.into())),
        online: now.online,
    })
}

/// Time of all processors together, and how many there are.
fn processors(stat: &str) -> (u64, u32) {
    let mut lines = stat.lines();
    let all = lines.next().unwrap_or_default();
    let ticks = all
        .split_whitespace()
        .skip(1)
        .take(TIME_WORDS)
        .filter_map(|word| word.parse::<u64>().ok());
    let online = lines.take_while(|line| line.starts_with("cpu")).count();
    let online = u32::try_from(online).unwrap_or(1);
    (ticks.sum::<u64>().saturating_mul(TICK_NS), online)
}

/// Reads `/proc/<pid>/net/dev`, without the loopback.
fn parse_links(text: &str) -> Vec<LinkStats> {
    let link = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let name = name.trim();
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let at = |index: usize| numbers.get(index).copied().unwrap_or_default();
        (name != "lo" && numbers.len() >= 16).then(|| LinkStats {
            name: name.to_owned(),
            rx: [at(0), at(1), at(2), at(3)],
            tx: [at(8), at(9), at(10), at(11)],
        })
    };
    text.lines().filter_map(link).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at_ns: i64) -> CpuMoment {
        CpuMoment {
            at_ns,
            ..CpuMoment::default()
        }
    }

    #[test]
    fn a_moment_is_compared_with_one_far_enough_behind() {
        let (moments, id) = (Moments::default(), SandboxId::from_bytes([1; 32]));
        let at = |at_ns, started_ns| {
            moments
                .exchange(id, &moment(at_ns), started_ns)
                .map(|before| before.at_ns)
        };
        let s = 1_000_000_000;
        assert_eq!(at(s, 0), None);
        assert_eq!(at(s + 5, 0), None, "too near");
        assert_eq!(at(2 * s, 0), Some(s));
        assert_eq!(at(2 * s + 5, 0), Some(s), "too near to the newest");
        assert_eq!(at(3 * s, 0), Some(2 * s));
        assert_eq!(at(9 * s, 8 * s), None, "another life");
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let stat = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 1\ncpu1 1 1\nintr 5\n";
        assert_eq!(processors(stat), (280_000_000, 2));
        let dev = "Inter-|\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 20 5 6 7 0 0 0 0\n";
        let links = parse_links(dev);
        assert_eq!(links.len(), 1);
        assert_eq!((links[0].rx, links[0].tx), ([10, 2, 3, 4], [20, 5, 6, 7]));
    }
}
