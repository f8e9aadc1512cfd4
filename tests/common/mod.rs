//! What the tests share: a fresh directory, small channels, messages that can be checked, and limits on waiting.
#![allow(dead_code, reason = "each test file uses its own part of this module")]

use std::collections::BTreeSet;
use std::future::Future;
use std::net::TcpListener;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::pin::pin;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use disk_chan::{Channel, Offset, Options, Receiver, Sender, TryRecvError};

/// Bytes in a page of the smallest ring.
pub const PAGE: usize = 64 << 10;
/// Long enough for anything that ought to happen, on a machine that does other work too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A port of the loopback for a server. It is none of those that the kernel gives to connections: one that is tried in vain
/// could get the very port that it is for, and the server could not have it.
pub fn free_port() -> u16 {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let first = std::process::id() as usize * 61;
    loop {
        let port = 10_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("127.0.0.1", port as u16)).is_ok() {
            return port as u16;
        }
    }
}

/// A directory of the test's own, with a name for one channel in it. Gone with the value.
pub struct Dir(tempfile::TempDir);

impl Dir {
    /// A directory on disk.
    pub fn new() -> Self {
        Dir(tempfile::Builder::new().prefix("disk-chan-test-").tempdir().unwrap())
    }

    /// A directory in memory where there is one: for tests that open and close thousands of times.
    pub fn in_memory() -> Self {
        let made = tempfile::Builder::new().prefix("disk-chan-test-").tempdir_in("/dev/shm");
        made.map_or_else(|_| Dir::new(), Dir)
    }

    /// The path of the channel's file.
    pub fn file(&self) -> PathBuf {
        self.0.path().join("test.chan")
    }

    /// Another path in the directory.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The names that lie in the directory.
    pub fn entries(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.0.path()).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

/// The smallest ring: 2 pages of 64 KiB.
pub fn small() -> Options {
    Options::new().page_size(PAGE).max_pages(2).max_groups(8).max_held(32).max_op_cells(32).max_opens(8)
}

/// A new channel of the smallest ring.
pub fn small_channel() -> (Dir, Channel) {
    open_new(small())
}

/// A new channel in a directory of its own.
pub fn open_new(options: Options) -> (Dir, Channel) {
    let dir = Dir::new();
    let channel = options.blocking_open(dir.file()).unwrap();
    (dir, channel)
}

/// A message that carries its number and can be checked byte by byte; at least 8 bytes.
pub fn body(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend((8..len).map(|at| pattern(number, at)));
    bytes
}

/// The number in a message made by [`body`], every byte checked.
pub fn number(message: &[u8]) -> u64 {
    assert!(message.len() >= 8, "a message of {} bytes was not sent", message.len());
    let number = u64::from_le_bytes(message[..8].try_into().unwrap());
    for (at, byte) in message.iter().enumerate().skip(8) {
        assert_eq!(*byte, pattern(number, at), "message {number} is altered at byte {at}");
    }
    number
}

fn pattern(number: u64, at: usize) -> u8 {
    (number.wrapping_mul(0x9e37_79b9) >> 3) as u8 ^ (at as u8).wrapping_mul(31) ^ (at >> 8) as u8
}

/// Runs `test` in a thread and fails when it has not ended after `seconds`: a test that hangs must not hang the suite.
pub fn within<T: Send + 'static>(seconds: u64, test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = channel();
    let name = thread::current().name().unwrap_or("test").to_owned();
    let thread = thread::Builder::new()
        .name(name)
        .spawn(move || {
            let result = test();
            let _ = done.send(());
            result
        })
        .unwrap();
    if ended.recv_timeout(Duration::from_secs(seconds)) == Err(RecvTimeoutError::Timeout) {
        panic!("still running after {seconds} s");
    }
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs an async test on a tokio runtime of 2 workers, with the same limit.
pub fn within_tokio<F>(seconds: u64, test: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    within(seconds, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(runtime.spawn(test())).unwrap_or_else(|error| resume_unwind(error.into_panic()));
    });
}

/// Waits until something is so, and fails if it never is.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waited).await.is_ok(), "never: {what}");
}

/// Messages that the first group is not done with.
pub fn lag(channel: &Channel) -> u64 {
    channel.groups()[0].lag
}

/// Sends messages of `len` bytes with these numbers, each in its turn.
pub fn send(tx: &Sender, numbers: impl IntoIterator<Item = u64>, len: usize) {
    for n in numbers {
        tx.blocking_send(body(n, len)).unwrap();
    }
}

/// Everything the group has to hand out now, done with: (offset, number in the message, attempts).
pub fn drain(rx: &mut Receiver) -> Vec<(Offset, u64, u32)> {
    let mut got = Vec::new();
    loop {
        match rx.try_recv() {
            Ok(m) => got.push((m.offset(), number(&m), m.attempts())),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => return got,
            Err(error) => panic!("after {} messages: {error}", got.len()),
        }
    }
}

/// The numbers of the messages the group has to hand out now, done with.
pub fn drain_numbers(rx: &mut Receiver) -> Vec<u64> {
    drain(rx).into_iter().map(|(_, number, _)| number).collect()
}

/// Fills the ring with messages of `len` bytes numbered from `first`; says how many went in.
pub fn fill(channel: &Channel, first: u64, len: usize) -> u64 {
    let tx = channel.sender();
    let mut sent = 0;
    loop {
        match tx.try_send(body(first + sent, len)) {
            Ok(_) => sent += 1,
            Err(error) => {
                assert!(error.is_full(), "{error}");
                return sent;
            }
        }
    }
}

/// Fails unless `got` holds each of `0..count` once.
pub fn assert_each_once(got: impl IntoIterator<Item = u64>, count: u64) {
    let mut seen = BTreeSet::new();
    for number in got {
        assert!(number < count, "message {number} was not sent");
        assert!(seen.insert(number), "message {number} came twice");
    }
    let missing: Vec<_> = (0..count).filter(|n| !seen.contains(n)).take(10).collect();
    assert!(missing.is_empty(), "{} of {count} came; missing: {missing:?} ...", seen.len());
}

/// A waker that counts.
#[derive(Default)]
pub struct CountingWaker(AtomicUsize);

impl CountingWaker {
    /// A counter and the waker that counts in it.
    pub fn new() -> (Arc<CountingWaker>, Waker) {
        let counter = Arc::new(CountingWaker::default());
        let waker = Waker::from(counter.clone());
        (counter, waker)
    }

    /// How often it was woken.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for CountingWaker {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls a future once and drops it.
pub fn poll_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Waits until `what` holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Random numbers (xorshift64*), enough for tests.
pub struct Rng(u64);

impl Rng {
    /// The numbers that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The seed of a random test: `DISK_CHAN_SEED`, or the clock. Printed, so that a failure can be run again.
pub fn seed() -> u64 {
    let seed = match std::env::var("DISK_CHAN_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos().into(),
    };
    println!("DISK_CHAN_SEED={seed}");
    seed
}

const CHILD: &str = "DISK_CHAN_TEST_CHILD";

/// Whether this is the child that [`run_in_child`] started; the value that was handed to it.
pub fn child_argument() -> Option<String> {
    std::env::var(CHILD).ok()
}

/// Runs the test `name` of this test binary alone in a child process, which sees `argument`.
pub fn run_in_child(name: &str, argument: &str) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]).env(CHILD, argument);
    assert_success(name, command.output().unwrap());
}

/// The same with a mount name space of its own: `setup` is a shell text that mounts what the test needs.
pub fn run_in_child_with_mounts(name: &str, argument: &str, setup: &str) {
    let exe = std::env::current_exe().unwrap();
    let script = format!("set -e\n{setup}\nexec \"$0\" --exact \"$1\" --nocapture --test-threads=1");
    let mut command = Command::new("unshare");
    // A user who is not root becomes root of a name space of its own, where that is allowed.
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    command.arg(exe).arg(name).env(CHILD, argument);
    match command.output() {
        Ok(output) => assert_success(name, output),
        Err(error) => panic!("this test needs the program `unshare` and the right to mount: {error}"),
    }
}

fn assert_success(name: &str, output: Output) {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "child {name}: {}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "the child ran no test called {name}\n{out}\n{err}");
}
