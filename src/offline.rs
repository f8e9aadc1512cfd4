//! A file as its next user would find it, in memory of this process, while nobody can open it.
//!
//! **Invariants.**
//! - Nobody has the file open, and a lock that others cannot open it without is held shared, until this is dropped:
//!   so what is mapped does not change, and only what this process stores is copied.
//! - What an open does to a file that nobody has open is done here to the private mapping, by the same functions:
//!   recovery where it needs one, else cleaning up after the dead. The file stays as it is.
//! - What is cut off is taken as zeros, which are no message; then everything is recovered.
#![forbid(unsafe_code)]

use crate::file::{self, LOCK_PATIENCE, OpenFile, failed};
use crate::found;
use crate::group::Group;
use crate::header::Header;
use crate::inspect;
use crate::layout::Layout;
use crate::map::{Access, Map};
use crate::recovery::Cause;
use crate::sys::{self, LockByte};
use crate::{OpenError, Options, RewriteError};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::time::{Duration, Instant};

/// How many times as long as what is there a file may have been that was cut short: what is made up for takes time.
const MOST_CUT: u64 = 64;

/// Opens it so; one that was cut short only if it is to be `salvaged`.
pub fn open(path: &Path, salvaged: bool) -> Result<OpenFile, RewriteError> {
    let options = Options::new().read_only(true).trust_file_system(true);
    let forks = crate::fork::count();
    let file = file::open_to_look(path)?;
    let (access, layout) = match inspect::examine(&options, path, &file) {
        Ok((_, layout)) => (Access::Private, layout),
        Err(OpenError::CutShort { .. }) if salvaged => (Access::Copy, layout_of_cut(path, &file)?),
        Err(error) => return Err(error.into()),
    };
    lock(path, &file)?;
    // Nobody can open it from here on.
    if sys::is_any_open_locked(&file, layout.geometry.max_opens).unwrap_or(true) {
        return Err(RewriteError::InUse { path: path.into() });
    }
    let header = Header::read(path, &file)?;
    let meta = file.metadata().map_err(failed(path, "look at it"))?;
    let here = (file::boot_id(path)?, meta.dev(), meta.ino());
    let map = Map::new(&file, layout, header.uuid, access).map_err(failed(path, "map it"))?;
    let mem = map.memory();
    let wrong = match access {
        Access::Copy => Some(Cause::Damaged),
        _ => file::what_is_wrong(mem, &header, here, false),
    };
    let mut recovered = None;
    if let Some(cause) = wrong {
        if cause == Cause::Poisoned && (header.boot_id, header.device, header.inode) == here {
            Group::all(mem).for_each(Group::settle);
        }
        recovered = Some(file::recover(&map, cause, file::known(mem, &header), &options, path)?.report);
        mem.poison().store(0, Relaxed);
    }
    mem.page_limit().fetch_max(header.page_limit, AcqRel);
    mem.era().fetch_max(header.era, AcqRel);
    let open = OpenFile::only_to_look(map, path, recovered, header, file, forks);
    open.free_the_dead();
    found::settle(&open.ring());
    Ok(open)
}

/// Waits until nobody opens, closes or changes it, and keeps everybody from that.
fn lock(path: &Path, file: &File) -> Result<(), OpenError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    while !sys::try_lock_shared(file, LockByte::OpenLock).map_err(failed(path, "lock it"))? {
        if Instant::now() > deadline {
            return Err(OpenError::Busy { path: path.into() });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The layout of a file that was cut short.
pub fn layout_of_cut(path: &Path, file: &File) -> Result<Layout, OpenError> {
    let layout = inspect::layout(path, &Header::read(path, file)?)?;
    let (found, expected) = (file.metadata().map_err(failed(path, "look at it"))?.len(), layout.file_bytes());
    if found < layout.bytes_of_pages().start as u64 || expected / MOST_CUT > found {
        return Err(OpenError::CutShort { path: path.into(), found, expected });
    }
    Ok(layout)
}
