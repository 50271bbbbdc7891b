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
