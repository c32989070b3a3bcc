//! Secrets: values that do not print.

use serde::{Deserialize, Serialize};

/// What stands in the place of a secret wherever people or scripts may look.
pub(crate) const MASK: &str = "********";

/// A text that neither `Debug` nor `Display` shows. Only [`SecretText::expose`] does.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct SecretText(String);

impl SecretText {
    /// The text itself, for the one place that needs it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for SecretText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

/// `url` with its passwords masked, in front of the host and in the query, and with everything masked that cannot be
/// read as a URL.
pub(crate) fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return MASK.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    // A password may hold an `@` that should have been escaped: the last one is the end of it.
    let Some((user, host)) = authority.rsplit_once('@') else {
        // A password with an unescaped slash lies in the tail.
        return if tail.contains('@') {
            format!("{scheme}://{MASK}")
        } else {
            format!("{scheme}://{authority}{}", mask_query(tail))
        };
    };
    let user = user.split_once(':').map_or(user.to_owned(), |(name, _)| format!("{name}:{MASK}"));
    format!("{scheme}://{user}@{host}{}", mask_query(tail))
}

/// Path and query with the value masked of whatever is named like a secret.
fn mask_query(tail: &str) -> String {
    let Some((path, query)) = tail.split_once('?') else { return tail.to_owned() };
    let is_secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["pass", "pwd", "secret", "token", "key"].iter().any(|part| name.contains(part))
    };
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, _)) if is_secret(name) => format!("{name}={MASK}"),
            _ => pair.to_owned(),
        })
        .collect();
    format!("{path}?{}", pairs.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        let secret = SecretText("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), MASK);
        assert_eq!(serde_json::to_string(&secret).unwrap(), format!("\"{MASK}\""));
    }

    #[test]
    fn urls_lose_their_password() {
        assert_eq!(mask_url("smtp://mail.example.com:25"), "smtp://mail.example.com:25");
        assert_eq!(mask_url("smtp://u:p@h:25/?x=1"), format!("smtp://u:{MASK}@h:25/?x=1"));
        assert_eq!(mask_url("smtp://u:p@ss@h"), format!("smtp://u:{MASK}@h"));
        assert!(!mask_url("smtp://u:p/ss@h").contains("ss"));
        assert_eq!(mask_url("u:p@h"), MASK);
        assert_eq!(mask_url("redis://:p@h:6379/0"), format!("redis://:{MASK}@h:6379/0"));
        assert_eq!(
            mask_url("postgres://h/d?user=u&Password=p&sslmode=require"),
            format!("postgres://h/d?user=u&Password={MASK}&sslmode=require")
        );
    }
}
