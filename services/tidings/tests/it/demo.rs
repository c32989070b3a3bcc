//! `tidings demo` does the whole tour and leaves nothing behind.

use std::path::Path;

use crate::harness::{run, stdout};

#[tokio::test]
async fn the_demo_loses_nothing_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &[], &["demo", "--messages", "90", "--rate", "150"]).await;
    let shown = stdout(&output);
    assert!(output.status.success(), "{output:?}");
    for part in [
        "answered 202 after",
        "stored: a row",
        "captured",
        "mailed",
        "killed after 31 POSTs",
        "killed after 61",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let last = shown.lines().last().unwrap();
    assert!(
        last.starts_with("accepted 90, stored 90, mailed 90, dead letters 0, lost 0, sent twice "),
        "{shown}"
    );
    let word = |start: &str| {
        let word = shown.split_whitespace().find(|word| word.starts_with(start));
        word.unwrap_or_else(|| panic!("{start} in {shown}")).to_owned()
    };
    let url = word("http://127.0.0.1:");
    assert!(reqwest::get(&url).await.is_err(), "its server still runs");
    let files = shown.lines().next().unwrap().rsplit(' ').next().unwrap().trim_end_matches('.');
    assert!(files.starts_with('/') && !Path::new(files).exists(), "{files} is still there");
}

#[tokio::test]
async fn a_demo_that_is_interrupted_takes_its_server_with_it() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};

    let folder = tempfile::tempdir().unwrap();
    let mut demo = crate::harness::program(folder.path())
        .args(["demo"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(demo.stdout.take().unwrap()).read_line(&mut first).await.unwrap();
    let url = first.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned();
    let interrupt = format!("kill -INT {}", demo.id().unwrap());
    assert!(tokio::process::Command::new("sh").args(["-c", &interrupt]).status().await.unwrap().success());
    assert_eq!(demo.wait().await.unwrap().code(), Some(1));
    assert!(reqwest::get(&url).await.is_err(), "its server still runs at {url}");
}
