//! Numbers that we promise, measured: `cargo test -p hull-sandbox --test measure -- --ignored
//! --nocapture --test-threads 1`, on an idle machine and with `--release`.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod support;

use std::time::{Duration, Instant};

use hull_sandbox::Event;
use support::{Host, exec_of, next_event, wait_exit, wait_gone, wait_started};

const LIVES: usize = 200;

/// Median, and the tenth of the best: what a host that is busy with other things can still show.
fn median(mut times: Vec<Duration>) -> String {
    times.sort();
    format!(
        "{:?} (best tenth {:?})",
        times[times.len() / 2],
        times[times.len() / 10]
    )
}

fn cpu_seconds_of_children() -> f64 {
    // cutime and cstime: of shims and, through them, of what they waited for; in ticks of 10 ms.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_ascii_whitespace()
        .skip(13)
        .take(2)
        .map(|field| field.parse().unwrap())
        .collect();
    fields.iter().sum::<f64>() / 100.0
}

#[test]
#[ignore = "measures; run by name"]
fn start_exit_and_kill() {
    let host = Host::new();
    let (mut started, mut exited, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    let cpu = cpu_seconds_of_children();
    for _ in 0..LIVES {
        let spec = host.spec(&["true"]);
        let begin = Instant::now();
        let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
        wait_started(&mut shim);
        started.push(begin.elapsed());
        wait_exit(&mut shim);
        exited.push(begin.elapsed());
        wait_gone(&shim);
        gone.push(begin.elapsed());
        assert!(shim.has_ended());
        host.discard(&spec, shim);
    }
    let cpu = (cpu_seconds_of_children() - cpu) * 1000.0 / LIVES as f64;
    println!("start to program   {}", median(started));
    println!("start to exit      {}", median(exited));
    println!("start to shim gone {}", median(gone));
    println!("CPU per life       {cpu:.2} ms of shim and container");
    let mut killed = Vec::new();
    for _ in 0..LIVES {
        let spec = host.spec(&["sleep", "100"]);
        let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
        wait_started(&mut shim);
        let begin = Instant::now();
        shim.signal(9).unwrap();
        wait_exit(&mut shim);
        killed.push(begin.elapsed());
        host.discard(&spec, shim);
    }
    println!("kill to exit event {}", median(killed));
}

#[test]
#[ignore = "measures; run by name"]
fn exec_latency() {
    let host = Host::new();
    let spec = host.spec(&["sleep", "100"]);
    let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
    wait_started(&mut shim);
    let (mut started, mut exited) = (Vec::new(), Vec::new());
    for _ in 0..LIVES {
        let exec = exec_of(&["true"]);
        let begin = Instant::now();
        shim.exec(&exec, Vec::new()).unwrap();
        assert!(matches!(next_event(&mut shim), Event::ExecStarted { .. }));
        started.push(begin.elapsed());
        support::wait_exec(&mut shim, exec.id);
        exited.push(begin.elapsed());
    }
    println!("exec to program    {}", median(started));
    println!("exec to exit       {}", median(exited));
    shim.signal(9).unwrap();
    wait_exit(&mut shim);
    host.discard(&spec, shim);
}

#[test]
#[ignore = "measures; run by name"]
fn memory_of_twenty_shims() {
    const COUNT: usize = 20;
    let host = Host::new();
    let mut running = Vec::new();
    for _ in 0..COUNT {
        let spec = host.spec(&["sleep", "1000"]);
        let mut shim = host.driver.start(&spec, Vec::new()).unwrap();
        wait_started(&mut shim);
        running.push((spec, shim));
    }
    std::thread::sleep(Duration::from_millis(100));
    let field = |text: &str, name: &str| -> usize {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_ascii_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap()
    };
    let (mut pss, mut dirty) = (0, 0);
    for (spec, _) in &running {
        let status = host.base.join("s").join(spec.id.short()).join("status");
        let status = std::fs::read_to_string(status).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("shim "))
            .unwrap();
        let pid = line.split(' ').nth(1).unwrap();
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        pss += field(&rollup, "Pss:");
        dirty += field(&rollup, "Private_Dirty:");
    }
    println!(
        "PSS per shim       {} KiB, private dirty {} KiB",
        pss / COUNT,
        dirty / COUNT
    );
    for (spec, mut shim) in running {
        shim.signal(9).unwrap();
        wait_exit(&mut shim);
        host.discard(&spec, shim);
    }
}
