use uuid::Uuid;

use super::*;

fn id(number: usize) -> MessageId {
    MessageId(Uuid::from_u128(number as u128))
}

fn at(seconds: u64) -> Timestamp {
    crate::epoch().plus(Duration::from_secs(seconds))
}

fn keyed(number: usize, what: u8) -> Request {
    Request { buckets: Vec::new(), cost: 1, fingerprints: vec![(id(number), Fingerprint([what; 32]))] }
}

async fn is_different(limits: &InProcessLimits, number: usize, what: u8, seconds: u64) -> bool {
    match limits.admit(&keyed(number, what), at(seconds)).await.unwrap() {
        Admission::Go { different } => different[0],
        Admission::Wait { .. } => panic!("nothing limits the rate"),
    }
}

#[tokio::test]
async fn the_oldest_fingerprint_goes_for_a_newer_one() {
    let limits = InProcessLimits::new();
    for number in 0..MAX_FINGERPRINTS {
        is_different(&limits, number, 1, 1 + number as u64 / 1000).await;
    }
    assert!(is_different(&limits, 0, 2, 500).await, "all of them are remembered");
    is_different(&limits, MAX_FINGERPRINTS, 1, 500).await;
    assert_eq!(limits.lock().fingerprints.entries.len(), MAX_FINGERPRINTS);
    assert!(!is_different(&limits, 0, 2, 500).await, "the first of the oldest is forgotten");
    assert!(is_different(&limits, 5000, 2, 500).await, "a younger one is not");
}

#[tokio::test]
async fn a_fingerprint_is_forgotten_after_its_time() {
    let limits = InProcessLimits::new();
    is_different(&limits, 1, 1, 0).await;
    assert!(is_different(&limits, 1, 2, REMEMBERED.as_secs()).await);
    assert!(!is_different(&limits, 1, 2, REMEMBERED.as_secs() + 1).await);
}

#[tokio::test]
async fn accepted_ids_are_bounded_in_number_and_age() {
    let limits = InProcessLimits::new();
    let ids: Vec<MessageId> = (0..=MAX_ACCEPTED).map(id).collect();
    limits.accepted(&ids[..1], at(0)).await.unwrap();
    limits.accepted(&ids[1..], at(1)).await.unwrap();
    assert_eq!(limits.lock().accepted.entries.len(), MAX_ACCEPTED);
    let known = limits.is_accepted(&[ids[0], ids[1]]).await.unwrap();
    assert_eq!(known, [None, Some(at(1))]);
    limits.accepted(&[id(MAX_ACCEPTED + 1)], at(ACCEPTED_REMEMBERED.as_secs() + 2)).await.unwrap();
    assert_eq!(limits.lock().accepted.entries.len(), 1);
}

#[tokio::test]
async fn the_bucket_drawn_from_longest_ago_goes_for_a_new_one() {
    let limits = InProcessLimits::new();
    let draw = async |number: usize, seconds| {
        let bucket = Bucket { name: format!("{number:06}"), per_second: 1, burst: 1 };
        let request = Request { buckets: vec![bucket], cost: 1, fingerprints: Vec::new() };
        matches!(limits.admit(&request, at(seconds)).await.unwrap(), Admission::Go { .. })
    };
    for number in 0..MAX_BUCKETS {
        assert!(draw(number, 0).await);
    }
    assert!(!draw(MAX_BUCKETS - 1, 0).await, "it is empty and remembered");
    assert!(draw(MAX_BUCKETS, 0).await);
    assert_eq!(limits.lock().buckets.entries.len(), MAX_BUCKETS);
}

#[tokio::test]
async fn a_cost_above_the_burst_waits_for_a_full_bucket_which_then_owes() {
    let limits = InProcessLimits::new();
    let request = Request {
        buckets: vec![Bucket { name: "owner".to_owned(), per_second: 10, burst: 100 }],
        cost: 1000,
        fingerprints: Vec::new(),
    };
    let retry_after = async |seconds| match limits.admit(&request, at(seconds)).await.unwrap() {
        Admission::Go { .. } => None,
        Admission::Wait { retry_after } => Some(retry_after),
    };
    assert_eq!(retry_after(0).await, None, "a full bucket lets it through");
    assert_eq!(retry_after(0).await, Some(Duration::from_secs(100)), "900 owed and 100 to be full");
    assert_eq!(retry_after(100).await, None);
}

#[tokio::test]
async fn a_clock_that_goes_back_refills_nothing_twice() {
    let limits = InProcessLimits::new();
    let request = Request {
        buckets: vec![Bucket { name: "owner".to_owned(), per_second: 1, burst: 10 }],
        cost: 5,
        fingerprints: Vec::new(),
    };
    let goes =
        async |seconds| matches!(limits.admit(&request, at(seconds)).await.unwrap(), Admission::Go { .. });
    assert!(goes(100).await);
    assert!(goes(50).await);
    assert!(!goes(100).await, "fifty seconds were not refilled a second time");
    assert!(goes(105).await);
}
