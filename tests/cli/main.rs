//! The command, through the real binary. Each part of it has a module.

#[path = "../common/mod.rs"]
mod common;
mod dump;
mod info;
mod looking;
mod metrics;
mod repair;
mod resize;
mod run;
mod tail;
mod terminal;
mod top;
mod usage;
mod verify;
mod whole;
