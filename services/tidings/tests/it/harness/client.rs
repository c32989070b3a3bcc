//! A client of the API that fails a test with what the processes have logged.

use std::path::PathBuf;

use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde_json::{Value, json};

use super::{PATIENCE, wire::Wire};

/// A client of one API.
pub(crate) struct Client {
    /// Where the API is.
    pub(crate) url: String,
    /// A client that keeps connections.
    pub(crate) client: reqwest::Client,
    /// Where the processes behind it log.
    logs: Vec<PathBuf>,
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The name of the problem that it tells, which has all that a problem has.
    pub(crate) fn problem(&self) -> &str {
        let Self { status, headers, body } = self;
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json", "{status}: {body:#}");
        assert_eq!(body["status"], status.as_u16(), "{body:#}");
        assert!(headers.contains_key("x-request-id"), "{headers:?}");
        for member in ["title", "detail"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member} of {body:#}");
        }
        let kind = body["type"].as_str().and_then(|kind| kind.strip_prefix("urn:tidings:problem:"));
        kind.unwrap_or_else(|| panic!("no kind of ours: {body:#}"))
    }
}

impl Client {
    /// One whose API has no address yet.
    pub(crate) fn new(logs: Vec<PathBuf>) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { url: String::new(), client, logs }
    }

    /// Another file that tells why a test has failed.
    pub(crate) fn add_log(&mut self, path: PathBuf) {
        if !self.logs.contains(&path) {
            self.logs.push(path);
        }
    }

    /// Everything that was logged, over all starts.
    pub(crate) fn log(&self) -> String {
        self.logs.iter().map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect()
    }

    /// A bare connection to the API.
    pub(crate) async fn wire(&self) -> Wire {
        Wire::connect(&self.url).await
    }

    /// A request to a path of the API.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).header(header::ACCEPT, "application/json")
    }

    /// Sends it; whatever is answered.
    pub(crate) async fn answer(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.unwrap_or_else(|error| panic!("{error:?}\n{}", self.log()));
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.unwrap();
        let body = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        Answer { status, headers, body }
    }

    /// Sends it; it has to succeed.
    pub(crate) async fn ok(&self, request: RequestBuilder) -> Value {
        let answer = self.answer(request).await;
        assert!(answer.status.is_success(), "{}: {:#}\n{}", answer.status, answer.body, self.log());
        answer.body
    }

    /// GETs a path that has to answer.
    pub(crate) async fn get(&self, path: &str) -> Value {
        self.ok(self.request(Method::GET, path)).await
    }

    /// All that a list of the API has, page by page.
    pub(crate) async fn all(&self, path: &str) -> Vec<Value> {
        let (mut entries, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let request =
                self.request(Method::GET, path).query(&[("limit", "250")]).query(&[("cursor", &cursor)]);
            let list = self.ok(request).await;
            entries.extend(list["data"].as_array().unwrap().iter().cloned());
            cursor = list["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                return entries;
            }
        }
    }

    /// Posts a text to the topic `messages`; its id.
    pub(crate) async fn publish(&self, text: &str) -> String {
        let request = self.request(Method::POST, "/v1/topics/messages/messages");
        let accepted =
            self.ok(request.header(header::CONTENT_TYPE, "text/plain").body(text.to_owned())).await;
        accepted["id"].as_str().unwrap().to_owned()
    }

    /// The status of a message once it is done or a dead letter.
    pub(crate) async fn finished(&self, id: &str) -> Value {
        let status = self.get(&format!("/v1/messages/{id}?wait=30s")).await;
        assert!(
            matches!(status["state"].as_str(), Some("done" | "dead_letter")),
            "not finished in time: {status:#}\n{}",
            self.log()
        );
        status
    }

    /// Subscribes addresses whose consent is held already to `messages`.
    pub(crate) async fn subscribe_confirmed(&self, emails: &[&str]) {
        for email in emails {
            let request = json!({ "email": email, "confirmed": true });
            self.ok(self.request(Method::POST, "/v1/topics/messages/subscriptions").json(&request)).await;
        }
    }

    /// What became of each mail of a message.
    pub(crate) async fn deliveries(&self, id: &str) -> Vec<Value> {
        self.all(&format!("/v1/messages/{id}/deliveries")).await
    }
}
