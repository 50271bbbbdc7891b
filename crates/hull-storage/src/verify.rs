//! Compares what lies in the store with what the names promise, and changes nothing.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use hull_model::Digest;

use crate::content::{Blob, Hasher, list};
use crate::erofs::{Damage, FileType, Reader};
use crate::error::{At, Error, Result};
use crate::store::{SPLIT_SUFFIX, Store};

/// Bytes that are hashed at once.
const CHUNK_BYTES: usize = 256 << 10;

/// One difference between the store and its promises.
#[derive(Debug)]
pub enum Difference {
    /// A blob's bytes have another digest than its name.
    Blob {
        /// Its name.
        digest: Digest,
        /// What its bytes are.
        actual: Digest,
    },
    /// A layer image is damaged.
    Layer {
        /// Its name.
        diff_id: Digest,
        /// How.
        damage: Damage,
    },
    /// A layer is marked as durable and not there.
    Mark {
        /// Which one.
        diff_id: Digest,
    },
    /// A file that does not belong here.
    Stray {
        /// Which one.
        path: PathBuf,
    },
    /// A file that cannot be read.
    Unreadable(Error),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chain = |f: &mut fmt::Formatter<'_>, mut error: &dyn std::error::Error| {
            write!(f, "{error}")?;
            while let Some(cause) = error.source() {
                write!(f, ": {cause}")?;
                error = cause;
            }
            Ok(())
        };
        match self {
            Difference::Blob { digest, actual } => {
                write!(
                    f,
                    "blob {digest} is damaged: its bytes have the digest {actual}"
                )
            }
            Difference::Layer { diff_id, damage } => {
                write!(f, "layer {diff_id} is damaged: ")?;
                chain(f, damage)
            }
            Difference::Mark { diff_id } => {
                write!(f, "layer {diff_id} is marked as durable and not there")
            }
            Difference::Stray { path } => write!(f, "{} does not belong here", path.display()),
            Difference::Unreadable(error) => chain(f, error),
        }
    }
}

impl Store {
    /// Hashes every blob and walks through every layer image. Takes as long as reading them.
    ///
    /// # Errors
    /// Only when the folders themselves cannot be listed; all else is a difference.
    pub fn verify(&self) -> Result<Vec<Difference>> {
        let mut differences = Vec::new();
        for Blob { digest, .. } in self.blobs()? {
            match self.hash_blob(&digest) {
                Ok(actual) if actual == digest => {}
                Ok(actual) => differences.push(Difference::Blob { digest, actual }),
                Err(error) => differences.push(Difference::Unreadable(error)),
            }
        }
        let layers = self.layers()?;
        for &diff_id in &layers {
            match self.open_layer(&diff_id).map(check_layer) {
                Ok(Ok(())) => {}
                Ok(Err(damage)) => differences.push(Difference::Layer { diff_id, damage }),
                Err(error) => differences.push(Difference::Unreadable(error)),
            }
        }
        for (name, _) in list(&self.layers_dir())? {
            let digest = |stem: &str| format!("sha256:{stem}").parse::<Digest>().ok();
            let image = name.strip_suffix(".erofs").and_then(digest);
            match (image, name.strip_suffix(".ok").and_then(digest)) {
                (Some(_), _) => {}
                (_, Some(diff_id)) if layers.contains(&diff_id) => {}
                (_, Some(diff_id)) => differences.push(Difference::Mark { diff_id }),
                _ => differences.push(Difference::Stray {
                    path: self.layers_dir().join(name),
                }),
            }
        }
        for (name, _) in list(&self.blobs_dir())? {
            let split = name.strip_suffix(SPLIT_SUFFIX);
            let digest = format!("sha256:{}", split.unwrap_or(&name)).parse();
            let at_home = |digest| split.is_none() || layers.contains(&digest);
            if !digest.is_ok_and(at_home) {
                differences.push(Difference::Stray {
                    path: self.blobs_dir().join(name),
                });
            }
        }
        Ok(differences)
    }

    fn hash_blob(&self, digest: &Digest) -> Result<Digest> {
        let mut file = self.open_blob(digest)?.unchecked();
        let mut hasher = Hasher::default();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let len = file
                .read(&mut chunk)
                .at("read blob", &self.blob_path(digest))?;
            if len == 0 {
                return Ok(hasher.finish().0);
            }
            hasher.update(&chunk[..len]);
        }
    }
}

/// Everything but the contents of files, which have no checksum of their own.
fn check_layer(image: File) -> std::result::Result<(), Damage> {
    let reader = Reader::open(image)?;
    reader.walk(|item| {
        reader.xattrs(item.inode)?;
        if item.inode.file_type == FileType::Symlink {
            reader.target(item.inode)?;
        }
        Ok(())
    })
}
