//! What is handed over to NATS JetStream in one connection, and what the answers prove.
//!
//! **Invariants.**
//! - Each message says what it must follow. The first names the sequence of the last message of the subject
//!   (`Nats-Expected-Last-Subject-Sequence`), which is known. Each of the next names the one before it
//!   (`Nats-Expected-Last-Msg-Id`): its sequence is not known yet. (A guess would not do. If it were too low by two, say,
//!   the message behind the next one would fit, and the next one be left out.) So if one is lost with a connection, or
//!   refused, none behind it is stored. And what a connection that was given up, or a relay that was stopped, still has
//!   on its way is stored in its place or not at all: whoever comes second at a place is refused, connects again, and
//!   sees what is there.
//! - A *chain* is a message that names a sequence, its head, and those that name one another behind it. While messages of
//!   a chain are stored, nobody else's come between them, as the name of the last message of the stream would be another.
//!   So the sequence of the n-th behind the head is the head's and n if all before it are stored, and lower if not.
//! - That is why only the head and the last of each batch ask for an answer. What the head is told stands for the head
//!   alone. The others are taken for stored, all up to the one that asked, if its sequence is that of its place, and for
//!   nothing else. Not because it was stored: some servers take the name of a message that an account's limit refused for
//!   that of the last one. And not because it is a duplicate, which is said of that message alone.
//! - Of those that did not ask no error is told; but then the next that asks does not follow what it names, or has not the
//!   sequence of its place. Then the next ones go one by one, each the head of a chain: so it shows which it is. That is
//!   also the way out when others publish to the stream, so that a name is not the last one's though nothing is missing.
//! - What was confirmed is told before the error behind it. Nothing is handed over behind an error.

use super::SinkError;
use super::nats::PATIENCE;
use super::nats_headers::headers;
use super::nats_stream::{OurStream, message_id};
use crate::{Lease, Offset};
use async_nats::header::{NATS_EXPECTED_LAST_MESSAGE_ID, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::jetstream::context::{Context as JetStream, PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, HeaderMap, client};
use std::collections::VecDeque;
use std::error::Error;
use std::future::{IntoFuture, pending, poll_fn};
use std::task::{Context, Poll};
use tokio::sync::watch;
use tokio::time::timeout;

/// Messages that go one by one after something went wrong with one that had not asked for an answer.
const CAREFUL: usize = 256;

/// A connection, until its first error.
pub struct Session {
    context: JetStream,
    client: Client,
    stream: OurStream,
    /// Turns true when the connection broke.
    broken: watch::Receiver<bool>,
    /// How many of the next go one by one.
    careful: usize,
    /// Whether the last message can be gone when the next one comes.
    gives_away: bool,
    /// What the next message is to follow.
    last: Last,
    /// The sequence of the chain's head, once it is known.
    head: u64,
    /// The place of the next message in the chain.
    place: u64,
    /// What asked and has no answer, in order.
    asked: VecDeque<Asked>,
    /// Whether there are some behind those.
    unasked: bool,
    /// The last that is confirmed, if that was not told.
    confirmed: Option<Offset>,
    /// What went wrong behind that.
    failed: Option<SinkError>,
    /// Whether it may have been with a message that had not asked.
    in_doubt: bool,
}

/// The last message of the subject.
enum Last {
    /// That is stored, by its sequence; 0 is none.
    Stored(u64),
    /// That was handed over, by its name.
    Named(String),
}

/// A message whose answer is awaited.
struct Asked {
    offset: Offset,
    /// How far it is behind the head of its chain.
    place: u64,
    follows: Last,
    answer: <PublishAckFuture as IntoFuture>::IntoFuture,
}

impl Session {
    /// A connection that goes on behind the message with the sequence `last`, after that of which `careful` is left.
    pub fn new(
        context: JetStream,
        client: Client,
        stream: OurStream,
        broken: watch::Receiver<bool>,
        last: u64,
        gives_away: bool,
        careful: usize,
    ) -> Self {
        Self {
            context,
            client,
            stream,
            broken,
            careful,
            gives_away,
            last: Last::Stored(last),
            head: 0,
            place: 0,
            asked: VecDeque::new(),
            unasked: false,
            confirmed: None,
            failed: None,
            in_doubt: false,
        }
    }

    pub fn stream(&self) -> &OurStream {
        &self.stream
    }

    /// How many have to go one by one in the next connection.
    pub fn careful(&self) -> usize {
        if self.in_doubt { CAREFUL } else { self.careful }
    }

    /// Hands messages over, up to an error, which [`confirmed`](Self::confirmed) tells.
    pub async fn publish(&mut self, subject: &str, batch: &[Lease]) {
        for (n, lease) in batch.iter().enumerate() {
            if self.failed.is_some() {
                return;
            }
            let asks = self.careful > 0 || n + 1 == batch.len();
            let mut broken = self.broken.clone();
            let sent = tokio::select! {
                biased;
                () = is_broken(&mut broken) => Err(connection_broke()),
                sent = self.send(subject.to_owned(), lease, asks) => sent,
            };
            self.failed = sent.err();
            if self.careful > 0 {
                self.answered().await;
                self.careful -= 1;
            }
        }
    }

    async fn send(&mut self, subject: String, lease: &Lease, asks: bool) -> Result<(), SinkError> {
        let (offset, id) = (lease.offset(), message_id(self.stream.uuid, lease.offset()));
        let mut headers = headers(lease);
        headers.insert(NATS_MESSAGE_ID, id.as_str());
        let (name, last) = match &self.last {
            Last::Stored(sequence) => (NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string()),
            Last::Named(id) => (NATS_EXPECTED_LAST_MESSAGE_ID, id.clone()),
        };
        headers.insert(name, last);
        if self.is_all_answered() {
            self.place = 0;
        }
        if asks || self.place == 0 {
            let answer = self.ask(subject, headers, lease).await?;
            let follows = std::mem::replace(&mut self.last, Last::Named(id));
            self.asked.push_back(Asked { offset, place: self.place, follows, answer });
            self.unasked = false;
        } else {
            let sent = timeout(PATIENCE, self.client.publish_with_headers(subject, headers, lease.to_vec().into()));
            match sent.await.map_err(SinkError::retry)? {
                Ok(()) => {}
                Err(error) if error.kind() == client::PublishErrorKind::MaxPayloadExceeded => {
                    return Err(self.too_long(offset, error).await);
                }
                Err(error) => return Err(SinkError::retry(error)),
            }
            self.last = Last::Named(id);
            self.unasked = true;
        }
        self.place += 1;
        Ok(())
    }

    fn is_all_answered(&self) -> bool {
        self.asked.is_empty() && !self.unasked
    }

    async fn ask(
        &mut self,
        subject: String,
        headers: HeaderMap,
        lease: &Lease,
    ) -> Result<<PublishAckFuture as IntoFuture>::IntoFuture, SinkError> {
        let message = PublishMessage::build().headers(headers).payload(lease.to_vec().into());
        match self.context.send_publish(subject, message).await {
            Ok(answer) => Ok(answer.into_future()),
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(self.too_long(lease.offset(), error).await)
            }
            Err(error) => Err(SinkError::retry(error)),
        }
    }

    /// What to do about a message that the connection does not take: what is before it has to be stored before it can be
    /// refused.
    async fn too_long(&mut self, offset: Offset, error: impl Error + Send + Sync + 'static) -> SinkError {
        if self.unasked {
            self.in_doubt = true;
            return SinkError::retry(error);
        }
        self.answered().await;
        self.failed.take().unwrap_or_else(|| SinkError::refused(offset, error))
    }

    /// Waits until the server has confirmed more, and says up to where; or what went wrong.
    pub async fn confirmed(&mut self) -> Result<Offset, SinkError> {
        loop {
            if let Some(confirmed) = self.confirmed.take() {
                return Ok(confirmed);
            }
            if let Some(failed) = self.failed.take() {
                return Err(failed);
            }
            if self.asked.is_empty() {
                pending().await // nothing was handed over
            }
            self.take_answers().await;
        }
    }

    /// Waits until all that asked have their answers, or something is wrong.
    async fn answered(&mut self) {
        while self.failed.is_none() && !self.asked.is_empty() {
            self.take_answers().await;
        }
    }

    /// Waits for the next answer, and takes those that came with it.
    async fn take_answers(&mut self) {
        let mut broken = self.broken.clone();
        tokio::select! {
            biased;
            () = poll_fn(|cx| self.poll_answers(cx)) => {}
            () = is_broken(&mut broken) => self.failed = Some(connection_broke()),
        }
    }

    /// Takes the answers that are there, up to the first that is not, or is not good. The server answers in order.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut taken = Poll::Pending;
        while self.failed.is_none()
            && let Some(Asked { answer, .. }) = self.asked.front_mut()
            && let Poll::Ready(answer) = answer.as_mut().poll(cx)
            && let Some(Asked { offset, place, follows, .. }) = self.asked.pop_front()
        {
            match self.stored(offset, place, answer) {
                Ok(ack) => {
                    self.confirmed = Some(offset);
                    if self.is_all_answered() && place == 0 && ack.duplicate {
                        // It was there before: what it was to follow is still the last.
                        self.last = follows;
                    } else if self.is_all_answered() && !self.gives_away {
                        self.last = Last::Stored(ack.sequence);
                    }
                }
                Err(error) => self.failed = Some(error),
            }
            taken = Poll::Ready(());
        }
        taken
    }

    /// The answer, if it says that this message and all before it are stored.
    fn stored(
        &mut self,
        offset: Offset,
        place: u64,
        answer: Result<PublishAck, PublishError>,
    ) -> Result<PublishAck, SinkError> {
        let ack = answer.map_err(|error| self.refusal(offset, place, error))?;
        if ack.sequence == 0 {
            // It may be on its way, and come to nothing.
            return Err(SinkError::retry("the server does not say where it has the message"));
        }
        if place == 0 {
            self.head = ack.sequence;
        }
        if ack.sequence != self.head + place {
            self.in_doubt = true;
            return Err(SinkError::retry("the server stored a message, and not all of those that it follows"));
        }
        Ok(ack)
    }

    /// What is to be done when the server has not stored a message.
    fn refusal(&mut self, offset: Offset, place: u64, error: PublishError) -> SinkError {
        let said = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
        match (place, said.map(jetstream::Error::error_code)) {
            // It may be so of one before it, too.
            (1.., Some(_)) => {
                self.in_doubt = true;
                SinkError::retry(error)
            }
            (_, Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM | ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM)) => {
                SinkError::refused(offset, error)
            }
            (_, Some(ErrorCode::STREAM_SEALED)) => SinkError::fatal(error),
            _ => SinkError::retry(error),
        }
    }
}

fn connection_broke() -> SinkError {
    SinkError::retry("the connection broke")
}

async fn is_broken(broken: &mut watch::Receiver<bool>) {
    // An error: the client is gone, and the connection with it.
    let _ = broken.wait_for(|broken| *broken).await;
}
