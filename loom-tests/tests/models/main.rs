//! The models need the cfg that `.cargo/config.toml` in this package sets.

#[cfg(disk_chan_loom)]
mod protocols;

#[cfg(not(disk_chan_loom))]
#[test]
fn run_from_the_folder_loom_tests() {
    panic!("without --cfg disk_chan_loom nothing is checked: cd loom-tests && cargo test --release");
}
