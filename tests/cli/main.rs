//! The command, through the real binary. Each part of it has a module.

#[path = "../common/mod.rs"]
mod common;
mod metrics;
mod run;
mod usage;
