//! A connection that stops: bytes neither come nor go, and nobody hears of an end.

use std::time::Duration;

use serde_json::Value;
use tidings_servers::proxy::Proxy;

use super::{
    super::{
        servers::Servers,
        stack::{ROLES, Stack},
    },
    load::Load,
};

/// Limits that are reached in seconds.
const SHORT: [(&str, &str); 5] = [
    ("TIDINGS_AMQP_CONFIRM_TIMEOUT_MS", "2000"),
    ("TIDINGS_DATABASE_STATEMENT_TIMEOUT_MS", "2000"),
    ("TIDINGS_STREAM_HEARTBEAT_INTERVAL_MS", "500"),
    ("TIDINGS_STREAM_SILENCE_LIMIT_MS", "2000"),
    ("TIDINGS_MAILER_LEASE_MS", "60000"),
];

/// Who notices the fault.
#[derive(Clone, Copy)]
enum Notices {
    /// Whoever posts.
    Client,
    /// The process, whose readiness says so.
    Process,
    /// Nobody, within the minutes that a mail server may take.
    Nobody,
    /// The process, which goes on: its readiness says *degraded*.
    Degraded,
}

/// Freezes what lies between a process and the server that `variable` names: for a while, and then until it is cut.
async fn frozen(role: &str, variable: &str, notices: Notices) {
    let mut stack = Stack::prepare(Servers::shared().await, &SHORT).await;
    stack.provision().await;
    let server = match variable {
        "DATABASE_URL" => stack.servers.postgres.addr(),
        "AMQP_URL" => stack.servers.rabbitmq.addr(),
        "REDIS_URL" => stack.servers.redis.addr(),
        _ => stack.smtp.address(),
    };
    let between = Proxy::to(server).await;
    let mut url = between.url(stack.setting(variable));
    if variable == "AMQP_URL" {
        // A consumer has nothing but heartbeats to notice by; 10 s by default.
        url += "?heartbeat=4";
    }
    stack.make(role, &[role]).set(variable, &url);
    stack.up_all().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let load = Load::on(&stack);
    for is_cut in [false, true] {
        load.until_accepted_more(40).await;
        between.freeze();
        match notices {
            Notices::Client => load.until_refused_more(1).await,
            Notices::Process => {
                stack.process(role).until("not ready", |report| report["ready"] == false).await;
            }
            Notices::Degraded => {
                let degraded = |report: &Value| report["ready"] == true && report["degraded"] == true;
                stack.process(role).until("degraded", degraded).await;
            }
            Notices::Nobody => {}
        }
        // The fault itself: this long, and longer where it is not noticed.
        tokio::time::sleep(Duration::from_secs(3)).await;
        if is_cut {
            between.cut().await;
            between.thaw();
            between.heal().await;
        } else {
            between.thaw();
        }
        load.until_accepted_more(20).await;
        for role in ROLES {
            stack.process(role).until_ready().await;
        }
    }
    load.until_accepted_more(20).await;
    // Accepting needs nothing but the broker.
    assert_eq!(load.refused() > 0, matches!(notices, Notices::Client), "{} refused", load.refused());
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    if variable != "SMTP_URL" {
        assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
    }
}

#[tokio::test]
async fn api_and_rabbitmq() {
    frozen("api", "AMQP_URL", Notices::Client).await;
}

#[tokio::test]
async fn api_and_postgres() {
    frozen("api", "DATABASE_URL", Notices::Degraded).await;
}

#[tokio::test]
async fn api_and_redis() {
    frozen("api", "REDIS_URL", Notices::Degraded).await;
}

#[tokio::test]
async fn subscriber_and_rabbitmq() {
    frozen("subscriber", "AMQP_URL", Notices::Process).await;
}

#[tokio::test]
async fn mailer_and_rabbitmq() {
    frozen("mailer", "AMQP_URL", Notices::Process).await;
}

#[tokio::test]
async fn subscriber_and_postgres() {
    frozen("subscriber", "DATABASE_URL", Notices::Process).await;
}

#[tokio::test]
async fn watcher_and_postgres() {
    frozen("cdc-watcher", "DATABASE_URL", Notices::Process).await;
}

#[tokio::test]
async fn watcher_and_rabbitmq() {
    frozen("cdc-watcher", "AMQP_URL", Notices::Process).await;
}

#[tokio::test]
async fn mailer_and_postgres() {
    frozen("mailer", "DATABASE_URL", Notices::Process).await;
}

#[tokio::test]
async fn mailer_and_smtp() {
    frozen("mailer", "SMTP_URL", Notices::Nobody).await;
}
