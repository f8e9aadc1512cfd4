//! The command, through the real binary. Each part of it has a module.

#[path = "../common/mod.rs"]
mod common;
mod info;
mod looking;
mod run;
mod tail;
mod terminal;
mod top;
mod usage;
