//! The format of a plan, its encoder, and the interpreter of process steps.

/// What a failed start depends on, as far as Docker's exit codes distinguish it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The program is not there: 127.
    NotFound,
    /// The program cannot be executed: 126.
    NotExecutable,
    /// Anything else: 125 or 128.
    Other,
}
