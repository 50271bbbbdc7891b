//! Docker's default profile: the rules of `moby/profiles` as of June 2026, in our own form.
//!
//! Rules for machines that we do not run on (s390x, ppc64le, riscv64, mips) are left out.

use std::borrow::Cow;

use hull_os::seccomp::{Action, Arch, Comparison, Condition};

use super::{Abi, ENOSYS, EPERM, Group, NOTHING, Profile, Requirement};

/// Calls that every container may make.
const ALWAYS: &str = "\
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown \
    chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect \
    copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old \
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit \
    exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir \
    fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr \
    flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 \
    fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv \
    futex_wake futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid \
    geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp \
    getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 \
    getrlimit get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid \
    gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init \
    inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents \
    io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule \
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat \
    listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek lsetxattr \
    lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore \
    mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr \
    mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
    mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock \
    munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 \
    pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll \
    ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 \
    pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv \
    recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat \
    rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending \
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam \
    sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop \
    semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 \
    setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority \
    setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 \
    setrlimit set_robust_list setsid setsockopt set_thread_area set_tid_address setuid \
    setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd \
    signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 \
    statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time \
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime \
    timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat \
    uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid \
    write writev";

/// What administration takes: mounts, namespaces and what looks into the kernel.
const ADMINISTRATION: &str = "\
    bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
    lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount \
    open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
    umount umount2 unshare";

/// `clone` flags that make a namespace: mount, UTS, IPC, user, PID, network, cgroup.
const NEW_NAMESPACES: u64 = 0x7e02_0000;

/// Address families of sockets that reach past the container: kernel crypto and the hypervisor.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// Values of `personality` that are allowed: Linux, Linux with the old `uname`, both without
/// address randomization, and the question which one it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

const fn cap(number: u32) -> u64 {
    1 << number
}

const DAC_READ_SEARCH: u64 = cap(2);
const SYS_MODULE: u64 = cap(16);
const SYS_RAWIO: u64 = cap(17);
const SYS_CHROOT: u64 = cap(18);
const SYS_PTRACE: u64 = cap(19);
const SYS_PACCT: u64 = cap(20);
const SYS_ADMIN: u64 = cap(21);
const SYS_BOOT: u64 = cap(22);
const SYS_NICE: u64 = cap(23);
const SYS_TIME: u64 = cap(25);
const SYS_TTY_CONFIG: u64 = cap(26);
const SYSLOG: u64 = cap(34);
const PERFMON: u64 = cap(38);
const BPF: u64 = cap(39);

/// Calls that a capability brings with it.
const BY_CAPABILITY: &[(u64, &str)] = &[
    (DAC_READ_SEARCH, "open_by_handle_at"),
    (SYS_ADMIN, ADMINISTRATION),
    (SYS_BOOT, "reboot"),
    (SYS_CHROOT, "chroot"),
    (SYS_MODULE, "delete_module init_module finit_module"),
    (SYS_PACCT, "acct"),
    (
        SYS_PTRACE,
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    ),
    (SYS_RAWIO, "iopl ioperm"),
    (SYS_TIME, "settimeofday stime clock_settime clock_settime64"),
    (SYS_TTY_CONFIG, "vhangup"),
    (
        SYS_NICE,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (SYSLOG, "syslog"),
    (BPF, "bpf"),
    (PERFMON, "perf_event_open"),
];

/// The capabilities that the rules look at: containers that differ in others share a filter.
pub(super) const CAPABILITIES: u64 = {
    let (mut all, mut at) = (0, 0);
    while at < BY_CAPABILITY.len() {
        all |= BY_CAPABILITY[at].0;
        at += 1;
    }
    all
};

/// Makes the profile for a machine, with the architectures whose programs run there too.
pub(super) fn profile(arch: Arch) -> Profile {
    let mut groups = vec![
        allow(ALWAYS),
        // Before 4.8 a tracer could step around a filter.
        Group {
            includes: Requirement {
                kernel: Some((4, 8)),
                ..NOTHING
            },
            ..allow("process_vm_readv process_vm_writev ptrace")
        },
        on_arches(
            "arm arm64",
            "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls",
        ),
        on_arches("amd64 x32", "arch_prctl"),
        on_arches("amd64 x32 x86", "modify_ldt"),
    ];
    groups.extend(sockets());
    groups.extend(PERSONALITIES.map(|value| when("personality", Comparison::Equal(value))));
    groups.extend(clones());
    groups.extend(BY_CAPABILITY.iter().map(|(capability, names)| Group {
        includes: Requirement {
            capabilities: *capability,
            ..NOTHING
        },
        ..allow(names)
    }));
    Profile {
        default: Action::Errno(EPERM),
        others: match arch {
            Arch::X86_64 => vec![Abi::X86, Abi::X32],
            Arch::Aarch64 => vec![Abi::Arm],
            Arch::X86 | Arch::Arm => Vec::new(),
        },
        groups: Cow::Owned(groups),
    }
}

fn allow(names: &'static str) -> Group {
    Group {
        names: Cow::Borrowed(names),
        action: Action::Allow,
        conditions: Cow::Borrowed(&[]),
        includes: NOTHING,
        excludes: NOTHING,
    }
}

fn on_arches(arches: &'static str, names: &'static str) -> Group {
    let includes = Requirement {
        arches: Cow::Borrowed(arches),
        ..NOTHING
    };
    Group {
        includes,
        ..allow(names)
    }
}

/// Allows a call when its first argument fulfils a comparison.
fn when(name: &'static str, comparison: Comparison) -> Group {
    let condition = Condition {
        argument: 0,
        comparison,
    };
    Group {
        conditions: Cow::Owned(vec![condition]),
        ..allow(name)
    }
}

/// `socket` for all families but two. The kernel looks at the lower half of the argument only, so
/// the comparison does too; Docker's own compares all of it, and lets `AF_VSOCK | 1 << 32` pass.
/// On i386 `socketcall` leads around this rule, there as here.
fn sockets() -> [Group; 3] {
    let deny = |family| {
        let mask = u64::from(u32::MAX);
        let comparison = Comparison::Masked {
            mask,
            value: family,
        };
        Group {
            action: Action::Errno(EPERM),
            ..when("socket", comparison)
        }
    };
    [deny(AF_ALG), deny(AF_VSOCK), allow("socket")]
}

/// Without `CAP_SYS_ADMIN` no new namespaces: `clone` shows its flags, `clone3` hides them behind a
/// pointer and is said not to exist, so that C libraries use `clone`.
fn clones() -> [Group; 2] {
    let plain = Comparison::Masked {
        mask: NEW_NAMESPACES,
        value: 0,
    };
    let unprivileged = Requirement {
        capabilities: SYS_ADMIN,
        ..NOTHING
    };
    [
        Group {
            excludes: unprivileged.clone(),
            ..when("clone", plain)
        },
        Group {
            action: Action::Errno(ENOSYS),
            excludes: unprivileged,
            ..allow("clone3")
        },
    ]
}
