//! disk_log: many tasks log through one writer; pages are read while it goes on.

use crate::common::{Dir, body, number, open_new, send, small, small_channel, within, within_tokio};
use disk_chan::{Full, Options, SendTimeoutError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// Its example: many tasks log, then a page is iterated while logging goes on.
#[test]
fn many_tasks_log_and_a_page_is_iterated_meanwhile() {
    within_tokio(120, || async {
        let dir = Dir::new();
        let log = Options::new().page_size(1 << 20).max_pages(16).open(dir.file()).await.unwrap();
        let enough = Arc::new(AtomicBool::new(false));
        let tasks: Vec<_> = (0..50u64)
            .map(|task| {
                let (tx, enough) = (log.sender(), Arc::clone(&enough));
                tokio::spawn(async move {
                    let mut n = 0;
                    while n < 200 || !enough.load(SeqCst) && n < 1000 {
                        tx.send(body(task << 32 | n, 60)).await.unwrap();
                        n += 1;
                        tokio::task::yield_now().await;
                    }
                    n
                })
            })
            .collect();
        let page = loop {
            let first = log.pages().swap_remove(0);
            if first.sealed {
                break first;
            }
            tokio::task::yield_now().await;
        };
        let read: BTreeSet<u64> = log.page(page.number).map(|record| number(&record.unwrap())).collect();
        assert!(read.len() as u64 == page.len && page.len > 1000);
        enough.store(true, SeqCst);
        let mut logged = 0;
        for task in tasks {
            logged += task.await.unwrap();
        }
        assert_eq!(log.len(), logged);
        let all: BTreeSet<u64> = log.reader().try_iter().map(|record| number(&record.unwrap())).collect();
        assert!(all.len() as u64 == logged && read.is_subset(&all));
    });
}

/// `Ok` means that it is there, for whoever opens the file next, also after a kill: not that it was queued.
#[test]
fn what_was_logged_is_there_at_the_next_open_and_logging_goes_on_behind_it() {
    let (dir, log) = small_channel();
    send(&log.sender(), 0..60, 1000);
    let pages = log.pages().len();
    drop(log);
    let log = Options::new().blocking_open(dir.file()).unwrap();
    send(&log.sender(), 60..70, 1000);
    let all: Vec<u64> = log.reader().try_iter().map(|record| number(&record.unwrap())).collect();
    assert_eq!((all, pages), ((0..70).collect(), 2));
}

/// A part of a page, by indexes.
#[test]
fn a_range_of_a_page() {
    let (_dir, log) = small_channel();
    send(&log.sender(), 0..20, 100);
    let page = log.pages()[0].number;
    let some: Vec<u64> = log.page(page).range(5..10).map(|record| number(&record.unwrap())).collect();
    assert_eq!(some, [5, 6, 7, 8, 9]);
}

/// Full is an error with its reason, and what was not logged is the caller's still.
#[test]
fn a_log_that_is_full_says_so() {
    within(60, || {
        let (_dir, log) = open_new(small());
        let _reader = log.blocking_subscribe("slow").unwrap();
        let sent = crate::common::fill(&log, 0, 1000);
        let error = log.sender().send_timeout(body(sent, 1000), Duration::from_millis(5)).unwrap_err();
        let SendTimeoutError::Timeout(Full::Group { name, behind }) = error else { panic!("{error}") };
        assert!(name.as_str() == "slow" && behind >= sent, "{name} {behind}");
    });
}
