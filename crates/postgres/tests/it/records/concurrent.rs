//! Many at once: on one store, whose writes share statements, and on several.

use std::collections::BTreeSet;

use tidings_domain::{
    ErrorKind, Result,
    delivery::{Claim, DeliveryKey, DeliveryKind, LeaseToken, NewDelivery, Outcome},
    id::SubscriptionId,
    notification::{Cursor, Notification, Plan, Planned},
    ports::{Deliveries, DependencyState, Inserted, NewItem},
    subscription::{Act, Acted},
    topic::TopicName,
    trace_context::TraceContext,
};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::rig::{Rig, at, item, message_id};

/// The numbers below `count` in an order of their own for each `seed`.
fn shuffled(count: u128, seed: u128) -> Vec<u128> {
    let mut numbers: Vec<u128> = (0..count).collect();
    numbers.sort_by_key(|number| (number * 7919 + seed * 104_729 + number * number * (seed + 3)) % 1_000_003);
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_batches_in_any_order_never_deadlock() {
    let rig = Rig::new().await;
    let stores: Vec<_> = (0..4).map(|_| rig.another()).collect();
    let mut tasks: JoinSet<Result<Vec<(u128, Inserted)>>> = JoinSet::new();
    for seed in 0..24 {
        let items = stores[usize::try_from(seed % 4).unwrap()].items();
        tasks.spawn(async move {
            let mut answers = Vec::new();
            for batch in shuffled(300, seed).chunks(100) {
                let rows: Vec<NewItem> = batch.iter().map(|number| item(*number, "the same")).collect();
                answers.extend(batch.iter().copied().zip(items.insert(&rows).await?));
            }
            Ok(answers)
        });
    }
    let answers: Vec<_> = tasks.join_all().await.into_iter().flat_map(|answers| answers.unwrap()).collect();
    let new: Vec<u128> =
        answers.iter().filter(|(_, answer)| *answer == Inserted::New).map(|(number, _)| *number).collect();
    assert_eq!((new.len(), new.iter().collect::<BTreeSet<_>>().len()), (300, 300), "each was new once");
    assert!(answers.iter().all(|(_, answer)| *answer != Inserted::Conflict));
    assert_eq!(rig.sql("select count(*) from items").await, "300");
    let sql = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(rig.sql(sql).await, "0");
    rig.end().await;
}

#[tokio::test]
async fn a_poison_row_takes_no_neighbour_along() {
    let rig = Rig::new().await;
    let items = rig.store.items();
    let mut poison = item(50, "poison");
    poison.message.content_type = "text/plain\0".to_owned();
    let batches: Vec<Vec<NewItem>> = (0..60)
        .map(|number| {
            if number == 50 {
                vec![item(1050, "with it"), poison.clone()]
            } else {
                vec![item(number, "good")]
            }
        })
        .collect();
    // All in the same moment, so that they share statements.
    let inserted = futures::future::join_all(batches.iter().map(|batch| items.insert(batch))).await;
    for (number, inserted) in inserted.into_iter().enumerate() {
        match number {
            50 => assert_eq!(inserted.unwrap_err().kind, ErrorKind::Rejected),
            _ => assert_eq!(inserted.unwrap(), [Inserted::New], "{number}"),
        }
    }
    assert_eq!(rig.sql("select count(*) from items").await, "59", "nothing of the batch with the poison");
    rig.end().await;
}

fn delivery(number: u128, to: u128) -> NewDelivery {
    let subscription = SubscriptionId(Uuid::from_u128(to));
    NewDelivery {
        key: DeliveryKey { about: message_id(number).0, subscription, round: 0 },
        kind: DeliveryKind::Item,
        topic: TopicName::messages(),
        due_at: at(10),
        created_at: at(10),
        trace: TraceContext::default(),
    }
}

fn plan(number: u128, page: Vec<NewDelivery>) -> Plan {
    Plan {
        notification: Notification {
            item: message_id(number),
            round: 0,
            topic: TopicName::messages(),
            replay: None,
            captured_at: at(2),
            published_at: at(3),
        },
        from: Cursor::Start,
        page,
        to: Cursor::Finished,
        claim: None,
        at: at(10),
    }
}

#[tokio::test]
async fn a_poison_page_takes_no_neighbour_along() {
    let rig = Rig::new().await;
    let deliveries = rig.store.deliveries();
    let mut poison = delivery(5, 1);
    poison.trace.traceparent = Some("a\0b".to_owned());
    let plans = (0..20).map(|number| {
        let page = if number == 5 { vec![poison.clone()] } else { vec![delivery(number, 1)] };
        deliveries.plan(vec![plan(number, page)])
    });
    for (number, planned) in futures::future::join_all(plans).await.into_iter().enumerate() {
        match number {
            5 => assert_eq!(planned.unwrap_err().kind, ErrorKind::Rejected),
            _ => {
                assert!(matches!(&planned.unwrap()[0], Planned::Written(keys) if keys.len() == 1), "{number}")
            }
        }
    }
    assert_eq!(rig.sql("select count(*) from notifications").await, "19", "a plan is all or nothing");
    assert_eq!(deliveries.counts().await.unwrap().pending, 19);
    rig.end().await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_takes_no_neighbour_along() {
    let rig = Rig::new().await;
    rig.sql(
        "insert into subscriptions (id, topic, email, filter, state, generation, created_at, requested_at)
        select lpad(n::text, 32, '0')::uuid, 'messages', n || '@example.com',
            case n when 5 then '{\"a\": {}}' else '{}' end::json, 'confirmed', 1, now(), now()
        from generate_series(1, 9) n",
    )
    .await;
    let subscriptions = rig.store.subscriptions();
    let ids: Vec<_> = (1..=9).map(|number| SubscriptionId(Uuid::from_u128(number))).collect();
    // All in the same moment, so that they share statements.
    let acts = ids.iter().map(|id| subscriptions.act(*id, Act::Unsubscribe, 1, at(10)));
    for (id, acted) in ids.iter().zip(futures::future::join_all(acts).await) {
        match id.0.as_u128() {
            5 => assert!(acted.unwrap_err().context.contains("cannot be read")),
            _ => assert!(matches!(acted.unwrap(), Acted::Done(_)), "{id:?}"),
        }
    }
    assert_eq!(rig.store.dependency().state(), DependencyState::Up, "the server is well");
    rig.end().await;
}

#[tokio::test]
async fn a_claiming_page_whose_answer_was_lost_is_told_again() {
    let rig = Rig::new().await;
    let deliveries = rig.store.deliveries();
    let token = LeaseToken(Uuid::from_u128(1));
    let claim = Claim { token, owner: "me".to_owned(), at: at(20), until: at(80) };
    let page = || (1..=3).map(|to| delivery(1, to)).collect::<Vec<_>>();
    let keys: Vec<_> = page().iter().map(|new| new.key).collect();
    let claiming = Plan { claim: Some(claim.clone()), ..plan(1, page()) };
    let first = deliveries.plan(vec![claiming.clone(), claiming.clone()]).await.unwrap();
    let told = [Planned::Written(keys.clone()), Planned::Written(vec![])];
    assert_eq!(first, told, "told twice in one call each row is told of once");
    let again = deliveries.plan(vec![claiming.clone()]).await.unwrap();
    assert_eq!(again, [Planned::Written(keys.clone())]);
    // Another's page, one that claims nothing, and rows that are not untried any more.
    let others = Claim { token: LeaseToken(Uuid::from_u128(2)), ..claim };
    for plan in [Plan { claim: Some(others), ..plan(1, page()) }, plan(1, page())] {
        assert_eq!(deliveries.plan(vec![plan]).await.unwrap(), [Planned::Written(vec![])]);
    }
    rig.sql(
        "update deliveries set state = 'sending' where subscription = '00000000-0000-0000-0000-000000000001'",
    )
    .await;
    let released = Outcome::Released { due_at: at(30) };
    deliveries.settle(vec![(keys[1], token, released)], at(21)).await.unwrap().remove(0).unwrap();
    let again = deliveries.plan(vec![claiming]).await.unwrap();
    assert_eq!(again, [Planned::Written(vec![keys[2]])]);
    rig.end().await;
}

async fn claim_all(deliveries: &dyn Deliveries, claimer: u128) -> Vec<DeliveryKey> {
    let mut mine = Vec::new();
    loop {
        let token = LeaseToken(Uuid::from_u128(claimer * 100_000 + mine.len() as u128 + 1));
        let claim = Claim { token, owner: format!("claimer {claimer}"), at: at(20), until: at(80) };
        let claimed = deliveries.claim(7, &claim).await.unwrap();
        if claimed.is_empty() {
            return mine;
        }
        mine.extend(claimed.into_iter().map(|claimed| claimed.delivery.key));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_many_are_apart_and_whole() {
    let rig = Rig::new().await;
    let plans =
        (0..10).map(|number| plan(number, (1..=100).map(|to| delivery(number, to)).collect())).collect();
    rig.store.deliveries().plan(plans).await.unwrap();
    let mut tasks = JoinSet::new();
    for claimer in 1..=8 {
        let deliveries = rig.another().deliveries();
        tasks.spawn(async move { claim_all(&*deliveries, claimer).await });
    }
    let mut all: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    // One who skipped a row that another looked at, and did not take, may have stopped too early: the rest is one's own.
    all.extend(claim_all(&*rig.store.deliveries(), 9).await);
    assert_eq!((all.len(), all.iter().collect::<BTreeSet<_>>().len()), (1000, 1000));
    rig.end().await;
}

#[tokio::test]
async fn a_write_goes_on_when_its_caller_is_gone() {
    let rig = Rig::new().await;
    let items = rig.store.items();
    let rows = [item(1, "a")];
    let insert = items.insert(&rows);
    // Polled once, then dropped.
    assert!(futures::FutureExt::now_or_never(insert).is_none());
    let answer = loop {
        // The next group comes after the first one.
        if let [answer] = items.insert(&[item(1, "a")]).await.unwrap()[..] {
            break answer;
        }
    };
    assert_eq!(answer, Inserted::AlreadyThere);
    rig.end().await;
}
