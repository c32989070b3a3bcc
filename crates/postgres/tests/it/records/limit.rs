//! The limit of a write that shares its statements with others.

use std::time::Duration;

use tidings_domain::{
    ErrorKind, Result,
    ports::{Inserted, Items, NewItem},
};
use tidings_postgres::Store;

use super::{
    rig::{Rig, item, message_id},
    servers::{holding_item_1, run, so_many_wait},
};

/// A row that the store refuses, so that whatever shares its statement is tried one by one.
fn poison() -> Vec<NewItem> {
    let mut poison = item(0, "poison");
    poison.message.content_type = "text/plain\0".to_owned();
    vec![poison]
}

/// All in the same moment.
async fn insert_all(items: &dyn Items, group: &[Vec<NewItem>]) -> Vec<Result<Vec<Inserted>>> {
    futures::future::join_all(group.iter().map(|rows| items.insert(rows))).await
}

/// Each of the waiting has a limit of its own, but all wait for each other.
#[tokio::test]
async fn a_write_behind_many_that_wait_ends_within_its_own_limit() {
    let rig = Rig::new().await;
    let mut options = rig.options.clone();
    options.statement_timeout = Duration::from_millis(400);
    let store = Store::new(options).unwrap();
    let items = store.items();
    let mut other = holding_item_1(&rig.options.url).await;
    let waiting = vec![item(1, "ours")];
    // So many rows that a second group begins beside the first, and both are stuck: sixteen times the statement's limit.
    let large: Vec<NewItem> = (1..300).map(|number| item(number, "ours")).collect();
    let group = |first: Vec<NewItem>| [vec![first, poison()], vec![waiting.clone(); 15]].concat();
    let (first, second) = (group(waiting.clone()), group(large));
    let (stuck, (also_stuck, late)) = tokio::join!(insert_all(&*items, &first), async {
        so_many_wait(&mut other, 1).await;
        tokio::join!(insert_all(&*items, &second), async {
            so_many_wait(&mut other, 2).await;
            items.insert(&[item(999, "late")]).await.unwrap_err()
        })
    });
    let stuck = stuck.into_iter().chain(also_stuck);
    let errors: Vec<_> = stuck.map(|inserted| inserted.unwrap_err()).collect();
    let limited: Vec<_> =
        errors.iter().filter(|error| error.context.contains("did not end within its limit")).collect();
    assert!(limited.len() >= 2, "the last of each group");
    assert!(limited.iter().all(|error| error.kind == ErrorKind::Unknown));
    assert_eq!(late.kind, ErrorKind::Unavailable, "{}", late.chain());
    assert!(late.context.contains("was not begun"), "{}", late.context);
    run(&mut other, "rollback").await;
    // What was not begun is not written later either.
    while items.insert(&[item(1, "ours")]).await.is_err() {}
    assert_eq!(items.get(&[message_id(999)]).await.unwrap(), [None]);
    assert_eq!(items.insert(&[item(999, "again")]).await.unwrap(), [Inserted::New]);
    store.close().await;
    rig.end().await;
}
