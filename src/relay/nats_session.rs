//! What is handed over to NATS JetStream in one connection, and what the answers prove.
//!
//! **Invariants.**
//! - Each message says what it must follow, so that if one is lost with a connection, or refused, none behind it is
//!   stored. And what a connection that was given up, or a relay that was stopped, still has on its way is stored in its
//!   place or not at all: whoever comes second at a place is refused, connects again, and sees what is there.
//! - *One by one*: a message names the sequence of the last message of the subject
//!   (`Nats-Expected-Last-Subject-Sequence`), and the next one is sent when it is answered. If it was refused because
//!   another is the last by now (somebody else's, or none since the stream gave it away), it is sent again behind that.
//! - *In a chain*: each but the first names the message before it (`Nats-Expected-Last-Msg-Id`), as its sequence is not
//!   known yet. (A guess would not do. If it were too low by two, say, the message behind the next one would fit, and the
//!   next one be left out.) The first, the head, is sent when nothing is unanswered, and names a sequence.
//! - There are chains only in streams with one replica that keep their messages. Several replicas compare names each for
//!   itself with what it remembers, and one that was away remembers another name: from then on it refuses what the others
//!   store. And where messages are given away, it cannot be seen afterwards which of a chain was stored.
//! - While messages of a chain are stored, nobody else's come between them, as the name of the last message of the stream
//!   would be another. So the sequence of the n-th behind the head is the head's and n if all before it are stored, and
//!   lower if not.
//! - That is why only the head and the last of each batch ask for an answer. What the head is told stands for the head
//!   alone. The others are taken for stored, all up to the one that asked, if its sequence is that of its place, and for
//!   nothing else. Not because it was stored: some servers take the name of a message that an account's limit refused for
//!   that of the last one. And none of a chain may be a duplicate, the head neither: what was stored at another time says
//!   nothing about those between.
//! - Of those that did not ask no error is told; but then the next that asks does not follow what it names, or has not the
//!   sequence of its place. Then, as after any refusal, the next ones go one by one, and it shows which it is.
//! - Only what is sent with nothing unanswered before it is refused for good: what it follows is there then, and what it
//!   follows by a name may make it too long.
//! - What was confirmed is told before the error behind it. Nothing is handed over behind an error.

use super::SinkError;
use super::nats_headers::headers;
use super::nats_stream::{OurStream, message_id};
use crate::{Lease, Offset};
use async_nats::header::{NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::context::traits::TimeoutProvider;
use async_nats::jetstream::context::{Context as JetStream, PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{Config, RetentionPolicy};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, HeaderMap, client};
use std::collections::VecDeque;
use std::error::Error;
use std::future::{IntoFuture, pending, poll_fn};
use std::task::{Context, Poll};
use tokio::sync::watch;
use tokio::task::unconstrained;
use tokio::time::timeout;

/// Messages that go one by one after a refusal.
const CAREFUL: usize = 256;
/// How often in a row a message is sent again behind another last one, before that counts as an error.
const AGAIN: usize = 16;

/// A connection, until its first error.
pub struct Session {
    context: JetStream,
    client: Client,
    stream: OurStream,
    /// What that is called.
    name: String,
    /// Whether it skips messages that nobody wants, and remembers their names.
    skips: bool,
    /// Whether there are chains.
    chains: bool,
    /// Turns true when the connection broke.
    broken: watch::Receiver<bool>,
    /// How many of the next go one by one, though there are chains.
    careful: usize,
    /// Those that go one by one. The first may be handed over.
    queue: VecDeque<Message>,
    /// Whether it is not known if the first of those was handed over.
    handing_over: bool,
    /// How often that was refused for what it follows.
    again: usize,
    /// What the next message is to follow.
    last: Last,
    /// The sequence that the chain's head names.
    follows: u64,
    /// The sequence of the head, once it is known.
    head: u64,
    /// The place of the next message in the chain: how far it is behind the head.
    place: u64,
    /// What asked and has no answer, in order. While there are others in flight, there is one of these before them: answers
    /// are taken between batches, and the last of each asks.
    asked: VecDeque<Asked>,
    /// The last that is confirmed, if that was not told.
    confirmed: Option<Offset>,
    /// What went wrong behind that.
    failed: Option<SinkError>,
}

/// The last message of the subject.
enum Last {
    /// It is to be looked for.
    Unknown,
    /// That is stored, by its sequence; 0 is none.
    Stored(u64),
    /// That was handed over, by its name.
    Named(String),
}

/// A message to hand over.
#[derive(Clone)]
struct Message {
    offset: Offset,
    id: String,
    headers: HeaderMap,
    payload: Vec<u8>,
}

/// A message whose answer is awaited.
struct Asked {
    offset: Offset,
    place: u64,
    answer: <PublishAckFuture as IntoFuture>::IntoFuture,
}

impl Message {
    fn new(uuid: u128, lease: &Lease) -> Self {
        let (offset, id, mut headers) = (lease.offset(), message_id(uuid, lease.offset()), headers(lease));
        headers.insert(NATS_MESSAGE_ID, id.as_str());
        Self { offset, id, headers, payload: lease.to_vec() }
    }
}

impl Session {
    /// A connection that goes on behind the message with the sequence `last`, after one that left `careful`.
    pub fn new(
        context: JetStream,
        broken: watch::Receiver<bool>,
        stream: OurStream,
        config: &Config,
        last: u64,
        careful: usize,
    ) -> Self {
        let one_replica = config.num_replicas <= 1;
        let client = context.client();
        Self {
            context,
            client,
            stream,
            name: config.name.clone(),
            skips: one_replica && config.retention == RetentionPolicy::Interest,
            chains: one_replica && config.retention == RetentionPolicy::Limits,
            broken,
            careful,
            queue: VecDeque::new(),
            handing_over: false,
            again: 0,
            last: Last::Stored(last),
            follows: 0,
            head: 0,
            place: 0,
            asked: VecDeque::new(),
            confirmed: None,
            failed: None,
        }
    }

    pub fn stream(&self) -> &OurStream {
        &self.stream
    }

    /// How many have to go one by one in the next connection.
    pub fn careful(&self) -> usize {
        self.careful
    }

    /// Hands messages over, up to an error, which [`confirmed`](Self::confirmed) tells; it also hands over those that go
    /// one by one.
    pub async fn publish(&mut self, batch: &[Lease]) {
        if self.failed.is_some() {
            return;
        }
        // Of those that go one by one it is the one that asked.
        let handed_over = if self.queue.is_empty() { 0 } else { self.asked.len() };
        self.queue.extend(batch.iter().map(|lease| Message::new(self.stream.uuid, lease)));
        let is_known = !self.handing_over && !matches!(self.last, Last::Unknown);
        if self.chains && self.careful == 0 && is_known {
            let mut messages = std::mem::take(&mut self.queue);
            messages.drain(..handed_over);
            self.hand_over(messages).await;
        }
    }

    /// Waits until the server has confirmed more, and says up to where; or what went wrong.
    ///
    /// Cancel safe, but if it is dropped while it waits to hand a message over, that is an error.
    pub async fn confirmed(&mut self) -> Result<Offset, SinkError> {
        loop {
            poll_fn(|cx| Poll::Ready(self.poll_answers(cx))).await;
            if let Some(confirmed) = self.confirmed.take() {
                return Ok(confirmed);
            }
            if let Some(failed) = self.failed.take() {
                return Err(failed);
            }
            if !self.asked.is_empty() {
                self.take_answers().await;
            } else if !self.queue.is_empty() {
                self.hand_over_next().await;
            } else {
                pending().await // nothing was handed over
            }
        }
    }

    /// Hands over the next of those that go one by one.
    async fn hand_over_next(&mut self) {
        let Some(message) = self.queue.front().cloned() else { return };
        if self.handing_over {
            self.failed = Some(SinkError::retry("it was interrupted"));
            return;
        }
        if matches!(self.last, Last::Unknown) {
            match self.stream.newest().await {
                Ok((_, Some(newest))) if newest >= message.offset => {
                    self.failed = Some(SinkError::retry("the stream has the message of somebody else"));
                    return;
                }
                Ok((last, _)) => self.last = Last::Stored(last),
                Err(error) => {
                    self.failed = Some(error);
                    return;
                }
            }
        }
        self.handing_over = true;
        // Not interrupted for the sake of other tasks, either.
        unconstrained(self.hand_over(VecDeque::from([message]))).await;
        self.handing_over = false;
    }

    /// Hands messages over, of which the last asks for an answer.
    async fn hand_over(&mut self, messages: VecDeque<Message>) {
        let mut broken = self.broken.clone();
        let sent = tokio::select! {
            biased;
            () = is_broken(&mut broken) => Err(connection_broke()),
            sent = self.send_all(messages) => sent,
        };
        self.failed = sent.err();
    }

    async fn send_all(&mut self, mut messages: VecDeque<Message>) -> Result<(), SinkError> {
        while let Some(message) = messages.pop_front() {
            self.send(message, messages.is_empty()).await?;
        }
        Ok(())
    }

    async fn send(&mut self, message: Message, asks: bool) -> Result<(), SinkError> {
        let Message { offset, id, mut headers, payload } = message;
        match &self.last {
            Last::Stored(sequence) => {
                self.follows = *sequence;
                headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string());
            }
            Last::Named(id) => headers.insert(NATS_EXPECTED_LAST_MESSAGE_ID, id.as_str()),
            Last::Unknown => return Err(SinkError::retry("the last message is not known")),
        }
        if self.asked.is_empty() {
            self.place = 0;
        }
        let subject = self.stream.subject.clone();
        if asks || self.place == 0 {
            let message = PublishMessage::build().headers(headers).payload(payload.into());
            let answer = match self.context.send_publish(subject, message).await {
                Ok(answer) => answer.into_future(),
                Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                    return Err(self.too_long(offset, error));
                }
                Err(error) => return Err(SinkError::retry(error)),
            };
            self.asked.push_back(Asked { offset, place: self.place, answer });
        } else {
            let sent =
                timeout(self.context.timeout(), self.client.publish_with_headers(subject, headers, payload.into()));
            match sent.await.map_err(SinkError::retry)? {
                Ok(()) => {}
                Err(error) if error.kind() == client::PublishErrorKind::MaxPayloadExceeded => {
                    return Err(self.too_long(offset, error));
                }
                Err(error) => return Err(SinkError::retry(error)),
            }
        }
        self.last = Last::Named(id);
        self.place += 1;
        Ok(())
    }

    /// What is to be done about a message that the connection does not take.
    fn too_long(&mut self, offset: Offset, error: impl Error + Send + Sync + 'static) -> SinkError {
        if self.place == 0 {
            return SinkError::refused(offset, error);
        }
        self.careful = CAREFUL;
        SinkError::retry(error)
    }

    /// Waits for the next answer, and takes those that came with it.
    async fn take_answers(&mut self) {
        let mut broken = self.broken.clone();
        let came = poll_fn(|cx| if self.poll_answers(cx) { Poll::Ready(()) } else { Poll::Pending });
        tokio::select! {
            biased;
            () = came => {}
            () = is_broken(&mut broken) => self.failed = Some(connection_broke()),
        }
    }

    /// Takes the answers that are there, up to the first that is not, or is not good. The server answers in order.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> bool {
        let mut some = false;
        while let Some(Asked { answer, .. }) = self.asked.front_mut()
            && let Poll::Ready(answer) = answer.as_mut().poll(cx)
            && let Some(Asked { offset, place, .. }) = self.asked.pop_front()
        {
            some = true;
            if !self.queue.is_empty() && self.again < AGAIN && answer.as_ref().is_err_and(is_behind_another) {
                self.last = Last::Unknown;
                self.again += 1;
                break;
            }
            match self.stored(offset, place, answer) {
                Ok(ack) => {
                    self.confirmed = Some(offset);
                    if self.queue.pop_front().is_some() {
                        self.careful = self.careful.saturating_sub(1);
                        self.again = 0;
                    }
                    if self.asked.is_empty() {
                        // If it was there before, what it was to follow is still the last.
                        self.last = Last::Stored(if ack.duplicate { self.follows } else { ack.sequence });
                    }
                }
                Err(error) => {
                    self.failed = Some(error);
                    self.asked.clear();
                }
            }
        }
        some
    }

    /// The answer, if it says that this message and all before it are stored.
    fn stored(
        &mut self,
        offset: Offset,
        place: u64,
        answer: Result<PublishAck, PublishError>,
    ) -> Result<PublishAck, SinkError> {
        let ack = answer.map_err(|error| self.refusal(offset, place, error))?;
        if ack.stream != self.name {
            return Err(SinkError::retry(format!("the stream {} has the subject", ack.stream)));
        }
        // Replicas may not have it yet, and never get it.
        if ack.sequence == 0 && !(self.skips && ack.duplicate) {
            return Err(SinkError::retry("the server does not say where it has the message"));
        }
        if place == 0 {
            self.head = ack.sequence;
        }
        let is_in_a_chain = self.place > 1;
        if ack.sequence != self.head + place || (ack.duplicate && is_in_a_chain) {
            self.careful = CAREFUL;
            return Err(SinkError::retry("the server stored a message, and not all of those that it follows"));
        }
        Ok(ack)
    }

    /// What is to be done when the server has not stored a message.
    fn refusal(&mut self, offset: Offset, place: u64, error: PublishError) -> SinkError {
        match code(&error) {
            None => SinkError::retry(error),
            Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM)
                if place == 0 =>
            {
                SinkError::refused(offset, error)
            }
            Some(ErrorCode::STREAM_SEALED) => SinkError::fatal(error),
            // It may be so of one before it, or have been.
            Some(_) => {
                self.careful = CAREFUL;
                SinkError::retry(error)
            }
        }
    }
}

/// What JetStream itself says.
fn code(error: &PublishError) -> Option<ErrorCode> {
    let said = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    said.map(jetstream::Error::error_code)
}

fn is_behind_another(error: &PublishError) -> bool {
    // The other is said by replicas while another message is on its way.
    let codes = [ErrorCode::STREAM_WRONG_LAST_SEQUENCE, ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT];
    code(error).is_some_and(|code| codes.contains(&code))
}

fn connection_broke() -> SinkError {
    SinkError::retry("the connection broke")
}

async fn is_broken(broken: &mut watch::Receiver<bool>) {
    // An error: the client is gone, and the connection with it.
    let _ = broken.wait_for(|broken| *broken).await;
}
