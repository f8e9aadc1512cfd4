//! One model for each ordering label and each protocol. They run the shipped functions: the words
//! are loom's atomics on the heap instead of a mapping.
//!
//! Each says which change to the shipped code makes it fail; `mutants.sh` makes these changes.
//! What loom cannot tell: it has no load buffering, so an acquire that only keeps *later* stores
//! from moving up (ORDER[ack]: the turn of a page against the reading of its bytes) is not seen;
//! and it knows no time. Dekker pairs are fences (`SeqCst` accesses count as acquire-release).
use disk_chan::Offset;
use disk_chan::Overflow::{Block, DropOldest};
use disk_chan::cells::{ClaimState, Count, Kind};
use disk_chan::claim::{Hand, Nothing, Want};
use disk_chan::extend::Extended;
use disk_chan::holder::Member;
use disk_chan::layout::{Layout, Loss, PageState, ROW, SlotState, Tail};
use disk_chan::opens::OpenId;
use disk_chan::ops::OpCell;
use disk_chan::page::Record;
use disk_chan::read::{Copied, Found};
use disk_chan::ring::{Blocked, Refused};
use disk_chan::sync::{AtomicU32, AtomicU64};
use disk_chan::wait::{self, WaitList};
use loom::sync::Arc;
use loom::sync::atomic::Ordering::{Relaxed, SeqCst};
use loom::sync::atomic::fence;
use loom::thread;
use loom_tests::{LATER, Model, explore};
use std::task::Poll;

/// ORDER[commit]: a slot that says committed has its record behind it.
/// Fails when: the slot is stored `Relaxed`.
#[test]
fn commit_and_read() {
    explore(3, || {
        let model = Arc::new(Model::new(2, Block));
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || model.send(7).unwrap()
        });
        let mut hand = model.hand();
        if let Ok((claim, byte)) = model.receive(&mut hand, Want::Message) {
            assert_eq!(byte, 7);
            model.group().ack(&claim).0.unwrap();
            sender.join().unwrap();
            assert!(model.drain().0.is_empty());
        } else {
            sender.join().unwrap();
            assert_eq!(model.drain().0, [7], "a record that does not verify was marked damaged");
        }
    });
}

/// ORDER[reserve], ORDER[seal]: two senders over the end of a page; an add that came back sealed
/// writes nothing, and nothing that came back open is left out.
/// Fails when: a page is left without being sealed. (An add that came back SEALED: a full page is
/// recognised by its count, too; see the close of one that is not full.)
#[test]
fn reserve_and_seal() {
    explore(2, || {
        let model = Arc::new(Model::new(2, Block));
        model.send(1).unwrap();
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || model.send(2).unwrap()
        });
        model.send(3).unwrap();
        other.join().unwrap();
        let mut got = model.drain().0;
        assert_eq!(got.remove(0), 1);
        got.sort_unstable();
        assert_eq!(got, [2, 3]);
    });
}

/// ORDER[head], ORDER[open], ORDER[number]: two senders find the page full and both move on.
/// Fails when: a page is left without being sealed.
#[test]
fn two_rotators() {
    explore(1, || {
        let model = Arc::new(Model::new(1, Block));
        model.send(1).unwrap();
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || model.send(2).is_ok()
        });
        let mine = model.send(3).is_ok();
        let theirs = other.join().unwrap();
        // One page was left, so one of the two found room: the other found the ring full.
        assert!(mine != theirs, "{mine} {theirs}");
        assert_eq!(model.drain().0, [1, if mine { 3 } else { 2 }]);
    });
}

/// ORDER[claim]: two receivers, two messages, each message once.
/// Fails when: the cursor is stored instead of swapped.
#[test]
fn claim_and_claim() {
    explore(2, || {
        let model = Arc::new(Model::new(2, Block));
        model.send(1).unwrap();
        model.send(2).unwrap();
        let one = |model: &Model| loop {
            match model.receive(&mut model.hand(), Want::Message) {
                Ok((claim, byte)) => {
                    model.group().ack(&claim).0.unwrap();
                    return byte;
                }
                Err(_) => thread::yield_now(),
            }
        };
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || one(&model)
        });
        let mine = one(&model);
        let theirs = other.join().unwrap();
        assert_eq!(mine + theirs, 3);
        assert!(model.drain().0.is_empty());
    });
}

/// The invariant of claims: a claimer that is stopped between its INTENT and its HELD is never
/// anonymous. Whatever is claimed while the other claims, its cell says so at the end.
/// Fails when: the next claimer does not complete the claim before.
#[test]
fn no_claim_is_anonymous() {
    explore(2, || {
        let model = Arc::new(Model::new(2, Block));
        model.send(1).unwrap();
        model.send(2).unwrap();
        // This receiver stops right after its cursor CAS: it never makes its INTENT held.
        let group = model.group();
        let cell = group.cell(0);
        group.cells_used().store(1, SeqCst);
        let taken = cell.take(1, Kind::Message, 0).unwrap();
        cell.intend(taken, 0, 1, true);
        let (_, word) = group.in_page(0);
        let cursor = disk_chan::layout::GroupCursor { closed: None, cell: Some(0), index: 1 };
        word.store(cursor.word(group.tag(0)), SeqCst);
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || model.receive(&mut model.hand(), Want::Message).map(|(_, byte)| byte)
        });
        group.reap(model.other);
        let first = other.join().unwrap().unwrap();
        // Its claim was completed by the other, or found by name: given back either way.
        group.reap(model.other);
        let mut hand = model.hand();
        let (_, second) = model.receive(&mut hand, Want::Message).unwrap();
        assert_eq!(first + second, 3, "each once: {first}, {second}");
    });
}

/// The invariant of claims: a receiver that is late takes the cell of a claim that is over, which the
/// cursor still names. Its INTENT is no claim of the same message, which is done.
/// Fails when: a receiver does not look at the cursor again after it took a cell.
#[test]
fn a_claim_that_is_over_is_not_made_again() {
    explore(2, || {
        let model = Arc::new(Model::new(2, Block));
        model.send(1).unwrap();
        let late = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                let mut hand = model.hand();
                hand.seen_returns = Some(0); // nothing was given back
                model.receive(&mut hand, Want::Message).is_ok()
            }
        });
        // The same message claimed and finished meanwhile, step by step, by the same cell.
        let group = model.group();
        let cell = group.cell(0);
        group.cells_used().store(1, SeqCst);
        if let Some(taken) = cell.take(1, Kind::Message, 0) {
            let (intent, _) = cell.intend(taken, 0, 1, true);
            let (_, word) = group.in_page(0);
            let claimed = disk_chan::layout::GroupCursor { closed: None, cell: Some(0), index: 1 };
            if word.compare_exchange(0, claimed.word(group.tag(0)), SeqCst, SeqCst).is_ok() {
                cell.hold(intent);
                group.set_done(0, 0);
                cell.free(intent.to(ClaimState::Held));
                // Whoever claims the next completes the claim before.
                let _ = group.frontier(0, claimed).map(|frontier| group.end_at(&frontier));
                assert!(cell.load().state() != ClaimState::Held, "a message that is done is held again");
            } else {
                cell.free(intent);
            }
        }
        late.join().unwrap();
    });
}

/// ORDER[extent]: a receiver extends its claim while another claims: each message once, and in their order.
/// Fails when: the other does not seal what it goes past; when it looks where the claims end before it has a
/// cell; when a claim is extended that was sealed.
#[test]
fn a_claim_is_extended_once() {
    explore(2, || {
        let model = Arc::new(Model::new(4, Block));
        model.send_all(1..4);
        let mut hand = model.hand();
        assert_eq!(model.receive(&mut hand, Want::Message).unwrap().1, 1);
        assert!(hand.claim.goes_on);
        model.group().say_done(&hand.claim);
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                let (claim, byte) = model.receive(&mut model.hand(), Want::Message).ok()?;
                model.group().ack(&claim).0.unwrap();
                Some(byte)
            }
        });
        let mut mine = Vec::new();
        while model.group().extend(&mut hand) == Extended::Claimed {
            mine.push(model.byte(&hand.claim));
            model.group().say_done(&hand.claim);
            if mine.len() == 2 {
                break;
            }
        }
        model.group().end(&hand.claim);
        let theirs = other.join().unwrap();
        assert!(mine.iter().all(|&byte| theirs.is_none_or(|theirs| byte < theirs)), "{mine:?}, then {theirs:?}");
        let mut all = [mine, theirs.into_iter().collect(), model.drain().0].concat();
        all.sort_unstable();
        assert_eq!(all, [2, 3]);
        assert!((0..3).all(|index| model.group().is_done(0, index)));
        assert_eq!(model.group().held_and_returned(), [0; 3]);
    });
}

/// What a claim was extended over is done whoever looks, and a claim that only waits to be extended is ended
/// by others, or extended: not both.
/// Fails when: a claim is ended by another without being sealed.
#[test]
fn a_claim_that_waits_is_ended_or_extended() {
    explore(3, || {
        let model = Arc::new(Model::new(2, Block));
        model.send(1).unwrap();
        let mut hand = model.hand();
        let (claim, _) = model.receive(&mut hand, Want::Message).unwrap();
        model.send(2).unwrap();
        model.group().say_done(&claim);
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.group().settle();
                model.group().is_done(0, 0)
            }
        });
        let extended = model.group().extend(&mut hand) == Extended::Claimed;
        if extended {
            assert_eq!(model.group().held_and_returned(), [1, 0, 0], "a message in use is not held");
            assert!(!model.group().is_done(0, 1));
            model.group().say_done(&hand.claim);
        }
        assert!(other.join().unwrap(), "what was done before somebody looked is not acked");
        model.group().end(&hand.claim);
        assert_eq!(model.drain().0, if extended { vec![] } else { vec![2] });
    });
}

/// ORDER[group state]: as a claim, a claim that is extended in a group that is being removed is let go, or
/// seen by who would turn the page under it.
/// Fails when: who extends does not look at the group again.
#[test]
fn removal_against_an_extended_claim() {
    explore(3, || {
        let model = Arc::new(Model::with_groups(2, Block, 2, 4));
        let second = disk_chan::group::Group::activate(&model.ring(), 1);
        model.send_all(1..5);
        // The other group is done with page 0.
        second.set_all_done(0, 1, 3);
        let mut hand = model.hand();
        let (claim, _) = model.receive(&mut hand, Want::Message).unwrap();
        model.group().say_done(&claim);
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                // As a remover does first, who then ends the claim if it only waits.
                let removed = model.group().state() + 1; // ACTIVE is 1, REMOVED is 2
                model.ring().mem.group_lines(0).0[0].store(removed, SeqCst);
                model.send(5).is_ok()
            }
        });
        if model.group().extend(&mut hand) == Extended::Claimed {
            let page = model.ring().page(0);
            let byte = model.byte(&hand.claim);
            assert_eq!((page.number(), byte), (0, 2), "turned under a message of a removed group");
            model.group().say_done(&hand.claim);
        }
        model.group().end(&hand.claim);
        sender.join().unwrap();
    });
}

/// What the dead extended a claim to is given back, and what they were done with is not.
/// Fails when: what they were done with is not acked.
#[test]
fn the_dead_had_extended_a_claim() {
    explore(3, || {
        let model = Arc::new(Model::new(4, Block));
        model.send_all(1..4);
        let mut hand = Hand::new(model.other.index, 0, 0);
        let (claim, _) = model.receive(&mut hand, Want::Message).unwrap();
        model.group().say_done(&claim);
        assert_eq!(model.group().extend(&mut hand), Extended::Claimed);
        model.other_is_dead.store(true, SeqCst);
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                let (claim, byte) = model.receive(&mut model.hand(), Want::Message).unwrap();
                model.group().ack(&claim).0.unwrap();
                byte
            }
        });
        model.group().reap(model.other);
        assert!(model.group().is_done(0, 0));
        let first = other.join().unwrap();
        let mut all = model.drain().0;
        all.push(first);
        all.sort_unstable();
        assert_eq!(all, [2, 3]);
        assert!((0..3).all(|index| model.group().is_done(0, index)));
    });
}

/// Messages that went out together and whose owner died: each that it was not done with is given once more.
/// Fails when: what is taken out is not noted.
#[test]
fn several_are_taken_out_once() {
    explore(2, || {
        let model = Arc::new(Model::with_row(4));
        model.send_all(1..4);
        let mut hand = Hand::new(model.other.index, 0, 0);
        let (mut claim, _) = model.receive(&mut hand, Want::Several).unwrap();
        assert_eq!(model.group().extend_over(&claim, 9).map(|extent| extent.more()), Some(2));
        // Done with the second of them.
        (claim.offset, claim.together) = (disk_chan::Offset::from_u64(1), 7);
        assert_eq!(model.group().finish_one(&claim), None);
        model.other_is_dead.store(true, SeqCst);
        model.group().reap(model.other);
        assert_eq!(model.group().held_and_returned(), [0, 2, 0]);
        let one = |model: &Model| model.receive(&mut model.hand(), Want::Message).ok();
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || one(&model)
        });
        let mine = one(&model);
        let all = [mine, other.join().unwrap()].map(|one| one.expect("there were two"));
        let mut bytes = all.map(|(_, byte)| byte);
        bytes.sort_unstable();
        assert_eq!(bytes, [1, 3]);
        assert!(all.iter().all(|(claim, _)| claim.word.attempts() == 1));
        assert_eq!(model.receive(&mut model.hand(), Want::Message).map(|_| ()), Err(Nothing::Empty));
        all.iter().for_each(|(claim, _)| model.group().ack(claim).0.unwrap());
        assert!(model.drain().0.is_empty());
        assert!((0..3).all(|index| model.group().is_done(0, index)));
        model.group().settle();
        assert_eq!(model.group().held_and_returned(), [0; 3]);
    });
}

/// So many messages that go out together, and whose owner dies.
fn given_back_together(model: &Model, count: u8) {
    model.send_all(1..count + 1);
    let mut hand = Hand::new(model.other.index, 0, 0);
    let (claim, _) = model.receive(&mut hand, Want::Several).unwrap();
    assert_eq!(model.group().extend_over(&claim, 9).map(|extent| extent.more()), Some(count as usize - 1));
    model.other_is_dead.store(true, SeqCst);
    model.group().reap(model.other);
}

/// Fails when: the remover tries only once.
#[test]
fn removal_against_a_taking_out() {
    explore(2, || {
        let model = Arc::new(Model::with_row(4));
        given_back_together(&model, 2);
        let remover = thread::spawn({
            let model = Arc::clone(&model);
            move || model.group().deactivate(&model.ring())
        });
        if let Ok((claim, _)) = model.receive(&mut model.hand(), Want::Message) {
            let _ = model.group().ack(&claim);
        }
        remover.join().unwrap();
        assert!(model.group().cells().all(|cell| cell.load().state() == ClaimState::Free));
    });
}

/// Fails when: a cell that changes while it is looked at is passed over.
#[test]
fn what_was_given_back_together_comes_before_what_is_new() {
    explore(2, || {
        let model = Arc::new(Model::with_row(4));
        given_back_together(&model, 3);
        model.send(9).unwrap();
        let one = |model: &Model| model.receive(&mut model.hand(), Want::Message).unwrap().1;
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || one(&model)
        });
        let mine = one(&model);
        assert!(mine != 9 && other.join().unwrap() != 9);
    });
}

/// What was taken out is held still, and the cell that had it is used again.
/// Fails when: the cursor names the cell still when it is free.
#[test]
fn a_cell_that_is_empty_is_used_again() {
    explore(2, || {
        let model = Arc::new(Model::with_row(8));
        given_back_together(&model, 3);
        let mut out: Vec<_> = (0..3).map(|_| model.receive(&mut model.hand(), Want::Owned).unwrap()).collect();
        // One cell is free, and the row.
        model.group().ack(&out.remove(0).0).0.unwrap();
        model.group().settle();
        model.send_all(8..10);
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || model.receive(&mut model.hand(), Want::Several).map(|(_, byte)| byte)
        });
        let mine = model.receive(&mut model.hand(), Want::Owned).map(|(_, byte)| byte);
        assert!([mine, other.join().unwrap()].into_iter().flatten().all(|byte| byte > 3));
    });
}

/// One who dies while it takes a message out: that is given back, and no other is lost.
/// Fails when: who takes the next does not complete the taking before; when it is not named.
#[test]
fn who_takes_one_of_several_dies() {
    explore(2, || {
        let model = Arc::new(Model::with_row(4));
        model.send_all(1..3);
        let mut hand = model.hand();
        let (mut claim, _) = model.receive(&mut hand, Want::Several).unwrap();
        let group = model.group();
        claim.extent = group.extend_over(&claim, 9).unwrap();
        assert!(group.leave(&claim));
        // This one stops right after its swap.
        let (several, taker) = (group.cell(claim.cell as usize), group.cell(1));
        let taken = taker.take(1, Kind::Message, 1).unwrap();
        taker.intend(taken, 0, 1, true);
        assert!(several.change(several.load(), several.load().several(Some((1, 0)))));
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                let (claim, byte) = model.receive(&mut model.hand(), Want::Message).ok()?;
                model.group().ack(&claim).0.unwrap();
                Some(byte)
            }
        });
        group.reap(model.other);
        let mut all: Vec<u8> = other.join().unwrap().into_iter().collect();
        group.reap(model.other);
        all.extend(model.drain().0);
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
    });
}

/// ORDER[row]: a row is kept by one, or its cells are used one by one.
/// Fails when: who takes a cell of a row does not look at the first; who takes a row does not look at the others.
#[test]
fn a_row_against_a_cell() {
    explore(2, || {
        let model = Arc::new(Model::with_row(4));
        model.send_all(1..3);
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                let mut hand = model.hand();
                hand.cell = ROW + 1;
                model.receive(&mut hand, Want::Owned).unwrap().0
            }
        });
        let (claim, _) = model.receive(&mut model.hand(), Want::Several).unwrap();
        let other = other.join().unwrap();
        let is_in_row = |cell: u32| (ROW as u32..2 * ROW as u32).contains(&cell);
        assert!(!claim.word.keeps_row() || !is_in_row(other.cell));
        assert_eq!(claim.word.keeps_row(), is_in_row(claim.cell));
    });
}

/// ORDER[ack]: a page is not turned while a message in it is held, and is when it is done.
/// Fails when: a turn does not ask whether the groups are done.
#[test]
fn ack_and_recycle() {
    explore(2, || {
        let model = Arc::new(Model::new(1, Block));
        model.send(1).unwrap();
        model.send(2).unwrap();
        let mut hand = model.hand();
        let (claim, byte) = model.receive(&mut hand, Want::Message).unwrap();
        assert_eq!(byte, 1);
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || model.send(3).is_ok()
        });
        let page = model.ring().page(0);
        let bytes = claim.record.payload(model.ring().mem);
        assert_eq!(bytes, [1], "the page was turned under a reader");
        assert_eq!(page.number(), 0);
        model.group().ack(&claim).0.unwrap();
        let sent = sender.join().unwrap();
        let (got, _) = model.drain();
        assert_eq!(got, if sent { vec![2, 3] } else { vec![2] });
        model.send(4).unwrap();
        assert_eq!(model.drain().0, [4]);
    });
}

/// A sender that looked at a page and is about to add to it, while others fill it, turn it, and
/// fill it again: its message is in the later lap, or it looks again. Under `DropOldest`: received
/// and lost together are what was sent.
/// Fails when: the page number is taken from before the add; when a loss is not counted.
#[test]
fn recycle_against_a_sender_about_to_reserve() {
    explore(1, || {
        let model = Arc::new(Model::new(2, DropOldest));
        model.send(1).unwrap();
        let late = thread::spawn({
            let model = Arc::clone(&model);
            move || model.send(9).is_ok()
        });
        // Up to the same place in the next lap, which then has room for one more.
        let others = thread::spawn({
            let model = Arc::clone(&model);
            move || (2..6).filter(|&byte| model.send(byte).is_ok()).count() as u64
        });
        let sent = 1 + u64::from(late.join().unwrap()) + others.join().unwrap();
        let (got, lost) = model.drain();
        assert_eq!(got.len() as u64 + lost, sent, "{got:?} and {lost} lost of {sent}");
    });
}

/// A receiver that copies while the page is turned gets the whole message or none.
/// Fails when: a loss is not counted.
/// Not seen: the fence before a sender's records. The sender that turned the page has fences of its
/// own, and with another sender these are more orders than can be tried in a minute. The page number
/// and the offset in a copy: under `DropOldest` the claim that follows fails anyway, see the next.
#[test]
fn copy_against_a_turn() {
    explore(2, || {
        let model = Arc::new(Model::new(1, DropOldest));
        model.send(1).unwrap();
        model.send(2).unwrap();
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || model.send(3).is_ok()
        });
        let mut hand = model.hand();
        let (mut got, mut lost) = (Vec::new(), 0);
        match model.receive(&mut hand, Want::Message) {
            Ok((claim, byte)) => {
                got.push(byte);
                let _ = model.group().ack(&claim);
            }
            Err(Nothing::Lagged(n)) => lost += n,
            Err(other) => panic!("{other:?}"),
        }
        let sent = 2 + u64::from(sender.join().unwrap());
        let (rest, more) = model.drain();
        got.extend(rest);
        lost += more;
        assert_eq!(got.len() as u64 + lost, sent, "{got:?}");
        assert!(got.is_sorted(), "{got:?}");
        assert!(!model.damage_seen(), "a record of a later lap was called damaged");
    });
}

/// ORDER[lap], ORDER[number]: who reads without a group, while a sender comes round, gets each message whole or
/// is told that it was overwritten, and takes no page that was turned for the end.
/// Fails when: a cursor that was turned is not known for it; the copy looks neither at the page number nor at the
/// offset.
#[test]
fn a_reader_against_a_turn() {
    explore(3, || {
        let model = Arc::new(Model::new(1, DropOldest));
        model.send(1).unwrap();
        model.send(2).unwrap();
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || model.send(3).is_ok()
        });
        let mut at = Offset::from_u64(0);
        let mut copy = Vec::new();
        let mut read = |model: &Model, at: &mut Offset| match model.ring().find(*at) {
            Found::Message(offset, record) => {
                // One message a page: those in between were overwritten, and that would have been told.
                assert!(offset.page() == at.page() || offset.page() == at.page() + 1 && at.index() == 1);
                match model.ring().copy(offset, record, &mut copy) {
                    Copied::Whole(_) => {
                        assert_eq!(u64::from(copy[0]), offset.page() + 1);
                        *at = Offset::from_u64(offset.as_u64() + 1);
                    }
                    Copied::Damaged => panic!("{offset} is called damaged"),
                    Copied::Gone => *at = offset,
                }
                true
            }
            Found::Overwritten(oldest) => {
                assert!(oldest.page() > at.page());
                *at = oldest;
                true
            }
            Found::End(end) => {
                assert!((end.page(), end.index()) > (1, 0), "{end} is called the end");
                false
            }
            Found::Damaged(offset) => panic!("{offset} is called damaged"),
        };
        read(&model, &mut at);
        read(&model, &mut at);
        let sent = 2 + u64::from(sender.join().unwrap());
        while read(&model, &mut at) {}
        assert_eq!((at.page(), at.index()), (sent - 1, 1));
    });
}

/// ORDER[lap]: a lease is a copy. While its group is removed its page may be turned, and the copy
/// is of the message or is none.
/// Fails when: the copy looks neither at the page
/// number nor at the offset.
#[test]
fn a_lease_of_a_removed_group() {
    explore(3, || {
        let model = Arc::new(Model::with_groups(1, Block, 2, 4));
        let second = disk_chan::group::Group::activate(&model.ring(), 1);
        model.send(1).unwrap();
        model.send(2).unwrap();
        second.set_done(0, 0);
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.group().deactivate(&model.ring());
                model.send(3).is_ok()
            }
        });
        if let Ok((_, byte)) = model.receive(&mut model.hand(), Want::Lease) {
            assert_eq!(byte, 1, "the copy is of another lap");
        }
        sender.join().unwrap();
        assert!(!model.damage_seen(), "a record of a later lap was called damaged");
    });
}

/// A message given back while its page is taken away: handed out again, or counted as gone.
/// Fails when: giving back does not look whether the cursor was closed.
#[test]
fn give_back_against_a_turn() {
    explore(2, || {
        let model = Arc::new(Model::new(1, DropOldest));
        model.send(1).unwrap();
        model.send(2).unwrap();
        let mut hand = model.hand();
        let (claim, _) = model.receive(&mut hand, Want::Lease).unwrap();
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || model.send(3).is_ok()
        });
        let _ = model.group().give_back(&claim);
        let sent = sender.join().unwrap();
        if model.group().has_lost(0) {
            assert_eq!(model.group().held_and_returned(), [0; 3], "a message of a lost page was kept");
        }
        let (got, lost) = model.drain();
        let gone = model.group().count(Count::Gone);
        assert_eq!(lost, 0);
        assert_eq!(got.len() as u64 + gone, 2 + u64::from(sent), "{got:?}, {gone} gone");
        let [held, returned, _] = model.group().held_and_returned();
        assert_eq!((held, returned), (0, 0));
    });
}

/// ORDER[announce], ORDER[cell]: two threads on one `&Sender`, a third judges the holes it sees. No
/// live sender loses its slot.
/// Fails when: the judge does not wait for who is RESERVING; when it does not ask who HOLDS; when a
/// sender adds before it announces.
#[test]
fn two_senders_and_a_judge() {
    explore(2, || {
        let model = Arc::new(Model::new(2, Block));
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || model.send(1).unwrap()
        });
        let judge = thread::spawn({
            let model = Arc::clone(&model);
            move || [1, 0].map(|index| model.ring().judge(0, index).then(|| model.ring().page(0).slot(0, index)))
        });
        model.send(2).unwrap();
        sender.join().unwrap();
        let slots = [1, 0].map(|index| model.ring().page(0).slot(0, index));
        for (judged, slot) in judge.join().unwrap().into_iter().zip(slots) {
            assert!(judged.is_none_or(|judged| judged == slot), "judged before its sender was through");
        }
        let mut got = model.drain().0;
        got.sort_unstable();
        assert_eq!(got, [1, 2]);
    });
}

/// A sender that died after its add, while a live one sends: the hole is skipped, and only it.
/// Fails when: dead owners count as alive.
#[test]
fn a_dead_senders_hole_is_skipped() {
    explore(2, || {
        let model = Arc::new(Model::new(3, Block));
        let mem = model.ring().mem;
        model.send(1).unwrap();
        let dead = model.other;
        let cell = OpCell::reserving(mem, dead, 0).unwrap();
        model.ring().page(0).reserve(1, 5).unwrap();
        std::mem::forget(cell);
        model.other_is_dead.store(true, SeqCst);
        let live = thread::spawn({
            let model = Arc::clone(&model);
            move || model.ring().judge(0, 1)
        });
        assert!(model.ring().judge(0, 1));
        assert!(live.join().unwrap());
        assert_eq!(model.ring().page(0).slot(0, 1), SlotState::Skipped);
        model.send(2).unwrap();
        assert_eq!(model.drain().0, [1, 2]);
    });
}

/// ORDER[tail]: a group that is created while the oldest page is turned. It starts at a page that
/// is still there, or the turn did not happen.
/// Fails when: the turn does not compare the epoch; when the group takes its start before it
/// raises the epoch.
#[test]
fn a_new_group_against_a_turn() {
    explore(3, || {
        let model = Arc::new(Model::with_groups(1, Block, 2, 4));
        model.send(1).unwrap();
        model.send(2).unwrap();
        let mut hand = model.hand();
        let (claim, _) = model.receive(&mut hand, Want::Message).unwrap();
        model.group().ack(&claim).0.unwrap();
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || model.send(3)
        });
        let second = disk_chan::group::Group::activate(&model.ring(), 1);
        let start = second.start().page();
        let sent = sender.join().unwrap();
        let number = model.ring().page(start).number();
        assert_eq!(number, start, "the page that the group starts at was turned");
        match sent {
            Ok(_) => assert_eq!(start, 1),
            Err(refused) => assert_eq!(refused, Refused::Full(Blocked::Group(1))),
        }
    });
}

/// ORDER[group state]: a claim in a group that is being removed is let go, or seen by who would
/// turn the page under it.
/// Fails when: a removed group's messages are not looked for.
#[test]
fn removal_against_a_claim() {
    explore(3, || {
        let model = Arc::new(Model::with_groups(1, Block, 2, 4));
        let second = disk_chan::group::Group::activate(&model.ring(), 1);
        model.send(1).unwrap();
        model.send(2).unwrap();
        // The other group is done with page 0.
        second.set_done(0, 0);
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                model.group().deactivate(&model.ring());
                model.send(3).is_ok()
            }
        });
        let mut hand = model.hand();
        if let Ok((claim, byte)) = model.receive(&mut hand, Want::Message) {
            let page = model.ring().page(0);
            assert_eq!((page.number(), byte), (0, 1), "turned under a message of a removed group");
            let _ = model.group().ack(&claim);
        }
        sender.join().unwrap();
    });
}

/// ORDER[group state]: as before, but the remover died before it closed a cursor: no claim fails by
/// that.
/// Fails when: the claimer does not look at the group again.
#[test]
fn half_a_removal_against_a_claim() {
    explore(3, || {
        let model = Arc::new(Model::with_groups(1, Block, 2, 4));
        let second = disk_chan::group::Group::activate(&model.ring(), 1);
        model.send(1).unwrap();
        model.send(2).unwrap();
        second.set_done(0, 0);
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                let removed = model.group().state() + 1; // ACTIVE is 1, REMOVED is 2
                model.ring().mem.group_lines(0).0[0].store(removed, SeqCst);
                model.send(3).is_ok()
            }
        });
        if let Ok((claim, byte)) = model.receive(&mut model.hand(), Want::Message) {
            let page = model.ring().page(0);
            assert_eq!((page.number(), byte), (0, 1), "turned under a message of a removed group");
            let _ = model.group().ack(&claim);
        }
        sender.join().unwrap();
    });
}

/// ORDER[sleep], receivers: a sender commits and looks for sleepers; a receiver registers and looks
/// for messages. Neither misses the other.
/// Fails when: the fence of the sleeper or of the sender is left out; when the flag is lowered
/// without comparing.
#[test]
fn receivers_sleep_and_wake() {
    explore(3, || {
        let model = Arc::new(Model::new(2, Block));
        let list = Arc::new(WaitList::default());
        let sender = thread::spawn({
            let (model, list) = (Arc::clone(&model), Arc::clone(&list));
            move || {
                model.send(7).unwrap();
                let flag = model.ring().mem.sleepers()[0];
                if let Some(seen) = wait::anyone(flag)
                    && !list.wake_one()
                {
                    wait::nobody(flag, seen);
                }
            }
        });
        let (mut hand, mut place) = (model.hand(), None);
        let byte = loom::future::block_on(std::future::poll_fn(|cx| {
            for again in [false, true] {
                match model.receive(&mut hand, Want::Message) {
                    Ok((_, byte)) => return Poll::Ready(byte),
                    Err(_) if again => {}
                    Err(_) => {
                        list.register(&mut place, cx.waker());
                        wait::announce(model.ring().mem.sleepers()[0]);
                    }
                }
            }
            Poll::Pending
        }));
        assert_eq!(byte, 7);
        list.remove(&mut place);
        sender.join().unwrap();
    });
}

/// ORDER[sleep], senders: the same the other way round. An ack makes room and looks for senders; a
/// sender registers and looks for room.
/// Fails when: the fence of the sleeper or of the acker is left out.
#[test]
fn senders_wait_for_room() {
    explore(2, || {
        let model = Arc::new(Model::new(1, Block));
        model.send(1).unwrap();
        model.send(2).unwrap();
        let list = Arc::new(WaitList::default());
        let mut hand = model.hand();
        let (claim, _) = model.receive(&mut hand, Want::Message).unwrap();
        let receiver = thread::spawn({
            let (model, list) = (Arc::clone(&model), Arc::clone(&list));
            move || {
                model.group().ack(&claim).0.unwrap();
                if wait::anyone(model.ring().mem.sleepers()[1]).is_some() {
                    list.wake_all();
                }
            }
        });
        let mut place = None;
        loom::future::block_on(std::future::poll_fn(|cx| {
            for again in [false, true] {
                match model.send(3) {
                    Ok(_) => return Poll::Ready(()),
                    Err(_) if again => {}
                    Err(_) => {
                        list.register(&mut place, cx.waker());
                        wait::announce(model.ring().mem.sleepers()[1]);
                    }
                }
            }
            Poll::Pending
        }));
        list.remove(&mut place);
        receiver.join().unwrap();
        assert_eq!(model.drain().0, [2, 3]);
    });
}

/// The flag word alone: a sleeper that registers while a waker finds nobody.
/// Fails when: the flag is lowered without comparing, or registrations are not counted in it.
#[test]
fn the_flag_is_not_lowered_over_a_sleeper() {
    explore(4, || {
        let flag = Arc::new(AtomicU64::new(0));
        let sleeper = Arc::new(AtomicU64::new(0));
        wait::announce(&flag); // an earlier sleeper, gone since
        let waker = thread::spawn({
            let (flag, sleeper) = (Arc::clone(&flag), Arc::clone(&sleeper));
            move || {
                if let Some(seen) = wait::anyone(&flag) {
                    fence(SeqCst);
                    if sleeper.load(SeqCst) == 0 {
                        wait::nobody(&flag, seen);
                    }
                }
            }
        });
        sleeper.store(1, SeqCst);
        wait::announce(&flag);
        waker.join().unwrap();
        assert!(wait::anyone(&flag).is_some(), "the flag is down and somebody sleeps");
    });
}

/// ORDER[arm]: two wait on the word of an open, and one changes something and wakes them. Each sees the
/// change, or finds that the word is no more what it armed.
/// Fails when: the fence of the one who waits or of the one who wakes is left out; when a wake does not
/// change the word for good.
#[test]
fn a_word_that_two_wait_on() {
    explore(3, || {
        let word = Arc::new(AtomicU32::new(0));
        let thing = Arc::new(AtomicU64::new(0));
        let wait = {
            let (word, thing) = (Arc::clone(&word), Arc::clone(&thing));
            move || {
                let armed = wait::arm(&word);
                (thing.load(Relaxed), armed)
            }
        };
        let other = thread::spawn(wait.clone());
        let waker = thread::spawn({
            let (word, thing) = (Arc::clone(&word), Arc::clone(&thing));
            move || {
                thing.store(1, Relaxed);
                wait::disarm(&word);
            }
        });
        let mine = wait();
        let theirs = other.join().unwrap();
        waker.join().unwrap();
        for (seen, armed) in [mine, theirs] {
            assert!(seen == 1 || word.load(SeqCst) != armed, "somebody sleeps over a change");
        }
    });
}

/// ORDER[head]: close against a send. A send that returns Ok is there; after close has returned,
/// none does.
/// Fails when: close does not seal the page; when an add that came back SEALED is used.
#[test]
fn close_against_a_send() {
    explore(3, || {
        let model = Arc::new(Model::new(2, Block));
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || model.send(1).is_ok()
        });
        model.ring().close().unwrap();
        assert_eq!(model.ring().page(0).cursor().state, PageState::Sealed);
        let (mut hand, mut early) = (model.hand(), 0);
        let ended = loop {
            match model.receive(&mut hand, Want::Message) {
                Ok((claim, _)) => {
                    model.group().ack(&claim).0.unwrap();
                    early += 1;
                }
                Err(nothing) => break nothing == Nothing::End,
            }
        };
        let sent = sender.join().unwrap();
        let late = model.drain().0.len();
        assert_eq!(early + late, usize::from(sent));
        assert!(!ended || late == 0, "a message behind the end");
        assert_eq!(model.send(2), Err(Refused::Closed));
    });
}

/// ORDER[head]: close against a sender that finds its page full and moves on.
/// Fails when: the head moves without looking at what it was.
#[test]
fn close_against_a_rotator() {
    explore(2, || {
        let model = Arc::new(Model::new(1, Block));
        model.send(1).unwrap();
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            move || model.send(2).is_ok()
        });
        model.ring().close().unwrap();
        let sent = sender.join().unwrap();
        assert_eq!(model.send(3), Err(Refused::Closed));
        assert_eq!(model.drain().0, if sent { vec![1, 2] } else { vec![1] });
    });
}

/// A lease that is taken away against its late ack: one of the two wins, and the other knows, even
/// if the cell has another message by then.
/// Fails when: an epoch is not new with every claim.
#[test]
fn a_lease_ends_once() {
    explore(3, || {
        let model = Arc::new(Model::new(2, Block));
        model.send(1).unwrap();
        model.send(2).unwrap();
        let (claim, _) = model.receive(&mut model.hand(), Want::Lease).unwrap();
        let thief = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                let group = model.group();
                let stolen = group.take_overdue(|| 10);
                if stolen {
                    let (again, byte) = model.receive(&mut model.hand(), Want::Lease).unwrap();
                    assert_eq!((again.cell, again.word.attempts(), byte), (claim.cell, 1, 1));
                    group.ack(&again).0.unwrap();
                    let (next, byte) = model.receive(&mut model.hand(), Want::Lease).unwrap();
                    assert_eq!((next.cell, byte), (claim.cell, 2));
                    group.ack(&next).0.expect("a late ack finished another message");
                }
                stolen
            }
        });
        let acked = model.group().ack(&claim).0.is_ok();
        let stolen = thief.join().unwrap();
        assert!(acked != stolen, "{acked} {stolen}");
        assert!(model.group().is_done(0, 0));
        assert_eq!(model.group().count(Count::Redelivered), u64::from(stolen));
    });
}

/// Two take the same lease away, and one of them has it handed out again at once: the new holder
/// keeps it, also before it has said since when.
/// Fails when: a time is believed that is of another claim.
#[test]
fn a_lease_is_taken_away_once() {
    explore(3, || {
        let model = Arc::new(Model::new(2, Block));
        model.send(1).unwrap();
        model.receive(&mut model.hand(), Want::Lease).unwrap();
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || model.group().take_overdue(|| 10)
        });
        let mine = model.group().take_overdue(|| 10);
        let again = model.receive_at(&mut model.hand(), Want::Lease, 10);
        let theirs = other.join().unwrap();
        assert!(mine != theirs, "{mine} {theirs}");
        if let Ok((claim, _)) = again {
            assert_eq!(model.group().cell(0).load(), claim.word, "taken away from the next holder");
        }
    });
}

/// ORDER[open entry]: cleaners of the same dead open, one of which is late: the entry has been freed
/// and given to another open, which holds a message. It keeps it.
/// Fails when: a cleaner does not look at the entry; when it looks at it before the cell.
#[test]
fn cleaners_compete() {
    explore(2, || {
        let model = Arc::new(Model::new(2, Block));
        let mem = model.ring().mem;
        model.send(1).unwrap();
        let dead = model.other;
        model.receive(&mut Hand::new(dead.index, 0, 0), Want::Message).unwrap();
        let cell = OpCell::reserving(mem, dead, 0).unwrap();
        std::mem::forget(cell);
        model.other_is_dead.store(true, SeqCst);
        let late = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                OpCell::clear(model.ring().mem, dead);
                model.group().reap(dead);
            }
        });
        OpCell::clear(mem, dead);
        model.group().reap(dead);
        dead.detach(mem);
        let next = OpenId::attach(mem, dead.index);
        let cell = OpCell::reserving(mem, next, 0).unwrap();
        let (claim, byte) = model.receive(&mut Hand::new(next.index, 0, 0), Want::Message).unwrap();
        assert_eq!((byte, claim.word.attempts()), (1, 1));
        late.join().unwrap();
        assert!(cell.is_ours(), "the op cell of the next open was cleaned");
        let group = model.group();
        assert_eq!(group.cell(claim.cell as usize).load(), claim.word, "the message was taken from the next open");
        assert_eq!(group.count(Count::Redelivered), 1);
    });
}

/// ORDER[count]: a message given back whose page has gone is counted once, whoever helps, and the next
/// one in the same cell once more.
/// Fails when: the counter is raised without a look at its epoch, or at the cell.
#[test]
fn what_is_gone_is_counted_once() {
    explore(3, || {
        let model = Arc::new(Model::new(2, DropOldest));
        let lose = |model: &Model| {
            let cell = model.group().cell(0);
            let held = cell.take(0, Kind::Lease, 0).unwrap().to(ClaimState::Held);
            assert!(cell.change(held.to(ClaimState::Taken), held));
            assert!(cell.change(held, held.to(ClaimState::Gone)));
        };
        model.group().cells_used().store(1, SeqCst);
        lose(&model);
        let late = thread::spawn({
            let model = Arc::clone(&model);
            move || model.group().settle()
        });
        model.group().settle();
        lose(&model);
        model.group().settle();
        late.join().unwrap();
        assert_eq!(model.group().count(Count::Gone), 2);
        assert_eq!(model.group().cell(0).load().state(), ClaimState::Free);
    });
}

/// ORDER[hold]: two receivers take a partition, claim while they hold it, and let it go. It is with one of them
/// at a time, and what one gave back comes before what is new to the other.
/// Fails when: the word is stored, not swapped; when letting go does not release.
#[test]
fn a_partition_is_with_one_at_a_time() {
    explore(2, || {
        let model = Arc::new(Model::new(2, Block));
        model.send_all(1..3);
        let holders = Arc::new(loom::sync::atomic::AtomicUsize::new(0));
        let one = |model: &Model, number: usize, holders: &loom::sync::atomic::AtomicUsize| {
            let (group, mut hand) = (model.group(), model.hand());
            let Some(hold) = group.take_hold(group.holder(), &mut hand, Member::new(0, number)) else { return };
            assert_eq!(holders.fetch_add(1, Relaxed), 0, "held by both");
            assert!(group.is_held(hold));
            let (claim, byte) = model.receive(&mut hand, Want::Lease).unwrap();
            assert_eq!(byte, 1, "a new message came before one that was given back");
            group.give_back(&claim).unwrap();
            assert!(!group.has_out(0));
            holders.fetch_sub(1, Relaxed);
            assert!(group.let_go(hold, None));
        };
        let other = thread::spawn({
            let (model, holders) = (Arc::clone(&model), Arc::clone(&holders));
            move || one(&model, 1, &holders)
        });
        one(&model, 0, &holders);
        other.join().unwrap();
        assert!(model.group().holder().is_free());
    });
}

/// A holder that lets go while another asks: the request is never lost, and the hold is its holder's until it
/// ends it itself.
/// Fails when: letting go overwrites the word; when asking stores it.
#[test]
fn want_against_letting_go() {
    explore(3, || {
        let model = Arc::new(Model::new(1, Block));
        let (group, mut hand) = (model.group(), model.hand());
        let hold = group.take_hold(group.holder(), &mut hand, Member::new(0, 0)).unwrap();
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                let (group, mut hand) = (model.group(), Hand::new(1, 0, 0));
                let seen = group.holder();
                let asked = seen.owner() == Some(0) && group.want(seen);
                let now = group.holder();
                let taken = now.is_free().then(|| group.take_hold(now, &mut hand, Member::new(0, 1)));
                (asked, taken.flatten())
            }
        });
        assert!(group.is_held(hold));
        let asked_first = group.holder().is_wanted();
        assert!(group.let_go(hold, Some(1)), "somebody else ended the hold");
        assert!(!group.is_held(hold));
        let (asked, taken) = other.join().unwrap();
        assert!(asked || !asked_first);
        match taken {
            Some(hold) => assert!(group.is_held(hold), "two let go of it"),
            None => assert_eq!(group.holder().limit(), Some(1)),
        }
    });
}

/// ORDER[hold]: a holder died with a message out; two clean up after it, and a third takes the partition. It is
/// given that message first, whatever it had seen of the group before.
/// Fails when: the hold is ended before the cells are cleaned; when who takes it does not look for what was given
/// back.
#[test]
fn a_dead_holders_message_comes_before_what_is_new() {
    explore(2, || {
        let model = Arc::new(Model::new(2, Block));
        model.send_all(1..3);
        let dead = model.other;
        let (group, mut hand) = (model.group(), Hand::new(dead.index, 0, 0));
        group.take_hold(group.holder(), &mut hand, Member::new(1, 0)).unwrap();
        model.receive(&mut hand, Want::Lease).unwrap();
        model.other_is_dead.store(true, SeqCst);
        let reapers = [0, 1].map(|_| {
            let model = Arc::clone(&model);
            thread::spawn(move || model.group().reap(dead))
        });
        // It has received from here before, and knows that nothing was given back then.
        let mut hand = model.hand();
        hand.seen_returns = Some(0);
        if let Some(hold) = group.take_hold(group.holder(), &mut hand, Member::new(0, 0)) {
            let (claim, byte) = model.receive(&mut hand, Want::Message).unwrap();
            assert_eq!((byte, claim.word.attempts()), (1, 1), "a new message came first");
            assert!(group.is_held(hold), "taken from one who is alive");
        }
        for reaper in reapers {
            reaper.join().unwrap();
        }
        assert!(group.holder().owner() != Some(dead.index));
    });
}

/// ORDER[open entry]: the same when the entry of the dead is used again at once: who is late with cleaning up
/// takes nothing from the next open that has it.
/// Fails when: who ends the hold of a dead open does not look at its entry.
#[test]
fn a_late_cleaner_ends_no_hold_of_the_living() {
    explore(2, || {
        let model = Arc::new(Model::new(1, Block));
        let dead = model.other;
        let (group, mem) = (model.group(), model.ring().mem);
        group.take_hold(group.holder(), &mut Hand::new(dead.index, 0, 0), Member::new(1, 0)).unwrap();
        model.other_is_dead.store(true, SeqCst);
        let late = thread::spawn({
            let model = Arc::clone(&model);
            move || model.group().reap(dead)
        });
        group.reap(dead);
        dead.detach(mem);
        let next = OpenId::attach(mem, dead.index);
        let hold = group.take_hold(group.holder(), &mut Hand::new(next.index, 0, 0), Member::new(1, 0)).unwrap();
        late.join().unwrap();
        assert!(group.is_held(hold), "the hold of the next open was ended");
    });
}

/// A receiver goes while a lease of it is out, which is given back on another thread: the partition is taken only
/// after that, and the message comes first.
/// Fails when: nobody looks whether something is out.
#[test]
fn a_hold_that_is_left_to_a_lease() {
    explore(2, || {
        let model = Arc::new(Model::new(2, Block));
        model.send_all(1..3);
        let (group, mut hand) = (model.group(), model.hand());
        let hold = group.take_hold(group.holder(), &mut hand, Member::new(0, 0)).unwrap();
        let (claim, _) = model.receive(&mut hand, Want::Lease).unwrap();
        let lease = thread::spawn({
            let model = Arc::clone(&model);
            move || model.group().give_back(&claim).unwrap()
        });
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                let (group, mut hand) = (model.group(), Hand::new(1, 0, 0));
                group.end_left(group.holder());
                group.take_hold(group.holder(), &mut hand, Member::new(1, 0))?;
                Some(model.receive(&mut hand, Want::Message).unwrap().1)
            }
        });
        group.leave_hold(hold);
        lease.join().unwrap();
        assert!(other.join().unwrap().is_none_or(|byte| byte == 1), "taken while the lease was out");
        group.end_left(group.holder());
        assert!(!group.holder().is_left());
    });
}

/// What each of the group's messages came to: received, expired, gone, lagged.
/// (Where a claim is made while others look, it is a lease: loom does not know that a helper's swap of the word of
/// a message, from INTENT, comes before its owner's plain store and all that follows.)
fn books(model: &Model, received: usize, lagged: u64) -> [u64; 4] {
    let group = model.group();
    assert_eq!(group.lag(&model.ring()).messages, 0);
    assert_eq!(group.lagged(), lagged, "what is dropped is told");
    [received as u64, group.expired(), group.count(Count::Gone), lagged]
}

/// The page that senders write expires while one of them sends: either its message comes before the page is
/// sealed, and keeps it, or it does not come there.
/// Fails when: the page is sealed whatever came since it was judged; when it is judged without what is still
/// being written.
#[test]
fn expiry_against_a_send_into_the_newest_page() {
    explore(3, || {
        let model = Arc::new(Model::with_max_age(2, Block, 2));
        model.send(1).unwrap();
        let sender = thread::spawn({
            let model = Arc::clone(&model);
            // A send that does not look for another page.
            move || {
                let ring = model.ring();
                let (page, mut cell) = (ring.page(0), OpCell::reserving(ring.mem, ring.me, 0).unwrap());
                page.reserve(1, 5).is_some_and(|at| {
                    cell.holds(at.index as u64, 1);
                    page.write(ring.mem.uuid, 0, at, &[Record::new(&[2], 0)], LATER) == 1
                })
            }
        });
        model.ring().expire(LATER);
        let sent = sender.join().unwrap();
        let state = model.ring().page(0).cursor().state;
        let (got, lagged) = model.drain();
        match sent {
            true => {
                assert_eq!((&got[..], books(&model, 2, lagged)), (&[1, 2][..], [2, 0, 0, 0]));
                assert_eq!(state, PageState::Open, "a page was left that had not expired");
            }
            false => assert_eq!((&got[..], books(&model, 0, lagged)), (&[][..], [0, 1, 0, 0])),
        }
    });
}

/// Two give up what has expired, and with it all of the ring: each message is counted once, and the ring is
/// as new.
/// Fails when: what was lost is counted by everybody.
#[test]
fn two_find_the_ring_expired() {
    explore(1, || {
        let model = Arc::new(Model::with_max_age(1, Block, 2));
        model.send_all(1..3);
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || model.ring().expire(LATER)
        });
        model.ring().expire(LATER);
        other.join().unwrap();
        model.ring().expire(LATER);
        assert_eq!(books(&model, 0, 0), [0, 2, 0, 0]);
        let ring = model.ring();
        assert_eq!(ring.tail().page, ring.head().page);
        for byte in [3, 4] {
            model.send_at(byte, LATER).unwrap();
        }
        assert_eq!(model.drain().0, [3, 4]);
    });
}

/// A message is claimed, or its page is taken away as expired before that: one of the two.
/// Fails when: what expired is not counted.
#[test]
fn expiry_against_a_claim() {
    explore(2, || {
        let model = Arc::new(Model::with_max_age(2, Block, 2));
        model.send_all(1..3);
        let expirer = thread::spawn({
            let model = Arc::clone(&model);
            move || model.ring().expire(LATER)
        });
        let mut received = 0;
        if let Ok((claim, byte)) = model.receive(&mut model.hand(), Want::Lease) {
            assert_eq!(byte, 1);
            received += 1;
            let _ = model.group().ack(&claim);
        }
        expirer.join().unwrap();
        received += model.drain().0.len();
        model.ring().expire(LATER);
        assert_eq!(books(&model, received, 0), [received as u64, 2 - received as u64, 0, 0]);
        assert!(!model.damage_seen());
    });
}

/// A message given back while its page expires is gone, and its cell is free, whoever comes first.
/// Fails when: giving back does not look whether the cursor was closed; when who takes the page away does not
/// look for what was given back.
#[test]
fn give_back_against_expiry() {
    explore(3, || {
        let model = Arc::new(Model::with_max_age(1, Block, 2));
        model.send(1).unwrap();
        let (claim, _) = model.receive(&mut model.hand(), Want::Lease).unwrap();
        let expirer = thread::spawn({
            let model = Arc::clone(&model);
            move || model.ring().expire(LATER)
        });
        let _ = model.group().give_back(&claim);
        expirer.join().unwrap();
        assert_eq!(model.group().held_and_returned(), [0; 3]);
        assert_eq!(books(&model, 0, 0), [0, 0, 1, 0]);
    });
}

/// Under `DropOldest` a full ring takes its oldest page away while somebody else finds it expired: what the
/// group had not been given is counted once, as the one or as the other.
/// Fails when: a cursor that is closed is closed for another reason.
#[test]
fn expiry_against_a_turn_that_drops() {
    explore(2, || {
        let model = Arc::new(Model::with_max_age(1, DropOldest, 2));
        model.send_all(1..3);
        let dropper = thread::spawn({
            let model = Arc::clone(&model);
            // By its clock nothing has expired.
            move || model.group().take_page_away(0, Loss::Dropped)
        });
        model.group().take_page_away(0, Loss::Expired);
        dropper.join().unwrap();
        let group = model.group();
        assert_eq!(group.expired() + group.lagged(), 1);
        assert_eq!(group.unreported_loss().unwrap_or(0), group.lagged());
        // Whoever needs the page goes on with what the first had begun.
        model.send(3).unwrap();
        let (got, lagged) = model.drain();
        assert_eq!((got, lagged), (vec![2, 3], 0));
        assert_eq!(group.expired() + group.lagged(), 1);
    });
}

/// A clock that was set back makes no page older than the one before it.
/// Fails when: who opens a page looks at nothing but its clock.
#[test]
fn an_opening_is_not_before_the_one_before() {
    explore(1, || {
        let model = Model::with_max_age(1, DropOldest, 3);
        for (byte, now) in [(1, 1), (2, 50), (3, 30), (4, 40), (5, 60)] {
            model.send_at(byte, now).unwrap();
        }
        let opened_at = |number| model.ring().page(number).word(Layout::PAGE_OPENED_AT).load(SeqCst);
        assert_eq!([2, 3, 4].map(opened_at), [50, 50, 60]);
        assert!(!model.ring().expire(59));
        assert!(model.ring().expire(60));
        assert_eq!(model.ring().tail().page, 4);
    });
}

/// The last page of a closed channel expires while it is read, and again when the channel is open for sending:
/// it is counted once, and a receiver that has nothing else is at the end.
/// Fails when: a page that was taken away and not turned counts as unread; when its receivers wait for more.
#[test]
fn the_last_page_of_a_closed_channel_expires() {
    explore(1, || {
        let model = Arc::new(Model::with_max_age(2, Block, 2));
        model.send_all(1..3);
        model.ring().close().unwrap();
        let expirer = thread::spawn({
            let model = Arc::clone(&model);
            move || model.ring().expire(LATER)
        });
        let (mut hand, mut received) = (model.hand(), 0);
        let end = loop {
            match model.receive(&mut hand, Want::Lease) {
                Ok((claim, _)) => {
                    model.group().ack(&claim).0.unwrap();
                    received += 1;
                }
                Err(nothing) => break nothing,
            }
        };
        assert_eq!(end, Nothing::End);
        assert!(!expirer.join().unwrap(), "the head of a closed channel moved");
        assert_eq!(books(&model, received, 0), [received as u64, 2 - received as u64, 0, 0]);
        assert!(!model.group().has_more(&model.ring()));
        let epoch = model.ring().open_for_sending();
        model.ring().send(epoch, &[Record::new(&[3], 0)], LATER).unwrap();
        assert_eq!(model.drain().0, [3]);
        model.ring().expire(LATER);
        assert_eq!(books(&model, received + 1, 0), [received as u64 + 1, 2 - received as u64, 0, 0]);
    });
}

/// Somebody was stopped in the middle of a turn, so that the page is gone and its number still there. Meanwhile
/// the next page expires: what was lost of the first is not counted again by who is late, and a receiver that
/// stands in it goes on.
/// Fails when: only the page number says that a page is there, for who counts, or for who goes on.
#[test]
fn expiry_behind_a_turn_that_was_stopped() {
    for is_lost in [true, false] {
        explore(3, move || {
            let model = Arc::new(Model::with_max_age(1, Block, 3));
            model.send_all(1..3);
            model.send_at(3, LATER).unwrap();
            let (ring, group) = (model.ring(), model.group());
            let (mut hand, mut received) = (model.hand(), 0);
            if is_lost {
                group.take_page_away(0, Loss::Expired);
            } else {
                let (claim, _) = model.receive(&mut hand, Want::Message).unwrap();
                group.ack(&claim).0.unwrap();
                received += 1;
            }
            let tail = Tail { page: 1, ..ring.tail() };
            ring.mem.tail().store(tail.word(), SeqCst);
            let late = thread::spawn({
                let model = Arc::clone(&model);
                move || model.group().count_lost_page(0)
            });
            ring.expire(LATER);
            let (claim, byte) = model.receive(&mut hand, Want::Message).unwrap();
            assert_eq!(byte, 3);
            model.group().ack(&claim).0.unwrap();
            late.join().unwrap();
            assert_eq!(books(&model, received + 1, 0), [received as u64 + 1, 2 - received as u64, 0, 0]);
            // Who needs the place ends the turn.
            for byte in 4..7 {
                model.send_at(byte, 2 * LATER).unwrap();
                assert_eq!(
                    model.receive(&mut hand, Want::Message).map(|(claim, byte)| {
                        model.group().ack(&claim).0.unwrap();
                        byte
                    }),
                    Ok(byte)
                );
            }
        });
    }
}
