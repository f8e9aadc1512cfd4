//! What `info`, `tail` and `top` are shown: files that are in use, wanted recovery, or were not left by a channel.

use crate::common::{Dir, PAGE, PATIENCE, Rng, body, seed, small, within};
use crate::run::{output, text};
use disk_chan::{Channel, Options};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

/// A ring of eight small pages.
pub fn eight() -> Options {
    small().max_pages(8)
}

/// A channel of eight pages of which more than four are written, and three groups: at the end, in the middle of the second
/// page, at the beginning.
pub fn busy(dir: &Dir) -> Channel {
    let channel = eight().blocking_open(dir.file()).unwrap();
    let mut rxs = ["end", "middle", "start"].map(|name| channel.blocking_subscribe(name).unwrap());
    let tx = channel.sender();
    let mut sent = 0;
    while channel.end_offset().page() < 4 {
        tx.blocking_send(body(sent, 100)).unwrap();
        sent += 1;
    }
    assert_eq!(rxs[0].try_iter().count() as u64, sent);
    assert_eq!(rxs[1].try_iter().take(sent as usize * 3 / 8).count() as u64, sent * 3 / 8);
    channel
}

/// A file as it is while a channel is in use, under another name: it wants recovery.
pub fn copied(dir: &Dir) -> PathBuf {
    let copy = dir.join("copy.chan");
    std::fs::copy(dir.file(), &copy).unwrap();
    copy
}

/// What the command says; fails unless it ends soon, and without a panic.
pub fn answer(args: &[&str]) -> Output {
    let owned: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let output = within(PATIENCE.as_secs(), move || output(owned));
    let said = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert!(!said.contains("panicked") && status.code().is_some_and(|code| code < 10), "{args:?}: {status}: {said}");
    output
}

/// The lines of JSON that the command printed.
pub fn json(output: &Output) -> Vec<Value> {
    let value = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text(output).lines().map(value).collect()
}

/// Files that nobody left: for each the commands are run, and must answer or say that they cannot.
pub fn hostile(try_it: impl Fn(&Path)) {
    let dir = Dir::in_memory();
    let channel = small().blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    for n in 0..20 {
        channel.sender().blocking_send(body(n, 700)).unwrap();
    }
    let held = rx.try_lease().unwrap();
    // In use when it was copied, and closed.
    let in_use = std::fs::read(dir.file()).unwrap();
    drop((rx, held, channel));
    let closed = std::fs::read(dir.file()).unwrap();
    let file = dir.join("hostile.chan");
    let mut rng = Rng::new(seed());
    let with = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        try_it(&file);
    };
    let control = in_use.len() - 2 * PAGE;
    for bytes in [&in_use, &closed] {
        // The header, whose copies may say anything; the words of the control part; the pages.
        for part in [0..128, 4096..4224, 8192..8192 + 768, 12_288..control, control..bytes.len()] {
            for flips in [1, 40] {
                let mut changed = bytes.to_vec();
                for _ in 0..flips {
                    changed[part.start + rng.below(part.len() as u64) as usize] ^= 1 << rng.below(8);
                }
                with(&changed);
            }
        }
        // Words as large as they can be, with a header that verifies.
        for at in 0..12 {
            let mut changed = bytes.to_vec();
            for copy in [0, 4096] {
                let block = &mut changed[copy..copy + 4096];
                block[32 + at * 8..][..8].copy_from_slice(&[0xff; 8]);
                let check = xxhash_rust::xxh3::xxh3_64(&block[..4088]);
                block[4088..].copy_from_slice(&check.to_le_bytes());
            }
            with(&changed);
        }
        with(&bytes[..bytes.len() - 1]);
        with(&bytes[..5000]);
    }
    let garbage: Vec<u8> = (0..300_000).map(|_| rng.next() as u8).collect();
    with(&garbage);
    with(&[]);
    with(&[&in_use[..8192], &garbage].concat());
}
