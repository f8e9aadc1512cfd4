//! Typed channels: what was sent comes out, with what its message says; what does not decode holds up nobody.

mod common;

use std::borrow::Cow;
use std::cell::RefCell;
use std::error::Error;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use common::{Dir, body, drain_numbers, fill, open_new, small, small_channel, within_tokio};
use disk_chan::{
    Channel, Codec, DeadLetter, Headers, Json, Lease, Message, Options, Overflow, OwnedMessage, Postcard,
    PostcardError, Receiver, RecvError, RecvTimeoutError, SendError, SendTimeoutError, Sender, TryRecvError,
    TrySendError, TypedRecvError, TypedSendError, Undecoded,
};
use futures::StreamExt;
use proptest::prelude::*;
use serde::{Deserialize, Serialize, Serializer};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    item: String,
    parts: Vec<Part>,
    note: Option<Box<Order>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Part {
    Nothing,
    Weight(f64),
    Named { name: String, count: i32 },
}

/// The same, borrowed.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Line<'a> {
    id: u64,
    item: &'a str,
    #[serde(borrow)]
    raw: Cow<'a, [u8]>,
}

fn order(id: u64) -> Order {
    let parts = vec![Part::Nothing, Part::Weight(0.5), Part::Named { name: "bean".into(), count: -1 }];
    let note = Order { id: id + 1, item: String::new(), parts: vec![], note: None };
    Order { id, item: "two \"coffees\"\n".into(), parts, note: Some(note.into()) }
}

fn typed<C: Codec>(channel: &Channel) -> (disk_chan::TypedSender<Order, C>, disk_chan::TypedReceiver<Order, C>) {
    (channel.sender().typed_with(), channel.blocking_subscribe("g").unwrap().typed_with())
}

/// Every face of a sender to every face of a receiver.
async fn faces<C: Codec>(overflow: Overflow) {
    let (_dir, channel) = open_new(small().overflow(overflow));
    let (tx, mut rx) = typed::<C>(&channel);
    let long = Duration::from_secs(60);
    let mut offsets = vec![
        tx.send(&order(0)).await.unwrap(),
        tx.blocking_send(&order(1)).unwrap(),
        tx.try_send(&order(2)).unwrap(),
        tx.send_timeout(&order(3), long).unwrap(),
        tx.send_durable(&order(4)).await.unwrap(),
        tx.blocking_send_durable(&order(5)).unwrap(),
    ];
    assert!(channel.durable_offset() > offsets[5]);
    for n in 6..25 {
        offsets.push(tx.clone().blocking_send(&order(n)).unwrap());
    }
    let mut n = 0;
    let mut check = |got: &Order, offset, attempts: u32| {
        assert_eq!((got, offset, attempts), (&order(n), offsets[n as usize], 1));
        n += 1;
    };
    macro_rules! receive {
        ($($received:expr;)*) => {$({
            let got = $received.unwrap();
            check(&got, got.offset(), got.attempts());
            assert!(got.sent_at().elapsed().unwrap() < Duration::from_secs(3600));
            assert!(got.headers().is_empty() && got.key().is_none() && !got.message().is_empty());
        })*};
    }
    receive! { rx.recv().await; rx.blocking_recv(); rx.try_recv(); rx.recv_timeout(long); rx.recv_deadline(Instant::now() + long); }
    macro_rules! lease {
        ($($leased:expr;)*) => {$({
            let got = $leased.unwrap();
            check(&got, got.offset(), got.attempts());
            got.ack().unwrap();
        })*};
    }
    lease! { rx.lease().await; rx.blocking_lease(); rx.try_lease(); rx.lease_for(long); rx.lease_deadline(Instant::now() + long); }
    receive! { rx.iter().next().unwrap(); rx.try_iter().next().unwrap(); rx.stream().next().await.unwrap(); }
    lease! { rx.lease_stream().next().await.unwrap(); rx.lease_many(1).await.unwrap().remove(0); }
    let got = rx.blocking_recv().unwrap();
    check(&got, got.offset(), 1);
    assert_eq!(got.into_value(), order(15));
    check(&order(15 + 1), rx.receiver().blocking_recv().unwrap().offset(), 1);
    // The receiver in a stream, one after the other.
    let mut stream = rx.into_stream();
    let got = stream.next().await.unwrap().unwrap();
    check(&got, got.offset(), 1);
    assert_eq!(got.into_value(), order(17));
    drop(stream);
    channel.close();
    let rest = channel.blocking_subscribe("g").unwrap().typed_with::<Order, C>().into_lease_stream();
    let mut rest = rest.map(|lease| lease.unwrap().into_parts());
    while let Some((value, lease)) = rest.next().await {
        check(&value, lease.offset(), 1);
        lease.ack().unwrap();
    }
    assert_eq!((n, channel.groups()[0].lag), (25, 0));
}

#[test]
fn every_face_sends_and_receives_values() {
    within_tokio(60, || async {
        for overflow in [Overflow::Block, Overflow::DropOldest] {
            faces::<Postcard>(overflow).await;
            faces::<Json>(overflow).await;
        }
    });
}

#[test]
fn a_lease_is_given_back_by_its_drop_and_a_message_is_done() {
    let (_dir, channel) = small_channel();
    let (tx, mut rx) = typed::<Json>(&channel);
    tx.blocking_send(&order(7)).unwrap();
    drop(rx.try_lease().unwrap());
    let again = rx.try_lease().unwrap();
    assert_eq!(again.attempts(), 2);
    again.give_back().unwrap();
    let (value, lease) = rx.try_lease().unwrap().into_parts();
    assert_eq!((value, lease.attempts()), (order(7), 3));
    drop(lease);
    let received = rx.try_recv().unwrap();
    assert_eq!(received.attempts(), 4);
    drop(received);
    assert!(matches!(rx.try_recv().unwrap_err(), TypedRecvError::Recv(TryRecvError::Empty)));
}

#[test]
fn headers_go_with_a_value() {
    let (_dir, channel) = small_channel();
    let (tx, mut rx) = typed::<Postcard>(&channel);
    let headers = Headers::new().key("customer 7").with("content-type", "postcard");
    tx.sender().blocking_send(tx.message(&headers, &order(1)).unwrap()).unwrap();
    let got = rx.try_recv().unwrap();
    assert_eq!((&*got, got.key()), (&order(1), Some(&b"customer 7"[..])));
    assert_eq!(got.headers().get("content-type"), Some(&b"postcard"[..]));
    assert!(matches!(tx.message(&Headers::new().with("", ""), &order(1)), Err(TypedSendError::Send(_))));
}

/// Borrowed values lie in the bytes of their message: in the file itself where hand-outs lie there.
#[test]
fn borrowed_values_lie_in_the_message() {
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let (_dir, channel) = open_new(small().overflow(overflow));
        let mut rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender().typed::<Line<'_>>();
        let (item, raw) = (String::from("coffee"), vec![0, 255]);
        let sent = Line { id: 7, item: &item, raw: Cow::Borrowed(&raw) };
        for _ in 0..3 {
            tx.blocking_send(&sent).unwrap();
        }
        let record = channel.get(channel.first_offset()).unwrap();
        let inside = |bytes: &[u8], text: &str| bytes.as_ptr_range().contains(&text.as_ptr());
        let line: Line<'_> = record.decode().unwrap();
        assert!(line == sent && inside(&record, line.item));
        let message = rx.try_recv().unwrap();
        let line: Line<'_> = message.decode().unwrap();
        assert!(line == sent && inside(&message, line.item));
        drop(message);
        let lease = rx.try_lease().unwrap();
        let line: Line<'_> = lease.decode().unwrap();
        assert!(line == sent && inside(&lease, line.item));
        lease.ack().unwrap();
        let owned = rx.try_iter().next().unwrap();
        let line: Line<'_> = owned.decode_with::<_, Postcard>().unwrap();
        assert!(line == sent && inside(&owned, line.item));
    }
}

#[test]
fn unsized_values_and_json_text_can_be_sent() {
    let (_dir, channel) = small_channel();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    channel.sender().typed_with::<str, Json>().blocking_send("a\"b").unwrap();
    channel.sender().typed::<[u8]>().blocking_send(&[1, 2, 3]).unwrap();
    let message = rx.try_recv().unwrap();
    assert_eq!(&*message, br#""a\"b""#);
    assert_eq!(message.decode_with::<String, Json>().unwrap(), "a\"b");
    drop(message);
    assert_eq!(*rx.typed::<Vec<u8>>().try_recv().unwrap(), [1, 2, 3]);
}

// What does not decode.

fn letters(channel: &Channel) -> Vec<Vec<u8>> {
    let mut dead = channel.blocking_dead_letters().unwrap();
    dead.try_iter().map(|letter| DeadLetter::parse(&letter).unwrap().message().to_vec()).collect()
}

fn undecoded<M: Debug, R: Error + 'static>(error: TypedRecvError<M, R>) -> Undecoded<M> {
    match error {
        TypedRecvError::Decode(undecoded) => undecoded,
        TypedRecvError::Recv(error) => panic!("{error}"),
    }
}

/// Sends, in turn, garbage and orders; 0 is garbage.
fn mixed(options: Options) -> (Dir, Channel, disk_chan::TypedReceiver<Order, Json>) {
    let (dir, channel) = open_new(options);
    let (tx, rx) = typed::<Json>(&channel);
    for n in 0..4 {
        tx.sender().blocking_send(format!("[garbage {n}")).unwrap();
        tx.blocking_send(&order(n)).unwrap();
    }
    (dir, channel, rx)
}

/// A message that was received and does not decode: the error has it, names its place and the type, and has a source.
/// Dropping the error is being done with it; its group goes on.
#[test]
fn received_garbage_is_an_error_that_has_the_message() {
    within_tokio(60, || async {
        for overflow in [Overflow::Block, Overflow::DropOldest] {
            let (_dir, channel, mut rx) = mixed(small().overflow(overflow).max_attempts(3));
            let first = channel.first_offset();
            let error = undecoded(rx.recv().await.unwrap_err());
            assert_eq!((error.offset(), error.error().offset()), (first, first));
            assert_eq!(&**error.message(), b"[garbage 0");
            let text = error.to_string();
            assert!(text.contains("Order") && text.contains(&first.to_string()) && text.contains("10 bytes"), "{text}");
            assert!(error.error().expected().ends_with("Order"));
            let source = error.source().expect("what the codec said");
            assert!(source.downcast_ref::<serde_json::Error>().is_some_and(serde_json::Error::is_syntax));
            // As any error: it can be boxed, and its source comes through what is around it.
            let boxed: Box<dyn Error + Send + Sync> = Box::new(TypedRecvError::<_, RecvError>::Decode(error));
            assert_eq!((boxed.to_string(), boxed.source().is_some()), (text, true));
            assert_eq!(rx.blocking_recv().unwrap().id, 0, "the group goes on, also while the error is there");
            drop(boxed);
            // Into the dead letters.
            undecoded(rx.try_recv().unwrap_err()).into_message().reject().unwrap();
            assert_eq!(rx.try_recv().unwrap().id, 1);
            // Its bytes.
            let message: OwnedMessage = undecoded(rx.recv_timeout(Duration::ZERO).unwrap_err()).into_message();
            assert_eq!(message.into_vec(), b"[garbage 2");
            let rest: Vec<_> = rx.try_iter().map(|got| got.map(|order| order.id).map_err(|e| e.to_string())).collect();
            assert!(matches!(&rest[..], [Ok(2), Err(_), Ok(3)]), "{rest:?}");
            let now = channel.groups().pop().unwrap();
            assert_eq!((now.lag, now.held, now.returned, now.dead_lettered), (0, 0, 0, 1));
            assert_eq!(letters(&channel), [b"[garbage 1"]);
        }
    });
}

/// A lease that does not decode: its error dropped, it is a dead letter at once. Taken out of the error it is a lease
/// as any other.
#[test]
fn leased_garbage_becomes_a_letter_or_what_the_caller_says() {
    within_tokio(60, || async {
        let (_dir, channel, mut rx) = mixed(small().max_attempts(3));
        let mut lease = async || rx.lease().await.map(|lease| (lease.id, lease.ack().unwrap()).0);
        let error = undecoded(lease().await.unwrap_err());
        assert_eq!(error.message().attempts(), 1);
        drop(error);
        assert_eq!(lease().await.unwrap(), 0);
        assert_eq!(letters(&channel), [b"[garbage 0"]);
        // Given back it comes again, before anything new.
        let message: Lease = undecoded(lease().await.unwrap_err()).into_message();
        message.give_back().unwrap();
        let message = undecoded(lease().await.unwrap_err()).into_message();
        assert_eq!(message.attempts(), 2);
        drop(message);
        let message = undecoded(lease().await.unwrap_err()).into_message();
        assert_eq!(message.attempts(), 3);
        message.ack().unwrap();
        assert_eq!(lease().await.unwrap(), 1);
        undecoded(lease().await.unwrap_err()).into_message().reject().unwrap();
        assert_eq!(lease().await.unwrap(), 2);
        channel.close();
        let rest: Vec<_> =
            rx.into_lease_stream().map(|got| got.map(|o| (o.id, o.ack().unwrap()).0).ok()).collect().await;
        assert_eq!(rest, [None, Some(3)]);
        assert_eq!(letters(&channel), [b"[garbage 2", b"[garbage 3"]);
        assert_eq!((channel.groups()[0].lag, channel.groups()[0].dead_lettered), (0, 3));
    });
}

/// Without dead letters nothing that is leased is lost by dropping an error: it is given back.
#[test]
fn without_dead_letters_leased_garbage_is_given_back() {
    let (_dir, channel, mut rx) = mixed(small());
    for attempts in 1..5 {
        let error = undecoded(rx.try_lease().unwrap_err());
        assert_eq!((error.offset(), error.message().attempts()), (channel.first_offset(), attempts));
    }
    undecoded(rx.try_lease().unwrap_err()).into_message().ack().unwrap();
    assert_eq!(rx.try_lease().unwrap().id, 0);
}

/// Another type, and what is left over or missing, is an error, not a value.
#[test]
fn bytes_of_another_type_do_not_decode() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender();
    for bytes in [&b""[..], b"\x01", b"\x01\x02\x03", b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80"] {
        tx.blocking_send(bytes).unwrap();
    }
    let mut rx = channel.blocking_subscribe("g").unwrap().typed::<(u8, u8)>();
    let mut sources = Vec::new();
    while let Err(TypedRecvError::Decode(error)) = rx.try_recv() {
        sources.push(error.source().unwrap().downcast_ref::<PostcardError>().unwrap().clone());
    }
    assert_eq!(sources.len(), 4);
    assert_eq!((&sources[2], &sources[3]), (&PostcardError::LeftOver(1), &PostcardError::LeftOver(9)));
    tx.blocking_send("1 2").unwrap();
    assert!(rx.into_receiver().typed_with::<u8, Json>().try_recv().is_err());
}

proptest! {
    /// Any bytes: a value or an error, and the group goes on.
    #[test]
    fn any_bytes_are_a_value_or_an_error(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
        let dir = Dir::in_memory();
        let channel = small().blocking_open(dir.file()).unwrap();
        channel.sender().blocking_send_many(&messages).unwrap();
        let (_, mut postcard) = typed::<Postcard>(&channel);
        let mut json = channel.blocking_subscribe("json").unwrap().typed_with::<Order, Json>();
        prop_assert_eq!(postcard.try_iter().count(), messages.len());
        prop_assert_eq!(json.try_iter().count(), messages.len());
        prop_assert!(channel.groups().iter().all(|group| group.lag == 0));
    }
}

// Errors of sending and receiving.

/// A value that refuses to be serialised, and one that sends another while it is.
struct Odd(Result<RefCell<Vec<Sender>>, ()>);

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Ok(senders) = &self.0 else { return Err(serde::ser::Error::custom("odd")) };
        for tx in senders.take() {
            tx.typed::<str>().blocking_send("inner").map_err(serde::ser::Error::custom)?;
        }
        ("outer", [7u8; 20]).serialize(to)
    }
}

#[test]
fn a_value_that_cannot_be_encoded_is_an_error_and_sends_nothing() {
    let (_dir, channel) = small_channel();
    let tx = channel.sender().typed::<Odd>();
    let TypedSendError::Encode(error) = tx.blocking_send(&Odd(Err(()))).unwrap_err() else { panic!("it was sent") };
    assert!(error.of().ends_with("Odd") && error.to_string().contains("Odd"), "{error}");
    assert!(error.source().is_some_and(|source| source.is::<PostcardError>()));
    let TypedSendError::Encode(error) = channel.sender().typed_with::<Odd, Json>().try_send(&Odd(Err(()))).unwrap_err()
    else {
        panic!("it was sent")
    };
    assert_eq!(error.source().unwrap().to_string(), "odd");
    assert!(channel.is_empty());
}

/// A value that sends another one while it is encoded has a buffer of its own.
#[test]
fn a_send_in_a_send_has_its_own_buffer() {
    let (_dir, channel) = small_channel();
    let senders = || Odd(Ok(RefCell::new(vec![channel.sender(), channel.sender()])));
    channel.sender().typed::<Odd>().blocking_send(&senders()).unwrap();
    channel.sender().typed_with::<Odd, Json>().blocking_send(&senders()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    for outer in [false, true] {
        for _ in 0..2 {
            assert_eq!(rx.try_recv().unwrap().decode::<&str>().unwrap(), "inner");
        }
        let message = rx.try_recv().unwrap();
        let value: (&str, [u8; 20]) =
            if outer { message.decode_with::<_, Json>().unwrap() } else { message.decode().unwrap() };
        assert_eq!(value, ("outer", [7; 20]));
    }
}

#[test]
fn errors_of_sending_are_the_ordinary_ones() {
    within_tokio(60, || async {
        let (_dir, channel) = small_channel();
        let _rx = channel.blocking_subscribe("g").unwrap();
        let tx = channel.sender().typed::<Vec<u8>>();
        let max = channel.max_message_len();
        // Two bytes for its length.
        tx.blocking_send(&vec![0; max - 3]).unwrap();
        let long = vec![0; max];
        let len = max + 3;
        let too_large = SendError::MessageTooLarge { len, max };
        let TypedSendError::Send(error) = tx.send(&long).await.unwrap_err() else { panic!() };
        assert_eq!(error, too_large);
        let TypedSendError::Send(error) = tx.send_durable(&long).await.unwrap_err() else { panic!() };
        assert_eq!(error, too_large);
        fill(&channel, 0, 1000);
        let error = tx.try_send(&vec![0; 2000]).unwrap_err();
        assert!(matches!(error, TypedSendError::Send(TrySendError::Full(_))));
        assert!(error.to_string().contains("full"), "{error}");
        let error = tx.send_timeout(&vec![0; 2000], Duration::from_millis(1)).unwrap_err();
        assert!(matches!(error, TypedSendError::Send(SendTimeoutError::Timeout(_))));
        // A send that waits is dropped: nothing was sent.
        let value = vec![7; 2000];
        assert!(futures::poll!(Box::pin(tx.send(&value))).is_pending());
        channel.close();
        assert!(matches!(tx.blocking_send(&vec![]).unwrap_err(), TypedSendError::Send(SendError::Closed)));
    });
}

#[test]
fn errors_of_receiving_are_the_ordinary_ones() {
    let (_dir, channel) = small_channel();
    let (_, mut rx) = typed::<Postcard>(&channel);
    let late = rx.recv_timeout(Duration::from_millis(1)).unwrap_err();
    assert!(matches!(late, TypedRecvError::Recv(RecvTimeoutError::Timeout)));
    assert!(matches!(rx.lease_for(Duration::ZERO).unwrap_err(), TypedRecvError::Recv(RecvTimeoutError::Timeout)));
    assert!(matches!(rx.try_lease().unwrap_err(), TypedRecvError::Recv(TryRecvError::Empty)));
    channel.close();
    assert!(matches!(rx.blocking_recv().unwrap_err(), TypedRecvError::Recv(RecvError::Disconnected)));
    assert!(rx.iter().next().is_none());
}

/// A panic while a message is decoded gives it back, as one of its holder.
#[test]
fn a_panic_while_decoding_gives_the_message_back() {
    #[derive(Debug)]
    struct Bomb;
    impl<'de> Deserialize<'de> for Bomb {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            panic!("boom")
        }
    }
    for overflow in [Overflow::Block, Overflow::DropOldest] {
        let (_dir, channel) = open_new(small().overflow(overflow));
        common::send(&channel.sender(), 0..3, 8);
        let mut rx: disk_chan::TypedReceiver<Bomb> = channel.blocking_subscribe("g").unwrap().typed();
        for attempt in [false, true] {
            let receive = || match attempt {
                false => drop(rx.try_recv()),
                true => drop(rx.try_lease()),
            };
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(receive)).unwrap_err();
        }
        let mut rx: Receiver = rx.into_receiver();
        let again: Message<'_> = rx.try_recv().unwrap();
        assert_eq!((common::number(&again), again.attempts()), (0, 3));
        drop(again);
        assert_eq!(drain_numbers(&mut rx), [1, 2]);
    }
}

/// Errors behind messages by reference, which are extended claims: what was received before stays done, what comes
/// after is handed out once.
#[test]
fn garbage_in_the_middle_of_a_run_is_done_by_itself() {
    let (_dir, channel) = open_new(small().max_attempts(9));
    let tx = channel.sender().typed::<u32>();
    for n in 0..100 {
        match n % 5 {
            3 => drop(tx.sender().blocking_send(body(n.into(), 9)).unwrap()),
            _ => drop(tx.blocking_send(&n).unwrap()),
        }
    }
    let mut rx = channel.blocking_subscribe("g").unwrap().typed::<u32>();
    let (mut kept, mut got, mut rejected) = (Vec::new(), Vec::new(), 0);
    for n in 0..100 {
        match rx.try_recv() {
            Ok(value) => got.push(*value),
            Err(error) if n % 2 == 0 => kept.push(undecoded(error)),
            Err(error) => {
                undecoded(error).into_message().reject().unwrap();
                rejected += 1;
            }
        }
    }
    assert_eq!(got, (0..100).filter(|n| n % 5 != 3).collect::<Vec<_>>());
    assert_eq!((kept.len(), rejected), (10, 10));
    drop(rx);
    let now = channel.groups().pop().unwrap();
    assert_eq!((now.lag, now.held, now.dead_lettered), (10, 10, 10));
    drop(kept);
    assert_eq!(channel.groups()[0].lag, 0);
}

#[test]
fn they_go_to_other_threads() {
    fn check<T: Send + Sync + 'static>() {}
    struct Local(#[allow(dead_code, reason = "it is there to be of one thread")] *const u8);
    check::<disk_chan::TypedSender<Local, Json>>();
    check::<disk_chan::TypedReceiver<Local>>();
    check::<TypedRecvError<Lease>>();
    check::<TypedRecvError<OwnedMessage, TryRecvError>>();
    check::<TypedSendError<TrySendError>>();
}
