//! `disk-chan info`.

use std::path::PathBuf;

use crate::Outcome;
use crate::face::{self, Face};

/// Show how a channel stands: geometry, state, groups, and a picture of the ring
#[derive(clap::Args)]
pub struct Args {
    /// The channel
    file: PathBuf,
}

pub fn run(args: &Args, _face: Face) -> Outcome<()> {
    face::look_at(&args.file)?;
    Ok(())
}
