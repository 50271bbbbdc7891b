//! What can be asked of volumes.

use std::io::{Read, Write};
use std::sync::Arc;

use crate::api::{Volume, VolumeCopy, VolumeRequest};
use crate::core::Core;
use crate::error::Result;
use crate::jobs::finished;
use crate::object;

/// The volumes.
#[derive(Debug, Clone, Copy)]
pub struct Volumes<'a>(pub(crate) &'a Arc<Core>);

impl Volumes<'_> {
    /// All volumes, by name.
    pub fn list(&self) -> Vec<Volume> {
        object::volume::list(self.0)
    }

    /// One volume.
    ///
    /// # Errors
    /// `NoSuchVolume`.
    pub fn inspect(&self, name: &str) -> Result<Volume> {
        object::volume::inspect(self.0, name)
    }

    /// Makes a volume; one that is there is left as it is.
    ///
    /// # Errors
    /// `Invalid`, `NoSuchVolumeDriver`, or a full disk.
    pub async fn create(&self, request: VolumeRequest) -> Result<Volume> {
        let core = self.0.clone();
        finished(async move { object::volume::create(&core, request).await }).await
    }

    /// Removes a volume that no container has.
    ///
    /// # Errors
    /// `NoSuchVolume`, `VolumeInUse`.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let (core, name) = (self.0.clone(), name.to_owned());
        finished(async move { object::volume::remove(&core, &name).await }).await
    }

    /// Removes every volume that no container has and that `keep` does not keep; returns names and
    /// freed bytes.
    ///
    /// # Errors
    /// None so far: what cannot be removed is left.
    pub async fn prune(&self, keep: impl Fn(&Volume) -> bool + Send) -> Result<(Vec<String>, u64)> {
        object::volume::prune(self.0, keep).await
    }

    /// Bytes that each volume takes on the disk; a large one is not walked again for some seconds.
    pub async fn usage(&self, volumes: &[Volume]) -> Vec<u64> {
        object::volume::usage(self.0, volumes).await
    }

    /// Writes what is in a volume as an archive.
    ///
    /// # Errors
    /// `NoSuchVolume`, the writer's, or what the file system says.
    pub async fn export(&self, name: &str, output: Box<dyn Write + Send>) -> Result<()> {
        object::volume::export(self.0, name, output).await
    }

    /// Makes a volume of an archive.
    ///
    /// # Errors
    /// `WrongState` when it is there, what is wrong with the archive, or a full disk: there is no
    /// volume then.
    pub async fn import(
        &self,
        request: VolumeRequest,
        input: Box<dyn Read + Send>,
    ) -> Result<Volume> {
        let core = self.0.clone();
        finished(async move { object::volume::import(&core, request, input).await }).await
    }

    /// Gives a volume that no container has another name.
    ///
    /// # Errors
    /// `NoSuchVolume`, `VolumeInUse`, `WrongState` when the name is taken.
    pub async fn rename(&self, from: &str, to: &str) -> Result<()> {
        let (core, from, to) = (self.0.clone(), from.to_owned(), to.to_owned());
        finished(async move { object::volume::rename(&core, &from, &to).await }).await
    }

    /// Makes a volume with what another one holds: a clone, or a read-only snapshot.
    ///
    /// # Errors
    /// `NoSuchVolume`, `WrongState` when the name is taken, or a full disk.
    pub async fn copy(&self, request: VolumeCopy) -> Result<Volume> {
        let core = self.0.clone();
        finished(async move { object::volume::copy(&core, request).await }).await
    }
}
