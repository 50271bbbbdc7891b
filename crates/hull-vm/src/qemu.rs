//! The command line of QEMU: a machine with the fewest devices that an image needs.
//!
//! ```text
//! microvm ─┬─ virtio-serial: port 0 = the agent's channel
//!          ├─ virtio-blk: layers (read-only), the upper disk last
//!          ├─ virtio-net: one card per endpoint, on taps that are handed in
//!          ├─ virtio-rng, balloon (which reports free pages)
//!          └─ serial line: the kernel's console
//! ```
//!
//! It names descriptors by `{fdN}`, the N-th that the machine is given, since their numbers are known
//! only when it is started; and two files at places of its own root. No other path is named.

use std::path::{Path, PathBuf};

use crate::accelerator::Accelerator;
use crate::error::Error;

/// Where the kernel's image is in the root of the machine's process.
pub const KERNEL_PLACE: &str = "/machine/kernel";
/// Where agent and modules are.
pub const INITRAMFS_PLACE: &str = "/machine/initramfs";
/// Slots that this kind of machine has for devices: 24, of which the last one never interrupts.
const SLOTS: usize = 23;
/// Slots that are not disks or cards: channel, random numbers, balloon.
const SLOTS_OWN: usize = 3;
/// Places where QEMU may lie.
const PROGRAMS: [&str; 3] = [
    "/usr/bin/qemu-system-x86_64",
    "/usr/local/bin/qemu-system-x86_64",
    "/usr/libexec/qemu-kvm",
];
/// Megabytes that translated code may take at least. A boot fills them once; what runs later has room for what
/// is in use.
const TRANSLATED_MIB_MIN: u64 = 32;
/// And at most.
const TRANSLATED_MIB_MAX: u64 = 256;
/// The part of a machine's memory that it may take: who gives more memory runs larger programs.
const TRANSLATED_PART: u64 = 16;
/// What the guest's kernel is told. Self-tests of its crypto take most of an emulated boot; a panic
/// ends the machine.
const KERNEL_WORDS: &str = "console=ttyS0 quiet loglevel=3 panic=-1 reboot=t cryptomgr.notests \
     random.trust_cpu=on 8250.nr_uarts=1 pci=off audit=0 net.ifnames=0 no_timer_check \
     rcupdate.rcu_expedited=1 mitigations=off cgroup_no_v1=all init_on_alloc=0";

/// A machine to start. Descriptors are places in the list that it is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// What runs its code.
    pub accelerator: Accelerator,
    /// Its memory.
    pub memory_bytes: u64,
    /// Its processors.
    pub cpus: u32,
    /// Connected stream socket of the agent's channel.
    pub agent: usize,
    /// Read-only disks, in order.
    pub layers: Vec<usize>,
    /// The disk that it writes.
    pub upper: usize,
    /// Its network cards, in order.
    pub cards: Vec<Card>,
    /// Connected stream sockets of file servers, whose directories have the tags `s0`, `s1`, ….
    pub shares: Vec<usize>,
}

/// A network card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its tap.
    pub tap: usize,
    /// Its address.
    pub mac: [u8; 6],
}

/// The program.
///
/// # Errors
/// When it is not installed.
pub fn program() -> Result<PathBuf, Error> {
    let found = PROGRAMS.iter().map(Path::new).find(|path| path.exists());
    found.map(Path::to_owned).ok_or(Error::MissingProgram {
        program: "qemu-system-x86_64",
        package: "qemu-system-x86",
    })
}

/// Layers of a machine at most: as many as disks of one SCSI controller have numbers.
pub const LAYERS_MAX: usize = 250;

/// How many disks have slots of their own in a machine with so many cards and shares; the rest shares one.
const fn slots_for_layers(others: usize) -> usize {
    (SLOTS - SLOTS_OWN - 2).saturating_sub(others)
}

/// The command line.
pub fn command(program: &Path, machine: &Machine) -> Vec<String> {
    let mut words = vec![program.to_string_lossy().into_owned()];
    let mut put = |option: &str, value: String| {
        words.push(format!("-{option}"));
        if !value.is_empty() {
            words.push(value);
        }
    };
    let plain = |put: &mut dyn FnMut(&str, String), option: &str, value: &str| {
        put(option, value.to_owned());
    };
    plain(&mut put, "nodefaults", "");
    plain(&mut put, "no-user-config", "");
    plain(&mut put, "no-reboot", "");
    // Devices of the present form: file servers know no other.
    plain(&mut put, "global", "virtio-mmio.force-legacy=false");
    plain(&mut put, "display", "none");
    plain(
        &mut put,
        "sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    memory(&mut put, machine);
    match machine.accelerator {
        Accelerator::Kvm => {
            plain(&mut put, "accel", "kvm");
            plain(&mut put, "cpu", "host");
        }
        Accelerator::Tcg => {
            let mib = translated_mib(machine.memory_bytes);
            put("accel", format!("tcg,thread=multi,tb-size={mib}"));
            // Five-level page tables cost emulated time and crash QEMU 7.2 now and then.
            plain(&mut put, "cpu", "max,la57=off");
        }
    }
    put("smp", machine.cpus.to_string());
    plain(&mut put, "kernel", KERNEL_PLACE);
    plain(&mut put, "initrd", INITRAMFS_PLACE);
    put("append", format!("{KERNEL_WORDS}{}", timer_word()));
    // Beside QEMU's own complaints, which are as worth reading.
    plain(&mut put, "chardev", "stdio,id=console,signal=off");
    plain(&mut put, "serial", "chardev:console");
    put("chardev", socket("agent", machine.agent));
    plain(&mut put, "device", "virtio-serial-device,max_ports=2");
    plain(
        &mut put,
        "device",
        "virtserialport,chardev=agent,name=hull.agent",
    );
    plain(&mut put, "device", "virtio-rng-device");
    plain(
        &mut put,
        "device",
        "virtio-balloon-device,free-page-reporting=on",
    );
    disks(&mut put, machine);
    for (number, card) in machine.cards.iter().enumerate() {
        let mac: Vec<String> = card.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        put("netdev", format!("tap,id=n{number},fd={{fd{}}}", card.tap));
        put(
            "device",
            format!("virtio-net-device,netdev=n{number},mac={}", mac.join(":")),
        );
    }
    for (number, fd) in machine.shares.iter().enumerate() {
        put("chardev", socket(&format!("fs{number}"), *fd));
        put(
            "device",
            format!("vhost-user-fs-device,chardev=fs{number},tag=s{number}"),
        );
    }
    words
}

/// Room for translated code: a part of the memory, since QEMU keeps what it ever translated until it is full.
fn translated_mib(memory_bytes: u64) -> u64 {
    let part = (memory_bytes >> 20) / TRANSLATED_PART;
    part.clamp(TRANSLATED_MIB_MIN, TRANSLATED_MIB_MAX)
}

/// The machine and its memory, which file servers read and write too.
fn memory(put: &mut dyn FnMut(&str, String), machine: &Machine) {
    let kind = "microvm,acpi=on,pit=off,pic=off,rtc=off,isa-serial=on,auto-kernel-cmdline=off";
    let size = format!("{}M", machine.memory_bytes.div_ceil(1 << 20));
    if machine.shares.is_empty() {
        put("machine", kind.to_owned());
    } else {
        put("machine", format!("{kind},memory-backend=ram"));
        put(
            "object",
            format!("memory-backend-memfd,id=ram,size={size},share=on"),
        );
    }
    put("m", size);
}

fn socket(name: &str, fd: usize) -> String {
    format!("socket,id={name},fd={{fd{fd}}}")
}

/// Layers, the topmost ones in slots of their own, and the upper disk.
fn disks(put: &mut dyn FnMut(&str, String), machine: &Machine) {
    let slots = slots_for_layers(machine.cards.len() + machine.shares.len());
    let is_deep = machine.layers.len() > slots + 1;
    if is_deep {
        put("device", "virtio-scsi-device,id=scsi".to_owned());
    }
    for (number, fd) in machine.layers.iter().enumerate() {
        let is_own = !is_deep || number < slots;
        disk(put, number, *fd, true, is_own);
    }
    disk(put, machine.layers.len(), machine.upper, false, true);
}

fn disk(put: &mut dyn FnMut(&str, String), number: usize, fd: usize, readonly: bool, is_own: bool) {
    let (access, discard) = match readonly {
        true => ("on", "ignore"),
        false => ("off", "unmap"),
    };
    put("add-fd", format!("fd={{fd{fd}}},set={}", number + 1));
    put(
        "blockdev",
        format!(
            "driver=raw,node-name=d{number},read-only={access},discard={discard},\
             file.driver=file,file.filename=/dev/fdset/{},file.read-only={access},file.locking=off,\
             file.discard={discard},file.aio=threads",
            number + 1
        ),
    );
    let device = match is_own {
        true => format!("virtio-blk-device,drive=d{number},serial=hull{number}"),
        false => {
            format!("scsi-hd,bus=scsi.0,scsi-id={number},drive=d{number},serial=hull{number}")
        }
    };
    put("device", device);
}

/// Without a timer that the kernel could measure by, it is told how fast its clock runs; under emulation
/// that is the host's.
fn timer_word() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mhz = text
        .lines()
        .find_map(|line| line.strip_prefix("cpu MHz"))
        .and_then(|rest| {
            rest.trim_start_matches([' ', '\t', ':'])
                .parse::<f64>()
                .ok()
        });
    mhz.map_or_else(String::new, |mhz| {
        format!(" tsc_early_khz={:.0}", mhz * 1000.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            accelerator: Accelerator::Tcg,
            memory_bytes: 256 << 20,
            cpus: 2,
            agent: 0,
            layers: vec![1, 2],
            upper: 3,
            cards: vec![Card {
                tap: 4,
                mac: [2, 66, 172, 17, 0, 2],
            }],
            shares: vec![5],
        }
    }

    #[test]
    fn every_descriptor_is_named_once_and_no_path_of_the_host() {
        let words = command(Path::new("/usr/bin/qemu"), &machine());
        let line = words.join(" ");
        for fd in 0..6 {
            assert_eq!(line.matches(&format!("{{fd{fd}}}")).count(), 1, "{fd}");
        }
        let is_path = |word: &&String| word.starts_with('/');
        let paths: Vec<_> = words[1..].iter().filter(is_path).collect();
        assert_eq!(paths, [KERNEL_PLACE, INITRAMFS_PLACE]);
        assert!(line.contains("spawn=deny"), "{line}");
    }

    #[test]
    fn layers_are_read_only_and_the_upper_disk_is_last() {
        let line = command(Path::new("q"), &machine()).join(" ");
        assert!(line.contains("node-name=d0,read-only=on"), "{line}");
        assert!(line.contains("node-name=d2,read-only=off"), "{line}");
    }

    #[test]
    fn an_image_of_any_depth_fits_into_the_slots() {
        for layers in [1, 14, 15, 16, 17, 120, LAYERS_MAX] {
            let deep = Machine {
                layers: (10..10 + layers).collect(),
                ..machine()
            };
            let words = command(Path::new("q"), &deep);
            let slots = words.iter().filter(|word| {
                word.split(',')
                    .next()
                    .is_some_and(|name| name.ends_with("-device") && name != "-device")
            });
            assert!(slots.count() <= SLOTS, "{layers} layers");
            let disks = words
                .iter()
                .filter(|word| word.contains("serial=hull"))
                .count();
            assert_eq!(disks, layers + 1);
        }
    }
}
