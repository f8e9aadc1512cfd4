//! A file that was a channel, with words changed: open it, and use it in every way.
#![no_main]

use disk_chan::layout::{Geometry, Layout};
use disk_chan::map::{Access, Map};
use disk_chan::{Channel, Options, Overflow, Receiver, clean};
use disk_chan_fuzz::face::{self, Dir, set_word, sign, use_channel, word, write};
use disk_chan_fuzz::{Input, Limited, with_limit};
use libfuzzer_sys::{Corpus, fuzz_target};
use std::fs::File;
use std::sync::atomic::Ordering::Relaxed;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// Words of the header: the check of the control part, and the head.
const CHECK: usize = 25;
const HEADER: usize = 512;

/// A channel as its last user left it.
struct Found {
    dir: Dir,
    bytes: Vec<u8>,
    likely: Vec<u32>,
    layout: Layout,
}

fn geometry(kind: usize) -> Geometry {
    Geometry {
        page_size: 64 << 10,
        max_pages: 2 + kind % 2,
        typical_message_len: 700,
        max_groups: 3,
        max_opens: 2,
        max_op_cells: 4,
        max_held: 4,
        overflow: if kind & 2 == 0 { Overflow::Block } else { Overflow::DropOldest },
        max_age: 0,
        lease_timeout: 0,
        max_attempts: if kind == 4 { 2 } else { 0 },
    }
}

impl Found {
    /// In one of the ways to leave it.
    fn new(kind: usize) -> Self {
        let dir = Dir::new(&kind.to_string());
        let g = geometry(kind);
        let options = Options::new()
            .page_size(g.page_size)
            .max_pages(g.max_pages)
            .typical_message_len(g.typical_message_len)
            .max_groups(g.max_groups)
            .max_opens(g.max_opens)
            .max_op_cells(g.max_op_cells)
            .max_held(g.max_held)
            .overflow(g.overflow);
        let options = if g.max_attempts > 0 { options.max_attempts(g.max_attempts) } else { options };
        let channel = options.blocking_open(dir.file()).expect("a new channel");
        let (mut a, mut b) = (channel.blocking_subscribe("a").unwrap(), channel.blocking_subscribe("b").unwrap());
        channel.blocking_subscribe("c").unwrap();
        channel.remove_group("c", false).unwrap();
        let mut sent = 0;
        let mut send = |channel: &Channel, len| {
            sent += 1;
            assert!(face::send(channel, sent, len));
        };
        for _ in 0..if kind & 1 == 0 { 0 } else { 20 } {
            send(&channel, 20_000);
            let next = |rx: &mut Receiver| drop(rx.try_recv().unwrap());
            next(&mut a);
            next(&mut b);
        }
        (0..6).for_each(|_| send(&channel, 700));
        drop(a.try_recv().unwrap());
        let back = a.try_lease().unwrap();
        a.try_lease().unwrap().ack().unwrap();
        drop(back);
        let held = b.try_lease().unwrap();
        let message = b.try_recv().unwrap();
        let killed = kind >= 5;
        let in_use = std::fs::read(dir.file()).unwrap();
        drop(message);
        drop((held, a, b, channel));
        let bytes = if killed { in_use } else { std::fs::read(dir.file()).unwrap() };
        let layout = Layout::new(g).unwrap();
        let is_table = |at: usize| {
            let pages = bytes.len() / 8 - layout.page_words * g.max_pages;
            at < pages || (at - pages) % layout.page_words < layout.data_at(0) + 40
        };
        let in_use = |at: &usize| is_table(*at) && (word(&bytes, *at) != 0 || at % 16 == 0);
        let likely = (0..bytes.len() / 8).filter(in_use).map(|at| at as u32).collect();
        Self { dir, bytes, likely, layout }
    }
}

thread_local! {
    static FOUND: Vec<Found> = (0..8).map(Found::new).collect();
}

fn run(found: &Found, input: &mut Input<'_>) -> bool {
    let mut bytes = found.bytes.clone();
    let words = bytes.len() / 8;
    let (orders, which) = (input.byte(), input.byte());
    while !input.0.is_empty() {
        let at = input.place(&found.likely, words);
        let new = input.change(word(&bytes, at), |other| word(&found.bytes, other % words));
        set_word(&mut bytes, at, new);
        // In both copies, or one alone would be passed over.
        if at < HEADER && which & 4 == 0 {
            set_word(&mut bytes, at + HEADER, new);
        }
    }
    let path = found.dir.file();
    if which & 1 != 0 {
        // The checks of a clean close are right for what was changed, too.
        write(&path, &bytes);
        let uuid = [word(&bytes, 4), word(&bytes, 5)];
        let file = File::options().read(true).write(true).open(&path).expect("the file");
        let map = Map::new(&file, found.layout.clone(), uuid, Access::ReadWrite).expect("a mapping");
        let (check, head) = (clean::seal(map.memory()), map.memory().head().load(Relaxed));
        drop(map);
        bytes = std::fs::read(&path).expect("the file");
        for copy in [0, HEADER] {
            set_word(&mut bytes, copy + CHECK, check);
            set_word(&mut bytes, copy + CHECK + 1, head);
        }
    }
    if which & 3 != 0 {
        sign(&mut bytes);
    }
    write(&path, &bytes);
    let mut sent = 1000;
    if use_channel(&path, orders, &mut sent).is_err() {
        return false;
    }
    // What is left is in order.
    use_channel(&path, orders >> 1, &mut sent).expect("it opens again");
    true
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let mut input = Input(data);
    let kind = usize::from(input.byte());
    FOUND.with(|found| {
        let found = &found[kind % found.len()];
        match with_limit(found.bytes.len(), || run(found, &mut input)) {
            true => Corpus::Keep,
            false => Corpus::Reject,
        }
    })
});
