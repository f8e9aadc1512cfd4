//! Relays to NATS JetStream, against a real server: nothing lost, nothing twice, in order.

mod answers;
mod between;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod headers;
mod kills;
mod refusals;
mod server;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Message;
use disk_chan::relay::{Nats, Relay, RelayError, RelayStatus};
use disk_chan::{Channel, Offset};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use common::number;

/// A relay in a task, and what stops it.
fn relay(channel: &Channel, url: &str) -> (JoinHandle<Result<RelayStatus, RelayError>>, Arc<Notify>) {
    let relay = Relay::new(channel, "g").backoff(Duration::from_millis(5), Duration::from_millis(50));
    let (to, stop) = (format!("{url}/ORDERS/orders"), Arc::new(Notify::new()));
    let stopped = Arc::clone(&stop);
    let ran = tokio::spawn(async move { relay.run(Nats::new(&to).unwrap(), stopped.notified()).await });
    (ran, stop)
}

/// The offset in a message's name.
fn offset(message: &Message, uuid: u128) -> Offset {
    let id = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Id")).expect("a name").as_str();
    let (of, offset) = id.split_once('-').expect("two parts");
    assert_eq!(of, format!("{uuid:032x}"));
    Offset::from_u64(offset.parse().unwrap())
}

/// That each is there once, in the order of the offsets, byte for byte: the numbers in them.
fn in_order(messages: &[Message], uuid: u128) -> BTreeSet<u64> {
    let mut last = None;
    let mut numbers = BTreeSet::new();
    for message in messages {
        let at = offset(message, uuid);
        assert!(Some(at) > last, "{at} behind {last:?}");
        last = Some(at);
        assert!(numbers.insert(number(&message.payload)), "twice");
    }
    numbers
}
