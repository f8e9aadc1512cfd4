//! Relays and the server are killed while messages come: each is in the stream once, in order.
//!
//! `DISK_CHAN_RELAY_MESSAGES`, `DISK_CHAN_RELAY_KILLS` and `DISK_CHAN_SERVER_KILLS` say how many, for a longer run.

use crate::common::{Dir, PATIENCE, Rng, seed, within};
use crate::process::Process;
use crate::relayed::{GROUP, all_done, len, no_dead_letters, relayed, send, spool};
use crate::server::Server;
use disk_chan::{Channel, Offset};
use std::thread;
use std::time::{Duration, Instant};

const SENDERS: u64 = 4;

fn count(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn whoever_is_killed_each_message_is_there_once_in_order() {
    let messages = count("DISK_CHAN_RELAY_MESSAGES", 20_000) / SENDERS * SENDERS;
    within(60 + messages / 100, move || {
        let mut rng = Rng::new(seed());
        let (dir, mut server) = (Dir::new(), Server::start());
        let channel = spool().max_pages(8).max_held(512).blocking_open(dir.file()).unwrap();
        let channel = &channel;
        let relays = kills(&mut rng, "DISK_CHAN_RELAY_KILLS", 10, messages);
        let servers = kills(&mut rng, "DISK_CHAN_SERVER_KILLS", 4, messages);
        let mut sent = thread::scope(|scope| {
            let senders: Vec<_> =
                (0..SENDERS).map(|t| scope.spawn(move || stream(channel, t, messages / SENDERS))).collect();
            let relay = kill_all_the_while(&mut rng, channel, &mut server, [relays, servers]);
            let sent = senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect::<Vec<_>>();
            all_done(channel, GROUP);
            relay.end();
            sent
        });
        sent.sort();
        let there = relayed(&server, channel);
        assert!(there == sent, "{} messages of {}, or not as they were sent", there.len(), sent.len());
        assert_eq!(sent.len() as u64, messages);
        no_dead_letters(channel);
    });
}

/// After how many entries to kill.
fn kills(rng: &mut Rng, name: &str, default: u64, messages: u64) -> Vec<u64> {
    let mut kills: Vec<u64> = (0..count(name, default)).map(|_| rng.below(messages * 9 / 10)).collect();
    kills.sort();
    kills
}

/// Sends as one of several; the numbers say which.
fn stream(channel: &Channel, sender: u64, messages: u64) -> Vec<(Offset, u64)> {
    let tx = channel.sender();
    let each = |n| send(&tx, [sender << 32 | n], 8 + (n % 200) as usize);
    (0..messages).flat_map(each).collect()
}

/// Returns the last relay.
fn kill_all_the_while(rng: &mut Rng, channel: &Channel, server: &mut Server, kills: [Vec<u64>; 2]) -> Process {
    let [mut relays, mut servers] = kills;
    let role = format!("relay {}", server.address());
    let start = || Process::start(&role, channel.path()).ready();
    let mut relay = start();
    relays.reverse();
    servers.reverse();
    let (mut there, mut grown) = (0, Instant::now());
    while !(relays.is_empty() && servers.is_empty()) {
        let now = len(server);
        assert!(now >= there, "{there} entries were there, and now {now}");
        if now > there {
            (there, grown) = (now, Instant::now());
        }
        assert!(grown.elapsed() < PATIENCE, "nothing comes after {there} messages");
        let is_time = |kills: &mut Vec<u64>| kills.pop_if(|after| *after <= there).is_some();
        // At any moment of a batch.
        let pause = Duration::from_micros(rng.below(10_000));
        if is_time(&mut relays) {
            thread::sleep(pause);
            relay.kill();
            relay = start();
        }
        if is_time(&mut servers) {
            thread::sleep(pause);
            server.kill();
            // Long enough for the relay to try in vain.
            thread::sleep(10 * pause);
            server.restart();
        }
        thread::sleep(Duration::from_millis(1));
    }
    relay
}
