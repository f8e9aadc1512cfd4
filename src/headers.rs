//! Headers: a key and named values that go with a message, in its record and under its checksum.
//!
//! **Invariants.**
//! - A message with headers is sent, stored and copied as one *region*: the header block, then the message.
//!   `layout.rs` specifies the block.
//! - The length of the block is looked at once, when the record is verified; one that cannot be is a record
//!   that does not verify. What the block says is looked at when somebody asks, and is read as far as it
//!   parses: any bytes will do.
//! - Whether there are headers is a constant of the type that is sent, so a message without them pays nothing
//!   for it.
#![forbid(unsafe_code)]

use crate::HeaderError;
use crate::layout::HEADERS;
use std::fmt;
use std::iter::FusedIterator;

/// Longest name in bytes.
const MAX_NAME: usize = u8::MAX as usize;
/// Longest key or value in bytes.
const MAX_VALUE: usize = u16::MAX as usize - 1;
/// Bytes of a header block before the key: its length, and that of the key.
const BEFORE_KEY: usize = 6;

/// The length of the header block that a region begins with, by the flags of its record; nothing if no record
/// is so.
#[inline]
pub fn block_len(flags: u32, region: &[u8]) -> Option<u32> {
    if flags == 0 { Some(0) } else { said_len(flags, region) }
}

#[cold]
fn said_len(flags: u32, region: &[u8]) -> Option<u32> {
    let len = region.first_chunk().map(|len| u32::from_le_bytes(*len))?;
    let fits = len > 0 && len.is_multiple_of(8) && len as usize <= region.len();
    (flags == HEADERS && fits).then_some(len)
}

mod sealed {
    /// What is stored of a message.
    pub trait Region {
        /// The flags of its record.
        const FLAGS: u32;
        /// The bytes of its record.
        fn region(&self) -> &[u8];
    }
}
use sealed::Region;

/// What can be sent: bytes, or a message [with headers](Headers::message).
///
/// It is sealed: these are all of them.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no message",
    note = "bytes are, which is all that implements `AsRef<[u8]>`, and what `Headers::message` makes"
)]
pub trait Payload: Region {}

impl<T: AsRef<[u8]> + ?Sized> Payload for T {}
impl<T: AsRef<[u8]> + ?Sized> Region for T {
    const FLAGS: u32 = 0;

    #[inline]
    fn region(&self) -> &[u8] {
        self.as_ref()
    }
}

impl Payload for WithHeaders {}
impl Region for WithHeaders {
    const FLAGS: u32 = HEADERS;

    fn region(&self) -> &[u8] {
        &self.region
    }
}

impl Payload for &WithHeaders {}
impl Region for &WithHeaders {
    const FLAGS: u32 = HEADERS;

    fn region(&self) -> &[u8] {
        &self.region
    }
}

/// Headers to go with messages: a key, and named values such as a trace context or a content type.
///
/// The channel does not look at them. They are in the record of the message and under its checksum, and count
/// in [`max_message_len`](crate::Channel::max_message_len): 6 bytes, the key, for each value 3 bytes beside its
/// name and itself, all of that rounded up to a multiple of 8.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("orders.chan");
/// # let channel = disk_chan::Options::new().page_size(1 << 20).max_pages(4).blocking_open(&path)?;
/// # let tx = channel.sender();
/// # let mut rx = channel.blocking_subscribe("billing")?;
/// use disk_chan::Headers;
/// let headers = Headers::new().key("customer 7").with("content-type", "text/plain");
/// tx.blocking_send(headers.message("two coffees")?)?;
///
/// let order = rx.blocking_recv()?;
/// assert_eq!(&*order, b"two coffees");
/// assert_eq!(order.key(), Some(&b"customer 7"[..]));
/// assert_eq!(order.headers().get("content-type"), Some(&b"text/plain"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    key: Option<Vec<u8>>,
    /// As they are stored.
    pairs: Vec<u8>,
    /// The first thing that cannot be stored.
    wrong: Option<HeaderError>,
}

impl Headers {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a key, of at most 65,534 bytes; the last one counts.
    pub fn key(mut self, key: impl AsRef<[u8]>) -> Self {
        let key = key.as_ref();
        if key.len() > MAX_VALUE {
            return self.refuse(HeaderError::KeyTooLong { len: key.len(), max: MAX_VALUE });
        }
        self.key = Some(key.to_vec());
        self
    }

    /// With another value, of at most 65,534 bytes, under a name of 1 to 255. A name can come again.
    pub fn with(mut self, name: impl AsRef<str>, value: impl AsRef<[u8]>) -> Self {
        let (name, value) = (name.as_ref(), value.as_ref());
        if name.is_empty() {
            return self.refuse(HeaderError::NoName);
        }
        if name.len() > MAX_NAME {
            return self.refuse(HeaderError::NameTooLong { len: name.len(), max: MAX_NAME });
        }
        if value.len() > MAX_VALUE {
            let name = name.to_owned();
            return self.refuse(HeaderError::ValueTooLong { name, len: value.len(), max: MAX_VALUE });
        }
        self.pairs.push(name.len() as u8);
        self.pairs.extend(name.as_bytes());
        self.pairs.extend((value.len() as u16).to_le_bytes());
        self.pairs.extend(value);
        self
    }

    fn refuse(mut self, error: HeaderError) -> Self {
        self.wrong.get_or_insert(error);
        self
    }

    /// A message with these headers.
    ///
    /// # Errors
    ///
    /// [`HeaderError`] if something that was put in before cannot be stored.
    pub fn message(&self, message: impl AsRef<[u8]>) -> Result<WithHeaders, HeaderError> {
        if let Some(error) = &self.wrong {
            return Err(error.clone());
        }
        let (message, key) = (message.as_ref(), self.key.as_deref());
        let block = (BEFORE_KEY + key.map_or(0, <[u8]>::len) + self.pairs.len()).next_multiple_of(8);
        let mut region = Vec::with_capacity(block + message.len());
        // What is longer than this says is longer than any message that can be sent.
        region.extend((block as u32).to_le_bytes());
        region.extend(key.map_or(0, |key| key.len() as u16 + 1).to_le_bytes());
        region.extend(key.unwrap_or_default());
        region.extend(&self.pairs);
        region.resize(block, 0);
        region.extend(message);
        Ok(WithHeaders { region, block })
    }
}

/// What was received, to go with another message.
impl From<HeadersRef<'_>> for Headers {
    fn from(headers: HeadersRef<'_>) -> Self {
        let with_key = Self { key: headers.key().map(<[u8]>::to_vec), ..Self::default() };
        headers.iter().fold(with_key, |all, (name, value)| all.with(name, value))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers = HeadersRef { key: self.key.as_deref(), pairs: &self.pairs };
        match &self.wrong {
            None => headers.fmt(f),
            Some(error) => f.debug_tuple("Headers").field(error).finish(),
        }
    }
}

/// A message with its headers, to be sent: see [`Headers::message`].
#[derive(Clone, PartialEq, Eq)]
pub struct WithHeaders {
    region: Vec<u8>,
    block: usize,
}

impl WithHeaders {
    /// A region that begins with a header block of this length.
    pub(crate) fn from_region(region: Vec<u8>, block: usize) -> Self {
        Self { region, block }
    }

    /// Its headers.
    pub fn headers(&self) -> HeadersRef<'_> {
        HeadersRef::new(&self.region, self.block)
    }

    /// The message without them.
    pub fn message(&self) -> &[u8] {
        &self.region[self.block..]
    }
}

impl fmt::Debug for WithHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithHeaders").field("headers", &self.headers()).field("len", &self.message().len()).finish()
    }
}

/// The headers of a message that was received; without any, it is empty.
#[derive(Clone, Copy, Default)]
pub struct HeadersRef<'a> {
    key: Option<&'a [u8]>,
    /// As they are stored, and what is behind them.
    pairs: &'a [u8],
}

impl<'a> HeadersRef<'a> {
    /// Of a region that begins with a header block of this length; 0 is none.
    pub(crate) fn new(region: &'a [u8], block: usize) -> Self {
        Self::parse(region.get(..block).unwrap_or_default()).unwrap_or_default()
    }

    fn parse(block: &'a [u8]) -> Option<Self> {
        let (before, rest) = block.split_first_chunk::<BEFORE_KEY>()?;
        let len = usize::from(u16::from_le_bytes([before[4], before[5]]));
        let (key, pairs) = rest.split_at_checked(len.saturating_sub(1))?;
        Some(Self { key: (len > 0).then_some(key), pairs })
    }

    /// The key, if there is one.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.key
    }

    /// The first value under a name.
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find_map(|(of, value)| (of == name).then_some(value))
    }

    /// The values with their names, in the order in which they were put in.
    pub fn iter(&self) -> HeadersIter<'a> {
        HeadersIter { rest: self.pairs }
    }

    /// Whether there is neither a key nor a value.
    pub fn is_empty(&self) -> bool {
        self.key.is_none() && self.iter().next().is_none()
    }
}

impl<'a> IntoIterator for HeadersRef<'a> {
    type Item = (&'a str, &'a [u8]);
    type IntoIter = HeadersIter<'a>;

    fn into_iter(self) -> HeadersIter<'a> {
        self.iter()
    }
}

impl fmt::Debug for HeadersRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Headers").field("key", &self.key.map(text)).field("pairs", &self.iter()).finish()
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// The values of headers with their names: see [`HeadersRef::iter`].
#[derive(Clone)]
pub struct HeadersIter<'a> {
    rest: &'a [u8],
}

type Pair<'a> = (&'a str, &'a [u8]);

/// The first of these pairs, and what is behind it.
fn pair(bytes: &[u8]) -> Option<(Pair<'_>, &[u8])> {
    let (&len, rest) = bytes.split_first().filter(|(len, _)| **len > 0)?;
    let (name, rest) = rest.split_at_checked(len.into())?;
    let (len, rest) = rest.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(u16::from_le_bytes(*len).into())?;
    Some(((std::str::from_utf8(name).ok()?, value), rest))
}

impl<'a> Iterator for HeadersIter<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (first, rest) = pair(self.rest).unzip();
        self.rest = rest.unwrap_or_default();
        first
    }
}

impl FusedIterator for HeadersIter<'_> {}

impl fmt::Debug for HeadersIter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.clone().map(|(name, value)| (name, text(value)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Any bytes, and some that are nearly a block.
    fn region() -> impl Strategy<Value = Vec<u8>> {
        let headers = (vec(any::<u8>(), 0..9), vec(("[a-z]{1,9}", vec(any::<u8>(), 0..9)), 0..6));
        let nearly =
            (headers, vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)).prop_map(|((key, pairs), changes)| {
                let headers = pairs.iter().fold(Headers::new().key(key), |all, (name, value)| all.with(name, value));
                let mut region = headers.message("message").unwrap().region;
                for (at, byte) in changes {
                    let at = at.index(region.len());
                    region[at] = byte;
                }
                region
            });
        prop_oneof![vec(any::<u8>(), 0..300), nearly]
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read_as_a_block(region in region(), block in 0..400usize, flags in 0..3u32) {
            let headers = HeadersRef::new(&region, block);
            let key = headers.key().map_or(0, <[u8]>::len);
            let pairs: usize = headers.iter().map(|(name, value)| 3 + name.len() + value.len()).sum();
            prop_assert!(key + pairs <= block.min(region.len()).saturating_sub(BEFORE_KEY));
            prop_assert!(block <= region.len() || headers.is_empty());
            // What was read can be sent, and is the same then.
            let again = Headers::from(headers);
            let sent = again.message("").unwrap();
            prop_assert_eq!(Headers::from(sent.headers()), again);
            let _ = format!("{headers:?}");

            let Some(len) = block_len(flags, &region) else { return Ok(()) };
            prop_assert!(len as usize <= region.len() && len % 8 == 0);
            prop_assert_eq!(len > 0, flags == HEADERS);
        }
    }
}
