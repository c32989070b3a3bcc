//! Publishing again from the table, beside no server.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Server, run, stderr, stdout};

#[tokio::test]
async fn a_replay_on_a_folder_that_no_server_holds_is_mailed_by_the_next_one() {
    let mut server = Server::start().await;
    server.subscribe("first@example.com").await;
    let id = server.publish("worth reading").await;
    server.finished(&id).await;
    server.subscribe_confirmed(&["late@example.com"]).await;
    let folder = tempfile::tempdir().unwrap();
    let data = server.data_dir();
    let settings = [("TIDINGS_DATA_DIR", data.to_str().unwrap())];
    let tidings = async |arguments: &[&str]| run(folder.path(), &settings, arguments).await;

    let held = tidings(&["replay", "--id", &id]).await;
    assert_eq!(held.status.code(), Some(1), "{held:?}");
    assert!(stderr(&held).contains("another Tidings server"), "{held:?}");
    assert!(server.stop().await.success());
    let told = tidings(&["replay", "--id", &id, "--json"]).await;
    assert!(told.status.success(), "{told:?}");
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((&told["published"], &told["slot"]), (&json!(1), &Value::Null), "{told:#}");
    let recover = tidings(&["recover"]).await;
    assert_eq!(recover.status.code(), Some(1), "{recover:?}");
    assert!(stderr(&recover).contains("nothing to recover"), "{recover:?}");

    server.restart().await;
    server.mail("late@example.com", "worth reading").await;
    assert_eq!(server.mails("first@example.com", "worth reading").await, 1);

    // With --again everyone has it once more.
    assert!(server.stop().await.success());
    let told = tidings(&["replay", "--all", "--again"]).await;
    assert!(stdout(&told).starts_with("published 1 item again, as replay "), "{told:?}");
    server.restart().await;
    // It was done before: what tells of the new round is its mails.
    let everyone = async {
        for email in ["first@example.com", "late@example.com"] {
            while server.mails(email, "worth reading").await < 2 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, everyone).await.unwrap_or_else(|_| panic!("no mails:\n{}", server.log()));
    let status = server.finished(&id).await;
    assert_eq!(status["deliveries"]["total"], 4, "{status:#}");
}

#[tokio::test]
async fn a_replay_of_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = run(folder.path(), &[], &["replay", "--all"]).await;
    assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
    assert!(!folder.path().join("tidings-data").exists(), "nothing is made");
    assert_eq!(run(folder.path(), &[], &["replay"]).await.status.code(), Some(2));
    let contradiction = ["replay", "--all", "--topic", "messages"];
    assert_eq!(run(folder.path(), &[], &contradiction).await.status.code(), Some(2));
    let no_time = run(folder.path(), &[], &["replay", "--since", "yesterday"]).await;
    assert_eq!(no_time.status.code(), Some(2), "{no_time:?}");
}
