//! Reading what a group is not done with, without taking it.

use disk_chan::{Channel, Offset, Record, Start, TryReadError};

use crate::Outcome;
use crate::face::NotFound;

/// Places asked for at once.
const MANY: usize = 4096;

/// Calls `each` with the messages that a group is not done with, in their order, up to `limit` of them. What goes
/// away meanwhile, or does not verify, is passed over.
pub fn for_each(
    channel: &Channel,
    group: &str,
    limit: u64,
    mut each: impl FnMut(Record) -> Outcome<()>,
) -> Outcome<()> {
    let (mut reader, mut from, mut left) = (channel.reader(), Offset::default(), limit);
    loop {
        let places = channel.unfinished(group, from, MANY).ok_or_else(|| no_group(channel, group))?;
        let Some(last) = places.last() else { return Ok(()) };
        from = Offset::from_u64(last.as_u64() + 1);
        for place in places {
            if left == 0 {
                return Ok(());
            }
            if reader.offset() != place {
                reader.seek(Start::At(place));
            }
            match reader.try_read() {
                Ok(record) if record.offset() == place => {
                    left -= 1;
                    each(record)?;
                }
                Ok(_) | Err(TryReadError::Empty | TryReadError::Disconnected | TryReadError::Overwritten(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// There is no such group; these there are.
pub fn no_group(channel: &Channel, group: &str) -> NotFound {
    let mut names: Vec<_> = channel.group_positions().into_iter().map(|(name, _)| name.to_string()).collect();
    names.sort();
    NotFound(match names.is_empty() {
        true => format!("there is no group {group}, and no other"),
        false => format!("there is no group {group}; there are: {}", names.join(", ")),
    })
}
