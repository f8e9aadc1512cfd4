//! The format of the file, version 1: a file from the day it was fixed, word for word, and as it reads.

mod common;

use common::Dir;
use disk_chan::{Channel, Headers, Offset, Options, Overflow, Start, TryRecvError};
use std::path::{Path, PathBuf};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/version-1.chan")
}

/// What the fixture was made by: two groups, a removed one's number used again, messages done, given back and not
/// yet read, one with headers, and a second page.
fn make(path: &Path) {
    let options = Options::new().page_size(64 << 10).max_pages(2).typical_message_len(100).max_groups(2).max_opens(2);
    let options = options.max_op_cells(2).max_held(2).overflow(Overflow::Block);
    let channel = options.blocking_open(path).unwrap();
    let tx = channel.sender();
    drop(channel.blocking_subscribe("gone").unwrap());
    channel.remove_group("gone", false).unwrap();
    tx.blocking_send("hello").unwrap();
    tx.blocking_send("world, of some length").unwrap();
    let mut billing = channel.blocking_subscribe("billing").unwrap();
    assert_eq!(&*billing.blocking_recv().unwrap(), b"hello");
    drop(billing.blocking_lease().unwrap());
    tx.blocking_send(vec![b'x'; 30_000]).unwrap();
    tx.blocking_send(vec![b'y'; 30_000]).unwrap();
    channel.blocking_subscribe_from(7, Start::Newest).map(drop).unwrap();
    tx.blocking_send("").unwrap();
    let headers = Headers::new().key("k").with("type", "text");
    tx.blocking_send(headers.message("with headers").unwrap()).unwrap();
}

/// Every word of the fixture that is not zero, by its place in bytes, but for the second copy of the header,
/// which is as the first, and the two long messages.
const WORDS: &[(usize, u64)] = &[
    (0, u64::from_le_bytes(*b"disk_cha")), // magic: "disk_cha"
    (8, 1),                                // version
    (24, 0x3),                             // number of the copy
    (32, 0xa717_8321_bcb7_e91f),           // uuid
    (40, 0x7c4f_ea73_056a_0427),           // uuid
    (48, 64 << 10),                        // page_size
    (56, 2),                               // max_pages
    (64, 100),                             // typical_message_len
    (72, 2),                               // max_groups
    (80, 2),                               // max_opens
    (88, 2),                               // max_op_cells
    (96, 2),                               // max_held
    (136, 1 << 28),                        // page limit
    (144, 1),                              // clean
    (152, 0xd33d_6bbe_4a41_44bb),          // boot id
    (160, 0xb531_55b0_d793_5ded),          // boot id
    (168, 0x1b),                           // device
    (176, 0x11_97dd),                      // inode
    (184, 0x1a2_0561_563d),                // created at
    (200, 0xd0e4_f56b_9beb_3cda),          // check of the control part
    (4088, 0xc716_67f7_ebba_36cb),         // checksum
    (8320, 3 << 44),                       // tail: page 0, after three new groups
    (8704, 1 << 28),                       // page limit
    (8712, 1),                             // opens used
    (8720, 1),                             // op cells used
    (8832, 6),                             // durable end: 0:6
    (12288, 1 << 32),                      // open 0: the first incarnation, ended
    (12544, 0x9_0000_0000),                // op cell 0: idle, nine steps later
    (12552, 5),                            // its last offset
    (12800, 2 << 8 | 1),                   // group 0: the second of its number, active
    (12816, 0x2000_0000_0000),             // where its next message may be
    (12824, 1),                            // messages given back
    (12840, 2),                            // claim cells used
    (12848, 3 << 36),                      // who holds it: nobody, three changes later
    (12928, 0xffff_ff00_0000_0004),        // its counters
    (12936, 4),
    (12944, 0xffff_ff00_0000_0000),
    (12952, 4),
    (12984, 0xffff_fc00_0000_0000),
    (13056, 1 << 8 | 1), // group 1: the first, active
    (13064, 4),          // its start: 0:4
    (13072, 0x1000_0000_0000),
    (13104, 1 << 36),
    (13184, 0xffff_ff00_0000_0002), // its counters
    (13192, 2),
    (13200, 0xffff_ff00_0000_0000),
    (13208, 2),
    (13240, 0xffff_fe00_0000_0000),
    (16384, 2),                                 // entry of group 0, copy 0: instance
    (16392, 7),                                 // length of the name
    (16408, 2 << 16),                           // origin: itself
    (16416, u64::from_le_bytes(*b"billing\0")), // name
    (16888, 0xbad4_662b_44c6_2d85),             // checksum
    (16896, 2),                                 // copy 1
    (16904, 7),
    (16920, 2 << 16),
    (16928, u64::from_le_bytes(*b"billing\0")),
    (17400, 0xbad4_662b_44c6_2d85),
    (17408, 1), // entry of group 1, copy 0
    (17416, 1),
    (17424, 4),           // start
    (17432, 1 << 16 | 1), // origin
    (17440, b'7' as u64), // name
    (17912, 0xcce6_5499_ca67_3b17),
    (17920, 1), // copy 1
    (17928, 1),
    (17936, 4),
    (17944, 1 << 16 | 1),
    (17952, b'7' as u64),
    (18424, 0xcce6_5499_ca67_3b17),
    (18560, 3 << 32 | 1 << 20 | 1 << 3 | 5), // claim cell 1 of group 0: epoch 3, one delivery, a lease, returned
    (18568, 1),                              // its offset: 0:1
    (18576, 0x2_04a9_1f2d),                  // taken at, with its epoch
    (18608, 2 << 32 | 1 << 5),               // how far it was extended: it was not, and sealed; its epoch
    (18616, 2 << 32),                        // what of it is done: nothing; the same epoch
    (24704, 0x4000_0000_0003_1d6d),          // page 0: cursor, open
    (24960, 0xcd9_bbd1_5952_30df),           // check of the page
    (25088, 3 << 32 | 2 << 20 | 2),          // cursor of group 0: tag 3, cell 1, index 2
    (25096, 0x5397_75fb_cdfd_3513),          // check of the group
    (25216, 3 << 32 | 1),                    // acks: tag 3, the first message
    (25352, 0xb157_a5cd_143b_02ec),          // check of group 1
    (25600, 1 << 29),                        // slots: committed at 0
    (25608, 1 << 29 | 5),                    // at 5
    (25616, 1 << 29 | 12),                   // at 12
    (25624, 1 << 29 | 3766),                 // at 3766
    (25632, 1 << 29 | 7520),                 // at 7520
    (25640, 1 << 29 | 7524),                 // at 7524
    (29184, 5),                              // records: length
    (29200, 0x1a2_0561_563d),                // send time; before it the offset, 0:0
    (29208, 0xe8c9_e6a8_9313_0355),          // checksum
    (29216, u64::from_le_bytes(*b"hello\0\0\0")), // payload
    (29224, 21),
    (29232, 1), // offset
    (29240, 0x1a2_0561_563d),
    (29248, 0xc952_2f65_9e0e_58da),
    (29256, u64::from_le_bytes(*b"world, o")),
    (29264, u64::from_le_bytes(*b"f some l")),
    (29272, u64::from_le_bytes(*b"ength\0\0\0")),
    (29280, 30_000),
    (29288, 2),
    (29296, 0x1a2_0561_563d),
    (29304, 0x179b_e9df_316b_7976),
    (59312, 30_000),
    (59320, 3),
    (59328, 0x1a2_0561_563d),
    (59336, 0x31a6_19e7_32f9_c9c3),
    (89352, 4), // a message without bytes: its offset
    (89360, 0x1a2_0561_563d),
    (89368, 0x4bf8_73e3_5d30_a964),
    (89376, 1 << 32 | 36), // with headers: flags and length
    (89384, 5),
    (89392, 0x1a2_0561_563d),
    (89400, 0xe1b1_1a42_b784_230e),
    (89408, u64::from_le_bytes([24, 0, 0, 0, 2, 0, b'k', 4])), // their block: 24 bytes; the key, one byte; a name of 4
    (89416, u64::from_le_bytes(*b"type\x04\0te")),
    (89424, u64::from_le_bytes(*b"xt\0\0\0\0\0\0")),
    (89432, u64::from_le_bytes(*b"with hea")), // the message
    (89440, u64::from_le_bytes(*b"ders\0\0\0\0")),
    (90112, 1),                     // page 1: number
    (90496, 0xb438_0a81_824c_7bb0), // check of the page
    (90632, 0xb157_a5cd_143b_02ec), // checks of the groups
    (90888, 0xb157_a5cd_143b_02ec),
];

/// Places whose words are another channel's own: its uuid, boot, device, inode, times, and what is computed of them.
const OWN: &[usize] = &[
    32, 40, 152, 160, 168, 176, 184, 200, 4088, 18_576, 24_960, 25_096, 25_352, 29_200, 29_208, 29_240, 29_248, 29_296,
    29_304, 59_328, 59_336, 89_360, 89_368, 89_392, 89_400, 90_496, 90_632, 90_888,
];

fn expected() -> Vec<u64> {
    let mut words = vec![0; 155_648 / 8];
    for &(at, word) in WORDS {
        words[at / 8] = word;
        if at < 4096 {
            words[(at + 4096) / 8] = word;
        }
    }
    words[29_312 / 8..][..3750].fill(u64::from_le_bytes([b'x'; 8]));
    words[59_344 / 8..][..3750].fill(u64::from_le_bytes([b'y'; 8]));
    words
}

fn words(path: &Path) -> Vec<u64> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks(8).map(|b| u64::from_le_bytes(b.try_into().unwrap())).collect()
}

fn same(found: &[u64], expected: &[u64], but: &[usize]) {
    assert_eq!(found.len(), expected.len());
    let but: Vec<usize> = but.iter().flat_map(|&at| if at < 4096 { vec![at, at + 4096] } else { vec![at] }).collect();
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(found == expected || but.contains(&(i * 8)), "byte {}: {found:#x}, not {expected:#x}", i * 8);
    }
}

fn the_fixture_is_what_it_was() {
    same(&words(&fixture()), &expected(), &[]);
}

/// A channel made today is the same file, but for what is its own.
fn a_new_channel_has_this_format() {
    let dir = Dir::in_memory();
    make(&dir.file());
    same(&words(&dir.file()), &expected(), OWN);
}

fn the_fixture_is_read() {
    let dir = Dir::in_memory();
    std::fs::copy(fixture(), dir.file()).unwrap();
    let channel = Options::new().page_size(64 << 10).max_pages(2).max_groups(2).blocking_open(dir.file()).unwrap();
    assert!(channel.recovered().is_none());
    let drain = |channel: &Channel, group: &str| -> Vec<(Offset, u32, Vec<u8>)> {
        let mut rx = channel.blocking_subscribe(group).unwrap();
        std::iter::from_fn(|| match rx.try_recv() {
            Ok(message) => Some((message.offset(), message.attempts(), message.to_vec())),
            Err(TryRecvError::Empty) => None,
            Err(error) => panic!("{error}"),
        })
        .collect()
    };
    let at = |n: u64| Offset::from_u64(n);
    let all = [
        (at(1), 2, b"world, of some length".to_vec()),
        (at(2), 1, vec![b'x'; 30_000]),
        (at(3), 1, vec![b'y'; 30_000]),
        (at(4), 1, vec![]),
        (at(5), 1, b"with headers".to_vec()),
    ];
    assert_eq!(drain(&channel, "billing"), all);
    assert_eq!(drain(&channel, "7"), all[3..]);
    let names: Vec<_> = channel.groups().iter().map(|group| group.name.to_string()).collect();
    assert_eq!(names, ["billing", "7"]);
}

/// One after the other, and alone in this process: which cells are used depends on how many handles there were.
#[test]
fn format_version_1() {
    the_fixture_is_what_it_was();
    a_new_channel_has_this_format();
    the_fixture_is_read();
}
