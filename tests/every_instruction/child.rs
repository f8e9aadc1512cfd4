//! The child: one operation on a channel, between two stops by which the tracer knows its begin and its end.

use crate::common::{body, poll_once};
use disk_chan::{
    AckError, Channel, Create, Options, Receiver, RemoveGroupError, Sender, Start, TryRecvError, TrySendError,
};
use std::fmt::Write;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::task::Poll;

/// The environment variable that makes this executable a child: what it is to do.
pub const ACT: &str = "DISK_CHAN_EVERY_INSTRUCTION_ACT";
/// The environment variable that names the channel.
pub const FILE: &str = "DISK_CHAN_EVERY_INSTRUCTION_FILE";

/// The number of the first message that a child sends.
pub const FIRST: u64 = 1000;
/// Bytes of a message; not a multiple of the word.
pub const LEN: usize = 27;

/// Where a child writes what came of its operation.
pub fn said_at(file: &Path) -> PathBuf {
    file.with_extension("said")
}

/// Called between the two halves of an operation: what came before it has not finished the message yet.
#[inline(never)]
pub fn halfway() {
    black_box(());
}

fn stop() {
    // SAFETY: a signal that stops this process and runs no code in it.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// The operation that is stepped through.
fn stepped<T>(operation: impl FnOnce() -> T) -> T {
    stop();
    let out = operation();
    stop();
    out
}

fn open(file: &Path) -> Channel {
    Options::new().create(Create::OpenExisting).blocking_open(file).expect("the child opens the channel")
}

fn sent(said: &mut String, result: Result<disk_chan::Offset, TrySendError>) {
    match result {
        Ok(_) => said.push_str("sent "),
        Err(TrySendError::Full(_) | TrySendError::Closed) => said.push_str("unsent "),
        Err(other) => panic!("{other}"),
    }
}

fn finished(said: &mut String, result: Result<(), AckError>, done: &str) {
    said.push_str(match result {
        Ok(()) => done,
        Err(AckError::Gone) => "gone ",
        Err(AckError::GroupRemoved) => "removed ",
        Err(error) => panic!("{error}"),
    });
}

fn nothing(said: &mut String, error: TryRecvError) {
    match error {
        TryRecvError::Empty | TryRecvError::Disconnected => {}
        TryRecvError::Lagged(n) => write!(said, "lagged {n} ").unwrap(),
        TryRecvError::GroupRemoved => said.push_str("removed "),
        other => panic!("{other}"),
    }
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

fn receive(said: &mut String, rx: &mut Receiver) {
    match rx.try_recv() {
        Ok(m) => {
            write!(said, "got {} {} ", number(&m), m.attempts()).unwrap();
            halfway();
            drop(m);
            said.push_str("done ");
        }
        Err(error) => nothing(said, error),
    }
}

fn receive_many(said: &mut String, rx: &mut Receiver) {
    // While it was stopped others may have taken them all.
    let Poll::Ready(many) = poll_once(rx.recv_many(3)) else { return };
    match many {
        Ok(many) => {
            many.iter().for_each(|m| write!(said, "got {} {} ", number(m), m.attempts()).unwrap());
            halfway();
            let count = many.len();
            drop(many);
            (0..count).for_each(|_| said.push_str("done "));
        }
        Err(error) => nothing(said, error.into()),
    }
}

fn lease(said: &mut String, rx: &mut Receiver, back: bool) {
    match rx.try_lease() {
        Ok(lease) => {
            write!(said, "got {} {} ", number(&lease), lease.attempts()).unwrap();
            halfway();
            match back {
                true => finished(said, lease.give_back(), "back "),
                false => finished(said, lease.ack(), "done "),
            }
        }
        Err(error) => nothing(said, error),
    }
}

/// Does what `act` says and writes what came of it beside the channel.
pub fn run(act: &str, file: &Path) {
    let mut said = String::with_capacity(256);
    let out = &mut said;
    match act {
        "open" => drop(stepped(|| open(file))),
        "send" => {
            let (tx, message) = (open(file).sender(), body(FIRST, LEN));
            sent(out, stepped(|| tx.try_send(&message)));
        }
        "reserve+commit" => {
            let (tx, message) = (open(file).sender(), body(FIRST, LEN));
            let commit = |tx: &Sender| {
                let mut reservation = tx.reserve(message.len()).expect("it is not too long");
                reservation.copy_from_slice(&message);
                reservation.try_commit().map_err(|(_, error)| error)
            };
            sent(out, stepped(|| commit(&tx)));
        }
        "send_many" => {
            let (tx, messages) = (open(file).sender(), [0, 1, 2].map(|i| body(FIRST + i, LEN)));
            let offsets = stepped(|| tx.blocking_send_many(&messages)).expect("nobody closes the channel");
            offsets.iter().for_each(|_| out.push_str("sent "));
        }
        "recv" | "recv twice" => {
            let channel = open(file);
            let mut rx = channel.blocking_subscribe("a").expect("the group is there");
            stepped(|| (0..if act == "recv" { 1 } else { 2 }).for_each(|_| receive(out, &mut rx)));
        }
        "recv_many" => {
            let channel = open(file);
            let mut rx = channel.blocking_subscribe("a").expect("the group is there");
            stepped(|| receive_many(out, &mut rx));
        }
        "recv on" => {
            let channel = open(file);
            let mut rx = channel.blocking_subscribe("a").expect("the group is there");
            drop(rx.try_recv().expect("there is a message"));
            stepped(|| receive(out, &mut rx));
        }
        "lease+ack" | "lease+give_back" => {
            let channel = open(file);
            let mut rx = channel.blocking_subscribe("a").expect("the group is there");
            stepped(|| lease(out, &mut rx, act == "lease+give_back"));
        }
        "subscribe" | "join" => {
            let channel = open(file);
            let name = if act == "join" { "a" } else { "c" };
            drop(stepped(|| channel.blocking_subscribe(name)).expect("there is room for a group"));
        }
        "remove_group" => {
            let channel = open(file);
            match stepped(|| channel.remove_group("b", false)) {
                // Where many die one after the other, the first has removed it.
                Ok(()) | Err(RemoveGroupError::NotFound) => {}
                Err(error) => panic!("{error}"),
            }
        }
        "seek_group" => {
            let channel = open(file);
            stepped(|| channel.seek_group("b", Start::Newest, true)).expect("the group is there");
        }
        "close" => {
            let channel = open(file);
            stepped(|| channel.close());
        }
        "drop" => {
            let channel = open(file);
            let mut rx = channel.blocking_subscribe("a").expect("the group is there");
            let message = rx.try_recv().expect("there is a message");
            write!(out, "got {} {} back ", number(&message), message.attempts()).unwrap();
            // Given back when the receiver goes.
            std::mem::forget(message);
            stepped(|| drop((rx, channel)));
        }
        other => panic!("no operation is called {other}"),
    }
    std::fs::write(said_at(file), said).expect("the child says what came of it");
}
