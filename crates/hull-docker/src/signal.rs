//! Signal names, as clients write them. The numbers are the same on x86-64 and aarch64.

use crate::errors::ApiError;

const NAMES: [&str; 32] = [
    "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// What kill sends where nobody said otherwise.
pub(crate) const KILL: i32 = 9;
/// First real-time signal that programs may use: the C library keeps two.
const RTMIN: i32 = 34;
/// Last signal.
const RTMAX: i32 = 64;

/// Reads `9`, `KILL`, `SIGKILL`, `sigkill`, `RTMIN+3`, `SIGRTMAX-1`.
pub(crate) fn parse(text: &str) -> Result<i32, ApiError> {
    number(text).ok_or_else(|| ApiError::invalid(format!("invalid signal: {text}")))
}

fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = if let Some(plus) = name.strip_prefix("RTMIN") {
        Some(
            RTMIN
                + if plus.is_empty() {
                    0
                } else {
                    plus.strip_prefix('+')?.parse::<i32>().ok()?
                },
        )
    } else if let Some(minus) = name.strip_prefix("RTMAX") {
        Some(
            RTMAX
                - if minus.is_empty() {
                    0
                } else {
                    minus.strip_prefix('-')?.parse::<i32>().ok()?
                },
        )
    } else {
        None
    };
    if let Some(number) = real_time {
        return (RTMIN..=RTMAX).contains(&number).then_some(number);
    }
    let name = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        name => name,
    };
    let at = NAMES
        .iter()
        .position(|known| !known.is_empty() && *known == name)?;
    i32::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_read_alike() {
        for (text, expected) in [
            ("9", 9),
            ("KILL", 9),
            ("sigkill", 9),
            ("SIGTERM", 15),
            ("SYS", 31),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("CLD", 17),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for text in ["", "0", "65", "FOO", "SIG", "RTMIN-1", "RTMAX+1", "-9"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
