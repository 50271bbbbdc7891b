//! Desired networks to kernel state.
