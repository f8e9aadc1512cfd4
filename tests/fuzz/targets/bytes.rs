//! Any bytes as a file: it is opened and drained, or refused.
#![no_main]

use disk_chan::layout::MAGIC;
use disk_chan_fuzz::face::{Dir, set_word, sign, use_channel, write};
use disk_chan_fuzz::{Input, Limited, with_limit};
use libfuzzer_sys::{Corpus, fuzz_target};

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// More than the smallest channel has.
const MOST: usize = 1 << 18;

thread_local!(static DIR: Dir = Dir::new("bytes"));

fuzz_target!(|data: &[u8]| -> Corpus {
    let mut input = Input(data);
    let (orders, which, len) = (input.byte(), input.byte(), input.word() as usize % MOST);
    let mut bytes = vec![0; len.max(input.0.len())];
    bytes[..input.0.len()].copy_from_slice(input.0);
    if bytes.len() >= 8192 && which & 1 != 0 {
        for copy in [0, 512] {
            set_word(&mut bytes, copy, MAGIC);
            set_word(&mut bytes, copy + 1, 1);
            set_word(&mut bytes, copy + 2, 0);
        }
        if which & 2 != 0 {
            // A geometry that the file has room for.
            let said = [64 << 10, 2, 700, 2, 2, 2, 2];
            said.iter().enumerate().for_each(|(i, said)| set_word(&mut bytes, 6 + i, *said));
            set_word(&mut bytes, 13, u64::from(which >> 2 & 1));
            set_word(&mut bytes, 17, 1 << 28);
        }
        sign(&mut bytes);
    }
    DIR.with(|dir| {
        write(&dir.file(), &bytes);
        match with_limit(bytes.len().max(16 << 10), || use_channel(&dir.file(), orders, &mut 1)) {
            Ok(()) => Corpus::Keep,
            Err(_) => Corpus::Reject,
        }
    })
});
