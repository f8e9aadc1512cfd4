//! Verifying a file: everything that is written down in it, without changing it.
//!
//! **Invariants.**
//! - It reads with the functions that opens, receivers and recovery read with. What is only right or wrong in a file
//!   that nobody has open is looked at in such a file alone; if somebody opens it meanwhile, it is looked at again.
//! - In a file that is in use a word is judged only if what it is judged by cannot have changed between: the
//!   dependent word is read first, and the page number and the group last. What is being written is no finding.
//! - The file may say anything. Every loop is bounded by its geometry, which fits its size, and of each page not more
//!   is hashed than a few times its bytes.
//! - Where opening would recover the file, messages are those that a recovery keeps, in memory of this process.
#![forbid(unsafe_code)]

use crate::file::{self, OpenFile, failed};
use crate::finding::{FileState, Finding, Part, Remedy, Verification};
use crate::fork::Unshared;
use crate::header::Header;
use crate::layout::SlotState;
use crate::map::{Access, Map};
use crate::memory::Memory;
use crate::opens::OpenId;
use crate::ops::Liveness;
use crate::page::{Page, Place};
use crate::recovery::Cause;
use crate::ring::Ring;
use crate::sys::{self, LockByte};
use crate::tables::{self, Nobody};
use crate::{Offset, OpenError, Options, inspect, offline};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering::Acquire;
use std::time::Duration;

/// How often a file is looked at that somebody opens or closes meanwhile.
const TRIES: usize = 3;
/// How often a header is read that is being written, a millisecond apart.
const HEADER_TRIES: usize = 50;
/// How often it is read once nobody can be writing it.
const CALM: usize = 3;
/// A channel is not open more often at once.
const MOST_OPENS: usize = 4096;

/// Looks at everything in a file, and changes nothing: it may be in use, not be writable, or be anything.
///
/// Every message is read. Of a file that has to be recovered a copy as large as the file is made in memory.
///
/// # Errors
///
/// See [`OpenError`]: if the file cannot be read. One that is read and cannot be opened is no error:
/// [`refused`](Verification::refused) says why.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
/// channel.sender().blocking_send("two coffees")?;
/// drop(channel);
/// let found = disk_chan::verify(&path)?;
/// assert!(found.is_sound());
/// assert_eq!(found.messages, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn verify(path: impl AsRef<Path>) -> Result<Verification, OpenError> {
    verify_with(path, |_, _| {})
}

/// As [`verify`]; `told` is told how many pages were looked through, and of how many.
///
/// # Errors
///
/// As [`verify`].
pub fn verify_with(path: impl AsRef<Path>, mut told: impl FnMut(u64, u64)) -> Result<Verification, OpenError> {
    let path = path.as_ref();
    let file = file::open_to_look(path)?;
    if !file.metadata().map_err(failed(path, "look at it"))?.is_file() {
        return Ok(Verification::of_error(OpenError::NotAChannel { path: path.into() }));
    }
    let mut tries = 0;
    loop {
        tries += 1;
        let mut look = Look { path, file: &file, told: &mut told, is_changing: tries > TRIES };
        if let Some(verification) = look.at_all()? {
            return Ok(verification);
        }
    }
}

struct Look<'a> {
    path: &'a Path,
    file: &'a Unshared,
    told: &'a mut dyn FnMut(u64, u64),
    /// It is taken for one that is in use, as it was opened or closed again and again.
    is_changing: bool,
}

impl Verification {
    fn of_error(error: OpenError) -> Self {
        let mut found = Self::new(FileState::Clean);
        found.refuse(error);
        found
    }

    fn refuse(&mut self, error: OpenError) {
        self.refused = Some(error);
    }
}

impl Look<'_> {
    /// Nothing if somebody opened or closed it meanwhile.
    fn at_all(&mut self) -> Result<Option<Verification>, OpenError> {
        let (path, file) = (self.path, self.file);
        let mut found = Verification::new(FileState::Clean);
        let header = match self.header(&mut found)? {
            Ok(header) => header,
            Err(error) => {
                found.refuse(error);
                return Ok(Some(found));
            }
        };
        let layout = match inspect::layout(path, &header) {
            Ok(layout) => layout,
            Err(error) => {
                found.add(Finding::new(Part::Header, Remedy::Refused, in_short(&error)));
                found.refuse(error);
                return Ok(Some(found));
            }
        };
        let meta = file.metadata().map_err(failed(path, "look at it"))?;
        let (len, expected) = (meta.len(), layout.file_bytes());
        let is_cut = len < expected;
        if is_cut {
            let what = format!("is cut short: {len} bytes of {expected}");
            found.add(Finding::new(Part::File, Remedy::Refused, what));
            found.refuse(OpenError::CutShort { path: path.into(), found: len, expected });
            if offline::layout_of_cut(path, file).is_err() {
                return Ok(Some(found));
            }
        }
        let access = if is_cut { Access::Copy } else { Access::ReadOnly };
        let map = Map::new(file, layout, header.uuid, access).map_err(failed(path, "map it"))?;
        let mem = map.memory();
        let here = (file::boot_id(path)?, meta.dev(), meta.ino());
        let in_use = file::is_in_use(file, mem);
        found.state = state(mem, &header, here, in_use);
        if matches!(found.state, FileState::Crashed | FileState::Poisoned) {
            found.add(Finding::new(Part::File, Remedy::Rebuilt, format!("is {}", found.state)));
        }
        if in_use || self.is_changing {
            self.messages(&mut found, &Ring { mem, live: &Living(file), me: OpenId::NOBODY });
            tables::groups(&mut found, mem, true);
            return Ok(Some(found));
        }
        let wrong = file::what_is_wrong(mem, &header, here, false);
        tables::entries(&mut found, mem);
        match wrong {
            None if !is_cut => {
                tables::control(&mut found, mem);
                self.messages(&mut found, &Ring { mem, live: &Living(file), me: OpenId::NOBODY });
                tables::groups(&mut found, mem, false);
                tables::claims(&mut found, mem);
            }
            cause => {
                if header.clean {
                    tables::checks(&mut found, mem, header.check);
                }
                if !matches!(cause, Some(Cause::Unclean | Cause::Poisoned)) {
                    tables::order(&mut found, mem);
                }
                self.recovered(&mut found, &map, &header, is_cut)?;
            }
        }
        let as_it_was = !file::is_in_use(file, mem) && Header::read(path, file).is_ok_and(|h| h == header);
        Ok(as_it_was.then_some(found))
    }

    /// The header that counts, or why there is none; what is wrong with each copy.
    fn header(&self, found: &mut Verification) -> Result<Result<Header, OpenError>, OpenError> {
        let (mut tries, mut calm) = (0, 0);
        let each = loop {
            let each = match Header::read_each(self.path, self.file) {
                Ok(each) => each,
                Err(error @ OpenError::Io { .. }) => return Err(error),
                Err(error) => {
                    found.add(Finding::new(Part::File, Remedy::Refused, in_short(&error)));
                    return Ok(Err(error));
                }
            };
            // It is written by who has the file open, or opens it; and may have been, a moment ago.
            let opens = each.iter().flatten().map(|header| header.geometry.max_opens.min(MOST_OPENS)).next();
            let is_used = |opens| sys::is_any_open_locked(self.file, opens).unwrap_or(true);
            let is_changed = sys::is_locked(self.file, LockByte::OpenLock).unwrap_or(true);
            tries += 1;
            calm = if is_changed || opens.is_some_and(is_used) { 0 } else { calm + 1 };
            if calm == CALM || each.iter().all(Result::is_ok) || tries == HEADER_TRIES {
                break each;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let remedy = if each.iter().any(Result::is_ok) { Remedy::OtherCopy } else { Remedy::Refused };
        for (copy, error) in each.iter().enumerate().filter_map(|(copy, said)| Some((copy, said.as_ref().err()?))) {
            found.add(Finding { copy: Some(copy), ..Finding::new(Part::Header, remedy, in_short(error)) });
        }
        Ok(Header::read(self.path, self.file))
    }

    /// What a recovery would make of it.
    fn recovered(
        &mut self,
        found: &mut Verification,
        map: &Map,
        header: &Header,
        is_cut: bool,
    ) -> Result<(), OpenError> {
        let options = Options::new().read_only(true).trust_file_system(true);
        let opened = match is_cut {
            true => {
                let known = file::known(map.memory(), header);
                file::recover(map, Cause::Damaged, known, &options, self.path).map(|recovered| {
                    found.recovery = Some(recovered.report);
                    None
                })
            }
            false => OpenFile::open(&options, self.path).map(Some),
        };
        match opened {
            Ok(None) => self.messages(found, &Ring { mem: map.memory(), live: &Nobody, me: OpenId::NOBODY }),
            Ok(Some(open)) => {
                found.recovery = open.recovered.clone();
                self.messages(found, &open.ring());
            }
            Err(error @ OpenError::Damaged { .. }) => {
                found.add(Finding::new(Part::File, Remedy::Refused, in_short(&error)));
                found.refuse(error);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads every message.
    fn messages(&mut self, found: &mut Verification, ring: &Ring<'_>) {
        let layout = ring.mem.layout;
        let most = layout.geometry.max_pages;
        let mut copy = Vec::new();
        let of = ring.pages().take(most).count() as u64;
        for number in ring.pages().take(most) {
            let page = ring.page(number);
            let mut looked_at = 0;
            for index in 0..page.cursor().count.min(layout.slots) {
                let offset = Offset::new(number, index);
                let what = match page.slot(number, index) {
                    SlotState::Skipped | SlotState::Untouched => continue,
                    SlotState::Damaged => "does not verify".into(),
                    SlotState::Committed(at) => {
                        looked_at += page.said(at).map_or(0, |(_, end)| end - at);
                        let mut place = Place::unread(at);
                        // Records lie beside each other: more than this there is only where they overlap.
                        let is_looked_at = looked_at <= 4 * layout.data_words;
                        if is_looked_at && page.copy(ring.mem.uuid, offset.as_u64(), &mut place, &mut copy) {
                            (found.messages, found.bytes) = (found.messages + 1, found.bytes + copy.len() as u64);
                            continue;
                        }
                        why(&page, at, offset)
                    }
                };
                // After the words were read: they are of this page.
                if page.number() != number {
                    break;
                }
                found.damaged += 1;
                let (page, place) = (Some(number), Some(layout.place(number)));
                let finding = Finding::new(Part::Message, Remedy::Skipped, what);
                found.add(Finding { page, place, offset: Some(offset), ..finding });
            }
            found.pages += 1;
            (self.told)(found.pages, of);
        }
    }
}

/// What is wrong with a record.
fn why(page: &Page<'_>, at: usize, offset: Offset) -> String {
    match page.said(at) {
        None => format!("its slot names word {at}, where no record can be that ends within the page"),
        Some((said, _)) if said != offset => format!("its slot names word {at}, where a record of {said} lies"),
        Some((_, end)) => format!("the {} words of its record do not have the checksum that it says", end - at),
    }
}

/// Without the path, which is known.
fn in_short(error: &OpenError) -> String {
    match error {
        OpenError::NotAChannel { .. } => "does not begin with the mark of a channel".into(),
        OpenError::UnsupportedVersion { found, .. } => format!("says format version {found}, or is damaged"),
        OpenError::UnsupportedFeatures { found, .. } => format!("says features {found:#x}"),
        OpenError::CutShort { found, .. } => format!("is cut short: it ends after {found} bytes, in its header"),
        OpenError::Damaged { what, .. } if what.starts_with("neither") => "does not have its checksum".into(),
        OpenError::Damaged { what, .. } => what.clone(),
        other => other.to_string(),
    }
}

fn state(mem: Memory<'_>, header: &Header, here: ([u64; 2], u64, u64), in_use: bool) -> FileState {
    let never_opened = header.clean && header.boot_id == [0; 2];
    if !never_opened && mem.poison().load(Acquire) != 0 && (in_use || !header.clean) {
        return FileState::Poisoned;
    }
    match header.clean {
        _ if in_use => FileState::InUse,
        true => FileState::Clean,
        false if (header.boot_id, header.device, header.inode) == here => FileState::Dead,
        false => FileState::Crashed,
    }
}

/// Whom the kernel says to be alive.
struct Living<'a>(&'a Unshared);

impl Liveness for Living<'_> {
    fn is_dead(&self, open: usize) -> bool {
        matches!(sys::is_locked(self.0, LockByte::Open(open)), Ok(false))
    }
}
