//! What a source asks of the server: a connection, its stream and its consumer.
//!
//! **Invariants.** Nothing here outlives an error: a connection that was lost is not used again, as what was asked for
//! on it may have been handed out.

use super::{FillError, NatsSource};
use async_nats::client::Client;
use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{ConsumerErrorKind, Stream};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{ConnectErrorKind, ConnectOptions, Event};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_core::Stream as _;
use serde_json::{Value, json};
use std::error::Error;
use std::future::{Future, poll_fn, ready};
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long a message may be out before it is handed out again. Nothing is handed out while nothing is asked for, so a
/// send may take longer; and what a filler had that died has come back by then.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// Batches that may be out: one, and those of fillers that died. Each of this size at least, as the next filler may
/// have a longer one than who made the consumer.
const BATCHES_OUT: usize = 8;
const LEAST_BATCH: usize = 256;
/// How long the server is asked to wait for a message.
const WAIT: Duration = Duration::from_secs(5);
/// How long the next message of a batch may take, and the last words of a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes that are fetched at once; a message may be longer.
const MOST_BYTES: usize = 16 << 20;

type BoxError = Box<dyn Error + Send + Sync>;

/// Why nothing is filled for the moment.
pub enum Broken {
    /// To be tried again.
    Engine(BoxError),
    /// For good.
    Fill(FillError),
}

impl From<FillError> for Broken {
    fn from(error: FillError) -> Self {
        Self::Fill(error)
    }
}

/// To be tried again.
fn again(error: impl Into<BoxError>) -> Broken {
    Broken::Engine(error.into())
}

/// A message of the stream.
pub struct Raw {
    pub sequence: u64,
    /// By name; several values of a name in their order.
    pub headers: Vec<(String, String)>,
    pub payload: Vec<u8>,
}

/// A message that was handed out.
pub struct Delivered {
    pub raw: Raw,
    /// The number of the delivery.
    pub number: u64,
    message: jetstream::Message,
}

impl Delivered {
    fn new(mut message: jetstream::Message) -> Result<Self, BoxError> {
        let info = message.info()?;
        let (sequence, number) = (info.stream_sequence, info.consumer_sequence);
        let all = message.headers.iter().flat_map(|headers| headers.iter());
        let each = all.flat_map(|(name, values)| values.iter().map(move |v| (name.to_string(), v.to_string())));
        let mut headers: Vec<_> = each.collect();
        headers.sort_by(|a, b| a.0.cmp(&b.0)); // stable
        let payload = std::mem::take(&mut message.message.payload).into();
        Ok(Self { raw: Raw { sequence, headers, payload }, number, message })
    }

    pub async fn ack(&self) -> Result<(), Broken> {
        self.message.ack().await.map_err(again)
    }
}

/// What the consumer has done, at one moment.
pub struct ConsumerState {
    /// The number of the last delivery.
    pub number: u64,
    /// The highest sequence that was handed out, or passed over.
    pub delivered: u64,
    /// Everything at or below it was acked.
    pub ack_floor: u64,
}

/// A connection, with the stream and the consumer.
pub struct Link {
    client: Client,
    stream: Stream,
    consumer: PullConsumer,
    context: jetstream::Context,
    subject: Option<String>,
    /// Most messages that can be asked for at once: the server leaves a question for more than may be out without an
    /// answer until what is out comes back.
    most: usize,
    lost: watch::Receiver<bool>,
}

impl Link {
    /// Connects; makes the consumer if it is not there.
    pub async fn open(source: &NatsSource, uuid: u128) -> Result<Self, Broken> {
        let fatal = |error: BoxError| FillError::Engine { from: source.address.to_string(), source: error }.into();
        let (connected, mut lost) = connect(&source.address.server);
        let client = connected.await.map_err(|error| match error.kind() {
            ConnectErrorKind::ServerParse
            | ConnectErrorKind::Authentication
            | ConnectErrorKind::AuthorizationViolation => fatal(error.into()),
            _ => again(error),
        })?;
        let context = jetstream::new(client.clone());
        let stream =
            alive(&mut lost, context.get_stream(&source.stream)).await?.map_err(|error| match error.kind() {
                GetStreamErrorKind::EmptyName | GetStreamErrorKind::InvalidStreamName => fatal(error.into()),
                GetStreamErrorKind::JetStream(why)
                    if [ErrorCode::STREAM_NOT_FOUND, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT]
                        .contains(&why.error_code()) =>
                {
                    fatal(error.into())
                }
                _ => again(error),
            })?;
        let name = source.durable.clone().unwrap_or_else(|| format!("disk_chan-{uuid:032x}"));
        let config = pull::Config {
            durable_name: Some(name.clone()),
            description: Some("fills a channel of disk_chan".into()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            filter_subject: source.subject.clone().unwrap_or_default(),
            max_ack_pending: source.batch.max(LEAST_BATCH).saturating_mul(BATCHES_OUT).try_into().unwrap_or(i64::MAX),
            ..Default::default()
        };
        let consumer = stream.get_or_create_consumer(&name, config);
        let consumer: PullConsumer = alive(&mut lost, consumer).await?.map_err(|error| match error.kind() {
            ConsumerErrorKind::InvalidConsumerType | ConsumerErrorKind::InvalidName => fatal(error.into()),
            // Such as a subject that the stream does not have, or that another consumer of a work queue has.
            ConsumerErrorKind::JetStream(why) if why.code() == 400 => fatal(error.into()),
            _ => again(error),
        })?;
        let is = &consumer.cached_info().config;
        let subject = Some(is.filter_subject.clone()).filter(|subject| !subject.is_empty());
        if subject != source.subject
            || is.ack_policy != AckPolicy::Explicit
            || is.max_deliver > 0
            || is.headers_only
            || is.deliver_policy == DeliverPolicy::LastPerSubject
        {
            let error = format!(
                "the consumer {name} of the stream {} exists, and does not hand out every message of {} until it is \
                 acked: choose another name, or delete it",
                source.stream,
                source.subject.as_deref().unwrap_or("the stream"),
            );
            return Err(fatal(error.into()));
        }
        // What is not positive is no limit.
        let limits = [is.max_ack_pending, is.max_batch].into_iter().filter(|limit| *limit > 0);
        let most = limits.filter_map(|limit| limit.try_into().ok()).fold(source.batch, usize::min);
        Ok(Self { client, stream, consumer, context, subject, most, lost })
    }

    /// The source, as the header of its messages begins.
    pub fn prefix(&self) -> String {
        let info = self.stream.cached_info();
        let subject = self.subject.iter().map(|subject| format!("{subject}/")).collect::<String>();
        format!("{}@{}/{subject}", info.config.name, info.created.unix_timestamp_nanos())
    }

    /// The last sequence of the stream.
    pub async fn last_sequence(&self) -> Result<u64, Broken> {
        let info = alive(&mut self.lost.clone(), self.stream.get_info()).await?.map_err(again)?;
        if info.created != self.stream.cached_info().created {
            return Err(again("the stream was made anew"));
        }
        Ok(info.state.last_sequence)
    }

    pub async fn state(&self) -> Result<ConsumerState, Broken> {
        let info = alive(&mut self.lost.clone(), self.consumer.get_info()).await?.map_err(again)?;
        Ok(ConsumerState {
            number: info.delivered.consumer_sequence,
            delivered: info.delivered.stream_sequence,
            ack_floor: info.ack_floor.stream_sequence,
        })
    }

    /// What is in the stream of these sequences: the first of them, up to so many.
    pub async fn stored(&self, range: RangeInclusive<u64>, most: usize) -> Result<Vec<Raw>, Broken> {
        let (mut all, mut bytes, mut from) = (Vec::new(), 0, *range.start());
        while all.len() < most && bytes < MOST_BYTES {
            let Some(raw) = self.stored_from(from).await? else { break };
            if !range.contains(&raw.sequence) {
                break;
            }
            bytes += raw.payload.len();
            from = raw.sequence + 1;
            all.push(raw);
        }
        Ok(all)
    }

    /// The first message at or behind a sequence. The client's own way to ask loses all values of a header but one.
    async fn stored_from(&self, sequence: u64) -> Result<Option<Raw>, Broken> {
        let subject = self.subject.as_deref().unwrap_or(">");
        let asked = json!({ "seq": sequence, "next_by_subj": subject });
        let call = format!("STREAM.MSG.GET.{}", self.stream.cached_info().config.name);
        let said: Value = alive(&mut self.lost.clone(), self.context.request(call, &asked)).await?.map_err(again)?;
        if said["error"]["err_code"] == ErrorCode::NO_MESSAGE_FOUND.0 {
            return Ok(None);
        }
        let wrong = || again(format!("the server gives no message for sequence {sequence}: {}", said["error"]));
        let bytes = |name: &str| STANDARD.decode(said["message"][name].as_str().unwrap_or_default());
        let (payload, block) = bytes("data").and_then(|data| Ok((data, bytes("hdrs")?))).map_err(again)?;
        let sequence = said["message"]["seq"].as_u64().ok_or_else(wrong)?;
        let headers = parse(std::str::from_utf8(&block).map_err(again)?).ok_or_else(wrong)?;
        Ok(Some(Raw { sequence, headers, payload }))
    }

    /// What can be handed out now, up to a batch.
    pub async fn fetch(&mut self) -> Result<Vec<Delivered>, Broken> {
        let asked = self.consumer.fetch().max_messages(self.most).max_bytes(MOST_BYTES).messages();
        let mut batch = alive(&mut self.lost, asked).await?.map_err(again)?;
        let mut all = Vec::new();
        // An error is that too much is out, or the next one too long: then it is waited for. Else that says more.
        while let Some(Ok(message)) = next(&mut self.lost, &mut batch, PATIENCE).await? {
            all.push(Delivered::new(message).map_err(again)?);
        }
        Ok(all)
    }

    /// Waits for a message, and gives up after a while.
    pub async fn wait(&mut self) -> Result<Option<Delivered>, Broken> {
        let asked = self.consumer.batch().max_messages(1).expires(WAIT).messages();
        let mut batch = alive(&mut self.lost, asked).await?.map_err(again)?;
        let one = next(&mut self.lost, &mut batch, WAIT + PATIENCE).await?.transpose().map_err(again)?;
        one.map(Delivered::new).transpose().map_err(again)
    }

    /// Waits until what was said is on its way.
    pub async fn flush(&self) {
        if self.client.connection_state() == State::Connected {
            let _ = timeout(PATIENCE, self.client.flush()).await;
        }
    }
}

/// A connection, and whether it was lost.
fn connect(
    server: &str,
) -> (impl Future<Output = Result<Client, async_nats::ConnectError>> + Send, watch::Receiver<bool>) {
    let (lose, lost) = watch::channel(false);
    // One, as it is not used again.
    let mut options = ConnectOptions::new().max_reconnects(1).event_callback(move |event| {
        if matches!(event, Event::Disconnected | Event::Closed) {
            lose.send_replace(true);
        }
        ready(())
    });
    // As they stand there: in an URL some characters would have to be written in another way.
    let (scheme, rest) = server.split_once("://").unwrap_or(("nats", server));
    let mut address = server.to_owned();
    if let Some((who, host)) = rest.rsplit_once('@') {
        address = format!("{scheme}://{host}");
        options = match who.split_once(':') {
            Some((user, password)) => options.user_and_password(user.into(), password.into()),
            None => options.token(who.into()),
        };
    }
    (options.connect(address), lost)
}

/// What something comes to, if the connection is not lost before.
async fn alive<T>(lost: &mut watch::Receiver<bool>, what: impl Future<Output = T>) -> Result<T, Broken> {
    tokio::select! {
        biased;
        out = what => Ok(out),
        _ = lost.wait_for(|lost| *lost) => Err(again("the connection was lost")),
    }
}

/// The next message of a batch.
async fn next(
    lost: &mut watch::Receiver<bool>,
    batch: &mut pull::Batch,
    patience: Duration,
) -> Result<Option<Result<jetstream::Message, async_nats::Error>>, Broken> {
    let next = poll_fn(|cx| Pin::new(&mut *batch).poll_next(cx));
    let late = |_| again(format!("the server has not answered for {} s", patience.as_secs()));
    alive(lost, timeout(patience, next)).await?.map_err(late)
}

/// The headers in a header block, as the client reads them.
fn parse(block: &str) -> Option<Vec<(String, String)>> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in block.lines().skip(1).filter(|line| !line.is_empty()) {
        match headers.last_mut() {
            Some((_, value)) if line.starts_with(char::is_whitespace) => value.push_str(line),
            _ => headers.push(line.split_once(':').map(|(name, value)| (name.into(), value.trim_start().into()))?),
        }
    }
    for (_, value) in &mut headers {
        value.truncate(value.trim_end().len());
    }
    headers.sort_by(|a, b| a.0.cmp(&b.0)); // stable
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn header_blocks_are_read() {
        let of = |block| {
            let pairs = parse(block)?;
            Some(pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","))
        };
        assert_eq!(of("").unwrap(), "");
        assert_eq!(of("NATS/1.0\r\n\r\n").unwrap(), "");
        assert_eq!(of("NATS/1.0\r\nb: 2 \r\na:x:y\r\nb:1\r\n c\r\n\r\n").unwrap(), "a=x:y,b=2,b=1 c");
        assert_eq!(of("NATS/1.0\r\nno colon\r\n"), None);
    }
}
