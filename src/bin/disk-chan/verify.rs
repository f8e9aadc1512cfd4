//! `disk-chan verify`.

use std::io;
use std::path::{Path, PathBuf};

use disk_chan::{Finding, RecoveryReport, Verification};
use serde_json::{Value, json};

use crate::Outcome;
use crate::face::Face;
use crate::figures;
use crate::progress::bar;

/// Check every page, record, checksum and bitmap of a file, and change nothing
///
/// Says what is wrong, where, and what becomes of it when the file is opened. The file may be in use. The status is 1 if
/// something is wrong, and 4 if the file cannot be opened.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  disk-chan verify orders.chan && echo it is whole")]
pub struct Args {
    /// The channel
    file: PathBuf,
}

pub fn run(args: &Args, face: Face) -> Outcome<()> {
    let found = look(&args.file)?;
    print_findings(&found, face)?;
    face.print(|| summary(&found), || said(&found))?;
    let wrong = found.findings.len() as u64 + found.more;
    match found.refused {
        Some(error) => Err(error.into()),
        None if wrong > 0 => Err(format!("{}: {wrong} found", args.file.display()).into()),
        None => Ok(()),
    }
}

/// Verifies a file, with a bar.
pub fn look(file: &Path) -> Outcome<Verification> {
    let bar = bar(0, "pages");
    let found = disk_chan::verify_with(file, |done, of| {
        bar.set_length(of);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(found?)
}

/// A line each.
pub fn print_findings(found: &Verification, face: Face) -> io::Result<()> {
    found.findings.iter().try_for_each(|finding| face.print(|| finding_json(finding), || finding.to_string()))?;
    match found.more {
        0 => Ok(()),
        more => face.print(|| json!({"more": more}), || format!("... and {more} more")),
    }
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "part": word(finding.part),
        "copy": finding.copy,
        "place": finding.place,
        "page": finding.page,
        "offset": finding.offset.map(|offset| offset.to_string()),
        "group": finding.group.as_ref().map(ToString::to_string),
        "what": finding.what,
        "remedy": word(finding.remedy),
    })
}

/// The name of a variant, as in JSON: `other_copy`.
fn word(variant: impl std::fmt::Debug) -> String {
    let mut word = String::new();
    for c in format!("{variant:?}").chars() {
        if c.is_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.extend(c.to_lowercase());
    }
    word
}

fn summary(found: &Verification) -> Value {
    json!({
        "state": word(found.state),
        "sound": found.is_sound(),
        "findings": found.findings.len() as u64 + found.more,
        "pages": found.pages,
        "messages": found.messages,
        "bytes": found.bytes,
        "damaged": found.damaged,
        "recovery": found.recovery.as_ref().map(recovery_json),
        "refused": found.refused.as_ref().map(ToString::to_string),
    })
}

/// What a recovery did, or would do.
pub fn recovery_json(report: &RecoveryReport) -> Value {
    json!({
        "cause": word(report.cause),
        "kept": report.kept,
        "damaged": report.damaged,
        "first_offset": report.first_offset.to_string(),
        "end_offset": report.end_offset.to_string(),
        "next_offset": report.next_offset.to_string(),
        "took": report.took.as_secs_f64(),
    })
}

/// The same in words.
pub fn recovery_said(report: &RecoveryReport) -> String {
    format!(
        "recovery keeps {} messages from {} to {}, without {} that do not verify; new ones begin at {}",
        report.kept, report.first_offset, report.end_offset, report.damaged, report.next_offset
    )
}

fn said(found: &Verification) -> String {
    let wrong = match found.findings.len() as u64 + found.more {
        0 => "nothing is wrong".to_owned(),
        1 => "1 thing is wrong".to_owned(),
        n => format!("{n} things are wrong"),
    };
    let Verification { state, pages, messages, bytes, damaged, .. } = found;
    let damaged = if *damaged > 0 { format!(", and {damaged} that do not verify") } else { String::new() };
    let mut said = format!("{wrong}; {}, {messages} messages of {bytes} bytes{damaged}", figures::pages(*pages));
    if found.refused.is_none() {
        said = format!("{said}\nthe file is {state}");
    }
    if let Some(report) = &found.recovery {
        said = format!("{said}\n{}", recovery_said(report));
    }
    said
}
