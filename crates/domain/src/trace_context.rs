//! W3C Trace Context as it travels: in HTTP headers, message headers and the item's row.

use serde::{Deserialize, Serialize};

/// The longest `tracestate` that is carried, in bytes; a longer one is dropped.
pub const MAX_TRACESTATE_BYTES: usize = 256;

/// `traceparent` (version 00, checked) and its `tracestate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// `00-<32 hex>-<16 hex>-<2 hex>`; absent when nobody gave a valid one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// Vendors' own list; never without a `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

impl TraceContext {
    /// Keeps what is valid: a malformed `traceparent` is no context at all, an over-long or unprintable `tracestate`
    /// is dropped (W3C Trace Context, sections 3.2 and 3.3).
    pub fn parse(traceparent: Option<&str>, tracestate: Option<&str>) -> Self {
        let Some(traceparent) = traceparent.map(str::trim).filter(|text| is_traceparent(text)) else {
            return Self::default();
        };
        let tracestate = tracestate
            .filter(|s| !s.is_empty() && s.len() <= MAX_TRACESTATE_BYTES)
            .filter(|s| s.bytes().all(|b| (0x20..0x7f).contains(&b)))
            .map(str::to_owned);
        Self { traceparent: Some(traceparent.to_owned()), tracestate }
    }
}

fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let hex = |part: Option<&str>, len: usize| {
        part.is_some_and(|p| p.len() == len && p.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
    };
    let zero = |range: std::ops::Range<usize>| text[range].bytes().all(|b| b == b'0');
    let (version, trace, span, flags) = (parts.next(), parts.next(), parts.next(), parts.next());
    version == Some("00")
        && hex(trace, 32)
        && hex(span, 16)
        && hex(flags, 2)
        && parts.next().is_none()
        && !zero(3..35)
        && !zero(36..52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_no_context() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceContext::parse(Some(good), Some("a=b")).traceparent.as_deref(), Some(good));
        for bad in [
            "",
            "garbage",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(Some(bad), Some("a=b")), TraceContext::default(), "{bad}");
        }
        assert_eq!(TraceContext::parse(Some(good), Some(&"x".repeat(257))).tracestate, None);
    }
}
