//! The plans of what runs per message, on tables of a million rows and as a session keeps them: for any parameters.

use sqlx::{AssertSqlSafe, Row as _};

use super::{migrated, run};
use crate::{dead_letters, deliveries, items, pool::Session, retention, subscriptions};

/// A million deliveries of which a thousand wait, a hundred are held and a hundred were given up.
const FILL: [&str; 10] = [
    "SET synchronous_commit = off",
    "SET enable_hashjoin = on",
    "ALTER TABLE deliveries DISABLE TRIGGER USER",
    "INSERT INTO items (topic, message, stored_at)
        SELECT CASE n % 10 WHEN 0 THEN 'orders' ELSE 'messages' END, 'text', now() + n * interval '1 ms'
        FROM generate_series(1, 200000) AS n",
    "INSERT INTO notifications (item, round, topic, captured_at, published_at, finished, planned)
        SELECT id, 0, topic, stored_at, stored_at, true, 1 FROM items",
    "INSERT INTO deliveries (about, subscription, round, kind, topic, state, due_at, lease_token, lease_until, created_at)
        SELECT coalesce(id, gen_random_uuid()), '00000000-0000-0000-0000-000000000001', 0, 'item', 'messages',
            CASE WHEN n <= 1100 THEN 'pending' WHEN n <= 1200 THEN 'failed' ELSE 'sent' END, now(),
            CASE WHEN n > 1000 THEN id END, CASE WHEN n BETWEEN 1001 AND 1100 THEN now() END, now()
        FROM generate_series(1, 1000000) AS n
        LEFT JOIN (SELECT id, row_number() OVER (ORDER BY stored_at DESC) AS n FROM items) AS item USING (n)",
    "INSERT INTO dead_letters (id, source, reason, detail, attempts, created_at, headers, body)
        SELECT gen_random_uuid(), 'items', 'undecodable', '', 0, now() + n * interval '1 ms', '{}', ''
        FROM generate_series(1, 50000) AS n",
    "INSERT INTO subscriptions (id, topic, email, filter, state, generation, created_at, requested_at)
        SELECT gen_random_uuid(), 'messages', n || '@example.com', '{}', 'confirmed', 1, now(), now()
        FROM generate_series(1, 50000) AS n",
    "ALTER TABLE deliveries ENABLE TRIGGER USER",
    "RESET enable_hashjoin",
];

/// What the plan of a statement says when it ran with these parameters, and how many pages it touched.
async fn explained(session: &mut Session, statement: &str, parameters: &str) -> (String, u64) {
    run(session.connection(), &format!("PREPARE explained AS {statement}")).await;
    let parameters = if parameters.is_empty() { String::new() } else { format!("({parameters})") };
    let explain =
        format!("EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, SUMMARY OFF) EXECUTE explained{parameters}");
    let explain = sqlx::raw_sql(AssertSqlSafe(explain));
    let rows = explain.fetch_all(session.connection()).await.unwrap();
    run(session.connection(), "DEALLOCATE explained").await;
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    // The first line of its kind is the whole statement's.
    let pages = lines
        .iter()
        .find_map(|line| line.trim().strip_prefix("Buffers: "))
        .map_or(0, |buffers| buffers.split([' ', '=']).filter_map(|word| word.parse::<u64>().ok()).sum());
    (lines.join("\n"), pages)
}

#[tokio::test]
async fn what_runs_per_message_reads_no_table() {
    let shared = migrated().await;
    let mut session = shared.session("fill").await.unwrap();
    for statement in FILL {
        run(session.connection(), statement).await;
    }
    let far = "'9999-01-01'";
    let last = "'ffffffff-ffff-ffff-ffff-ffffffffffff'";
    let ids = sqlx::raw_sql(
        "SELECT array_agg(id)::text FROM (SELECT id FROM items ORDER BY stored_at LIMIT 20) AS i",
    );
    let ids: String = ids.fetch_one(session.connection()).await.unwrap().get(0);
    let one_more = "01234567-89ab-cdef-0123-456789abcdef";
    let held = format!("'{ids}', array_fill('{one_more}'::uuid, '{{20}}'), array_fill(0, '{{20}}')");
    let [own, claim, plan, sending, settle, timelines] = deliveries::STATEMENTS;
    // The statement, its parameters, the indexes by which it finds its rows, and the most pages that it may touch.
    let cases: Vec<(&str, String, &[&str], u64)> = vec![
        (own[2], String::new(), &["deliveries_waiting", "deliveries_leased"], 500),
        (own[1], String::new(), &["deliveries_waiting", "deliveries_leased", "deliveries_given_up"], 5_000),
        (own[3], format!("'{ids}'"), &["notifications_pkey"], 500),
        (
            claim[0],
            format!("'me', '{one_more}', {far}, {far}, 100"),
            &["deliveries_waiting", "deliveries_leased", "deliveries_pkey"],
            10_000,
        ),
        (plan[0], format!("'{ids}', array_fill(0, '{{20}}')"), &["notifications_pkey"], 500),
        (
            sending[0],
            format!(
                "{held}, array_fill('{one_more}'::uuid, '{{20}}'), array_fill({far}::timestamptz, '{{20}}')"
            ),
            &["deliveries_pkey"],
            500,
        ),
        (settle[2], held.clone(), &["deliveries_pkey"], 500),
        (timelines[0], format!("'{ids}'"), &["items_pkey", "notifications_pkey", "deliveries_pkey"], 1_000),
        (items::STATEMENTS[0], format!("'{ids}'"), &["items_pkey"], 500),
        (
            items::STATEMENTS[1],
            format!("NULL, NULL, {far}, {last}, 50"),
            &["Backward using items_by_time"],
            300,
        ),
        (
            items::STATEMENTS[2],
            format!("NULL, NULL, {far}, {last}, 50, 'orders'"),
            &["Backward using items_by_topic"],
            300,
        ),
        (
            dead_letters::STATEMENTS[0][0],
            format!("NULL, NULL, NULL, NULL, NULL, {far}, {last}, 50"),
            &["Backward using dead_letters_by_time"],
            300,
        ),
        (
            subscriptions::STATEMENTS[0][1],
            format!("{far}, {last}, 50, NULL, NULL"),
            &["Backward using subscriptions_by_time"],
            300,
        ),
        (
            subscriptions::STATEMENTS[0][3],
            "'messages', '00000000-0000-0000-0000-000000000000', 50".to_owned(),
            &["subscriptions_confirmed"],
            300,
        ),
        (
            retention::STATEMENTS[0][1],
            format!("{far}, 100, 10000"),
            &["items_by_time", "notifications_pkey"],
            20_000,
        ),
        (plan[2], format!("{held}, array_fill('{one_more}'::uuid, '{{20}}')"), &["deliveries_pkey"], 500),
        (
            retention::STATEMENTS[0][3],
            format!("'{ids}'"),
            &["items_pkey", "deliveries_pkey", "notifications_pkey", "dead_letters_by_message"],
            2_000,
        ),
    ];
    for (statement, parameters, indexes, most) in cases {
        let (plan, pages) = explained(&mut session, statement, &parameters).await;
        for index in indexes {
            assert!(plan.contains(index), "{index} is not in\n{plan}");
        }
        assert!(!plan.contains("Seq Scan on"), "{plan}");
        assert!((1..=most).contains(&pages), "{pages} pages\n{plan}");
    }
}
