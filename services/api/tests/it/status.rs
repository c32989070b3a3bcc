//! What is known of a message, and waiting for it.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tidings_domain::{
    delivery::{Answer, Claim, DeliveryKey, DeliveryKind, LeaseToken, NewDelivery, Outcome},
    id::{MessageId, SubscriptionId},
    notification::{Cursor, Notification, Plan},
    ports::{Clock as _, Entropy as _},
    trace_context::TraceContext,
};
use tidings_memory::{Part, SeededEntropy};

use crate::world::{World, epoch, masked, messages};

impl World {
    /// Plans a delivery to each of `to` and finishes the expansion, as the mailer would.
    async fn plan(&self, item: MessageId, to: &[SubscriptionId]) {
        let at = self.clock.now();
        let delivery = |subscription: &SubscriptionId| NewDelivery {
            key: DeliveryKey { about: item.uuid(), subscription: *subscription, round: 0 },
            kind: DeliveryKind::Item,
            topic: messages(),
            due_at: at,
            created_at: at,
            trace: TraceContext::default(),
        };
        let notification = Notification {
            item,
            round: 0,
            topic: messages(),
            replay: None,
            captured_at: at,
            published_at: at,
        };
        let plan = Plan {
            notification,
            from: Cursor::Start,
            page: to.iter().map(delivery).collect(),
            to: Cursor::Finished,
            claim: None,
            at,
        };
        self.memory.deliveries().plan(vec![plan]).await.unwrap();
    }

    /// Sends all that is due, as the mailer would.
    async fn mail(&self) {
        let (at, mut token) = (self.clock.now(), [0; 16]);
        SeededEntropy::new(at.as_millis().unsigned_abs()).fill(&mut token);
        let token = LeaseToken(uuid::Uuid::from_bytes(token));
        let until = at.plus(Duration::from_secs(60));
        let deliveries = self.memory.deliveries();
        let claimed = deliveries.claim(100, &Claim { token, owner: "test".into(), at, until }).await.unwrap();
        let answer = Answer { at, phase: "message".into(), code: 250, text: "queued as 1".into() };
        let sent = |delivery: &tidings_domain::delivery::ClaimedDelivery| {
            (delivery.delivery.key, token, Outcome::Sent { answer: answer.clone() })
        };
        let held: Vec<_> = claimed.iter().map(|claimed| (claimed.delivery.key, token)).collect();
        deliveries.sending(&held, until).await.unwrap();
        deliveries.settle(claimed.iter().map(sent).collect(), at).await.unwrap();
    }

    async fn subscribe(&self, email: &str) -> SubscriptionId {
        let body = json!({"email": email, "confirmed": true}).to_string();
        let reply = self.post("/v1/topics/messages/subscriptions", "application/json", body).await;
        SubscriptionId::parse(reply.json()["subscription"]["id"].as_str().unwrap()).unwrap()
    }
}

fn state(json: &Value) -> (&str, &str) {
    (json["state"].as_str().unwrap(), json["summary"].as_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_message_goes_from_accepted_to_done() {
    let world = World::new();
    let subscription = world.subscribe("ann@example.com").await;
    let id = world.publish("hello").await;
    let path = format!("/v1/messages/{id}");
    let reply = world.get(&path).await;
    assert_eq!(
        reply.json(),
        json!({
            "id": id.to_string(),
            "state": "accepted",
            "summary": "taken by the broker, not stored yet",
            "timeline": {
                "accepted_at": epoch().to_string(),
                "stored_at": null,
                "captured_at": null,
                "published_at": null,
                "first_mail_at": null,
                "last_mail_at": null,
            },
            "deliveries": {"total": 0, "pending": 0, "sending": 0, "sent": 0, "suppressed": 0, "failed": 0},
            "dead_letters": 0,
        })
    );
    world.store().await;
    let json = world.get(&path).await.json();
    assert_eq!(state(&json), ("stored", "stored, its notification not taken by the mailer yet"));
    assert_eq!(
        json["message"],
        json!({
            "id": id.to_string(),
            "topic": "messages",
            "message": "hello",
            "content_type": "text/plain",
            "attributes": {},
            "accepted_at": epoch().to_string(),
            "stored_at": epoch().to_string(),
        })
    );
    world.plan(id, &[subscription]).await;
    let json = world.get(&path).await.json();
    assert_eq!(state(&json), ("notified", "being notified: the mail server took 0 of 1 mails so far"));
    world.mail().await;
    let json = world.get(&path).await.json();
    assert_eq!(state(&json), ("done", "done: the mail server took 1 of 1 mails"));
    assert_eq!(json["timeline"]["last_mail_at"], json["timeline"]["first_mail_at"]);
    assert_eq!(json["deliveries"]["sent"], 1);

    let reply = world.get(&format!("{path}/deliveries")).await;
    assert_eq!(
        masked(reply.json(), &["created_at", "sent_at", "answered_at"]),
        json!({
            "data": [{
                "subscription_id": subscription.to_string(),
                "kind": "item",
                "round": 0,
                "state": "sent",
                "attempts": 1,
                "unknowns": 0,
                "answers": [{"answered_at": "<answered_at>", "phase": "message", "code": 250, "text": "queued as 1"}],
                "created_at": "<created_at>",
                "sent_at": "<sent_at>",
            }],
            "next_cursor": null,
        })
    );
    assert!(!reply.text().contains("ann@"), "an address is in its subscription and nowhere else");
}

#[tokio::test(start_paused = true)]
async fn nobody_to_mail_is_said_in_words() {
    let world = World::new();
    let id = world.publish("hello").await;
    world.store().await;
    world.plan(id, &[]).await;
    let json = world.get(&format!("/v1/messages/{id}")).await.json();
    assert_eq!(json["state"], "done");
    assert_eq!(
        json["summary"],
        "done with zero recipients: nobody with a confirmed subscription to the topic (and a filter that matches) was \
         there, so nobody got a mail"
    );
}

#[tokio::test(start_paused = true)]
async fn what_nothing_is_known_of() {
    let world = World::new();
    let id = "018f0000-0000-7000-8000-000000000000";
    for path in [format!("/v1/messages/{id}"), format!("/v1/messages/{id}/deliveries")] {
        let reply = world.get(&path).await;
        assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::NOT_FOUND, "1"));
        assert_eq!(
            reply.json(),
            json!({
                "type": "urn:tidings:problem:not-stored-yet",
                "title": "Nothing is known of this message",
                "status": 404,
                "detail": format!("no message {id} is stored: not yet, no longer, or there never was one"),
                "mend": "if it was just accepted, ask again after Retry-After, or wait for it with ?wait=10s",
                "id": id,
            })
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_when_it_is_done_or_past_a_state() {
    let world = World::new();
    let id = world.publish("hello").await;
    let began = tokio::time::Instant::now();
    let path = format!("/v1/messages/{id}?wait=30s");
    let past_stored = format!("/v1/messages/{id}?wait=30s&after=stored");
    let (done, past, ()) = tokio::join!(world.get(&path), world.get(&past_stored), async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        world.store().await;
        tokio::time::sleep(Duration::from_millis(700)).await;
        let subscription = world.subscribe("ann@example.com").await;
        world.plan(id, &[subscription]).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.mail().await;
    });
    assert_eq!((&done.json()["state"], &past.json()["state"]), (&"done".into(), &"notified".into()));
    let elapsed = began.elapsed();
    assert!(elapsed < Duration::from_millis(7_500), "asked again within a second: {elapsed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_time_and_has_a_most() {
    let world = World::new();
    let id = world.publish("hello").await;
    for (wait, seconds) in [("2s", 2), ("9m", 60)] {
        let began = tokio::time::Instant::now();
        let reply = world.get(&format!("/v1/messages/{id}?wait={wait}")).await;
        assert_eq!((reply.status, began.elapsed().as_secs()), (StatusCode::OK, seconds));
        assert_eq!(reply.json()["state"], "accepted");
    }
    let began = tokio::time::Instant::now();
    let reply = world.get("/v1/messages/018f0000-0000-7000-8000-000000000000?wait=1s").await;
    assert_eq!((reply.problem().as_str(), began.elapsed().as_secs()), ("not-stored-yet", 1));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_who_wait_are_all_answered() {
    let world = World::new();
    let mut ids = Vec::new();
    for _ in 0..1_000 {
        ids.push(world.publish("x").await);
    }
    let waits = ids.iter().map(|id| {
        let path = format!("/v1/messages/{id}?wait=30s");
        let world = &world;
        async move { world.get(&path).await.json()["state"] == "done" }
    });
    let began = tokio::time::Instant::now();
    let (all, ()) = tokio::join!(futures::future::join_all(waits), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.store().await;
        for id in &ids {
            world.plan(*id, &[]).await;
        }
    });
    assert!(all.into_iter().all(|done| done));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_wait_survives_a_store_that_is_away_for_a_while() {
    let world = World::new();
    let id = world.publish("hello").await;
    let path = format!("/v1/messages/{id}?wait=30s");
    let (reply, ()) = tokio::join!(world.get(&path), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.memory.set_away(Part::Store, true);
        tokio::time::sleep(Duration::from_secs(5)).await;
        world.memory.set_away(Part::Store, false);
        world.store().await;
        world.plan(id, &[]).await;
    });
    assert_eq!(reply.json()["state"], "done");
    world.memory.set_away(Part::Store, true);
    let reply = world.get(&path).await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "unavailable"));
}

#[tokio::test(start_paused = true)]
async fn too_many_who_wait_are_told_so_and_others_are_served() {
    let world = World::settings(|settings| settings.max_concurrent_waits = 1);
    let id = world.publish("hello").await;
    let path = format!("/v1/messages/{id}?wait=10s");
    let (first, second, plain) = tokio::join!(world.get(&path), world.get(&path), world.get("/v1/messages"));
    assert_eq!(first.status, StatusCode::OK);
    assert_eq!((second.status, second.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    assert_eq!(second.problem(), "busy");
    assert_eq!(plain.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn messages_are_listed_newest_first_in_pages() {
    let world = World::new();
    let mut ids = Vec::new();
    for text in ["one", "two", "three"] {
        ids.push(world.publish(text).await.to_string());
        world.store().await;
        tokio::time::advance(Duration::from_secs(60)).await;
    }
    let listed = |json: &Value| -> Vec<String> {
        let data = json["data"].as_array().unwrap();
        data.iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
    };
    let first = world.get("/v1/messages?limit=2&topic=messages").await.json();
    assert_eq!(listed(&first), [ids[2].clone(), ids[1].clone()]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = world.get(&format!("/v1/messages?limit=2&cursor={cursor}")).await.json();
    assert_eq!((listed(&second), &second["next_cursor"]), (vec![ids[0].clone()], &Value::Null));
    let since = epoch().plus(Duration::from_secs(30));
    let until = epoch().plus(Duration::from_secs(90));
    let between = world.get(&format!("/v1/messages?since={since}&until={until}")).await.json();
    assert_eq!(listed(&between), [ids[1].clone()]);
    assert_eq!(listed(&world.get("/v1/messages?topic=other").await.json()), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_stop_answers_who_waits_with_what_is_known() {
    let world = World::new();
    let id = world.publish("hello").await;
    let path = format!("/v1/messages/{id}?wait=30s");
    let began = tokio::time::Instant::now();
    let (message, mails, ()) = tokio::join!(world.get(&path), world.get("/mailbox?wait=30s"), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.shutdown.request();
    });
    assert_eq!((&message.json()["state"], mails.status), (&"accepted".into(), StatusCode::OK));
    assert_eq!(began.elapsed().as_secs(), 1);
}
