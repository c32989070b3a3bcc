//! A place in the server's log.

use std::fmt;

/// A log sequence number: bytes since the cluster was made. Written `16/B374D848`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lsn(pub(crate) u64);

impl Lsn {
    /// Reads what the server writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let half = |text: &str| match text.len() {
            1..=8 if text.bytes().all(|byte| byte.is_ascii_hexdigit()) => u64::from_str_radix(text, 16).ok(),
            _ => None,
        };
        Some(Self(half(high)? << 32 | half(low)?))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_is_written() {
        for text in ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/DD1F388"] {
            assert_eq!(Lsn::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "/", "0", "0/", "/0", "0/+1", "0/123456789", "g/0", "0/0/0"] {
            assert_eq!(Lsn::parse(bad), None, "{bad:?}");
        }
    }
}
