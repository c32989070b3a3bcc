//! `Limits`.

use std::{sync::Arc, time::Duration};

use tidings_domain::{
    id::MessageId,
    idempotency::Fingerprint,
    ports::{Admission, Bucket, Limits, Request},
    time::Timestamp,
};

use crate::{
    Fixture,
    runner::suite,
    samples::{after_s, message_id, start},
};

suite!(Limits {
    nothing_to_limit_goes,
    a_bucket_gives_its_burst_and_then_its_rate,
    a_cost_is_drawn_whole_or_not_at_all,
    every_bucket_must_have_the_cost,
    buckets_are_apart_by_name,
    the_same_fingerprint_is_the_same,
    another_fingerprint_is_different_and_stops_no_other,
    what_had_to_wait_is_not_remembered,
    what_is_forgotten_may_differ,
    a_fingerprint_is_remembered_within_a_request,
    accepted_is_remembered_with_its_first_time,
});

fn bucket(name: &str, per_second: u32, burst: u32) -> Bucket {
    Bucket { name: name.to_owned(), per_second, burst }
}

fn draw(buckets: Vec<Bucket>, cost: u32) -> Request {
    Request { buckets, cost, fingerprints: Vec::new() }
}

fn says(number: u128, what: u8) -> (MessageId, Fingerprint) {
    (message_id(number), Fingerprint([what; 32]))
}

fn keyed(fingerprints: Vec<(MessageId, Fingerprint)>) -> Request {
    Request { buckets: Vec::new(), cost: 1, fingerprints }
}

async fn admit(limits: &dyn Limits, request: &Request, at: Timestamp) -> Admission {
    limits.admit(request, at).await.expect("admit")
}

async fn go(limits: &dyn Limits, request: &Request, at: Timestamp) -> Vec<bool> {
    match admit(limits, request, at).await {
        Admission::Go { different } => different,
        Admission::Wait { retry_after } => panic!("told to wait {retry_after:?}"),
    }
}

async fn wait(limits: &dyn Limits, request: &Request, at: Timestamp) -> Duration {
    match admit(limits, request, at).await {
        Admission::Wait { retry_after } => retry_after,
        Admission::Go { .. } => panic!("admitted"),
    }
}

async fn nothing_to_limit_goes(fixture: Arc<dyn Fixture>) {
    let limits = fixture.open().await.limits();
    for _ in 0..100 {
        assert_eq!(go(&*limits, &draw(vec![], 1000), start()).await, Vec::<bool>::new());
    }
}

async fn a_bucket_gives_its_burst_and_then_its_rate(fixture: Arc<dyn Fixture>) {
    let limits = fixture.open().await.limits();
    let one = draw(vec![bucket("owner", 2, 10)], 1);
    for _ in 0..10 {
        go(&*limits, &one, start()).await;
    }
    let retry_after = wait(&*limits, &one, start()).await;
    assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_millis(600), "{retry_after:?}");
    // Told the time, it is there after it.
    go(&*limits, &one, start().plus(Duration::from_millis(501))).await;
    wait(&*limits, &one, start().plus(Duration::from_millis(501))).await;
    for _ in 0..10 {
        go(&*limits, &one, after_s(3600)).await;
    }
    wait(&*limits, &one, after_s(3600)).await;
}

async fn a_cost_is_drawn_whole_or_not_at_all(fixture: Arc<dyn Fixture>) {
    let limits = fixture.open().await.limits();
    go(&*limits, &draw(vec![bucket("owner", 1, 10)], 7), start()).await;
    wait(&*limits, &draw(vec![bucket("owner", 1, 10)], 4), start()).await;
    go(&*limits, &draw(vec![bucket("owner", 1, 10)], 3), start()).await;
}

async fn every_bucket_must_have_the_cost(fixture: Arc<dyn Fixture>) {
    let limits = fixture.open().await.limits();
    let (owner, narrow) = (bucket("owner", 1, 10), bucket("topic", 1, 3));
    go(&*limits, &draw(vec![owner.clone(), narrow.clone()], 3), start()).await;
    wait(&*limits, &draw(vec![owner.clone(), narrow], 3), start()).await;
    // The first bucket gave nothing to the one that had to wait.
    go(&*limits, &draw(vec![owner], 7), start()).await;
}

async fn buckets_are_apart_by_name(fixture: Arc<dyn Fixture>) {
    let limits = fixture.open().await.limits();
    go(&*limits, &draw(vec![bucket("a", 1, 1)], 1), start()).await;
    wait(&*limits, &draw(vec![bucket("a", 1, 1)], 1), start()).await;
    go(&*limits, &draw(vec![bucket("b", 1, 1)], 1), start()).await;
}

async fn the_same_fingerprint_is_the_same(fixture: Arc<dyn Fixture>) {
    let limits = fixture.open().await.limits();
    for seconds in [0, 1, 3600, 23 * 3600] {
        assert_eq!(
            go(&*limits, &keyed(vec![says(1, 7)]), after_s(seconds)).await,
            [false],
            "after {seconds} s"
        );
    }
}

async fn another_fingerprint_is_different_and_stops_no_other(fixture: Arc<dyn Fixture>) {
    let limits = fixture.open().await.limits();
    go(&*limits, &keyed(vec![says(1, 7)]), start()).await;
    let mixed = keyed(vec![says(2, 7), says(1, 8), says(3, 7)]);
    assert_eq!(go(&*limits, &mixed, after_s(1)).await, [false, true, false]);
    // The first is still what is remembered, and so are the neighbours of the refused one.
    let again = keyed(vec![says(1, 7), says(2, 8), says(3, 7)]);
    assert_eq!(go(&*limits, &again, after_s(2)).await, [false, true, false]);
}

async fn what_had_to_wait_is_not_remembered(fixture: Arc<dyn Fixture>) {
    let limits = fixture.open().await.limits();
    let with =
        |what| Request { buckets: vec![bucket("owner", 1, 1)], cost: 1, fingerprints: vec![says(1, what)] };
    go(&*limits, &draw(vec![bucket("owner", 1, 1)], 1), start()).await;
    wait(&*limits, &with(7), start()).await;
    assert_eq!(go(&*limits, &with(8), after_s(5)).await, [false]);
}

async fn what_is_forgotten_may_differ(fixture: Arc<dyn Fixture>) {
    let limits = fixture.open().await.limits();
    go(&*limits, &keyed(vec![says(1, 7), says(2, 7)]), start()).await;
    limits.forget(&[message_id(1), message_id(9)]).await.expect("forget");
    assert_eq!(go(&*limits, &keyed(vec![says(1, 8), says(2, 8)]), after_s(1)).await, [false, true]);
}

async fn a_fingerprint_is_remembered_within_a_request(fixture: Arc<dyn Fixture>) {
    let limits = fixture.open().await.limits();
    let request = keyed(vec![says(1, 7), says(1, 7), says(1, 8)]);
    assert_eq!(go(&*limits, &request, start()).await, [false, false, true]);
}

async fn accepted_is_remembered_with_its_first_time(fixture: Arc<dyn Fixture>) {
    let limits = fixture.open().await.limits();
    let ids = [1, 2, 3].map(message_id);
    assert_eq!(limits.is_accepted(&ids).await.expect("ask"), [None, None, None]);
    limits.accepted(&[ids[0], ids[2]], after_s(1)).await.expect("remember");
    limits.accepted(&[ids[0]], after_s(2)).await.expect("remember");
    let expected = [Some(after_s(1)), None, Some(after_s(1))];
    assert_eq!(limits.is_accepted(&ids).await.expect("ask"), expected);
}
