//! What copying a tree needs: contents of one file into another, shared where the file system can,
//! with holes kept; nodes; and a way to make it all durable.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::entry;
use crate::process::check;

/// `FICLONE` of `linux/fs.h`.
const FICLONE: libc::c_ulong = 0x4004_9409;

/// Gives `to`, which must be empty, the contents of `from`. Says whether the two share their
/// blocks now.
///
/// # Errors
/// What the kernel says, also `ENOSPC`; `to` may be half filled then.
pub fn contents(from: &mut File, to: &mut File) -> io::Result<bool> {
    // SAFETY: two descriptors, no pointers.
    let cloned = unsafe { libc::ioctl(to.as_raw_fd(), FICLONE, from.as_raw_fd()) };
    if cloned == 0 {
        return Ok(true);
    }
    let mut at = 0;
    while let Some((start, end)) = next_data(from, at)? {
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        // In the kernel, without a way through our memory.
        io::copy(&mut Read::by_ref(from).take(end - start), to)?;
        at = end;
    }
    to.flush()?;
    to.set_len(from.metadata()?.len())?;
    Ok(false)
}

/// The next piece that is no hole, from `at` on.
fn next_data(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |offset: u64, whence| -> io::Result<u64> {
        let offset = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: three integers.
        let found = check(unsafe { libc::lseek(file.as_raw_fd(), offset, whence) })?;
        Ok(found.unsigned_abs())
    };
    match seek(at, libc::SEEK_DATA) {
        Ok(start) => Ok(Some((start, seek(start, libc::SEEK_HOLE)?))),
        // Behind the last piece.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a pipe or a device like another one.
///
/// # Errors
/// What the kernel says.
pub fn make_like(path: &Path, facts: &Metadata) -> io::Result<()> {
    let (major, minor) = (libc::major(facts.rdev()), libc::minor(facts.rdev()));
    entry::make_node(path, facts.mode(), major, minor)
}

/// Writes what a file system holds in memory to its disk.
///
/// # Errors
/// What the kernel says, also of earlier failed writes.
pub fn sync_file_system(of: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: one descriptor, no pointers.
    check(unsafe { libc::syncfs(of.as_raw_fd()) }.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn holes_stay_holes() {
        let base = std::env::temp_dir().join(format!("hull-copy-{}", std::process::id()));
        fs::create_dir_all(&base).unwrap();
        let mut from = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(base.join("from"))
            .unwrap();
        from.write_all_at(b"middle", 8 << 20).unwrap();
        from.set_len(16 << 20).unwrap();
        let mut to = File::create(base.join("to")).unwrap();
        contents(&mut from, &mut to).unwrap();
        assert_eq!(
            fs::read(base.join("from")).unwrap(),
            fs::read(base.join("to")).unwrap()
        );
        assert!(to.metadata().unwrap().blocks() < 1 << 10);
        fs::remove_dir_all(base).unwrap();
    }
}
