//! What is compared by latency: pairs of a sender and a receiver.

use std::hint::spin_loop;
use std::path::Path;

use disk_chan::{Create, Options, Sender, TryRecvError};

/// 40 bytes; it begins with its number.
pub type Message = [u8; 40];
pub type Send = Box<dyn FnMut(&Message) + std::marker::Send>;
pub type Receive = Box<dyn FnMut() -> Message + std::marker::Send>;

/// Of channels in memory: never full at these paces.
const CAPACITY: usize = 65536;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No channel: how late the thread that paces is by itself.
    Alone,
    DiskChan,
    DiskChanSpinning,
    Crossbeam,
    CrossbeamSpinning,
    Flume,
    Kanal,
    Std,
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Alone,
        Kind::DiskChan,
        Kind::DiskChanSpinning,
        Kind::Crossbeam,
        Kind::CrossbeamSpinning,
        Kind::Flume,
        Kind::Kanal,
        Kind::Std,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Alone => "no channel: the pacing thread alone",
            Kind::DiskChan => "disk_chan, blocking_recv",
            Kind::DiskChanSpinning => "disk_chan, try_recv in a spin",
            Kind::Crossbeam => "crossbeam-channel, recv",
            Kind::CrossbeamSpinning => "crossbeam-channel, try_recv in a spin",
            Kind::Flume => "flume, recv",
            Kind::Kanal => "kanal, recv",
            Kind::Std => "std mpsc, recv",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// A new channel; nothing where there is none. The name is for its file.
    pub fn pair(self, dir: &Path, name: &str) -> Option<(Send, Receive)> {
        let message = |bytes: Vec<u8>| -> Message { bytes.try_into().unwrap() };
        Some(match self {
            Kind::Alone => return None,
            Kind::DiskChan | Kind::DiskChanSpinning => ring(&dir.join(name), self == Kind::DiskChanSpinning),
            Kind::Crossbeam => {
                let (sender, receiver) = crossbeam_channel::bounded(CAPACITY);
                (
                    Box::new(move |m| sender.send(m.to_vec()).unwrap()),
                    Box::new(move || message(receiver.recv().unwrap())),
                )
            }
            Kind::CrossbeamSpinning => {
                let (sender, receiver) = crossbeam_channel::bounded(CAPACITY);
                let receive = move || loop {
                    match receiver.try_recv() {
                        Ok(bytes) => return message(bytes),
                        Err(crossbeam_channel::TryRecvError::Empty) => spin_loop(),
                        Err(error) => panic!("{error}"),
                    }
                };
                (Box::new(move |m| sender.send(m.to_vec()).unwrap()), Box::new(receive))
            }
            Kind::Flume => {
                let (sender, receiver) = flume::bounded(CAPACITY);
                (
                    Box::new(move |m| sender.send(m.to_vec()).unwrap()),
                    Box::new(move || message(receiver.recv().unwrap())),
                )
            }
            Kind::Kanal => {
                let (sender, receiver) = kanal::bounded(CAPACITY);
                (
                    Box::new(move |m| sender.send(m.to_vec()).unwrap()),
                    Box::new(move || message(receiver.recv().unwrap())),
                )
            }
            Kind::Std => {
                let (sender, receiver) = std::sync::mpsc::sync_channel::<Vec<u8>>(CAPACITY);
                (
                    Box::new(move |m| sender.send(m.to_vec()).unwrap()),
                    Box::new(move || message(receiver.recv().unwrap())),
                )
            }
        })
    }
}

/// disk_chan, its ring gone round once.
fn ring(path: &Path, spinning: bool) -> (Send, Receive) {
    let options = Options::new().create(Create::CreateNew).trust_file_system(true);
    let channel = options.blocking_open(path).unwrap();
    let mut receiver = channel.blocking_subscribe("latency").unwrap();
    let sender: Sender = channel.sender();
    let stats = channel.stats();
    while channel.stats().page_turns <= (stats.pages + stats.free_pages) as u64 {
        for _ in 0..10_000 {
            sender.blocking_send([0; size_of::<Message>()]).unwrap();
            receiver.blocking_recv().unwrap();
        }
    }
    let send = move |message: &Message| {
        sender.blocking_send(message).unwrap();
    };
    if !spinning {
        return (Box::new(send), Box::new(move || (*receiver.blocking_recv().unwrap()).try_into().unwrap()));
    }
    let receive = move || loop {
        match receiver.try_recv() {
            Ok(message) => return (*message).try_into().unwrap(),
            Err(TryRecvError::Empty) => spin_loop(),
            Err(error) => panic!("{error}"),
        }
    };
    (Box::new(send), Box::new(receive))
}
