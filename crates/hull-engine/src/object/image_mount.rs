//! `--mount type=image`: the files of another image in a container, for reading.
//!
//! Which image is meant is decided when the container is created, and the container keeps it from
//! being removed, as it does its own.

use std::ffi::CString;
use std::os::fd::AsFd;

use hull_model::ErrorKind;
use hull_model::spec::{ContainerSpec, HostConfig, MountKind};
use hull_os::mount;

use crate::core::Core;
use crate::error::{EngineError, Result};
use crate::object::volume::Sources;

/// Finds the images by their names.
pub(super) fn resolve(core: &Core, host: &mut HostConfig) -> Result<()> {
    for mount in &mut host.mounts {
        let MountKind::Image { source, image, .. } = &mut mount.kind else {
            continue;
        };
        mount.readonly = true;
        // Not "not found": clients would take the container's own image for missing, and pull it.
        let found = core.images.resolve(source).map_err(|_| {
            EngineError::Invalid(format!(
                "invalid mount config for type \"image\": no such image: {source}"
            ))
        })?;
        *image = Some(found.id);
    }
    Ok(())
}

/// Where their files are, for as long as the container starts.
pub(crate) fn sources(core: &Core, spec: &ContainerSpec) -> Result<Sources> {
    let mut sources = Sources::default();
    for mount in &spec.host.mounts {
        let MountKind::Image {
            source,
            image: Some(image),
            subpath,
        } = &mount.kind
        else {
            continue;
        };
        let root = core.image_root(&core.images.resolve(&image.to_string())?.layers)?;
        let open = || match subpath.is_empty() {
            true => root.try_clone(),
            false => mount::open_place_in_root(root.as_fd(), &CString::new(subpath.as_str())?),
        };
        let place = open().map_err(|cause| {
            let step = format!("cannot access subpath {subpath:?} of image {source:?}");
            EngineError::step(step, ErrorKind::Internal, cause)
        })?;
        sources.add(&mount.destination, place);
        // It goes with its last descriptor, whatever is open of it.
        let root = root.try_clone();
        sources.hold(root.map_err(|e| EngineError::io("keep the image's root", e))?);
    }
    Ok(sources)
}
