//! Who calls: API keys as `Authorization: Bearer`, scopes, and the browser's HTTP Basic for the mailbox.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use tidings_domain::{
    api_key::{ApiKey, KeyHash, Scope},
    topic::TopicName,
};

use crate::{
    api::Shared,
    problem::{Problem, Result},
    settings::{AdminKey, Auth},
};

/// The publisher with the admin key.
const ADMIN: &str = "admin";

/// The publisher when keys are off.
const ANONYMOUS: &str = "anonymous";

/// The longest key that is looked at, in bytes.
const MAX_KEY_BYTES: usize = 512;

/// Decides who calls.
pub(crate) struct Gate {
    pub(crate) auth: Auth,
    admin: Option<KeyHash>,
}

impl Gate {
    pub(crate) fn new(auth: Auth, admin_key: Option<&AdminKey>) -> Self {
        Self { auth, admin: admin_key.map(|key| KeyHash::of(key.expose())) }
    }

    /// Both are hashed and compared without an early end, so that time tells nothing of the key.
    fn is_admin(&self, hash: &KeyHash) -> bool {
        self.admin
            .is_some_and(|admin| admin.0.iter().zip(hash.0).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0)
    }
}

/// Who calls, known or allowed to be unknown.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Keys are off: everything is allowed.
    Anonymous,
    /// The admin key.
    Admin,
    /// A made key.
    Key(Arc<ApiKey>),
}

impl Caller {
    /// Whose messages these are: what idempotent ids are made with.
    pub(crate) fn publisher(&self) -> &str {
        match self {
            Self::Anonymous => ANONYMOUS,
            Self::Admin => ADMIN,
            Self::Key(key) => &key.owner,
        }
    }

    /// Whether it may do `scope`, on `topic` where it is about one.
    pub(crate) fn has(&self, scope: Scope, topic: Option<&TopicName>) -> bool {
        match self {
            Self::Anonymous | Self::Admin => true,
            Self::Key(key) => key.allows(scope, topic),
        }
    }

    /// Ends with 403 unless it may.
    pub(crate) fn may(&self, scope: Scope, topic: Option<&TopicName>) -> Result<()> {
        if self.has(scope, topic) {
            return Ok(());
        }
        let (word, of) =
            (scope_word(scope), topic.map(|topic| format!(" on topic {topic}")).unwrap_or_default());
        let problem = Problem::new(
            StatusCode::FORBIDDEN,
            "missing-scope",
            "The key may not do this",
            format!("this needs a key with scope {word}{of}, and the one that was sent has not got it"),
        );
        Err(problem.with("scope", word).mend(match topic {
            Some(_) => "use a key with that scope that is not bound to other topics",
            None => "use a key with that scope; one that is bound to topics has to name a topic",
        }))
    }
}

fn scope_word(scope: Scope) -> &'static str {
    match scope {
        Scope::Publish => "publish",
        Scope::Subscribe => "subscribe",
        Scope::Read => "read",
        Scope::Admin => "admin",
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self> {
        identify(api, &parts.headers, false).await
    }
}

/// A caller of the mailbox, who may be a person with a browser; always with scope `admin`.
pub(crate) struct MailboxReader;

impl FromRequestParts<Shared> for MailboxReader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Shared) -> Result<Self> {
        identify(api, &parts.headers, true).await?.may(Scope::Admin, None)?;
        Ok(Self)
    }
}

async fn identify(api: &Shared, headers: &HeaderMap, basic: bool) -> Result<Caller> {
    if api.gate.auth == Auth::Off {
        return Ok(Caller::Anonymous);
    }
    let Some(key) = sent_key(headers, basic) else {
        return Err(unauthorized("missing-key", "no key was sent", basic));
    };
    let wrong =
        || unauthorized("wrong-key", "the key that was sent is not a key of this installation", basic);
    if key.len() > MAX_KEY_BYTES {
        return Err(wrong());
    }
    let hash = KeyHash::of(&key);
    if api.gate.is_admin(&hash) {
        return Ok(Caller::Admin);
    }
    let key = api.copy.key(hash).await?.ok_or_else(wrong)?;
    Ok(Caller::Key(Arc::new(key)))
}

fn sent_key(headers: &HeaderMap, basic: bool) -> Option<String> {
    let (scheme, rest) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
        return Some(rest.to_owned());
    }
    if basic && scheme.eq_ignore_ascii_case("basic") {
        let decoded = String::from_utf8(BASE64_STANDARD.decode(rest).ok()?).ok()?;
        return decoded.split_once(':').map(|(_, password)| password.to_owned());
    }
    None
}

fn unauthorized(name: &str, what: &str, basic: bool) -> Problem {
    let scheme = if basic { r#"Basic realm="tidings", charset="UTF-8""# } else { "Bearer" };
    Problem::new(
        StatusCode::UNAUTHORIZED,
        name,
        "A key is needed",
        format!("{what}: this installation asks for the header Authorization: Bearer <key>"),
    )
    .mend(
        "TIDINGS_ADMIN_KEY, set where the server starts, is a key with every scope: openssl rand -hex 32 makes \
         one. A browser gives it as the password for the mailbox",
    )
    .header(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_key_comes_as_bearer_and_for_a_browser_as_a_password() {
        assert_eq!(sent_key(&headers("Bearer k"), false).as_deref(), Some("k"));
        assert_eq!(sent_key(&headers("bearer  k"), false).as_deref(), Some("k"));
        let basic = format!("Basic {}", BASE64_STANDARD.encode("me:k:1"));
        assert_eq!(sent_key(&headers(&basic), true).as_deref(), Some("k:1"));
        assert_eq!(sent_key(&headers(&basic), false), None);
        for bad in ["k", "Bearer ", "Basic !", "Basic"] {
            assert_eq!(sent_key(&headers(bad), true), None, "{bad}");
        }
    }

    #[test]
    fn only_the_admin_key_is_the_admin_key() {
        let gate = Gate::new(Auth::Required, Some(&AdminKey::new("right")));
        assert!(gate.is_admin(&KeyHash::of("right")));
        assert!(!gate.is_admin(&KeyHash::of("wrong")));
        assert!(!Gate::new(Auth::Required, None).is_admin(&KeyHash::of("")));
    }
}
