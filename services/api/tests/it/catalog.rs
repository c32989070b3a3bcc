//! The copy of topics and keys, readiness, and the topology's keeper.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use tidings_domain::{
    ports::Clock as _,
    topic::{Topic, TopicName},
};
use tidings_memory::{Memory, Options, Part};

use crate::world::{Setup, World, messages};

const PATH: &str = "/v1/topics/messages/messages";

async fn settle() {
    tokio::time::sleep(Duration::from_secs(8)).await;
}

#[tokio::test(start_paused = true)]
async fn an_api_that_never_read_the_catalog_is_not_ready() {
    let memory = Memory::new(Options { delay_ms: 0, ..Options::new(1) });
    memory.set_away(Part::Store, true);
    let world = World::over(memory, Setup::default());
    settle().await;
    let reply = world.get("/readyz").await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "not-ready"));
    assert_eq!(reply.json()["detail"], "not ready yet, or not now: catalog, topology");
    assert_eq!(world.get("/healthz").await.status, StatusCode::OK);
    let reply = world.post(PATH, "text/plain", "x").await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "catalog-away"));
    assert_eq!(reply.header("retry-after"), "1");
    world.memory.set_away(Part::Store, false);
    settle().await;
    assert_eq!(world.get("/readyz").await.json()["status"], "ok");
    assert_eq!(world.post(PATH, "text/plain", "x").await.status, StatusCode::ACCEPTED);
}

#[tokio::test(start_paused = true)]
async fn a_copy_serves_for_an_hour() {
    let world = World::new();
    settle().await;
    world.memory.set_away(Part::Store, true);
    settle().await;
    assert_eq!(world.get("/readyz").await.json()["status"], "degraded");
    tokio::time::sleep(Duration::from_secs(59 * 60)).await;
    assert_eq!(world.post(PATH, "text/plain", "x").await.status, StatusCode::ACCEPTED);
    assert_eq!(world.get("/readyz").await.status, StatusCode::OK);
    let reply = world.post("/v1/topics/unknown/messages", "text/plain", "x").await;
    assert_eq!(reply.problem(), "catalog-away", "a topic that the copy lacks is neither there nor not");
    tokio::time::sleep(Duration::from_secs(2 * 60)).await;
    assert_eq!(world.post(PATH, "text/plain", "x").await.problem(), "catalog-away");
    assert_eq!(world.get("/readyz").await.problem(), "not-ready");
    world.memory.set_away(Part::Store, false);
    settle().await;
    assert_eq!(world.post(PATH, "text/plain", "x").await.status, StatusCode::ACCEPTED);
}

#[tokio::test(start_paused = true)]
async fn what_another_api_made_is_looked_up_once() {
    let world = World::new();
    let orders = TopicName::parse("orders").unwrap();
    let post = || world.post("/v1/topics/orders/messages", "text/plain", "x");
    assert_eq!(post().await.problem(), "unknown-topic");
    let topic = Topic { name: orders.clone(), subject: None, created_at: world.clock.now() };
    world.memory.topology().declare(std::slice::from_ref(&orders)).await.unwrap();
    world.memory.catalog().put_topic(&topic).await.unwrap();
    assert_eq!(post().await.problem(), "unknown-topic", "a no is kept for a second");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(post().await.status, StatusCode::ACCEPTED);
}

#[tokio::test(start_paused = true)]
async fn a_lost_binding_is_found_without_a_publish() {
    let world = World::new();
    settle().await;
    world.memory.unbind();
    assert_ne!(world.memory.topology().verify(&[messages()]).await.unwrap(), []);
    settle().await;
    assert_eq!(world.memory.topology().verify(&[messages()]).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_degrades_and_comes_back() {
    let world = World::new();
    settle().await;
    world.memory.set_away(Part::Bus, true);
    settle().await;
    assert_eq!(world.get("/readyz").await.json()["status"], "degraded");
    world.memory.set_away(Part::Bus, false);
    settle().await;
    assert_eq!(world.get("/readyz").await.json()["status"], "ok");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_the_work_in_the_background() {
    let mut world = World::new();
    settle().await;
    world.shutdown.request();
    let ended = tokio::time::timeout(Duration::from_secs(5), world.tasks.join_next()).await.unwrap();
    ended.unwrap().unwrap().unwrap();
    assert!(world.health.report().ready);
    assert_eq!(world.call(Method::GET, "/healthz", &[], "").await.status, StatusCode::OK);
}
