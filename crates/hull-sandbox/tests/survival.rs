//! What happens when the daemon or the shim is gone.

mod support;

use std::io::Read;

use hull_sandbox::{Event, Found};
use support::{
    Host, PATIENCE, attach, exec_of, leftovers, next_event, wait_exec, wait_exit, wait_gone,
    wait_started,
};

#[test]
fn a_new_daemon_finds_a_running_container_and_its_execs() {
    let host = Host::new();
    let spec = host.spec(&["sh", "-c", "sleep 0.3; echo late; exit 3"]);
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    let pid = wait_started(&mut shim);
    let exec = exec_of(&["sleep", "100"]);
    shim.exec(&exec, Vec::new()).unwrap();
    let exec_pid = match next_event(&mut shim) {
        Event::ExecStarted { pid, .. } => pid,
        event => panic!("unexpected {event:?}"),
    };
    drop(shim);
    let Found::Alive(mut shim, status) = host.driver.reattach(&spec.id).unwrap() else {
        panic!("not found")
    };
    assert_eq!(status.started.unwrap().0, pid);
    assert_eq!(status.execs, [(exec.id, exec_pid)]);
    let (attachment, mut client) = attach(false, true, false);
    shim.attach(hull_sandbox::Target::Init, attachment).unwrap();
    // The connection is complete: signals go straight to the process.
    shim.signal(0).unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "late\n");
    assert_eq!(wait_exec(&mut shim, exec.id).code, 137);
    assert_eq!(wait_exit(&mut shim).code, 3);
    host.discard(&spec, shim);
}

#[test]
fn a_container_that_ended_without_a_daemon_left_its_record() {
    let host = Host::new();
    let spec = host.spec(&["sh", "-c", "echo out; exit 42"]);
    let shim = host.driver.start(&spec, Vec::new()).unwrap();
    let pidfd = shim.pidfd().try_clone_to_owned().unwrap();
    drop(shim);
    let mut fds = [hull_os::process::PollFd::readable(
        std::os::fd::AsFd::as_fd(&pidfd),
    )];
    assert_eq!(hull_os::process::poll(&mut fds, Some(20_000)).unwrap(), 1);
    match host.driver.reattach(&spec.id).unwrap() {
        Found::Exited(exit) => assert_eq!(exit.code, 42),
        found => panic!("unexpected {found:?}"),
    }
    assert_eq!(host.log(&spec).lines().count(), 1);
    host.driver
        .discard(&spec.id, &spec.cgroup.path, PATIENCE)
        .unwrap();
    assert!(matches!(
        host.driver.reattach(&spec.id).unwrap(),
        Found::Nothing
    ));
    assert_eq!(leftovers(&spec), Vec::<String>::new());
}

#[test]
fn a_killed_shim_takes_its_container_with_it() {
    let host = Host::new();
    let spec = host.spec(&["sh", "-c", "sleep 1000 & sleep 1000"]);
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    let pid = wait_started(&mut shim);
    let exec = exec_of(&["sleep", "1000"]);
    shim.exec(&exec, Vec::new()).unwrap();
    next_event(&mut shim);
    hull_os::process::pidfd_send_signal(shim.pidfd(), 9).unwrap();
    wait_gone(&shim);
    assert_eq!(next_event(&mut shim), Event::Gone);
    assert!(shim.has_ended());
    drop(shim);
    assert!(matches!(
        host.driver.reattach(&spec.id).unwrap(),
        Found::Nothing
    ));
    host.driver
        .discard(&spec.id, &spec.cgroup.path, PATIENCE)
        .unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    // It runs no more; its last steps in the kernel take a moment.
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| !s.contains(") Z ")) {
        assert!(
            std::time::Instant::now() < deadline,
            "process {pid} still runs"
        );
    }
    assert_eq!(leftovers(&spec), Vec::<String>::new());
    // A second time changes nothing and is no failure.
    host.driver
        .discard(&spec.id, &spec.cgroup.path, PATIENCE)
        .unwrap();
}

#[test]
fn discard_ends_what_still_runs() {
    let host = Host::new();
    let spec = host.spec(&["sleep", "1000"]);
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    wait_started(&mut shim);
    drop(shim);
    assert_eq!(host.driver.list().unwrap(), [spec.id.short()]);
    host.driver
        .discard_unknown(&spec.id.short(), PATIENCE)
        .unwrap();
    assert_eq!(leftovers(&spec), Vec::<String>::new());
    assert!(host.driver.list().unwrap().is_empty());
}

#[test]
fn an_unknown_request_is_answered_and_harms_nobody() {
    let host = Host::new();
    let spec = host.spec(&["sleep", "1000"]);
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    wait_started(&mut shim);
    hull_os::socket::send(std::os::fd::AsFd::as_fd(&shim), &[7; 100], &[]).unwrap();
    assert!(matches!(next_event(&mut shim), Event::Refused { .. }));
    shim.signal(9).unwrap();
    assert_eq!(wait_exit(&mut shim).code, 137);
    host.discard(&spec, shim);
}

#[test]
fn three_hundred_lives_leave_no_growth() {
    let host = Host::new();
    let count = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut before = 0;
    for life in 0..300 {
        let mut spec = host.spec(&["true"]);
        spec.log.path = None;
        let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
        assert_eq!(wait_exit(&mut shim).code, 0);
        host.discard(&spec, shim);
        std::fs::remove_dir_all(host.base.join(spec.id.short())).unwrap();
        if life == 10 {
            before = count();
        }
    }
    assert!(
        count() <= before + 20,
        "{before} descriptors grew to {}",
        count()
    );
    assert!(host.driver.list().unwrap().is_empty());
}
