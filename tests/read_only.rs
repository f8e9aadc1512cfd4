//! Files that may not be written: a clear error, or a read-only open where one was asked for.

mod common;

use common::{Dir, child_argument, drain_numbers, send, small};
use disk_chan::{Cause, Create, OpenError, Options, RemoveGroupError, SendError, SubscribeError, TrySendError};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

fn look() -> Options {
    Options::new().read_only(true)
}

/// A user who may read and not write; the checks are made as somebody who is not root.
#[test]
fn a_file_that_may_only_be_read() {
    const NOBODY: u32 = 65_534;
    if let Some(path) = child_argument() {
        let path = Path::new(&path);
        let error = Options::new().blocking_open(path).unwrap_err();
        assert!(matches!(error, OpenError::NotWritable { .. }), "{error:?}");
        assert!(error.to_string().contains(&*path.to_string_lossy()) && error.to_string().contains("read_only"));
        let channel = look().blocking_open(path).unwrap();
        assert_eq!(channel.len(), 3);
        return;
    }
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    send(&channel.sender(), 0..3, 64);
    let folder = dir.file().parent().unwrap().to_owned();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(dir.file(), PermissionsExt::from_mode(0o444)).unwrap();
    // The test's own binary may lie where only its owner can reach it.
    let exe = dir.join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    let mut child = Command::new(&exe);
    if rustix::process::geteuid().is_root() {
        use std::os::unix::process::CommandExt;
        child.uid(NOBODY).gid(NOBODY);
    }
    child.current_dir("/").args(["--exact", "a_file_that_may_only_be_read", "--nocapture"]);
    let output = child.env("DISK_CHAN_TEST_CHILD", dir.file()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
fn it_tells_how_the_channel_stands() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..5, 64);
    let held = rx.try_lease().unwrap();
    let looking = look().blocking_open(dir.file()).unwrap();
    assert_eq!(looking.len(), 5);
    assert_eq!(looking.groups(), channel.groups());
    assert_eq!(looking.stats(), channel.stats(), "it has no entry and no handle");
    assert_eq!(looking.max_message_len(), channel.max_message_len());
    assert!(looking.same_channel(&channel));
    held.ack().unwrap();
    send(&channel.sender(), 5..7, 64);
    assert_eq!((looking.len(), looking.groups()[0].lag), (7, 6));
    channel.close();
    assert!(looking.is_closed());
}

/// Everything that would store something is an error, and nothing is stored.
#[test]
fn nothing_is_stored() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    let mut rx = channel.blocking_subscribe("g").unwrap();
    send(&channel.sender(), 0..5, 64);
    channel.close();
    let before = std::fs::read(dir.file()).unwrap();
    {
        let looking = look().blocking_open(dir.file()).unwrap();
        let tx = looking.clone().sender();
        assert_eq!(tx.try_send("x").unwrap_err(), TrySendError::ReadOnly);
        assert_eq!(tx.blocking_send("x").unwrap_err(), SendError::ReadOnly);
        assert!(matches!(looking.blocking_subscribe("g"), Err(SubscribeError::ReadOnly)));
        assert!(matches!(tx.blocking_subscribe("new"), Err(SubscribeError::ReadOnly)));
        assert!(matches!(looking.remove_group("g", true), Err(RemoveGroupError::ReadOnly)));
        assert!(matches!(looking.blocking_dead_letters(), Err(SubscribeError::ReadOnly)));
        looking.close();
        let _ = (looking.len(), looking.is_empty(), looking.stats(), looking.groups(), looking.is_closed());
    }
    assert!(before == std::fs::read(dir.file()).unwrap(), "a read-only open changed the file");
    assert_eq!(drain_numbers(&mut rx), [0, 1, 2, 3, 4]);
}

#[test]
fn it_creates_nothing() {
    let dir = Dir::new();
    for create in [Create::OpenOrCreate, Create::CreateNew, Create::OpenExisting] {
        let error = look().create(create).blocking_open(dir.file()).unwrap_err();
        assert!(matches!(error, OpenError::NotFound { .. }), "{error:?}");
    }
    assert!(dir.entries().is_empty());
    std::fs::write(dir.file(), b"something else").unwrap();
    assert!(matches!(look().blocking_open(dir.file()).unwrap_err(), OpenError::NotAChannel { .. }));
}

/// It looks at a channel that was left in use when the machine went down, and leaves it like that.
#[test]
fn it_opens_what_needs_recovery() {
    let dir = Dir::new();
    let channel = small().blocking_open(dir.file()).unwrap();
    send(&channel.sender(), 0..5, 64);
    // A copy is another inode: as after a restart of the machine, its memory is not known to be whole.
    std::fs::copy(dir.file(), dir.join("copy")).unwrap();
    drop(channel);
    let copied = std::fs::read(dir.join("copy")).unwrap();
    let looking = look().blocking_open(dir.join("copy")).unwrap();
    assert_eq!(looking.len(), 5);
    assert_eq!(looking.recovered().unwrap().cause, Cause::Unclean);
    drop(looking);
    assert!(copied == std::fs::read(dir.join("copy")).unwrap(), "a read-only open changed the file");
    let opened = Options::new().blocking_open(dir.join("copy")).unwrap();
    assert_eq!((opened.len(), opened.recovered().unwrap().kept), (5, 5));
}
