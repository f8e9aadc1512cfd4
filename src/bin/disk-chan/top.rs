//! `disk-chan top`: channels on a live screen.
//!
//! A thread for each file looks at it and says what it saw; the main thread draws, and listens to keys and signals. So
//! a file that takes long to look at, or cannot be, holds up nothing. However this ends, the terminal is as it was.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::terminal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::Outcome;
use crate::face::Face;
use crate::rates::Rates;
use crate::ring_picture::Symbols;
use crate::screen::{self, Panel};
use crate::snapshot::{SELDOM, Snapshot, Watched};
use crate::stop;

/// How soon a signal, a key or what was seen is noticed.
const TICK: Duration = Duration::from_millis(50);
/// Groups that a page of them moves.
const SCREENFUL: isize = 10;

/// Watch channels on a live screen
///
/// It only looks. A file that is not there, or cannot be read, is tried again. Keys: q, Esc or Ctrl-C quit; Tab, Left
/// and Right choose a file; Up, Down, PageUp and PageDown scroll its groups.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  disk-chan top orders.chan mails.chan --every 2s")]
pub struct Args {
    /// The channels
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How often to look: 500ms, 2s. A ring that takes long to look at is looked at less often
    #[arg(long, default_value = "1s", value_parser = every)]
    every: Duration,
}

fn every(text: &str) -> Result<Duration, String> {
    let every = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if every < TICK { Err(format!("must be at least {} ms", TICK.as_millis())) } else { Ok(every) }
}

/// What a thread saw: which file, and how it stands, or why that cannot be said.
type Seen = (usize, Result<(Snapshot, Rates), String>);

pub fn run(args: &Args, face: Face) -> Outcome<()> {
    if face.json || !io::stdout().is_terminal() {
        return Err("top draws on a terminal: for data use `disk-chan info --json FILE`".into());
    }
    // The first one restores the terminal, which waits for ever if that takes nothing; then there is the second.
    let signal = stop::note(&[SIGINT, SIGTERM, SIGHUP])?;
    let (saw, seen) = channel();
    let watchers = args.files.iter().enumerate().map(|(number, file)| {
        let (file, saw, every) = (file.clone(), saw.clone(), args.every);
        thread::spawn(move || watch(number, &file, &saw, every))
    });
    let watchers: Vec<_> = watchers.collect();
    let panels = args.files.iter().map(|file| Panel::new(file.to_string_lossy().into_owned())).collect();
    let mut top = Top { panels, chosen: 0, symbols: Symbols::of_locale() };
    {
        let mut screen = Screen::take()?;
        top.watch(&mut screen.0, &seen, watchers, &signal)?;
    }
    match signal.load(Relaxed) {
        0 => Ok(()),
        // The terminal is as it was: end as that signal ends a program.
        number => Ok(signal_hook::low_level::emulate_default_handler(number as i32)?),
    }
}

/// The terminal, which is as it was when this is dropped; after a panic too, by the hook that ratatui sets.
struct Screen(DefaultTerminal);

impl Screen {
    fn take() -> io::Result<Self> {
        // Half of it may have been done.
        ratatui::try_init().map(Self).inspect_err(|_| drop(ratatui::try_restore()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.0.show_cursor();
        // Not twice: what a panic has said since would be written over.
        if terminal::is_raw_mode_enabled().unwrap_or(true) {
            let _ = ratatui::try_restore();
        }
    }
}

/// Looks at a file again and again, until nobody wants to know.
fn watch(number: usize, file: &Path, saw: &Sender<Seen>, every: Duration) {
    let mut file = Watched::new(file);
    let mut before: Option<Snapshot> = None;
    loop {
        let began = Instant::now();
        // What is said goes by way of this thread's own snapshot, as the next one is compared with it.
        let seen = match file.look() {
            Ok((channel, is_new)) => {
                let now = Snapshot::take(channel);
                let rates = match before.as_ref().filter(|_| !is_new) {
                    Some(before) => Rates::between(before, &now),
                    None => Rates { messages: now.rate(), ..Rates::default() },
                };
                Ok((now, rates))
            }
            Err(error) => Err(error.to_string()),
        };
        before = seen.as_ref().ok().map(|(now, _)| now.clone());
        if saw.send((number, seen)).is_err() {
            return;
        }
        thread::sleep(every.saturating_sub(began.elapsed()).max(began.elapsed() * SELDOM));
    }
}

struct Top {
    panels: Vec<Panel>,
    /// The file that keys are for.
    chosen: usize,
    symbols: Symbols,
}

impl Top {
    fn watch(
        &mut self,
        screen: &mut DefaultTerminal,
        seen: &Receiver<Seen>,
        mut watchers: Vec<JoinHandle<()>>,
        signal: &AtomicUsize,
    ) -> Outcome<()> {
        let mut is_new = true;
        while signal.load(Relaxed) == 0 {
            if is_new {
                screen.draw(|frame| {
                    screen::draw(&self.panels, self.chosen, self.symbols, frame.area(), frame.buffer_mut());
                })?;
            }
            is_new = false;
            while event::poll(Duration::ZERO)? {
                if !self.heed(&event::read()?) {
                    return Ok(());
                }
                is_new = true;
            }
            match seen.recv_timeout(TICK) {
                Ok((number, now)) => {
                    self.panels[number].saw(now);
                    is_new = true;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if let Some(dead) = watchers.iter().position(JoinHandle::is_finished) {
                // It ends by a panic only, which was said already.
                return watchers.swap_remove(dead).join().map_err(|_| "looking at a file failed".into());
            }
        }
        Ok(())
    }

    /// Does what a key says; false if that is to quit.
    fn heed(&mut self, event: &Event) -> bool {
        let Event::Key(key) = event else { return true };
        if key.kind == KeyEventKind::Release {
            return true;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return false,
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            KeyCode::Tab | KeyCode::Right => self.choose(1),
            KeyCode::BackTab | KeyCode::Left => self.choose(self.panels.len() - 1),
            KeyCode::Up => self.scroll(-1),
            KeyCode::Down => self.scroll(1),
            KeyCode::PageUp => self.scroll(-SCREENFUL),
            KeyCode::PageDown => self.scroll(SCREENFUL),
            KeyCode::Home => self.scroll(isize::MIN),
            KeyCode::End => self.scroll(isize::MAX),
            _ => {}
        }
        true
    }

    fn choose(&mut self, forward: usize) {
        self.chosen = (self.chosen + forward) % self.panels.len();
    }

    fn scroll(&mut self, by: isize) {
        let panel = &mut self.panels[self.chosen];
        panel.scroll = panel.scroll.saturating_add_signed(by).min(panel.groups().saturating_sub(1));
    }
}
