//! The durable calls of disk_chan, in one place.

use std::path::Path;
use std::time::Duration;

use disk_chan::{Channel, Durability, Options, Sender};

/// Opens a channel that syncs by itself once in this time, or never.
pub fn open(options: Options, path: &Path, every: Option<Duration>) -> Channel {
    let interval = |every| Durability::Interval { every, max_messages: u64::MAX };
    options.durability(every.map_or(Durability::Buffered, interval)).blocking_open(path).unwrap()
}

/// Sends a message; when it returns, the message is on stable storage.
pub fn blocking_send_durable(sender: &Sender, message: &[u8]) {
    sender.blocking_send_durable(message).unwrap();
}

/// The same for tasks.
pub async fn send_durable(sender: &Sender, message: &[u8]) {
    sender.send_durable(message).await.unwrap();
}
