//! `disk-chan dead-letters`.

use std::collections::BTreeSet;

use disk_chan::{Channel, Headers, Options};
use rustix::process::Signal;
use serde_json::Value;

use crate::common::{Dir, drain_numbers, eventually, open_new, small, small_channel, within};
use crate::run::{arg, failure, output, start, text};

/// A channel with these messages among its dead letters, of group `g`, which is done with nothing.
fn with_letters<M: AsRef<[u8]>>(options: Options, messages: impl IntoIterator<Item = M>) -> (Dir, Channel, String) {
    let (dir, channel) = open_new(options.max_attempts(1));
    let (tx, mut rx) = (channel.sender(), channel.blocking_subscribe("g").unwrap());
    for message in messages {
        tx.blocking_send(message.as_ref()).unwrap();
        drop(rx.blocking_lease().unwrap());
        let _ = rx.try_recv();
    }
    let file = arg(&dir.file()).to_owned();
    (dir, channel, file)
}

fn list(file: &str) -> Vec<Value> {
    let said = text(&output(["dead-letters", "list", file, "--payload", "--json"]));
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the letters hold that are there.
fn there(file: &str) -> Vec<String> {
    list(file).iter().map(|letter| letter["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn listing_shows_no_payload_unless_asked_and_takes_nothing() {
    let (_dir, channel, file) = with_letters(small(), [&b"one"[..], b"\xff\n"]);
    let said = text(&output(["dead-letters", "list", &file]));
    let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["LETTER", "GROUP", "MESSAGE", "SENT", "ATTEMPTS", "LEN"]);
    assert_eq!((rows[1][1], rows[1][4], rows[1][5], rows.len()), ("g", "1", "3", 3));
    assert!(!said.contains("one"), "{said}");
    let said = text(&output(["dead-letters", "list", &file, "--payload"]));
    assert!(said.contains("  one\n"), "{said}");
    let said = text(&output(["dead-letters", "list", &file, "--json"]));
    assert!(!said.contains("one") && !said.contains("base64") && said.contains("\"len\":3"), "{said}");
    let letters = list(&file);
    assert_eq!(
        (&letters[0]["group"], &letters[0]["text"], &letters[1]["base64"]),
        (&"g".into(), &"one".into(), &"/wo=".into())
    );
    assert_eq!(letters[0]["message"], channel.first_offset().to_string());
    let mut dead = channel.blocking_dead_letters().unwrap();
    let first = dead.try_lease().unwrap();
    assert_eq!(first.attempts(), 1, "nobody had it");
    first.ack().unwrap();
    assert_eq!(list(&file).len(), 1, "what is done is not listed");
}

#[test]
fn a_letter_is_shown_as_its_message_was() {
    let (_dir, _channel, file) = with_letters(small(), [&b"one"[..], b"\xff\n"]);
    let letter = list(&file)[1]["offset"].as_str().unwrap().to_owned();
    assert_eq!(output(["dead-letters", "show", &file, &letter]).stdout, b"\xff\n");
    let said: Value = serde_json::from_str(&text(&output(["dead-letters", "show", &file, &letter, "--json"]))).unwrap();
    assert_eq!((&said["base64"], &said["attempts"]), (&"/wo=".into(), &1.into()));
    assert_eq!(failure(&output(["dead-letters", "show", &file, "9:9"])).1, 3);
}

#[test]
fn without_dead_letters_it_says_why() {
    let (dir, _channel) = small_channel();
    let file = dir.file();
    let (said, status) = failure(&output(["dead-letters", "list", arg(&file)]));
    assert!(said.contains("--max-attempts"), "{said}");
    assert_eq!(status, 3);
    assert_eq!(failure(&output(["dead-letters", "list", arg(&dir.join("none"))])).1, 3);
}

/// With its headers; every group gets it again, and what comes of that is another letter.
#[test]
fn letters_are_sent_again() {
    let (_dir, channel, file) = with_letters(small(), ["a", "b", "c"]);
    let mut other = channel.blocking_subscribe("other").unwrap();
    assert_eq!(other.try_iter().count(), 3);
    assert_eq!(text(&output(["dead-letters", "retry", &file, "-n", "2"])), "2 letters retried\n");
    assert_eq!(there(&file), ["c"]);
    let got: Vec<_> = other.try_iter().map(|message| message.into_vec()).collect();
    assert_eq!(got, [b"a", b"b"]);
    let mut rx = channel.blocking_subscribe("g").unwrap();
    assert_eq!(&*rx.try_recv().unwrap(), b"a");
    drop(rx.try_lease().unwrap());
    let _ = rx.try_recv();
    assert_eq!(there(&file), ["c", "b"]);
    let second = list(&file)[1]["offset"].as_str().unwrap().to_owned();
    assert_eq!(text(&output(["dead-letters", "retry", &file, &second, "--json"])), "{\"retried\":1}\n");
    assert_eq!(there(&file), ["c"]);
    assert_eq!(failure(&output(["dead-letters", "retry", &file, &second])).1, 3);
    assert_eq!(text(&output(["dead-letters", "retry", &file, "--all"])), "1 letters retried\n");
    assert_eq!(text(&output(["dead-letters", "retry", &file, "--all"])), "0 letters retried\n");
    assert_eq!(failure(&output(["dead-letters", "retry", &file])).1, 2);
    assert!(channel.durable_offset() >= channel.end_offset());
}

#[test]
fn headers_come_back() {
    let (_dir, channel, file) = with_letters(small(), [""; 0]);
    let mut rx = channel.blocking_subscribe("g").unwrap();
    channel.sender().blocking_send(Headers::new().key("k").with("a", [0xff]).message("x").unwrap()).unwrap();
    drop(rx.blocking_lease().unwrap());
    let _ = rx.try_recv();
    text(&output(["dead-letters", "retry", &file, "--all"]));
    let message = rx.try_recv().unwrap();
    assert_eq!(
        (&*message, message.key(), message.headers().get("a")),
        (&b"x"[..], Some(&b"k"[..]), Some(&b"\xff"[..]))
    );
}

#[test]
fn letters_are_purged() {
    let (_dir, channel, file) = with_letters(small(), ["a", "b", "c", "d"]);
    let (said, _) = failure(&output(["dead-letters", "purge", &file, "--all"]));
    assert!(said.contains("4 letters would be gone: say --yes"), "{said}");
    let third = list(&file)[2]["offset"].as_str().unwrap().to_owned();
    assert_eq!(text(&output(["dead-letters", "purge", &file, &third, "--yes"])), "1 letters purged\n");
    assert_eq!(there(&file), ["a", "b", "d"]);
    text(&output(["dead-letters", "purge", &file, "-n", "1", "--yes"]));
    assert_eq!(there(&file), ["b", "d"]);
    // A letter that somebody holds is left to him.
    let held = channel.blocking_dead_letters().unwrap().try_lease().unwrap();
    let (said, status) = failure(&output(["dead-letters", "purge", &file, "--all", "--yes"]));
    assert!(said.contains("1 of 2 letters"), "{said}");
    assert_eq!(status, 5);
    assert_eq!(there(&file), ["b"]);
    held.give_back().unwrap();
    text(&output(["dead-letters", "purge", &file, "--all", "--yes"]));
    assert_eq!(there(&file), [""; 0]);
}

/// Killed at any time, each letter is there still or was sent again.
#[test]
fn killed_in_the_middle_of_a_retry_no_letter_is_lost() {
    within(120, || {
        let numbers: Vec<_> = (0..300_u64).map(u64::to_le_bytes).collect();
        let mut in_the_middle = 0;
        for round in 0..10 {
            let (_dir, channel, file) = with_letters(small().max_pages(8).max_held(256), &numbers);
            let before = channel.len();
            let retry = start(["dead-letters", "retry", &file, "--all"]);
            eventually("some are sent", || channel.len() > before + round * 30);
            retry.signal(Signal::KILL);
            retry.end();
            let mut all = BTreeSet::from_iter(drain_numbers(&mut channel.blocking_subscribe("g").unwrap()));
            let mut dead = channel.blocking_dead_letters().unwrap();
            in_the_middle += usize::from(all.len() < numbers.len());
            // What it held comes back within a tick.
            eventually("each letter is there, or was sent", || {
                for message in dead.try_iter() {
                    let letter = disk_chan::DeadLetter::parse(&message).unwrap();
                    all.insert(u64::from_le_bytes(letter.message().try_into().unwrap()));
                }
                all.len() == numbers.len()
            });
        }
        assert!(in_the_middle > 0, "never killed before its end");
    });
}
