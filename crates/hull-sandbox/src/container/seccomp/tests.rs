use hull_os::seccomp::{Action, Arch, Call, X32_BIT, evaluate};

use super::{Abi, Target, calls, compile_default_for, compile_json, default, json, parse_version};
use crate::container::capability;

/// Docker's fourteen on this kernel.
const DOCKER: Target = Target {
    arch: Arch::X86_64,
    capabilities: capability::DEFAULT,
    kernel: (6, 18),
};

fn verdict(program: &[u8], arch: Arch, number: u32, first: u64) -> u32 {
    let call = Call {
        arch: arch.audit(),
        number,
        arguments: [first, 0, 0, 0, 0, 0],
    };
    evaluate(program, &call).unwrap().0
}

/// What a call by name answers, with a first argument.
fn check(target: &Target, name: &str, first: u64, expected: Action) {
    let program = compile_default_for(target).unwrap();
    let number = Abi::native(target.arch).number(name).unwrap();
    let found = verdict(&program, target.arch, number, first);
    assert_eq!(
        found,
        expected.value(),
        "{name}({first:#x}) for {target:x?}"
    );
}

fn with(names: &str) -> Target {
    let added = names
        .split(' ')
        .map(|name| 1 << capability::number(name).unwrap())
        .sum::<u64>();
    Target {
        capabilities: DOCKER.capabilities | added,
        ..DOCKER
    }
}

const DENY: Action = Action::Errno(1);
const NO_SUCH: Action = Action::Errno(38);

#[test]
fn the_tables_are_sorted_and_each_number_has_one_name() {
    assert!(calls::CALLS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for column in 0..4 {
        let mut numbers: Vec<i32> = calls::CALLS
            .iter()
            .map(|call| call.1[column])
            .filter(|n| *n >= 0)
            .collect();
        let all = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        // Arm has one number with two names: arm_sync_file_range is sync_file_range2.
        assert_eq!(
            all - numbers.len(),
            usize::from(column == 3),
            "column {column}"
        );
    }
}

#[test]
fn the_tables_agree_with_the_kernels_headers() {
    let folder = "/usr/include/x86_64-linux-gnu/asm";
    for (file, abi) in [
        ("unistd_64.h", Abi::X86_64),
        ("unistd_32.h", Abi::X86),
        ("unistd_x32.h", Abi::X32),
    ] {
        let Ok(text) = std::fs::read_to_string(format!("{folder}/{file}")) else {
            eprintln!("skipped: no {file} (package linux-libc-dev)");
            continue;
        };
        let mut seen = 0;
        for line in text
            .lines()
            .filter_map(|line| line.strip_prefix("#define __NR_"))
        {
            let (name, number) = line.split_once(' ').unwrap();
            let plain = number.trim_matches(|c: char| !c.is_ascii_digit());
            let plain = plain.rsplit(' ').next().unwrap();
            let Ok(number) = plain.parse::<u32>() else {
                continue;
            };
            let bit = if abi == Abi::X32 { X32_BIT } else { 0 };
            assert_eq!(abi.number(name), Some(number | bit), "{file}: {name}");
            seen += 1;
        }
        assert!(seen > 300, "{file}: {seen} calls");
    }
}

#[test]
fn every_name_of_the_default_profile_is_known() {
    let profile = default::profile(Arch::X86_64);
    for name in profile
        .groups
        .iter()
        .flat_map(|group| group.names.split(' '))
    {
        assert!(calls::CALLS.iter().any(|call| call.0 == name), "{name}");
    }
}

#[test]
fn calls_are_allowed_and_denied_as_in_docker() {
    check(&DOCKER, "read", 0, Action::Allow);
    check(&DOCKER, "ptrace", 0, Action::Allow);
    check(&DOCKER, "chroot", 0, Action::Allow);
    check(&DOCKER, "mount", 0, DENY);
    check(&DOCKER, "io_uring_setup", 0, DENY);
    check(&DOCKER, "bpf", 0, DENY);
    check(&DOCKER, "arch_prctl", 0, Action::Allow);
    check(&DOCKER, "open_tree_attr", 0, NO_SUCH);
    check(&DOCKER, "removexattrat", 0, Action::Allow);
}

#[test]
fn arguments_decide_where_docker_looks_at_them() {
    const NEW_USER: u64 = 0x1000_0000;
    check(&DOCKER, "clone", 17, Action::Allow);
    check(&DOCKER, "clone", NEW_USER | 17, DENY);
    check(&DOCKER, "clone3", 0, NO_SUCH);
    for (family, expected) in [
        (1, Action::Allow),
        (38, DENY),
        (39, Action::Allow),
        (40, DENY),
        (41, Action::Allow),
    ] {
        check(&DOCKER, "socket", family, expected);
    }
    check(&DOCKER, "socket", 40 | 1 << 32, DENY);
    check(&DOCKER, "personality", 0x2_0008, Action::Allow);
    check(&DOCKER, "personality", 0xffff_ffff, Action::Allow);
    check(&DOCKER, "personality", 0x4_0000, DENY);
}

#[test]
fn capabilities_and_kernel_open_what_belongs_to_them() {
    let admin = with("CAP_SYS_ADMIN");
    for name in ["mount", "clone3", "unshare", "setns", "bpf"] {
        check(&admin, name, 0, Action::Allow);
    }
    check(&admin, "clone", 0x7e02_0000, Action::Allow);
    check(&with("CAP_BPF"), "bpf", 0, Action::Allow);
    check(&with("CAP_SYSLOG"), "syslog", 0, Action::Allow);
    check(&with("CAP_SYS_TIME"), "clock_settime", 0, Action::Allow);
    let old = Target {
        kernel: (4, 7),
        ..DOCKER
    };
    check(&old, "ptrace", 0, DENY);
    let old = Target {
        capabilities: with("CAP_SYS_PTRACE").capabilities,
        ..old
    };
    check(&old, "ptrace", 0, Action::Allow);
}

#[test]
fn programs_of_the_other_architectures_run_under_the_same_rules() {
    let program = compile_default_for(&DOCKER).unwrap();
    let of = |abi: Abi, name| verdict(&program, abi.arch(), abi.number(name).unwrap(), 0);
    for abi in [Abi::X86, Abi::X32] {
        assert_eq!(of(abi, "read"), Action::Allow.value());
        assert_eq!(of(abi, "execve"), Action::Allow.value());
        assert_eq!(of(abi, "mount"), DENY.value());
        assert_eq!(of(abi, "clone3"), NO_SUCH.value());
    }
    assert_eq!(
        verdict(&program, Arch::Aarch64, 0, 0),
        Action::KillThread.value()
    );
    let arm = Target {
        arch: Arch::Aarch64,
        ..DOCKER
    };
    check(&arm, "read", 0, Action::Allow);
    check(&arm, "mount", 0, DENY);
    let program = compile_default_for(&arm).unwrap();
    let cacheflush = Abi::Arm.number("cacheflush").unwrap();
    assert_eq!(
        verdict(&program, Arch::Arm, cacheflush, 0),
        Action::Allow.value()
    );
    assert_eq!(
        verdict(&program, Arch::X86_64, 0, 0),
        Action::KillThread.value()
    );
}

#[test]
fn any_set_of_capabilities_compiles_to_a_short_and_shallow_program() {
    for bit in 0..64 {
        for capabilities in [1 << bit, !(1 << bit), u64::MAX] {
            let target = Target {
                capabilities,
                ..DOCKER
            };
            let program = compile_default_for(&target).unwrap();
            assert!(
                program.len() / 8 < 1000,
                "{} instructions",
                program.len() / 8
            );
            for number in 0..600 {
                let call = Call {
                    arch: Arch::X86_64.audit(),
                    number,
                    arguments: [0; 6],
                };
                let (_, steps) = evaluate(&program, &call).unwrap();
                assert!(steps < 24, "call {number}: {steps} steps");
            }
        }
    }
}

#[test]
fn the_same_container_gets_the_same_bytes() {
    let first = super::compile_default(capability::DEFAULT).unwrap();
    // NET_ADMIN has no rule of its own.
    let net_admin = 1 << capability::number("CAP_NET_ADMIN").unwrap();
    let second = super::compile_default(capability::DEFAULT | net_admin).unwrap();
    assert!(std::sync::Arc::ptr_eq(&first, &second));
}

#[test]
fn a_version_is_read_from_a_release() {
    assert_eq!(parse_version("6.18.44-custom\n"), Some((6, 18)));
    assert_eq!(parse_version("5.10-rc3"), Some((5, 10)));
    assert_eq!(parse_version("next"), None);
}

/// Compiles JSON for x86_64 and says what a call answers.
fn from_json(text: &str, name: &str, first: u64) -> u32 {
    let program = json::parse(text, &DOCKER)
        .unwrap()
        .compile(&DOCKER)
        .unwrap();
    verdict(
        &program,
        Arch::X86_64,
        Abi::X86_64.number(name).unwrap(),
        first,
    )
}

#[test]
fn a_users_profile_is_taken_in_all_its_forms() {
    let text = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_S390X"],
        "syscalls": [
            {"name": "openat2", "action": "SCMP_ACT_ALLOW"},
            {"name": "read", "action": "SCMP_ACT_ALLOW", "args": null},
            {"names": ["write", "no_such_call"], "action": "SCMP_ACT_LOG", "comment": "why not"},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95,
             "args": [{"index": 0, "value": 7, "op": "SCMP_CMP_GE"}]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
             {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
             {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW",
             "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["sync"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.18"}},
            {"names": ["pause"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["amd64"]}},
            {"names": ["chroot"], "action": "SCMP_ACT_KILL_PROCESS",
             "excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_NO_SUCH"]}},
            {"names": ["futex"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_NONE"]}}
        ]}"#;
    let rows = [
        ("read", 0, Action::Allow),
        ("write", 0, Action::Log),
        ("kill", 7, Action::Errno(95)),
        ("kill", 6, Action::Errno(13)),
        ("socket", 1, Action::Allow),
        ("socket", 2, Action::Allow),
        ("socket", 3, Action::Errno(13)),
        ("mount", 0, Action::Errno(13)),
        ("sync", 0, Action::Allow),
        ("pause", 0, Action::Errno(13)),
        ("chroot", 0, Action::KillProcess),
        ("futex", 0, Action::Errno(13)),
        ("io_uring_setup", 0, Action::Errno(13)),
        ("mseal", 0, NO_SUCH),
    ];
    for (name, first, expected) in rows {
        assert_eq!(
            from_json(text, name, first),
            expected.value(),
            "{name}({first})"
        );
    }
}

#[test]
fn an_empty_profile_allows_everything() {
    assert_eq!(from_json("{}", "mount", 0), Action::Allow.value());
}

#[test]
fn a_profile_that_makes_no_sense_is_refused() {
    let refused = |text: &str| compile_json(text, 0).unwrap_err().to_string();
    assert_eq!(refused("nonsense"), "Decoding seccomp profile failed");
    assert_eq!(
        refused(r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["A"],"archMap":[{}]}"#),
        "both 'architectures' and 'archMap' are specified in the seccomp profile, use either \
         'architectures' or 'archMap'"
    );
    assert_eq!(
        refused(r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#),
        "seccomp profile: action SCMP_ACT_NOTIFY is not supported"
    );
    let argument = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],
        "action":"SCMP_ACT_KILL","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#;
    assert_eq!(refused(argument), "seccomp profile cannot be compiled");
}

#[test]
fn every_profile_of_the_corpus_is_a_filter_or_an_error() {
    let checkout = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    if !checkout.exists() {
        println!("skip every_profile_of_the_corpus_is_a_filter_or_an_error: no checkout here");
        return;
    }
    let corpus = checkout.join("../../fuzz/corpus/profile");
    let mut replayed = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        // As libFuzzer lays out the target's input: capabilities, then the profile.
        let Some((capabilities, text)) = bytes.split_first_chunk::<8>() else {
            continue;
        };
        let text = String::from_utf8_lossy(text);
        if let Ok(filter) = compile_json(&text, u64::from_le_bytes(*capabilities)) {
            assert!(filter.len().is_multiple_of(8), "instructions");
            assert!(filter.len() <= 4096 * 8, "as many as the kernel takes");
        }
        replayed += 1;
    }
    assert!(replayed > 0, "the corpus is empty");
}
