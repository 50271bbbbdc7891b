//! What an owner can be asked, and how.

use std::sync::Arc;

use hull_model::spec::EndpointSpec;
use hull_sandbox::Target;
use tokio::sync::{mpsc, oneshot, watch};

use super::client::Waiting;
use crate::api::{
    AttachRequest, Attached, Change, Container, ExecRequest, Network, PublishRequest,
    RemoveOptions, UpdateRequest, WaitCondition,
};
use crate::error::{EngineError, Result};
use crate::object::view::FileView;

pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What an owner can be asked.
#[derive(Debug)]
pub(crate) enum Request {
    Start {
        reply: Reply<Change>,
    },
    Stop {
        timeout_s: Option<i64>,
        signal: Option<i32>,
        reply: Reply<Change>,
    },
    Kill {
        signal: i32,
        reply: Reply<()>,
    },
    Pause {
        reply: Reply<()>,
    },
    Resume {
        reply: Reply<()>,
    },
    /// Stop for a shutdown of the host: the wish to run again is kept.
    Shutdown {
        reply: Reply<()>,
    },
    Rename {
        name: String,
        reply: Reply<()>,
    },
    Connect {
        network: Arc<Network>,
        asked: EndpointSpec,
        reply: Reply<()>,
    },
    Disconnect {
        network: String,
        reply: Reply<()>,
    },
    Remove {
        options: RemoveOptions,
        reply: Reply<()>,
    },
    Unlink {
        alias: String,
        reply: Reply<()>,
    },
    Wait {
        condition: WaitCondition,
        reply: Reply<Waiting>,
    },
    Attach {
        request: AttachRequest,
        reply: Reply<Attached>,
    },
    /// Take in what the shim has said by now, so that what is read after it is up to date.
    Settle {
        reply: Reply<()>,
    },
    /// Change its published ports, now and for later starts.
    Publish {
        change: PublishRequest,
        reply: Reply<()>,
    },
    Update {
        update: UpdateRequest,
        reply: Reply<Vec<String>>,
    },
    /// Its files, for as long as the answer is held.
    View {
        reply: Reply<Arc<FileView>>,
    },
    /// Freeze all processes until [`Request::Release`]; whether they run.
    Hold {
        reply: Reply<bool>,
    },
    Release {
        reply: Reply<()>,
    },
    Resize {
        target: Target,
        rows: u16,
        cols: u16,
        reply: Reply<()>,
    },
    ExecCreate {
        id: String,
        request: ExecRequest,
        reply: Reply<()>,
    },
    ExecStart {
        id: String,
        detach: bool,
        size: Option<(u16, u16)>,
        reply: Reply<Option<Attached>>,
    },
}

/// How others reach an owner.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) snapshot: watch::Receiver<Arc<Container>>,
}

impl Handle {
    /// Asks the owner something.
    pub(crate) async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let id = self.snapshot.borrow().id;
        self.requests
            .try_send(make(reply))
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => EngineError::Unavailable(format!(
                    "container {} has too many requests waiting; try again",
                    id.short()
                )),
                mpsc::error::TrySendError::Closed(_) => {
                    EngineError::NoSuchContainer(id.to_string())
                }
            })?;
        answer
            .await
            .unwrap_or_else(|_| Err(EngineError::NoSuchContainer(id.to_string())))
    }
}

pub(in crate::object) fn answer<T>(reply: Reply<T>, result: Result<T>) {
    // The client may have gone away; what it asked for is done all the same.
    drop(reply.send(result));
}
