//! What happens to a channel: a random history with losses of power, and what is tried at each.

use super::disk::{Dirty, Mode, SECTOR};
use super::look::Look;
use super::model::Moment;
use super::rng::Rng;
use super::world::{Broken, Op, Pool, World};
use crate::header::Header;
use crate::layout::{self, Layout};
use crate::{Durability, Options, Overflow, Start};
use std::fmt::Write;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What was tried.
#[derive(Debug, Default)]
pub struct Tried {
    pub histories: AtomicU64,
    pub images: AtomicU64,
    /// Of them: crashes inside recovery, crashes after a recovery, deaths of the process instead.
    pub inside: AtomicU64,
    pub second: AtomicU64,
    pub deaths: AtomicU64,
    pub exercised: AtomicU64,
    pub messages: AtomicU64,
}

impl Tried {
    pub fn print(&self, what: &str, seconds: f64) {
        let n = |count: &AtomicU64| count.load(Relaxed);
        let images = n(&self.images);
        println!(
            "{what}: {images} images of {} histories in {seconds:.1} s ({:.0} a second); power lost inside recovery: {}, \
             soon after one: {}, process deaths: {}; channels used on: {}; messages compared: {}",
            n(&self.histories),
            images as f64 / seconds,
            n(&self.inside),
            n(&self.second),
            n(&self.deaths),
            n(&self.exercised),
            n(&self.messages),
        );
    }
}

/// One loss of power, as a failure tells it.
struct Loss {
    at: u64,
    opened: u64,
    mode: Option<Mode>,
    seed: u64,
    dirty: Vec<Dirty>,
}

/// One history.
pub struct History<'a> {
    pub rng: Rng,
    pub tried: &'a Tried,
    /// The losses of power that led to where it is.
    losses: Vec<Loss>,
    layout: Layout,
    options: Options,
}

/// How a loss of power is chosen.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    /// By a mode.
    Mode(Mode),
    /// New where the bit is set.
    Bits(u64),
    /// All is there: only the process died.
    Death,
}

const OPS: [(Op, u64); 18] = [
    (Op::Send, 30),
    (Op::SendMany, 6),
    (Op::SendDurable, 8),
    (Op::Fly, 8),
    (Op::Land, 8),
    (Op::Sync, 4),
    (Op::Subscribe, 5),
    (Op::Remove, 2),
    (Op::Move, 3),
    (Op::Receive, 16),
    (Op::ReceiveMany, 6),
    (Op::Lease, 10),
    (Op::Ack, 10),
    (Op::GiveBack, 3),
    (Op::Burst, 4),
    (Op::CatchUp, 8),
    (Op::Reopen, 2),
    (Op::Second, 1),
];

/// A small ring, now and then just before its tags come round.
pub fn options(rng: &mut Rng) -> Options {
    let lens = [50, 300, 1000, 2000];
    let pages = rng.between(2, 4);
    let laps = [0, 0, 0, 1 << 8, 1 << 16, 1 << 22, 1 << 23, 1 << 24, 1 << 32];
    let laps: u64 = laps[rng.index(laps.len())];
    Options::new()
        .page_size(64 << 10)
        .max_pages(pages as usize)
        .max_groups(rng.between(2, 4) as usize)
        .max_opens(2)
        .max_op_cells(rng.between(2, 4) as usize)
        // With many, several messages go out together.
        .max_held(if rng.percent(50) { rng.between(2, 8) } else { rng.between(64, 100) } as usize)
        .typical_message_len(lens[rng.index(lens.len())])
        .overflow(if rng.percent(50) { Overflow::Block } else { Overflow::DropOldest })
        .durability(if rng.percent(15) { Durability::Always } else { Durability::Buffered })
        .first_page((laps * pages).saturating_sub(rng.below(3 * pages)))
}

impl<'a> History<'a> {
    pub fn new(seed: u64, tried: &'a Tried, pool: &Rc<Pool>, options: Options) -> (Self, World) {
        let layout = Layout::new(options.geometry()).unwrap();
        super::hook::begin_again();
        let world = World::create(pool, options.clone());
        let rng = Rng(seed);
        (Self { rng, tried, losses: Vec::new(), layout, options }, world)
    }

    /// What led to where it is, for who has to find out what went wrong.
    pub fn story(&self) -> String {
        let mut story = format!("{:?}", self.options.geometry());
        for loss in &self.losses {
            let _ = write!(
                story,
                "\npower lost at {} (open since {}), {:?}, seed {:#x}; stores on the disk, of those that may be:",
                loss.at, loss.opened, loss.mode, loss.seed
            );
            for d in &loss.dirty {
                let _ = write!(story, "\n  {} +{}/{}", self.name_of(d.sector), d.has - d.low, d.high - d.low);
            }
        }
        story
    }

    fn name_of(&self, sector: usize) -> String {
        let l = &self.layout;
        let word = sector * SECTOR / 8;
        let pages = l.control_words + l.wake_halves() / 2;
        let place = match word {
            w if w < 2 * layout::BLOCK => format!("header {}", w / layout::BLOCK),
            w if w < l.opens => "channel lines".into(),
            w if w < l.op_cells => "opens".into(),
            w if w < l.group_lines => "op cells".into(),
            w if w < l.group_entries => "group lines".into(),
            w if w < l.claim_cells => format!("entry of group {}", (w - l.group_entries) / (2 * layout::ENTRY)),
            w if w < pages => "claim cells".into(),
            w => {
                let (place, at) = ((w - pages) / l.page_words, (w - pages) % l.page_words);
                let part = match at {
                    a if a < l.group_cursor_at(0) => "header and group 0".into(),
                    a if a < l.slot_at(0) => "groups".into(),
                    a if a < l.data_at(0) => "slots".to_owned(),
                    a => format!("records from word {}", a - l.data_at(0)),
                };
                format!("place {place}: {part}")
            }
        };
        format!("sector {sector} ({place})")
    }

    /// The power goes at a position of a world: what the shipped code makes of an image, compared with what
    /// was promised.
    pub fn lose(&mut self, world: &World, at: u64, choice: Choice) -> Result<(World, Look), Broken> {
        let seed = self.rng.next();
        let mut rng = Rng(seed);
        let (image, mode) = match choice {
            Choice::Mode(mode) => (world.disk.compose(at, mode, &mut rng), Some(mode)),
            Choice::Bits(bits) => (world.disk.compose_bits(at, bits, &mut rng), None),
            Choice::Death => (world.disk.compose(at, Mode::New, &mut rng), None),
        };
        self.losses.push(Loss { at, opened: world.opened, mode, seed, dirty: image.dirty.clone() });
        self.tried.images.fetch_add(1, Relaxed);
        let mut moment = world.moment(at, &image);
        let revived = match choice {
            Choice::Death => {
                moment.synced = at;
                self.tried.deaths.fetch_add(1, Relaxed);
                world.revive_with(&image, coherent)
            }
            _ => world.revive(&image),
        };
        let outcome = match revived {
            Ok(next) => self.compare(world, moment, next),
            Err(e) => Err(format!("it does not open: {e}")),
        };
        if outcome.is_ok() {
            self.losses.pop();
        }
        outcome
    }

    fn compare(&self, world: &World, moment: Moment, mut next: World) -> Result<(World, Look), Broken> {
        let look = next.look()?;
        self.tried.messages.fetch_add(look.messages.len() as u64, Relaxed);
        if next.channel().recovered().is_some() && !(look.torn.is_empty() && look.open.is_empty()) {
            return Err(format!(
                "left unsettled by recovery: {:?}; damaged, and not said so: {:?}",
                look.open, look.torn
            ));
        }
        world.model.check(moment, &look).map_err(|broken| {
            let found = next.channel().recovered();
            format!("{broken}\n  before: {}\n  now: {}, {found:?}\n  {moment:?}", world.pages(), next.pages())
        })?;
        next.model = world.model.after(moment, &look, next.unrecovered());
        Ok((next, look))
    }

    /// What follows a loss of power, some of the time: it goes again while the channel is recovered, right
    /// after, or when it was used a little; or the channel is used for some laps.
    pub fn go_on(&mut self, mut world: World, look: &Look) -> Result<(), Broken> {
        // What leads here is part of the story of what follows.
        let deeper = self.losses.len();
        let then = self.rng.below(100);
        match then {
            0..20 => self.again(&world, look, 1)?,
            20..45 => {
                let before = world.opened;
                self.again(&world, look, before)?;
                self.tried.inside.fetch_add(1, Relaxed);
            }
            45..55 => {
                for _ in 0..self.rng.between(1, 12) {
                    let op = self.an_op();
                    world.act(op, &mut self.rng)?;
                }
                let at = self.rng.between(world.opened, world.disk.position());
                let mode = self.a_mode();
                self.lose(&world, at, Choice::Mode(mode))?;
                self.tried.second.fetch_add(1, Relaxed);
            }
            55..62 => {
                let mut count = world.drain()?;
                for _ in 0..self.rng.between(1, 5) {
                    world.act(Op::Send, &mut self.rng)?;
                }
                count += world.drain()?;
                self.tried.messages.fetch_add(count, Relaxed);
            }
            62..65 => {
                let laps = self.rng.between(1, 3);
                let count = world.exercise(laps, &mut self.rng)?;
                world.nothing_is_hidden()?;
                self.tried.messages.fetch_add(count, Relaxed);
                self.tried.exercised.fetch_add(1, Relaxed);
            }
            _ => {}
        }
        self.losses.truncate(deeper);
        Ok(())
    }

    /// The power goes again, up to so many positions before the channel was open. If that was a recovery, what
    /// is there then is what is there now.
    fn again(&mut self, world: &World, look: &Look, before: u64) -> Result<(), Broken> {
        let at = self.a_moment(world, world.opened.saturating_sub(before).max(1), world.opened);
        let mode = self.a_mode();
        let (next, other) = self.lose(world, at, Choice::Mode(mode))?;
        if mode == Mode::Zeros {
            return Ok(());
        }
        if world.channel().recovered().is_some() {
            same(look, &other).map_err(|e| format!("recovered again, {e}"))?;
        }
        if next.channel().recovered().is_some() && self.rng.percent(20) {
            let at = next.opened;
            let (_, third) = self.lose(&next, at, Choice::Mode(Mode::New))?;
            same(&other, &third).map_err(|e| format!("recovered a third time, {e}"))?;
        }
        Ok(())
    }

    fn a_mode(&mut self) -> Mode {
        match self.rng.below(100) {
            0..5 => Mode::Old,
            5..12 => Mode::New,
            12..25 => Mode::Cut,
            25..65 => Mode::Random,
            65..80 => Mode::Runs,
            80..95 => Mode::Torn,
            _ => Mode::Zeros,
        }
    }

    fn an_op(&mut self) -> Op {
        let all: u64 = OPS.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.below(all);
        for (op, weight) in OPS {
            match at.checked_sub(weight) {
                None => return op,
                Some(rest) => at = rest,
            }
        }
        Op::Send
    }

    /// A position, often one where a sync ends: what it has covered is as old as it can be.
    fn a_moment(&mut self, world: &World, from: u64, to: u64) -> u64 {
        let mut ends = world.disk.ends_of_syncs(from);
        ends.retain(|&end| end <= to);
        if ends.is_empty() || self.rng.percent(70) {
            return self.rng.between(from, to);
        }
        ends[self.rng.index(ends.len())]
    }

    /// The power goes at some position from `from` on.
    fn lose_at_random(&mut self, world: &World, from: u64) -> Result<(World, Look), Broken> {
        let at = self.a_moment(world, from, world.disk.position());
        let choice = if self.rng.percent(5) { Choice::Death } else { Choice::Mode(self.a_mode()) };
        self.lose(world, at, choice)
    }

    /// A random history, until it has tried `images` or `stop` says so.
    pub fn run(&mut self, mut world: World, images: u64, stop: impl Fn() -> bool) -> Result<(), Broken> {
        let enough = |h: &Self| h.tried.images.load(Relaxed) >= images || stop();
        for _ in 0..self.rng.between(1, 5) {
            let mut from = world.opened;
            for _ in 0..self.rng.between(2, 12) {
                for _ in 0..self.rng.between(1, 30) {
                    let op = self.an_op();
                    world.act(op, &mut self.rng)?;
                }
                world.nothing_is_hidden()?;
                for _ in 0..self.rng.between(1, 16) {
                    if enough(self) {
                        return Ok(());
                    }
                    let (next, look) = self.lose_at_random(&world, from)?;
                    self.go_on(next, &look)?;
                }
                // Old moments are forgotten, and not all at once.
                from = self.rng.between(from, world.disk.position());
                world.disk.trim(from);
            }
            (world, _) = self.lose_at_random(&world, from)?;
        }
        let count = world.exercise(3, &mut self.rng)?;
        world.nothing_is_hidden()?;
        self.tried.messages.fetch_add(count, Relaxed);
        self.tried.exercised.fetch_add(1, Relaxed);
        self.tried.histories.fetch_add(1, Relaxed);
        Ok(())
    }
}

/// What is tried of it in the tests with a plan.
impl History<'_> {
    /// A random beginning, which is synced; then so few operations that at most `most` sectors are dirty, and
    /// every image that there can be. Of one of them the same in the midst of its recovery.
    pub fn run_exhaustively(&mut self, mut world: World, most: usize) -> Result<(), Broken> {
        for _ in 0..self.rng.between(10, 80) {
            let op = self.an_op();
            world.act(op, &mut self.rng)?;
        }
        world.land()?;
        world.sync()?;
        world.disk.trim(world.disk.position());
        let from = world.disk.position();
        let quiet = |op| !matches!(op, Op::Sync | Op::SendDurable | Op::Fly | Op::Land | Op::Reopen | Op::Second);
        while world.disk.dirty(world.disk.position()).len() <= most && world.disk.position() < from + 5000 {
            let op = self.an_op();
            if quiet(op) {
                world.act(op, &mut self.rng)?;
            }
        }
        let to = world.disk.position();
        let Some(at) = (from..=to).rev().find(|&at| world.disk.dirty(at).len() <= most) else { return Ok(()) };
        self.tried.histories.fetch_add(1, Relaxed);
        let k = world.disk.dirty(at).len();
        let one = self.rng.below(1 << k);
        let mut recovered = None;
        for bits in 0..1 << k {
            let next = self.lose(&world, at, Choice::Bits(bits))?;
            if bits == one {
                recovered = Some(next);
            }
        }
        let (next, look) = recovered.expect("it was one of them");
        let few = |&at: &u64| (1..=most).contains(&next.disk.dirty(at).len());
        let moments: Vec<u64> = (1..next.opened).filter(few).collect();
        if moments.is_empty() {
            return Ok(());
        }
        let at = moments[self.rng.index(moments.len())];
        for bits in 0..1 << next.disk.dirty(at).len() {
            self.tried.inside.fetch_add(1, Relaxed);
            let (_, other) = self.lose(&next, at, Choice::Bits(bits))?;
            same(&look, &other).map_err(|e| format!("recovered again, {e}"))?;
        }
        Ok(())
    }

    pub fn close_and_open(&mut self, mut world: World) -> Result<(), Broken> {
        for _ in 0..60 {
            let op = self.an_op();
            world.act(op, &mut self.rng)?;
        }
        world.land()?;
        let (from, before) = (world.disk.position(), world.look()?);
        world.reopen()?;
        self.tried.histories.fetch_add(1, Relaxed);
        for at in from..=world.disk.position() {
            for mode in [Mode::Old, Mode::Random] {
                let image = world.disk.compose(at, mode, &mut Rng(self.rng.clone().next()));
                let clean = header_of(&image.bytes).is_some_and(|h| h.clean);
                let (_, look) = self.lose(&world, at, Choice::Mode(mode))?;
                // The open before had said that it was not, and no store came before that.
                if clean {
                    same(&before, &look).map_err(|e| format!("left clean, and {e}"))?;
                }
            }
        }
        Ok(())
    }

    pub fn two_senders_and_a_sync(&mut self, mut world: World) -> Result<(), Broken> {
        world.subscribe("a", Start::Oldest)?;
        let first = world.fly(100, 0)?.ok_or("no room")?;
        if world.disk.waiting() == 0 {
            return Err("a durable send does not wait for its sync".into());
        }
        let second = world.fly(2000, 1)?.ok_or("no room")?;
        let ready = world.land_one()?;
        if ready != [first] {
            return Err(format!("after one sync the sends {ready:?} of {first} and {second} are done"));
        }
        let at = world.disk.position();
        let (_, look) = self.lose(&world, at, Choice::Mode(Mode::Old))?;
        let there = |id| look.messages.iter().any(|m| m.id == id);
        if !there(first) || there(second) {
            return Err("with the first sync alone, not the first message alone is there".into());
        }
        world.land()?;
        let at = world.disk.position();
        for mode in [Mode::Old, Mode::Random, Mode::Torn] {
            self.lose(&world, at, Choice::Mode(mode))?;
        }
        Ok(())
    }

    pub fn fail_a_sync(&mut self, mut world: World) -> Result<(), Broken> {
        for _ in 0..self.rng.between(5, 60) {
            let op = self.an_op();
            world.act(op, &mut self.rng)?;
        }
        world.land()?;
        let errors = [libc::EIO, libc::ENOSPC, libc::EDQUOT];
        let error = errors[self.rng.index(errors.len())];
        // Often of a group that goes, and is done with something that is there.
        let removes = self.rng.percent(40);
        if removes {
            world.drain()?;
            world.sync()?;
        }
        let syncs = self.rng.below(if removes { 2 } else { 4 });
        world.disk.fail_after(syncs as u32, error, Rng(self.rng.next()));
        let before = world.disk.failed();
        for _ in 0..200 {
            let op = match removes {
                true if world.groups().is_empty() => Op::Subscribe,
                true if self.rng.percent(30) => Op::Move,
                true => Op::Remove,
                false => self.an_op(),
            };
            // What was not promised may fail.
            let done = world.act(op, &mut self.rng);
            if world.disk.failed() > before {
                break;
            }
            done?;
        }
        // In a history in which none failed, some may be under way.
        world.land()?;
        self.tried.histories.fetch_add(1, Relaxed);
        let from = world.disk.position();
        self.lose_some(&world, 10, world.opened)?;
        // Then it is recovered, if need be twice: another sync fails on the way.
        if self.rng.percent(30) {
            world.disk.fail_after(self.rng.below(6) as u32, error, Rng(self.rng.next()));
        }
        if world.reopen().is_err() {
            world.reopen()?;
        }
        world.disk.fail_no_more();
        self.lose_some(&world, 10, from)?;
        world.rebase()?;
        for _ in 0..self.rng.between(1, 30) {
            let op = self.an_op();
            world.act(op, &mut self.rng)?;
        }
        world.land()?;
        self.lose_some(&world, 20, world.opened)
    }

    fn lose_some(&mut self, world: &World, images: usize, from: u64) -> Result<(), Broken> {
        for _ in 0..images {
            self.lose_at_random(world, from)?;
        }
        Ok(())
    }
}

fn header_of(bytes: &[u8]) -> Option<Header> {
    let words: Vec<u64> =
        bytes[..2 * layout::BLOCK * 8].as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    let (copies, _) = words.as_chunks::<{ layout::BLOCK }>();
    Header::parse(Path::new("image"), [&copies[0], &copies[1]]).ok()
}

/// Whether two looks see the same.
fn same(first: &Look, second: &Look) -> Result<(), Broken> {
    if first.messages != second.messages {
        let at = first.messages.iter().zip(&second.messages).take_while(|(a, b)| a == b).count();
        let (was, is) = (first.messages.get(at), second.messages.get(at));
        return Err(format!("message {at} was {was:?} and is {is:?}"));
    }
    for (name, was) in &first.groups {
        match second.groups.get(name) {
            Some(is) if is == was => {}
            Some(is) if is.start != was.start => {
                return Err(format!("group {name} began at {} and begins at {}", was.start, is.start));
            }
            Some(is) => {
                let differs = |i: &usize| is.done[*i] != was.done[*i] || is.lost[*i] != was.lost[*i];
                let at = (0..was.done.len()).find(differs);
                let message = at.map(|i| (first.messages[i], (was.done[i], is.done[i]), (was.lost[i], is.lost[i])));
                return Err(format!("group {name}: done or lost has changed: {message:?}"));
            }
            None => return Err(format!("group {name} has gone")),
        }
    }
    match second.groups.keys().find(|name| !first.groups.contains_key(*name)) {
        Some(name) => Err(format!("group {name} has come")),
        None => Ok(()),
    }
}

/// Has the header say that the file was in use here, in this boot.
fn coherent(bytes: &mut [u8], (device, inode): (u64, u64)) {
    let words: Vec<u64> =
        bytes[..2 * layout::BLOCK * 8].as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
    let (copies, _) = words.as_chunks::<{ layout::BLOCK }>();
    let Ok(mut header) = Header::parse(Path::new("image"), [&copies[0], &copies[1]]) else { return };
    (header.device, header.inode) = (device, inode);
    for copy in 0..2 {
        for (i, word) in header.words().iter().enumerate() {
            bytes[(copy * layout::BLOCK + i) * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
    }
}
