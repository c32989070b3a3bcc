//! Every statement is prepared against the schema, and none that runs per message reads a whole table.

mod plans_with_postgres;

use std::{sync::Arc, time::Duration};

use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};
use sqlx::{Executor as _, Row as _, postgres::PgConnection};
use tidings_domain::{
    address::EmailAddress,
    delivery::DeliveryKind,
    id::SubscriptionId,
    ports::{Clock, Entropy},
    subscription::{Subscription, SubscriptionState, is_wanted},
    time::Timestamp,
    topic::TopicName,
};
use tidings_servers::postgres::Postgres;
use uuid::Uuid;

use crate::{
    Options, StreamOptions, deliveries::WANTED, pool::Session, schema, shared::Shared, store::Store,
};

fn all() -> Vec<&'static str> {
    let mut all: Vec<&'static str> = Vec::new();
    all.extend(crate::catalog::STATEMENTS);
    all.extend(crate::dead_letters::STATEMENTS.concat());
    all.extend(crate::deliveries::STATEMENTS.concat());
    all.extend(crate::items::STATEMENTS);
    all.extend(crate::retention::STATEMENTS.concat());
    all.extend(crate::schema::STATEMENTS);
    all.extend(crate::store::STATEMENTS);
    all.extend(crate::subscriptions::STATEMENTS.concat());
    all
}

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000)
    }
}

impl Entropy for Fixed {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

/// A store on a database of its own that has the schema and nothing else.
async fn migrated() -> Arc<Shared> {
    let options = Options {
        url: Postgres::shared().await.database().await,
        ca_file: None,
        namespace: "tidings".to_owned(),
        application_name: "tidings-statements".to_owned(),
        max_connections: 2,
        statement_timeout: Duration::from_secs(60),
        stream: StreamOptions::default(),
        clock: Arc::new(Fixed),
        entropy: Arc::new(Fixed),
        meter: NoopMeterProvider::new().meter("test"),
    };
    let shared = Store::new(options).unwrap().shared;
    let mut session = shared.session("migrate").await.unwrap();
    schema::migrate(session.connection()).await.unwrap();
    session.give_back(None);
    shared
}

async fn run(connection: &mut PgConnection, statement: &str) {
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))).await.unwrap();
}

#[tokio::test]
async fn every_statement_fits_the_schema_with_postgres() {
    let shared = migrated().await;
    let mut session = shared.session("prepare").await.unwrap();
    let all = all();
    assert!(all.len() > 60, "{} statements", all.len());
    for statement in all {
        let prepared = session.connection().prepare(sqlx::SqlSafeStr::into_sql_str(statement)).await;
        assert!(prepared.is_ok(), "{statement}: {:?}", prepared.err());
    }
}

#[tokio::test]
async fn the_schema_is_compared_with_the_list_with_postgres() {
    let shared = migrated().await;
    let mut session = shared.session("compare").await.unwrap();
    assert!(schema::missing(session.connection()).await.unwrap().is_empty());
    run(session.connection(), "DELETE FROM _sqlx_migrations WHERE version >= 4").await;
    let missing = schema::missing(session.connection()).await.unwrap();
    assert_eq!(missing[0], "migration 0004_dead_letters");
    run(session.connection(), "UPDATE _sqlx_migrations SET checksum = 'another' WHERE version = 2").await;
    let error = schema::missing(session.connection()).await.unwrap_err();
    assert!(error.context.contains("migration 2 differs"), "{}", error.context);
    run(session.connection(), "DELETE FROM _sqlx_migrations WHERE version = 2").await;
    run(
        session.connection(),
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
        VALUES (999, 'of tomorrow', true, 'x', 0)",
    )
    .await;
    let error = schema::migrate(session.connection()).await.unwrap_err();
    assert!(error.context.contains("start the newer program"), "{}", error.context);
}

async fn shown(session: &mut Session, setting: &'static str) -> String {
    let statement = sqlx::query("SELECT current_setting($1)").bind(setting);
    session.rows(statement).await.unwrap()[0].get(0)
}

#[tokio::test]
async fn a_session_sets_for_itself_what_a_role_has_otherwise_with_postgres() {
    let shared = migrated().await;
    let mut session = shared.session("weaken").await.unwrap();
    // Of the database and not of the role, which other tests share.
    let database: String = session.rows(sqlx::query("SELECT current_database()")).await.unwrap()[0].get(0);
    for setting in
        ["synchronous_commit = off", "statement_timeout = 0", "default_transaction_isolation = serializable"]
    {
        run(session.connection(), &format!("ALTER DATABASE {database} SET {setting}")).await;
    }
    drop(session);
    let mut session = shared.session("look").await.unwrap();
    assert_eq!(shown(&mut session, "synchronous_commit").await, "on");
    assert_eq!(shown(&mut session, "statement_timeout").await, "1min");
    assert_eq!(shown(&mut session, "idle_in_transaction_session_timeout").await, "1min");
    assert_eq!(shown(&mut session, "default_transaction_isolation").await, "read committed");
    assert_eq!(shown(&mut session, "application_name").await, "tidings-statements");
}

#[tokio::test]
async fn the_last_look_is_the_rule_of_the_domain_with_postgres() {
    let shared = migrated().await;
    let mut session = shared.session("look").await.unwrap();
    let id = SubscriptionId(Uuid::from_u128(1));
    let subscription = |state| Subscription {
        id,
        topic: TopicName::messages(),
        email: EmailAddress::parse("ann@example.com").unwrap(),
        filter: Default::default(),
        state,
        generation: 3,
        created_at: Timestamp::default(),
        requested_at: Timestamp::default(),
        confirmed_at: None,
        confirmed_by: None,
        unsubscribed_at: None,
    };
    let states = ["pending", "confirmed", "unsubscribed"].map(|word| SubscriptionState::parse(word).unwrap());
    for state in states.map(Some).into_iter().chain([None]) {
        run(session.connection(), "DELETE FROM subscriptions").await;
        if let Some(state) = state {
            let insert = "INSERT INTO subscriptions (id, topic, email, filter, state, generation, created_at, requested_at)
                VALUES ($1, 'messages', 'a@example.com', '{}', $2, 3, now(), now())";
            session.execute(sqlx::query(insert).bind(id.0).bind(state.as_str())).await.unwrap();
        }
        for kind in [DeliveryKind::Item, DeliveryKind::Confirmation] {
            for round in [0, 2, 3, 4] {
                let statement = sqlx::query(WANTED).bind(kind.as_str()).bind(round).bind(id.0);
                let by_sql: bool = session.rows(statement).await.unwrap()[0].get(0);
                let by_rule =
                    is_wanted(state.map(subscription).as_ref(), kind, u32::try_from(round).unwrap());
                assert_eq!(by_sql, by_rule, "{state:?} {kind:?} {round}");
            }
        }
    }
}
