//! Every statement is prepared against the schema, and none that runs per message reads a whole table.

use sqlx::{AssertSqlSafe, Connection, Executor, Row, SqliteConnection};

use crate::schema;

fn all() -> Vec<&'static str> {
    let mut all: Vec<&'static str> = Vec::new();
    all.extend(crate::bus::STATEMENTS.concat());
    all.extend(crate::catalog::STATEMENTS);
    all.extend(crate::changes::STATEMENTS);
    all.extend(crate::consumer::STATEMENTS.concat());
    all.extend(crate::dead_letters::STATEMENTS);
    all.extend(crate::deliveries::STATEMENTS.concat());
    all.extend(crate::items::STATEMENTS);
    all.extend(crate::mail::STATEMENTS);
    all.extend(crate::mailbox::STATEMENTS);
    all.extend(crate::retention::STATEMENTS.concat());
    all.extend(crate::store::STATEMENTS);
    all.extend(crate::subscriptions::STATEMENTS);
    all.extend(crate::topology::STATEMENTS);
    all.extend(crate::writer::STATEMENTS);
    all
}

pub(crate) async fn migrated() -> SqliteConnection {
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    schema::migrate(&mut connection).await.unwrap();
    connection
}

#[tokio::test]
async fn every_statement_fits_the_schema() {
    let mut connection = migrated().await;
    let all = all();
    assert!(all.len() > 80, "{} statements", all.len());
    for statement in all {
        let prepared = connection.prepare(sqlx::SqlSafeStr::into_sql_str(statement)).await;
        assert!(prepared.is_ok(), "{statement}: {:?}", prepared.err());
    }
}

/// What scans a table is listed here with its reason; whatever else does is found by this test.
#[tokio::test]
async fn no_statement_scans_a_table_that_grows() {
    let grows = ["items", "changes", "deliveries", "notifications", "subscriptions", "mails", "d", "n", "s"];
    let may_scan = [
        // Counts for people and metrics.
        crate::subscriptions::STATEMENTS[5],
        crate::changes::STATEMENTS[3],
        // Probes that read one row.
        crate::items::STATEMENTS[4],
        crate::deliveries::STATEMENTS[0][3],
    ];
    let mut connection = migrated().await;
    for statement in all().into_iter().filter(|statement| !may_scan.contains(statement)) {
        let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"));
        let plan = sqlx::query(explain).fetch_all(&mut connection).await.unwrap();
        for step in plan.iter().map(|row| row.get::<String, _>("detail")) {
            let scanned = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
            let ordered = step.contains("USING") && statement.contains("LIMIT");
            let grows = scanned.is_some_and(|table| grows.contains(&table));
            assert!(!grows || ordered, "{statement}\nhas the step {step}");
        }
    }
}
