//! Servers that stop, die and freeze, and brokers that do not confirm.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};
use tidings_domain::{
    ErrorKind,
    ports::{ChangeStream, DependencyState},
};
use tidings_postgres::Store;
use tidings_servers::{
    postgres::{Postgres, PostgresOptions, StopMode},
    proxy::Proxy,
};
use tokio::time::{Instant, timeout};

use super::rig::{Rig, SOON, error, numbers, open, state, take, texts, until};

/// Reads and confirms until `last` has come, over everything that ends a stream; answers texts in the order of coming.
async fn drain(store: &Store, last: &str) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let mut stream = open(store).await;
        while let Ok(captured) = stream.next(50, SOON).await {
            assert!(!captured.is_empty(), "{last:?} did not come");
            let texts = texts(&captured);
            all.extend(texts.iter().cloned());
            if stream.confirm(captured.last().unwrap().position).await.is_err() {
                break;
            }
            if texts.iter().any(|text| text == last) {
                return all;
            }
        }
    }
}

/// Writes single rows as long as it can; each that was answered is in the list.
async fn writer(rig: &Rig, server: &Postgres, rounds: u32) -> Vec<String> {
    let mut written = Vec::new();
    for round in 0..rounds {
        let (first, last) = (round * 20 + 1, round * 20 + 20);
        let statements: String = (first..=last)
            .map(|n| format!("insert into items (topic, message) values ('messages', '{n}');"))
            .collect();
        rig.sql(server, &statements).await;
        written.extend((first..=last).map(|n| n.to_string()));
    }
    written
}

/// Each once or more, the first times in the order of the table, nothing that is not there.
async fn is_whole(rig: &Rig, server: &Postgres, came: &[String]) {
    let rows = rig.sql(server, "select message from items").await;
    let rows: BTreeSet<_> = rows.lines().map(str::to_owned).collect();
    let mut seen = BTreeSet::new();
    let firsts: Vec<u32> = came
        .iter()
        .filter(|text| seen.insert((*text).clone()))
        .filter_map(|text| text.parse().ok())
        .collect();
    let missing: Vec<_> = rows.difference(&seen).collect();
    let phantom: Vec<_> = seen.difference(&rows).collect();
    assert!(missing.is_empty() && phantom.is_empty(), "missing {missing:?}, phantom {phantom:?}");
    assert!(firsts.is_sorted(), "{firsts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immediate_stop_mid_stream_loses_nothing_and_invents_nothing() {
    let server = Arc::new(Postgres::start().await);
    let rig = Arc::new(Rig::on(&server).await);
    let store = rig.store();
    for mode in [StopMode::Immediate, StopMode::Fast] {
        rig.sql(&server, "delete from items").await;
        let reading = drain(&store, "last");
        let faults = async {
            writer(&rig, &server, 5).await;
            // What is written now is cut off somewhere.
            let rows: String = (1001..3000)
                .map(|n| format!("insert into items (topic, message) values ('messages', '{n}');"))
                .collect();
            let path = std::env::temp_dir().join(format!("{}.sql", rig.namespace));
            std::fs::write(&path, rows).unwrap();
            let mut psql = tokio::process::Command::new("psql");
            let _cut_off = psql
                .args(["-qAtX", "-d", &rig.url, "-f", path.to_str().unwrap()])
                .stderr(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            until("some are there", async || {
                rig.sql(&server, "select count(*) > 200 from items").await == "t"
            })
            .await;
            server.stop(mode).await;
            server.start_again().await;
            std::fs::remove_file(&path).unwrap();
            rig.sql(&server, "insert into items (topic, message) values ('messages', 'last')").await;
        };
        let (came, ()) = tokio::join!(reading, faults);
        is_whole(&rig, &server, &came).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_replays_only_what_was_not_confirmed() {
    let server = Postgres::start().await;
    let rig = Rig::on(&server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.insert(&server, 1..=3).await;
    rig.insert(&server, 4..=9).await;
    let captured = take(&mut *stream, 9).await;
    stream.confirm(captured[4].position).await.unwrap();
    server.kill().await;
    let ended = error(&mut *stream).await;
    assert_eq!(ended.kind, ErrorKind::Unavailable, "{}", ended.chain());
    assert!(stream.confirm(captured[5].position).await.is_err());
    state(&store, "it is down", |state| matches!(state, DependencyState::Down(_))).await;
    drop(stream);
    server.start_again().await;
    // The slot's own position is written by checkpoints only: our row is what counts.
    let mut stream = open(&store).await;
    assert_eq!(texts(&take(&mut *stream, 4).await), numbers(6..=9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_stop_is_not_held_up_by_what_nobody_confirms() {
    let server = Postgres::start().await;
    let rig = Rig::on(&server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.insert(&server, 1..=500).await;
    take(&mut *stream, 500).await;
    // And with something that was not even read.
    rig.insert(&server, 501..=20_000).await;
    timeout(SOON, server.stop(StopMode::Fast)).await.expect("the server stops");
    let ended = error(&mut *stream).await;
    assert_eq!(ended.kind, ErrorKind::Unavailable, "{}", ended.chain());
    drop(stream);
    server.start_again().await;
    let mut stream = open(&store).await;
    assert_eq!(texts(&take(&mut *stream, 500).await), numbers(1..=500));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_stop_of_an_idle_server_is_quick() {
    let server = Postgres::start().await;
    let mut rig = Rig::on(&server).await;
    // Nothing but the server's own question tells of the stop.
    rig.options.heartbeat_interval = Duration::from_secs(60);
    rig.options.silence_limit = Duration::from_secs(100);
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.insert(&server, 1..=1).await;
    let captured = take(&mut *stream, 1).await;
    stream.confirm(captured[0].position).await.unwrap();
    // A standby holds it up no more.
    let second = rig.store();
    let changes = second.changes();
    let opening = changes.open();
    tokio::pin!(opening);
    tokio::select! {
        _ = &mut opening => panic!("two read the slot"),
        () = state(&second, "it stands by", |state| *state == DependencyState::StandingBy) => {}
    }
    timeout(SOON, server.stop(StopMode::Fast)).await.expect("the server stops");
    assert_eq!(error(&mut *stream).await.kind, ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_which_nothing_is_confirmed_is_given_back() {
    let server = Postgres::shared().await;
    let mut rig = Rig::on(server).await;
    rig.options.stall_limit = Duration::from_secs(2);
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.insert(server, 1..=10).await;
    let captured = take(&mut *stream, 10).await;
    stream.confirm(captured[3].position).await.unwrap();
    let ended = error(&mut *stream).await;
    assert_eq!(ended.kind, ErrorKind::Unavailable, "{}", ended.chain());
    assert!(ended.context.contains("nothing was confirmed"), "{}", ended.chain());
    until("nobody reads the slot", async || rig.slot(server, "active").await == "f").await;
    drop(stream);
    let mut stream = open(&store).await;
    assert_eq!(texts(&take(&mut *stream, 6).await), numbers(5..=10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_connection_is_given_up_and_made_anew() {
    let server = Postgres::shared().await;
    let mut rig = Rig::on(server).await;
    rig.options.silence_limit = Duration::from_secs(3);
    let proxy = Proxy::to(server.addr()).await;
    let store = rig.store_at(&proxy.url(&rig.url));
    let mut stream = open(&store).await;
    rig.insert(server, 1..=2).await;
    let captured = take(&mut *stream, 2).await;
    stream.confirm(captured[0].position).await.unwrap();
    proxy.freeze();
    let began = Instant::now();
    let ended = error(&mut *stream).await;
    assert_eq!(ended.kind, ErrorKind::Unavailable, "{}", ended.chain());
    assert!(ended.context.contains("silent"), "{}", ended.chain());
    assert!(began.elapsed() > Duration::from_secs(2), "it was not silent for long");
    drop(stream);
    let refused = super::rig::refusal(&store).await;
    assert_eq!(refused.kind, ErrorKind::Unavailable, "{}", refused.chain());
    proxy.thaw();
    let mut stream = open(&store).await;
    assert_eq!(texts(&take(&mut *stream, 1).await), ["2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_for_long_keeps_the_session() {
    let server = Postgres::shared().await;
    let mut rig = Rig::on(server).await;
    rig.options.silence_limit = Duration::from_secs(2);
    rig.options.read_ahead = 100;
    let url = format!("{}?options=-c%20wal_sender_timeout%3D2s", rig.url);
    let store = rig.store_at(&url);
    let mut stream = open(&store).await;
    rig.insert(server, 1..=60_000).await;
    assert_eq!(texts(&take(&mut *stream, 10).await), numbers(1..=10));
    // Three times as long as either side waits for a sign of life.
    let pid = rig.slot(server, "active_pid").await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(rig.slot(server, "active_pid").await, pid);
    let rest = take(&mut *stream, 59_990).await;
    assert_eq!(texts(&rest), numbers(11..=60_000));
    assert_eq!(rig.slot(server, "active_pid").await, pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_connection_that_dies_is_made_anew_and_the_stream_goes_on() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    for number in 1..=3 {
        let ended = format!(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = '{}' and backend_type = 'client backend' and pid <> pg_backend_pid()",
            rig.database
        );
        // The one before was ended a moment ago: its successor may not be there yet.
        while rig.sql(server, &ended).await == "0" {
            tokio::task::yield_now().await;
        }
        rig.insert(server, number..=number).await;
        let captured = take(&mut *stream, 1).await;
        assert_eq!(texts(&captured), [number.to_string()]);
        stream.confirm(captured[0].position).await.unwrap();
    }
    // Confirms of a moment share a record, which a connection that has just died holds up.
    let recorded =
        "select count(*) from change_stream where confirmed_stored_at >= (select max(stored_at) from items)";
    while rig.sql(server, recorded).await != "1" {
        tokio::task::yield_now().await;
    }
    drop(stream);
    let mut stream = open(&store).await;
    super::rig::nothing_comes(&mut *stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walsender_that_is_ended_is_an_outage_and_no_gap() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.insert(server, 1..=1).await;
    assert_eq!(texts(&take(&mut *stream, 1).await), ["1"]);
    rig.slot(server, "pg_terminate_backend(active_pid)").await;
    let ended = error(&mut *stream).await;
    assert_eq!(ended.kind, ErrorKind::Unavailable, "{}", ended.chain());
    drop(stream);
    let mut stream: Box<dyn ChangeStream> = open(&store).await;
    assert_eq!(texts(&take(&mut *stream, 1).await), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_free_connection_is_an_outage_for_who_opens_and_none_for_who_reads() {
    let settings = vec![("max_connections".to_owned(), "12".to_owned())];
    let server = Postgres::start_with(PostgresOptions { settings, ..PostgresOptions::default() }).await;
    let rig = Rig::on(&server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    let connect = rig.url.parse::<PgConnectOptions>().unwrap();
    let mut all = Vec::new();
    while let Ok(connection) = connect.connect().await {
        all.push(connection);
    }
    for number in 1..=3 {
        let insert = format!("insert into items (topic, message) values ('messages', '{number}')");
        sqlx::query(sqlx::AssertSqlSafe(insert)).execute(&mut all[0]).await.unwrap();
        let captured = take(&mut *stream, 1).await;
        assert_eq!(texts(&captured), [number.to_string()]);
        stream.confirm(captured[0].position).await.unwrap();
    }
    // Its own connections are free now, and somebody else's.
    drop(stream);
    store.close().await;
    let store = rig.store();
    let refusal = async {
        loop {
            while let Ok(connection) = connect.connect().await {
                all.push(connection);
            }
            match store.changes().open().await {
                Err(error) => return error,
                // The last of its connections ended just now.
                Ok(stream) => drop(stream),
            }
        }
    };
    let refused = timeout(SOON, refusal).await.expect("it is refused");
    assert_eq!(refused.kind, ErrorKind::Unavailable, "{}", refused.chain());
    drop(all);
    rig.insert(&server, 4..=4).await;
    assert_eq!(texts(&take(&mut *open(&store).await, 1).await), ["4"]);
}
