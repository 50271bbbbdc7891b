//! Whether a container is well: what its probes said, and the rule that makes a word of it.

use serde::{Deserialize, Serialize};

use crate::spec::Healthcheck;

/// Results that are kept, as in Docker.
pub const RESULTS_KEPT_MAX: usize = 5;
/// Bytes of a probe's output that are kept, as in Docker.
pub const OUTPUT_BYTES_MAX: usize = 4096;
/// Label that says what happens when a container becomes unhealthy: `none`, `kill`, `restart` or
/// `stop`.
pub const ON_FAILURE_LABEL: &str = "hull.health.on-failure";
/// Exit code of a probe that did not end by itself.
pub const EXIT_UNKNOWN: i32 = -1;

const SECOND_NS: i64 = 1_000_000_000;
/// Nanoseconds between two probes where nobody said otherwise, and that one may take.
const INTERVAL_NS: i64 = 30 * SECOND_NS;
/// The same in the start period.
const START_INTERVAL_NS: i64 = 5 * SECOND_NS;
/// Failures in a row that mean unhealthy, where nobody said otherwise.
const RETRIES: i64 = 3;

/// The word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No probe has succeeded yet, and not too many failed.
    #[default]
    Starting,
    /// The last probe succeeded, or not too many failed since.
    Healthy,
    /// Too many probes failed in a row, or nothing runs.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn word(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

/// How one probe ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeResult {
    /// Nanoseconds since the epoch.
    pub start_ns: i64,
    /// Nanoseconds since the epoch.
    pub end_ns: i64,
    /// 0: healthy.
    pub exit_code: i32,
    /// What it printed, cut.
    pub output: String,
}

/// The health of a container that has a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The word.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last probes, the newest last.
    pub results: Vec<ProbeResult>,
    /// It is being stopped to be started again, because it became unhealthy.
    #[serde(default)]
    pub restart_due: bool,
}

impl Health {
    /// Begins anew with a new life; what was before is still shown.
    pub fn begin(&mut self) {
        self.status = HealthStatus::Starting;
        self.failing_streak = 0;
        self.restart_due = false;
    }

    /// Takes a result in; says whether the word changed. `ran_ns` is how long the container ran when the
    /// probe began, by a clock that nobody sets.
    pub fn take(&mut self, result: ProbeResult, check: &Healthcheck, ran_ns: i64) -> bool {
        let before = self.status;
        if result.exit_code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if before != HealthStatus::Starting || ran_ns >= check.start_period_ns {
            self.failing_streak = self.failing_streak.saturating_add(1);
            let retries = if check.retries > 0 {
                check.retries
            } else {
                RETRIES
            };
            if i64::from(self.failing_streak) >= retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.results.push(result);
        let surplus = self.results.len().saturating_sub(RESULTS_KEPT_MAX);
        self.results.drain(..surplus);
        self.status != before
    }

    /// Nanoseconds between the end of one probe and the next, for a container that runs for `ran_ns`.
    pub fn interval_ns(&self, check: &Healthcheck, ran_ns: i64) -> i64 {
        let in_start_period =
            self.status == HealthStatus::Starting && ran_ns < check.start_period_ns;
        match in_start_period {
            true => or_default(check.start_interval_ns, START_INTERVAL_NS),
            false => or_default(check.interval_ns, INTERVAL_NS),
        }
    }
}

impl Healthcheck {
    /// The command of a probe; none: there is nothing to check.
    pub fn command(&self, shell: Option<&[String]>) -> Option<Vec<String>> {
        let (kind, words) = self.test.split_first()?;
        match kind.as_str() {
            "CMD" => Some(words.to_vec()),
            "CMD-SHELL" => {
                let mut command = match shell {
                    Some(shell) if !shell.is_empty() => shell.to_vec(),
                    _ => ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
                };
                command.extend_from_slice(words);
                Some(command)
            }
            _ => None,
        }
        .filter(|command| !command.is_empty())
    }

    /// Nanoseconds that a probe may take.
    pub fn probe_ns_max(&self) -> i64 {
        or_default(self.timeout_ns, INTERVAL_NS)
    }

    /// What is wrong with it, in Docker's words.
    pub fn complaint(&self) -> Option<String> {
        const MILLISECOND_NS: i64 = 1_000_000;
        for (name, value) in [
            ("Interval", self.interval_ns),
            ("Timeout", self.timeout_ns),
            ("StartPeriod", self.start_period_ns),
            ("StartInterval", self.start_interval_ns),
        ] {
            if value != 0 && value < MILLISECOND_NS {
                return Some(format!("{name} in Healthcheck cannot be less than 1ms"));
            }
        }
        (self.retries < 0).then(|| "Retries in Healthcheck cannot be negative".to_owned())
    }
}

fn or_default(value: i64, default: i64) -> i64 {
    if value > 0 { value } else { default }
}

/// What happens when a container becomes unhealthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing: others look at the word.
    #[default]
    None,
    /// SIGKILL; the restart policy decides what follows.
    Kill,
    /// Stop, then start again.
    Restart,
    /// Stop, as by hand.
    Stop,
}

impl OnFailure {
    /// Reads the value of [`ON_FAILURE_LABEL`].
    pub fn parse(text: &str) -> Option<OnFailure> {
        Some(match text {
            "" | "none" => OnFailure::None,
            "kill" => OnFailure::Kill,
            "restart" => OnFailure::Restart,
            "stop" => OnFailure::Stop,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes of probes, one a second, and the words and streaks that follow.
    fn check(check: &Healthcheck, codes: &[i32], expected: &[(&str, u32)]) {
        let mut health = Health::default();
        let mut seen = Vec::new();
        for (at, code) in (1..).zip(codes) {
            let result = ProbeResult {
                start_ns: at * SECOND_NS,
                end_ns: at * SECOND_NS,
                exit_code: *code,
                output: String::new(),
            };
            health.take(result, check, at * SECOND_NS);
            seen.push((health.status.word(), health.failing_streak));
        }
        assert_eq!(seen, expected);
        assert!(health.results.len() <= RESULTS_KEPT_MAX);
    }

    #[test]
    fn so_many_failures_in_a_row_are_unhealthy() {
        let plain = Healthcheck::default();
        check(
            &plain,
            &[1, 0, 1, 1, 2, 1, 0],
            &[
                ("starting", 1),
                ("healthy", 0),
                ("healthy", 1),
                ("healthy", 2),
                ("unhealthy", 3),
                ("unhealthy", 4),
                ("healthy", 0),
            ],
        );
    }

    #[test]
    fn failures_in_the_start_period_do_not_count() {
        let patient = Healthcheck {
            start_period_ns: 3 * SECOND_NS,
            retries: 1,
            ..Healthcheck::default()
        };
        let starting = ("starting", 0);
        check(
            &patient,
            &[1, -1, 1],
            &[starting, starting, ("unhealthy", 1)],
        );
        check(&patient, &[0, 1], &[("healthy", 0), ("unhealthy", 1)]);
    }

    #[test]
    fn what_the_clock_of_the_host_says_decides_nothing() {
        let patient = Healthcheck {
            start_period_ns: 3 * SECOND_NS,
            start_interval_ns: 7,
            interval_ns: 8,
            retries: 1,
            ..Healthcheck::default()
        };
        let failure = |at_ns| ProbeResult {
            start_ns: at_ns,
            end_ns: at_ns,
            exit_code: 1,
            output: String::new(),
        };
        let mut health = Health::default();
        // Set to a year ahead, then to a year before the start.
        for jump_s in [31_536_000, -31_536_000] {
            assert!(!health.take(failure(jump_s * SECOND_NS), &patient, 2 * SECOND_NS));
            assert_eq!(health.interval_ns(&patient, 2 * SECOND_NS), 7);
        }
        assert_eq!(health.interval_ns(&patient, 3 * SECOND_NS), 8);
        assert!(health.take(failure(-1), &patient, 3 * SECOND_NS));
    }

    #[test]
    fn commands_are_words_or_for_a_shell() {
        let test = |words: &[&str]| Healthcheck {
            test: words.iter().map(|word| (*word).to_owned()).collect(),
            ..Healthcheck::default()
        };
        let zsh = ["/zsh".to_owned(), "-c".to_owned()];
        let command = |words: &[&str], shell| test(words).command(shell).map(|all| all.join(" "));
        assert_eq!(command(&["CMD", "a", "b"], None).as_deref(), Some("a b"));
        assert_eq!(
            command(&["CMD-SHELL", "x"], None).as_deref(),
            Some("/bin/sh -c x")
        );
        assert_eq!(
            command(&["CMD-SHELL", "x"], Some(&zsh)).as_deref(),
            Some("/zsh -c x")
        );
        assert_eq!(command(&["NONE"], None), None);
        assert_eq!(command(&[], None), None);
    }
}
