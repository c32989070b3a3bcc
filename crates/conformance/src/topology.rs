//! `Topology`.

use std::sync::Arc;

use tidings_domain::ports::BusTopic;

use crate::{
    Disturbance, Fixture, Need,
    runner::suite,
    samples::{envelope, topic},
};

suite!(Topology {
    what_provisioning_left_is_whole,
    verify_names_what_is_missing_and_creates_nothing,
    declare_is_idempotent,
    a_missing_binding_is_named_and_declared_again [Need::Disturb(Disturbance::Unbind)],
    a_restart_keeps_it [Need::Disturb(Disturbance::Restart)],
});

async fn what_provisioning_left_is_whole(fixture: Arc<dyn Fixture>) {
    let topology = fixture.open().await.topology();
    assert_eq!(topology.verify(&[topic("messages")]).await.expect("verify"), []);
    assert_eq!(topology.verify(&[]).await.expect("verify"), []);
}

async fn verify_names_what_is_missing_and_creates_nothing(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let topology = ports.topology();
    let wanted = [topic("messages"), topic("orders")];
    let missing = topology.verify(&wanted).await.expect("verify");
    assert!(!missing.is_empty(), "the topic orders is missing");
    assert!(missing.iter().all(|missing| missing.name.contains("orders")), "{missing:?}");
    assert_eq!(topology.verify(&wanted).await.expect("verify"), missing, "verify created something");
    let answers = ports.bus().publish(&BusTopic::Messages(topic("orders")), vec![envelope("x")]).await;
    assert!(answers[0].is_err(), "verify created the topic");
}

async fn declare_is_idempotent(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let other = fixture.open().await.topology();
    let topology = ports.topology();
    let wanted = [topic("messages"), topic("orders")];
    for _ in 0..3 {
        topology.declare(&wanted).await.expect("declare");
    }
    let (one, two) = futures::join!(topology.declare(&wanted), other.declare(&wanted));
    one.expect("declare at the same time");
    two.expect("declare at the same time");
    assert_eq!(topology.verify(&wanted).await.expect("verify"), []);
    // Fewer topics than stand: nothing is taken away.
    topology.declare(&[topic("messages")]).await.expect("declare");
    assert_eq!(topology.verify(&wanted).await.expect("verify"), []);
    let answers = ports.bus().publish(&BusTopic::Messages(topic("orders")), vec![envelope("x")]).await;
    assert!(answers[0].is_ok(), "{answers:?}");
}

async fn a_missing_binding_is_named_and_declared_again(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let topology = ports.topology();
    fixture.disturb(Disturbance::Unbind).await;
    assert!(!topology.verify(&[topic("messages")]).await.expect("verify").is_empty());
    topology.declare(&[topic("messages")]).await.expect("declare");
    assert_eq!(topology.verify(&[topic("messages")]).await.expect("verify"), []);
}

async fn a_restart_keeps_it(fixture: Arc<dyn Fixture>) {
    let wanted = [topic("messages"), topic("orders")];
    fixture.open().await.topology().declare(&wanted).await.expect("declare");
    fixture.disturb(Disturbance::Restart).await;
    assert_eq!(fixture.open().await.topology().verify(&wanted).await.expect("verify"), []);
}
