//! What the answers of a server prove, and what they do not.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy};
use disk_chan::relay::{Nats, Relay};
use disk_chan::{Channel, DeadLetter, Options};
use futures::StreamExt;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::between::{Between, Published};
use crate::common::{Dir, PAGE, body, lag, number, open_new, small, until, within_tokio};
use crate::relay;
use crate::server::Server;

const NAME: &str = "Nats-Msg-Id";
const FOLLOWS: [&str; 2] = ["Nats-Expected-Last-Msg-Id", "Nats-Expected-Last-Subject-Sequence"];

fn stream() -> Config {
    Config { name: "ORDERS".into(), subjects: vec!["orders".into(), "others".into()], ..Default::default() }
}

fn channel() -> (Dir, Channel) {
    let dir = Dir::new();
    let channel = small().max_attempts(1000).blocking_open(dir.file()).unwrap();
    channel.blocking_subscribe("g").unwrap();
    (dir, channel)
}

async fn send(channel: &Channel, numbers: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut offsets = Vec::new();
    for n in numbers {
        offsets.push(channel.sender().send(body(n, 50)).await.unwrap().as_u64());
    }
    offsets
}

async fn numbers(server: &Server) -> Vec<u64> {
    server.messages("ORDERS", "orders").await.iter().map(|message| number(&message.payload)).collect()
}

/// Some versions of the server take the name of a message that an account's limit refused for that of the last one: then
/// the next one fits, and is stored. Alters messages as if these were refused once by such a server.
fn confused<const N: usize>(numbers: [u64; N]) -> impl FnMut(Published) -> Option<Published> + Send {
    let mut refused = BTreeMap::new();
    move |mut message| {
        if message.subject != "orders" {
            return Some(message);
        }
        let follows = message.headers.iter().position(|(name, _)| FOLLOWS.contains(&&**name)).unwrap();
        let number = number(&message.payload);
        if numbers.contains(&number) && !refused.contains_key(&number) {
            let name = message.header(NAME).unwrap().to_owned();
            refused.insert(number, (name, message.headers[follows].clone()));
            message.headers.push(("Nats-Expected-Stream".into(), "ANOTHER".into()));
            return Some(message);
        }
        // As if the one before it had been the last.
        while let Some((_, before)) = refused.values().find(|(name, _)| *name == message.headers[follows].1) {
            message.headers[follows] = before.clone();
        }
        Some(message)
    }
}

/// What was refused is not in the stream, and must not be gone. None of these asks.
#[test]
fn a_message_that_is_stored_does_not_prove_that_the_one_before_it_is() {
    within_tokio(60, || async {
        let (server, (_dir, channel)) = (Server::start(), channel());
        server.context().await.create_stream(stream()).await.unwrap();
        let between = Between::new(&server, confused([3, 17, 18]));
        send(&channel, 0..100).await;
        let (ran, stop) = relay(&channel, &between.url());
        until("it is done with all", || lag(&channel) == 0).await;
        stop.notify_one();
        let refused = ran.await.unwrap().unwrap().refused;
        let stored = numbers(&server).await;
        assert!(stored.is_sorted(), "{stored:?}");
        let mut letters = channel.dead_letters().await.unwrap();
        let mut dead = Vec::new();
        while let Ok(letter) = letters.try_recv() {
            dead.push(number(DeadLetter::parse(&letter).unwrap().message()));
        }
        assert!(!dead.is_empty() && dead.iter().all(|n| [3, 17, 18].contains(n)), "{dead:?}");
        assert_eq!(dead.len() as u64, refused);
        let mut all = [stored, dead].concat();
        all.sort_unstable();
        assert_eq!(all, Vec::from_iter(0..100));
    });
}

/// The same, of the first message of a connection, which asks. Behind a refusal the next ones go one by one, so that
/// nothing is stored behind those that are refused then.
#[test]
fn messages_that_are_refused_for_a_while_are_not_passed_again_and_again() {
    within_tokio(60, || async {
        let (server, (_dir, channel)) = (Server::start(), channel());
        server.context().await.create_stream(stream()).await.unwrap();
        let between = Between::new(&server, confused([0, 40, 50]));
        send(&channel, 0..100).await;
        let (ran, stop) = relay(&channel, &between.url());
        until("it is done with all", || lag(&channel) == 0).await;
        stop.notify_one();
        assert_eq!(ran.await.unwrap().unwrap().refused, 1);
        assert_eq!(numbers(&server).await, Vec::from_iter(1..100));
    });
}

/// The server drops what has a name that it had, under whatever subject: the last of a batch, and one in the middle, so
/// that those between them follow nothing. That it had the last says nothing about them.
#[test]
fn a_duplicate_does_not_stand_for_those_before_it() {
    within_tokio(60, || async {
        let (server, (_dir, channel)) = (Server::start(), channel());
        let context = server.context().await;
        context.create_stream(stream()).await.unwrap();
        let between = Between::new(&server, Some);
        let offsets = send(&channel, 0..10).await;
        for had in [5, 7] {
            let name = format!("{:032x}-{}", channel.uuid(), offsets[had]);
            let message = PublishMessage::build().message_id(name);
            context.send_publish("others", message).await.unwrap().await.unwrap();
        }
        let (ran, stop) = relay(&channel, &between.url());
        until("it has all", || lag(&channel) == 0).await;
        stop.notify_one();
        ran.await.unwrap().unwrap();
        assert_eq!(numbers(&server).await, [0, 1, 2, 3, 4, 6, 8, 9]);
        // In the second they go one by one.
        assert_eq!(between.connections(), 2);
    });
}

/// The server had the first of a batch, and what the last follows, under another subject, and the last comes to be at the
/// place that it would have if all before it were stored.
#[test]
fn nor_does_one_that_is_stored_behind_duplicates() {
    within_tokio(60, || async {
        let (server, (_dir, channel)) = (Server::start(), channel());
        let context = server.context().await;
        context.create_stream(stream()).await.unwrap();
        let offsets = send(&channel, 0..4).await;
        let name = |n: usize| format!("{:032x}-{}", channel.uuid(), offsets[n]);
        for name in [name(0), "another".into(), name(2)] {
            let message = PublishMessage::build().message_id(name);
            context.send_publish("others", message).await.unwrap().await.unwrap();
        }
        let (ran, stop) = relay(&channel, &server.url());
        until("it is done with all", || lag(&channel) == 0).await;
        stop.notify_one();
        let refused = ran.await.unwrap().unwrap().refused;
        // They could not be put before it any more: nothing of the subject has their names.
        assert_eq!((numbers(&server).await, refused), (vec![3], 3));
    });
}

/// In a chain it has more to say, as what it follows has a long name there.
#[test]
fn a_message_that_is_too_long_only_for_a_chain_is_stored() {
    within_tokio(60, || async {
        let server = Server::start();
        let (_dir, channel) = open_new(Options::new().page_size(16 << 20).max_pages(2).max_attempts(5));
        channel.blocking_subscribe("g").unwrap();
        // As long as the server allows.
        let most = 1 << 20;
        let overhead =
            12 + format!("Nats-Msg-Id: {:032x}-{}\r\n", 0, 1 << 20).len() + "Disk-Chan-Sent: 1795000000000\r\n".len();
        let fits = most - overhead - "Nats-Expected-Last-Subject-Sequence: 10\r\n".len();
        let lens = [50, fits, 50, 50, 50, fits, most, 50, 50, most, 50];
        for (n, len) in (0..).zip(lens) {
            channel.sender().send(body(n, len)).await.unwrap();
        }
        let (ran, stop) = relay(&channel, &server.url());
        until("it is done with all", || lag(&channel) == 0).await;
        stop.notify_one();
        assert_eq!(ran.await.unwrap().unwrap().refused, 2);
        assert_eq!(numbers(&server).await, [0, 1, 2, 3, 4, 5, 7, 8, 10]);
    });
}

/// A refusal makes the next ones go one by one, and only those.
#[test]
fn there_are_chains_again_some_time_after_a_refusal() {
    within_tokio(60, || async {
        let server = Server::start();
        server.context().await.create_stream(stream()).await.unwrap();
        // All are there before the relay starts, so that it is never idle.
        let (_dir, channel) = open_new(Options::new().page_size(64 * PAGE).max_pages(8).max_attempts(1000));
        channel.blocking_subscribe("g").unwrap();
        send(&channel, 0..3000).await;
        let asked = Arc::new(AtomicU64::new(0));
        let (mut refuses, counted) = (confused([100]), asked.clone());
        let between = Between::new(&server, move |message| {
            if message.subject == "orders" && message.reply.is_some() && number(&message.payload) > 1000 {
                counted.fetch_add(1, SeqCst);
            }
            refuses(message)
        });
        let (ran, stop) = relay(&channel, &between.url());
        until("it is done with all", || lag(&channel) == 0).await;
        stop.notify_one();
        ran.await.unwrap().unwrap();
        let asked = asked.load(SeqCst);
        assert!(asked < 500, "{asked} of the last 2000 asked");
    });
}

/// A subject can be taken from a stream and given to another.
#[test]
fn what_another_stream_stored_is_not_confirmed() {
    within_tokio(60, || async {
        let (server, (_dir, channel)) = (Server::start(), channel());
        let context = server.context().await;
        context.create_stream(stream()).await.unwrap();
        let between = Between::new(&server, Some);
        let (ran, _stop) = relay(&channel, &between.url());
        until("it is connected", || between.connections() > 0).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        context.update_stream(Config { subjects: vec!["others".into()], ..stream() }).await.unwrap();
        let another = Config { name: "ANOTHER".into(), subjects: vec!["orders".into()], ..Default::default() };
        context.create_stream(another).await.unwrap();
        send(&channel, 0..3).await;
        let error = ran.await.unwrap().unwrap_err();
        let error = error.source().unwrap().to_string();
        assert!(error.contains("not for orders"), "{error}");
        assert_eq!(lag(&channel), 3);
    });
}

/// The last message of the stream is another's then, and the last of the subject is not.
#[test]
fn what_others_publish_while_nothing_is_in_flight_is_no_reason_to_connect_again() {
    within_tokio(60, || async {
        let (server, (_dir, channel)) = (Server::start(), channel());
        let context = server.context().await;
        context.create_stream(stream()).await.unwrap();
        let between = Between::new(&server, Some);
        let (ran, stop) = relay(&channel, &between.url());
        for n in 0..20 {
            send(&channel, [n]).await;
            until("it is there", || lag(&channel) == 0).await;
            context.publish("others", "".into()).await.unwrap().await.unwrap();
        }
        stop.notify_one();
        ran.await.unwrap().unwrap();
        assert_eq!(numbers(&server).await, Vec::from_iter(0..20));
        assert_eq!(between.connections(), 1);
    });
}

/// Takes what a work queue has.
async fn take(server: &Server) -> UnboundedReceiver<u64> {
    let stream = server.context().await.get_stream("ORDERS").await.unwrap();
    let ack_policy = AckPolicy::Explicit;
    let config = pull::Config { durable_name: Some("worker".into()), ack_policy, ..Default::default() };
    let mut messages = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
    let (tx, rx) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = messages.next().await {
            message.double_ack().await.unwrap();
            let _ = tx.send(number(&message.payload));
        }
    });
    rx
}

/// Then the last message is gone when the next one comes.
#[test]
fn a_work_queue_that_is_always_empty_needs_one_connection() {
    within_tokio(60, || async {
        let (server, (_dir, channel)) = (Server::start(), channel());
        let queue = Config { retention: RetentionPolicy::WorkQueue, ..stream() };
        server.context().await.create_stream(queue).await.unwrap();
        let mut taken = take(&server).await;
        let between = Between::new(&server, Some);
        let (ran, stop) = relay(&channel, &between.url());
        for n in 0..50 {
            send(&channel, [n]).await;
            assert_eq!(taken.recv().await, Some(n));
        }
        stop.notify_one();
        assert_eq!(ran.await.unwrap().unwrap().relayed, 50);
        assert_eq!(between.connections(), 1);
    });
}

/// It skips what it gets, and remembers the names without saying where.
#[test]
fn what_an_interest_stream_without_consumers_had_counts_as_there() {
    within_tokio(60, || async {
        let (server, (_dir, channel)) = (Server::start(), channel());
        let context = server.context().await;
        let interest = Config { retention: RetentionPolicy::Interest, ..stream() };
        context.create_stream(interest).await.unwrap();
        let offsets = send(&channel, 0..10).await;
        let name = format!("{:032x}-{}", channel.uuid(), offsets[5]);
        let message = PublishMessage::build().message_id(name);
        context.send_publish("others", message).await.unwrap().await.unwrap();
        let (ran, stop) = relay(&channel, &server.url());
        until("it has all", || lag(&channel) == 0).await;
        stop.notify_one();
        let status = ran.await.unwrap().unwrap();
        assert_eq!((status.relayed, status.refused), (10, 0));
    });
}

/// What is before a message that cannot be stored is confirmed, and not published again and again, until the server has
/// forgotten the names.
#[test]
fn an_error_does_not_hide_what_was_confirmed_before_it() {
    within_tokio(60, || async {
        let (server, (_dir, channel)) = (Server::start(), channel());
        let context = server.context().await;
        let full = Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_bytes: 3000,
            duplicate_window: Duration::from_secs(1),
            ..stream()
        };
        context.create_stream(full.clone()).await.unwrap();
        let mut taken = take(&server).await;
        for n in 0..8 {
            channel.sender().send(body(n, if n == 5 { 4000 } else { 50 })).await.unwrap();
        }
        let (ran, stop) = relay(&channel, &server.url());
        for n in 0..5 {
            assert_eq!(taken.recv().await, Some(n));
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        context.update_stream(Config { max_bytes: 1 << 20, ..full }).await.unwrap();
        for n in 5..8 {
            assert_eq!(taken.recv().await, Some(n));
        }
        until("it has all", || lag(&channel) == 0).await;
        stop.notify_one();
        assert_eq!(ran.await.unwrap().unwrap().relayed, 8);
        assert!(taken.try_recv().is_err(), "twice");
    });
}

/// As over a line that takes longer for a message than is waited for if nothing else is said.
#[test]
fn a_slow_line_is_waited_for_as_long_as_it_is_told() {
    within_tokio(60, || async {
        let (server, (_dir, channel)) = (Server::start(), channel());
        server.context().await.create_stream(stream()).await.unwrap();
        let between = Between::new(&server, |message| {
            if message.subject == "orders" {
                std::thread::sleep(Duration::from_secs(6));
            }
            Some(message)
        });
        send(&channel, 0..1).await;
        channel.close();
        let sink = Nats::new(&format!("{}/ORDERS/orders", between.url())).unwrap().timeout(Duration::from_secs(50));
        let ran = Relay::new(&channel, "g").run(sink, std::future::pending()).await.unwrap();
        assert_eq!((ran.relayed, ran.last_error), (1, None));
        assert_eq!(numbers(&server).await, [0]);
    });
}
