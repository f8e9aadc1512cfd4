//! How the receivers of a group share its partitions: what one of them does about what it sees of the holders.
//!
//! Nobody has a list of the receivers: one that holds nothing is not seen. Each looks at all holder words now and
//! then, and decides alone. With *c* of a receiver being how many it holds:
//!
//! - **Take.** It takes a free partition if its c is below a limit: n partitions / receivers that hold some or want
//!   to, itself included, rounded up. The limits of all those add up to n, so one of them takes it.
//! - **Want.** If another receiver's c is larger than its own by 2 or more, it asks for one of that one's
//!   partitions: of the largest, of whom nobody asks for one yet. It asks for one at a time, and no more once the
//!   difference is smaller.
//! - **Let go.** Who is asked for one lets it go, marked with its own c behind that as the limit: it is taken only
//!   by one whose c is smaller. Until it is taken, the one who let it go lets no other go, and takes none. Who has
//!   one partition refuses: it is not asked by any who sees it so.
//! - **Patience.** The limit of a partition that stays free rises by one every half second, so that none is left
//!   over because who wanted it went, or who should take it does not receive. Who asked in vain for so long asks
//!   somebody else, too.
//!
//! **Why it ends.** Count a partition that was let go as its last holder's until somebody takes it. No partition is
//! then free but those whose receiver went or died, and each of those is taken once. Every other move is from a
//! receiver that counts k to one that counts less than k - 1, as the first changes its own count by nothing else in
//! between, and the second by nothing else at once: the sum of the squares of the counts gets smaller by 2 at least.
//! So after the last coming and going there are finitely many moves. While two counts differ by 2, the lower one
//! asks, and there is another. So in the end they differ by 1 at most, and as nobody asks then, nothing moves. A
//! request that is over when it is met (who asked went, or got one elsewhere just then) makes a partition pause for
//! half a second: then its last holder has it back, or one that holds no more, which makes the sum no larger; and
//! there is at most one for each coming, going and move. All this of receivers that look every half second: one that
//! does not keeps what it holds, and is asked in vain.
#![forbid(unsafe_code)]

use crate::holder::{HolderWord, Member};
use std::collections::BTreeMap;

/// Milliseconds that a partition may stay free, or a request unanswered.
pub const PATIENCE: u32 = 500;

/// What a receiver should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take a free partition.
    Take(usize),
    /// Ask for a partition.
    Want(usize),
    /// Let a partition go, if nothing of it is out, with this limit.
    LetGo(usize, usize),
    /// Refuse to.
    Refuse(usize),
    /// Ask no more for a partition, whose word was this before.
    Withdraw(usize, HolderWord),
}

/// What a receiver keeps in mind between two looks.
#[derive(Debug)]
pub struct Share {
    me: Member,
    /// The words of what it holds.
    holds: Vec<Option<HolderWord>>,
    /// The free words that it saw, and since when.
    free: Vec<Option<(HolderWord, u32)>>,
    /// What it let go, marked, that nobody had taken when it last looked.
    offered: Option<(usize, HolderWord)>,
    /// What it asked for last, as the word was then, and when.
    asked: Option<(usize, HolderWord, u32)>,
}

impl Share {
    /// Of a receiver that holds none of so many.
    pub fn new(me: Member, partitions: usize) -> Self {
        Self { me, holds: vec![None; partitions], free: vec![None; partitions], offered: None, asked: None }
    }

    /// Who it is.
    pub fn me(&self) -> Member {
        self.me
    }

    /// What it holds of a partition.
    pub fn hold(&self, partition: usize) -> Option<HolderWord> {
        self.holds[partition]
    }

    /// Which partitions it holds.
    pub fn held(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.holds.len()).filter(|&p| self.holds[p].is_some())
    }

    /// It took a partition.
    pub fn took(&mut self, partition: usize, hold: HolderWord) {
        self.holds[partition] = Some(hold);
    }

    /// The group of a partition was moved: nobody holds that one.
    pub fn lost(&mut self, partition: usize) {
        self.holds[partition] = None;
    }

    /// It let a partition go, with a limit.
    pub fn let_go(&mut self, partition: usize, limit: usize) {
        self.offered = self.holds[partition].take().map(|hold| (partition, hold.free(Some(limit))));
    }

    /// What to do about what the words say now, in milliseconds of a clock that wraps. Once one was let go, the rest
    /// is to be asked for again.
    pub fn steps(&mut self, words: &[HolderWord], now: u32) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut mine = self.held().count();
        let others = self.others(words);
        for (partition, &word) in words.iter().enumerate() {
            let seen = self.free[partition].filter(|&(seen, _)| seen == word);
            self.free[partition] = word.is_free().then(|| seen.unwrap_or((word, now)));
        }
        self.offered = self.offered.filter(|&(partition, word)| words[partition] == word);
        if let Some(partition) = self.held().find(|&p| words[p].is_wanted()) {
            if mine == 1 {
                steps.push(Step::Refuse(partition));
            } else if self.offered.is_none() {
                steps.push(Step::LetGo(partition, mine - 1));
            }
        }
        let fair = words.len().div_ceil(others.len() + 1);
        for (partition, free) in self.free.iter().enumerate() {
            let &Some((word, since)) = free else { continue };
            let waited = (now.wrapping_sub(since) / PATIENCE) as usize;
            let limit = word.limit().unwrap_or(fair).saturating_add(waited);
            if mine < limit && self.offered.is_none_or(|(offered, _)| offered == partition) {
                steps.push(Step::Take(partition));
                mine += 1;
            }
        }
        // With one that it is about to take it may have enough.
        if steps.is_empty() {
            steps.extend(self.want(words, &others, mine, now));
        }
        steps
    }

    /// What the others hold.
    fn others(&self, words: &[HolderWord]) -> BTreeMap<Member, Vec<usize>> {
        let mut others = BTreeMap::<_, Vec<usize>>::new();
        for (partition, word) in words.iter().enumerate() {
            if let Some(member) = word.member().filter(|&member| member != self.me) {
                others.entry(member).or_default().push(partition);
            }
        }
        others
    }

    fn want(
        &mut self,
        words: &[HolderWord],
        others: &BTreeMap<Member, Vec<usize>>,
        mine: usize,
        now: u32,
    ) -> Option<Step> {
        self.asked = self
            .asked
            .filter(|&(partition, word, at)| words[partition] == word.wanted() && now.wrapping_sub(at) < PATIENCE);
        if let Some((partition, word, _)) = self.asked {
            let is_over = word.member().and_then(|member| others.get(&member)).is_none_or(|held| held.len() < mine + 2);
            return is_over.then_some(Step::Withdraw(partition, word));
        }
        let is_asked = |held: &&Vec<usize>| held.iter().any(|&partition| words[partition].is_wanted());
        let rich = others.values().filter(|held| held.len() >= mine + 2 && !is_asked(held));
        let partition = *rich.max_by_key(|held| held.len())?.last()?;
        self.asked = Some((partition, words[partition], now));
        Some(Step::Want(partition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A xorshift: the schedules are random, and the same each time.
    struct Rng(u64);

    impl Rng {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 11) as usize % bound
        }
    }

    /// Receivers over words that are changed as `holder.rs` does it.
    struct World {
        words: Vec<HolderWord>,
        all: Vec<(Share, Vec<Step>, Vec<HolderWord>)>,
        now: u32,
        came: usize,
        moves: usize,
    }

    impl World {
        fn come(&mut self) {
            let share = Share::new(Member::new(self.came / 3, self.came % 3), self.words.len());
            self.all.push((share, vec![], vec![]));
            self.came += 1;
        }

        /// In order, or killed and cleaned up after: what it holds is free.
        fn go(&mut self, who: usize) {
            let (share, ..) = self.all.swap_remove(who);
            for p in share.held() {
                self.words[p] = self.words[p].free(None);
            }
        }

        /// A look; what comes of it is done later, one step at a time.
        fn look(&mut self, who: usize) {
            let (share, steps, seen) = &mut self.all[who];
            seen.clone_from(&self.words);
            *steps = share.steps(seen, self.now);
        }

        fn step(&mut self, who: usize) {
            let (share, steps, seen) = &mut self.all[who];
            if steps.is_empty() {
                return;
            }
            match steps.remove(0) {
                Step::Take(p) if self.words[p] == seen[p] => {
                    self.words[p] = self.words[p].held(share.me(), 0);
                    share.took(p, self.words[p]);
                    self.moves += 1;
                }
                Step::Want(p) if self.words[p] == seen[p] => self.words[p] = self.words[p].wanted(),
                Step::Take(_) | Step::Want(_) => {}
                Step::Refuse(p) => self.words[p] = share.hold(p).unwrap(),
                Step::Withdraw(p, word) if self.words[p] == word.wanted() => self.words[p] = word,
                Step::Withdraw(..) => {}
                Step::LetGo(p, limit) => {
                    self.words[p] = share.hold(p).unwrap().free(Some(limit));
                    share.let_go(p, limit);
                    steps.clear();
                }
            }
        }

        /// Random looks and steps; each looks every few milliseconds.
        fn run(&mut self, rng: &mut Rng, milliseconds: u32) {
            let end = self.now + milliseconds;
            while self.now < end {
                for _ in 0..2 * self.all.len() {
                    let who = rng.below(self.all.len());
                    if self.all[who].1.is_empty() {
                        self.look(who);
                    } else {
                        self.step(who);
                    }
                }
                self.now += 1;
            }
        }

        fn counts(&self) -> Vec<usize> {
            self.all.iter().map(|(share, ..)| share.held().count()).collect()
        }
    }

    #[test]
    fn receivers_that_come_and_go_end_with_the_same_number_and_then_nothing_moves() {
        let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
        for partitions in [1, 2, 3, 7, 10, 16] {
            let words = vec![HolderWord::default(); partitions];
            let mut world = World { words, all: vec![], now: 0, came: 0, moves: 0 };
            for _ in 0..12 {
                for _ in 0..=rng.below(4) {
                    if world.all.len() > 1 && rng.below(2) == 0 {
                        let who = rng.below(world.all.len());
                        world.go(who);
                    } else if world.all.len() < 12 {
                        world.come();
                    }
                    let pause = rng.below(20) as u32;
                    world.run(&mut rng, pause);
                }
                world.run(&mut rng, 12 * PATIENCE);
                let counts = world.counts();
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert_eq!(counts.iter().sum::<usize>(), partitions, "{counts:?}");
                assert!(most - least <= 1, "{counts:?}");
                let moves = world.moves;
                world.run(&mut rng, 4 * PATIENCE);
                assert_eq!(world.moves, moves, "of {partitions}, {counts:?}: it moves for nothing");
            }
        }
    }
}
