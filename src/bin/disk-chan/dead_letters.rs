//! `disk-chan dead-letters`.

use std::path::PathBuf;

use crate::Outcome;
use crate::face::Face;

/// List, send again and purge dead letters
#[derive(clap::Args)]
pub struct Args {
    /// The channel
    file: PathBuf,
}

pub fn run(args: &Args, _face: Face) -> Outcome<()> {
    Err(format!("{}: not there yet", args.file.display()).into())
}
