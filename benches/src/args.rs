//! What the command line says.

use std::path::PathBuf;
use std::str::FromStr;

use tempfile::TempDir;

pub const USAGE: &str = "\
usage: benches [grid] [latency] [growth] [open] [idle] [lookup] [typed] [OPTIONS]

  Without a part, all of them.

  --full                  the full grid; backlogs of 8 GiB
  --rounds N              rounds (5)
  --seconds S             of a run, about (0.5)
  --cells PATTERN         only cells whose name contains it
  --contestants PATTERN   only contestants whose name contains it
  --dir DIR               where files lie (the temporary directory)
  --out DIR               where JSON and SVG go (target/bench)";

/// Parts of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Grid,
    Latency,
    Growth,
    Open,
    Idle,
    Lookup,
    Typed,
}

const PARTS: [(&str, Part); 7] = [
    ("grid", Part::Grid),
    ("latency", Part::Latency),
    ("growth", Part::Growth),
    ("open", Part::Open),
    ("idle", Part::Idle),
    ("lookup", Part::Lookup),
    ("typed", Part::Typed),
];

#[derive(Clone, Debug)]
pub struct Args {
    parts: Vec<Part>,
    pub full: bool,
    pub rounds: usize,
    pub seconds: f64,
    cells: String,
    contestants: String,
    pub dir: PathBuf,
    pub out: PathBuf,
}

impl Args {
    /// Nothing if they cannot be understood.
    pub fn parse(args: impl Iterator<Item = String>) -> Option<Self> {
        let mut parsed = Args {
            parts: Vec::new(),
            full: false,
            rounds: 5,
            seconds: 0.5,
            cells: String::new(),
            contestants: String::new(),
            dir: std::env::temp_dir(),
            out: "target/bench".into(),
        };
        let mut args = args;
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--full" => parsed.full = true,
                "--rounds" => parsed.rounds = number::<usize>(args.next())?.max(1),
                "--seconds" => parsed.seconds = number::<f64>(args.next()).filter(|s| *s > 0.0 && *s < 3600.0)?,
                "--cells" => parsed.cells = args.next()?,
                "--contestants" => parsed.contestants = args.next()?,
                "--dir" => parsed.dir = args.next()?.into(),
                "--out" => parsed.out = args.next()?.into(),
                part => parsed.parts.push(PARTS.iter().find(|(name, _)| *name == part)?.1),
            }
        }
        Some(parsed)
    }

    /// A directory in which a process puts its files.
    pub fn new_dir(&self) -> TempDir {
        tempfile::Builder::new().prefix("disk_chan-bench-").tempdir_in(&self.dir).unwrap()
    }

    pub fn runs(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    pub fn has_cell(&self, name: &str) -> bool {
        name.contains(&self.cells)
    }

    pub fn has_contestant(&self, name: &str) -> bool {
        name.contains(&self.contestants)
    }
}

fn number<T: FromStr>(arg: Option<String>) -> Option<T> {
    arg?.parse().ok()
}
