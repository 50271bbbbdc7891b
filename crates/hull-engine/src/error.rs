//! The one error of the engine's public interface.
//!
//! Variants are the cases in which an edge words its own sentence because clients parse it;
//! everything else carries a sentence of the failed step and its cause.

use std::io;

use hull_model::{Digest, ErrorKind, SandboxId};

/// A cause, boxed so that every driver's error fits.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a request to the engine failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No container has this name or id.
    #[error("no such container: {0}")]
    NoSuchContainer(String),
    /// No image has this name or id.
    #[error("no such image: {0}")]
    NoSuchImage(String),
    /// No network has this name or id.
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    /// The container is not on this network.
    #[error("container {container} is not connected to network {network}")]
    NotConnected {
        /// Which.
        container: SandboxId,
        /// Name of the network.
        network: String,
    },
    /// No plugin has this name.
    #[error("plugin \"{0}\" not found")]
    NoSuchPlugin(String),
    /// The host or another object forbids it; the sentence says which.
    #[error("{0}")]
    Denied(String),
    /// No exec has this id.
    #[error("no such exec instance: {0}")]
    NoSuchExec(String),
    /// A container has nothing at this path.
    #[error("no such file in the container: {0}")]
    NoSuchFile(String),
    /// No volume has this name.
    #[error("no such volume: {0}")]
    NoSuchVolume(String),
    /// A volume wants a driver that is not there.
    #[error("create {volume}: there is no volume driver {plugin:?}")]
    NoSuchVolumeDriver {
        /// The volume.
        volume: String,
        /// The driver.
        plugin: String,
    },
    /// A volume is in use.
    #[error("volume {name:?} is in use by {}", .users.join(", "))]
    VolumeInUse {
        /// Its name.
        name: String,
        /// Full ids of containers.
        users: Vec<String>,
    },
    /// A prefix that fits several objects.
    #[error("multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// The container name is taken.
    #[error("container name {name:?} is in use by container {holder}")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: SandboxId,
    },
    /// The container has to run for this.
    #[error("container {0} is not running")]
    NotRunning(SandboxId),
    /// The container is paused and must not be.
    #[error("container {0} is paused")]
    Paused(SandboxId),
    /// The container runs and must not.
    #[error("container {id} is {state}")]
    StillLive {
        /// Which.
        id: SandboxId,
        /// Docker's word for its state.
        state: &'static str,
    },
    /// The object is in a state in which this cannot be done; the sentence says which.
    #[error("{0}")]
    WrongState(String),
    /// A removal is under way already.
    #[error("removal of container {0} is already in progress")]
    BeingRemoved(SandboxId),
    /// The process could not be started.
    #[error("{text}")]
    StartFailed {
        /// What failed, in runc's words: `exec: "x": executable file not found in $PATH`.
        text: String,
        /// 125, 126 or 127, as `docker run` exits.
        exit_code: i32,
    },
    /// Ports could not be published.
    #[error("publish the ports of {name}: {text}")]
    PortsFailed {
        /// The container.
        name: String,
        /// Its endpoint, 64 hex digits.
        endpoint_id: String,
        /// Docker's words for why, then who has the port and what to do.
        text: String,
    },
    /// An image is in use by a container.
    #[error("image {image} is in use by container {container}")]
    ImageInUse {
        /// Its id.
        image: Digest,
        /// The name that was to be removed; none: the image itself.
        reference: Option<String>,
        /// Short id of the container.
        container: String,
        /// Whether it runs.
        running: bool,
    },
    /// An image is there, but not for this platform.
    #[error("image {image} is not for the platform {platform}")]
    NoSuchPlatform {
        /// As the user named it.
        image: String,
        /// What was asked for.
        platform: String,
    },
    /// An image has several names, or children, and is not removed without force.
    #[error("{0}")]
    ImageConflict(String),
    /// A registry says no to an image; the sentence follows from its code.
    #[error("{message}")]
    RegistryRefused {
        /// The repository, as people write it.
        repository: String,
        /// With tag or digest.
        reference: String,
        /// `MANIFEST_UNKNOWN`, `DENIED` and their like.
        code: String,
        /// All that the registry says.
        message: String,
    },
    /// An exchange with a registry failed; the sentence says all.
    #[error("{text}")]
    Registry {
        /// What happened, in the words of docker's clients.
        text: String,
        /// How an edge answers.
        kind: ErrorKind,
    },
    /// What was asked for is wrong; the sentence says what and what to do.
    #[error("{0}")]
    Invalid(String),
    /// What was asked for is not there in this version or kernel; the sentence names it.
    #[error("{0}")]
    Unsupported(String),
    /// A step failed.
    #[error("{step}")]
    Step {
        /// What was being done, with its values.
        step: String,
        /// How an edge answers.
        kind: ErrorKind,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// A queue is full or the object does not answer.
    #[error("{0}")]
    Unavailable(String),
}

impl EngineError {
    /// The kind, for the edges' tables.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchContainer(_)
            | Self::NoSuchImage(_)
            | Self::NoSuchPlatform { .. }
            | Self::NoSuchFile(_)
            | Self::NoSuchNetwork(_)
            | Self::NoSuchPlugin(_)
            | Self::NoSuchVolume(_)
            | Self::NoSuchVolumeDriver { .. }
            | Self::NoSuchExec(_) => ErrorKind::NotFound,
            Self::Denied(_) => ErrorKind::Denied,
            // A defect of the request; Docker answers 500.
            Self::NotConnected { .. } => ErrorKind::Internal,
            Self::Ambiguous(_) | Self::Invalid(_) | Self::StartFailed { .. } => {
                ErrorKind::InvalidArgument
            }
            Self::NameTaken { .. } => ErrorKind::AlreadyExists,
            Self::NotRunning(_)
            | Self::Paused(_)
            | Self::StillLive { .. }
            | Self::WrongState(_) => ErrorKind::WrongState,
            Self::BeingRemoved(_)
            | Self::ImageInUse { .. }
            | Self::VolumeInUse { .. }
            | Self::ImageConflict(_) => ErrorKind::Busy,
            // Docker answers 500, which clients know.
            Self::PortsFailed { .. } => ErrorKind::Internal,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::RegistryRefused { .. } => ErrorKind::NotFound,
            Self::Step { kind, .. } | Self::Registry { kind, .. } => *kind,
            Self::Unavailable(_) => ErrorKind::Unavailable,
        }
    }

    /// Wraps the failure of a step that nobody classified better than by its kind.
    pub fn step(step: impl Into<String>, kind: ErrorKind, cause: impl Into<Cause>) -> Self {
        Self::Step {
            step: step.into(),
            kind,
            cause: cause.into(),
        }
    }

    /// Wraps an I/O error of a step.
    pub fn io(step: impl Into<String>, cause: io::Error) -> Self {
        Self::step(step, ErrorKind::of_io(&cause), cause)
    }

    /// The sentence with all its causes, as edges print it once, and what to do about a full disk.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            if cause.downcast_ref().is_some_and(is_full) {
                text.push_str("; free some space in the data root");
            }
            next = cause.source();
        }
        text
    }
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), QuotaExceeded | StorageFull)
}

/// What engine functions return.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;
