//! A container's files, seen from the daemon: made by a worker, walked by descriptor.
//!
//! The daemon enters no namespace and mounts nothing of a container; a short-lived process of the
//! shim program does, and the mounts end with it. See `worker.rs` there, and `fuse.rs` for files that
//! are in the guest of a machine.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hull_model::SandboxId;
use hull_os::namespace::Kinds;
use hull_os::spawn::{self, Program, Spawn};
use hull_os::{process, socket};
use hull_plan::Step;
use hull_plan::message::{self, Event};

use crate::driver::{Driver, SIGKILL, wait_readable};
use crate::encode::Encoder;
use crate::error::Error;
use crate::spec::{Mount, MountKind, Root};

/// Descriptors that every worker is given: plan and connection.
const GIVEN: usize = 2;
/// How long a worker may take to make its mounts.
const WORKER_MAX: Duration = Duration::from_secs(30);
/// How directories are opened: `O_DIRECTORY`, for reading.
const DIRECTORY: i32 = 0o200_000;
/// First byte of a worker's message when all is there.
const READY: u8 = b'r';

/// Whose files.
#[derive(Debug)]
pub enum ViewOf<'a> {
    /// Of a container that runs.
    Running {
        /// The mount namespace of its first process.
        mounts: &'a OwnedFd,
        /// The user namespace that it belongs to; none: the host's.
        users: Option<&'a OwnedFd>,
    },
    /// Of one that does not. Nobody else may have this root mounted at the same time.
    Stopped {
        /// Its root.
        root: &'a Root,
        /// Its binds; other mounts are left out.
        mounts: &'a [Mount],
    },
    /// Of a machine: the stream to the file server of its guest.
    Guest(&'a OwnedFd),
}

/// A view of a container's files. Its mounts are gone when it was dropped.
#[derive(Debug)]
pub struct View {
    /// None once dropped.
    ends: Option<Ends>,
    worker: OwnedFd,
    /// The worker stays as long as this is open.
    connection: OwnedFd,
}

/// What a worker makes.
#[derive(Debug)]
struct Ends {
    /// All that the container sees, and its root alone.
    whole: OwnedFd,
    alone: OwnedFd,
    /// The tree that a guest's file server shows, which has these and more.
    guest: Option<OwnedFd>,
}

impl View {
    /// A directory that only the file server of a guest has: `upper`, `proc`, `cgroup`.
    ///
    /// # Errors
    /// When it is not there.
    pub fn of_guest(&self, name: &CStr) -> io::Result<OwnedFd> {
        let tree = self.ends.as_ref().and_then(|ends| ends.guest.as_ref());
        let tree = tree.ok_or(io::ErrorKind::NotFound)?;
        process::open(tree.as_fd(), name, DIRECTORY, 0)
    }

    /// All that the container sees, without `/dev`, `/proc` and `/sys`.
    pub fn whole(&self) -> BorrowedFd<'_> {
        match &self.ends {
            Some(ends) => ends.whole.as_fd(),
            None => self.worker.as_fd(),
        }
    }

    /// Its root without what is mounted on it.
    pub fn alone(&self) -> BorrowedFd<'_> {
        match &self.ends {
            Some(ends) => ends.alone.as_fd(),
            None => self.worker.as_fd(),
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.ends = None;
        // It has nothing to finish. Its end is awaited, since its mounts go away with it.
        let _ = process::pidfd_send_signal(self.worker.as_fd(), SIGKILL);
        let _ = process::wait(self.worker.as_fd());
    }
}

impl Driver {
    /// Makes a view of a container's files.
    ///
    /// # Errors
    /// When the worker cannot be spawned or says that it could not; nothing is left then.
    pub fn view(&self, id: &SandboxId, of: &ViewOf<'_>) -> Result<View, Error> {
        let failed = |step| {
            let id = id.short();
            move |cause| Error::Step { step, id, cause }
        };
        let mut encoder = Encoder::new(GIVEN);
        match of {
            ViewOf::Guest(stream) => {
                let fd = encoder.add(stream.as_fd());
                encoder.step(&Step::Files(fd));
            }
            ViewOf::Running { mounts, users } => {
                if let Some(users) = users {
                    encoder.join(Kinds::USER, users);
                }
                encoder.join(Kinds::MOUNT, mounts);
            }
            ViewOf::Stopped { root, mounts } => {
                encoder.root(root)?;
                mounts
                    .iter()
                    .filter(|mount| matches!(mount.kind, MountKind::Bind { .. }))
                    .try_for_each(|bind| encoder.mount(bind))?;
            }
        }
        let encoded = encoder.finish();
        let (ours, theirs) = socket::message_pair().map_err(failed("make a socket"))?;
        let plan = process::sealed_copy(c"hull-plan", &encoded.plan, false)
            .map_err(failed("copy the plan"))?;
        let mut descriptors = vec![plan.as_fd(), theirs.as_fd()];
        descriptors.extend(&encoded.descriptors);
        let child = spawn::spawn(&Spawn {
            program: Program::Descriptor(self.program()),
            args: &[c"hull-worker"],
            env: &[],
            stdio: [self.null(); 3],
            descriptors: &descriptors,
        })
        .map_err(failed("spawn a worker"))?;
        drop(theirs);
        let mut view = View {
            ends: None,
            worker: child.pidfd,
            connection: ours,
        };
        view.ends = Some(await_ends(&view).map_err(failed("see the files"))?);
        Ok(view)
    }
}

/// What the worker answers.
fn await_ends(view: &View) -> io::Result<Ends> {
    let socket = view.connection.as_fd();
    wait_readable(socket, Instant::now() + WORKER_MAX);
    process::set_nonblocking(socket)?;
    let mut buffer = vec![0; message::MESSAGE_BYTES_MAX];
    let (length, descriptors) =
        socket::receive(socket, &mut buffer).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })?;
    let mut descriptors = descriptors.into_iter();
    let (first, second) = (descriptors.next(), descriptors.next());
    match (buffer[..length].split_first(), first, second) {
        (Some((&READY, _)), Some(whole), Some(alone)) => Ok(Ends {
            whole,
            alone,
            guest: None,
        }),
        (Some((&READY, _)), Some(tree), None) => Ok(Ends {
            whole: process::open(tree.as_fd(), c"whole", DIRECTORY, 0)?,
            alone: process::open(tree.as_fd(), c"alone", DIRECTORY, 0)?,
            guest: Some(tree),
        }),
        (Some((_, failure)), ..) => Err(match Event::decode_all(failure).as_deref() {
            Ok([Event::StartFailed(failure)]) => {
                io::Error::other(failure.text.to_string_lossy().into_owned())
            }
            _ => io::ErrorKind::InvalidData.into(),
        }),
        (None, ..) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
