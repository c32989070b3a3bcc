//! The end of a bus.

use std::{collections::BTreeSet, ffi::OsString, fs, time::Duration};

use tidings_domain::{
    ErrorKind,
    ports::{DependencyState, Queue},
};
use tidings_rabbitmq::RabbitMq;
use tidings_servers::proxy::Proxy;

use crate::stage::{QUIET, Stage, message, options, publish, receive, topic, until};

#[tokio::test]
async fn closing_waits_for_confirms_and_then_nothing_is_taken() {
    let stage = Stage::with(&["messages"]).await;
    let messages = topic("messages");
    let publishing = stage.bus.publish(&messages, (0..500).map(message).collect());
    let closing = async {
        // Begun: the publish was polled before.
        stage.rabbitmq.close().await;
    };
    let (answers, ()) = futures::join!(publishing, closing);
    assert_eq!(answers.len(), 500);
    for answer in answers {
        if let Err(error) = answer {
            assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
        }
    }
    let answer = stage.bus.publish(&messages, vec![message(0)]).await.remove(0);
    assert_eq!(answer.unwrap_err().kind, ErrorKind::Unavailable);
    let error = stage.bus.consume(Queue::Items, 1).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert_eq!(stage.rabbitmq.dependency().state(), DependencyState::Down("the bus is closed".to_owned()));
    stage.rabbitmq.close().await;
}

#[tokio::test]
async fn a_publish_under_way_is_confirmed_before_the_close() {
    let stage = Stage::with(&["messages"]).await;
    let messages = topic("messages");
    publish(&*stage.bus, &messages, 0..1).await;
    let mut publishing = Box::pin(stage.bus.publish(&messages, (1..100).map(message).collect()));
    // Polled until it is with the broker: more is acknowledged than before.
    assert!(futures::poll!(&mut publishing).is_pending());
    tokio::task::yield_now().await;
    let (answers, ()) = futures::join!(publishing, stage.rabbitmq.close());
    for answer in answers {
        answer.unwrap();
    }
}

/// While it is closed its channels are of no use, and the library does not end the consumers yet.
#[tokio::test]
async fn a_consumer_whose_channel_is_gone_ends_also_where_nothing_says_so() {
    let stage = Stage::with(&["messages"]).await;
    let proxy = Proxy::to(stage.server.addr()).await;
    let rabbitmq = RabbitMq::new(options(&proxy.url(&stage.url), stage.server)).unwrap();
    let consumer = rabbitmq.bus().consume(Queue::Items, 1).await.unwrap();
    assert!(consumer.receive(1, QUIET).await.unwrap().is_empty());
    proxy.freeze();
    let mut closing = Box::pin(rabbitmq.close());
    let ended = async {
        loop {
            if let Err(error) = consumer.receive(1, Duration::from_millis(20)).await {
                break error;
            }
        }
    };
    tokio::select! {
        biased;
        () = &mut closing => panic!("the broker does not answer the close: it takes its time"),
        error = ended => assert_eq!(error.kind, ErrorKind::Unavailable),
    }
    closing.await;
}

/// The client library's threads in this process, one for each connection, also of tests that run beside.
fn threads() -> BTreeSet<OsString> {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap());
    let is_theirs = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("lapin-io-loop"))
    };
    tasks.filter(is_theirs).map(|task| task.file_name()).collect()
}

#[tokio::test]
async fn no_thread_is_left_behind_by_a_bus_that_is_closed_dropped_or_frozen() {
    let stage = Stage::with(&["messages"]).await;
    let before = threads();
    let proxy = Proxy::to(stage.server.addr()).await;
    let open = async || {
        let rabbitmq = RabbitMq::new(options(&proxy.url(&stage.url), stage.server)).unwrap();
        publish(&*rabbitmq.bus(), &topic("messages"), 0..1).await;
        let consumer = rabbitmq.bus().consume(Queue::Items, 1).await.unwrap();
        receive(&*consumer, 1).await;
        rabbitmq
    };
    let closed = open().await;
    closed.close().await;
    let dropped = open().await;
    drop(dropped);
    let frozen = open().await;
    let given_up = open().await;
    let since: BTreeSet<_> = threads().difference(&before).cloned().collect();
    assert!(since.len() >= 4, "two connections of two buses that stand");
    proxy.freeze();
    frozen.close().await;
    drop(given_up);
    // What other tests began meanwhile ends with them.
    until("its threads have ended", || threads().is_disjoint(&since)).await;
}
