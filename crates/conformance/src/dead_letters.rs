//! `DeadLetters`.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use tidings_domain::{
    dead_letter::{DeadLetter, DeadLetterSelection, DeadLetterSource, reason},
    id::DeadLetterId,
    ports::{ClaimedDeadLetter, DeadLetterDepth, DeadLetters},
};
use tokio::task::JoinSet;

use crate::{
    Disturbance, Fixture, Need,
    runner::suite,
    samples::{LEASE, after_s, dead_letter, key, page, token, topic},
};

suite!(DeadLetters {
    a_letter_comes_back_as_it_was_put,
    bodies_of_every_size_are_kept,
    putting_again_changes_nothing,
    a_list_goes_newest_first_in_pages,
    a_selection_selects,
    listing_changes_nothing_however_often,
    marking_counts_what_was_not_marked,
    only_marked_letters_of_a_source_are_claimed,
    the_oldest_mark_is_claimed_first,
    two_claimers_never_hold_one_letter,
    a_redrive_that_is_done_deletes_its_row,
    a_redrive_that_failed_writes_its_row_anew,
    a_redrive_killed_half_way_is_taken_again,
    a_lease_that_was_lost_settles_nothing,
    discarding_removes_whatever_the_mark,
    depths_are_by_source_and_reason,
    a_restart_keeps_them [Need::Disturb(Disturbance::Restart)],
});

const ITEMS: DeadLetterSource = DeadLetterSource::Items;

fn letters() -> Vec<DeadLetter> {
    let mut letters = vec![
        dead_letter(1, ITEMS, reason::UNDECODABLE),
        dead_letter(2, ITEMS, reason::CONFLICT),
        dead_letter(3, DeadLetterSource::Mail, reason::UNDECODABLE),
        dead_letter(4, DeadLetterSource::Deliveries, reason::REFUSED),
        dead_letter(5, ITEMS, reason::UNDECODABLE),
    ];
    letters[1].topic = Some(topic("orders"));
    letters[2].topic = None;
    letters[2].message_id = None;
    letters[3].delivery = Some(key(4, 7));
    letters
}

async fn put_all(port: &dyn DeadLetters) {
    port.put(letters()).await.expect("put");
}

async fn list(port: &dyn DeadLetters, selection: &DeadLetterSelection) -> Vec<DeadLetter> {
    port.list(selection, &page(100, None)).await.expect("list").data
}

async fn claim(port: &dyn DeadLetters, number: u128, max: u32, seconds: u64) -> Vec<ClaimedDeadLetter> {
    port.claim(ITEMS, max, token(number), after_s(seconds), LEASE).await.expect("claim")
}

fn ids(letters: &[DeadLetter]) -> Vec<DeadLetterId> {
    letters.iter().map(|letter| letter.id).collect()
}

fn numbers(numbers: &[u64]) -> Vec<DeadLetterId> {
    numbers.iter().map(|number| dead_letter(*number, ITEMS, "").id).collect()
}

fn of_source(source: DeadLetterSource) -> DeadLetterSelection {
    DeadLetterSelection { source: Some(source), ..Default::default() }
}

async fn a_letter_comes_back_as_it_was_put(fixture: Arc<dyn Fixture>) {
    put_all(&*fixture.open().await.dead_letters()).await;
    let mut expected = letters();
    expected.reverse();
    let other = fixture.open().await.dead_letters();
    assert_eq!(list(&*other, &DeadLetterSelection::default()).await, expected);
}

async fn bodies_of_every_size_are_kept(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    let sizes = [0, 1, 300 * 1024];
    let letters: Vec<DeadLetter> = (1..)
        .zip(sizes)
        .map(|(number, size)| DeadLetter {
            body: Bytes::from(vec![0xfe; size]),
            headers: Default::default(),
            ..dead_letter(number, ITEMS, reason::UNDECODABLE)
        })
        .collect();
    port.put(letters.clone()).await.expect("put");
    let mut kept = list(&*port, &DeadLetterSelection::default()).await;
    kept.reverse();
    assert!(
        kept == letters,
        "bodies of {:?} bytes",
        kept.iter().map(|letter| letter.body.len()).collect::<Vec<_>>()
    );
}

async fn putting_again_changes_nothing(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    put_all(&*port).await;
    port.mark(&of_source(ITEMS), after_s(50)).await.expect("mark");
    let mut again = dead_letter(1, ITEMS, reason::UNDECODABLE);
    again.detail = "another detail".to_owned();
    port.put(vec![again, dead_letter(6, ITEMS, reason::NO_ID)]).await.expect("put");
    let all = list(&*port, &DeadLetterSelection::default()).await;
    assert_eq!(all.len(), 6, "one whose id has a row does no harm to its neighbour");
    let first = all.iter().find(|letter| letter.id == numbers(&[1])[0]).expect("it is there");
    assert_eq!(first.detail, letters()[0].detail);
    assert_eq!(first.marked_at, Some(after_s(50)));
    port.put(vec![]).await.expect("put nothing");
}

async fn a_list_goes_newest_first_in_pages(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    put_all(&*port).await;
    let (mut cursor, mut all) = (None, Vec::new());
    loop {
        let read = port.list(&DeadLetterSelection::default(), &page(2, cursor)).await.expect("list");
        all.extend(ids(&read.data));
        // A newer one that comes meanwhile moves nothing.
        let newer = 100 + u64::try_from(all.len()).expect("small");
        port.put(vec![dead_letter(newer, ITEMS, reason::PANIC)]).await.expect("put");
        cursor = read.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(all, numbers(&[5, 4, 3, 2, 1]));
}

async fn a_selection_selects(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    put_all(&*port).await;
    let default = DeadLetterSelection::default;
    let cases = [
        (default(), vec![5, 4, 3, 2, 1]),
        (of_source(DeadLetterSource::Mail), vec![3]),
        (DeadLetterSelection { topic: Some(topic("orders")), ..default() }, vec![2]),
        (DeadLetterSelection { reason: Some(reason::UNDECODABLE.to_owned()), ..default() }, vec![5, 3, 1]),
        (DeadLetterSelection { message_id: letters()[3].message_id, ..default() }, vec![4]),
        (DeadLetterSelection { ids: Some(numbers(&[2, 4, 99])), ..default() }, vec![4, 2]),
        (DeadLetterSelection { ids: Some(vec![]), ..default() }, vec![]),
        (
            DeadLetterSelection { reason: Some(reason::UNDECODABLE.to_owned()), ..of_source(ITEMS) },
            vec![5, 1],
        ),
    ];
    for (selection, expected) in cases {
        assert_eq!(ids(&list(&*port, &selection).await), numbers(&expected), "{selection:?}");
        assert_eq!(port.count(&selection).await.expect("count"), expected.len() as u64, "{selection:?}");
    }
}

async fn listing_changes_nothing_however_often(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    put_all(&*port).await;
    port.mark(&of_source(ITEMS), after_s(50)).await.expect("mark");
    let before = list(&*port, &DeadLetterSelection::default()).await;
    for _ in 0..100 {
        assert_eq!(list(&*port, &DeadLetterSelection::default()).await, before);
    }
    assert_eq!(claim(&*port, 1, 10, 60).await.len(), 3, "and all can still be redriven");
}

async fn marking_counts_what_was_not_marked(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    put_all(&*port).await;
    let some = DeadLetterSelection { ids: Some(numbers(&[1, 3])), ..Default::default() };
    assert_eq!(port.mark(&some, after_s(50)).await.expect("mark"), 2);
    assert_eq!(port.mark(&some, after_s(51)).await.expect("mark"), 0);
    assert_eq!(port.mark(&of_source(ITEMS), after_s(52)).await.expect("mark"), 2);
    let marks: Vec<_> = list(&*port, &of_source(ITEMS)).await.iter().map(|letter| letter.marked_at).collect();
    assert_eq!(marks, [Some(after_s(52)), Some(after_s(52)), Some(after_s(50))], "a first mark stays");
}

async fn only_marked_letters_of_a_source_are_claimed(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    put_all(&*port).await;
    assert_eq!(claim(&*port, 1, 10, 60).await, []);
    let some = DeadLetterSelection { ids: Some(numbers(&[1, 3, 4])), ..Default::default() };
    port.mark(&some, after_s(50)).await.expect("mark");
    let claimed = claim(&*port, 2, 10, 60).await;
    assert_eq!(claimed.len(), 1);
    let expected = DeadLetter { marked_at: Some(after_s(50)), ..letters()[0].clone() };
    assert_eq!((&claimed[0].letter, claimed[0].token), (&expected, token(2)));
    let of_mail = port.claim(DeadLetterSource::Mail, 10, token(3), after_s(60), LEASE).await.expect("claim");
    assert_eq!(ids(&[of_mail[0].letter.clone()]), numbers(&[3]));
}

async fn the_oldest_mark_is_claimed_first(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    put_all(&*port).await;
    for (number, seconds) in [(5, 50), (1, 51), (2, 52)] {
        let one = DeadLetterSelection { ids: Some(numbers(&[number])), ..Default::default() };
        port.mark(&one, after_s(seconds)).await.expect("mark");
    }
    let claimed = claim(&*port, 1, 2, 60).await;
    let letters: Vec<_> = claimed.into_iter().map(|claimed| claimed.letter).collect();
    assert_eq!(ids(&letters), numbers(&[5, 1]));
}

async fn two_claimers_never_hold_one_letter(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    let all: Vec<DeadLetter> = (0..40).map(|number| dead_letter(number, ITEMS, reason::CONFLICT)).collect();
    port.put(all).await.expect("put");
    port.mark(&DeadLetterSelection::default(), after_s(50)).await.expect("mark");
    let mut tasks = JoinSet::new();
    for claimer in 0..6 {
        let port = fixture.open().await.dead_letters();
        tasks.spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claimed = claim(&*port, claimer, 3, 60).await;
                if claimed.is_empty() {
                    return mine;
                }
                mine.extend(claimed.into_iter().map(|claimed| claimed.letter.id));
            }
        });
    }
    let all: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(all.len(), 40);
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 40, "one was held twice");
}

async fn a_redrive_that_is_done_deletes_its_row(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    put_all(&*port).await;
    port.mark(&of_source(ITEMS), after_s(50)).await.expect("mark");
    let claimed = claim(&*port, 1, 1, 60).await.remove(0);
    port.settle(vec![(claimed.letter.id, claimed.token, None)]).await.expect("settle");
    let left = ids(&list(&*port, &of_source(ITEMS)).await);
    assert!(left.len() == 2 && !left.contains(&claimed.letter.id), "{left:?}");
}

async fn a_redrive_that_failed_writes_its_row_anew(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    put_all(&*port).await;
    port.mark(&of_source(ITEMS), after_s(50)).await.expect("mark");
    let claimed = claim(&*port, 1, 1, 60).await.remove(0);
    let anew = DeadLetter {
        reason: reason::REJECTED.to_owned(),
        detail: "the store refuses the row".to_owned(),
        attempts: 4,
        ..claimed.letter
    };
    port.settle(vec![(anew.id, claimed.token, Some(anew.clone()))]).await.expect("settle");
    let one = DeadLetterSelection { ids: Some(vec![anew.id]), ..Default::default() };
    assert_eq!(list(&*port, &one).await, [DeadLetter { marked_at: None, ..anew }], "unmarked");
    assert_eq!(claim(&*port, 2, 10, 60).await.len(), 2, "the other two only");
}

async fn a_redrive_killed_half_way_is_taken_again(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    put_all(&*port).await;
    port.mark(&of_source(ITEMS), after_s(50)).await.expect("mark");
    assert_eq!(claim(&*port, 1, 10, 60).await.len(), 3);
    assert_eq!(claim(&*port, 2, 10, 60 + LEASE.as_secs() - 1).await, [], "held by a live lease");
    let again = claim(&*port, 3, 10, 60 + LEASE.as_secs()).await;
    assert_eq!(again.len(), 3, "whoever held them died: none is lost");
    assert_eq!(list(&*port, &of_source(ITEMS)).await.len(), 3);
}

async fn a_lease_that_was_lost_settles_nothing(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    put_all(&*port).await;
    port.mark(&of_source(ITEMS), after_s(50)).await.expect("mark");
    let lost = claim(&*port, 1, 1, 60).await.remove(0);
    let held = claim(&*port, 2, 10, 60 + LEASE.as_secs()).await;
    let anew = DeadLetter { detail: "written by the loser".to_owned(), ..lost.letter.clone() };
    let stale = vec![(lost.letter.id, lost.token, None), (lost.letter.id, lost.token, Some(anew))];
    port.settle(stale).await.expect("settle");
    let one = DeadLetterSelection { ids: Some(vec![lost.letter.id]), ..Default::default() };
    assert_eq!(list(&*port, &one).await, [lost.letter], "nothing changed");
    // Of a batch only what was lost is left alone.
    let mut settled: Vec<_> = held.iter().map(|held| (held.letter.id, held.token, None)).collect();
    settled[0].1 = token(9);
    port.settle(settled).await.expect("settle");
    assert_eq!(list(&*port, &of_source(ITEMS)).await.len(), 1);
}

async fn discarding_removes_whatever_the_mark(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    put_all(&*port).await;
    let one = DeadLetterSelection { ids: Some(numbers(&[1])), ..Default::default() };
    port.mark(&one, after_s(50)).await.expect("mark");
    assert_eq!(port.discard(&of_source(ITEMS)).await.expect("discard"), 3);
    assert_eq!(port.discard(&of_source(ITEMS)).await.expect("discard"), 0);
    assert_eq!(ids(&list(&*port, &DeadLetterSelection::default()).await), numbers(&[4, 3]));
    assert_eq!(claim(&*port, 1, 10, 60).await, []);
}

async fn depths_are_by_source_and_reason(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    assert_eq!(port.depths().await.expect("depths"), []);
    put_all(&*port).await;
    let mut depths = port.depths().await.expect("depths");
    depths.sort_by(|a, b| (a.source, &a.reason).cmp(&(b.source, &b.reason)));
    let depth = |source, reason: &str, count, seconds| DeadLetterDepth {
        source,
        reason: reason.to_owned(),
        count,
        oldest_at: after_s(seconds),
    };
    let expected = [
        depth(ITEMS, reason::CONFLICT, 1, 2),
        depth(ITEMS, reason::UNDECODABLE, 2, 1),
        depth(DeadLetterSource::Mail, reason::UNDECODABLE, 1, 3),
        depth(DeadLetterSource::Deliveries, reason::REFUSED, 1, 4),
    ];
    assert_eq!(depths, expected);
}

async fn a_restart_keeps_them(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.dead_letters();
    put_all(&*port).await;
    port.mark(&of_source(DeadLetterSource::Mail), after_s(50)).await.expect("mark");
    let before = list(&*port, &DeadLetterSelection::default()).await;
    drop(port);
    fixture.disturb(Disturbance::Restart).await;
    let port = fixture.open().await.dead_letters();
    assert_eq!(list(&*port, &DeadLetterSelection::default()).await, before);
}
