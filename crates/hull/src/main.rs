//! The `hull` program: daemon and command line.
fn main() {}
