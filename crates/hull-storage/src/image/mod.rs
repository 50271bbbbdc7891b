//! Images: references, manifests, configurations, archives.

/// placeholder
#[derive(Debug, thiserror::Error)]
pub enum ReferenceFault {
    /// p
    #[error("p")]
    P,
}
/// placeholder
#[derive(Debug, thiserror::Error)]
pub enum ChangeFault {
    /// p
    #[error("p")]
    P,
}
