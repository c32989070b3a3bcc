//! Two installations on one broker, one database and one Redis.

use reqwest::Method;
use serde_json::json;

use super::{servers::Servers, stack::Stack};

#[tokio::test]
async fn two_sets_with_namespaces_and_schemas_of_their_own_do_not_see_each_other() {
    let mut first = Stack::prepare(Servers::shared().await, &[]).await;
    let mut second = Stack::prepare(Servers::shared().await, &[]).await;
    // The second moves to the servers of the first, with a schema of its own.
    for name in ["AMQP_URL", "REDIS_URL"] {
        let value = first.setting(name).to_owned();
        second.set(name, &value);
    }
    let database = format!("{}?options=-c%20search_path%3Dsecond", first.setting("DATABASE_URL"));
    second.set("DATABASE_URL", &database);
    for stack in [&mut first, &mut second] {
        stack.provision().await;
        stack.up_all().await;
        stack.subscribe_confirmed(&["reader@example.com"]).await;
    }
    // The same key in both is two messages.
    for (stack, text) in [(&first, "to the first"), (&second, "to the second")] {
        let request =
            stack.request(Method::POST, "/v1/topics/messages/messages").header("idempotency-key", "same");
        let accepted = stack.ok(request.json(&json!({ "message": text }))).await;
        let status = stack.finished(accepted["id"].as_str().unwrap()).await;
        assert_eq!(status["deliveries"]["sent"], 1, "{status:#}");
        assert_eq!(stack.mails(text), 1);
        assert_eq!(stack.smtp.mails().len(), 1);
        assert_eq!(stack.all("/v1/messages").await.len(), 1);
    }
    let counts = "select (select count(*) from public.items), (select count(*) from second.items), \
        (select count(*) from public.deliveries), (select count(*) from second.deliveries)";
    assert_eq!(first.psql(counts).await, "1|1|1|1");
    // A third that takes the schema of another is told so.
    second.set("DATABASE_URL", first.setting("DATABASE_URL"));
    let refused = second.run(&["provision"]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(crate::harness::stderr(&refused).contains(&first.namespace), "{refused:?}");
}
