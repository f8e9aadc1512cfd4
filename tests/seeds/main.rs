//! Coming from other crates: for each row of the README's tables "if you used X, write Y", what X was used for.
//! Each file first does what the example in X's own README does.

#[path = "../common/mod.rs"]
mod common;

mod disk_chan_0_3;
mod disk_log;
mod logstore;
mod selium_log;
