//! The client of the HTTP API that commands use.

use std::time::Duration;

use clap::Args;
use reqwest::{Method, RequestBuilder, StatusCode, Url, header};
use serde_json::Value;

use super::output::{Failure, one_line, print};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer may take, besides what the call itself asks to wait.
const ANSWER: Duration = Duration::from_secs(60);

/// Where the server is and how to be let in.
#[derive(Debug, Clone, Args)]
pub(crate) struct Client {
    /// Where the server is.
    #[arg(long, env = "TIDINGS_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// The API key.
    #[arg(long, env = "TIDINGS_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Print JSON, for scripts.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Client {
    /// A request to a path of segments, each escaped as it needs.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> Result<RequestBuilder, Failure> {
        let wrong = || Failure::usage(format!("{:?} is no address such as http://127.0.0.1:8080", self.url));
        let mut url = Url::parse(&self.url).map_err(|_| wrong())?;
        url.path_segments_mut().map_err(|()| wrong())?.pop_if_empty().extend(segments);
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("tidings/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Failure::refused)?;
        let mut request = client.request(method, url).header(header::ACCEPT, "application/json");
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        Ok(request)
    }

    /// Sends it and gives the body, null where there is none. A problem of the API is its sentence and its mend; no answer at all is *unreachable*.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        let body: Value = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body)
                .unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into())
        };
        if status.is_success() { Ok(body) } else { Err(problem(status, &body)) }
    }

    /// Prints an answer: as JSON where that was asked for, else as `people` words it.
    pub(crate) fn print(&self, body: &Value, people: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        print(&if self.json { format!("{body:#}\n") } else { people(body) })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut cause: &dyn std::error::Error = error;
        while let Some(next) = cause.source() {
            cause = next;
        }
        Failure::unreachable(format!(
            "no answer from {}: {cause}; is it running there (`tidings up`)? --url or TIDINGS_URL says where it is",
            self.url
        ))
    }
}

fn problem(status: StatusCode, body: &Value) -> Failure {
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let sentence = text("detail").or_else(|| text("title")).map_or_else(
        || {
            let said = body.as_str().map(|said| format!(": {}", one_line(said, 200))).unwrap_or_default();
            format!("the server answered {status}{said}")
        },
        str::to_owned,
    );
    let field = |name: &str| text(name).map(|value| format!("\n  {name}: {value}")).unwrap_or_default();
    Failure::refused(format!("{sentence}{}{}", field("mend"), field("id")))
}

/// A member of a JSON object as people read it; empty where it is not there.
pub(crate) fn shown(object: &Value, name: &str) -> String {
    match object.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The entries of a list.
pub(crate) fn data(body: &Value) -> &[Value] {
    body.get("data").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The line under a table that tells of more.
pub(crate) fn more(body: &Value) -> String {
    let cursor = shown(body, "next_cursor");
    if cursor.is_empty() { String::new() } else { format!("there is more: --cursor {cursor}\n") }
}
