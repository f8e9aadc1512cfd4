//! Whose a key is.

use crate::common::{open_new, within};
use crate::relayed::{
    GROUP, Running, add_foreign, all_done, causes, created, dead_letters, entries, lag, len, no_dead_letters, relayed,
    send, spool,
};
use crate::server::Server;
use disk_chan::Channel;
use disk_chan::relay::{Redis, RelayError, RelayStatus};
use redis::Value;

fn start(server: &Server, channel: &Channel) -> Running {
    Running::start(channel, GROUP, Redis::new(&server.address()).unwrap())
}

/// The text of the error that ends it.
fn fatal(ended: Result<RelayStatus, RelayError>) -> String {
    let error = ended.unwrap_err();
    assert!(matches!(error, RelayError::Sink(_)), "{error:?}");
    causes(&error)
}

#[test]
fn entries_of_somebody_else_end_the_relay_and_nothing_counts_as_done() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(spool());
        let sent = send(&channel.sender(), 0..20, 40);
        let running = start(&server, &channel);
        all_done(&channel, GROUP);
        add_foreign(&server, "*");
        let last = entries(&server)[20].0;
        send(&channel.sender(), 20..50, 40);
        for ended in [running.end(), start(&server, &channel).end()] {
            let error = fatal(ended);
            assert!(error.contains("some/key:ö%20") && error.contains("belongs to one channel"), "{error}");
            assert!(error.contains(&format!("{}-{}", last.0, last.1)), "{error}");
            assert_eq!((lag(&channel, GROUP), len(&server)), (30, 21));
        }
        assert_eq!(relayed(&server, &channel), sent);
        no_dead_letters(&channel);
    });
}

/// An id that the channel could have given.
#[test]
fn an_entry_of_somebody_else_among_the_ids_of_the_channel_ends_the_relay() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(spool());
        let sent = send(&channel.sender(), 0..5, 40);
        add_foreign(&server, &format!("{}-{}", created(&channel), sent[2].0.as_u64()));
        let error = fatal(start(&server, &channel).end());
        assert!(error.contains("belongs to one channel"), "{error}");
        assert_eq!((lag(&channel, GROUP), len(&server)), (5, 1));
    });
}

#[test]
fn a_channel_that_is_created_anew_goes_on_above_the_one_before() {
    within(60, || {
        let server = Server::start();
        let relay = |numbers| {
            let (dir, channel) = open_new(spool());
            let sent = send(&channel.sender(), numbers, 40);
            let running = start(&server, &channel);
            all_done(&channel, GROUP);
            running.stop().unwrap();
            (dir, channel, sent)
        };
        let (_old_dir, old, old_sent) = relay(0..30);
        let (_new_dir, new, new_sent) = relay(30..50);
        assert!(created(&old) < created(&new));
        assert_eq!(relayed(&server, &old), old_sent);
        assert_eq!(relayed(&server, &new), new_sent);
        let ids: Vec<_> = entries(&server).into_iter().map(|(id, _)| id).collect();
        assert!(ids.len() == 50 && ids.is_sorted(), "{ids:?}");
        // The old one is over.
        send(&old.sender(), 50..51, 40);
        let error = fatal(start(&server, &old).end());
        assert!(error.contains("belongs to one channel"), "{error}");
        assert_eq!((lag(&old, GROUP), len(&server)), (1, 50));
    });
}

#[test]
fn a_key_that_is_no_stream_ends_the_relay() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(spool());
        send(&channel.sender(), 0..5, 40);
        let () = server.ask(&["SET", "KEY", "something"]);
        let error = fatal(start(&server, &channel).end());
        assert!(error.contains("WRONGTYPE") && error.contains("some/key:ö%20"), "{error}");
        assert_eq!(lag(&channel, GROUP), 5);
    });
}

/// What consumers deleted is not added again by a relay that comes later, and what is new goes on behind it.
#[test]
fn a_stream_whose_entries_are_deleted_goes_on() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(spool());
        for round in 0..3 {
            let sent = send(&channel.sender(), round * 20..round * 20 + 20, 40);
            let running = start(&server, &channel);
            all_done(&channel, GROUP);
            running.stop().unwrap();
            assert_eq!(relayed(&server, &channel), sent);
            let _: Value = server.ask(&["XTRIM", "KEY", "MAXLEN", "0"]);
        }
        // A group that begins again cannot know that it was there: dead letters, and nothing is added.
        channel.close();
        let status = Running::start(&channel, "again", Redis::new(&server.address()).unwrap()).end().unwrap();
        assert_eq!((status.relayed, status.refused, len(&server)), (0, 60, 0), "{status:?}");
        assert_eq!(dead_letters(&channel), (0..60).collect::<Vec<_>>());
    });
}

#[test]
fn a_wrong_password_ends_the_relay_and_is_not_shown() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(spool());
        let sent = send(&channel.sender(), 0..5, 40);
        let relay = |login| Redis::new(&server.address_as(login)).unwrap();
        let user = ["ACL", "SETUSER", "carrier", "on", ">se@cret", "~*", "+multi", "+exec", "+xadd", "+xrange"];
        let () = server.ask(&user);
        let error = fatal(Running::start(&channel, GROUP, relay("carrier:wr0ng@")).end());
        assert!(error.contains("WRONGPASS") && !error.contains("wr0ng"), "{error}");
        let error = fatal(Running::start(&channel, GROUP, relay("carrier:se%40cret@")).end());
        assert!(error.contains("NOPERM") && error.contains("xinfo"), "{error}");
        let () = server.ask(&["ACL", "SETUSER", "carrier", "+xinfo"]);
        channel.close();
        let status = Running::start(&channel, GROUP, relay("carrier:se%40cret@")).end().unwrap();
        assert!(!status.to.contains("cret"), "{}", status.to);
        assert_eq!(relayed(&server, &channel), sent);
    });
}
