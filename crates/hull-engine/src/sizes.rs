//! What trees of files take, for `system df` and `ps --size`.
//!
//! The only true answer is a walk that looks at every file, and its price is the tree's. What spares it:
//!
//! - A tree that nobody has mounted changes through us, or by hand. Its files do not grow where they lie, and
//!   what comes and goes changes a directory: so only the directories of the last walk are looked at, and the walk
//!   is repeated when one changed, when somebody had the tree mounted meanwhile, and after [`IDLE_REUSE_MAX`],
//!   which bounds what a hand may have done to a file in place.
//! - A tree in use is walked, several at once, and the result is given again for a time in proportion to
//!   what the walk took: a small tree is looked at anew nearly every time, a large one at most every few
//!   seconds, and whoever asks all the time cannot keep more than a fraction of a processor busy. What comes and
//!   goes at the top of a tree is seen at once.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;

use crate::core::Core;
use crate::jobs::Pool;

/// Jobs that trees are measured in, at most.
const JOBS_MAX: usize = 8;
/// A result is given again for so many times what its walk took.
const REUSE_FACTOR: u32 = 20;
/// For how long it is given again at most.
const REUSE_MS_MAX: u64 = 10_000;
/// For how long the result for a tree that nobody uses is given again, while its directories stay as they are.
const IDLE_REUSE_MAX: Duration = Duration::from_secs(600);
/// Results that are remembered; further ones are not.
const KNOWN_MAX: usize = 4096;
/// Directories that are remembered of one tree; one that has more is always walked.
const TREE_DIRECTORIES_MAX: usize = 4096;
/// Directories that are remembered of all trees.
const DIRECTORIES_MAX: usize = 32_768;
/// A directory that changed so shortly before it was read may change again with the same time: the kernel's
/// clock for files is only so fine.
const CLOCK_STEP_NS: i128 = 20_000_000;

/// The unit of a file's blocks, whatever the file system's own is.
pub(crate) const STAT_BLOCK_BYTES: u64 = 512;

/// Results of walks.
#[derive(Debug, Default)]
pub(crate) struct Sizes(Mutex<HashMap<Tree, Arc<Known>>>);

/// Which tree: device and inode of its top.
type Tree = (u64, u64);
/// When the entries of a directory last changed.
type Changed = (i64, i64);

/// Whether files of a tree may change where they lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Somebody has it mounted.
    Busy,
    /// Nobody has. The number is another one after each use.
    Idle(u64),
}

/// What is counted of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// Each file once, whatever its names, without its holes.
    OnDisk,
    /// The length of regular files, each name for itself.
    Lengths,
}

#[derive(Debug)]
struct Known {
    /// Of the top.
    changed: Changed,
    bytes: u64,
    walked: Instant,
    until: Instant,
    idle: Option<Idle>,
}

/// What a walk found of a tree that nobody used.
#[derive(Debug)]
struct Idle {
    number: u64,
    directories: Vec<(Box<Path>, Changed)>,
}

impl Known {
    /// Whether the tree still is what was walked, as far as that can be told without walking it.
    fn holds(&self, top: Changed, is_used: Use) -> bool {
        let now = Instant::now();
        if self.changed != top {
            return false;
        }
        if now < self.until {
            return true;
        }
        let (Some(idle), Use::Idle(number)) = (&self.idle, is_used) else {
            return false;
        };
        let same = |(path, changed): &(Box<Path>, Changed)| {
            fs::symlink_metadata(path).is_ok_and(|facts| changed_at(&facts) == *changed)
        };
        idle.number == number
            && now < self.walked + IDLE_REUSE_MAX
            && idle.directories.iter().all(same)
    }

    fn directories(&self) -> usize {
        self.idle.as_ref().map_or(0, |idle| idle.directories.len())
    }
}

impl Sizes {
    /// What a tree takes, by a walk unless that is known; nothing when it is not there.
    pub(crate) fn of(&self, top: &Path, count: Count, is_used: Use) -> u64 {
        let Ok(facts) = fs::metadata(top) else {
            return 0;
        };
        let tree = (facts.dev(), facts.ino());
        let changed = changed_at(&facts);
        let known = self.lock().get(&tree).cloned();
        if let Some(known) = known.filter(|known| known.holds(changed, is_used)) {
            return known.bytes;
        }
        let known = walked(top, changed, count, is_used);
        let bytes = known.bytes;
        self.keep(tree, known);
        bytes
    }

    fn keep(&self, tree: Tree, mut result: Known) {
        let mut known = self.lock();
        known.remove(&tree);
        if known.len() >= KNOWN_MAX {
            let now = Instant::now();
            known.retain(|_, known| known.until > now);
        }
        let kept: usize = known.values().map(|known| known.directories()).sum();
        if kept + result.directories() > DIRECTORIES_MAX {
            result.idle = None;
        }
        if known.len() < KNOWN_MAX {
            known.insert(tree, Arc::new(result));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Tree, Arc<Known>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn changed_at(facts: &Metadata) -> Changed {
    (facts.ctime(), facts.ctime_nsec())
}

/// Walks a tree.
fn walked(top: &Path, changed: Changed, count: Count, is_used: Use) -> Known {
    let began = Instant::now();
    let mut walk = Walk::new(count, is_used != Use::Busy);
    walk.tree(top);
    let reuse = began.elapsed() * REUSE_FACTOR;
    let idle = match (is_used, walk.directories) {
        (Use::Idle(number), Some(directories)) => Some(Idle {
            number,
            directories,
        }),
        _ => None,
    };
    Known {
        changed,
        bytes: walk.bytes,
        walked: began,
        until: Instant::now() + reuse.min(Duration::from_millis(REUSE_MS_MAX)),
        idle,
    }
}

struct Walk {
    count: Count,
    bytes: u64,
    /// Those that have several names.
    seen: HashSet<(u64, u64)>,
    /// None: they cannot tell whether the tree changed.
    directories: Option<Vec<(Box<Path>, Changed)>>,
    began_ns: i128,
}

impl Walk {
    fn new(count: Count, remember: bool) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            count,
            bytes: 0,
            seen: HashSet::new(),
            directories: remember.then(Vec::new),
            began_ns: now.map_or(0, |now| i128::try_from(now.as_nanos()).unwrap_or(0)),
        }
    }

    fn tree(&mut self, top: &Path) {
        let mut waiting: Vec<PathBuf> = vec![top.to_owned()];
        while let Some(directory) = waiting.pop() {
            // Before it is read: what comes while it is read changes it.
            self.remember(&directory);
            for found in fs::read_dir(directory).into_iter().flatten().flatten() {
                match found.metadata() {
                    Ok(facts) if facts.is_dir() => waiting.push(found.path()),
                    Ok(facts) => self.file(&facts),
                    Err(_) => {}
                }
            }
        }
    }

    fn remember(&mut self, directory: &Path) {
        let Some(directories) = &mut self.directories else {
            return;
        };
        match fs::symlink_metadata(directory) {
            Ok(facts)
                if directories.len() < TREE_DIRECTORIES_MAX
                    && changed_ns(&facts) + CLOCK_STEP_NS < self.began_ns =>
            {
                directories.push((directory.into(), changed_at(&facts)));
            }
            _ => self.directories = None,
        }
    }

    fn file(&mut self, facts: &Metadata) {
        self.bytes += match self.count {
            Count::Lengths if facts.is_file() => facts.len(),
            Count::Lengths => 0,
            Count::OnDisk if facts.nlink() == 1 || self.seen.insert((facts.dev(), facts.ino())) => {
                facts.len().min(facts.blocks() * STAT_BLOCK_BYTES)
            }
            Count::OnDisk => 0,
        };
    }
}

fn changed_ns(facts: &Metadata) -> i128 {
    i128::from(facts.ctime()) * 1_000_000_000 + i128::from(facts.ctime_nsec())
}

impl Core {
    /// Bytes of each of many trees; what cannot be read counts as nothing.
    pub(crate) async fn measure<T: Send + 'static>(
        self: &Arc<Self>,
        trees: Vec<T>,
        bytes: fn(&Core, &T) -> u64,
    ) -> Vec<u64> {
        let share = trees.len().div_ceil(JOBS_MAX).max(1);
        let mut trees = trees.into_iter();
        let mut jobs = Vec::with_capacity(JOBS_MAX);
        loop {
            let part: Vec<T> = trees.by_ref().take(share).collect();
            if part.is_empty() {
                break;
            }
            let (core, count) = (self.clone(), part.len());
            let measured = move || part.iter().map(|tree| bytes(&core, tree)).collect();
            let job = self.jobs.run::<Vec<u64>>(Pool::Disk, measured);
            jobs.push(async move { job.await.unwrap_or_else(|_| vec![0; count]) });
        }
        join_all(jobs).await.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("hull-sizes-{name}-{}", std::process::id()));
            drop(fs::remove_dir_all(&path));
            fs::create_dir_all(path.join("deep/er")).unwrap();
            fs::write(path.join("deep/er/file"), "x".repeat(1000)).unwrap();
            fs::hard_link(path.join("deep/er/file"), path.join("other")).unwrap();
            Self(path)
        }

        /// Grows a file where it lies: no directory tells.
        fn grow(&self, length: usize) {
            fs::write(self.0.join("deep/er/file"), "x".repeat(length)).unwrap();
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    impl Sizes {
        fn alter(&self, change: impl Fn(&mut Known)) {
            let mut known = self.lock();
            let all = known.values_mut().filter_map(Arc::get_mut);
            all.for_each(change);
        }
    }

    /// As if time had passed.
    fn expire(sizes: &Sizes) {
        let now = Instant::now();
        sizes.alter(|known| known.until = now);
    }

    /// The directories have to be older than the walk by more than the clock's step.
    fn settle() {
        std::thread::sleep(Duration::from_millis(60));
    }

    #[test]
    fn links_count_once_on_the_disk_and_each_by_length() {
        let place = Place::new("links");
        let sizes = Sizes::default();
        assert_eq!(sizes.of(&place.0, Count::OnDisk, Use::Busy), 1000);
        expire(&sizes);
        assert_eq!(sizes.of(&place.0, Count::Lengths, Use::Busy), 2000);
        let none = place.0.join("none");
        assert_eq!(sizes.of(&none, Count::OnDisk, Use::Busy), 0);
    }

    #[test]
    fn a_result_is_given_again_for_a_time_unless_the_top_changed() {
        let place = Place::new("time");
        let sizes = Sizes::default();
        let of = || sizes.of(&place.0, Count::OnDisk, Use::Busy);
        assert_eq!(of(), 1000);
        let late = Instant::now() + Duration::from_secs(60);
        sizes.alter(|known| known.until = late);
        place.grow(1500);
        assert_eq!(of(), 1000);
        fs::write(place.0.join("new"), "12345").unwrap();
        assert_eq!(of(), 1505);
        place.grow(2000);
        expire(&sizes);
        assert_eq!(of(), 2005);
    }

    #[test]
    fn an_idle_tree_is_walked_when_a_directory_changed_or_it_was_used() {
        let place = Place::new("idle");
        let sizes = Sizes::default();
        let of = |is_used| {
            expire(&sizes);
            sizes.of(&place.0, Count::OnDisk, is_used)
        };
        settle();
        assert_eq!(of(Use::Idle(1)), 1000);
        // That no walk was made is seen by what it would have found.
        place.grow(1500);
        assert_eq!(of(Use::Idle(1)), 1000);
        assert_eq!(of(Use::Idle(2)), 1500);
        place.grow(2000);
        assert_eq!(of(Use::Busy), 2000);
        // What was found while it was in use is not relied on.
        place.grow(2500);
        assert_eq!(of(Use::Idle(2)), 2500);
        fs::write(place.0.join("deep/er/new"), "12345").unwrap();
        assert_eq!(of(Use::Idle(2)), 2505);
    }

    #[test]
    fn an_idle_tree_is_walked_again_in_the_end() {
        let place = Place::new("end");
        let sizes = Sizes::default();
        settle();
        assert_eq!(sizes.of(&place.0, Count::OnDisk, Use::Idle(1)), 1000);
        place.grow(1500);
        expire(&sizes);
        let long_ago = Instant::now().checked_sub(IDLE_REUSE_MAX);
        // A machine that was just booted has no such instant.
        let Some(long_ago) = long_ago else { return };
        sizes.alter(|known| known.walked = long_ago);
        assert_eq!(sizes.of(&place.0, Count::OnDisk, Use::Idle(1)), 1500);
    }

    #[test]
    fn a_directory_that_changed_just_now_is_not_relied_on() {
        let place = Place::new("now");
        let mut walk = Walk {
            began_ns: 0,
            ..Walk::new(Count::OnDisk, true)
        };
        walk.tree(&place.0);
        assert_eq!((walk.bytes, walk.directories.is_none()), (1000, true));
    }
}
