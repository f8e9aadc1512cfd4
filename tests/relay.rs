//! Relays to an engine that the test makes up: order, windows, errors, ends, and who is the active one.

mod common;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use disk_chan::relay::{Origin, Relay, RelayError, RelayStatus, Sink, SinkError, SinkErrorKind};
use disk_chan::{Channel, DeadLetter, Lease, Offset, Overflow, Start};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use common::{body, lag, number, open_new, small, until, within_tokio};

/// An engine that stores, and what goes wrong with it.
#[derive(Default)]
struct State {
    stored: Vec<(Offset, u64)>,
    connects: usize,
    /// Messages handed over and not confirmed, and the most there ever were.
    open: usize,
    most: usize,
    largest_batch: usize,
    /// One operation in so many fails; 0: none does.
    fails: u64,
    chance: u64,
    refuses: BTreeSet<u64>,
    fatal: bool,
    /// Confirms nothing.
    is_stuck: bool,
    /// Does not know what it has.
    forgets: bool,
}

impl State {
    /// Whether something goes wrong now.
    fn fails(&mut self) -> bool {
        self.chance = self.chance.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.fails > 0 && (self.chance >> 33).is_multiple_of(self.fails)
    }
}

#[derive(Clone, Default)]
struct Engine {
    state: Arc<Mutex<State>>,
    /// It is stuck no more.
    wake: Arc<Notify>,
}

impl Engine {
    fn with(change: impl FnOnce(&mut State)) -> Self {
        let engine = Self::default();
        change(&mut engine.state());
        engine
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn numbers(&self) -> Vec<u64> {
        self.state().stored.iter().map(|(_, number)| *number).collect()
    }
}

impl Sink for Engine {
    fn to(&self) -> String {
        "the engine".into()
    }

    async fn connect(&mut self, origin: &Origin) -> Result<Option<Offset>, SinkError> {
        tokio::task::yield_now().await;
        assert_eq!(origin.group.as_str(), "g");
        let mut state = self.state();
        state.connects += 1;
        state.open = 0;
        if state.fatal {
            return Err(SinkError::fatal("no such engine"));
        }
        if state.fails() {
            return Err(SinkError::retry("away"));
        }
        Ok(if state.forgets { None } else { state.stored.last().map(|(offset, _)| *offset) })
    }

    async fn publish(&mut self, batch: &[Lease]) -> Result<(), SinkError> {
        tokio::task::yield_now().await;
        let mut state = self.state();
        state.largest_batch = state.largest_batch.max(batch.len());
        for lease in batch {
            // What is before it is stored.
            if state.fails() {
                return Err(SinkError::retry("broken"));
            }
            let number = number(lease);
            if state.refuses.contains(&number) {
                return Err(SinkError::refused(lease.offset(), "not wanted"));
            }
            state.stored.push((lease.offset(), number));
            state.open += 1;
            state.most = state.most.max(state.open);
        }
        Ok(())
    }

    async fn confirmed(&mut self) -> Result<Offset, SinkError> {
        tokio::task::yield_now().await;
        while self.state().is_stuck {
            self.wake.notified().await;
        }
        let mut state = self.state();
        if state.fails() {
            return Err(SinkError::retry("no answer"));
        }
        // Not always all.
        let some = if state.open > 1 { 1 + (state.chance >> 40) as usize % state.open } else { state.open };
        state.open -= some;
        Ok(state.stored[state.stored.len() - state.open - 1].0)
    }

    async fn missing(&mut self, offsets: &[Offset]) -> Result<Vec<Offset>, SinkError> {
        let state = self.state();
        let is_there = |offset: &&Offset| state.stored.iter().any(|(stored, _)| stored == *offset);
        Ok(offsets.iter().filter(|offset| !is_there(offset)).copied().collect())
    }
}

type Ran = JoinHandle<Result<RelayStatus, RelayError>>;

fn impatient(channel: &Channel) -> Relay {
    Relay::new(channel, "g").backoff(Duration::from_micros(10), Duration::from_micros(100))
}

fn start(relay: Relay, engine: &Engine) -> (Ran, Arc<Notify>) {
    let (engine, stop) = (engine.clone(), Arc::new(Notify::new()));
    let stopped = Arc::clone(&stop);
    (tokio::spawn(async move { relay.run(engine, stopped.notified()).await }), stop)
}

#[test]
fn everything_goes_in_order_and_once_whatever_fails() {
    within_tokio(120, || async {
        for seed in 1..=20 {
            let (_dir, channel) = open_new(small().max_attempts(4000));
            channel.blocking_subscribe("g").unwrap();
            let engine = Engine::with(|state| (state.fails, state.chance) = (7 + seed * 10, seed));
            let (window, batch) = (1 + seed as usize, 1 + seed as usize / 2);
            let (ran, _stop) = start(impatient(&channel).window(window).batch(batch), &engine);
            let tx = channel.sender();
            for n in 0..2000 {
                tx.send(body(n, 8 + (n % 100) as usize)).await.unwrap();
            }
            channel.close();
            let status = ran.await.unwrap().unwrap();
            assert!(engine.numbers().into_iter().eq(0..2000), "seed {seed}");
            let state = engine.state();
            assert!(state.stored.is_sorted() && state.connects > 1);
            assert!(state.most <= window, "{} in flight of {window}", state.most);
            assert!(state.largest_batch <= batch, "{} at once of {batch}", state.largest_batch);
            assert_eq!((status.refused, status.lagged, lag(&channel)), (0, 0, 0));
            assert_eq!(status.confirmed, Some(state.stored[1999].0));
            assert_eq!(channel.groups()[0].redelivered, 0, "it keeps what it holds");
        }
    });
}

#[test]
fn an_engine_that_does_not_know_what_it_has_gets_everything_at_least_once() {
    within_tokio(120, || async {
        let (_dir, channel) = open_new(small().max_attempts(4000));
        channel.blocking_subscribe("g").unwrap();
        let engine = Engine::with(|state| (state.fails, state.chance, state.forgets) = (50, 1, true));
        let (ran, _stop) = start(impatient(&channel).window(20), &engine);
        for n in 0..2000 {
            channel.sender().send(body(n, 50)).await.unwrap();
        }
        channel.close();
        ran.await.unwrap().unwrap();
        let numbers = engine.numbers();
        assert!(numbers.len() > 2000, "nothing was published again");
        // Each run goes on where the last one was not confirmed: without doubles it is in order.
        let mut seen = Vec::new();
        numbers.into_iter().for_each(|n| {
            if seen.last() < Some(&n) {
                seen.push(n)
            }
        });
        assert!(seen.into_iter().eq(0..2000));
    });
}

#[test]
fn what_is_refused_becomes_a_dead_letter_and_the_rest_goes_on() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small().max_attempts(5));
        channel.blocking_subscribe("g").unwrap();
        let refused = [0, 1, 17, 298, 299];
        let engine = Engine::with(|state| state.refuses = refused.into());
        for n in 0..300 {
            channel.sender().send(body(n, 50)).await.unwrap();
        }
        let mut letters = channel.dead_letters().await.unwrap();
        channel.close();
        let status = start(impatient(&channel), &engine).0.await.unwrap().unwrap();
        assert_eq!((status.refused, status.relayed), (5, 295));
        assert!(engine.numbers().into_iter().eq((0..300).filter(|n| !refused.contains(n))));
        for n in refused {
            let letter = letters.try_recv().unwrap();
            assert_eq!(number(DeadLetter::parse(&letter).unwrap().message()), n);
        }
        assert_eq!(lag(&channel), 0);
    });
}

#[test]
fn without_dead_letters_a_refusal_ends_the_relay() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small());
        channel.blocking_subscribe("g").unwrap();
        let engine = Engine::with(|state| state.refuses = [3].into());
        let mut sent = Vec::new();
        for n in 0..10 {
            sent.push(channel.sender().send(body(n, 50)).await.unwrap());
        }
        let error = start(impatient(&channel), &engine).0.await.unwrap().unwrap_err();
        let RelayError::Refused { offset, source } = error else { panic!("{error:?}") };
        assert_eq!((offset, source.kind()), (sent[3], SinkErrorKind::Refused(sent[3])));
        assert_eq!(engine.numbers(), [0, 1, 2]);
        assert!(channel.relays()[0].last_error.as_ref().unwrap().1.contains("max_attempts"));
        // It is there still, and what is behind it.
        assert!((7..=10).contains(&lag(&channel)));
        engine.state().refuses.clear();
        channel.close();
        start(impatient(&channel), &engine).0.await.unwrap().unwrap();
        assert!(engine.numbers().into_iter().eq(0..10));
    });
}

#[test]
fn a_fatal_error_ends_the_relay_and_nothing_is_done() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small());
        channel.blocking_subscribe("g").unwrap();
        channel.sender().send(body(0, 8)).await.unwrap();
        let engine = Engine::with(|state| state.fatal = true);
        let error = start(impatient(&channel), &engine).0.await.unwrap().unwrap_err();
        assert!(matches!(error, RelayError::Sink(_)), "{error:?}");
        assert_eq!((lag(&channel), channel.groups()[0].held), (1, 0));
    });
}

#[test]
fn told_to_stop_it_finishes_what_is_in_flight_and_no_more_than_that() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small());
        channel.blocking_subscribe("g").unwrap();
        for n in 0..100 {
            channel.sender().send(body(n, 50)).await.unwrap();
        }
        let engine = Engine::with(|state| state.is_stuck = true);
        let (ran, stop) = start(impatient(&channel).window(12), &engine);
        until("twelve are in flight", || engine.state().open == 12).await;
        stop.notify_one();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!ran.is_finished(), "it waits for what is in flight");
        engine.state().is_stuck = false;
        engine.wake.notify_one();
        assert_eq!(ran.await.unwrap().unwrap().relayed, 12);
        assert_eq!((lag(&channel), channel.groups()[0].redelivered), (88, 0));
    });
}

#[test]
fn stopped_while_the_engine_does_not_answer_it_gives_back_what_is_in_flight() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small());
        let mut other = channel.blocking_subscribe("g").unwrap();
        for n in 0..100 {
            channel.sender().send(body(n, 50)).await.unwrap();
        }
        let engine = Engine::with(|state| state.is_stuck = true);
        let (ran, stop) = start(impatient(&channel).window(12).grace(Duration::from_millis(50)), &engine);
        until("twelve are in flight", || engine.state().open == 12).await;
        stop.notify_one();
        let status = ran.await.unwrap().unwrap();
        assert_eq!((status.relayed, status.active), (0, false));
        assert_eq!(number(&other.try_recv().unwrap()), 0);
    });
}

#[test]
fn one_relay_is_active_and_another_takes_over() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small());
        channel.blocking_subscribe("g").unwrap();
        let engines = [Engine::default(), Engine::default()];
        let relays: Vec<_> = engines.iter().map(|engine| start(impatient(&channel), engine)).collect();
        for n in 0..100 {
            channel.sender().send(body(n, 50)).await.unwrap();
        }
        until("they are relayed", || lag(&channel) == 0).await;
        let active = usize::from(engines[0].numbers().is_empty());
        assert!(engines[active].numbers().into_iter().eq(0..100));
        assert_eq!(engines[1 - active].state().connects, 0);
        assert!(channel.relays()[0].active);
        // Cancelled, not told to stop.
        relays[active].0.abort();
        for n in 100..200 {
            channel.sender().send(body(n, 50)).await.unwrap();
        }
        until("the other one relays", || lag(&channel) == 0).await;
        assert!(engines[1 - active].numbers().into_iter().eq(100..200));
        relays[1 - active].1.notify_one();
        until("nobody relays", || !channel.relays()[0].active).await;
    });
}

#[test]
fn a_group_that_is_moved_is_relayed_from_there() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small().max_attempts(100));
        channel.blocking_subscribe("g").unwrap();
        let engine = Engine::default();
        let (ran, stop) = start(impatient(&channel), &engine);
        let mut offsets = Vec::new();
        for n in 0..50 {
            offsets.push(channel.sender().send(body(n, 50)).await.unwrap());
        }
        until("they are relayed", || lag(&channel) == 0).await;
        // The engine has these: nothing is twice.
        channel.seek_group("g", Start::At(offsets[10]), true).unwrap();
        until("it sees that", || lag(&channel) == 0).await;
        assert!(engine.numbers().into_iter().eq(0..50));
        // It has lost these.
        engine.state().stored.truncate(20);
        channel.seek_group("g", Start::At(offsets[10]), true).unwrap();
        until("it has them again", || lag(&channel) == 0).await;
        channel.sender().send(body(50, 50)).await.unwrap();
        until("and what is new", || lag(&channel) == 0).await;
        assert!(engine.numbers().into_iter().eq(0..51));
        stop.notify_one();
        ran.await.unwrap().unwrap();
    });
}

#[test]
fn leases_that_time_out_are_not_published_again() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small().lease_timeout(Duration::from_millis(50)).max_attempts(4000));
        channel.blocking_subscribe("g").unwrap();
        let engine = Engine::with(|state| state.is_stuck = true);
        let (ran, stop) = start(impatient(&channel).window(100), &engine);
        for n in 0..20 {
            channel.sender().send(body(n, 50)).await.unwrap();
        }
        until("they were taken away", || channel.groups()[0].redelivered > 40).await;
        assert!(engine.numbers().into_iter().eq(0..20));
        // It wakes for each that is taken away, and asks again.
        engine.state().is_stuck = false;
        until("they are done", || lag(&channel) == 0).await;
        assert!(engine.numbers().into_iter().eq(0..20));
        stop.notify_one();
        ran.await.unwrap().unwrap();
    });
}

#[test]
fn what_is_dropped_is_counted_and_the_rest_is_in_order() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small().overflow(Overflow::DropOldest));
        channel.blocking_subscribe("g").unwrap();
        for n in 0..5000 {
            channel.sender().send(body(n, 100)).await.unwrap();
        }
        channel.close();
        let engine = Engine::default();
        let status = start(impatient(&channel), &engine).0.await.unwrap().unwrap();
        assert!(status.lagged > 0);
        assert!(engine.numbers().into_iter().eq(status.lagged..5000));
    });
}

#[test]
fn a_message_that_another_receiver_had_too_long_becomes_a_dead_letter() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small().max_attempts(10));
        let mut other = channel.blocking_subscribe("g").unwrap();
        for n in 0..100 {
            channel.sender().send(body(n, 50)).await.unwrap();
        }
        let late = other.try_lease().unwrap();
        let engine = Engine::default();
        let (ran, stop) = start(impatient(&channel), &engine);
        until("it has the others", || lag(&channel) == 1).await;
        drop(late);
        until("it is done with all", || lag(&channel) == 0).await;
        stop.notify_one();
        assert_eq!(ran.await.unwrap().unwrap().refused, 1);
        assert!(engine.numbers().into_iter().eq(1..100));
        let mut letters = channel.dead_letters().await.unwrap();
        let letter = letters.try_recv().unwrap();
        assert_eq!(number(DeadLetter::parse(&letter).unwrap().message()), 0);
    });
}
