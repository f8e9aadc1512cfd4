//! A channel that lives in a file.
#![cfg_attr(disk_chan_loom, allow(dead_code, missing_docs))]

#[cfg(not(disk_chan_loom))]
mod channel;
#[cfg(not(disk_chan_loom))]
mod file;
#[cfg(not(disk_chan_loom))]
mod header;
#[cfg(not(disk_chan_loom))]
mod message;
#[cfg(not(disk_chan_loom))]
mod park;
#[cfg(not(disk_chan_loom))]
mod receiver;
#[cfg(not(disk_chan_loom))]
mod sender;
#[cfg(not(disk_chan_loom))]
mod shared;
#[cfg(not(disk_chan_loom))]
mod sys;

macro_rules! protocols {
    ($($vis:vis mod $name:ident;)*) => {$(
        #[cfg(disk_chan_loom)]
        pub mod $name;
        #[cfg(not(disk_chan_loom))]
        mod $name;
    )*};
}
// What models check: public to them.
protocols! {
    mod cells;
    mod claim;
    mod group;
    mod layout;
    mod map;
    mod opens;
    mod page;
    mod ring;
    mod sync;
    mod wait;
}

mod error;
mod name;
mod options;

pub use error::*;
pub use name::{GroupName, Offset};
pub use options::{Create, Options, Overflow, Start};

#[cfg(not(disk_chan_loom))]
pub use {
    channel::{Channel, GroupStats, Stats},
    message::{Lease, Message, OwnedMessage},
    receiver::{IntoIter, IntoMessageStream, Iter, MessageStream, Receiver, TryIter},
    sender::{Reservation, Sender},
};

/// Opens the channel at `path`, or creates it with `max_pages` pages of `page_size` bytes.
///
/// # Errors
///
/// See [`OpenError`]. [`Options`] has everything else that can be chosen.
///
/// # Cancel safety
///
/// As [`Options::open`].
#[cfg(not(disk_chan_loom))]
pub async fn new(path: impl AsRef<std::path::Path>, page_size: usize, max_pages: usize) -> Result<Sender, OpenError> {
    let options = Options::new().page_size(page_size).max_pages(max_pages);
    Ok(options.open(path).await?.sender())
}
