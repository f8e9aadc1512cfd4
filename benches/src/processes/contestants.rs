//! What is compared: the two ends of each contestant, one in each process.

use std::fs::File;
use std::hint::spin_loop;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use disk_chan::{Channel, Options, Receiver, Sender, TryRecvError};
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::update_connections::UpdateConnections;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::{event, publish_subscribe};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

/// Messages that go in one call where they go together.
const TOGETHER: usize = 64;
/// Bytes of the buffers in front of the buffered pipe.
const BUFFER: usize = 64 << 10;
/// Messages that iceoryx2 keeps for its subscriber.
const ICEORYX_BUFFER: usize = 1024;

/// How a receiver waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// In the kernel.
    Sleeping,
    /// By asking again and again.
    Polling,
}

/// A contestant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This crate, with the ring that it makes when nothing is chosen.
    DiskChan,
    /// The same, several messages in a call.
    DiskChanMany,
    /// A Unix socket pair that keeps messages apart.
    SeqPacket,
    /// A Unix socket pair that does not: the receiver reads as many bytes as a message has.
    Stream,
    /// A pipe: one message is one write and one read.
    Pipe,
    /// A pipe with a buffer in each process.
    BufferedPipe,
    /// iceoryx2, publish and subscribe, told to lose nothing.
    Iceoryx,
}

impl Kind {
    const ALL: [Kind; 7] = [
        Kind::DiskChan,
        Kind::DiskChanMany,
        Kind::SeqPacket,
        Kind::Stream,
        Kind::Pipe,
        Kind::BufferedPipe,
        Kind::Iceoryx,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::DiskChan => "disk_chan",
            Kind::DiskChanMany => "disk_chan, 64 in a call",
            Kind::SeqPacket => "socket pair, SOCK_SEQPACKET",
            Kind::Stream => "socket pair, SOCK_STREAM",
            Kind::Pipe => "pipe",
            Kind::BufferedPipe => "pipe, buffered 64 KiB",
            Kind::Iceoryx => "iceoryx2",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The sender's and the receiver's descriptor, where a contestant is descriptors.
    pub fn wire(self) -> Option<(OwnedFd, OwnedFd)> {
        let sockets = |kind| socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        match self {
            Kind::SeqPacket => Some(sockets(SocketType::SEQPACKET)),
            Kind::Stream => Some(sockets(SocketType::STREAM)),
            Kind::Pipe | Kind::BufferedPipe => {
                let (reader, writer) = pipe().unwrap();
                Some((writer.into(), reader.into()))
            }
            Kind::DiskChan | Kind::DiskChanMany | Kind::Iceoryx => None,
        }
    }
}

/// Where a contestant puts its files.
pub struct Place {
    dir: PathBuf,
}

impl Place {
    pub fn new(dir: &Path) -> Self {
        Place { dir: dir.to_owned() }
    }

    fn channel(&self) -> Channel {
        Options::new().blocking_open(self.dir.join("processes.chan")).unwrap()
    }

    /// What the names of iceoryx2's shared memory begin with: as unique as the directory.
    fn prefix(&self) -> String {
        format!("{}_", self.dir.file_name().unwrap().to_string_lossy())
    }

    fn node(&self) -> Node<ipc::Service> {
        set_log_level(LogLevel::Error);
        let dir = self.dir.join("iceoryx2");
        let mut config = Config::default();
        config.global.set_root_path(&SemanticString::new(dir.as_os_str().as_encoded_bytes()).unwrap());
        config.global.prefix = SemanticString::new(self.prefix().as_bytes()).unwrap();
        NodeBuilder::new().config(&config).create().unwrap()
    }

    /// Removes the shared memory that iceoryx2 made for this place and left.
    pub fn clean(&self) {
        let prefix = self.prefix();
        for entry in std::fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// The sending end.
pub trait Outlet {
    /// Before messages that the receiver waits for in this way.
    fn prepare(&mut self, _: Wait) {}
    fn send(&mut self, message: &[u8]);
    /// After the last message.
    fn flush(&mut self) {}
}

/// The receiving end.
pub trait Inlet {
    /// Before messages that are waited for in this way.
    fn prepare(&mut self, _: Wait) {}
    /// Waits for the next message and looks at it; at more than one where they come together.
    fn receive(&mut self, wait: Wait, look: impl FnMut(&[u8]));
    /// Whether it has come to its steady state.
    fn is_warm(&self) -> bool {
        true
    }
}

pub struct DiskChanOut(Sender);

impl DiskChanOut {
    pub fn new(place: &Place) -> Self {
        DiskChanOut(place.channel().sender())
    }
}

impl Outlet for DiskChanOut {
    fn send(&mut self, message: &[u8]) {
        self.0.blocking_send(message).unwrap();
    }
}

pub struct DiskChanIn {
    channel: Channel,
    receiver: Receiver,
    together: usize,
}

impl DiskChanIn {
    pub fn new(place: &Place, kind: Kind) -> Self {
        let channel = place.channel();
        let receiver = channel.blocking_subscribe("processes").unwrap();
        DiskChanIn { channel, receiver, together: if kind == Kind::DiskChanMany { TOGETHER } else { 1 } }
    }
}

impl Inlet for DiskChanIn {
    fn receive(&mut self, wait: Wait, mut look: impl FnMut(&[u8])) {
        if self.together > 1 {
            let messages = self.receiver.blocking_recv_many(self.together).unwrap();
            return messages.iter().for_each(|message| look(message));
        }
        if wait == Wait::Sleeping {
            return look(&self.receiver.blocking_recv().unwrap());
        }
        loop {
            match self.receiver.try_recv() {
                Ok(message) => return look(&message),
                Err(TryRecvError::Empty) => spin_loop(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The ring has gone round once when more pages were turned than it has.
    fn is_warm(&self) -> bool {
        let stats = self.channel.stats();
        stats.page_turns > (stats.pages + stats.free_pages) as u64
    }
}

/// Gathers messages and sends them in one call.
pub struct DiskChanManyOut {
    sender: Sender,
    messages: Vec<Vec<u8>>,
    gathered: usize,
}

impl DiskChanManyOut {
    pub fn new(place: &Place, size: usize) -> Self {
        DiskChanManyOut { sender: place.channel().sender(), messages: vec![vec![0; size]; TOGETHER], gathered: 0 }
    }
}

impl Outlet for DiskChanManyOut {
    fn send(&mut self, message: &[u8]) {
        self.messages[self.gathered].copy_from_slice(message);
        self.gathered += 1;
        if self.gathered == TOGETHER {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.sender.blocking_send_many(&self.messages[..self.gathered]).unwrap();
        self.gathered = 0;
    }
}

/// What a descriptor was opened to: a socket or a pipe.
pub struct FdOut(File);

impl FdOut {
    pub fn new(fd: OwnedFd) -> Self {
        FdOut(fd.into())
    }
}

impl Outlet for FdOut {
    fn send(&mut self, message: &[u8]) {
        self.0.write_all(message).unwrap();
    }
}

pub struct FdIn {
    file: File,
    buffer: Vec<u8>,
}

impl FdIn {
    pub fn new(fd: OwnedFd, size: usize) -> Self {
        FdIn { file: fd.into(), buffer: vec![0; size] }
    }
}

impl Inlet for FdIn {
    fn prepare(&mut self, wait: Wait) {
        rustix::io::ioctl_fionbio(&self.file, wait == Wait::Polling).unwrap();
    }

    fn receive(&mut self, _: Wait, mut look: impl FnMut(&[u8])) {
        let mut filled = 0;
        while filled < self.buffer.len() {
            match self.file.read(&mut self.buffer[filled..]) {
                Ok(0) => panic!("the sender has gone"),
                Ok(more) => filled += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => spin_loop(),
                Err(error) => panic!("{error}"),
            }
        }
        look(&self.buffer);
    }
}

pub struct BufferedOut(BufWriter<File>);

impl BufferedOut {
    pub fn new(fd: OwnedFd) -> Self {
        BufferedOut(BufWriter::with_capacity(BUFFER, fd.into()))
    }
}

impl Outlet for BufferedOut {
    fn send(&mut self, message: &[u8]) {
        self.0.write_all(message).unwrap();
    }

    fn flush(&mut self) {
        self.0.flush().unwrap();
    }
}

pub struct BufferedIn {
    reader: BufReader<File>,
    message: Vec<u8>,
}

impl BufferedIn {
    pub fn new(fd: OwnedFd, size: usize) -> Self {
        BufferedIn { reader: BufReader::with_capacity(BUFFER, fd.into()), message: vec![0; size] }
    }
}

impl Inlet for BufferedIn {
    fn receive(&mut self, _: Wait, mut look: impl FnMut(&[u8])) {
        self.reader.read_exact(&mut self.message).unwrap();
        look(&self.message);
    }
}

type Messages<const N: usize> = publish_subscribe::PortFactory<ipc::Service, [u8; N], ()>;

fn services<const N: usize>(node: &Node<ipc::Service>) -> (Messages<N>, event::PortFactory<ipc::Service>) {
    let messages = node
        .service_builder(&"messages".try_into().unwrap())
        .publish_subscribe::<[u8; N]>()
        .enable_safe_overflow(false)
        .subscriber_max_buffer_size(ICEORYX_BUFFER)
        .open_or_create()
        .unwrap();
    let events = node.service_builder(&"events".try_into().unwrap()).event().open_or_create().unwrap();
    (messages, events)
}

pub struct IceoryxOut<const N: usize> {
    publisher: Publisher<ipc::Service, [u8; N], ()>,
    notifier: Notifier<ipc::Service>,
    notifies: bool,
    _node: Node<ipc::Service>,
}

impl<const N: usize> IceoryxOut<N> {
    pub fn new(place: &Place) -> Self {
        let node = place.node();
        let (messages, events) = services(&node);
        let publisher = messages.publisher_builder().backpressure_strategy(BackpressureStrategy::RetryUntilDelivered);
        IceoryxOut {
            publisher: publisher.create().unwrap(),
            notifier: events.notifier_builder().create().unwrap(),
            notifies: false,
            _node: node,
        }
    }
}

impl<const N: usize> Outlet for IceoryxOut<N> {
    fn prepare(&mut self, wait: Wait) {
        self.notifies = wait == Wait::Sleeping;
    }

    fn send(&mut self, message: &[u8]) {
        let sample = self.publisher.loan_uninit().unwrap().write_payload(message.try_into().unwrap());
        sample.send().unwrap();
        if self.notifies {
            self.notifier.notify().unwrap();
        }
    }
}

pub struct IceoryxIn<const N: usize> {
    subscriber: Subscriber<ipc::Service, [u8; N], ()>,
    listener: Listener<ipc::Service>,
    _node: Node<ipc::Service>,
}

impl<const N: usize> IceoryxIn<N> {
    pub fn new(place: &Place) -> Self {
        let node = place.node();
        let (messages, events) = services(&node);
        IceoryxIn {
            subscriber: messages.subscriber_builder().create().unwrap(),
            listener: events.listener_builder().create().unwrap(),
            _node: node,
        }
    }
}

impl<const N: usize> Inlet for IceoryxIn<N> {
    /// Connects with the publisher now and not at the first look: for a subscriber that has not, a full buffer drops
    /// messages whatever the strategy.
    fn prepare(&mut self, _: Wait) {
        self.subscriber.update_connections().unwrap();
    }

    fn receive(&mut self, wait: Wait, mut look: impl FnMut(&[u8])) {
        loop {
            match self.subscriber.receive().unwrap() {
                Some(sample) => return look(sample.payload()),
                None if wait == Wait::Polling => spin_loop(),
                // A notification comes after its message, and stays until it is waited for.
                None => drop(self.listener.blocking_wait(|_| {}).unwrap()),
            }
        }
    }
}
