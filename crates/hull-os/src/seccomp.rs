//! System-call filters: from a table of rules to the kernel's program, and its installation.
//!
//! ```text
//!   [load arch] ─▶ per architecture: [load number] ─▶ binary search over ranges ─▶ return
//!                                                                  └▶ conditions ─▶ return
//! ```
//!
//! The kernel runs a new filter once for every system-call number to learn which are always
//! allowed, and then again at every other call, so a search of eight steps instead of a list of
//! hundreds is felt at each start. Classic BPF jumps forward only, by at most 255; the program is
//! therefore written from its end to its beginning, when each target is already placed, with a
//! copy of the target or a long jump put in between where one is too far.
//!
//! Names of system calls and what to allow are decided elsewhere.

use std::io;

use crate::process::check;

/// Instructions that the kernel takes at most.
pub const INSTRUCTIONS_MAX: usize = 4096;

/// Bytes of one instruction.
const INSTRUCTION_BYTES: usize = 8;

/// Set in system-call numbers of the x32 ABI, which shares its architecture with x86_64.
pub const X32_BIT: u32 = 0x4000_0000;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is carried out.
    Allow,
    /// It is carried out and logged.
    Log,
    /// It returns this error number.
    Errno(u16),
    /// The thread gets SIGSYS.
    Trap,
    /// A tracer decides, and gets this number; without one the call returns ENOSYS.
    Trace(u16),
    /// The thread ends.
    KillThread,
    /// The process ends.
    KillProcess,
}

impl Action {
    /// The kernel's `SECCOMP_RET_*` value.
    pub fn value(self) -> u32 {
        match self {
            Action::KillProcess => 0x8000_0000,
            Action::KillThread => 0,
            Action::Trap => 0x0003_0000,
            Action::Errno(number) => 0x0005_0000 | u32::from(number),
            Action::Trace(number) => 0x7ff0_0000 | u32::from(number),
            Action::Log => 0x7ffc_0000,
            Action::Allow => 0x7fff_0000,
        }
    }
}

/// An architecture as the kernel names it (`AUDIT_ARCH_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 64-bit x86; with [`X32_BIT`] in the number also x32.
    X86_64,
    /// 32-bit x86.
    X86,
    /// 64-bit Arm.
    Aarch64,
    /// 32-bit Arm.
    Arm,
}

impl Arch {
    /// The architecture that this program was built for.
    pub const NATIVE: Arch = if cfg!(target_arch = "aarch64") {
        Arch::Aarch64
    } else {
        Arch::X86_64
    };

    /// The kernel's number.
    pub fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::X86 => 0x4000_0003,
            Arch::Aarch64 => 0xc000_00b7,
            Arch::Arm => 0x4000_0028,
        }
    }
}

/// How an argument is compared, unsigned, in all its 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// Equal.
    Equal(u64),
    /// Not equal.
    NotEqual(u64),
    /// Less.
    Less(u64),
    /// Less or equal.
    LessOrEqual(u64),
    /// Greater.
    Greater(u64),
    /// Greater or equal.
    GreaterOrEqual(u64),
    /// The bits of the mask have this value.
    Masked {
        /// Which bits count.
        mask: u64,
        /// What they must be.
        value: u64,
    },
}

impl Comparison {
    /// Tells whether an argument fulfils it.
    pub fn holds(self, argument: u64) -> bool {
        match self {
            Comparison::Equal(value) => argument == value,
            Comparison::NotEqual(value) => argument != value,
            Comparison::Less(value) => argument < value,
            Comparison::LessOrEqual(value) => argument <= value,
            Comparison::Greater(value) => argument > value,
            Comparison::GreaterOrEqual(value) => argument >= value,
            Comparison::Masked { mask, value } => argument & mask == value,
        }
    }
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Which argument, 0 to 5.
    pub argument: u8,
    /// What it must be.
    pub comparison: Comparison,
}

/// An action under conditions, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// All must hold; at least one.
    pub conditions: Vec<Condition>,
    /// What happens then.
    pub action: Action,
}

/// What happens to one system call: the first rule that holds decides, else `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Verdict {
    /// In order.
    pub rules: Vec<Rule>,
    /// When none holds.
    pub otherwise: Action,
}

impl From<Action> for Verdict {
    fn from(action: Action) -> Self {
        Self {
            rules: Vec::new(),
            otherwise: action,
        }
    }
}

/// The rules of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Which architecture.
    pub arch: Arch,
    /// What begins at a number and holds up to the next entry; ascending, the first at 0.
    pub ranges: Vec<(u32, Verdict)>,
}

/// A whole filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// The most frequent architecture first.
    pub tables: Vec<Table>,
    /// What happens to calls of any other architecture.
    pub other_arch: Action,
}

/// Why a filter cannot be made.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilterError {
    /// Numbers of a table do not ascend from 0.
    #[error("system-call ranges of {arch:?} do not ascend from 0")]
    Unordered {
        /// Whose table.
        arch: Arch,
    },
    /// There is no such argument.
    #[error("a system call has no argument {argument}")]
    NoSuchArgument {
        /// The number asked for.
        argument: u8,
    },
    /// The kernel would not take it.
    #[error("the filter has {instructions} instructions, the kernel takes {INSTRUCTIONS_MAX}")]
    TooLong {
        /// How many it has.
        instructions: usize,
    },
}

/// Codes of the few instructions used.
mod code {
    pub(super) const LOAD: u16 = 0x20;
    pub(super) const AND: u16 = 0x54;
    pub(super) const JUMP: u16 = 0x05;
    pub(super) const JUMP_EQUAL: u16 = 0x15;
    pub(super) const JUMP_GREATER: u16 = 0x25;
    pub(super) const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
    pub(super) const RETURN: u16 = 0x06;
}

/// Offsets in `struct seccomp_data`.
mod offset {
    pub(super) const NUMBER: u32 = 0;
    pub(super) const ARCH: u32 = 4;
    const ARGUMENTS: u32 = 16;

    /// Low half of an argument; all supported architectures are little-endian.
    pub(super) fn low(argument: u8) -> u32 {
        ARGUMENTS + 8 * u32::from(argument)
    }

    pub(super) fn high(argument: u8) -> u32 {
        low(argument) + 4
    }
}

impl Filter {
    /// Assembles the program: an array of `sock_filter`, in this machine's byte order.
    ///
    /// # Errors
    /// [`FilterError`] says which rule cannot be expressed.
    pub fn assemble(&self) -> Result<Vec<u8>, FilterError> {
        let mut program = Backward::default();
        let mut next = program.ret(self.other_arch);
        let mut sections = Vec::with_capacity(self.tables.len());
        for table in self.tables.iter().rev() {
            sections.push((table.arch, program.section(table)?));
        }
        for (arch, section) in sections {
            next = program.branch(code::JUMP_EQUAL, arch.audit(), section, next);
        }
        program.push(code::LOAD, 0, 0, offset::ARCH);
        program.finish()
    }
}

/// Place of an instruction, counted from the end of the program.
type Place = usize;

#[derive(Debug, Clone, Copy)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

/// A program that grows at its front.
#[derive(Debug, Default)]
struct Backward {
    reversed: Vec<Instruction>,
}

impl Backward {
    fn push(&mut self, code: u16, if_true: u8, if_false: u8, value: u32) -> Place {
        self.reversed.push(Instruction {
            code,
            if_true,
            if_false,
            value,
        });
        self.reversed.len() - 1
    }

    /// Instructions between one that is put in front now and `target`.
    fn distance(&self, target: Place) -> usize {
        self.reversed.len() - target - 1
    }

    /// A return of this action, near enough for any jump from here.
    fn ret(&mut self, action: Action) -> Place {
        let value = action.value();
        let near = self.reversed.len().saturating_sub(NEAR);
        let known = self.reversed[near..]
            .iter()
            .position(|i| i.code == code::RETURN && i.value == value);
        match known {
            Some(found) => near + found,
            None => self.push(code::RETURN, 0, 0, value),
        }
    }

    /// A test of the loaded word that goes on at one of two places.
    fn branch(&mut self, code: u16, value: u32, mut yes: Place, mut no: Place) -> Place {
        loop {
            match (
                u8::try_from(self.distance(yes)),
                u8::try_from(self.distance(no)),
            ) {
                (Ok(if_true), Ok(if_false)) => return self.push(code, if_true, if_false, value),
                (Err(_), _) => yes = self.bring_near(yes),
                (_, Err(_)) => no = self.bring_near(no),
            }
        }
    }

    /// Puts something in front that does what `target` does: its copy or a long jump to it.
    fn bring_near(&mut self, target: Place) -> Place {
        let there = self.reversed[target];
        if there.code == code::RETURN {
            return self.push(code::RETURN, 0, 0, there.value);
        }
        let distance = u32::try_from(self.distance(target)).unwrap_or(u32::MAX);
        self.push(code::JUMP, 0, 0, distance)
    }

    fn section(&mut self, table: &Table) -> Result<Place, FilterError> {
        let ascending = table.ranges.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if !ascending || table.ranges.first().is_none_or(|first| first.0 != 0) {
            return Err(FilterError::Unordered { arch: table.arch });
        }
        let mut merged: Vec<&(u32, Verdict)> = Vec::with_capacity(table.ranges.len());
        for range in &table.ranges {
            if merged.last().is_none_or(|last| last.1 != range.1) {
                merged.push(range);
            }
        }
        let tree = self.search(&merged)?;
        // A load goes on with what stands behind it.
        let tree = if self.distance(tree) == 0 {
            tree
        } else {
            self.bring_near(tree)
        };
        debug_assert_eq!(self.distance(tree), 0, "the tree follows its load");
        Ok(self.push(code::LOAD, 0, 0, offset::NUMBER))
    }

    fn search(&mut self, ranges: &[&(u32, Verdict)]) -> Result<Place, FilterError> {
        if let [only] = ranges {
            return self.verdict(&only.1);
        }
        let (lower, upper) = ranges.split_at(ranges.len() / 2);
        let no = self.search(lower)?;
        let yes = self.search(upper)?;
        Ok(self.branch(code::JUMP_GREATER_OR_EQUAL, upper[0].0, yes, no))
    }

    fn verdict(&mut self, verdict: &Verdict) -> Result<Place, FilterError> {
        let mut next = self.ret(verdict.otherwise);
        for rule in verdict.rules.iter().rev() {
            let mut place = self.ret(rule.action);
            for condition in rule.conditions.iter().rev() {
                place = self.condition(*condition, place, next)?;
            }
            next = place;
        }
        Ok(next)
    }

    fn condition(
        &mut self,
        Condition {
            argument,
            comparison,
        }: Condition,
        yes: Place,
        no: Place,
    ) -> Result<Place, FilterError> {
        if argument > 5 {
            return Err(FilterError::NoSuchArgument { argument });
        }
        Ok(match comparison {
            Comparison::Equal(value) => self.equal(argument, u64::MAX, value, yes, no),
            Comparison::NotEqual(value) => self.equal(argument, u64::MAX, value, no, yes),
            Comparison::Masked { mask, value } => self.equal(argument, mask, value, yes, no),
            Comparison::Greater(value) => {
                self.greater(code::JUMP_GREATER, argument, value, yes, no)
            }
            Comparison::GreaterOrEqual(value) => {
                self.greater(code::JUMP_GREATER_OR_EQUAL, argument, value, yes, no)
            }
            Comparison::Less(value) => {
                self.greater(code::JUMP_GREATER_OR_EQUAL, argument, value, no, yes)
            }
            Comparison::LessOrEqual(value) => {
                self.greater(code::JUMP_GREATER, argument, value, no, yes)
            }
        })
    }

    /// `argument & mask == value`, half by half.
    fn equal(&mut self, argument: u8, mask: u64, value: u64, yes: Place, no: Place) -> Place {
        let low = self.half(offset::low(argument), low(mask), low(value), yes, no);
        self.half(offset::high(argument), high(mask), high(value), low, no)
    }

    fn half(&mut self, at: u32, mask: u32, value: u32, yes: Place, no: Place) -> Place {
        self.branch(code::JUMP_EQUAL, value, yes, no);
        if mask != u32::MAX {
            self.push(code::AND, 0, 0, mask);
        }
        self.push(code::LOAD, 0, 0, at)
    }

    /// `argument > value` or `>=`, as `test` says: the upper half decides unless it is equal.
    fn greater(&mut self, test: u16, argument: u8, value: u64, yes: Place, no: Place) -> Place {
        self.branch(test, low(value), yes, no);
        let lower = self.push(code::LOAD, 0, 0, offset::low(argument));
        let same = self.branch(code::JUMP_EQUAL, high(value), lower, no);
        self.branch(code::JUMP_GREATER, high(value), yes, same);
        self.push(code::LOAD, 0, 0, offset::high(argument))
    }

    fn finish(self) -> Result<Vec<u8>, FilterError> {
        let instructions = self.reversed.len();
        if instructions > INSTRUCTIONS_MAX {
            return Err(FilterError::TooLong { instructions });
        }
        let mut bytes = Vec::with_capacity(instructions * INSTRUCTION_BYTES);
        for instruction in self.reversed.iter().rev() {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.if_true, instruction.if_false]);
            bytes.extend(instruction.value.to_ne_bytes());
        }
        Ok(bytes)
    }
}

/// How far back a return is shared; less than a jump reaches, so that a condition fits in between.
const NEAR: usize = 200;

fn low(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0)
}

fn high(value: u64) -> u32 {
    low(value >> 32)
}

/// Installs a filter in this thread, for it and all its descendants. Cannot be undone.
///
/// # Errors
/// `EACCES` without `CAP_SYS_ADMIN` or `no_new_privs`; `EINVAL` for a program that is none.
pub fn install(filter: &[u8]) -> io::Result<()> {
    let instructions = filter.len() / INSTRUCTION_BYTES;
    if !filter.len().is_multiple_of(INSTRUCTION_BYTES) || instructions > INSTRUCTIONS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let program = libc::sock_fprog {
        len: u16::try_from(instructions).map_err(io::Error::other)?,
        // The kernel copies the array and does not mind its alignment.
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // As runc does: no slower branch prediction where the kernel would couple it to filters.
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    let operation = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program names `filter`, which is valid for reads of its length during the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, &raw const program) })
        .map(drop)
}

/// A system call as a filter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The kernel's number of the architecture, see [`Arch::audit`].
    pub arch: u32,
    /// Number of the call.
    pub number: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

impl Call {
    fn word(&self, at: u32) -> Option<u32> {
        match at {
            offset::NUMBER => return Some(self.number),
            offset::ARCH => return Some(self.arch),
            _ => {}
        }
        let argument = u8::try_from(at.checked_sub(offset::low(0))? / 8).ok()?;
        let value = *self.arguments.get(usize::from(argument))?;
        Some(if at == offset::low(argument) {
            low(value)
        } else {
            high(value)
        })
    }
}

/// Says what an assembled filter answers to a call, and after how many instructions, without
/// installing it; none for bytes that are no program of ours.
pub fn evaluate(program: &[u8], call: &Call) -> Option<(u32, usize)> {
    let (mut at, mut word) = (0, 0);
    for step in 1..=INSTRUCTIONS_MAX {
        let bytes = program.get(at * INSTRUCTION_BYTES..(at + 1) * INSTRUCTION_BYTES)?;
        let value = u32::from_ne_bytes(bytes[4..].try_into().ok()?);
        let holds = match u16::from_ne_bytes([bytes[0], bytes[1]]) {
            code::RETURN => return Some((value, step)),
            code::LOAD => {
                word = call.word(value)?;
                None
            }
            code::AND => {
                word &= value;
                None
            }
            code::JUMP => {
                at += usize::try_from(value).ok()?;
                None
            }
            code::JUMP_EQUAL => Some(word == value),
            code::JUMP_GREATER => Some(word > value),
            code::JUMP_GREATER_OR_EQUAL => Some(word >= value),
            _ => return None,
        };
        at += 1 + holds.map_or(0, |holds| usize::from(bytes[if holds { 2 } else { 3 }]));
    }
    None
}

#[cfg(test)]
mod tests;
