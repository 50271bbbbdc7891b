//! Which devices a cgroup may use: rules, and the program that holds them on v2.
//!
//! v1 takes the rules one by one. v2 has no file for them: a small program that we assemble is
//! asked at each open and mknod. It gives the answers that v1 would give.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::str::FromStr;

use crate::process::{check, own};

/// A rule of devices. Rules apply in order, each to what the ones before it left; a list usually
/// begins with [`DENY_ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceRule {
    /// Give or take.
    pub allow: bool,
    /// What kind of device.
    pub kind: DeviceKind,
    /// Major number; none: any.
    pub major: Option<u32>,
    /// Minor number; none: any.
    pub minor: Option<u32>,
    /// What may be done with it.
    pub access: Access,
}

/// What kind of device a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Every device: numbers and access of the rule do not matter.
    All,
    /// Block devices.
    Block,
    /// Character devices.
    Character,
}

/// What may be done with a device: bits of the kernel's `DEVCG_ACC_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    /// Make a node of it.
    pub const MKNOD: Access = Access(1);
    /// Open it for reading.
    pub const READ: Access = Access(2);
    /// Open it for writing.
    pub const WRITE: Access = Access(4);
    /// All three.
    pub const ALL: Access = Access(7);

    const LETTERS: [(char, u8); 3] = [('r', 2), ('w', 4), ('m', 1)];
}

/// Takes every device away.
pub const DENY_ALL: DeviceRule = DeviceRule {
    allow: false,
    kind: DeviceKind::All,
    major: None,
    minor: None,
    access: Access::ALL,
};

const fn character(major: u32, minor: Option<u32>) -> DeviceRule {
    DeviceRule {
        allow: true,
        kind: DeviceKind::Character,
        major: Some(major),
        minor,
        access: Access::ALL,
    }
}

const fn any_node(kind: DeviceKind) -> DeviceRule {
    DeviceRule {
        allow: true,
        kind,
        major: None,
        minor: None,
        access: Access::MKNOD,
    }
}

/// What runc gives a container: every node may be made, and those may be used that say nothing
/// about the host: null, zero, full, random, urandom, tty, console, ptmx, ptys and tun.
pub const CONTAINER_RULES: [DeviceRule; 13] = [
    DENY_ALL,
    any_node(DeviceKind::Character),
    any_node(DeviceKind::Block),
    character(1, Some(3)),
    character(1, Some(5)),
    character(1, Some(7)),
    character(1, Some(8)),
    character(1, Some(9)),
    character(5, Some(0)),
    character(5, Some(1)),
    character(5, Some(2)),
    character(136, None),
    character(10, Some(200)),
];

impl fmt::Display for DeviceRule {
    /// `+c 1:3 rwm`: the sign is ours, the rest is the kernel's form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allow { "+" } else { "-" })?;
        f.write_str(&self.kernel_text())
    }
}

/// A text that is no rule of devices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid device cgroup rule: '{text}'")]
pub struct InvalidDeviceRule {
    /// What was given.
    pub text: String,
}

impl FromStr for DeviceRule {
    type Err = InvalidDeviceRule;

    /// Reads the kernel's form, `c 1:3 rwm` or `a`, as `--device-cgroup-rule` has it; a leading
    /// `-` takes away.
    fn from_str(text: &str) -> Result<Self, InvalidDeviceRule> {
        parse(text).ok_or_else(|| InvalidDeviceRule {
            text: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<DeviceRule> {
    let (allow, text) = match text.strip_prefix('-') {
        Some(rest) => (false, rest),
        None => (true, text.strip_prefix('+').unwrap_or(text)),
    };
    let mut words = text.split(' ');
    let kind = match words.next()? {
        "a" => DeviceKind::All,
        "b" => DeviceKind::Block,
        "c" => DeviceKind::Character,
        _ => return None,
    };
    let Some(numbers) = words.next() else {
        return (kind == DeviceKind::All).then_some(DeviceRule { allow, ..DENY_ALL });
    };
    let number = |text: &str| match text {
        "*" => Some(None),
        digits => digits.parse().ok().map(Some),
    };
    let (major, minor) = numbers.split_once(':')?;
    let (major, minor) = (number(major)?, number(minor)?);
    let mut access = 0;
    for letter in words.next()?.chars() {
        access |= Access::LETTERS.iter().find(|known| known.0 == letter)?.1;
    }
    let end = words.next().is_none() && access != 0;
    end.then_some(DeviceRule {
        allow,
        kind,
        major,
        minor,
        access: Access(access),
    })
}

impl DeviceRule {
    /// What v1 takes in `devices.allow` and `devices.deny`.
    pub(super) fn kernel_text(&self) -> String {
        let letter = match self.kind {
            DeviceKind::All => return "a".to_owned(),
            DeviceKind::Block => 'b',
            DeviceKind::Character => 'c',
        };
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        let has = |letter: &&(char, u8)| self.access.0 & letter.1 != 0;
        let access: String = Access::LETTERS
            .iter()
            .filter(has)
            .map(|letter| letter.0)
            .collect();
        format!(
            "{letter} {}:{} {access}",
            number(self.major),
            number(self.minor)
        )
    }

    fn same_devices(&self, other: &DeviceRule) -> bool {
        (self.kind, self.major, self.minor) == (other.kind, other.major, other.minor)
    }
}

/// What a list of rules comes to: a default and the exceptions from it, as v1 keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Exceptions {
    default_allow: bool,
    /// Each device once; `allow` is the opposite of the default.
    rules: Vec<DeviceRule>,
}

impl Exceptions {
    fn of(rules: &[DeviceRule]) -> Self {
        let mut state = Self {
            default_allow: true,
            rules: Vec::new(),
        };
        for rule in rules {
            state.apply(*rule);
        }
        state
    }

    fn apply(&mut self, rule: DeviceRule) {
        if rule.kind == DeviceKind::All {
            *self = Self {
                default_allow: rule.allow,
                rules: Vec::new(),
            };
            return;
        }
        let known = self
            .rules
            .iter_mut()
            .find(|known| known.same_devices(&rule));
        match (rule.allow == self.default_allow, known) {
            (true, Some(known)) => known.access.0 &= !rule.access.0,
            (true, None) => {}
            (false, Some(known)) => known.access.0 |= rule.access.0,
            (false, None) => self.rules.push(rule),
        }
        self.rules.retain(|rule| rule.access.0 != 0);
    }
}

/// One instruction of the kernel's machine.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

/// Codes of the instructions used, and registers: r1 is the question, r0 the answer.
mod code {
    pub(super) const LOAD_WORD: u8 = 0x61;
    pub(super) const AND: u8 = 0x54;
    pub(super) const SHIFT_RIGHT: u8 = 0x74;
    pub(super) const COPY_REGISTER: u8 = 0xbc;
    pub(super) const SET: u8 = 0xb4;
    pub(super) const JUMP_NOT_EQUAL: u8 = 0x56;
    pub(super) const JUMP_EQUAL: u8 = 0x16;
    pub(super) const EXIT: u8 = 0x95;
}

const ANSWER: u8 = 0;
const QUESTION: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The kernel's numbers of device kinds.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

const fn with_value(code: u8, register: u8, value: i32) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset: 0,
        value,
    }
}

const fn from_register(code: u8, to: u8, from: u8, offset: i16) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        value: 0,
    }
}

/// Assembles the program that answers as v1 would with these rules.
fn assemble(rules: &[DeviceRule]) -> Vec<Instruction> {
    let state = Exceptions::of(rules);
    let mut program = vec![
        from_register(code::LOAD_WORD, KIND, QUESTION, 0),
        from_register(code::COPY_REGISTER, ACCESS, KIND, 0),
        with_value(code::AND, KIND, 0xffff),
        with_value(code::SHIFT_RIGHT, ACCESS, 16),
        from_register(code::LOAD_WORD, MAJOR, QUESTION, 4),
        from_register(code::LOAD_WORD, MINOR, QUESTION, 8),
    ];
    for rule in &state.rules {
        program.extend(exception(rule, state.default_allow));
    }
    program.extend(answer(state.default_allow));
    program
}

fn answer(allow: bool) -> [Instruction; 2] {
    [
        with_value(code::SET, ANSWER, i32::from(allow)),
        with_value(code::EXIT, 0, 0),
    ]
}

fn exception(rule: &DeviceRule, default_allow: bool) -> Vec<Instruction> {
    let kind = if rule.kind == DeviceKind::Block {
        BLOCK
    } else {
        CHARACTER
    };
    let mut tests = vec![with_value(code::JUMP_NOT_EQUAL, KIND, kind)];
    for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
        if let Some(number) = number {
            tests.push(with_value(
                code::JUMP_NOT_EQUAL,
                register,
                number.cast_signed(),
            ));
        }
    }
    if rule.access != Access::ALL {
        tests.push(from_register(code::COPY_REGISTER, QUESTION, ACCESS, 0));
        if default_allow {
            // Denied when any of what is asked for is taken away.
            tests.push(with_value(code::AND, QUESTION, i32::from(rule.access.0)));
            tests.push(with_value(code::JUMP_EQUAL, QUESTION, 0));
        } else {
            // Allowed when all of what is asked for is given.
            tests.push(with_value(code::AND, QUESTION, !i32::from(rule.access.0)));
            tests.push(with_value(code::JUMP_NOT_EQUAL, QUESTION, 0));
        }
    }
    let mut left = tests.len() + 2;
    for test in &mut tests {
        left -= 1;
        if matches!(test.code, code::JUMP_NOT_EQUAL | code::JUMP_EQUAL) {
            test.offset = i16::try_from(left).unwrap_or(i16::MAX);
        }
    }
    tests.extend(answer(!default_allow));
    tests
}

/// `bpf(2)`, as far as it is used here.
mod bpf {
    pub(super) const PROG_LOAD: i32 = 5;
    pub(super) const PROG_ATTACH: i32 = 8;
    pub(super) const PROG_DETACH: i32 = 9;
    pub(super) const PROG_GET_FD_BY_ID: i32 = 13;
    pub(super) const PROG_QUERY: i32 = 16;
    pub(super) const TYPE_CGROUP_DEVICE: u32 = 15;
    pub(super) const ATTACH_CGROUP_DEVICE: u32 = 6;
    pub(super) const ALLOW_MULTI: u32 = 2;
    /// Programs of one cgroup that the kernel takes at most.
    pub(super) const PROGRAMS_MAX: usize = 64;
}

#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttributes {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttributes {
    id: u32,
    next: u32,
    flags: u32,
}

fn call<T>(command: i32, attributes: &mut T) -> io::Result<libc::c_long> {
    let size = size_of::<T>();
    // SAFETY: the attributes are valid for `size` bytes, have the layout of this command's part of
    // the kernel's union, and their pointers name buffers that outlive the call.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size) })
}

fn load(rules: &[DeviceRule]) -> io::Result<OwnedFd> {
    let program = assemble(rules);
    let mut name = [0; 16];
    name[..12].copy_from_slice(b"hull_devices");
    own(call(
        bpf::PROG_LOAD,
        &mut LoadAttributes {
            program_type: bpf::TYPE_CGROUP_DEVICE,
            instruction_count: u32::try_from(program.len()).map_err(io::Error::other)?,
            instructions: program.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            name,
            ..LoadAttributes::default()
        },
    )?)
}

fn number(fd: RawFd) -> u32 {
    u32::try_from(fd).unwrap_or(u32::MAX)
}

/// Makes these the rules of a v2 cgroup, in place of those it had.
pub(super) fn replace_program(cgroup: &OwnedFd, rules: &[DeviceRule]) -> io::Result<()> {
    let program = load(rules)?;
    let before = attached(cgroup)?;
    let mut attributes = AttachAttributes {
        target: number(cgroup.as_raw_fd()),
        program: number(program.as_raw_fd()),
        attach_type: bpf::ATTACH_CGROUP_DEVICE,
        flags: bpf::ALLOW_MULTI,
    };
    call(bpf::PROG_ATTACH, &mut attributes)?;
    // All programs must agree, so the old ones stay in force until the new one is.
    for id in before {
        let attributes = &mut IdAttributes {
            id,
            ..IdAttributes::default()
        };
        let old = own(call(bpf::PROG_GET_FD_BY_ID, attributes)?)?;
        let mut attributes = AttachAttributes {
            target: number(cgroup.as_raw_fd()),
            program: number(old.as_raw_fd()),
            attach_type: bpf::ATTACH_CGROUP_DEVICE,
            flags: 0,
        };
        call(bpf::PROG_DETACH, &mut attributes)?;
    }
    Ok(())
}

/// Ids of the device programs that a cgroup has itself.
fn attached(cgroup: &OwnedFd) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; bpf::PROGRAMS_MAX];
    let mut attributes = QueryAttributes {
        target: number(cgroup.as_raw_fd()),
        attach_type: bpf::ATTACH_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: u32::try_from(ids.len()).map_err(io::Error::other)?,
        ..QueryAttributes::default()
    };
    call(bpf::PROG_QUERY, &mut attributes)?;
    ids.truncate(usize::try_from(attributes.count).map_err(io::Error::other)?);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::{
        Access, BLOCK, CHARACTER, CONTAINER_RULES, DENY_ALL, DeviceRule, Instruction, assemble,
        code,
    };

    fn rule(text: &str) -> DeviceRule {
        text.parse().unwrap()
    }

    /// Runs a program on a question.
    fn ask(program: &[Instruction], kind: i32, access: Access, major: u32, minor: u32) -> bool {
        let mut registers = [0u32; 6];
        let question = [kind as u32 | u32::from(access.0) << 16, major, minor];
        let mut at = 0usize;
        loop {
            let i = program[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let value = i.value as u32;
            let mut jump = |holds: bool| {
                at += if holds {
                    usize::try_from(i.offset).unwrap()
                } else {
                    0
                }
            };
            match i.code {
                code::LOAD_WORD => registers[to] = question[usize::try_from(i.offset).unwrap() / 4],
                code::COPY_REGISTER => registers[to] = registers[from],
                code::AND => registers[to] &= value,
                code::SHIFT_RIGHT => registers[to] >>= value,
                code::SET => registers[to] = value,
                code::JUMP_EQUAL => jump(registers[to] == value),
                code::JUMP_NOT_EQUAL => jump(registers[to] != value),
                code::EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
            at += 1;
        }
    }

    const READ: Access = Access::READ;
    const READ_WRITE: Access = Access(6);

    fn check(rules: &[&str], kind: i32, access: Access, device: (u32, u32), expected: bool) {
        let parsed: Vec<DeviceRule> = rules.iter().map(|text| rule(text)).collect();
        let found = ask(&assemble(&parsed), kind, access, device.0, device.1);
        assert_eq!(found, expected, "{rules:?}: {kind} {access:?} {device:?}");
    }

    #[test]
    fn rules_are_read_and_written_in_the_kernels_form() {
        for text in ["c 1:3 rwm", "b *:* m", "c 136:* rw", "c *:9 r"] {
            assert_eq!(rule(text).kernel_text(), text);
        }
        assert_eq!(
            rule("a *:* rwm"),
            DeviceRule {
                allow: true,
                ..DENY_ALL
            }
        );
        assert_eq!(rule("-a"), DENY_ALL);
        for rule in CONTAINER_RULES {
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
        for text in [
            "",
            "d 1:3 r",
            "c 1 r",
            "c 1:3",
            "c 1:3 x",
            "c 1:3 r r",
            "c -1:3 r",
            "c 1:3 ",
        ] {
            assert!(text.parse::<DeviceRule>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn later_rules_change_what_earlier_ones_left() {
        check(&["-a", "c 1:3 rwm"], CHARACTER, READ_WRITE, (1, 3), true);
        check(&["-a", "c 1:3 rwm"], CHARACTER, READ, (1, 5), false);
        check(&["-a", "c 1:3 rwm"], BLOCK, READ, (1, 3), false);
        check(&["-a", "c 1:3 r"], CHARACTER, READ_WRITE, (1, 3), false);
        check(
            &["-a", "c 1:3 r", "c 1:3 w"],
            CHARACTER,
            READ_WRITE,
            (1, 3),
            true,
        );
        check(
            &["-a", "c 1:3 rw", "-c 1:3 w"],
            CHARACTER,
            READ_WRITE,
            (1, 3),
            false,
        );
        check(
            &["-a", "c 1:3 rw", "-c 1:3 w"],
            CHARACTER,
            READ,
            (1, 3),
            true,
        );
        check(&["-c 1:3 w"], CHARACTER, READ_WRITE, (1, 3), false);
        check(&["-c 1:3 w"], CHARACTER, READ, (1, 3), true);
        check(&["-a", "a"], BLOCK, READ_WRITE, (8, 0), true);
        check(&[], BLOCK, READ_WRITE, (8, 0), true);
        check(
            &["-a", "c 136:* rwm"],
            CHARACTER,
            READ_WRITE,
            (136, 77),
            true,
        );
    }

    #[test]
    fn a_container_may_make_every_node_and_use_the_harmless() {
        let program = assemble(&CONTAINER_RULES);
        assert!(ask(&program, BLOCK, Access::MKNOD, 8, 0));
        assert!(!ask(&program, BLOCK, READ, 8, 0));
        assert!(ask(&program, CHARACTER, READ_WRITE, 1, 9));
        assert!(!ask(&program, CHARACTER, READ, 1, 1));
        assert!(!ask(&program, CHARACTER, READ, 10, 229));
    }
}
