//! Containers on the real kernel, from start to discard.

mod support;

use std::io::{Read, Write};

use hull_sandbox::{Event, FailureKind};
use support::{Host, attach, close_writing, stdin_once, wait_exit, wait_started};

#[test]
fn exit_codes_and_output_arrive() {
    let host = Host::new();
    let spec = host.spec(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    let (exit, text) = host.run(&spec);
    assert_eq!((exit.code, exit.oom_killed), (7, false));
    assert_eq!(text, "out\nerr\n");
}

#[test]
fn a_signal_becomes_128_and_its_number() {
    let host = Host::new();
    let spec = host.spec(&["sleep", "100"]);
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    wait_started(&mut shim);
    shim.signal(9).unwrap();
    assert_eq!(wait_exit(&mut shim).code, 137);
    host.discard(&spec, shim);
}

#[test]
fn the_log_is_dockers_to_the_byte() {
    let host = Host::new();
    let spec = host.spec(&["sh", "-c", "printf 'a\\t<b>\\n'; printf 'no end'"]);
    host.run(&spec);
    let log = host.log(&spec);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    let time = lines[0].rsplit("\"time\":").next().unwrap();
    assert_eq!(
        lines[0],
        format!("{{\"log\":\"a\\u0009\\u003cb\\u003e\\n\",\"stream\":\"stdout\",\"time\":{time}")
    );
    assert!(lines[1].starts_with("{\"log\":\"no end\",\"stream\":\"stdout\""));
}

#[test]
fn stdin_reaches_the_process_and_its_end_too() {
    let host = Host::new();
    let spec = stdin_once(host.spec(&["cat"]));
    let (attachment, mut client) = attach(true, true, true);
    let mut shim = host.driver.start(&spec, vec![attachment]).unwrap();
    client.write_all(b"hello").unwrap();
    close_writing(&client);
    assert_eq!(wait_exit(&mut shim).code, 0);
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"\x01\0\0\0\0\0\0\x05hello");
    host.discard(&spec, shim);
}

#[test]
fn a_start_that_fails_says_why_in_dockers_words() {
    let host = Host::new();
    for (args, user, kind, expected) in [
        (
            &["nope"][..],
            "",
            FailureKind::NotFound,
            "exec: \"nope\": executable file not found in $PATH",
        ),
        (
            &["/nope"],
            "",
            FailureKind::NotFound,
            "exec: \"/nope\": stat /nope: no such file or directory",
        ),
        (
            &["/etc/plain"],
            "",
            FailureKind::NotExecutable,
            "exec: \"/etc/plain\": permission denied",
        ),
        (
            &["/etc"],
            "",
            FailureKind::NotExecutable,
            "exec: \"/etc\": is a directory",
        ),
        (
            &["sh"],
            "nobody",
            FailureKind::Other,
            "unable to find user nobody: no matching entries in passwd file",
        ),
    ] {
        let mut spec = host.spec(args);
        spec.process.user = user.to_owned();
        let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
        match support::next_event(&mut shim) {
            Event::StartFailed(failure) => {
                assert_eq!((failure.text.as_str(), failure.kind), (expected, kind));
            }
            event => panic!("unexpected {event:?}"),
        }
        host.discard(&spec, shim);
    }
}

#[test]
fn a_terminal_has_its_size_and_its_names() {
    let host = Host::new();
    let mut spec = host.spec(&[
        "sh",
        "-c",
        "stty size; tty; ls -l /dev/console | head -c 1; cat",
    ]);
    spec.process.tty = Some((33, 77));
    spec.process.stdin = hull_sandbox::Stdin::Open;
    let (attachment, mut client) = attach(true, true, false);
    let mut shim = host.driver.start(&spec, vec![attachment]).unwrap();
    wait_started(&mut shim);
    let mut text = String::new();
    let mut buffer = [0u8; 256];
    while !text.ends_with('c') {
        let length = client.read(&mut buffer).unwrap();
        assert!(length > 0, "{text:?}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    assert_eq!(text, "33 77\r\n/dev/pts/0\r\nc");
    shim.resize(hull_sandbox::Target::Init, 10, 20).unwrap();
    // End of transmission ends `cat`.
    client.write_all(b"\x04").unwrap();
    assert_eq!(wait_exit(&mut shim).code, 0);
    host.discard(&spec, shim);
}

#[test]
fn output_is_lossless_for_a_slow_client() {
    const LINES: usize = 60_000;
    let host = Host::new();
    let spec = host.spec(&["seq", &LINES.to_string()]);
    let (attachment, mut client) = attach(false, true, false);
    let mut shim = host.driver.start(&spec, vec![attachment]).unwrap();
    wait_started(&mut shim);
    // Nobody reads: the process must wait, not the bytes be lost.
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(shim.try_event().unwrap(), None);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().count(), LINES);
    assert_eq!(text.lines().last(), Some("60000"));
    assert_eq!(wait_exit(&mut shim).code, 0);
    host.discard(&spec, shim);
    assert_eq!(host.log(&spec).lines().count(), LINES);
}

#[test]
fn what_a_client_has_not_read_at_the_exit_is_not_lost() {
    let host = Host::new();
    let spec = host.spec(&["dd", "if=/dev/zero", "bs=1000", "count=200"]);
    let (attachment, mut client) = attach(false, true, false);
    let mut shim = host.driver.start(&spec, vec![attachment]).unwrap();
    let mut bytes = vec![0; 50_000];
    client.read_exact(&mut bytes).unwrap();
    wait_exit(&mut shim);
    host.discard(&spec, shim);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    let zeros = rest.iter().filter(|&&byte| byte == 0).count();
    assert_eq!(zeros, 150_000);
}

#[test]
fn a_vanished_client_stops_nobody() {
    let host = Host::new();
    let spec = host.spec(&["seq", "50000"]);
    let (attachment, client) = attach(false, true, false);
    drop(client);
    let mut shim = host.driver.start(&spec, vec![attachment]).unwrap();
    assert_eq!(wait_exit(&mut shim).code, 0);
    host.discard(&spec, shim);
    assert_eq!(host.log(&spec).lines().count(), 50_000);
}

#[test]
fn logs_are_rotated_and_partial_lines_joined() {
    let host = Host::new();
    let mut spec = host.spec(&["sh", "-c", "seq 2000; head -c 40000 /dev/zero; echo"]);
    spec.log.max_size = 40_000;
    spec.log.max_files = 3;
    host.run(&spec);
    let path = spec.log.path.clone().unwrap();
    let name = |number: u32| path.with_file_name(format!("json.log.{number}"));
    for file in [path.clone(), name(1), name(2)] {
        assert!(file.exists(), "{file:?}");
        for line in std::fs::read_to_string(file).unwrap().lines() {
            assert!(
                line.starts_with("{\"log\":\"") && line.ends_with("Z\"}"),
                "{line}"
            );
        }
    }
    assert!(!name(3).exists());
    // 40,000 zero bytes are two full parts of 16 KiB and one rest.
    let last = host.log(&spec);
    let rest = last.lines().last().unwrap();
    assert_eq!(rest.matches("\\u0000").count(), 40_000 - 2 * (16 << 10));
}

#[test]
fn an_exec_runs_inside_and_leaves_a_record() {
    let host = Host::new();
    let spec = host.spec(&["sleep", "100"]);
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    wait_started(&mut shim);
    let mut exec = support::exec_of(&["sh", "-c", "echo $$; hostname; cat; exit 5"]);
    exec.process.stdin = hull_sandbox::Stdin::Once;
    let (attachment, mut client) = attach(true, true, false);
    shim.exec(&exec, vec![attachment]).unwrap();
    client.write_all(b"input").unwrap();
    close_writing(&client);
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    let pid: u32 = text.lines().next().unwrap().parse().unwrap();
    assert!((2..20).contains(&pid), "{text}");
    assert!(
        text.ends_with(&format!("{}\ninput", spec.id.short())),
        "{text}"
    );
    let exit = support::wait_exec(&mut shim, exec.id);
    assert_eq!(exit.code, 5);
    let records = host.driver.exec_exits(&spec.id).unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].id, records[0].exit), (exec.id, exit));
    host.driver.forget_exec(&spec.id, &exec.id).unwrap();
    assert!(host.driver.exec_exits(&spec.id).unwrap().is_empty());
    shim.signal(9).unwrap();
    wait_exit(&mut shim);
    host.discard(&spec, shim);
}

#[test]
fn an_exec_that_fails_says_why_and_harms_nobody() {
    let host = Host::new();
    let spec = host.spec(&["sleep", "100"]);
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    wait_started(&mut shim);
    for (cwd, args, expected) in [
        (
            "",
            &["nope"][..],
            "exec: \"nope\": executable file not found in $PATH",
        ),
        (
            "/nope",
            &["true"],
            "chdir to cwd (\"/nope\") set in config.json failed: no such file or directory",
        ),
    ] {
        let mut exec = support::exec_of(args);
        exec.process.cwd = cwd.to_owned();
        exec.process.create_cwd = false;
        shim.exec(&exec, Vec::new()).unwrap();
        match support::next_event(&mut shim) {
            Event::ExecFailed { id, failure } => {
                assert_eq!((id, failure.text.as_str()), (exec.id, expected));
            }
            event => panic!("unexpected {event:?}"),
        }
    }
    shim.signal(9).unwrap();
    wait_exit(&mut shim);
    host.discard(&spec, shim);
}

#[test]
fn two_hundred_execs_at_once() {
    const COUNT: usize = 200;
    let host = Host::new();
    let spec = host.spec(&["sleep", "100"]);
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    wait_started(&mut shim);
    let mut clients = Vec::new();
    for number in 0..COUNT {
        let exec = support::exec_of(&["sh", "-c", &format!("cat; exit {}", number % 100)]);
        let mut exec = exec;
        exec.process.stdin = hull_sandbox::Stdin::Once;
        let (attachment, client) = attach(true, true, false);
        shim.exec(&exec, vec![attachment]).unwrap();
        clients.push((exec.id, number, client));
    }
    let mut started = 0;
    while started < COUNT {
        match support::next_event(&mut shim) {
            Event::ExecStarted { .. } => started += 1,
            event => panic!("unexpected {event:?}"),
        }
    }
    // All run now. Their ends come in any order.
    let mut expected: std::collections::HashMap<_, _> = clients
        .iter()
        .map(|(id, number, _)| (*id, number % 100))
        .collect();
    for (_, number, client) in &mut clients {
        client.write_all(number.to_string().as_bytes()).unwrap();
        close_writing(client);
    }
    for (_, number, client) in &mut clients {
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, number.to_string());
    }
    while !expected.is_empty() {
        if let Event::ExecExited { id, exit } = support::next_event(&mut shim) {
            assert_eq!(expected.remove(&id), usize::try_from(exit.code).ok());
        }
    }
    shim.signal(9).unwrap();
    wait_exit(&mut shim);
    host.discard(&spec, shim);
}

#[test]
fn an_exec_with_a_terminal_and_a_signal() {
    let host = Host::new();
    let spec = host.spec(&["sleep", "100"]);
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    wait_started(&mut shim);
    let mut exec = support::exec_of(&["sh", "-c", "stty size; exec sleep 100"]);
    exec.process.tty = Some((5, 6));
    let (attachment, mut client) = attach(true, true, false);
    shim.exec(&exec, vec![attachment]).unwrap();
    let mut buffer = [0u8; 5];
    client.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"5 6\r\n");
    shim.signal_exec(exec.id, 15).unwrap();
    assert_eq!(support::wait_exec(&mut shim, exec.id).code, 143);
    shim.signal(9).unwrap();
    wait_exit(&mut shim);
    host.discard(&spec, shim);
}
