//! A message as JSON.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use disk_chan::{HeadersRef, Offset};
use serde_json::{Map, Value, json};

use crate::face;

/// `offset`, `sent_at`, `len` and the message: as `text` if it is UTF-8, else as `base64`. If it has any, also `key`,
/// and `headers` as `[{"name": .., "value": ..}, ..]`; a key or value that is not UTF-8 is `{"base64": ".."}`.
pub fn message_json(
    offset: Offset,
    sent_at: SystemTime,
    key: Option<&[u8]>,
    headers: HeadersRef<'_>,
    message: &[u8],
) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("offset".into(), offset.to_string().into());
    object.insert("sent_at".into(), face::time(sent_at).into());
    if let Some(key) = key {
        object.insert("key".into(), bytes_json(key));
    }
    let headers: Vec<Value> =
        headers.iter().map(|(name, value)| json!({"name": name, "value": bytes_json(value)})).collect();
    if !headers.is_empty() {
        object.insert("headers".into(), headers.into());
    }
    object.insert("len".into(), message.len().into());
    match std::str::from_utf8(message) {
        Ok(text) => object.insert("text".into(), text.into()),
        Err(_) => object.insert("base64".into(), STANDARD.encode(message).into()),
    };
    object
}

fn bytes_json(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({"base64": STANDARD.encode(bytes)}),
    }
}
