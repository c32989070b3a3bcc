//! Other programs that write into the file.

use std::time::{Duration, Instant};

use tidings_domain::{
    ErrorKind,
    id::{MessageId, SubscriptionId},
    page::PageRequest,
    ports::{BusTopic, DependencyState, Inserted, ItemQuery, Queue, Settlement, SubscriptionQuery},
    subscription::Act,
    time::Timestamp,
    topic::TopicName,
};

use uuid::Uuid;

use crate::values::{SOON, consumer, envelope, foreign, item, next, open, publish, receive, subscribed};

#[tokio::test]
async fn rows_that_others_add_are_seen_within_100_ms() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut other = foreign(folder.path()).await;
    let mut stream = store.changes().open().await.unwrap();
    let mut waits = Vec::new();
    for _ in 0..9 {
        let waiting = stream.next(1, SOON);
        let inserting = async {
            sqlx::query("INSERT INTO items (topic, message) VALUES ('messages', 'by hand')")
                .execute(&mut other)
                .await
                .unwrap();
            Instant::now()
        };
        let (captured, inserted_at) = tokio::join!(waiting, inserting);
        waits.push(inserted_at.elapsed());
        let change = captured.unwrap().remove(0).content.unwrap();
        assert_eq!(change.item.message.text.as_str(), "by hand");
        assert_eq!(change.item.message.id.0.get_version_num(), 4);
    }
    // The median, since the machine may be busy with something else once.
    waits.sort();
    assert!(waits[4] < Duration::from_millis(100), "{waits:?}");
}

#[tokio::test]
async fn a_row_that_is_no_item_comes_as_its_bytes_and_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut other = foreign(folder.path()).await;
    sqlx::query("INSERT INTO items (topic, message) VALUES ('messages', CAST(x'68c32869' AS TEXT))")
        .execute(&mut other)
        .await
        .unwrap();
    store.items().insert(&[item(1, "good")]).await.unwrap();
    let mut stream = store.changes().open().await.unwrap();
    let captured = next(&mut *stream, 2).await;
    let unreadable = captured[0].content.as_ref().unwrap_err();
    let text = String::from_utf8_lossy(&unreadable.bytes);
    let id = unreadable.message_id.expect("its id can be read").to_string();
    assert!(text.contains("\"topic\":\"messages\"") && text.contains(&id), "{text}");
    assert_eq!(unreadable.topic, Some(TopicName::messages()));
    assert!(unreadable.detail.contains("not UTF-8"), "{}", unreadable.detail);
    assert_eq!(captured[1].content.as_ref().unwrap().item.message.text.as_str(), "good");
    stream.confirm(captured[1].position).await.unwrap();
    assert_eq!(store.changes().backlog().await.unwrap(), 0);
    // Listing leaves it out and goes on.
    let listed = store.items().list(&Default::default()).await.unwrap();
    assert_eq!(listed.data.len(), 1);
}

#[tokio::test]
async fn an_item_that_was_taken_out_before_it_was_seen_is_no_change() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    store.items().insert(&[item(1, "gone"), item(2, "stays")]).await.unwrap();
    let gone = "DELETE FROM items WHERE message = 'gone'";
    sqlx::query(gone).execute(&mut foreign(folder.path()).await).await.unwrap();
    let mut stream = store.changes().open().await.unwrap();
    let captured = next(&mut *stream, 1).await;
    assert_eq!(captured[0].content.as_ref().unwrap().item.message.text.as_str(), "stays");
    stream.confirm(captured[0].position).await.unwrap();
    assert_eq!(store.changes().backlog().await.unwrap(), 0);
}

#[tokio::test]
async fn event_ids_are_never_used_twice() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut seen = std::collections::BTreeSet::new();
    for number in 1..=3 {
        store.items().insert(&[item(number, "x")]).await.unwrap();
        let mut stream = store.changes().open().await.unwrap();
        let captured = next(&mut *stream, 1).await;
        // Confirmed and removed: the table of changes is empty for the next.
        stream.confirm(captured[0].position).await.unwrap();
        assert!(seen.insert(captured[0].content.as_ref().unwrap().event_id.clone()));
    }
}

#[tokio::test]
async fn a_transaction_that_another_program_leaves_open_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut other = foreign(folder.path()).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let bus = store.bus();
    let bodies = ["waits"];
    let (answers, ()) = tokio::join!(publish(&*bus, &bodies), async {
        // Reads are not held up meanwhile.
        store.items().ping().await.unwrap();
        sqlx::query("COMMIT").execute(&mut other).await.unwrap();
    });
    answers.into_iter().for_each(|answer| answer.unwrap());
}

#[tokio::test]
async fn a_message_that_another_program_puts_into_a_queue_clashes_with_none_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    publish(&*store.bus(), &["first"]).await.remove(0).unwrap();
    let consumer = consumer(&store).await;
    assert_eq!(receive(&*consumer, 1).await[0].envelope.body, "first");
    let mut other = foreign(folder.path()).await;
    let put = "INSERT INTO queue_items (opened, headers, body) VALUES (0, '{}', x'7468656972')";
    sqlx::query(put).execute(&mut other).await.unwrap();
    // Ours would get the same number: it is written all the same.
    publish(&*store.bus(), &["ours"]).await.remove(0).unwrap();
    let mut bodies: Vec<_> = Vec::new();
    while !bodies.contains(&"ours".into()) {
        bodies.extend(receive(&*consumer, 1).await.into_iter().map(|received| received.envelope.body));
    }
    drop(consumer);
    store.close().await;
    // Theirs comes with the next start at the latest.
    let store = open(folder.path()).await;
    let consumer = crate::values::consumer(&store).await;
    let mut all: Vec<_> =
        receive(&*consumer, 3).await.into_iter().map(|received| received.envelope.body).collect();
    all.sort();
    assert_eq!(all, ["first", "ours", "their"]);
}

#[tokio::test]
async fn a_topic_whose_row_is_gone_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let orders = TopicName::parse("orders").unwrap();
    store.topology().declare(std::slice::from_ref(&orders)).await.unwrap();
    sqlx::query("DELETE FROM bus_topics WHERE name = 'tidings-topic-orders'")
        .execute(&mut foreign(folder.path()).await)
        .await
        .unwrap();
    let bus = store.bus();
    let batch = || vec![envelope("x")];
    let topic = BusTopic::Messages(orders.clone());
    let (refused, taken) = tokio::join!(bus.publish(&topic, batch()), publish(&*bus, &["y"]));
    assert_eq!(refused[0].as_ref().unwrap_err().kind, ErrorKind::NotFound);
    assert!(taken[0].is_ok());
    let consumer = consumer(&store).await;
    let received = receive(&*consumer, 1).await;
    assert_eq!(received[0].envelope.body, "y");
    assert!(consumer.settle(vec![(received[0].lease, Settlement::Done)]).await[0].is_ok());
    assert_eq!(store.items().get(&[MessageId(uuid::Uuid::nil())]).await.unwrap(), [None]);
}

#[tokio::test]
async fn a_row_that_a_hand_has_broken_refuses_nobody_elses_write() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let broken = "INSERT INTO subscriptions (id, topic, email, filter, state, generation, created_at, requested_at)
        VALUES ('00000000-0000-0000-0000-000000000001', 'messages', 'ann@example.com', '{\"a\": 1}', 'pending', 1, 0, 0)";
    sqlx::query(broken).execute(&mut foreign(folder.path()).await).await.unwrap();
    let subscriptions = store.subscriptions();
    let broken = SubscriptionId(uuid::Uuid::from_u128(1));
    let act = subscriptions.act(broken, Act::Confirm, 1, Timestamp::from_millis(1));
    let bus = store.bus();
    let items = store.items();
    let new = [item(1, "x")];
    // Together they are one group.
    let (published, acted, inserted) = tokio::join!(publish(&*bus, &["y"]), act, items.insert(&new));
    assert_eq!(acted.unwrap_err().kind, ErrorKind::Rejected);
    assert!(published[0].is_ok(), "{published:?}");
    assert_eq!(inserted.unwrap(), [Inserted::New]);
    assert_eq!(store.dependency().state(), DependencyState::Up);
}

#[tokio::test]
async fn subscriptions_that_no_server_could_read_are_refused_by_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut other = foreign(folder.path()).await;
    let good = ("messages", "ann@example.com", "");
    let bad = [
        ("Messages", good.1, good.2),
        (good.0, "ann", good.2),
        (good.0, "ann@b@example.com", good.2),
        (good.0, "ann@example.com\r\nBcc: b@example.com", good.2),
        (good.0, "ann\u{7f}@example.com", good.2),
        (good.0, "a nn@example.com", good.2),
        (good.0, good.1, "x"),
        (good.0, good.1, "[]"),
        (good.0, good.1, "{"),
    ];
    for (number, (topic, email, filter)) in bad.into_iter().chain([good]).enumerate() {
        let inserted = sqlx::query(
            "INSERT INTO subscriptions (id, topic, email, filter, state, generation, created_at, requested_at)
            VALUES (?1, ?2, ?3, ?4, 'confirmed', 1, 0, 0)",
        )
        .bind(Uuid::from_u128(number as u128).to_string())
        .bind(topic)
        .bind(email)
        .bind(filter)
        .execute(&mut other)
        .await;
        assert_eq!(inserted.is_ok(), (topic, email, filter) == good, "{topic} {email:?} {filter}");
    }
    let read = store.subscriptions().confirmed(&TopicName::messages(), None, 10).await.unwrap();
    assert_eq!(read.len(), 1);
    assert!(read[0].filter.is_empty(), "no text is no filter");
}

#[tokio::test]
async fn subscriptions_that_cannot_be_read_are_passed_over_and_hold_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut whole = Vec::new();
    for number in 1..=6 {
        whole.push(subscribed(&store, number).await);
    }
    // An object, and yet no filter: the table cannot tell.
    let broken = "UPDATE subscriptions SET filter = '{\"a\": 1}' WHERE email IN
        ('a2@example.com', 'a3@example.com', 'a6@example.com')";
    sqlx::query(broken).execute(&mut foreign(folder.path()).await).await.unwrap();
    let subscriptions = store.subscriptions();
    let got = subscriptions.get(&whole).await.unwrap();
    assert_eq!(got.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false, true, true, false]);
    let mut pages = Vec::new();
    let mut after = None;
    loop {
        let page = subscriptions.confirmed(&TopicName::messages(), after, 2).await.unwrap();
        after = page.last().map(|last| last.id);
        pages.push(page.len());
        if page.len() < 2 {
            break;
        }
    }
    assert_eq!((pages, after), (vec![2, 1], Some(whole[4])), "a full page is full of those that can be read");
    let mut query = SubscriptionQuery { page: PageRequest { limit: 1, cursor: None }, ..Default::default() };
    let mut listed = Vec::new();
    loop {
        let page = subscriptions.list(&query).await.unwrap();
        listed.extend(page.data.into_iter().map(|subscription| subscription.id.0.as_u128()));
        match page.next_cursor {
            Some(cursor) => query.page.cursor = Some(cursor),
            None => break,
        }
    }
    listed.sort_unstable();
    assert_eq!(listed, [1, 4, 5]);
}

#[tokio::test]
async fn items_that_cannot_be_read_do_not_end_a_list() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut other = foreign(folder.path()).await;
    // All that a hand can do: 1, 2 and 5 come last, in the middle and first.
    sqlx::query("PRAGMA ignore_check_constraints = 1").execute(&mut other).await.unwrap();
    for number in 1..=5 {
        let at = if [1, 2, 5].contains(&number) {
            format!("2026-02-30T29:59:5{number}.999Z")
        } else {
            format!("2026-03-0{number}T00:00:00.000Z")
        };
        let at = if number == 5 { "2026-13-01T00:00:00.000Z".to_owned() } else { at };
        let inserted =
            sqlx::query("INSERT INTO items (id, topic, message, stored_at) VALUES (?1, 'messages', 'x', ?2)")
                .bind(Uuid::from_u128(number).to_string())
                .bind(at);
        inserted.execute(&mut other).await.unwrap();
    }
    store.items().insert(&[item(6, "before them all"), item(7, "too")]).await.unwrap();
    let older = "2025-01-01T00:00:00.000Z";
    sqlx::query("INSERT INTO items (id, topic, message, stored_at) VALUES (?1, 'messages', 'oldest', ?2)")
        .bind(Uuid::from_u128(8).to_string())
        .bind(older)
        .execute(&mut other)
        .await
        .unwrap();
    for limit in 1..=4 {
        let mut query = ItemQuery { page: PageRequest { limit, cursor: None }, ..Default::default() };
        let mut listed = Vec::new();
        loop {
            let page = store.items().list(&query).await.unwrap();
            listed.extend(page.data.into_iter().map(|item| item.message.id.0.as_u128()));
            match page.next_cursor {
                Some(cursor) => query.page.cursor = Some(cursor),
                None => break,
            }
        }
        assert_eq!(listed, [7, 6, 4, 3, 8], "in pages of {limit}");
    }
}

#[tokio::test]
async fn what_could_not_be_moved_to_the_safety_net_is_moved_later() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    publish(&*store.bus(), &["worn out"]).await.remove(0).unwrap();
    store.close().await;
    let mut other = foreign(folder.path()).await;
    for statement in [
        "UPDATE queue_items SET opened = -5000",
        "CREATE TRIGGER no_net BEFORE INSERT ON queue_items_dead BEGIN SELECT RAISE(ABORT, 'a test'); END",
    ] {
        sqlx::query(statement).execute(&mut other).await.unwrap();
    }
    let store = open(folder.path()).await;
    let consumer = consumer(&store).await;
    assert!(consumer.receive(1, Duration::from_millis(200)).await.unwrap().is_empty());
    // Groups come one after another: with the second of these the move has failed.
    for body in ["a", "b"] {
        publish(&*store.bus(), &[body]).await.remove(0).unwrap();
    }
    sqlx::query("DROP TRIGGER no_net").execute(&mut other).await.unwrap();
    assert_eq!(receive(&*consumer, 2).await.len(), 2);
    let net = store.bus().consume(Queue::ItemsDead, 10).await.unwrap();
    let moved = receive(&*net, 1).await;
    assert_eq!(moved[0].envelope.body, "worn out");
}
