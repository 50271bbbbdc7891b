//! The Docker Engine API edge.
