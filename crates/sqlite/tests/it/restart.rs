//! What a start finds.

use tidings_domain::{
    delivery::{Claim, DeliveryState, Sending},
    ports::{Clock, Queue, Settlement},
};

use crate::values::{WallClock, consumer, foreign, open, plan, publish, receive, subscribed, token};

#[tokio::test]
async fn a_start_hands_out_again_what_was_not_settled_and_counts_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    publish(&*store.bus(), &["a", "b", "c"]).await.into_iter().for_each(|answer| answer.unwrap());
    let first = consumer(&store).await;
    let received = receive(&*first, 3).await;
    assert!(received.iter().all(|received| received.returns == 0));
    assert!(first.settle(vec![(received[1].lease, Settlement::Done)]).await[0].is_ok());
    let stale = received[0].lease;
    store.close().await;
    for returns in 1..=3 {
        let store = open(folder.path()).await;
        let consumer = consumer(&store).await;
        let again = receive(&*consumer, 2).await;
        assert_eq!([&again[0].envelope.body, &again[1].envelope.body], ["a", "c"]);
        assert!(again.iter().all(|received| received.returns == returns));
        assert_eq!(again[0].envelope.headers["id"], "ä\"\\");
        assert!(consumer.settle(vec![(stale, Settlement::Done)]).await[0].is_err());
        store.close().await;
    }
}

#[tokio::test]
async fn what_was_handed_out_1000_times_goes_to_the_safety_net() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    publish(&*store.bus(), &["worn out", "well"]).await.into_iter().for_each(|answer| answer.unwrap());
    store.close().await;
    let worn = "UPDATE queue_items SET opened = opened - 999 WHERE body = x'776f726e206f7574'";
    sqlx::query(worn).execute(&mut foreign(folder.path()).await).await.unwrap();
    let store = open(folder.path()).await;
    let consumer = consumer(&store).await;
    assert_eq!(receive(&*consumer, 1).await[0].envelope.body, "well");
    let net = store.bus().consume(Queue::ItemsDead, 10).await.unwrap();
    let received = receive(&*net, 1).await;
    assert_eq!((&received[0].envelope.body[..], received[0].returns), (&b"worn out"[..], 0));
    assert!(net.settle(vec![(received[0].lease, Settlement::Done)]).await[0].is_ok());
}

#[tokio::test]
async fn a_consumer_that_dies_is_counted_also_over_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    publish(&*store.bus(), &["a"]).await.remove(0).unwrap();
    for returns in 0..3 {
        let dying = consumer(&store).await;
        assert_eq!(receive(&*dying, 1).await[0].returns, returns);
    }
    store.close().await;
    let store = open(folder.path()).await;
    assert_eq!(receive(&*consumer(&store).await, 1).await[0].returns, 4);
}

#[tokio::test]
async fn a_long_backlog_is_read_in_order_while_more_comes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let bodies: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    for chunk in bodies.chunks(100) {
        let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
        publish(&*store.bus(), &chunk).await.into_iter().for_each(|answer| answer.unwrap());
    }
    store.close().await;
    let store = open(folder.path()).await;
    let consumer = consumer(&store).await;
    for number in 0..1000 {
        let received = receive(&*consumer, 1).await;
        assert_eq!(received[0].envelope.body, number.to_string());
        assert!(consumer.settle(vec![(received[0].lease, Settlement::Done)]).await[0].is_ok());
        if number % 100 == 0 {
            publish(&*store.bus(), &["later"]).await.remove(0).unwrap();
        }
    }
    let later = receive(&*consumer, 10).await;
    assert!(later.iter().all(|received| received.envelope.body == "later"));
}

#[tokio::test]
async fn a_delivery_that_was_sending_is_unknown_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let subscription = subscribed(&store, 7).await;
    let now = WallClock.now();
    let claim = |number| Claim {
        token: token(number),
        owner: "mailer".to_owned(),
        at: now,
        until: now.plus(std::time::Duration::from_secs(1)),
    };
    let item = crate::values::id(1);
    let deliveries = store.deliveries();
    deliveries.plan(vec![plan(item, &[subscription], Some(claim(1)))]).await.unwrap();
    let key = deliveries.list(item.0, &Default::default()).await.unwrap().data[0].key;
    assert_eq!(deliveries.sending(&[(key, token(1))], claim(1).until).await.unwrap(), [Sending::Recorded]);
    store.close().await;
    // Claimed twice, each lease running out before anything was tried: one unknown.
    let store = open(folder.path()).await;
    for round in 1..=2_u32 {
        let at = now.plus(std::time::Duration::from_secs(u64::from(round) * 10));
        let claim =
            Claim { at, until: at.plus(std::time::Duration::from_secs(1)), ..claim(u128::from(round) + 1) };
        let claimed = store.deliveries().claim(10, &claim).await.unwrap();
        assert!(claimed[0].unknown);
        assert_eq!((claimed[0].delivery.attempts, claimed[0].delivery.unknowns), (1, 1));
        assert_eq!(claimed[0].delivery.state, DeliveryState::Sending);
    }
}

#[tokio::test]
async fn the_secret_is_made_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut secrets = Vec::new();
    for _ in 0..2 {
        let store = open(folder.path()).await;
        let installation = store.catalog().installation().await.unwrap().unwrap();
        assert_eq!(installation.version, 1);
        secrets.push(*installation.secret.bytes());
        store.close().await;
    }
    assert_eq!(secrets[0], secrets[1]);
    assert_ne!(secrets[0], [0; 32]);
}
