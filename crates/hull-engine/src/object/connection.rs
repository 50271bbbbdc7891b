//! A shim's connection on the runtime: events as they come, and the end of the shim.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use hull_sandbox::{Event, Shim};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{EngineError, Result};

struct Watched(Shim);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// A connection that the owner task awaits.
pub(crate) struct Connection {
    socket: AsyncFd<Watched>,
}

impl Connection {
    /// Registers a shim's socket with the runtime.
    pub(crate) fn new(shim: Shim) -> Result<Self> {
        let socket =
            watch(Watched(shim)).map_err(|e| EngineError::io("watch the shim's socket", e))?;
        Ok(Self { socket })
    }

    pub(crate) fn get(&self) -> &Shim {
        &self.socket.get_ref().0
    }

    pub(crate) fn get_mut(&mut self) -> &mut Shim {
        &mut self.socket.get_mut().0
    }

    /// The next event; [`Event::Gone`] at the end. Cancel safe.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            let Ok(mut ready) = self.socket.readable_mut().await else {
                return Event::Gone;
            };
            match ready.get_inner_mut().0.try_event() {
                Ok(Some(event)) => return event,
                Ok(None) => ready.clear_ready(),
                Err(error) => {
                    tracing::warn!(%error, "the shim's connection is given up");
                    return Event::Gone;
                }
            }
        }
    }

    /// Waits until the shim itself has ended.
    pub(crate) async fn ended(&mut self, patience: Duration) -> bool {
        let wait = async {
            let pidfd: OwnedFd = self.get().pidfd().try_clone_to_owned()?;
            let pidfd = watch(pidfd)?;
            drop(pidfd.readable().await?);
            io::Result::Ok(())
        };
        let ended = matches!(tokio::time::timeout(patience, wait).await, Ok(Ok(())));
        // Reaps it where it is our child.
        ended && self.get().has_ended()
    }
}

/// Registers a descriptor with the runtime, to be awaited until it is readable.
#[expect(
    deprecated,
    reason = "its successor is unsafe; our types own what they watch"
)]
pub(crate) fn watch<T: AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(owner, Interest::READABLE)
}
