//! The command, through the real binary. Each part of it has a module.

#[path = "../common/mod.rs"]
mod common;
mod dead_letters;
mod groups;
mod recv;
mod run;
mod send;
mod usage;
