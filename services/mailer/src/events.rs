//! What an attempt came to, as events of its span: words and counts, never an address or a text.

use opentelemetry::KeyValue;
use tidings_domain::delivery::{Delivery, Outcome};
use tidings_runtime::{
    conventions::{ATTEMPTS, EVENT_DEAD_LETTER, EVENT_RETRY, EVENT_UNKNOWN, REASON},
    telemetry::Span,
};

/// Notes that an earlier attempt was found whose outcome nobody knows.
pub(crate) fn found_unknown(span: &mut Span, delivery: &Delivery) {
    span.event(EVENT_UNKNOWN, vec![attempts(delivery.attempts)]);
}

/// Notes how an attempt of `delivery` ended where it did not end well.
pub(crate) fn ended(span: &mut Span, delivery: &Delivery, outcome: &Outcome) {
    let counted = delivery.attempts + 1;
    match outcome {
        Outcome::Retry { .. } => span.event(EVENT_RETRY, vec![attempts(counted)]),
        Outcome::Unknown { .. } => span.event(EVENT_UNKNOWN, vec![attempts(counted)]),
        Outcome::Failed { unknown, dead_letter, .. } => {
            if *unknown {
                span.event(EVENT_UNKNOWN, vec![attempts(dead_letter.attempts)]);
            }
            let reason = KeyValue::new(REASON, dead_letter.reason.clone());
            span.event(EVENT_DEAD_LETTER, vec![reason, attempts(dead_letter.attempts)]);
        }
        Outcome::Sent { .. } | Outcome::Released { .. } | Outcome::Suppressed => {}
    }
}

fn attempts(count: u32) -> KeyValue {
    KeyValue::new(ATTEMPTS, i64::from(count))
}
