//! `Deliveries`: planning a notification's pages, and what is read of it all.

use std::{collections::BTreeSet, sync::Arc};

use tidings_domain::{
    delivery::{DeliveryKey, DeliveryState, Outcome},
    id::MessageId,
    notification::{Cursor, Notification, Plan, Planned},
    ports::Deliveries,
    status::{DeliveryCounts, MessageState},
    time::Timestamp,
};
use tokio::task::JoinSet;

use crate::{
    Disturbance, Fixture, Need,
    deliveries::row,
    runner::suite,
    samples::{
        LEASE, after_s, answer, claim, consented, dead_letter, failed, item, key, message, message_id,
        notification, page, plan, subscription_id, token,
    },
};

suite!(Deliveries {
    an_expansion_begins_at_the_start,
    a_page_is_written_as_it_was_planned,
    a_page_planned_twice_is_planned_once,
    a_page_from_elsewhere_is_told_where_it_stands,
    an_expansion_goes_page_by_page_to_its_end,
    a_large_page_is_planned_whole,
    of_concurrent_planners_one_writes_a_page,
    plans_of_one_call_are_answered_in_order,
    a_claiming_plan_leases_what_it_makes,
    a_replay_expands_again_and_mails_nobody_twice,
    rounds_are_apart,
    rounds_are_counted,
    timelines_tell_what_the_rows_tell,
    a_timeline_counts_dead_letters_about_it,
    a_list_of_deliveries_is_paged,
    what_is_open_or_given_up_is_counted,
    a_restart_keeps_the_cursor [Need::Disturb(Disturbance::Restart)],
});

async fn plan_one(port: &dyn Deliveries, plan: Plan) -> Planned {
    let mut planned = port.plan(vec![plan]).await.expect("plan");
    assert_eq!(planned.len(), 1);
    planned.remove(0)
}

async fn stands(port: &dyn Deliveries, notification: &Notification) -> Cursor {
    let cursors = port.expansions(std::slice::from_ref(notification)).await.expect("expansions");
    assert_eq!(cursors.len(), 1);
    cursors[0]
}

async fn rows(port: &dyn Deliveries, number: u128) -> Vec<DeliveryKey> {
    let listed = port.list(message_id(number).0, &page(250, None)).await.expect("list");
    let mut keys: Vec<_> = listed.data.into_iter().map(|row| row.key).collect();
    keys.sort();
    keys
}

fn up_to(reader: u128) -> Cursor {
    Cursor::After(subscription_id(reader))
}

fn keys(number: u128, readers: &[u128]) -> Vec<DeliveryKey> {
    readers.iter().map(|reader| key(number, *reader)).collect()
}

async fn an_expansion_begins_at_the_start(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.deliveries();
    let cursors = port.expansions(&[notification(1), notification(2)]).await.expect("expansions");
    assert_eq!(cursors, [Cursor::Start, Cursor::Start]);
    let timeline = port.timelines(&[message_id(1)]).await.expect("timelines").remove(0);
    assert_eq!(timeline.published_at, None, "asking writes nothing");
}

async fn a_page_is_written_as_it_was_planned(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.deliveries();
    let planned = plan_one(&*port, plan(1, Cursor::Start, &[1, 2], up_to(2))).await;
    assert_eq!(planned, Planned::Written(keys(1, &[1, 2])));
    let other = fixture.open().await.deliveries();
    assert_eq!(stands(&*other, &notification(1)).await, up_to(2));
    let stored = row(&*other, key(1, 2)).await;
    assert_eq!(
        (stored.state, stored.due_at, stored.created_at),
        (DeliveryState::Pending, after_s(10), after_s(10))
    );
    assert_eq!((stored.attempts, stored.unknowns, stored.sent_at), (0, 0, None));
    assert_eq!((&stored.trace, &stored.topic), (&message(1).trace, &message(1).topic));
    assert!(stored.answers.is_empty());
}

async fn a_page_planned_twice_is_planned_once(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.deliveries();
    for (from, readers, to) in [(Cursor::Start, [1, 2], up_to(2)), (up_to(2), [3, 4], Cursor::Finished)] {
        let page = plan(1, from, &readers, to);
        assert_eq!(plan_one(&*port, page.clone()).await, Planned::Written(keys(1, &readers)));
        let before = row(&*port, key(1, readers[0])).await;
        let again = plan_one(&*port, page).await;
        assert!(again == Planned::Written(vec![]) || again == Planned::Moved(to), "{again:?}");
        assert_eq!(stands(&*port, &notification(1)).await, to, "the cursor stays");
        assert_eq!(row(&*port, key(1, readers[0])).await, before);
    }
    assert_eq!(rows(&*port, 1).await, keys(1, &[1, 2, 3, 4]));
}

async fn a_page_from_elsewhere_is_told_where_it_stands(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.deliveries();
    plan_one(&*port, plan(1, Cursor::Start, &[1, 2], up_to(2))).await;
    for (from, to) in [(up_to(1), up_to(3)), (Cursor::Start, up_to(1)), (Cursor::Start, Cursor::Finished)] {
        let answer = plan_one(&*port, plan(1, from, &[3], to)).await;
        assert_eq!(answer, Planned::Moved(up_to(2)), "from {from:?} to {to:?}");
    }
    assert_eq!(rows(&*port, 1).await, keys(1, &[1, 2]), "none of its deliveries was written");
    let unknown = plan_one(&*port, plan(2, up_to(5), &[6], Cursor::Finished)).await;
    assert_eq!(unknown, Planned::Moved(Cursor::Start));
    assert_eq!(rows(&*port, 2).await, []);
}

async fn an_expansion_goes_page_by_page_to_its_end(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.deliveries();
    let mut from = Cursor::Start;
    for first in [1, 4, 7] {
        let readers = [first, first + 1, first + 2];
        let to = up_to(first + 2);
        assert_eq!(plan_one(&*port, plan(1, from, &readers, to)).await, Planned::Written(keys(1, &readers)));
        let timeline = port.timelines(&[message_id(1)]).await.expect("timelines").remove(0);
        assert!(!timeline.expanded);
        from = to;
    }
    assert_eq!(plan_one(&*port, plan(1, from, &[], Cursor::Finished)).await, Planned::Written(vec![]));
    assert_eq!(stands(&*port, &notification(1)).await, Cursor::Finished);
    let timeline = port.timelines(&[message_id(1)]).await.expect("timelines").remove(0);
    assert!(timeline.expanded && timeline.deliveries.pending == 9);
}

async fn a_large_page_is_planned_whole(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.deliveries();
    let readers: Vec<u128> = (1..=1000).collect();
    let planned = plan_one(&*port, plan(1, Cursor::Start, &readers, Cursor::Finished)).await;
    assert_eq!(planned, Planned::Written(keys(1, &readers)));
    let mut claimed = BTreeSet::new();
    for claimer in 1..=4 {
        let some = port.claim(250, &claim(claimer, 20)).await.expect("claim");
        assert_eq!(some.len(), 250);
        claimed.extend(some.into_iter().map(|claimed| claimed.delivery.key));
    }
    assert_eq!(claimed.len(), 1000);
    assert_eq!(port.claim(250, &claim(5, 20)).await.expect("claim"), []);
}

async fn of_concurrent_planners_one_writes_a_page(fixture: Arc<dyn Fixture>) {
    let mut tasks = JoinSet::new();
    for _ in 0..6 {
        let port = fixture.open().await.deliveries();
        tasks.spawn(async move {
            let mut made = Vec::new();
            for (from, readers, to) in
                [(Cursor::Start, [1, 2], up_to(2)), (up_to(2), [3, 4], Cursor::Finished)]
            {
                if let Planned::Written(keys) = plan_one(&*port, plan(1, from, &readers, to)).await {
                    made.extend(keys);
                }
            }
            made
        });
    }
    let mut all: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    all.sort();
    assert_eq!(all, keys(1, &[1, 2, 3, 4]), "each row was made by exactly one");
}

async fn plans_of_one_call_are_answered_in_order(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.deliveries();
    plan_one(&*port, plan(2, Cursor::Start, &[1], up_to(1))).await;
    let plans = vec![
        plan(3, Cursor::Start, &[1, 2], Cursor::Finished),
        plan(2, up_to(9), &[10], Cursor::Finished),
        plan(1, Cursor::Start, &[], Cursor::Finished),
    ];
    let planned = port.plan(plans).await.expect("plan");
    let expected = [Planned::Written(keys(3, &[1, 2])), Planned::Moved(up_to(1)), Planned::Written(vec![])];
    assert_eq!(planned, expected, "one that moved does no harm to its neighbours");
    let ids = [notification(1), notification(2), notification(3)];
    let cursors = port.expansions(&ids).await.expect("expansions");
    assert_eq!(cursors, [Cursor::Finished, up_to(1), Cursor::Finished]);
}

async fn a_claiming_plan_leases_what_it_makes(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    for reader in 1..=3 {
        consented(&*ports.subscriptions(), reader).await;
    }
    let page = Plan { claim: Some(claim(1, 20)), ..plan(1, Cursor::Start, &[1, 2], up_to(2)) };
    assert_eq!(plan_one(&*port, page).await, Planned::Written(keys(1, &[1, 2])));
    assert_eq!(port.claim(10, &claim(2, 21)).await.expect("claim"), [], "they are held");
    let held: Vec<_> = keys(1, &[1, 2]).into_iter().map(|key| (key, token(1))).collect();
    let until = after_s(90);
    let recorded = port.sending(&held[..1], until).await.expect("sending");
    assert_eq!(recorded, [tidings_domain::delivery::Sending::Recorded], "the token is the plan's");
    let sent = Outcome::Sent { answer: answer(250, 22) };
    let answers = port.settle(vec![(held[0].0, token(1), sent)], after_s(22)).await.expect("settle");
    assert!(answers[0].is_ok(), "{answers:?}");
    let again = port.claim(10, &claim(3, 20 + LEASE.as_secs())).await.expect("claim");
    assert_eq!(again.iter().map(|claimed| claimed.delivery.key).collect::<Vec<_>>(), [key(1, 2)]);
    // Rows that were there already are not among what a later page makes or leases.
    let replay = Notification { replay: Some("r1".to_owned()), ..notification(1) };
    let page = Plan {
        notification: replay,
        claim: Some(claim(4, 100)),
        ..plan(1, Cursor::Start, &[1, 2, 3], Cursor::Finished)
    };
    assert_eq!(plan_one(&*port, page).await, Planned::Written(vec![key(1, 3)]));
    assert_eq!(row(&*port, key(1, 1)).await.state, DeliveryState::Sent);
}

async fn a_replay_expands_again_and_mails_nobody_twice(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    consented(&*ports.subscriptions(), 1).await;
    plan_one(&*port, plan(1, Cursor::Start, &[1], Cursor::Finished)).await;
    port.claim(10, &claim(1, 20)).await.expect("claim");
    let sent = Outcome::Sent { answer: answer(250, 22) };
    let answers = port.settle(vec![(key(1, 1), token(1), sent)], after_s(22)).await.expect("settle");
    assert!(answers[0].is_ok(), "{answers:?}");
    let replay = |name: &str| Notification {
        replay: Some(name.to_owned()),
        captured_at: after_s(500),
        published_at: after_s(501),
        ..notification(1)
    };
    assert_eq!(stands(&*port, &replay("r1")).await, Cursor::Start, "a new replay begins anew");
    assert_eq!(stands(&*port, &notification(1)).await, Cursor::Finished, "the first publish is still done");
    let page = Plan { notification: replay("r1"), ..plan(1, Cursor::Start, &[1, 2], up_to(2)) };
    assert_eq!(plan_one(&*port, page).await, Planned::Written(vec![key(1, 2)]), "only who has no row");
    assert_eq!(stands(&*port, &replay("r1")).await, up_to(2), "the same replay goes on");
    // The first publish, handed out again meanwhile, goes on where the replay stands and does not begin it anew.
    assert_eq!(stands(&*port, &notification(1)).await, up_to(2));
    plan_one(&*port, plan(1, up_to(2), &[], Cursor::Finished)).await;
    assert_eq!(stands(&*port, &replay("r1")).await, Cursor::Finished);
    assert_eq!(stands(&*port, &replay("r2")).await, Cursor::Start);
    let timeline = port.timelines(&[message_id(1)]).await.expect("timelines").remove(0);
    assert_eq!(
        (timeline.captured_at, timeline.published_at),
        (Some(after_s(2)), Some(after_s(3))),
        "the first stay"
    );
    assert_eq!(row(&*port, key(1, 1)).await.state, DeliveryState::Sent);
}

async fn rounds_are_apart(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.deliveries();
    plan_one(&*port, plan(1, Cursor::Start, &[1], Cursor::Finished)).await;
    let second = Notification { round: 1, ..notification(1) };
    assert_eq!(stands(&*port, &second).await, Cursor::Start);
    let mut page = Plan { notification: second.clone(), ..plan(1, Cursor::Start, &[1], Cursor::Finished) };
    page.page[0].key.round = 1;
    let expected = DeliveryKey { round: 1, ..key(1, 1) };
    assert_eq!(plan_one(&*port, page).await, Planned::Written(vec![expected]));
    assert_eq!(rows(&*port, 1).await, [key(1, 1), expected]);
}

async fn rounds_are_counted(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.deliveries();
    plan_one(&*port, plan(1, Cursor::Start, &[1], Cursor::Finished)).await;
    plan_one(&*port, plan(3, Cursor::Start, &[], up_to(2))).await;
    let later = Notification { round: 4, ..notification(1) };
    let mut page = Plan { notification: later, ..plan(1, Cursor::Start, &[1], Cursor::Finished) };
    page.page[0].key.round = 4;
    plan_one(&*port, page).await;
    let ids = [2, 1, 3, 1].map(message_id);
    assert_eq!(port.rounds(&ids).await.expect("rounds"), [0, 5, 1, 5]);
    assert!(port.rounds(&[]).await.expect("rounds").is_empty());
}

async fn timelines_tell_what_the_rows_tell(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    for reader in 1..=4 {
        consented(&*ports.subscriptions(), reader).await;
    }
    ports.items().insert(&[item(1, 1), item(2, 1), item(4, 1)]).await.expect("insert");
    let plans = vec![
        plan(2, Cursor::Start, &[1, 2, 3, 4], Cursor::Finished),
        plan(4, Cursor::Start, &[], Cursor::Finished),
    ];
    port.plan(plans).await.expect("plan");
    port.claim(3, &claim(1, 20)).await.expect("claim");
    let settle = async |reader, outcome, seconds: u64| {
        let outcomes = vec![(key(2, reader), token(1), outcome)];
        let answers = port.settle(outcomes, after_s(seconds)).await.expect("settle");
        assert!(answers[0].is_ok(), "{answers:?}");
    };
    settle(1, Outcome::Sent { answer: answer(250, 25) }, 25).await;
    settle(2, Outcome::Sent { answer: answer(250, 22) }, 22).await;
    let ids: [MessageId; 4] = [2, 1, 3, 4].map(message_id);
    let timelines = port.timelines(&ids).await.expect("timelines");
    assert_eq!(timelines.iter().map(|timeline| timeline.id).collect::<Vec<_>>(), ids, "in order");
    let states: Vec<_> = timelines.iter().map(tidings_domain::status::Timeline::state).collect();
    let expected = [Some(MessageState::Notified), Some(MessageState::Stored), None, Some(MessageState::Done)];
    assert_eq!(states, expected);
    let full = &timelines[0];
    let times: [Option<Timestamp>; 6] = [
        full.accepted_at,
        full.stored_at,
        full.captured_at,
        full.published_at,
        full.first_mail_at,
        full.last_mail_at,
    ];
    assert_eq!(times, [0, 1, 2, 3, 22, 25].map(|seconds| Some(after_s(seconds))));
    assert!(full.expanded);
    assert_eq!(full.deliveries, DeliveryCounts { pending: 2, sent: 2, ..Default::default() });
    assert_eq!(port.timelines(&[]).await.expect("timelines"), []);
}

async fn a_timeline_counts_dead_letters_about_it(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    consented(&*ports.subscriptions(), 1).await;
    ports.items().insert(&[item(1, 1)]).await.expect("insert");
    plan_one(&*port, plan(1, Cursor::Start, &[1], Cursor::Finished)).await;
    port.claim(1, &claim(1, 20)).await.expect("claim");
    let outcomes = vec![(key(1, 1), token(1), failed(key(1, 1), 550, 21))];
    assert!(port.settle(outcomes, after_s(21)).await.expect("settle")[0].is_ok());
    let conflict = dead_letter(
        9,
        tidings_domain::dead_letter::DeadLetterSource::Items,
        tidings_domain::dead_letter::reason::CONFLICT,
    );
    ports.dead_letters().put(vec![conflict]).await.expect("put");
    let timelines = port.timelines(&[message_id(1), message_id(9)]).await.expect("timelines");
    assert_eq!((timelines[0].dead_letters, timelines[0].deliveries.failed), (1, 1));
    assert_eq!(timelines[0].state(), Some(MessageState::DeadLetter));
    assert_eq!(timelines[1].state(), Some(MessageState::DeadLetter), "it has no row, and its dead letter");
    // Stored after all, the letter is about something else that came under its id.
    ports.items().insert(&[item(9, 9)]).await.expect("insert");
    let timelines = port.timelines(&[message_id(9)]).await.expect("timelines");
    assert_eq!((timelines[0].dead_letters, timelines[0].state()), (0, Some(MessageState::Stored)));
}

async fn a_list_of_deliveries_is_paged(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.deliveries();
    let readers: Vec<u128> = (1..=9).collect();
    plan_one(&*port, plan(1, Cursor::Start, &readers, Cursor::Finished)).await;
    plan_one(&*port, plan(2, Cursor::Start, &readers, Cursor::Finished)).await;
    let (mut cursor, mut all) = (None, Vec::new());
    loop {
        let read = port.list(message_id(1).0, &page(4, cursor)).await.expect("list");
        assert!(read.data.len() <= 4);
        all.extend(read.data.into_iter().map(|row| row.key));
        cursor = read.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    all.sort();
    assert_eq!(all, keys(1, &readers));
}

async fn what_is_open_or_given_up_is_counted(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let port = ports.deliveries();
    assert_eq!(port.counts().await.expect("counts"), DeliveryCounts::default());
    for reader in 1..=4 {
        consented(&*ports.subscriptions(), reader).await;
    }
    plan_one(&*port, plan(1, Cursor::Start, &[1, 2, 3, 4], Cursor::Finished)).await;
    plan_one(&*port, plan(2, Cursor::Start, &[1], Cursor::Finished)).await;
    port.claim(4, &claim(1, 20)).await.expect("claim");
    let outcomes = vec![
        (key(1, 1), token(1), Outcome::Sent { answer: answer(250, 21) }),
        (key(1, 2), token(1), failed(key(1, 2), 550, 21)),
        (key(1, 3), token(1), Outcome::Suppressed),
    ];
    port.settle(outcomes, after_s(21)).await.expect("settle");
    port.sending(&[(key(1, 4), token(1))], after_s(90)).await.expect("sending");
    let expected = DeliveryCounts { pending: 1, sending: 1, sent: 0, suppressed: 1, failed: 1 };
    assert_eq!(port.counts().await.expect("counts"), expected);
    port.ping().await.expect("ping");
}

async fn a_restart_keeps_the_cursor(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.deliveries();
    plan_one(&*port, plan(1, Cursor::Start, &[1, 2], up_to(2))).await;
    drop(port);
    fixture.disturb(Disturbance::Restart).await;
    let port = fixture.open().await.deliveries();
    assert_eq!(stands(&*port, &notification(1)).await, up_to(2));
    assert_eq!(rows(&*port, 1).await, keys(1, &[1, 2]));
    let planned = plan_one(&*port, plan(1, up_to(2), &[3], Cursor::Finished)).await;
    assert_eq!(planned, Planned::Written(vec![key(1, 3)]));
}
