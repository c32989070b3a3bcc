//! Retention beyond the suites: what belongs to no item goes by its own age.

use bytes::Bytes;
use tidings_domain::{
    address::EmailAddress,
    dead_letter::{DeadLetter, DeadLetterSource, reason},
    delivery::{Claim, Outcome},
    filter::Filter,
    id::{DeadLetterId, SubscriptionId},
    subscription::SubscriptionRequest,
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};
use uuid::Uuid;

use crate::values::{foreign, id, item, open, token};

fn letter(number: u128, about: Option<Uuid>, at: i64) -> DeadLetter {
    DeadLetter {
        id: DeadLetterId(Uuid::from_u128(number)),
        source: DeadLetterSource::Items,
        topic: None,
        message_id: about,
        delivery: None,
        reason: reason::UNDECODABLE.to_owned(),
        detail: "a test".to_owned(),
        headers: Default::default(),
        body: Bytes::from_static(b"\xff\0"),
        attempts: 0,
        created_at: Timestamp::from_millis(at),
        marked_at: None,
    }
}

#[tokio::test]
async fn confirmations_and_letters_about_nothing_go_by_their_age() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let request = SubscriptionRequest {
        new_id: SubscriptionId(Uuid::from_u128(9)),
        topic: TopicName::messages(),
        email: EmailAddress::parse("ann@example.com").unwrap(),
        filter: Filter::default(),
        confirmed_by: None,
        by_admin: false,
        at: Timestamp::from_millis(1000),
    };
    store.subscriptions().request(&request, &TraceContext::default()).await.unwrap();
    store.items().insert(&[item(1, "kept")]).await.unwrap();
    let letters = [
        letter(1, None, 1000),
        letter(2, Some(id(7).0), 1000),
        letter(3, Some(id(1).0), 1000),
        letter(4, None, 3000),
    ];
    store.dead_letters().put(letters.to_vec()).await.unwrap();
    let before = Timestamp::from_millis(2000);
    let expired = store.items().expire(before, 10).await.unwrap();
    assert_eq!((expired.removed, expired.open, expired.more), (0, 0, false));
    let left = store.dead_letters().list(&Default::default(), &Default::default()).await.unwrap().data;
    assert_eq!(left.iter().map(|letter| letter.id.0.as_u128()).collect::<Vec<_>>(), [4, 3]);
    assert_eq!(left[0], letters[3], "what stays stays as it was");
    // The confirmation is open and stays until it is not.
    let deliveries = store.deliveries();
    assert_eq!(deliveries.counts().await.unwrap().pending, 1);
    let claim = Claim {
        token: token(1),
        owner: "mailer".to_owned(),
        at: Timestamp::from_millis(1000),
        until: Timestamp::from_millis(5000),
    };
    let claimed = deliveries.claim(1, &claim).await.unwrap();
    let settled = (claimed[0].delivery.key, token(1), Outcome::Suppressed);
    deliveries.settle(vec![settled], Timestamp::from_millis(1500)).await.unwrap().remove(0).unwrap();
    assert_eq!(deliveries.counts().await.unwrap().total(), 1);
    store.items().expire(before, 10).await.unwrap();
    assert_eq!(deliveries.counts().await.unwrap().total(), 0);
}

/// A step of 500 items with ten thousand recipients each would hold up every post and every lease meanwhile.
#[tokio::test]
async fn a_step_is_bounded_by_rows_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    store.items().insert(&[1, 2, 3, 4].map(|number| item(number, "x"))).await.unwrap();
    let notified = "INSERT INTO notifications
            (item, round, topic, replay, captured_at, published_at, cursor, finished, planned)
        SELECT id, 0, topic, NULL, 0, 0, NULL, 1, 6000 FROM items";
    sqlx::query(notified).execute(&mut foreign(folder.path()).await).await.unwrap();
    let expire = async || store.items().expire(Timestamp::MAX, 500).await.unwrap();
    let (first, second) = (expire().await, expire().await);
    assert_eq!((first.removed, first.open, first.more), (2, 0, true));
    assert_eq!((second.removed, second.more), (2, false));
}
