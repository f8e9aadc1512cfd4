//! What the server does not take: for now, or for good.

use crate::common::{eventually, open_new, within};
use crate::relayed::{GROUP, Running, all_done, causes, dead_letters, lag, len, no_dead_letters, relayed, send, spool};
use crate::server::Server;
use disk_chan::Options;
use disk_chan::relay::{Redis, RelayError};

#[test]
fn a_server_without_memory_is_waited_for() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(spool());
        let mut sent = send(&channel.sender(), 0..50, 40);
        let running = Running::start(&channel, GROUP, Redis::new(&server.address()).unwrap());
        all_done(&channel, GROUP);
        let () = server.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", "1"]);
        sent.extend(send(&channel.sender(), 50..150, 40));
        eventually("the relay says why", || {
            let error = channel.relays().pop().and_then(|status| status.last_error);
            error.is_some_and(|(_, text)| text.contains("OOM"))
        });
        assert_eq!((lag(&channel, GROUP), len(&server)), (100, 50));
        let () = server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
        all_done(&channel, GROUP);
        running.stop().unwrap();
        assert_eq!(relayed(&server, &channel), sent);
        no_dead_letters(&channel);
    });
}

const MIB: usize = 1 << 20;

/// A ring for long messages.
fn wide() -> Options {
    spool().page_size(4 * MIB).max_pages(4)
}

/// The lengths of the messages: the third is one byte longer than the server takes.
const LENGTHS: [usize; 6] = [10, MIB, MIB + 1, 10, MIB, 20];

#[test]
fn a_message_that_is_too_long_becomes_a_dead_letter() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(wide());
        let () = server.ask(&["CONFIG", "SET", "proto-max-bulk-len", "1048576"]);
        let mut sent: Vec<_> = (0..).zip(LENGTHS).flat_map(|(n, len)| send(&channel.sender(), [n], len)).collect();
        channel.close();
        let status = Running::start(&channel, GROUP, Redis::new(&server.address()).unwrap()).end().unwrap();
        assert_eq!((status.relayed, status.refused), (5, 1));
        assert_eq!(dead_letters(&channel), [2]);
        sent.remove(2);
        assert_eq!(relayed(&server, &channel), sent);
        let (_, error) = status.last_error.unwrap();
        assert!(error.contains("1048577") && error.contains("proto-max-bulk-len"), "{error}");
    });
}

#[test]
fn without_dead_letters_a_message_that_is_too_long_ends_the_relay() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(wide().max_attempts(0));
        let () = server.ask(&["CONFIG", "SET", "proto-max-bulk-len", "1048576"]);
        let sent: Vec<_> = (0..).zip(LENGTHS).flat_map(|(n, len)| send(&channel.sender(), [n], len)).collect();
        for _ in 0..2 {
            let error = Running::start(&channel, GROUP, Redis::new(&server.address()).unwrap()).end().unwrap_err();
            let RelayError::Refused { offset, .. } = error else { panic!("{error:?}") };
            assert!(offset == sent[2].0 && causes(&error).contains("1048577"), "{error:?}");
            assert_eq!(relayed(&server, &channel), sent[..2]);
        }
        let () = server.ask(&["CONFIG", "SET", "proto-max-bulk-len", "2097152"]);
        channel.close();
        Running::start(&channel, GROUP, Redis::new(&server.address()).unwrap()).end().unwrap();
        assert_eq!(relayed(&server, &channel), sent);
    });
}

/// A server that holds no more than so much of a transaction would break the connection.
#[test]
fn long_batches_go_in_several_transactions() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(wide());
        let () = server.ask(&["CONFIG", "SET", "client-query-buffer-limit", "1500000"]);
        let sent = send(&channel.sender(), 0..30, 300_000);
        channel.close();
        let running = Running::start(&channel, GROUP, Redis::new(&server.address()).unwrap());
        let status = running.end().unwrap();
        assert_eq!((status.relayed, status.last_error), (30, None));
        assert_eq!(relayed(&server, &channel), sent);
        let [added, transactions] = ["xadd", "exec"].map(|command| server.calls(command));
        assert!(added == 30 && (10..20).contains(&transactions), "{transactions} for {added}");
    });
}

/// One that takes little, and one message that does not fit.
#[test]
fn a_message_that_does_not_fit_into_the_buffer_of_the_server_becomes_a_dead_letter() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(wide());
        let () = server.ask(&["CONFIG", "SET", "client-query-buffer-limit", "1500000"]);
        let mut sent: Vec<_> =
            (0..).zip([10, 2_000_000, 1_200_000, 20]).flat_map(|(n, len)| send(&channel.sender(), [n], len)).collect();
        channel.close();
        let running = Running::start(&channel, GROUP, Redis::new(&server.address()).unwrap());
        assert_eq!(running.end().unwrap().refused, 1);
        assert_eq!(dead_letters(&channel), [1]);
        sent.remove(1);
        assert_eq!(relayed(&server, &channel), sent);
    });
}
