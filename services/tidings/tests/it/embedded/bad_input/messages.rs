//! Messages that cannot be taken as they are, and odd ones that can.

use reqwest::{Method, header};
use serde_json::{Value, json};

use super::{PATH, accepted, assert_nothing_else, assert_problem, post};
use crate::harness::Server;

const MAX: usize = 255 * 1024;

#[tokio::test]
async fn texts_that_cannot_be_carried_are_refused_with_their_place() {
    let server = Server::start().await;
    for path in [PATH, "/publishtopic"] {
        let text = |body: Vec<u8>| server.answer(post(&server, path, "text/plain", body));
        assert_problem(&text(Vec::new()).await, 400, "empty");
        let answer = text(b"caf\xe9".to_vec()).await;
        assert_problem(&answer, 400, "not-utf8");
        assert_eq!(answer.body["offset"], 3);
        // Half a character at the end, an overlong slash, a surrogate.
        for bad in [&b"ab\xe2\x82"[..], b"ab\xc0\xaf", b"ab\xed\xa0\x80"] {
            let answer = text(bad.to_vec()).await;
            assert_problem(&answer, 400, "not-utf8");
            assert_eq!(answer.body["offset"], 2, "{bad:?}");
        }
        let controls = (0..0x20).filter(|code| ![0x9, 0xa, 0xd].contains(code));
        for code in controls.chain([0xfffe, 0xffff]) {
            let bad = char::from_u32(code).unwrap();
            let answer = text(format!("é{bad}x").into_bytes()).await;
            assert_problem(&answer, 400, "control-character");
            assert_eq!(answer.body["offset"], 2, "{code:#x}");
        }
        assert_problem(&text(vec![b'x'; MAX + 1]).await, 413, "too-large");
    }
    let largest = "é".repeat(MAX / 2);
    let id = accepted(&server, post(&server, PATH, "text/plain", largest.clone())).await;
    assert_eq!(server.finished(&id).await["message"]["message"], largest);
    assert_nothing_else(server, vec![id]).await;
}

#[tokio::test]
async fn text_that_looks_bad_and_is_not_arrives_byte_for_byte() {
    let server = Server::start().await;
    server.subscribe("reader@example.com").await;
    let texts = [
        "]]>",
        "<![CDATA[ ]]]]><![CDATA[> &amp; &#0; %00 \\u0000 {{ topic }} ${x}",
        ".\r\n..\r\nQUIT\r\nFrom here\r\n\r\n-- \r\n=3D= \t",
        "'; drop table items; --",
        "\u{feff}\u{85}\u{7f}\u{2028}\u{202e}\u{fffd} 日本語 🎉",
        "Subject: none\r\nBcc: eve@example.com\r\n\r\nbody",
    ];
    let mut ids = Vec::new();
    for text in texts {
        let id = accepted(&server, post(&server, PATH, "text/plain", text)).await;
        let status = server.finished(&id).await;
        assert_eq!(status["message"]["message"], text);
        assert_eq!(status["deliveries"]["sent"], 1, "{status:#}");
        ids.push(id);
        // The newest mail to the reader is the one of this message.
        let mail = server.mail("reader@example.com", "/unsubscribe/").await;
        let shown = mail["text"].as_str().unwrap();
        assert!(shown.starts_with(&format!("{text}\r\n\r\n")), "{text:?} was mailed as {shown:?}");
        let source = server.source(&mail).await;
        let (head, _) = source.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("eve@") && head.contains("\r\nTo: reader@example.com\r\n"), "{head}");
    }
    assert_eq!(server.all("/mailbox?to=eve%40example.com").await, Vec::<Value>::new());
    // Line breaks alone are the mail's own.
    let id = accepted(&server, post(&server, PATH, "text/plain", "a\nb\rc\tx\n")).await;
    assert_eq!(server.finished(&id).await["message"]["message"], "a\nb\rc\tx\n");
    ids.push(id);
    assert_nothing_else(server, ids).await;
}

#[tokio::test]
async fn topics_and_types_that_are_not_taken_are_told_what_is() {
    let server = Server::start().await;
    let send = |path: &'static str, content_type: &'static str| {
        server.answer(post(&server, path, content_type, "x"))
    };
    let answer = send("/v1/topics/orders/messages", "text/plain").await;
    assert_problem(&answer, 404, "unknown-topic");
    assert_eq!(answer.body["mend"], "make it first: PUT /v1/topics/orders");
    for name in ["Orders", "1st", "a_b", "-a", "%c3%a9", "a%2fb", "a%00", "%ff", "..%2f", &"a".repeat(41)] {
        let request = post(&server, &format!("/v1/topics/{name}/messages"), "text/plain", "x");
        let answer = server.answer(request).await;
        assert_eq!(answer.status.as_u16(), 400, "{name}: {:#}", answer.body);
        assert!(["bad-topic-name", "bad-path"].contains(&answer.problem()), "{name}: {:#}", answer.body);
        let answer = server.answer(server.request(Method::PUT, &format!("/v1/topics/{name}"))).await;
        assert_eq!(answer.status.as_u16(), 400, "{name}: {:#}", answer.body);
    }
    for content_type in ["application/xml", "image/png", "text", "multipart/form-data; boundary=x", "*/*"] {
        let answer = send(PATH, content_type).await;
        assert_problem(&answer, 415, "content-type");
        let supported = json!(["text/*; charset=utf-8", "application/json", "application/x-ndjson"]);
        assert_eq!(answer.body["supported"], supported, "{content_type}");
    }
    for (path, content_type) in [
        (PATH, "text/plain; charset=ISO-8859-1"),
        (PATH, "application/json; charset=\"iso-8859-1\""),
        ("/publishtopic", "text/plain;charset=iso-8859-1"),
    ] {
        let answer = server.answer(post(&server, path, content_type, b"caf\xe9".to_vec())).await;
        assert_problem(&answer, 415, "content-type");
        assert_eq!(answer.body["charset"].as_str().unwrap().to_lowercase(), "iso-8859-1", "{content_type}");
    }
    let zipped = post(&server, PATH, "text/plain", "x").header(header::CONTENT_ENCODING, "gzip");
    assert_problem(&server.answer(zipped).await, 415, "content-encoding");
    // And the mend that was told does it.
    server.ok(server.request(Method::PUT, "/v1/topics/orders")).await;
    let id = accepted(&server, post(&server, "/v1/topics/orders/messages", "text/plain", "x")).await;
    assert_nothing_else(server, vec![id]).await;
}

#[tokio::test]
async fn json_that_is_wrong_is_told_where() {
    let server = Server::start().await;
    let send = |body: &str| server.answer(post(&server, PATH, "application/json", body.to_owned()));
    let answer = send("{\n  \"message\": \"x\",\n  \"subject\": oops\n}").await;
    assert_problem(&answer, 400, "malformed-json");
    assert_eq!((&answer.body["line"], &answer.body["column"]), (&json!(3), &json!(14)));
    assert!(answer.body["detail"].as_str().unwrap().contains("line 3 column 14"), "{:#}", answer.body);
    let answer = send(r#"{"message": "x", "titel": "y"}"#).await;
    assert_problem(&answer, 400, "unknown-field");
    assert_eq!(answer.body["field"], "titel");
    assert!(answer.body["detail"].as_str().unwrap().contains("`titel`"), "{:#}", answer.body);
    let deep = format!(r#"{{"message": 1, "attributes": {}{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    for (body, name) in [
        ("", "malformed-json"),
        ("{", "malformed-json"),
        ("{\"message\": \"x\"} more", "malformed-json"),
        ("{\"message\": \"\\ud800\"}", "malformed-json"),
        (&deep, "malformed-json"),
        ("[]", "wrong-shape"),
        ("\"x\"", "wrong-shape"),
        ("{}", "missing-field"),
        ("{\"message\": \"x\", \"subject\": 7}", "wrong-shape"),
        ("{\"message\": \"\"}", "empty"),
        ("{\"message\": \"\\u0007\"}", "control-character"),
        ("{\"message\": \"x\", \"attributes\": {\"a\": {\"b\": 1}}}", "bad-attributes"),
    ] {
        assert_problem(&send(body).await, 400, name);
    }
    // Subjects: one line, at most 99 characters.
    let with_subject = |subject: &str| json!({ "message": "x", "subject": subject }).to_string();
    let too_long = "ä".repeat(100);
    for subject in
        ["a\r\nBcc: eve@example.com", "a\nb", "a\rb", "a\u{85}b", "a\u{2028}b", "a\0", "", &too_long]
    {
        let answer = send(&with_subject(subject)).await;
        assert_problem(&answer, 400, "bad-subject");
        assert_eq!(answer.body["field"], "subject", "{subject:?}");
    }
    server.subscribe("reader@example.com").await;
    let longest = "ä".repeat(99);
    let id = accepted(&server, post(&server, PATH, "application/json", with_subject(&longest))).await;
    server.finished(&id).await;
    assert_eq!(server.mail("reader@example.com", "/unsubscribe/").await["subject"], longest);
    assert_nothing_else(server, vec![id]).await;
}

#[tokio::test]
async fn one_bad_line_among_a_thousand_takes_no_other_with_it() {
    let server = Server::start().await;
    let line = |number: usize| match number {
        500 => "{\"message\": \"number 500\", oops}\n".to_owned(),
        number => format!("{{\"message\": \"number {number}\"}}\n"),
    };
    let body: String = (1..=1_000).map(line).collect();
    let answer = server.ok(post(&server, PATH, "application/x-ndjson", body)).await;
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 1_000);
    let mut ids = Vec::new();
    for (result, number) in results.iter().zip(1..) {
        assert_eq!(result["line"], number);
        if number == 500 {
            assert_eq!(result["problem"]["type"], "urn:tidings:problem:malformed-json", "{result:#}");
            assert_eq!(result.get("id"), None);
        } else {
            ids.push(result["id"].as_str().unwrap_or_else(|| panic!("{result:#}")).to_owned());
        }
    }
    for (id, number) in ids.iter().zip((1..=1_000).filter(|number| *number != 500)) {
        assert_eq!(server.finished(id).await["message"]["message"], format!("number {number}"));
    }
    let refused = "{\"message\": \"x\"}\n".repeat(1_001);
    let answer = server.answer(post(&server, PATH, "application/x-ndjson", refused)).await;
    assert_problem(&answer, 413, "too-many-lines");
    assert_nothing_else(server, ids).await;
}

#[tokio::test]
async fn a_key_that_is_another_messages_is_refused_while_it_is_remembered_and_later_a_dead_letter() {
    let mut server = Server::start().await;
    let keyed = |server: &Server, content_type: &str, body: &'static str| {
        post(server, PATH, content_type, body).header("idempotency-key", "order 1")
    };
    let id = accepted(&server, keyed(&server, "text/plain", "one")).await;
    for (content_type, body) in [
        ("text/plain", "two"),
        ("text/markdown", "one"),
        ("application/json", r#"{"message": "one", "subject": "S"}"#),
        ("application/json", r#"{"message": "one", "attributes": {"a": 1}}"#),
    ] {
        let answer = server.answer(keyed(&server, content_type, body)).await;
        assert_problem(&answer, 422, "another-body");
        assert_eq!(answer.body["id"], id.as_str());
    }
    assert_eq!(accepted(&server, keyed(&server, "text/plain", "one")).await, id);
    for bad in ["", &"k".repeat(256)] {
        let request = post(&server, PATH, "text/plain", "x").header("idempotency-key", bad);
        assert_problem(&server.answer(request).await, 400, "bad-idempotency-key");
    }
    server.finished(&id).await;

    // What is remembered is lost with the process; the row is not.
    assert!(server.stop().await.success());
    server.restart().await;
    assert_eq!(accepted(&server, keyed(&server, "text/plain", "two")).await, id);
    server.publish("after it").await;
    let request = server.request(Method::GET, &format!("/v1/messages/{id}?wait=30s"));
    let status = server.ok(request).await;
    assert_eq!(status["message"]["message"], "one", "{status:#}");
    let letters = loop {
        let letters = server.all("/v1/dead-letters").await;
        if !letters.is_empty() {
            break letters;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!((letters.len(), &letters[0]["reason"]), (1, &json!("conflict")), "{letters:#?}");
    let ids = json!({ "ids": [letters[0]["id"]] });
    server.ok(server.request(Method::POST, "/v1/dead-letters/discard").json(&ids)).await;
    let last = server.all("/v1/messages").await[0]["id"].as_str().unwrap().to_owned();
    assert_nothing_else(server, vec![id, last]).await;
}
