//! The server is away for longer than the ring holds.

use crate::common::{open_new, within};
use crate::relayed::{GROUP, Running, all_done, fill, no_dead_letters, relayed, send, spool};
use crate::server::Server;
use disk_chan::Overflow;
use disk_chan::relay::Redis;
use std::collections::BTreeSet;
use std::thread;

/// Several times what the ring holds.
const MANY: u64 = 6_000;
const LEN: usize = 100;

#[test]
fn what_was_dropped_is_what_is_missing() {
    within(60, || {
        let mut server = Server::start();
        let (_dir, channel) = open_new(spool().overflow(Overflow::DropOldest));
        let mut sent = send(&channel.sender(), 0..20, LEN);
        let running = Running::start(&channel, GROUP, Redis::new(&server.address()).unwrap());
        all_done(&channel, GROUP);
        server.kill();
        sent.extend(send(&channel.sender(), 20..MANY, LEN));
        server.restart();
        all_done(&channel, GROUP);
        sent.extend(send(&channel.sender(), MANY..MANY + 20, LEN));
        all_done(&channel, GROUP);
        let status = running.stop().unwrap();

        let there = relayed(&server, &channel);
        let all: BTreeSet<_> = sent.iter().copied().collect();
        assert!(there.is_sorted() && there.iter().all(|message| all.contains(message)));
        assert_eq!((&there[..20], &there[there.len() - 20..]), (&sent[..20], &sent[sent.len() - 20..]));
        let missing = (sent.len() - there.len()) as u64;
        assert!(missing > MANY / 4, "only {missing} were dropped");
        assert_eq!((status.lagged, status.relayed), (missing, there.len() as u64));
        no_dead_letters(&channel);
    });
}

#[test]
fn senders_wait_and_nothing_is_lost() {
    within(60, || {
        let mut server = Server::start();
        let (_dir, channel) = open_new(spool());
        let mut sent = send(&channel.sender(), 0..20, LEN);
        let running = Running::start(&channel, GROUP, Redis::new(&server.address()).unwrap());
        all_done(&channel, GROUP);
        server.kill();
        let tx = channel.sender();
        sent.extend(fill(&tx, 20, LEN));
        let next = sent.len() as u64;
        let sender = thread::spawn(move || send(&tx, next..MANY, LEN));
        server.restart();
        sent.extend(sender.join().unwrap());
        all_done(&channel, GROUP);
        running.stop().unwrap();
        assert_eq!(relayed(&server, &channel), sent);
        no_dead_letters(&channel);
    });
}
