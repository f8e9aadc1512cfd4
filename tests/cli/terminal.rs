//! The command in a terminal of the test's own, which sees what is on the screen.

use crate::common::{PATIENCE, eventually, within};
use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{FlowArg, Termios, tcflow, tcgetattr};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::Instant;

const ROWS: u16 = 24;
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";

/// The command, with a terminal.
pub struct Terminal {
    child: Child,
    keys: File,
    said: Arc<Mutex<Vec<u8>>>,
    slave: OwnedFd,
    before: Termios,
    columns: usize,
}

impl Terminal {
    /// Starts it in one of so many columns and 24 lines.
    pub fn start(columns: u16, args: &[&str]) -> Self {
        let size = Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        // The clones are closed in children: one that has its own terminal's other end never hears that it is gone.
        let [master, slave] = [master, slave].map(|end| end.try_clone().unwrap());
        let before = tcgetattr(&slave).unwrap();
        // It becomes the controlling terminal: that is where the size is asked for.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(env!("CARGO_BIN_EXE_disk-chan")).args(args);
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

    /// All that it wrote.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().unwrap()).into_owned()
    }

    /// Waits until all of this is on the screen.
    pub fn shows(&self, texts: &[&str]) {
        let start = Instant::now();
        while let Some(text) = texts.iter().find(|text| !self.screen().contains(**text)) {
            assert!(start.elapsed() < PATIENCE, "it does not show {text:?}:\n{}", self.screen());
            std::thread::yield_now();
        }
    }

    /// What is on the screen: what was written where, as far as a program that draws cells needs it.
    pub fn screen(&self) -> String {
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

    /// Types.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// Whether it has changed the modes of the terminal.
    pub fn is_taken(&self) -> bool {
        tcgetattr(&self.slave).unwrap() != self.before
    }

    /// From now on the terminal takes nothing, as after Ctrl-S.
    pub fn stop(&self) {
        tcflow(&self.slave, FlowArg::TCOOFF).unwrap();
    }

    /// Sends it a signal until it has ended.
    pub fn signal_until_ended(mut self, signal: Signal) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end");
            self.signal(signal);
            std::thread::yield_now();
        }
    }

    /// Waits until it has ended.
    pub fn ended(mut self) -> ExitStatus {
        within(60, move || self.child.wait().unwrap())
    }

    /// All that it wrote until it ended, and its status.
    pub fn all(mut self) -> (String, ExitStatus) {
        let said = Arc::clone(&self.said);
        let status = within(60, move || self.child.wait().unwrap());
        let mut before = usize::MAX;
        // What it wrote may still be on its way.
        eventually("all of it is there", || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let now = said.lock().unwrap().len();
            std::mem::replace(&mut before, now) == now && now > 0
        });
        let said = String::from_utf8_lossy(&said.lock().unwrap()).into_owned();
        (said, status)
    }

    /// Waits until it has ended; fails unless the terminal is as it was.
    pub fn end(mut self) -> ExitStatus {
        let (before, said) = (self.before, Arc::clone(&self.said));
        let status = within(60, move || self.child.wait().unwrap());
        let said = || String::from_utf8_lossy(&said.lock().unwrap()).into_owned();
        eventually("it left the screen", || said().rfind(LEAVE).is_some_and(|at| at > said().rfind(ENTER).unwrap()));
        assert!(said().contains(SHOW_CURSOR), "{:?}", said());
        assert_eq!(tcgetattr(&self.slave).unwrap(), before, "the modes of the terminal");
        status
    }
}
