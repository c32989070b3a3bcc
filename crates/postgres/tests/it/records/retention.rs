//! Retention, and what others write under its hands.

use sqlx::{AssertSqlSafe, PgConnection};
use tidings_domain::ports::Expired;

use super::{
    rig::{Rig, at, item, message_id},
    servers::{foreign, run, somebody_waits},
};

/// An item that is past retention, with a mail that was given up and its letter.
async fn old_item(rig: &Rig) {
    rig.store.items().insert(&[item(1, "old")]).await.unwrap();
    let id = message_id(1);
    rig.sql(&format!(
        "insert into notifications (item, round, topic, captured_at, published_at, finished, planned)
            values ('{id}', 0, 'messages', now(), now(), true, 1);
        insert into deliveries (about, subscription, round, kind, topic, state, due_at, created_at)
            values ('{id}', gen_random_uuid(), 0, 'item', 'messages', 'failed', now(), now());
        insert into dead_letters (id, source, message_id, reason, detail, attempts, created_at, headers, body)
            values (gen_random_uuid(), 'deliveries', '{id}', 'refused', '', 1, now(), '{{}}', '')"
    ))
    .await;
}

/// One step, during which another program's transaction that did `act` first is committed.
async fn step_during(rig: &Rig, act: &str) -> Expired {
    let mut other: PgConnection = foreign(&rig.options.url).await;
    run(&mut other, "begin").await;
    sqlx::raw_sql(AssertSqlSafe(act.to_owned())).execute(&mut other).await.unwrap();
    let items = rig.store.items();
    let (expired, ()) = tokio::join!(items.expire(at(100), 10), async {
        somebody_waits(&mut other).await;
        run(&mut other, "commit").await;
    });
    expired.unwrap()
}

/// Items, notifications, deliveries and letters.
async fn rows(rig: &Rig) -> String {
    rig.sql(
        "select concat_ws(' ', (select count(*) from items), (select count(*) from notifications),
            (select count(*) from deliveries), (select count(*) from dead_letters))",
    )
    .await
}

#[tokio::test]
async fn what_is_replayed_under_its_hands_stays() {
    let rig = Rig::new().await;
    old_item(&rig).await;
    let id = message_id(1);
    let replay = format!(
        "update notifications set replay = 'r1', planned = 2;
        insert into deliveries (about, subscription, round, kind, topic, state, due_at, created_at)
            values ('{id}', gen_random_uuid(), 0, 'item', 'messages', 'pending', now(), now())"
    );
    let expired = step_during(&rig, &replay).await;
    assert_eq!((expired.removed, expired.open), (0, 1));
    assert_eq!(rows(&rig).await, "1 1 2 1");
    rig.sql("update deliveries set state = 'sent'").await;
    let expired = rig.store.items().expire(at(100), 10).await.unwrap();
    assert_eq!((expired.removed, expired.open, expired.more), (1, 0, false));
    assert_eq!(rows(&rig).await, "0 0 0 0", "all of it");
    rig.end().await;
}

#[tokio::test]
async fn what_is_marked_under_its_hands_stays() {
    let rig = Rig::new().await;
    old_item(&rig).await;
    let expired = step_during(&rig, "update dead_letters set marked_at = now()").await;
    assert_eq!((expired.removed, expired.open), (0, 1));
    assert_eq!(rows(&rig).await, "1 1 1 1");
    rig.end().await;
}

/// A new round has no row yet that could be locked: what is planned after the last look stays whole.
#[tokio::test]
async fn a_new_round_under_its_hands_is_never_taken_in_half() {
    let rig = Rig::new().await;
    old_item(&rig).await;
    let id = message_id(1);
    let round = format!(
        "update dead_letters set reason = reason;
        insert into notifications (item, round, topic, captured_at, published_at, finished, planned)
            values ('{id}', 1, 'messages', now(), now(), false, 1);
        insert into deliveries (about, subscription, round, kind, topic, state, due_at, created_at)
            values ('{id}', gen_random_uuid(), 1, 'item', 'messages', 'pending', now(), now())"
    );
    let expired = step_during(&rig, &round).await;
    assert_eq!((expired.removed, expired.open), (0, 1));
    assert_eq!(rows(&rig).await, "1 2 2 1");
    rig.end().await;
}
