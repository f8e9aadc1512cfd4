//! Which relay of a group is the active one: the one that holds the group.
//!
//! **Invariants.** As in `holder.rs`: nobody ends a hold whose process is alive but who took it. A relay that is stopped
//! by a debugger or a signal keeps it; one that dies loses it when somebody cleans up after it, which whoever waits for
//! the hold does at every look. What the dead had leased was given back before.

use crate::error::Unusable;
use crate::group::Group;
use crate::holder::{HolderWord, Member};
use crate::shared::Root;
use crate::{Receiver, RecvError};
use std::sync::Arc;
use std::time::Duration;

use super::RelayError;

/// How often who waits for the hold looks.
const LOOK: Duration = Duration::from_millis(100);

/// That the group is held here; dropped, it is not.
pub struct Hold {
    root: Arc<Root>,
    group: (usize, u64),
    _number: Number,
    word: HolderWord,
}

/// A number of one who can hold; it is free when this is dropped.
struct Number(Arc<Root>, usize);

impl Drop for Number {
    fn drop(&mut self) {
        self.0.resign(self.1);
    }
}

impl Hold {
    /// Waits until nobody else holds the receiver's group, and holds it.
    pub async fn take(receiver: &mut Receiver) -> Result<Self, RelayError> {
        let root = Arc::clone(&receiver.root);
        let number = root.join().ok_or(RelayError::TooMany)?;
        let number = Number(Arc::clone(&root), number);
        let member = Member::new(root.file.id.index, number.1);
        loop {
            root.usable().map_err(|why| match why {
                Unusable::Forked => RelayError::Recv(RecvError::Forked),
                Unusable::Poisoned | Unusable::ReadOnly => RelayError::Recv(RecvError::Poisoned),
            })?;
            root.tend_now_and_then();
            let at = &mut receiver.at;
            if !at.group(&root).is_current() && !at.follow(&root) {
                return Err(RelayError::Recv(RecvError::GroupRemoved));
            }
            let group = at.group(&root);
            let seen = group.holder();
            group.end_left(seen);
            if let Some(word) = group.take_hold(seen, &mut at.hand, member) {
                let group = (group.number(), group.state());
                return Ok(Self { root, group, _number: number, word });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether what the receiver leases is of the group, and that is held.
    pub fn is_of(&self, receiver: &Receiver) -> bool {
        let group = receiver.at.group(&self.root);
        (group.number(), group.state()) == self.group && group.is_held(self.word)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.root.is_inherited() {
            // What is still out keeps it.
            Group::of(self.root.memory(), self.group.0, self.group.1).leave_hold(self.word);
        }
    }
}
