//! The command, through the real binary. Each part of it has a module.

#[path = "../common/mod.rs"]
mod common;
mod dump;
mod repair;
mod resize;
mod run;
mod usage;
mod verify;
mod whole;
