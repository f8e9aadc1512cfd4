//! Files, and everything that the public face does with one.

use crate::{body, is_body};
use disk_chan::{Channel, Headers, HeadersRef, Message, OpenError, Options, Receiver, TryRecvError};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const BLOCK: usize = 4096;

/// A directory in memory, gone with the value.
pub struct Dir(PathBuf);

impl Dir {
    /// Of this process alone.
    pub fn new(name: &str) -> Self {
        let dir = Path::new("/dev/shm").join(format!("disk-chan-fuzz-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir(&dir).expect("a directory");
        Self(dir)
    }

    /// The path of its one channel.
    pub fn file(&self) -> PathBuf {
        self.0.join("test.chan")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes the file what these bytes say; it stays the same file.
pub fn write(path: &Path, bytes: &[u8]) {
    let file = File::options().write(true).create(true).truncate(false).open(path).expect("a file");
    file.write_all_at(bytes, 0).expect("its bytes");
    file.set_len(bytes.len() as u64).expect("its length");
}

/// A word of these bytes.
pub fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at * 8..][..8].try_into().expect("eight bytes"))
}

/// Changes a word of these bytes.
pub fn set_word(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at * 8..][..8].copy_from_slice(&word.to_le_bytes());
}

/// Makes the checksums of both copies of the header right.
pub fn sign(bytes: &mut [u8]) {
    for copy in bytes.chunks_exact_mut(BLOCK).take(2) {
        let check = xxh3_64(&copy[..BLOCK - 8]);
        set_word(copy, BLOCK / 8 - 1, check);
    }
}

/// Sends a message; a short one has headers, now and then.
pub fn send(channel: &Channel, number: u64, len: usize) -> bool {
    let (tx, body) = (channel.sender(), body(number, len));
    if len < 1000 && number.is_multiple_of(3) {
        let headers = Headers::new().key(number.to_le_bytes()).with("number", number.to_string());
        return tx.try_send(headers.message(body).expect("headers")).is_ok();
    }
    tx.try_send(body).is_ok()
}

fn expect_sent(headers: HeadersRef<'_>, message: &[u8]) {
    if let Some(key) = headers.key() {
        assert!(message.starts_with(key) && headers.get("number").is_some(), "{headers:?} of {message:?}");
    }
    assert!(is_body(message), "{} bytes that were not sent: {:?}", message.len(), &message[..message.len().min(40)]);
}

/// Takes all there is; gives some of it back once.
fn drain(rx: &mut Receiver) {
    for n in 0..20_000 {
        let copied = n % 3 == 1;
        let end = if copied {
            rx.try_lease().map(|lease| {
                expect_sent(lease.headers(), &lease);
                if n % 2 == 0 || lease.attempts() > 1 {
                    let _ = lease.ack();
                }
            })
        } else {
            rx.try_recv().map(|message| expect_sent(message.headers(), &message))
        };
        match end {
            Ok(()) | Err(TryRecvError::Lagged(_)) => {}
            Err(_) => return,
        }
    }
    panic!("messages without end");
}

/// Looks at it, and uses it in every way; `orders` choose.
pub fn use_channel(path: &Path, orders: u8, sent: &mut u64) -> Result<(), OpenError> {
    if orders & 1 != 0 {
        look(&Options::new().read_only(true).blocking_open(path)?);
    }
    let channel = Options::new().blocking_open(path)?;
    look(&channel);
    let len = if orders & 2 != 0 { 700 } else { channel.max_message_len().min(25_000) };
    let mut send = |channel: &Channel, len: usize| {
        *sent += 1;
        self::send(channel, *sent, len.max(8))
    };
    for name in ["a", "b", "new"] {
        let Ok(mut rx) = channel.blocking_subscribe(name) else { continue };
        // One is read while the ring goes round.
        {
            let message: Option<Message<'_>> = rx.try_recv().ok();
            let copy = message.as_ref().map(|message| message.to_vec());
            let mut other = channel.blocking_subscribe(name).expect("the group");
            drain(&mut other);
            (0..8).all(|_| send(&channel, len));
            if let (Some(message), Some(copy)) = (message, copy) {
                assert!(*message == *copy, "{} changed while it was read", message.offset());
                expect_sent(message.headers(), &message);
            }
        }
        drain(&mut rx);
    }
    look(&channel);
    if orders & 4 != 0 {
        let _ = channel.remove_group("b", orders & 8 != 0);
    }
    if orders & 16 != 0 {
        channel.close();
    }
    send(&channel, 8);
    Ok(())
}

fn look(channel: &Channel) {
    std::hint::black_box((channel.stats(), channel.groups(), channel.len(), channel.is_empty(), channel.recovered()));
}
