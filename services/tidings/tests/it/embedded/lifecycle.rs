//! Starting, stopping and what a start refuses.

use serde_json::Value;

use crate::harness::{self, Server, stderr};

#[tokio::test]
async fn the_banner_says_where_it_listens_and_that_nobody_gets_mail() {
    let mut server = Server::start().await;
    let (url, banner) = (server.url.clone(), server.banner.clone());
    for part in ["profile embedded", &url, &server.admin_url, "/mailbox", "nobody will get mail", "?wait=10s"]
    {
        assert!(banner.contains(part), "{part} in {banner}");
    }
    server.subscribe("reader@example.com").await;
    assert!(server.stop().await.success());
    server.restart().await;
    assert!(server.banner.contains("recipients by topic: messages 1"), "{}", server.banner);
    assert_eq!(server.url, url);
}

#[tokio::test]
async fn the_banners_lines_work_as_they_stand_with_curl() {
    let server = Server::start().await;
    let lines: Vec<String> =
        server.banner.lines().filter_map(|line| Some(line[line.find("curl")?..].to_owned())).collect();
    let [subscribe, publish, status] = &lines[..] else { panic!("{}", server.banner) };
    let mut answers = Vec::new();
    for line in [subscribe, publish] {
        answers.push(shell(line).await);
    }
    assert!(answers[1]["id"].is_string(), "{answers:?}");
    server.finished(answers[1]["id"].as_str().unwrap()).await;
    let shown = shell(status).await;
    assert_eq!(shown["id"], answers[1]["id"], "{shown:#}");
    assert_eq!(shown["state"], "done", "{shown:#}");
    server.mail("you@example.com", "/confirm/").await;
}

async fn shell(line: &str) -> Value {
    let output = tokio::process::Command::new("sh").args(["-c", line]).output().await.unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{line} gave {output:?}"))
}

#[tokio::test]
async fn requests_that_wait_do_not_hold_up_a_stop() {
    let mut server = Server::start_with(&[("TIDINGS_GRACE_S", "20")]).await;
    let mut waiting = Vec::new();
    for path in [
        "/v1/messages/00000000-0000-7000-8000-000000000000?wait=60s",
        "/v1/messages/00000000-0000-7000-8000-000000000001?wait=60s&after=stored",
        "/mailbox?contains=never&wait=60s",
    ] {
        let mut wire = server.wire().await;
        wire.send(format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")).await;
        waiting.push(wire);
    }
    // They are read by now, or nearly: connections are accepted in order, and this one's request is answered.
    server.get("/v1/topics").await;
    let began = tokio::time::Instant::now();
    server.signal("TERM").await;
    assert!(server.ended().await.success(), "{}", server.log());
    assert!(began.elapsed().as_secs() < 10, "the stop took {:?}", began.elapsed());
    for mut wire in waiting {
        let answer = wire.rest().await;
        assert!(answer.starts_with("HTTP/1.1 "), "cut off without an answer: {answer:?}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut server = Server::start().await;
    let mut slow = server.wire().await;
    slow.send(
        "POST /v1/topics/messages/messages HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: text/plain\r\n\
         content-length: 5\r\nexpect: 100-continue\r\n\r\n",
    )
    .await;
    assert_eq!(slow.line().await, "HTTP/1.1 100 Continue", "its body is asked for, so it is under way");
    server.signal("TERM").await;
    server.signal("INT").await;
    assert_eq!(server.ended().await.code(), Some(1), "{}", server.log());
    assert!(server.log().contains("ended at once"), "{}", server.log());
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_is_refused() {
    let server = Server::start().await;
    let data_dir = server.data_dir();
    let settings = [
        ("TIDINGS_HTTP_ADDR", "127.0.0.1:0"),
        ("TIDINGS_ADMIN_ADDR", "127.0.0.1:0"),
        ("TIDINGS_DATA_DIR", data_dir.to_str().unwrap()),
    ];
    let folder = tempfile::tempdir().unwrap();
    let second = harness::run(folder.path(), &settings, &["up"]).await;
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(stderr(&second).contains("another Tidings server"), "{}", stderr(&second));
    server.publish("the first goes on").await;
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let server = Server::start().await;
    let addr = server.url.trim_start_matches("http://").to_owned();
    let settings = [("TIDINGS_HTTP_ADDR", addr.as_str()), ("TIDINGS_ADMIN_ADDR", "127.0.0.1:0")];
    let folder = tempfile::tempdir().unwrap();
    let second = harness::run(folder.path(), &settings, &["up"]).await;
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains(&addr) && stderr(&second).contains("TIDINGS_HTTP_ADDR"), "{second:?}");
    assert!(!folder.path().join("tidings-data").exists(), "nothing was made before the address was had");
}

#[tokio::test]
async fn readiness_and_metrics_are_on_the_admin_address() {
    let server = Server::start().await;
    server.subscribe("reader@example.com").await;
    let id = server.publish("counted").await;
    server.finished(&id).await;
    let get = |path: &str| server.client.get(format!("{}{path}", server.admin_url)).send();
    let report: Value = get("/readyz").await.unwrap().json().await.unwrap();
    assert_eq!(report["ready"], true, "{report:#}");
    assert_eq!(report["dependencies"]["sqlite"]["state"], "up", "{report:#}");
    let metrics = get("/metrics").await.unwrap().text().await.unwrap();
    assert!(metrics.lines().any(|line| line.starts_with("tidings_")), "{metrics}");
    let health = harness::run(
        &server.data_dir(),
        &[],
        &["health", "--admin", server.admin_url.trim_start_matches("http://")],
    )
    .await;
    assert!(health.status.success() && harness::stdout(&health).starts_with("ready\n"), "{health:?}");
}
