//! `Subscriptions`.

use std::{sync::Arc, time::Duration};

use tidings_domain::{
    delivery::{Delivery, DeliveryKind, DeliveryState},
    filter::Filter,
    id::SubscriptionId,
    notification::Cursor,
    ports::{Deliveries, SubscriptionQuery, Subscriptions},
    subscription::{
        Act, Acted, CONFIRMATION_WINDOW, Requested, Subscription, SubscriptionCounts, SubscriptionRequest,
        SubscriptionState,
    },
    topic::TopicName,
    trace_context::TraceContext,
};
use tokio::task::JoinSet;

use crate::{
    Disturbance, Fixture, Need,
    runner::suite,
    samples::{
        after_s, confirmed, consented, email, key, message, page, plan, request, subscription_id, topic,
    },
};

suite!(Subscriptions {
    a_wish_is_pending_and_its_mail_is_due,
    a_wish_again_within_the_window_mails_nothing,
    a_wish_again_after_the_window_mails_again,
    a_confirmed_one_stays_as_it_is,
    consent_held_already_confirms_without_mail,
    a_wish_after_an_unsubscribe_mails_anew,
    one_row_per_topic_and_address,
    concurrent_wishes_make_one_row_and_one_mail,
    acts_are_idempotent,
    a_link_of_an_earlier_generation_is_stale,
    an_unsubscribe_ignores_the_generation,
    rows_come_back_by_id,
    a_list_is_bounded_and_paged,
    confirmed_pages_hold_each_once,
    counts_are_by_topic_and_state,
    a_removed_one_leaves_no_address_and_no_open_delivery,
    a_restart_keeps_them [Need::Disturb(Disturbance::Restart)],
});

fn trace() -> TraceContext {
    message(1).trace
}

async fn ask(port: &dyn Subscriptions, request: &SubscriptionRequest) -> Requested {
    port.request(request, &trace()).await.expect("request")
}

async fn confirmations(port: &dyn Deliveries, id: SubscriptionId) -> Vec<Delivery> {
    let mut rows = port.list(id.0, &page(50, None)).await.expect("list").data;
    rows.sort_by_key(|row| row.key.round);
    rows
}

async fn a_wish_is_pending_and_its_mail_is_due(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let mut wish = request(1, "reader", 5);
    wish.filter = Filter::from_json(serde_json::json!({"kind": ["a", 1.5, true]})).expect("a filter");
    let requested = ask(&*ports.subscriptions(), &wish).await;
    assert!(requested.changed && requested.mail);
    let row = requested.subscription;
    assert_eq!(
        (row.id, &row.email, row.state),
        (subscription_id(1), &email("reader"), SubscriptionState::Pending)
    );
    assert_eq!((&row.filter, row.created_at, row.requested_at), (&wish.filter, after_s(5), after_s(5)));
    let other = fixture.open().await;
    assert_eq!(other.subscriptions().get(&[row.id]).await.expect("get"), [Some(row.clone())]);
    let due = confirmations(&*other.deliveries(), row.id).await;
    assert_eq!(due.len(), 1);
    let due = &due[0];
    assert_eq!((due.kind, due.state), (DeliveryKind::Confirmation, DeliveryState::Pending));
    assert_eq!((due.key.about, due.key.subscription, due.key.round), (row.id.0, row.id, row.generation));
    assert_eq!((due.due_at, due.created_at, due.attempts), (after_s(5), after_s(5), 0));
    assert_eq!((&due.topic, &due.trace), (&TopicName::messages(), &trace()));
}

async fn a_wish_again_within_the_window_mails_nothing(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let subscriptions = ports.subscriptions();
    let first = ask(&*subscriptions, &request(1, "reader", 0)).await.subscription;
    let mut again = request(2, "reader", CONFIRMATION_WINDOW.as_secs() - 1);
    again.filter = Filter::from_json(serde_json::json!({"kind": ["b"]})).expect("a filter");
    let requested = ask(&*subscriptions, &again).await;
    assert!(!requested.mail && requested.changed);
    assert_eq!((requested.subscription.id, &requested.subscription.filter), (first.id, &again.filter));
    assert_eq!(confirmations(&*ports.deliveries(), first.id).await.len(), 1);
    let stored = subscriptions.get(&[first.id]).await.expect("get").remove(0).expect("it is there");
    assert_eq!(stored, requested.subscription);
}

async fn a_wish_again_after_the_window_mails_again(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let subscriptions = ports.subscriptions();
    let first = ask(&*subscriptions, &request(1, "reader", 0)).await.subscription;
    let requested = ask(&*subscriptions, &request(2, "reader", CONFIRMATION_WINDOW.as_secs())).await;
    assert!(requested.mail);
    assert!(requested.subscription.generation > first.generation);
    let due = confirmations(&*ports.deliveries(), first.id).await;
    let rounds: Vec<u32> = due.iter().map(|row| row.key.round).collect();
    assert_eq!(rounds, [first.generation, requested.subscription.generation]);
}

async fn a_confirmed_one_stays_as_it_is(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let subscriptions = ports.subscriptions();
    let row = confirmed(&*subscriptions, 1).await;
    let mut again = request(2, "reader-1", 7200);
    again.filter = Filter::from_json(serde_json::json!({"kind": ["b"]})).expect("a filter");
    let requested = ask(&*subscriptions, &again).await;
    assert!(!requested.changed && !requested.mail);
    assert_eq!(requested.subscription, row);
    again.by_admin = true;
    let requested = ask(&*subscriptions, &again).await;
    assert!(requested.changed && !requested.mail);
    let stored = subscriptions.get(&[row.id]).await.expect("get").remove(0).expect("it is there");
    assert_eq!(stored, Subscription { filter: again.filter, ..row });
}

async fn consent_held_already_confirms_without_mail(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let row = consented(&*ports.subscriptions(), 1).await;
    assert_eq!((row.state, row.confirmed_by.as_deref()), (SubscriptionState::Confirmed, Some("admin")));
    assert_eq!(ports.subscriptions().get(&[row.id]).await.expect("get"), [Some(row.clone())]);
    assert_eq!(confirmations(&*ports.deliveries(), row.id).await, []);
}

async fn a_wish_after_an_unsubscribe_mails_anew(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let subscriptions = ports.subscriptions();
    let row = confirmed(&*subscriptions, 1).await;
    subscriptions.act(row.id, Act::Unsubscribe, row.generation, after_s(2)).await.expect("unsubscribe");
    let requested = ask(&*subscriptions, &request(2, "reader-1", 3)).await;
    assert!(requested.mail, "within the window, too");
    assert_eq!(requested.subscription.state, SubscriptionState::Pending);
    let due = confirmations(&*ports.deliveries(), row.id).await;
    assert_eq!(due.last().map(|row| row.key.round), Some(requested.subscription.generation));
    let old = subscriptions.act(row.id, Act::Confirm, row.generation, after_s(4)).await.expect("act");
    assert_eq!(old, Acted::Stale, "the link from before the unsubscribe is dead");
}

async fn one_row_per_topic_and_address(fixture: Arc<dyn Fixture>) {
    let subscriptions = fixture.open().await.subscriptions();
    let mut wish = request(1, "reader", 0);
    let first = ask(&*subscriptions, &wish).await.subscription;
    wish.new_id = subscription_id(2);
    assert_eq!(ask(&*subscriptions, &wish).await.subscription.id, first.id);
    wish.topic = topic("orders");
    assert_eq!(ask(&*subscriptions, &wish).await.subscription.id, subscription_id(2), "another topic");
    let other = ask(&*subscriptions, &request(3, "Reader", 0)).await.subscription;
    assert_eq!(other.id, subscription_id(3), "the case of a local part is the receiver's own business");
}

async fn concurrent_wishes_make_one_row_and_one_mail(fixture: Arc<dyn Fixture>) {
    let mut tasks = JoinSet::new();
    for number in 0..10 {
        let subscriptions = fixture.open().await.subscriptions();
        tasks.spawn(async move { ask(&*subscriptions, &request(number, "reader", 0)).await });
    }
    let all = tasks.join_all().await;
    assert_eq!(all.iter().filter(|requested| requested.mail).count(), 1);
    let id = all[0].subscription.id;
    assert!(all.iter().all(|requested| requested.subscription.id == id));
    assert_eq!(confirmations(&*fixture.open().await.deliveries(), id).await.len(), 1);
}

async fn acts_are_idempotent(fixture: Arc<dyn Fixture>) {
    let subscriptions = fixture.open().await.subscriptions();
    let row = ask(&*subscriptions, &request(1, "reader", 0)).await.subscription;
    let act = async |act, seconds| {
        subscriptions.act(row.id, act, row.generation, after_s(seconds)).await.expect("act")
    };
    let Acted::Done(done) = act(Act::Confirm, 1).await else { panic!("a first confirm is done") };
    assert_eq!((done.state, done.confirmed_at), (SubscriptionState::Confirmed, Some(after_s(1))));
    assert_eq!(act(Act::Confirm, 2).await, Acted::AlreadyDone(done));
    let Acted::Done(ended) = act(Act::Unsubscribe, 3).await else { panic!("a first unsubscribe is done") };
    assert_eq!((ended.state, ended.unsubscribed_at), (SubscriptionState::Unsubscribed, Some(after_s(3))));
    assert_eq!(act(Act::Unsubscribe, 4).await, Acted::AlreadyDone(ended.clone()));
    assert_eq!(subscriptions.get(&[row.id]).await.expect("get"), [Some(ended)]);
    let nobody = subscriptions.act(subscription_id(9), Act::Confirm, 1, after_s(5)).await.expect("act");
    assert_eq!(nobody, Acted::NotFound);
}

async fn a_link_of_an_earlier_generation_is_stale(fixture: Arc<dyn Fixture>) {
    let subscriptions = fixture.open().await.subscriptions();
    let first = ask(&*subscriptions, &request(1, "reader", 0)).await.subscription;
    let second = ask(&*subscriptions, &request(1, "reader", 7200)).await.subscription;
    let stale =
        subscriptions.act(first.id, Act::Confirm, first.generation, after_s(7300)).await.expect("act");
    assert_eq!(stale, Acted::Stale);
    assert_eq!(subscriptions.get(&[first.id]).await.expect("get"), [Some(second.clone())], "nothing changed");
    let done =
        subscriptions.act(first.id, Act::Confirm, second.generation, after_s(7300)).await.expect("act");
    assert!(matches!(done, Acted::Done(_)), "{done:?}");
}

async fn an_unsubscribe_ignores_the_generation(fixture: Arc<dyn Fixture>) {
    let subscriptions = fixture.open().await.subscriptions();
    let row = confirmed(&*subscriptions, 1).await;
    let acted =
        subscriptions.act(row.id, Act::Unsubscribe, row.generation + 7, after_s(2)).await.expect("act");
    assert!(matches!(acted, Acted::Done(_)), "{acted:?}");
}

async fn rows_come_back_by_id(fixture: Arc<dyn Fixture>) {
    let subscriptions = fixture.open().await.subscriptions();
    let (one, two) = (consented(&*subscriptions, 1).await, consented(&*subscriptions, 2).await);
    let ids = [2, 9, 1].map(subscription_id);
    assert_eq!(subscriptions.get(&ids).await.expect("get"), [Some(two), None, Some(one)]);
    assert_eq!(subscriptions.get(&[]).await.expect("get"), []);
}

async fn a_list_is_bounded_and_paged(fixture: Arc<dyn Fixture>) {
    let subscriptions = fixture.open().await.subscriptions();
    for number in 0..9_u64 {
        let mut wish = request(u128::from(number), &format!("reader-{}", number / 2), number / 3);
        wish.topic = topic(if number % 2 == 0 { "messages" } else { "orders" });
        if number < 4 {
            wish.confirmed_by = Some("admin".to_owned());
        }
        ask(&*subscriptions, &wish).await;
    }
    let list = async |mut query: SubscriptionQuery| {
        let mut all = Vec::new();
        loop {
            query.page.limit = 2;
            let read = subscriptions.list(&query).await.expect("list");
            assert!(read.data.len() <= 2);
            all.extend(read.data);
            let Some(cursor) = read.next_cursor else { return all };
            query.page.cursor = Some(cursor);
        }
    };
    let ids = |rows: &[Subscription]| {
        let mut ids: Vec<_> = rows.iter().map(|row| row.id).collect();
        ids.sort();
        ids
    };
    let all = list(SubscriptionQuery::default()).await;
    assert!(all.windows(2).all(|pair| pair[0].created_at >= pair[1].created_at), "newest first");
    assert_eq!(ids(&all), (0..9).map(subscription_id).collect::<Vec<_>>());
    let of_topic = list(SubscriptionQuery { topic: Some(topic("orders")), ..Default::default() }).await;
    assert_eq!(ids(&of_topic), [1, 3, 5, 7].map(subscription_id));
    let of_email = list(SubscriptionQuery { email: Some(email("reader-1")), ..Default::default() }).await;
    assert_eq!(ids(&of_email), [2, 3].map(subscription_id));
    let query = SubscriptionQuery { state: Some(SubscriptionState::Pending), ..Default::default() };
    assert_eq!(ids(&list(query).await), [4, 5, 6, 7, 8].map(subscription_id));
}

async fn confirmed_pages_hold_each_once(fixture: Arc<dyn Fixture>) {
    let subscriptions = fixture.open().await.subscriptions();
    for number in 0..20 {
        consented(&*subscriptions, number).await;
    }
    ask(&*subscriptions, &request(50, "pending", 0)).await;
    let mut elsewhere = request(51, "elsewhere", 0);
    elsewhere.topic = topic("orders");
    elsewhere.confirmed_by = Some("admin".to_owned());
    ask(&*subscriptions, &elsewhere).await;
    let (mut after, mut all) = (None, Vec::new());
    loop {
        let read = subscriptions.confirmed(&TopicName::messages(), after, 7).await.expect("read");
        assert!(read.len() <= 7);
        let Some(last) = read.last() else { break };
        after = Some(last.id);
        all.extend(read.iter().map(|row| row.id));
        // Meanwhile one before the cursor and one after it go; the others stay in exactly one page.
        for number in [1, 18] {
            let id = subscription_id(number);
            subscriptions.act(id, Act::Unsubscribe, 0, after_s(9)).await.expect("unsubscribe");
        }
    }
    let expected: Vec<_> = (0..20).filter(|number| *number != 18).map(subscription_id).collect();
    assert_eq!(all, expected, "by id, each once");
}

async fn counts_are_by_topic_and_state(fixture: Arc<dyn Fixture>) {
    let subscriptions = fixture.open().await.subscriptions();
    assert!(subscriptions.counts().await.expect("count").is_empty());
    let one = consented(&*subscriptions, 1).await;
    consented(&*subscriptions, 2).await;
    ask(&*subscriptions, &request(3, "pending", 0)).await;
    let mut orders = request(4, "orders", 0);
    orders.topic = topic("orders");
    ask(&*subscriptions, &orders).await;
    subscriptions.act(one.id, Act::Unsubscribe, 0, after_s(9)).await.expect("unsubscribe");
    let counts = subscriptions.counts().await.expect("count");
    let expected = [
        (topic("messages"), SubscriptionCounts { pending: 1, confirmed: 1, unsubscribed: 1 }),
        (topic("orders"), SubscriptionCounts { pending: 1, confirmed: 0, unsubscribed: 0 }),
    ];
    assert_eq!(counts, expected.into_iter().collect());
}

async fn a_removed_one_leaves_no_address_and_no_open_delivery(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let subscriptions = ports.subscriptions();
    let row = confirmed(&*subscriptions, 1).await;
    ports.deliveries().plan(vec![plan(1, Cursor::Start, &[1], Cursor::Finished)]).await.expect("plan");
    assert!(subscriptions.remove(row.id).await.expect("remove"));
    assert!(!subscriptions.remove(row.id).await.expect("remove"));
    assert_eq!(subscriptions.get(&[row.id]).await.expect("get"), [None]);
    let query = SubscriptionQuery { email: Some(row.email), ..Default::default() };
    assert!(subscriptions.list(&query).await.expect("list").data.is_empty());
    for about in [row.id.0, key(1, 1).about] {
        let left = ports.deliveries().list(about, &page(10, None)).await.expect("list").data;
        assert!(left.iter().all(|row| row.state == DeliveryState::Suppressed), "{left:?}");
    }
    // The address may come again, as a new one.
    let again = ask(&*subscriptions, &request(7, "reader-1", 60)).await;
    assert!(again.mail && again.subscription.id == subscription_id(7));
}

async fn a_restart_keeps_them(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let row = confirmed(&*ports.subscriptions(), 1).await;
    drop(ports);
    fixture.disturb(Disturbance::Restart).await;
    let ports = fixture.open().await;
    assert_eq!(ports.subscriptions().get(&[row.id]).await.expect("get"), [Some(row.clone())]);
    let again = ask(&*ports.subscriptions(), &request(2, "reader-1", 60)).await;
    assert_eq!(again.subscription, row);
    assert_eq!(confirmations(&*ports.deliveries(), row.id).await.len(), 1);
    assert_eq!(
        Duration::from_secs(600),
        CONFIRMATION_WINDOW,
        "a behaviour above relies on it being over an hour later"
    );
}
