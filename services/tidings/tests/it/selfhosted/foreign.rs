//! Clients that we did not write, attached wherever they like.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
};

use reqwest::Method;
use serde_json::{Value, json};
use tidings_domain::{id::MessageId, topic::TopicName};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::timeout,
};

use super::{
    servers::Servers,
    stack::{Stack, until},
};
use crate::harness::{PATIENCE, stdout};

fn python(script: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(script))
        .kill_on_drop(true)
        .stdin(Stdio::null());
    command
}

/// A queue of another party's, bound to exchanges: what came to it.
pub(super) struct Listener {
    heard: Arc<Mutex<Vec<Value>>>,
    _child: Child,
    _reading: JoinSet<()>,
}

impl Listener {
    pub(super) async fn bind(stack: &Stack, exchanges: &[&str]) -> Self {
        let mut command = python("tests/it/selfhosted/foreign/pika_client.py");
        command.args(["listen", &stack.amqp]).args(exchanges.iter().map(|name| stack.name(name)));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = timeout(PATIENCE, lines.next_line()).await.expect("it binds").unwrap();
        assert_eq!(first.as_deref(), Some("\"bound\""));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut reading = JoinSet::new();
        let told = Arc::clone(&heard);
        reading.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                told.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { heard, _child: child, _reading: reading }
    }

    /// All that came so far.
    pub(super) fn heard(&self) -> Vec<Value> {
        self.heard.lock().unwrap().clone()
    }

    async fn until(&self, count: usize) -> Vec<Value> {
        until("another party's queue has it", async || self.heard.lock().unwrap().len() >= count).await;
        self.heard()
    }
}

/// Publishes to an exchange as another party; what each was answered.
pub(super) async fn publish(stack: &Stack, exchange: &str, messages: &[Value]) -> Vec<String> {
    let mut command = python("tests/it/selfhosted/foreign/pika_client.py");
    command.args(["publish", &stack.amqp, &stack.name(exchange)]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines: String = messages.iter().map(|message| format!("{message}\n")).collect();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).await.unwrap();
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("it ends").unwrap();
    assert!(output.status.success(), "{output:?}");
    stdout(&output).lines().map(str::to_owned).collect()
}

fn foreign_id(message_id: &str) -> String {
    MessageId::foreign(&TopicName::messages(), message_id).to_string()
}

#[tokio::test]
async fn a_queue_of_another_party_with_pika_hears_both_fan_outs() {
    let stack = Stack::start().await;
    let listener = Listener::bind(&stack, &["topic-messages", "notifications"]).await;
    let message = json!({ "message": "grüße an alle", "subject": "An alle", "attributes": { "customer": "blue", "n": 1 } });
    let accepted = stack.ok(stack.request(Method::POST, "/v1/topics/messages/messages").json(&message)).await;
    let id = accepted["id"].as_str().unwrap();
    stack.finished(id).await;
    let heard = listener.until(2).await;
    let of = |exchange: &str| {
        let exchange = stack.name(exchange);
        heard
            .iter()
            .find(|message| message["exchange"] == exchange.as_str())
            .unwrap_or_else(|| panic!("{heard:#?}"))
    };
    let first = of("topic-messages");
    assert_eq!(first["body"], "grüße an alle", "byte for byte");
    assert_eq!(first["headers"]["id"], id, "{first:#}");
    assert_eq!(first["headers"]["topic"], "messages", "{first:#}");
    assert_eq!(first["headers"]["subject"], "An alle", "{first:#}");
    assert_eq!(first["delivery_mode"], 2, "it survives a restart: {first:#}");
    let second = of("notifications");
    let record: Value = serde_json::from_str(second["body"].as_str().unwrap()).unwrap();
    assert_eq!(second["headers"]["id"], id, "{second:#}");
    assert_eq!(second["headers"]["customer"], "blue", "others filter by it: {second:#}");
    assert!(record.to_string().contains("grüße an alle"), "{record:#}");
    assert_eq!(heard.len(), 2, "each once: {heard:#?}");
}

#[tokio::test]
async fn what_others_publish_with_pika_is_taken_or_a_dead_letter_with_its_reason() {
    let stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let with_id = "0198c0de-0000-7000-8000-000000000001";
    let messages = [
        json!({ "body": "by its own id", "message_id": "order-1" }),
        json!({ "body": "by its own id, again", "message_id": "order-1" }),
        json!({ "body": "with odd headers", "message_id": "order-2", "odd": true }),
        json!({ "body": "without an id" }),
        json!({ "body": "0123456789", "times": 100_000, "message_id": "huge" }),
        json!({ "body": "0123456789", "times": 26_112, "message_id": "just fits" }),
        json!({ "body": "ours by the header", "headers": { "id": with_id, "subject": "Ours", "x-other": [1] } }),
        json!({ "body": "", "message_id": "empty" }),
        json!({ "body": "", "hex": "fffe00", "message_id": "no text" }),
        json!({ "body": "a NUL: \u{0}", "message_id": "nul" }),
        json!({ "body": "the neighbour of all these", "message_id": "neighbour" }),
    ];
    let answers = publish(&stack, "topic-messages", &messages).await;
    assert_eq!(answers, vec!["confirmed"; messages.len()]);

    for (message_id, text) in [("order-2", "with odd headers"), ("neighbour", "the neighbour of all these")] {
        let status = stack.finished(&foreign_id(message_id)).await;
        assert_eq!(status["state"], "done", "{status:#}");
        assert_eq!(stack.mails(text), 1, "{text}");
    }
    let status = stack.finished(&foreign_id("just fits")).await;
    assert_eq!(status["state"], "done", "{status:#}");
    let ours = stack.finished(with_id).await;
    assert_eq!((&ours["state"], &ours["message"]["subject"]), (&json!("done"), &json!("Ours")), "{ours:#}");
    until("six dead letters", async || stack.dead_letters().await.len() >= 6).await;
    let letters = stack.dead_letters().await;
    let mut reasons: Vec<&str> = letters.iter().map(|letter| letter["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        ["conflict", "no_id", "undecodable", "undecodable", "undecodable", "undecodable"],
        "{letters:#?}"
    );
    let mailed = stack.mails("by its own id");
    assert_eq!(mailed, 1, "the same id with another body is a conflict");
    assert_eq!(stack.psql("select count(*) from items").await, "5");
}

#[tokio::test]
async fn the_worker_does_its_work_between_a_post_and_its_mail_with_pika_and_with_psycopg() {
    // Its names are those of an installation that has not chosen others.
    let mut stack = Stack::prepare(Servers::with_own_postgres().await, &[]).await;
    stack.rename("tidings");
    stack.provision().await;
    stack.up_all().await;
    for topic in ["jobs", "done"] {
        stack.ok(stack.request(Method::PUT, &format!("/v1/topics/{topic}")).json(&json!({}))).await;
    }
    let subscribe = json!({ "email": "reader@example.com", "confirmed": true });
    stack.ok(stack.request(Method::POST, "/v1/topics/done/subscriptions").json(&subscribe)).await;
    let mut worker = python("../../examples/worker.py");
    worker.env("AMQP_URL", &stack.amqp).env("DATABASE_URL", &stack.database);
    let mut worker = worker.spawn().unwrap();
    until("the worker has bound its queue", async || {
        stack.servers.rabbitmq.queues(&stack.amqp).await.iter().any(|name| name == "worker-jobs")
            && !stack
                .servers
                .rabbitmq
                .bindings(&stack.amqp, &stack.name("topic-jobs"), "worker-jobs")
                .await
                .is_empty()
    })
    .await;
    let request = stack.request(Method::POST, "/v1/topics/jobs/messages");
    stack.ok(request.header("content-type", "text/plain").body("count these four words")).await;
    let mail = stack.smtp.wait_for_mails(1).await.remove(0);
    assert!(mail.text().contains("words counted: 4"), "{}", mail.text());
    assert!(worker.try_wait().unwrap().is_none(), "it goes on");
    // The job's own row mails nobody: nobody is subscribed to `jobs`.
    assert_eq!(stack.psql("select string_agg(topic, ',' order by topic) from items").await, "done,jobs");
}

#[tokio::test]
async fn without_write_rights_of_others_nobody_else_can_unbind_us_with_pika() {
    let stack = Stack::start().await;
    // What docs say that other parties are given: read on the fan-outs, configure and write on their own queues.
    let user = format!("other{}", stack.namespace);
    let vhost = stack.vhost();
    let rabbitmq = &stack.servers.rabbitmq;
    rabbitmq.ctl(&["add_user", &user, "secret"]).await;
    let (own, read) =
        (format!("^{user}-"), format!("^({user}-|{}-topic-|{0}-notifications$)", stack.namespace));
    rabbitmq.ctl(&["set_permissions", "-p", &vhost, &user, &own, &own, &read]).await;
    let script = "import sys, pika, pika.exceptions\n\
        url, user, namespace = sys.argv[1:]\n\
        connection = pika.BlockingConnection(pika.URLParameters(url))\n\
        channel = connection.channel()\n\
        channel.queue_declare(user + '-queue')\n\
        channel.queue_bind(user + '-queue', namespace + '-topic-messages')\n\
        print('bound')\n\
        for act in ('queue_unbind', 'queue_delete', 'queue_purge', 'exchange_delete'):\n\
        \x20   try:\n\
        \x20       channel = connection.channel()\n\
        \x20       if act == 'queue_unbind': channel.queue_unbind(namespace + '-items', namespace + '-topic-messages')\n\
        \x20       if act == 'queue_delete': channel.queue_delete(namespace + '-items')\n\
        \x20       if act == 'queue_purge': channel.queue_purge(namespace + '-items')\n\
        \x20       if act == 'exchange_delete': channel.exchange_delete(namespace + '-topic-messages')\n\
        \x20       print(act, 'was allowed')\n\
        \x20   except pika.exceptions.ChannelClosedByBroker as error: print(act, error.reply_code)\n";
    let url = stack.amqp.replace("guest:guest", &format!("{user}:secret"));
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script, &url, &user, &stack.namespace]);
    let output = timeout(PATIENCE, python.output()).await.unwrap().unwrap();
    let expected = "bound\nqueue_unbind 403\nqueue_delete 403\nqueue_purge 403\nexchange_delete 403\n";
    assert_eq!(stdout(&output), expected, "{output:?}");
    rabbitmq.ctl(&["delete_user", &user]).await;
}
