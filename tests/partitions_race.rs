//! Several make the directory of the same partitions at once, each held up until all are about to give it its manifest.

mod common;
#[path = "common/syncs.rs"]
mod syncs;

use std::thread;

use common::{Dir, small, within};
use disk_chan::{Create, OpenError, Partitioned};
use syncs::Syncs;

/// How many partitions one asked for, and what came of it.
type Made = (usize, Result<Partitioned, OpenError>);

/// Creates the directory with each of these numbers of partitions at once.
fn race(create: Create, numbers: [usize; 4]) -> (Dir, Vec<Made>) {
    let (dir, syncs) = (Dir::in_memory(), Syncs::mine());
    let path = &dir.join("p");
    let before = syncs.count();
    syncs.hold();
    let made = thread::scope(|scope| {
        let make = |n| scope.spawn(move || (n, Partitioned::blocking_new(path, n, small().create(create))));
        let threads = numbers.map(make);
        // All have seen that there is none, and have written their own.
        syncs.wait_for(before + 4);
        syncs.let_go();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    (dir, made)
}

#[test]
fn one_wins_and_the_others_see_its_number() {
    within(120, || {
        for _ in 0..10 {
            let (dir, made) = race(Create::OpenOrCreate, [2, 3, 2, 3]);
            let winner = made.iter().find_map(|(n, made)| made.as_ref().ok().map(|_| *n)).unwrap();
            for (n, made) in &made {
                match made {
                    Ok(all) => assert_eq!((*n, all.partitions()), (winner, winner)),
                    Err(OpenError::Mismatch { option: "partitions", found, expected, .. }) => {
                        assert_eq!((*found as usize, *expected as usize), (winner, *n));
                        assert_ne!(*n, winner);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            let mut names: Vec<_> = std::fs::read_dir(dir.join("p")).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            let expected: Vec<_> = (0..winner).map(|p| format!("{p}.chan")).chain(["partitions".into()]).collect();
            assert_eq!(names, expected.iter().map(|name| &**name).collect::<Vec<&str>>(), "something was left over");
        }
    });
}

#[test]
fn only_one_is_the_creator() {
    within(60, || {
        let (_dir, made) = race(Create::CreateNew, [2; 4]);
        let refused = made
            .iter()
            .filter(|(_, made)| matches!(made, Err(OpenError::AlreadyExists { path }) if path.ends_with("partitions")));
        assert_eq!((made.iter().filter(|(_, made)| made.is_ok()).count(), refused.count()), (1, 3));
    });
}
