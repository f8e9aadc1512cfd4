//! What is looked at before a file is mapped: where it lies, its size, and its header.
//!
//! **Invariant.** Every number that comes from a file is checked before it is used: those of the header
//! here, and with [`Layout::new`]; what users of the channel would have left otherwise in `found.rs`, or it
//! is made anew by `recovery.rs`; the fields of words that can say anything, where they are used.
#![forbid(unsafe_code)]

use crate::OpenError;
use crate::file::failed;
use crate::header::Header;
use crate::layout::{Geometry, Layout};
use crate::options::{self, Options};
use std::fs::{File, Metadata};
use std::path::Path;

const EXT4: u64 = 0xef53;
const XFS: u64 = 0x5846_5342;
const TMPFS: u64 = 0x0102_1994;

/// What the file is, and its layout, if it is a channel such as the options ask for.
pub fn examine(options: &Options, path: &Path, file: &File) -> Result<(Metadata, Layout), OpenError> {
    check_file_system(options, path, file)?;
    let meta = file.metadata().map_err(failed(path, "look at it"))?;
    if !meta.is_file() {
        return Err(OpenError::NotAChannel { path: path.into() });
    }
    let layout = check(options, path, &Header::read(path, file)?, meta.len())?;
    Ok((meta, layout))
}

/// Refuses a file system that is not known to keep the promises.
pub fn check_file_system(options: &Options, path: &Path, file: &File) -> Result<(), OpenError> {
    let kind = rustix::fs::fstatfs(file).map_err(|e| failed(path, "look at its file system")(e.into()))?.f_type as u64;
    if options.trust_file_system || [EXT4, XFS, TMPFS].contains(&kind) {
        return Ok(());
    }
    Err(OpenError::FileSystem { path: path.into(), kind })
}

/// The layout that a header tells of.
pub fn layout(path: &Path, header: &Header) -> Result<Layout, OpenError> {
    let wrong = |e| OpenError::Damaged { path: path.into(), what: format!("its header says {e}") };
    Layout::new(header.geometry).map_err(wrong)
}

/// The layout of the file, if it is what the options ask for, and whole.
fn check(options: &Options, path: &Path, header: &Header, found: u64) -> Result<Layout, OpenError> {
    let g = header.geometry;
    let asked = [
        ("page_size", g.page_size, options.page_size),
        ("max_pages", g.max_pages, options.max_pages),
        ("typical_message_len", g.typical_message_len, options.typical_message_len),
        ("max_groups", g.max_groups, options.max_groups),
        ("max_opens", g.max_opens, options.max_opens),
        ("max_op_cells", g.max_op_cells, options.max_op_cells),
        ("max_held", g.max_held, options.max_held),
        ("overflow", g.overflow as usize, options.overflow.map(|o| o as usize)),
        ("max_age", g.max_age as usize, options.max_age.map(|t| options::long_milliseconds(t) as usize)),
        ("lease_timeout", g.lease_timeout as usize, options.lease_timeout.map(|t| options::milliseconds(t) as usize)),
        ("max_attempts", g.max_attempts as usize, options.max_attempts.map(|n| n as usize)),
    ];
    for (option, found, expected) in asked {
        if let Some(expected) = expected.filter(|&e| e != found) {
            // What could never be right is better called that.
            Layout::new(Geometry { ..options.geometry() })?;
            let (found, expected) = (found as u64, expected as u64);
            return Err(OpenError::Mismatch { path: path.into(), option, found, expected });
        }
    }
    let layout = layout(path, header)?;
    let expected = layout.file_bytes();
    if found < expected {
        return Err(OpenError::CutShort { path: path.into(), found, expected });
    }
    Ok(layout)
}
