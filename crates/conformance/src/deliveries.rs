//! `Deliveries`: claiming, sending and settling. Planning and reading are in [`crate::planning`].

use std::{collections::BTreeSet, sync::Arc};

use tidings_domain::{
    ErrorKind,
    dead_letter::DeadLetterSelection,
    delivery::{
        ClaimedDelivery, Delivery, DeliveryKey, DeliveryState, LeaseToken, MAX_ANSWERS, Outcome, Sending,
        after,
    },
    notification::Cursor,
    ports::Deliveries,
    subscription::{Act, Subscription},
    trace_context::TraceContext,
};
use tokio::task::JoinSet;

use crate::{
    Disturbance, Fixture, Need, Ports,
    runner::suite,
    samples::{LEASE, after_s, answer, claim, confirmed, consented, failed, key, page, plan, request, token},
};

suite!(Deliveries {
    what_is_due_is_claimed_oldest_first,
    two_claimers_never_hold_one_delivery,
    a_lease_that_ran_out_is_claimed_again_uncounted,
    an_extended_lease_holds,
    sending_is_the_lease_check,
    sending_looks_at_the_subscription,
    sending_looks_at_the_generation_of_a_confirmation,
    sending_extends_the_lease,
    a_sending_row_whose_lease_ran_out_is_unknown_and_counted,
    an_unknown_stays_one_and_is_counted_once_until_it_is_tried_again,
    each_outcome_writes_the_row_by_the_rule,
    answers_are_kept_up_to_a_limit,
    a_released_delivery_is_due_when_it_is_said,
    a_lost_lease_settles_nothing,
    one_lost_lease_harms_no_neighbour,
    a_failed_delivery_has_its_dead_letter_with_it,
    a_revived_delivery_begins_anew,
    reviving_what_has_not_failed_changes_nothing,
    next_due_is_when_something_can_be_claimed,
    a_restart_keeps_what_was_recorded [Need::Disturb(Disturbance::Restart)],
});

/// The row of `key`.
pub(crate) async fn row(port: &dyn Deliveries, key: DeliveryKey) -> Delivery {
    let rows = port.list(key.about, &page(100, None)).await.expect("list").data;
    rows.into_iter().find(|row| row.key == key).unwrap_or_else(|| panic!("no delivery {key}"))
}

/// Items 1 to `items`, each planned to readers 1 to `readers`, who are confirmed; due 10 s after the start.
async fn planned(ports: &Ports, items: u128, readers: u128) {
    let readers: Vec<u128> = (1..=readers).collect();
    for reader in &readers {
        consented(&*ports.subscriptions(), *reader).await;
    }
    let plans = (1..=items).map(|item| plan(item, Cursor::Start, &readers, Cursor::Finished)).collect();
    ports.deliveries().plan(plans).await.expect("plan");
}

async fn take(port: &dyn Deliveries, claimer: u128, max: u32, seconds: u64) -> Vec<ClaimedDelivery> {
    let claimed = port.claim(max, &claim(claimer, seconds)).await.expect("claim");
    assert!(claimed.len() <= max as usize);
    assert!(claimed.iter().all(|claimed| claimed.token == token(claimer)));
    claimed
}

async fn send(port: &dyn Deliveries, key: DeliveryKey, claimer: u128, until_s: u64) -> Sending {
    let mut answers = port.sending(&[(key, token(claimer))], after_s(until_s)).await.expect("sending");
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

async fn settle(port: &dyn Deliveries, key: DeliveryKey, claimer: u128, outcome: Outcome, seconds: u64) {
    let outcomes = vec![(key, token(claimer), outcome)];
    let mut answers = port.settle(outcomes, after_s(seconds)).await.expect("settle");
    assert_eq!(answers.len(), 1);
    answers.remove(0).unwrap_or_else(|error| panic!("settle {key}: {}", error.chain()));
}

async fn lost(port: &dyn Deliveries, key: DeliveryKey, token: LeaseToken, outcome: Outcome) {
    let before = row(port, key).await;
    let mut answers = port.settle(vec![(key, token, outcome)], after_s(500)).await.expect("settle");
    let error = answers.remove(0).expect_err("the lease is lost");
    assert_eq!(error.kind, ErrorKind::LeaseLost, "{}", error.chain());
    assert_eq!(row(port, key).await, before, "nothing changed");
}

fn sent() -> Outcome {
    Outcome::Sent { answer: answer(250, 20) }
}

fn keys(claimed: &[ClaimedDelivery]) -> Vec<DeliveryKey> {
    claimed.iter().map(|claimed| claimed.delivery.key).collect()
}

async fn what_is_due_is_claimed_oldest_first(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    let mut plans = Vec::new();
    for (item, due_s) in [(1, 30), (2, 20), (3, 10)] {
        let mut plan = plan(item, Cursor::Start, &[1], Cursor::Finished);
        plan.page[0].due_at = after_s(due_s);
        plans.push(plan);
    }
    consented(&*ports.subscriptions(), 1).await;
    port.plan(plans).await.expect("plan");
    assert_eq!(take(&*port, 1, 10, 9).await, [], "nothing is due yet");
    let claimed = take(&*port, 1, 1, 20).await;
    assert_eq!(keys(&claimed), [key(3, 1)], "one at most, and the oldest");
    let first = &claimed[0];
    assert_eq!(
        (first.delivery.state, first.delivery.attempts, first.unknown),
        (DeliveryState::Pending, 0, false)
    );
    assert_eq!(first.delivery.due_at, after_s(10));
    assert_eq!(keys(&take(&*port, 2, 10, 30).await), [key(2, 1), key(1, 1)], "none that is held");
}

async fn two_claimers_never_hold_one_delivery(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    planned(&ports, 10, 6).await;
    let mut tasks = JoinSet::new();
    for claimer in 0..6 {
        let port = fixture.open().await.deliveries();
        tasks.spawn(async move {
            let mut mine = Vec::new();
            loop {
                // A token is fresh for every call.
                let claimed = take(&*port, claimer * 1000 + mine.len() as u128, 4, 20).await;
                if claimed.is_empty() {
                    return mine;
                }
                mine.extend(keys(&claimed));
            }
        });
    }
    let all: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(all.len(), 60);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 60, "one was held twice");
}

async fn a_lease_that_ran_out_is_claimed_again_uncounted(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 1).await;
    assert_eq!(take(&*port, 1, 10, 20).await.len(), 1);
    assert_eq!(take(&*port, 2, 10, 20 + LEASE.as_secs() - 1).await, [], "the lease is live");
    let again = take(&*port, 3, 10, 20 + LEASE.as_secs()).await;
    assert_eq!(keys(&again), [key(1, 1)]);
    assert_eq!((again[0].delivery.attempts, again[0].delivery.unknowns, again[0].unknown), (0, 0, false));
    lost(&*port, key(1, 1), token(1), sent()).await;
}

async fn an_extended_lease_holds(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 2).await;
    assert_eq!(take(&*port, 1, 1, 20).await.len(), 1);
    let held = [(key(1, 1), token(1)), (key(1, 1), token(9)), (key(1, 2), token(1)), (key(7, 7), token(1))];
    assert_eq!(port.extend(&held, after_s(500)).await.expect("extend"), [true, false, false, false]);
    assert_eq!(keys(&take(&*port, 2, 10, 499).await), [key(1, 2)]);
    assert!(keys(&take(&*port, 3, 10, 600).await).contains(&key(1, 1)));
}

async fn sending_is_the_lease_check(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 3).await;
    assert_eq!(take(&*port, 1, 2, 20).await.len(), 2);
    let held = [(key(1, 2), token(9)), (key(1, 1), token(1)), (key(1, 3), token(1)), (key(7, 7), token(1))];
    let answers = port.sending(&held, after_s(80)).await.expect("sending");
    assert_eq!(answers, [Sending::LeaseLost, Sending::Recorded, Sending::LeaseLost, Sending::LeaseLost]);
    let states: Vec<_> =
        [row(&*port, key(1, 1)).await, row(&*port, key(1, 2)).await].map(|row| row.state).to_vec();
    assert_eq!(states, [DeliveryState::Sending, DeliveryState::Pending]);
    // Taken over: whoever had it may not send.
    let again = take(&*port, 2, 10, 200).await;
    assert!(keys(&again).contains(&key(1, 2)));
    assert_eq!(send(&*port, key(1, 2), 1, 300).await, Sending::LeaseLost);
    assert_eq!(send(&*port, key(1, 2), 2, 300).await, Sending::Recorded);
}

async fn sending_looks_at_the_subscription(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 2).await;
    let claimed = take(&*port, 1, 10, 20).await;
    assert_eq!(claimed.len(), 2);
    let gone = key(1, 1);
    let id = gone.subscription;
    ports.subscriptions().act(id, Act::Unsubscribe, 0, after_s(21)).await.expect("unsubscribe");
    let held = [(gone, token(1)), (key(1, 2), token(1))];
    let answers = port.sending(&held, after_s(80)).await.expect("sending");
    assert_eq!(answers, [Sending::NotSubscribed, Sending::Recorded]);
    settle(&*port, gone, 1, Outcome::Suppressed, 22).await;
    let after = row(&*port, gone).await;
    assert_eq!((after.state, after.attempts), (DeliveryState::Suppressed, 0));
    assert_eq!(take(&*port, 2, 10, 79).await, [], "what is suppressed is not due");
}

async fn sending_looks_at_the_generation_of_a_confirmation(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let (port, subscriptions) = (ports.deliveries(), ports.subscriptions());
    let ask = async |seconds| {
        let requested = subscriptions.request(&request(1, "reader", seconds), &TraceContext::default()).await;
        requested.expect("request").subscription
    };
    let first: Subscription = ask(0).await;
    let of =
        |row: &Subscription| DeliveryKey { about: row.id.0, subscription: row.id, round: row.generation };
    assert_eq!(keys(&take(&*port, 1, 10, 20).await), [of(&first)]);
    let second = ask(7200).await;
    assert_eq!(send(&*port, of(&first), 1, 7400).await, Sending::NotSubscribed, "its link is dead");
    settle(&*port, of(&first), 1, Outcome::Suppressed, 7201).await;
    assert_eq!(keys(&take(&*port, 2, 10, 7300).await), [of(&second)]);
    assert_eq!(send(&*port, of(&second), 2, 7400).await, Sending::Recorded);
    settle(&*port, of(&second), 2, Outcome::Retry { answer: answer(451, 7301), due_at: after_s(7400) }, 7301)
        .await;
    subscriptions.act(first.id, Act::Confirm, second.generation, after_s(7302)).await.expect("confirm");
    assert_eq!(take(&*port, 3, 10, 7400).await.len(), 1);
    assert_eq!(send(&*port, of(&second), 3, 7500).await, Sending::NotSubscribed, "it is confirmed already");
}

async fn sending_extends_the_lease(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 1).await;
    take(&*port, 1, 10, 20).await;
    assert_eq!(send(&*port, key(1, 1), 1, 900).await, Sending::Recorded);
    assert_eq!(take(&*port, 2, 10, 899).await, []);
    settle(&*port, key(1, 1), 1, sent(), 890).await;
    assert_eq!(take(&*port, 3, 10, 9000).await, []);
}

async fn a_sending_row_whose_lease_ran_out_is_unknown_and_counted(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 1).await;
    take(&*port, 1, 10, 20).await;
    assert_eq!(send(&*port, key(1, 1), 1, 100).await, Sending::Recorded);
    let claimed = take(&*port, 2, 10, 100).await;
    assert_eq!(keys(&claimed), [key(1, 1)]);
    assert!(claimed[0].unknown);
    assert_eq!((claimed[0].delivery.attempts, claimed[0].delivery.unknowns), (1, 1), "the claim counts them");
    let stored = row(&*port, key(1, 1)).await;
    assert_eq!((stored.attempts, stored.unknowns), (1, 1));
    lost(&*port, key(1, 1), token(1), sent()).await;
    assert_eq!(send(&*port, key(1, 1), 2, 200).await, Sending::Recorded);
    settle(&*port, key(1, 1), 2, sent(), 101).await;
    let stored = row(&*port, key(1, 1)).await;
    assert_eq!((stored.state, stored.attempts, stored.unknowns), (DeliveryState::Sent, 2, 1));
}

async fn an_unknown_stays_one_and_is_counted_once_until_it_is_tried_again(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 1).await;
    take(&*port, 1, 10, 20).await;
    assert_eq!(send(&*port, key(1, 1), 1, 100).await, Sending::Recorded);
    // Mailers that die before they try it: with `ambiguous = hold` none of them may take it for untried.
    for (claimer, seconds) in [(2, 100), (3, 200), (4, 300)] {
        let claimed = take(&*port, claimer, 10, seconds).await;
        assert_eq!(keys(&claimed), [key(1, 1)]);
        let ClaimedDelivery { delivery, unknown, .. } = &claimed[0];
        assert_eq!((*unknown, delivery.attempts, delivery.unknowns), (true, 1, 1), "claim {claimer}");
    }
    assert_eq!(send(&*port, key(1, 1), 4, 400).await, Sending::Recorded);
    let claimed = take(&*port, 5, 10, 400).await;
    let ClaimedDelivery { delivery, unknown, .. } = &claimed[0];
    assert_eq!((*unknown, delivery.attempts, delivery.unknowns), (true, 2, 2), "a second one");
    settle(&*port, key(1, 1), 5, Outcome::Retry { answer: answer(451, 401), due_at: after_s(500) }, 401)
        .await;
    let claimed = take(&*port, 6, 10, 500).await;
    assert!(!claimed[0].unknown, "an outcome was said: the next attempt is none of an unknown");
}

async fn each_outcome_writes_the_row_by_the_rule(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 7).await;
    let claimed = take(&*port, 1, 10, 20).await;
    let later = after_s(400);
    let held_failed = match failed(key(1, 7), 0, 30) {
        Outcome::Failed { dead_letter, .. } => Outcome::Failed { answer: None, unknown: false, dead_letter },
        _ => unreachable!("it makes a failed outcome"),
    };
    let outcomes = [
        sent(),
        Outcome::Released { due_at: later },
        Outcome::Retry { answer: answer(451, 25), due_at: later },
        Outcome::Unknown { answer: answer(0, 26), due_at: later },
        Outcome::Suppressed,
        failed(key(1, 6), 550, 27),
        held_failed,
    ];
    // In `sending`, as most of them are settled.
    let held: Vec<_> = claimed.iter().map(|claimed| (claimed.delivery.key, token(1))).collect();
    let answers = port.sending(&held, after_s(80)).await.expect("sending");
    assert_eq!(answers, [Sending::Recorded; 7]);
    let mut expected = Vec::new();
    let mut settled = Vec::new();
    for (number, outcome) in (1..).zip(outcomes) {
        let before = row(&*port, key(1, number)).await;
        expected.push(after(before, &outcome, after_s(30)));
        settled.push((key(1, number), token(1), outcome));
    }
    let answers = port.settle(settled, after_s(30)).await.expect("settle");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    for expected in expected {
        assert_eq!(row(&*port, expected.key).await, expected);
    }
    // Each gave up its lease: what is open can be claimed when it is due.
    let again = take(&*port, 2, 10, 400).await;
    assert_eq!(keys(&again).into_iter().collect::<BTreeSet<_>>(), [2, 3, 4].map(|n| key(1, n)).into());
    assert!(again.iter().all(|claimed| !claimed.unknown), "an outcome was said for each");
}

async fn answers_are_kept_up_to_a_limit(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 1).await;
    let attempts = MAX_ANSWERS as u64 + 3;
    for attempt in 1..=attempts {
        let at = 20 + attempt * 10;
        assert_eq!(take(&*port, u128::from(attempt), 1, at).await.len(), 1);
        let outcome = Outcome::Retry { answer: answer(451, at), due_at: after_s(at + 1) };
        settle(&*port, key(1, 1), u128::from(attempt), outcome, at).await;
    }
    let stored = row(&*port, key(1, 1)).await;
    assert_eq!(u64::from(stored.attempts), attempts);
    let kept: Vec<_> = (4..=attempts).map(|attempt| answer(451, 20 + attempt * 10)).collect();
    assert_eq!(stored.answers, kept, "the newest, oldest first");
}

async fn a_released_delivery_is_due_when_it_is_said(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 1).await;
    take(&*port, 1, 10, 20).await;
    settle(&*port, key(1, 1), 1, Outcome::Released { due_at: after_s(300) }, 21).await;
    assert_eq!(take(&*port, 2, 10, 299).await, []);
    let claimed = take(&*port, 3, 10, 300).await;
    assert_eq!((claimed.len(), claimed[0].delivery.attempts), (1, 0));
}

async fn a_lost_lease_settles_nothing(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 1).await;
    take(&*port, 1, 10, 20).await;
    take(&*port, 2, 10, 500).await;
    lost(&*port, key(1, 1), token(1), sent()).await;
    lost(&*port, key(1, 1), token(1), failed(key(1, 1), 550, 500)).await;
    let count = ports.dead_letters().count(&DeadLetterSelection::default()).await.expect("count");
    assert_eq!(count, 0, "a lost lease writes no dead letter");
    settle(&*port, key(1, 1), 2, sent(), 501).await;
    assert_eq!(row(&*port, key(1, 1)).await.state, DeliveryState::Sent);
}

async fn one_lost_lease_harms_no_neighbour(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 3).await;
    take(&*port, 1, 10, 20).await;
    let outcomes = vec![
        (key(1, 1), token(1), sent()),
        (key(1, 2), token(9), sent()),
        (key(1, 3), token(1), Outcome::Suppressed),
    ];
    let answers = port.settle(outcomes, after_s(21)).await.expect("settle");
    let ok: Vec<bool> = answers.iter().map(Result::is_ok).collect();
    assert_eq!(ok, [true, false, true]);
    assert_eq!(row(&*port, key(1, 2)).await.state, DeliveryState::Pending);
    assert_eq!(row(&*port, key(1, 3)).await.state, DeliveryState::Suppressed);
}

async fn a_failed_delivery_has_its_dead_letter_with_it(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 1).await;
    take(&*port, 1, 10, 20).await;
    let outcome = failed(key(1, 1), 550, 21);
    settle(&*port, key(1, 1), 1, outcome.clone(), 21).await;
    let stored = row(&*port, key(1, 1)).await;
    assert_eq!((stored.state, stored.attempts), (DeliveryState::Failed, 1));
    let letters =
        ports.dead_letters().list(&DeadLetterSelection::default(), &page(10, None)).await.expect("list");
    let Outcome::Failed { dead_letter, .. } = outcome else { unreachable!("it makes a failed outcome") };
    assert_eq!(letters.data, [*dead_letter]);
    assert_eq!(take(&*port, 2, 10, 9000).await, []);
}

async fn a_revived_delivery_begins_anew(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 1).await;
    take(&*port, 1, 10, 20).await;
    settle(&*port, key(1, 1), 1, failed(key(1, 1), 550, 21), 21).await;
    port.revive(&[key(1, 1), key(7, 7)], after_s(100)).await.expect("revive");
    let stored = row(&*port, key(1, 1)).await;
    assert_eq!((stored.state, stored.attempts, stored.due_at), (DeliveryState::Pending, 0, after_s(100)));
    assert_eq!(take(&*port, 2, 10, 99).await, []);
    assert_eq!(keys(&take(&*port, 3, 10, 100).await), [key(1, 1)]);
    assert_eq!(send(&*port, key(1, 1), 3, 200).await, Sending::Recorded);
    settle(&*port, key(1, 1), 3, sent(), 101).await;
    assert_eq!(row(&*port, key(1, 1)).await.state, DeliveryState::Sent);
}

async fn reviving_what_has_not_failed_changes_nothing(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    planned(&ports, 1, 4).await;
    take(&*port, 1, 3, 20).await;
    settle(&*port, key(1, 1), 1, sent(), 21).await;
    settle(&*port, key(1, 2), 1, Outcome::Suppressed, 21).await;
    let mut before = Vec::new();
    for reader in 1..=4 {
        before.push(row(&*port, key(1, reader)).await);
    }
    port.revive(&before.iter().map(|row| row.key).collect::<Vec<_>>(), after_s(100)).await.expect("revive");
    for expected in before {
        assert_eq!(row(&*port, expected.key).await, expected);
    }
    // Reader 3 is held: reviving did not take the lease away.
    settle(&*port, key(1, 3), 1, sent(), 22).await;
}

async fn next_due_is_when_something_can_be_claimed(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    let next = async || port.next_due().await.expect("next due");
    assert_eq!(next().await, None);
    planned(&ports, 1, 2).await;
    assert_eq!(next().await, Some(after_s(10)));
    take(&*port, 1, 10, 20).await;
    assert_eq!(next().await, Some(after_s(20).plus(LEASE)), "both are held");
    settle(&*port, key(1, 1), 1, Outcome::Released { due_at: after_s(50) }, 21).await;
    assert_eq!(next().await, Some(after_s(50)));
    settle(&*port, key(1, 2), 1, sent(), 21).await;
    assert_eq!(take(&*port, 2, 10, 50).await.len(), 1);
    assert_eq!(send(&*port, key(1, 1), 2, 700).await, Sending::Recorded);
    assert_eq!(next().await, Some(after_s(700)), "when its lease runs out it is unknown");
    settle(&*port, key(1, 1), 2, sent(), 51).await;
    assert_eq!(next().await, None);
}

async fn a_restart_keeps_what_was_recorded(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    planned(&ports, 1, 2).await;
    let port = ports.deliveries();
    assert_eq!(take(&*port, 1, 10, 20).await.len(), 2);
    assert_eq!(send(&*port, key(1, 1), 1, 100).await, Sending::Recorded);
    drop((port, ports));
    fixture.disturb(Disturbance::Restart).await;
    confirmed(&*fixture.open().await.subscriptions(), 9).await;
    let port = fixture.open().await.deliveries();
    assert_eq!(row(&*port, key(1, 1)).await.state, DeliveryState::Sending);
    let claimed = take(&*port, 2, 10, 200).await;
    let of = |wanted| claimed.iter().find(|claimed| claimed.delivery.key == wanted).expect("it is claimed");
    assert!(of(key(1, 1)).unknown && !of(key(1, 2)).unknown);
}
