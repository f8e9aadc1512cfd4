//! Making the file of a new channel.
//!
//! **Invariant.** It is made without a name, allocated, written and synced, and only then linked into
//! place: whoever sees the name sees a whole channel. Who loses the race opens the winner's.
#![forbid(unsafe_code)]

use crate::OpenError;
use crate::file::{failed, now};
use crate::fork::Unshared;
use crate::header::Header;
use crate::inspect::check_file_system;
use crate::layout::{Layout, MAX_PAGE_NUMBER, PAGE_LIMIT_STEP};
use crate::map::{Access, Map};
use crate::options::Options;
use crate::sys;
use rustix::fs::{OFlags, RawMode};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// The directory that a path lies in.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if p.as_os_str().is_empty() => Path::new("."),
        Some(p) => p,
        None => Path::new("/"),
    }
}

/// A channel that has no name yet.
#[derive(Debug)]
pub struct Unnamed {
    /// Its mapping: an empty channel.
    pub map: Map,
    /// What is to be said of it.
    pub header: Header,
    /// The file, without a header.
    pub file: Unshared,
}

/// Makes the file; nothing if somebody else was first.
pub fn create(options: &Options, path: &Path) -> Result<Option<Unshared>, OpenError> {
    let layout = Layout::new(options.geometry())?;
    let Unnamed { map, header, file } = Unnamed::new(options, path, layout)?;
    drop(map);
    Ok(publish(path, &file, &header)?.then_some(file))
}

impl Unnamed {
    /// Makes the file of a channel that is to lie at `path`.
    pub fn new(options: &Options, path: &Path, layout: Layout) -> Result<Self, OpenError> {
        let size = layout.file_bytes();
        if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Fsize).current
            && size > limit
        {
            return Err(OpenError::FileTooLarge { path: path.into(), size, limit });
        }
        let parent = parent_of(path);
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
            era: 0,
            check: 0,
            head: 0,
        };
        let map = Map::new(&file, layout, header.uuid, Access::ReadWrite).map_err(failed(path, "map it"))?;
        map.memory().format(first);
        Ok(Self { map, header, file })
    }
}

/// Gives a file its header, and then its name; false if that is there already.
pub fn publish(path: &Path, file: &File, header: &Header) -> Result<bool, OpenError> {
    // The headers last: what has them is whole.
    sys::sync(file).map_err(failed(path, "sync it"))?;
    let bytes: Vec<u8> = header.words().iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut to: &File = file;
    to.write_all(&bytes).and_then(|()| to.write_all(&bytes)).map_err(failed(path, "write its header"))?;
    sys::sync(file).map_err(failed(path, "sync it"))?;
    match sys::link(file, path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(e) => return Err(failed(path, "link it into its directory")(e)),
    }
    File::open(parent_of(path)).and_then(|dir| dir.sync_all()).map_err(failed(path, "sync its directory"))?;
    Ok(true)
}
