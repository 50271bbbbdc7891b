//! Measures what cgroups cost at the start and the end of a container on this host.
//!
//! `cargo run --release -p hull-os --example cgroup_cost [ROUNDS]`: medians in microseconds, of
//! making a group with a container's device rules, moving one process there, killing and removing.

use std::error::Error;
use std::time::{Duration, Instant};

use hull_os::cgroup::{CONTAINER_RULES, Hierarchies, Limits};

/// Rounds where none are given.
const ROUNDS: usize = 200;

#[derive(Default)]
struct Times {
    create: Vec<Duration>,
    attach: Vec<Duration>,
    kill: Vec<Duration>,
    remove: Vec<Duration>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = std::env::args()
        .nth(1)
        .map_or(Ok(ROUNDS), |text| text.parse())?;
    let begin = Instant::now();
    let trees = Hierarchies::detect()?;
    println!("detect {:>7} us", begin.elapsed().as_micros());
    let description = trees.describe();
    let begin = Instant::now();
    Hierarchies::parse(&description)?;
    println!("parse  {:>7} us", begin.elapsed().as_micros());
    for (name, limits) in [
        ("no limits", Limits::default()),
        (
            "devices",
            Limits {
                devices: CONTAINER_RULES.to_vec(),
                ..Limits::default()
            },
        ),
        (
            "devices, memory, cpu, pids",
            Limits {
                devices: CONTAINER_RULES.to_vec(),
                memory_bytes: 64 << 20,
                cpu_shares: 512,
                pids: 100,
                ..Limits::default()
            },
        ),
    ] {
        let mut times = Times::default();
        for _ in 0..rounds {
            round(&trees, &limits, &mut times)?;
        }
        println!("{name}:");
        show("create", times.create);
        show("attach", times.attach);
        show("kill", times.kill);
        show("remove", times.remove);
    }
    Ok(())
}

fn round(trees: &Hierarchies, limits: &Limits, times: &mut Times) -> Result<(), Box<dyn Error>> {
    let path = format!("hull-cost-{}/group", std::process::id());
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut clock = Instant::now();
    let mut lap = |into: &mut Vec<Duration>| {
        into.push(clock.elapsed());
        clock = Instant::now();
    };
    let group = trees.create(&path, limits)?;
    lap(&mut times.create);
    #[expect(clippy::disallowed_methods, reason = "an example, not the daemon")]
    let mut child = std::process::Command::new("sleep").arg("100").spawn()?;
    lap(&mut Vec::new());
    group.attach(child.id())?;
    lap(&mut times.attach);
    group.kill_all(deadline)?;
    lap(&mut times.kill);
    child.wait()?;
    lap(&mut Vec::new());
    group.remove(deadline)?;
    lap(&mut times.remove);
    trees
        .open_group(path.trim_end_matches("/group"))
        .remove(deadline)?;
    Ok(())
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| {
        times
            .get(times.len() * part / 100)
            .map_or(0, Duration::as_micros)
    };
    println!("  {what:<7} {:>7} us   (90 %: {} us)", at(50), at(90));
}
