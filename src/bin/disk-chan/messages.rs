//! Messages as text, as bytes in hexadecimal, as base64 and as JSON.
//!
//! What a message says is not ours: on a terminal nothing of it does anything but be shown.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use disk_chan::Record;
use serde_json::Value;

use crate::face;
use crate::figures::drives_terminal;
use crate::message_json::message_json;

/// Bytes in a line of a dump.
const LINE: usize = 16;

/// How messages are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The bytes as they are, and a newline; a terminal is shown no control characters
    Text,
    /// A line that says where and when, and the bytes in hexadecimal and ASCII
    Hex,
    /// A line of base64
    Base64,
    /// A line of JSON with everything (as --json)
    Json,
}

/// Prints a message.
pub fn print(out: &mut impl Write, record: &Record, format: Format, to_terminal: bool) -> io::Result<()> {
    match format {
        Format::Text if to_terminal => {
            shown(out, record)?;
            writeln!(out)
        }
        Format::Text => {
            out.write_all(record)?;
            writeln!(out)
        }
        Format::Hex => hex(out, record),
        Format::Base64 => writeln!(out, "{}", STANDARD.encode(&**record)),
        Format::Json => writeln!(out, "{}", json_shown(as_json(record).to_string(), to_terminal)),
    }
}

/// Bytes as a terminal can be shown them: lines and tabs stay, the rest that would do something is escaped.
pub fn shown(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if drives_terminal(c) && c != '\n' && c != '\t' {
                write!(out, "{}", c.escape_default())?;
            } else {
                write!(out, "{c}")?;
            }
        }
        chunk.invalid().iter().try_for_each(|byte| write!(out, "\\x{byte:02x}"))?;
    }
    Ok(())
}

fn hex(out: &mut impl Write, record: &Record) -> io::Result<()> {
    writeln!(out, "{}  {}  {} bytes", record.offset(), face::time(record.sent_at()), record.len())?;
    for (number, line) in record.chunks(LINE).enumerate() {
        write!(out, "{:08x} ", number * LINE)?;
        for at in 0..LINE {
            let gap = if at == LINE / 2 { " " } else { "" };
            match line.get(at) {
                Some(byte) => write!(out, "{gap} {byte:02x}")?,
                None => write!(out, "{gap}   ")?,
            }
        }
        let ascii = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { *byte as char } else { '.' };
        writeln!(out, "  |{}|", line.iter().map(ascii).collect::<String>())?;
    }
    Ok(())
}

fn as_json(record: &Record) -> Value {
    message_json(record.offset(), record.sent_at(), record.key(), record.headers(), record).into()
}

/// The JSON in one line. What it leaves as it is though it drives a terminal lies within its strings: there it can be
/// escaped, too.
pub fn json_shown(line: String, to_terminal: bool) -> String {
    if !to_terminal || !line.contains(drives_terminal) {
        return line;
    }
    let escaped = |c: char| if drives_terminal(c) { format!("\\u{:04x}", u32::from(c)) } else { c.into() };
    line.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_is_shown_does_not_drive_it() {
        let mut out = Vec::new();
        shown(&mut out, b"a\tb\nc\r\x1b[2J\xc2\x9b\xff\xe2\x80\xaed").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a\tb\nc\\r\\u{1b}[2J\\u{9b}\\xff\\u{202e}d");
    }

    #[test]
    fn json_for_a_terminal_is_the_same_json() {
        let dir = tempfile::tempdir().unwrap();
        let channel =
            disk_chan::Options::new().page_size(64 << 10).max_pages(2).blocking_open(dir.path().join("c")).unwrap();
        channel.sender().blocking_send("\u{9b}\u{7f}\u{1b}é").unwrap();
        let record = channel.reader().try_read().unwrap();
        let line = json_shown(as_json(&record).to_string(), true);
        assert!(!line.contains(drives_terminal), "{line:?}");
        assert_eq!(line.parse::<Value>().unwrap(), as_json(&record));
    }
}
