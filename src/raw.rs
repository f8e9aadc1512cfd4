//! Pages as bytes: what of a page lies finished in the file, and reading such bytes wherever they went.
//!
//! **Invariants.**
//! - Records lie in a page in the order of their indexes, each behind the one before; between two may be what a
//!   sender that died had reserved, which can be anything, also records of an earlier lap. So bytes are believed
//!   only as a record of this page, with an index above that of the record before, and that verifies.
//! - Bytes that are read here are input: nothing in them is used before it was checked, and looking through any
//!   of them takes a time that grows with their number only: so much is hashed in vain, and then no more.
#![forbid(unsafe_code)]

use crate::headers::block_len;
use crate::layout::RECORD_HEADER;
use crate::page::checksum;
use crate::{HeadersRef, Offset};
use std::fmt;
use std::ops::{Deref, Range};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of the header of a record.
const HEADER: usize = RECORD_HEADER * 8;

/// A page of a channel, for the records in its bytes to be checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageId {
    uuid: [u64; 2],
    page: u64,
}

impl PageId {
    /// The same as bytes, to be sent before those of the page.
    pub fn to_bytes(self) -> [u8; 24] {
        let words = [self.uuid[0], self.uuid[1], self.page];
        std::array::from_fn(|i| words[i / 8].to_le_bytes()[i % 8])
    }

    /// What [`to_bytes`](Self::to_bytes) gave. Any bytes are of some page.
    pub fn from_bytes(bytes: [u8; 24]) -> Self {
        let word = |n: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[n * 8 + i]));
        Self { uuid: [word(0), word(1)], page: word(2) }
    }

    /// The number of the page.
    pub fn page(self) -> u64 {
        self.page
    }
}

/// The finished records of a page where they lie in the file, for `sendfile` or `copy_file_range`: see
/// [`Channel::page_bytes`](crate::Channel::page_bytes).
///
/// The descriptor is one of its own, for reading. The page may be used again while this is held: then the bytes
/// are of another page, which [`records`] sees.
#[derive(Debug)]
pub struct PageBytes {
    file: OwnedFd,
    range: Range<u64>,
    id: PageId,
    len: u64,
}

impl PageBytes {
    pub(crate) fn new(file: OwnedFd, range: Range<usize>, uuid: [u64; 2], page: u64, len: u64) -> Self {
        Self { file, range: range.start as u64..range.end as u64, id: PageId { uuid, page }, len }
    }

    /// The bytes of the file that the records lie in; what they are, [`records`] tells.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// What [`records`] needs to know.
    pub fn id(&self) -> PageId {
        self.id
    }

    /// Messages in them.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl AsFd for PageBytes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A message found in the bytes of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// The header block, and the message behind it.
    region: &'a [u8],
    block: usize,
    offset: Offset,
    sent_at: u64,
}

impl<'a> RawRecord<'a> {
    /// Its place in the channel.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// When it was sent, by a clock that ticks every few milliseconds.
    pub fn sent_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.sent_at)
    }

    /// Its headers; a message that was sent without any has none.
    pub fn headers(&self) -> HeadersRef<'a> {
        HeadersRef::new(self.region, self.block)
    }

    /// The key in its headers, if there is one.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.headers().key()
    }
}

impl Deref for RawRecord<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.region[self.block..]
    }
}

impl fmt::Debug for RawRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawRecord").field("offset", &self.offset).field("len", &self.len()).finish_non_exhaustive()
    }
}

/// Bytes that are no whole, undamaged record of the page.
///
/// A place that a sender reserved and never wrote is such, and then no message is missing. (One that a sender wrote and was
/// killed before it counted reads as a message: its bytes are. How many messages there are, [`PageBytes::len`] says.)
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("bytes {} to {} are no whole record of the page", bytes.start, bytes.end)]
pub struct Unreadable {
    /// Which bytes, of those that were given.
    pub bytes: Range<usize>,
}

/// Reads the bytes of a page, as [`PageBytes`] locates them: every record is checked as if it were received.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// use std::os::unix::fs::FileExt;
/// let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
/// let first = channel.sender().blocking_send_many(&["a", "b"])?[0];
///
/// let page = channel.page_bytes(first.page())?;
/// let (range, file) = (page.range(), std::fs::File::open(&path)?);
/// let mut bytes = vec![0; (range.end - range.start) as usize];
/// file.read_exact_at(&mut bytes, range.start)?; // or sendfile to another machine
///
/// let messages: Vec<_> = disk_chan::records(page.id(), &bytes).collect::<Result<_, _>>()?;
/// assert_eq!((messages.len(), &*messages[1]), (2, &b"b"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn records(of: PageId, bytes: &[u8]) -> Records<'_> {
    Records { of, bytes, at: 0, next: Offset::new(of.page, 0), to_hash: 4 * bytes.len() }
}

/// The messages in the bytes of a page: see [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    of: PageId,
    bytes: &'a [u8],
    at: usize,
    /// No record below this comes any more.
    next: Offset,
    /// Bytes that may still be hashed.
    to_hash: usize,
}

impl<'a> Records<'a> {
    /// The record that begins at a byte, and where it ends.
    fn record_at(&mut self, at: usize) -> Option<(RawRecord<'a>, usize)> {
        let rest = self.bytes.get(at..)?;
        let head: [u64; RECORD_HEADER] = {
            let (words, _) = rest.get(..HEADER)?.as_chunks::<8>();
            std::array::from_fn(|i| u64::from_le_bytes(words[i]))
        };
        let offset = Offset::from_u64(head[1]);
        if offset.page() != self.of.page || offset < self.next {
            return None;
        }
        let len = head[0] as u32 as usize;
        let region = rest.get(HEADER..HEADER.checked_add(len)?)?;
        self.to_hash = self.to_hash.checked_sub(HEADER + len)?;
        if checksum(self.of.uuid, [head[0], head[1], head[2]], xxh3_64(region)) != head[3] {
            return None;
        }
        let block = block_len((head[0] >> 32) as u32, region)? as usize;
        let end = at + HEADER + len.next_multiple_of(8);
        Some((RawRecord { region, block, offset, sent_at: head[2] }, end.min(self.bytes.len())))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RawRecord<'a>, Unreadable>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let from = self.at;
        let found = (from..self.bytes.len()).step_by(8).find_map(|at| Some((at, self.record_at(at)?)));
        match found {
            Some((at, (record, end))) if at == from => {
                (self.at, self.next) = (end, record.offset.next());
                Some(Ok(record))
            }
            Some((at, _)) => {
                self.at = at;
                Some(Err(Unreadable { bytes: from..at }))
            }
            None => {
                self.at = self.bytes.len();
                Some(Err(Unreadable { bytes: from..self.bytes.len() }))
            }
        }
    }
}

impl std::iter::FusedIterator for Records<'_> {}
