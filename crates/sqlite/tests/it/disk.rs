//! A disk that is full, and a file that is damaged while it is open.

use std::{
    io::{Seek, SeekFrom, Write},
    path::Path,
    process::Command,
};

use tidings_domain::{
    ErrorKind,
    ports::{BusTopic, DependencyState, Settlement},
    topic::TopicName,
};
use tidings_sqlite::DATABASE_FILE;

use crate::values::{consumer, envelope, open, publish, receive, until};

/// A small file system of its own; none where this user may not mount one. The same is tested everywhere, by a bound on the
/// file's pages, in the crate itself.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_and_heals_when_there_is_room() {
    let Some(disk) = SmallDisk::mount(4 * 1024 * 1024) else { return };
    let store = open(disk.path()).await;
    let bus = store.bus();
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 1024 * 1024]).unwrap();
    let topic = BusTopic::Messages(TopicName::messages());
    let mut accepted = 0_usize;
    let error = loop {
        let body = format!("{accepted}:{}", "x".repeat(20_000));
        match bus.publish(&topic, vec![envelope(body)]).await.remove(0) {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 1000, "4 MiB are never full");
    };
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
    assert!(error.to_string().contains("the disk is full: make room"), "{error}");
    assert!(accepted > 10);
    let dependency = store.dependency();
    let state = dependency.state();
    assert!(matches!(&state, DependencyState::Down(why) if why.contains("full")), "{state:?}");
    // Reads go on, and do not say that all is well.
    store.items().ping().await.unwrap();
    assert!(matches!(dependency.state(), DependencyState::Down(_)));
    std::fs::remove_file(&ballast).unwrap();
    until(&*dependency, |state| *state == DependencyState::Up).await;
    publish(&*bus, &["after"]).await.remove(0).unwrap();
    let consumer = consumer(&store).await;
    let received = receive(&*consumer, accepted + 1).await;
    for (number, received) in received.iter().enumerate().take(accepted) {
        assert!(received.envelope.body.starts_with(format!("{number}:").as_bytes()));
    }
    let leases = received.iter().map(|received| (received.lease, Settlement::Done)).collect();
    assert!(consumer.settle(leases).await.iter().all(Result::is_ok));
    drop(consumer);
    store.close().await;
}

#[tokio::test]
async fn a_file_that_is_damaged_while_it_is_open_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for number in 0..200 {
        let item = crate::values::item(number + 1, &"y".repeat(2000));
        store.items().insert(&[item]).await.unwrap();
    }
    store.close().await;
    let mut file = std::fs::OpenOptions::new().write(true).open(folder.path().join(DATABASE_FILE)).unwrap();
    let length = file.metadata().unwrap().len();
    // All pages but those with the schema: a fault of the disk after the start.
    let store = open(folder.path()).await;
    let begin = 64 * 4096;
    file.seek(SeekFrom::Start(begin)).unwrap();
    file.write_all(&vec![0xff; usize::try_from(length - begin).unwrap()]).unwrap();
    file.sync_all().unwrap();
    let mut told = None;
    for number in 0..200 {
        if let Err(error) = store.items().get(&[crate::values::id(number + 1)]).await {
            told = Some(error);
            break;
        }
    }
    let error = told.expect("a read meets the damage");
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.to_string().contains("damaged") && error.to_string().contains("restore"), "{error}");
    let state = store.dependency().state();
    assert!(matches!(&state, DependencyState::Down(why) if why.contains("damaged")), "{state:?}");
    // What can still be read does not say that it is over.
    store.catalog().topics().await.unwrap();
    assert_eq!(store.dependency().state(), state);
}
