//! The life of a container as one value and one rule.
//!
//! ```text
//!            Start            Ready              Exited
//!  Created ────────▶ Starting ─────▶ Running ───────────▶ Exited ──▶ (Start again)
//!     ▲                 │  Undone      │ ▲                  │
//!     └─────────────────┘        Pause ▼ │ Resume           │ Remove
//!                                    Paused                 ▼
//!                                                        Removing
//! ```
//!
//! Pure: no clock, no kernel. The owner task of a container asks [`step`] what an event means and
//! carries out the effect that it names; `Restarting` is an exited container with a timer.

use serde::{Deserialize, Serialize};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// Whether the kernel killed something in the cgroup for lack of memory.
    pub oom_killed: bool,
    /// Nanoseconds since the epoch.
    pub at_ns: i64,
}

/// Exit code of a container whose shim was killed: it took its container with it.
pub const EXIT_LOST: i32 = 137;
/// Exit code of a container that a reboot ended, as in Docker.
pub const EXIT_REBOOT: i32 = 255;

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Never ran.
    Created,
    /// A shim was asked for; nothing runs for sure.
    Starting,
    /// Its process runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its process ended; `restarting` when a timer will start it again.
    Exited {
        /// How.
        exit: Exit,
        /// A timer will start it again.
        restarting: bool,
    },
    /// Being removed; the name is still taken.
    Removing,
    /// Could not be removed; only `remove` may be tried again.
    Dead,
}

/// What happens to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody asked for a start.
    Start,
    /// The process runs.
    Ready,
    /// The first start ever failed before the process ran.
    Undone,
    /// A later start failed before the process ran, with the code that `docker start` shows.
    Failed(Exit),
    /// The process ended.
    Exited(Exit),
    /// The restart policy wants another start after the exit.
    Rearm,
    /// A timer was called off.
    Disarm,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// Remove.
    Remove,
    /// The removal failed.
    RemoveFailed,
}

/// What the owner has to do after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing more.
    None,
    /// Spawn the shim.
    Spawn,
    /// Give back what only a running container holds (address, timers), tell the waiters.
    Release,
    /// Freeze the cgroup.
    Freeze,
    /// Thaw the cgroup.
    Thaw,
    /// Take down what is left, then forget it.
    Destroy,
}

/// An event that has no meaning in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The state that refused.
    pub state: State,
    /// What was asked.
    pub event: Event,
}

/// Decides what an event means in a state.
///
/// # Errors
/// [`Refused`] when it has no meaning there; the state is unchanged then.
pub fn step(state: State, event: Event) -> Result<(State, Effect), Refused> {
    use Event as E;
    use State as S;
    Ok(match (state, event) {
        (S::Created | S::Exited { .. }, E::Start) => (S::Starting, Effect::Spawn),
        (S::Starting, E::Ready) => (S::Running, Effect::None),
        (S::Starting, E::Undone) => (S::Created, Effect::Release),
        (S::Starting, E::Failed(exit)) => (
            S::Exited {
                exit,
                restarting: false,
            },
            Effect::Release,
        ),
        (S::Starting | S::Running | S::Paused, E::Exited(exit)) => (
            S::Exited {
                exit,
                restarting: false,
            },
            Effect::Release,
        ),
        (S::Exited { exit, .. }, E::Rearm) => (
            S::Exited {
                exit,
                restarting: true,
            },
            Effect::None,
        ),
        (S::Exited { exit, .. }, E::Disarm) => (
            S::Exited {
                exit,
                restarting: false,
            },
            Effect::None,
        ),
        (S::Running, E::Pause) => (S::Paused, Effect::Freeze),
        (S::Paused, E::Resume) => (S::Running, Effect::Thaw),
        (S::Created | S::Exited { .. } | S::Dead | S::Removing, E::Remove) => {
            (S::Removing, Effect::Destroy)
        }
        (S::Removing, E::RemoveFailed) => (S::Dead, Effect::None),
        (state, event) => return Err(Refused { state, event }),
    })
}

impl State {
    /// Whether a process may exist.
    pub fn is_live(&self) -> bool {
        matches!(self, State::Starting | State::Running | State::Paused)
    }

    /// Docker's word for the state, as in `ps --filter status=`.
    pub fn docker_word(&self) -> &'static str {
        match self {
            State::Created | State::Starting => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Exited {
                restarting: true, ..
            } => "restarting",
            State::Exited { .. } => "exited",
            State::Removing => "removing",
            State::Dead => "dead",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: Exit = Exit {
        code: 3,
        oom_killed: false,
        at_ns: 1,
    };

    #[test]
    fn a_life_ends_where_it_may_start_again() {
        let mut state = State::Created;
        for event in [
            Event::Start,
            Event::Ready,
            Event::Pause,
            Event::Exited(EXIT),
        ] {
            state = step(state, event).expect("allowed").0;
        }
        assert_eq!(
            state,
            State::Exited {
                exit: EXIT,
                restarting: false
            }
        );
        assert_eq!(
            step(state, Event::Start),
            Ok((State::Starting, Effect::Spawn))
        );
    }

    #[test]
    fn what_lives_is_not_removed_and_what_is_removed_does_not_start() {
        for state in [State::Starting, State::Running, State::Paused] {
            assert!(step(state, Event::Remove).is_err());
            assert!(step(state, Event::Start).is_err());
        }
        assert!(step(State::Removing, Event::Start).is_err());
    }

    /// Any sequence of events keeps the rule: exactly the live states can exit.
    #[test]
    fn random_events_never_leave_the_diagram() {
        let events = [
            Event::Start,
            Event::Ready,
            Event::Undone,
            Event::Failed(EXIT),
            Event::Exited(EXIT),
            Event::Rearm,
            Event::Disarm,
            Event::Pause,
            Event::Resume,
            Event::Remove,
            Event::RemoveFailed,
        ];
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut state = State::Created;
        for _ in 0..100_000 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let event = events[(seed % events.len() as u64) as usize];
            let was_live = state.is_live();
            match step(state, event) {
                Ok((next, effect)) => {
                    assert_eq!(effect == Effect::Release, was_live && !next.is_live());
                    state = if next == State::Removing {
                        State::Created
                    } else {
                        next
                    };
                }
                Err(refused) => assert_eq!(refused.state, state),
            }
        }
    }
}
