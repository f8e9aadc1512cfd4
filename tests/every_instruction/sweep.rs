//! The operations, the instructions at which each is killed and stopped, and the table of what was tried.

use crate::books::{Before, Effect, Eyes, PAGES, Said, Seen, Stage, open};
use crate::common::{Dir, number};
use crate::trace::{Place, Reference, Step, Traced, own_image};
use disk_chan::Overflow::{self, Block, DropOldest};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Set to "all", every instruction is tried.
const ALL: &str = "DISK_CHAN_EVERY_INSTRUCTION";
/// Where the crate's functions were written.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");
/// Points of each kind in the reduced form, at most.
const REDUCED: usize = 70;
/// Instructions of an operation at which many children die, and how many: more than there are op cells, entries of
/// opens, claim cells or numbers of groups.
const SERIES: usize = 6;
const DEATHS: usize = 10;
/// With no point tried for so long, something hangs.
const HUNG: Duration = Duration::from_secs(120);
/// Failures after which the rest is not tried: each can take as long as it waits in vain.
const ENOUGH: usize = 20;
/// Failures that are printed in full.
const PRINTED: usize = 20;

/// What the operation finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    /// Three messages that nobody has read, and room for two more in their page.
    Room,
    /// The same, and each group has given one back.
    Returned,
    /// The same, and "a" has given back all of them together.
    Several,
    /// Nothing unread. If somebody else is there, a receiver of "b" is asleep.
    Asleep,
    /// A full page, and behind it one that was never used.
    FirstLap,
    /// A full page, and behind it the oldest, with which everybody is done.
    Full,
    /// The same under `DropOldest`, and nobody is done with the oldest page: messages of it are unread and given back;
    /// one is held if there is somebody to hold it.
    Lossy,
    /// A full page and a few messages in the next, some of them given back, and all of them too old.
    Expired,
    /// One unread message. Three processes have died: one held it, one was in a send, one was making a group.
    Dead,
}

/// An operation.
pub struct Operation {
    name: &'static str,
    act: &'static str,
    setting: Setting,
    overflow: Overflow,
    /// Whether the reduced form leaves it out: another operation is much the same.
    only_all: bool,
    /// A function that it must come through, for the test to have been where it should.
    through: &'static str,
}

/// All of them.
pub fn operations() -> Vec<Operation> {
    let op =
        |name, act, setting, overflow, through| Operation { name, act, setting, overflow, through, only_all: false };
    let only_all = |op| Operation { only_all: true, ..op };
    vec![
        op("send", "send", Setting::Room, Block, "write"),
        op("send", "send", Setting::Room, DropOldest, "write"),
        op("send, to a receiver asleep", "send", Setting::Asleep, Block, "wake_receivers"),
        op("reserve+commit", "reserve+commit", Setting::Room, Block, "write"),
        op("send_many of 3, over the end of a page", "send_many", Setting::Room, Block, "write"),
        op("recv", "recv", Setting::Room, Block, "ack"),
        op("recv", "recv", Setting::Room, DropOldest, "ack"),
        op("recv, by extending a claim", "recv on", Setting::Room, Block, "extend"),
        op("recv_many of 3", "recv_many", Setting::Room, Block, "extend_over"),
        op("recv_many of 3 that were given back together", "recv_many", Setting::Several, Block, "say_taken_out"),
        op("lease+ack", "lease+ack", Setting::Room, Block, "ack"),
        op("lease+ack", "lease+ack", Setting::Room, DropOldest, "ack"),
        op("lease+give_back", "lease+give_back", Setting::Room, Block, "give_back"),
        op("lease+give_back", "lease+give_back", Setting::Room, DropOldest, "give_back"),
        op("lease+ack of a message given back", "lease+ack", Setting::Returned, Block, "retake"),
        op("lease+ack of a message given back", "lease+ack", Setting::Returned, DropOldest, "retake"),
        op("rotate", "send", Setting::FirstLap, Block, "seal"),
        only_all(op("rotate", "send", Setting::FirstLap, DropOldest, "seal")),
        op("recycle", "send", Setting::Full, Block, "turn"),
        op("recycle with losses", "send", Setting::Lossy, DropOldest, "take_page_away"),
        op("recv, behind what has expired", "recv", Setting::Expired, Block, "expire_pages"),
        op("subscribe", "subscribe", Setting::Room, Block, "create"),
        op("subscribe", "subscribe", Setting::Room, DropOldest, "create"),
        op("join", "join", Setting::Room, Block, "find"),
        op("remove_group", "remove_group", Setting::Returned, Block, "deactivate"),
        op("remove_group", "remove_group", Setting::Returned, DropOldest, "deactivate"),
        op("seek_group", "seek_group", Setting::Room, Block, "go_on_at"),
        op("open", "open", Setting::Room, Block, "open"),
        op("close, by dropping the last handles", "drop", Setting::Room, Block, "close"),
        op("Channel::close", "close", Setting::Room, Block, "close"),
        op("reap, by open", "open", Setting::Dead, Block, "reap"),
        only_all(op("reap, by open", "open", Setting::Dead, DropOldest, "reap")),
        op("reap, by try_recv", "recv twice", Setting::Dead, Block, "reap"),
        op("reap, by try_recv", "recv twice", Setting::Dead, DropOldest, "reap"),
    ]
}

impl Operation {
    fn title(&self) -> String {
        format!("{} ({})", self.name, if self.overflow == Block { "Block" } else { "DropOldest" })
    }

    /// Its name as that of a test.
    pub fn test_name(&self) -> String {
        let words = self.title().to_lowercase();
        let words = words.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("_")
    }

    /// Whether it is tried in this form.
    pub fn is_due(&self) -> bool {
        all() || !self.only_all
    }

    /// What it does when nothing comes between.
    fn at_last(&self, effect: Effect) -> Seen {
        let received = effect.receives.map_or(0, |(_, count)| count);
        let finished = if matches!(self.act, "lease+give_back" | "drop") { 0 } else { received };
        Seen { sent: effect.sends as usize, received, finished, removed: effect.removes, lost: false }
    }
}

/// Whether the second process has the channel open before the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    After,
    Before,
}

/// The file of a channel and what it holds before the operation.
struct Scene<'a> {
    op: &'a Operation,
    path: PathBuf,
    file: File,
    base: Vec<u8>,
    /// What is written over it when the child has opened it: others died meanwhile.
    deaths: HashMap<bool, Vec<u8>>,
    before: Before,
    effect: Effect,
}

impl<'a> Scene<'a> {
    fn new(op: &'a Operation, path: PathBuf) -> Self {
        let _ = std::fs::remove_file(&path);
        let mut stage = Stage::new(
            &path,
            op.overflow,
            op.act == "recv_many" || op.setting == Setting::Several,
            op.setting == Setting::Expired,
        );
        let slots = stage.before.slots;
        let (mut receives, mut drops) = (None, None);
        match op.setting {
            Setting::Room | Setting::Returned | Setting::Several => {
                stage.advance_to(PAGES + 1, slots - 5);
                stage.send(3);
                if op.setting == Setting::Returned {
                    drop((stage.lease(0), stage.lease(1)));
                }
                if op.setting == Setting::Several {
                    stage.forget_all(0);
                }
                if op.act == "recv on" {
                    // With the first the child is done before anything happens to it.
                    stage.before.unfinished[0].pop_first();
                }
                receives = stage.before.unfinished[0].keys().next().copied();
            }
            Setting::Asleep => stage.advance_to(PAGES + 1, slots - 5),
            Setting::FirstLap => {
                stage.advance_to(1, slots - 2);
                stage.send(2);
            }
            Setting::Full => {
                stage.advance_to(PAGES + 1, slots - 2);
                stage.send(2);
            }
            Setting::Lossy => {
                stage.advance_to(PAGES + 1, 0);
                stage.send(slots);
                let back = (stage.lease(0), stage.lease(0));
                stage.finish(0);
                drop(back);
                (0..3).for_each(|_| stage.finish(1));
                stage.send(2 * slots);
                drops = Some((PAGES + 1, PAGES + 1));
            }
            Setting::Expired => {
                stage.advance_to(PAGES + 1, 0);
                stage.send(slots);
                let back = (stage.lease(0), stage.lease(0));
                stage.finish(0);
                drop(back);
                (0..3).for_each(|_| stage.finish(1));
                stage.send(2);
                stage.grow_old();
                drops = Some((PAGES + 1, PAGES + 2));
            }
            Setting::Dead => {
                stage.advance_to(PAGES + 1, slots - 5);
                stage.send(1);
                receives = stage.before.unfinished[0].keys().next().copied();
            }
        }
        let before = stage.before.clone();
        drop(stage);
        let count = match op.act {
            "recv" if op.setting == Setting::Expired => None,
            "recv" | "recv on" | "recv twice" | "lease+ack" | "lease+give_back" | "drop" => Some(1),
            "recv_many" => Some(before.unfinished[0].len() as u64),
            _ => None,
        };
        let receives = receives.zip(count);
        let effect = Effect {
            sends: match op.act {
                "send" | "reserve+commit" => 1,
                "send_many" => 3,
                _ => 0,
            },
            receives,
            subscribes: op.act == "subscribe",
            removes: op.act == "remove_group",
            moves: op.act == "seek_group",
            drops,
            is_out_of_the_way: false,
        };
        let file = File::options().read(true).write(true).open(&path).expect("the channel is a file");
        let base = std::fs::read(&path).expect("the channel can be read");
        let mut scene = Self { op, path, file, base, deaths: HashMap::new(), before, effect };
        if op.setting == Setting::Dead {
            for peer in [Peer::After, Peer::Before] {
                let image = scene.let_three_die(peer);
                scene.deaths.insert(peer == Peer::Before, image);
            }
            let number = *scene.before.unfinished[0].keys().next().expect("there is a message");
            scene.before.unfinished[0].insert(number, 1);
        }
        scene
    }

    fn restore(&self, image: &[u8]) {
        self.file.write_all_at(image, 0).expect("the channel can be written");
    }

    /// The channel after three processes died, beside the child and its peer.
    fn let_three_die(&self, peer: Peer) -> Vec<u8> {
        self.restore(&self.base);
        let child = Traced::start(self.op.act, &self.path).unwrap_or_else(|e| panic!("{e}"));
        let eyes = (peer == Peer::Before).then(|| Eyes::new(&self.path, self.before.slots));
        let holder = open(&self.path);
        let mut rx = holder.blocking_subscribe("a").expect("the group is there");
        let lease = rx.try_lease().expect("there is a message");
        assert_eq!(Some(number(&lease)), self.before.unfinished[0].keys().next().copied());
        let sender = Traced::start("send", &self.path).unwrap_or_else(|e| panic!("{e}"));
        let maker = Traced::start("subscribe", &self.path).unwrap_or_else(|e| panic!("{e}"));
        let mut watch = Watch::new(&self.file);
        let end = holder.stats().end_offset;
        while holder.stats().end_offset == end {
            assert_eq!(sender.step(), Step::Next, "the send ended without a reservation");
        }
        // It has said what it writes, and has not written it.
        for _ in 0..2 {
            watch.steps_to_a_change(&sender);
        }
        for _ in 0..9 {
            watch.steps_to_a_change(&maker);
        }
        assert_eq!(holder.groups().len(), 2, "the group was made");
        sender.kill().wait();
        maker.kill().wait();
        let mut image = vec![0; self.base.len()];
        self.file.read_exact_at(&mut image, 0).expect("the channel can be read");
        child.kill().wait();
        drop((lease, rx, holder, eyes));
        image
    }

    /// The child at its start marker, beside whoever else is there.
    fn start(&self, peer: Peer) -> (Traced, Option<Eyes>) {
        self.restore(&self.base);
        let child = Traced::start(self.op.act, &self.path).unwrap_or_else(|e| panic!("{e}"));
        let mut eyes = (peer == Peer::Before).then(|| Eyes::new(&self.path, self.before.slots));
        if let Some(image) = self.deaths.get(&(peer == Peer::Before)) {
            self.restore(image);
        }
        if let Some(eyes) = eyes.as_mut().filter(|_| self.op.setting == Setting::Lossy) {
            eyes.hold_one();
        }
        if let Some(eyes) = eyes.as_mut().filter(|_| self.op.setting == Setting::Asleep) {
            eyes.fall_asleep();
        }
        (child, eyes)
    }

    fn reference(&self, peer: Peer) -> Reference {
        let (child, eyes) = self.start(peer);
        let mut watch = Watch::new(&self.file);
        let reference = child.reference(|| watch.has_changed());
        child.kill().wait();
        drop(eyes);
        reference
    }

    /// The child after so many instructions. Also whether it took another way there than the reference run.
    fn child_after(&self, peer: Peer, reference: &Reference, steps: usize) -> (Traced, Option<Eyes>, bool) {
        let (child, eyes) = self.start(peer);
        if child.advance(reference, steps) {
            return (child, eyes, false);
        }
        child.kill().wait();
        drop(eyes);
        let (child, eyes) = self.start(peer);
        child.advance_blindly(steps);
        (child, eyes, true)
    }
}

/// Whether the bytes of a file change.
struct Watch {
    map: memmap2::Mmap,
    seen: Vec<u8>,
}

impl Watch {
    fn new(file: &File) -> Self {
        // SAFETY: nobody truncates the file, and those who write it stand still while it is read.
        let map = unsafe { memmap2::Mmap::map(file) }.expect("the channel can be mapped");
        let seen = map.to_vec();
        Self { map, seen }
    }

    fn has_changed(&mut self) -> bool {
        let changed = *self.map != *self.seen;
        if changed {
            self.seen.copy_from_slice(&self.map);
        }
        changed
    }

    fn steps_to_a_change(&mut self, child: &Traced) {
        self.has_changed();
        while !self.has_changed() {
            assert_eq!(child.step(), Step::Next, "an operation ended before its time");
        }
    }
}

/// The functions of the crate, by the instructions in them.
#[derive(Default)]
struct Functions(HashMap<Place, Option<String>>);

impl Functions {
    /// The innermost function of the crate that an instruction is in, also where it was inlined.
    fn at(&mut self, place: Place, image: u64) -> Option<String> {
        let find = || {
            let Place::Here(at) = place else { return None };
            let mut found = None;
            // What is looked up is the instruction before a return address.
            backtrace::resolve((image + at + 1) as *mut _, |symbol| {
                let Some(name) = symbol.name().filter(|_| found.is_none()) else { return };
                let name = format!("{name:#}");
                let file = symbol.filename().and_then(|file| file.strip_prefix(SOURCES).ok());
                if name.trim_start_matches('<').starts_with("disk_chan::") {
                    found = Some(name.replace("disk_chan::", "").replace("core::ops::drop::", ""));
                } else if let Some(file) = file {
                    // Without full debug information a function has only its last name.
                    found = Some(format!("{}::{name}", file.with_extension("").display()));
                }
            });
            found
        };
        self.0.entry(place).or_insert_with(find).clone()
    }

    /// The function for each instruction; what the system's libraries do belongs to their caller.
    fn phases(&mut self, reference: &Reference) -> Vec<Option<String>> {
        let image = own_image().start;
        let mut last = None;
        let own: Vec<_> = reference.instructions.iter().map(|i| self.at(i.place, image)).collect();
        let ends = own.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        let phases = own.into_iter().enumerate().map(|(i, phase)| {
            last = phase.or(last.take());
            last.clone().filter(|_| i < ends)
        });
        phases.collect()
    }
}

#[derive(Clone, Copy, Default)]
struct Row {
    killed: usize,
    stopped: usize,
    failed: usize,
}

impl Row {
    fn add(&mut self, other: Row) {
        self.killed += other.killed;
        self.stopped += other.stopped;
        self.failed += other.failed;
    }
}

#[derive(Default)]
struct Tally {
    rows: BTreeMap<(usize, String), Row>,
    failures: usize,
    other_way: usize,
    slowest_check: Duration,
    slowest_call: Duration,
    held_up: BTreeMap<&'static str, usize>,
    went_round: usize,
}

impl Tally {
    fn fail(&mut self, complaints: &[String]) {
        if complaints.is_empty() {
            return;
        }
        self.failures += 1;
        if self.failures <= PRINTED {
            eprintln!("FAILED {}", DOING.lock().unwrap());
            complaints.iter().for_each(|complaint| eprintln!("    {complaint}"));
        }
    }
}

static PROGRESS: AtomicU64 = AtomicU64::new(0);
static DOING: Mutex<String> = Mutex::new(String::new());

fn doing(what: String) {
    *DOING.lock().unwrap() = what;
    PROGRESS.fetch_add(1, Relaxed);
}

/// Ends this process, and with it every child that is traced, when a point takes too long.
fn watch_for_hangs() {
    std::thread::spawn(|| {
        let mut seen = (PROGRESS.load(Relaxed), Instant::now());
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let now = PROGRESS.load(Relaxed);
            if now != seen.0 {
                seen = (now, Instant::now());
            } else if seen.1.elapsed() > HUNG {
                eprintln!("hangs: {}", DOING.lock().unwrap());
                std::process::abort();
            }
        }
    });
}

/// One CPU for the tracer and what it traces: handing over between two takes several times as long.
fn stay_on_one_cpu() {
    // SAFETY: the set is a plain array of bits, of which one that exists is set; a refusal costs time only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

/// How the child is met at an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Met {
    Killed,
    Stopped,
}

struct Sweep<'a> {
    scene: &'a Scene<'a>,
    number: usize,
    met: Met,
    peer: Peer,
}

impl Sweep<'_> {
    fn run(&self, reference: &Reference, phases: &[Option<String>], all: bool, tally: &mut Tally) {
        let mut previous = (0, Seen::default());
        let mut points = points(reference, phases, all);
        if all && self.met == Met::Killed {
            // At every other instruction the second process has the channel open before. Where something changes, it
            // is tried both ways.
            let both = self::points(reference, phases, false);
            let parity = usize::from(self.peer == Peer::Before);
            points.retain(|point| point % 2 == parity || both.binary_search(point).is_ok());
        } else if !all {
            spread(&mut points, REDUCED);
        }
        let last = points.last().copied();
        for point in points {
            if tally.failures >= ENOUGH {
                return;
            }
            let phase = phases[..=point.min(phases.len() - 1)].iter().rev().find_map(|p| p.as_deref());
            let phase = phase.unwrap_or("?");
            let title = self.scene.op.title();
            doing(format!("{title}, {:?} after {point} instructions, in {phase}, peer {:?}", self.met, self.peer));
            let met = caught(|| self.point(reference, point, tally));
            let (seen, mut complaints) = met.unwrap_or_else(|panic| (previous.1, vec![panic]));
            if self.met == Met::Killed {
                if seen.sent < previous.1.sent
                    || previous.1.removed && !seen.removed
                    || (seen.received < previous.1.received || seen.finished < previous.1.finished) && !seen.lost
                {
                    complaints.push(format!("{seen:?}, but after {} instructions {:?}", previous.0, previous.1));
                }
                if !seen.lost {
                    previous = (point, seen);
                }
                let unfinished = reference.halfway.is_some_and(|halfway| point <= halfway);
                if unfinished && seen.finished > 0 {
                    complaints.push("a message was not finished, and is gone".into());
                }
                let at_last = self.scene.op.at_last(self.scene.effect);
                if Some(point) == last && seen != at_last && !seen.lost {
                    complaints.push(format!("the operation is over: {seen:?}, not {at_last:?}"));
                }
            }
            let failed = usize::from(!complaints.is_empty());
            let (killed, stopped) = if self.met == Met::Killed { (1, 0) } else { (0, 1) };
            tally.rows.entry((self.number, phase.into())).or_default().add(Row { killed, stopped, failed });
            tally.fail(&complaints);
        }
    }

    fn point(&self, reference: &Reference, point: usize, tally: &mut Tally) -> (Seen, Vec<String>) {
        let (path, before, mut effect) = (&self.scene.path, self.scene.before.clone(), self.scene.effect);
        let (child, eyes, other_way) = self.scene.child_after(self.peer, reference, point);
        tally.other_way += usize::from(other_way);
        let back = point % 2 == 1;
        match self.met {
            Met::Killed => {
                let since = Instant::now();
                let mut dead = Some(child.kill());
                // Mostly it is gone when the others look. Whoever looks earlier finds it alive, or half gone.
                effect.is_out_of_the_way = !point.is_multiple_of(8);
                if effect.is_out_of_the_way {
                    dead.take().into_iter().for_each(|dead| dead.wait());
                }
                let eyes = eyes.unwrap_or_else(|| Eyes::new(path, before.slots));
                let is_dead = || dead.into_iter().for_each(|dead| dead.wait());
                let (seen, complaints, took) = eyes.verify(before, effect, None, back, since, is_dead);
                tally.slowest_check = tally.slowest_check.max(took);
                (seen, complaints)
            }
            Met::Stopped => {
                let mut eyes = eyes.expect("somebody else has it open");
                let child = child.stop();
                eyes.go_round_if_possible();
                match eyes.held_up() {
                    Some(by) => *tally.held_up.entry(by).or_default() += 1,
                    None => tally.went_round += 1,
                }
                tally.slowest_call = tally.slowest_call.max(eyes.slowest);
                let said = match child.resume(path, || eyes.drain()) {
                    Ok(said) => Said::parse(&said),
                    Err(error) => return (Seen::default(), vec![error]),
                };
                let since = Instant::now();
                let (seen, complaints, took) = eyes.verify(before, effect, Some(&said), back, since, || {});
                tally.slowest_check = tally.slowest_check.max(took);
                (seen, complaints)
            }
        }
    }
}

/// A panic ends one point alone: what it held is dropped, and its child with it.
fn caught<T>(point: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(point)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
        format!("panicked: {}", text.unwrap_or_default())
    })
}

/// Many children die at one instruction, one after the other, and nothing is put back between them: what each would
/// leave for ever adds up.
fn die_again_and_again(
    scene: &Scene<'_>,
    number: usize,
    reference: &Reference,
    phases: &[Option<String>],
    tally: &mut Tally,
) {
    let mut points = points(reference, phases, false);
    points.pop();
    spread(&mut points, SERIES);
    for point in points {
        doing(format!("{}, {DEATHS} deaths after {point} instructions", scene.op.title()));
        let series = || {
            scene.restore(&scene.base);
            let mut eyes = Eyes::new(&scene.path, scene.before.slots);
            for _ in 0..DEATHS {
                let child = Traced::start(scene.op.act, &scene.path).unwrap_or_else(|e| panic!("{e}"));
                child.advance_to(reference, point);
                child.kill().wait();
                eyes.prepare_for_another();
            }
            eyes.go_round_after_all()
        };
        let complaints = caught(series).unwrap_or_else(|panic| vec![panic]);
        let phase = "(one after the other, at one instruction)".to_owned();
        let failed = usize::from(!complaints.is_empty());
        tally.rows.entry((number, phase)).or_default().add(Row { killed: DEATHS, stopped: 0, failed });
        tally.fail(&complaints);
    }
}

/// The numbers of instructions after which the child is met: all from the first in the crate to behind the last, or
/// those before and after each change of the file and each system call.
fn points(reference: &Reference, phases: &[Option<String>], all: bool) -> Vec<usize> {
    let first = phases.iter().position(Option::is_some).unwrap_or(0);
    let end = phases.iter().rposition(Option::is_some).map_or(0, |i| i + 1).min(phases.len() - 1);
    if all {
        return (first..=end).collect();
    }
    let effects = (first..end).filter(|&i| reference.instructions[i].has_effect);
    let mut points: Vec<_> = effects.flat_map(|i| [i, i + 1]).chain([first, end]).collect();
    points.sort_unstable();
    points.dedup();
    points
}

/// So many of them, the first and the last among them.
fn spread(points: &mut Vec<usize>, count: usize) {
    if points.len() > count {
        let last = points.len() - 1;
        *points = (0..count).map(|i| points[i * last / (count - 1)]).collect();
    }
}

fn all() -> bool {
    std::env::var(ALL).is_ok_and(|value| value == "all")
}

/// Tries the operations.
pub fn run(operations: &[Operation]) -> ExitCode {
    let all = all();
    let start = Instant::now();
    stay_on_one_cpu();
    watch_for_hangs();
    let dir = Dir::in_memory();
    let mut functions = Functions::default();
    let mut tally = Tally::default();
    let mut unseen = Vec::new();
    println!("{:WIDTH$} {:>8} {:>8} {:>8}", "operation, and function of the crate", "killed", "stopped", "failed");
    for (number, op) in operations.iter().enumerate() {
        doing(format!("preparing {}", op.title()));
        if tally.failures >= ENOUGH {
            unseen.push(format!("{ENOUGH} points: the rest was not tried, from {} on", op.title()));
            break;
        }
        let began = Instant::now();
        let scene = Scene::new(op, dir.file());
        let (mut length, mut came_through) = (0, false);
        for peer in [Peer::After, Peer::Before] {
            let reference = scene.reference(peer);
            let phases = functions.phases(&reference);
            length = phases.iter().flatten().count();
            let is_through = |phase: &String| phase.split("::").any(|part| part.starts_with(op.through));
            came_through |= phases.iter().flatten().any(is_through);
            Sweep { scene: &scene, number, met: Met::Killed, peer }.run(&reference, &phases, all, &mut tally);
            if peer == Peer::Before {
                if !matches!(op.setting, Setting::Dead | Setting::Lossy | Setting::Expired) {
                    die_again_and_again(&scene, number, &reference, &phases, &mut tally);
                }
                Sweep { scene: &scene, number, met: Met::Stopped, peer }.run(&reference, &phases, all, &mut tally);
            }
        }
        if !came_through {
            unseen.push(format!("{} never came through `{}`", op.title(), op.through));
        }
        print(op, number, &tally, length, began.elapsed());
    }
    let total = tally.rows.values().fold(Row::default(), |mut total, row| {
        total.add(*row);
        total
    });
    println!(
        "\n{} points: killed {}, stopped {}, failed: {}. {:.0?}.",
        total.killed + total.stopped,
        total.killed,
        total.stopped,
        total.failed,
        start.elapsed()
    );
    println!(
        "Slowest check after a point {:.0?}; slowest call beside a stopped process {:.1?}. Beside a stopped process \
         the others went round {} times, and were held up {:?}. Another way than the reference run: {}.",
        tally.slowest_check, tally.slowest_call, tally.went_round, tally.held_up, tally.other_way
    );
    unseen.iter().for_each(|what| eprintln!("FAILED {what}"));
    if tally.failures > 0 || !unseen.is_empty() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

const WIDTH: usize = 66;

fn print(op: &Operation, number: usize, tally: &Tally, length: usize, took: Duration) {
    let rows: Vec<_> = tally.rows.iter().filter(|((n, _), _)| *n == number).collect();
    let total = rows.iter().fold(Row::default(), |mut total, (_, row)| {
        total.add(**row);
        total
    });
    let title = format!("{}, {length} instructions, {:.1} s", op.title(), took.as_secs_f64());
    println!("{title:WIDTH$} {:8} {:8} {:8}", total.killed, total.stopped, total.failed);
    for ((_, phase), row) in rows {
        println!("  {phase:w$} {:8} {:8} {:8}", row.killed, row.stopped, row.failed, w = WIDTH - 2);
    }
}
