//! `disk-chan groups`.

use std::path::PathBuf;

use crate::Outcome;
use crate::face::Face;

/// List, move, copy, remove, export and import groups
#[derive(clap::Args)]
pub struct Args {
    /// The channel
    file: PathBuf,
}

pub fn run(args: &Args, _face: Face) -> Outcome<()> {
    Err(format!("{}: not there yet", args.file.display()).into())
}
