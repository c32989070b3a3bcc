//! One bad entry does its neighbours in the group no harm.

use futures::future::join_all;
use tidings_domain::{ErrorKind, ports::Inserted};

use crate::values::{foreign, id, item, open};

#[tokio::test]
async fn a_refused_row_is_refused_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    sqlx::query(
        "CREATE TRIGGER refuses BEFORE INSERT ON items WHEN NEW.message = 'bad'
        BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    .execute(&mut foreign(folder.path()).await)
    .await
    .unwrap();
    let items = store.items();
    // Sent together, so that the writer takes them as groups.
    let calls = (1..=200_u128).map(|number| {
        let text = if number % 50 == 0 { "bad" } else { "good" };
        let items = &items;
        async move { (number, items.insert(&[item(number, text)]).await) }
    });
    for (number, inserted) in join_all(calls).await {
        match inserted {
            Ok(inserted) => assert_eq!((number % 50 != 0, inserted), (true, vec![Inserted::New])),
            Err(error) => assert_eq!((number % 50, error.kind), (0, ErrorKind::Rejected)),
        }
    }
    let found = items.get(&(1..=200).map(id).collect::<Vec<_>>()).await.unwrap();
    assert_eq!(found.iter().filter(|item| item.is_some()).count(), 196);
    assert_eq!(store.changes().backlog().await.unwrap(), 196);
}

#[tokio::test]
async fn a_dropped_call_has_its_effect_or_none_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let items = store.items();
    for number in 1..=50 {
        let item = [item(number, "x")];
        let call = items.insert(&item);
        // Polled once: it is on its way to the writer when it is dropped.
        let _answered_at_once = futures::FutureExt::now_or_never(call);
    }
    items.insert(&[item(51, "x")]).await.unwrap();
    let found = items.get(&(1..=51).map(id).collect::<Vec<_>>()).await.unwrap();
    assert!(found.iter().all(Option::is_some));
}
