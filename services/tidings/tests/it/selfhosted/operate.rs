//! What people do to an installation: provision, check, recover, replay.

use serde_json::{Value, json};

use super::{
    servers::Servers,
    stack::{ROLES, Stack, until},
};
use crate::harness::{stderr, stdout};

#[tokio::test]
async fn provisioning_is_idempotent_and_check_names_what_is_missing() {
    let stack = Stack::prepare(Servers::shared().await, &[]).await;
    let before = stack.run(&["provision", "--check", "--json"]).await;
    assert_eq!(before.status.code(), Some(1), "{before:?}");
    let report: Value = serde_json::from_slice(&before.stdout).unwrap();
    assert_eq!((&report["complete"], &report["version"]), (&json!(false), &json!(0)), "{report:#}");
    assert!(report["missing"].to_string().contains(&stack.name("items")), "{report:#}");
    assert_eq!(
        stack.psql("select count(*) from pg_tables where schemaname = 'public'").await,
        "0",
        "a check makes nothing"
    );

    for _ in 0..2 {
        assert!(stack.provision().await.contains("version 1"));
        let report = stack.told(&["provision", "--check", "--json"]).await;
        assert_eq!(report["missing"], json!([]), "{report:#}");
    }
    let secret = "select md5(secret) from installation";
    let first = stack.psql(secret).await;
    stack.provision().await;
    assert_eq!(stack.psql(secret).await, first, "the secret stays");

    stack.servers.rabbitmq.unbind(&stack.amqp, &stack.name("topic-messages"), &stack.name("items")).await;
    stack.psql(&format!("drop publication {}", stack.namespace)).await;
    let missing = stack.run(&["provision", "--check"]).await;
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    for part in ["publication", &stack.name("items"), &stack.name("topic-messages")] {
        assert!(stdout(&missing).contains(part), "{part} in {missing:?}");
    }
}

#[tokio::test]
async fn a_topology_of_other_hands_is_looked_at_and_a_clash_names_the_difference() {
    let mut stack = Stack::prepare(Servers::shared().await, &[]).await;
    stack.set("TIDINGS_TOPOLOGY", "verify");
    let refused = stack.run(&["provision"]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(stderr(&refused).contains(&stack.name("items")), "{refused:?}");
    assert!(stack.servers.rabbitmq.queues(&stack.amqp).await.is_empty(), "it makes nothing there");

    stack.set("TIDINGS_TOPOLOGY", "");
    let items = stack.name("items");
    stack.servers.rabbitmq.declare_queue(&stack.amqp, &items, r#"{"x-queue-type":"classic"}"#).await;
    let refused = stack.run(&["provision"]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        stderr(&refused).contains(&items) && stderr(&refused).contains("inequivalent arg"),
        "{refused:?}"
    );
    stack.servers.rabbitmq.delete_queue(&stack.amqp, &items).await;
    stack.provision().await;

    // With everything there, nobody needs to declare anything.
    stack.set("TIDINGS_TOPOLOGY", "verify");
    stack.provision().await;
    stack.up_all().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let id = stack.publish("on a topology of other hands").await;
    assert_eq!(stack.finished(&id).await["deliveries"]["sent"], 1);
    let topic = stack.name("topic-messages");
    stack.servers.rabbitmq.unbind(&stack.amqp, &topic, &items).await;
    stack.process("api").until_it_says("topology", &items).await;
}

#[tokio::test]
async fn a_dropped_slot_stops_the_watcher_until_a_person_recovers_it() {
    let mut stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let before = stack.publish("before the gap").await;
    stack.finished(&before).await;
    stack.stop("cdc-watcher").await;
    let slot = stack.namespace.clone();
    stack.psql(&format!("select pg_drop_replication_slot('{slot}')")).await;
    let in_the_gap = [stack.publish("in the gap 1").await, stack.publish("in the gap 2").await];
    until("both are stored", async || stack.psql("select count(*) from items").await == "3").await;
    stack.launch("cdc-watcher").await;
    let watcher = stack.process("cdc-watcher");
    let report = watcher.until_it_says("cdc-watcher: changes", "tidings recover").await;
    assert_eq!(report["ready"], false, "{report:#}");
    assert_eq!(watcher.total("tidings_changes_gap").await, 1.0);
    let missing = stack.run(&["provision", "--check"]).await;
    assert!(stdout(&missing).contains("tidings recover"), "{missing:?}");
    let refused = stack.run(&["provision"]).await;
    assert_ne!(refused.status.code(), Some(0), "provisioning is no recovery: {refused:?}");
    assert_eq!(stack.mails("in the gap"), 0);

    let done = stack.told(&["recover", "--json"]).await;
    assert_eq!(done["slot"]["name"], slot.as_str(), "{done:#}");
    assert_eq!(
        (&done["finished"], &done["published"], &done["skipped"]),
        (&json!(true), &json!(2), &json!(1)),
        "{done:#}"
    );
    for id in &in_the_gap {
        assert_eq!(stack.finished(id).await["deliveries"]["sent"], 1);
    }
    stack.process("cdc-watcher").until_ready().await;
    let after = stack.publish("after the gap").await;
    assert_eq!(stack.finished(&after).await["deliveries"]["sent"], 1);
    // Run again it finds nothing to do, and nobody was mailed twice.
    let again = stack.told(&["recover", "--json"]).await;
    assert_eq!((&again["slot"], &again["published"]), (&Value::Null, &json!(0)), "{again:#}");
    assert_eq!(stack.smtp.mails().len(), 4);
}

#[tokio::test]
async fn a_replay_reaches_who_was_not_mailed_and_again_reaches_everyone() {
    let stack = Stack::start().await;
    stack.subscribe_confirmed(&["first@example.com"]).await;
    let id = stack.publish("worth reading").await;
    let other = stack.publish("another").await;
    for id in [&id, &other] {
        stack.finished(id).await;
    }
    stack.subscribe_confirmed(&["late@example.com"]).await;
    let told = stack.done(&["replay", "--id", &id]).await;
    assert!(told.starts_with("published 1 item again, as replay "), "{told}");
    let to = |address: &str| stack.smtp.mails().iter().filter(|mail| mail.to == address).count();
    until("the late one is mailed", async || to("late@example.com") == 1).await;
    assert_eq!(stack.finished(&id).await["deliveries"]["total"], 2);
    assert_eq!(to("first@example.com"), 2, "who has it is not mailed again");

    // Said again it mails nobody; with --again, everyone.
    stack.done(&["replay", "--id", &id]).await;
    let told = stack.told(&["replay", "--id", &id, "--again", "--json"]).await;
    assert_eq!((&told["published"], &told["finished"]), (&json!(1), &json!(true)), "{told:#}");
    until("both are mailed once more", async || to("late@example.com") == 2 && to("first@example.com") == 3)
        .await;

    let since = stack.psql("select to_char(min(stored_at) at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') from items").await;
    let told = stack.told(&["replay", "--since", &since, "--topic", "messages", "--json"]).await;
    assert_eq!(told["published"], 2, "{told:#}");
    until("the late one has the other too", async || to("late@example.com") == 3).await;
    let nothing = stack.run(&["replay", "--id", "00000000-0000-7000-8000-000000000000"]).await;
    assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
    assert!(stdout(&nothing).contains("there is no item 00000000"), "{nothing:?}");
    assert_eq!(stack.run(&["replay"]).await.status.code(), Some(2));
    assert_eq!(to("first@example.com"), 3);
    for role in ROLES {
        assert_eq!(stack.process(role).readiness().await["ready"], true);
    }
}
