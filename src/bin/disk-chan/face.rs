//! What every command shares: how it speaks, how it opens what it only looks at, and what its exit status means.
//!
//! Standard output carries data, standard error talk. With `--json` the data is JSON, one value a line.

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use disk_chan::{
    Channel, Create, MoveGroupError, Offset, OpenError, Options, RemoveGroupError, RewriteError, SubscribeError,
};

use crate::Outcome;
use crate::messages;

/// Exit statuses, as `disk-chan --help` says them.
const FAILED: u8 = 1;
const NOT_FOUND: u8 = 3;
const NOT_A_CHANNEL: u8 = 4;
const TRY_LATER: u8 = 5;

/// What `disk-chan --help` ends with.
pub const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  failed, or `verify` found something
  2  the command line is wrong
  3  there is no such file, group or message
  4  the file is not a channel, or one that cannot be read: `disk-chan verify FILE` says why
  5  somebody has it in use: try again later
  130, 143  interrupted (SIGINT, SIGTERM); nothing is lost";

/// How to speak.
#[derive(Clone, Copy, Debug)]
pub struct Face {
    /// JSON instead of text.
    pub json: bool,
}

impl Face {
    /// Prints one value to standard output, as JSON or as text; what is in it does not drive a terminal.
    pub fn print(self, json: impl FnOnce() -> serde_json::Value, text: impl FnOnce() -> String) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match (self.json, out.is_terminal()) {
            (true, to_terminal) => writeln!(out, "{}", messages::json_shown(json().to_string(), to_terminal)),
            (false, true) => {
                messages::shown(&mut out, text().as_bytes())?;
                writeln!(out)
            }
            (false, false) => writeln!(out, "{}", text()),
        }
    }

    /// The same for a text that has styles, and takes care itself of what else drives a terminal.
    pub fn print_styled(
        self,
        json: impl FnOnce() -> serde_json::Value,
        text: impl FnOnce() -> String,
    ) -> io::Result<()> {
        if self.json { self.print(json, String::new) } else { writeln!(anstream::stdout().lock(), "{}", text()) }
    }
}

/// Opens a channel only to look at it: nothing is stored, also where the file may not be written.
pub fn look_at(path: &Path) -> Outcome<Channel> {
    Ok(Options::new().create(Create::OpenExisting).read_only(true).blocking_open(path)?)
}

/// Opens a channel that is there.
pub fn open(path: &Path) -> Outcome<Channel> {
    Ok(Options::new().create(Create::OpenExisting).blocking_open(path)?)
}

/// A time as `2026-11-23T10:00:00.000Z`; one that cannot be written so, as a damaged file can say, is the last that can.
pub fn time(time: SystemTime) -> String {
    const LAST: Duration = Duration::from_millis(253_402_300_799_999);
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since.min(LAST)).to_string()
}

/// Says something on standard error, whether or not anybody hears it.
pub fn say(what: impl std::fmt::Display) {
    let mut said = Vec::new();
    let _ = messages::shown(&mut said, format!("disk-chan: {what}\n").as_bytes());
    let _ = io::stderr().write_all(&said);
}

/// A place in a channel as one types it.
#[derive(Clone, Debug)]
pub enum Place {
    /// The oldest message in the ring.
    Oldest,
    /// Behind the newest.
    Newest,
    /// An offset, `PAGE:INDEX` as it is printed, or as a number.
    At(Offset),
    /// A time, or one so long ago.
    Time(SystemTime),
}

impl From<&Place> for disk_chan::Start {
    fn from(place: &Place) -> Self {
        match *place {
            Place::Oldest => Self::Oldest,
            Place::Newest => Self::Newest,
            Place::At(offset) => Self::At(offset),
            Place::Time(time) => Self::Time(time),
        }
    }
}

/// For clap: `oldest`, `newest`, `12:345`, `12583257`, `2026-11-23T10:00:00Z`, `"2026-11-23 10:00:00"`, `15m` (ago).
pub fn place(text: &str) -> Result<Place, String> {
    match text {
        "oldest" => return Ok(Place::Oldest),
        "newest" => return Ok(Place::Newest),
        _ => {}
    }
    if let Ok(offset) = text.parse() {
        return Ok(Place::At(offset));
    }
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(Place::Time(time));
    }
    let ago = humantime::parse_duration(text).ok().and_then(|ago| SystemTime::now().checked_sub(ago));
    ago.map(Place::Time).ok_or_else(|| {
        "is none of: oldest, newest, an offset such as 12:345, a time such as 2026-11-23T10:00:00Z (UTC), \
         or how long ago, such as 15m"
            .into()
    })
}

/// Nothing of this name is there: a file, a group, a message.
#[derive(Debug)]
pub struct NotFound(pub String);

impl std::fmt::Display for NotFound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for NotFound {}

/// Somebody else uses it now.
#[derive(Debug)]
pub struct InUse(pub String);

impl std::fmt::Display for InUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for InUse {}

/// It was told to stop, by this signal.
#[derive(Debug)]
pub struct Interrupted(pub i32);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "interrupted by signal {}", self.0)
    }
}

impl Error for Interrupted {}

/// An error, and what was being done, or what to do about it.
#[derive(Debug)]
pub struct Context {
    what: String,
    source: Box<dyn Error + Send + Sync>,
}

impl std::fmt::Display for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Context {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

/// For `map_err`: the error with something said before it.
pub fn context<E: Into<Box<dyn Error + Send + Sync>>>(what: impl Into<String>) -> impl FnOnce(E) -> Context {
    |error| Context { what: what.into(), source: error.into() }
}

/// The exit status of an error.
pub fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(code) = code_of(error) {
            return code.into();
        }
        at = error.source();
    }
    FAILED.into()
}

fn code_of(error: &(dyn Error + 'static)) -> Option<u8> {
    if error.is::<NotFound>() {
        return Some(NOT_FOUND);
    }
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Some(NOT_FOUND);
    }
    if error.is::<InUse>() {
        return Some(TRY_LATER);
    }
    if let Some(Interrupted(signal)) = error.downcast_ref() {
        return u8::try_from(128 + signal).ok();
    }
    if let Some(error) = error.downcast_ref::<OpenError>() {
        return match error {
            OpenError::NotFound { .. } => Some(NOT_FOUND),
            OpenError::NotAChannel { .. }
            | OpenError::UnsupportedVersion { .. }
            | OpenError::UnsupportedFeatures { .. }
            | OpenError::CutShort { .. }
            | OpenError::Damaged { .. } => Some(NOT_A_CHANNEL),
            OpenError::Busy { .. } | OpenError::InUse { .. } | OpenError::Poisoned { .. } => Some(TRY_LATER),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<MoveGroupError>() {
        return match error {
            MoveGroupError::NotFound => Some(NOT_FOUND),
            MoveGroupError::Busy | MoveGroupError::InUse { .. } => Some(TRY_LATER),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<RemoveGroupError>() {
        return match error {
            RemoveGroupError::NotFound => Some(NOT_FOUND),
            RemoveGroupError::Busy | RemoveGroupError::InUse { .. } => Some(TRY_LATER),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<RewriteError>() {
        return match error {
            RewriteError::Open(error) => code_of(error),
            RewriteError::InUse { .. } => Some(TRY_LATER),
            _ => None,
        };
    }
    match error.downcast_ref::<SubscribeError>()? {
        SubscribeError::Busy => Some(TRY_LATER),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_can_be_said() {
        let after = |ms| time(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        assert_eq!(after(1_000), "1970-01-01T00:00:01.000Z");
        assert_eq!(after(u64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(time(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), "1970-01-01T00:00:00.000Z");
    }
}
