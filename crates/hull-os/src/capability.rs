//! Capabilities of the calling thread: which it holds, and giving them up.
//!
//! Sets are plain bit masks, bit `n` for capability number `n`. What changes something is for a
//! program with one thread (a shim's child before its execve): the kernel keeps these sets per
//! thread. Names, defaults and who gets what are decided elsewhere.

use std::io;

use crate::process::check;

/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits per set.
const VERSION: u32 = 0x2008_0522;

/// Capability numbers that a 64-bit set can hold.
const NUMBERS: u32 = 64;

/// Bits of [`secure_bits`]: set user ids without the traditional effect on capabilities.
pub const SECURE_NO_SETUID_FIXUP: u32 = 1 << 2;
/// Bits of [`secure_bits`]: keep the permitted set when leaving user id 0.
pub const SECURE_KEEP_CAPS: u32 = 1 << 4;

/// The three sets that `capget` and `capset` know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sets {
    /// What counts now.
    pub effective: u64,
    /// What may be made effective.
    pub permitted: u64,
    /// What is kept over execve of a file that inherits it.
    pub inheritable: u64,
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// This thread. The kernel writes its own version into a header of another.
const fn header() -> Header {
    Header {
        version: VERSION,
        pid: 0,
    }
}

/// Reads the sets of this thread.
///
/// # Errors
/// Only where the kernel forbids it.
pub fn own() -> io::Result<Sets> {
    let (mut header, mut words) = (header(), [Word::default(); 2]);
    // SAFETY: version 3 reads one header and fills two words; both live here.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) })?;
    let join =
        |part: fn(&Word) -> u32| u64::from(part(&words[0])) | u64::from(part(&words[1])) << 32;
    Ok(Sets {
        effective: join(|word| word.effective),
        permitted: join(|word| word.permitted),
        inheritable: join(|word| word.inheritable),
    })
}

/// Sets effective, permitted and inheritable capabilities of this thread.
///
/// # Errors
/// `EPERM` when one would be gained.
pub fn set(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let word = |shift: u32| Word {
        effective: low_half(effective >> shift),
        permitted: low_half(permitted >> shift),
        inheritable: low_half(inheritable >> shift),
    };
    let (mut header, words) = (header(), [word(0), word(32)]);
    // SAFETY: version 3 reads one header and two words; both live here.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) }).map(drop)
}

fn low_half(bits: u64) -> u32 {
    u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0)
}

/// Reads the bounding set of this thread: what an execve can give it at most.
pub fn own_bounding() -> u64 {
    (0..NUMBERS)
        .filter(|number| in_bounding(*number))
        .fold(0, |bits, number| bits | 1 << number)
}

/// Reads the ambient set of this thread.
pub fn own_ambient() -> u64 {
    let has = |number: &u32| ambient(libc::PR_CAP_AMBIENT_IS_SET, *number).is_ok_and(|set| set > 0);
    (0..NUMBERS)
        .filter(has)
        .fold(0, |bits, number| bits | 1 << number)
}

/// Tells whether a capability is in the bounding set; `false` for a number that this kernel does
/// not have.
fn in_bounding(number: u32) -> bool {
    // SAFETY: integers only.
    unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) == 1 }
}

/// Every capability that this kernel has.
pub fn known() -> u64 {
    // SAFETY: integers only.
    let exists =
        |number: &u32| unsafe { libc::prctl(libc::PR_CAPBSET_READ, *number, 0, 0, 0) } >= 0;
    (0..NUMBERS)
        .filter(exists)
        .fold(0, |bits, number| bits | 1 << number)
}

/// Drops from the bounding set what is not in `keep`. Cannot be undone.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn drop_bounding(keep: u64) -> io::Result<()> {
    for number in (0..NUMBERS).filter(|number| keep & (1 << number) == 0) {
        // Not asked first whether it is there: where a filter refuses that question, the answer would
        // be taken for a no.
        // SAFETY: integers only.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }.into()) {
            // The first number that this kernel does not have.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            result => result?,
        };
    }
    Ok(())
}

/// Raises ambient capabilities: kept over execve of any file.
///
/// # Errors
/// `EPERM` unless each is permitted and inheritable.
pub fn raise_ambient(bits: u64) -> io::Result<()> {
    (0..NUMBERS)
        .filter(|number| bits & (1 << number) != 0)
        .try_for_each(|number| ambient(libc::PR_CAP_AMBIENT_RAISE, number).map(drop))
}

/// Empties the ambient set.
///
/// # Errors
/// Only where the kernel forbids it.
pub fn clear_ambient() -> io::Result<()> {
    ambient(libc::PR_CAP_AMBIENT_CLEAR_ALL, 0).map(drop)
}

fn ambient(operation: libc::c_int, number: u32) -> io::Result<libc::c_long> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, operation, number, 0, 0) }.into())
}

/// Reads the secure bits of this thread.
///
/// # Errors
/// Only where the kernel forbids it.
pub fn secure_bits() -> io::Result<u32> {
    // SAFETY: integers only.
    let bits = check(unsafe { libc::prctl(libc::PR_GET_SECUREBITS, 0, 0, 0, 0) }.into())?;
    u32::try_from(bits).map_err(io::Error::other)
}

/// Sets the secure bits of this thread.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP` or for a bit that is locked.
pub fn set_secure_bits(bits: u32) -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) }.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::{clear_ambient, drop_bounding, known, own, own_ambient, own_bounding};
    use super::{raise_ambient, set};

    const CHOWN: u64 = 1;
    const KILL: u64 = 1 << 5;

    /// Capability sets belong to the thread, so a thread of its own is as good as a child.
    fn in_thread(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(test).join().unwrap();
    }

    fn status(field: &str) -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    }

    #[test]
    fn what_is_read_is_what_proc_shows() {
        let sets = own().unwrap();
        assert_eq!(sets.effective, status("CapEff"));
        assert_eq!(sets.permitted, status("CapPrm"));
        assert_eq!(sets.inheritable, status("CapInh"));
        assert_eq!(own_bounding(), status("CapBnd"));
        assert_eq!(own_ambient(), status("CapAmb"));
        assert_eq!(own_bounding() & !known(), 0);
    }

    #[test]
    fn what_was_dropped_is_gone_and_cannot_be_taken_back() {
        in_thread(|| {
            drop_bounding(CHOWN | KILL).unwrap();
            assert_eq!(status("CapBnd"), CHOWN | KILL);
            set(CHOWN, CHOWN, CHOWN).unwrap();
            assert_eq!(
                (status("CapEff"), status("CapPrm"), status("CapInh")),
                (CHOWN, CHOWN, CHOWN)
            );
            assert!(set(KILL, KILL, 0).is_err());
        });
    }

    #[test]
    fn ambient_needs_permitted_and_inheritable() {
        in_thread(|| {
            set(CHOWN | KILL, CHOWN | KILL, CHOWN).unwrap();
            raise_ambient(CHOWN).unwrap();
            assert_eq!(status("CapAmb"), CHOWN);
            assert!(raise_ambient(KILL).is_err());
            clear_ambient().unwrap();
            assert_eq!(status("CapAmb"), 0);
        });
    }
}
