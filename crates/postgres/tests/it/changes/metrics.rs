//! What the slot's metrics say, beside what the server says.

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::Registry;
use tidings_servers::postgres::{Postgres, PostgresOptions};

use super::rig::{Rig, open, take, until};

/// Our own heartbeats write some log between one look and the other.
const NEAR_BYTES: f64 = 64.0 * 1024.0;

fn metered() -> (SdkMeterProvider, Registry) {
    let registry = Registry::new();
    let reader = opentelemetry_prometheus::exporter().with_registry(registry.clone()).build().unwrap();
    (SdkMeterProvider::builder().with_reader(reader).build(), registry)
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
    let settings = vec![("max_slot_wal_keep_size".to_owned(), "256MB".to_owned())];
    let server = Postgres::start_with(PostgresOptions { settings, ..PostgresOptions::default() }).await;
    let mut rig = Rig::on(&server).await;
    let (provider, registry) = metered();
    rig.meter = provider.meter("test");
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
