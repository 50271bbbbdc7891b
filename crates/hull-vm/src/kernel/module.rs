//! Modules of a kernel: what each needs, and the order in which they are put in.

use std::collections::{BTreeMap, BTreeSet};

/// What the agent needs before it can do anything, by the names that modules have; those that are
/// built in, or that a kernel does not have at all, are left out.
pub(crate) const NEEDED: [&str; 12] = [
    "crc32c_generic",
    "virtio_mmio",
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_net",
    "virtio_rng",
    "virtio_balloon",
    "erofs",
    "ext4",
    "overlay",
    "virtiofs",
];

/// What the agent needs only for images with more layers than a machine has slots.
pub(crate) const LATER: [&str; 2] = ["virtio_scsi", "sd_mod"];

/// Without which no machine of ours can work, where they are not built in.
pub(crate) const ESSENTIAL: [&str; 6] = [
    "virtio_mmio",
    "virtio_console",
    "virtio_blk",
    "erofs",
    "ext4",
    "overlay",
];

/// Modules by name, each with its bytes.
pub(crate) type Modules = BTreeMap<String, Vec<u8>>;

/// The name of a module by that of its file.
pub(crate) fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

/// Names of the modules to put in, what each needs before it.
pub(crate) fn order(modules: &Modules, wanted: &[&str]) -> Vec<String> {
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for name in wanted {
        visit(modules, name, &mut seen, &mut order);
    }
    order
}

fn visit(modules: &Modules, name: &str, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
    let Some(bytes) = modules.get(name) else {
        return;
    };
    if !seen.insert(name.to_owned()) {
        return;
    }
    for needed in needs(bytes) {
        visit(modules, &needed, seen, order);
    }
    order.push(name.to_owned());
}

/// Names of the modules that one needs, from its own description.
fn needs(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module
        .windows(FIELD.len())
        .position(|window| window == FIELD)
    else {
        return Vec::new();
    };
    let list = &module[at + FIELD.len()..];
    let end = list.iter().position(|&byte| byte == 0).unwrap_or(0);
    String::from_utf8_lossy(&list[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let module = |depends: &str| format!("\0depends={depends}\0").into_bytes();
        let modules = Modules::from([
            ("a".to_owned(), module("b,c-d")),
            ("b".to_owned(), module("c-d")),
            ("c_d".to_owned(), module("")),
        ]);
        assert_eq!(order(&modules, &["a", "b", "none"]), ["c_d", "b", "a"]);
    }

    #[test]
    fn names_are_those_of_files() {
        assert_eq!(name_of("kernel/crypto/crc32c-intel.ko.xz"), "crc32c_intel");
    }
}
