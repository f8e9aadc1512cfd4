//! What a stream of NATS JetStream has of ours.
//!
//! **Invariant.** What the stream has of a channel under a subject is in the order of the offsets, so one of them is
//! found by halves. Messages of others may lie between.

use super::SinkError;
use crate::Offset;
use async_nats::Subject;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, RawMessageError, Stream};
use tokio::task::JoinSet;

/// Messages asked for at once.
const AT_ONCE: u64 = 256;

/// What a message is called.
pub fn message_id(uuid: u128, offset: Offset) -> String {
    format!("{uuid:032x}-{}", offset.as_u64())
}

/// A stream with a subject of ours.
#[derive(Clone)]
pub struct OurStream {
    stream: Stream<()>,
    pub subject: Subject,
    /// The channel's.
    pub uuid: u128,
}

/// Nothing, if there is none.
fn if_there(found: Result<StreamMessage, RawMessageError>) -> Result<Option<StreamMessage>, SinkError> {
    match found {
        Ok(message) => Ok(Some(message)),
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(SinkError::retry(error)),
    }
}

impl OurStream {
    pub fn new(stream: Stream<()>, subject: Subject, uuid: u128) -> Self {
        Self { stream, subject, uuid }
    }

    /// The offset of a message, if it is of our channel.
    fn ours(&self, message: &StreamMessage) -> Option<Offset> {
        let id = message.headers.get(async_nats::header::NATS_MESSAGE_ID)?.as_str();
        let (uuid, offset) = id.split_once('-')?;
        let offset = Offset::from_u64(offset.parse().ok()?);
        (uuid == format!("{:032x}", self.uuid)).then_some(offset)
    }

    /// The sequence of the last message of the subject, 0 without any, and the offset of our last one.
    pub async fn newest(&self) -> Result<(u64, Option<Offset>), SinkError> {
        let Some(last) = if_there(self.stream.get_last_raw_message_by_subject(&self.subject).await)? else {
            return Ok((0, None));
        };
        if let Some(offset) = self.ours(&last) {
            return Ok((last.sequence, Some(offset)));
        }
        // Of somebody else, or of a channel that was here before: ours may be behind it.
        let first = self.stream.get_info().await.map_err(SinkError::retry)?.state.first_sequence;
        let mut end = last.sequence;
        while end > first {
            let begin = end.saturating_sub(AT_ONCE).max(first);
            if let Some((_, offset)) = self.between(begin, end).await?.pop() {
                return Ok((last.sequence, Some(offset)));
            }
            end = begin;
        }
        Ok((last.sequence, None))
    }

    /// Those of ours from a sequence up to another, without that, in order.
    async fn between(&self, begin: u64, end: u64) -> Result<Vec<(u64, Offset)>, SinkError> {
        let mut asked = JoinSet::new();
        for sequence in begin..end {
            let this = self.clone();
            asked.spawn(async move {
                let message = if_there(this.stream.get_raw_message(sequence).await)?;
                let of_subject = message.filter(|message| *message.subject == *this.subject);
                Ok(of_subject.and_then(|message| Some((sequence, this.ours(&message)?))))
            });
        }
        let mut found = Vec::new();
        while let Some(answer) = asked.join_next().await {
            found.extend(answer.map_err(SinkError::retry)??);
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The first of ours at or behind a sequence.
    async fn next(&self, mut sequence: u64) -> Result<Option<(u64, Offset)>, SinkError> {
        loop {
            let next = self.stream.get_first_raw_message_by_subject(&self.subject, sequence).await;
            let Some(message) = if_there(next)? else { return Ok(None) };
            if let Some(offset) = self.ours(&message) {
                return Ok(Some((message.sequence, offset)));
            }
            sequence = message.sequence + 1;
        }
    }

    /// Which of these, in order, the stream does not have.
    pub async fn missing(&self, offsets: &[Offset]) -> Result<Vec<Offset>, SinkError> {
        let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) else { return Ok(Vec::new()) };
        let state = self.stream.get_info().await.map_err(SinkError::retry)?.state;
        let (mut low, mut high) = (state.first_sequence, state.last_sequence + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.next(middle).await? {
                Some((sequence, offset)) if offset < first => low = sequence + 1,
                _ => high = middle,
            }
        }
        let mut missing = offsets.to_vec();
        while low <= state.last_sequence {
            let there = self.between(low, low + AT_ONCE).await?;
            missing.retain(|offset| !there.iter().any(|(_, there)| there == offset));
            if there.last().is_some_and(|&(_, offset)| offset >= last) || missing.is_empty() {
                break;
            }
            low += AT_ONCE;
        }
        let is_whole = state.first_sequence <= 1 && state.messages == state.last_sequence;
        if !is_whole && !missing.is_empty() {
            // It may have had what lies before the first that it kept.
            let first = self.next(state.first_sequence).await?.map(|(_, offset)| offset);
            missing.retain(|offset| Some(*offset) > first);
        }
        Ok(missing)
    }
}
