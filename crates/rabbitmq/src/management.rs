//! The broker's management API: only to see bindings, and which exchanges there are, which AMQP cannot.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use tidings_domain::{Error, Result};
use url::Url;

/// One request.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A queue that is bound to an exchange.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Binding {
    pub(crate) exchange: String,
    pub(crate) queue: String,
}

/// As the API has it.
#[derive(Deserialize)]
struct Bound {
    source: String,
}

/// An exchange as the API has it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Exchange {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    durable: bool,
    auto_delete: bool,
    internal: bool,
}

impl Exchange {
    /// Whether it is what ours are: anything else is another party's.
    fn is_like_ours(&self) -> bool {
        self.kind == "fanout" && self.durable && !self.auto_delete && !self.internal
    }
}

/// A queue as the API has it: its arguments, and what a policy sets in their place.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct QueueShape {
    arguments: Map<String, Value>,
    effective_policy_definition: Option<Value>,
}

impl QueueShape {
    /// What stands for the argument `name`; an argument beats a policy.
    pub(crate) fn value(&self, name: &str) -> Option<&Value> {
        let by_policy = || self.effective_policy_definition.as_ref()?.get(name.strip_prefix("x-")?);
        self.arguments.get(name).or_else(by_policy)
    }
}

/// A client of it.
pub(crate) struct Management {
    client: reqwest::Client,
    base: Url,
    user: String,
    password: Option<String>,
    vhost: String,
    /// Whether it was found away, which is said once.
    away: AtomicBool,
}

impl Management {
    pub(crate) fn new(url: &str, ca_file: Option<&Path>, vhost: &str) -> Result<Self> {
        let bad = |what: &str| Error::misconfigured(format!("read the management URL: {what}"));
        let mut base = Url::parse(url).map_err(|error| bad(&error.to_string()))?;
        if base.cannot_be_a_base() || !matches!(base.scheme(), "http" | "https") {
            return Err(bad("it begins with http:// or https://"));
        }
        let decoded = |text: &str| {
            let decoded = percent_decoded(text);
            decoded.ok_or_else(|| bad("its user or password is not UTF-8"))
        };
        let user = decoded(base.username())?;
        let password = base.password().map(decoded).transpose()?;
        let _ = base.set_username("");
        let _ = base.set_password(None);
        let mut builder = reqwest::Client::builder().timeout(TIMEOUT).no_proxy();
        if let Some(file) = ca_file {
            let read = |error: Box<dyn std::error::Error + Send + Sync>| {
                let context = format!("read the certificates to trust, {}", file.display());
                Error::misconfigured(context).with_source(error)
            };
            let pem = std::fs::read(file).map_err(|error| read(error.into()))?;
            let certificates =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| read(error.into()))?;
            builder = builder.tls_certs_only(certificates);
        }
        let client =
            builder.build().map_err(|error| Error::misconfigured("set up HTTP").with_source(error))?;
        Ok(Self { client, base, user, password, vhost: vhost.to_owned(), away: AtomicBool::new(false) })
    }

    /// The bindings of `queues`; none when the API does not answer.
    pub(crate) async fn bindings(&self, queues: &[String]) -> Option<BTreeSet<Binding>> {
        let mut bindings = BTreeSet::new();
        for queue in queues {
            let bound: Vec<Bound> = self.get(&["queues", &self.vhost, queue, "bindings"]).await?;
            let bound =
                bound.into_iter().map(|bound| Binding { exchange: bound.source, queue: queue.clone() });
            bindings.extend(bound);
        }
        Some(bindings)
    }

    /// The exchanges that are as ours; none when the API does not answer.
    pub(crate) async fn exchanges(&self) -> Option<BTreeSet<String>> {
        let exchanges: Vec<Exchange> = self.get(&["exchanges", &self.vhost]).await?;
        Some(exchanges.into_iter().filter(Exchange::is_like_ours).map(|exchange| exchange.name).collect())
    }

    /// What `queue` is; none when the API does not answer.
    pub(crate) async fn shape(&self, queue: &str) -> Option<QueueShape> {
        self.get(&["queues", &self.vhost, queue]).await
    }

    /// Whether it did not answer when it was last asked.
    pub(crate) fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Asks for `path`; that it does not answer is said once.
    async fn get<T: Default + DeserializeOwned>(&self, path: &[&str]) -> Option<T> {
        let answer = self.ask(path).await;
        let was_away = self.away.swap(answer.is_err(), Ordering::Relaxed);
        match answer {
            Ok(body) => {
                if was_away {
                    tracing::info!("the broker's management API answers again");
                }
                // What is not of this form says nothing of ours.
                Some(serde_json::from_slice(&body).unwrap_or_default())
            }
            Err(error) => {
                if !was_away {
                    let error = error.without_url().to_string();
                    tracing::warn!(
                        error,
                        "the broker's management API does not answer: bindings cannot be seen"
                    );
                }
                None
            }
        }
    }

    async fn ask(&self, path: &[&str]) -> reqwest::Result<Bytes> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        let request = self.client.get(url).basic_auth(&self.user, self.password.as_ref());
        request.send().await?.error_for_status()?.bytes().await
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_with_signs_is_read() {
        let management = Management::new("http://a%40b:p%2Fw@localhost:15672/rabbit/", None, "/").unwrap();
        assert_eq!((management.user.as_str(), management.password.as_deref()), ("a@b", Some("p/w")));
        assert_eq!(management.base.as_str(), "http://localhost:15672/rabbit/");
    }

    #[test]
    fn an_argument_beats_a_policy() {
        let json = r#"{"arguments": {"x-delivery-limit": 1000}, "effective_policy_definition": {"delivery-limit": 20, "overflow": "reject-publish"}}"#;
        let shape: QueueShape = serde_json::from_str(json).unwrap();
        assert_eq!(shape.value("x-delivery-limit"), Some(&Value::from(1000)));
        assert_eq!(shape.value("x-overflow"), Some(&Value::from("reject-publish")));
        assert_eq!(shape.value("x-queue-type"), None);
    }

    #[test]
    fn a_url_that_cannot_be_read_is_not_quoted() {
        for url in ["hush", "ftp://user:hush@host", "http://user:hush@host:hush"] {
            let error = Management::new(url, None, "/").err().unwrap();
            assert!(!error.chain().contains("hush"), "{}", error.chain());
        }
    }
}
