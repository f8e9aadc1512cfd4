//! Where the shipped code meets the simulator: every store to the mapping of a simulated file, and
//! every sync of one, goes through here.
//!
//! **Invariants.**
//! - A mapping is registered from before its first store to after its last one. A store to a
//!   registered mapping and its entry in the log are one step under the lock of the disk, so the log
//!   has the order in which the stores happened.
//! - A sync of a simulated file never reaches the kernel; one of any other file always does.

use super::disk::{Disk, lock};
use crate::map::Access;
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64 as Word, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};

/// Simulated disks: as long as there is none, a store costs one load more.
static DISKS: Mutex<Vec<Arc<Disk>>> = Mutex::new(Vec::new());
static MAPPED: RwLock<Vec<(Range<usize>, Arc<Disk>)>> = RwLock::new(Vec::new());
static MAPPINGS: AtomicUsize = AtomicUsize::new(0);
/// Syncs that came to the interposed functions, of any file.
pub static SYNCS: AtomicUsize = AtomicUsize::new(0);

/// A word of a file, whose changes a simulated disk is told of.
#[repr(transparent)]
#[derive(Debug)]
pub struct AtomicU64(Word);

macro_rules! changing {
    ($($name:ident($($arg:ident: $type:ty),*) -> $result:ty, $changed:expr;)*) => {$(
        #[inline]
        pub fn $name(&self, $($arg: $type),*) -> $result {
            self.change(|word| word.$name($($arg),*), $changed)
        }
    )*};
}

#[allow(dead_code, reason = "as std's")]
impl AtomicU64 {
    pub const fn new(value: u64) -> Self {
        Self(Word::new(value))
    }

    #[inline]
    pub fn load(&self, order: Ordering) -> u64 {
        self.0.load(order)
    }

    changing! {
        store(value: u64, order: Ordering) -> (), |()| true;
        swap(value: u64, order: Ordering) -> u64, |_| true;
        fetch_add(value: u64, order: Ordering) -> u64, |_| true;
        fetch_sub(value: u64, order: Ordering) -> u64, |_| true;
        fetch_or(value: u64, order: Ordering) -> u64, |_| true;
        fetch_and(value: u64, order: Ordering) -> u64, |_| true;
        fetch_max(value: u64, order: Ordering) -> u64, |_| true;
        fetch_min(value: u64, order: Ordering) -> u64, |_| true;
        compare_exchange(from: u64, to: u64, yes: Ordering, no: Ordering) -> Result<u64, u64>, Result::is_ok;
        compare_exchange_weak(from: u64, to: u64, yes: Ordering, no: Ordering) -> Result<u64, u64>, Result::is_ok;
    }

    #[inline]
    fn change<R>(&self, op: impl FnOnce(&Word) -> R, changed: impl FnOnce(&R) -> bool) -> R {
        // Relaxed: who maps a simulated file, and every thread that it lends it to, comes after.
        if MAPPINGS.load(Ordering::Relaxed) == 0 {
            return op(&self.0);
        }
        self.change_mapped(op, changed)
    }

    #[inline(never)]
    fn change_mapped<R>(&self, op: impl FnOnce(&Word) -> R, changed: impl FnOnce(&R) -> bool) -> R {
        let at = std::ptr::from_ref(self) as usize;
        let mapped = MAPPED.read().unwrap_or_else(|e| e.into_inner());
        let Some((range, disk)) = mapped.iter().find(|(range, _)| range.contains(&at)) else {
            return op(&self.0);
        };
        disk.store((at - range.start) / 8, || {
            let result = op(&self.0);
            let changed = changed(&result);
            (result, changed.then(|| self.0.load(Ordering::Relaxed)))
        })
    }
}

fn disk_of(meta: (u64, u64)) -> Option<Arc<Disk>> {
    lock(&DISKS).iter().find(|disk| disk.id == meta).cloned()
}

/// Simulates a disk for its file from now on.
pub fn add(disk: &Arc<Disk>) {
    lock(&DISKS).push(Arc::clone(disk));
}

/// Ends that. Its mappings are registered until they go, and what is stored there is of no matter.
pub fn remove(disk: &Arc<Disk>) {
    lock(&DISKS).retain(|other| !Arc::ptr_eq(other, disk));
}

/// A mapping, if it is of a simulated file: registered until it is dropped.
#[derive(Debug)]
pub struct Mapping(Option<usize>);

impl Mapping {
    /// Of `file`, from `at` on.
    pub fn new(file: &File, at: *const u8, len: usize, access: Access) -> io::Result<Self> {
        let meta = file.metadata()?;
        let disk = disk_of((meta.dev(), meta.ino())).filter(|_| access == Access::ReadWrite);
        let Some(disk) = disk else { return Ok(Self(None)) };
        let at = at as usize;
        MAPPED.write().unwrap_or_else(|e| e.into_inner()).push((at..at + len, disk));
        MAPPINGS.fetch_add(1, Ordering::SeqCst);
        Ok(Self(Some(at)))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(at) = self.0 {
            MAPPED.write().unwrap_or_else(|e| e.into_inner()).retain(|(range, _)| range.start != at);
            MAPPINGS.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn answer(result: Result<(), i32>) -> libc::c_int {
    let Err(error) = result else { return 0 };
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() = error };
    -1
}

fn sync_file(fd: libc::c_int, real: libc::c_long) -> libc::c_int {
    SYNCS.fetch_add(1, Ordering::Relaxed);
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: any number may be asked about; the kernel writes the stat if it is a descriptor.
    if unsafe { libc::fstat(fd, stat.as_mut_ptr()) } == 0 {
        // SAFETY: it was written.
        let stat = unsafe { stat.assume_init() };
        if let Some(disk) = disk_of((stat.st_dev, stat.st_ino)) {
            return answer(disk.sync(0..disk.bytes()));
        }
    }
    // SAFETY: the system call that was asked for.
    unsafe { libc::syscall(real, fd) as libc::c_int }
}

/// The C library's, for the test binary.
///
/// # Safety
///
/// As the C library's: none is needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: libc::c_int) -> libc::c_int {
    sync_file(fd, libc::SYS_fdatasync)
}

/// As [`fdatasync`].
///
/// # Safety
///
/// As the C library's: none is needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: libc::c_int) -> libc::c_int {
    sync_file(fd, libc::SYS_fsync)
}

/// As [`fdatasync`].
///
/// # Safety
///
/// As the C library's: none is needed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn msync(at: *mut libc::c_void, len: libc::size_t, flags: libc::c_int) -> libc::c_int {
    SYNCS.fetch_add(1, Ordering::Relaxed);
    let found = {
        let mapped = MAPPED.read().unwrap_or_else(|e| e.into_inner());
        let found = mapped.iter().find(|(range, _)| range.contains(&(at as usize)));
        found.map(|(range, disk)| (at as usize - range.start, Arc::clone(disk)))
    };
    match found {
        Some((from, disk)) if flags & libc::MS_SYNC != 0 => answer(disk.sync(from..from + len)),
        Some(_) => 0, // asks the kernel to begin, and promises nothing
        // SAFETY: the system call that was asked for.
        None => unsafe { libc::syscall(libc::SYS_msync, at, len, flags) as libc::c_int },
    }
}

thread_local!(static RECEIVERS: Cell<usize> = const { Cell::new(0) });

/// A small number of a new receiver: the same ones each time that a history is repeated.
pub fn receiver_number() -> usize {
    RECEIVERS.replace(RECEIVERS.get() + 1)
}

/// Begins with the numbers of receivers again.
pub fn begin_again() {
    RECEIVERS.set(0);
}
