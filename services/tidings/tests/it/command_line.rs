//! The command line: settings, and the commands that are clients of the HTTP API.

use serde_json::Value;

use crate::harness::{Server, run, stderr, stdout};

#[tokio::test]
async fn all_faults_of_the_settings_are_told_together_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tidings.toml"), "grace_s = 'soon'\nhttp_adress = '127.0.0.1:1'\n")
        .unwrap();
    let settings = [
        ("TIDINGS_PROFILE", "selfhosted"),
        ("TIDINGS_AUTH", "required"),
        ("TIDINGS_SECRET", "hunter2"),
        ("TIDINGS_DATA_DRI", "x"),
        ("SMTP_URL", "carrier-pigeon:hunter2"),
        ("AMQP_URL", "carrier-pigeon://user:hunter2@host"),
    ];
    let output = run(folder.path(), &settings, &["up", "api"]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let told = stderr(&output);
    for part in [
        "grace_s (tidings.toml): invalid type",
        "http_adress (tidings.toml): there is no such setting; the nearest is http_addr",
        "DATABASE_URL: the profile selfhosted needs it",
        "AMQP_URL: it does not begin with amqp:// or amqps://",
        "TIDINGS_AUTH: keys are required and there is none",
        "TIDINGS_ADMIN_KEY",
        "TIDINGS_AUTH=off",
        "TIDINGS_SECRET: this is 32 bytes",
        "TIDINGS_DATA_DRI: there is no such variable; the nearest is TIDINGS_DATA_DIR",
        "SMTP_URL: ",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert!(!told.contains("hunter2"), "{told}");
    assert!(!folder.path().join("tidings-data").exists());
}

#[tokio::test]
async fn one_service_alone_is_refused_on_embedded() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &[], &["up", "mailer"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("mailer cannot run alone"), "{output:?}");
}

#[tokio::test]
async fn config_shows_what_is_in_force_and_where_from_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("mine.toml"), "log = 'warn'\n[mailer]\nattempts = 3\n").unwrap();
    let settings = [("TIDINGS_ADMIN_KEY", "hunter2hunter2hunter2"), ("TIDINGS_MAILER_ATTEMPTS", "4")];
    let output = run(folder.path(), &settings, &["config", "--json", "--config", "mine.toml"]).await;
    assert!(output.status.success(), "{output:?}");
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["log"], serde_json::json!({ "value": "warn", "from": "mine.toml" }));
    assert_eq!(
        shown["mailer.attempts"],
        serde_json::json!({ "value": 4, "from": "TIDINGS_MAILER_ATTEMPTS" })
    );
    assert_eq!(shown["admin_key"]["from"], "TIDINGS_ADMIN_KEY");
    assert!(!stdout(&output).contains("hunter2"));
    let people = run(folder.path(), &settings, &["config"]).await;
    assert!(stdout(&people).contains("grace_s = 25") && !stdout(&people).contains("hunter2"), "{people:?}");
}

#[tokio::test]
async fn usage_is_2_and_no_server_is_3() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path(), &[], &["publihs"]).await.status.code(), Some(2));
    // A port that was free a moment ago and that nobody listens on.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{nobody}");
    let output = run(folder.path(), &[("TIDINGS_URL", &url)], &["publish", "text"]).await;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(stderr(&output).contains(&url), "{output:?}");
    assert_eq!(
        run(folder.path(), &[], &["health", "--admin", &nobody.to_string()]).await.status.code(),
        Some(3)
    );
    let version = run(folder.path(), &[], &["version"]).await;
    assert_eq!(stdout(&version), format!("tidings {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn the_clients_do_what_curl_does() {
    let key = "0123456789abcdef0123456789abcdef";
    let server = Server::start_with(&[("TIDINGS_AUTH", "required"), ("TIDINGS_ADMIN_KEY", key)]).await;
    assert!(
        server.banner.contains("Bearer $TIDINGS_KEY") && !server.banner.contains(key),
        "{}",
        server.banner
    );
    let folder = tempfile::tempdir().unwrap();
    let settings = [("TIDINGS_URL", server.url.as_str()), ("TIDINGS_KEY", key)];
    let tidings = async |arguments: &[&str]| run(folder.path(), &settings, arguments).await;

    let refused = run(folder.path(), &settings[..1], &["messages", "list"]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(stderr(&refused).contains("Authorization"), "{refused:?}");

    let added = tidings(&["subscriptions", "add", "--confirmed", "reader@example.com"]).await;
    assert!(added.status.success(), "{added:?}");
    let listed = tidings(&["subscriptions", "list", "--json"]).await;
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["data"][0]["state"], "confirmed", "{listed:#}");
    let subscription = listed["data"][0]["id"].as_str().unwrap();

    let published = tidings(&[
        "publish",
        "--subject",
        "Hello",
        "--attribute",
        "n=1",
        "--wait",
        "--json",
        "from the shell",
    ])
    .await;
    assert!(published.status.success(), "{published:?}");
    let status: Value = serde_json::from_slice(&published.stdout).unwrap();
    assert_eq!(status["state"], "done", "{status:#}");
    assert_eq!(status["deliveries"]["sent"], 1, "{status:#}");
    assert_eq!(status["message"]["attributes"]["n"], 1, "{status:#}");
    let id = status["id"].as_str().unwrap();

    let people = tidings(&["messages", "list"]).await;
    assert!(stdout(&people).contains(id) && stdout(&people).contains("from the shell"), "{people:?}");
    let shown = tidings(&["messages", "show", id]).await;
    assert!(stdout(&shown).contains("first_mail_at"), "{shown:?}");
    let missing = tidings(&["messages", "show", "00000000-0000-7000-8000-000000000000"]).await;
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");

    let letters = tidings(&["dead-letters", "list"]).await;
    assert_eq!(stdout(&letters), "no dead letters\n");
    assert_eq!(tidings(&["dead-letters", "redrive"]).await.status.code(), Some(2));
    let redriven = tidings(&["dead-letters", "redrive", "--queue", "items"]).await;
    assert!(redriven.status.success(), "{redriven:?}");

    assert!(tidings(&["subscriptions", "remove", subscription]).await.status.success());
    assert_eq!(stdout(&tidings(&["subscriptions", "list"]).await), "no subscriptions\n");
    let unknown = tidings(&["publish", "--topic", "orders", "text"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("orders"), "{unknown:?}");
}
