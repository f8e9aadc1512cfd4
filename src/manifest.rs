//! The manifest of a directory of partitions: the file `partitions`, which says how many there are.
//!
//! Four little-endian words of 64 bits: "disk_prt", the version 1, the number of partitions, and the XXH3-64 of the
//! words before.
//!
//! **Invariant.** It is made without a name, written and synced, and only then linked into place: whoever sees it
//! sees all of it, and who loses the race reads the winner's. It never changes.
#![forbid(unsafe_code)]

use crate::create::parent_of;
use crate::file::failed;
use crate::inspect::check_file_system;
use crate::layout::Layout;
use crate::options::Options;
use crate::{Create, OpenError, sys};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Most partitions.
pub const MAX_PARTITIONS: usize = 1 << 10;
const MANIFEST: &str = "partitions";
const MAGIC: u64 = u64::from_le_bytes(*b"disk_prt");
const VERSION: u64 = 1;
const MANIFEST_BYTES: usize = 32;

/// How many partitions the directory has; as many as asked for if it is made here.
pub fn find_or_make(dir: &Path, partitions: usize, options: &Options) -> Result<(PathBuf, usize), OpenError> {
    let manifest = dir.join(MANIFEST);
    let found = find_or_make_at(dir, &manifest, partitions, options)?;
    Ok((manifest, found))
}

fn find_or_make_at(dir: &Path, manifest: &Path, partitions: usize, options: &Options) -> Result<usize, OpenError> {
    let may_be_made = !options.read_only && options.create != Create::OpenExisting;
    if options.create != Create::CreateNew || options.read_only {
        match read(manifest)? {
            Some(found) => return Ok(found),
            None if !may_be_made => return Err(OpenError::NotFound { path: manifest.into() }),
            None => {}
        }
    }
    // Before anything is made.
    Layout::new(options.geometry())?;
    match std::fs::create_dir(dir) {
        Ok(()) => sync_dir(parent_of(dir))?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) => return Err(failed(dir, "create the directory")(e)),
    }
    if make(dir, manifest, partitions, options)? {
        return Ok(partitions);
    }
    if options.create == Create::CreateNew {
        return Err(OpenError::AlreadyExists { path: manifest.into() });
    }
    read(manifest)?.ok_or_else(|| OpenError::NotFound { path: manifest.into() })
}

/// Makes the manifest; false if there is one.
fn make(dir: &Path, manifest: &Path, partitions: usize, options: &Options) -> Result<bool, OpenError> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let made = rustix::fs::open(dir, flags, Mode::from_raw_mode(0o600));
    let mut file = File::from(made.map_err(|e| failed(dir, "create a file in it")(e.into()))?);
    check_file_system(options, manifest, &file)?;
    let mut bytes: Vec<u8> = [MAGIC, VERSION, partitions as u64].iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.extend(xxh3_64(&bytes).to_le_bytes());
    file.write_all(&bytes).map_err(failed(manifest, "write it"))?;
    sys::sync(&file).map_err(failed(manifest, "sync it"))?;
    match sys::link(&file, manifest) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(e) => return Err(failed(manifest, "link it into its directory")(e)),
    }
    sync_dir(dir)?;
    Ok(true)
}

fn sync_dir(dir: &Path) -> Result<(), OpenError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir, "sync the directory"))
}

/// How many partitions a manifest says; nothing if there is none.
fn read(manifest: &Path) -> Result<Option<usize>, OpenError> {
    let path = || manifest.to_owned();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(manifest, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(e) => return Err(failed(manifest, "open it")(e.into())),
    };
    if !file.metadata().map_err(failed(manifest, "look at it"))?.is_file() {
        return Err(OpenError::NotAChannel { path: path() });
    }
    let mut bytes = Vec::new();
    file.take(MANIFEST_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(failed(manifest, "read it"))?;
    let word = |i: usize| bytes.get(i * 8..i * 8 + 8).map(|b| u64::from_le_bytes(b.try_into().unwrap_or_default()));
    let known = bytes.len().min(8);
    if bytes[..known] != MAGIC.to_le_bytes()[..known] {
        return Err(OpenError::NotAChannel { path: path() });
    }
    if let Some(found) = word(1).filter(|&found| found != VERSION) {
        return Err(OpenError::UnsupportedVersion { path: path(), found, supported: VERSION });
    }
    if bytes.len() < MANIFEST_BYTES {
        let (found, expected) = (bytes.len() as u64, MANIFEST_BYTES as u64);
        return Err(OpenError::CutShort { path: path(), found, expected });
    }
    let damaged = |what: &str| OpenError::Damaged { path: path(), what: what.into() };
    if bytes.len() > MANIFEST_BYTES {
        return Err(damaged("it is longer than the number of partitions takes"));
    }
    if word(3) != Some(xxh3_64(&bytes[..MANIFEST_BYTES - 8])) {
        return Err(damaged("its checksum does not match"));
    }
    match word(2).map(|n| n as usize).filter(|n| (1..=MAX_PARTITIONS).contains(n)) {
        Some(found) => Ok(Some(found)),
        None => Err(damaged("it says a number of partitions that there cannot be")),
    }
}
