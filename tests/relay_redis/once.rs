//! What is there already is not added again.

use crate::common::{eventually, open_new, within};
use crate::relayed::{GROUP, Running, all_done, dead_letters, entries, lag, no_dead_letters, relayed, send, spool};
use crate::relayed::{add_foreign, causes, created, len};
use crate::server::Server;
use disk_chan::relay::{Origin, Redis, RelayError, Sink, SinkError};
use disk_chan::{Lease, Offset};
use std::sync::Arc;
use std::time::Duration;

/// A relay that died after the server had stored a batch, and before it was done with it, has left the group where a
/// new group begins.
#[test]
fn a_group_that_begins_again_adds_nothing() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(spool());
        let sent = send(&channel.sender(), 0..300, 40);
        channel.close();
        for group in ["a", "b"] {
            let status = Running::start(&channel, group, Redis::new(&server.address()).unwrap()).end().unwrap();
            assert_eq!((status.relayed, status.confirmed), (300, Some(sent[299].0)), "{status:?}");
            assert_eq!(relayed(&server, &channel), sent);
            assert_eq!(lag(&channel, group), 0);
        }
        let [added, transactions] = ["xadd", "exec"].map(|command| server.calls(command));
        assert!(added == 300 && (5..30).contains(&transactions), "{transactions} for {added}");
        no_dead_letters(&channel);
    });
}

type Heard = Box<dyn FnMut(Option<Offset>) -> Option<Offset> + Send + Sync>;

/// A sink that does something when it has looked how far the server is, and may hear something else.
struct Around(Redis, Heard);

impl Sink for Around {
    async fn connect(&mut self, origin: &Origin) -> Result<Option<Offset>, SinkError> {
        Ok((self.1)(self.0.connect(origin).await?))
    }

    async fn publish(&mut self, batch: &[Lease]) -> Result<(), SinkError> {
        self.0.publish(batch).await
    }

    async fn confirmed(&mut self) -> Result<Offset, SinkError> {
        self.0.confirmed().await
    }

    async fn missing(&mut self, offsets: &[Offset]) -> Result<Vec<Offset>, SinkError> {
        self.0.missing(offsets).await
    }
}

/// A sink for whose key somebody else adds an entry after the first look at it.
fn intruded(server: &Arc<Server>, id: String) -> Around {
    let (at, mut id) = (Arc::clone(server), Some(id));
    let intrude = move |last| {
        if let Some(id) = id.take() {
            add_foreign(&at, &id);
        }
        last
    };
    Around(Redis::new(&server.address()).unwrap(), Box::new(intrude))
}

/// As if all that is there was added right after the look, by a relay that was stopped and went on.
#[test]
fn a_batch_that_is_published_again_is_confirmed_and_not_doubled() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(spool());
        let mut sent = send(&channel.sender(), 0..100, 40);
        let redis = || Redis::new(&server.address()).unwrap();
        let first = Running::start(&channel, "a", redis());
        all_done(&channel, "a");
        first.stop().unwrap();
        // Batches of which a part is there.
        sent.extend(send(&channel.sender(), 100..130, 40));
        channel.close();
        let status = Running::start(&channel, "b", Around(redis(), Box::new(|_| None))).end().unwrap();
        assert_eq!((status.relayed, status.last_error), (130, None));
        assert_eq!(relayed(&server, &channel), sent);
        no_dead_letters(&channel);
    });
}

/// Somebody else has the id of a message: that message, and what is before it, is not there, and does not count so.
#[test]
fn an_id_that_somebody_else_took_is_not_confirmed() {
    within(60, || {
        let server = Arc::new(Server::start());
        let (_dir, channel) = open_new(spool());
        let sent = send(&channel.sender(), 0..4, 40);
        channel.close();
        let id = format!("{}-{}", created(&channel), sent[2].0.as_u64());
        let status = Running::start(&channel, "a", intruded(&server, id)).end().unwrap();
        assert_eq!((status.relayed, status.refused), (1, 3), "{status:?}");
        assert_eq!(dead_letters(&channel), [0, 1, 2]);
        let there: Vec<_> = entries(&server).into_iter().map(|((_, offset), _)| offset).collect();
        assert_eq!(there, [sent[2].0.as_u64(), sent[3].0.as_u64()]);
    });
}

/// The same with an id above all of the channel: nothing can be added any more.
#[test]
fn a_higher_id_that_came_between_ends_the_relay() {
    within(60, || {
        let server = Arc::new(Server::start());
        let (_dir, channel) = open_new(spool());
        send(&channel.sender(), 0..4, 40);
        channel.close();
        let error = Running::start(&channel, "a", intruded(&server, "*".to_owned())).end().unwrap_err();
        assert!(matches!(error, RelayError::Sink(_)), "{error:?}");
        assert!(causes(&error).contains("a key belongs to one channel"), "{}", causes(&error));
        assert_eq!((lag(&channel, "a"), len(&server)), (4, 1));
    });
}

/// Two relays at once, as when one was stopped for long enough for another to take over, and goes on.
#[test]
fn two_groups_at_once_add_each_message_once() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(spool());
        let running = ["a", "b"].map(|group| {
            channel.blocking_subscribe(group).unwrap();
            Running::start(&channel, group, Redis::new(&server.address()).unwrap())
        });
        let sent = send(&channel.sender(), 0..5000, 40);
        channel.close();
        for status in running.map(|running| running.end().unwrap()) {
            assert_eq!((status.relayed, status.last_error), (5000, None));
        }
        assert_eq!(relayed(&server, &channel), sent);
        no_dead_letters(&channel);
    });
}

/// What the server executes after the relay has given it up.
#[test]
fn answers_that_come_too_late_lose_and_double_nothing() {
    within(60, || {
        let server = Server::start();
        let (_dir, channel) = open_new(spool());
        let redis = Redis::new(&server.address()).unwrap().timeout(Duration::from_millis(200));
        let running = Running::start(&channel, GROUP, redis);
        let failed = || channel.relays().pop().and_then(|status| Some(status.last_error?.0));
        let mut sent = Vec::new();
        for round in 0..10 {
            let before = failed();
            server.stop();
            sent.extend(send(&channel.sender(), round * 100..round * 100 + 100, 40));
            eventually("the relay gives an answer up", || failed() > before);
            server.go_on();
            all_done(&channel, GROUP);
        }
        running.stop().unwrap();
        assert_eq!(relayed(&server, &channel), sent);
        no_dead_letters(&channel);
    });
}
