//! Process steps: what a process is before its program runs. The same bytes for a container's
//! first process, an exec and a process in a guest.

use std::ffi::CStr;

use crate::codec::{Malformed, Reader, Writer};

const WHAT: &str = "process";

/// One process step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessStep<'a> {
    /// Program or argument, in order.
    Arg(&'a CStr),
    /// `NAME=value`.
    Env(&'a CStr),
    /// Working directory, and whether it is made when missing.
    Cwd(&'a CStr, bool),
    /// `user[:group]`.
    User(&'a CStr),
    /// A supplementary group.
    Group(&'a CStr),
    /// Capability sets.
    Capabilities(Capabilities),
    /// It can never gain privileges.
    NoNewPrivileges,
    /// The system-call filter, an array of `sock_filter`.
    Seccomp(&'a [u8]),
    /// A resource limit: number, soft, hard.
    Rlimit(u32, u64, u64),
    /// How ready the kernel is to kill it.
    OomScoreAdj(i32),
    /// File mode creation mask.
    Umask(u32),
    /// A terminal of so many rows and columns.
    Terminal(u16, u16),
    /// What standard input is.
    Stdin(Stdin),
    /// A descriptor that stays open in the program, by its number.
    Pass(i32),
    /// Its memory is given in the smallest pages, whatever it asks for: what it does not touch takes no place.
    SmallPages,
    /// It may run on every processor, where who made it keeps to one.
    AllProcessors,
}

/// Capability sets, one bit per number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// What can be gained by executing a file.
    pub bounding: u64,
    /// What counts now.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What is kept over execve with a file that inherits.
    pub inheritable: u64,
    /// What is kept over execve with any file.
    pub ambient: u64,
}

/// What standard input is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stdin {
    /// `/dev/null`.
    #[default]
    Closed,
    /// Stays open when nobody is attached.
    Open,
    /// Closed when the first attached client closes its own.
    Once,
}

mod tag {
    pub(super) const ARG: u16 = 1;
    pub(super) const ENV: u16 = 2;
    pub(super) const CWD: u16 = 3;
    pub(super) const USER: u16 = 4;
    pub(super) const GROUP: u16 = 5;
    pub(super) const CAPABILITIES: u16 = 6;
    pub(super) const NO_NEW_PRIVILEGES: u16 = 7;
    pub(super) const SECCOMP: u16 = 8;
    pub(super) const RLIMIT: u16 = 9;
    pub(super) const OOM_SCORE_ADJ: u16 = 10;
    pub(super) const UMASK: u16 = 11;
    pub(super) const TERMINAL: u16 = 12;
    pub(super) const STDIN: u16 = 13;
    pub(super) const PASS: u16 = 14;
    pub(super) const SMALL_PAGES: u16 = 15;
    pub(super) const ALL_PROCESSORS: u16 = 16;
}

impl<'a> ProcessStep<'a> {
    /// Writes the step.
    pub fn encode(&self, w: &mut Writer) {
        match *self {
            ProcessStep::Arg(text) => w.record(tag::ARG, |w| w.text(text)),
            ProcessStep::Env(text) => w.record(tag::ENV, |w| w.text(text)),
            ProcessStep::Cwd(path, create) => w.record(tag::CWD, |w| {
                w.text(path);
                w.bool(create);
            }),
            ProcessStep::User(text) => w.record(tag::USER, |w| w.text(text)),
            ProcessStep::Group(text) => w.record(tag::GROUP, |w| w.text(text)),
            ProcessStep::Capabilities(sets) => w.record(tag::CAPABILITIES, |w| {
                w.u64(sets.bounding);
                w.u64(sets.effective);
                w.u64(sets.permitted);
                w.u64(sets.inheritable);
                w.u64(sets.ambient);
            }),
            ProcessStep::NoNewPrivileges => w.record(tag::NO_NEW_PRIVILEGES, |_| ()),
            ProcessStep::Seccomp(filter) => w.record(tag::SECCOMP, |w| w.blob(filter)),
            ProcessStep::Rlimit(resource, soft, hard) => w.record(tag::RLIMIT, |w| {
                w.u32(resource);
                w.u64(soft);
                w.u64(hard);
            }),
            ProcessStep::OomScoreAdj(value) => w.record(tag::OOM_SCORE_ADJ, |w| w.i32(value)),
            ProcessStep::Umask(mask) => w.record(tag::UMASK, |w| w.u32(mask)),
            ProcessStep::Terminal(rows, cols) => w.record(tag::TERMINAL, |w| {
                w.u32(rows.into());
                w.u32(cols.into());
            }),
            ProcessStep::Stdin(stdin) => w.record(tag::STDIN, |w| {
                w.u32(match stdin {
                    Stdin::Closed => 0,
                    Stdin::Open => 1,
                    Stdin::Once => 2,
                });
            }),
            ProcessStep::Pass(fd) => w.record(tag::PASS, |w| w.i32(fd)),
            ProcessStep::SmallPages => w.record(tag::SMALL_PAGES, |_| ()),
            ProcessStep::AllProcessors => w.record(tag::ALL_PROCESSORS, |_| ()),
        }
    }

    fn decode(tag: u16, r: &mut Reader<'a>) -> Result<ProcessStep<'a>, Malformed> {
        let short = |value: u32| u16::try_from(value).map_err(|_| Malformed { what: WHAT });
        Ok(match tag {
            tag::ARG => ProcessStep::Arg(r.text()?),
            tag::ENV => ProcessStep::Env(r.text()?),
            tag::CWD => ProcessStep::Cwd(r.text()?, r.bool()?),
            tag::USER => ProcessStep::User(r.text()?),
            tag::GROUP => ProcessStep::Group(r.text()?),
            tag::CAPABILITIES => ProcessStep::Capabilities(Capabilities {
                bounding: r.u64()?,
                effective: r.u64()?,
                permitted: r.u64()?,
                inheritable: r.u64()?,
                ambient: r.u64()?,
            }),
            tag::NO_NEW_PRIVILEGES => ProcessStep::NoNewPrivileges,
            tag::SECCOMP => ProcessStep::Seccomp(r.blob()?),
            tag::RLIMIT => ProcessStep::Rlimit(r.u32()?, r.u64()?, r.u64()?),
            tag::OOM_SCORE_ADJ => ProcessStep::OomScoreAdj(r.i32()?),
            tag::UMASK => ProcessStep::Umask(r.u32()?),
            tag::TERMINAL => ProcessStep::Terminal(short(r.u32()?)?, short(r.u32()?)?),
            tag::STDIN => ProcessStep::Stdin(match r.u32()? {
                0 => Stdin::Closed,
                1 => Stdin::Open,
                2 => Stdin::Once,
                _ => {
                    return Err(Malformed {
                        what: "standard input of a process",
                    });
                }
            }),
            tag::PASS => ProcessStep::Pass(r.i32()?),
            tag::SMALL_PAGES => ProcessStep::SmallPages,
            tag::ALL_PROCESSORS => ProcessStep::AllProcessors,
            // Leaving out a step that we do not know could leave out a wall.
            _ => {
                return Err(Malformed {
                    what: "process step of an unknown kind",
                });
            }
        })
    }
}

/// Process steps that were read once from end to end, so they are well-formed.
#[derive(Debug, Clone, Copy)]
pub struct Process<'a> {
    steps: &'a [u8],
}

impl<'a> Process<'a> {
    /// Reads process steps.
    ///
    /// # Errors
    /// When any is not well-formed.
    pub fn parse(steps: &'a [u8]) -> Result<Process<'a>, Malformed> {
        let mut records = Reader::new(steps, WHAT);
        while let Some((tag, mut fields)) = records.record()? {
            ProcessStep::decode(tag, &mut fields)?;
        }
        Ok(Process { steps })
    }

    /// Its steps in order.
    pub fn steps(&self) -> impl Iterator<Item = ProcessStep<'a>> + use<'a> {
        let mut records = Reader::new(self.steps, WHAT);
        std::iter::from_fn(move || {
            let (tag, mut fields) = records.record().ok()??;
            ProcessStep::decode(tag, &mut fields).ok()
        })
    }

    /// The size of its terminal, if it has one.
    pub fn terminal(&self) -> Option<(u16, u16)> {
        self.steps().find_map(|step| match step {
            ProcessStep::Terminal(rows, cols) => Some((rows, cols)),
            _ => None,
        })
    }

    /// What its standard input is.
    pub fn stdin(&self) -> Stdin {
        self.steps()
            .find_map(|step| match step {
                ProcessStep::Stdin(stdin) => Some(stdin),
                _ => None,
            })
            .unwrap_or_default()
    }

    /// Descriptors that stay open in its program.
    pub fn passed(&self) -> impl Iterator<Item = i32> + use<'a> {
        self.steps().filter_map(|step| match step {
            ProcessStep::Pass(fd) => Some(fd),
            _ => None,
        })
    }

    /// Resource limits: number, soft, hard.
    pub fn rlimits(&self) -> impl Iterator<Item = (u32, u64, u64)> {
        self.steps().filter_map(|step| match step {
            ProcessStep::Rlimit(resource, soft, hard) => Some((resource, soft, hard)),
            _ => None,
        })
    }

    /// How ready the kernel is to kill it.
    pub fn oom_score_adj(&self) -> Option<i32> {
        self.steps().find_map(|step| match step {
            ProcessStep::OomScoreAdj(value) => Some(value),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_comes_back_as_it_was() {
        let steps = [
            ProcessStep::Arg(c"sh"),
            ProcessStep::Env(c"A=b"),
            ProcessStep::Cwd(c"/work", true),
            ProcessStep::User(c"nobody:1"),
            ProcessStep::Group(c"audio"),
            ProcessStep::Capabilities(Capabilities {
                bounding: 1,
                ambient: 2,
                ..Default::default()
            }),
            ProcessStep::NoNewPrivileges,
            ProcessStep::Seccomp(b"12345678"),
            ProcessStep::Rlimit(7, 1, u64::MAX),
            ProcessStep::OomScoreAdj(-1),
            ProcessStep::Umask(0o27),
            ProcessStep::Terminal(24, 80),
            ProcessStep::Stdin(Stdin::Once),
            ProcessStep::Pass(7),
            ProcessStep::SmallPages,
            ProcessStep::AllProcessors,
        ];
        let mut w = Writer::default();
        steps.iter().for_each(|step| step.encode(&mut w));
        let bytes = w.finish();
        let process = Process::parse(&bytes).unwrap();
        assert_eq!(process.steps().collect::<Vec<_>>(), steps);
        assert_eq!(
            (process.terminal(), process.stdin()),
            (Some((24, 80)), Stdin::Once)
        );
        assert!(Process::parse(&bytes[..bytes.len() - 1]).is_err());
    }
}
