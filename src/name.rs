//! Names of groups, and offsets.
#![forbid(unsafe_code)]

use crate::layout::{INDEX_BITS, MAX_PAGE_NUMBER};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The name of a group: 1 to 128 bytes. Number 7 is the group named "7".
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupName(Arc<str>);

impl GroupName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl From<&str> for GroupName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for GroupName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<&String> for GroupName {
    fn from(name: &String) -> Self {
        Self(name.as_str().into())
    }
}

impl From<&GroupName> for GroupName {
    fn from(name: &GroupName) -> Self {
        name.clone()
    }
}

macro_rules! from_number {
    ($($int:ty)*) => {$(
        impl From<$int> for GroupName {
            fn from(number: $int) -> Self {
                Self(number.to_string().into())
            }
        }
    )*};
}
from_number!(i32 u32 u64 usize);

/// The place of a message in the channel: it identifies and orders, it does not count.
///
/// Offsets rise, with gaps, and none is ever used twice.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset(u64);

impl Offset {
    pub(crate) fn new(page: u64, index: usize) -> Self {
        Self(page << INDEX_BITS | index as u64)
    }

    /// The offset that [`as_u64`](Self::as_u64) gave.
    pub const fn from_u64(offset: u64) -> Self {
        Self(offset)
    }

    /// The offset as a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The place behind it in its page.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The number of the page.
    pub const fn page(self) -> u64 {
        self.0 >> INDEX_BITS
    }

    /// The index in the page.
    pub const fn index(self) -> u64 {
        self.0 & ((1 << INDEX_BITS) - 1)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.page(), self.index())
    }
}

impl FromStr for Offset {
    type Err = ParseOffsetError;

    /// Reads `page:index`, as it is displayed, or the number that [`as_u64`](Self::as_u64) gives.
    fn from_str(text: &str) -> Result<Self, ParseOffsetError> {
        let parsed = match text.split_once(':') {
            None => text.parse().ok(),
            Some((page, index)) => match (page.parse::<u64>(), index.parse::<u64>()) {
                (Ok(page), Ok(index)) if page <= MAX_PAGE_NUMBER && index < 1 << INDEX_BITS => {
                    Some(page << INDEX_BITS | index)
                }
                _ => None,
            },
        };
        parsed.map(Self).ok_or(ParseOffsetError(()))
    }
}

/// The text is no [`Offset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no offset: neither page:index nor a number")]
pub struct ParseOffsetError(());

impl fmt::Debug for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Offset({self})")
    }
}
