//! The small files that a shim leaves in its run directory.

use crate::Exit;
use crate::spec::ExecId;

/// How an exec ended, from its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecExit {
    /// Which exec.
    pub id: ExecId,
    /// How.
    pub exit: Exit,
}
