//! `disk-chan top`, in a terminal of the test's own.

use crate::common::{Dir, PATIENCE, eventually, within};
use crate::looking::{busy, copied};
use crate::run::{arg, disk_chan, failure, output};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const ROWS: u16 = 24;
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";

/// The command, with a terminal.
struct Terminal {
    child: Child,
    keys: File,
    said: Arc<Mutex<Vec<u8>>>,
    slave: OwnedFd,
    before: Termios,
    columns: usize,
}

impl Terminal {
    fn start(columns: u16, args: &[&str]) -> Self {
        let size = Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        let before = tcgetattr(&slave).unwrap();
        // It becomes the controlling terminal: that is where the size is asked for.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(env!("CARGO_BIN_EXE_disk-chan")).arg("top").args(args);
        command.env("TERM", "xterm-256color").env("LC_ALL", "C.UTF-8");
        let end = || slave.try_clone().unwrap();
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (File::from(master.try_clone().unwrap()), Arc::clone(&said));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                to.lock().unwrap().extend_from_slice(&bytes[..n]);
            }
        });
        Self { child, keys: File::from(master), said, slave, before, columns: columns.into() }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    /// Waits until all of this is on the screen.
    fn shows(&self, texts: &[&str]) {
        let start = Instant::now();
        while let Some(text) = texts.iter().find(|text| !self.screen().contains(**text)) {
            assert!(start.elapsed() < PATIENCE, "it does not show {text:?}:\n{}", self.screen());
            std::thread::yield_now();
        }
    }

    /// What is on the screen: what was written where, as far as a program that draws cells needs it.
    fn screen(&self) -> String {
        let mut cells = vec![vec![' '; self.columns]; ROWS.into()];
        let (mut row, mut column) = (0, 0);
        let said = self.said();
        let mut said = said.chars();
        while let Some(c) = said.next() {
            match c {
                '\u{1b}' => {
                    said.next();
                    let end = said.as_str().find(|c: char| c.is_ascii_alphabetic());
                    let Some(end) = end else { break };
                    let (parameters, rest) = said.as_str().split_at(end);
                    if rest.starts_with('H') {
                        let (at, column_at) = parameters.split_once(';').unwrap_or(("1", "1"));
                        (row, column) = (at.parse::<usize>().unwrap() - 1, column_at.parse::<usize>().unwrap() - 1);
                    }
                    said = rest[1..].chars();
                }
                c if !c.is_control() => {
                    if let Some(cell) = cells.get_mut(row).and_then(|line| line.get_mut(column)) {
                        *cell = c;
                    }
                    column += 1;
                }
                _ => {}
            }
        }
        cells.iter().map(|line| line.iter().collect::<String>() + "\n").collect()
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Waits until it has ended; fails unless the terminal is as it was.
    fn end(mut self) -> ExitStatus {
        let (before, said) = (self.before, Arc::clone(&self.said));
        let status = within(60, move || self.child.wait().unwrap());
        let said = || String::from_utf8_lossy(&said.lock().unwrap()).into_owned();
        eventually("it left the screen", || said().rfind(LEAVE).is_some_and(|at| at > said().rfind(ENTER).unwrap()));
        assert!(said().contains(SHOW_CURSOR), "{:?}", said());
        assert_eq!(tcgetattr(&self.slave).unwrap(), before, "the modes of the terminal");
        status
    }
}

#[test]
fn at_80_and_at_200_columns_until_it_is_told_to_quit() {
    let dir = Dir::new();
    let _channel = busy(&dir);
    for columns in [80, 200] {
        for end in ["q", "\u{1b}", "\u{3}"] {
            let mut terminal = Terminal::start(columns, &[arg(&dir.file()), "--every", "100ms"]);
            terminal.shows(&["test.chan", "open once", "msg/s", "5 of 8 pages", "q quit", "start "]);
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
            assert_ne!(tcgetattr(&terminal.slave).unwrap(), terminal.before, "it has taken the terminal");
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
        let terminal = Terminal::start(80, &[arg(&dir.file())]);
        terminal.shows(&["middle"]);
        terminal.signal(signal);
        assert_eq!(terminal.end().signal(), Some(signal as i32));
    }
}

/// A file that is not there, one that is no channel, one that wants recovery; and what becomes of them.
#[test]
fn files_that_cannot_be_looked_at_are_tried_again() {
    let dir = Dir::new();
    let _channel = busy(&dir);
    let (copy, other, missing) = (copied(&dir), dir.join("other.chan"), dir.join("missing.chan"));
    std::fs::write(&other, "something else").unwrap();
    let files = [arg(&copy), arg(&other), arg(&missing)];
    let mut terminal = Terminal::start(200, &[&files[..], &["--every", "100ms"]].concat());
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
