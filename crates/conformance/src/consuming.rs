//! `Consumer`: leases, settlements, stops.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use tidings_domain::{
    ErrorKind,
    ports::{Queue, Settlement},
};

use crate::{
    Fixture, Need,
    bus::{SOON, bodies, messages, nothing_comes, publish, receive, settle},
    runner::suite,
};

suite!(Bus {
    competing_consumers_share,
    prefetch_bounds_what_is_unsettled,
    a_release_comes_back_uncounted,
    a_dropped_consumer_gives_back_what_it_held,
    what_is_done_never_comes_again,
    a_settlement_of_a_lease_given_up_is_lease_lost,
    a_settlement_of_anothers_lease_is_lease_lost,
    a_lease_that_ran_out_is_lost_and_its_message_comes_again [Need::BusLease],
    an_extended_lease_holds [Need::BusLease],
    receive_waits_and_ends_empty,
    receive_loses_nothing_when_it_is_dropped,
    after_stop_nothing_new_is_assigned,
    stop_ends_a_waiting_receive,
    many_stop_at_once,
    a_consumer_dropped_while_it_waits_takes_nothing_along,
});

async fn competing_consumers_share(fixture: Arc<dyn Fixture>) {
    let first = fixture.open().await.bus();
    let second = fixture.open().await.bus();
    let one = first.consume(Queue::Items, 2).await.expect("consume");
    let other = second.consume(Queue::Items, 2).await.expect("consume");
    publish(&*first, &messages(), &["a", "b", "c", "d"]).await;
    // Each is assigned two at most, so that both have to take part.
    let mut all = receive(&*one, 2).await;
    all.extend(receive(&*other, 2).await);
    assert_eq!(bodies(&all), ["a", "b", "c", "d"]);
}

async fn prefetch_bounds_what_is_unsettled(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a", "b", "c", "d"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let held = receive(&*consumer, 3).await;
    nothing_comes(&*consumer).await;
    settle(&*consumer, &held[..1], Settlement::Done).await;
    receive(&*consumer, 1).await;
    nothing_comes(&*consumer).await;
}

async fn a_release_comes_back_uncounted(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let mut returns = Vec::new();
    for _ in 0..5 {
        let received = receive(&*consumer, 1).await;
        returns.push(received[0].returns);
        settle(&*consumer, &received, Settlement::Release).await;
    }
    if bus.capabilities().release_is_uncounted {
        assert_eq!(returns, [0; 5]);
    }
    assert_eq!(bodies(&receive(&*consumer, 1).await), ["a"], "it is still there");
}

async fn a_dropped_consumer_gives_back_what_it_held(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a", "b", "c"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let held = receive(&*consumer, 2).await;
    drop(consumer);
    drop(held);
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    assert_eq!(bodies(&receive(&*consumer, 3).await), ["a", "b", "c"]);
}

async fn what_is_done_never_comes_again(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a", "b"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let received = receive(&*consumer, 2).await;
    let (done, held): (Vec<_>, Vec<_>) =
        received.into_iter().partition(|message| message.envelope.body == "a");
    settle(&*consumer, &done, Settlement::Done).await;
    drop(consumer);
    drop(held);
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    assert_eq!(bodies(&receive(&*consumer, 1).await), ["b"]);
    nothing_comes(&*consumer).await;
}

fn lease_lost(answers: &[tidings_domain::Result<()>]) {
    for answer in answers {
        assert_eq!(answer.as_ref().expect_err("the lease is lost").kind, ErrorKind::LeaseLost);
    }
}

async fn a_settlement_of_a_lease_given_up_is_lease_lost(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let first = receive(&*consumer, 1).await;
    settle(&*consumer, &first, Settlement::Release).await;
    let second = receive(&*consumer, 1).await;
    let stale = consumer.settle(vec![(first[0].lease, Settlement::Done)]).await;
    assert_eq!(stale.len(), 1);
    lease_lost(&stale);
    // The stale settlement changed nothing: whoever holds it now settles it.
    settle(&*consumer, &second, Settlement::Done).await;
    lease_lost(&consumer.settle(vec![(second[0].lease, Settlement::Release)]).await);
    nothing_comes(&*consumer).await;
}

async fn a_settlement_of_anothers_lease_is_lease_lost(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a"]).await;
    let one = bus.consume(Queue::Items, 1).await.expect("consume");
    let held = receive(&*one, 1).await;
    drop(one);
    let other = bus.consume(Queue::Items, 1).await.expect("consume");
    let again = receive(&*other, 1).await;
    lease_lost(&other.settle(vec![(held[0].lease, Settlement::Done)]).await);
    settle(&*other, &again, Settlement::Done).await;
}

async fn a_lease_that_ran_out_is_lost_and_its_message_comes_again(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let lease = bus.capabilities().lease.expect("an adapter without leases says so");
    publish(&*bus, &messages(), &["a"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let first = receive(&*consumer, 1).await;
    fixture.elapse(lease + lease / 4).await;
    let other = bus.consume(Queue::Items, 3).await.expect("consume");
    let second = receive(&*other, 1).await;
    assert_eq!(bodies(&second), ["a"]);
    lease_lost(&consumer.settle(vec![(first[0].lease, Settlement::Done)]).await);
    lease_lost(&consumer.extend(&[first[0].lease]).await);
    settle(&*other, &second, Settlement::Done).await;
}

async fn an_extended_lease_holds(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let lease = bus.capabilities().lease.expect("an adapter without leases says so");
    publish(&*bus, &messages(), &["a"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let other = bus.consume(Queue::Items, 3).await.expect("consume");
    let held = receive(&*consumer, 1).await;
    for _ in 0..4 {
        fixture.elapse(lease / 2).await;
        let extended = consumer.extend(&[held[0].lease]).await;
        assert!(extended.iter().all(Result::is_ok), "{extended:?}");
    }
    nothing_comes(&*other).await;
    settle(&*consumer, &held, Settlement::Done).await;
    nothing_comes(&*other).await;
}

async fn receive_waits_and_ends_empty(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    nothing_comes(&*consumer).await;
    // One that waits is woken by what comes.
    let waiting = async { receive(&*consumer, 1).await };
    let publishing = async { publish(&*bus, &messages(), &["a"]).await };
    let (received, ()) = futures::join!(waiting, publishing);
    assert_eq!(bodies(&received), ["a"]);
}

async fn receive_loses_nothing_when_it_is_dropped(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let consumer = bus.consume(Queue::Items, 50).await.expect("consume");
    let mut all: Vec<String> = Vec::new();
    for round in 0..40_u64 {
        publish(&*bus, &messages(), &[&format!("{round:03}")]).await;
        // Dropped after a different number of steps each time, so that it is dropped at every await that it has.
        let patience = Duration::from_micros(round * 150);
        if let Ok(received) = tokio::time::timeout(patience, consumer.receive(5, SOON)).await {
            all.extend(bodies(&received.expect("receive")).into_iter().map(str::to_owned));
        }
        // And once polled a single time.
        if let Some(received) = consumer.receive(5, SOON).now_or_never() {
            all.extend(bodies(&received.expect("receive")).into_iter().map(str::to_owned));
        }
    }
    let rest = receive(&*consumer, 40 - all.len()).await;
    all.extend(bodies(&rest).into_iter().map(str::to_owned));
    all.sort_unstable();
    let expected: Vec<String> = (0..40).map(|round| format!("{round:03}")).collect();
    assert_eq!(all, expected);
}

async fn after_stop_nothing_new_is_assigned(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a", "b", "c", "d"]).await;
    let consumer = bus.consume(Queue::Items, 2).await.expect("consume");
    let mut all = receive(&*consumer, 1).await;
    consumer.stop().await;
    consumer.stop().await;
    loop {
        let received = consumer.receive(10, SOON).await.expect("receive");
        if received.is_empty() {
            break;
        }
        all.extend(received);
    }
    assert!(all.len() <= 2, "{} messages came of a consumer of 2 that was stopped", all.len());
    // What it holds can still be settled, and the rest is another's.
    settle(&*consumer, &all, Settlement::Done).await;
    assert!(consumer.receive(10, SOON).await.expect("receive").is_empty(), "empty means empty for good");
    let other = bus.consume(Queue::Items, 10).await.expect("consume");
    receive(&*other, 4 - all.len()).await;
    nothing_comes(&*other).await;
}

async fn stop_ends_a_waiting_receive(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let consumer = bus.consume(Queue::Items, 2).await.expect("consume");
    let waiting = async { consumer.receive(10, Duration::from_secs(3600)).await };
    let stopping = async { consumer.stop().await };
    let ended = tokio::time::timeout(SOON, async { futures::join!(waiting, stopping) }).await;
    let (received, ()) = ended.expect("a stop ends a receive that waits");
    assert!(received.expect("receive").is_empty());
}

async fn many_stop_at_once(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let mut consumers = Vec::new();
    for _ in 0..6 {
        consumers.push(bus.consume(Queue::Items, 2).await.expect("consume"));
    }
    publish(&*bus, &messages(), &["a", "b", "c", "d"]).await;
    let stops = consumers.iter().flat_map(|consumer| [consumer.stop(), consumer.stop()]);
    tokio::time::timeout(SOON, futures::future::join_all(stops)).await.expect("every stop ends");
    drop(consumers);
    let consumer = bus.consume(Queue::Items, 10).await.expect("consume");
    assert_eq!(bodies(&receive(&*consumer, 4).await), ["a", "b", "c", "d"]);
}

async fn a_consumer_dropped_while_it_waits_takes_nothing_along(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    for round in 0..20_u64 {
        let consumer = bus.consume(Queue::Items, 5).await.expect("consume");
        let waiting = tokio::time::timeout(Duration::from_micros(round * 200), consumer.receive(5, SOON));
        let body = format!("{round:02}");
        let publishing = async { publish(&*bus, &messages(), &[&body]).await };
        let (received, ()) = futures::join!(waiting, publishing);
        drop((received, consumer));
    }
    // Whatever was handed out to those that are gone, and never settled, is still there.
    let consumer = bus.consume(Queue::Items, 50).await.expect("consume");
    let expected: Vec<String> = (0..20).map(|round| format!("{round:02}")).collect();
    assert_eq!(bodies(&receive(&*consumer, 20).await), expected);
}
