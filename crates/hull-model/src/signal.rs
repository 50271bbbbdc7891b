//! Signals by name and number, as people write them: `SIGTERM`, `term`, `15`, `RTMIN+3`.

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// First real-time signal that programs may use: glibc keeps 32 and 33.
const RTMIN: i32 = 34;
/// Last signal.
const RTMAX: i32 = 64;

/// SIGKILL.
pub const KILL: i32 = 9;
/// SIGTERM.
pub const TERM: i32 = 15;

/// Reads a signal; none when there is no such signal.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(at) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(at + 1).ok();
    }
    let number = match name {
        "IOT" => 6,
        "CLD" => 17,
        "POLL" => 29,
        "RTMIN" => RTMIN,
        "RTMAX" => RTMAX,
        _ => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(add), _) => RTMIN + add.parse::<u8>().map(i32::from).ok()?,
            (_, Some(sub)) => RTMAX - sub.parse::<u8>().map(i32::from).ok()?,
            _ => return None,
        },
    };
    (1..=RTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn signals_are_read_as_people_write_them() {
        for (text, number) in [
            ("9", Some(9)),
            ("SIGKILL", Some(9)),
            ("term", Some(15)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("SYS", Some(31)),
            ("0", None),
            ("65", None),
            ("NOPE", None),
            ("RTMIN+99", None),
        ] {
            assert_eq!(parse(text), number, "{text}");
        }
    }
}
