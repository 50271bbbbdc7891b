//! Time and randomness of the engine, in one place.

use std::time::{SystemTime, UNIX_EPOCH};

use hull_model::SandboxId;

/// Nanoseconds since the epoch.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// 32 random bytes from the kernel.
pub(crate) fn random_bytes() -> std::io::Result<[u8; 32]> {
    use std::io::Read;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// A new id whose short form is not a number.
pub(crate) fn new_id() -> std::io::Result<SandboxId> {
    loop {
        let id = SandboxId::from_bytes(random_bytes()?);
        if !id.is_numeric_short() {
            return Ok(id);
        }
    }
}
