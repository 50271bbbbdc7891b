//! Who may depend on whom: the picture in ARCHITECTURE.md as data.
//!
//! Data flows one way, from an edge to the engine to a driver to the kernel, and so does knowledge.
//! A new crate is first given its layer here; that is the moment to ask whether it is needed.

use std::collections::BTreeMap;

use super::Finding;
use super::graph::{Graph, Package};

/// Where a crate stands in the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// Words without effects.
    Words,
    /// Effects without policy.
    System,
    /// The format of a plan and its interpreter.
    Plan,
    /// One kind of resource, no knowledge of the other kinds.
    Driver,
    /// Objects, rules, store, recovery.
    Engine,
    /// A document turned into engine calls.
    Planner,
    /// A protocol: parse, call, format.
    Edge,
    /// The small static program beside each sandbox.
    Shim,
    /// `hull` itself.
    Program,
    /// Automation; part of nothing that is shipped.
    Tool,
}

use Layer::{Driver, Edge, Engine, Plan, Planner, Program, Shim, System, Tool, Words};

/// The layer of every crate.
const LAYERS: &[(&str, Layer)] = &[
    ("hull", Program),
    ("hull-build", Planner),
    ("hull-cluster", Planner),
    ("hull-cri", Edge),
    ("hull-docker", Edge),
    ("hull-engine", Engine),
    ("hull-libvirt", Edge),
    ("hull-model", Words),
    ("hull-net", Driver),
    ("hull-os", System),
    ("hull-plan", Plan),
    ("hull-registry", Driver),
    ("hull-sandbox", Driver),
    ("hull-shim", Shim),
    ("hull-storage", Driver),
    ("hull-vm", Driver),
    ("xtask", Tool),
];

/// The layers that a crate of `layer` may depend on. None but `hull` sees its own layer.
fn below(layer: Layer) -> &'static [Layer] {
    match layer {
        Words | System | Tool => &[],
        Plan => &[System],
        Driver | Shim => &[Words, System, Plan],
        Engine => &[Words, System, Plan, Driver],
        Planner => &[Words, Engine],
        Edge => &[Words, Engine, Planner],
        Program => &[Words, System, Plan, Driver, Engine, Planner, Edge],
    }
}

/// Libraries that only some crates may name, and why.
struct Reserved {
    libraries: &'static [&'static str],
    layers: &'static [Layer],
    /// Crates beyond those layers.
    crates: &'static [&'static str],
    why: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved {
        libraries: &["libc", "linux-raw-sys", "nix", "rustix", "syscalls"],
        layers: &[System, Plan, Shim],
        crates: &[],
        why: "system calls belong behind a safe name in hull-os",
    },
    Reserved {
        libraries: &[
            "axum",
            "http",
            "http-body-util",
            "hyper",
            "hyper-util",
            "prost",
            "quick-xml",
            "roxmltree",
            "tonic",
        ],
        layers: &[Edge, Program],
        crates: &["hull-registry", "hull-cluster"],
        why: "only edges know protocols",
    },
    Reserved {
        libraries: &["tokio", "async-std", "smol", "futures-util"],
        layers: &[Engine, Planner, Edge, Program],
        crates: &["hull-registry"],
        why: "drivers block, with a deadline, so that they run the same in daemon, shim and tests",
    },
    Reserved {
        libraries: &["anyhow"],
        layers: &[Tool],
        crates: &[],
        why: "errors of the product name their step and have a kind",
    },
];

/// What the shim must not contain at any depth: its pages are paid once per container.
const NOT_IN_SHIM: &[&str] = &["tokio", "serde_json", "clap", "tracing", "hyper", "redb"];

/// Crates on the longest way from `hull` to the kernel; more means layers that only forward.
const CHAIN_LENGTH_MAX: usize = 6;

pub(super) fn check(graph: &Graph) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (id, package) in graph.members() {
        match layer_of(package) {
            Some(layer) => {
                check_layer(graph, package, layer, &mut findings);
                check_reserved(graph, package, layer, &mut findings);
                check_shim(graph, id, layer, &mut findings);
            }
            None => findings.push(Finding::new(
                "layer",
                &package.name,
                "has no layer: say in xtask/src/tidy/direction.rs where it stands",
            )),
        }
    }
    findings.extend(check_chain(graph));
    findings
}

fn layer_of(package: &Package) -> Option<Layer> {
    LAYERS
        .iter()
        .find(|(name, _)| *name == package.name)
        .map(|(_, layer)| *layer)
}

fn check_layer(graph: &Graph, package: &Package, layer: Layer, findings: &mut Vec<Finding>) {
    for used in graph.direct(package).filter(|used| used.member) {
        if let Some(used_layer) = layer_of(used)
            && !below(layer).contains(&used_layer)
        {
            let what = format!("{layer:?} may not depend on {used_layer:?} {}", used.name);
            findings.push(Finding::new("direction", &package.name, what));
        }
    }
}

fn check_reserved(graph: &Graph, package: &Package, layer: Layer, findings: &mut Vec<Finding>) {
    for used in graph.direct(package) {
        for reserved in RESERVED {
            if reserved.libraries.contains(&used.name.as_str())
                && !reserved.layers.contains(&layer)
                && !reserved.crates.contains(&package.name.as_str())
            {
                let what = format!("may not name {}: {}", used.name, reserved.why);
                findings.push(Finding::new("reserved", &package.name, what));
            }
        }
    }
}

fn check_shim(graph: &Graph, id: &str, layer: Layer, findings: &mut Vec<Finding>) {
    if layer != Shim {
        return;
    }
    let closure = graph.closure(id);
    for library in NOT_IN_SHIM
        .iter()
        .filter(|library| closure.contains(**library))
    {
        let what = format!("pulls in {library}: every container would pay for it");
        findings.push(Finding::new("shim", id, what));
    }
}

/// Refuses a cycle (of crates that cargo would let through test dependencies) and a long chain.
fn check_chain(graph: &Graph) -> Vec<Finding> {
    let mut depths = BTreeMap::new();
    for (id, _) in graph.members() {
        match chain(graph, id, &mut Vec::new(), &mut depths) {
            Ok(chain) if chain.len() > CHAIN_LENGTH_MAX => {
                let what = format!("chain of {}: {}", chain.len(), names(graph, &chain));
                return vec![Finding::new("chain", id, what)];
            }
            Ok(_) => {}
            Err(cycle) => return vec![Finding::new("cycle", id, names(graph, &cycle))],
        }
    }
    Vec::new()
}

fn names(graph: &Graph, ids: &[String]) -> String {
    let names = ids
        .iter()
        .filter_map(|id| graph.get(id))
        .map(|package| package.name.as_str());
    names.collect::<Vec<_>>().join(" -> ")
}

/// The longest chain of members from `id` down, or the cycle met on the way.
fn chain(
    graph: &Graph,
    id: &str,
    above: &mut Vec<String>,
    known: &mut BTreeMap<String, Vec<String>>,
) -> Result<Vec<String>, Vec<String>> {
    if let Some(chain) = known.get(id) {
        return Ok(chain.clone());
    }
    if above.iter().any(|seen| seen == id) {
        above.push(id.to_owned());
        return Err(above.clone());
    }
    above.push(id.to_owned());
    let mut longest = Vec::new();
    for used in graph
        .get(id)
        .into_iter()
        .flat_map(|package| &package.dependencies)
    {
        if graph.get(used).is_some_and(|package| package.member) {
            let below = chain(graph, used, above, known)?;
            if below.len() > longest.len() {
                longest = below;
            }
        }
    }
    above.pop();
    longest.insert(0, id.to_owned());
    known.insert(id.to_owned(), longest.clone());
    Ok(longest)
}

#[cfg(test)]
mod tests {
    use super::{Graph, LAYERS, check};

    /// Rules broken by a graph, in order.
    fn broken(lines: &[&str]) -> Vec<&'static str> {
        check(&Graph::draw(lines))
            .into_iter()
            .map(|finding| finding.rule)
            .collect()
    }

    #[test]
    fn the_design_itself_is_clean() {
        let design = [
            "hull > hull-docker hull-engine hull-model hull-os clap tokio hyper",
            "hull-docker > hull-engine hull-model hyper tokio",
            "hull-engine > hull-net hull-sandbox hull-storage hull-model tokio redb",
            "hull-net > hull-os hull-model",
            "hull-sandbox > hull-plan hull-os hull-model",
            "hull-storage > hull-os hull-model",
            "hull-shim > hull-plan hull-os libc",
            "hull-plan > hull-os libc",
            "hull-os > libc",
            "hull-registry > hull-model tokio hyper",
            "xtask > anyhow serde_json",
        ];
        assert_eq!(check(&Graph::draw(&design)), []);
    }

    #[test]
    fn a_crate_without_a_layer_is_refused() {
        assert_eq!(broken(&["hull-misc"]), ["layer"]);
    }

    #[test]
    fn edges_never_depend_on_each_other() {
        assert_eq!(broken(&["hull-docker > hull-cri"]), ["direction"]);
    }

    #[test]
    fn edges_see_no_driver() {
        assert_eq!(broken(&["hull-docker > hull-storage"]), ["direction"]);
    }

    #[test]
    fn drivers_never_depend_on_each_other_or_on_the_engine() {
        assert_eq!(broken(&["hull-sandbox > hull-net"]), ["direction"]);
        assert_eq!(broken(&["hull-net > hull-engine"]), ["direction"]);
    }

    #[test]
    fn leaves_know_nobody() {
        assert_eq!(broken(&["hull-os > hull-model"]), ["direction"]);
        assert_eq!(broken(&["hull-model > hull-os"]), ["direction"]);
    }

    #[test]
    fn nothing_depends_on_the_program_or_the_tool() {
        assert_eq!(broken(&["hull-docker > hull"]), ["direction"]);
        assert_eq!(broken(&["hull > xtask"]), ["direction"]);
    }

    #[test]
    fn system_call_crates_stay_at_the_bottom() {
        for library in ["libc", "nix", "rustix"] {
            assert_eq!(broken(&[&format!("hull-engine > {library}")]), ["reserved"]);
        }
    }

    #[test]
    fn the_engine_knows_no_http_and_drivers_no_tokio() {
        assert_eq!(broken(&["hull-engine > hyper"]), ["reserved"]);
        assert_eq!(broken(&["hull-storage > tokio"]), ["reserved"]);
        assert_eq!(broken(&["hull-docker > anyhow"]), ["reserved"]);
    }

    #[test]
    fn the_shim_is_small_at_any_depth() {
        assert_eq!(broken(&["hull-shim > x", "x > y", "y > tokio"]), ["shim"]);
    }

    #[test]
    fn a_cycle_is_found() {
        let rules = broken(&["hull-plan > hull-os", "hull-os > hull-plan"]);
        assert!(rules.contains(&"cycle"), "{rules:?}");
    }

    #[test]
    fn a_chain_of_seven_is_too_long() {
        let six = [
            "hull > hull-docker",
            "hull-docker > hull-engine",
            "hull-engine > hull-sandbox",
            "hull-sandbox > hull-plan",
            "hull-plan > hull-os",
        ];
        assert_eq!(check(&Graph::draw(&six)), []);
        let mut seven = six.to_vec();
        seven[1] = "hull-docker > hull-build";
        seven.push("hull-build > hull-engine");
        assert_eq!(broken(&seven), ["chain"]);
    }

    #[test]
    fn each_crate_has_one_layer() {
        for (index, (name, _)) in LAYERS.iter().enumerate() {
            assert!(
                LAYERS[index + 1..].iter().all(|(other, _)| other != name),
                "{name} twice"
            );
        }
    }
}
