//! What images run on: the platform that a client wants against the one that an image is for.
//!
//! An image for another processor runs where the host has an interpreter for it (binfmt_misc);
//! that is the kernel's to decide, at execve. Here is only what users are told.

use hull_storage::image::Platform;

use crate::api::Image;
use crate::error::{EngineError, Result};

pub(crate) fn parse_platform(text: &str) -> Result<Platform> {
    text.parse()
        .map_err(|error: hull_storage::Error| EngineError::Invalid(error.to_string()))
}

/// Whether an image is for a platform.
pub(crate) fn is_for(image: &Image, platform: &str) -> Result<bool> {
    let of = |key: &str| {
        let text = image.config.get(key).and_then(|value| value.as_str());
        text.unwrap_or_default()
    };
    Ok(parse_platform(platform)?.is_met_by(of("os"), of("architecture"), of("variant")))
}

/// Refuses an image that is for another platform than the wanted one.
pub(super) fn refuse_other(wanted: Option<&Platform>, found: &Platform, image: &str) -> Result<()> {
    match wanted {
        Some(wanted) if !wanted.is_met_by(&found.os, &found.architecture, &found.variant) => {
            Err(EngineError::NoSuchPlatform {
                image: image.to_owned(),
                platform: wanted.to_string(),
            })
        }
        _ => Ok(()),
    }
}

/// Checks the platform of an image for a new container; what to warn of, in Docker's words.
pub(crate) fn check_platform(
    wanted: Option<&str>,
    found: &Platform,
    image: &str,
) -> Result<Option<String>> {
    if let Some(wanted) = wanted {
        refuse_other(Some(&parse_platform(wanted)?), found, image)?;
        return Ok(None);
    }
    let host = Platform::host();
    // Images from scratch may say nothing.
    if found.architecture.is_empty() || host.is_met_by(&host.os, &found.architecture, "") {
        return Ok(None);
    }
    Ok(Some(format!(
        "The requested image's platform ({found}) does not match the detected host platform \
         ({host}) and no specific platform was requested"
    )))
}
