//! What was just accepted is remembered without waiting.

use tidings_domain::id::MessageId;
use tidings_servers::redis::Redis;

use crate::process::{Process, after_ms, id, start};

#[tokio::test]
async fn a_process_that_was_answered_sees_what_the_others_accepted() {
    let url = Redis::shared().await.database();
    let (one, other) = (Process::patient(&url), Process::patient(&url));
    one.until_up().await;
    let many: Vec<MessageId> = (0..1000).map(id).collect();
    one.limits.accepted(&many, after_ms(1)).await.unwrap();
    one.limits.accepted(&[id(0)], after_ms(2)).await.unwrap();
    // Sent before it, and so known to all when this is answered.
    assert_eq!(one.limits.is_accepted(&many).await.unwrap(), vec![Some(after_ms(1)); 1000]);
    let asked = [id(0), id(5000), id(999)];
    let expected = [Some(after_ms(1)), None, Some(after_ms(1))];
    assert_eq!(other.limits.is_accepted(&asked).await.unwrap(), expected);
}

/// Nothing else runs on the test's thread while it does not wait: what does not fit into the queue is dropped.
#[tokio::test]
async fn too_many_at_once_are_dropped_and_wait_for_nothing() {
    let process = Process::patient(&Redis::shared().await.database());
    process.until_up().await;
    for number in 0..5000 {
        process.limits.accepted(&[id(number)], start()).await.unwrap();
    }
    let ids: Vec<MessageId> = (0..5000).map(id).collect();
    let known = process.limits.is_accepted(&ids).await.unwrap();
    let count = known.iter().filter(|known| known.is_some()).count();
    assert_eq!(count, 1024, "as many as may wait to be written");
    assert!(known[..count].iter().all(Option::is_some), "the first ones");
    assert_eq!(process.trouble(), None);
}

#[tokio::test]
async fn what_is_forgotten_is_forgotten_for_all() {
    let url = Redis::shared().await.database();
    let (one, other) = (Process::patient(&url), Process::patient(&url));
    assert!(!one.differs(1, 7).await && other.differs(1, 8).await);
    one.limits.forget(&[id(1), id(2)]).await.unwrap();
    assert!(!other.differs(1, 8).await && one.differs(1, 7).await);
    assert_eq!((one.fallbacks(), other.fallbacks()), (0, 0));
}
