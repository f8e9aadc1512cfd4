//! The life of the file: create, open, close.
//!
//! **Invariants.**
//! - A channel is made without a name, allocated, written and synced, and only then linked into
//!   place: whoever sees the name sees a whole channel. Who loses the race opens the winner's.
//! - Opening and closing happen under the open lock. The opener clears the clean mark, and syncs
//!   that, before its first store; the last user syncs everything, and then sets the mark.
//! - Cleaning up after the dead needs no lock (reap.rs); only their entries are freed under it, and
//!   groups repaired that somebody died over who held it.
//! - A read-only open stores nothing, takes no lock, and has no entry.
//! - If the mark is not set, the same boot, device and inode as stored mean that memory is coherent
//!   and only the dead have to be cleaned up after.
#![forbid(unsafe_code)]

use crate::OpenError;
use crate::fork::{self, Unshared};
use crate::group::Group;
use crate::header::Header;
use crate::layout::{BLOCK, Geometry, Layout, MAGIC, MAX_PAGE_NUMBER, PAGE_LIMIT_STEP, PageState};
use crate::map::Map;
use crate::memory::Memory;
use crate::opens::OpenId;
use crate::ops::{Liveness, OpCell};
use crate::options::{self, Create, Options};
use crate::ring::Ring;
use crate::sys::{self, LockByte};
use rustix::fs::{OFlags, RawMode};
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::time::{Duration, Instant};

/// How often a close tries to take the open lock, a millisecond apart.
const CLOSE_TRIES: u32 = 20;

/// How long to wait for the open lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

const EXT4: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;
const TMPFS: u64 = 0x0102_1994;

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
    file: Unshared,
    header: Mutex<Header>,
    /// The forks before it was opened.
    forks: u64,
}

/// An entry that no file has: of who has not entered yet, or never will.
const NOBODY: OpenId = OpenId { index: usize::MAX, incarnation: 0 };

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { path: path.into(), doing, source }
}

/// The boot that the machine is in.
fn boot_id(path: &Path) -> Result<[u64; 2], OpenError> {
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
                    Ok(file) => return Self::open_existing(options, path, file),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {
                        if options.create == Create::OpenExisting {
                            return Err(OpenError::NotFound { path: path.into() });
                        }
                    }
                    Err(e) => return Err(not_opened(path, e)),
                }
            }
            match create(options, path)? {
                Some(file) => return Self::open_existing(options, path, file),
                None if options.create == Create::CreateNew => {
                    return Err(OpenError::AlreadyExists { path: path.into() });
                }
                None => {}
            }
        }
    }

    fn open_existing(options: &Options, path: &Path, file: Unshared) -> Result<Self, OpenError> {
        let forks = fork::count();
        let (meta, layout) = examine(options, path, &file)?;
        wait_for_lock(&file, LOCK_PATIENCE)
            .map_err(failed(path, "lock it"))?
            .ok_or(OpenError::Busy { path: path.into() })?;
        // Under the lock: what the last user wrote.
        let mut header = read_header(path, &file)?;
        let map = Map::new(&file, layout, header.uuid, true).map_err(failed(path, "map it"))?;
        let here = (boot_id(path)?, meta.dev(), meta.ino());
        let coherent = (header.boot_id, header.device, header.inode) == here;
        if !header.clean && !coherent {
            return Err(OpenError::NeedsRecovery { path: path.into() });
        }
        if !is_in_use(&file, map.memory()) {
            check_words(path, map.memory())?;
        }
        // Before anything else is stored.
        if header.clean || !coherent {
            (header.boot_id, header.device, header.inode) = here;
            header.clean = false;
            write_header(&map, &mut header).map_err(failed(path, "write its header"))?;
        }
        map.memory().page_limit().fetch_max(header.page_limit, AcqRel);
        let header = Mutex::new(header);
        let mut open = Self { map, id: NOBODY, path: path.into(), read_only: false, header, file, forks };
        // First: they may have every entry.
        let freed = open.free_the_dead();
        open.id = attach(path, &open.file, open.memory())?;
        sys::unlock(&open.file, LockByte::OpenLock).map_err(failed(path, "unlock it"))?;
        tracing::debug!(path = %path.display(), open = open.id.index, freed, "opened");
        Ok(open)
    }

    /// Opens the channel without storing anything.
    fn look_at(options: &Options, path: &Path) -> Result<Self, OpenError> {
        let forks = fork::count();
        let file = match open_file(path, OFlags::RDONLY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(OpenError::NotFound { path: path.into() }),
            other => other.map_err(|e| not_opened(path, e))?,
        };
        let (_, layout) = examine(options, path, &file)?;
        let header = read_header(path, &file)?;
        let map = Map::new(&file, layout, header.uuid, false).map_err(failed(path, "map it"))?;
        if !is_in_use(&file, map.memory()) {
            check_words(path, map.memory())?;
        }
        Ok(Self { map, id: NOBODY, path: path.into(), read_only: true, header: Mutex::new(header), file, forks })
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

    /// The ring, as this open sees it.
    #[inline]
    pub fn ring(&self) -> Ring<'_> {
        Ring { mem: self.memory(), live: self, me: self.id }
    }

    /// Does something under the open lock; nothing if it stays busy.
    pub fn with_open_lock<T>(&self, f: impl FnOnce(&mut Header) -> T) -> io::Result<Option<T>> {
        self.with_open_lock_for(LOCK_PATIENCE, f)
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
            let stored = read_header(&self.path, &self.file).map_err(io::Error::other);
            // Another open may have raised it, and writes to this file are seen through the map.
            header.page_limit = header.page_limit.max(stored?.page_limit);
            let wanted = (self.ring().head().page + PAGE_LIMIT_STEP).min(MAX_PAGE_NUMBER + 1);
            header.page_limit = header.page_limit.max(wanted);
            write_header(&self.map, header)?;
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
            tracing::debug!(path = %self.path.display(), freed, "cleaned up after the dead");
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
    fn free_the_dead(&self) -> usize {
        let dead: Vec<OpenId> = self.the_dead().collect();
        for &id in &dead {
            self.reap_cells(id);
        }
        Group::repair(&self.ring());
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
        if OpenId::all(mem).nth(1).is_none() && self.file.metadata().is_ok_and(|m| m.nlink() > 0) {
            let _ = self.sync_all();
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
        let last = locked && OpenId::all(mem).next().is_none();
        let left = if last { self.leave_clean() } else { Ok(()) };
        // The byte before the lock: who finds the entry free finds its byte free. Whatever these
        // say, closing the file frees both.
        let _ = sys::unlock(&self.file, LockByte::Open(self.id.index));
        if locked {
            let _ = sys::unlock(&self.file, LockByte::OpenLock);
        }
        // Foreign code, and so only now.
        if let Err(error) = left {
            tracing::warn!(path = %self.path.display(), %error, "not left clean");
        }
        tracing::debug!(path = %self.path.display(), open = self.id.index, "closed");
    }

    fn sync_all(&self) -> io::Result<()> {
        self.map.sync(0..self.map.layout().file_bytes() as usize)
    }

    fn leave_clean(&self) -> io::Result<()> {
        if self.file.metadata()?.nlink() == 0 {
            return Ok(()); // deleted: nobody will open it again
        }
        let mut header = read_header(&self.path, &self.file).map_err(io::Error::other)?;
        self.sync_all()?;
        header.clean = true;
        write_header(&self.map, &mut header)
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

/// Whether somebody alive has the file open.
fn is_in_use(file: &File, mem: Memory<'_>) -> bool {
    OpenId::all(mem).any(|id| sys::is_locked(file, LockByte::Open(id.index)).unwrap_or(true))
}

/// What the file is, and its layout, if it is a channel such as the options ask for.
fn examine(options: &Options, path: &Path, file: &File) -> Result<(Metadata, Layout), OpenError> {
    check_file_system(options, path, file)?;
    let meta = file.metadata().map_err(failed(path, "look at it"))?;
    if !meta.is_file() {
        return Err(OpenError::NotAChannel { path: path.into() });
    }
    let layout = check(options, path, &read_header(path, file)?, meta.len())?;
    Ok((meta, layout))
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

fn check_file_system(options: &Options, path: &Path, file: &File) -> Result<(), OpenError> {
    let kind = rustix::fs::fstatfs(file).map_err(|e| failed(path, "look at its file system")(e.into()))?.f_type as u64;
    if options.trust_file_system || [EXT4, XFS, TMPFS].contains(&kind) {
        return Ok(());
    }
    Err(OpenError::FileSystem { path: path.into(), kind })
}

fn read_header(path: &Path, file: &File) -> Result<Header, OpenError> {
    let mut bytes = vec![0; 2 * BLOCK * 8];
    let mut len = 0;
    while len < bytes.len() {
        match file.read_at(&mut bytes[len..], len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(path, "read its header")(e)),
        }
    }
    if len < bytes.len() {
        let (found, expected) = (len as u64, bytes.len() as u64);
        return Err(match bytes.starts_with(&MAGIC.to_le_bytes()) {
            true => OpenError::CutShort { path: path.into(), found, expected },
            false => OpenError::NotAChannel { path: path.into() },
        });
    }
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    let (copies, _) = words.as_chunks::<BLOCK>();
    Header::parse(path, [&copies[0], &copies[1]])
}

/// Both copies, one after the other, each on disk before the next is touched.
fn write_header(map: &Map, header: &mut Header) -> io::Result<()> {
    header.sequence += 1;
    for copy in 0..2 {
        header.store(map.memory().control, copy);
        map.sync(copy * BLOCK * 8..(copy + 1) * BLOCK * 8)?;
    }
    Ok(())
}

/// The layout of the file, if it is what the options ask for, and whole.
fn check(options: &Options, path: &Path, header: &Header, found: u64) -> Result<Layout, OpenError> {
    let g = header.geometry;
    let asked = [
        ("page_size", g.page_size, options.page_size),
        ("max_pages", g.max_pages, options.max_pages),
        ("typical_message_len", g.typical_message_len, options.typical_message_len),
        ("max_groups", g.max_groups, options.max_groups),
        ("max_opens", g.max_opens, options.max_opens),
        ("max_op_cells", g.max_op_cells, options.max_op_cells),
        ("max_held", g.max_held, options.max_held),
        ("overflow", g.overflow as usize, options.overflow.map(|o| o as usize)),
        ("lease_timeout", g.lease_timeout as usize, options.lease_timeout.map(|t| options::milliseconds(t) as usize)),
        ("max_attempts", g.max_attempts as usize, options.max_attempts.map(|n| n as usize)),
    ];
    for (option, found, expected) in asked {
        if let Some(expected) = expected.filter(|&e| e != found) {
            // What could never be right is better called that.
            Layout::new(Geometry { ..options.geometry() })?;
            let (found, expected) = (found as u64, expected as u64);
            return Err(OpenError::Mismatch { path: path.into(), option, found, expected });
        }
    }
    let layout =
        Layout::new(g).map_err(|e| OpenError::Damaged { path: path.into(), what: format!("its header says {e}") })?;
    let expected = layout.file_bytes();
    if found < expected {
        return Err(OpenError::CutShort { path: path.into(), found, expected });
    }
    Ok(layout)
}

/// Whether the words that everything hangs on make sense. Nobody else has the file open.
fn check_words(path: &Path, mem: Memory<'_>) -> Result<(), OpenError> {
    let damaged = |what: String| Err(OpenError::Damaged { path: path.into(), what });
    let head = crate::layout::Head::of(mem.head().load(Acquire)).page;
    let tail = crate::layout::Tail::of(mem.tail().load(Acquire)).page;
    let pages = mem.layout.geometry.max_pages as u64;
    if tail > head || head - tail >= pages {
        return damaged(format!("its head is page {head} and its tail page {tail}, in a ring of {pages}"));
    }
    for place in 0..pages {
        let page = crate::page::Page::new(mem, place as usize);
        let (number, cursor) = (page.number(), page.cursor());
        if number % pages != place || number + pages <= head || number > head + pages {
            return damaged(format!("page {number} lies at place {place}, with page {head} as the newest"));
        }
        let is = |state, page| cursor.state == state && cursor.lap == mem.layout.cursor_lap(page);
        let right = match number {
            n if n == head => cursor.lap == mem.layout.cursor_lap(n),
            n if n > head => is(PageState::Prepared, n),
            n if n >= tail => is(PageState::Sealed, n),
            // Being turned when its last user died.
            n => is(PageState::Sealed, n) || is(PageState::Prepared, n + pages),
        };
        if !right {
            return damaged(format!("page {number} is {:?} in lap {}", cursor.state, cursor.lap));
        }
    }
    Ok(())
}

/// Makes the file; nothing if somebody else was first.
fn create(options: &Options, path: &Path) -> Result<Option<Unshared>, OpenError> {
    let layout = Layout::new(options.geometry())?;
    let size = layout.file_bytes();
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Fsize).current
        && size > limit
    {
        return Err(OpenError::FileTooLarge { path: path.into(), size, limit });
    }
    let parent = match path.parent() {
        Some(p) if p.as_os_str().is_empty() => Path::new("."),
        Some(p) => p,
        None => Path::new("/"),
    };
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::from_raw_mode(0o600 as RawMode);
    let made = Unshared::open(|| Ok(rustix::fs::open(parent, flags, mode)?));
    let file = made.map_err(failed(path, "create a file in its directory"))?;
    check_file_system(options, path, &file)?;
    sys::allocate(&file, size).map_err(failed(path, "allocate it"))?;
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| failed(path, "get a random number")(e.into()))?;
    let half = |from: usize| u64::from_le_bytes(std::array::from_fn(|i| random[from + i]));
    let first = options.first_page;
    let header = Header {
        sequence: 1,
        uuid: [half(0), half(8)],
        geometry: layout.geometry,
        page_limit: first.saturating_add(PAGE_LIMIT_STEP).min(MAX_PAGE_NUMBER + 1),
        clean: true,
        boot_id: [0; 2],
        device: 0,
        inode: 0,
        created_at: now(),
    };
    let map = Map::new(&file, layout, header.uuid, true).map_err(failed(path, "map it"))?;
    map.memory().format(first);
    drop(map);
    // The headers last: what has them is whole.
    sys::sync(&file).map_err(failed(path, "sync it"))?;
    let bytes: Vec<u8> = header.words().iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut to: &File = &file;
    to.write_all(&bytes).and_then(|()| to.write_all(&bytes)).map_err(failed(path, "write its header"))?;
    sys::sync(&file).map_err(failed(path, "sync it"))?;
    match sys::link(&file, path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        Err(e) => return Err(failed(path, "link it into its directory")(e)),
    }
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed(path, "sync its directory"))?;
    Ok(Some(file))
}
