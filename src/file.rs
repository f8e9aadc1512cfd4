//! The life of the file: open, recover, close.
//!
//! **Invariants.**
//! - Opening and closing happen under the open lock. The opener clears the clean mark, and syncs
//!   that, before its first store; the last user syncs everything, and then sets the mark.
//! - Cleaning up after the dead needs no lock (reap.rs); only their entries are freed under it, and
//!   groups repaired that somebody died over who held it.
//! - A read-only open stores nothing, takes no lock, and has no entry.
//! - If the mark is not set, the same boot, device and inode as stored mean that memory is coherent
//!   and only the dead have to be cleaned up after. If it is set, the checks of `clean.rs` tell whether
//!   all is as it was left. Else, or where a sync had failed, everything is recovered: only while nobody
//!   else has the file open, and before the header says anything else.
//! - Every sync is checked. One that failed poisons the channel: what is in memory may never reach the
//!   disk, and may be gone from memory tomorrow.
#![forbid(unsafe_code)]

use crate::OpenError;
use crate::clean;
use crate::create::create;
use crate::fork::{self, Unshared};
use crate::found;
use crate::group::Group;
use crate::header::Header;
use crate::inspect::examine;
use crate::layout::{MAX_PAGE_NUMBER, PAGE_LIMIT_STEP};
use crate::map::{Access, Map};
use crate::memory::Memory;
use crate::opens::OpenId;
use crate::ops::{Liveness, OpCell};
use crate::options::{Create, Options};
use crate::recovery::{self, Cause, Known, Recovered, RecoveryReport};
use crate::ring::Ring;
use crate::sys::{self, LockByte};
use rustix::fs::OFlags;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::{Duration, Instant, SystemTime};

/// How often a close tries to take the open lock, a millisecond apart.
const CLOSE_TRIES: u32 = 20;

/// How long to wait for the open lock.
pub(crate) const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// One open of a channel's file.
#[derive(Debug)]
pub struct OpenFile {
    /// The mapping.
    pub map: Map,
    /// This open.
    pub id: OpenId,
    /// Where the file is, or was.
    pub path: PathBuf,
    /// Whether nothing may be stored.
    pub read_only: bool,
    /// What was done to the file before it could be used.
    pub recovered: Option<RecoveryReport>,
    file: Unshared,
    header: Mutex<Header>,
    /// Held while something is synced.
    syncing: Mutex<()>,
    /// The forks before it was opened.
    forks: u64,
}

/// The error of something that the system refused.
pub fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { path: path.into(), doing, source }
}

/// The boot that the machine is in.
pub(crate) fn boot_id(path: &Path) -> Result<[u64; 2], OpenError> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(failed(path, "read the boot id"))?;
    let hex: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let half = |from: usize| hex.get(from..from + 16).and_then(|h| u64::from_str_radix(h, 16).ok());
    match (half(0), half(16)) {
        (Some(a), Some(b)) => Ok([a, b]),
        _ => Err(failed(path, "understand the boot id")(io::ErrorKind::InvalidData.into())),
    }
}

fn milliseconds(clock: rustix::time::ClockId) -> u64 {
    let t = rustix::time::clock_gettime(clock);
    t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000
}

/// The time in unix milliseconds, as coarse as is cheap.
#[inline]
pub fn now() -> u64 {
    milliseconds(rustix::time::ClockId::RealtimeCoarse)
}

/// Milliseconds of the clock that no one sets; the same in all processes; wraps.
#[inline]
pub fn uptime() -> u32 {
    milliseconds(rustix::time::ClockId::MonotonicCoarse) as u32
}

impl OpenFile {
    /// Opens or creates the channel at `path`.
    pub fn open(options: &Options, path: &Path) -> Result<Self, OpenError> {
        if options.read_only {
            return Self::look_at(options, path);
        }
        loop {
            if options.create != Create::CreateNew {
                match open_file(path, OFlags::RDWR) {
                    Ok(file) => return Self::open_existing(options, path, file, false),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        if options.create == Create::OpenExisting {
                            return Err(OpenError::NotFound { path: path.into() });
                        }
                    }
                    Err(e) => return Err(not_opened(path, e)),
                }
            }
            match create(options, path)? {
                Some(file) => return Self::open_existing(options, path, file, true),
                None if options.create == Create::CreateNew => {
                    return Err(OpenError::AlreadyExists { path: path.into() });
                }
                None => {}
            }
        }
    }

    fn open_existing(options: &Options, path: &Path, file: Unshared, is_new: bool) -> Result<Self, OpenError> {
        let forks = fork::count();
        let (meta, layout) = examine(options, path, &file)?;
        wait_for_lock(&file, LOCK_PATIENCE)
            .map_err(failed(path, "lock it"))?
            .ok_or(OpenError::Busy { path: path.into() })?;
        // Under the lock: what the last user wrote.
        let header = Header::read(path, &file)?;
        let map = Map::new(&file, layout, header.uuid, Access::ReadWrite).map_err(failed(path, "map it"))?;
        let header = Mutex::new(header);
        let (id, path, recovered) = (OpenId::NOBODY, path.to_owned(), None);
        let syncing = Mutex::new(());
        let mut open = Self { map, id, path, read_only: false, recovered, header, syncing, file, forks };
        let alone = open.make_usable((boot_id(&open.path)?, meta.dev(), meta.ino()), options)?;
        let path = &*open.path;
        // First: they may have every entry.
        let freed = open.free_the_dead();
        if alone && !is_new {
            found::settle(&open.ring());
        }
        open.id = attach(path, &open.file, open.memory())?;
        sys::unlock(&open.file, LockByte::OpenLock).map_err(failed(path, "unlock it"))?;
        event!(debug, "opened", path = path.display(), open = open.id.index, freed = freed);
        Ok(open)
    }

    /// Makes the file one that is in use here: recovers it, if it must be. Whether nobody else has it open.
    fn make_usable(&mut self, here: ([u64; 2], u64, u64), options: &Options) -> Result<bool, OpenError> {
        let path = &*self.path;
        let header = self.header.get_mut().unwrap_or_else(|e| e.into_inner());
        let write = |header: &mut Header| {
            let written = header.write(self.map.memory(), |range| sync_range(&self.map, range));
            written.map_err(failed(path, "write its header"))
        };
        let in_use = is_in_use(&self.file, self.map.memory());
        let cause = what_is_wrong(self.map.memory(), header, here, in_use);
        let coherent = (header.boot_id, header.device, header.inode) == here;
        let mark = |header: &mut Header, here| {
            (header.boot_id, header.device, header.inode) = here;
            header.clean = false;
        };
        if let Some(cause) = cause {
            if in_use {
                let path = path.into();
                let poisoned = cause == Cause::Poisoned;
                return Err(if poisoned { OpenError::Poisoned { path } } else { OpenError::InUse { path } });
            }
            let known = known(self.map.memory(), header);
            // Before anything else is stored; and of no boot, so that a death on the way begins it again.
            if header.clean || cause == Cause::Damaged {
                mark(header, ([0; 2], 0, 0));
                write(header)?;
            }
            event!(info, "recovering", path = path.display(), cause = format_args!("{cause:?}"));
            if cause == Cause::Poisoned {
                if coherent {
                    // What was done is not handed out again: nothing was lost but the syncs.
                    Group::all(self.map.memory()).for_each(Group::settle);
                }
                recovery::write_again(self.map.memory());
                sync(&self.file, &self.map).map_err(failed(path, "sync it"))?;
            }
            let recovered = recover(&self.map, cause, known, options, path)?;
            sync(&self.file, &self.map).map_err(failed(path, "sync it"))?;
            (header.era, header.page_limit) = (recovered.era, recovered.page_limit);
            mark(header, here);
            // The header is on disk before the poison is gone.
            write(header)?;
            self.map.memory().poison().store(0, Relaxed);
            event!(info, "recovered", path = path.display(), report = format_args!("{:?}", recovered.report));
            self.recovered = Some(recovered.report);
        } else if header.clean || (header.boot_id, header.device, header.inode) != here {
            // Before anything else is stored.
            mark(header, here);
            write(header)?;
            // Of a first open whose header could not be written.
            self.map.memory().poison().store(0, Relaxed);
        }
        let mem = self.map.memory();
        mem.page_limit().fetch_max(header.page_limit, AcqRel);
        mem.era().fetch_max(header.era, AcqRel);
        Ok(!in_use)
    }

    /// Opens the channel without storing anything.
    fn look_at(options: &Options, path: &Path) -> Result<Self, OpenError> {
        let forks = fork::count();
        let file = open_to_look(path)?;
        let (meta, layout) = examine(options, path, &file)?;
        let header = Header::read(path, &file)?;
        let mut map = Map::new(&file, layout, header.uuid, Access::ReadOnly).map_err(failed(path, "map it"))?;
        let here = (boot_id(path)?, meta.dev(), meta.ino());
        let in_use = is_in_use(&file, map.memory());
        let mut recovered = None;
        let wrong = what_is_wrong(map.memory(), &header, here, in_use).filter(|_| !in_use);
        // Somebody may have come meanwhile, and what was looked at be changed by that.
        let is_as_it_was = || !is_in_use(&file, map.memory()) && Header::read(path, &file).is_ok_and(|h| h == header);
        if let Some(cause) = wrong.filter(|_| is_as_it_was()) {
            // What a recovery would make of it, in memory of this process: all of it, so that what others store is not
            // seen between what this stored.
            let layout = map.layout().clone();
            map = Map::new(&file, layout, header.uuid, Access::Private).map_err(failed(path, "map it"))?;
            recovery::write_again(map.memory());
            recovered = Some(recover(&map, cause, known(map.memory(), &header), options, path)?.report);
        }
        Ok(Self::only_to_look(map, path, recovered, header, file, forks))
    }

    /// An open of which nothing is stored in the file.
    pub fn only_to_look(
        map: Map,
        path: &Path,
        recovered: Option<RecoveryReport>,
        header: Header,
        file: Unshared,
        forks: u64,
    ) -> Self {
        let (path, header) = (path.into(), Mutex::new(header));
        let syncing = Mutex::new(());
        Self { map, id: OpenId::NOBODY, path, read_only: true, recovered, header, syncing, file, forks }
    }

    /// The file once more, for reading: without the locks of this open, and nothing that ends them.
    pub fn reopen(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())?)
    }

    /// Brings everything that was changed in the file to stable storage.
    pub fn sync(&self) -> io::Result<()> {
        self.one_sync(|| sys::sync(&self.file))
    }

    /// One at a time: the kernel tells an error to one of those who sync through a description. Nothing is
    /// tried once one has failed, and what returned while another failed counts for nothing.
    fn one_sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _alone = self.syncing.lock().unwrap_or_else(|e| e.into_inner());
        let unpoisoned = || if self.is_poisoned() { Err(io::Error::other("a sync has failed before")) } else { Ok(()) };
        unpoisoned()?;
        checked(&self.map, sync())?;
        unpoisoned()
    }

    /// Brings everything that was changed in the pages to stable storage.
    pub fn sync_pages(&self) -> io::Result<()> {
        self.sync_range(self.map.layout().bytes_of_pages())
    }

    /// Brings a range of bytes to stable storage.
    pub fn sync_range(&self, range: Range<usize>) -> io::Result<()> {
        self.one_sync(|| self.map.sync(range))
    }

    /// Whether a sync has failed, in whichever process.
    #[inline]
    pub fn is_poisoned(&self) -> bool {
        self.memory().poison().load(Acquire) != 0
    }

    /// Whether this process is the child of a fork that this open was made before.
    #[inline]
    pub fn is_inherited(&self) -> bool {
        self.forks != fork::count()
    }

    /// The words.
    #[inline]
    pub fn memory(&self) -> Memory<'_> {
        self.map.memory()
    }

    /// The channel's own number; also where the mapping is not, in the child of a fork.
    pub fn uuid(&self) -> [u64; 2] {
        self.map.uuid()
    }

    /// When the file was created.
    pub fn created_at(&self) -> SystemTime {
        let header = self.header.lock().unwrap_or_else(|e| e.into_inner());
        let since = Duration::from_millis(header.created_at);
        SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// The ring, as this open sees it.
    #[inline]
    pub fn ring(&self) -> Ring<'_> {
        Ring { mem: self.memory(), live: self, me: self.id }
    }

    /// Does something under the open lock; nothing if it stays busy.
    pub fn with_open_lock<T>(&self, f: impl FnOnce(&mut Header) -> T) -> io::Result<Option<T>> {
        self.with_open_lock_for(LOCK_PATIENCE, |header| {
            // What one began who died under the lock is finished first.
            self.free_the_dead();
            f(header)
        })
    }

    fn with_open_lock_for<T>(&self, patience: Duration, f: impl FnOnce(&mut Header) -> T) -> io::Result<Option<T>> {
        let deadline = Instant::now() + patience;
        // The lock in the file belongs to the description, which the threads of this open share.
        let mut header = loop {
            match self.header.try_lock() {
                Ok(header) => break header,
                Err(std::sync::TryLockError::Poisoned(e)) => break e.into_inner(),
                Err(_) if Instant::now() > deadline => return Ok(None),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        if wait_for_lock(&self.file, patience)?.is_none() {
            return Ok(None);
        }
        let _locked = OpenLock(&self.file);
        Ok(Some(f(&mut header)))
    }

    /// Raises the limit of page numbers, if half of the last step is used and the open lock is free:
    /// it is the watcher that asks, and it asks again.
    pub fn raise_page_limit(&self) -> io::Result<()> {
        if !self.page_limit_is_near() {
            return Ok(());
        }
        let raised = self.with_open_lock_for(Duration::ZERO, |header| {
            let stored = Header::read(&self.path, &self.file).map_err(io::Error::other);
            // Another open may have raised it, and writes to this file are seen through the map.
            header.page_limit = header.page_limit.max(stored?.page_limit);
            let wanted = (self.ring().head().page + PAGE_LIMIT_STEP).min(MAX_PAGE_NUMBER + 1);
            header.page_limit = header.page_limit.max(wanted);
            header.write(self.memory(), |range| self.sync_range(range))?;
            self.memory().page_limit().fetch_max(header.page_limit, AcqRel);
            Ok(())
        });
        raised?.unwrap_or(Ok(()))
    }

    /// Whether the limit of page numbers should be raised soon.
    pub fn page_limit_is_near(&self) -> bool {
        let limit = self.memory().page_limit().load(Acquire);
        limit <= MAX_PAGE_NUMBER && self.ring().head().page + PAGE_LIMIT_STEP / 2 > limit
    }

    /// Cleans up after every dead open, if one of those that `asked` says is dead. True if somebody may
    /// find something else than before.
    pub fn reap_the_dead(&self, asked: impl Fn(OpenId) -> bool) -> bool {
        if !OpenId::all(self.memory()).any(|id| asked(id) && self.has_died(id)) {
            return false;
        }
        let cleaned = self.clean_up();
        // Their entries are freed by who has the lock, now or later; until then they are looked at again.
        let freed = self.with_open_lock_for(Duration::ZERO, |_| self.free_the_dead());
        let freed = freed.ok().flatten().unwrap_or(0);
        if freed > 0 {
            event!(debug, "cleaned up after the dead", path = self.path.display(), freed = freed);
        }
        cleaned || freed > 0
    }

    /// The opens that have ended without cleaning up.
    fn the_dead(&self) -> impl Iterator<Item = OpenId> {
        OpenId::all(self.memory()).filter(|&id| self.has_died(id))
    }

    /// Cleans the cells of the dead, which needs no lock. True if there was a message in them.
    fn clean_up(&self) -> bool {
        self.the_dead().filter(|&id| self.reap_cells(id)).count() > 0
    }

    /// Cleans up after the dead, finishes what they had begun under the open lock, which the caller
    /// holds, and frees their entries: last, as without one nobody looks for what is left. How many.
    pub(crate) fn free_the_dead(&self) -> usize {
        let dead: Vec<OpenId> = self.the_dead().collect();
        for &id in &dead {
            self.reap_cells(id);
        }
        // Only the dead leave what is half done, or not synced.
        match dead.is_empty() {
            true => Group::vacate_removed(&self.ring()),
            false => Group::repair(&self.ring(), |range| self.sync_range(range)),
        }
        for id in &dead {
            id.detach(self.memory());
        }
        dead.len()
    }

    /// Cleans the cells of an open, claim cells also of numbers that are no group's any more. True if
    /// there was a message in them.
    fn reap_cells(&self, open: OpenId) -> bool {
        let mem = self.memory();
        OpCell::clear(mem, open);
        let groups = (0..mem.layout.geometry.max_groups).map(|number| Group::any(mem, number));
        groups.filter(|group| group.reap(open)).count() > 0
    }

    fn has_died(&self, id: OpenId) -> bool {
        // The entry after the lock byte, too: the byte that was asked for was this open's.
        id != self.id
            && matches!(sys::is_locked(&self.file, LockByte::Open(id.index)), Ok(false))
            && id.is_entered(self.memory())
    }

    /// Ends this open: the last use of the mapping for anything but looking.
    pub fn close(&self) {
        let mem = self.memory();
        self.reap_cells(self.id);
        // What takes long is done before the lock is taken, if this may be the last user.
        if OpenId::all(mem).nth(1).is_none() && self.file.metadata().is_ok_and(|m| m.nlink() > 0) && !self.is_poisoned()
        {
            let _ = self.sync();
        }
        // Only tried, for a moment: without the lock the file is left as if this open had died.
        let locked = (0..CLOSE_TRIES).any(|n| {
            if n > 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            sys::try_lock(&self.file, LockByte::OpenLock).unwrap_or(false)
        });
        if locked {
            self.free_the_dead();
        }
        self.id.detach(mem);
        let last = locked && OpenId::all(mem).next().is_none() && !is_in_use(&self.file, mem);
        let left = if last { self.leave_clean() } else { Ok(()) };
        // The byte before the lock: who finds the entry free finds its byte free. Whatever these
        // say, closing the file frees both.
        let _ = sys::unlock(&self.file, LockByte::Open(self.id.index));
        if locked {
            let _ = sys::unlock(&self.file, LockByte::OpenLock);
        }
        // Foreign code, and so only now.
        if let Err(error) = left {
            event!(warn, "not left clean", path = self.path.display(), error = error);
        }
        event!(debug, "closed", path = self.path.display(), open = self.id.index);
    }

    fn leave_clean(&self) -> io::Result<()> {
        if self.file.metadata()?.nlink() == 0 || self.is_poisoned() {
            return Ok(()); // deleted: nobody will open it again; or left for recovery
        }
        let mut header = Header::read(&self.path, &self.file).map_err(io::Error::other)?;
        let mem = self.memory();
        mem.durable_end().store(self.ring().end().as_u64(), Relaxed); // it will be, and is checked
        (header.check, header.head) = (clean::seal(mem), mem.head().load(Relaxed));
        self.sync()?;
        header.clean = true;
        header.write(mem, |range| self.sync_range(range))
    }
}

impl Liveness for OpenFile {
    fn is_dead(&self, open: usize) -> bool {
        let mem = self.memory();
        open < mem.layout.geometry.max_opens && OpenId::at(mem, open).is_some_and(|id| self.has_died(id))
    }
}

/// The open lock, held. Dropped, it is free.
struct OpenLock<'a>(&'a File);

impl Drop for OpenLock<'_> {
    fn drop(&mut self) {
        let _ = sys::unlock(self.0, LockByte::OpenLock); // it fails for no descriptor that could lock
    }
}

/// Brings everything that was changed in the file to stable storage, or poisons it.
fn sync(file: &File, map: &Map) -> io::Result<()> {
    checked(map, sys::sync(file))
}

/// Brings a range of bytes to stable storage, or poisons the file.
fn sync_range(map: &Map, range: Range<usize>) -> io::Result<()> {
    checked(map, map.sync(range))
}

fn checked(map: &Map, synced: io::Result<()>) -> io::Result<()> {
    synced.inspect_err(|error| {
        let said = u64::from(error.raw_os_error().unwrap_or(0).unsigned_abs());
        // Whoever was first; with a number that is not zero.
        let _ = map.memory().poison().compare_exchange(0, 1 + said, AcqRel, Relaxed);
        event!(error, "a sync failed: the channel is poisoned", error = error);
    })
}

/// Why a channel cannot be used as it is; nothing if it can.
pub(crate) fn what_is_wrong(
    mem: Memory<'_>,
    header: &Header,
    here: ([u64; 2], u64, u64),
    in_use: bool,
) -> Option<Cause> {
    let coherent = (header.boot_id, header.device, header.inode) == here;
    // One that was never opened has nothing that could be checked.
    let never_opened = header.clean && header.boot_id == [0; 2];
    if !never_opened && mem.poison().load(Acquire) != 0 {
        return Some(Cause::Poisoned);
    }
    if !header.clean && !coherent {
        return Some(Cause::Unclean);
    }
    let sound = || (!header.clean || never_opened || clean::is_sound(mem, header.check)) && found::fits(mem);
    (!in_use && !sound()).then_some(Cause::Damaged)
}

pub(crate) fn recover(
    map: &Map,
    cause: Cause,
    known: Known,
    options: &Options,
    path: &Path,
) -> Result<Recovered, OpenError> {
    let recovered = recovery::recover(map.memory(), cause, known, |at| options.report_progress(path, at));
    recovered.map_err(|what| OpenError::Damaged { path: path.into(), what: what.into() })
}

pub(crate) fn known(mem: Memory<'_>, header: &Header) -> Known {
    let head = if header.clean { header.head } else { mem.head().load(Acquire) };
    Known { page_limit: header.page_limit, era: header.era, head, clean: header.clean }
}

/// Whether somebody alive has the file open.
pub(crate) fn is_in_use(file: &File, mem: Memory<'_>) -> bool {
    // Whatever memory says of who that is.
    sys::is_any_open_locked(file, mem.layout.geometry.max_opens).unwrap_or(true)
}

fn attach(path: &Path, file: &File, mem: Memory<'_>) -> Result<OpenId, OpenError> {
    let max = mem.layout.geometry.max_opens;
    for index in (0..max).filter(|&i| OpenId::at(mem, i).is_none()) {
        if sys::try_lock(file, LockByte::Open(index)).map_err(failed(path, "lock it"))? {
            return Ok(OpenId::attach(mem, index));
        }
    }
    Err(OpenError::TooManyOpens { path: path.into(), max })
}

fn open_file(path: &Path, access: OFlags) -> io::Result<Unshared> {
    let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    Unshared::open(|| Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?))
}

/// Opens the file for reading.
pub(crate) fn open_to_look(path: &Path) -> Result<Unshared, OpenError> {
    match open_file(path, OFlags::RDONLY) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(OpenError::NotFound { path: path.into() }),
        other => other.map_err(|e| not_opened(path, e)),
    }
}

fn not_opened(path: &Path, error: io::Error) -> OpenError {
    let path = path.to_owned();
    match error.raw_os_error() {
        Some(libc::ELOOP) => OpenError::Io { path, doing: "open it: it is a symbolic link", source: error },
        Some(libc::EACCES | libc::EROFS) if open_file(&path, OFlags::RDONLY).is_ok() => {
            OpenError::NotWritable { path, source: error }
        }
        _ => OpenError::Io { path, doing: "open it", source: error },
    }
}

fn wait_for_lock(file: &File, patience: Duration) -> io::Result<Option<()>> {
    let deadline = Instant::now() + patience;
    while !sys::try_lock(file, LockByte::OpenLock)? {
        if Instant::now() > deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(Some(()))
}
