//! Planted bugs are caught, by the promise that they break, within a bounded number of seeds.

use tidings_simulation::{Mutant, run};

/// The most seeds that it may take.
const SEEDS: u64 = 60;

/// The seed that catches `mutant` with a violation of `promise`, and that holds without it.
fn caught(mutant: Mutant, promise: u8) {
    for seed in 1..=SEEDS {
        let mutated = run(seed, Some(mutant), mutant.weather());
        if mutated.violations.iter().any(|violation| violation.promise == promise) {
            let healthy = run(seed, None, mutant.weather());
            assert!(healthy.violations.is_empty(), "{}", healthy.failure());
            return;
        }
    }
    panic!("{mutant:?} is not caught by {SEEDS} seeds");
}

#[test]
fn ack_before_the_insert() {
    caught(Mutant::AckBeforeInsert, 1);
}

#[test]
fn position_confirmed_before_the_publish() {
    caught(Mutant::ConfirmBeforePublish, 4);
}

#[test]
fn mail_sent_with_no_sending_record() {
    caught(Mutant::SendWithoutRecord, 6);
}

#[test]
fn an_outage_counted_as_attempts() {
    caught(Mutant::OutageCounted, 5);
}

#[test]
fn a_notification_acknowledged_before_its_last_page() {
    caught(Mutant::AckBeforeLastPage, 1);
}

#[test]
fn a_delivery_that_may_have_been_sent_taken_for_untried() {
    caught(Mutant::UnknownForgotten, 6);
}

#[test]
fn an_unknown_publish_taken_for_a_confirm() {
    caught(Mutant::UnknownAccepted, 2);
}
