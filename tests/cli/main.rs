//! The command, through the real binary. Each part of it has a module.

#[path = "../common/mod.rs"]
mod common;
mod dead_letters;
mod dump;
mod groups;
mod info;
mod looking;
mod metrics;
mod recv;
mod relay;
mod repair;
mod resize;
mod run;
mod send;
mod tail;
mod terminal;
mod top;
mod usage;
mod verify;
mod whole;
