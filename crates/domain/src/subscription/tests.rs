use uuid::Uuid;

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000 + seconds * 1000)
}

fn request(seconds: i64) -> SubscriptionRequest {
    SubscriptionRequest {
        new_id: SubscriptionId(Uuid::from_u128(7)),
        topic: TopicName::messages(),
        email: EmailAddress::parse("ann@example.com").unwrap(),
        filter: Filter::default(),
        confirmed_by: None,
        by_admin: false,
        at: at(seconds),
    }
}

#[test]
fn one_confirmation_mail_per_window() {
    let first = decide_request(None, &request(0));
    assert!(first.mail && first.changed);
    let again = decide_request(Some(&first.subscription), &request(599));
    assert!(!again.mail && !again.changed);
    let later = decide_request(Some(&first.subscription), &request(600));
    assert!(later.mail);
    assert_eq!(later.subscription.generation, 2);
}

#[test]
fn an_unsubscribe_within_the_window_kills_the_old_confirm_link() {
    let first = decide_request(None, &request(0)).subscription;
    let Acted::Done(confirmed) = decide_act(Some(&first), Act::Confirm, 1, at(1)) else { panic!() };
    assert_eq!(decide_act(Some(&confirmed), Act::Confirm, 1, at(2)), Acted::AlreadyDone(confirmed.clone()));
    let Acted::Done(ended) = decide_act(Some(&confirmed), Act::Unsubscribe, 0, at(3)) else { panic!() };
    assert_eq!(decide_act(Some(&ended), Act::Confirm, 1, at(4)), Acted::Stale);
    let again = decide_request(Some(&ended), &request(5));
    assert!(again.mail);
    assert_eq!(decide_act(Some(&again.subscription), Act::Confirm, 1, at(6)), Acted::Stale);
    assert!(matches!(decide_act(Some(&again.subscription), Act::Confirm, 3, at(6)), Acted::Done(_)));
}

#[test]
fn a_confirmed_one_changes_only_by_an_admin() {
    let first = decide_request(None, &request(0)).subscription;
    let Acted::Done(confirmed) = decide_act(Some(&first), Act::Confirm, 1, at(1)) else { panic!() };
    let filter = Filter::from_json(serde_json::json!({"a": [1]})).unwrap();
    let other = SubscriptionRequest { filter: filter.clone(), ..request(9000) };
    let asked = decide_request(Some(&confirmed), &other);
    assert!(!asked.changed && !asked.mail);
    let by_admin = decide_request(Some(&confirmed), &SubscriptionRequest { by_admin: true, ..other });
    assert!(by_admin.changed && !by_admin.mail);
    assert_eq!(by_admin.subscription.filter, filter);
    assert_eq!(by_admin.subscription.state, SubscriptionState::Confirmed);
}
