//! Networks in a real kernel: every test runs this program again in a network namespace of its
//! own, which plays the host, with further namespaces for containers and for the world outside.
//!
//! A namespace is held by a sleeping process and ends with it, with all links and rules in it.
//! Skipped without root.
#![expect(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test starts programs and fails by panicking"
)]

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hull_model::SandboxId;
use hull_model::port::Protocol;
use hull_net::{
    Backend, Endpoint, Firewall, Forward, Network, Networks, Output, Pool, Reach, Settings,
};
use hull_os::netlink::Socket;

const ROLE: &str = "HULL_TEST_ROLE";
/// Asks for another backend than nftables.
const BACKEND: &str = "HULL_TEST_BACKEND";
/// How long something that must not get through is waited for, in milliseconds.
const BLOCKED_MS: u64 = 700;
/// How long something that must get through may take.
const REACHED_MS: u64 = 5_000;

/// Runs the test again in a namespace of its own; `true` in that second run.
fn in_own_host(test: &str) -> bool {
    if std::env::var(ROLE).is_ok_and(|role| role == "host") {
        return true;
    }
    if !is_root() {
        eprintln!("skipped: {test} needs root");
        return false;
    }
    again_in_own_host(test, "nftables");
    false
}

fn again_in_own_host(test: &str, backend: &str) {
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(ROLE, "host")
        .env(BACKEND, backend)
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its namespace");
}

/// Tests of above once more with iptables, by its newer and its older program.
macro_rules! with_iptables {
    ($($name:ident: $test:ident, $program:literal;)*) => {$(
        #[test]
        fn $name() {
            if is_root() {
                again_in_own_host(stringify!($test), $program);
            }
        }
    )*};
}

with_iptables! {
    iptables_lets_out_and_nobody_in:
        containers_reach_each_other_and_the_outside_but_nobody_comes_in, "iptables";
    iptables_legacy_lets_out_and_nobody_in:
        containers_reach_each_other_and_the_outside_but_nobody_comes_in, "iptables-legacy";
    iptables_keeps_networks_apart:
        networks_are_kept_apart_and_internal_ones_closed, "iptables";
    iptables_makes_no_router:
        a_host_that_does_not_route_does_not_become_a_router, "iptables";
    iptables_leads_to_published_ports:
        published_ports_are_reached_from_everywhere_they_should_be, "iptables";
    iptables_legacy_leads_to_published_ports:
        published_ports_are_reached_from_everywhere_they_should_be, "iptables-legacy";
    published_ports_of_iptables_outlive_daemons:
        published_ports_outlive_daemons_and_flushed_rules, "iptables";
    published_ports_of_iptables_legacy_outlive_daemons:
        published_ports_outlive_daemons_and_flushed_rules, "iptables-legacy";
    two_daemons_with_iptables: two_daemons_on_one_host_leave_each_other_alone, "iptables";
    iptables_legacy_that_drops_is_told_to_accept:
        a_forward_chain_of_the_old_iptables_that_drops_is_told_to_accept, "iptables-legacy";
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.contains("\nUid:\t0\t")
}

fn run(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn run_words(words: &str) -> String {
    run(&words.split(' ').collect::<Vec<_>>())
}

/// The seam of [`Networks`], as a test may have it.
fn runner(command: &[&str]) -> std::io::Result<Output> {
    let output = Command::new(variant(command[0]))
        .args(&command[1..])
        .output()?;
    Ok(Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The program that a host with the older iptables would have by this name.
fn variant(program: &str) -> String {
    let old = std::env::var(BACKEND).is_ok_and(|backend| backend == "iptables-legacy");
    match program.split_once("tables") {
        Some((family, rest)) if old && !rest.starts_with("-legacy") => {
            format!("{family}tables-legacy{rest}")
        }
        _ => program.to_owned(),
    }
}

/// Takes every rule away, as the start of a firewall does.
fn flush_rules() {
    run_words("nft flush ruleset");
    for table in ["raw", "mangle", "filter", "nat"] {
        if backend() == Backend::Iptables {
            run(&[&variant("iptables"), "-t", table, "-F"]);
            run(&[&variant("iptables"), "-t", table, "-X"]);
        }
    }
}

/// Where published ports lead, as an administrator sees it.
fn published() -> String {
    match backend() {
        Backend::Nftables => run_words("nft list map inet hull ports4").replace(" . ", ":"),
        Backend::Iptables => run(&[&variant("iptables-save"), "-t", "nat"]),
    }
}

/// The backend under test.
fn backend() -> Backend {
    match std::env::var(BACKEND).as_deref() {
        Ok("iptables" | "iptables-legacy") => Backend::Iptables,
        _ => Backend::Nftables,
    }
}

/// A network namespace, held by a process.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let mut child = Command::new("unshare")
            .args([
                "--net",
                "--",
                "sh",
                "-c",
                "ip link set lo up; echo ready; exec sleep 300",
            ])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn command(&self, program: &[&str]) -> Command {
        let pid = self.pid();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-n", "--"]).args(program);
        command
    }

    fn ip(&self, arguments: &str) {
        let words: Vec<_> = ["ip"].into_iter().chain(arguments.split(' ')).collect();
        assert!(
            self.command(&words).status().unwrap().success(),
            "ip {arguments}"
        );
    }

    /// This program in a role (see [`role`]), inside.
    fn role(&self, role: &str) -> Command {
        let exe = std::env::current_exe().unwrap();
        let mut command = self.command(&[
            exe.to_str().unwrap(),
            "--exact",
            "role",
            "--nocapture",
            "--quiet",
        ]);
        command.env(ROLE, role);
        command
    }

    /// A server that tells each client its address.
    fn serve(&self, port: u16) -> Server {
        let mut child = self
            .role(&format!("serve {port}"))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(
            lines.any(|line| line.unwrap().contains("serving")),
            "server did not start"
        );
        Server(child)
    }

    /// The address that the server at `to` sees, if it is reached.
    fn connect(&self, to: &str, wait_ms: u64) -> Option<IpAddr> {
        let output = self
            .role(&format!("connect {to} {wait_ms}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.contains("seen ") || text.contains("unreached"),
            "{text}"
        );
        let (_, rest) = text.split_once("seen ")?;
        rest.split_whitespace().next()?.parse().ok()
    }

    fn reaches(&self, to: &str) -> IpAddr {
        self.connect(to, REACHED_MS)
            .unwrap_or_else(|| panic!("{to} is not reached"))
    }

    fn is_kept_from(&self, to: &str) {
        let seen = self.connect(to, BLOCKED_MS);
        assert_eq!(seen, None, "{to} must not be reached");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What this program does when a test starts it inside another namespace.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let words: Vec<_> = role.split(' ').collect();
    match words.as_slice() {
        ["steps"] => {
            let mut batch = Vec::new();
            std::io::stdin().read_to_end(&mut batch).unwrap();
            Socket::route(Duration::from_secs(5))
                .unwrap()
                .execute(&batch)
                .unwrap();
        }
        ["serve", port] => {
            let listener = TcpListener::bind(format!("0.0.0.0:{port}")).unwrap();
            println!("serving");
            loop {
                let (mut stream, peer) = listener.accept().unwrap();
                let _ = writeln!(stream, "{}", peer.ip());
            }
        }
        ["connect", to, wait_ms] => {
            let wait = Duration::from_millis(wait_ms.parse().unwrap());
            let to: SocketAddr = to.parse().unwrap();
            match TcpStream::connect_timeout(&to, wait) {
                Ok(stream) => {
                    let mut line = String::new();
                    BufReader::new(stream).read_line(&mut line).unwrap();
                    println!("seen {line}");
                }
                Err(error) => println!("unreached {error}"),
            }
        }
        _ => {}
    }
}

/// The host under test: an uplink to an outside that knows no route back to containers.
struct Host {
    outside: Namespace,
    networks: Arc<Networks>,
    run: std::path::PathBuf,
    next: u8,
}

const OUTSIDE: &str = "198.51.100.2:80";
const HOST_ADDRESS: &str = "198.51.100.1";

impl Host {
    fn new(firewall: Firewall) -> Self {
        run_words("ip link set lo up");
        // A new namespace begins with the settings of the host, which may route.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let outside = Namespace::new();
        let peer = format!(
            "ip link add up0 type veth peer name eth0 netns {}",
            outside.pid()
        );
        run_words(&peer);
        run_words("ip addr add 198.51.100.1/24 dev up0");
        run_words("ip link set up0 up");
        outside.ip("addr add 198.51.100.2/24 dev eth0");
        outside.ip("link set eth0 up");
        run_words("ip route add default via 198.51.100.2");
        // The kernel tells of a carrier by and by, and a look at all links would see the change.
        eventually_within(Duration::from_secs(30), "the uplink has a carrier", || {
            run_words("ip link show up0").contains("state UP")
        });
        let run = std::env::temp_dir().join(format!("hull-net-{}", std::process::id()));
        std::fs::create_dir_all(&run).unwrap();
        let settings = Settings {
            run: run.clone(),
            tag: "hull".to_owned(),
            firewall,
            reach: Reach::All,
            backend: backend(),
        };
        Self {
            outside,
            networks: Arc::new(Networks::open(settings, Box::new(runner))),
            run,
            next: 1,
        }
    }

    fn default_bridge(&self) -> Network {
        Network::default_bridge("172.17.0.0/16".parse().unwrap(), 1500)
    }

    fn container(&mut self, network: &str, address: &str) -> Container {
        let id = SandboxId::from_bytes([self.next; 32]);
        self.next += 1;
        let on = self.networks.network(network).unwrap();
        let endpoint = Endpoint::only(id, vec![address.parse().unwrap()], &on);
        let namespace = Namespace::new();
        let mut steps = self.networks.attach(network, &endpoint).unwrap();
        let netns = std::fs::File::open(format!("/proc/{}/ns/net", namespace.pid())).unwrap();
        let at = steps.netns_fd_offset.unwrap() as usize;
        steps.host[at..at + 4].copy_from_slice(&netns.as_raw_fd().to_ne_bytes());
        Socket::route(Duration::from_secs(5))
            .unwrap()
            .execute(&steps.host)
            .unwrap();
        let mut inside = namespace
            .role("steps")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        inside
            .stdin
            .take()
            .unwrap()
            .write_all(&steps.inside)
            .unwrap();
        assert!(inside.wait().unwrap().success(), "steps inside");
        Container { id, namespace }
    }

    /// All that a person could see of us on the host.
    fn visible(&self) -> String {
        let forwarding = ["all", "default", "lo", "up0"].map(|link| {
            std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{link}/forwarding")).unwrap()
        });
        let mut files: Vec<_> = std::fs::read_dir(&self.run).unwrap().collect();
        format!(
            "{}{}{}{:?}{:?}",
            run_words("ip -o -d link"),
            run_words("ip route show table all"),
            rules_of_all(),
            forwarding,
            files
                .drain(..)
                .map(|file| file.unwrap().file_name())
                .collect::<Vec<_>>(),
        )
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.run);
    }
}

/// Rules of everybody; with iptables without the empty chains that its tables begin with.
fn rules_of_all() -> String {
    match backend() {
        Backend::Nftables => run_words("nft list ruleset"),
        Backend::Iptables => {
            let all = ["iptables-save", "ip6tables-save"].map(|save| run(&[&variant(save)]));
            let ours = |line: &&str| line.starts_with('-') || line.starts_with(":hull");
            all.concat()
                .lines()
                .filter(ours)
                .map(|line| line.to_owned() + "\n")
                .collect()
        }
    }
}

/// Lines that only one of two looks has.
fn differences<'a>(before: &'a str, after: &'a str) -> Vec<&'a str> {
    before
        .lines()
        .filter(|line| !after.contains(line))
        .chain(after.lines().filter(|line| !before.contains(line)))
        // The world's link gets its own address of IPv6 when the kernel has found it unique.
        .filter(|line| !(line.contains("dev up0") && line.contains("proto kernel")))
        .collect()
}

struct Container {
    id: SandboxId,
    namespace: Namespace,
}

#[test]
fn containers_reach_each_other_and_the_outside_but_nobody_comes_in() {
    if !in_own_host("containers_reach_each_other_and_the_outside_but_nobody_comes_in") {
        return;
    }
    let mut host = Host::new(Firewall::Cooperate);
    let before = host.visible();
    let report = host.networks.ensure(&[host.default_bridge()]).unwrap();
    assert_eq!(report, hull_net::Report::default());
    let (a, b) = (
        host.container("bridge", "172.17.0.2"),
        host.container("bridge", "172.17.0.3"),
    );
    let _servers = [b.namespace.serve(80), host.outside.serve(80)];

    assert_eq!(
        a.namespace.reaches("172.17.0.3:80").to_string(),
        "172.17.0.2"
    );
    assert_eq!(
        a.namespace.reaches(OUTSIDE).to_string(),
        HOST_ADDRESS,
        "masqueraded"
    );
    host.outside.ip("route add 172.17.0.0/16 via 198.51.100.1");
    host.outside.is_kept_from("172.17.0.3:80");
    assert_eq!(
        a.namespace.reaches(OUTSIDE).to_string(),
        HOST_ADDRESS,
        "still"
    );

    let inside = run(&[
        "nsenter",
        "-t",
        &a.namespace.pid(),
        "-n",
        "ip",
        "-o",
        "-d",
        "addr",
    ]);
    let eth0: Vec<_> = inside
        .lines()
        .filter(|line| line.contains("eth0"))
        .collect();
    assert_eq!(eth0.len(), 1, "one IPv4 address and no IPv6 one: {inside}");
    let link = run(&[
        "nsenter",
        "-t",
        &a.namespace.pid(),
        "-n",
        "ip",
        "link",
        "show",
        "eth0",
    ]);
    assert!(link.contains("02:42:ac:11:00:02"), "{link}");

    assert_eq!(host.networks.verify().unwrap(), Vec::<String>::new());
    let endpoints = host.networks.endpoints().unwrap();
    let of_a = endpoints
        .iter()
        .find(|endpoint| endpoint.sandbox == a.id.short())
        .unwrap();
    assert_eq!(of_a.bridge.as_deref(), Some("hull0"));
    assert!(matches!(
        host.networks.remove("bridge"),
        Err(hull_net::Error::InUse { ports: 2, .. })
    ));

    // A sandbox that nobody knows loses its link, the other keeps it.
    let removed = host
        .networks
        .leftovers(&HashSet::from([format!("hv{}", a.id.short())]))
        .unwrap();
    assert_eq!(removed, [format!("hv{}", b.id.short())]);
    host.networks.detach(&a.id, 0).unwrap();
    host.networks.detach(&a.id, 0).unwrap();
    host.networks.remove("bridge").unwrap();
    let after = host.visible();
    assert_eq!(
        differences(&before, &after),
        Vec::<&str>::new(),
        "nothing is left"
    );
}

#[test]
fn ensure_again_changes_nothing_and_repairs_what_others_broke() {
    if !in_own_host("ensure_again_changes_nothing_and_repairs_what_others_broke") {
        return;
    }
    let host = Host::new(Firewall::Cooperate);
    let wanted = [host.default_bridge()];
    host.networks.ensure(&wanted).unwrap();
    // Flags and state of a link follow what was asked for, when the kernel comes to it.
    let link = || run_words("ip -o link show hull0");
    let fixed = |text: String| -> Vec<String> {
        let mut words = text.split_whitespace().map(str::to_owned);
        let mut kept = Vec::new();
        while let Some(word) = words.next() {
            match word.as_str() {
                "state" => drop(words.next()),
                flags if flags.starts_with('<') => {}
                _ => kept.push(word),
            }
        }
        kept
    };
    let shown = || (run_words("nft list table inet hull"), fixed(link()));
    let first = shown();
    host.networks.ensure(&wanted).unwrap();
    assert_eq!(shown(), first);

    run_words("nft flush ruleset");
    run_words("ip link set hull0 down");
    run_words("ip addr add 10.9.9.9/24 dev hull0");
    let differences = host.networks.verify().unwrap();
    assert!(
        differences.contains(&"bridge hull0 is down".to_owned()),
        "{differences:?}"
    );
    assert!(
        differences.iter().any(|line| line.contains("is missing")),
        "{differences:?}"
    );
    host.networks.ensure(&wanted).unwrap();
    assert_eq!(shown(), first);
    assert_eq!(host.networks.verify().unwrap(), Vec::<String>::new());
    assert!(!run_words("ip addr show hull0").contains("10.9.9.9"));

    // The daemon starts anew: no memory but the run directory.
    let settings = Settings {
        run: host.run.clone(),
        tag: "hull".to_owned(),
        firewall: Firewall::Cooperate,
        reach: Reach::All,
        backend: backend(),
    };
    let again = Networks::open(settings, Box::new(runner));
    again.ensure(&wanted).unwrap();
    assert_eq!(shown(), first);
    again.ensure(&[]).unwrap();
    assert!(!run_words("ip link").contains("hull0"));
}

#[test]
fn the_table_reads_as_meant() {
    if !in_own_host("the_table_reads_as_meant") {
        return;
    }
    let host = Host::new(Firewall::Cooperate);
    let inner = Network {
        name: "inner".to_owned(),
        bridge: "br-inner".to_owned(),
        pools: vec![Pool::of("10.1.0.0/24".parse().unwrap())],
        internal: true,
        icc: false,
        ..host.default_bridge()
    };
    host.networks
        .ensure(&[host.default_bridge(), inner])
        .unwrap();
    let shown = run_words("nft list table inet hull");
    for line in [
        "elements = { \"hull0\",\n\t\t\t     \"br-inner\" }",
        "\"hull0\" . \"hull0\" : accept",
        "\"br-inner\" . \"br-inner\" : drop",
        "type filter hook prerouting priority raw; policy accept;",
        "ip daddr 127.0.0.0/8 iifname @bridges counter packets 0 bytes 0 drop comment \"hull: ",
        "type filter hook forward priority filter; policy accept;",
        "iifname . oifname vmap @same_bridge comment \"hull: between endpoints of one network\"",
        "iifname @bridges oifname @bridges counter packets 0 bytes 0 drop comment \"hull: ",
        "iifname @internal counter packets 0 bytes 0 drop",
        "oifname @bridges ct state established,related accept comment \"hull: replies\"",
        "oifname @bridges ct status dnat accept",
        "iifname @opened oifname != @routed counter packets 0 bytes 0 drop",
        "type nat hook postrouting priority srcnat; policy accept;",
        "ip saddr 172.17.0.0/16 oifname != \"hull0\" counter packets 0 bytes 0 masquerade comment",
    ] {
        assert!(shown.contains(line), "{line} is not in\n{shown}");
    }
    assert!(
        !shown.contains("10.1.0.0"),
        "an internal network is not masqueraded"
    );
    let rules = host.networks.rules().unwrap();
    assert!(
        rules.contains("saddr 172.17.0.0/16 oifname != hull0 counter masquerade"),
        "{rules}"
    );
    assert!(rules.contains("@opened = { up0 }"), "{rules}");
}

#[test]
fn networks_are_kept_apart_and_internal_ones_closed() {
    if !in_own_host("networks_are_kept_apart_and_internal_ones_closed") {
        return;
    }
    let mut host = Host::new(Firewall::Cooperate);
    let network = |name: &str, subnet: &str| Network {
        name: name.to_owned(),
        bridge: format!("br-{name}"),
        pools: vec![Pool::of(subnet.parse().unwrap())],
        ..Network::default_bridge("10.0.0.0/8".parse().unwrap(), 1500)
    };
    let other = network("other", "10.2.0.0/24");
    let inner = Network {
        internal: true,
        ..network("inner", "10.3.0.0/24")
    };
    let quiet = Network {
        icc: false,
        ..network("quiet", "10.4.0.0/24")
    };
    host.networks
        .ensure(&[host.default_bridge(), other, inner, quiet])
        .unwrap();
    let _outside = host.outside.serve(80);
    let a = host.container("bridge", "172.17.0.2");

    let in_other = host.container("other", "10.2.0.2");
    let _other = in_other.namespace.serve(80);
    a.namespace.is_kept_from("10.2.0.2:80");
    in_other.namespace.reaches(OUTSIDE);

    let inners = [
        host.container("inner", "10.3.0.2"),
        host.container("inner", "10.3.0.3"),
    ];
    let _inner = inners[0].namespace.serve(80);
    inners[1].namespace.reaches("10.3.0.2:80");
    inners[0].namespace.ip("route add default via 10.3.0.1");
    inners[0].namespace.is_kept_from(OUTSIDE);
    a.namespace.is_kept_from("10.3.0.2:80");

    let quiets = [
        host.container("quiet", "10.4.0.2"),
        host.container("quiet", "10.4.0.3"),
    ];
    let _quiet = quiets[0].namespace.serve(80);
    quiets[1].namespace.is_kept_from("10.4.0.2:80");
    quiets[1].namespace.ip("route add 10.4.0.2 via 10.4.0.1");
    quiets[1].namespace.is_kept_from("10.4.0.2:80");
    quiets[1].namespace.reaches(OUTSIDE);
}

#[test]
fn a_host_that_does_not_route_does_not_become_a_router() {
    if !in_own_host("a_host_that_does_not_route_does_not_become_a_router") {
        return;
    }
    let host = Host::new(Firewall::Cooperate);
    let lan = Namespace::new();
    run_words(&format!(
        "ip link add lan0 type veth peer name eth0 netns {}",
        lan.pid()
    ));
    run_words("ip addr add 203.0.113.1/24 dev lan0");
    run_words("ip link set lan0 up");
    lan.ip("addr add 203.0.113.2/24 dev eth0");
    lan.ip("link set eth0 up");
    lan.ip("route add default via 203.0.113.1");
    host.outside.ip("route add 203.0.113.0/24 via 198.51.100.1");
    let _server = host.outside.serve(80);

    lan.is_kept_from(OUTSIDE);
    host.networks.ensure(&[host.default_bridge()]).unwrap();
    lan.is_kept_from(OUTSIDE);

    // The administrator makes it a router: that is not ours to hinder, nor to take back.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    host.networks.ensure(&[host.default_bridge()]).unwrap();
    lan.reaches(OUTSIDE);
    host.networks.ensure(&[]).unwrap();
    lan.reaches(OUTSIDE);
}

/// Rules of iptables and nft as text, without packet counts.
fn foreign_rules(iptables: &str) -> String {
    let all = run(&[iptables, "-S"]) + &run(&[iptables, "-t", "nat", "-S"]);
    let foreign = |line: &&str| !line.contains(" hull-");
    all.lines()
        .filter(foreign)
        .map(|line| line.to_owned() + "\n")
        .collect()
}

fn cooperation_with(iptables: &str) {
    let mut host = Host::new(Firewall::Cooperate);
    run(&[iptables, "-N", "USER"]);
    run(&[iptables, "-A", "USER", "-s", "10.99.0.1", "-j", "DROP"]);
    run(&[iptables, "-A", "FORWARD", "-j", "USER"]);
    run(&[iptables, "-P", "FORWARD", "DROP"]);
    let foreign = foreign_rules(iptables);

    let report = host.networks.ensure(&[host.default_bridge()]).unwrap();
    assert_eq!(report.blocked_by.len(), 1, "{report:?}");
    let listed = foreign_rules(iptables);
    let unquoted = listed.replace('"', "");
    for line in [
        "-A FORWARD -i hull0 -o up0 -m comment --comment hull:hull0 to up0 -j ACCEPT",
        "-A FORWARD -o hull0 -m comment --comment hull:hull0 -j ACCEPT",
    ] {
        assert!(unquoted.contains(line), "{line}:\n{listed}");
    }
    assert!(host.networks.rules().unwrap().contains("hull0"));
    let (a, b) = (
        host.container("bridge", "172.17.0.2"),
        host.container("bridge", "172.17.0.3"),
    );
    let _servers = [b.namespace.serve(80), host.outside.serve(80)];
    a.namespace.reaches(OUTSIDE);
    a.namespace.reaches("172.17.0.3:80");
    host.networks.ensure(&[host.default_bridge()]).unwrap();
    assert_eq!(foreign_rules(iptables), listed, "once is enough");

    // A rule for all packets, added in front: ours must stand before it.
    run(&[iptables, "-I", "FORWARD", "1", "-j", "REJECT"]);
    a.namespace.is_kept_from(OUTSIDE);
    host.networks.ensure(&[host.default_bridge()]).unwrap();
    a.namespace.reaches(OUTSIDE);
    run(&[iptables, "-D", "FORWARD", "-j", "REJECT"]);

    // The chain accepts by itself: ours are taken out.
    run(&[iptables, "-P", "FORWARD", "ACCEPT"]);
    host.networks.ensure(&[host.default_bridge()]).unwrap();
    assert!(!foreign_rules(iptables).contains("hull"));
    run(&[iptables, "-P", "FORWARD", "DROP"]);
    host.networks.ensure(&[host.default_bridge()]).unwrap();
    assert!(foreign_rules(iptables).contains("hull:hull0"));

    for container in [&a, &b] {
        host.networks.detach(&container.id, 0).unwrap();
    }
    host.networks.remove("bridge").unwrap();
    assert_eq!(
        foreign_rules(iptables),
        foreign,
        "foreign rules are as they were"
    );
}

#[test]
fn a_forward_chain_of_iptables_nft_that_drops_is_told_to_accept() {
    if in_own_host("a_forward_chain_of_iptables_nft_that_drops_is_told_to_accept") {
        cooperation_with("iptables-nft");
    }
}

#[test]
fn a_forward_chain_of_the_old_iptables_that_drops_is_told_to_accept() {
    if in_own_host("a_forward_chain_of_the_old_iptables_that_drops_is_told_to_accept") {
        cooperation_with("iptables-legacy");
    }
}

#[test]
fn a_drop_chain_of_plain_nftables_is_told_to_accept() {
    if !in_own_host("a_drop_chain_of_plain_nftables_is_told_to_accept") {
        return;
    }
    let mut host = Host::new(Firewall::Cooperate);
    run_words("nft add table inet site");
    run(&[
        "nft",
        "add chain inet site passing { type filter hook forward priority 10; policy drop; }",
    ]);
    run(&[
        "nft",
        "add rule inet site passing ip saddr 10.99.0.1 drop comment \"of the site\"",
    ]);
    let foreign = run_words("nft list table inet site");
    host.networks.ensure(&[host.default_bridge()]).unwrap();
    let a = host.container("bridge", "172.17.0.2");
    let _server = host.outside.serve(80);
    a.namespace.reaches(OUTSIDE);
    host.networks.detach(&a.id, 0).unwrap();
    host.networks.remove("bridge").unwrap();
    assert_eq!(run_words("nft list table inet site"), foreign);
}

#[test]
fn hands_off_adds_nothing_and_names_the_chain() {
    if !in_own_host("hands_off_adds_nothing_and_names_the_chain") {
        return;
    }
    let mut host = Host::new(Firewall::HandsOff);
    run_words("iptables-nft -P FORWARD DROP");
    let foreign = foreign_rules("iptables-nft");
    let report = host.networks.ensure(&[host.default_bridge()]).unwrap();
    assert_eq!(
        report.blocked_by,
        ["nftables ip filter FORWARD (its policy)"]
    );
    assert_eq!(foreign_rules("iptables-nft"), foreign);
    let a = host.container("bridge", "172.17.0.2");
    let b = host.container("bridge", "172.17.0.3");
    let _servers = [host.outside.serve(80), b.namespace.serve(80)];
    a.namespace.is_kept_from(OUTSIDE);
    // On hosts that pass bridged frames to iptables, neighbors are lost too.
    let bridged = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if bridged.is_ok_and(|value| value.trim() == "1") {
        a.namespace.is_kept_from("172.17.0.3:80");
    }
}

#[test]
fn subnets_with_a_route_of_the_host_are_not_chosen() {
    if !in_own_host("subnets_with_a_route_of_the_host_are_not_chosen") {
        return;
    }
    let host = Host::new(Firewall::Cooperate);
    let choose = || {
        host.networks
            .choose_subnet("hull0", &hull_net::AddressPool::defaults(), &[])
            .unwrap()
            .to_string()
    };
    assert_eq!(choose(), "172.17.0.0/16");
    run_words("ip route add 172.17.4.0/24 via 198.51.100.2");
    assert_eq!(choose(), "172.18.0.0/16");
    let network = Network::default_bridge("172.18.0.0/16".parse().unwrap(), 1500);
    host.networks.ensure(&[network]).unwrap();
    run_words("ip route del 172.17.4.0/24");
    assert_eq!(
        choose(),
        "172.18.0.0/16",
        "containers of a former daemon keep their subnet"
    );
    let other = host
        .networks
        .choose_subnet(
            "br-other",
            &hull_net::AddressPool::defaults(),
            &["172.17.0.0/16".parse().unwrap()],
        )
        .unwrap()
        .to_string();
    assert_eq!(other, "172.19.0.0/16");
    run_words("ip link set up0 mtu 1400");
    assert_eq!(host.networks.uplink_mtu().unwrap(), 1400);
}

/// Waits until `holds`, while another thread settles what others change.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    eventually_within(Duration::from_secs(3), what, holds);
}

fn eventually_within(time: Duration, what: &str, holds: impl Fn() -> bool) {
    // An emulated machine takes its time.
    let patience = std::env::var("HULL_TEST_PATIENCE").ok();
    let times = patience.and_then(|times| times.parse().ok()).unwrap_or(1);
    let deadline = Instant::now() + time * times;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {time:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_others_change_is_settled_while_watching() {
    if !in_own_host("what_others_change_is_settled_while_watching") {
        return;
    }
    let mut host = Host::new(Firewall::Cooperate);
    host.networks.ensure(&[host.default_bridge()]).unwrap();
    let a = host.container("bridge", "172.17.0.2");
    let _server = host.outside.serve(80);
    let networks = host.networks.clone();
    let rounds = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (watching, counter) = (networks.clone(), rounds.clone());
    let mut events = networks.watch().unwrap();
    std::thread::spawn(move || {
        loop {
            watching.settle_next(&mut events).unwrap();
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    });
    let right = || networks.verify().unwrap().is_empty();

    run_words("nft flush ruleset");
    eventually("a firewall that is loaded anew", right);
    a.namespace.reaches(OUTSIDE);

    run_words("iptables-nft -P FORWARD DROP");
    eventually("a policy that drops", || {
        networks.rules().unwrap().contains("hull:hull0")
    });
    a.namespace.reaches(OUTSIDE);

    // As Docker does when it starts after us.
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    eventually("a host that routes", || {
        networks.rules().unwrap().contains("@opened = {  }")
    });
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
    eventually("a host that routes no more", || {
        networks.rules().unwrap().contains("@opened = { up0 }") && right()
    });
    a.namespace.reaches(OUTSIDE);

    run_words("ip link add late0 type veth peer name late1");
    run_words("ip link set late0 up");
    run_words("ip link set late1 up");
    run_words("ip addr add 192.0.2.1/24 dev late0");
    run_words("ip route add 203.0.113.0/24 via 192.0.2.2");
    eventually("a new uplink", || {
        networks.rules().unwrap().contains("up0, late0 }")
    });

    std::thread::sleep(Duration::from_millis(500));
    let before = rounds.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(
        rounds.load(std::sync::atomic::Ordering::Relaxed),
        before,
        "it sees its own work"
    );
}

#[test]
fn two_daemons_on_one_host_leave_each_other_alone() {
    if !in_own_host("two_daemons_on_one_host_leave_each_other_alone") {
        return;
    }
    let mut host = Host::new(Firewall::Cooperate);
    let _server = host.outside.serve(80);
    host.networks.ensure(&[host.default_bridge()]).unwrap();
    let run = host.run.join("other");
    std::fs::create_dir_all(&run).unwrap();
    let settings = Settings {
        run,
        tag: "hull-b".to_owned(),
        firewall: Firewall::Cooperate,
        reach: Reach::All,
        backend: backend(),
    };
    let other = Networks::open(settings, Box::new(runner));
    let mut network = Network::default_bridge("172.18.0.0/16".parse().unwrap(), 1500);
    network.bridge = "hlb".to_owned();
    other.ensure(std::slice::from_ref(&network)).unwrap();
    host.networks.ensure(&[host.default_bridge()]).unwrap();

    let a = host.container("bridge", "172.17.0.2");
    let first = std::mem::replace(&mut host.networks, Arc::new(other));
    let b = host.container("bridge", "172.18.0.2");
    a.namespace.reaches(OUTSIDE);
    b.namespace.reaches(OUTSIDE);
    let _server_b = b.namespace.serve(80);
    a.namespace.is_kept_from("172.18.0.2:80");
    let nobody = HashSet::new();
    assert_eq!(
        first.leftovers(&nobody).unwrap(),
        [format!("hv{}", a.id.short())]
    );
    first.ensure(&[]).unwrap();
    assert_eq!(host.networks.verify().unwrap(), Vec::<String>::new());
    host.networks
        .ensure(std::slice::from_ref(&network))
        .unwrap();
    b.namespace.reaches(OUTSIDE);
}

#[test]
fn firewalld_is_asked_to_trust_the_bridge() {
    if !in_own_host("firewalld_is_asked_to_trust_the_bridge") {
        return;
    }
    // The shape of firewalld's table; the program itself needs a system bus.
    run(&[
        "nft",
        "add table inet firewalld; \
         add chain inet firewalld filter_FORWARD { type filter hook forward priority 10; }; \
         add rule inet firewalld filter_FORWARD ct state established accept; \
         add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited",
    ]);
    let foreign = run_words("nft list table inet firewalld");
    let host = Host::new(Firewall::Cooperate);
    let asked = Arc::new(Mutex::new((Vec::new(), false)));
    let record = asked.clone();
    let firewall_cmd = move |command: &[&str]| {
        let mut state = record.lock().unwrap();
        state.0.push(command.join(" "));
        let is_in = state.1;
        let code = match command[2] {
            "--query-interface=hull0" => i32::from(!is_in),
            "--change-interface=hull0" => 0,
            "--remove-interface=hull0" => 0,
            other => panic!("{other}"),
        };
        if !command[2].starts_with("--query") {
            state.1 = !is_in;
        }
        Ok(Output {
            code: Some(code),
            ..Output::default()
        })
    };
    let settings = Settings {
        run: host.run.clone(),
        tag: "hull".to_owned(),
        firewall: Firewall::Cooperate,
        reach: Reach::All,
        backend: backend(),
    };
    let networks = Networks::open(settings, Box::new(firewall_cmd));
    for _ in 0..2 {
        let report = networks.ensure(&[host.default_bridge()]).unwrap();
        assert_eq!(report.blocked_by, ["firewalld (a rule for all packets)"]);
    }
    networks.ensure(&[]).unwrap();
    let command = |verb: &str| format!("firewall-cmd --zone=trusted --{verb}-interface=hull0");
    let expected = ["query", "change", "query", "query", "remove"].map(command);
    assert_eq!(asked.lock().unwrap().0, expected);
    assert_eq!(
        run_words("nft list table inet firewalld"),
        foreign,
        "its table is its own"
    );
}

/// A dockerd of this namespace, with everything of it in one folder.
struct Dockerd(Child);

impl Dockerd {
    fn start(folder: &std::path::Path) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        let log = std::fs::File::create(folder.join("docker.log")).unwrap();
        let child = Command::new("dockerd")
            .args([
                "--data-root",
                &path("docker"),
                "--exec-root",
                &path("docker-exec"),
            ])
            .args(["--pidfile", &path("docker.pid"), "--storage-driver", "vfs"])
            .args(["-H", &format!("unix://{}", path("docker.sock"))])
            .stderr(log)
            .spawn()
            .unwrap();
        let started = Self(child);
        eventually_within(Duration::from_secs(30), "dockerd", || {
            std::fs::read_to_string(folder.join("docker.log"))
                .unwrap()
                .contains("API listen on")
        });
        started
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It stops its containerd by itself, if it is asked.
        run(&["kill", &self.0.id().to_string()]);
        let _ = self.0.wait();
    }
}

#[test]
fn beside_docker_both_have_their_way_out() {
    if !in_own_host("beside_docker_both_have_their_way_out") {
        return;
    }
    if !std::path::Path::new("/usr/sbin/dockerd").exists() {
        eprintln!("skipped: there is no dockerd here");
        return;
    }
    let mut host = Host::new(Firewall::Cooperate);
    let _server = host.outside.serve(80);
    host.networks.ensure(&[host.default_bridge()]).unwrap();
    let networks = host.networks.clone();
    let mut events = networks.watch().unwrap();
    std::thread::spawn(move || while networks.settle_next(&mut events).is_ok() {});

    // Docker starts after us: makes the host route, and FORWARD drop.
    let dockerd = Dockerd::start(&host.run);
    assert!(run_words("iptables -S FORWARD").contains("-P FORWARD DROP"));
    let subnet = run_words("ip -o -4 addr show docker0");
    assert!(
        subnet.contains("172.18.0.1/16"),
        "Docker went out of our way: {subnet}"
    );
    eventually("accept rules", || {
        host.networks
            .rules()
            .unwrap()
            .contains("# hull:hull0 to up0")
    });
    let a = host.container("bridge", "172.17.0.2");
    a.namespace.reaches(OUTSIDE);

    // One of Docker's: what it makes of a container, without an image.
    let of_docker = Namespace::new();
    let pid = of_docker.pid();
    run_words(&format!(
        "ip link add d0 type veth peer name eth0 netns {pid}"
    ));
    run_words("ip link set d0 master docker0 up");
    of_docker.ip("addr add 172.18.0.2/16 dev eth0");
    of_docker.ip("link set eth0 up");
    of_docker.ip("route add default via 172.18.0.1");
    of_docker.reaches(OUTSIDE);
    let _server_of_docker = of_docker.serve(80);
    a.namespace.is_kept_from("172.18.0.2:80");

    host.networks.ensure(&[]).unwrap();
    assert!(!run_words("iptables-save").contains("hull"));
    of_docker.reaches(OUTSIDE);
    drop(dockerd);
}

fn tcp(host: &str, port: u16, to: &str) -> Forward {
    Forward {
        protocol: Protocol::Tcp,
        host: host.parse().unwrap(),
        port,
        to: to.parse().unwrap(),
    }
}

/// The address that the server at `to` sees of us, the host.
fn seen_from_host(to: &str) -> Option<IpAddr> {
    let wait = Duration::from_millis(BLOCKED_MS);
    let stream = TcpStream::connect_timeout(&to.parse().unwrap(), wait).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    line.trim().parse().ok()
}

#[test]
fn published_ports_are_reached_from_everywhere_they_should_be() {
    if !in_own_host("published_ports_are_reached_from_everywhere_they_should_be") {
        return;
    }
    let mut host = Host::new(Firewall::Cooperate);
    let other = Network {
        name: "other".to_owned(),
        bridge: "br-other".to_owned(),
        pools: vec![Pool::of("10.2.0.0/24".parse().unwrap())],
        icc: false,
        ..host.default_bridge()
    };
    let networks = [host.default_bridge(), other];
    host.networks.ensure(&networks).unwrap();
    let web = host.container("bridge", "172.17.0.2");
    let _web = web.namespace.serve(80);
    let near = host.container("bridge", "172.17.0.3");
    let far = host.container("other", "10.2.0.2");
    let _far = far.namespace.serve(81);
    let forwards = [
        tcp("0.0.0.0", 8080, "172.17.0.2:80"),
        tcp("127.0.0.1", 8081, "172.17.0.2:80"),
        tcp(HOST_ADDRESS, 8082, "172.17.0.2:80"),
        tcp("0.0.0.0", 8083, "10.2.0.2:81"),
    ];
    host.networks.publish(&forwards).unwrap();
    assert_eq!(host.networks.verify().unwrap(), Vec::<String>::new());

    let from_outside = |port: u16| host.outside.reaches(&format!("{HOST_ADDRESS}:{port}"));
    assert_eq!(
        from_outside(8080).to_string(),
        "198.51.100.2",
        "the client's own address"
    );
    from_outside(8082);
    from_outside(8083);
    host.outside.is_kept_from(&format!("{HOST_ADDRESS}:8081"));
    assert!(seen_from_host(&format!("{HOST_ADDRESS}:8080")).is_some());
    assert!(seen_from_host("127.0.0.1:8080").is_some());
    assert!(seen_from_host("127.0.0.1:8081").is_some());
    assert!(
        seen_from_host("127.0.0.1:8082").is_none(),
        "published elsewhere"
    );
    // Itself, its neighbour, and one behind a wall; but not what is the host's own.
    for client in [&web, &near, &far] {
        client.namespace.reaches(&format!("{HOST_ADDRESS}:8080"));

        client
            .namespace
            .is_kept_from(&format!("{HOST_ADDRESS}:8081"));
        client.namespace.is_kept_from("127.0.0.1:8081");
    }
    for client in [&web, &near] {
        client.namespace.reaches(&format!("{HOST_ADDRESS}:8083"));
    }
    far.namespace.is_kept_from("172.17.0.2:80");
    // A neighbour of the host that sends to the host's loopback, or straight to the container.
    host.outside.ip("route add 172.17.0.0/16 via 198.51.100.1");
    host.outside.is_kept_from("172.17.0.2:80");
    std::fs::write("/proc/sys/net/ipv4/conf/up0/route_localnet", "1").unwrap();
    host.outside.ip("addr del 127.0.0.1/8 dev lo");
    host.outside.ip("route add 127.0.0.1/32 via 198.51.100.1");
    host.outside.is_kept_from("127.0.0.1:8081");
}

#[test]
fn published_ports_outlive_daemons_and_flushed_rules() {
    if !in_own_host("published_ports_outlive_daemons_and_flushed_rules") {
        return;
    }
    let mut host = Host::new(Firewall::Cooperate);
    let wanted = [host.default_bridge()];
    host.networks.ensure(&wanted).unwrap();
    let web = host.container("bridge", "172.17.0.2");
    let _web = web.namespace.serve(80);
    let first = tcp("0.0.0.0", 8080, "172.17.0.2:80");
    let second = tcp("0.0.0.0", 8081, "172.17.0.2:80");
    host.networks.publish(&[first]).unwrap();
    // A thousand others change nothing for these two.
    let many: Vec<_> = (20_000..21_000)
        .map(|port| tcp("0.0.0.0", port, "172.17.0.9:80"))
        .collect();
    host.networks.publish(&many).unwrap();
    flush_rules();
    host.networks.publish(&[second]).unwrap();
    assert!(seen_from_host("127.0.0.1:8080").is_some(), "restored");
    assert!(seen_from_host("127.0.0.1:8081").is_some());

    let settings = |reach| Settings {
        backend: backend(),
        run: host.run.clone(),
        tag: "hull".to_owned(),
        firewall: Firewall::Cooperate,
        reach,
    };
    let again = Networks::open(settings(Reach::All), Box::new(runner));
    again.ensure(&wanted).unwrap();
    let at_host = format!("{HOST_ADDRESS}:8080");
    host.outside.reaches(&at_host);
    again.keep_published(&[first]).unwrap();
    assert!(
        seen_from_host("127.0.0.1:8081").is_none(),
        "nobody's any more"
    );
    assert_eq!(again.verify().unwrap(), Vec::<String>::new());

    // With the host's firewall in charge, what comes from outside is not led past it.
    let inside = Networks::open(settings(Reach::Inside), Box::new(runner));
    inside.ensure(&wanted).unwrap();
    host.outside.is_kept_from(&at_host);
    assert!(seen_from_host("127.0.0.1:8080").is_some());
    web.namespace.reaches(&at_host);

    // What another container took over is not taken away with the former one's.
    let moved = tcp("0.0.0.0", 8080, "172.17.0.7:80");
    inside.publish(&[moved]).unwrap();
    inside.unpublish(&[first]).unwrap();
    assert!(published().contains("172.17.0.7:80"));
    inside.unpublish(&[moved]).unwrap();
    assert!(!published().contains("172.17.0.7"));
}

#[test]
fn ports_and_walls_stay_when_the_backend_changes() {
    if !in_own_host("ports_and_walls_stay_when_the_backend_changes") {
        return;
    }
    let mut host = Host::new(Firewall::Cooperate);
    let wanted = [host.default_bridge()];
    host.networks.ensure(&wanted).unwrap();
    let web = host.container("bridge", "172.17.0.2");
    let _web = web.namespace.serve(80);
    let _outside = host.outside.serve(80);
    host.networks
        .publish(&[tcp("0.0.0.0", 8080, "172.17.0.2:80")])
        .unwrap();
    host.outside.ip("route add 172.17.0.0/16 via 198.51.100.1");
    for backend in [Backend::Iptables, Backend::Nftables] {
        let settings = Settings {
            run: host.run.clone(),
            tag: "hull".to_owned(),
            firewall: Firewall::Cooperate,
            reach: Reach::All,
            backend,
        };
        let next = Networks::open(settings, Box::new(runner));
        next.ensure(&wanted).unwrap();
        assert_eq!(next.verify().unwrap(), Vec::<String>::new());
        host.outside.reaches(&format!("{HOST_ADDRESS}:8080"));
        host.outside.is_kept_from("172.17.0.2:80");
        web.namespace.reaches(OUTSIDE);
        let has = |rules: String| rules.contains("172.17.0.2");
        let by_iptables = has(run_words("iptables-save -t nat"));
        let by_nftables = run_words("nft list ruleset").contains("table inet hull");
        assert_eq!(
            (by_iptables, by_nftables),
            match backend {
                Backend::Iptables => (true, false),
                Backend::Nftables => (false, true),
            }
        );
        assert_eq!(host.run.join("iptables-tables").exists(), by_iptables);
    }
}
