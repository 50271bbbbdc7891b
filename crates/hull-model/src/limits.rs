//! Every bound of the engine in one place, with its unit and what is seen there.

/// Requests one container may have waiting. More means that the caller does not read replies;
/// further ones are answered with `Unavailable`.
pub const MAILBOX_LENGTH_MAX: usize = 256;
/// Events that a slow subscriber may be behind before it is cut off.
pub const EVENTS_BEHIND_MAX: usize = 4096;
/// Bytes of one of the two files that keep events for `since`: some ten thousand events each.
pub const EVENTS_FILE_BYTES_MAX: u64 = 4 << 20;
/// How long a shim may take from its start to its container's first instruction.
pub const START_MS_MAX: u64 = 60_000;
/// The same of a machine: an emulated one on a loaded host boots some ten times slower than on an idle one.
pub const MACHINE_START_MS_MAX: u64 = 90_000;
/// How long a shim may take to answer before it is reported as not answering.
pub const SHIM_REPLY_MS_MAX: u64 = 10_000;
/// Seconds between stop signal and SIGKILL where nobody said otherwise, as in Docker.
pub const STOP_TIMEOUT_S: i64 = 10;
/// First wait of the restart back-off; doubled at each restart.
pub const RESTART_BACKOFF_MS: u64 = 100;
/// Longest wait of the restart back-off.
pub const RESTART_BACKOFF_MS_MAX: u64 = 60_000;
/// A container that ran this long starts its back-off anew.
pub const RESTART_BACKOFF_RESET_S: u64 = 10;
/// Bytes of a request body that is held in memory.
pub const REQUEST_BODY_BYTES_MAX: usize = 4 << 20;
/// Containers on one host: bounds the records that are read at start-up.
pub const CONTAINERS_MAX: usize = 100_000;
/// Networks on one host: bounds the records that are read at start-up.
pub const NETWORKS_MAX: usize = 1000;
/// Networks that one container may be on: the number is one digit of a link's name.
pub const CONTAINER_NETWORKS_MAX: usize = 10;
/// Execs that one container remembers after they ended.
pub const EXECS_ENDED_KEPT_MAX: usize = 256;
/// Bytes of one log file before it is rotated, where nobody said otherwise.
pub const LOG_FILE_BYTES_MAX: u64 = 100 << 20;
/// Log files kept per container, where nobody said otherwise.
pub const LOG_FILES_MAX: u32 = 3;
/// The same for the driver `local` and for what is kept of a log that goes elsewhere, as in Docker.
pub const LOCAL_LOG_FILE_BYTES_MAX: u64 = 20 << 20;
/// Files of those.
pub const LOCAL_LOG_FILES_MAX: u32 = 5;
/// Bytes that may wait for a log service with `mode=non-blocking`, as in Docker.
pub const LOG_BUFFER_BYTES_MAX: u64 = 1 << 20;
/// Bytes of `/dev/shm` where nobody said otherwise, as in Docker.
pub const SHM_BYTES: u64 = 64 << 20;
/// Blocking jobs on the disk at the same time.
pub const DISK_JOBS_MAX: usize = 4;
/// Jobs on the files of containers at the same time: each as fast as its client.
pub const FILE_JOBS_MAX: usize = 16;
/// Layers that are fetched and unpacked at the same time, where nobody said otherwise, as in Docker.
pub const DOWNLOADS_MAX: usize = 3;
/// Layers that are sent at the same time, where nobody said otherwise, as in Docker.
pub const UPLOADS_MAX: usize = 5;
/// Layers on their way at the same time in either direction, whatever was asked for.
pub const TRANSFERS_MAX: usize = 16;
/// Blocking jobs in the kernel (mounts, cgroups, links) at the same time.
pub const KERNEL_JOBS_MAX: usize = 8;
/// Places in each pool that work of the engine's own (one job for each container that ended, is found
/// again or goes) leaves to others, so that clients get on meanwhile.
pub const PLACES_FOR_CLIENTS: usize = 2;
/// Jobs that may wait for a place; further ones are answered with `Unavailable`.
pub const JOBS_WAITING_MAX: usize = 4096;
/// Layers of one image: what overlay takes, less the upper directory.
pub const LAYERS_MAX: usize = 500;
