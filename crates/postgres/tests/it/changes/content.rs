//! What others write, and what a hand changes at the table and the publication.

use tidings_domain::ports::Captured;
use tidings_servers::postgres::Postgres;

use super::rig::{Rig, nothing_comes, numbers, open, take, texts};

const ID: &str = "01890000-0000-7000-8000-00000000000";

/// What is wrong with a row, its id and its bytes as text.
fn unreadable(captured: &Captured) -> (String, Option<String>, String) {
    let row = captured.content.as_ref().expect_err("it cannot be read");
    let bytes = String::from_utf8(row.bytes.to_vec()).unwrap();
    (row.detail.clone(), row.message_id.map(|id| id.to_string()), bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_no_item_comes_with_its_bytes_and_stops_nobody() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let drop_checks = "do $$ declare c text; begin
        for c in select conname from pg_constraint where conrelid = 'items'::regclass and contype = 'c' loop
            execute format('alter table items drop constraint %I', c);
        end loop;
    end $$";
    rig.sql(server, drop_checks).await;
    rig.insert(server, 1..=1).await;
    let insert = async |columns: &str, values: &str| {
        rig.sql(server, &format!("insert into items (topic, message, id{columns}) values {values}")).await;
    };
    insert("", &format!("('messages', repeat('x', 300000), '{ID}1')")).await;
    insert("", &format!("('No Topic', 'b', '{ID}2')")).await;
    insert("", &format!("('messages', E'a\\x01b', '{ID}3')")).await;
    insert(", stored_at", &format!("('messages', 'c', '{ID}4', 'infinity')")).await;
    insert(", attributes", &format!("('messages', 'd', '{ID}5', '[1]')")).await;
    insert(", subject", &format!("('messages', 'e', '{ID}6', E'two\\nlines')")).await;
    rig.insert(server, 2..=2).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    let captured = take(&mut *stream, 8).await;
    let first_and_last = [captured[0].clone(), captured[7].clone()];
    assert_eq!(texts(&first_and_last), numbers(1..=2));
    for (at, words) in
        [(1, "300000"), (2, "topic"), (3, "U+0001"), (4, "stored_at"), (5, "attributes"), (6, "subject")]
    {
        let (detail, id, bytes) = unreadable(&captured[at]);
        assert!(detail.contains(words), "{detail}");
        assert_eq!(id, Some(format!("{ID}{at}")));
        assert!(bytes.contains(&format!("{ID}{at}")) && bytes.starts_with('{'), "{bytes}");
    }
    assert!(unreadable(&captured[1]).2.len() > 300_000);
    stream.confirm(captured[7].position).await.unwrap();
    drop(stream);
    let mut stream = open(&store).await;
    nothing_comes(&mut *stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_new_item_is_ignored_whatever_the_publication_says() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    let namespace = &rig.namespace;
    // Ours publishes new rows only, so nothing else even comes.
    rig.insert(server, 1..=2).await;
    rig.sql(server, "delete from items where message = '1'").await;
    // Somebody wants more of it, and another table.
    rig.sql(
        server,
        &format!(
            "alter publication {namespace} set (publish = 'insert, update, delete, truncate');
            create table other (a int primary key);
            alter publication {namespace} add table other;
            insert into other values (1);
            do $$ declare t text; begin
                for t in select tgname from pg_trigger where tgrelid = 'items'::regclass and not tgisinternal loop
                    execute format('alter table items disable trigger %I', t);
                end loop;
            end $$"
        ),
    )
    .await;
    rig.sql(server, "alter table items alter message set storage external").await;
    rig.sql(server, "insert into items (topic, message) values ('messages', repeat('x', 10000))").await;
    rig.sql(server, "update items set subject = 'changed' where length(message) = 10000").await;
    rig.sql(server, "alter table items replica identity full; update items set subject = 'again'; delete from items; truncate other, items").await;
    rig.sql(
        server,
        "select pg_logical_emit_message(false, 'x', 'y'); select pg_logical_emit_message(true, 'x', 'y')",
    )
    .await;
    rig.insert(server, 3..=3).await;
    let captured = take(&mut *stream, 4).await;
    let mut texts = texts(&captured);
    assert_eq!(texts.remove(2).len(), 10_000);
    assert_eq!(texts, numbers(1..=3));
    stream.confirm(captured[3].position).await.unwrap();
    nothing_comes(&mut *stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_altered_mid_stream() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.insert(server, 1..=1).await;
    rig.sql(server, "alter table items add column extra int default 7").await;
    rig.insert(server, 2..=2).await;
    rig.sql(
        server,
        "begin; insert into items (topic, message) values ('messages', '3'); alter table items add column more text;
        insert into items (topic, message, more) values ('messages', '4', 'more'); commit",
    )
    .await;
    rig.sql(server, "alter table items drop column extra").await;
    rig.insert(server, 5..=5).await;
    assert_eq!(texts(&take(&mut *stream, 5).await), numbers(1..=5));
    rig.sql(server, "alter table items rename column content_type to kind").await;
    rig.insert(server, 6..=6).await;
    rig.sql(server, "alter table items rename column kind to content_type").await;
    rig.insert(server, 7..=7).await;
    let captured = take(&mut *stream, 2).await;
    let (detail, id, bytes) = unreadable(&captured[0]);
    assert!(detail.starts_with("content_type is absent"), "{detail}");
    assert!(id.is_some() && bytes.contains("\"kind\":\"text/plain"), "{bytes}");
    assert_eq!(texts(&captured[1..]), ["7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_table_that_is_idle_holds_no_log_back() {
    let server = Postgres::start().await;
    let rig = Rig::on(&server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.sql(&server, "create table other (t text)").await;
    // In our own database, and in another.
    for database in [&rig.database, "postgres"] {
        server.psql(database, "create table if not exists filler (t text); insert into filler select repeat('x', 1000) from generate_series(1, 30000)").await;
        let written = server.psql("postgres", "select pg_current_wal_lsn()").await;
        super::rig::until("the slot follows", async || {
            let at = format!(
                "confirmed_flush_lsn >= '{written}' and pg_current_wal_lsn() - '{written}' < 1000000"
            );
            rig.slot(&server, &at).await == "t"
        })
        .await;
    }
    nothing_comes(&mut *stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stacks_in_one_database_do_not_see_each_other() {
    let server = Postgres::shared().await;
    let mut one = Rig::bare(server).await;
    let mut other = Rig::bare(server).await;
    let database = one.url.clone();
    other.database = one.database.clone();
    for (rig, schema) in [(&mut one, "one"), (&mut other, "other")] {
        rig.url = format!("{database}?options=-c%20search_path%3D{schema}");
        let store = rig.store();
        store.provision().await.unwrap();
        store.complete().await.unwrap();
        store.close().await;
    }
    let (first, second) = (one.store(), other.store());
    let (mut first, mut second) = (open(&first).await, open(&second).await);
    for (schema, number) in [("one", 1), ("other", 2), ("one", 3), ("other", 4)] {
        let insert = format!("insert into {schema}.items (topic, message) values ('messages', '{number}')");
        one.sql(server, &insert).await;
    }
    assert_eq!(texts(&take(&mut *first, 2).await), ["1", "3"]);
    assert_eq!(texts(&take(&mut *second, 2).await), ["2", "4"]);
    nothing_comes(&mut *first).await;
    nothing_comes(&mut *second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_few_rights_is_enough() {
    let server = Postgres::shared().await;
    let rig = Rig::bare(server).await;
    let user = format!("u{}", rig.namespace);
    rig.sql(
        server,
        &format!("create role {user} login; grant create on database {} to {user}", rig.database),
    )
    .await;
    let url = rig.url.replace("postgres://postgres", &format!("postgres://{user}"));
    let url = format!("{url}?options=-c%20search_path%3Dtidings");
    let store = rig.store_at(&url);
    let refused = store.provision().await.unwrap_err();
    assert_eq!(refused.kind, tidings_domain::ErrorKind::Misconfigured, "{}", refused.chain());
    assert!(refused.context.contains("REPLICATION"), "{}", refused.chain());
    rig.sql(server, &format!("alter role {user} replication")).await;
    store.provision().await.unwrap();
    store.complete().await.unwrap();
    let mut stream = open(&store).await;
    rig.sql(server, "insert into tidings.items (topic, message) values ('messages', '1')").await;
    let captured = take(&mut *stream, 1).await;
    stream.confirm(captured[0].position).await.unwrap();
    let up = tidings_domain::ports::DependencyState::Up;
    assert_eq!(store.stream_dependency().state(), up);
}
