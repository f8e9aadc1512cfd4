//! How long opening takes with a backlog: after a clean close, after a kill, and after a loss of power.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use disk_chan::{Channel, Create, Options, Sender};
use rustix::fs::{Advice, fadvise};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::args::Args;
use crate::figures::Spread;
use crate::process::{self, Process};
use crate::report::Report;

const LEN: usize = 100;
/// What a message of that length takes in the file.
const IN_FILE: u64 = 144;
const PAGE: usize = 16 << 20;
/// Beyond those of the backlog.
const PAGES: usize = 16;
const FILE: &str = "open.chan";
/// Messages of a process that comes later and is killed.
const FEW: u64 = 1000;

/// What is timed.
const CASES: [&str; 5] = [
    "clean open",
    "open after kill -9 of who filled it",
    "open with a full recovery",
    "reading the file, in the page cache",
    "reading the file, from the disk",
];

fn send(sender: &Sender, messages: u64) {
    for number in 0..messages {
        let mut message = [1; LEN];
        message[..8].copy_from_slice(&number.to_le_bytes());
        sender.blocking_send(message).unwrap();
    }
}

/// The processes that fill it and open it.
pub fn child(args: &[String]) {
    let [pages, dir] = args else { panic!("arguments: PAGES DIR") };
    let path = Path::new(dir).join(FILE);
    let mut channel: Option<Channel> = None;
    process::serve(|order| match order.split_once(' ').unwrap_or((order, "")) {
        ("create", _) => {
            let options = Options::new().page_size(PAGE).max_pages(pages.parse().unwrap());
            let options = options.create(Create::CreateNew).trust_file_system(true);
            let created = channel.insert(options.blocking_open(&path).unwrap());
            drop(created.blocking_subscribe("backlog").unwrap());
            vec![]
        }
        ("send", messages) => {
            send(&channel.as_ref().unwrap().sender(), messages.parse().unwrap());
            vec![]
        }
        ("open", _) => {
            let options = Options::new().create(Create::OpenExisting).trust_file_system(true);
            let start = Instant::now();
            let opened = channel.insert(options.blocking_open(&path).unwrap());
            let time = start.elapsed().as_secs_f64();
            vec![time, f64::from(u8::from(opened.recovered().is_some())), opened.len() as f64]
        }
        ("close", _) => {
            channel = None;
            vec![]
        }
        _ => panic!("no order {order}"),
    });
}

/// Makes a file that is not open look as if the machine had been started again since it was: the header names another
/// boot. (Words 19 and 20 of each copy; word 511 is the checksum of those before it.)
fn as_of_another_boot(path: &Path) {
    const COPY: usize = 4096;
    let file = File::options().read(true).write(true).open(path).unwrap();
    for copy in 0..2 {
        let mut bytes = [0; COPY];
        file.read_exact_at(&mut bytes, (copy * COPY) as u64).unwrap();
        bytes[19 * 8..21 * 8].iter_mut().for_each(|byte| *byte = !*byte);
        let checksum = xxh3_64(&bytes[..COPY - 8]);
        bytes[COPY - 8..].copy_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&bytes, (copy * COPY) as u64).unwrap();
    }
}

/// What writes back what was changed, so that it is no part of what comes next.
fn sync(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

/// Seconds of reading a file from its beginning to its end.
fn read(path: &Path) -> f64 {
    let mut block = vec![0; 1 << 20];
    let mut file = File::open(path).unwrap();
    let start = Instant::now();
    while file.read(&mut block).unwrap() > 0 {}
    start.elapsed().as_secs_f64()
}

fn drop_from_cache(path: &Path) {
    fadvise(File::open(path).unwrap(), 0, None, Advice::DontNeed).unwrap();
}

pub fn open(args: &Args, report: &mut Report) {
    let bytes: u64 = if args.full { 8 << 30 } else { 1 << 30 };
    let (dir, messages) = (args.new_dir(), bytes / IN_FILE);
    let path = dir.path().join(FILE);
    let pages = (bytes as usize / PAGE + PAGES).to_string();
    let start = || Process::start("open", &["open", &pages], dir.path(), &[]);
    println!(
        "\n# Opening\n\nSeconds, {} rounds; {messages} messages of {LEN} bytes that no group has received, {bytes} \
         bytes of the file.\nEach time in a new process, the file synced and in the page cache.",
        args.rounds,
    );

    let mut filler = start();
    filler.ask("create");
    filler.ask(format!("send {messages}"));
    let (mut victim, mut sent) = (Some(filler), messages);
    let mut times = [const { Vec::new() }; CASES.len()];
    let mut opened = |case: usize, sent: u64| {
        sync(&path);
        read(&path);
        let mut process = start();
        let [time, recovered, len] = process.ask("open").try_into().unwrap();
        assert_eq!((recovered == 1.0, len as u64), (case == 2, sent), "{}: recovered, messages", CASES[case]);
        times[case].push(time);
        process
    };
    for _ in 0..args.rounds {
        // In the first round that is who sent all of it; later one that sent a few more.
        let killed = victim.take().unwrap_or_else(|| {
            let mut process = start();
            process.ask("open");
            process.ask(format!("send {FEW}"));
            sent += FEW;
            process
        });
        drop(killed);
        drop(opened(1, sent));
        as_of_another_boot(&path);
        opened(2, sent).ask("close");
        opened(0, sent).ask("close");
    }
    for _ in 0..args.rounds {
        sync(&path);
        read(&path);
        times[3].push(read(&path));
        drop_from_cache(&path);
        times[4].push(read(&path));
    }

    println!("\n{:36} {:>9} {:>9} {:>9}", "", "median", "least", "most");
    for (case, times) in CASES.iter().zip(&times) {
        let Spread { median, least, most } = Spread::of(times);
        println!("{case:36} {median:9.4} {least:9.4} {most:9.4}");
    }
    let case = |(case, times): (&&str, &Vec<f64>)| json!({ "case": case, "seconds": Spread::json(times) });
    let cases = CASES.iter().zip(&times).map(case).collect::<Value>();
    let file = std::fs::metadata(&path).unwrap().len();
    report.add("open", json!({ "backlog_bytes": bytes, "file_bytes": file, "messages": messages, "cases": cases }));
}
