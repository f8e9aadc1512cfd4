//! Pages as units: what is in the ring, page by page, one page read as a whole, and one as bytes.
#![forbid(unsafe_code)]

use crate::layout::{PageState, SlotState};
use crate::raw::PageBytes;
use crate::reader::Reader;
use crate::ring::Ring;
use crate::{Channel, Offset, PageBytesError, ReadError, Record, Start};
use std::ops::Range;
use std::time::{Duration, SystemTime};

/// One page of the ring, as it was a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PageInfo {
    /// Its number; they rise, and are never used twice.
    pub number: u64,
    /// The offset of its first place.
    pub first_offset: Offset,
    /// Messages in it.
    pub len: u64,
    /// Messages in it that do not verify, as far as somebody found that.
    pub damaged: u64,
    /// Bytes of it that its records take, their headers included.
    pub bytes: u64,
    /// When its first message was sent.
    pub oldest: Option<SystemTime>,
    /// When its last message was sent.
    pub newest: Option<SystemTime>,
    /// Whether no further message comes to it: it is full, and every send to it has ended.
    pub sealed: bool,
}

impl Channel {
    /// The pages in the ring, oldest first. It looks at the place of every message, and at no message.
    pub fn pages(&self) -> Vec<PageInfo> {
        match self.root.is_inherited() {
            true => Vec::new(),
            false => self.root.ring().pages().filter_map(|number| info(&self.root.ring(), number)).collect(),
        }
    }

    /// The messages of a page, as copies; senders may write to it meanwhile. They end where it does, or, if it is
    /// still written, where it does when that is reached.
    ///
    /// A page that was used again before it was read to its end says so, once:
    /// [`Overwritten`](ReadError::Overwritten).
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
    /// channel.sender().blocking_send_many(&["a", "b", "c"])?;
    /// let page = channel.pages()[0].number;
    /// assert_eq!(channel.page(page).count(), 3);
    /// let second = channel.page(page).range(1..2).next().unwrap()?;
    /// assert_eq!(&*second, b"b");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn page(&self, number: u64) -> PageRecords {
        let number = number.min(LAST);
        PageRecords { reader: self.reader(), at: Offset::new(number, 0), end: Offset::new(number + 1, 0) }
    }

    /// Where the records of a page lie in the file: all that are finished, without a gap. Nothing is read of
    /// them: who reads the bytes checks them with [`records`](crate::records).
    ///
    /// # Errors
    ///
    /// See [`PageBytesError`].
    pub fn page_bytes(&self, number: u64) -> Result<PageBytes, PageBytesError> {
        self.root.readable()?;
        let (ring, file) = (self.root.ring(), self.root.file.reopen()?);
        let (layout, page) = (ring.mem.layout, ring.page(number.min(LAST)));
        let (mut end, mut len) = (0, 0);
        for index in 0..page.cursor().count.min(layout.slots) {
            match page.slot(number, index) {
                SlotState::Committed(at) => {
                    // What is read of a page that is turned meanwhile is thrown away.
                    end = page.said(at).map_or(end, |(_, end)| end);
                    len += 1;
                }
                SlotState::Untouched if !ring.judge(number, index) => break,
                SlotState::Untouched | SlotState::Skipped | SlotState::Damaged => {}
            }
        }
        if number < ring.tail().page {
            return Err(PageBytesError::Overwritten(ring.first()));
        }
        let words = if page.number() == number { 0..end } else { 0..0 };
        let range = layout.bytes_of_records(layout.place(number.min(LAST)), words);
        Ok(PageBytes::new(file, range, ring.mem.uuid, number, len))
    }
}

/// No page has this number, or a higher one.
const LAST: u64 = crate::layout::MAX_PAGE_NUMBER;

/// Nothing if the page has gone.
fn info(ring: &Ring<'_>, number: u64) -> Option<PageInfo> {
    let page = ring.page(number);
    let cursor = page.cursor();
    let sent_at = |index: usize| match page.slot(number, index) {
        SlotState::Committed(at) => page.sent_at(at, Offset::new(number, index)),
        SlotState::Untouched | SlotState::Skipped | SlotState::Damaged => None,
    };
    let time = |ms: u64| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    let count = cursor.count.min(ring.mem.layout.slots);
    // Before they are counted: what was reserved and is not committed yet still comes.
    let sealed = cursor.state == PageState::Sealed && (0..count).all(|index| ring.judge(number, index));
    let info = PageInfo {
        number,
        first_offset: Offset::new(number, 0),
        len: ring.count(number, SlotState::is_committed),
        damaged: ring.count(number, |slot| slot == SlotState::Damaged),
        bytes: (cursor.units.min(ring.mem.layout.data_words) * 8) as u64,
        oldest: (0..count).find_map(sent_at).map(time),
        newest: (0..count).rev().find_map(sent_at).map(time),
        sealed,
    };
    (cursor.lap == ring.mem.layout.cursor_lap(number) && page.number() == number).then_some(info)
}

/// The messages of a page: see [`Channel::page`].
#[derive(Debug)]
pub struct PageRecords {
    reader: Reader,
    at: Offset,
    end: Offset,
}

impl PageRecords {
    /// Only those at these indexes. There are fewer where the page has none.
    pub fn range(mut self, indexes: Range<u64>) -> Self {
        let at = |index: u64| Offset::from_u64(self.at.as_u64().saturating_add(index)).min(self.end);
        (self.at, self.end) = (at(indexes.start), at(indexes.end));
        self
    }

    /// Messages that were passed over because they do not verify.
    pub fn damaged(&self) -> u64 {
        self.reader.damaged()
    }
}

impl Iterator for PageRecords {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        self.reader.seek(Start::At(self.at));
        let next = self.reader.next_before(self.end);
        // The end is the end, and what was overwritten is told once.
        self.at = if let Ok(Some(_)) = next { self.reader.offset() } else { Offset::from_u64(u64::MAX) };
        next.transpose()
    }
}

impl std::iter::FusedIterator for PageRecords {}
