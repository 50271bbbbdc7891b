//! Measures what cgroups cost at the start and the end of a container on this host.
//!
//! `cargo run --release -p hull-os --example cgroup_cost [ROUNDS]`: medians in microseconds, of
//! making a group with a container's device rules, moving a process there, killing and removing.

use std::error::Error;
use std::time::{Duration, Instant};

use hull_os::cgroup::{CONTAINER_RULES, Group, Hierarchies, Limits};

/// Rounds where none are given.
const ROUNDS: usize = 100;

/// Time between two rounds: the kernel keeps its lock for moves cheap for a while after one, which
/// a host that starts a container now and then never sees.
const IDLE: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Times {
    create: Vec<Duration>,
    attach: Vec<Duration>,
    attach_self: Vec<Duration>,
    kill: Vec<Duration>,
    kill_empty: Vec<Duration>,
    remove: Vec<Duration>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let rounds = std::env::args()
        .nth(1)
        .map_or(Ok(ROUNDS), |text| text.parse())?;
    let begin = Instant::now();
    let trees = Hierarchies::detect()?;
    println!("detect {:>7} us", begin.elapsed().as_micros());
    let parent = format!("hull-cost-{}", std::process::id());
    // Where this process waits between its visits.
    let home = trees.create(&format!("{parent}/home"), &Limits::default())?;
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
            round(&trees, &home, &limits, &mut times)?;
        }
        println!("{name}:");
        show("create", times.create);
        show("attach", times.attach);
        show("attach self", times.attach_self);
        show("kill", times.kill);
        show("kill empty", times.kill_empty);
        show("remove", times.remove);
    }
    // Back to the roots, so that nothing is left.
    for (name, mount) in trees.mounts().filter(|(name, _)| !name.is_empty()) {
        std::fs::write(mount.join("tasks"), "0").map_err(|error| format!("{name}: {error}"))?;
    }
    trees
        .open_group(&parent)
        .remove(Instant::now() + Duration::from_secs(5))?;
    Ok(())
}

fn round(
    trees: &Hierarchies,
    home: &Group,
    limits: &Limits,
    times: &mut Times,
) -> Result<(), Box<dyn Error>> {
    std::thread::sleep(IDLE);
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
    group.attach_self()?;
    lap(&mut times.attach_self);
    home.attach_self()?;
    lap(&mut Vec::new());
    group.attach(child.id())?;
    lap(&mut times.attach);
    group.kill_all(deadline)?;
    lap(&mut times.kill);
    group.kill_all(deadline)?;
    lap(&mut times.kill_empty);
    child.wait()?;
    lap(&mut Vec::new());
    group.remove(deadline)?;
    lap(&mut times.remove);
    Ok(())
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| {
        times
            .get(times.len() * part / 100)
            .map_or(0, Duration::as_micros)
    };
    println!("  {what:<11} {:>7} us   (90 %: {} us)", at(50), at(90));
}
