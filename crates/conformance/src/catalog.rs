//! `Catalog`.

use std::sync::Arc;

use tidings_domain::{
    ErrorKind,
    api_key::{ApiKey, KeyHash, Scope},
    id::ApiKeyId,
    ports::RemovedTopic,
    subscription::{Act, Subscription},
    text::Subject,
    topic::{Topic, TopicName},
    trace_context::TraceContext,
};
use uuid::Uuid;

use crate::{
    Disturbance, Fixture, Need,
    runner::suite,
    samples::{after_s, request, topic},
};

suite!(Catalog {
    provisioning_left_its_row_and_secret,
    the_topic_messages_always_exists,
    a_topic_is_made_and_its_subject_replaced,
    topics_come_by_name,
    a_topic_without_subscribers_is_removed,
    a_topic_with_subscribers_stays,
    keys_are_found_by_their_hash,
    a_taken_id_or_hash_is_a_conflict,
    a_removed_key_is_gone,
    a_restart_keeps_it [Need::Disturb(Disturbance::Restart)],
});

fn named(name: &str, subject: Option<&str>, seconds: u64) -> Topic {
    let subject = subject.map(|text| Subject::parse(text).expect("a subject"));
    Topic { name: topic(name), subject, created_at: after_s(seconds) }
}

fn api_key(number: u128, text: &str, seconds: u64) -> ApiKey {
    ApiKey {
        id: ApiKeyId(Uuid::from_u128(0x0160_0000_0000_7000_8000_0000_0000_0000 + number)),
        hash: KeyHash::of(text),
        owner: format!("owner {number} é"),
        scopes: vec![Scope::Publish, Scope::Read],
        topics: if number.is_multiple_of(2) { vec![] } else { vec![topic("messages"), topic("orders")] },
        created_at: after_s(seconds),
    }
}

async fn provisioning_left_its_row_and_secret(fixture: Arc<dyn Fixture>) {
    let first =
        fixture.open().await.catalog().installation().await.expect("read").expect("it was provisioned");
    let second =
        fixture.open().await.catalog().installation().await.expect("read").expect("it was provisioned");
    assert_eq!(first.secret.bytes(), second.secret.bytes(), "every process reads the same secret");
    assert_ne!(first.secret.bytes(), &[0; 32]);
    assert!(first.version >= 1 && first.version == second.version);
}

async fn the_topic_messages_always_exists(fixture: Arc<dyn Fixture>) {
    let catalog = fixture.open().await.catalog();
    assert!(catalog.topic(&TopicName::messages()).await.expect("read").is_some());
    let error = catalog.remove_topic(&TopicName::messages()).await.expect_err("it is never removed");
    assert_eq!(error.kind, ErrorKind::Rejected);
    assert!(catalog.topic(&TopicName::messages()).await.expect("read").is_some());
}

async fn a_topic_is_made_and_its_subject_replaced(fixture: Arc<dyn Fixture>) {
    let catalog = fixture.open().await.catalog();
    assert_eq!(catalog.topic(&topic("orders")).await.expect("read"), None);
    let made = named("orders", Some("Ihre Bestellung 🎉"), 5);
    assert_eq!(catalog.put_topic(&made).await.expect("put"), (made.clone(), true));
    let again = named("orders", None, 9);
    let expected = named("orders", None, 5);
    assert_eq!(catalog.put_topic(&again).await.expect("put"), (expected.clone(), false), "created_at stays");
    let other = fixture.open().await.catalog();
    assert_eq!(other.topic(&topic("orders")).await.expect("read"), Some(expected));
}

async fn topics_come_by_name(fixture: Arc<dyn Fixture>) {
    let catalog = fixture.open().await.catalog();
    for name in ["zebra", "a", "orders-2", "orders"] {
        catalog.put_topic(&named(name, None, 1)).await.expect("put");
    }
    let names: Vec<String> =
        catalog.topics().await.expect("read").into_iter().map(|topic| topic.name.to_string()).collect();
    assert_eq!(names, ["a", "messages", "orders", "orders-2", "zebra"]);
}

async fn a_topic_without_subscribers_is_removed(fixture: Arc<dyn Fixture>) {
    let catalog = fixture.open().await.catalog();
    catalog.put_topic(&named("orders", None, 1)).await.expect("put");
    assert_eq!(catalog.remove_topic(&topic("orders")).await.expect("remove"), RemovedTopic::Removed);
    assert_eq!(catalog.remove_topic(&topic("orders")).await.expect("remove"), RemovedTopic::NotFound);
    assert_eq!(catalog.topic(&topic("orders")).await.expect("read"), None);
    let made = catalog.put_topic(&named("orders", None, 7)).await.expect("put");
    assert_eq!(made, (named("orders", None, 7), true), "it can be made again");
}

async fn a_topic_with_subscribers_stays(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let (catalog, subscriptions) = (ports.catalog(), ports.subscriptions());
    catalog.put_topic(&named("orders", None, 1)).await.expect("put");
    let mut wish = request(1, "reader", 2);
    wish.topic = topic("orders");
    let requested = subscriptions.request(&wish, &TraceContext::default()).await.expect("request");
    let Subscription { id, generation, .. } = requested.subscription;
    let remove = async || catalog.remove_topic(&topic("orders")).await.expect("remove");
    assert_eq!(remove().await, RemovedTopic::HasSubscribers, "pending");
    subscriptions.act(id, Act::Confirm, generation, after_s(3)).await.expect("confirm");
    assert_eq!(remove().await, RemovedTopic::HasSubscribers, "confirmed");
    assert!(catalog.topic(&topic("orders")).await.expect("read").is_some(), "nothing changed");
    subscriptions.act(id, Act::Unsubscribe, 0, after_s(4)).await.expect("unsubscribe");
    assert_eq!(remove().await, RemovedTopic::Removed, "unsubscribed is nobody");
}

async fn keys_are_found_by_their_hash(fixture: Arc<dyn Fixture>) {
    let catalog = fixture.open().await.catalog();
    let (one, two) = (api_key(1, "one", 1), api_key(2, "two", 2));
    catalog.put_key(&one).await.expect("put");
    catalog.put_key(&two).await.expect("put");
    let other = fixture.open().await.catalog();
    assert_eq!(other.key(&KeyHash::of("one")).await.expect("read"), Some(one.clone()));
    assert_eq!(other.key(&KeyHash::of("three")).await.expect("read"), None);
    assert_eq!(other.keys().await.expect("read"), [two, one], "newest first");
}

async fn a_taken_id_or_hash_is_a_conflict(fixture: Arc<dyn Fixture>) {
    let catalog = fixture.open().await.catalog();
    catalog.put_key(&api_key(1, "one", 1)).await.expect("put");
    for taken in [api_key(1, "other", 2), api_key(2, "one", 2)] {
        let error = catalog.put_key(&taken).await.expect_err("it is taken");
        assert_eq!(error.kind, ErrorKind::Conflict, "{}", error.chain());
    }
    assert_eq!(catalog.keys().await.expect("read"), [api_key(1, "one", 1)]);
}

async fn a_removed_key_is_gone(fixture: Arc<dyn Fixture>) {
    let catalog = fixture.open().await.catalog();
    let one = api_key(1, "one", 1);
    catalog.put_key(&one).await.expect("put");
    assert!(catalog.remove_key(one.id).await.expect("remove"));
    assert!(!catalog.remove_key(one.id).await.expect("remove"));
    assert_eq!(catalog.key(&one.hash).await.expect("read"), None);
    assert_eq!(catalog.keys().await.expect("read"), []);
}

async fn a_restart_keeps_it(fixture: Arc<dyn Fixture>) {
    let catalog = fixture.open().await.catalog();
    let before = catalog.installation().await.expect("read").expect("it was provisioned");
    catalog.put_topic(&named("orders", Some("S"), 1)).await.expect("put");
    catalog.put_key(&api_key(1, "one", 1)).await.expect("put");
    drop(catalog);
    fixture.disturb(Disturbance::Restart).await;
    let catalog = fixture.open().await.catalog();
    let after = catalog.installation().await.expect("read").expect("it was provisioned");
    assert_eq!(before.secret.bytes(), after.secret.bytes());
    assert_eq!(catalog.topic(&topic("orders")).await.expect("read"), Some(named("orders", Some("S"), 1)));
    assert_eq!(catalog.keys().await.expect("read").len(), 1);
}
