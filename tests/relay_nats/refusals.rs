//! A server that is away, slow, full, or does not want a message; and a stream that is not the relay's alone.

use std::thread;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use disk_chan::relay::{Nats, Relay, RelayError};
use disk_chan::{Channel, DeadLetter, Options, Overflow};

use crate::common::{Dir, PAGE, body, lag, number, small, until, within_tokio};
use crate::server::Server;
use crate::{in_order, relay};

fn stream() -> Config {
    Config { name: "ORDERS".into(), subjects: vec!["orders".into()], ..Default::default() }
}

async fn stream_of(server: &Server, channel: &Channel) -> Vec<u64> {
    let messages = server.messages("ORDERS", "orders").await;
    in_order(&messages, channel.uuid());
    messages.iter().map(|message| number(&message.payload)).collect()
}

#[test]
fn while_the_server_is_away_senders_wait_for_room_and_nothing_is_lost() {
    within_tokio(120, || async {
        let (dir, mut server) = (Dir::new(), Server::start());
        let channel = small().max_attempts(100).blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("g").unwrap();
        let (ran, stop) = relay(&channel, &server.url());
        channel.sender().send(body(0, 8)).await.unwrap();
        until("the first is there", || lag(&channel) == 0).await;
        server.kill();
        let tx = channel.sender();
        let sender = thread::spawn(move || (1..5000).for_each(|n| _ = tx.blocking_send(body(n, 100)).unwrap()));
        until("the sender waits", || {
            let before = channel.end_offset();
            thread::sleep(Duration::from_millis(300));
            before == channel.end_offset()
        })
        .await;
        assert!(!sender.is_finished());
        server.restart();
        until("it has all", || sender.is_finished() && lag(&channel) == 0).await;
        stop.notify_one();
        let status = ran.await.unwrap().unwrap();
        assert_eq!((status.lagged, status.refused), (0, 0));
        assert!(status.last_error.is_some(), "it was away");
        assert!(stream_of(&server, &channel).await.into_iter().eq(0..5000));
    });
}

#[test]
fn what_is_dropped_while_the_server_is_away_is_counted_exactly() {
    within_tokio(120, || async {
        let (dir, mut server) = (Dir::new(), Server::start());
        let options = small().overflow(Overflow::DropOldest).max_attempts(100);
        let channel = options.blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("g").unwrap();
        let (ran, stop) = relay(&channel, &server.url());
        let tx = channel.sender();
        let mut sent = 0;
        for _ in 0..3 {
            for _ in 0..50 {
                tx.send(body(sent, 100)).await.unwrap();
                sent += 1;
            }
            until("the first are there", || lag(&channel) == 0).await;
            server.kill();
            for _ in 0..5000 {
                tx.send(body(sent, 100)).await.unwrap();
                sent += 1;
            }
            server.restart();
            until("it has what is left", || lag(&channel) == 0).await;
        }
        stop.notify_one();
        let status = ran.await.unwrap().unwrap();
        let there = stream_of(&server, &channel).await;
        assert!(status.lagged > 0, "the ring was too large for this test");
        assert_eq!(there.len() as u64 + status.lagged, sent);
        assert_eq!(there.last(), Some(&(sent - 1)));
    });
}

#[test]
fn what_the_server_refuses_becomes_a_dead_letter() {
    within_tokio(60, || async {
        let (dir, server) = (Dir::new(), Server::start());
        let context = server.context().await;
        context.create_stream(Config { max_message_size: 2000, ..stream() }).await.unwrap();
        let channel =
            Options::new().page_size(64 * PAGE).max_pages(4).max_attempts(5).blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender();
        for n in 0..100 {
            // Too long for the stream; for the server itself.
            let len = match n % 30 {
                7 => 3000,
                21 => 2 << 20,
                _ => 100,
            };
            tx.send(body(n, len)).await.unwrap();
        }
        let (ran, stop) = relay(&channel, &server.url());
        until("it has all", || lag(&channel) == 0).await;
        stop.notify_one();
        assert_eq!(ran.await.unwrap().unwrap().refused, 7);
        let is_long = |n: &u64| matches!(n % 30, 7 | 21);
        assert!(stream_of(&server, &channel).await.into_iter().eq((0..100).filter(|n| !is_long(n))));
        let mut letters = channel.dead_letters().await.unwrap();
        for n in (0..100).filter(is_long) {
            let letter = letters.try_recv().unwrap();
            assert_eq!(number(DeadLetter::parse(&letter).unwrap().message()), n);
        }
    });
}

#[test]
fn without_dead_letters_a_refused_message_ends_the_relay_and_stays() {
    within_tokio(60, || async {
        let (dir, server) = (Dir::new(), Server::start());
        let context = server.context().await;
        context.create_stream(Config { max_message_size: 2000, ..stream() }).await.unwrap();
        let channel = small().blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("g").unwrap();
        for (n, len) in [(0, 100), (1, 3000), (2, 100)] {
            channel.sender().send(body(n, len)).await.unwrap();
        }
        let (ran, _stop) = relay(&channel, &server.url());
        let error = ran.await.unwrap().unwrap_err();
        assert!(matches!(error, RelayError::Refused { .. }), "{error:?}");
        assert_eq!(stream_of(&server, &channel).await, [0]);
        assert_eq!(lag(&channel), 2);
    });
}

#[test]
fn a_stream_that_is_full_is_waited_for() {
    within_tokio(60, || async {
        let (dir, server) = (Dir::new(), Server::start());
        let context = server.context().await;
        let full = Config { max_bytes: 20_000, discard: DiscardPolicy::New, ..stream() };
        context.create_stream(full.clone()).await.unwrap();
        let channel = small().blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("g").unwrap();
        for n in 0..500 {
            // There is room for some of those behind the first that there is no room for.
            channel.sender().send(body(n, if n % 10 == 0 { 1000 } else { 10 })).await.unwrap();
        }
        let (ran, stop) = relay(&channel, &server.url());
        let has_failed = || channel.relays().iter().any(|status| status.last_error.is_some());
        until("it is full", || lag(&channel) < 500 && has_failed()).await;
        context.update_stream(Config { max_bytes: 1_000_000, ..full }).await.unwrap();
        until("it has all", || lag(&channel) == 0).await;
        stop.notify_one();
        ran.await.unwrap().unwrap();
        assert!(stream_of(&server, &channel).await.into_iter().eq(0..500));
    });
}

#[test]
fn so_is_one_that_would_be_too_small_without_anything_in_it() {
    within_tokio(60, || async {
        let (dir, server) = (Dir::new(), Server::start());
        let context = server.context().await;
        let small_stream = Config { max_bytes: 1000, discard: DiscardPolicy::New, ..stream() };
        context.create_stream(small_stream.clone()).await.unwrap();
        let channel = small().max_attempts(1000).blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("g").unwrap();
        channel.sender().send(body(0, 2000)).await.unwrap();
        channel.sender().send(body(1, 10)).await.unwrap();
        let (ran, stop) = relay(&channel, &server.url());
        let has_failed = || channel.relays().iter().any(|status| status.last_error.is_some());
        until("it was refused", has_failed).await;
        context.update_stream(Config { max_bytes: 100_000, ..small_stream }).await.unwrap();
        until("it has all", || lag(&channel) == 0).await;
        stop.notify_one();
        assert_eq!(ran.await.unwrap().unwrap().refused, 0);
        assert_eq!(stream_of(&server, &channel).await, [0, 1]);
    });
}

#[test]
fn of_several_servers_one_that_is_there_is_enough() {
    within_tokio(60, || async {
        let (dir, server) = (Dir::new(), Server::start());
        let channel = small().blocking_open(dir.file()).unwrap();
        for n in 0..100 {
            channel.sender().send(body(n, 50)).await.unwrap();
        }
        channel.close();
        // Nobody listens at the first.
        let to = format!("nats://127.0.0.1:1,{}/ORDERS/orders", server.url().trim_start_matches("nats://"));
        for group in ["a", "b", "c"] {
            Relay::new(&channel, group).run(Nats::new(&to).unwrap(), std::future::pending()).await.unwrap();
        }
        assert!(stream_of(&server, &channel).await.into_iter().eq(0..100));
    });
}

/// Then the stream does not say how far it is, and starts from nothing under the subject.
#[test]
fn a_stream_whose_messages_are_gone_gets_the_next() {
    within_tokio(60, || async {
        let (dir, mut server) = (Dir::new(), Server::start());
        let channel = small().max_attempts(100).blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("g").unwrap();
        let (ran, stop) = relay(&channel, &server.url());
        for round in 0..3 {
            for n in 0..100 {
                channel.sender().send(body(round * 100 + n, 50)).await.unwrap();
            }
            until("it has all", || lag(&channel) == 0).await;
            let there = stream_of(&server, &channel).await;
            assert!(there.into_iter().eq(round * 100..round * 100 + 100));
            server.context().await.get_stream("ORDERS").await.unwrap().purge().await.unwrap();
            if round == 1 {
                server.kill();
                server.restart();
            }
        }
        stop.notify_one();
        ran.await.unwrap().unwrap();
    });
}

#[test]
fn others_may_publish_to_the_stream() {
    within_tokio(120, || async {
        let (dir, server) = (Dir::new(), Server::start());
        let context = server.context().await;
        context.create_stream(Config { subjects: vec!["orders".into(), "others".into()], ..stream() }).await.unwrap();
        let channel = small().blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("g").unwrap();
        let others = tokio::spawn(async move {
            for n in 0_u64.. {
                context.publish("others", n.to_string().into()).await.unwrap().await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let (ran, stop) = relay(&channel, &server.url());
        let tx = channel.sender();
        for n in 0..3000 {
            tx.send(body(n, 100)).await.unwrap();
        }
        until("it has all", || lag(&channel) == 0).await;
        stop.notify_one();
        ran.await.unwrap().unwrap();
        others.abort();
        assert!(stream_of(&server, &channel).await.into_iter().eq(0..3000));
    });
}

#[test]
fn a_channel_follows_another_in_a_subject_and_does_not_take_its_messages_for_its_own() {
    within_tokio(60, || async {
        let server = Server::start();
        for round in 0..2 {
            let dir = Dir::new();
            let channel = small().blocking_open(dir.file()).unwrap();
            for n in 0..300 {
                channel.sender().send(body(n, 50)).await.unwrap();
            }
            channel.close();
            let (ran, _stop) = relay(&channel, &server.url());
            assert_eq!(ran.await.unwrap().unwrap().relayed, 300);
            let messages = server.messages("ORDERS", "orders").await;
            let ours = &messages[300 * round..];
            assert!(in_order(ours, channel.uuid()).into_iter().eq(0..300));
            // From the beginning once more: the stream has it all.
            let to = Nats::new(&format!("{}/ORDERS/orders", server.url())).unwrap();
            Relay::new(&channel, "again").run(to, std::future::pending()).await.unwrap();
            assert_eq!(server.messages("ORDERS", "orders").await.len(), 300 * (round + 1));
        }
    });
}

/// Another receiver of the group has a message while the relay goes past it: it is not lost without a word.
#[test]
fn what_comes_too_late_for_the_order_is_a_dead_letter() {
    within_tokio(60, || async {
        let (dir, server) = (Dir::new(), Server::start());
        let channel = small().max_attempts(10).blocking_open(dir.file()).unwrap();
        let mut other = channel.blocking_subscribe("g").unwrap();
        for n in 0..100 {
            channel.sender().send(body(n, 50)).await.unwrap();
        }
        let late = other.try_lease().unwrap();
        let (ran, stop) = relay(&channel, &server.url());
        until("it has the others", || lag(&channel) == 1).await;
        drop(late);
        until("it is done with all", || lag(&channel) == 0).await;
        stop.notify_one();
        assert_eq!(ran.await.unwrap().unwrap().refused, 1);
        assert!(stream_of(&server, &channel).await.into_iter().eq(1..100));
        let letter = channel.dead_letters().await.unwrap().try_recv().map(|m| m.to_vec()).unwrap();
        assert!(!letter.is_empty());
    });
}
