//! The kernels that machines boot: imported once, named by their contents.
//!
//! ```text
//! <data>/vm/kernels/<id>/vmlinux        unpacked, boots by its PVH entry
//!                        modules.cpio   what the agent needs of its modules, in their order
//!                        facts.json     release, where it came from
//! <data>/vm/kernels/use -> <id>         which one new machines boot
//! <data>/vm/initramfs/<id>.<agent>      agent and modules, made at the first start
//! ```
//!
//! Nothing is packed: unpacking is slow under emulation. Nothing is downloaded that was not asked for
//! by name.

mod build;
mod image;
mod module;
mod package;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hull_os::durable::{self, Durability};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cpio::{self, DIRECTORY, Entry, FILE};
use crate::error::{Error, unusable};

/// Digits of an id: as many as people can type.
const ID_DIGITS: usize = 12;
/// Name of the link to the kernel in use.
const USE: &str = "use";
/// Version of `facts.json`.
const FACTS_VERSION: u32 = 1;

/// The store of kernels of one data root.
#[derive(Debug)]
pub struct Kernels {
    dir: PathBuf,
    initramfs: PathBuf,
}

/// A kernel of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its name in the store.
    pub id: String,
    /// Its release, as `uname -r` says in a guest.
    pub release: String,
    /// Where it came from.
    pub source: String,
    /// Bytes of image and modules.
    pub bytes: u64,
    /// Modules in the order in which the agent puts them in.
    pub modules: Vec<String>,
    /// New machines boot this one.
    pub in_use: bool,
    dir: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    version: u32,
    release: String,
    source: String,
    modules: Vec<String>,
}

impl Kernels {
    /// The store below a data root; nothing is made yet.
    pub fn at(data_root: &Path) -> Kernels {
        let vm = data_root.join("vm");
        Kernels {
            dir: vm.join("kernels"),
            initramfs: vm.join("initramfs"),
        }
    }

    /// Takes a kernel in: `debian` and `debian-generic` (by apt), `host`, a `.deb` file, or an image with
    /// its modules. The first one is used at once.
    ///
    /// # Errors
    /// When it cannot be read, or cannot boot in a machine of ours.
    pub fn import(&self, source: &str) -> Result<Kernel, Error> {
        self.in_scratch(|scratch| self.keep(source, package::read(source, scratch)?, scratch))
    }

    /// Builds a kernel of our own configuration and takes it in: from a folder or archive with Linux's source,
    /// or from the package of that name, whose archive is fetched by apt where it is not installed. `tell`
    /// hears of each step, since they take minutes.
    ///
    /// # Errors
    /// When a program or package that is needed for it is missing, the source does not know an option that
    /// images expect, or it cannot be built.
    pub fn build(&self, source: &str, tell: &dyn Fn(&str)) -> Result<Kernel, Error> {
        self.in_scratch(|scratch| {
            let image = build::build(source, scratch, tell)?;
            let found = package::read(&image.to_string_lossy(), scratch)?;
            self.keep(&format!("built from {source}"), found, scratch)
        })
    }

    fn in_scratch(
        &self,
        make: impl FnOnce(&Path) -> Result<Kernel, Error>,
    ) -> Result<Kernel, Error> {
        let scratch = self.dir.join(format!(".import-{}", std::process::id()));
        durable::make_dir_all(&scratch, 0o700).map_err(Error::at("make", &scratch))?;
        let made = make(&scratch);
        let _ = fs::remove_dir_all(&scratch);
        made
    }

    fn keep(&self, source: &str, found: package::Found, scratch: &Path) -> Result<Kernel, Error> {
        let image = image::unpack(source, &found.image)?;
        let order = module::order(&found.modules, &module::NEEDED);
        let known = |name: &&str| {
            let name = (*name).to_owned();
            found.built_in.is_empty() || found.built_in.contains(&name) || order.contains(&name)
        };
        if let Some(missing) = module::ESSENTIAL.iter().find(|name| !known(name)) {
            return Err(unusable(
                source,
                format!("has no {missing}, which machines need"),
            ));
        }
        let mut later = module::order(&found.modules, &module::LATER);
        later.retain(|name| !order.contains(name));
        let modules = modules_archive(&found.modules, &order, &later);
        let mut hash = Sha256::new();
        hash.update(&image);
        hash.update(&modules);
        let id: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let id = id[..ID_DIGITS].to_owned();
        let facts = Facts {
            version: FACTS_VERSION,
            release: found.release,
            source: source.to_owned(),
            modules: order,
        };
        let facts =
            serde_json::to_vec_pretty(&facts).map_err(|e| unusable("facts", e.to_string()))?;
        let new = scratch.join("kernel");
        durable::make_dir_all(&new, 0o755).map_err(Error::at("make", &new))?;
        for (name, bytes) in [
            ("vmlinux", &image),
            ("modules.cpio", &modules),
            ("facts.json", &facts),
        ] {
            let path = new.join(name);
            durable::replace_file(&path, bytes, 0o444, Durability::Synced)
                .map_err(Error::at("write", &path))?;
        }
        let place = self.dir.join(&id);
        if !place.exists() {
            durable::publish(&new, &place, Durability::Synced)
                .map_err(Error::at("name", &place))?;
        }
        if self.used_id().is_none() {
            self.set_used(&id)?;
        }
        self.find(&id)
    }

    /// All kernels.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn list(&self) -> Result<Vec<Kernel>, Error> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(Error::at("read", &self.dir)(cause)),
        };
        let names = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut ids: Vec<String> = names
            .filter(|name| name.len() == ID_DIGITS && !name.starts_with('.'))
            .collect();
        ids.sort();
        ids.iter().map(|id| self.load(id)).collect()
    }

    /// A kernel by id, the beginning of one, or its release.
    ///
    /// # Errors
    /// When there is none, or several.
    pub fn find(&self, name: &str) -> Result<Kernel, Error> {
        let matches = |kernel: &Kernel| {
            kernel.release == name || (!name.is_empty() && kernel.id.starts_with(name))
        };
        let mut found: Vec<Kernel> = self.list()?.into_iter().filter(matches).collect();
        match (found.pop(), found.is_empty()) {
            (Some(kernel), true) => Ok(kernel),
            (Some(_), false) => Err(unusable(name, "names several kernels")),
            (None, _) => Err(Error::UnknownKernel(name.to_owned())),
        }
    }

    /// The kernel that new machines boot.
    ///
    /// # Errors
    /// [`Error::NoKernel`] when none was imported.
    pub fn used(&self) -> Result<Kernel, Error> {
        match self.used_id() {
            Some(id) => self.load(&id),
            None => Err(Error::NoKernel),
        }
    }

    /// Makes new machines boot a kernel; those that run keep theirs.
    ///
    /// # Errors
    /// When there is no such kernel.
    pub fn choose(&self, name: &str) -> Result<Kernel, Error> {
        let kernel = self.find(name)?;
        self.set_used(&kernel.id)?;
        self.load(&kernel.id)
    }

    /// Removes a kernel that is not in use. Machines that run have their own hold on it.
    ///
    /// # Errors
    /// When there is no such kernel, or it is the one in use while there are others.
    pub fn remove(&self, name: &str) -> Result<Kernel, Error> {
        let kernel = self.find(name)?;
        if kernel.in_use {
            if self.list()?.len() > 1 {
                return Err(Error::KernelInUse(kernel.id));
            }
            let link = self.dir.join(USE);
            durable::remove_if_exists(&link).map_err(Error::at("remove", &link))?;
        }
        fs::remove_dir_all(&kernel.dir).map_err(Error::at("remove", &kernel.dir))?;
        for entry in fs::read_dir(&self.initramfs)
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_name().to_string_lossy().starts_with(&kernel.id) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(kernel)
    }

    /// What the kernel unpacks at its start: our agent and its modules, made where it is not there yet.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn initramfs(&self, kernel: &Kernel, agent: &[u8]) -> Result<PathBuf, Error> {
        let digest: String = Sha256::digest(agent)
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let path = self.initramfs.join(format!("{}.{digest}", kernel.id));
        if path.exists() {
            return Ok(path);
        }
        let entry = |path, mode, contents| Entry {
            path,
            mode,
            contents,
        };
        let mut bytes = cpio::archive(&[
            entry("dev", DIRECTORY | 0o755, &[]),
            entry("proc", DIRECTORY | 0o755, &[]),
            entry("sys", DIRECTORY | 0o755, &[]),
            entry("init", FILE | 0o755, agent),
        ]);
        let modules = kernel.dir.join("modules.cpio");
        bytes.extend(fs::read(&modules).map_err(Error::at("read", &modules))?);
        durable::make_dir_all(&self.initramfs, 0o755)
            .map_err(Error::at("make", &self.initramfs))?;
        durable::replace_file(&path, &bytes, 0o444, Durability::Lost)
            .map_err(Error::at("write", &path))?;
        Ok(path)
    }

    fn used_id(&self) -> Option<String> {
        let target = fs::read_link(self.dir.join(USE)).ok()?;
        Some(target.to_string_lossy().into_owned())
    }

    fn set_used(&self, id: &str) -> Result<(), Error> {
        let link = self.dir.join(USE);
        let new = self.dir.join(format!(".use-{}", std::process::id()));
        let _ = fs::remove_file(&new);
        std::os::unix::fs::symlink(id, &new)
            .and_then(|()| durable::publish(&new, &link, Durability::Synced))
            .map_err(Error::at("write", &link))
    }

    fn load(&self, id: &str) -> Result<Kernel, Error> {
        let dir = self.dir.join(id);
        let path = dir.join("facts.json");
        let facts = fs::read(&path).map_err(Error::at("read", &path))?;
        let facts: Facts = serde_json::from_slice(&facts)
            .map_err(|error| unusable(path.display().to_string(), error.to_string()))?;
        if facts.version > FACTS_VERSION {
            return Err(unusable(
                path.display().to_string(),
                "is of a newer version",
            ));
        }
        let length = |name: &str| dir.join(name).metadata().map_or(0, |facts| facts.len());
        Ok(Kernel {
            id: id.to_owned(),
            release: facts.release,
            source: facts.source,
            bytes: length("vmlinux") + length("modules.cpio"),
            modules: facts.modules,
            in_use: self.used_id().as_deref() == Some(id),
            dir,
        })
    }
}

impl Kernel {
    /// The image to boot.
    pub fn image(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }
}

/// The archive of modules: each by its number, so that their order is that of their names; apart from the
/// others those that few guests need.
fn modules_archive(modules: &module::Modules, order: &[String], later: &[String]) -> Vec<u8> {
    let named = |folder: &str, order: &[String]| -> Vec<String> {
        (0..)
            .zip(order)
            .map(|(number, name): (u32, _)| format!("{folder}/{number:02}-{name}.ko"))
            .collect()
    };
    let names = [named("modules", order), named("later", later)].concat();
    let folder = |path| Entry {
        path,
        mode: DIRECTORY | 0o755,
        contents: &[],
    };
    let mut entries = vec![folder("modules"), folder("later")];
    let order = order.iter().chain(later);
    entries.extend(names.iter().zip(order).map(|(path, name)| Entry {
        path,
        mode: FILE | 0o444,
        contents: modules.get(name).map_or(&[], Vec::as_slice),
    }));
    cpio::archive(&entries)
}
