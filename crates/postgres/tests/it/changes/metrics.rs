//! What the slot's metrics say, beside what the server says.

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::Registry;
use tidings_domain::ports::DependencyState;
use tidings_servers::postgres::{Postgres, PostgresOptions};

use super::rig::{Rig, open, state, take, until};

/// Our own heartbeats write some log between one look and the other.
const NEAR_BYTES: f64 = 64.0 * 1024.0;

/// What keeps the rig's metrics, and where they are read.
fn metered(rig: &mut Rig) -> (SdkMeterProvider, Registry) {
    let registry = Registry::new();
    let reader = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build().unwrap();
    let provider = SdkMeterProvider::builder().with_reader(reader).build();
    rig.meter = provider.meter("test");
    (provider, registry)
}

async fn server_with(settings: &[(&str, &str)]) -> Postgres {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Postgres::start_with(PostgresOptions { settings, ..PostgresOptions::default() }).await
}

/// A gauge's value, by the beginning of its name.
fn gauge(registry: &Registry, name: &str) -> Option<f64> {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name().starts_with(name))?;
    Some(family.get_metric().first()?.get_gauge().get_value())
}

/// Waits until a heartbeat has measured what the server says of `column`; answers it.
async fn measures(rig: &Rig, server: &Postgres, registry: &Registry, name: &str, column: &str) -> f64 {
    let mut there = 0.0;
    until(&format!("{name} is {column}"), async || {
        there = rig.slot(server, column).await.parse().unwrap();
        gauge(registry, name).is_some_and(|value| (value - there).abs() <= NEAR_BYTES)
    })
    .await;
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_what_pg_replication_slots_says() {
    let server = server_with(&[("max_slot_wal_keep_size", "256MB")]).await;
    let mut rig = Rig::on(&server).await;
    let (_provider, registry) = metered(&mut rig);
    let store = rig.store();
    let mut stream = open(&store).await;
    // Texts that cannot be made small.
    rig.sql(
        &server,
        "insert into items (topic, message)
        select 'messages', (select string_agg(md5(n::text || m::text), '') from generate_series(1, 30) m)
        from generate_series(1, 4000) n",
    )
    .await;
    let captured = take(&mut *stream, 4000).await;
    // While it was being written, and not yet committed, the position may have followed: behind it stands this.
    rig.sql(&server, "select pg_logical_emit_message(false, 'fill', repeat('x', 4000000))").await;
    let behind = |from: &str| format!("pg_wal_lsn_diff(pg_current_wal_lsn(), {from})::bigint");
    let lag = measures(&rig, &server, &registry, "tidings_slot_lag", &behind("confirmed_flush_lsn")).await;
    assert!(lag > 2e6, "{lag}");
    let retained = measures(&rig, &server, &registry, "tidings_slot_retained", &behind("restart_lsn")).await;
    assert!(retained >= lag, "{retained}");
    measures(&rig, &server, &registry, "tidings_slot_safe", "safe_wal_size").await;
    assert_eq!(rig.slot(&server, "wal_status").await, "reserved");
    assert_eq!(gauge(&registry, "tidings_slot_status"), Some(0.0));
    assert_eq!(rig.slot(&server, "active").await, "t");
    stream.confirm(captured.last().unwrap().position).await.unwrap();
    until("the lag is gone", async || {
        gauge(&registry, "tidings_slot_lag").is_some_and(|lag| lag <= NEAR_BYTES)
    })
    .await;
    measures(&rig, &server, &registry, "tidings_slot_lag", &behind("confirmed_flush_lsn")).await;
}

/// How long the stream is held up: many heartbeats.
const HELD_S: f64 = 1.5;

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_in_seconds_is_the_age_of_the_oldest_heartbeat_that_has_not_come_back() {
    let server = Postgres::shared().await;
    let mut rig = Rig::on(server).await;
    let (_provider, registry) = metered(&mut rig);
    // Nothing is read beyond a few changes of a transaction that nobody takes: heartbeats stand behind it in the log.
    rig.options.read_ahead = 1;
    let age = || gauge(&registry, "tidings_slot_heartbeat_age");
    let store = rig.store();
    let mut stream = open(&store).await;
    until("one came back", async || age().is_some_and(|age| age < HELD_S)).await;
    rig.insert(server, 1..=2000).await;
    until("they do not come back", async || age().is_some_and(|age| age > HELD_S)).await;
    // It grows as time goes by, and is no mere flag.
    let held = age().unwrap();
    until("it grows", async || age().is_some_and(|age| age > held + HELD_S / 2.0)).await;
    // Read, and not confirmed: what is read comes back, and the position is another metric's matter.
    let captured = take(&mut *stream, 2000).await;
    until("they come back", async || age().is_some_and(|age| age < HELD_S)).await;
    stream.confirm(captured.last().unwrap().position).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_about_to_be_invalidated_is_degraded_until_it_is_safe_again() {
    // No checkpoint comes by itself, which would carry the threat out.
    let settings = [("max_slot_wal_keep_size", "16MB"), ("wal_keep_size", "0"), ("max_wal_size", "4GB")];
    let server = server_with(&settings).await;
    let mut rig = Rig::on(&server).await;
    let (_provider, registry) = metered(&mut rig);
    let store = rig.store();
    let mut stream = open(&store).await;
    state(&store, "it is up", |state| *state == DependencyState::Up).await;
    rig.insert(&server, 1..=1).await;
    let captured = take(&mut *stream, 1).await;
    // Held back, while others write more than the server would keep for us.
    until("the server threatens", async || {
        rig.sql(
            &server,
            "select pg_logical_emit_message(false, 'fill', repeat('x', 8000000)); select pg_switch_wal()",
        )
        .await;
        rig.slot(&server, "wal_status").await == "unreserved"
    })
    .await;
    let says = "max_slot_wal_keep_size";
    state(
        &store,
        "it is degraded",
        |state| matches!(state, DependencyState::Degraded(reason) if reason.contains(says)),
    )
    .await;
    until("the gauge says so", async || gauge(&registry, "tidings_slot_status") == Some(2.0)).await;
    until("nothing is safe", async || gauge(&registry, "tidings_slot_safe").is_some_and(|safe| safe <= 0.0))
        .await;
    // The stream lives: what is confirmed now takes the threat away, once the server has noted a place to begin from,
    // which it does within 15 s.
    stream.confirm(captured[0].position).await.unwrap();
    let recovered = tokio::time::timeout(std::time::Duration::from_secs(60), async {
        while store.stream_dependency().state() != DependencyState::Up {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    });
    assert!(recovered.await.is_ok(), "{:?}", store.stream_dependency().state());
    assert_eq!(gauge(&registry, "tidings_slot_status"), Some(0.0));
}
