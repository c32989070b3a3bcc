//! Bad input, sent to the real program over real sockets: what each gets, and that nothing of it is left behind.

mod bytes;
mod callers;
mod messages;
mod recipients;

use reqwest::{Method, RequestBuilder, header};

use crate::harness::{Answer, Server};

const PATH: &str = "/v1/topics/messages/messages";

/// A POST to a path with a content type.
fn post(server: &Server, path: &str, content_type: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
    server.request(Method::POST, path).header(header::CONTENT_TYPE, content_type).body(body)
}

/// The id of a message that has to be accepted.
async fn accepted(server: &Server, request: RequestBuilder) -> String {
    server.ok(request).await["id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn assert_problem(answer: &Answer, status: u16, name: &str) {
    assert_eq!((answer.status.as_u16(), answer.problem()), (status, name), "{:#}", answer.body);
}

/// Ends the server, and shows that it was well until then and that of all that was sent these messages are there and
/// nothing else: no row, no queued message, no dead letter.
async fn assert_nothing_else(mut server: Server, mut messages: Vec<String>) {
    messages.push(server.publish("the last of all").await);
    for id in &messages {
        server.finished(id).await;
    }
    let mut listed: Vec<_> = server.all("/v1/messages").await;
    listed.sort_by_key(|message| message["id"].to_string());
    messages.sort();
    let listed: Vec<_> = listed.iter().map(|message| message["id"].as_str().unwrap()).collect();
    assert_eq!(listed, messages);
    assert_eq!(server.all("/v1/dead-letters").await, Vec::<serde_json::Value>::new());
    let ended = server.stop().await;
    assert!(ended.success() && !server.log().contains("panic"), "{ended}\n{}", server.log());
    for table in
        ["queue_items", "queue_mail", "queue_items_dead", "queue_mail_dead", "changes", "dead_letters"]
    {
        assert_eq!(server.sqlite3(&format!("select count(*) from {table}")).await, "0", "{table}");
    }
    let count = messages.len().to_string();
    assert_eq!(server.sqlite3("select count(*) from items").await, count);
}
