//! Sizes and times as people write and read them, in the words of Docker's go-units.

/// Prefixes of decimal sizes.
const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
/// Prefixes of binary sizes.
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// A size in powers of 1000 with up to `digits` digits: `1.98MB`.
pub(crate) fn human_size_with_precision(bytes: f64, digits: usize) -> String {
    scaled(bytes, 1000.0, &DECIMAL, digits)
}

/// A size in powers of 1024 with up to four digits: `23.4GiB`.
pub(crate) fn bytes_size(bytes: f64) -> String {
    scaled(bytes, 1024.0, &BINARY, 4)
}

fn scaled(mut size: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while size >= base && unit + 1 < units.len() {
        size /= base;
        unit += 1;
    }
    format!("{}{}", general(size, digits), units[unit])
}

/// Formats as C's `%.*g` does.
pub(crate) fn general(number: f64, digits: usize) -> String {
    let digits = digits.max(1);
    if number == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{number:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
    if exponent < -4 || exponent >= i32::try_from(digits).unwrap_or(i32::MAX) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    let decimals = i32::try_from(digits).unwrap_or(i32::MAX) - 1 - exponent;
    trim(&format!(
        "{number:.*}",
        usize::try_from(decimals).unwrap_or(0)
    ))
}

/// Parses `512m`, `1.5g`, `100`, `2 KiB` into bytes, with powers of 1024.
///
/// # Errors
/// The words of Docker's client.
pub(crate) fn ram_in_bytes(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ');
    let end = end.ok_or_else(invalid)?;
    let number = if text.as_bytes()[end] == b' ' {
        &text[..end]
    } else {
        &text[..=end]
    };
    let suffix = text[end + 1..].to_lowercase();
    let size: f64 = number
        .parse()
        .map_err(|_| format!("strconv.ParseFloat: parsing {number:?}: invalid syntax"))?;
    if size < 0.0 {
        return Err(invalid());
    }
    let bad_suffix = || format!("invalid suffix: '{suffix}'");
    let mut letters = suffix.chars();
    let power = match letters.next() {
        None => 0,
        Some('b') if suffix.len() == 1 => 0,
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some('p') => 5,
        Some(_) => return Err(bad_suffix()),
    };
    if !matches!(letters.as_str(), "" | "b" | "ib") {
        return Err(bad_suffix());
    }
    Ok((size * 1024_f64.powi(power)) as i64)
}

/// How long ago, or for how long: `2 minutes`, `About an hour`.
pub(crate) fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// Parses a duration of Go (`1m30s`, `500ms`, `1.5h`) into nanoseconds.
///
/// # Errors
/// The words of Go's `time.ParseDuration`.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let length = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..length].parse().map_err(|_| invalid())?;
        rest = &rest[length..];
        let length = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..length] {
            "ns" => 1.0,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        total += number * unit;
        rest = &rest[length..];
    }
    Ok(if negative { -total } else { total } as i64)
}

/// Now, in whole seconds since 1970.
pub(crate) fn now_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// A time as Go prints it by default, in the zone of this machine.
pub(crate) fn local_time(seconds: i64) -> String {
    let Ok(timestamp) = jiff::Timestamp::from_second(seconds) else {
        return String::new();
    };
    timestamp
        .to_zoned(jiff::tz::TimeZone::system())
        .strftime("%Y-%m-%d %H:%M:%S %z %Z")
        .to_string()
}

/// A time of the API (`2026-01-02T03:04:05.6Z`) as Go prints it by default.
pub(crate) fn go_time(text: &str) -> String {
    let Ok(time) = text.parse::<jiff::Timestamp>() else {
        return text.to_owned();
    };
    let time = time.to_zoned(jiff::tz::TimeZone::UTC);
    time.strftime("%Y-%m-%d %H:%M:%S%.f %z %Z").to_string()
}

/// A point in time for the API: a time, a date, seconds since 1970, or how long ago.
///
/// # Errors
/// Where it is none of these.
pub(crate) fn api_timestamp(text: &str) -> Result<String, String> {
    let seconds = |timestamp: jiff::Timestamp| {
        format!(
            "{}.{:09}",
            timestamp.as_second(),
            timestamp.subsec_nanosecond()
        )
    };
    // A bare zero is the beginning of time, and a time ago is counted in whole seconds, as by docker.
    if let Some(ago) = parse_duration(text).ok().filter(|_| text != "0") {
        let then = jiff::Timestamp::now().as_nanosecond() - i128::from(ago);
        let then = jiff::Timestamp::from_nanosecond(then).map_err(|error| error.to_string())?;
        return Ok(then.as_second().to_string());
    }
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Ok(seconds(timestamp));
    }
    let local = |date: jiff::civil::DateTime| {
        date.to_zoned(jiff::tz::TimeZone::system())
            .map(|zoned| seconds(zoned.timestamp()))
    };
    if let Ok(date) = text.trim_end_matches('Z').parse::<jiff::civil::DateTime>() {
        return local(date).map_err(|error| error.to_string());
    }
    let is_number = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte == b'.')
    };
    if is_number(text.strip_prefix('-').unwrap_or(text)) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "failed to parse value as time or duration: {text:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_in_go_units() {
        let check =
            |bytes: f64, expected: &str| assert_eq!(human_size_with_precision(bytes, 4), expected);
        check(0.0, "0B");
        check(999.0, "999B");
        check(1000.0, "1kB");
        check(1_982_464.0, "1.982MB");
        check(123_456_789.0, "123.5MB");
        check(999_999.0, "1000kB");
        assert_eq!(human_size_with_precision(1_982_464.0, 3), "1.98MB");
        assert_eq!(bytes_size(25_232_932_864.0), "23.5GiB");
    }

    #[test]
    fn sizes_are_parsed_with_powers_of_1024() {
        let check = |text: &str, expected| assert_eq!(ram_in_bytes(text), Ok(expected), "{text}");
        check("32", 32);
        check("32b", 32);
        check("32k", 32 << 10);
        check("32KiB", 32 << 10);
        check("1.5g", 3 << 29);
        check("32 MB", 32 << 20);
        assert_eq!(ram_in_bytes("abc"), Err("invalid size: 'abc'".to_owned()));
        assert_eq!(ram_in_bytes("1x"), Err("invalid suffix: 'x'".to_owned()));
        assert_eq!(ram_in_bytes("-1"), Err("invalid size: '-1'".to_owned()));
    }

    #[test]
    fn durations_read_as_in_go_units() {
        let check = |seconds, expected: &str| assert_eq!(human_duration(seconds), expected);
        check(0, "Less than a second");
        check(1, "1 second");
        check(59, "59 seconds");
        check(61, "About a minute");
        check(45 * 60, "45 minutes");
        check(3600, "About an hour");
        check(3 * 3600, "3 hours");
        check(3 * 86_400, "3 days");
        check(20 * 86_400, "2 weeks");
        check(90 * 86_400, "3 months");
        check(800 * 86_400, "2 years");
    }

    #[test]
    fn points_in_time_become_seconds() {
        assert_eq!(
            api_timestamp("2013-01-02T13:23:37Z").unwrap(),
            "1357133017.000000000"
        );
        assert_eq!(api_timestamp("1136073600.5").unwrap(), "1136073600.5");
        assert_eq!(api_timestamp("10m").unwrap().len(), 10);
        assert!(api_timestamp("yesterday").is_err());
    }

    #[test]
    fn durations_are_parsed_as_in_go() {
        assert_eq!(parse_duration("1m30s"), Ok(90_000_000_000));
        assert_eq!(parse_duration("500ms"), Ok(500_000_000));
        assert_eq!(parse_duration("-1.5h"), Ok(-5_400_000_000_000));
        assert!(parse_duration("10").unwrap_err().contains("missing unit"));
        assert!(
            parse_duration("x")
                .unwrap_err()
                .contains("invalid duration")
        );
    }
}
