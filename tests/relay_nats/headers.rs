//! What the stream says to headers of any kind, and to what was given away.

use std::future::pending;
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use disk_chan::relay::{Nats, Origin, Relay, Sink, SinkError};
use disk_chan::{Channel, Headers, Lease, Offset};
use tokio::sync::Notify;

use crate::common::{Dir, body, lag, number, small, within_tokio};
use crate::server::Server;

fn stream() -> Config {
    Config { name: "ORDERS".into(), subjects: vec!["orders".into()], ..Default::default() }
}

fn nats(server: &Server) -> Nats {
    Nats::new(&format!("{}/ORDERS/orders", server.url())).unwrap()
}

fn relay(channel: &Channel) -> Relay {
    Relay::new(channel, "g").backoff(Duration::from_millis(5), Duration::from_millis(50))
}

/// How many are not relayed after some seconds, and the numbers that are in the stream.
async fn relayed(channel: &Channel, server: &Server) -> (u64, Vec<u64>) {
    let stop = Notify::new();
    let relay = relay(channel);
    let limit = async {
        for _ in 0..100 {
            if lag(channel) == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stop.notify_one();
    };
    let (ran, ()) = tokio::join!(relay.run(nats(server), stop.notified()), limit);
    ran.unwrap();
    let messages = server.messages("ORDERS", "orders").await;
    (lag(channel), messages.iter().map(|message| number(&message.payload)).collect())
}

async fn with_header(name: &str, value: &str) {
    let (dir, server) = (Dir::new(), Server::start());
    let channel = small().max_attempts(100).blocking_open(dir.file()).unwrap();
    channel.blocking_subscribe("g").unwrap();
    let headers = Headers::new().with(name, value);
    for n in 0..100 {
        channel.sender().send(headers.message(body(n, 50)).unwrap()).await.unwrap();
    }
    let (lag, there) = relayed(&channel, &server).await;
    assert_eq!(
        (lag, there.len()),
        (0, 100),
        "{name}: {value}: relayed, as the channel says, and in the stream: {there:?}"
    );
}

#[test]
fn a_header_whose_name_ends_like_one_of_nats_is_not_acted_on() {
    within_tokio(60, || with_header("X-Nats-Msg-Id", "the same"));
}

#[test]
fn a_header_whose_value_has_one_of_nats_is_not_acted_on() {
    within_tokio(60, || with_header("note", "Nats-Msg-Id:the same"));
}

#[test]
fn a_header_whose_name_ends_like_an_expectation_does_not_stop_the_relay() {
    within_tokio(60, || with_header("X-Nats-Expected-Last-Sequence", "77777"));
}

/// Raw bytes of what is sent: the name of a header of NATS in an encoded one hides the real one.
#[test]
fn an_encoded_header_does_not_hide_what_the_server_checks() {
    within_tokio(60, || async {
        let (dir, server) = (Dir::new(), Server::start());
        let channel = small().max_attempts(100).blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("g").unwrap();
        let headers = Headers::new().with("Nats-Msg-Id", "mine").with("Nats-Expected-Last-Subject-Sequence", "1");
        channel.sender().send(headers.message(body(0, 50)).unwrap()).await.unwrap();
        relayed(&channel, &server).await;
        // The same message again by hand, many times: whatever the order of the headers is, the server must know it.
        let context = server.context().await;
        let id = server.messages("ORDERS", "orders").await[0].headers.clone().unwrap();
        let id = id.get("Nats-Msg-Id").unwrap().as_str().to_owned();
        for _ in 0..30 {
            let mut headers = async_nats::HeaderMap::new();
            headers.append("Disk-Chan-Header", "Nats%2DMsg%2DId=mine");
            headers.append("Nats-Msg-Id", &*id);
            context.publish_with_headers("orders", headers, "again".into()).await.unwrap().await.unwrap();
        }
        assert_eq!(server.messages("ORDERS", "orders").await.len(), 1, "stored again: the server did not see its name");
    });
}

/// Hands all over, and never hears that it is stored: a relay that is killed just before.
struct Deaf(Nats);

impl Sink for Deaf {
    async fn connect(&mut self, origin: &Origin) -> Result<Option<Offset>, SinkError> {
        self.0.connect(origin).await
    }

    async fn publish(&mut self, batch: &[Lease]) -> Result<(), SinkError> {
        self.0.publish(batch).await
    }

    async fn confirmed(&mut self) -> Result<Offset, SinkError> {
        pending().await
    }
}

#[test]
fn what_a_stream_gave_away_after_a_relay_died_is_no_dead_letter() {
    within_tokio(60, || async {
        let (dir, server) = (Dir::new(), Server::start());
        let context = server.context().await;
        // It keeps the last message of the subject, as `Nats` asks for.
        context.create_stream(Config { max_messages_per_subject: 1, ..stream() }).await.unwrap();
        let channel = small().max_attempts(100).blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("g").unwrap();
        for n in 0..20 {
            channel.sender().send(body(n, 50)).await.unwrap();
        }
        let died = relay(&channel).grace(Duration::ZERO);
        let stored = async {
            while server.messages("ORDERS", "orders").await.first().is_none_or(|m| number(&m.payload) != 19) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        // The stream is there; then all are stored, and none confirmed to the channel.
        died.run(Deaf(nats(&server)), stored).await.unwrap();
        assert_eq!(lag(&channel), 20);
        let status = {
            channel.close();
            relay(&channel).run(nats(&server), pending()).await.unwrap()
        };
        assert_eq!((status.refused, status.relayed), (0, 20), "all 20 were stored once");
    });
}
