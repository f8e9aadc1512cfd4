//! The system calls that no crate wraps: locks that belong to an open file description, allocating,
//! linking and syncing a file.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Lock bytes lie here, far behind the end of the file.
const LOCK_BASE: i64 = 1 << 62;

/// Which lock byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockByte {
    /// Held while opening, closing, and creating or removing a group.
    OpenLock,
    /// Held by an open as long as it lives.
    Open(usize),
}

fn request(byte: LockByte, kind: libc::c_int) -> libc::flock {
    let at = match byte {
        LockByte::OpenLock => 0,
        LockByte::Open(index) => 1 + index as i64,
    };
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LOCK_BASE + at,
        l_len: 1,
        l_pid: 0,
    }
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes a lock byte for this file description; false if another one has it.
pub fn try_lock(file: &File, byte: LockByte) -> io::Result<bool> {
    try_lock_as(file, byte, libc::F_WRLCK)
}

/// Keeps others from taking a lock byte, for a file description that may only read; false if one has it. Several
/// can do so at once.
pub fn try_lock_shared(file: &File, byte: LockByte) -> io::Result<bool> {
    try_lock_as(file, byte, libc::F_RDLCK)
}

fn try_lock_as(file: &File, byte: LockByte, kind: libc::c_int) -> io::Result<bool> {
    let lock = request(byte, kind);
    // SAFETY: a valid descriptor and a valid flock that lives through the call.
    let result = checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) });
    match result {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Gives a lock byte back.
pub fn unlock(file: &File, byte: LockByte) -> io::Result<()> {
    let lock = request(byte, libc::F_UNLCK);
    // SAFETY: as in `try_lock`.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) })
}

/// Whether another file description has a lock byte. One's own is never seen.
pub fn is_locked(file: &File, byte: LockByte) -> io::Result<bool> {
    is_any_locked(file, byte, 1)
}

/// Whether another file description has any of the open bytes of so many opens.
pub fn is_any_open_locked(file: &File, opens: usize) -> io::Result<bool> {
    is_any_locked(file, LockByte::Open(0), opens)
}

fn is_any_locked(file: &File, first: LockByte, count: usize) -> io::Result<bool> {
    let mut lock = request(first, libc::F_WRLCK);
    lock.l_len = count as i64;
    // SAFETY: as in `try_lock`; the kernel writes its answer into the flock.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) })?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// Allocates every byte of the file.
pub fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    // SAFETY: a valid descriptor; the call takes no pointer.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Gives a file that was made without a name its name; fails if that exists.
pub fn link(file: &File, path: &Path) -> io::Result<()> {
    let from = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let to = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: both are C strings that live through the call.
    checked(unsafe {
        libc::linkat(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::AT_SYMLINK_FOLLOW)
    })
}

/// Writes the file's data to stable storage. Through the C library, so that tests can make it fail.
pub fn sync(file: &File) -> io::Result<()> {
    loop {
        // SAFETY: a valid descriptor; the call takes no pointer.
        match checked(unsafe { libc::fdatasync(file.as_raw_fd()) }) {
            // Nothing was tried yet: some file systems begin only after they were not interrupted.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Registers what runs around every fork of this process: before it, and after it in both processes.
pub fn at_fork(before: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) -> io::Result<()> {
    // SAFETY: functions without arguments, which live as long as the program. The one for the child
    // makes no call that a child of a process with threads must not make.
    match unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Closes a descriptor that the child of a fork got from its parent.
pub fn close(fd: std::os::fd::RawFd) {
    // SAFETY: only called by the handler in a fork's child, of the descriptors that the parent has
    // open; in the child nothing else uses that number, or ever will as the same file.
    let _ = unsafe { libc::close(fd) };
}
