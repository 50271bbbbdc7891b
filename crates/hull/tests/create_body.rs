//! What `hull create` sends for a set of flags, beside what Docker's client sends.
//!
//! Both clients talk to a server that writes down their requests. `create_body/golden.jsonl` has
//! what Docker's client 28.2 sent; where that client is installed, it is asked again, so that the
//! file cannot be wrong. `HULL_RECORD=1` writes the file anew.
#![expect(clippy::disallowed_methods, reason = "tests start programs")]
#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use serde_json::{Value, json};

/// A server that answers every request and hands on the bodies and queries of creations.
struct Recorder {
    socket: PathBuf,
    folder: PathBuf,
    requests: mpsc::Receiver<(String, Value)>,
}

impl Recorder {
    fn start(name: &str) -> Recorder {
        let folder = std::env::temp_dir().join(format!("hull-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let socket = folder.join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let (sender, requests) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let sender = sender.clone();
                std::thread::spawn(move || serve(stream.unwrap(), &sender));
            }
        });
        Recorder {
            socket,
            folder,
            requests,
        }
    }

    /// What the client at `program` sends for the flags.
    fn record(&self, program: &Path, flags: &str) -> Result<(String, Value), String> {
        let output = Command::new(program)
            .args(["-H", &format!("unix://{}", self.socket.display()), "create"])
            .args(words(flags))
            .env_clear()
            .env("HOME", &self.folder)
            .env("FROM_OUTSIDE", "outside")
            .current_dir(files())
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(self.requests.try_recv().expect("a create request"))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/create_body")
}

/// Splits at blanks outside of single quotes.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

fn serve(stream: UnixStream, sender: &mpsc::Sender<(String, Value)>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let length = head.iter().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse().unwrap())
        });
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).unwrap();
        let is_ping = head[0].starts_with("HEAD");
        let answer = if is_ping {
            ""
        } else {
            r#"{"Id":"0123","Warnings":[]}"#
        };
        if head[0].contains("/containers/create") {
            let target = head[0].split(' ').nth(1).unwrap().to_owned();
            sender
                .send((target, serde_json::from_slice(&body).unwrap()))
                .unwrap();
        }
        let status = if is_ping { "200 OK" } else { "201 Created" };
        write!(
            writer,
            "HTTP/1.1 {status}\r\nApi-Version: 1.48\r\nOstype: linux\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        )
        .unwrap();
    }
}

/// Lists whose order Docker's client leaves to chance are sorted.
fn normal(mut body: Value) -> Value {
    let sort = |value: Option<&mut Value>| {
        if let Some(Value::Array(list)) = value {
            list.sort_by_key(ToString::to_string);
        }
    };
    sort(body.get_mut("Env"));
    sort(body.pointer_mut("/HostConfig/Binds"));
    sort(body.pointer_mut("/HostConfig/Ulimits"));
    body
}

fn cases() -> Vec<String> {
    let text = std::fs::read_to_string(files().join("cases.txt")).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| format!("{line} -- busybox cmd -x"))
        .chain(bare())
        .collect()
}

/// Cases about the words after the flags.
fn bare() -> Vec<String> {
    [
        "busybox",
        "-i busybox sh -c 'echo hi'",
        "busybox --rm -it",
        "-- busybox",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn docker() -> Option<PathBuf> {
    let path = PathBuf::from("/usr/local/bin/docker");
    let output = Command::new(&path).arg("--version").output().ok()?;
    String::from_utf8_lossy(&output.stdout)
        .contains("version 28.2")
        .then_some(path)
}

fn line(flags: &str, (target, body): (String, Value)) -> Value {
    // Folders differ from machine to machine.
    let here = files().to_string_lossy().into_owned();
    let text = normal(body).to_string().replace(&here, "/HERE");
    json!({ "flags": flags, "target": target, "body": serde_json::from_str::<Value>(&text).unwrap() })
}

#[test]
fn every_flag_becomes_what_dockers_client_sends() {
    let recorder = Recorder::start("create-body");
    let golden = files().join("golden.jsonl");
    let ours = Path::new(env!("CARGO_BIN_EXE_hull"));
    if let Some(docker) = docker() {
        let recorded = cases().into_iter().map(|flags| {
            let sent = recorder.record(&docker, &flags);
            line(
                &flags,
                sent.unwrap_or_else(|error| panic!("{flags}: {error}")),
            )
            .to_string()
                + "\n"
        });
        let recorded: String = recorded.collect();
        if std::env::var_os("HULL_RECORD").is_some() {
            std::fs::write(&golden, recorded).unwrap();
        } else {
            let committed = std::fs::read_to_string(&golden).unwrap();
            assert_eq!(
                recorded, committed,
                "golden.jsonl is not what Docker's client sends"
            );
        }
    }
    let golden = std::fs::read_to_string(&golden).unwrap();
    let golden: Vec<Value> = golden
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(
        golden.len(),
        cases().len(),
        "HULL_RECORD=1 records new cases"
    );
    let mut differences = String::new();
    for expected in &golden {
        let flags = expected["flags"].as_str().unwrap();
        match recorder.record(ours, flags) {
            Ok(sent) => differences.push_str(&difference(flags, expected, &line(flags, sent))),
            Err(error) => differences.push_str(&format!("{flags}\n  refused: {error}\n")),
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// The members in which two requests differ.
fn difference(flags: &str, expected: &Value, sent: &Value) -> String {
    let mut lines = Vec::new();
    walk("", expected, sent, &mut lines);
    if lines.is_empty() {
        return String::new();
    }
    format!("{flags}\n{}\n", lines.join("\n"))
}

fn walk(path: &str, expected: &Value, sent: &Value, lines: &mut Vec<String>) {
    if let (Value::Object(a), Value::Object(b)) = (expected, sent) {
        let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for name in names {
            let member = |object: &serde_json::Map<String, Value>| {
                object
                    .get(name)
                    .cloned()
                    .unwrap_or_else(|| json!("(not there)"))
            };
            walk(&format!("{path}/{name}"), &member(a), &member(b), lines);
        }
    } else if expected != sent {
        lines.push(format!("  {path}: docker {expected}, hull {sent}"));
    }
}
