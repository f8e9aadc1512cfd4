//! `disk-chan relay`: the messages of a group to an engine, or those of an engine into a channel.
//!
//! **Invariants.**
//! - The main thread only talks, the relay runs beside it: an output that takes nothing holds up no message. A line of
//!   JSON that would have to wait for its reader is left out.
//! - An error is said once for as long as there are any, and once that it is over.
//! - What may be a password is said nowhere.
#![cfg_attr(
    not(any(feature = "relay-nats", feature = "relay-redis")),
    allow(dead_code, unused_variables, reason = "without an engine nothing is relayed")
)]

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use disk_chan::Channel;
use disk_chan::relay::{Relay, RelayStatus, Sink};
use indicatif::ProgressBar;
use rustix::event::PollFlags;
use serde_json::{Value, json};

use crate::Outcome;
use crate::face::{self, Face, context};
use crate::figures::{brief, count, duration, per_second, printable};
use crate::progress;
use crate::recv::warn_lagged;
use crate::snapshot::SELDOM;
use crate::stop::{Stop, TICK, is_ready};

/// How often a line of JSON is printed, and the lag is looked at where that does not take long.
const EVERY: Duration = Duration::from_secs(1);
/// What can be told and was not heard yet; what is more is not told.
const HEARD: usize = 64;
/// A relay that runs is heard of more often, also while it pauses.
const SILENT: Duration = Duration::from_secs(15);
/// Different errors that are said before things go well again.
const ERRORS: usize = 16;
/// How long a client is waited for that does not end with its relay.
const CLIENT: Duration = Duration::from_secs(1);

const NATS: &str = "nats://localhost:4222/STREAM/subject";
const REDIS: &str = "redis://localhost:6379/key";

/// Carry the messages of a group to NATS JetStream or Redis, or those of NATS into a channel
///
/// A message is done when the engine has confirmed it. If the engine is away, slow or full, messages wait in the channel,
/// and it tries again. One that the engine refuses for good becomes a dead letter in a channel that was created with
/// --max-attempts; in another the relay ends. Several can be run for a group, on one machine: one relays, and when it
/// dies another goes on. It ends when the channel is closed and the engine has everything; interrupted, it waits until
/// what is in flight is confirmed, and a second signal ends it at once.
///
/// With --from it is the way back: what is in a stream of NATS is sent into the channel, until it is interrupted.
///
/// Errors are said on standard error, once each; on a terminal there is a line that shows how it stands. With --json
/// there is a line of JSON each second on standard output. `disk-chan info` and `top` show how a relay stands, too.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  disk-chan relay orders.chan --group to-nats --to nats://localhost:4222/ORDERS/orders.new\n  \
                  disk-chan relay orders.chan --group to-redis --to redis://localhost:6379/orders --json\n  \
                  disk-chan relay --from nats://localhost:4222/ORDERS/orders.new copy.chan"
)]
pub struct Args {
    /// The channel; it has to be there
    file: PathBuf,
    /// The group whose messages are relayed; it is made if it is new, and begins with the oldest message
    #[arg(long, short, required_unless_present = "from", conflicts_with = "from")]
    group: Option<String>,
    /// Where they go: nats://HOST:PORT/STREAM/SUBJECT, tls://... or redis://HOST:PORT/KEY
    #[arg(long, value_name = "ADDRESS", required_unless_present = "from", value_parser = Addresses { is_from: false })]
    to: Option<Address>,
    /// Where messages come from that are sent into the channel: nats://HOST:PORT/STREAM/SUBJECT
    #[arg(long, value_name = "ADDRESS", conflicts_with = "to", value_parser = Addresses { is_from: true })]
    from: Option<Address>,
    /// Messages that are handed over at once [default: 64]
    #[arg(long, value_name = "N", conflicts_with = "from", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Messages that are handed over and not confirmed at a time [default: 256, or what the group may hold]
    #[arg(long, value_name = "N", conflicts_with = "from", value_parser = clap::value_parser!(u32).range(1..))]
    window: Option<u32>,
    /// How long what is in flight is waited for when it is interrupted: seconds, or such as 1m
    #[arg(long, value_name = "SECONDS", conflicts_with = "from", value_parser = seconds, default_value = "10")]
    grace: Duration,
}

/// For clap: `10`, `1m`, `500ms`.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(u32::into(seconds))),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Nats,
    Redis,
}

/// An address that can be right, of an engine that this command was built with.
#[derive(Clone)]
struct Address {
    engine: Engine,
    text: String,
}

impl Address {
    fn parse(text: &str, is_from: bool) -> Result<Self, String> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        let engine = match scheme {
            Some("nats" | "tls") => Engine::Nats,
            Some("redis") if !is_from => Engine::Redis,
            _ => {
                let example = if is_from { NATS.into() } else { format!("{NATS} or {REDIS}") };
                return Err(match scheme {
                    Some(scheme) => format!("{scheme:?} is no engine that is known; an address is such as {example}"),
                    None => format!("an address is such as {example}"),
                });
            }
        };
        let checked: Result<(), String> = match engine {
            #[cfg(feature = "relay-nats")]
            Engine::Nats => disk_chan::relay::Nats::new(text).map(drop).map_err(|error| error.to_string()),
            #[cfg(feature = "relay-redis")]
            Engine::Redis => disk_chan::relay::Redis::new(text).map(drop).map_err(|error| error.to_string()),
            #[cfg(not(all(feature = "relay-nats", feature = "relay-redis")))]
            absent => Err(without(absent)),
        };
        checked.map(|()| Self { engine, text: text.to_owned() })
    }
}

#[cfg(not(all(feature = "relay-nats", feature = "relay-redis")))]
fn without(engine: Engine) -> String {
    let feature = if engine == Engine::Nats { "relay-nats" } else { "relay-redis" };
    format!("this disk-chan was built without {engine:?}: build it with --features cli,{feature}")
}

/// For clap, whose own words repeat what was typed, with the password.
#[derive(Clone)]
struct Addresses {
    is_from: bool,
}

impl TypedValueParser for Addresses {
    type Value = Address;

    fn parse_ref(&self, cmd: &clap::Command, _: Option<&clap::Arg>, value: &OsStr) -> Result<Address, clap::Error> {
        let text = value.to_str().ok_or_else(|| "an address is UTF-8".to_owned());
        let option = if self.is_from { "--from" } else { "--to" };
        let wrong = |what| cmd.clone().error(ErrorKind::ValueValidation, format!("{option}: {what}"));
        text.and_then(|text| Address::parse(text, self.is_from)).map_err(wrong)
    }
}

pub fn run(args: &Args, face: Face) -> Outcome<()> {
    let stop = Stop::on_signals()?;
    let channel = face::open(&args.file)?;
    match (&args.to, &args.from) {
        #[cfg(feature = "relay-nats")]
        (Some(to), _) if to.engine == Engine::Nats => {
            relay(args, channel, disk_chan::relay::Nats::new(&to.text)?, &stop, face)
        }
        #[cfg(feature = "relay-redis")]
        (Some(to), _) if to.engine == Engine::Redis => {
            relay(args, channel, disk_chan::relay::Redis::new(&to.text)?, &stop, face)
        }
        #[cfg(feature = "relay-nats")]
        (_, Some(from)) => fill(channel, disk_chan::relay::NatsSource::new(&from.text)?, &stop, face),
        _ => Err("it needs an address to relay to, or from".into()),
    }
}

fn relay(args: &Args, channel: Channel, sink: impl Sink + 'static, stop: &Stop, face: Face) -> Outcome<()> {
    let group = args.group.as_deref().unwrap_or_default();
    let (to, signal) = (sink.to(), stop.clone());
    let (tell, heard) = sync_channel(HEARD);
    let mut relay = Relay::new(&channel, group).grace(args.grace).on_status(move |status| {
        let _ = tell.try_send(status.clone());
    });
    if let Some(batch) = args.batch {
        relay = relay.batch(batch as usize);
    }
    if let Some(window) = args.window {
        relay = relay.window(window as usize);
    }
    let mut talk = Talk {
        face,
        stop,
        channel: &channel,
        group,
        to: &to,
        bar: progress::line(),
        now: None,
        lag: 0,
        look_at: Instant::now(),
        print_at: Instant::now() + EVERY,
        waits_at: Instant::now() + EVERY,
        is_waiting: false,
        trouble: Trouble::default(),
    };
    let ran = beside(async move { relay.run(sink, is_told(signal)).await }, &heard, |told| talk.tick(told));
    talk.bar.finish_and_clear();
    let printed = talk.print(true);
    let relayed = talk.now.as_ref().map_or(0, |now| now.relayed);
    let so_far = match talk.now.as_ref().and_then(|now| now.confirmed) {
        Some(last) if relayed > 0 => format!("{} messages were relayed, the last at {last}; then", count(relayed)),
        _ => "nothing was relayed".into(),
    };
    let ended: Outcome<()> = match ran? {
        Ok(_) => stop.check().map_err(Into::into),
        Err(error) => Err(error.into()),
    };
    ended.map_err(context(so_far))?;
    // Last: that nobody reads it hides no error.
    printed
}

/// Ready when it was told to stop.
async fn is_told(stop: Stop) {
    while !stop.is_told() {
        tokio::time::sleep(TICK).await;
    }
}

/// Does some work on threads of its own. Meanwhile `each` is called with what is heard of it, and now and then with
/// nothing; its error ends the work.
fn beside<T, R: Send + 'static>(
    work: impl Future<Output = R> + Send + 'static,
    heard: &Receiver<T>,
    mut each: impl FnMut(Option<T>) -> Outcome<()>,
) -> Outcome<R> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let work = runtime.spawn(work);
    let mut talk = || {
        loop {
            let is_over = work.is_finished();
            match heard.recv_timeout(TICK) {
                Ok(told) => each(Some(told))?,
                Err(RecvTimeoutError::Timeout) => each(None)?,
                Err(RecvTimeoutError::Disconnected) if !is_over => std::thread::yield_now(),
                Err(RecvTimeoutError::Disconnected) => return Outcome::Ok(()),
            }
        }
    };
    let talked = talk();
    let done = talked.and_then(|()| match runtime.block_on(work) {
        Ok(done) => Ok(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(error) => Err(error.into()),
        },
    });
    // A name that is being looked up, for example, ends when it ends.
    runtime.shutdown_timeout(CLIENT);
    done
}

/// What is said while it relays.
struct Talk<'a> {
    face: Face,
    stop: &'a Stop,
    channel: &'a Channel,
    group: &'a str,
    to: &'a str,
    bar: ProgressBar,
    /// What was heard last; nothing before it was the active one.
    now: Option<RelayStatus>,
    lag: u64,
    look_at: Instant,
    print_at: Instant,
    /// When it waits for another, if it is not the active one until then.
    waits_at: Instant,
    is_waiting: bool,
    trouble: Trouble,
}

impl Talk<'_> {
    fn tick(&mut self, told: Option<RelayStatus>) -> Outcome<()> {
        if let Some(told) = told {
            self.hear(told);
        }
        if self.look_at <= Instant::now() {
            let began = Instant::now();
            let groups = self.channel.groups();
            self.lag = groups.iter().find(|group| group.name.as_str() == self.group).map_or(0, |group| group.lag);
            self.look_at = Instant::now() + EVERY.max(began.elapsed() * SELDOM);
        }
        let is_active = self.now.as_ref().is_some_and(|now| now.active);
        if is_active {
            self.waits_at = Instant::now() + EVERY;
        }
        if is_active == self.is_waiting && (is_active || self.waits_at <= Instant::now()) {
            self.is_waiting = !is_active;
            self.say(if is_active { "relaying now" } else { "another relay of this group is active: waiting" });
        }
        if !self.bar.is_hidden() {
            self.bar.set_message(self.line());
            self.bar.tick();
        }
        self.print(false)
    }

    fn hear(&mut self, told: RelayStatus) {
        let before = self.now.as_ref().map_or((0, 0), |now| (now.refused, now.lagged));
        if told.refused > before.0 {
            self.say(format_args!(
                "{} messages were refused, and are dead letters now",
                count(told.refused - before.0)
            ));
        }
        if told.lagged > before.1 && self.bar.is_hidden() {
            warn_lagged(told.lagged - before.1);
        }
        // Without an error it is connected, and there is either something that went, or nothing that could.
        let is_idle = told.active && self.lag == 0;
        match self.trouble.hear(told.last_error.as_ref(), told.relayed + told.refused, is_idle) {
            Some(News::Error(error)) => self.say(format_args!("{}: {error}", self.to)),
            Some(News::Over(after)) => self.say(format_args!("{}: works again, after {}", self.to, duration(after))),
            None => {}
        }
        self.now = Some(told);
    }

    /// On a terminal the line shows it.
    fn say(&self, what: impl std::fmt::Display) {
        if self.bar.is_hidden() {
            face::say(what);
        }
    }

    fn line(&self) -> String {
        let mut facts = Vec::new();
        if self.stop.is_told() {
            facts.push("told to stop, waiting for what is in flight".into());
        } else if self.is_waiting {
            facts.push("another relay of this group is active: waiting".into());
        }
        facts.extend(self.now.as_ref().map(|now| format!("{} relayed", count(now.relayed))));
        facts.extend(self.now.as_ref().filter(|now| now.active).map(|now| format!("{}/s", per_second(now.rate))));
        facts.push(format!("lag {}", brief(self.lag)));
        facts.extend(self.now.as_ref().and_then(|now| now.confirmed).map(|at| format!("confirmed {at}")));
        let refused = self.now.as_ref().map_or(0, |now| now.refused);
        facts.extend((refused > 0).then(|| format!("{} refused", count(refused))));
        facts.extend(self.now.as_ref().and_then(|now| last_error(now, SystemTime::now())));
        printable(&facts.join(", ")).into_owned()
    }

    /// With --json, a line each second, and one at the end.
    fn print(&mut self, is_last: bool) -> Outcome<()> {
        if !self.face.json || (!is_last && self.print_at > Instant::now()) {
            return Ok(());
        }
        self.print_at = Instant::now() + EVERY;
        let mut value = as_json(self.now.as_ref(), self.to);
        value["group"] = self.group.into();
        value["lag"] = self.lag.into();
        print_if_read(self.face, value)
    }
}

fn print_if_read(face: Face, value: Value) -> Outcome<()> {
    if is_ready(io::stdout(), PollFlags::OUT, Duration::ZERO)? {
        face.print(|| value, String::new)?;
    }
    Ok(())
}

/// How a relay stands; before it was the active one there is nothing.
pub fn as_json(status: Option<&RelayStatus>, to: &str) -> Value {
    let (last_error, at) = match status.and_then(|status| status.last_error.as_ref()) {
        Some((at, error)) => (Some(error), Some(face::time(*at))),
        None => (None, None),
    };
    json!({
        "to": to,
        "active": status.is_some_and(|status| status.active),
        "confirmed": status.and_then(|status| status.confirmed).map(|at| at.to_string()),
        "relayed": status.map_or(0, |status| status.relayed),
        "rate": status.map_or(0.0, |status| status.rate),
        "refused": status.map_or(0, |status| status.refused),
        "lagged": status.map_or(0, |status| status.lagged),
        "last_error": last_error,
        "last_error_at": at,
        "updated": status.map(|status| face::time(status.updated)),
    })
}

/// Whether it relays, for others than itself.
pub fn state(status: &RelayStatus, now: SystemTime) -> String {
    let silent = now.duration_since(status.updated).unwrap_or_default();
    match status.active {
        true if silent > SILENT => format!("active, not heard of for {}", duration(silent)),
        true => "active".into(),
        false => "not active".into(),
    }
}

/// What went wrong last, and how long ago.
pub fn last_error(status: &RelayStatus, now: SystemTime) -> Option<String> {
    let (at, error) = status.last_error.as_ref()?;
    Some(format!("error {} ago: {error}", duration(now.duration_since(*at).unwrap_or_default())))
}

/// What goes wrong, for as long as it does.
#[derive(Default)]
struct Trouble {
    since: Option<Instant>,
    /// When the last error was.
    last: Option<SystemTime>,
    /// What was done before that.
    done: u64,
    said: Vec<String>,
}

/// What there is to say.
#[derive(Debug, PartialEq)]
enum News<'a> {
    Error(&'a str),
    /// It is over, after so long.
    Over(Duration),
}

impl Trouble {
    fn hear<'e>(&mut self, last: Option<&'e (SystemTime, String)>, done: u64, is_idle: bool) -> Option<News<'e>> {
        let (at, error) = last?;
        if self.last != Some(*at) {
            self.since.get_or_insert_with(Instant::now);
            (self.last, self.done) = (Some(*at), done);
            let is_news = self.said.len() < ERRORS && !self.said.contains(error);
            return is_news.then(|| {
                self.said.push(error.clone());
                News::Error(error)
            });
        }
        if done == self.done && !is_idle {
            return None;
        }
        self.said.clear();
        self.since.take().map(|since| News::Over(since.elapsed()))
    }
}

/// The way back.
#[cfg(feature = "relay-nats")]
fn fill(channel: Channel, source: disk_chan::relay::NatsSource, stop: &Stop, face: Face) -> Outcome<()> {
    use disk_chan::relay::Filled;
    let (tell, heard) = sync_channel(HEARD);
    let source = source.on_progress(move |filled| {
        let _ = tell.try_send(filled.clone());
    });
    let signal = stop.clone();
    let (bar, mut now, mut trouble) = (progress::line(), Filled::default(), Trouble::default());
    let (mut before, mut rate, mut print_at) = ((Instant::now(), 0), 0.0, Instant::now() + EVERY);
    let as_json = |now: &Filled, rate: f64| {
        let (error, at) = now.last_error.as_ref().map(|(at, error)| (error, face::time(*at))).unzip();
        json!({
            "messages": now.messages, "doubles": now.doubles, "rate": rate, "last_error": error, "last_error_at": at,
        })
    };
    let tick = |told: Option<Filled>| {
        if let Some(told) = told {
            let news = trouble.hear(told.last_error.as_ref(), told.messages + told.doubles, false);
            match news.filter(|_| bar.is_hidden()) {
                Some(News::Error(error)) => face::say(error),
                Some(News::Over(after)) => face::say(format_args!("works again, after {}", duration(after))),
                None => {}
            }
            now = told;
        }
        let error = now.last_error.as_ref().map(|(at, error)| {
            format!(", error {} ago: {}", duration(at.elapsed().unwrap_or_default()), printable(error))
        });
        bar.set_message(format!(
            "{} messages, {}/s, {} twice{}",
            count(now.messages),
            per_second(rate),
            count(now.doubles),
            error.unwrap_or_default()
        ));
        bar.tick();
        if print_at > Instant::now() {
            return Ok(());
        }
        rate = now.messages.saturating_sub(before.1) as f64 / before.0.elapsed().as_secs_f64().max(1e-3);
        before = (Instant::now(), now.messages);
        print_at = Instant::now() + EVERY;
        if face.json { print_if_read(face, as_json(&now, rate)) } else { Ok(()) }
    };
    let ran = beside(async move { source.run(&channel, is_told(signal)).await }, &heard, tick);
    bar.finish_and_clear();
    let filled = ran?.map_err(context(format!("{} messages were sent; then", count(now.messages))))?;
    let printed = if face.json { print_if_read(face, as_json(&filled, 0.0)) } else { Ok(()) };
    stop.check().map_err(context(format!("{} messages were sent; then", count(filled.messages))))?;
    printed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_said_once_and_once_that_it_is_over() {
        let at = |seconds, error: &str| (SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), error.to_owned());
        let mut trouble = Trouble::default();
        assert_eq!(trouble.hear(None, 7, true), None);
        assert_eq!(trouble.hear(Some(&at(1, "refused")), 7, false), Some(News::Error("refused")));
        assert_eq!(trouble.hear(Some(&at(2, "refused")), 7, false), None);
        assert_eq!(trouble.hear(Some(&at(3, "timed out")), 7, false), Some(News::Error("timed out")));
        assert_eq!(trouble.hear(Some(&at(4, "refused")), 7, false), None);
        assert_eq!(trouble.hear(Some(&at(4, "refused")), 7, false), None, "nothing has gone since");
        assert!(matches!(trouble.hear(Some(&at(4, "refused")), 8, false), Some(News::Over(_))));
        assert_eq!(trouble.hear(Some(&at(4, "refused")), 9, true), None);
        assert_eq!(trouble.hear(Some(&at(5, "refused")), 9, true), Some(News::Error("refused")));
        assert!(matches!(trouble.hear(Some(&at(5, "refused")), 9, true), Some(News::Over(_))), "nothing is left");
        let many = (0..100).filter(|n| trouble.hear(Some(&at(10 + n, &n.to_string())), 9, false).is_some());
        assert_eq!(many.count(), ERRORS);
    }

    #[test]
    fn addresses_are_looked_at_and_no_password_is_repeated() {
        for (text, is_from) in [
            ("me:secret@host", false),
            ("http://me:secret@host/x", false),
            ("nats://me:secret@host", false),
            ("redis://me:secret@host", false),
            ("redis://me:secret@host/key", true),
        ] {
            let Err(error) = Address::parse(text, is_from) else { panic!("{text}") };
            assert!(!error.contains("secret"), "{error}");
            let example = error.contains("://localhost:") || error.contains("--features cli,relay-");
            assert!(example, "{error}");
        }
    }
}
