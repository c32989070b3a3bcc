//! What no proper client sends, as bytes on a socket.

use std::{fmt::Write as _, time::Duration};

use reqwest::header;
use tokio::time::{Instant, timeout};

use super::{PATH, accepted, assert_nothing_else, assert_problem, post};
use crate::harness::{Server, wire::Wire};

const TOO_LARGE: usize = 255 * 1024 + 1;

/// The head of a POST of text, with these headers.
fn head(headers: &str) -> String {
    format!("POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n{headers}\r\n")
}

/// Posts on a connection on which something was refused before; the message's id.
async fn next(wire: &mut Wire) -> String {
    wire.send(head("content-length: 4\r\n") + "next").await;
    let answer = wire.answer().await;
    assert_eq!(answer.status, 202, "{:#}", answer.body);
    answer.body["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn after_a_body_that_is_too_large_the_connection_is_good_for_more() {
    let server = Server::start().await;
    let mut wire = server.wire().await;
    let body = "x".repeat(TOO_LARGE);
    let mut chunks = String::new();
    for chunk in [&body[..100_000], &body[100_000..]] {
        let _ = write!(chunks, "{:x}\r\n{chunk}\r\n", chunk.len());
    }
    let mut ids = Vec::new();
    for request in [
        head(&format!("content-length: {TOO_LARGE}\r\n")) + &body,
        head("transfer-encoding: chunked\r\n") + &chunks + "0\r\n\r\n",
        head("content-length: 4000000\r\n") + &"y".repeat(4_000_000),
    ] {
        wire.send(&request).await;
        let answer = wire.answer().await;
        assert_problem(&answer, 413, "too-large");
        assert_eq!(answer.body["limit_bytes"], TOO_LARGE - 1);
        assert!(!answer.headers.contains_key(header::CONNECTION), "{:?}", answer.headers);
        ids.push(next(&mut wire).await);
    }
    // The same for what is refused before its body is read.
    let refused =
        "POST /v1/topics/none/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 300000\r\n\r\n";
    wire.send(refused.to_owned() + &"z".repeat(300_000)).await;
    assert_problem(&wire.answer().await, 404, "unknown-topic");
    ids.push(next(&mut wire).await);
    // Who asks first whether to send it need not.
    wire.send(head(&format!("expect: 100-continue\r\ncontent-length: {TOO_LARGE}\r\n"))).await;
    let answer = wire.answer().await;
    assert_problem(&answer, 413, "too-large");
    assert_eq!(answer.headers[header::CONNECTION], "close");
    assert_eq!(wire.rest().await, "");
    assert_nothing_else(server, ids).await;
}

#[tokio::test]
async fn a_head_of_ten_megabytes_gets_431() {
    let server = Server::start().await;
    let long = "a".repeat(10 * 1024 * 1024);
    let many = "x-more: and more\r\n".repeat(10 * 1024 * 1024 / 18);
    let line = format!("POST /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    for (request, statuses) in [
        (head(&format!("x-long: {long}\r\n")), &["431"][..]),
        (head(&many), &["431"]),
        (line, &["414", "431"]),
    ] {
        let mut wire = server.wire().await;
        wire.push(request).await;
        let status = wire.line().await;
        let code = status.split(' ').nth(1).unwrap_or_default();
        assert!(statuses.contains(&code), "{status:?}");
    }
    // Just below the limit there is none.
    let request = post(&server, PATH, "text/plain", "x").header("x-long", &long[..50_000]);
    let id = accepted(&server, request).await;
    assert_nothing_else(server, vec![id]).await;
}

#[tokio::test]
async fn a_body_of_a_byte_a_second_is_cut_and_holds_up_nobody() {
    let server = Server::start_with(&[("TIDINGS_API_BODY_TIMEOUT_MS", "1500")]).await;
    let mut slow = server.wire().await;
    let began = Instant::now();
    slow.send(head("content-length: 1000\r\n")).await;
    let id = server.publish("meanwhile").await;
    let answer = loop {
        slow.send("x").await;
        if let Ok(answer) = timeout(Duration::from_secs(1), slow.answer()).await {
            break answer;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it is never cut");
    };
    assert_problem(&answer, 408, "too-slow");
    assert_eq!(answer.headers[header::CONNECTION], "close");
    assert!(began.elapsed() >= Duration::from_millis(1500), "cut after {:?}", began.elapsed());
    assert_eq!(slow.rest().await, "");
    assert_nothing_else(server, vec![id]).await;
}

#[tokio::test]
async fn bodies_that_end_early_and_bytes_that_are_no_http_leave_nothing() {
    let server = Server::start().await;
    // Cut off in the middle of what would be a whole text.
    for request in [
        head("content-length: 10\r\n") + "half",
        head("transfer-encoding: chunked\r\n") + "4\r\nhalf\r\n",
        head("transfer-encoding: chunked\r\n") + "zz\r\nhalf\r\n0\r\n\r\n",
    ] {
        let mut wire = server.wire().await;
        wire.send(&request).await;
        wire.hang_up().await;
        let answer = wire.rest().await;
        assert!(!answer.contains(" 202 "), "{request:?} got {answer}");
    }
    for garbage in [
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03",
        "GET / HTTP/9.9\r\n\r\n",
        "POST\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: localhost\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: localhost\r\nx: a\0b\r\n\r\n",
        &(head("content-length: 4\r\ncontent-length: 5\r\n") + "four"),
        &(head("content-length: -1\r\n") + "four"),
        &(head("content-length: 99999999999999999999999\r\n") + "four"),
    ] {
        let mut wire = server.wire().await;
        wire.send(garbage).await;
        wire.hang_up().await;
        let answer = wire.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{garbage:?} got {answer}");
    }
    assert_nothing_else(server, vec![]).await;
}
