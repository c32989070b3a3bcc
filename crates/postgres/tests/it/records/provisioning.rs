//! Provisioning, what is looked at by `--check`, and stacks beside each other.

use tidings_domain::{ErrorKind, ports::ItemQuery};
use tidings_postgres::{Options, Store};
use tidings_servers::postgres::{Postgres, PostgresOptions};

use super::rig::{Rig, database, drop_slot, item, message_id, options, provisioned};

#[tokio::test]
async fn what_is_missing_is_named_and_what_is_there_is_kept() {
    let server = Postgres::shared().await;
    let url = server.database().await;
    let options = options(&url);
    let store = Store::new(options.clone()).unwrap();
    let missing = store.check().await.unwrap();
    assert_eq!(missing[0], "migration 0001_installation");
    assert!(store.catalog().installation().await.unwrap().is_none());
    let error = store.items().get(&[message_id(1)]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    assert!(error.context.contains("tidings provision"), "{}", error.context);
    assert_eq!(store.complete().await.unwrap_err().kind, ErrorKind::Misconfigured);
    let tables = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
    assert_eq!(server.psql(&database(&url), tables).await, "0", "looking made nothing");
    store.provision().await.unwrap();
    assert_eq!(store.check().await.unwrap(), ["version row"]);
    assert!(store.catalog().installation().await.unwrap().is_none(), "services wait for the version");
    assert_eq!(store.complete().await.unwrap(), 1);
    assert_eq!(store.check().await.unwrap(), [""; 0]);
    let secret = server.psql(&database(&url), "select secret from installation").await;
    // Two more at once.
    let (first, second) = tokio::join!(store.provision(), store.provision());
    first.unwrap();
    second.unwrap();
    assert_eq!(store.complete().await.unwrap(), 1);
    assert_eq!(server.psql(&database(&url), "select secret from installation").await, secret);
    assert_eq!(store.catalog().topics().await.unwrap().len(), 1);
    store.close().await;
    drop_slot(server, &database(&url), &options.namespace).await;
}

#[tokio::test]
async fn a_newer_installation_is_refused() {
    let rig = Rig::new().await;
    rig.sql("update installation set version = 99").await;
    for error in [rig.store.provision().await.unwrap_err(), rig.store.check().await.unwrap_err()] {
        assert_eq!(error.kind, ErrorKind::Misconfigured);
        assert!(error.context.contains("newer program"), "{}", error.context);
    }
    assert_eq!(rig.store.complete().await.unwrap(), 99, "never lowered");
    assert_eq!(rig.store.catalog().installation().await.unwrap().unwrap().version, 99);
    rig.end().await;
}

#[tokio::test]
async fn a_schema_belongs_to_one_namespace() {
    let rig = Rig::new().await;
    let other = Store::new(Options { namespace: "another".to_owned(), ..rig.options.clone() }).unwrap();
    for error in [
        other.provision().await.unwrap_err(),
        other.check().await.unwrap_err(),
        other.catalog().installation().await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Misconfigured);
        assert!(error.context.contains("a schema of its own"), "{}", error.context);
    }
    other.close().await;
    rig.end().await;
}

#[tokio::test]
async fn two_schemas_in_one_database_do_not_see_each_other() {
    let server = Postgres::shared().await;
    let url = server.database().await;
    let of = |schema: &str| options(&format!("{url}?options=-c%20search_path%3D{schema}"));
    // A name that has to be quoted, too.
    let (one, two) = (of("one"), of("%22Two-halves%22"));
    let (first, second) = (provisioned(&one).await, provisioned(&two).await);
    first.items().insert(&[item(1, "of the first")]).await.unwrap();
    assert_eq!(second.items().get(&[message_id(1)]).await.unwrap(), [None]);
    assert!(second.items().list(&ItemQuery::default()).await.unwrap().data.is_empty());
    assert_eq!(server.psql(&database(&url), "select count(*) from one.items").await, "1");
    assert_eq!(server.psql(&database(&url), "select count(*) from \"Two-halves\".items").await, "0");
    assert_eq!(server.psql(&database(&url), "select to_regclass('public.items') is null").await, "t");
    let third = Store::new(of("three")).unwrap();
    assert_eq!(third.check().await.unwrap(), ["schema three"]);
    for (store, options) in [(first, one), (second, two)] {
        store.close().await;
        drop_slot(server, &database(&url), &options.namespace).await;
    }
}

#[tokio::test]
async fn looking_needs_no_right_to_write() {
    let rig = Rig::new().await;
    let role = &rig.options.namespace;
    rig.sql(&format!(
        "create role {role} login replication; grant select on all tables in schema public to {role}"
    ))
    .await;
    let url = rig.options.url.replacen("postgres@", &format!("{role}@"), 1);
    assert_ne!(url, rig.options.url);
    let reader = Store::new(Options { url, ..rig.options.clone() }).unwrap();
    assert_eq!(reader.check().await.unwrap(), [""; 0]);
    let error = reader.items().insert(&[item(1, "a")]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    assert!(error.context.contains("grant the right"), "{}", error.context);
    reader.close().await;
    rig.sql(&format!("drop owned by {role}; drop role {role}")).await;
    rig.end().await;
}

#[tokio::test]
async fn one_worker_removes_and_the_others_stand_by() {
    let rig = Rig::new().await;
    let key = "hashtextextended('tidings retention ' || current_schema(), 0)";
    let mut other: sqlx::PgConnection = {
        use sqlx::ConnectOptions as _;
        rig.options.url.parse::<sqlx::postgres::PgConnectOptions>().unwrap().connect().await.unwrap()
    };
    let lock = sqlx::AssertSqlSafe(format!("select pg_advisory_lock({key})"));
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    let items = rig.store.items();
    assert!(items.expire(super::rig::at(1000), 10).await.unwrap().standing_by);
    sqlx::raw_sql("select pg_advisory_unlock_all()").execute(&mut other).await.unwrap();
    assert!(!items.expire(super::rig::at(1000), 10).await.unwrap().standing_by);
    rig.end().await;
}

#[tokio::test]
async fn a_url_that_cannot_be_read_is_said_without_its_password() {
    for (url, says) in [
        ("no url", "it is no URL"),
        ("mysql://u:hunter2@localhost/x", "scheme"),
        ("postgres://u:hunter2@localhost/x?sslmode=allow", "sslmode is one of"),
        ("postgres://u:hunter2@localhost/x?sslmode=hunter2", "sslmode is one of"),
        ("postgres://u:hunter2@localhost/x?sslrootcert=/nowhere/ca.pem", "/nowhere/ca.pem"),
        ("postgres://u:hunter2@localhost/x?port=hunter2", "a parameter"),
    ] {
        let error = Store::new(options(url)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Misconfigured);
        assert!(error.chain().contains(says), "{}", error.chain());
        assert!(!error.chain().contains("hunter2"), "{}", error.chain());
    }
}

#[tokio::test]
async fn who_may_not_enter_is_told_so() {
    let options_with_password =
        PostgresOptions { password: Some("secret".to_owned()), ..PostgresOptions::default() };
    let server = Postgres::start_with(options_with_password).await;
    let url = server.database().await;
    assert!(url.contains(":secret@"), "the test's own URL has the password");
    let store = Store::new(options(&url)).unwrap();
    assert!(store.catalog().installation().await.unwrap().is_none());
    let store = Store::new(options(&url.replace(":secret@", ":hunter2@"))).unwrap();
    let error = store.catalog().installation().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    assert!(error.context.contains("refuses this user or password"), "{}", error.chain());
    assert!(!error.chain().contains("hunter2"), "{}", error.chain());
    let store = Store::new(options(&format!("{url}_not_there"))).unwrap();
    let error = store.items().ping().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    assert!(error.context.contains("no such database"), "{}", error.chain());
}
