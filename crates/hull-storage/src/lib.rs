//! Bytes at rest: blobs, images, layers.
