//! The resolved dependency graph, as much of it as the rules ask for.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use serde_json::Value;

/// One package of the graph: ours or somebody else's.
#[derive(Debug, Clone)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) licence: Option<String>,
    /// Belongs to this workspace.
    pub(super) member: bool,
    /// Ids of what it is linked with or built by; not what only its tests use.
    pub(super) dependencies: BTreeSet<String>,
}

/// Packages by cargo's id, since two versions of one name may be in one graph.
#[derive(Debug, Clone, Default)]
pub(super) struct Graph {
    packages: BTreeMap<String, Package>,
}

impl Graph {
    /// Reads the output of `cargo metadata --format-version=1`.
    pub(super) fn parse(metadata: &str) -> anyhow::Result<Self> {
        let metadata: Value = serde_json::from_str(metadata).context("parse cargo metadata")?;
        let members: BTreeSet<&str> = strings(&metadata["workspace_members"]).collect();
        let mut packages = BTreeMap::new();
        for package in list(&metadata["packages"]) {
            let id = text(package, "id")?;
            packages.insert(
                id.to_owned(),
                Package {
                    name: text(package, "name")?.to_owned(),
                    licence: package["license"].as_str().map(str::to_owned),
                    member: members.contains(id),
                    dependencies: BTreeSet::new(),
                },
            );
        }
        for node in list(&metadata["resolve"]["nodes"]) {
            let id = text(node, "id")?;
            let package = packages
                .get_mut(id)
                .with_context(|| format!("package {id}"))?;
            for dependency in list(&node["deps"]) {
                if list(&dependency["dep_kinds"]).any(|kind| kind["kind"] != "dev") {
                    package
                        .dependencies
                        .insert(text(dependency, "pkg")?.to_owned());
                }
            }
        }
        Ok(Self { packages })
    }

    pub(super) fn packages(&self) -> &BTreeMap<String, Package> {
        &self.packages
    }

    /// The packages of this workspace.
    pub(super) fn members(&self) -> impl Iterator<Item = (&str, &Package)> {
        self.packages
            .iter()
            .filter(|(_, package)| package.member)
            .map(|(id, p)| (id.as_str(), p))
    }

    pub(super) fn get(&self, id: &str) -> Option<&Package> {
        self.packages.get(id)
    }

    /// What `package` names in its manifest.
    pub(super) fn direct<'a>(&'a self, package: &'a Package) -> impl Iterator<Item = &'a Package> {
        package.dependencies.iter().filter_map(|id| self.get(id))
    }

    /// Names of everything that ends up in what `id` builds.
    pub(super) fn closure(&self, id: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut waiting = vec![id];
        let mut names = BTreeSet::new();
        while let Some(package) = waiting.pop().and_then(|id| self.get(id)) {
            for dependency in &package.dependencies {
                if seen.insert(dependency.as_str()) {
                    waiting.push(dependency);
                    names.extend(self.get(dependency).map(|package| package.name.as_str()));
                }
            }
        }
        names
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    list(value).filter_map(Value::as_str)
}

fn text<'a>(value: &'a Value, key: &str) -> anyhow::Result<&'a str> {
    value[key]
        .as_str()
        .with_context(|| format!("field {key} in cargo metadata"))
}

#[cfg(test)]
impl Graph {
    /// A graph drawn as `"hull-net > hull-os libc"` lines; names that start with `hull` or are
    /// `xtask` are members, the others are MIT libraries.
    pub(super) fn draw(lines: &[&str]) -> Self {
        let mut graph = Self::default();
        for line in lines {
            let (name, dependencies) = line.split_once('>').unwrap_or((line, ""));
            let dependencies: BTreeSet<String> =
                dependencies.split_whitespace().map(str::to_owned).collect();
            for name in dependencies.iter().map(String::as_str).chain([name.trim()]) {
                graph
                    .packages
                    .entry(name.to_owned())
                    .or_insert_with(|| Package {
                        name: name.to_owned(),
                        licence: Some("MIT".to_owned()),
                        member: name.starts_with("hull") || name == "xtask",
                        dependencies: BTreeSet::new(),
                    });
            }
            if let Some(package) = graph.packages.get_mut(name.trim()) {
                package.dependencies = dependencies;
            }
        }
        graph
    }

    pub(super) fn with_licence(mut self, name: &str, licence: Option<&str>) -> Self {
        if let Some(package) = self.packages.get_mut(name) {
            package.licence = licence.map(str::to_owned);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::Graph;

    const METADATA: &str = r#"{
      "workspace_members": ["a"],
      "packages": [{"id": "a", "name": "hull-a", "license": "Apache-2.0"},
                   {"id": "b", "name": "b", "license": null},
                   {"id": "c", "name": "c", "license": "MIT"}],
      "resolve": {"nodes": [
        {"id": "a", "deps": [{"pkg": "b", "dep_kinds": [{"kind": null}, {"kind": "dev"}]},
                             {"pkg": "c", "dep_kinds": [{"kind": "dev"}]}]},
        {"id": "b", "deps": []}, {"id": "c", "deps": []}]}}"#;

    #[test]
    fn what_only_tests_use_is_not_a_dependency() {
        let graph = Graph::parse(METADATA).unwrap();
        let (_, package) = graph.members().next().unwrap();
        assert_eq!(package.name, "hull-a");
        assert_eq!(
            graph
                .direct(package)
                .map(|p| p.name.as_str())
                .collect::<Vec<_>>(),
            ["b"]
        );
    }

    #[test]
    fn a_closure_follows_every_step_once() {
        let graph = Graph::draw(&["hull > hull-a", "hull-a > x", "x > y", "y > x"]);
        assert_eq!(
            graph.closure("hull").into_iter().collect::<Vec<_>>(),
            ["hull-a", "x", "y"]
        );
    }
}
