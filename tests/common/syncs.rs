//! Stands between the program and the system calls that sync a file: counts them, makes them fail, holds them up.
//! For test binaries; only calls that go through the C library are seen, and the tests assert that some were.
#![allow(dead_code, reason = "each test file uses its own part of this module")]

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};

static CALLS: AtomicU64 = AtomicU64::new(0);
/// The error number that syncs fail with; 0 is none.
static ERROR: AtomicI32 = AtomicI32::new(0);
/// How many more syncs go well before that.
static GOOD: AtomicU64 = AtomicU64::new(0);
/// How many may go on; nothing if all may.
static PERMITS: Mutex<Option<u64>> = Mutex::new(None);
static LET_GO: Condvar = Condvar::new();
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The syncs of this process are this test's alone, until it is dropped.
pub struct Syncs(());

impl Syncs {
    pub fn mine() -> Self {
        while TAKEN.swap(true, SeqCst) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Self(())
    }

    /// How many there were so far, in this process.
    pub fn count(&self) -> u64 {
        CALLS.load(SeqCst)
    }

    /// All that come after `good` more fail with this error number.
    pub fn fail(&self, error: i32, good: u64) {
        GOOD.store(good, SeqCst);
        ERROR.store(error, SeqCst);
    }

    /// They go well again.
    pub fn mend(&self) {
        ERROR.store(0, SeqCst);
    }

    /// Holds up all that begin from now on.
    pub fn hold(&self) {
        *PERMITS.lock().unwrap() = Some(0);
    }

    /// Lets one of those go that are held up, or will be.
    pub fn let_one_go(&self) {
        *PERMITS.lock().unwrap().as_mut().unwrap() += 1;
        LET_GO.notify_all();
    }

    /// Lets those go that are held up, and all others.
    pub fn let_go(&self) {
        *PERMITS.lock().unwrap() = None;
        LET_GO.notify_all();
    }

    /// Waits until there were so many.
    pub fn wait_for(&self, count: u64) {
        while self.count() < count {
            std::thread::yield_now();
        }
    }
}

impl Drop for Syncs {
    fn drop(&mut self) {
        self.mend();
        self.let_go();
        TAKEN.store(false, SeqCst);
    }
}

/// Comes before each sync: the error that it is to fail with.
fn intercept() -> Option<i32> {
    CALLS.fetch_add(1, SeqCst);
    let mut permits = LET_GO.wait_while(PERMITS.lock().unwrap(), |permits| *permits == Some(0)).unwrap();
    *permits = permits.map(|left| left - 1);
    drop(permits);
    let error = ERROR.load(SeqCst);
    let fails = error != 0 && GOOD.fetch_update(SeqCst, SeqCst, |good| good.checked_sub(1)).is_err();
    fails.then_some(error)
}

fn failed(error: i32) -> libc::c_int {
    // SAFETY: the address of this thread's error number, which is there as long as the thread.
    unsafe { *libc::__errno_location() = error };
    -1
}

/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: libc::c_int) -> libc::c_int {
    match intercept() {
        Some(error) => failed(error),
        // SAFETY: what the caller asked for.
        None => unsafe { libc::syscall(libc::SYS_fdatasync, fd) as libc::c_int },
    }
}

/// # Safety
///
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn msync(address: *mut libc::c_void, len: libc::size_t, flags: libc::c_int) -> libc::c_int {
    match intercept() {
        Some(error) => failed(error),
        // SAFETY: what the caller asked for.
        None => unsafe { libc::syscall(libc::SYS_msync, address, len, flags) as libc::c_int },
    }
}
