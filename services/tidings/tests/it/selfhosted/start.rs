//! Starting in any order, before the servers, before provisioning, and beside a newer installation.

use reqwest::{Method, StatusCode};

use super::{
    servers::Servers,
    stack::{ROLES, Stack},
};
use crate::harness::{stderr, stdout};

#[tokio::test]
async fn processes_start_in_any_order_before_their_servers_and_before_provisioning() {
    let mut stack = Stack::prepare(Servers::shared().await, &[]).await;
    stack.to_postgres.cut().await;
    stack.to_rabbitmq.cut().await;
    stack.to_redis.cut().await;
    for role in ["mailer", "cdc-watcher", "api", "subscriber"] {
        stack.launch(role).await;
    }
    for role in ROLES {
        let process = stack.process(role);
        process.until_it_says("installation", "the store").await;
        assert_eq!(process.told()["ready"], false);
    }
    // The api's address answers all the while.
    let alive = stack.answer(stack.request(Method::GET, "/healthz")).await;
    assert_eq!(alive.status, StatusCode::OK);
    for (method, path) in [
        (Method::POST, "/v1/topics/messages/messages"),
        (Method::GET, "/v1/messages"),
        (Method::GET, "/readyz"),
    ] {
        let refused = stack.answer(stack.request(method, path).body("too early")).await;
        assert_eq!((refused.status, refused.problem()), (StatusCode::SERVICE_UNAVAILABLE, "not-ready"));
        assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
        assert!(refused.body["detail"].as_str().unwrap().contains("installation"), "{:#}", refused.body);
    }
    let away = stack.run(&["provision"]).await;
    assert_eq!(away.status.code(), Some(3), "{away:?}");
    assert!(stderr(&away).contains("Postgres") && !stderr(&away).contains("guest"), "{away:?}");

    // The servers come up: what is missing is provisioning.
    stack.to_postgres.heal().await;
    stack.to_rabbitmq.heal().await;
    stack.to_redis.heal().await;
    for role in ROLES {
        stack.process(role).until_it_says("installation", "run `tidings provision`").await;
    }
    let missing = stack.run(&["provision", "--check"]).await;
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert!(stdout(&missing).contains("missing: "), "{missing:?}");

    stack.provision().await;
    for role in ROLES {
        stack.process(role).until_ready().await;
        assert!(stack.process(role).banner().await.contains("profile selfhosted"));
    }
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let id = stack.publish("now it goes").await;
    assert_eq!(stack.finished(&id).await["deliveries"]["sent"], 1);
}

#[tokio::test]
async fn a_process_that_waits_stops_at_once() {
    let mut stack = Stack::prepare(Servers::shared().await, &[]).await;
    for role in ROLES {
        stack.launch(role).await;
        stack.process(role).until_it_says("installation", "run `tidings provision`").await;
    }
    stack.to_postgres.freeze();
    let began = tokio::time::Instant::now();
    stack.stop_all().await;
    assert!(began.elapsed().as_secs() < 30, "four stops took {:?}", began.elapsed());
}

#[tokio::test]
async fn a_newer_installation_ends_whoever_starts_on_it() {
    let mut stack = Stack::prepare(Servers::shared().await, &[]).await;
    stack.provision().await;
    stack.psql("update installation set version = version + 1").await;
    for role in ROLES {
        let process = stack.make(role, &[role]);
        let output = process.command().output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains("start the newer program"), "{output:?}");
    }
    for arguments in [&["provision"][..], &["provision", "--check"]] {
        let output = stack.run(arguments).await;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains("newer program"), "{output:?}");
    }
    // An older one is waited for: a newer program's provisioning makes it good.
    stack.psql("update installation set version = 0").await;
    stack.launch("subscriber").await;
    stack.process("subscriber").until_it_says("installation", "version 0").await;
    stack.provision().await;
    stack.process("subscriber").until_ready().await;
}
