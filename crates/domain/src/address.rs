//! Addresses of recipients: one address, its domain folded and in punycode.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest address: RFC 5321, 4.5.3.1.3 (a path of 256 octets less its angle brackets).
pub const MAX_ADDRESS_BYTES: usize = 254;

/// Why a text is no address that we mail to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// Not one local part, an `@` and a domain.
    #[error("an address is a local part, an @ and a domain, with nothing before or after")]
    Shape,
    /// The local part is not a dot-atom (RFC 5322, 3.2.3) of at most 64 bytes.
    #[error(
        "the part before the @ is 1 to 64 ASCII letters, digits or any of !#$%&'*+-/=?^_`{{|}}~ with single dots between"
    )]
    LocalPart,
    /// The domain is not a name with at least two labels.
    #[error("the part after the @ is a domain name such as example.com")]
    Domain,
    /// Too long.
    #[error("an address has at most {MAX_ADDRESS_BYTES} bytes")]
    TooLong,
}

/// One address. Two texts that differ in the domain's case or script are one address; the local part is the
/// receiver's own business and is kept as it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress(Arc<str>);

impl EmailAddress {
    /// Checks and folds an address. Quoted local parts, comments, address literals and display names are refused.
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        if text.len() > 4 * MAX_ADDRESS_BYTES {
            return Err(InvalidAddress::TooLong);
        }
        let (local, domain) = text.rsplit_once('@').ok_or(InvalidAddress::Shape)?;
        if local.contains('@') {
            return Err(InvalidAddress::Shape);
        }
        if local.is_empty() || local.len() > 64 || !local.split('.').all(is_atom) {
            return Err(InvalidAddress::LocalPart);
        }
        let domain = idna::domain_to_ascii_strict(domain).map_err(|_| InvalidAddress::Domain)?;
        let labels: Vec<&str> = domain.split('.').collect();
        let numeric = labels.last().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if domain.is_empty()
            || domain.len() > 253
            || labels.len() < 2
            || numeric
            || !labels.iter().all(|l| is_label(l))
        {
            return Err(InvalidAddress::Domain);
        }
        let address = format!("{local}@{domain}");
        if address.len() > MAX_ADDRESS_BYTES {
            return Err(InvalidAddress::TooLong);
        }
        Ok(Self(address.into()))
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the `@`.
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }
}

fn is_atom(atom: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b);
    !atom.is_empty() && atom.bytes().all(allowed)
}

fn is_label(label: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (1..=63).contains(&label.len())
        && label.bytes().all(allowed)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// An address is never printed by accident: `Debug` shows its domain only.
impl std::fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EmailAddress(…@{})", self.domain())
    }
}

impl TryFrom<String> for EmailAddress {
    type Error = InvalidAddress;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<EmailAddress> for String {
    fn from(address: EmailAddress) -> Self {
        address.0.to_string()
    }
}

/// Cuts `address` out of a server's reply, with its local part alone too where that is long enough to be meant.
pub fn cut_address(reply: &str, address: &EmailAddress) -> String {
    let cut = replace_ignoring_case(reply, address.as_str(), "<address>");
    match address.as_str().rsplit_once('@') {
        Some((local, _)) if local.len() >= 3 => replace_ignoring_case(&cut, local, "<address>"),
        _ => cut,
    }
}

fn replace_ignoring_case(text: &str, what: &str, with: &str) -> String {
    let (lower, what) = (text.to_ascii_lowercase(), what.to_ascii_lowercase());
    let mut result = String::with_capacity(text.len());
    let mut from = 0;
    for (at, found) in lower.match_indices(&what) {
        result.push_str(&text[from..at]);
        result.push_str(with);
        from = at + found.len();
    }
    result.push_str(&text[from..]);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_folded_and_punycoded() {
        let address = EmailAddress::parse("Ann.B+x@EXAMPLE.com").unwrap();
        assert_eq!(address.as_str(), "Ann.B+x@example.com");
        assert_eq!(EmailAddress::parse("a@пример.рф").unwrap().as_str(), "a@xn--e1afmkfd.xn--p1ai");
        assert_eq!(format!("{address:?}"), "EmailAddress(…@example.com)");
    }

    #[test]
    fn what_could_smuggle_is_refused() {
        for bad in [
            "",
            "a",
            "@example.com",
            "a@",
            "a@b",
            "a@b@example.com",
            "a@example.com\r\nBcc: x@example.com",
            "a@example.com,b@example.com",
            "a@example.com b@example.com",
            "<a@example.com>",
            "A <a@example.com>",
            "\"a b\"@example.com",
            "a..b@example.com",
            ".a@example.com",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "a@-x.com",
            "a@x-.com",
            "ä@example.com",
            "a\0@example.com",
            "a @example.com",
            "a@exa mple.com",
        ] {
            assert!(EmailAddress::parse(bad).is_err(), "{bad:?}");
        }
        assert!(EmailAddress::parse(&format!("{}@example.com", "a".repeat(65))).is_err());
    }

    #[test]
    fn replies_lose_the_address() {
        let address = EmailAddress::parse("ann@example.com").unwrap();
        assert_eq!(
            cut_address("550 <ANN@Example.com>: ann unknown", &address),
            "550 <<address>>: <address> unknown"
        );
    }
}
