//! What becomes of each entry of a handler call: plain functions on values.

use tidings_domain::dead_letter::reason;

use crate::handler::{Reject, Verdict};

/// How a handler call ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// With these verdicts.
    Verdicts(Vec<Verdict>),
    /// With a panic that said this.
    Panicked(String),
}

/// What becomes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Settled as done.
    Done,
    /// An attempt failed: tried again, alone.
    Retry(String),
    /// Its whole batch failed: tried again, alone, with no attempt counted.
    Alone(String),
    /// A dead letter, then settled as done.
    Dead(Reject),
    /// Given back: nothing could be tried.
    Release(String),
}

/// Decides for each entry of a call whose failed attempts so far are `attempts`, of which there may be `most`.
pub(super) fn decide(outcome: Outcome, attempts: &[u32], most: u32) -> Vec<Next> {
    let verdicts = match outcome {
        Outcome::Panicked(text) => {
            let detail = format!("the handler panicked: {text}");
            return whole_failed(&detail, reason::PANIC, attempts, most);
        }
        Outcome::Verdicts(verdicts) if verdicts.len() == attempts.len() => verdicts,
        Outcome::Verdicts(verdicts) => {
            let detail =
                format!("the handler gave {} verdicts for {} messages", verdicts.len(), attempts.len());
            return whole_failed(&detail, reason::ATTEMPTS_EXHAUSTED, attempts, most);
        }
    };
    let whole = verdicts.len() > 1 && verdicts.iter().all(|v| matches!(v, Verdict::Retry { .. }));
    let next = |(verdict, attempts): (Verdict, &u32)| match verdict {
        Verdict::Done => Next::Done,
        Verdict::Retry { detail } if whole => Next::Alone(detail),
        Verdict::Retry { detail } => failed(detail, reason::ATTEMPTS_EXHAUSTED, *attempts, most),
        Verdict::DeadLetter(reject) => Next::Dead(reject),
        Verdict::Unavailable { detail } => Next::Release(detail),
    };
    verdicts.into_iter().zip(attempts).map(next).collect()
}

/// A batch that failed whole spends nobody's attempts: one of it may be to blame, and alone it shows which.
fn whole_failed(detail: &str, reason: &'static str, attempts: &[u32], most: u32) -> Vec<Next> {
    match attempts {
        [one] => vec![failed(detail.to_owned(), reason, *one, most)],
        many => vec![Next::Alone(detail.to_owned()); many.len()],
    }
}

fn failed(detail: String, reason: &'static str, attempts: u32, most: u32) -> Next {
    if attempts + 1 < most {
        return Next::Retry(detail);
    }
    Next::Dead(Reject { reason, detail, message_id: None, topic: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry() -> Verdict {
        Verdict::Retry { detail: "no".to_owned() }
    }

    fn reason_of(next: &Next) -> Option<&'static str> {
        match next {
            Next::Dead(reject) => Some(reject.reason),
            _ => None,
        }
    }

    #[test]
    fn a_batch_that_fails_whole_counts_nothing_even_at_the_last_attempt() {
        let next = decide(Outcome::Verdicts(vec![retry(), retry()]), &[0, 4], 5);
        assert_eq!(next, vec![Next::Alone("no".to_owned()); 2]);
        let next = decide(Outcome::Panicked("boom".to_owned()), &[4, 4], 5);
        assert!(next.iter().all(|next| matches!(next, Next::Alone(_))));
        let next = decide(Outcome::Verdicts(vec![]), &[4, 4], 5);
        assert!(next.iter().all(|next| matches!(next, Next::Alone(_))));
    }

    #[test]
    fn an_entry_that_fails_among_others_that_do_not_spends_its_own_attempts() {
        let next = decide(Outcome::Verdicts(vec![Verdict::Done, retry()]), &[0, 3], 5);
        assert_eq!(next, [Next::Done, Next::Retry("no".to_owned())]);
        let next = decide(Outcome::Verdicts(vec![Verdict::Done, retry()]), &[0, 4], 5);
        assert_eq!(reason_of(&next[1]), Some(reason::ATTEMPTS_EXHAUSTED));
    }

    #[test]
    fn alone_a_panic_is_an_attempt_and_at_the_end_the_reason() {
        let panicked = || Outcome::Panicked("boom".to_owned());
        assert!(matches!(decide(panicked(), &[0], 5)[..], [Next::Retry(_)]));
        assert_eq!(reason_of(&decide(panicked(), &[4], 5)[0]), Some(reason::PANIC));
        assert_eq!(reason_of(&decide(panicked(), &[0], 1)[0]), Some(reason::PANIC));
    }

    #[test]
    fn an_outage_counts_nothing() {
        let away = || Verdict::Unavailable { detail: "store".to_owned() };
        let next = decide(Outcome::Verdicts(vec![away(), retry()]), &[4, 0], 5);
        assert_eq!(next, [Next::Release("store".to_owned()), Next::Retry("no".to_owned())]);
    }
}
