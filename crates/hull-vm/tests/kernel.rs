//! Kernels of a distribution, as they come.

use std::path::PathBuf;

use hull_vm::kernel::Kernels;

/// A kernel with its modules: given, or the one of the test rig, or this host's own.
fn source() -> Option<String> {
    if let Ok(given) = std::env::var("HULL_TEST_GUEST_KERNEL") {
        return Some(given);
    }
    let cache = PathBuf::from(std::env::var("HOME").ok()?).join(".cache/hull-rig");
    let folders = std::fs::read_dir(cache).ok()?.flatten();
    folders
        .filter_map(|folder| std::fs::read_dir(folder.path().join("boot")).ok())
        .flat_map(|boot| boot.flatten().map(|entry| entry.path()))
        .find(|path| path.to_string_lossy().contains("/vmlinuz-"))
        .map(|path| path.to_string_lossy().into_owned())
}

#[test]
fn a_distributions_kernel_is_imported_used_and_removed() {
    let Some(source) = source() else {
        println!(
            "skip a_distributions_kernel_is_imported_used_and_removed: no kernel with modules"
        );
        return;
    };
    let root = std::env::temp_dir().join(format!("hull-vm-kernel-{}", std::process::id()));
    let kernels = Kernels::at(&root);
    assert!(kernels.used().is_err(), "none at first");
    let kernel = kernels.import(&source).unwrap();
    assert!(kernel.in_use, "the first one is used");
    assert!(kernel.modules.contains(&"erofs".to_owned()), "{kernel:?}");
    assert_eq!(
        kernels.import(&source).unwrap().id,
        kernel.id,
        "by contents"
    );
    let image = std::fs::read(kernel.image()).unwrap();
    assert!(image.starts_with(b"\x7fELF"));
    let initramfs = kernels.initramfs(&kernel, b"agent").unwrap();
    assert!(std::fs::read(&initramfs).unwrap().starts_with(b"070701"));
    assert_eq!(kernels.find(&kernel.release).unwrap().id, kernel.id);
    kernels.remove(&kernel.id).unwrap();
    assert!(!initramfs.exists());
    assert!(kernels.used().is_err());
    std::fs::remove_dir_all(&root).unwrap();
}
