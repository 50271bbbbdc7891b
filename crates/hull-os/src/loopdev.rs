//! Loop devices: a file as a block device, for kernels that cannot mount a plain file.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
/// Another process may take the free device between the question and the use.
const TRIES: u32 = 64;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    sizelimit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of `linux/loop.h`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// What may be done with a loop device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only reading.
    ReadOnly,
    /// Writing too; the file must be open for it.
    ReadWrite,
}

/// Binds a file to a free loop device, which frees itself after its last user.
///
/// Returns the device's path and the descriptor that keeps it until it is mounted.
///
/// # Errors
/// When there is no loop driver, or no device is free.
pub fn attach(file: BorrowedFd<'_>, access: Access) -> io::Result<(CString, File)> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/dev/loop-control")?;
    let mut last = io::Error::from(io::ErrorKind::ResourceBusy);
    for _ in 0..TRIES {
        // SAFETY: no pointers; the result is checked.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error());
        }
        let path = format!("/dev/loop{number}");
        let device = open_device(&path, number.unsigned_abs(), access)?;
        for direct in [LO_FLAGS_DIRECT_IO, 0] {
            match configure(&device, file, access, direct) {
                Ok(()) => return Ok((CString::new(path)?, device)),
                Err(error) => last = error,
            }
        }
        if last.raw_os_error() != Some(libc::EBUSY) {
            return Err(last);
        }
    }
    Err(last)
}

/// Opens the device's node, which is made first where no udev makes it.
fn open_device(path: &str, number: u32, access: Access) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(access == Access::ReadWrite)
            .custom_flags(libc::O_CLOEXEC)
            .open(path)
    };
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let node = CString::new(path)?;
            // SAFETY: the path ends in NUL and lives over the call.
            let made = unsafe {
                libc::mknod(
                    node.as_ptr(),
                    libc::S_IFBLK | 0o660,
                    libc::makedev(7, number),
                )
            };
            if made != 0 {
                return Err(io::Error::last_os_error());
            }
            open()
        }
        other => other,
    }
}

fn configure(device: &File, file: BorrowedFd<'_>, access: Access, direct: u32) -> io::Result<()> {
    // SAFETY: plain numbers, of which all zeros is a valid value.
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.fd = file.as_raw_fd().unsigned_abs();
    config.block_size = if direct == 0 { 0 } else { 4096 };
    config.info.flags = LO_FLAGS_AUTOCLEAR | direct;
    if access == Access::ReadOnly {
        config.info.flags |= LO_FLAGS_READ_ONLY;
    }
    // SAFETY: the kernel reads one `loop_config` at the address, which lives over the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
