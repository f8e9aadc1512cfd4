//! Relays to a Redis that is really there: what is in the stream after kills, refusals and foreign entries.

mod chaos;
#[path = "../common/mod.rs"]
mod common;
mod keys;
mod once;
mod overflow;
#[path = "../common/process.rs"]
mod process;
mod refusals;
mod relayed;
mod server;

use disk_chan::relay::{Redis, Relay};

/// What a child does: relays to an address until it is told to end.
#[test]
fn child() {
    let Some((role, file)) = process::role() else { return };
    let [_, address] = &role[..] else { panic!("{role:?}") };
    let channel = process::open(&file);
    process::say("ready");
    let stop = async {
        let told = tokio::task::spawn_blocking(|| while process::told().is_some() {});
        told.await.unwrap();
    };
    let relay = relayed::quick(Relay::new(&channel, relayed::GROUP));
    relayed::runtime().block_on(relay.run(Redis::new(address).unwrap(), stop)).unwrap();
}
