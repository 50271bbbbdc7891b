//! What a container can see and do, asked from its inside.

mod support;

use std::sync::Arc;

use hull_sandbox::{
    Lowers, Mount, MountKind, MountOptions, Namespace, Propagation, Rlimit, Spec, Sysctl,
};
use support::{DEFAULT_CAPABILITIES, Host, wait_exit, wait_started};

fn check(host: &Host, spec: &Spec, expected: &str) {
    let (exit, text) = host.run(spec);
    assert_eq!((text.as_str(), exit.code), (expected, 0));
}

fn bind(source: &std::path::Path, destination: &str, options: MountOptions) -> Mount {
    Mount {
        kind: MountKind::Bind {
            source: source.to_owned(),
            recursive: true,
            propagation: Propagation::Rprivate,
            mapped: false,
        },
        destination: destination.to_owned(),
        options,
        data: String::new(),
    }
}

#[test]
fn powers_are_the_given_ones_and_nothing_is_left_open() {
    let host = Host::new();
    let spec = host.spec(&["sh", "-c", "grep -E '^(Cap|NoNewPrivs|Seccomp:|SigIgn|SigBlk)' /proc/self/status; ls /proc/self/fd | wc -l; echo $HOME; pwd; umask; id -u"]);
    let set = format!("{DEFAULT_CAPABILITIES:016x}");
    let none = "0000000000000000";
    check(
        &host,
        &spec,
        &format!(
            "SigBlk:\t{none}\nSigIgn:\t{none}\nCapInh:\t{none}\nCapPrm:\t{set}\nCapEff:\t{set}\n\
             CapBnd:\t{set}\nCapAmb:\t{none}\nNoNewPrivs:\t0\nSeccomp:\t0\n4\n/root\n/\n0022\n0\n"
        ),
    );
}

#[test]
fn a_user_by_name_has_its_groups_home_and_no_powers() {
    let host = Host::new();
    let mut spec = host.spec(&[
        "sh",
        "-c",
        "id; echo $HOME; pwd; grep CapEff /proc/self/status; echo x > /dev/stdout",
    ]);
    spec.process.user = "web".to_owned();
    spec.process.cwd = "/srv/made/deep".to_owned();
    spec.process.extra_groups = vec!["77".to_owned()];
    check(
        &host,
        &spec,
        "uid=101(web) gid=102(web) groups=63(audio),77,102(web)\n/srv\n/srv/made/deep\n\
         CapEff:\t0000000000000000\nx\n",
    );
}

#[test]
fn a_filter_and_no_new_privileges_are_installed() {
    let host = Host::new();
    // Allows everything: `BPF_RET | BPF_K` with SECCOMP_RET_ALLOW.
    let allow: Arc<[u8]> = [6u8, 0, 0, 0, 0, 0, 0xff, 0x7f].into();
    for no_new_privileges in [false, true] {
        let mut spec = host.spec(&[
            "grep",
            "-E",
            "^(Seccomp|NoNewPrivs|Seccomp_filters):",
            "/proc/self/status",
        ]);
        spec.process.seccomp = Some(allow.clone());
        spec.process.no_new_privileges = no_new_privileges;
        let flag = u8::from(no_new_privileges);
        check(
            &host,
            &spec,
            &format!("NoNewPrivs:\t{flag}\nSeccomp:\t2\nSeccomp_filters:\t1\n"),
        );
    }
}

#[test]
fn hidden_paths_are_hidden_and_readonly_ones_read_only() {
    let host = Host::new();
    // Not every kernel has all of these files; one that is not there needs no hiding.
    let script = "exec 2>&1
        for f in /proc/kcore /proc/timer_list /proc/keys /proc/interrupts; do
            test ! -e $f || test $(wc -c < $f) = 0 || echo $f is shown
        done
        ls -A /sys/firmware
        touch /sys/x
        if test -d /sys/fs/cgroup/memory; then mkdir /sys/fs/cgroup/memory/x; else mkdir /sys/fs/cgroup/x; fi
        echo 1 > /proc/sys/kernel/pid_max
        echo 1 > /proc/irq/default_smp_affinity
        test ! -e /proc/sysrq-trigger || echo x > /proc/sysrq-trigger
        echo end";
    let (exit, text) = host.run(&host.spec(&["sh", "-c", script]));
    assert_eq!(exit.code, 0, "{text}");
    let refused = text.matches("Read-only file system").count();
    assert!(refused >= 4, "{text}");
    // Nothing else was said, such as that a path is shown.
    assert!(
        text.ends_with("end\n") && text.lines().count() == refused + 1,
        "{text}"
    );
}

#[test]
fn a_null_device_made_by_the_image_hides_nothing() {
    let host = Host::new();
    let fake = host.base.join("layers/0/dev/null");
    std::fs::write(&fake, "fake").unwrap();
    let mut spec = host.spec(&["true"]);
    spec.mounts
        .retain(|mount| mount.destination != "/dev" && !mount.destination.starts_with("/dev/"));
    spec.devices.clear();
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    match support::next_event(&mut shim) {
        hull_sandbox::Event::StartFailed(failure) => {
            assert!(
                failure.text.contains("/dev/null is not the null device"),
                "{failure:?}"
            );
        }
        event => panic!("unexpected {event:?}"),
    }
    host.discard(&spec, shim);
}

#[test]
fn namespaces_are_its_own() {
    let host = Host::new();
    let spec = host.spec(&["sh", "-c", "for n in mnt pid net ipc uts cgroup user; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup | grep -vc ':/$'; hostname; echo $$; ps | wc -l; true"]);
    let (_, text) = host.run(&spec);
    let lines: Vec<&str> = text.lines().collect();
    for (name, line) in ["mnt", "pid", "net", "ipc", "uts", "cgroup"]
        .iter()
        .zip(&lines)
    {
        let ours = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(ours.to_string_lossy(), **line);
    }
    assert_eq!(
        std::fs::read_link("/proc/self/ns/user")
            .unwrap()
            .to_string_lossy(),
        lines[6]
    );
    // Every hierarchy shows the container's own cgroup as its root.
    assert_eq!(&lines[7..10], ["0", &spec.id.short(), "1"]);
}

#[test]
fn namespaces_of_the_host_and_of_another_container() {
    let host = Host::new();
    let first = host.spec(&["sleep", "100"]);
    let mut shim = host.driver.start(&first, Vec::new()).unwrap();
    let pid = wait_started(&mut shim);
    let open = |name: &str| Arc::new(hull_os::namespace::open(pid, name).unwrap());
    let mut spec = host.spec(&["sh", "-c", "readlink /proc/self/ns/net; readlink /proc/self/ns/uts; readlink /proc/self/ns/pid; test $$ -ne 1"]);
    spec.namespaces.network = Namespace::Join(open("net"));
    spec.namespaces.pid = Namespace::Join(open("pid"));
    spec.namespaces.uts = Namespace::Host;
    spec.hostname = String::new();
    let of = |pid: &str, name: &str| {
        std::fs::read_link(format!("/proc/{pid}/ns/{name}"))
            .unwrap()
            .display()
            .to_string()
    };
    let first_pid = pid.to_string();
    let expected = format!(
        "{}\n{}\n{}\n",
        of(&first_pid, "net"),
        of("self", "uts"),
        of(&first_pid, "pid")
    );
    check(&host, &spec, &expected);
    shim.signal(9).unwrap();
    wait_exit(&mut shim);
    host.discard(&first, shim);
}

#[test]
fn with_the_hosts_processes_all_of_its_own_still_end() {
    let host = Host::new();
    let mut spec = host.spec(&["sh", "-c", "sleep 1000 & exit 4"]);
    spec.namespaces.pid = Namespace::Host;
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    assert_eq!(wait_exit(&mut shim).code, 4);
    host.discard(&spec, shim);
}

#[test]
fn binds_are_files_directories_and_dangling_links() {
    let host = Host::new();
    let shared = host.base.join("shared");
    std::fs::create_dir_all(shared.join("sub")).unwrap();
    std::fs::write(shared.join("file"), "content\n").unwrap();
    std::os::unix::fs::symlink(
        "../run/made/resolv.conf",
        host.base.join("layers/0/etc/resolv.conf"),
    )
    .unwrap();
    let mut spec = host.spec(&[
        "sh",
        "-c",
        "exec 2>&1; cat /run/made/resolv.conf /deep/er/file; echo no > /ro/x; echo yes > /rw/x",
    ]);
    let ro = MountOptions {
        readonly: true,
        ..MountOptions::default()
    };
    spec.mounts.push(bind(
        &shared.join("file"),
        "/etc/resolv.conf",
        MountOptions::default(),
    ));
    spec.mounts.push(bind(
        &shared.join("file"),
        "/deep/er/file",
        MountOptions::default(),
    ));
    spec.mounts.push(bind(&shared, "/ro", ro));
    spec.mounts
        .push(bind(&shared, "/rw", MountOptions::default()));
    let (exit, text) = host.run(&spec);
    assert_eq!(
        text,
        "content\ncontent\nsh: can't create /ro/x: Read-only file system\n"
    );
    assert_eq!(exit.code, 0);
    assert_eq!(std::fs::read_to_string(shared.join("x")).unwrap(), "yes\n");
}

#[test]
fn a_bind_source_that_is_missing_is_named() {
    let host = Host::new();
    let mut spec = host.spec(&["true"]);
    spec.mounts.push(bind(
        std::path::Path::new("/nope"),
        "/x",
        MountOptions::default(),
    ));
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    match support::next_event(&mut shim) {
        hull_sandbox::Event::StartFailed(failure) => {
            assert_eq!(
                failure.text,
                "error mounting \"/nope\": no such file or directory"
            );
        }
        event => panic!("unexpected {event:?}"),
    }
    host.discard(&spec, shim);
}

#[test]
fn layers_by_descriptor_and_a_read_only_root() {
    if !support::lowers_by_descriptor("layers_by_descriptor_and_a_read_only_root") {
        return;
    }
    let host = Host::new();
    let top = host.base.join("layers/1");
    std::fs::create_dir_all(top.join("etc")).unwrap();
    std::fs::write(top.join("etc/top"), "top\n").unwrap();
    let open = |path: &str| {
        Arc::new(
            std::fs::File::open(host.base.join("layers").join(path))
                .unwrap()
                .into(),
        )
    };
    let mut spec = host.spec(&[
        "sh",
        "-c",
        "exec 2>&1; cat /etc/top; head -n 1 /etc/passwd; touch /x; touch /tmp/t && echo fine; ls /proc/self/fd | wc -l; stat -f -c %T /",
    ]);
    spec.root.lowers = Lowers::Descriptors(vec![open("1"), open("0")]);
    spec.root.readonly = true;
    spec.mounts.push(Mount {
        kind: MountKind::Tmpfs,
        destination: "/tmp".to_owned(),
        options: MountOptions::default(),
        data: "size=1m,mode=1777".to_owned(),
    });
    let (_, text) = host.run(&spec);
    assert!(
        text.starts_with(
            "top\nroot:x:0:0::/root:/bin/sh\ntouch: /x: Read-only file system\nfine\n4\n"
        ),
        "{text}"
    );
}

#[test]
fn sysctls_and_limits_hold() {
    let host = Host::new();
    let mut spec = host.spec(&[
        "sh",
        "-c",
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced; ulimit -n; ulimit -Hn",
    ]);
    spec.sysctls = [
        ("net.ipv4.ip_forward", "1"),
        ("kernel.shm_rmid_forced", "1"),
    ]
    .map(|(name, value)| Sysctl {
        name: name.to_owned(),
        value: value.to_owned(),
    })
    .to_vec();
    spec.process.rlimits = vec![Rlimit {
        resource: 7,
        soft: 100,
        hard: 200,
    }];
    check(&host, &spec, "1\n1\n100\n200\n");
}

#[test]
fn our_init_reaps_and_hands_on() {
    let host = Host::new();
    let mut spec = host.spec(&["sh", "-c", "echo $$; head -n 1 /proc/1/comm; trap 'exit 9' TERM; (sleep 0.01 &) ; echo up; while :; do sleep 0.05; done"]);
    spec.init = true;
    let (attachment, client) = support::attach(false, true, false);
    let mut shim = host.driver.start(&spec, vec![attachment]).unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(client));
    assert_ne!(lines.next().unwrap().unwrap(), "1");
    assert_eq!(lines.next().unwrap().unwrap(), "hull-init");
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    wait_started(&mut shim);
    shim.signal(15).unwrap();
    assert_eq!(wait_exit(&mut shim).code, 9);
    host.discard(&spec, shim);
    let mut spec = host.spec(&["nope"]);
    spec.init = true;
    let (exit, text) = host.run(&spec);
    assert_eq!(
        (exit.code, text.as_str()),
        (
            127,
            "hull-init: exec: \"nope\": executable file not found in $PATH\n"
        )
    );
}

#[test]
fn the_program_of_the_shim_cannot_be_changed_from_inside() {
    let host = Host::new();
    // With an init of ours, /proc/1/exe is our program (CVE-2019-5736).
    let mut spec = host.spec(&[
        "sh",
        "-c",
        "echo x > /proc/1/exe; cat /proc/1/exe | head -c 4 | tail -c 3; echo; true",
    ]);
    spec.init = true;
    let (_, text) = host.run(&spec);
    assert!(text.contains("can't create /proc/1/exe"), "{text}");
    check(&host, &host.spec(&["true"]), "");
}

#[test]
fn a_working_directory_outside_is_refused() {
    let host = Host::new();
    // CVE-2024-21626: a directory of the host that was left open. None is; so the path is missing.
    for number in 3..12 {
        let mut spec = host.spec(&["true"]);
        spec.process.cwd = format!("/proc/self/fd/{number}");
        spec.process.create_cwd = false;
        let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
        match support::next_event(&mut shim) {
            hull_sandbox::Event::StartFailed(failure) => assert_eq!(failure.step, "cwd"),
            // The root itself may still be open, and is no way out.
            hull_sandbox::Event::Started { .. } => assert_eq!(wait_exit(&mut shim).code, 0),
            event => panic!("unexpected {event:?}"),
        }
        host.discard(&spec, shim);
    }
}

#[test]
fn users_of_its_own_are_nobody_on_the_host() {
    if !support::lowers_by_descriptor("users_of_its_own_are_nobody_on_the_host") {
        return;
    }
    let host = Host::new();
    let open = |path: &str| {
        let layer = std::fs::File::open(host.base.join("layers").join(path)).unwrap();
        Arc::new(std::os::fd::OwnedFd::from(layer))
    };
    let map = |inside, host, count| {
        vec![hull_sandbox::IdMap {
            inside,
            host,
            count,
        }]
    };
    let mut spec = host.spec(&[
        "sh",
        "-c",
        "exec 2>&1; id -u; cat /proc/self/uid_map; stat -c '%u %g' / /etc/passwd /dev/null; \
         touch /made /volume/in-volume && chown 7 /volume/in-volume; \
         stat -c '%u' /volume /plain; echo x > /dev/stdout; echo y > /dev/null; hostname inside && hostname; \
         grep CapEff /proc/self/status; head -n 1 /sys/fs/cgroup/memory/cgroup.procs; exec cat",
    ]);
    spec.root.lowers = Lowers::Descriptors(vec![open("0")]);
    spec.namespaces.user = Some(hull_sandbox::UserMaps {
        uids: map(0, 100_000, 65_536),
        gids: map(0, 200_000, 65_536),
    });
    for (name, mapped) in [("volume", true), ("plain", false)] {
        let source = host.base.join(name);
        std::fs::create_dir(&source).unwrap();
        let mut mount = bind(&source, &format!("/{name}"), MountOptions::default());
        if let MountKind::Bind { mapped: ids, .. } = &mut mount.kind {
            *ids = mapped;
        }
        spec.mounts.push(mount);
    }
    spec.process.stdin = hull_sandbox::Stdin::Once;
    let (attachment, mut client) = support::attach(true, true, false);
    let mut shim = host.driver.start(&spec, vec![attachment]).unwrap();
    wait_started(&mut shim);
    let exec = support::exec_of(&[
        "sh",
        "-c",
        "id -u && touch /by-exec && echo z > /dev/stdout",
    ]);
    shim.exec(&exec, Vec::new()).unwrap();
    assert_eq!(support::wait_exec(&mut shim, exec.id).code, 0);
    support::close_writing(&client);
    assert_eq!(wait_exit(&mut shim).code, 0);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut client, &mut text).unwrap();
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    assert_eq!(words[..4], ["0", "0", "100000", "65536"], "{text}");
    assert_eq!(
        words[4..10],
        ["0", "0", "0", "0", "65534", "65534"],
        "{text}"
    );
    assert_eq!(words[10..12], ["0", "65534"], "{text}");
    let set = format!("{DEFAULT_CAPABILITIES:016x}");
    assert!(text.contains(&format!("CapEff:\t{set}")), "{text}");
    assert!(text.contains("\nx\n"), "{text}");
    for name in ["made", "by-exec"] {
        use std::os::unix::fs::MetadataExt;
        let made = std::fs::metadata(spec.root.upper.join(name)).unwrap();
        assert_eq!((made.uid(), made.gid()), (0, 0), "{name}");
    }
    let made = host.base.join("volume/in-volume");
    let made = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(made).unwrap());
    assert_eq!(made, 7);
    host.discard(&spec, shim);
}

#[test]
fn the_default_filter_refuses_and_lets_through() {
    let host = Host::new();
    let filter = hull_sandbox::container::seccomp::compile_default(DEFAULT_CAPABILITIES).unwrap();
    let mut spec = host.spec(&["sh", "-c", "exec 2>&1; mount -t tmpfs none /tmp; echo fine"]);
    // Even with the capability the filter stands: it was compiled without.
    for set in [
        &mut spec.process.capabilities.bounding,
        &mut spec.process.capabilities.effective,
        &mut spec.process.capabilities.permitted,
    ] {
        *set |= 1 << 21;
    }
    spec.process.seccomp = Some(filter);
    let (exit, text) = host.run(&spec);
    assert_eq!(exit.code, 0);
    assert!(
        text.contains("denied") || text.contains("not permitted"),
        "{text}"
    );
    assert!(text.ends_with("fine\n"), "{text}");
}

#[test]
fn memory_beyond_the_limit_is_reported_as_such() {
    let host = Host::new();
    let mut spec = host.spec(&["sh", "-c", "x=a; while :; do x=$x$x; done"]);
    spec.cgroup.limits.memory_bytes = 16 << 20;
    spec.cgroup.limits.pids = 50;
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    let exit = wait_exit(&mut shim);
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    host.discard(&spec, shim);
}

#[test]
fn a_full_disk_stops_no_container() {
    let host = Host::new();
    let mut spec = host.spec(&["sh", "-c", "seq 20000; exit 6"]);
    // A file system of one page in a mount namespace of this thread only would not be seen by the
    // shim, so the limit is one of the log's own: a device that is always full.
    let log = spec.log.path.take().unwrap().with_file_name("full.log");
    std::os::unix::fs::symlink("/dev/full", &log).unwrap();
    spec.log.path = Some(log);
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    let mut dropped = 0;
    let exit = support::wait_for(&mut shim, |event| {
        if let hull_sandbox::Event::LogDropped { lines } = event {
            dropped += lines;
        }
        match event {
            hull_sandbox::Event::Exited(exit) => Some(*exit),
            _ => None,
        }
    });
    assert_eq!((exit.code, dropped), (6, 20_000));
    host.discard(&spec, shim);
}
