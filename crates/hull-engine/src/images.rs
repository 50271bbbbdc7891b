//! What can be asked of images.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use hull_model::Digest;
use tokio::sync::mpsc;

use crate::api::{
    Image, ImagePrune, ImageRemoval, ImagesUsage, ImportRequest, Progress, PullRequest,
    PushRequest, RegistryAuth, RemoteImage, Transfer,
};
use crate::core::Core;
use crate::error::Result;
use crate::object;

/// The images.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a>(pub(crate) &'a Arc<Core>);

impl Images<'_> {
    /// Finds an image by name, digest, id or unique id prefix.
    ///
    /// # Errors
    /// `NoSuchImage`, `Ambiguous`.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        let mut image = self.0.images.view(name)?;
        let containers = self.0.containers.snapshots();
        let of_it = containers.iter().filter(|c| c.spec.image == image.id);
        image.containers = of_it.count();
        Ok(image)
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<Image> {
        let mut counts: HashMap<Digest, usize> = HashMap::new();
        for container in self.0.containers.snapshots() {
            *counts.entry(container.spec.image).or_default() += 1;
        }
        let mut images = self.0.images.list();
        for image in &mut images {
            image.containers = counts.get(&image.id).copied().unwrap_or_default();
        }
        images
    }

    /// Fetches an image; ends early when nobody listens to its progress any more.
    ///
    /// # Errors
    /// `RegistryRefused`, `Registry`, or a full disk.
    pub async fn pull(&self, request: PullRequest, progress: mpsc::Sender<Transfer>) -> Result<()> {
        object::pull::pull(self.0, request, progress).await
    }

    /// Sends an image; ends early when nobody listens to its progress any more.
    ///
    /// # Errors
    /// `Registry`, or that there is no such image.
    pub async fn push(&self, request: PushRequest, progress: mpsc::Sender<Transfer>) -> Result<()> {
        object::push::push(self.0, request, progress).await
    }

    /// What a registry has under a name, without fetching it.
    ///
    /// # Errors
    /// `RegistryRefused`, `Registry`.
    pub async fn look(&self, request: PullRequest) -> Result<RemoteImage> {
        object::pull::look(self.0, request).await
    }

    /// Shows a credential to a registry; returns the token that stands for it, or nothing.
    ///
    /// # Errors
    /// `Registry`.
    pub async fn login(&self, address: &str, auth: &RegistryAuth) -> Result<String> {
        object::remote::login(self.0, address, auth).await
    }

    /// Searches a registry; returns the JSON that it answers.
    ///
    /// # Errors
    /// `Registry`, also when it has no search.
    pub async fn search(&self, term: &str, limit: u32, auth: &RegistryAuth) -> Result<Vec<u8>> {
        object::remote::search(self.0, term, limit, auth).await
    }

    /// Whether an image is for a platform, `os/arch[/variant]`.
    ///
    /// # Errors
    /// `Invalid`: that is no platform.
    pub fn is_for(&self, image: &Image, platform: &str) -> Result<bool> {
        object::image::is_for(image, platform)
    }

    /// What the images take on the disk, as `du` counts it.
    ///
    /// # Errors
    /// When the data root cannot be read.
    pub async fn usage(&self) -> Result<ImagesUsage> {
        let mut usage = object::image::usage(self.0).await?;
        let counts: HashMap<Digest, usize> = self
            .list()
            .into_iter()
            .map(|image| (image.id, image.containers))
            .collect();
        for row in &mut usage.images {
            row.image.containers = counts.get(&row.image.id).copied().unwrap_or_default();
        }
        Ok(usage)
    }

    /// Loads a docker archive or OCI layout, compressed or not; of an image for many platforms
    /// the one that is asked for (`os/arch[/variant]`), or this host's.
    ///
    /// # Errors
    /// What is wrong with the archive: then nothing of it is kept.
    pub async fn load(
        &self,
        reader: Box<dyn std::io::Read + Send>,
        platform: Option<&str>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<()> {
        object::image::load(self.0, reader, platform, progress).await
    }

    /// Takes over the images of a Docker data root on this host, with their names and ids; reads
    /// only.
    ///
    /// # Errors
    /// What is missing or damaged there: then nothing of it is kept.
    pub async fn import_docker(
        &self,
        root: PathBuf,
        progress: mpsc::Sender<Progress>,
    ) -> Result<()> {
        object::image::import_docker(self.0, root, progress).await
    }

    /// Begins to read what is at an address, for an import.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub async fn download(&self, address: &str) -> Result<Box<dyn std::io::Read + Send>> {
        object::image::download(self.0, address).await
    }

    /// Makes an image of one root file system; returns its id.
    ///
    /// # Errors
    /// What is wrong with the archive, the reference or a change.
    pub async fn import(
        &self,
        reader: Box<dyn std::io::Read + Send>,
        request: ImportRequest,
    ) -> Result<Digest> {
        object::image::import(self.0, reader, request).await
    }

    /// Writes images as a docker archive that is an OCI layout too.
    ///
    /// # Errors
    /// `NoSuchImage`, `NoSuchPlatform`, or the writer's.
    pub async fn save(
        &self,
        names: Vec<String>,
        platform: Option<&str>,
        writer: Box<dyn std::io::Write + Send>,
    ) -> Result<()> {
        object::image::save(self.0, names, platform, writer).await
    }

    /// Gives an image a further name.
    ///
    /// # Errors
    /// `NoSuchImage`, `Invalid`.
    pub async fn tag(&self, name: &str, reference: &str) -> Result<()> {
        object::image::tag(self.0, name, reference).await
    }

    /// Removes a name, and the image with its last one.
    ///
    /// # Errors
    /// `ImageInUse`, `ImageConflict`.
    pub async fn remove(&self, name: &str, force: bool) -> Result<Vec<ImageRemoval>> {
        object::image::remove(self.0, name, force).await
    }

    /// Removes images without containers; returns what went and freed bytes.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn prune(&self, which: &ImagePrune) -> Result<(Vec<ImageRemoval>, u64)> {
        object::image::prune(self.0, which).await
    }
}
