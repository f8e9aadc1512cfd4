#!/usr/bin/env bash
# Breaks one rule of the shipped code after the other, in a copy of the working tree, and demands
# that the model named for it fails by an assertion (or by a deadlock that loom finds).
#
#   loom-tests/mutants.sh           all of them, about ten minutes on two cores
#   loom-tests/mutants.sh WORD      those whose model or description contains WORD
set -euo pipefail
cd "$(dirname "$0")/.."
. .ci/mutants.bash
prepare mutants
export CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_INCREMENTAL=true CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
unset LOOM_MAX_PREEMPTIONS LOOM_MAX_BRANCHES LOOM_MAX_PERMUTATIONS LOOM_CHECKPOINT_FILE

# Builds the models of the copy; says where they are.
build() {
    (cd "$work/repo/loom-tests" && cargo test --release --no-run --test models) >"$work/build.log" 2>&1 ||
        { cat "$work/build.log" >&2; stop "does not compile: $1"; }
    models=$(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$work/build.log")
    [ -x "$models" ] || stop "cargo does not say where the models are"
}

# LOOM_MAX_DURATION: a mutant that is not found in this time has survived.
run() {
    LOOM_MAX_DURATION=180 timeout 200 "$models" --exact "protocols::$1"
}

# A model that fails anyway would catch everything.
build "the code as it is"
LOOM_MAX_DURATION=3 timeout 600 "$models" >"$work/run.log" 2>&1 ||
    { cat "$work/run.log" >&2; stop "the models fail with the code as it is"; }

mutant commit_and_read 'a slot is committed without release' \
    page.rs 'SlotState::Committed(at)), Release)' 'SlotState::Committed(at)), Relaxed)'

mutant copy_against_a_turn 'a loss is not counted' \
    group.rs 'self.fold(counter, number, |slot| matches!' 'self.fold(counter, number, |slot| number == u64::MAX && matches!'

mutant reserve_and_seal 'a page is left without being sealed' \
    ring.rs 'if !self.seal(&mut cell, from, |page, c| page.is_full(c)) {' 'if false {'

mutant a_reader_against_a_turn 'a cursor that was turned is not known for it' \
    read.rs 'if c.lap != self.mem.layout.cursor_lap(number) ||' 'if'

mutant a_reader_against_a_turn 'a copy looks neither at the page number nor at the offset' \
    page.rs 'number == crate::Offset::from_u64(offset).page()' 'number != u64::MAX' \
    page.rs 'head[1] == offset)?' 'head[1] != u64::MAX)?'

mutant a_lease_of_a_removed_group 'a copy looks neither at the page number nor at the offset' \
    page.rs 'number == crate::Offset::from_u64(offset).page()' 'number != u64::MAX' \
    page.rs 'head[1] == offset)?' 'head[1] != u64::MAX)?'

mutant close_against_a_send 'an add that came back sealed is used' \
    page.rs 'c.state == PageState::Open && c.count' 'c.count'

mutant close_against_a_rotator 'the head is stored, not swapped' \
    ring.rs 'if self.mem.head().compare_exchange(head.word(), moved.word(), AcqRel, Relaxed).is_ok() {' \
    'self.mem.head().store(moved.word(), Ordering::Release); {'

mutant two_rotators 'a page is left without being sealed' \
    ring.rs 'if !self.seal(&mut cell, from, |page, c| page.is_full(c)) {' 'if false {'

mutant ack_and_recycle 'a turn does not ask whether the groups are done' \
    ring.rs 'self.done_with(group, old)?;' ''

mutant a_new_group_against_a_turn 'a turn does not compare the epoch' \
    ring.rs 'if self.mem.tail().compare_exchange(tail.word(), moved.word(), AcqRel, Relaxed).is_ok() {' \
    'if self.mem.tail().fetch_update(AcqRel, Acquire, |now| (Tail::of(now).page == tail.page)
        .then_some(Tail { page: moved.page, ..Tail::of(now) }.word())).is_ok() {'

mutant a_new_group_against_a_turn 'a group settles its start before it raises the epoch' \
    lifecycle.rs 'let oldest = Tail::of(mem.tail().fetch_add(Tail::EPOCH_STEP, SeqCst)).page;' \
    'let oldest = ring.tail().page;' \
    lifecycle.rs 'group.settle_start(ring, Offset::new(oldest, 0));' \
    'group.settle_start(ring, Offset::new(oldest, 0)); mem.tail().fetch_add(Tail::EPOCH_STEP, SeqCst);'

mutant recycle_against_a_sender_about_to_reserve 'a loss is not counted' \
    group.rs 'self.fold(counter, number, |slot| matches!' 'self.fold(counter, number, |slot| number == u64::MAX && matches!'

mutant recycle_against_a_sender_about_to_reserve 'the page number is taken from before the add' \
    ring.rs 'let number = page.number();' 'let number = head.page;'

mutant two_senders_and_a_judge 'the judge does not wait for who is RESERVING' \
    ops.rs 'if is(seen, Op::Reserving) &&' 'if is(seen, Op::Reserving) && cell > 99 &&'

mutant two_senders_and_a_judge 'the judge does not ask who HOLDS' \
    ops.rs '!used(self.mem).any(|cell| self.holds(cell, offset))' 'offset != u64::MAX'

mutant two_senders_and_a_judge 'a sender adds before it says so' \
    ops.rs 'Self::take(mem, me, Op::Reserving, place)' 'Self::take(mem, me, Op::Taken, place)'

mutant two_senders_and_a_judge 'a hole is skipped whatever was committed meanwhile' \
    ring.rs 'let _ = word.compare_exchange(seen, skipped, AcqRel, Relaxed);' \
    'word.store(skipped, Ordering::Release);'

mutant a_dead_senders_hole_is_skipped 'the cell of a dead sender counts for ever' \
    ops.rs 'self.live.is_dead(owner(seen)) || self.mem.op_cell(cell).0.load(Acquire) != seen' \
    'cell > 99 && seen > 99'

mutant no_claim_is_anonymous 'the next claimer does not complete the claim before' \
    extend.rs '                if word.state() == ClaimState::Intent {
                    cell.change(word, word.to(ClaimState::Held));
                }' ''

mutant a_claim_that_is_over_is_not_made_again 'a receiver does not look at the cursor again' \
    claim.rs 'let Some((number_of_cell, word)) = mine else {' \
    'let (number_of_cell, word) = if let Some(mine) = mine.or_else(|| self.take_cell(hand, want.kind(), 0)) { mine } else {'

mutant a_claim_is_extended_once 'who claims does not seal the claim before' \
    extend.rs '                cell.seal(extent)
' '                true
'

mutant a_claim_is_extended_once 'a receiver does not look again where the claims end' \
    claim.rs 'let Some((number_of_cell, word)) = mine else {' \
    'let (number_of_cell, word) = if let Some(mine) = mine.or_else(|| self.take_cell(hand, want.kind(), 0)) { mine } else {'

mutant a_claim_is_extended_once 'a claim is extended that was sealed' \
    cells.rs 'self.line[EXTENT].compare_exchange(from.0, to.0, SeqCst, Acquire).is_ok().then_some(to)' \
    'self.line[EXTENT].swap(to.0, SeqCst); Some(to)'

mutant a_claim_that_waits_is_ended_or_extended 'a claim is ended by another without being sealed' \
    extend.rs 'seen.is_done() && cell.seal(seen.extent);' 'seen.is_done();'

mutant removal_against_an_extended_claim 'who extends does not look at the group again' \
    extend.rs 'if !self.is_current() {
            return Extended::Over;' 'if false {
            return Extended::Over;'

mutant the_dead_had_extended_a_claim 'what the dead were done with is not acked' \
    extend.rs 'if done != 0 {' 'if done != 0 && index == usize::MAX {'

mutant claim_and_claim 'the cursor is stored, not swapped' \
    claim.rs 'if cursor_word.compare_exchange(seen, claimed.word(tag), SeqCst, Relaxed).is_err() {' \
    'cursor_word.store(claimed.word(tag), SeqCst); if false {'

mutant half_a_removal_against_a_claim 'a claimer does not look at the group again' \
    claim.rs 'if !self.is_current() {
                mine = Some((number_of_cell, intent));' 'if false {
                mine = Some((number_of_cell, intent));'

mutant removal_against_a_claim 'nobody looks for the messages of a removed group' \
    group.rs 'seen.word.kind() == Kind::Message' 'seen.word.kind() == Kind::Message && number == u64::MAX'

mutant a_row_against_a_cell 'who takes a cell of a row does not look at the first' \
    several.rs 'first.word.keeps_row()' '(first.word.keeps_row() && cell == 0)'

mutant a_row_against_a_cell 'who takes a row does not look at the others' \
    several.rs 'if (row + 1..row + ROW).all(' 'if (row + ROW..row + ROW).all('

mutant a_row_against_a_cell 'who takes a row looks at the others without a fence' \
    several.rs '            full_fence_after_rmw(); // ORDER[row]: with the fence in is_kept' ''

mutant a_row_against_a_cell 'who takes a cell of a row looks at the first without a fence' \
    several.rs '        full_fence_after_rmw(); // ORDER[row]: with the fence in take_row' ''

mutant removal_against_a_taking_out 'the remover frees what was given back only if nobody changes it' \
    lifecycle.rs '&& !cell.free(word) {' '&& { cell.free(word); false } {'

mutant what_was_given_back_together_comes_before_what_is_new 'a cell that changes is passed over' \
    claim.rs 'let seen = cell.seen();' 'let seen = cell.read()?;'

mutant a_cell_that_is_empty_is_used_again 'the cursor names a cell that is free' \
    several.rs '            self.move_cursor_behind(number, seen);' ''

mutant several_are_taken_out_once 'what is taken out is not noted' \
    cells.rs 'while seen >> 32 == extent.epoch() && seen as u32 & bit == 0 {' \
    'while seen >> 32 == extent.epoch() && seen as u32 & bit == 0 && bit == 0 {'

mutant who_takes_one_of_several_dies 'who takes the next does not complete the taking before' \
    several.rs '                taker.change(taken.word, taken.word.to(ClaimState::Held));' ''

mutant who_takes_one_of_several_dies 'a reaper does not ask who was named' \
    reap.rs '            || self.was_taken_out(cell, first)' ''

mutant give_back_against_a_turn 'giving back does not look whether the page was lost' \
    reap.rs '(!self.is_current() || self.has_lost(offset.page())) && cell.lose(returned)' \
    '!self.is_current() && cell.lose(returned) && offset.index() > 0'

mutant receivers_sleep_and_wake 'a sleeper looks again without a fence' \
    wait.rs '    // ORDER[sleep] SeqCst, with `anyone`: the flag is up before the sleeper looks again.
    fence(SeqCst);' ''

mutant receivers_sleep_and_wake 'a sender looks for sleepers without a fence' \
    wait.rs '    full_fence_after_rmw();' ''

mutant senders_wait_for_room 'a sleeper looks again without a fence' \
    wait.rs '    // ORDER[sleep] SeqCst, with `anyone`: the flag is up before the sleeper looks again.
    fence(SeqCst);' ''

mutant senders_wait_for_room 'a receiver looks for sleepers without a fence' \
    wait.rs '    full_fence_after_rmw();' ''

mutant the_flag_is_not_lowered_over_a_sleeper 'the flag is lowered whatever it says' \
    wait.rs 'let _ = flag.compare_exchange(seen, seen & !1, SeqCst, Relaxed);' 'flag.store(seen & !1, SeqCst);'

mutant the_flag_is_not_lowered_over_a_sleeper 'registrations are not counted in the flag' \
    wait.rs '((seen >> 1).wrapping_add(1)) << 1 | 1' 'seen | 1'

mutant a_word_that_two_wait_on 'who waits looks without a fence' \
    wait.rs '    // ORDER[arm] SeqCst, with `disarm`: armed before the look.
    fence(SeqCst);' ''

mutant a_word_that_two_wait_on 'who wakes looks without a fence' \
    wait.rs '    // ORDER[arm] SeqCst, with `arm`: the change before this look.
    fence(SeqCst);' ''

mutant a_word_that_two_wait_on 'a wake lets the word be the same again' \
    wait.rs 'seen.wrapping_add(1)' 'seen & !ARMED'

mutant close_against_a_send 'a close does not seal the page' \
    ring.rs 'self.seal(&mut cell, head.page, |_, _| true);' ''

mutant a_lease_ends_once 'a cell does not count its claims' \
    cells.rs 'Self(epoch << 32 | attempts' 'Self((epoch & 0) << 32 | attempts'

mutant a_lease_is_taken_away_once 'the time of another claim is believed' \
    cells.rs 'if said >> 32 != word.epoch() {' 'if said == u64::MAX {'

mutant cleaners_compete 'a cleaner of op cells does not look at the entry' \
    ops.rs '&& owner(seen) == open.index && open.is_entered(mem) {' '&& owner(seen) == open.index {'

mutant cleaners_compete 'a cleaner of claim cells does not look at the entry' \
    reap.rs '|owner| owner == open.index && open.is_entered(self.mem) && self.is_here()' \
    '|owner| owner == open.index'

mutant cleaners_compete 'a cleaner looks at the entry before the cell' \
    ops.rs 'let seen = word.load(Acquire); // ORDER[open entry] Acquire: before the look at the entry' \
    'if !open.is_entered(mem) { return; } let seen = word.load(Acquire);' \
    ops.rs '&& owner(seen) == open.index && open.is_entered(mem) {' '&& owner(seen) == open.index {'

mutant what_is_gone_is_counted_once 'a claim is counted by everybody who helps' \
    cells.rs 'while seen >> 32 != word.epoch() && self.load() == word {' 'while self.load() == word {'

mutant what_is_gone_is_counted_once 'a claim is counted when the cell has left it' \
    cells.rs 'while seen >> 32 != word.epoch() && self.load() == word {' 'while seen >> 32 != word.epoch() {'

mutant a_partition_is_with_one_at_a_time 'a hold is stored, not swapped' \
    holder.rs 'if !self.change_holder(seen, held) {' 'self.live[HOLDER].store(held.0, SeqCst); if false {'

mutant a_partition_is_with_one_at_a_time 'letting go does not release, taking does not acquire' \
    holder.rs 'self.live[HOLDER].compare_exchange(from.0, to.0, SeqCst, Acquire).is_ok()' \
    'self.live[HOLDER].compare_exchange(from.0, to.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()' \
    holder.rs '        full_fence_after_rmw(); // ORDER[group state]' '' \
    holder.rs 'HolderWord(self.live[HOLDER].load(Acquire))' 'HolderWord(self.live[HOLDER].load(Ordering::Relaxed))'

mutant want_against_letting_go 'a hold that somebody asked for is not its holder'"'"'s any more' \
    holder.rs 'self.swap_holder(|seen| (seen.unwanted() == held).then(|| seen.free(limit)))' \
    'self.change_holder(held, held.free(limit))'

mutant want_against_letting_go 'who asks stores the word' \
    holder.rs 'self.change_holder(seen, seen.wanted())' '{ self.live[HOLDER].store(seen.wanted().0, SeqCst); true }'

mutant a_dead_holders_message_comes_before_what_is_new 'a hold is ended before the cells are cleaned' \
    reap.rs '        self.settle();
        let (mut changed, mut back)' '        self.reap_hold(&over);
        self.settle();
        let (mut changed, mut back)'

mutant a_dead_holders_message_comes_before_what_is_new 'who takes a partition believes what it knew of it' \
    holder.rs '        hand.seen_returns = None;' ''

mutant a_late_cleaner_ends_no_hold_of_the_living 'who ends a hold does not look at the entry' \
    reap.rs '|owner| owner == open.index && open.is_entered(self.mem) && self.is_here()' \
    '|owner| owner == open.index'

mutant a_hold_that_is_left_to_a_lease 'nobody looks whether something is out' \
    holder.rs 'seen.owner().is_some_and(|owner| !self.has_out(owner))' 'seen.owner().is_some()'

mutant expiry_against_a_send_into_the_newest_page 'a page is sealed whatever came since it was judged' \
    ring.rs 'self.seal(cell, oldest, |_, c| c == judged)' 'self.seal(cell, oldest, |_, _| true)'

mutant expiry_against_a_send_into_the_newest_page 'a page expires without what is still being written' \
    ring.rs 'self.all_resolved(number).is_ok() && ' ''

mutant two_find_the_ring_expired 'what was lost is counted by everybody' \
    group.rs 'if before >> 40 == number & PAGE_TAG || self' 'if self'

mutant expiry_against_a_claim 'what expired is not counted' \
    group.rs 'Some(Loss::Expired) => EXPIRED,' 'Some(Loss::Expired) => return,'

mutant give_back_against_expiry 'giving back does not look whether the page was lost' \
    reap.rs '(!self.is_current() || self.has_lost(offset.page())) && cell.lose(returned)' \
    '!self.is_current() && cell.lose(returned)'

mutant give_back_against_expiry 'who takes a page away does not look for what was given back' \
    group.rs '&& seen.word.state() == ClaimState::Returned' '&& seen.word.state() == ClaimState::Gone'

mutant expiry_against_a_turn_that_drops 'a cursor that is closed is closed for another reason' \
    group.rs 'if cursor.closed.is_some() || page.number() != number || !self.is_here() {' \
    'if cursor.closed == Some(why) || page.number() != number || !self.is_here() {'

mutant an_opening_is_not_before_the_one_before 'who opens a page looks at nothing but its clock' \
    ring.rs 'fetch_max(now.max(before), Relaxed)' 'fetch_max(now, Relaxed)'

mutant the_last_page_of_a_closed_channel_expires 'a page that was taken away and not turned counts as unread' \
    group.rs 'if self.cursor(number, word.load(Acquire)).closed.is_some() {' 'if number == u64::MAX {'

mutant the_last_page_of_a_closed_channel_expires 'receivers of a page that was taken away and not turned wait' \
    claim.rs 'return Err(if sealed { Nothing::End } else { Nothing::Empty });' 'return Err(if sealed && hand.page == u64::MAX { Nothing::End } else { Nothing::Empty });'

mutant the_last_page_of_a_closed_channel_expires 'a page that was taken away has messages for who waits' \
    claim.rs 'cursor.closed.is_none() && index < end' 'index < end'

mutant expiry_behind_a_turn_that_was_stopped 'who counts goes by the page number' \
    group.rs 'if !self.mem.is_live(number) {' 'if page.number() != number {'

mutant expiry_behind_a_turn_that_was_stopped 'who goes on goes by the page number' \
    ring.rs 'if !self.mem.is_live(number) {' 'if self.page(number).number() != number {'

conclude
