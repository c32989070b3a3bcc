//! `Bus` and `Consumer`.

use std::{sync::Arc, time::Duration};

use tidings_domain::ports::{BusTopic, Queue, Settlement};

use crate::{
    Fixture,
    runner::suite,
    samples::{envelope, topic},
};

suite!(Bus { what_is_published_is_handed_out_and_settled });

async fn what_is_published_is_handed_out_and_settled(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let answers = bus.publish(&BusTopic::Messages(topic("messages")), vec![envelope("one")]).await;
    assert!(answers.len() == 1 && answers[0].is_ok(), "{answers:?}");
    let consumer = bus.consume(Queue::Items, 10).await.expect("consume");
    let received = consumer.receive(10, Duration::from_secs(5)).await.expect("receive");
    assert_eq!(received.len(), 1);
    assert_eq!(received[0].envelope.body, "one");
    let settled = consumer.settle(vec![(received[0].lease, Settlement::Done)]).await;
    assert!(settled.iter().all(Result::is_ok), "{settled:?}");
}
