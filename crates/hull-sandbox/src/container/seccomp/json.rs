//! Profiles in the JSON form that Docker's clients send.

use std::borrow::Cow;

use hull_os::seccomp::{Action, Arch, Comparison, Condition};
use serde::Deserialize;

use super::{Abi, EPERM, Group, Profile, ProfileError, Requirement, Target};
use crate::container::capability;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Document {
    default_action: String,
    default_errno_ret: Option<u16>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchEntry>>,
    syscalls: Option<Vec<Syscall>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchEntry {
    #[serde(default)]
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Syscall {
    /// The old form, one name.
    name: String,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u16>,
    args: Option<Vec<Argument>>,
    includes: Option<Requires>,
    excludes: Option<Requires>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Requires {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

pub(super) fn parse(text: &str, target: &Target) -> Result<Profile, ProfileError> {
    let document: Document = serde_json::from_str(text).map_err(ProfileError::Decode)?;
    let syscalls = document.syscalls.unwrap_or_default();
    let architectures = document.architectures.unwrap_or_default();
    let arch_map = document.arch_map.unwrap_or_default();
    if !architectures.is_empty() && !arch_map.is_empty() {
        return Err(ProfileError::Both {
            first: "architectures",
            second: "archMap",
        });
    }
    if document.default_action.is_empty() && syscalls.is_empty() {
        // Docker takes this as "no filter": one that allows everything is the same to a program.
        return Ok(Profile {
            default: Action::Allow,
            others: Vec::new(),
            groups: Cow::default(),
        });
    }
    let default = action(&document.default_action, document.default_errno_ret)?;
    let mut groups = Vec::with_capacity(syscalls.len());
    for syscall in syscalls {
        convert(syscall, default, &mut groups)?;
    }
    let others = architectures
        .iter()
        .chain(subordinate(&arch_map, target.arch));
    Ok(Profile {
        default,
        // Tables of machines that this one cannot run are of no use.
        others: others.filter_map(|name| abi(name)).collect(),
        groups: Cow::Owned(groups),
    })
}

fn subordinate(map: &[ArchEntry], arch: Arch) -> impl Iterator<Item = &String> {
    let native = Abi::native(arch);
    let entry = map
        .iter()
        .find(move |entry| abi(&entry.architecture) == Some(native));
    entry
        .into_iter()
        .flat_map(|entry| entry.sub_architectures.iter().flatten())
}

fn abi(name: &str) -> Option<Abi> {
    match name {
        "SCMP_ARCH_X86_64" => Some(Abi::X86_64),
        "SCMP_ARCH_X32" => Some(Abi::X32),
        "SCMP_ARCH_X86" => Some(Abi::X86),
        "SCMP_ARCH_AARCH64" => Some(Abi::Aarch64),
        "SCMP_ARCH_ARM" => Some(Abi::Arm),
        _ => None,
    }
}

fn convert(syscall: Syscall, default: Action, into: &mut Vec<Group>) -> Result<(), ProfileError> {
    let names = syscall.names.unwrap_or_default();
    if !syscall.name.is_empty() && !names.is_empty() {
        return Err(ProfileError::Both {
            first: "name",
            second: "names",
        });
    }
    let names = if names.is_empty() {
        syscall.name
    } else {
        names.join(" ")
    };
    let action = action(&syscall.action, syscall.errno_ret)?;
    let (Some(includes), Some(excludes)) = (
        requirement(syscall.includes, true)?,
        requirement(syscall.excludes, false)?,
    ) else {
        return Ok(());
    };
    // As runc: what says the same as the default says nothing.
    if action == default {
        return Ok(());
    }
    let conditions = syscall
        .args
        .unwrap_or_default()
        .iter()
        .map(condition)
        .collect::<Result<Vec<_>, _>>()?;
    for conditions in alternatives(conditions) {
        into.push(Group {
            names: Cow::Owned(names.clone()),
            action,
            conditions: Cow::Owned(conditions),
            includes: includes.clone(),
            excludes: excludes.clone(),
        });
    }
    Ok(())
}

/// Conditions hold together, unless two of them speak of the same argument: then, as in runc, any
/// one of them is enough.
fn alternatives(conditions: Vec<Condition>) -> Vec<Vec<Condition>> {
    let repeated = |at: usize| {
        conditions[..at]
            .iter()
            .any(|c| c.argument == conditions[at].argument)
    };
    if (0..conditions.len()).any(repeated) {
        conditions
            .into_iter()
            .map(|condition| vec![condition])
            .collect()
    } else {
        vec![conditions]
    }
}

/// None: a group that includes a capability which does not exist never counts.
fn requirement(
    given: Option<Requires>,
    must_exist: bool,
) -> Result<Option<Requirement>, ProfileError> {
    let given = given.unwrap_or_default();
    let mut capabilities = 0;
    for name in given.caps.unwrap_or_default() {
        match capability::number(&name) {
            Some(number) => capabilities |= 1 << number,
            None if must_exist => return Ok(None),
            None => {}
        }
    }
    let kernel = match given.min_kernel.unwrap_or_default() {
        text if text.is_empty() => None,
        text => Some(kernel(&text)?),
    };
    let arches = Cow::Owned(given.arches.unwrap_or_default().join(" "));
    Ok(Some(Requirement {
        capabilities,
        arches,
        kernel,
    }))
}

fn kernel(text: &str) -> Result<(u16, u16), ProfileError> {
    let parts = text.split_once('.');
    let parsed =
        parts.and_then(|(version, major)| Some((version.parse().ok()?, major.parse().ok()?)));
    parsed.ok_or_else(|| unsupported("minKernel", text))
}

fn unsupported(what: &'static str, text: &str) -> ProfileError {
    ProfileError::Unsupported {
        what,
        text: text.to_owned(),
    }
}

fn action(name: &str, errno: Option<u16>) -> Result<Action, ProfileError> {
    let errno = errno.unwrap_or(EPERM);
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_TRACE" => Action::Trace(errno),
        "SCMP_ACT_LOG" => Action::Log,
        other => return Err(unsupported("action", other)),
    })
}

fn condition(argument: &Argument) -> Result<Condition, ProfileError> {
    let value = argument.value;
    let comparison = match argument.op.as_str() {
        "SCMP_CMP_EQ" => Comparison::Equal(value),
        "SCMP_CMP_NE" => Comparison::NotEqual(value),
        "SCMP_CMP_LT" => Comparison::Less(value),
        "SCMP_CMP_LE" => Comparison::LessOrEqual(value),
        "SCMP_CMP_GT" => Comparison::Greater(value),
        "SCMP_CMP_GE" => Comparison::GreaterOrEqual(value),
        "SCMP_CMP_MASKED_EQ" => Comparison::Masked {
            mask: value,
            value: argument.value_two,
        },
        other => return Err(unsupported("operator", other)),
    };
    Ok(Condition {
        argument: argument.index,
        comparison,
    })
}
