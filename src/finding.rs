//! What a verification finds, and what becomes of it.
#![forbid(unsafe_code)]

use crate::{GroupName, Offset, OpenError, RecoveryReport};
use std::fmt;

/// How a file was left, or is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileState {
    /// Closed in order, or never opened.
    Clean,
    /// Somebody has it open.
    InUse,
    /// Its last users died, in this boot: who opens it cleans up after them.
    Dead,
    /// The machine went down while it was in use, or it was copied then: who opens it recovers it.
    Crashed,
    /// A sync of it failed: who opens it, once nobody has it open, recovers it.
    Poisoned,
}

/// The part of a file that a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The file as a whole.
    File,
    /// One of the two copies of the header.
    Header,
    /// What is said of the channel, its groups and what is handed out.
    Control,
    /// One of the two copies of the entry of a group.
    Entry,
    /// The header or the slots of a page.
    Page,
    /// A message.
    Message,
    /// What a page says of a group.
    Group,
    /// A claim cell: what is said of a message that was handed out.
    Claim,
}

/// What becomes of what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// The file cannot be opened.
    Refused,
    /// The other copy counts.
    OtherCopy,
    /// It is made anew from the messages that are whole, and the entries of the groups.
    Rebuilt,
    /// The message is passed over, and counted.
    Skipped,
    /// It reads as if the group had not been there: messages may come again that it was done with.
    Untouched,
    /// The group is not there any more.
    GroupGone,
    /// It is forgotten when nobody has the file open and somebody opens it.
    Forgotten,
    /// What was there is lost.
    Lost,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// In which part of the file.
    pub part: Part,
    /// Which copy, where there are two.
    pub copy: Option<usize>,
    /// The place of the page in the file.
    pub place: Option<usize>,
    /// The number of the page.
    pub page: Option<u64>,
    /// The message.
    pub offset: Option<Offset>,
    /// The group: its name, or its number where it has none.
    pub group: Option<GroupName>,
    /// What is wrong.
    pub what: String,
    /// What becomes of it.
    pub remedy: Remedy,
}

/// What was found in a file.
#[derive(Debug)]
#[non_exhaustive]
pub struct Verification {
    /// How the file was left, or is.
    pub state: FileState,
    /// What is wrong, the first thousand of it.
    pub findings: Vec<Finding>,
    /// How much more is wrong.
    pub more: u64,
    /// Pages that were looked through.
    pub pages: u64,
    /// Messages that verify.
    pub messages: u64,
    /// Their bytes, with headers.
    pub bytes: u64,
    /// Messages that do not.
    pub damaged: u64,
    /// What opening it would recover, if it would.
    pub recovery: Option<RecoveryReport>,
    /// Why it cannot be opened, if so.
    pub refused: Option<OpenError>,
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty() && self.refused.is_none()
    }
}

/// So many findings are kept.
const MOST: usize = 1000;

impl Verification {
    pub(crate) fn new(state: FileState) -> Self {
        let (findings, recovery, refused) = (Vec::new(), None, None);
        Self { state, findings, more: 0, pages: 0, messages: 0, bytes: 0, damaged: 0, recovery, refused }
    }

    pub(crate) fn add(&mut self, finding: Finding) {
        if self.findings.len() < MOST {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }
}

impl Finding {
    pub(crate) fn new(part: Part, remedy: Remedy, what: impl Into<String>) -> Self {
        let (copy, place, page, offset, group) = (None, None, None, None, None);
        Self { part, copy, place, page, offset, group, what: what.into(), remedy }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Header => "header",
            Self::Control => "control part",
            Self::Entry => "group entry",
            Self::Page => "page",
            Self::Message => "message",
            Self::Group => "group",
            Self::Claim => "claim",
        })
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the file cannot be opened",
            Self::OtherCopy => "the other copy counts",
            Self::Rebuilt => "is made anew from the messages that are whole",
            Self::Skipped => "is passed over, and counted",
            Self::Untouched => "reads as untouched: messages may come again",
            Self::GroupGone => "the group is gone",
            Self::Forgotten => "is forgotten at the next open",
            Self::Lost => "what was there is lost",
        })
    }
}

/// In one line: where, what, and what becomes of it.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.offset, self.part) {
            (Some(offset), Part::Message) => write!(f, "message {offset}")?,
            (Some(offset), part) => write!(f, "{part}, message {offset}")?,
            (None, part) => write!(f, "{part}")?,
        }
        if let Some(copy) = self.copy {
            write!(f, ", copy {copy}")?;
        }
        if let (Some(page), None) = (self.page, self.offset) {
            write!(f, " {page}")?;
        }
        if let (Some(place), None) = (self.place, self.offset) {
            write!(f, " at place {place}")?;
        }
        if let Some(group) = &self.group {
            write!(f, ", group {group}")?;
        }
        write!(f, ": {} ({})", self.what, self.remedy)
    }
}

impl fmt::Display for FileState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "closed in order",
            Self::InUse => "in use",
            Self::Dead => "left by users that died; who opens it cleans up after them",
            Self::Crashed => "in use when the machine went down, or copied then; who opens it recovers it",
            Self::Poisoned => "poisoned by a sync that failed; who opens it recovers it",
        })
    }
}
