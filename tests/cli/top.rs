//! `disk-chan top`, in a terminal of the test's own.

use crate::common::Dir;
use crate::looking::{busy, copied};
use crate::run::{arg, disk_chan, failure, output};
use crate::terminal::Terminal;
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;

#[test]
fn at_80_and_at_200_columns_until_it_is_told_to_quit() {
    let dir = Dir::new();
    let _channel = busy(&dir);
    for columns in [80, 200] {
        for end in ["q", "\u{1b}", "\u{3}"] {
            let mut terminal = Terminal::start(columns, &["top", arg(&dir.file()), "--every", "100ms"]);
            terminal.shows(&["test.chan", "open once", "msg/s", "% unread", "q quit", "start "]);
            let screen = terminal.screen();
            let line = |name: &str| screen.lines().find(|line| line.starts_with(&format!("│{name} "))).unwrap();
            let column = |name: &str, of: char| line(name).chars().position(|c| c == of);
            // The ring, and under it where each stands.
            let (at_end, start) = (column("senders", '▲').unwrap(), column("start", '▲').unwrap());
            assert_eq!(column("end", '▲'), Some(at_end), "{screen}");
            assert!(column("middle", '▲').is_some_and(|at| start < at && at < at_end), "{screen}");
            assert!(line("group").chars().nth(start).is_some_and(|c| "█▇".contains(c)), "{screen}");
            assert!(line("group").contains('·'), "{screen}");
            assert_eq!(line("group").contains("again"), columns == 200, "there is room for more\n{screen}");
            assert!(terminal.is_taken(), "it reads keys");
            terminal.press(end);
            assert!(terminal.end().success());
        }
    }
}

#[test]
fn a_signal_ends_it_as_signals_do_and_restores_the_terminal() {
    let dir = Dir::new();
    let _channel = busy(&dir);
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let terminal = Terminal::start(80, &["top", arg(&dir.file())]);
        terminal.shows(&["middle"]);
        terminal.signal(signal);
        assert_eq!(terminal.end().signal(), Some(signal as i32));
    }
}

#[test]
fn in_a_terminal_that_takes_nothing_a_second_signal_ends_it() {
    let dir = Dir::new();
    let _channel = busy(&dir);
    let terminal = Terminal::start(80, &["top", arg(&dir.file())]);
    terminal.shows(&["middle"]);
    terminal.stop();
    let status = terminal.signal_until_ended(Signal::SIGTERM);
    assert_eq!(status.code(), Some(128 + Signal::SIGTERM as i32), "{status}");
}

/// A file that is not there, one that is no channel, one that wants recovery; and what becomes of them.
#[test]
fn files_that_cannot_be_looked_at_are_tried_again() {
    let dir = Dir::new();
    let _channel = busy(&dir);
    let (copy, other, missing) = (copied(&dir), dir.join("other.chan"), dir.join("missing.chan"));
    std::fs::write(&other, "something else").unwrap();
    let files = [arg(&copy), arg(&other), arg(&missing)];
    let mut terminal = Terminal::start(200, &[&["top"], &files[..], &["--every", "100ms"]].concat());
    terminal.shows(&["copy.chan", "wants recovery", "1 more file", "other.chan is not a channel", "trying again"]);
    terminal.press("\t\t");
    terminal.shows(&["missing.chan: is not there"]);
    std::fs::rename(&copy, &missing).unwrap();
    // It wants recovery, and is recovered.
    let recovered = disk_chan::Options::new().blocking_open(&missing).unwrap();
    recovered.blocking_subscribe("newcomer").unwrap();
    terminal.shows(&["newcomer", "open once"]);
    terminal.press("q");
    assert!(terminal.end().success());
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let dir = Dir::new();
    let _channel = busy(&dir);
    for args in [&["top", arg(&dir.file())][..], &["top", "--json", arg(&dir.file())]] {
        let (said, _) = failure(&output(args));
        assert!(said.contains("info --json"), "{said}");
    }
    let (said, status) = failure(&disk_chan(["top"]).output().unwrap());
    assert!(status == 2 && said.contains("FILE"), "{said}");
}
