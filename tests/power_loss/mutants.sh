#!/usr/bin/env bash
# Breaks one rule of the shipped code after the other, in a copy of the working tree, and demands that the simulator
# of power losses sees it.
#
#   tests/power_loss/mutants.sh           all of them, about five minutes on two cores
#   tests/power_loss/mutants.sh WORD      those whose test or description contains WORD
set -euo pipefail
cd "$(dirname "$0")/../.."
. .ci/mutants.bash
prepare power-loss-mutants
export CARGO_PROFILE_TEST_DEBUG=0
unset DISK_CHAN_SEED DISK_CHAN_POWER_IMAGES DISK_CHAN_POWER_K

# Builds the unit tests of the copy; says where they are.
build() {
    (cd "$work/repo" && cargo test --no-run --lib) >"$work/build.log" 2>&1 ||
        { cat "$work/build.log" >&2; stop "does not compile: $1"; }
    tests=$(sed -n 's/^ *Executable .*(\(.*\))$/\1/p' "$work/build.log")
    case $tests in /*) ;; *) tests=$work/repo/$tests ;; esac
    [ -x "$tests" ] || stop "cargo does not say where the tests are"
}

# Far more images than most need: a mutant that is not found in this time has survived.
run() {
    DISK_CHAN_POWER_IMAGES=150000 timeout 120 "$tests" --nocapture --exact "power_loss::$1"
}

# What fails anyway would catch everything.
build "the code as it is"
DISK_CHAN_POWER_IMAGES=3000 timeout 120 "$tests" --exact power_loss::random >"$work/run.log" 2>&1 ||
    { cat "$work/run.log" >&2; stop "the simulator finds something in the code as it is"; }

mutant random 'a checksum is not verified' \
    page.rs '    xxh3_64(&bytes)
}' '    bytes[0] as u64 & 0
}'

mutant random 'the offset is not in the checksum' \
    page.rs 'let words = [uuid[0], uuid[1], head[0], head[1], head[2], payload_hash];' \
    'let words = [uuid[0], uuid[1], head[0], 0, head[2], payload_hash];'

mutant random 'a slot of another lap is enough' \
    recovery.rs '&& layout.slot_tag(number) == Slot::tag(word);' ';'

mutant random 'page numbers go on behind the newest page that was found' \
    recovery.rs 'let mut era = layout.first_at(self.known.page_limit, layout.place(behind));' \
    'let mut era = layout.first_at(behind, layout.place(behind));'

mutant random 'acks of an earlier lap count' \
    layout.rs 'if later { u32::MAX } else { Self::of(word, tag) }' 'if later { u32::MAX } else { word as u32 }'

mutant random 'acks of a page that was turned are forgotten' \
    layout.rs 'if later { u32::MAX } else { Self::of(word, tag) }' 'Self::of(word, tag)'

mutant random 'a slot without a record is enough' \
    recovery.rs '_ if is_good(index) => word.load(Relaxed),' \
    '_ if is_good(index) || unread(index) => word.load(Relaxed),'

mutant random 'a durable send is synced before it is committed' \
    sender.rs '        let offset = self.blocking_send(message)?;
        if self.root.syncs_always() { Ok(offset) } else { self.wait_durable(offset) }' \
    '        self.wait_durable(Offset::default())?;
        self.blocking_send(message)'

mutant who_comes_during_a_sync_waits_for_the_next 'who comes during a sync does not wait for the next' \
    durability.rs '        self.begun + 1
' '        self.begun + u64::from(self.stage != Stage::Running)
'

mutant a_clean_close_comes_after_the_data 'the clean mark is written before the data is on disk' \
    file.rs '        self.sync()?;
        header.clean = true;
        header.write(mem, |range| self.sync_range(range))' \
    '        header.clean = true;
        header.write(mem, |range| self.sync_range(range))?;
        self.sync()'

mutant a_clean_close_comes_after_the_data 'the clean mark is still there when the first store is made' \
    file.rs '            // Before anything else is stored.
            mark(header, here);
            write(header)?;' '            mark(header, here);'

mutant random 'tables of pages that are not kept are left as they are' \
    recovery.rs 'layout.tables().for_each(|at| put(page.word(at), 0));' ''

mutant random 'what was not there stays open' \
    recovery.rs 'SlotState::Untouched | SlotState::Skipped => Slot::word(tag, SlotState::Skipped),' \
    'SlotState::Untouched | SlotState::Skipped => word.load(Relaxed),'

mutant random 'recovery is not synced before the header says so' \
    file.rs 'sync(&self.file, &self.map).map_err(failed(path, "sync it"))?;
            (header.era' '(header.era'

mutant random 'a page that was turned is kept' \
    recovery.rs 'found.take_if(|found| mem.layout.comes_after(known.era, found.page) <= newest);' ''

mutant random 'both copies of the header are on their way at once' \
    header.rs 'let synced = sync(copy * BLOCK * 8..(copy + 1) * BLOCK * 8);' \
    'let synced = if copy == last { sync(0..2 * BLOCK * 8) } else { Ok(()) };'

mutant random 'the copy of the header that counts is written first' \
    header.rs '[1 - last, last].into_iter()' '[last, 1 - last].into_iter()'

mutant random 'a group is given what lies before its start' \
    group.rs 'Greater => self.mem.layout.slots,' 'Greater => 0,'

mutant random 'the tags of a new era may lie behind those of the last' \
    recovery.rs 'if !Layout::is_later_lap(lap, than) {' 'if lap == than {'

mutant random 'acks are cleared before their page is used again' \
    ring.rs 'true => Acks::word(groups << 8 | tag & 0xff, 0),' 'true => 0,'

mutant random 'a new group is not on disk when it is there' \
    channel.rs 'Group::create(&ring, name, start, |range| file.sync_range(range))' \
    'Group::create(&ring, name, start, |_| Ok::<(), std::io::Error>(()))'

mutant a_sync_that_fails 'what the kernel took for written is not written again' \
    file.rs 'recovery::write_again(self.map.memory());' ''

mutant a_sync_that_fails 'recovery clears what only memory says has gone' \
    file.rs 'recovery::write_again(self.map.memory());
                sync(&self.file, &self.map).map_err(failed(path, "sync it"))?;' 'recovery::write_again(self.map.memory());'

mutant a_sync_that_fails 'a sync that failed is tried again' \
    file.rs '    synced.inspect_err(|error| {' '    if true { return synced; }
    synced.inspect_err(|error| {'

conclude
