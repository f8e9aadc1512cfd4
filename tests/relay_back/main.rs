//! The way back: every message of a stream of NATS JetStream comes into a channel once, in order and as it is, whatever
//! is killed meanwhile.
//!
//! `DISK_CHAN_RELAY_MESSAGES`, `DISK_CHAN_RELAY_KILLS`, `DISK_CHAN_SERVER_KILLS` and `DISK_CHAN_SEED` make the long test
//! longer, or another one.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/process.rs"]
mod process;
mod server;

use std::collections::BTreeSet;
use std::future::{Future, pending};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, Message};
use disk_chan::relay::{FillError, Filled, NatsSource};
use disk_chan::{Channel, Options, SendError, Start};
use futures::StreamExt;

use common::{Dir, PATIENCE, Rng, open_new, seed, within, within_tokio};
use process::{Process, say};
use server::Server;

/// What a child of these tests does.
#[test]
fn child() {
    let Some((role, file)) = process::role() else { return };
    let [_fill, address, batch] = &role[..] else { panic!("no role {role:?}") };
    let source = NatsSource::new(address).unwrap().batch(batch.parse().unwrap());
    let source = source.backoff(Duration::from_millis(5), Duration::from_millis(100));
    let channel = process::open(&file);
    say("ready");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(source.run(&channel, pending())).unwrap_err();
    panic!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
}

fn from_env(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap())
}

/// A ring with room for all that these tests send.
fn ring() -> Options {
    common::small().page_size(1 << 20).max_pages(64)
}

/// A stream of this name, with the subjects that begin with it.
fn stream(name: &str) -> Config {
    Config { name: name.into(), subjects: vec![format!("{name}.>")], storage: StorageType::File, ..Config::default() }
}

fn source(server: &Server, path: &str) -> NatsSource {
    let short = Duration::from_millis(5);
    NatsSource::new(&server.address(path)).unwrap().backoff(short, 20 * short)
}

/// What a message has: its payload, and its headers by name.
type Whole = (Vec<u8>, Vec<(String, String)>);

/// The message of a number: some with headers, some with several values of a name.
fn message(number: u64) -> (Vec<u8>, HeaderMap) {
    let mut headers = HeaderMap::new();
    if number % 3 == 1 {
        headers.insert("Of", number.to_string());
    }
    if number % 5 == 2 {
        for value in [number + 1, number, number + 2] {
            headers.append("Several", value.to_string());
        }
        headers.append("Nats-Source", "not/yours/1/1");
    }
    (common::body(number, 8 + number as usize % 150), headers)
}

fn whole(number: u64) -> Whole {
    let (payload, headers) = message(number);
    (payload, by_name(&headers))
}

fn by_name(headers: &HeaderMap) -> Vec<(String, String)> {
    let each = headers.iter().flat_map(|(name, values)| values.iter().map(move |v| (name.to_string(), v.to_string())));
    let mut all: Vec<_> = each.collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Publishes the message of a number, and waits until it is confirmed.
async fn publish(js: &Context, subject: &str, number: u64) {
    let (payload, headers) = message(number);
    js.publish_with_headers(subject.to_owned(), headers, payload.into()).await.unwrap().await.unwrap();
}

async fn publish_all(js: &Context, subject: &str, numbers: impl IntoIterator<Item = u64>) {
    for number in numbers {
        publish(js, subject, number).await;
    }
}

/// Everything in the channel, with the sequence that its last header says; that header looked at and taken off.
fn filled(channel: &Channel, prefix: &str) -> Vec<(u64, Whole)> {
    let mut reader = channel.reader();
    reader.seek(Start::Oldest);
    let records = reader.try_iter().map(Result::unwrap).map(|record| {
        assert_eq!(record.key(), None);
        let pairs =
            record.headers().iter().map(|(name, value)| (name.into(), String::from_utf8(value.into()).unwrap()));
        let mut headers: Vec<(String, String)> = pairs.collect();
        let (name, value) = headers.pop().unwrap();
        assert_eq!(name, "Nats-Source");
        let [stream, rest @ .., sequence, mark] = &value.split('/').collect::<Vec<_>>()[..] else { panic!("{value}") };
        let (stream, created) = stream.split_once('@').unwrap();
        assert!(created.parse::<u64>().unwrap() > 1_600_000_000_000_000_000, "{value}");
        assert_eq!([&[stream], rest].concat().join("/"), prefix, "{value}");
        let sequence = sequence.parse().unwrap();
        assert!(mark.parse::<u64>().unwrap() < sequence, "{value}");
        (sequence, (record.into_vec(), headers))
    });
    records.collect()
}

/// The numbers of the messages in the channel, each as it was published.
fn numbers(channel: &Channel) -> Vec<u64> {
    let mut reader = channel.reader();
    reader.seek(Start::Oldest);
    let records = reader.try_iter().map(Result::unwrap).map(|record| {
        let number = common::number(&record);
        let mut headers: Vec<(String, String)> =
            record.headers().iter().map(|(n, v)| (n.into(), String::from_utf8(v.into()).unwrap())).collect();
        assert_eq!(headers.pop().unwrap().0, "Nats-Source");
        assert_eq!((record.into_vec(), headers), whole(number));
        number
    });
    records.collect()
}

/// Waits until something is so.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

/// Fills the channel until it has so many messages.
async fn fill(source: &NatsSource, channel: &Channel, count: u64) -> Filled {
    let full = until("the channel is filled", || async { channel.len() >= count });
    source.run(channel, full).await.unwrap()
}

async fn consumer(js: &Context, stream: &str, name: &str) -> PullConsumer {
    js.get_stream(stream).await.unwrap().get_consumer(name).await.unwrap()
}

/// Runs the source until it has made its consumer.
async fn make_consumer(source: &NatsSource, channel: &Channel, js: &Context, stream: &str, name: &str) {
    let stream = &js.get_stream(stream).await.unwrap();
    let there = until("the consumer is there", || async { stream.consumer_info(name).await.is_ok() });
    source.run(channel, there).await.unwrap();
}

/// Takes messages as a filler does, and does nothing more with them.
async fn take(consumer: &PullConsumer, count: usize) -> Vec<Message> {
    let batch = consumer.batch().max_messages(count).expires(PATIENCE).messages().await.unwrap();
    batch.map(Result::unwrap).collect().await
}

/// What the stream holds.
async fn stored(js: &Context, name: &str) -> Vec<(u64, Whole)> {
    let stream = js.get_stream(name).await.unwrap();
    let config = pull::Config { ack_policy: AckPolicy::None, ..Default::default() };
    let consumer = stream.create_consumer(config).await.unwrap();
    let mut all = Vec::new();
    while all.len() < stream.cached_info().state.messages as usize {
        let mut batch = consumer.fetch().max_messages(1000).messages().await.unwrap();
        while let Some(message) = batch.next().await {
            let message = message.unwrap();
            let headers = message.headers.as_ref().map_or_else(Vec::new, by_name);
            all.push((message.info().unwrap().stream_sequence, (message.payload.to_vec(), headers)));
        }
    }
    all
}

/// Publishes numbers in order, each until it is confirmed, through deaths of the server. One whose confirmation was
/// lost is in the stream twice.
async fn publish_through_deaths(server: Arc<Mutex<Server>>, subject: String, numbers: std::ops::Range<u64>) {
    let address = server.lock().unwrap().address("");
    let js = async_nats::jetstream::new(async_nats::connect(address).await.unwrap());
    for number in numbers {
        loop {
            let (payload, headers) = message(number);
            let confirmed = async { js.publish_with_headers(subject.clone(), headers, payload.into()).await?.await };
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(2), confirmed).await {
                break;
            }
        }
    }
}

/// Fillers and servers are killed in the middle of everything.
#[test]
fn every_message_comes_once_and_in_order_whatever_is_killed() {
    within(300, || {
        let count = from_env("DISK_CHAN_RELAY_MESSAGES", 20_000);
        let kills = from_env("DISK_CHAN_RELAY_KILLS", 10);
        let server_kills = from_env("DISK_CHAN_SERVER_KILLS", 3);
        let mut rng = Rng::new(seed());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (dir, channel) = open_new(ring());
        let server = Server::new();
        let address = server.address("T/T.>");
        runtime.block_on(async {
            let js = server.connect().await;
            js.create_stream(stream("T")).await.unwrap();
            // Enough for whole batches.
            let published = (0..count / 2).map(|n| publish(&js, "T.a", n));
            futures::stream::iter(published).buffered(64).collect::<Vec<_>>().await;
        });
        let server = Arc::new(Mutex::new(server));
        let rest = runtime.spawn(publish_through_deaths(server.clone(), "T.b".into(), count / 2..count));
        let start = |rng: &mut Rng| {
            let batch = [1, 16, 64, 256][rng.below(4) as usize];
            Process::start(&format!("fill {address} {batch}"), &dir.file()).ready()
        };
        let mut deaths: Vec<(u64, bool)> =
            (0..kills + server_kills).map(|n| (rng.below(count * 9 / 10), n < kills)).collect();
        deaths.sort_unstable();
        let mut filler = start(&mut rng);
        for (at, is_filler) in deaths {
            common::eventually(&format!("{at} messages are there"), || channel.len() >= at);
            if is_filler {
                filler.kill();
                filler = start(&mut rng);
            } else {
                let mut server = server.lock().unwrap();
                server.kill();
                server.restart();
            }
        }
        runtime.block_on(rest).unwrap();
        let held = runtime.block_on(async {
            let js = async_nats::jetstream::new(async_nats::connect(&address).await.unwrap());
            stored(&js, "T").await
        });
        common::eventually("all is there", || channel.len() >= held.len() as u64);
        drop(filler);
        let got = filled(&channel, "T/T.>");
        for (at, (got, held)) in got.iter().zip(&held).enumerate() {
            assert_eq!(got, held, "message {at}");
        }
        assert_eq!(got.len(), held.len());
        // The stream has all, and in order; what was not confirmed was published again.
        let mut all: Vec<u64> = held.iter().map(|(_, (payload, _))| common::number(payload)).collect();
        assert!(held.iter().all(|(_, message)| *message == whole(common::number(&message.0))));
        all.dedup();
        let there: BTreeSet<u64> = all.iter().copied().collect();
        let lost: Vec<u64> = (0..count).filter(|n| !there.contains(n)).collect();
        assert!(lost.is_empty(), "the server lost {lost:?}");
        println!("{count} published, {} stored, {kills} and {server_kills} killed", held.len());
    });
}

/// Runs `test` with a server, a client of it and a channel.
fn with_server<F>(test: impl FnOnce(Server, Context, Arc<Dir>, Channel) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    within_tokio(120, || async {
        let server = Server::new();
        let js = server.connect().await;
        let (dir, channel) = open_new(ring());
        let dir = Arc::new(dir); // for as long as the test
        test(server, js, dir.clone(), channel).await;
    });
}

/// What was handed out to a filler that died comes again behind newer messages: the filler takes it from the stream.
#[test]
fn what_a_dead_filler_had_comes_before_newer_messages() {
    with_server(|server, js, _dir, channel| async move {
        let orders = js.create_stream(stream("S")).await.unwrap();
        let source = source(&server, "S/S.a").durable("one");
        make_consumer(&source, &channel, &js, "S", "one").await;
        for n in 0..20 {
            publish(&js, if n % 4 == 3 { "S.b" } else { "S.a" }, n).await;
        }
        // Three that did not come so far as to send: they have 9.
        let consumer = consumer(&js, "S", "one").await;
        let dead = take(&consumer, 9).await;
        let last = dead.last().unwrap().info().unwrap().stream_sequence;
        assert_eq!(last, 11);
        orders.delete_message(5).await.unwrap(); // number 4
        publish_all(&js, "S.a", 20..30).await;
        let expected: Vec<u64> = (0..30).filter(|n| (n % 4 != 3 || *n >= 20) && *n != 4).collect();
        let filled = fill(&source, &channel, expected.len() as u64).await;
        assert_eq!(numbers(&channel), expected);
        assert_eq!((filled.messages, filled.sequence), (expected.len() as u64, Some(30)));
        // They come again, are known, and acked.
        let acked =
            until("all is acked", || async { consumer.get_info().await.unwrap().ack_floor.stream_sequence == 30 });
        let filled = source.run(&channel, acked).await.unwrap();
        assert!(filled.messages == 0 && filled.doubles >= 8, "{filled:?}");
        assert_eq!(numbers(&channel), expected);
    });
}

/// The consumer lets fewer messages out than are fetched at once, or be asked for: they come in smaller batches, none
/// twice.
#[test]
fn a_batch_is_no_more_than_the_consumer_allows() {
    with_server(|server, js, _dir, channel| async move {
        for (name, max_ack_pending, max_batch, numbers) in [("A", 8, 0, 0..100), ("B", 1000, 8, 100..200)] {
            let stream = js.create_stream(stream(name)).await.unwrap();
            let durable_name = Some("one".into());
            let ack_policy = AckPolicy::Explicit;
            let config = pull::Config { durable_name, ack_policy, max_ack_pending, max_batch, ..Default::default() };
            stream.create_consumer(config).await.unwrap();
            publish_all(&js, &format!("{name}.a"), numbers.clone()).await;
            let batches = Arc::new(AtomicUsize::new(0));
            let count = batches.clone();
            let source = source(&server, name).durable("one").batch(64).on_progress(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            let filled = fill(&source, &channel, numbers.end).await;
            assert_eq!((filled.messages, filled.doubles), (100, 0), "{name}");
            let batches = batches.load(Ordering::Relaxed);
            assert!((13..20).contains(&batches), "{name}: {batches} batches");
        }
        assert_eq!(numbers(&channel), Vec::from_iter(0..200));
    });
}

/// Somebody else takes messages of the consumer while the filler runs: numbers of deliveries are missing.
#[test]
fn a_delivery_that_went_elsewhere_is_missed_at_once() {
    with_server(|server, js, _dir, channel| async move {
        js.create_stream(stream("S")).await.unwrap();
        let source = source(&server, "S").durable("one").batch(4);
        make_consumer(&source, &channel, &js, "S", "one").await;
        let consumer = consumer(&js, "S", "one").await;
        let thief = tokio::spawn(async move { take(&consumer, 30).await.len() });
        let publisher = tokio::spawn(async move { publish_all(&js, "S.a", 0..300).await });
        let filled = fill(&source, &channel, 300).await;
        publisher.await.unwrap();
        assert_eq!(thief.await.unwrap(), 30);
        assert_eq!(numbers(&channel), Vec::from_iter(0..300));
        assert_eq!(filled.messages, 300);
    });
}

#[test]
fn a_stream_that_was_made_anew_is_another_one() {
    with_server(|server, js, _dir, channel| async move {
        let source = source(&server, "S");
        for round in 0..3 {
            js.create_stream(stream("S")).await.unwrap();
            publish_all(&js, "S.a", round * 5..round * 5 + 5).await;
            fill(&source, &channel, round * 5 + 5).await;
            js.delete_stream("S").await.unwrap();
        }
        assert_eq!(numbers(&channel), Vec::from_iter(0..15));
        let error = source.run(&channel, pending()).await.unwrap_err();
        let FillError::Engine { from, source } = &error else { panic!("{error:?}") };
        assert!(from.ends_with("/S") && source.to_string().contains("stream not found"), "{from} {source}");
    });
}

#[test]
fn subjects_are_filtered_each_source_for_itself() {
    with_server(|server, js, _dir, channel| async move {
        js.create_stream(stream("S")).await.unwrap();
        for n in 0..30 {
            publish(&js, ["S.eu.a", "S.us.a", "S.eu.b"][n as usize % 3], n).await;
        }
        let of = |subjects: &[u64]| Vec::from_iter((0..30).filter(|n| subjects.contains(&(n % 3))));
        fill(&source(&server, "S/S.eu.a"), &channel, 10).await;
        assert_eq!(numbers(&channel), of(&[0]));
        // The consumer is of another subject.
        let error = source(&server, "S/S.eu.*").run(&channel, pending()).await.unwrap_err();
        let FillError::Engine { source: why, .. } = &error else { panic!("{error:?}") };
        assert!(why.to_string().contains("choose another name"), "{why}");
        // Another source: nothing of it is there, though its messages have lower sequences.
        fill(&source(&server, "S/S.us.>").durable("us"), &channel, 20).await;
        assert_eq!(numbers(&channel), [of(&[0]), of(&[1])].concat());
        fill(&source(&server, "S/S.*.*").durable("all"), &channel, 50).await;
        assert_eq!(numbers(&channel), [of(&[0]), of(&[1]), of(&[0, 1, 2])].concat());
    });
}

#[test]
fn a_stream_that_keeps_what_is_not_acked_lets_go_of_it_then() {
    for retention in [RetentionPolicy::WorkQueue, RetentionPolicy::Interest] {
        with_server(move |server, js, _dir, channel| async move {
            js.create_stream(Config { retention, ..stream("S") }).await.unwrap();
            let source = source(&server, "S").durable("one");
            make_consumer(&source, &channel, &js, "S", "one").await;
            publish_all(&js, "S.a", 0..40).await;
            // As much as a filler had that died.
            assert_eq!(take(&consumer(&js, "S", "one").await, 10).await.len(), 10);
            let state = || async { js.get_stream("S").await.unwrap().cached_info().state.clone() };
            assert_eq!(state().await.messages, 40);
            let empty = until("the stream has let go of all", || async { state().await.messages == 0 });
            let filled = source.run(&channel, empty).await.unwrap();
            assert_eq!(filled.messages, 40);
            assert_eq!(numbers(&channel), Vec::from_iter(0..40));
        });
    }
}

#[test]
fn a_stop_ends_behind_a_batch_that_is_acked() {
    with_server(|server, js, _dir, channel| async move {
        js.create_stream(stream("S")).await.unwrap();
        publish_all(&js, "S.a", 0..1000).await;
        let (told, seen) = tokio::sync::watch::channel(0);
        let source = source(&server, "S").durable("one").batch(16);
        let mut had = 0;
        for _ in 0..3 {
            let (told, mut seen) = (told.clone(), seen.clone());
            told.send_replace(0);
            let source = source.clone().on_progress(move |filled| {
                told.send_replace(filled.messages);
            });
            let stop = async move { drop(seen.wait_for(|messages| *messages > 0).await) };
            had += source.run(&channel, stop).await.unwrap().messages;
            assert_eq!(channel.len(), had);
            assert_eq!(channel.durable_offset(), channel.end_offset(), "not synced");
            let consumer = consumer(&js, "S", "one").await;
            until("all that is there is acked", || async {
                consumer.get_info().await.unwrap().ack_floor.stream_sequence == had
            })
            .await;
            assert_eq!(consumer.get_info().await.unwrap().num_ack_pending, 0);
        }
        assert!((16..1000).contains(&had), "{had}");
        assert_eq!(numbers(&channel), Vec::from_iter(0..had));
        assert_eq!(*seen.borrow() % 16, 0);
    });
}

#[test]
fn a_message_that_is_too_long_ends_it_behind_those_before() {
    within_tokio(120, || async {
        let (server, (_dir, channel)) = (Server::new(), open_new(common::small()));
        let js = server.connect().await;
        let stream = js.create_stream(stream("S")).await.unwrap();
        publish_all(&js, "S.a", 0..3).await;
        js.publish("S.a", vec![7; common::PAGE].into()).await.unwrap().await.unwrap();
        publish_all(&js, "S.a", 3..5).await;
        let source = source(&server, "S").durable("one");
        for _ in 0..2 {
            let error = source.run(&channel, pending()).await.unwrap_err();
            let FillError::TooLong { stream, sequence, len, max } = &error else { panic!("{error:?}") };
            assert_eq!((&**stream, *sequence, *max), ("S", 4, channel.max_message_len()));
            assert!(*len > common::PAGE, "{error}");
            assert_eq!(numbers(&channel), [0, 1, 2]);
        }
        let consumer = consumer(&js, "S", "one").await;
        until("those before are acked", || async { consumer.get_info().await.unwrap().ack_floor.stream_sequence == 3 })
            .await;
        // As the error says.
        stream.delete_message(4).await.unwrap();
        fill(&source, &channel, 5).await;
        assert_eq!(numbers(&channel), Vec::from_iter(0..5));
    });
}

#[test]
fn headers_that_cannot_be_stored_end_it_behind_those_before() {
    with_server(|server, js, _dir, channel| async move {
        js.create_stream(stream("S")).await.unwrap();
        publish(&js, "S.a", 0).await;
        let mut headers = HeaderMap::new();
        headers.insert("N".repeat(300).as_str(), "value");
        js.publish_with_headers("S.a", headers, "".into()).await.unwrap().await.unwrap();
        let error = source(&server, "S").run(&channel, pending()).await.unwrap_err();
        assert!(matches!(error, FillError::Headers { sequence: 2, .. }), "{error:?}");
        assert_eq!(numbers(&channel), [0]);
    });
}

#[test]
fn a_closed_channel_ends_it() {
    with_server(|server, js, _dir, channel| async move {
        js.create_stream(stream("S")).await.unwrap();
        publish_all(&js, "S.a", 0..3).await;
        let source = source(&server, "S");
        let there = channel.clone();
        let closing = source.clone().on_progress(move |_| there.close());
        for source in [closing, source] {
            let error = source.run(&channel, pending()).await.unwrap_err();
            assert!(matches!(error, FillError::Send(SendError::Closed)), "{error:?}");
            assert!(channel.is_closed());
            assert_eq!(numbers(&channel), [0, 1, 2]);
        }
    });
}

#[test]
fn a_user_whom_the_server_does_not_know_ends_it() {
    within_tokio(120, || async {
        let server = Server::with(&["--user", "me", "--pass", "s@cret:x"]);
        let (_dir, channel) = open_new(ring());
        let address = |who: &str| server.address("S").replace("nats://", &format!("nats://{who}"));
        for who in ["", "me:wrong@"] {
            let error = NatsSource::new(&address(who)).unwrap().run(&channel, pending()).await.unwrap_err();
            let FillError::Engine { source, .. } = &error else { panic!("{error:?}") };
            assert!(source.to_string().contains("authorization violation"), "{source}");
            assert!(!format!("{error} {error:?}").contains("wrong"));
        }
        let user = async_nats::ConnectOptions::with_user_and_password("me".into(), "s@cret:x".into());
        let js = async_nats::jetstream::new(user.connect(server.address("")).await.unwrap());
        js.create_stream(stream("S")).await.unwrap();
        publish(&js, "S.a", 0).await;
        fill(&NatsSource::new(&address("me:s@cret:x@")).unwrap(), &channel, 1).await;
        assert_eq!(numbers(&channel), [0]);
    });
}

#[test]
fn a_server_that_is_away_is_waited_for() {
    with_server(|mut server, js, _dir, channel| async move {
        js.create_stream(stream("S")).await.unwrap();
        publish_all(&js, "S.a", 0..3).await;
        server.kill();
        let errors = Arc::new(AtomicU64::new(0));
        let (seen, count) = (errors.clone(), channel.clone());
        let source = source(&server, "S").on_progress(move |filled| {
            seen.fetch_add(u64::from(filled.messages == 0 && filled.last_error.is_some()), Ordering::SeqCst);
        });
        let filler = tokio::spawn(async move { fill(&source, &channel, 3).await });
        until("it has tried several times", || async { errors.load(Ordering::SeqCst) > 3 }).await;
        server.restart();
        let filled = filler.await.unwrap();
        assert_eq!((filled.messages, filled.doubles, filled.sequence), (3, 0, Some(3)));
        assert!(filled.last_error.is_some());
        assert_eq!(numbers(&count), [0, 1, 2]);
    });
}

/// What it stores is put back to an earlier time.
#[test]
fn a_stream_that_has_lost_its_end_is_seen() {
    with_server(|mut server, js, _dir, channel| async move {
        js.create_stream(stream("S")).await.unwrap();
        publish_all(&js, "S.a", 0..2).await;
        server.kill();
        server.copy_data("data", "copy");
        server.restart();
        let js = server.connect().await;
        publish_all(&js, "S.a", 2..5).await;
        let source = source(&server, "S");
        fill(&source, &channel, 5).await;
        server.kill();
        server.copy_data("copy", "data");
        server.restart();
        let error = source.run(&channel, pending()).await.unwrap_err();
        let FillError::Rewound { stream, last, had } = &error else { panic!("{error:?}") };
        assert_eq!((&**stream, *last, *had), ("S", 2, 5));
    });
}

/// The one that fills is stopped, which changes nothing; when it is killed, the other takes over.
#[test]
fn one_of_several_fills_and_another_takes_over() {
    with_server(|server, js, dir, channel| async move {
        js.create_stream(stream("S")).await.unwrap();
        let role = format!("fill {} 16", server.address("S"));
        let first = Process::start(&role, &dir.file()).ready();
        publish_all(&js, "S.a", 0..50).await;
        until("the first fills", || async { channel.len() == 50 }).await;
        let _second = Process::start(&role, &dir.file()).ready();
        first.stop();
        publish_all(&js, "S.a", 50..100).await;
        // It holds the source all the same.
        let locks: Vec<_> = dir.entries().into_iter().filter(|name| name.contains(".fill-")).collect();
        let [lock] = &locks[..] else { panic!("{locks:?}") };
        assert!(std::fs::File::open(dir.join(lock)).unwrap().try_lock().is_err());
        assert_eq!(channel.len(), 50);
        first.go_on();
        until("the first goes on", || async { channel.len() == 100 }).await;
        first.kill();
        publish_all(&js, "S.a", 100..150).await;
        until("the second fills", || async { channel.len() >= 150 }).await;
        assert_eq!(numbers(&channel), Vec::from_iter(0..150));
    });
}
