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

/// RFC 3339 with nanoseconds, UTC.
pub(crate) fn rfc3339(at_ns: i64) -> String {
    let (seconds, nanos) = (
        at_ns.div_euclid(1_000_000_000),
        at_ns.rem_euclid(1_000_000_000),
    );
    let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // The civil calendar from days since the epoch: March is the first month of the counted year.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::rfc3339;
    use crate::logs::time_ns;

    #[test]
    fn times_read_back_as_they_were_written() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        for at in [
            1,
            951_782_400_000_000_000,
            1_795_251_900_123_456_789,
            4_107_542_399_999_999_999,
        ] {
            assert_eq!(time_ns(&rfc3339(at)), Some(at));
        }
    }
}
