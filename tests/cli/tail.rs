//! `disk-chan tail`.

use crate::common::{Dir, PATIENCE, eventually, small, within};
use crate::looking::{answer, copied, hostile, json};
use crate::run::{arg, disk_chan, failure, output, text};
use crate::terminal::Terminal;
use disk_chan::{Channel, Headers, Options, Overflow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

fn numbers(dir: &Dir, numbers: std::ops::Range<u64>) -> Channel {
    let channel = small().blocking_open(dir.file()).unwrap();
    for n in numbers {
        channel.sender().blocking_send(n.to_string()).unwrap();
    }
    channel
}

fn tail(file: &Path, args: &[&str]) -> String {
    text(&answer(&[&["tail", arg(file)], args].concat()))
}

fn lines(numbers: impl IntoIterator<Item = u64>) -> String {
    numbers.into_iter().map(|n| format!("{n}\n")).collect()
}

#[test]
fn the_last_ones_or_from_a_place_on() {
    let dir = Dir::new();
    let channel = numbers(&dir, 0..100);
    let said = |args: &[&str]| tail(&dir.file(), args);
    assert_eq!(said(&[]), lines(90..100));
    assert_eq!(said(&["-n", "3"]), lines(97..100));
    assert_eq!(said(&["-n", "0"]), "");
    assert_eq!(said(&["-n", "1000"]), lines(0..100));
    assert_eq!(said(&["--from", "oldest"]), lines(0..100));
    assert_eq!(said(&["--from", "oldest", "-n", "2"]), lines(0..2));
    assert_eq!(said(&["--from", "0:95"]), lines(95..100));
    assert_eq!(said(&["--from", "95", "-n", "1"]), lines(95..96));
    assert_eq!(said(&["--from", "newest"]), "");
    assert_eq!(said(&["--from", "1h"]), lines(0..100));
    assert_eq!(said(&["--from", "2000-01-01T00:00:00Z"]), lines(0..100));
    assert_eq!(said(&["--from", "9999-01-01T00:00:00Z"]), "");
    assert_eq!(said(&["--grep", "^[0-9]7$"]), lines((7..100).step_by(10).skip(1)));
    assert_eq!(said(&["--grep", "7", "-n", "2"]), lines([87, 97]), "the last two that it is found in");
    assert_eq!(said(&["--grep", "7", "-n", "2", "--from", "oldest"]), lines([7, 17]));
    assert!(channel.groups().is_empty());
}

#[test]
fn it_moves_no_group() {
    let dir = Dir::new();
    let channel = numbers(&dir, 0..10);
    channel.blocking_subscribe("g").unwrap();
    let before = (channel.groups(), channel.group_positions(), std::fs::read(dir.file()).unwrap());
    tail(&dir.file(), &["--from", "oldest"]);
    assert!(before == (channel.groups(), channel.group_positions(), std::fs::read(dir.file()).unwrap()));
}

#[test]
fn what_it_does_not_understand_is_status_2() {
    for args in [&["--grep", "("][..], &["--from", "yesterday"], &["--format", "yaml"], &["-n", "-1"]] {
        let (said, status) = failure(&output([&["tail", "x.chan"], args].concat()));
        assert_eq!(status, 2, "{said}");
    }
    let dir = Dir::new();
    let (said, status) = failure(&output(["tail", "-f", arg(&dir.file())]));
    assert!(status == 3 && said.contains(arg(&dir.file())), "{status}: {said}");
}

#[test]
fn bytes_that_are_no_text() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    let tx = channel.sender();
    let bytes: Vec<u8> = (0..=255).collect();
    tx.blocking_send(&bytes).unwrap();
    let raw = answer(&["tail", arg(&dir.file())]).stdout;
    assert_eq!(raw, [&bytes[..], b"\n"].concat(), "to a pipe as it is");
    let hex = tail(&dir.file(), &["--format", "hex"]);
    assert!(hex.starts_with("0:0  2") && hex.lines().count() == 17, "{hex}");
    let line = "00000040  40 41 42 43 44 45 46 47  48 49 4a 4b 4c 4d 4e 4f  |@ABCDEFGHIJKLMNO|";
    assert!(hex.contains(line), "{hex}");
    assert!(tail(&dir.file(), &["--format", "base64"]).starts_with("AAECAwQFBgcICQ"));
    let value = json(&answer(&["tail", "--json", arg(&dir.file())])).remove(0);
    assert!(value["base64"].as_str().unwrap().starts_with("AAECAwQF") && value.get("text").is_none(), "{value}");
    assert!(!answer(&["tail", "--grep", r"(?-u)\xfe\xff", arg(&dir.file())]).stdout.is_empty());
}

/// To a terminal nothing goes that would do something else than be read.
#[test]
fn a_message_does_not_drive_the_terminal() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    channel.sender().blocking_send(b"evil \x1b[2J\x1b]0;title\x07\xff\xc2\x9b two\nlines").unwrap();
    for (format, shown) in [
        ("text", "evil \\u{1b}[2J\\u{1b}]0;title\\u{7}\\xff\\u{9b} two"),
        ("hex", "wo.lines|"),
        ("json", "\"base64\":\"ZXZp"),
    ] {
        let terminal = Terminal::start(200, &["tail", "--format", format, arg(&dir.file())]);
        terminal.shows(&[shown]);
        let said = terminal.said();
        assert!(!said.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{fffd}']), "{said:?}");
        assert!(terminal.ended().success());
    }
}

#[test]
fn json_says_everything() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    let tx = channel.sender();
    let headers = Headers::new().key("customer 7").with("type", "tea").with("trace", b"\xff");
    tx.blocking_send(headers.message("one\ntea").unwrap()).unwrap();
    tx.blocking_send(Headers::new().key(b"\xff").message("").unwrap()).unwrap();
    let values = json(&answer(&["tail", "--format", "json", arg(&dir.file())]));
    let [first, second] = &values[..] else { panic!("{values:?}") };
    assert_eq!(first["offset"], "0:0");
    assert_eq!((&first["text"], &first["len"], &first["key"]), (&"one\ntea".into(), &7.into(), &"customer 7".into()));
    let headers = serde_json::json!([{"name": "type", "value": "tea"}, {"name": "trace", "value": {"base64": "/w=="}}]);
    assert_eq!(first["headers"], headers);
    let sent = channel.get(channel.first_offset()).unwrap().sent_at();
    let said = humantime::parse_rfc3339(first["sent_at"].as_str().unwrap()).unwrap();
    assert_eq!(said, sent);
    assert_eq!((&second["text"], &second["len"], &second["key"]["base64"]), (&"".into(), &0.into(), &"/w==".into()));
    assert_eq!(tail(&dir.file(), &["--key", "customer 7", "--format", "base64"]), "b25lCnRlYQ==\n");
}

/// A command that runs on, and the lines that it prints.
struct Following {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

fn lines_of(from: impl Read + Send + 'static) -> Receiver<String> {
    let (say, said) = channel();
    std::thread::spawn(move || BufReader::new(from).lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
    said
}

impl Following {
    fn start(file: &Path, args: &[&str]) -> Self {
        let mut command = disk_chan([&["tail", "-f", arg(file)], args].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let errors = lines_of(child.stderr.take().unwrap());
        Self { child, lines, errors }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap()
    }

    fn signal(mut self, signal: Signal) -> std::process::ExitStatus {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn following_prints_what_comes_at_once() {
    let dir = Dir::new();
    let channel = numbers(&dir, 0..20);
    let following = Following::start(&dir.file(), &["-n", "2"]);
    assert_eq!([following.line(), following.line()], ["18", "19"]);
    for n in 20..200 {
        channel.sender().blocking_send(n.to_string()).unwrap();
        assert_eq!(following.line(), n.to_string());
    }
    assert_eq!(following.signal(Signal::SIGINT).signal(), Some(2), "a shell makes 130 of that");
    let mut following = Following::start(&dir.file(), &["--from", "newest", "-n", "1"]);
    eventually("it ends after one, whenever it began", || {
        channel.sender().try_send("one").unwrap();
        following.child.try_wait().unwrap().is_some()
    });
    assert_eq!(following.lines.iter().collect::<Vec<_>>(), ["one"]);
}

/// Nobody has it open any more, and somebody opens it again.
#[test]
fn following_goes_on_after_the_service_has_ended() {
    let dir = Dir::new();
    drop(numbers(&dir, 0..1));
    let following = Following::start(&dir.file(), &[]);
    assert_eq!(following.line(), "0");
    drop(numbers(&dir, 1..3));
    assert_eq!([following.line(), following.line()], ["1", "2"]);
    let channel = numbers(&dir, 3..4);
    channel.close();
    assert_eq!(following.line(), "3");
    drop(channel);
    drop(numbers(&dir, 4..5));
    assert_eq!(following.line(), "4");
    assert_eq!(following.signal(Signal::SIGTERM).signal(), Some(15));
}

/// What it sees of such a file is in its own memory, and nothing comes there.
#[test]
fn following_a_file_that_wants_recovery_goes_on_when_it_is_recovered() {
    let dir = Dir::new();
    let channel = numbers(&dir, 0..3);
    let copy = copied(&dir);
    let following = Following::start(&copy, &[]);
    assert_eq!([following.line(), following.line(), following.line()], ["0", "1", "2"]);
    drop(channel);
    let recovered = Options::new().blocking_open(&copy).unwrap();
    assert!(recovered.recovered().is_some());
    recovered.sender().blocking_send("3").unwrap();
    assert_eq!(following.line(), "3", "and none of those before again");
}

#[test]
fn following_a_file_that_is_replaced_goes_on_with_the_new_one() {
    let dir = Dir::new();
    drop(numbers(&dir, 0..1));
    let following = Following::start(&dir.file(), &[]);
    assert_eq!(following.line(), "0");
    std::fs::remove_file(dir.file()).unwrap();
    let said = following.errors.recv_timeout(PATIENCE).unwrap();
    assert!(said.contains("is not there"), "{said}");
    let _channel = numbers(&dir, 7..8);
    assert_eq!(following.line(), "7");
    let said = following.errors.recv_timeout(PATIENCE).unwrap();
    assert!(said.contains("another channel"), "{said}");
    // With no moment at which it is away.
    let third = Dir::new();
    drop(numbers(&third, 8..9));
    std::fs::copy(third.file(), dir.join("third")).unwrap();
    std::fs::rename(dir.join("third"), dir.file()).unwrap();
    assert_eq!(following.line(), "8");
}

#[test]
fn who_reads_has_enough() {
    let dir = Dir::new();
    let channel = small().overflow(Overflow::DropOldest).blocking_open(dir.file()).unwrap();
    for n in 0..500 {
        channel.sender().blocking_send(format!("{n} {}", "x".repeat(200))).unwrap();
    }
    for args in [&["--from", "oldest"][..], &["-f", "--from", "oldest"], &["-f", "-n", "1"]] {
        let mut command = disk_chan([&["tail", arg(&dir.file())], args].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::with_capacity(100, child.stdout.take().unwrap());
        let mut line = String::new();
        assert!(out.read_line(&mut line).unwrap() > 200);
        // Also where nothing more comes that it could fail to write.
        drop(out);
        let output = within(60, move || child.wait_with_output().unwrap());
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

#[test]
fn what_was_overwritten_is_said() {
    let dir = Dir::new();
    let channel = small().overflow(Overflow::DropOldest).blocking_open(dir.file()).unwrap();
    for n in 0..5000_u64 {
        channel.sender().blocking_send(n.to_string()).unwrap();
    }
    let output = answer(&["tail", "--from", "0:0", arg(&dir.file())]);
    let first = channel.first_offset();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("before {first} were overwritten")), "{said}");
    let oldest = 5000 - channel.len();
    assert!(oldest > 0);
    assert_eq!(text(&output), lines(oldest..5000));
}

#[test]
fn a_damaged_message_is_passed_over_and_counted() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    channel.sender().blocking_send_many(&["before", "unmistakable", "after"]).unwrap();
    drop(channel);
    let mut bytes = std::fs::read(dir.file()).unwrap();
    let at = bytes.windows(12).position(|window| window == b"unmistakable").unwrap();
    bytes[at] ^= 1;
    std::fs::write(dir.file(), bytes).unwrap();
    let output = answer(&["tail", arg(&dir.file())]);
    assert_eq!(text(&output), "before\nafter\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("1 messages passed over"), "{said}");
}

#[test]
fn a_hostile_file_is_an_error_or_an_answer() {
    hostile(|file| {
        answer(&["tail", "--json", "-n", "1000", arg(file)]);
        answer(&["tail", "--format", "hex", "--from", "oldest", arg(file)]);
    });
}
