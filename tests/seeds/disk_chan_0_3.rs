//! disk-chan 0.3: a channel in a directory of page files.

use crate::common::{Dir, drain_numbers, fill, number, open_new, send, small, within, within_tokio};
use disk_chan::{Overflow, RecvError};

/// Its example: 5,000,000 messages of 100 bytes from 4 producers to 4 consumers of a group.
#[test]
fn five_million_messages_from_four_to_four() {
    const EACH: u64 = 1_250_000;
    within_tokio(600, || async {
        let dir = Dir::new();
        let tx = disk_chan::new(dir.file(), 1 << 24, 16).await.unwrap();
        let receivers: Vec<_> = {
            let rx = tx.subscribe(0).await.unwrap();
            (0..4).map(|_| rx.clone()).collect()
        };
        let senders = (0..4).map(|sender: u64| {
            let tx = tx.clone();
            tokio::spawn(async move {
                let mut message = [7; 100];
                for n in 0..EACH {
                    message[..8].copy_from_slice(&(sender << 32 | n).to_le_bytes());
                    tx.send(message).await.unwrap();
                }
            })
        });
        let senders: Vec<_> = senders.collect();
        drop(tx);
        let receivers = receivers.into_iter().map(|mut rx| {
            tokio::spawn(async move {
                // Of each sender: how many came, and the sum of their numbers.
                let (mut came, mut last) = ([(0, 0); 4], [None; 4]);
                loop {
                    let message = match rx.recv().await {
                        Ok(message) => message,
                        Err(RecvError::Disconnected) => return came,
                        Err(error) => panic!("{error}"),
                    };
                    let word = u64::from_le_bytes(message[..8].try_into().unwrap());
                    let (sender, n) = ((word >> 32) as usize, word & 0xffff_ffff);
                    assert!(message.len() == 100 && message[8..].iter().all(|&byte| byte == 7));
                    assert!(last[sender].replace(n) < Some(n), "a sender's messages keep their order");
                    came[sender] = (came[sender].0 + 1, came[sender].1 + n);
                }
            })
        });
        let receivers: Vec<_> = receivers.collect();
        for sender in senders {
            sender.await.unwrap();
        }
        let mut all = [(0, 0); 4];
        for receiver in receivers {
            let came = receiver.await.unwrap();
            all.iter_mut().zip(came).for_each(|(all, came)| *all = (all.0 + came.0, all.1 + came.1));
        }
        assert_eq!(all, [(EACH, EACH * (EACH - 1) / 2); 4]);
    });
}

#[test]
fn more_groups_than_sixteen_each_get_everything() {
    let (_dir, channel) = open_new(small().max_pages(4).max_groups(40));
    let mut groups: Vec<_> = (0..40).map(|group| channel.blocking_subscribe(group).unwrap()).collect();
    send(&channel.sender(), 0..10, 100);
    for rx in &mut groups {
        assert_eq!(drain_numbers(rx), (0..10).collect::<Vec<_>>());
    }
}

/// `recv` goes on by itself where `next_page` was called, and a message outlives no page that it needs.
#[test]
fn pages_turn_by_themselves() {
    within(60, || {
        let (_dir, channel) = open_new(small());
        let (tx, mut rx) = (channel.sender(), channel.blocking_subscribe(0).unwrap());
        for n in 0..500 {
            send(&tx, [n], 1000);
            assert_eq!(number(&rx.blocking_recv().unwrap()), n);
        }
        assert!(channel.stats().page_turns > 5);
    });
}

/// What was received and not finished is handed out again after the next open, and nothing twice that was done.
#[test]
fn a_group_goes_on_where_it_was_done() {
    let (dir, channel) = open_new(small());
    let mut rx = channel.blocking_subscribe(0).unwrap();
    send(&channel.sender(), 0..4, 100);
    let (first, second) = (rx.try_lease().unwrap(), rx.try_lease().unwrap());
    second.ack().unwrap();
    drop((first, rx, channel));
    let channel = small().blocking_open(dir.file()).unwrap();
    assert_eq!(drain_numbers(&mut channel.blocking_subscribe(0).unwrap()), [0, 2, 3]);
}

/// Where the oldest page went without a word, each group is told how many it lost.
#[test]
fn the_oldest_page_goes_and_each_group_hears_of_it() {
    let (_dir, channel) = open_new(small().overflow(Overflow::DropOldest));
    let mut rx = channel.blocking_subscribe(0).unwrap();
    let tx = channel.sender();
    send(&tx, 0..200, 1000);
    let Err(disk_chan::TryRecvError::Lagged(lost)) = rx.try_recv().map(drop) else { panic!("nothing is lost") };
    assert_eq!(drain_numbers(&mut rx), (lost..200).collect::<Vec<_>>());
}

/// A message that is too long is an error, and costs nothing that was sent.
#[test]
fn a_message_that_fits_in_no_page_is_an_error() {
    let (_dir, channel) = open_new(small());
    let mut rx = channel.blocking_subscribe(0).unwrap();
    let sent = fill(&channel, 0, 1000);
    assert!(channel.sender().try_send(vec![0; 64 << 10]).is_err());
    assert_eq!(drain_numbers(&mut rx), (0..sent).collect::<Vec<_>>());
}

/// As many messages as a page has bytes and slots for.
#[test]
fn a_page_of_more_than_65535_messages() {
    let (_dir, channel) = open_new(small().page_size(8 << 20).typical_message_len(8));
    let tx = channel.sender();
    for _ in 0..1200 {
        tx.blocking_send_many(&[[1; 8]; 64]).unwrap();
    }
    assert!(channel.pages()[0].len > 65_535, "{:?}", channel.pages());
}

#[test]
fn a_receive_that_is_cancelled_loses_nothing() {
    within_tokio(60, || async {
        let (_dir, channel) = open_new(small());
        let (tx, mut rx) = (channel.sender(), channel.subscribe(0).await.unwrap());
        for n in 0..20 {
            let waited = tokio::time::timeout(std::time::Duration::from_millis(1), rx.recv()).await.map(drop);
            assert!(waited.is_err(), "there is no message yet");
            tx.send(crate::common::body(n, 50)).await.unwrap();
            assert_eq!(number(&rx.recv().await.unwrap()), n);
        }
    });
}

#[test]
fn receivers_end_when_all_senders_are_gone() {
    within_tokio(60, || async {
        let dir = Dir::new();
        let tx = disk_chan::new(dir.file(), 1 << 20, 2).await.unwrap();
        let mut rx = tx.subscribe(0).await.unwrap();
        let waiting = tokio::spawn(async move { rx.recv().await.map(drop) });
        drop(tx);
        assert_eq!(waiting.await.unwrap(), Err(RecvError::Disconnected));
    });
}
