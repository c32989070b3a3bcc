//! The links of mails.

use axum::http::{Method, StatusCode};
use serde_json::json;
use tidings_domain::{
    id::SubscriptionId,
    ports::Clock as _,
    subscription::{Act, CONFIRMATION_LIFETIME, SubscriptionState},
    token::{Secret, Token},
};
use tidings_memory::Part;

use crate::world::{Reply, SECRET, World};

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

impl World {
    async fn pending(&self) -> SubscriptionId {
        let body = r#"{"email": "ann@example.com"}"#;
        let reply = self.post("/v1/topics/messages/subscriptions", "application/json", body).await;
        SubscriptionId::parse(reply.json()["subscription"]["id"].as_str().unwrap()).unwrap()
    }

    fn token(&self, subscription: SubscriptionId, act: Act, generation: u32) -> String {
        let expires_at = (act == Act::Confirm).then(|| self.clock.now().plus(CONFIRMATION_LIFETIME));
        Token { subscription, act, generation, expires_at }.sign(&Secret::new(SECRET))
    }

    async fn state(&self, id: SubscriptionId) -> SubscriptionState {
        self.memory.subscriptions().get(&[id]).await.unwrap()[0].clone().unwrap().state
    }

    async fn browse(&self, method: Method, path: &str) -> Reply {
        self.call(method, path, &[BROWSER], "").await
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_with_one_button_confirms_and_another_ends_it() {
    let world = World::new();
    let id = world.pending().await;
    let confirm = format!("/confirm/{}", world.token(id, Act::Confirm, 1));
    let page = world.browse(Method::GET, &confirm).await;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(page.text().matches("<button>").count(), 1);
    assert!(page.text().contains("<form method=\"post\"><button>Confirm</button></form>"), "{}", page.text());
    assert!(
        page.text()
            .contains("<strong>ann@example.com</strong> gets mails of the topic <strong>messages</strong>")
    );
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("referrer-policy", "same-origin"),
        ("x-robots-tag", "noindex"),
        ("x-content-type-options", "nosniff"),
    ] {
        assert_eq!(page.header(name), value);
    }
    assert!(page.header("content-security-policy").starts_with("default-src 'none'; "));
    assert_eq!(world.state(id).await, SubscriptionState::Pending, "scanners open links");

    for _ in 0..2 {
        let page = world.browse(Method::POST, &confirm).await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(page.text().contains("<h1>Confirmed</h1>") && !page.text().contains("<button>"));
        assert_eq!(world.state(id).await, SubscriptionState::Confirmed);
    }
    assert!(!world.browse(Method::GET, &confirm).await.text().contains("<button>"));

    let unsubscribe = format!("/unsubscribe/{}", world.token(id, Act::Unsubscribe, 1));
    let page = world.browse(Method::GET, &unsubscribe).await;
    assert!(page.text().contains("<button>Unsubscribe</button>"));
    assert_eq!(world.state(id).await, SubscriptionState::Confirmed);
    for _ in 0..2 {
        let page = world.browse(Method::POST, &unsubscribe).await;
        assert!(page.text().contains("<h1>Unsubscribed</h1>"));
        assert_eq!(world.state(id).await, SubscriptionState::Unsubscribed);
    }
    let reply = world.call(Method::POST, &confirm, &[], "").await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::GONE, "link-stale"));
    assert_eq!(world.state(id).await, SubscriptionState::Unsubscribed);
}

#[tokio::test(start_paused = true)]
async fn without_a_browser_the_answer_is_json() {
    let world = World::new();
    let id = world.pending().await;
    let path = format!("/confirm/{}", world.token(id, Act::Confirm, 1));
    assert_eq!(
        world.get(&path).await.json(),
        json!({"act": "confirm", "topic": "messages", "state": "pending"})
    );
    let reply = world.call(Method::POST, &path, &[], "").await;
    assert_eq!(reply.json(), json!({"act": "confirm", "topic": "messages", "state": "confirmed"}));
}

#[tokio::test(start_paused = true)]
async fn guessed_and_expired_links_are_told_apart() {
    let world = World::new();
    let id = world.pending().await;
    let good = world.token(id, Act::Confirm, 1);
    let other_act = world.token(id, Act::Unsubscribe, 1);
    let forged =
        Token { subscription: id, act: Act::Confirm, generation: 1, expires_at: Some(world.clock.now()) }
            .sign(&Secret::new([8; 32]));
    for token in ["guess", "a.b.c.d", "%ff", &good[1..], &other_act, &forged] {
        for method in [Method::GET, Method::POST] {
            let path = format!("/confirm/{token}");
            let page = world.browse(method.clone(), &path).await;
            assert!(page.status.is_client_error(), "{token}");
            let reply = world.call(method, &path, &[], "").await;
            assert!(["invalid-link", "bad-path"].contains(&reply.problem().as_str()), "{token}");
        }
    }
    let page = world.browse(Method::GET, "/confirm/guess").await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert!(
        page.text().contains("<p>The link is not one of ours, or a part of it is missing.</p>"),
        "{}",
        page.text()
    );

    tokio::time::advance(CONFIRMATION_LIFETIME).await;
    let path = format!("/confirm/{good}");
    let reply = world.call(Method::POST, &path, &[], "").await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::GONE, "link-expired"));
    let page = world.browse(Method::GET, &path).await;
    assert_eq!(page.status, StatusCode::GONE);
    assert!(page.text().contains("<p>A link to confirm works for 48 hours, and this one is older.</p>"));
    assert_eq!(world.state(id).await, SubscriptionState::Pending);
}

#[tokio::test(start_paused = true)]
async fn a_later_request_makes_the_earlier_link_stale() {
    let world = World::new();
    let id = world.pending().await;
    let first = world.token(id, Act::Confirm, 1);
    tokio::time::advance(tidings_domain::subscription::CONFIRMATION_WINDOW).await;
    world.pending().await;
    let reply = world.get(&format!("/confirm/{first}")).await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::GONE, "link-stale"));
    let second = format!("/confirm/{}", world.token(id, Act::Confirm, 2));
    assert_eq!(world.call(Method::POST, &second, &[], "").await.status, StatusCode::OK);
    world.call(Method::DELETE, &format!("/v1/subscriptions/{id}"), &[], "").await;
    assert_eq!(world.get(&second).await.problem(), "subscription-gone");
}

#[tokio::test(start_paused = true)]
async fn one_click_ends_it_at_once_and_always_says_the_same() {
    let world = World::new();
    let id = world.pending().await;
    let path = format!("/unsubscribe/{}", world.token(id, Act::Unsubscribe, 1));
    let form = "List-Unsubscribe=One-Click";
    let multipart =
        "--b\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--b--\r\n";
    let provider = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("origin", "https://mail.example"),
        ("host", "127.0.0.1:8080"),
    ];
    let reply = world.call(Method::POST, &path, &provider, form).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "unsubscribed\n"));
    assert_eq!(world.state(id).await, SubscriptionState::Unsubscribed);
    let reply = world.post(&path, "multipart/form-data; boundary=b", multipart).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "unsubscribed\n"));
    world.call(Method::DELETE, &format!("/v1/subscriptions/{id}"), &[], "").await;
    let reply = world.call(Method::POST, &path, &provider, form).await;
    assert_eq!((reply.status, reply.text()), (StatusCode::OK, "unsubscribed\n"));

    let reply = world.call(Method::POST, "/unsubscribe/guess", &provider, form).await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::NOT_FOUND, "invalid-link"));
    world.memory.set_away(Part::Store, true);
    let reply = world.call(Method::POST, &path, &provider, form).await;
    assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
}
