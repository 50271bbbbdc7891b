//! Where an image came from, as far as its own manifest does not say it: the index that named it,
//! what refers to it, the image that it was committed on.
//!
//! Index and referrers are blobs like the image's own parts; they stay as long as the image does, so
//! that a push can send them on.

use hull_model::Digest;
use serde::{Deserialize, Serialize};

/// Kept beside an image's manifest; every field is younger than the first records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Origin {
    /// The image that it was committed on; has a field of its own in the record.
    #[serde(skip)]
    pub(crate) parent: Option<Digest>,
    /// The index by which it was fetched last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) index: Option<Digest>,
    /// Manifests of signatures, lists of contents and the like.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) referrers: Vec<Digest>,
    /// The same where they are found by a tag alone, as cosign does it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tags: Vec<(String, Digest)>,
    /// All blobs of index and referrers, themselves included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) blobs: Vec<Digest>,
}

impl Origin {
    /// What is known after the image came once more, by whichever way.
    pub(super) fn or_before(self, before: Option<&Origin>) -> Origin {
        match before {
            // A load or commit of what is there says nothing new.
            Some(before)
                if self.index.is_none() && self.referrers.is_empty() && self.tags.is_empty() =>
            {
                Origin {
                    parent: self.parent.or(before.parent),
                    ..before.clone()
                }
            }
            Some(before) => Origin {
                parent: self.parent.or(before.parent),
                ..self
            },
            None => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_known_stays_until_something_newer_comes() {
        let digest = |byte| Some(Digest::from_bytes([byte; 32]));
        let pulled = Origin {
            index: digest(1),
            ..Origin::default()
        };
        assert_eq!(Origin::default().or_before(Some(&pulled)), pulled);
        let again = Origin {
            index: digest(2),
            ..Origin::default()
        };
        assert_eq!(again.clone().or_before(Some(&pulled)), again);
        let committed = Origin {
            parent: digest(3),
            ..Origin::default()
        };
        let both = committed.clone().or_before(Some(&pulled));
        assert_eq!((both.parent, both.index), (digest(3), digest(1)));
        assert_eq!(pulled.or_before(Some(&committed)).parent, digest(3));
    }
}
