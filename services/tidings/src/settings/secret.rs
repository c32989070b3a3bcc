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

/// `url` with its password masked, and with everything masked that cannot be read as a URL.
pub(crate) fn mask_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return MASK.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    // A password may hold an `@` that should have been escaped: the last one is the end of it.
    let Some((user, host)) = authority.rsplit_once('@') else {
        // A password with an unescaped slash lies in the tail.
        return if tail.contains('@') { format!("{scheme}://{MASK}") } else { url.to_owned() };
    };
    let user = user.split_once(':').map_or(user.to_owned(), |(name, _)| format!("{name}:{MASK}"));
    format!("{scheme}://{user}@{host}{tail}")
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
    }
}
