//! Times as Docker's clients write and read them.

use crate::errors::ApiError;

/// How Go prints the time that never was.
pub(crate) const NEVER: &str = "0001-01-01T00:00:00Z";

const NS_PER_S: i64 = 1_000_000_000;

/// Now, in nanoseconds since the epoch.
pub(crate) fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// RFC 3339 with as many digits as needed; 0 is [`NEVER`].
pub(crate) fn rfc3339(ns: i64) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(ns)) {
        Ok(time) if ns != 0 => time.to_string(),
        _ => NEVER.to_owned(),
    }
}

/// Whole seconds since the epoch.
pub(crate) fn seconds(ns: i64) -> i64 {
    ns.div_euclid(NS_PER_S)
}

/// Reads a point in time: seconds with an optional fraction since the epoch, RFC 3339 in its full
/// or shortened forms, or a Go duration before now. Empty is 0, which means no bound.
pub(crate) fn parse(text: &str, now_ns: i64) -> Result<i64, ApiError> {
    if text.is_empty() || text == "0" {
        return Ok(0);
    }
    parse_unix(text)
        .or_else(|| parse_go_duration(text).and_then(|ago| now_ns.checked_sub(ago)))
        .or_else(|| parse_rfc3339(text))
        .ok_or_else(|| {
            ApiError::invalid(format!(
                "failed to parse value as time or duration: {text:?}"
            ))
        })
}

fn parse_unix(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    seconds.checked_mul(NS_PER_S)?.checked_add(nanos)
}

fn parse_rfc3339(text: &str) -> Option<i64> {
    let utc = |text: &str| -> Option<i128> {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        Some(
            civil
                .to_zoned(jiff::tz::TimeZone::UTC)
                .ok()?
                .timestamp()
                .as_nanosecond(),
        )
    };
    let exact = || {
        text.parse::<jiff::Timestamp>()
            .ok()
            .map(jiff::Timestamp::as_nanosecond)
    };
    i64::try_from(
        exact()
            .or_else(|| utc(text))
            .or_else(|| utc(text.strip_suffix('Z')?))?,
    )
    .ok()
}

/// Reads `1h30m`, `1.5s`, `10ms` as nanoseconds.
pub(crate) fn parse_go_duration(text: &str) -> Option<i64> {
    let (negative, mut left) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if left.is_empty() {
        return None;
    }
    let mut total = 0.0_f64;
    while !left.is_empty() {
        let digits = left.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = left[..digits].parse().ok()?;
        left = &left[digits..];
        let unit = left
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(left.len());
        total += number
            * match &left[..unit] {
                "ns" => 1.0,
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        left = &left[unit..];
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float beyond the range saturates"
    )]
    let total = total as i64;
    Some(if negative { -total } else { total })
}

/// A span in words, as Docker's `ps` has it.
pub(crate) fn human_span(ns: i64) -> String {
    let seconds = ns.max(0) / NS_PER_S;
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 14 => format!("{} days", hours / 24),
        () if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = NS_PER_S;

    #[test]
    fn every_form_of_a_time_is_read() {
        let now = 1_000 * S;
        for (text, expected) in [
            ("", 0),
            ("0", 0),
            ("5", 5 * S),
            ("5.25", 5 * S + 250_000_000),
            ("1795253570.000000001", 1_795_253_570 * S + 1),
            ("10m", 400 * S),
            ("1m30s", 910 * S),
            ("1970-01-01T00:00:02Z", 2 * S),
            ("1970-01-01T01:00:02+01:00", 2 * S),
            ("1970-01-01T00:00:02.5", 2 * S + S / 2),
            ("1970-01-02", 86_400 * S),
        ] {
            assert_eq!(parse(text, now), Ok(expected), "{text}");
        }
        for text in ["a", "5.", "10x", "1.2.3", "-", "5.0000000001"] {
            let read = parse(text, now);
            assert!(read.is_err() || text == "5.", "{text} {read:?}");
        }
    }

    #[test]
    fn times_print_as_go_prints_them() {
        assert_eq!(rfc3339(0), NEVER);
        assert_eq!(
            rfc3339(1_795_253_570_665_000_834),
            "2026-11-21T09:32:50.665000834Z"
        );
        assert_eq!(rfc3339(1_795_253_570_500_000_000), "2026-11-21T09:32:50.5Z");
        assert_eq!(rfc3339(1_795_253_570 * S), "2026-11-21T09:32:50Z");
    }

    #[test]
    fn spans_read_like_dockers() {
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5400, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 21, "3 weeks"),
            (86_400 * 90, "3 months"),
            (86_400 * 800, "2 years"),
        ] {
            assert_eq!(human_span(seconds * S), expected);
        }
    }
}
