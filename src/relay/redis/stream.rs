//! A stream under a key, over one connection: what is asked of the server, and what its answers mean.
//!
//! **Invariants.**
//! - What an answer says is looked at before it is used: another server than Redis may say anything.
//! - `MULTI` and `EXEC` are written here and not by the client, which gives up all answers for one error.

use super::super::{Origin, SinkError};
use crate::{Lease, Offset};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, Pipeline, RedisConnectionInfo, RedisError, ServerError, Value, cmd,
    from_redis_value,
};
use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// Bytes that an argument of a command takes beside itself, at most.
const FRAME: usize = 32;
/// What else a command takes, at most; twice, to be on the safe side.
const REST: u64 = 64 << 10;
/// Most bytes of an entry: Redis has that as a constant.
const LONGEST_ENTRY: u64 = 1 << 30;
/// Entries that are asked for at once: the answer holds their messages.
const ASKED: usize = 16;

/// The stream of a channel.
pub struct Stream {
    connection: MultiplexedConnection,
    key: String,
    /// The first part of the ids.
    created: u64,
    /// What the entries have as `channel`.
    channel: String,
    /// Most bytes of a message.
    longest_message: u64,
    /// Most bytes of an entry with all that belongs to it.
    longest_entry: u64,
}

impl Stream {
    /// Connects, and asks what the server can take.
    pub async fn open(client: &Client, key: &str, origin: &Origin, timeout: Duration) -> Result<Self, SinkError> {
        let info = client.get_connection_info();
        let login = info.redis_settings();
        // It is told the password here: the client takes any error for a wrong one, that of a full server too.
        let bare = (info.clone())
            .set_redis_settings(RedisConnectionInfo::default().set_skip_set_lib_name())
            .set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(timeout)).set_response_timeout(Some(timeout));
        let client = Client::open(bare).map_err(failed)?;
        let connection = client.get_multiplexed_async_connection_with_config(&config).await.map_err(failed)?;
        let mut stream = Self {
            connection,
            key: key.to_owned(),
            created: millis(origin.created_at).max(1), // 0-0 is no id
            channel: format!("{:032x}", origin.uuid),
            longest_message: 0,
            longest_entry: 0,
        };
        if let Some(password) = login.password() {
            let mut auth = cmd("AUTH");
            if let Some(user) = login.username() {
                auth.arg(user);
            }
            stream.ask(auth.arg(password)).await?.map_err(|error| stream.refused(&error))?;
        }
        stream.longest_message = stream.limit("proto-max-bulk-len", 512 << 20).await?;
        stream.longest_entry =
            stream.limit("client-query-buffer-limit", 1 << 30).await?.min(LONGEST_ENTRY).saturating_sub(REST);
        Ok(stream)
    }

    /// Up to which message of this channel the stream has them all. An error if none can be added.
    pub async fn last(&mut self) -> Result<Option<Offset>, SinkError> {
        let mut info: HashMap<String, Value> = match self.ask(cmd("XINFO").arg("STREAM").arg(&self.key)).await? {
            Ok(info) => from_redis_value(info).map_err(|_| strange("XINFO STREAM"))?,
            Err(error) if error.details().is_some_and(|text| text.contains("no such key")) => return Ok(None),
            Err(error) => return Err(self.refused(&error)),
        };
        let generated = info.remove("last-generated-id").and_then(id).ok_or_else(|| strange("XINFO STREAM"))?;
        let last = match info.remove("last-entry") {
            None | Some(Value::Nil) => None, // all were deleted
            Some(last) => Some(entry(last).ok_or_else(|| strange("XINFO STREAM"))?),
        };
        let is_ours = last.is_none_or(|(id, channel)| id.0 < self.created || channel == self.channel.as_bytes());
        match generated.0 {
            created if created < self.created => Ok(None),
            created if created == self.created && is_ours => Ok(Some(Offset::from_u64(generated.1))),
            _ => Err(SinkError::fatal(format!(
                "the key {:?} has entries that are not of this channel: its last id is {}-{}, and those of the channel \
                 are {}-...; a key belongs to one channel: relay to another key, or delete this one",
                self.key, generated.0, generated.1, self.created
            ))),
        }
    }

    /// Adds messages: all or none, but for those whose ids are refused. No error if all are there, by whomever.
    pub async fn add(&mut self, batch: &[Lease]) -> Result<(), SinkError> {
        let mut transaction = Pipeline::with_capacity(batch.len() + 2);
        transaction.cmd("MULTI");
        for lease in batch {
            transaction.add_command(self.xadd(lease));
        }
        transaction.cmd("EXEC");
        let mut answers = self.ask_all(&transaction).await?;
        let executed = answers.pop();
        // Why the server refused a command is better to know than that it executes nothing.
        if let Some(error) = answers.iter().find_map(error) {
            return Err(self.refused(error));
        }
        let added = match executed {
            Some(Value::Array(added)) if added.len() == batch.len() => added,
            Some(Value::ServerError(error)) => return Err(self.refused(&error)),
            _ => return Err(strange("EXEC")),
        };
        let not_added = |(lease, answer): (&Lease, &Value)| {
            // The answer to an XADD is the id.
            (id(answer.clone()) != Some(self.id(lease.offset()))).then_some(lease.offset())
        };
        let not_added: Vec<Offset> = batch.iter().zip(&added).filter_map(not_added).collect();
        if self.missing(&not_added).await?.is_empty() {
            return Ok(());
        }
        // Either somebody else uses the key, or there is more of this channel in it than there was.
        self.last().await?;
        Err(added.iter().find_map(error).map_or_else(|| strange("XADD"), |error| self.refused(error)))
    }

    /// Which of these the stream does not have as messages of this channel.
    pub async fn missing(&mut self, offsets: &[Offset]) -> Result<Vec<Offset>, SinkError> {
        let mut missing = Vec::new();
        for some in offsets.chunks(ASKED) {
            let mut ranges = Pipeline::with_capacity(some.len());
            for offset in some {
                let id = self.shown(*offset);
                ranges.cmd("XRANGE").arg(&self.key).arg(&id).arg(&id).arg("COUNT").arg(1);
            }
            for (offset, answer) in some.iter().zip(self.ask_all(&ranges).await?) {
                let entries = match answer {
                    Value::Array(entries) => entries,
                    Value::ServerError(error) => return Err(self.refused(&error)),
                    _ => return Err(strange("XRANGE")),
                };
                let ours = Some((self.id(*offset), self.channel.as_bytes().to_vec()));
                if !entries.into_iter().any(|value| entry(value) == ours) {
                    missing.push(*offset);
                }
            }
        }
        Ok(missing)
    }

    /// Why the server can never take a message, if it cannot.
    pub fn too_long(&self, lease: &Lease) -> Option<String> {
        let (message, entry) = (lease.len() as u64, size(lease) as u64);
        if message > self.longest_message {
            let most = self.longest_message;
            Some(format!("the message has {message} bytes, and proto-max-bulk-len of the server is {most}"))
        } else if entry > self.longest_entry {
            let most = self.longest_entry;
            Some(format!("the message takes {entry} bytes with its headers, and the server can take {most}"))
        } else {
            None
        }
    }

    fn xadd(&self, lease: &Lease) -> Cmd {
        let mut xadd = Cmd::with_capacity(16, size(lease));
        xadd.arg("XADD").arg(&self.key).arg(self.shown(lease.offset()));
        xadd.arg("channel").arg(&self.channel).arg("sent").arg(millis(lease.sent_at()));
        if let Some(key) = lease.key() {
            xadd.arg("key").arg(key);
        }
        for (name, value) in lease.headers() {
            xadd.arg(format!("header:{name}")).arg(value);
        }
        xadd.arg("message").arg(&lease[..]);
        xadd
    }

    fn id(&self, offset: Offset) -> Id {
        (self.created, offset.as_u64())
    }

    fn shown(&self, offset: Offset) -> String {
        format!("{}-{}", self.created, offset.as_u64())
    }

    /// What the server is set to, in bytes; by default if it does not say.
    async fn limit(&mut self, name: &str, default: u64) -> Result<u64, SinkError> {
        let said = self.ask(cmd("CONFIG").arg("GET").arg(name)).await?.ok();
        let pair = said.and_then(|said| from_redis_value::<HashMap<String, u64>>(said).ok());
        Ok(pair.and_then(|pair| pair.get(name).copied()).unwrap_or(default))
    }

    /// The answer to a command.
    async fn ask(&mut self, command: &Cmd) -> Result<Result<Value, ServerError>, SinkError> {
        Ok(match self.connection.req_packed_command(command).await.map_err(failed)? {
            Value::ServerError(error) => Err(error),
            value => Ok(value),
        })
    }

    /// The answers to some commands, one for each.
    async fn ask_all(&mut self, commands: &Pipeline) -> Result<Vec<Value>, SinkError> {
        let count = commands.len();
        let answers = self.connection.req_packed_commands(commands, 0, count).await.map_err(failed)?;
        if answers.len() == count { Ok(answers) } else { Err(strange("a pipeline")) }
    }

    /// The server refuses a command: now, or for ever.
    fn refused(&self, error: &ServerError) -> SinkError {
        let (code, details) = (error.code(), error.details().unwrap_or_default());
        let text = format!("for the key {:?} the server says: {code} {details}", self.key);
        let for_ever = match code {
            "WRONGTYPE" | "NOAUTH" | "WRONGPASS" | "NOPERM" => true,
            "ERR" => FOR_EVER.iter().any(|begin| details.starts_with(begin)),
            _ => false,
        };
        if for_ever { SinkError::fatal(text) } else { SinkError::retry(text) }
    }
}

/// How errors begin that have no code of their own and stay: passwords and commands that older servers do not know.
const FOR_EVER: [&str; 5] =
    ["invalid password", "AUTH <password> called", "Client sent AUTH", "wrong number of arguments", "unknown command"];

/// Bytes that a message takes in a transaction, at most, but for the name of the key.
pub fn size(lease: &Lease) -> usize {
    let pairs: usize = lease.headers().iter().map(|(name, value)| name.len() + value.len() + 2 * FRAME).sum();
    lease.len() + lease.key().unwrap_or_default().len() + pairs + 16 * FRAME
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

type Id = (u64, u64);

fn id(value: Value) -> Option<Id> {
    let text: String = from_redis_value(value).ok()?;
    let (first, second) = text.split_once('-')?;
    Some((first.parse().ok()?, second.parse().ok()?))
}

/// The id of an entry, and what it has as `channel`; empty if it has none.
fn entry(value: Value) -> Option<(Id, Vec<u8>)> {
    let Value::Array(parts) = value else { return None };
    let [of, fields] = <[Value; 2]>::try_from(parts).ok()?;
    let Value::Array(fields) = fields else { return None };
    let channel = fields.chunks_exact(2).find(|pair| matches!(&pair[0], Value::BulkString(name) if name == b"channel"));
    match channel.map(|pair| &pair[1]) {
        Some(Value::BulkString(channel)) => Some((id(of)?, channel.clone())),
        _ => Some((id(of)?, Vec::new())),
    }
}

fn error(answer: &Value) -> Option<&ServerError> {
    if let Value::ServerError(error) = answer { Some(error) } else { None }
}

/// The connection broke, or there was none.
fn failed(error: RedisError) -> SinkError {
    SinkError::retry(error)
}

fn strange(to: &str) -> SinkError {
    SinkError::retry(format!("the server answers {to} as Redis does not"))
}
