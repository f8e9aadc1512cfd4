//! Relays with an engine that is slow, and with another relay beside them.

mod common;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use disk_chan::relay::{Origin, Relay, Sink, SinkError};
use disk_chan::{Lease, Offset, Start};
use tokio::sync::Notify;

use common::{body, lag, number, open_new, small, until, within_tokio};

/// Takes what it is handed, and then says that it is full.
struct Full(Arc<Mutex<Vec<Instant>>>);

impl Sink for Full {
    async fn connect(&mut self, _: &Origin) -> Result<Option<Offset>, SinkError> {
        self.0.lock().unwrap().push(Instant::now());
        Ok(None)
    }

    async fn publish(&mut self, _: &[Lease]) -> Result<(), SinkError> {
        Ok(())
    }

    async fn confirmed(&mut self) -> Result<Offset, SinkError> {
        Err(SinkError::retry("full"))
    }
}

#[test]
fn pauses_grow_also_if_it_is_the_confirmation_that_fails() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small());
        channel.blocking_subscribe("g").unwrap();
        channel.sender().send(body(0, 8)).await.unwrap();
        let connects = Arc::new(Mutex::new(Vec::new()));
        let relay = Relay::new(&channel, "g").backoff(Duration::from_millis(20), Duration::from_secs(3600));
        let eight = until("eight connects", || connects.lock().unwrap().len() >= 8);
        relay.run(Full(Arc::clone(&connects)), eight).await.unwrap();
        let connects = connects.lock().unwrap();
        // Seven pauses, each at least half of 20 ms, 40 ms, ... 1280 ms.
        assert!(connects[7] - connects[0] >= Duration::from_millis(1270), "{:?}", connects[7] - connects[0]);
    });
}

type Stored = Arc<Mutex<Vec<(Offset, u64)>>>;

/// An engine that two relays use; one of them is held up when it hands something over.
struct Engine {
    stored: Stored,
    enters: Option<Arc<Notify>>,
    goes_on: Arc<Notify>,
    is_held_up: bool,
}

impl Sink for Engine {
    async fn connect(&mut self, _: &Origin) -> Result<Option<Offset>, SinkError> {
        Ok(self.stored.lock().unwrap().last().map(|&(offset, _)| offset))
    }

    async fn publish(&mut self, batch: &[Lease]) -> Result<(), SinkError> {
        if let Some(enters) = self.enters.take() {
            // Slow: what it handed over went nowhere yet.
            enters.notify_one();
            self.goes_on.notified().await;
            self.is_held_up = true;
            return Ok(());
        }
        let mut stored = self.stored.lock().unwrap();
        stored.extend(batch.iter().map(|lease| (lease.offset(), number(lease))));
        Ok(())
    }

    async fn confirmed(&mut self) -> Result<Offset, SinkError> {
        if self.is_held_up {
            std::future::pending::<()>().await;
        }
        Ok(self.stored.lock().unwrap().last().unwrap().0)
    }

    async fn missing(&mut self, offsets: &[Offset]) -> Result<Vec<Offset>, SinkError> {
        let stored = self.stored.lock().unwrap();
        Ok(offsets.iter().filter(|offset| !stored.iter().any(|(at, _)| at == *offset)).copied().collect())
    }
}

/// The active relay is busy while the group is moved; the other one goes on there. Nothing was done by anybody but relays.
#[test]
fn a_relay_that_lost_the_group_takes_nothing_from_the_one_that_has_it() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small().max_attempts(100).max_held(32));
        channel.blocking_subscribe("g").unwrap();
        for n in 0..60 {
            channel.sender().send(body(n, 50)).await.unwrap();
        }
        let stored = Stored::default();
        let (enters, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let engine =
            |enters| Engine { stored: Arc::clone(&stored), enters, goes_on: Arc::clone(&goes_on), is_held_up: false };
        let relay = Relay::new(&channel, "g").batch(1).window(2).backoff(Duration::ZERO, Duration::ZERO);
        let stop = Arc::new(Notify::new());
        let run = |relay: Relay, engine: Engine| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move { relay.run(engine, stop.notified()).await })
        };
        let _first = run(relay.clone(), engine(Some(Arc::clone(&enters))));
        enters.notified().await;
        channel.seek_group("g", Start::Oldest, true).unwrap();
        let second = run(relay.clone(), engine(None));
        // The second one is in the middle of it when the first one goes on.
        until("the second relays", || stored.lock().unwrap().len() >= 60).await;
        let tx = channel.sender();
        let sender = tokio::spawn(async move {
            for n in 60..20_000 {
                tx.send(body(n, 50)).await.unwrap();
            }
        });
        goes_on.notify_one();
        sender.await.unwrap();
        until("all is relayed", || lag(&channel) == 0).await;
        stop.notify_waiters();
        let status = second.await.unwrap().unwrap();
        let numbers: Vec<u64> = stored.lock().unwrap().iter().map(|&(_, n)| n).collect();
        assert_eq!((status.refused, numbers.len()), (0, 20_000));
    });
}
