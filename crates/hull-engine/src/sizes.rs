//! What trees of files take, for `system df` and `ps --size`.
//!
//! The only true answer is a walk that looks at every file, and its price is the tree's. So it is walked,
//! several trees at once, and the result is given again for a time in proportion to what the walk
//! took: a small tree is looked at anew nearly every time, a large one at most every few seconds,
//! and whoever asks all the time cannot keep more than a fraction of a processor busy. What comes and goes at the
//! top of a tree is seen at once.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::core::Core;
use crate::jobs::Pool;

/// Jobs that trees are measured in, at most.
const JOBS_MAX: usize = 8;
/// A result is given again for so many times what its walk took.
const REUSE_FACTOR: u32 = 20;
/// For how long it is given again at most.
const REUSE_MS_MAX: u64 = 10_000;
/// Results that are remembered; further ones are not.
const KNOWN_MAX: usize = 4096;

/// Results of walks.
#[derive(Debug, Default)]
pub(crate) struct Sizes(Mutex<HashMap<Tree, Known>>);

/// Which tree: device and inode of its top.
type Tree = (u64, u64);

#[derive(Debug)]
struct Known {
    /// Of the top: when its entries last changed.
    changed: (i64, i64),
    bytes: u64,
    until: Instant,
}

impl Sizes {
    /// What a tree takes, by `walk` unless that is known; nothing when it is not there.
    pub(crate) fn of(&self, top: &Path, walk: impl FnOnce(&Path) -> u64) -> u64 {
        let Ok(facts) = fs::metadata(top) else {
            return 0;
        };
        let tree = (facts.dev(), facts.ino());
        let changed = (facts.ctime(), facts.ctime_nsec());
        if let Some(known) = self.lock().get(&tree)
            && known.changed == changed
            && Instant::now() < known.until
        {
            return known.bytes;
        }
        let began = Instant::now();
        let bytes = walk(top);
        let reuse = began.elapsed() * REUSE_FACTOR;
        let until = Instant::now() + reuse.min(Duration::from_millis(REUSE_MS_MAX));
        let mut known = self.lock();
        if known.len() >= KNOWN_MAX {
            let now = Instant::now();
            known.retain(|_, known| known.until > now);
        }
        if known.len() < KNOWN_MAX {
            let result = Known {
                changed,
                bytes,
                until,
            };
            known.insert(tree, result);
        }
        bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Tree, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

    #[test]
    fn a_walk_is_not_repeated_before_its_time_unless_the_top_changed() {
        let name = format!("hull-sizes-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        let (sizes, slow) = (Sizes::default(), Duration::from_millis(200));
        let walked = std::cell::Cell::new(0);
        let of = || {
            sizes.of(&folder, |_| {
                walked.set(walked.get() + 1);
                std::thread::sleep(slow);
                walked.get()
            })
        };
        assert_eq!((of(), of(), of()), (1, 1, 1));
        fs::write(folder.join("new"), "x").unwrap();
        assert_eq!((of(), of()), (2, 2));
        sizes
            .lock()
            .values_mut()
            .for_each(|known| known.until = Instant::now());
        assert_eq!(of(), 3);
        assert_eq!(sizes.of(&folder.join("none"), |_| 7), 0);
        fs::remove_dir_all(&folder).unwrap();
    }
}
