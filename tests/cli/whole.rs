//! Files for the commands that work on whole files.

use crate::common::{Dir, body, small};
use crate::run::{arg, disk_chan, output, text};
use disk_chan::{Channel, Headers, Options};
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitStatus;

/// Three groups: one that is done with messages out of order and has given one back, one that is done, and a new one.
pub fn fill(channel: &Channel) {
    let [mut a, mut b] = ["a", "b"].map(|name| channel.blocking_subscribe(name).unwrap());
    channel.blocking_subscribe("c").unwrap();
    let tx = channel.sender();
    for n in 0..40_u64 {
        tx.blocking_send(body(n, 100)).unwrap();
    }
    let headers = Headers::new().key("a key").with("name", "value").with("bytes", [0xff, 0]);
    tx.blocking_send(headers.message("with \"headers\"\n").unwrap()).unwrap();
    tx.blocking_send(Headers::new().key([0xfe]).message("").unwrap()).unwrap();
    let mut leases: Vec<_> = (0..20).map(|_| a.try_lease().unwrap()).collect();
    [13, 7, 3, 2, 0].into_iter().for_each(|n| leases.remove(n).ack().unwrap());
    while b.try_recv().is_ok() {}
}

/// Such a file, closed.
pub fn closed() -> Dir {
    let dir = Dir::new();
    fill(&small().blocking_open(dir.file()).unwrap());
    dir
}

/// One message of a group that is left: its number or text, deliveries before, key, headers, time.
pub type Left = (Vec<u8>, u32, Option<Vec<u8>>, Vec<(String, Vec<u8>)>, std::time::SystemTime);

/// What each group has left: of a copy.
pub fn left(path: &Path) -> Vec<Vec<Left>> {
    let dir = Dir::new();
    std::fs::copy(path, dir.file()).unwrap();
    let channel = Options::new().blocking_open(dir.file()).unwrap();
    let of = |name| {
        let mut rx = channel.blocking_subscribe(name).unwrap();
        let mut left = Vec::new();
        while let Ok(m) = rx.try_recv() {
            let headers = m.headers().iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
            left.push((m.to_vec(), m.attempts(), m.key().map(<[u8]>::to_vec), headers, m.sent_at()));
        }
        left
    };
    ["a", "b", "c"].map(of).to_vec()
}

/// The lines of JSON that a command prints.
pub fn json(args: &[&str]) -> Vec<Value> {
    text(&output(args)).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The status of a command whose standard output nobody reads.
pub fn to_nobody<const N: usize>(args: [&str; N]) -> ExitStatus {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    disk_chan(args).stdout(writer).status().unwrap()
}

/// Whether `verify` finds nothing.
pub fn is_sound(path: &Path) -> bool {
    output(["verify", arg(path)]).status.success()
}

/// Changes a byte of the `n`th message of 100 bytes.
pub fn damage(path: &Path, n: usize) {
    let channel = Options::new().read_only(true).blocking_open(path).unwrap();
    let at = channel.page_bytes(0).unwrap().range().start + n as u64 * (32 + 104) + 40;
    drop(channel);
    flip(path, at);
}

/// Changes a byte.
pub fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

/// The last line of JSON that a command printed.
pub fn last(lines: &str) -> Value {
    serde_json::from_str(lines.lines().last().unwrap()).unwrap()
}
