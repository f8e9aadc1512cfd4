//! What a channel was made with, as its users see it.
#![forbid(unsafe_code)]

use crate::{Channel, Overflow};
use std::time::Duration;

/// The numbers that a channel was made with, and what follows from them: see [`Channel::geometry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Geometry {
    /// Bytes of a page.
    pub page_size: usize,
    /// Pages of the ring.
    pub max_pages: usize,
    /// Bytes of a usual message.
    pub typical_message_len: usize,
    /// Groups that there can be at once.
    pub max_groups: usize,
    /// How often the file can be open at once.
    pub max_opens: usize,
    /// Sends that can run at the same moment.
    pub max_op_cells: usize,
    /// Messages of one group that can be handed out and not done.
    pub max_held: usize,
    /// What happens when the ring is full.
    pub overflow: Overflow,
    /// How long messages are kept for groups that have not read them, if that is limited.
    pub max_age: Option<Duration>,
    /// How long a lease is its holder's, if that is limited.
    pub lease_timeout: Option<Duration>,
    /// How often a message is handed out before it becomes a dead letter, if ever.
    pub max_attempts: Option<u32>,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Most messages that a page can have.
    pub page_messages: u64,
    /// Bytes that a page has for records: [`PageInfo::bytes`](crate::PageInfo::bytes) of a full one.
    pub page_bytes: u64,
}

impl Channel {
    /// What the channel was made with.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("orders.chan");
    /// let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
    /// let geometry = channel.geometry();
    /// assert_eq!((geometry.page_size, geometry.max_pages, geometry.max_age), (1 << 20, 4, None));
    /// # Ok::<(), disk_chan::OpenError>(())
    /// ```
    pub fn geometry(&self) -> Geometry {
        let layout = self.root.file.map.layout();
        let g = &layout.geometry;
        let time = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
        Geometry {
            page_size: g.page_size,
            max_pages: g.max_pages,
            typical_message_len: g.typical_message_len,
            max_groups: g.max_groups,
            max_opens: g.max_opens,
            max_op_cells: g.max_op_cells,
            max_held: g.max_held,
            overflow: g.overflow,
            max_age: time(g.max_age),
            lease_timeout: time(g.lease_timeout.into()),
            max_attempts: (g.max_attempts > 0).then_some(g.max_attempts),
            file_bytes: layout.file_bytes(),
            page_messages: layout.slots as u64,
            page_bytes: layout.data_words as u64 * 8,
        }
    }
}
