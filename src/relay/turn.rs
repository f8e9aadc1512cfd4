//! What a relay does while it holds the group.
//!
//! The invariants are those of `relay.rs`.

use super::{Hold, Relay, RelayError, Reporter, Sink, SinkError, SinkErrorKind, is_stopped};
use crate::off_thread::off_thread;
use crate::{Lease, Offset, Receiver, RecvError, RejectError};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::backoff::Backoff;

/// How often the relay says how it stands.
const REPORT: Duration = Duration::from_secs(1);

/// Why a turn is over.
pub enum Ended {
    /// It was told to stop, or nothing will come any more.
    Over,
    /// The group was moved, or removed.
    Lost,
}

/// Why nothing is handed over for the moment.
enum Broken {
    Sink(SinkError),
    /// It may be that the engine does not have what it had: to be asked.
    Doubt,
    /// For good.
    Relay(RelayError),
}

impl From<SinkError> for Broken {
    fn from(error: SinkError) -> Self {
        Self::Sink(error)
    }
}

impl From<RelayError> for Broken {
    fn from(error: RelayError) -> Self {
        Self::Relay(error)
    }
}

/// A turn of being the active relay.
pub struct Turn<'a, S> {
    relay: &'a Relay,
    receiver: &'a mut Receiver,
    sink: &'a mut S,
    reporter: &'a Reporter,
    stopped: &'a mut watch::Receiver<bool>,
    ticks: Interval,
    /// Most that is handed over at once.
    batch: usize,
    /// What is not confirmed, in order.
    held: VecDeque<Lease>,
    /// How many of those were handed over since the sink connected.
    published: usize,
    /// The last that the engine has, or was handed.
    last: Option<Offset>,
    /// Confirmed, and not done: the lease had been taken away, so it comes again.
    taken: BTreeSet<Offset>,
    /// After the leases: what is out keeps the group.
    hold: Hold,
}

impl<'a, S: Sink> Turn<'a, S> {
    pub fn new(
        relay: &'a Relay,
        receiver: &'a mut Receiver,
        hold: Hold,
        sink: &'a mut S,
        reporter: &'a Reporter,
        stopped: &'a mut watch::Receiver<bool>,
    ) -> Self {
        let mut ticks = interval(REPORT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let batch = relay.batch.min(relay.window.div_ceil(4));
        let (held, published, last, taken) = (VecDeque::new(), 0, None, BTreeSet::new());
        Self { relay, receiver, sink, reporter, stopped, ticks, batch, held, published, last, taken, hold }
    }

    /// Relays until it is told to stop, or the group is lost.
    pub async fn run(&mut self, backoff: &mut Backoff) -> Result<Ended, RelayError> {
        loop {
            let error = match self.connect_and_relay(backoff).await {
                Ok(ended) => return Ok(ended),
                Err(Broken::Relay(error)) => return Err(error),
                Err(Broken::Doubt) => continue,
                Err(Broken::Sink(error)) => error,
            };
            self.reporter.failed(&error).await;
            match error.kind() {
                SinkErrorKind::Fatal => return Err(RelayError::Sink(error)),
                SinkErrorKind::Refused(offset) if self.refuse(offset, error).await? => {}
                SinkErrorKind::Retry | SinkErrorKind::Refused(_) => {
                    tokio::select! {
                        () = tokio::time::sleep(backoff.pause()) => {}
                        () = is_stopped(self.stopped) => return Ok(Ended::Over),
                    }
                }
            }
        }
    }

    async fn connect_and_relay(&mut self, backoff: &mut Backoff) -> Result<Ended, Broken> {
        self.published = 0;
        self.last = tokio::select! {
            last = self.sink.connect(&self.reporter.origin) => last?,
            () = is_stopped(self.stopped) => return Ok(Ended::Over),
        };
        if let Some(last) = self.last {
            self.reporter.confirmed(last, 0);
        }
        // What it has of what was in flight.
        let ahead = self.held.partition_point(|lease| Some(lease.offset()) <= self.last);
        let behind = self.held.drain(..ahead).collect();
        self.finish(behind).await?;
        loop {
            if !self.hold.is_of(self.receiver) {
                return Ok(Ended::Lost);
            }
            self.publish().await?;
            let stopping = *self.stopped.borrow();
            if stopping && self.held.is_empty() {
                return Ok(Ended::Over);
            }
            let room = self.relay.window.saturating_sub(self.held.len());
            // A whole batch at once: enough is in flight meanwhile.
            let has_room = room >= self.batch;
            // Confirmations first: they make room.
            tokio::select! {
                biased;
                upto = self.sink.confirmed(), if self.published > 0 => {
                    self.confirmed(upto?);
                    backoff.reset();
                }
                _ = self.ticks.tick() => {
                    // What went with its page comes no more.
                    self.taken = self.taken.split_off(&self.relay.channel.first_offset());
                    self.reporter.look().await;
                }
                () = is_stopped(self.stopped), if !stopping => {}
                leases = self.receiver.lease_many(self.batch), if has_room && !stopping => match leases {
                    Ok(leases) => self.take_in(leases)?,
                    Err(RecvError::Lagged(count)) => self.reporter.lagged(count),
                    Err(RecvError::GroupRemoved) => return Ok(Ended::Lost),
                    // Closed: nothing more comes.
                    Err(RecvError::Disconnected) if self.held.is_empty() => return Ok(Ended::Over),
                    Err(RecvError::Disconnected) => {
                        let upto = self.sink.confirmed().await?;
                        self.confirmed(upto);
                    }
                    Err(error) => return Err(RelayError::Recv(error).into()),
                },
            }
        }
    }

    /// Hands over what was not yet.
    async fn publish(&mut self) -> Result<(), SinkError> {
        while self.published < self.held.len() {
            let held = self.held.make_contiguous();
            let more = self.batch.min(held.len() - self.published);
            let batch = &held[self.published..self.published + more];
            self.sink.publish(batch).await?;
            self.last = batch.last().map(Lease::offset);
            self.published += more;
        }
        Ok(())
    }

    /// The engine has everything up to here.
    fn confirmed(&mut self, upto: Offset) {
        let mut more = 0;
        while self.published > 0 && self.held.front().is_some_and(|lease| lease.offset() <= upto) {
            let Some(lease) = self.held.pop_front() else { break };
            self.published -= 1;
            more += 1;
            self.done(lease);
        }
        if more > 0 {
            self.reporter.confirmed(upto, more);
        }
    }

    fn done(&mut self, lease: Lease) {
        let offset = lease.offset();
        // Somebody else's by now: it comes again, and is done then.
        if lease.ack().is_err() {
            self.taken.insert(offset);
        }
    }

    /// Puts what was leased behind what is held. What does not belong there was published by somebody, or the engine has
    /// lost it, or it comes too late.
    fn take_in(&mut self, leases: Vec<Lease>) -> Result<(), Broken> {
        let mut doubt = false;
        for lease in leases {
            let offset = lease.offset();
            if self.taken.remove(&offset) {
                self.done(lease);
            } else if let Ok(at) = self.held.binary_search_by_key(&offset, Lease::offset) {
                // It was taken away from this relay, by time, and has come back.
                self.held[at] = lease;
            } else {
                doubt |= Some(offset) <= self.held.back().map(Lease::offset).max(self.last);
                self.held.push_back(lease);
            }
        }
        if doubt {
            self.held.make_contiguous().sort_by_key(Lease::offset);
            return Err(Broken::Doubt);
        }
        Ok(())
    }

    /// Is done with what the engine has; what it does not have, though it has what is behind it, came too late.
    async fn finish(&mut self, leases: Vec<Lease>) -> Result<(), Broken> {
        if leases.is_empty() {
            return Ok(());
        }
        let offsets: Vec<Offset> = leases.iter().map(Lease::offset).collect();
        let missing = match self.sink.missing(&offsets).await {
            Ok(missing) => missing,
            Err(error) => {
                // Once more after connecting.
                leases.into_iter().rev().for_each(|lease| self.held.push_front(lease));
                return Err(error.into());
            }
        };
        for lease in leases {
            let offset = lease.offset();
            if missing.contains(&offset) {
                let late = "the engine has what comes behind it: another receiver of the group had it, or the engine refused it";
                let error = SinkError::refused(offset, late);
                self.reporter.failed(&error).await;
                reject(self.reporter, lease, error).await?;
            } else {
                self.reporter.confirmed(offset, 1);
                self.done(lease);
            }
        }
        Ok(())
    }

    /// Makes a message that is held a dead letter. False if there is none there.
    async fn refuse(&mut self, offset: Offset, error: SinkError) -> Result<bool, RelayError> {
        let at = self.held.binary_search_by_key(&offset, Lease::offset).ok();
        let Some(lease) = at.and_then(|at| self.held.remove(at)) else { return Ok(false) };
        reject(self.reporter, lease, error).await?;
        Ok(true)
    }
}

/// Makes a message a dead letter.
async fn reject(reporter: &Reporter, lease: Lease, error: SinkError) -> Result<(), RelayError> {
    let offset = lease.offset();
    match off_thread(move || lease.reject()).await {
        Err(RejectError::NoDeadLetters) => return Err(RelayError::Refused { offset, source: error }),
        // If it was somebody else's by then, it comes again, and is refused again.
        Err(_) => {}
        Ok(()) => reporter.refused(offset),
    }
    Ok(())
}
