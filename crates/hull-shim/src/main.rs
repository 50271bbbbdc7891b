//! The small static program beside each sandbox.
fn main() {}
