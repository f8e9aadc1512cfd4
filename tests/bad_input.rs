//! Bad options, bad paths, bad files, too little room: each a clear error, with nothing lost and nothing left behind.

mod common;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use common::{Dir, PAGE, body, drain_numbers, small, within, within_tokio};
use disk_chan::{Channel, Create, OpenError, Options, Overflow};

/// Opening must fail; the error, which must name the path.
fn refused(options: Options, path: impl AsRef<Path>) -> OpenError {
    let path = path.as_ref();
    let error = options.blocking_open(path).expect_err("this must not open");
    let text = error.to_string();
    if !matches!(error, OpenError::InvalidOption { .. }) {
        assert!(text.contains(&*path.to_string_lossy()), "{text} does not name {}", path.display());
    }
    assert!(!text.ends_with('.') && text.len() < 8000, "{text}");
    error
}

#[test]
fn options_out_of_range() {
    let dir = Dir::new();
    let mut cases = vec![];
    for bytes in
        [0, 1, 4095, 4096, 65_535, 65_537, PAGE + 2048, PAGE * 3 / 2 + 1, (1 << 30) + 4096, 1 << 31, usize::MAX]
    {
        cases.push(("page_size", bytes, small().page_size(bytes)));
    }
    for pages in [0, 1, 65_537, usize::MAX] {
        cases.push(("max_pages", pages, small().max_pages(pages)));
    }
    for groups in [0, usize::MAX] {
        cases.push(("max_groups", groups, small().max_groups(groups)));
    }
    for opens in [0, usize::MAX] {
        cases.push(("max_opens", opens, small().max_opens(opens)));
    }
    for cells in [0, (1 << 14) + 1, usize::MAX] {
        cases.push(("max_op_cells", cells, small().max_op_cells(cells)));
    }
    for held in [0, 2048, usize::MAX] {
        cases.push(("max_held", held, small().max_held(held)));
    }
    cases.push(("typical_message_len", usize::MAX, small().typical_message_len(usize::MAX)));
    for (name, bad, options) in cases {
        match refused(options, dir.file()) {
            OpenError::InvalidOption { option, value, reason } => {
                assert_eq!((option, value), (name, bad as u64));
                assert!(!reason.is_empty());
            }
            other => panic!("{name} = {bad}: {other:?}"),
        }
    }
    // Each in its range, and too much together: tables over half a page.
    assert!(matches!(refused(small().max_groups(1000), dir.file()), OpenError::InvalidOption { .. }));
    assert!(matches!(refused(small().max_groups(4096), dir.file()), OpenError::InvalidOption { .. }));
    assert_eq!(dir.entries(), [""; 0], "nothing was created");
}

#[test]
fn the_short_form_checks_too() {
    within_tokio(30, || async {
        let dir = Dir::new();
        for (page_size, max_pages) in [(0, 0), (0, 2), (PAGE, 0), (PAGE, 1), (PAGE - 1, 2), (usize::MAX, usize::MAX)] {
            let error = disk_chan::new(dir.file(), page_size, max_pages).await.unwrap_err();
            assert!(matches!(error, OpenError::InvalidOption { .. }), "{page_size} {max_pages}: {error:?}");
        }
        assert_eq!(dir.entries(), [""; 0]);
    });
}

#[test]
fn bad_options_do_not_touch_an_existing_channel() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    channel.sender().try_send(body(0, 50)).unwrap();
    drop(channel);
    let before = fs::read(dir.file()).unwrap();
    refused(small().page_size(1), dir.file());
    refused(small().max_pages(1), dir.file());
    assert!(fs::read(dir.file()).unwrap() == before, "not a byte was changed");
}

#[test]
fn odd_but_allowed_options() {
    let odd = [
        small().page_size(PAGE + 4096),
        small().max_pages(3),
        small().max_groups(1),
        small().max_opens(1),
        small().max_op_cells(1),
        small().max_op_cells(5),
        small().max_held(1),
        small().max_held(2047),
        small().typical_message_len(0),
        small().typical_message_len(1),
        small().typical_message_len(PAGE),
        small().typical_message_len(1 << 30),
    ];
    for options in odd {
        let text = format!("{options:?}");
        let dir = Dir::new();
        let opened = options.blocking_open(dir.file());
        let channel = match opened {
            Ok(channel) => channel,
            // A table of slots for tiny messages takes over half of a small page.
            Err(OpenError::InvalidOption { .. }) if text.contains("typical_message_len: Some(") => continue,
            Err(error) => panic!("{text}: {error}"),
        };
        let mut rx = channel.blocking_subscribe("g").unwrap();
        for n in 0..100 {
            channel.sender().try_send(body(n, 3000)).unwrap();
            assert_eq!(drain_numbers(&mut rx), [n], "{text}");
        }
        let stats = channel.stats();
        assert_eq!(stats.pages + stats.free_pages, if text.contains("max_pages: Some(3)") { 3 } else { 2 });
    }
}

#[test]
fn the_path_leads_nowhere() {
    let dir = Dir::new();
    let long = "x".repeat(300);
    let deep = "x/".repeat(3000);
    fs::write(dir.join("a file"), "text").unwrap();
    for bad in ["no/such/parent/test.chan", "a file/test.chan", "nul\0byte", &long, &deep] {
        let path = dir.join(bad);
        match refused(small(), &path) {
            OpenError::Io { path: named, doing, .. } => {
                assert_eq!(named, path);
                assert!(!doing.is_empty());
            }
            other => panic!("{bad}: {other:?}"),
        }
    }
    let error = small().blocking_open("").unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
    assert_eq!(dir.entries(), ["a file"]);
}

#[test]
fn the_path_is_something_else() {
    within(30, || {
        let dir = Dir::new();
        fs::create_dir(dir.join("directory")).unwrap();
        for name in ["directory", "directory/", "."] {
            let error = refused(small(), dir.join(name));
            assert!(matches!(error, OpenError::Io { .. } | OpenError::NotAChannel { .. }), "{name}: {error:?}");
        }
        let status = Command::new("mkfifo").arg(dir.join("fifo")).status().unwrap();
        assert!(status.success());
        let special = [dir.join("fifo"), "/dev/null".into(), "/dev/zero".into(), "/proc/version".into()];
        for path in special {
            let error = refused(small(), &path);
            let clear =
                matches!(error, OpenError::Io { .. } | OpenError::NotAChannel { .. } | OpenError::FileSystem { .. });
            assert!(clear, "{}: {error:?}", path.display());
        }
        let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
        refused(small(), dir.join("socket"));
    });
}

#[test]
fn the_path_may_not_be_written() {
    let here = Path::new("/proc/self/test.chan");
    let error = refused(small(), here);
    assert!(matches!(error, OpenError::Io { .. } | OpenError::FileSystem { .. }), "{error:?}");
    let error = refused(small(), "/sys/test.chan");
    assert!(matches!(error, OpenError::Io { .. } | OpenError::FileSystem { .. }), "{error:?}");
}

/// A channel and a directory on a file system that was then mounted read-only, in a name space of its own.
#[test]
fn the_file_system_is_read_only() {
    match common::child_argument() {
        None => {
            let dir = Dir::new();
            drop(small().blocking_open(dir.file()).unwrap());
            let path = dir.file();
            let at = path.parent().unwrap().to_str().unwrap();
            let setup = format!("mount --bind '{at}' '{at}'\nmount -o remount,ro,bind '{at}'");
            common::run_in_child_with_mounts("the_file_system_is_read_only", at, &setup);
        }
        Some(at) => {
            match refused(small(), Path::new(&at).join("new.chan")) {
                OpenError::Io { source, .. } => assert_eq!(source.kind(), ErrorKind::ReadOnlyFilesystem),
                other => panic!("{other:?}"),
            }
            match refused(small(), Path::new(&at).join("test.chan")) {
                OpenError::NotWritable { source, .. } => assert_eq!(source.kind(), ErrorKind::ReadOnlyFilesystem),
                other => panic!("{other:?}"),
            }
            let channel = small().read_only(true).blocking_open(Path::new(&at).join("test.chan")).unwrap();
            assert_eq!(channel.len(), 0);
        }
    }
}

#[test]
fn a_symbolic_link_is_refused() {
    let dir = Dir::new();
    drop(small().blocking_open(dir.file()).unwrap());
    symlink(dir.file(), dir.join("link")).unwrap();
    symlink(dir.join("nothing"), dir.join("dangling")).unwrap();
    for name in ["link", "dangling"] {
        for options in [small(), Options::new(), small().create(Create::OpenExisting)] {
            let error = refused(options, dir.join(name));
            assert!(matches!(error, OpenError::Io { .. }), "{name}: {error:?}");
        }
    }
    assert!(!dir.join("nothing").exists(), "nothing was created behind the link");
}

#[test]
fn the_file_is_not_a_channel() {
    let dir = Dir::new();
    let mut rng = common::Rng::new(5);
    let noise: Vec<u8> = (0..300_000).map(|_| rng.next() as u8).collect();
    let text = "to be, or not to be\n".repeat(20_000);
    let size = {
        let channel = small().blocking_open(dir.join("sized")).unwrap();
        fs::metadata(channel.path()).unwrap().len() as usize
    };
    let files: [&[u8]; 8] =
        [b"", b"x", b"disk", &noise, &noise[..5000], text.as_bytes(), &vec![0; size], &vec![0xff; size]];
    for content in files {
        fs::write(dir.file(), content).unwrap();
        for options in [small(), Options::new(), small().create(Create::OpenExisting)] {
            let error = refused(options, dir.file());
            assert!(matches!(error, OpenError::NotAChannel { .. }), "{} bytes: {error:?}", content.len());
        }
        assert!(fs::read(dir.file()).unwrap() == content, "{} bytes were changed", content.len());
    }
}

fn closed_channel(dir: &Dir) -> Vec<u8> {
    let channel = small().blocking_open(dir.file()).unwrap();
    channel.blocking_subscribe("g").unwrap();
    for n in 0..50 {
        channel.sender().try_send(body(n, 500)).unwrap();
    }
    drop(channel);
    fs::read(dir.file()).unwrap()
}

/// Where the two copies of the header keep the format version: word 1 of blocks 0 and 1.
const VERSION_AT: [u64; 2] = [8, 4096 + 8];

#[test]
fn another_format_version() {
    let dir = Dir::new();
    let whole = closed_channel(&dir);
    for other in [0, 2, 7, u64::MAX] {
        let file = fs::OpenOptions::new().write(true).open(dir.file()).unwrap();
        for at in VERSION_AT {
            file.write_all_at(&other.to_le_bytes(), at).unwrap();
        }
        drop(file);
        let before = fs::read(dir.file()).unwrap();
        match refused(small(), dir.file()) {
            OpenError::UnsupportedVersion { found, supported, .. } => assert_eq!((found, supported), (other, 1)),
            error => panic!("{error:?}"),
        }
        assert!(fs::read(dir.file()).unwrap() == before, "not a byte was changed");
    }
    fs::write(dir.file(), &whole).unwrap();
}

#[test]
fn a_damaged_header_is_an_error_and_one_good_copy_is_enough() {
    let dir = Dir::new();
    let whole = closed_channel(&dir);
    let write = |spoilt: &[usize]| {
        let mut bytes = whole.clone();
        for at in spoilt {
            bytes[*at] ^= 0x10;
        }
        // In place: it stays the same file.
        fs::OpenOptions::new().write(true).open(dir.file()).unwrap().write_all_at(&bytes, 0).unwrap();
    };
    for at in [16, 40, 48, 100, 4095] {
        write(&[at, 4096 + at]);
        let error = refused(small(), dir.file());
        assert!(matches!(error, OpenError::Damaged { .. }), "byte {at}: {error:?}");
        for one in [at, 4096 + at] {
            write(&[one]);
            let channel = small().blocking_open(dir.file()).unwrap();
            let mut rx = channel.blocking_subscribe("g").unwrap();
            assert_eq!(common::number(&rx.try_lease().unwrap()), 0);
        }
    }
}

#[test]
fn other_options_than_the_files() {
    let dir = Dir::new();
    let options = || small().typical_message_len(100);
    let channel = options().blocking_open(dir.file()).unwrap();
    channel.sender().try_send(body(0, 50)).unwrap();
    let cases = [
        ("page_size", options().page_size(2 * PAGE), PAGE, 2 * PAGE),
        ("max_pages", options().max_pages(4), 2, 4),
        ("typical_message_len", options().typical_message_len(200), 100, 200),
        ("max_groups", options().max_groups(9), 8, 9),
        ("max_opens", options().max_opens(9), 8, 9),
        ("max_op_cells", options().max_op_cells(64), 32, 64),
        ("max_held", options().max_held(33), 32, 33),
        ("overflow", options().overflow(Overflow::DropOldest), 0, 1),
    ];
    // The same whether the file is open or not.
    for channel in [Some(channel), None] {
        for (name, options, has, wants) in &cases {
            match refused(options.clone(), dir.file()) {
                OpenError::Mismatch { option, found, expected, .. } => {
                    assert_eq!((option, found, expected), (*name, *has as u64, *wants as u64));
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        drop(channel);
    }
    // What is not set accepts what the file has.
    for options in
        [Options::new(), options(), Options::new().max_pages(2), small(), Options::new().overflow(Overflow::Block)]
    {
        let channel = options.blocking_open(dir.file()).unwrap();
        let stats = channel.stats();
        assert_eq!((stats.pages + stats.free_pages, stats.len), (2, 1));
    }
}

#[test]
fn a_file_cut_short() {
    let dir = Dir::new();
    let whole = closed_channel(&dir);
    let len = whole.len();
    for short in [len - 1, len - 4096, len - PAGE, len / 2, 20_000, 8192] {
        fs::write(dir.file(), &whole[..short]).unwrap();
        match refused(small(), dir.file()) {
            OpenError::CutShort { found, expected, .. } => assert_eq!((found, expected), (short as u64, len as u64)),
            other => panic!("{short} of {len}: {other:?}"),
        }
        assert_eq!(fs::metadata(dir.file()).unwrap().len(), short as u64, "it was not made longer");
    }
    for short in [1, 7, 8, 100, 4095, 4096, 4097, 8191] {
        fs::write(dir.file(), &whole[..short]).unwrap();
        let error = refused(small(), dir.file());
        assert!(matches!(error, OpenError::CutShort { .. } | OpenError::NotAChannel { .. }), "{short}: {error:?}");
    }
}

#[test]
fn one_open_too_many() {
    let dir = Dir::new();
    let options = || small().max_opens(3);
    let mut opens: Vec<Channel> = (0..3).map(|_| options().blocking_open(dir.file()).unwrap()).collect();
    let error = refused(options(), dir.file());
    assert!(matches!(error, OpenError::TooManyOpens { max: 3, .. }), "{error:?}");
    assert!(error.to_string().contains('3') && error.to_string().contains("max_opens"), "{error}");
    opens.remove(1);
    for round in 0..20 {
        opens.push(options().blocking_open(dir.file()).unwrap());
        assert!(options().blocking_open(dir.file()).is_err());
        for channel in &opens {
            channel.sender().try_send(body(round, 20)).unwrap();
        }
        opens.remove(round as usize % 3);
    }
    assert_eq!(opens[0].len(), 60);
}

#[test]
fn create_only_and_open_only() {
    let dir = Dir::new();
    assert!(matches!(refused(small().create(Create::OpenExisting), dir.file()), OpenError::NotFound { .. }));
    assert_eq!(dir.entries(), [""; 0]);
    let channel = small().create(Create::CreateNew).blocking_open(dir.file()).unwrap();
    assert!(matches!(refused(small().create(Create::CreateNew), dir.file()), OpenError::AlreadyExists { .. }));
    drop(channel);
    assert!(matches!(refused(small().create(Create::CreateNew), dir.file()), OpenError::AlreadyExists { .. }));
    drop(small().create(Create::OpenExisting).blocking_open(dir.file()).unwrap());
}

/// A file system of 1 MiB: a channel that does not fit is an error that leaves nothing, one that fits works.
#[test]
fn a_full_disk() {
    match common::child_argument() {
        None => {
            let dir = Dir::new();
            let path = dir.file();
            let at = path.parent().unwrap().to_str().unwrap();
            let setup = format!("mount -t tmpfs -o size=1m none '{at}'");
            common::run_in_child_with_mounts("a_full_disk", at, &setup);
        }
        Some(at) => {
            let path = Path::new(&at).join("test.chan");
            for (page_size, pages) in [(1 << 20, 2), (PAGE, 64), (1 << 30, 65_536), (16 << 20, 16)] {
                let options = small().page_size(page_size).max_pages(pages);
                match refused(options, &path) {
                    OpenError::Io { source, .. } => {
                        // The largest is beyond any file, which the system may say first.
                        let told = [ErrorKind::StorageFull, ErrorKind::FileTooLarge];
                        assert!(told.contains(&source.kind()), "{source:?}");
                    }
                    other => panic!("{page_size} x {pages}: {other:?}"),
                }
                assert_eq!(fs::read_dir(&at).unwrap().count(), 0, "nothing is left");
            }
            let channel = small().blocking_open(&path).unwrap();
            // Now something else fills the disk; every byte of the channel is its own already.
            let mut filler = fs::File::create(Path::new(&at).join("filler")).unwrap();
            while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
            let mut rx = channel.blocking_subscribe("g").unwrap();
            for n in 0..500 {
                channel.sender().try_send(body(n, 2000)).unwrap();
                assert_eq!(drain_numbers(&mut rx), [n]);
            }
            drop((rx, channel));
            let channel = small().blocking_open(&path).unwrap();
            assert!(!channel.is_empty());
        }
    }
}

/// The size limit of a process: the kernel would send a signal, the library says an error.
#[test]
fn a_limit_on_the_size_of_files() {
    match common::child_argument() {
        None => {
            let dir = Dir::new();
            common::run_in_child("a_limit_on_the_size_of_files", dir.file().to_str().unwrap());
        }
        Some(path) => {
            use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
            let own = getrlimit(Resource::Fsize);
            let limit = 1 << 20;
            setrlimit(Resource::Fsize, Rlimit { current: Some(limit), maximum: own.maximum }).unwrap();
            match refused(small().max_pages(100), &path) {
                OpenError::FileTooLarge { size, limit: named, .. } => {
                    assert!(named == limit && size > 100 * PAGE as u64, "{size} {named}");
                }
                other => panic!("{other:?}"),
            }
            assert!(!Path::new(&path).exists(), "nothing is left");
            let channel = small().blocking_open(&path).unwrap();
            let mut rx = channel.blocking_subscribe("g").unwrap();
            channel.sender().try_send(body(0, 100)).unwrap();
            assert_eq!(drain_numbers(&mut rx), [0]);
        }
    }
}
