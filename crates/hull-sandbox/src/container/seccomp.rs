//! The system-call filter of a container: from a profile to the kernel's program.
//!
//! ```text
//!  Docker's default ─┐                 capabilities, kernel, architecture
//!                    ├─▶ Profile ──────────────▼──────────────▶ Filter ──▶ bytes for the shim
//!  the user's JSON  ─┘   groups of names    which groups count    numbers
//! ```
//!
//! A profile speaks of names; the same rules are made for the native architecture and for those
//! whose programs run on it too (i386 and x32 on x86_64, arm on aarch64). A call that is newer than
//! everything the profile names answers ENOSYS, as runc does, so that a C library falls back to an
//! older one instead of failing with EPERM.

mod calls;
mod default;
mod json;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hull_model::ErrorKind;
use hull_os::seccomp::{
    Action, Arch, Condition, Filter, FilterError, Rule, Table, Verdict, X32_BIT,
};

/// Compiled filters that are kept: more than the usual few combinations of capabilities.
const CACHED_MAX: usize = 32;

/// "Operation not permitted".
const EPERM: u16 = 1;
/// "Function not implemented".
const ENOSYS: u16 = 38;

/// A profile that cannot become a filter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// It is not JSON of the known form. The text is Docker's.
    #[error("Decoding seccomp profile failed")]
    Decode(#[source] serde_json::Error),
    /// Two fields that exclude each other. The text is Docker's.
    #[error(
        "both '{first}' and '{second}' are specified in the seccomp profile, use either '{first}' \
         or '{second}'"
    )]
    Both {
        /// One field.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// An action, operator or number that is unknown or that we cannot carry out.
    #[error("seccomp profile: {what} {text} is not supported")]
    Unsupported {
        /// Which field.
        what: &'static str,
        /// Its content.
        text: String,
    },
    /// The rules are too many or refer to an argument that does not exist.
    #[error("seccomp profile cannot be compiled")]
    Compile(#[source] FilterError),
}

impl ProfileError {
    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            ProfileError::Unsupported { .. } => ErrorKind::Unsupported,
            ProfileError::Decode(_) | ProfileError::Both { .. } | ProfileError::Compile(_) => {
                ErrorKind::InvalidArgument
            }
        }
    }
}

/// What decides which groups of a profile count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Where the filter will run.
    pub arch: Arch,
    /// The container's bounding set.
    pub capabilities: u64,
    /// Version and major revision of the kernel: 6 and 18 of 6.18.44.
    pub kernel: (u16, u16),
}

impl Target {
    /// This machine's kernel, with a container's capabilities.
    pub fn here(capabilities: u64) -> Self {
        static KERNEL: OnceLock<(u16, u16)> = OnceLock::new();
        let kernel = *KERNEL.get_or_init(|| {
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
            // No /proc, no version: rules for newer kernels do not count.
            release
                .ok()
                .and_then(|text| parse_version(&text))
                .unwrap_or((0, 0))
        });
        Self {
            arch: Arch::NATIVE,
            capabilities,
            kernel,
        }
    }
}

/// Reads `6.18` of `6.18.44-custom`.
fn parse_version(text: &str) -> Option<(u16, u16)> {
    let mut parts = text.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A system-call table: an architecture, or x32 in the upper half of x86_64's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Abi {
    X86_64,
    X32,
    X86,
    Aarch64,
    Arm,
}

impl Abi {
    fn native(arch: Arch) -> Self {
        match arch {
            Arch::X86_64 => Abi::X86_64,
            Arch::X86 => Abi::X86,
            Arch::Aarch64 => Abi::Aarch64,
            Arch::Arm => Abi::Arm,
        }
    }

    fn arch(self) -> Arch {
        match self {
            Abi::X86_64 | Abi::X32 => Arch::X86_64,
            Abi::X86 => Arch::X86,
            Abi::Aarch64 => Arch::Aarch64,
            Abi::Arm => Arch::Arm,
        }
    }

    /// The number of a call; none for one that is unknown here.
    fn number(self, name: &str) -> Option<u32> {
        let row = calls::CALLS
            .binary_search_by_key(&name, |call| call.0)
            .ok()?;
        let numbers = calls::CALLS[row].1;
        let plain = |column: usize| u32::try_from(numbers[column]).ok();
        match self {
            Abi::X86_64 => plain(0),
            Abi::X86 => plain(1),
            Abi::Aarch64 => plain(2),
            Abi::Arm => plain(3),
            Abi::X32 if calls::NOT_X32.contains(&name) => None,
            Abi::X32 => {
                let special = calls::X32.iter().find(|call| call.0 == name);
                let number = special.map_or(plain(0), |call| u32::try_from(call.1).ok());
                number.map(|number| number | X32_BIT)
            }
        }
    }
}

/// A profile before it is known for whom.
#[derive(Debug, Clone)]
struct Profile {
    /// What happens to calls that no group names.
    default: Action,
    /// Architectures besides the native one.
    others: Vec<Abi>,
    groups: Cow<'static, [Group]>,
}

/// Rules for a group of calls, under conditions on the container and the host.
#[derive(Debug, Clone)]
struct Group {
    /// Separated by spaces. Names that no table knows are skipped, as libseccomp does.
    names: Cow<'static, str>,
    action: Action,
    /// All must hold; none: always.
    conditions: Cow<'static, [Condition]>,
    /// All of it must be so.
    includes: Requirement,
    /// None of it may be so.
    excludes: Requirement,
}

/// What a group of rules depends on; empty parts do not matter.
#[derive(Debug, Clone)]
struct Requirement {
    capabilities: u64,
    /// Docker's names, separated by spaces: `amd64 x32`.
    arches: Cow<'static, str>,
    kernel: Option<(u16, u16)>,
}

/// A requirement that nothing depends on.
const NOTHING: Requirement = Requirement {
    capabilities: 0,
    arches: Cow::Borrowed(""),
    kernel: None,
};

/// What Docker calls an architecture.
fn docker_name(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "amd64",
        Arch::X86 => "x86",
        Arch::Aarch64 => "arm64",
        Arch::Arm => "arm",
    }
}

impl Requirement {
    fn names_arch(&self, target: &Target) -> bool {
        self.arches
            .split(' ')
            .any(|arch| arch == docker_name(target.arch))
    }

    /// Every part that is given is fulfilled.
    fn all_of(&self, target: &Target) -> bool {
        (self.arches.is_empty() || self.names_arch(target))
            && self.capabilities & !target.capabilities == 0
            && self.kernel.is_none_or(|least| target.kernel >= least)
    }

    /// Some part that is given is fulfilled.
    fn any_of(&self, target: &Target) -> bool {
        self.names_arch(target)
            || self.capabilities & target.capabilities != 0
            || self.kernel.is_some_and(|least| target.kernel >= least)
    }
}

impl Profile {
    fn compile(&self, target: &Target) -> Result<Vec<u8>, FilterError> {
        let counts =
            |group: &&Group| group.includes.all_of(target) && !group.excludes.any_of(target);
        let groups: Vec<&Group> = self.groups.iter().filter(counts).collect();
        let native = Abi::native(target.arch);
        let mut tables = vec![self.table(native, &groups)];
        for other in self
            .others
            .iter()
            .filter(|other| **other != native && **other != Abi::X32)
        {
            tables.push(self.table(*other, &groups));
        }
        Filter {
            tables,
            other_arch: Action::KillThread,
        }
        .assemble()
    }

    fn table(&self, abi: Abi, groups: &[&Group]) -> Table {
        let mut ranges = self.ranges(abi, groups);
        if abi == Abi::X86_64 && self.others.contains(&Abi::X32) {
            ranges.extend(self.ranges(Abi::X32, groups));
        } else if abi == Abi::X86_64 {
            ranges.push((X32_BIT, Action::KillThread.into()));
        }
        Table {
            arch: abi.arch(),
            ranges,
        }
    }

    fn ranges(&self, abi: Abi, groups: &[&Group]) -> Vec<(u32, Verdict)> {
        let first = if abi == Abi::X32 { X32_BIT } else { 0 };
        let named = self.verdicts(abi, groups);
        let mut ranges = Vec::with_capacity(2 * named.len() + 2);
        let mut next = first;
        for (number, verdict) in named {
            if number > next {
                ranges.push((next, self.default.into()));
            }
            ranges.push((number, verdict));
            next = number + 1;
        }
        ranges.push((next, self.newer().into()));
        ranges
    }

    /// What happens to calls that are newer than all that are named.
    fn newer(&self) -> Action {
        match self.default {
            Action::Allow | Action::Log | Action::Trace(_) => self.default,
            Action::Errno(_) | Action::Trap | Action::KillThread | Action::KillProcess => {
                Action::Errno(ENOSYS)
            }
        }
    }

    fn verdicts(&self, abi: Abi, groups: &[&Group]) -> BTreeMap<u32, Verdict> {
        let mut named: BTreeMap<u32, Verdict> = BTreeMap::new();
        for group in groups {
            for number in group.names.split(' ').filter_map(|name| abi.number(name)) {
                let verdict = named.entry(number).or_insert_with(|| self.default.into());
                if !group.conditions.is_empty() {
                    let conditions = group.conditions.to_vec();
                    verdict.rules.push(Rule {
                        conditions,
                        action: group.action,
                    });
                } else if verdict.otherwise == self.default {
                    // The first unconditional rule that says something counts.
                    verdict.otherwise = group.action;
                }
            }
        }
        for verdict in named.values_mut() {
            let otherwise = verdict.otherwise;
            // Rules at the end that change nothing would only make the program longer.
            while verdict
                .rules
                .last()
                .is_some_and(|rule| rule.action == otherwise)
            {
                verdict.rules.pop();
            }
        }
        named
    }
}

/// Compiles Docker's default profile for a container with these capabilities on this machine.
///
/// # Errors
/// None is known; the profile is tested to compile with any set.
pub fn compile_default(capabilities: u64) -> Result<Arc<[u8]>, ProfileError> {
    let target = Target::here(capabilities & default::CAPABILITIES);
    cached(target, "", || compile_default_for(&target))
}

/// Compiles Docker's default profile for any machine.
///
/// # Errors
/// As [`compile_default`].
pub fn compile_default_for(target: &Target) -> Result<Arc<[u8]>, ProfileError> {
    default::profile(target.arch)
        .compile(target)
        .map(Arc::from)
        .map_err(ProfileError::Compile)
}

/// Compiles a profile in Docker's JSON form, as the client sends it with
/// `--security-opt seccomp=FILE`, for a container with these capabilities on this machine.
///
/// # Errors
/// [`ProfileError`] says what is wrong with it.
pub fn compile_json(text: &str, capabilities: u64) -> Result<Arc<[u8]>, ProfileError> {
    let target = Target::here(capabilities);
    cached(target, text, || {
        let profile = json::parse(text, &target)?;
        profile
            .compile(&target)
            .map(Arc::from)
            .map_err(ProfileError::Compile)
    })
}

type Cached = Vec<(Target, String, Arc<[u8]>)>;

/// Keeps the last few filters: most containers of a host share one.
fn cached(
    target: Target,
    text: &str,
    compile: impl FnOnce() -> Result<Arc<[u8]>, ProfileError>,
) -> Result<Arc<[u8]>, ProfileError> {
    static CACHE: Mutex<Cached> = Mutex::new(Vec::new());
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = cache
        .iter()
        .find(|entry| entry.0 == target && entry.1 == text)
    {
        return Ok(Arc::clone(&known.2));
    }
    let compiled = compile()?;
    if cache.len() == CACHED_MAX {
        cache.remove(0);
    }
    cache.push((target, text.to_owned(), Arc::clone(&compiled)));
    Ok(compiled)
}

#[cfg(test)]
mod tests;
