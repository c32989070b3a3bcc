//! Disks that are full, read-only or damaged, under the real program.

use std::{
    io::{Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::harness::{Answer, Server};

const PATH: &str = "/v1/topics/messages/messages";
const READER: &str = "reader@example.com";

/// Bytes of each message that fills a disk.
const LARGE: usize = 50_000;

/// Bytes that a full disk gets back.
const ROOM: usize = 32 * 1024 * 1024;

/// Short waits while something is away, and for leases that could not be given back.
const PATIENT: [(&str, &str); 5] = [
    ("TIDINGS_MAILER_LEASE_MS", "5000"),
    ("TIDINGS_SUBSCRIBER_PROBE_MOST_MS", "500"),
    ("TIDINGS_CDC_WATCHER_RETRY_MOST_MS", "500"),
    ("TIDINGS_MAILER_OUTAGE_MOST_MS", "1000"),
    ("TIDINGS_MAILER_RETRY_FIRST_S", "1"),
];

/// A small file system in the server's data folder; none where this user may not mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, bytes: usize) -> Option<Self> {
        std::fs::create_dir_all(folder).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(folder.to_owned()))
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let mut ballast = std::fs::File::options().create(true).append(true).open(self.ballast()).unwrap();
        while ballast.write_all(&[0; 4096]).is_ok() {}
    }

    /// Takes only the room that can be given back.
    fn hold_room(&self) {
        std::fs::write(self.ballast(), vec![0; ROOM]).unwrap();
    }

    fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

async fn post(server: &Server, text: String) -> Answer {
    let request = server.request(Method::POST, PATH).header(header::CONTENT_TYPE, "text/plain");
    server.answer(request.body(text)).await
}

/// Posts until a post is refused, which is given.
async fn fill_by_posts(server: &Server, accepted: &mut Vec<String>) -> Answer {
    loop {
        let answer = post(server, format!("number {} {}", accepted.len(), "x".repeat(LARGE))).await;
        if answer.status != StatusCode::ACCEPTED {
            return answer;
        }
        accepted.push(answer.body["id"].as_str().unwrap().to_owned());
        assert!(accepted.len() < 1_000, "it is never full");
    }
}

/// Shows that it is not ready, and says why.
async fn assert_down(server: &Server, reason: &str) {
    let report = server.readiness().await;
    assert_eq!(report["ready"], false, "{report:#}");
    let sqlite = &report["dependencies"]["sqlite"];
    assert_eq!(sqlite["state"], "waiting", "{report:#}");
    assert!(sqlite["reason"].as_str().unwrap().contains(reason), "{report:#}");
}

/// Shows that everything accepted went all the way, and that no attempt was used by the disk: the only others are those of
/// which nobody can tell whether their mail was kept.
async fn assert_all_mailed(server: &Server, accepted: &[String]) {
    for (number, id) in accepted.iter().enumerate() {
        let status = server.finished(id).await;
        assert_eq!(
            (&status["state"], &status["deliveries"]["sent"]),
            (&json!("done"), &json!(1)),
            "{status:#}"
        );
        let text = status["message"]["message"].as_str().unwrap();
        assert!(text.starts_with(&format!("number {number} ")), "{number}: {text:.40}");
        let deliveries = server.get(&format!("/v1/messages/{id}/deliveries")).await;
        let delivery = &deliveries["data"][0];
        let count = |name: &str| delivery[name].as_u64().unwrap();
        assert_eq!(count("attempts"), 1 + count("unknowns"), "{delivery:#}");
    }
    assert_eq!(server.all("/v1/dead-letters").await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_full_disk_is_told_loses_nothing_and_is_over_when_there_is_room() {
    let mut server = Server::prepare(&PATIENT);
    let Some(disk) = SmallDisk::mount(&server.data_dir(), ROOM + 8 * 1024 * 1024) else { return };
    disk.hold_room();
    server.restart().await;
    server.subscribe(READER).await;
    let mut accepted = Vec::new();
    fill_by_posts(&server, &mut accepted).await;
    disk.fill();
    let refusal = fill_by_posts(&server, &mut accepted).await;
    assert!(accepted.len() > 10, "only {}", accepted.len());
    assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE, "{:#}", refusal.body);
    assert_eq!(refusal.problem(), "not-accepted");
    assert!(refusal.headers.contains_key(header::RETRY_AFTER) && refusal.body["id"].is_string());
    assert_down(&server, "the disk is full: make room").await;
    let public = server.answer(server.request(Method::GET, "/readyz")).await;
    assert_eq!((public.status.as_u16(), public.problem()), (503, "not-ready"), "{:#}", public.body);
    assert!(public.body["detail"].as_str().unwrap().contains("sqlite"), "{:#}", public.body);
    // What is there can still be read.
    let stored = server.all("/v1/messages").await.len();
    assert!(stored <= accepted.len());

    disk.make_room();
    server.until_ready().await;
    accepted.push(server.publish(&format!("number {} after", accepted.len())).await);
    assert_all_mailed(&server, &accepted).await;
    assert_eq!(server.all("/v1/messages").await.len(), accepted.len(), "nothing that was refused is there");

    // Killed while it is full: what was accepted is there when there is room.
    disk.fill();
    fill_by_posts(&server, &mut accepted).await;
    server.kill().await;
    disk.make_room();
    server.restart().await;
    assert_all_mailed(&server, &accepted).await;
    assert!(server.stop().await.success() && !server.log().contains("panic"), "{}", server.log());

    // Started while it is full.
    disk.fill();
    let said = server.refused().await;
    assert!(said.contains("tidings.db") && said.contains("the disk is full: make room"), "{said}");
    disk.make_room();
    server.restart().await;
    assert_eq!(server.all("/v1/messages").await.len(), accepted.len());
}

#[tokio::test]
async fn files_that_may_not_grow_are_told_lose_nothing_and_go_on_when_they_may() {
    let mut server = Server::prepare(&PATIENT);
    server.limit_files(1024 * 1024);
    server.restart().await;
    server.subscribe(READER).await;
    let mut accepted = Vec::new();
    let refusal = fill_by_posts(&server, &mut accepted).await;
    assert!(!accepted.is_empty(), "none");
    assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE, "{:#}", refusal.body);
    assert!(matches!(refusal.problem(), "not-accepted" | "outcome-unknown"), "{:#}", refusal.body);
    assert_down(&server, "a limit of file sizes is reached").await;
    server.lift_file_limit().await;
    server.until_ready().await;
    accepted.push(server.publish(&format!("number {} after", accepted.len())).await);
    assert_all_mailed(&server, &accepted).await;
    assert!(server.stop().await.success() && !server.log().contains("panic"), "{}", server.log());
}

#[tokio::test]
async fn a_read_only_folder_is_refused_with_the_mend() {
    let mut server = Server::prepare(&[]);
    let folder = server.data_dir();
    let Some(disk) = SmallDisk::mount(&folder, 8 * 1024 * 1024) else { return };
    server.restart().await;
    let id = server.publish("kept").await;
    server.finished(&id).await;
    assert!(server.stop().await.success());
    let remount = |how: &str| {
        let how = format!("remount,{how}");
        assert!(Command::new("mount").args(["-o", &how]).arg(&disk.0).status().unwrap().success());
    };
    remount("ro");
    let said = server.refused().await;
    assert!(said.contains(folder.to_str().unwrap()) && said.contains("TIDINGS_DATA_DIR"), "{said}");
    remount("rw");
    server.restart().await;
    assert_eq!(server.finished(&id).await["state"], "done");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_with_the_mend() {
    let server = Server::prepare(&[]);
    std::fs::create_dir_all(server.data_dir()).unwrap();
    let garbage = "this is no database, ".repeat(500);
    std::fs::write(server.database(), &garbage).unwrap();
    let said = server.refused().await;
    assert!(said.contains("tidings.db") && said.contains("damaged") && said.contains("restore"), "{said}");
    assert!(!said.contains("panic"), "{said}");
    assert_eq!(std::fs::read_to_string(server.database()).unwrap(), garbage, "it is left as it was");
}

#[tokio::test]
async fn damage_under_a_running_server_is_told_and_a_copy_put_back_mends_it() {
    let mut server = Server::start().await;
    let mut accepted = Vec::new();
    for number in 0..40 {
        let answer = post(&server, format!("number {number} {}", "x".repeat(LARGE))).await;
        accepted.push(answer.body["id"].as_str().unwrap().to_owned());
    }
    for id in &accepted {
        server.finished(id).await;
    }
    assert!(server.stop().await.success());
    let copy = std::fs::read(server.database()).unwrap();
    server.restart().await;
    // All pages but those with the schema.
    let begin = 64 * 4096;
    let mut file = std::fs::File::options().write(true).open(server.database()).unwrap();
    file.seek(SeekFrom::Start(begin)).unwrap();
    file.write_all(&vec![0xff; copy.len() - usize::try_from(begin).unwrap()]).unwrap();
    file.sync_all().unwrap();
    let answer = server.answer(server.request(Method::GET, "/v1/messages?limit=250")).await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (503, "unavailable"), "{:#}", answer.body);
    assert!(!answer.body.to_string().contains("sqlite"), "inner errors are logged, never shown");
    assert!(server.log().contains("damaged: restore tidings.db from a copy"), "{}", server.log());
    // Also after all that can still be read.
    server.ok(server.request(Method::GET, "/v1/subscriptions")).await;
    assert_down(&server, "damaged: restore tidings.db from a copy").await;

    server.kill().await;
    for rest in ["tidings.db-wal", "tidings.db-shm"] {
        let _none = std::fs::remove_file(server.data_dir().join(rest));
    }
    std::fs::write(server.database(), copy).unwrap();
    server.restart().await;
    assert_eq!(server.all("/v1/messages").await.len(), accepted.len());
    assert!(server.stop().await.success() && !server.log().contains("panic"), "{}", server.log());
}
