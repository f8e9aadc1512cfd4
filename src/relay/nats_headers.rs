//! What goes with a message as headers of NATS.
//!
//! **Invariant.** No header that somebody sent becomes one that the server acts on. It looks for the names of its own in
//! all of the block, also in the middle of a name or a value. So what has `Nats-` anywhere goes encoded, and nothing
//! encoded has it.

use crate::Lease;
use crate::read::unix_milliseconds;
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use std::fmt::Write;
use std::str::FromStr;

const SENT: HeaderName = HeaderName::from_static("Disk-Chan-Sent");

/// The headers of a message, but its name.
pub fn headers(lease: &Lease) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(SENT, unix_milliseconds(lease.sent_at()).to_string());
    if let Some(key) = lease.key() {
        headers.insert("Disk-Chan-Key", encoded(key));
    }
    for (name, value) in lease.headers() {
        match as_it_is(name, value) {
            Some((name, value)) => headers.append(name, value),
            None => headers.append("Disk-Chan-Header", format!("{}={}", encoded(name.as_bytes()), encoded(value))),
        }
    }
    headers
}

/// As NATS carries it, if it does so without changing it or acting on it.
fn as_it_is(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let text = std::str::from_utf8(value).ok()?;
    let is_taken = |text: &str| {
        let text = text.to_ascii_lowercase();
        text.contains("nats-") || text.starts_with("disk-chan-")
    };
    let is_taken = is_taken(name) || is_taken(text);
    let is_plain = |text: &str| !text.bytes().any(|byte| byte.is_ascii_control()) && text.trim() == text;
    if is_taken || name.contains([':', ' ']) || !name.is_ascii() || !is_plain(name) || !is_plain(text) {
        return None;
    }
    Some((HeaderName::from_str(name).ok()?, HeaderValue::from_str(text).ok()?))
}

/// Letters, digits and `._~` as they are, any other byte as `%` and two hexadecimal digits.
fn encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"._~".contains(&byte) {
            text.push(byte.into());
        } else {
            let _ = write!(text, "%{byte:02X}"); // into a string
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_the_same_and_means_nothing_to_the_server_goes_as_it_is() {
        for (name, value) in [("traceparent", "00-ab-cd-01"), ("Content-Type", "text/plain; a=b"), ("x", "")] {
            let (as_name, as_value) = as_it_is(name, value.as_bytes()).expect(name);
            assert_eq!((as_name.as_ref(), as_value.as_str()), (name, value));
        }
        for (name, value) in [
            ("Nats-Rollup", &b"all"[..]),
            ("nats-msg-id", b"1"),
            ("Disk-Chan-Sent", b"1"),
            ("X-Nats-Msg-Id", b"1"),
            ("note", b"Nats-Msg-Id:1"),
            ("with space", b"1"),
            ("with:colon", b"1"),
            ("n\u{f6}n-ascii", b"1"),
            ("two-lines", b"a\r\nNats-Rollup: all"),
            ("padded", b" a"),
            ("bytes", b"\xff\xfe"),
        ] {
            assert!(as_it_is(name, value).is_none(), "{name}");
        }
        assert_eq!(encoded(b"a-Z.9_~ %=\xff\n"), "a%2DZ.9_~%20%25%3D%FF%0A");
    }
}
