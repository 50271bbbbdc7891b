//! The format of a plan, its encoder, and the interpreter of process steps.
