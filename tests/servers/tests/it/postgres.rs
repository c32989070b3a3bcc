use tidings_servers::postgres::{Postgres, PostgresOptions, StopMode};

use crate::stream::{LONG, SHORT, ask, connect};

/// The request for TLS: whoever speaks PostgreSQL answers one byte.
const ANYONE: &[u8] = &[0, 0, 0, 8, 4, 210, 22, 47];

#[tokio::test]
async fn with_postgres_data_survives_every_end() {
    let postgres = Postgres::start().await;
    let url = postgres.database().await;
    let database = url.rsplit('/').next().expect("a URL has a path");
    postgres.psql(database, "create table kept (number int); insert into kept values (1)").await;

    postgres.stop(StopMode::Fast).await;
    postgres.start_again().await;
    postgres.psql(database, "insert into kept values (2)").await;
    postgres.stop(StopMode::Immediate).await;
    postgres.start_again().await;
    postgres.psql(database, "insert into kept values (3)").await;
    postgres.kill().await;
    postgres.start_again().await;
    assert_eq!(postgres.psql(database, "select number from kept order by 1").await, "1\n2\n3");
}

#[tokio::test]
async fn with_postgres_frozen_answers_nobody_and_thawed_goes_on() {
    let postgres = Postgres::start().await;
    let mut open = connect(postgres.addr()).await;
    assert_eq!(ask(&mut open, ANYONE, LONG).await.as_deref(), Some(&b"N"[..]));

    postgres.freeze();
    let mut new = connect(postgres.addr()).await;
    assert_eq!(ask(&mut new, ANYONE, SHORT).await, None);
    postgres.thaw();
    assert_eq!(ask(&mut new, b"", LONG).await.as_deref(), Some(&b"N"[..]));

    // Ended while it stands still.
    postgres.freeze();
    postgres.kill().await;
    postgres.start_again().await;
    assert_eq!(postgres.psql("postgres", "select 1").await, "1");
}

#[tokio::test]
async fn with_postgres_logical_replication_and_fsync_are_on() {
    let postgres = Postgres::shared().await;
    assert_eq!(postgres.psql("postgres", "show wal_level; show fsync").await, "logical\non");
    let (one, other) = (postgres.database().await, postgres.database().await);
    assert_ne!(one, other);
}

#[tokio::test]
async fn with_postgres_settings_and_password_are_as_asked() {
    let postgres = Postgres::start_with(PostgresOptions {
        password: Some("secret".to_owned()),
        settings: vec![("wal_sender_timeout".to_owned(), "7s".to_owned())],
        ..PostgresOptions::default()
    })
    .await;
    assert_eq!(postgres.psql("postgres", "show wal_sender_timeout").await, "7s");
    assert!(postgres.url("postgres").contains("postgres:secret@"));
    let mut stream = connect(postgres.addr()).await;
    let startup = b"\0\0\0\x29\0\x03\0\0user\0postgres\0database\0postgres\0\0";
    let asked = ask(&mut stream, startup, LONG).await.expect("it answers");
    assert!(String::from_utf8_lossy(&asked).contains("SCRAM-SHA-256"), "it asks for the password");
}

#[tokio::test]
async fn with_postgres_a_full_disk_refuses_rows_until_there_is_room() {
    if !Postgres::may_have_disk().await {
        // Only root may mount one.
        return;
    }
    let options = PostgresOptions { disk_bytes: Some(256 << 20), ..PostgresOptions::default() };
    let postgres = Postgres::start_with(options).await;
    postgres.psql("postgres", "create table kept (text text)").await;
    postgres.fill().await;
    let insert = "insert into kept select repeat('x', 1000) from generate_series(1, 50000)";
    let checked = format!("do $$ begin {insert}; exception when disk_full then raise; end $$");
    let refused = postgres.try_psql("postgres", &checked).await.expect_err("there is no room");
    assert!(refused.contains("No space left on device"), "{refused}");

    postgres.empty().await;
    if postgres.try_psql("postgres", "select 1").await.is_err() {
        // A log that cannot be written ends the server.
        postgres.kill().await;
        postgres.start_again().await;
    }
    postgres.psql("postgres", insert).await;
    assert_eq!(postgres.psql("postgres", "select count(*) from kept").await, "50000");
}
