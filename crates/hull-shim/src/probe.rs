//! Tries whether guests run here: a machine of one page that counts, takes an interrupt and halts.
//!
//! It is a process of its own because a host may let it hang. That a device opens, or that a machine can
//! be made, says nothing: there are hosts that interpret guests, or end them at their first interrupt.

/// Exit codes, which `hull_vm::accelerator` reads.
const CANNOT_OPEN: i32 = 10;
#[cfg(target_arch = "x86_64")]
const CANNOT_MAKE: i32 = 11;
#[cfg(target_arch = "x86_64")]
const NO_INTERRUPT: i32 = 12;
#[cfg(target_arch = "x86_64")]
const INTERPRETED: i32 = 13;
#[cfg(not(target_arch = "x86_64"))]
const NO_PROBE: i32 = 14;

/// Runs the probe; its result is the exit code.
pub(crate) fn run() -> i32 {
    match hull_os::process::open(hull_os::mount::cwd(), c"/dev/kvm", libc::O_RDWR, 0) {
        Err(_) => CANNOT_OPEN,
        Ok(kvm) => guest::run(&kvm),
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod guest {
    pub(super) fn run(_: &std::os::fd::OwnedFd) -> i32 {
        super::NO_PROBE
    }
}

#[cfg(target_arch = "x86_64")]
mod guest {
    use std::io;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    use std::time::{Duration, Instant};

    use super::{CANNOT_MAKE, INTERPRETED, NO_INTERRUPT};
    use crate::container::Mapping;

    const CREATE_VM: libc::Ioctl = 0xae01;
    const CREATE_VCPU: libc::Ioctl = 0xae41;
    const GET_VCPU_MMAP_SIZE: libc::Ioctl = 0xae04;
    const SET_TSS_ADDR: libc::Ioctl = 0xae47;
    const SET_USER_MEMORY_REGION: libc::Ioctl = 0x4020_ae46;
    const RUN: libc::Ioctl = 0xae80;
    const SET_REGS: libc::Ioctl = 0x4090_ae82;
    const GET_SREGS: libc::Ioctl = 0x8138_ae83;
    const SET_SREGS: libc::Ioctl = 0x4138_ae84;
    const EXIT_IO: u32 = 2;
    const EXIT_HLT: u32 = 5;

    const MEMORY_BYTES: usize = 0x2000;
    const CODE: usize = 0x1000;
    const HANDLER: usize = 0x1100;
    /// Where the kernel may put pages of its own.
    const TSS: libc::c_ulong = 0xfffb_d000;
    const LOOPS: u64 = 1_000_000;
    /// Far more than a processor takes, far less than an interpreter.
    const LOOP_LIMIT: Duration = Duration::from_millis(50);
    /// `loop: dec ecx; jnz loop; out 0x10, al; int3; hlt`, in real mode.
    const PROGRAM: [u8; 9] = [0x66, 0x49, 0x75, 0xfc, 0xe6, 0x10, 0xcc, 0xf4, 0xf4];
    /// `out 0x11, al; iret`.
    const INTERRUPT: [u8; 3] = [0xe6, 0x11, 0xcf];

    #[repr(C)]
    struct Region {
        slot: u32,
        flags: u32,
        guest: u64,
        bytes: u64,
        host: u64,
    }

    pub(super) fn run(kvm: &OwnedFd) -> i32 {
        match try_run(kvm) {
            Ok(code) => code,
            Err(_) => CANNOT_MAKE,
        }
    }

    fn try_run(kvm: &OwnedFd) -> io::Result<i32> {
        let mut memory = Mapping::anonymous(MEMORY_BYTES)?;
        let bytes = memory.bytes_mut();
        bytes[CODE..CODE + PROGRAM.len()].copy_from_slice(&PROGRAM);
        bytes[HANDLER..HANDLER + INTERRUPT.len()].copy_from_slice(&INTERRUPT);
        // The vector of int3: offset, segment.
        bytes[12..14].copy_from_slice(&(HANDLER as u16).to_le_bytes());
        let host = bytes.as_ptr() as u64;
        let vm = own(call(kvm, CREATE_VM, 0)?);
        // Old processors need it, new ones do not mind.
        let _ = call(&vm, SET_TSS_ADDR, TSS);
        let region = Region {
            slot: 0,
            flags: 0,
            guest: 0,
            bytes: MEMORY_BYTES as u64,
            host,
        };
        call(
            &vm,
            SET_USER_MEMORY_REGION,
            (&raw const region) as libc::c_ulong,
        )?;
        let cpu = own(call(&vm, CREATE_VCPU, 0)?);
        let shared_bytes = usize::try_from(call(kvm, GET_VCPU_MMAP_SIZE, 0)?).unwrap_or(4096);
        let shared = Mapping::shared(shared_bytes, cpu.as_raw_fd())?;
        set_registers(&cpu)?;
        let began = Instant::now();
        if next_exit(&cpu, &shared)? != (EXIT_IO, 0x10) {
            return Ok(CANNOT_MAKE);
        }
        if began.elapsed() > LOOP_LIMIT {
            return Ok(INTERPRETED);
        }
        if next_exit(&cpu, &shared)? != (EXIT_IO, 0x11) {
            return Ok(NO_INTERRUPT);
        }
        Ok(match next_exit(&cpu, &shared)?.0 {
            EXIT_HLT => 0,
            _ => NO_INTERRUPT,
        })
    }

    fn set_registers(cpu: &OwnedFd) -> io::Result<()> {
        let mut special = [0u8; 312];
        call(cpu, GET_SREGS, (&raw mut special) as libc::c_ulong)?;
        // Base and selector of the code segment.
        special[..8].fill(0);
        special[12..14].fill(0);
        call(cpu, SET_SREGS, (&raw const special) as libc::c_ulong)?;
        let mut registers = [0u64; 18];
        registers[2] = LOOPS;
        registers[6] = CODE as u64;
        registers[16] = CODE as u64;
        registers[17] = 2;
        call(cpu, SET_REGS, (&raw const registers) as libc::c_ulong).map(drop)
    }

    /// Runs until the guest stops: why, and the port where it was one.
    fn next_exit(cpu: &OwnedFd, shared: &Mapping) -> io::Result<(u32, u16)> {
        call(cpu, RUN, 0)?;
        let bytes = shared.bytes();
        let reason = bytes[8..12].try_into().map_or(0, u32::from_le_bytes);
        let port = bytes[34..36].try_into().map_or(0, u16::from_le_bytes);
        Ok((reason, if reason == EXIT_IO { port } else { 0 }))
    }

    fn call(fd: &OwnedFd, request: libc::Ioctl, argument: libc::c_ulong) -> io::Result<i32> {
        // SAFETY: arguments of these requests are numbers, or addresses of values of the size that the
        // request names, valid for the call; memory of the guest stays mapped until its machine is closed.
        match unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) } {
            result if result < 0 => Err(io::Error::last_os_error()),
            result => Ok(result),
        }
    }

    fn own(fd: i32) -> OwnedFd {
        // SAFETY: the kernel just gave us this descriptor and nobody else holds it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }
}
