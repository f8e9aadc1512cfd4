//! The header: what a channel was made with, and whether it was left in order. Two copies, one
//! block each, each with a number that rises and a checksum; the valid one with the higher number
//! counts. The other one is written and synced before it, so a torn write leaves one of them whole.
//!
//! Words of a copy: 0 magic, 1 version, 2 features, 3 number of the copy, 4-5 uuid, 6 page_size,
//! 7 max_pages, 8 typical_message_len, 9 max_groups, 10 max_opens, 11 max_op_cells, 12 max_held,
//! 13 overflow, 14 max_age and 15 lease_timeout in milliseconds, 16 max_attempts
//! (of all three 0 is none), 17 page limit, 18 clean mark, 19-20 boot id, 21 device, 22 inode, 23 creation time
//! (unix milliseconds), 24 era, 25 check of the control part at a clean close, 26 the head word then, the rest zero, 511
//! checksum: XXH3-64 of words 0 to 510.
#![forbid(unsafe_code)]

use crate::OpenError;
use crate::file::failed;
use crate::layout::{BLOCK, Geometry, MAGIC, MAX_PAGE_NUMBER, VERSION};
use crate::memory::Memory;
use crate::options::Overflow;
use crate::sync::Ordering;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// What the header says, besides the magic and the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Rises with every write.
    pub sequence: u64,
    /// The channel's own number.
    pub uuid: [u64; 2],
    /// What the channel was made with.
    pub geometry: Geometry,
    /// No page at or above this number opens.
    pub page_limit: u64,
    /// Nobody has the file open, and everything in it is on disk.
    pub clean: bool,
    /// The boot in which the file was last opened.
    pub boot_id: [u64; 2],
    /// The device it lay on then.
    pub device: u64,
    /// The inode it was then.
    pub inode: u64,
    /// When it was created, in unix milliseconds.
    pub created_at: u64,
    /// The first page number of the era that a recovery began; 0 if there was none.
    pub era: u64,
    /// What the last clean close computed of the control part.
    pub check: u64,
    /// The head word at the last clean close.
    pub head: u64,
}

fn checksum(words: &[u64; BLOCK]) -> u64 {
    let bytes: Vec<u8> = words[..BLOCK - 1].iter().flat_map(|w| w.to_le_bytes()).collect();
    xxh3_64(&bytes)
}

impl Header {
    /// The words of one copy.
    pub fn words(&self) -> [u64; BLOCK] {
        let g = &self.geometry;
        let mut words = [0; BLOCK];
        let said = [
            MAGIC,
            VERSION,
            0,
            self.sequence,
            self.uuid[0],
            self.uuid[1],
            g.page_size as u64,
            g.max_pages as u64,
            g.typical_message_len as u64,
            g.max_groups as u64,
            g.max_opens as u64,
            g.max_op_cells as u64,
            g.max_held as u64,
            g.overflow as u64,
            g.max_age,
            u64::from(g.lease_timeout),
            u64::from(g.max_attempts),
            self.page_limit,
            u64::from(self.clean),
            self.boot_id[0],
            self.boot_id[1],
            self.device,
            self.inode,
            self.created_at,
            self.era,
            self.check,
            self.head,
        ];
        words[..said.len()].copy_from_slice(&said);
        words[BLOCK - 1] = checksum(&words);
        words
    }

    /// Reads it from a file, which may be anything.
    pub fn read(path: &Path, file: &File) -> Result<Self, OpenError> {
        let copies = Self::read_copies(path, file)?;
        Self::parse(path, [&copies[0], &copies[1]])
    }

    /// What each copy says by itself.
    pub fn read_each(path: &Path, file: &File) -> Result<[Result<Self, OpenError>; 2], OpenError> {
        let copies = Self::read_copies(path, file)?;
        Ok(copies.map(|copy| Self::parse(path, [&copy, &copy])))
    }

    fn read_copies(path: &Path, file: &File) -> Result<[[u64; BLOCK]; 2], OpenError> {
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
        let words = bytes.as_chunks::<8>().0;
        Ok(std::array::from_fn(|copy| std::array::from_fn(|i| u64::from_le_bytes(words[copy * BLOCK + i]))))
    }

    /// Parses the two copies.
    pub fn parse(path: &Path, copies: [&[u64; BLOCK]; 2]) -> Result<Self, OpenError> {
        if copies.iter().all(|c| c[0] != MAGIC) {
            return Err(OpenError::NotAChannel { path: path.into() });
        }
        let Some(words) = counting(copies) else {
            // Another version may compute another checksum: its number is the better answer.
            let other = copies.iter().find(|c| c[0] == MAGIC && c[1] != VERSION);
            if let Some(other) = other {
                return Err(OpenError::UnsupportedVersion { path: path.into(), found: other[1], supported: VERSION });
            }
            let what = "neither copy of its header verifies".into();
            return Err(OpenError::Damaged { path: path.into(), what });
        };
        if words[1] != VERSION {
            return Err(OpenError::UnsupportedVersion { path: path.into(), found: words[1], supported: VERSION });
        }
        if words[2] != 0 {
            return Err(OpenError::UnsupportedFeatures { path: path.into(), found: words[2] });
        }
        let overflow = match words[13] {
            0 => Overflow::Block,
            1 => Overflow::DropOldest,
            other => {
                let what = format!("its header says overflow {other}");
                return Err(OpenError::Damaged { path: path.into(), what });
            }
        };
        let (limit, era) = (words[17], words[24]);
        if limit > MAX_PAGE_NUMBER + 1 || era > limit {
            let what = format!("its header says page limit {limit}, era {era}");
            return Err(OpenError::Damaged { path: path.into(), what });
        }
        // Range-checked by Layout::new.
        let size = |i: usize| words[i] as usize;
        let short = |i: usize| u32::try_from(words[i]).unwrap_or(u32::MAX);
        Ok(Self {
            sequence: words[3],
            uuid: [words[4], words[5]],
            geometry: Geometry {
                page_size: size(6),
                max_pages: size(7),
                typical_message_len: size(8),
                max_groups: size(9),
                max_opens: size(10),
                max_op_cells: size(11),
                max_held: size(12),
                overflow,
                max_age: words[14],
                lease_timeout: short(15),
                max_attempts: short(16),
            },
            page_limit: words[17],
            clean: words[18] == 1,
            boot_id: [words[19], words[20]],
            device: words[21],
            inode: words[22],
            created_at: words[23],
            era: words[24],
            check: words[25],
            head: words[26],
        })
    }

    /// Writes both copies, one after the other, each on disk before the next is touched; last the one that
    /// counts until then, so that there always is one that counts, and it is the last or the one before.
    /// Under the open lock; `sync` brings a range of bytes of the file to the disk.
    pub fn write(&mut self, mem: Memory<'_>, sync: impl Fn(Range<usize>) -> io::Result<()>) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1); // a file can say any
        // Relaxed: read only by who opens the file later, under the same lock.
        let word = |copy: usize, i: usize| &mem.control[copy * BLOCK + i];
        let copy = |n: usize| -> [u64; BLOCK] { std::array::from_fn(|i| word(n, i).load(Ordering::Relaxed)) };
        let (zero, one) = (copy(0), copy(1));
        let last = usize::from(counting([&zero, &one]) == Some(&one));
        [1 - last, last].into_iter().try_for_each(|copy| {
            self.words().into_iter().enumerate().for_each(|(i, value)| word(copy, i).store(value, Ordering::Relaxed));
            let synced = sync(copy * BLOCK * 8..(copy + 1) * BLOCK * 8);
            // What is not known to be on disk does not count, and is written first the next time.
            synced.inspect_err(|_| word(copy, BLOCK - 1).store(0, Ordering::Relaxed))
        })
    }
}

/// The copy that counts.
fn counting(copies: [&[u64; BLOCK]; 2]) -> Option<&[u64; BLOCK]> {
    let valid = copies.into_iter().filter(|c| c[0] == MAGIC && c[BLOCK - 1] == checksum(c));
    valid.max_by_key(|c| c[3])
}
